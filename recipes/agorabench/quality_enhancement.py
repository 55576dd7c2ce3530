"""AgoraBench quality enhancement: the model makes better instances of given ones, question and answer both.

Source: arXiv 2412.03679v2, sections 2 and 3, table 1 (third method); numbers as in neulab/data-agora at d7e66e1,
agora_scripts/run.py (temperature 1.0, top_p 0.9, at most 4096 tokens, stop "[END]", at most ten attempts). The prompts
are our own, and ask for the same: form, coherence, completeness and correctness of question and answer.
In: `instruction` and `response` (String), which step aside as `seed_instruction` and `seed_response`.
Out: `instruction`, `response`, `config` (the model's name), `parents` (the row_id of the seed), validity and the call.
Cost: one call a row, or an attempt, of about 500 prompt tokens and the seed. Expected yield: see recipes/README.md.
"""

from __future__ import annotations

from agora_frames.compose import AnyStage, recipe
from agora_frames.recipes.agorabench.asking import Format, Strictness, from_seeds, instances_asked, laid_out
from agora_frames.recipes.agorabench.domains import DomainName, seeds
from agora_frames.rounds import until_rows
from agora_frames.stage import Stage
from agora_frames.stages.rows import with_row_ids
from agora_frames.types import Backend

__all__ = ["quality_enhancement", "seeds"]


def quality_enhancement(
    *,
    backend: Backend,
    domain: DomainName = "math",
    rows: int | None = None,
    format: Format = "markers",
    attempts: int = 10,
    feedback: bool = False,
    strictness: Strictness = "corrected",
    token_limit: int | None = 4096,
    tokenizer: str | None = None,
    temperature: float = 1.0,
    top_p: float = 0.9,
    max_tokens: int = 4096,
    seed: int = 0,
    max_candidates: int | None = None,
) -> Stage:
    """Instances in, revised and validated ones out.

    domain: math, code or general. rows: how many accepted rows are wanted, from each instance in turn; unless given,
    each instance is revised once. format: a free form with markers, or JSON that the backend is held to. attempts:
    draws at one instance until its revision is valid, when rows are wanted. feedback: the next draw is told why the
    last was turned down. strictness: the corrected rules, or those of data-agora. token_limit: the most tokens of an
    instance in its student's chat template. tokenizer: the student's, a tokenizer.json or OWNER/NAME@COMMIT on the hub;
    unless given, a small one that ships. temperature, top_p, max_tokens: of the sampling. seed: another one draws other
    revisions. max_candidates: where to stop if the yield is low.
    """
    ask: AnyStage = instances_asked(
        "quality_enhancement",
        domain,
        format=format,
        strictness=strictness,
        token_limit=token_limit,
        tokenizer=tokenizer,
        sampling={"temperature": temperature, "top_p": top_p, "max_tokens": max_tokens, "seed": seed},
        backend=backend,
    )
    if rows is not None:
        ask = until_rows(
            stage=ask,
            rows=rows,
            candidates="rows",
            distinct=("instruction", "response"),
            attempts=attempts,
            feedback=feedback,
            max_candidates=max_candidates,
            seed=seed,
        )
    return recipe(
        with_row_ids(columns=("instruction", "response")),
        from_seeds(aside=("instruction", "response", "config")),
        ask,
        laid_out(),
        name=f"quality_enhancement_{domain}",
    )

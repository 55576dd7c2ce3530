"""AgoraBench response generation: the model answers instructions that are given.

Source: arXiv 2412.03679v2, sections 2 and 3, table 1 (second method); sampling as in neulab/data-agora at d7e66e1,
agora_scripts/run.py (temperature 1.0, top_p 0.9, at most 4096 tokens; its stop phrase "[END]" is left out, since our
prompts do not ask for it). The prompts are our own.
In: `instruction` (String); `response` and `config` of the seeds, if there are any, step aside as `seed_…`.
Out: `instruction`, `response`, `config` (the model's name), `parents` (the row_id of the seed), validity and the call.
Cost: one call a row, or an attempt. Expected yield: see recipes/README.md.
"""

from __future__ import annotations

from agora_frames.compose import AnyStage, recipe
from agora_frames.recipes.agorabench.asking import Format, Strictness, chat_of, from_seeds, instances_asked, laid_out
from agora_frames.recipes.agorabench.domains import DOMAINS, DomainName, seeds
from agora_frames.rounds import until_rows
from agora_frames.stage import Stage
from agora_frames.stages.prompt import template_file
from agora_frames.stages.rows import with_row_ids
from agora_frames.types import Backend, Message

__all__ = ["response_generation", "seeds"]


def response_generation(
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
    samples: int = 1,
    seed: int = 0,
    shots: bool = False,
    max_candidates: int | None = None,
) -> Stage:
    """Instructions in, answered and validated instances out.

    domain: math, code or general. rows: how many accepted rows are wanted, from each instruction in turn; unless given,
    each instruction is asked once. format: the whole reply is the response (markers), or JSON that the backend is held
    to. attempts: draws at one instruction until its answer is valid, when rows are wanted. feedback: the next draw is
    told why the last was turned down. strictness: the corrected rules, or those of data-agora. token_limit: the most
    tokens of an instance in its student's chat template. tokenizer: the student's, a tokenizer.json or
    OWNER/NAME@COMMIT on the hub; unless given, a small one that ships. temperature, top_p, max_tokens: of the sampling.
    samples: answers to each instruction, unless rows are wanted. seed: another one draws other answers. shots: show two
    worked examples first; small models need them to keep to the form. max_candidates: where to stop if the yield is
    low.
    """
    sampling = {"temperature": temperature, "top_p": top_p, "max_tokens": max_tokens, "seed": seed}
    ask: AnyStage = instances_asked(
        "response_generation",
        domain,
        template=_with_shots(domain) if shots else None,
        format=format,
        strictness=strictness,
        token_limit=token_limit,
        tokenizer=tokenizer,
        sampling=sampling if rows is not None else {**sampling, "samples": samples},
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
        with_row_ids(columns=("instruction",)), from_seeds(), ask, laid_out(), name=f"response_generation_{domain}"
    )


def _with_shots(domain: DomainName) -> list[Message]:
    """The prompt, with two worked examples before its question."""
    prompt = DOMAINS[domain].prompt("response_generation")
    *before, question = chat_of(template_file(prompt))
    return [*before, *chat_of(template_file(prompt.with_suffix(".shots.jinja"))), question]

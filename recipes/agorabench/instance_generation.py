"""AgoraBench instance generation: the model writes new instructions and their responses after examples.

Source: arXiv 2412.03679v2, sections 2 and 3, table 1 (first method); numbers as in neulab/data-agora at d7e66e1,
agora_scripts/run.py: three demonstrations, themes and first words (see lists/), temperature 1.0, top_p 0.9, at most
4096 tokens, stop "[END]", at most ten attempts. The prompts are our own.
In: seeds with `instruction` and `response`, three at least.
Out: `instruction`, `response`, `config` (the model's name), `parents` (the row_ids of the demonstrations), `theme`,
slot, round, attempt, validity and the call; exactly `rows` of them are accepted, all others say why they are not.
Cost: one call an attempt, of about 1,000 prompt tokens. Expected yield: see recipes/README.md, and `agora plan`.
"""

from __future__ import annotations

from typing import Literal

from agora_frames.compose import recipe
from agora_frames.recipes.agorabench.asking import Format, Strictness, instances_asked, laid_out
from agora_frames.recipes.agorabench.domains import DomainName, seeds
from agora_frames.recipes.agorabench.lists import ListName, first_words, themes
from agora_frames.rounds import until_rows
from agora_frames.stage import Stage
from agora_frames.stages.rows import with_row_ids
from agora_frames.stages.sample import sample_demos, sample_values
from agora_frames.types import Backend

__all__ = ["POOLS", "instance_generation", "seeds"]

Pool = Literal["grow", "seeds", "upstream"]

# How many of three demonstrations come from seeds alone and from generated instances alone; the rest from both.
POOLS: dict[Pool, tuple[int, int]] = {"grow": (2, 1), "seeds": (3, 0), "upstream": (1, 0)}


def instance_generation(
    *,
    backend: Backend,
    domain: DomainName = "math",
    rows: int = 100,
    format: Format = "markers",
    pool: Pool = "grow",
    lists: ListName = "corrected",
    theme_quota: int | None = None,
    attempts: int = 10,
    feedback: bool = False,
    strictness: Strictness = "corrected",
    token_limit: int | None = 4096,
    tokenizer: str | None = None,
    temperature: float = 1.0,
    top_p: float = 0.9,
    max_tokens: int = 4096,
    seed: int = 0,
    round_size: int = 25,
    max_candidates: int | None = None,
) -> Stage:
    """Seeds in, exactly `rows` new and valid instances out.

    domain: math, code or general. rows: accepted instances wanted. format: free, with markers, or JSON that the backend
    is held to. pool: the three demonstrations; grow is two seeds and one accepted instance, as the paper says; seeds is
    three seeds; upstream is one seed and two of both together, as data-agora does it. lists: themes and first words,
    corrected or as the source has them. theme_quota: the most accepted instances of one theme. attempts: draws at an
    instance until it is valid. feedback: the next draw is told why the last was turned down. strictness: the corrected
    rules, or those of data-agora. token_limit: the most tokens of an instance in its student's chat template.
    tokenizer: the student's, a tokenizer.json or OWNER/NAME@COMMIT on the hub; else one that ships. temperature, top_p,
    max_tokens: of the sampling. seed: another one makes another dataset. round_size: instances of the first round.
    max_candidates: when to stop.
    """
    ask = instances_asked(
        "instance_generation",
        domain,
        format=format,
        strictness=strictness,
        token_limit=token_limit,
        tokenizer=tokenizer,
        themes=True,
        sampling={"temperature": temperature, "top_p": top_p, "max_tokens": max_tokens, "seed": seed},
        backend=backend,
    )
    return recipe(
        with_row_ids(columns=("instruction",)),
        until_rows(
            stage=ask,
            rows=rows,
            sample=_sample(domain, pool, lists, seed),
            attempts=attempts,
            feedback=feedback,
            quota=theme_quota,
            round_size=round_size,
            max_candidates=max_candidates,
            seed=seed,
        ),
        laid_out(),
        name=f"instance_generation_{domain}",
    )


def _sample(domain: DomainName, pool: Pool, lists: ListName, seed: int) -> Stage:
    """What is drawn for each new instance."""
    from_seeds, from_generated = POOLS[pool]
    words = [sample_values(values=first_words(which=lists), into="first_words", seed=seed)]
    return recipe(
        sample_values(values=themes(domain, which=lists), into="theme", seed=seed),
        *(words if domain == "general" else []),
        sample_demos(k=3, from_seeds=from_seeds, from_generated=from_generated, seed=seed),
        name="sample",
    )

"""AgoraBench response generation: the model answers instructions that are given.

Source: arXiv 2412.03679v2, sections 2 and 3, table 1 (second method); sampling as in neulab/data-agora at d7e66e1,
agora_scripts/run.py (temperature 1.0, top_p 0.9, at most 4096 tokens; its stop phrase "[END]" is left out, since our
prompts do not ask for it). The prompts are our own.
In: `instruction` (String); `response` and `config` of the seeds, if there are any, step aside as `seed_…`.
Out: `instruction`, `response`, `config` (the model's name), `parents` (the row_id of the seed), validity and the call.
Cost: one call a row. Expected yield: see recipes/README.md.
"""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from agora_frames.compose import recipe
from agora_frames.recipes.agorabench.domains import DOMAINS, DomainName, seeds
from agora_frames.stage import Stage, stage
from agora_frames.stages.generate import generate_column
from agora_frames.stages.parse import parse_column
from agora_frames.stages.prompt import render_prompts, template_file
from agora_frames.stages.rows import with_row_ids
from agora_frames.stages.validate import validate
from agora_frames.types import Backend, Message

__all__ = ["response_generation", "seeds"]


def response_generation(
    *,
    backend: Backend,
    domain: DomainName = "math",
    temperature: float = 1.0,
    top_p: float = 0.9,
    max_tokens: int = 4096,
    samples: int = 1,
    seed: int = 0,
    shots: bool = False,
) -> Stage:
    """Instructions in, answered and validated instances out.

    domain: math, code or general. temperature, top_p, max_tokens: of the sampling. samples: answers to each
    instruction. seed: another one draws other answers. shots: show two worked examples first; small models need them to
    keep to the form.
    """
    chosen = DOMAINS[domain]
    chat = _chat(template_file(chosen.prompt("response_generation")))
    if shots:
        examples = chosen.prompt("response_generation").with_suffix(".shots.jinja")
        *before, question = chat
        chat = [*before, *_chat(template_file(examples)), question]
    return recipe(
        with_row_ids(columns=("instruction",)),
        from_seeds(),
        render_prompts(template=chat),
        generate_column(
            temperature=temperature, top_p=top_p, max_tokens=max_tokens, samples=samples, seed=seed, backend=backend
        ),
        parse_column(column="completion", parser=str.strip, into="response"),
        named_after_model(),
        validate(schema=chosen.schema),
        name=f"response_generation_{domain}",
    )


@stage(rowwise=True)
def from_seeds(df: pl.DataFrame) -> pl.DataFrame:
    """The seed's own answer and origin step aside, and its `row_id` becomes the parent of what is made of it.

    In a frame that was made by this recipe they have stepped aside already: it may be run again.

    Reads: `row_id`, `response`, `config`. Adds: `seed_response`, `seed_config` in their place, as far as there are any;
    `parents` (List(String)). Rows: the same, in the same order.
    """
    aside: dict[str, str] = {
        name: f"seed_{name}"
        for name in ("response", "config")
        if name in df.columns and f"seed_{name}" not in df.columns
    }
    return df.rename(aside).with_columns(pl.concat_list("row_id").alias("parents"))


@stage(rowwise=True)
def named_after_model(df: pl.DataFrame) -> pl.DataFrame:
    """Reads: `completion_call`. Adds: `config` (String: the model's name; null where it was not asked)."""
    return df.with_columns(pl.col("completion_call").struct.field("model").alias("config"))


def _chat(template: str | Sequence[Message]) -> list[Message]:
    return [Message(role="user", content=template)] if isinstance(template, str) else list(template)

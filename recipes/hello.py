"""Write one short sentence about each topic: the smallest recipe there is, to copy and change.

Source: our own. In: `topic` (String). Out: `sentence` (String), and its validity.
Cost: one call of about 60 prompt and 40 completion tokens for each row. Yield: nearly all rows.
"""

from __future__ import annotations

import polars as pl

from agora_frames.compose import recipe
from agora_frames.schemas import Sentence
from agora_frames.stage import Stage
from agora_frames.stages.generate import generate_column
from agora_frames.stages.parse import parse_column
from agora_frames.stages.prompt import render_prompts
from agora_frames.stages.rows import with_row_ids
from agora_frames.stages.validate import validate
from agora_frames.types import Backend

__all__ = ["hello", "seeds"]

TOPICS = ("the sea", "a lighthouse", "prime numbers", "bread", "the night train", "rain", "a violin", "the desert")


def hello(*, backend: Backend, temperature: float = 0.7, max_tokens: int = 60, seed: int = 0) -> Stage:
    """Topics in, sentences out.

    temperature: of the sampling. max_tokens: of one reply. seed: another one gives other sentences.
    """
    return recipe(
        with_row_ids(),
        render_prompts(template="Write one short sentence about {{ topic }}. Write nothing else."),
        generate_column(temperature=temperature, max_tokens=max_tokens, seed=seed, backend=backend),
        parse_column(column="completion", parser=str.strip, into="sentence"),
        validate(schema=Sentence),
        name="hello",
    )


def seeds() -> pl.DataFrame:
    """Eight topics."""
    return pl.DataFrame({"topic": TOPICS})

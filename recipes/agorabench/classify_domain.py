"""Which domain does an instruction belong to: mathematics, or anything else? For seed sets that do not say.

Source: AgoraBench sorts WebInstruct this way before quality enhancement, arXiv 2412.03679v2, appendix C (there by
GPT-4o-mini, which answers 1 or 2). The prompt is our own, and asks for a word.
In: `instruction` (String); all else is kept. Out: `domain` (`math` or `other`; null, with the reason in `verdict_error`
or `verdict_parse_error`, where the model did not answer, or not with one of the two).
Cost: one call of about 150 prompt and 2 completion tokens a row. Yield: with a model of some size nearly all rows.
"""

from __future__ import annotations

import re
from pathlib import Path

import polars as pl

from agora_frames.compose import recipe
from agora_frames.recipes.agorabench import domains
from agora_frames.stage import Stage, stage
from agora_frames.stages.generate import generate_column
from agora_frames.stages.parse import parse_column
from agora_frames.stages.prompt import render_prompts, template_file
from agora_frames.stages.rows import with_row_ids
from agora_frames.types import Backend

__all__ = ["classify_domain", "seeds"]

_PROMPT = Path(__file__).parent / "prompts" / "classify_domain.jinja"
_WORDS = re.compile(r"[a-z]+")


def classify_domain(*, backend: Backend, max_tokens: int = 8) -> Stage:
    """Instructions in, the same with their domain out.

    max_tokens: of one reply; a word has few.
    """
    return recipe(
        with_row_ids(columns=("instruction",)),
        render_prompts(template=template_file(_PROMPT)),
        generate_column(temperature=0, max_tokens=max_tokens, into="verdict", backend=backend),
        parse_column(column="verdict", parser=verdict, into="domain"),
        of_whole_replies(),
        name="classify_domain",
    )


@stage(rowwise=True)
def of_whole_replies(df: pl.DataFrame) -> pl.DataFrame:
    """A reply that was cut short might have gone on to say the other word: it gives no domain.

    Reads: `verdict_error`. Adds: `domain` in its place, null where there is an error.
    Rows: the same, in the same order.
    """
    return df.with_columns(pl.when(pl.col("verdict_error").is_null()).then("domain").alias("domain"))


def verdict(text: str) -> str:
    """`math` or `other`: whichever of the two words the reply holds, in whatever else.

    Unparsed: it holds neither, or both.

    >>> verdict("Math."), verdict(" **other**")
    ('math', 'other')
    """
    said = {"math" if word == "mathematics" else word for word in _WORDS.findall(text.lower())} & {"math", "other"}
    if len(said) != 1:
        raise ValueError(f"wanted 'math' or 'other', found {'both' if said else 'neither'}: {text[:60]!r}")
    return said.pop()


def seeds() -> pl.DataFrame:
    """The seeds of all three domains that ship, in turn, each with the domain it is from: `config`; 90 rows."""
    frames = [domains.seeds(domain=each.name).with_row_index("place") for each in domains.DOMAINS.values()]
    return pl.concat(frames).sort("place", maintain_order=True).drop("place")

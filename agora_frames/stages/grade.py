"""Answers against references."""

from __future__ import annotations

import polars as pl

from agora_frames.frames import require
from agora_frames.stage import stage

__all__ = ["grade_equal"]


@stage(rowwise=True)
def grade_equal(df: pl.DataFrame, *, answer: str = "answer", reference: str = "reference") -> pl.DataFrame:
    """An answer is right when it is the reference, letter by letter.

    Reads: `answer`, `reference` (String). Adds: `score` (Float64: 1 or 0; null where either is null).
    Rows: the same, in the same order.

    >>> df = pl.DataFrame({"answer": ["18", "17", None], "reference": ["18", "18", "18"]})
    >>> grade_equal(df)["score"].to_list()
    [1.0, 0.0, None]
    """
    require(df, answer, reference, stage="grade_equal", dtype=pl.String())
    same = pl.col(answer).cast(pl.String) == pl.col(reference).cast(pl.String)
    return df.with_columns(same.cast(pl.Float64).alias("score"))

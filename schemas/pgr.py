"""What the rows that PGR is made of must satisfy: scores that say whose they are."""

from __future__ import annotations

import pandera.polars as pa
import polars as pl

from agora_frames.schemas.scores import ItemScore

__all__ = ["LabelledItem", "LabelledScore"]

_ROLES = ("base", "student", "reference")


class LabelledItem(ItemScore):
    """An item's score (see `ItemScore`) that says whose it is; `domain` and `train_seed` may stand beside it.

    Rules: `role` is one of base, student and reference; `student_is_named` (a student has a `generator`).
    """

    role: str = pa.Field(isin=_ROLES)
    generator: str | None = pa.Field(nullable=True)
    method: str | None = pa.Field(nullable=True)

    @pa.dataframe_check
    @classmethod
    def student_is_named(cls, data: pa.PolarsData) -> pl.LazyFrame:
        return data.lazyframe.select((pl.col("role") != "student") | pl.col("generator").is_not_null())


class LabelledScore(pa.DataFrameModel):
    """A benchmark's score in points that says whose it is; `se`, `n`, `domain` and `train_seed` may stand beside it.

    Rules: `role` is one of base, student and reference; `student_is_named` (a student has a `generator`).
    """

    role: str = pa.Field(isin=_ROLES)
    benchmark: str
    generator: str | None = pa.Field(nullable=True)
    method: str | None = pa.Field(nullable=True)
    score: float | None = pa.Field(nullable=True)

    @pa.dataframe_check
    @classmethod
    def student_is_named(cls, data: pa.PolarsData) -> pl.LazyFrame:
        return data.lazyframe.select((pl.col("role") != "student") | pl.col("generator").is_not_null())

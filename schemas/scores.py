"""What item scores and report rows must satisfy before they are compared."""

from __future__ import annotations

import pandera.polars as pa
import polars as pl

__all__ = ["ItemScore", "ReportRow"]


class ItemScore(pa.DataFrameModel):
    """The columns of `frames.ITEM_SCORES`; labels may stand beside them.

    Rules: `score` is 0 to 1, or null with a `score_error` (`null_has_a_reason`); `weight` is finite and not negative.
    """

    benchmark: str
    item_id: str
    sample: int = pa.Field(ge=0)
    score: float | None = pa.Field(ge=0, le=1, nullable=True)
    weight: float = pa.Field(ge=0, lt=float("inf"))

    @pa.dataframe_check
    @classmethod
    def null_has_a_reason(cls, data: pa.PolarsData) -> pl.LazyFrame:
        told = "score_error" in data.lazyframe.collect_schema()
        reason = pl.col("score_error").is_not_null() if told else pl.lit(False)
        return data.lazyframe.select(pl.col("score").is_not_null() | reason)


class ReportRow(pa.DataFrameModel):
    """The columns of `frames.REPORT` that no row may lack, and their bounds.

    Rules: `interval_holds_score` (low <= score <= high, or all null), `n_failed_within_n`.
    """

    benchmark: str
    revision: str
    shots: str = pa.Field(isin=("zero", "few"))
    n: int = pa.Field(ge=0)
    n_failed: int = pa.Field(ge=0)
    metric: str
    score: float | None = pa.Field(nullable=True)
    low: float | None = pa.Field(nullable=True)
    high: float | None = pa.Field(nullable=True)
    dataset_hash: str = pa.Field(str_length={"min_value": 32, "max_value": 32})

    @pa.dataframe_check
    @classmethod
    def interval_holds_score(cls, data: pa.PolarsData) -> pl.LazyFrame:
        within = pl.col("score").is_between("low", "high")
        return data.lazyframe.select(within.fill_null(pl.col("score").is_null()))

    @pa.dataframe_check
    @classmethod
    def n_failed_within_n(cls, data: pa.PolarsData) -> pl.LazyFrame:
        return data.lazyframe.select(pl.col("n_failed") <= pl.col("n"))

"""What a seed must be before anything is paid for on top of it."""

from __future__ import annotations

import pandera.polars as pa
import polars as pl

from agora_frames.stages import checks

__all__ = ["Seed"]


class Seed(pa.DataFrameModel):
    """A seed has an `instruction`, and may have a `response` (the column may be missing, and a value null).

    Rules: `not_blank` (both columns). Nothing more is asked of the texts: seeds come from people and other sets.
    """

    instruction: str
    response: str | None = pa.Field(nullable=True)

    @pa.check("instruction", "response")
    @classmethod
    def not_blank(cls, data: pa.PolarsData) -> pl.LazyFrame:
        return data.lazyframe.select(checks.not_blank(data.key))

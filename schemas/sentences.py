"""What a short text must satisfy."""

from __future__ import annotations

import pandera.polars as pa
import polars as pl
from pandera.polars import PolarsData

__all__ = ["Sentence"]


class Sentence(pa.DataFrameModel):
    """`sentence` is there, is not blank, and is one line."""

    sentence: str

    @pa.check("sentence")
    def not_blank(cls, data: PolarsData) -> pl.LazyFrame:
        return data.lazyframe.select(pl.col(data.key).str.strip_chars() != "")

    @pa.check("sentence")
    def one_line(cls, data: PolarsData) -> pl.LazyFrame:
        return data.lazyframe.select(~pl.col(data.key).str.contains("\n", literal=True))

"""What a short text must satisfy."""

from __future__ import annotations

import pandera.polars as pa
import polars as pl
from pandera.polars import PolarsData

from agora_frames.stages import checks

__all__ = ["Sentence"]


class Sentence(pa.DataFrameModel):
    """`sentence` is there, is not blank, and is one line."""

    sentence: str

    @pa.check("sentence")
    def not_blank(cls, data: PolarsData) -> pl.LazyFrame:
        return data.lazyframe.select(checks.not_blank(data.key))

    @pa.check("sentence")
    def one_line(cls, data: PolarsData) -> pl.LazyFrame:
        return data.lazyframe.select(~pl.col(data.key).str.contains(r"[\n\r\u{2028}\u{2029}]"))

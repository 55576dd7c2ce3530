"""What a generated instance must be: one model for each domain of AgoraBench.

Where AgoraBench's own validators accept garbage or reject good data, these do not: a text is judged by what it
is, never by words that it holds. A rule's name is what `failures` says of a row that breaks it.
"""

from __future__ import annotations

import pandera.polars as pa
import polars as pl

from agora_frames.stages import checks

__all__ = ["CodeInstance", "GeneralInstance", "Instance", "MathInstance"]


class Instance(pa.DataFrameModel):
    """An `instruction` and a `response`: neither null nor blank, not the same, no markers of the prompt left in.

    Rules: `not_blank`, `no_leftover_markers` (both columns), `response_differs_from_instruction`.
    """

    instruction: str
    response: str

    @pa.check("instruction", "response")
    @classmethod
    def not_blank(cls, data: pa.PolarsData) -> pl.LazyFrame:
        return data.lazyframe.select(checks.not_blank(data.key))

    @pa.check("instruction", "response")
    @classmethod
    def no_leftover_markers(cls, data: pa.PolarsData) -> pl.LazyFrame:
        return data.lazyframe.select(checks.no_leftover_markers(data.key))

    @pa.dataframe_check
    @classmethod
    def response_differs_from_instruction(cls, data: pa.PolarsData) -> pl.LazyFrame:
        return data.lazyframe.select(checks.differs("instruction", "response"))


class MathInstance(Instance):
    """An instance whose response gives its result once, between `[RESULT]` and `[/RESULT]`, and then ends.

    Rules: those of `Instance`, `has_one_result`, `ends_with_result`.
    """

    @pa.check("response")
    @classmethod
    def has_one_result(cls, data: pa.PolarsData) -> pl.LazyFrame:
        return data.lazyframe.select(checks.has_one_result(data.key))

    @pa.check("response")
    @classmethod
    def ends_with_result(cls, data: pa.PolarsData) -> pl.LazyFrame:
        return data.lazyframe.select(checks.ends_with_result(data.key))


class CodeInstance(Instance):
    """An instance whose response is one fenced code block and nothing else; if tagged as Python, it compiles.

    Rules: those of `Instance`, `is_one_code_block`, `compiles_as_python`.
    Prose around the block breaks a rule, as the prompts ask for none; `code_block()` takes the code out of it.
    """

    @pa.check("response")
    @classmethod
    def is_one_code_block(cls, data: pa.PolarsData) -> pl.LazyFrame:
        return data.lazyframe.select(checks.is_one_code_block(data.key))

    @pa.check("response")
    @classmethod
    def compiles_as_python(cls, data: pa.PolarsData) -> pl.LazyFrame:
        return data.lazyframe.select(checks.compiles_as_python(data.key))


class GeneralInstance(Instance):
    """An instance of instruction following: the rules of `Instance`, and no others."""

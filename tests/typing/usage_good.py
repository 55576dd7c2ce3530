"""What mypy --strict and pyright accept without a word, and with the types that are stated."""

from __future__ import annotations

from collections.abc import Iterator
from typing import assert_type

import polars as pl

import agora_frames as af
from agora_frames import Stage, keep_valid, recipe, replace_rows, scripted, stage, steps, traced, with_row_ids
from agora_frames.stages.parsers import tagged
from agora_frames.types import Backend, Step


@stage(rowwise=True, version=2)
def add_length(df: pl.DataFrame, *, column: str, into: str = "n_chars") -> pl.DataFrame:
    return df.with_columns(pl.col(column).str.len_chars().alias(into))


@stage()
def first(df: pl.DataFrame) -> pl.DataFrame:
    return df.head(1)


def plain(df: pl.DataFrame) -> pl.DataFrame:
    return df


class Silent:
    """A backend of one's own needs no base class."""

    endpoint = "nowhere"
    model = "silent"

    def __call__(self, requests: pl.DataFrame, /) -> Iterator[pl.DataFrame]:
        yield requests


df = pl.DataFrame({"text": ["one", "two"]})

# A call runs.
assert_type(add_length(df, column="text"), pl.DataFrame)
assert_type(add_length(df, column="text", into="n"), pl.DataFrame)
assert_type(first(df), pl.DataFrame)
assert_type(keep_valid(df), pl.DataFrame)
assert_type(with_row_ids(df, columns=["text"]), pl.DataFrame)
assert_type(replace_rows(df, rows=df), pl.DataFrame)
assert_type(af.render_prompts(df, template="{{ text }}", system="Be brief."), pl.DataFrame)
assert_type(af.parse_column(df, column="text", parser=tagged("A"), into={"a": pl.Int64}), pl.DataFrame)

# So does a pipe.
assert_type(df.pipe(add_length, column="text"), pl.DataFrame)
assert_type(df.pipe(with_row_ids).pipe(keep_valid), pl.DataFrame)
assert_type(df.pipe(replace_rows, rows=df), pl.DataFrame)

# Without a frame, it binds; what is bound runs and pipes.
bound = add_length(column="text")
assert_type(bound, Stage)
assert_type(first(), Stage)
assert_type(with_row_ids(), Stage)
assert_type(bound(df), pl.DataFrame)
assert_type(df.pipe(bound), pl.DataFrame)
assert_type(df.pipe(add_length(column="text")).pipe(keep_valid()), pl.DataFrame)
assert_type(bound.fingerprint, str)

# A recipe is a stage; plain functions may stand in it.
made = recipe(with_row_ids(), bound, plain, lambda df: df.head(1), recipe(first(), name="inner"), name="made")
assert_type(made, Stage)
assert_type(df.pipe(made), pl.DataFrame)

told: list[Step] = []
assert_type(traced(made, on_step=told.append), Stage)
assert_type(steps(made)[0](df), pl.DataFrame)

backends: list[Backend] = [scripted({"one": "1"}), Silent()]
for backend in backends:
    assert_type(af.generate_column(df, backend=backend, temperature=0.7), pl.DataFrame)
    assert_type(df.pipe(af.generate_column, backend=backend, samples=2), pl.DataFrame)

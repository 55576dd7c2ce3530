"""What mypy --strict and pyright both report: every line that is marked, and no other."""
# ruff: noqa: B018

from __future__ import annotations

import polars as pl

import agora_frames as af
from agora_frames import Stage, keep_valid, recipe, replace_rows, stage, with_row_ids


@stage(rowwise=True)
def add_length(df: pl.DataFrame, *, column: str, into: str = "n_chars") -> pl.DataFrame:
    return df.with_columns(pl.col(column).str.len_chars().alias(into))


df = pl.DataFrame({"text": ["one", "two"]})

# A keyword that is misspelt.
add_length(df, colum="text")  # E
add_length(colum="text")  # E
df.pipe(add_length, colum="text")  # E
with_row_ids(df, column=["text"])  # E
af.render_prompts(templat="{{ text }}")  # E

# A parameter that is missing, or of the wrong type.
add_length(df)  # E
add_length()  # E
add_length(df, column=1)  # E
add_length(column=["text"])  # E
df.pipe(add_length, column=1)  # E
replace_rows(df, rows=[df])  # E
with_row_ids(df, columns=1)  # E
af.generate_column(df, backend="gpt")  # E

# A parameter by its position.
add_length(df, "text")  # E
replace_rows(df, df)  # E

# A stage that is not bound, or bound and not run, where a frame should be.
unbound: pl.DataFrame = add_length  # E
not_run: pl.DataFrame = add_length(column="text")  # E
no_frame: pl.DataFrame = keep_valid()  # E
keep_valid.height  # E
keep_valid().height  # E
df.join(with_row_ids(), on="row_id")  # E
df.pipe(keep_valid).pipe(add_length(column="text")).colums  # E

# A frame where a stage should be; something else where a frame should be.
a_stage: Stage = keep_valid(df)  # E
keep_valid(df.lazy())  # E
keep_valid("text")  # E
keep_valid()(df.lazy())  # E
with_row_ids()(df["text"])  # E

# A recipe without its name, or of something that is no stage.
recipe(keep_valid())  # E
recipe(df, name="r")  # E
recipe(keep_valid(), "text", name="r")  # E
recipe(add_length, name="r")  # E


@stage()  # E
def no_frame_first(*, column: str) -> pl.DataFrame:
    return pl.DataFrame({column: [1]})


@stage()  # E
def no_frame_back(df: pl.DataFrame) -> str:
    return "text"


@stage  # E
def not_called(df: pl.DataFrame) -> pl.DataFrame:
    return df

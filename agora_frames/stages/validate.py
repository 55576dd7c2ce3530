"""A schema judges rows: each is valid, or carries the names of the rules it breaks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal

import polars as pl

from agora_frames.errors import BindError, FrameError, InvalidRowsError, did_you_mean, listed
from agora_frames.frames import error_columns
from agora_frames.stage import stage

if TYPE_CHECKING:
    import pandera.polars as pa

__all__ = ["validate"]

_ROWS_AT_ONCE = 10_000


@stage(rowwise=True)
def validate(
    df: pl.DataFrame,
    *,
    schema: type[pa.DataFrameModel] | pa.DataFrameSchema,
    on_invalid: Literal["flag", "raise"] = "flag",
) -> pl.DataFrame:
    """Says of each row whether it keeps the rules of a schema, and which it breaks.

    Reads: the columns that the schema declares, and every `…_error` column. A row that has an error there is not
    judged: it is not valid, and its reason stands there already.
    Adds: `valid` (Boolean, never null) and `failures` (List(String), never null, empty when valid or not judged):
    `column: check` for each check of a column that the row breaks, `check` for one of the whole row, in the
    order of the schema. A `valid` and `failures` from before are replaced; no other column changes.
    Rows: the same, in the same order.
    schema: a Pandera model or schema (`pandera.polars`). Its checks must judge each row by itself; what looks at
    several rows (`unique`, a mean) belongs in a stage of its own. They see the columns that the schema declares,
    cast first where it says `coerce`, and no others.
    on_invalid: `flag` the rows, or `raise` when a judged row is not valid.
    Raises: FrameError when the frame lacks a column of the schema or has it in another type, when a check cannot
    be run, and when the schema is `unique`, drops or mends rows, or only warns; InvalidRowsError when asked for.

    >>> from agora_frames.schemas import GeneralInstance
    >>> df = pl.DataFrame({"instruction": ["Say yes.", "Say no."], "response": ["Yes.", " "]})
    >>> validate(df, schema=GeneralInstance)["failures"].to_list()
    [[], ['response: not_blank']]
    """
    if on_invalid not in ("flag", "raise"):
        raise BindError(f"validate() takes on_invalid='flag' or 'raise', not {on_invalid!r}.")
    rules = _rules(schema)
    df = df.drop("valid", "failures", strict=False)
    errors = [pl.col(name).is_not_null() for name in error_columns(df)]
    failed = df.select(pl.any_horizontal(pl.repeat(False, pl.len()), *errors)).to_series()
    found = _failures(df.filter(~failed) if failed.any() else df, rules)
    # Positions among the judged rows become positions among all.
    found = found.with_columns((~failed).arg_true().gather(found["row"]).alias("row"))
    if on_invalid == "raise" and found.height:
        raise _invalid_rows(df, found)
    by_row = found.group_by("row", maintain_order=True).agg(pl.col("failure").unique(maintain_order=True))
    rows = pl.select(pl.int_range(df.height, dtype=pl.UInt32).alias("row"))
    failures = rows.join(by_row, on="row", how="left", maintain_order="left")["failure"]
    valid = ~failed & failures.is_null()
    return df.with_columns(valid.alias("valid"), pl.lit(failures).fill_null([]).alias("failures"))


def _rules(schema: Any) -> pa.DataFrameSchema:
    """The schema, if it judges rows one by one and leaves them all in."""
    import pandera.polars as pa

    rules = schema.to_schema() if isinstance(schema, type) and issubclass(schema, pa.DataFrameModel) else schema
    if not isinstance(rules, pa.DataFrameSchema):
        raise BindError(f"validate() needs a model or a schema of pandera.polars, and was given {schema!r}.")
    parts = [rules, *rules.columns.values()]
    if unique := [part.name for part in parts if part.unique]:
        raise FrameError(
            f"validate() judges each row by itself, but the schema has `unique` on {listed(unique)}. "
            "Take it out, and look for duplicates in a stage of its own."
        )
    if dropping := [part.name for part in parts if part.drop_invalid_rows]:
        raise FrameError(
            f"validate() keeps all rows, but the schema has `drop_invalid_rows` on {listed(dropping)}. "
            "Take it out, and let keep_valid() drop them."
        )
    mending = [part.name for part in rules.columns.values() if part.default is not None]
    if mending or rules.add_missing_columns:
        raise FrameError(
            f"validate() judges values as they are, but the schema mends them: {listed(mending)} with `default`, or "
            "missing columns with `add_missing_columns`. Take it out, and fill them in a stage before."
        )
    if lenient := [_name(check) for part in parts for check in part.checks if check.raise_warning]:
        raise FrameError(
            f"validate() rejects what breaks a rule, but the schema only warns (`raise_warning`) at {listed(lenient)}. "
            "Take it out, or leave these checks away."
        )
    return rules


def _failures(df: pl.DataFrame, rules: pa.DataFrameSchema) -> pl.DataFrame:
    """Every rule that a row breaks: `row` (its position), `failure`; in the order of the schema.

    Some rows at a time: checks make copies of the texts, stripped or in lower case.
    """
    parts = [_failures_of(part, rules) for part in df.iter_slices(_ROWS_AT_ONCE)] if df.height else []
    starts = range(0, df.height, _ROWS_AT_ONCE)
    moved = [part.with_columns(pl.col("row") + start) for part, start in zip(parts, starts, strict=True)]
    return pl.concat(moved) if moved else _failures_of(df, rules)


def _failures_of(df: pl.DataFrame, rules: pa.DataFrameSchema) -> pl.DataFrame:
    wrong, broken = [], [pl.DataFrame(schema={"row": pl.UInt32, "failure": pl.String})]
    for error in _schema_errors(df, rules):
        of_rows = error.reason_code.name in ("DATAFRAME_CHECK", "SERIES_CONTAINS_NULLS")
        if of_rows and error.check_output.height == df.height:
            rows = (~error.check_output.to_series()).arg_true().cast(pl.UInt32)
            column = "" if error.schema is rules else f"{error.failure_cases.columns[0]}: "
            broken.append(pl.select(rows.alias("row"), pl.lit(column + _name(error.check)).alias("failure")))
        else:
            wrong.append(error)
    if wrong:
        raise FrameError(_told(wrong, df, rules))
    return pl.concat(broken)


def _schema_errors(df: pl.DataFrame, rules: pa.DataFrameSchema) -> list[Any]:
    """What Pandera finds. Its `failure_cases` are left alone: a check may have been told to cut them short."""
    from pandera.config import ValidationDepth, config_context
    from pandera.errors import SchemaErrors

    judged = df
    # Pandera turns whole rows that fail into JSON: without the columns it needs, that is slow, and breaks on bytes.
    if not rules.strict and rules.dtype is None and not any(column.regex for column in rules.columns.values()):
        judged = df.select([name for name in df.columns if name in rules.columns])
    # A column of nothing but nulls has no type of its own: it may stand for any.
    untyped = {n: c.dtype.type for n, c in rules.columns.items() if c.dtype and judged.schema.get(n) == pl.Null}
    try:
        # Whatever the environment says, a validation that was asked for is done.
        with config_context(validation_enabled=True, validation_depth=ValidationDepth.SCHEMA_AND_DATA):
            rules.validate(judged.cast(untyped), lazy=True)
    except SchemaErrors as exc:
        return exc.schema_errors
    except Exception as exc:
        # Pandera casts before it looks for what is missing, so the first word of that is Polars'.
        if lacks := [n for n, c in rules.columns.items() if c.required and not c.regex and n not in df.columns]:
            raise FrameError(_told_of(_lacking(lacks, df), df, rules)) from exc
        raise FrameError(
            f"validate() could not run the schema {rules.name!r}: {type(exc).__name__}: {exc}. "
            "Each check must give one Boolean for each row."
        ) from exc
    return []


def _name(check: Any) -> str:
    return check if isinstance(check, str) else check.error or check.name or str(check)


def _told(errors: Iterable[Any], df: pl.DataFrame, rules: pa.DataFrameSchema) -> str:
    """What keeps the schema from judging the frame. Checks that crash only because of the frame are left out."""
    lacks, others = [], []
    for error in errors:
        name, found = error.schema.name, error.failure_cases
        if isinstance(found, pl.DataFrame):
            name, found = found.columns[0], listed(found.to_series(), most=3)
        match error.reason_code.name:
            case "COLUMN_NOT_IN_DATAFRAME":
                lacks += _lacking([found], df)
            case "WRONG_DATATYPE":
                lacks.append(f"the column {name!r} is {found}, not {error.schema.dtype}")
            case "DATATYPE_COERCION":
                lacks.append(f"the column {name!r} has values that cannot be cast: {found}")
            case "COLUMN_NOT_IN_SCHEMA":
                lacks.append(f"the schema is strict and does not declare the column {found!r}")
            case "DATAFRAME_CHECK":
                others.append(
                    f"the check {_name(error.check)!r} must give one Boolean for each row, and gave one for all"
                )
            case _:
                others.append(f"{_name(error.check)!r} could not be done: {found}")
    return _told_of(lacks or others, df, rules)


def _lacking(names: list[str], df: pl.DataFrame) -> list[str]:
    return [f"the frame has no column {name!r}{did_you_mean(name, df.columns)}" for name in names]


def _told_of(wrong: list[str], df: pl.DataFrame, rules: pa.DataFrameSchema) -> str:
    return (
        f"validate() cannot judge this frame by the schema {rules.name!r}: {'; '.join(wrong)}. "
        f"The frame has: {listed(df.columns) or 'no columns'}. A check sees the columns that its schema declares."
    )


def _invalid_rows(df: pl.DataFrame, found: pl.DataFrame) -> InvalidRowsError:
    rows = found["row"].unique().sort()
    counts = found.group_by("failure").len().sort("len", "failure", descending=[True, False])
    reasons = ", ".join(f"{failure!r} in {n}" for failure, n in counts.head(5).rows())
    names = df["row_id"].gather(rows) if "row_id" in df.columns else rows
    return InvalidRowsError(
        f"validate() found {rows.len()} of {df.height} rows invalid: {reasons}. The first (by "
        f"{'row_id' if 'row_id' in df.columns else 'position'}): {listed(names.head(3))}. "
        "Look at them with on_invalid='flag' and df.filter(~pl.col('valid')), or drop them with keep_valid()."
    )

"""What a row is: its name, its outcome, and the one visible place where rows leave."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from agora_frames.errors import FrameError, listed
from agora_frames.frames import outcome, reason, require
from agora_frames.hashing import hash_bytes, row_hashes, text_series
from agora_frames.stage import stage

__all__ = ["failure_counts", "keep_valid", "reject_where", "replace_rows", "with_outcome", "with_row_ids"]

_ROW_KEY = ("row_id", "sample")
_ROWS_AT_ONCE = 2_000


@stage()
def with_row_ids(df: pl.DataFrame, *, columns: str | Sequence[str] | None = None) -> pl.DataFrame:
    """Gives each row its name, born once from its content and kept by every later stage.

    Reads: all columns, or `columns`. A frame that has `row_id` already is returned as it is. Name the columns that make
    a row what it is (`columns="instruction"`), and a column added to the seeds later renames no row: a renamed row's
    calls are new calls.
    Adds: `row_id` (String, 32 hex digits, never null, unique), in front.
    Rows: the same, in the same order. Equal rows are told apart by their occurrence number (first, second, …),
    so a row's name stays when other rows come, go or move; among equal rows, only the count matters.
    Raises: FrameError when `columns` names one that is missing.

    >>> with_row_ids(pl.DataFrame({"q": ["1 + 1?", "1 + 1?"]}))["row_id"].n_unique()
    2
    """
    if "row_id" in df.columns:
        return df
    names = [columns] if isinstance(columns, str) else list(columns or df.columns)
    require(df, *names, stage="with_row_ids")
    content = row_hashes(df.select(names) if names else df).alias("content").to_frame()
    numbered = content.with_columns(pl.int_range(pl.len()).over("content").alias("occurrence"))
    parts = (part.rows() for part in numbered.iter_slices(_ROWS_AT_ONCE))
    ids = text_series([hash_bytes(c.encode(), str(n).encode()) for c, n in part] for part in parts)
    return df.select(ids.alias("row_id"), pl.all())


@stage(rowwise=True)
def with_outcome(df: pl.DataFrame) -> pl.DataFrame:
    """Says of each row what became of it, and why.

    Reads: every `…_error` column, `valid` and `failures`, as far as the frame has them.
    Adds: `outcome` (String, never null: `accepted`, `rejected` or `failed`), `reason` (String: the first thing
    that went wrong, such as `completion: truncated`; null when accepted).
    Rows: the same, in the same order.
    """
    return df.with_columns(outcome(df), reason(df))


@stage(rowwise=True)
def keep_valid(df: pl.DataFrame) -> pl.DataFrame:
    """Keeps the accepted rows: the one place where rows leave.

    Reads: `valid` (added by `validate`) and every `…_error` column.
    Adds: nothing. Rows: those whose outcome is `accepted`, in the same order.
    Raises: FrameError when the frame was not validated.
    """
    require(df, "valid", stage="keep_valid", dtype=pl.Boolean())
    return df.filter(outcome(df) == "accepted")


@stage(rowwise=True)
def reject_where(df: pl.DataFrame, *, column: str, failure: str) -> pl.DataFrame:
    """Makes a verdict in a column a reason to reject: of a duplicate, say, or of what is in a benchmark.

    Reads: `column`: Boolean, where true rejects; or of any other type, where all but null rejects. `valid` and
    `failures`, as far as the frame has them.
    Adds: `valid` (Boolean; null stays null where nothing rejects) and `failures` (List(String), never null):
    `failure` comes last.
    Rows: the same, in the same order.
    Raises: FrameError when the frame lacks the column.

    >>> df = pl.DataFrame({"row_id": ["a", "b"], "duplicate_of": [None, "a"]})
    >>> reject_where(df, column="duplicate_of", failure="duplicate")["failures"].to_list()
    [[], ['duplicate']]
    """
    require(df, column, stage="reject_where")
    rejects = pl.col(column).fill_null(False) if df.schema[column] == pl.Boolean else pl.col(column).is_not_null()
    valid = pl.col("valid") if "valid" in df.columns else pl.lit(True)
    empty = pl.lit([], dtype=pl.List(pl.String))
    failures = pl.col("failures").fill_null(empty) if "failures" in df.columns else empty
    return df.with_columns(
        pl.when(rejects).then(False).otherwise(valid).alias("valid"),
        pl.when(rejects)
        .then(failures.list.concat(pl.lit([failure], dtype=pl.List(pl.String))))
        .otherwise(failures)
        .alias("failures"),
    )


@stage()
def failure_counts(df: pl.DataFrame) -> pl.DataFrame:
    """Counts why rows were not accepted; each row once, under the first thing that went wrong with it.

    Reads: every `…_error` column, `valid` and `failures`, as far as the frame has them.
    Gives a new frame: `outcome` (String: `failed` or `rejected`), `reason` (String), `rows` (UInt32), most first;
    `rows` add up to the rows of `df` that are not accepted.
    """
    lost = df.select(outcome(df), reason(df)).filter(pl.col("outcome") != "accepted")
    counts = lost.group_by("outcome", "reason").agg(pl.len().cast(pl.UInt32).alias("rows"))
    return counts.sort("rows", "outcome", "reason", descending=[True, False, False])


@stage()
def replace_rows(df: pl.DataFrame, *, rows: pl.DataFrame) -> pl.DataFrame:
    """Puts rows that were made again in the place of the old ones, by `row_id` (and `sample`, where there is one).

    Reads: `row_id`. rows: a frame with all the columns of `df`; further ones are left out.
    Adds: nothing. Rows: the same, in the same order; a row of `rows` that `df` lacks is an error.
    Raises: FrameError when a column is missing, or when a row of `rows` does not stand for exactly one of `df`.

    >>> failed = df.filter(pl.col("completion_error").is_not_null())        # doctest: +SKIP
    >>> df.pipe(replace_rows, rows=failed.pipe(generate_column, …))        # doctest: +SKIP
    """
    require(df, "row_id", stage="replace_rows")
    if lacking := [name for name in df.columns if name not in rows.columns]:
        raise FrameError(f"replace_rows() needs all columns of the frame in `rows`, which lacks {listed(lacking)}.")
    rows = rows.select(df.columns).cast(dict(df.schema))  # type: ignore[arg-type]
    key = [name for name in _ROW_KEY if name in df.columns]
    if twice := _names(rows, pl.struct(key).is_duplicated()):
        raise FrameError(f"replace_rows() was given {listed(twice, most=3)} more than once in `rows`; which is meant?")
    if strange := _names(rows.join(df, on=key, how="anti", nulls_equal=True)):
        raise FrameError(f"replace_rows() was given rows that the frame does not have: {listed(strange, most=3)}.")
    places = rows.select(*key, pl.int_range(df.height, df.height + pl.len()).alias("place"))
    new = df.select(key).join(places, on=key, how="left", maintain_order="left", nulls_equal=True)["place"]
    if several := _names(df, new.is_not_null() & new.is_duplicated()):
        raise FrameError(f"replace_rows() found {listed(several, most=3)} more than once in the frame; which is meant?")
    return pl.concat([df, rows])[new.fill_null(pl.Series(range(df.height), dtype=pl.Int64))]


def _names(df: pl.DataFrame, which: pl.Expr | pl.Series | bool = True) -> list[str]:
    return df.filter(which)["row_id"].unique(maintain_order=True).to_list()

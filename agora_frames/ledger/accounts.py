"""What was called, answered, spent and failed, as a query over the ledger."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import orjson
import polars as pl

from agora_frames.errors import BindError, did_you_mean, listed
from agora_frames.io import Format, Url, write_frame
from agora_frames.ledger import LEDGER, Ledger

__all__ = ["ACCOUNTS", "accounts", "export"]

# What `accounts` tells, beside what it is told by.
ACCOUNTS = pl.Schema(
    {
        "calls": pl.Int64(),
        "attempts": pl.Int64(),
        "answered": pl.Int64(),
        "failures": pl.List(pl.Struct({"kind": pl.String, "attempts": pl.Int64})),
        "prompt_tokens": pl.Int64(),
        "completion_tokens": pl.Int64(),
        "cost_usd": pl.Float64(),
        "of_unknown_cost": pl.Int64(),
        "first_at": pl.Datetime("us", "UTC"),
        "last_at": pl.Datetime("us", "UTC"),
    }
)
_BY = ("run", "recipe", "model", "endpoint", "day")
_ADDED = ("calls", "attempts", "answered", "prompt_tokens", "completion_tokens", "cost_usd", "of_unknown_cost")


def accounts(attempts: pl.DataFrame | pl.LazyFrame, *, by: Sequence[str] = ()) -> pl.DataFrame:
    """One row for each of what it is told by (one in all, when by nothing), the first begun first.

    attempts: the frame or the scan of a ledger, or a part of it. by: any of run, recipe, model, endpoint, day (UTC).
    Gives `by`, and the columns of ACCOUNTS: calls (requests that ended), attempts (these, and those tried again),
    answered (calls without an error), failures (attempts by the kind of their error, most first), prompt_tokens,
    completion_tokens, cost_usd (sums of what is known), of_unknown_cost (attempts that are not in that sum), first_at,
    last_at.
    Raises: BindError when it cannot be told by that.

    >>> ledger = Ledger("memory://a-ledger")
    >>> ledger.write({"key": "k", "text": "Four.", "run": "monday", "cost_usd": 0.25})
    >>> accounts(ledger.frame(), by=["run"]).select("run", "calls", "cost_usd").rows()
    [('monday', 1, 0.25)]
    """
    for name in by:
        if name not in _BY:
            raise BindError(
                f"accounts(by={list(by)!r}): {name!r} is nothing to tell by{did_you_mean(name, _BY) or '.'} "
                f"Possible: {listed(_BY)}."
            )
    begun = pl.from_epoch((pl.col("at") * 1e6).cast(pl.Int64), "us").dt.replace_time_zone("UTC")
    ended = ~pl.col("retried").fill_null(False)
    rows = attempts.lazy().with_columns(
        pl.col("error").struct.field("kind").alias("kind"), begun.alias("begun"), begun.dt.date().alias("day")
    )
    parts = rows.group_by(*by, "kind").agg(
        ended.sum().cast(pl.Int64).alias("calls"),
        pl.len().cast(pl.Int64).alias("attempts"),
        (ended & pl.col("kind").is_null()).sum().cast(pl.Int64).alias("answered"),
        pl.col("prompt_tokens", "completion_tokens", "cost_usd").sum(),
        pl.col("cost_usd").is_null().sum().cast(pl.Int64).alias("of_unknown_cost"),
        pl.col("begun").min().alias("first_at"),
        pl.col("begun").max().alias("last_at"),
    )
    return _summed(parts.sort("attempts", "kind", descending=[True, False]).collect(engine="streaming"), by)


def _summed(parts: pl.DataFrame, by: Sequence[str]) -> pl.DataFrame:
    """The parts for each kind of error, as one row for each of `by`."""
    failed = pl.struct("kind", "attempts").filter(pl.col("kind").is_not_null())
    sums = [pl.col(_ADDED).sum(), pl.col("first_at").min(), pl.col("last_at").max()]
    if by:
        whole = parts.group_by(*by, maintain_order=True).agg(failed.alias("failures"), *sums)
    else:
        whole = parts.select(failed.implode().alias("failures"), *sums)
    order = ["first_at", *by]
    return whole.select(*by, *(pl.col(name).cast(dtype) for name, dtype in ACCOUNTS.items())).sort(order)


def export(
    ledger: Ledger,
    url: Url,
    *,
    run: str | None = None,
    recipe: str | None = None,
    model: str | None = None,
    endpoint: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    format: Format | None = None,
) -> int:
    """Writes the attempts of a ledger, or some of them, as Parquet, JSONL or CSV; gives how many.

    run, recipe, model, endpoint: only those of that name. since, until: only those recorded from then on, and before
    then. url, format: as `write_frame` takes them. In CSV, which has texts and numbers only, lists and errors are JSON.
    Raises: StorageError when the place cannot be written.
    """
    keep = pl.lit(True)
    for name, wanted in {"run": run, "recipe": recipe, "model": model, "endpoint": endpoint}.items():
        if wanted is not None:
            keep &= pl.col(name) == wanted
    if since is not None:
        keep &= pl.col("at") >= since.timestamp()
    if until is not None:
        keep &= pl.col("at") < until.timestamp()
    attempts = ledger.scan().filter(keep).collect(engine="streaming").sort("at", maintain_order=True)
    if format == "csv" or (format is None and str(url).lower().removesuffix(".gz").endswith(".csv")):
        attempts = attempts.with_columns(
            _as_json(attempts[name]) for name, dtype in LEDGER.items() if dtype.is_nested()
        )
    write_frame(attempts, url, format=format)
    return attempts.height


def _as_json(nested: pl.Series) -> pl.Series:
    texts = [None if value is None else orjson.dumps(value).decode() for value in nested.to_list()]
    return pl.Series(nested.name, texts, dtype=pl.String)

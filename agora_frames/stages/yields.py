"""What a run brought and what it cost: by round, by theme, by what went wrong."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from agora_frames.frames import CALL, outcome, reason
from agora_frames.stage import stage

__all__ = ["yield_table"]


@stage()
def yield_table(df: pl.DataFrame, *, by: Sequence[str] = ("round", "theme")) -> pl.DataFrame:
    """Counts what was asked and what came of it: in all, by each column of `by` that is there, and by reason.

    Reads: every `…_error` and `…_call` column, `valid` and `failures`, and `by`, as far as the frame has them.
    Gives a new frame: `by` (String: `all`, a column's name, or `reason`), `value` (String: of that column; or why rows
    were not accepted, such as `completion: refused`), `asked` (Int64: the rows, each an attempt), `accepted`,
    `rejected`, `failed` (which add up to `asked`), `retried` (of these, further attempts at the same candidate),
    `prompt_tokens` and `completion_tokens` (Int64), `cost_usd` (Float64, US dollars): of the replies, whenever they
    were paid for, each once; null when one of them is unknown. `tokens_at_least` (Int64) and `cost_usd_at_least`
    (Float64) are the sums of what is known.

    >>> df = pl.DataFrame({"round": [0, 0, 1], "valid": [True, False, True], "failures": [[], ["duplicate"], []]})
    >>> yield_table(df).select("by", "value", "asked", "accepted").rows()
    [('all', '', 3, 2), ('round', '0', 2, 1), ('round', '1', 1, 1), ('reason', 'duplicate', 1, 0)]
    """
    calls = [name for name, dtype in df.schema.items() if dtype == CALL]
    retried = pl.col("attempt") > 0 if df.schema.get("attempt") == pl.Int64 else pl.lit(False)
    told = df.select(
        outcome(df),
        reason(df),
        *(pl.col(name).cast(pl.String).alias(f"by_{name}") for name in by if name in df.columns),
        retried.alias("retried"),
        *(_spent(calls, field).alias(field) for field in ("prompt_tokens", "completion_tokens", "cost_usd")),
    )
    parts = [_counts(told, "all", pl.lit(""))]
    parts += [_counts(told, name, pl.col(f"by_{name}")) for name in by if name in df.columns]
    lost = told.filter(pl.col("outcome") != "accepted")
    parts.append(_counts(lost, "reason", pl.col("reason")).sort("asked", "value", descending=[True, False]))
    return pl.concat([parts[0] if df.height else parts[0].clear(), *parts[1:]])


def _spent(calls: list[str], field: str) -> pl.Expr:
    """What a row's calls took; null where a call that was made does not say. A reply that rows share counts once."""
    if not calls:
        return pl.lit(None, dtype=pl.Float64 if field == "cost_usd" else pl.Int64)
    each = []
    for name in calls:
        call = pl.col(name).struct
        again = call.field("key").is_not_null() & (call.field("key").cum_count().over(call.field("key")) > 1)
        each.append(pl.when(call.field("key").is_null() | again).then(0).otherwise(call.field(field)))
    dtype = pl.Float64 if field == "cost_usd" else pl.Int64
    return pl.sum_horizontal(each, ignore_nulls=False).cast(dtype)


def _counts(told: pl.DataFrame, by: str, value: pl.Expr) -> pl.DataFrame:
    spent = [
        pl.when(pl.col(name).null_count() == 0).then(pl.col(name).sum()).alias(name)
        for name in ("prompt_tokens", "completion_tokens", "cost_usd")
    ]
    known = pl.col("prompt_tokens").sum() + pl.col("completion_tokens").sum()
    spent += [known.alias("tokens_at_least"), pl.col("cost_usd").sum().alias("cost_usd_at_least")]
    grouped = told.group_by(value.alias("value"), maintain_order=True).agg(
        pl.len().cast(pl.Int64).alias("asked"),
        *((pl.col("outcome") == kind).sum().cast(pl.Int64).alias(kind) for kind in ("accepted", "rejected", "failed")),
        pl.col("retried").sum().cast(pl.Int64),
        *spent,
    )
    return grouped.select(pl.lit(by).alias("by"), "value", pl.exclude("value"))

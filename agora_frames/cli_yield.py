"""What the command line shows of a run's yield, and of the plan of one."""

from __future__ import annotations

import polars as pl
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from agora_frames.display import frame_table
from agora_frames.meter import money
from agora_frames.run import Result
from agora_frames.stages.yields import yield_table

__all__ = ["show_records", "show_yield"]

_OF_ROUNDS = ("rows_wanted", "rows_known", "yield_expected", "yield_from")


def show_yield(out: Console, result: Result) -> None:
    """What each round and each theme brought and took, where a run had rounds; and what it lacks."""
    if "round" in result.rows.columns and result.rows.height:
        table = yield_table(result.rows)
        for name in ("round", "theme"):
            if (part := table.filter(pl.col("by") == name)).height:
                out.print(_yield_table(pl.concat([part, table.head(1)]), name))
    if result.shortfall:
        out.print(f"\n[bold yellow]{result.shortfall}[/]", soft_wrap=True)


def _yield_table(part: pl.DataFrame, by: str) -> Table:
    table = Table(title=f"Yield by {by}, in attempts", title_justify="left", title_style="bold", expand=False)
    counts = ["asked", "accepted", "rejected", "failed", *(["retried"] if by == "round" else [])]
    table.add_column(by)
    for name in (*counts, "tokens", "cost"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in part.iter_rows(named=True):
        tokens = None in (row["prompt_tokens"], row["completion_tokens"])
        what = "all" if row["by"] == "all" else "none" if row["value"] is None else row["value"]
        table.add_row(
            escape(what),
            *(f"{row[name]:,}" for name in counts),
            _at_least(f"{row['tokens_at_least']:,}", unknown=tokens),
            _at_least(money(row["cost_usd_at_least"]), unknown=row["cost_usd"] is None),
        )
    return table


def _at_least(known: str, *, unknown: bool) -> str:
    """A sum, of which some part may be unknown."""
    return known if not unknown else "?" if known in ("0", "$0") else f"≥ {known}"


def show_records(out: Console, records: pl.DataFrame, *, title: str) -> None:
    """Each row as a table of its own: there are few rows, and many columns."""
    for row in records.iter_rows(named=True):
        told = {name: value for name, value in row.items() if name not in _OF_ROUNDS or row["rows_wanted"] is not None}
        figures = ["unknown" if value is None else _figure(name, value) for name, value in told.items()]
        out.print(frame_table(pl.DataFrame({"what": list(told), "figure": figures}), title=title))


def _figure(name: str, value: object) -> str:
    if name == "yield_expected":
        return f"{value:.0%}"
    if isinstance(value, float):
        return f"${value:,.4f}" if "cost" in name else f"{value:,.1f}"
    return f"{value:,}" if isinstance(value, int) else str(value)

"""Reads back what a client has written, row by row; and counts what a ledger holds.

    python benchmarks/checks.py --out out.parquet --rows 5000
    python benchmarks/checks.py --ledger FOLDER

Prints one line of JSON. It is a process of its own, so that the runner stays small: see `harness.py`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import polars as pl

from agora_frames.frames import SETTLED
from agora_frames.ledger import Ledger


def of_rows(out: Path, rows: int) -> dict[str, Any]:
    """lost: rows that are not there. wrong: accepted rows that hold another row's reply."""
    found = pl.read_parquet(out)
    there = found.filter(pl.col("row").is_between(0, rows - 1))["row"].n_unique()
    accepted = found.filter(pl.col("outcome") == "accepted")
    starts = [
        pl.col(name).str.starts_with(pl.format(f"{word} {{}}:", "row")).fill_null(False)
        for name, word in (("instruction", "Task"), ("response", "Answer"))
    ]
    reasons = dict(found.drop_nulls("reason").group_by("reason").len().iter_rows())
    outcomes = dict(found.group_by("outcome").len().iter_rows())
    return {
        "rows": found.height,
        "lost": rows - there,
        "doubled": found.height - there,
        "wrong": accepted.filter(~pl.all_horizontal(starts)).height,
        "accepted": outcomes.get("accepted", 0),
        "rejected": outcomes.get("rejected", 0),
        "failed": outcomes.get("failed", 0),
        "reasons": reasons,
    }


def of_ledger(folder: Path) -> dict[str, Any]:
    """answered: attempts that ended in a reply, also a truncated one; doubled: of these, more than one to a key."""
    attempts = Ledger(folder).frame()
    kind = pl.col("error").struct.field("kind")
    answered = attempts.filter(~pl.col("retried") & (kind.is_null() | kind.is_in(SETTLED)))
    kinds = attempts.filter(kind.is_not_null()).group_by(kind.alias("kind")).len()
    return {
        "attempts": attempts.height,
        "answered": answered.height,
        "doubled": answered.height - answered["key"].n_unique(),
        "errors": dict(kinds.iter_rows()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--rows", type=int, default=0)
    parser.add_argument("--ledger", type=Path)
    given = parser.parse_args()
    print(json.dumps(of_ledger(given.ledger) if given.ledger else of_rows(given.out, given.rows)))


if __name__ == "__main__":
    main()

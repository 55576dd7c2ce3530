"""The command `agora ledger`: what was called, spent and failed; and what a ledger's files hold."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import polars as pl
from rich.console import Console

from agora_frames.display import frame_table
from agora_frames.errors import BindError, StorageError
from agora_frames.ledger import Ledger
from agora_frames.ledger.accounts import accounts, export
from agora_frames.ledger.places import Folder, without_secrets
from agora_frames.ledger.upkeep import remove, superseded, verify
from agora_frames.meter import money

__all__ = ["add_ledger_command"]

_BY = ("recipe", "run", "model", "endpoint", "day")


def add_ledger_command(sub: argparse.ArgumentParser, parents: list[argparse.ArgumentParser]) -> None:
    """Gives the parser of `agora ledger` its options and its own commands."""
    sub.add_argument("--by", default="recipe,model", help=f"tell by these, with commas: {', '.join(_BY)} (%(default)s)")
    sub.set_defaults(command=_accounts)
    commands = sub.add_subparsers(metavar="COMMAND")

    def add(name: str, command: Callable[[argparse.Namespace], int | None], about: str) -> argparse.ArgumentParser:
        parser = commands.add_parser(name, parents=parents, help=about, description=about)
        parser.set_defaults(command=command)
        return parser

    exports = add("export", _export, "write the attempts to a file: .parquet, .jsonl or .csv")
    exports.add_argument("to", help="the file, or any fsspec URL")
    for name in ("run", "recipe", "model", "endpoint"):
        # Not `recipe`: that is the name of the one to run (see `cli`).
        exports.add_argument(f"--{name}", dest=f"of_{name}", metavar=name.upper(), help=f"only those of this {name}")
    exports.add_argument("--since", type=_moment, metavar="DAY", help="only those from this day on: 2026-11-22 (UTC)")
    exports.add_argument("--until", type=_moment, metavar="DAY", help="only those before this day")
    add("verify", _verify, "read every file, and say what is found; nothing is changed")
    removes = add("gc", _gc, "remove files that are provably superseded; asks first")
    removes.add_argument("--yes", action="store_true", help="do not ask")
    add("compact", _compact, "gather the segments of ended runs in Parquet")


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as exc:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no day: write it as 2026-11-22, or with a time as 2026-11-22T18:30"
        ) from exc
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _opened(args: argparse.Namespace) -> Ledger:
    ledger = Ledger(args.ledger)
    if isinstance(ledger.place, Folder) and not ledger.place.path.exists():
        raise StorageError(
            f"there is no ledger at {str(ledger.path)!r}: no run has made one there. Give its place with --ledger, or "
            "AGORA_LEDGER."
        )
    return ledger


def _accounts(args: argparse.Namespace) -> None:
    by, out = [name.strip() for name in args.by.split(",") if name.strip()], Console(highlight=False)
    ledger = _opened(args)
    table = accounts(ledger.scan(), by=by)
    attempts = int(table["attempts"].sum())
    if not attempts:
        out.print(f"The ledger {ledger.path} is empty.", markup=False)
        return
    failures = pl.format(
        "{} {}", pl.element().struct.field("attempts"), pl.element().struct.field("kind").str.replace_all("_", " ")
    )
    told = table.select(
        *by,
        *("calls", "answered"),
        pl.col("failures").list.eval(failures).list.join(", "),
        pl.format("{} + {}", "prompt_tokens", "completion_tokens").alias("tokens in + out"),
        pl.struct("cost_usd", "of_unknown_cost", "attempts").map_elements(_cost, return_dtype=pl.String).alias("cost"),
        pl.col("last_at").dt.strftime("%Y-%m-%d %H:%M").alias("last"),
    )
    out.print(frame_table(told, title=f"Ledger {ledger.path}: {attempts} attempts", whole=True))


def _cost(row: dict[str, Any]) -> str:
    """A sum, a lower bound where some costs are not known, or that none is."""
    if row["of_unknown_cost"] == row["attempts"]:
        return "unknown"
    return f"{'at least ' if row['of_unknown_cost'] else ''}{money(row['cost_usd'])}"


def _export(args: argparse.Namespace) -> None:
    named = {name: getattr(args, f"of_{name}") for name in ("run", "recipe", "model", "endpoint")}
    written = export(_opened(args), args.to, **named, since=args.since, until=args.until)
    to = without_secrets(args.to)
    Console(highlight=False).print(f"Wrote {written} attempts to {to}.", markup=False, soft_wrap=True)


def _verify(args: argparse.Namespace) -> int:
    """1 when there is something to look at."""
    ledger, out = _opened(args), Console(highlight=False)
    findings = verify(ledger)
    if findings.is_empty():
        out.print(f"The ledger {ledger.path} has no files.", markup=False)
        return 0
    out.print(frame_table(findings, title=f"Ledger {ledger.path}", whole=True))
    bad = findings.filter(~pl.col("finding").is_in(["ok", "covered twice"]))
    out.print("Every file is whole." if bad.is_empty() else f"{bad.height} findings to look at; nothing was changed.")
    return 0 if bad.is_empty() else 1


def _gc(args: argparse.Namespace) -> None:
    ledger, out = _opened(args), Console(highlight=False)
    found = superseded(ledger)
    if found.is_empty():
        out.print("Nothing is superseded: every file is needed.")
        return
    out.print(frame_table(found, title=f"Superseded in {ledger.path}: {int(found['bytes'].sum()):,} bytes", whole=True))
    if not args.yes and not _agreed(out):
        out.print("Nothing was removed.")
        return
    out.print(f"Removed {remove(ledger, found).height} files. No reply and no cost is lost with them.")


def _agreed(out: Console) -> bool:
    if not sys.stdin.isatty():
        raise BindError("`agora ledger gc` asks before it removes anything, and nobody can answer here: give --yes.")
    try:
        return out.input("Remove them? [y/N] ", markup=False).strip().lower() in ("y", "yes")
    except EOFError:  # Ctrl-D
        return False


def _compact(args: argparse.Namespace) -> None:
    made = _opened(args).compact()
    Console(highlight=False).print(
        f"Gathered segments in {len(made)} files." if made else "There was nothing to gather.", markup=False
    )

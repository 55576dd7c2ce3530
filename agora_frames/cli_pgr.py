"""The command `agora pgr`: the table of performance gaps recovered, from a file of scores."""

from __future__ import annotations

import argparse
from typing import Literal

import polars as pl
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from agora_frames.errors import BindError, FrameError, did_you_mean, listed
from agora_frames.io import read_frame, write_frame
from agora_frames.pgr import pgr

__all__ = ["add_pgr_command"]

_SCOPES = ("overall", "method", "domain", "benchmark")
_COMBINE: dict[str, Literal["mean_of_pgr", "pgr_of_mean"]] = {
    "mean-of-pgr": "mean_of_pgr",
    "pgr-of-mean": "pgr_of_mean",
}
_HOW = {
    "mean_of_pgr": "a domain is the mean of its benchmarks' PGRs",
    "pgr_of_mean": "a domain is the PGR of its benchmarks' mean scores",
}


def add_pgr_command(sub: argparse.ArgumentParser) -> None:
    """Gives the parser of `agora pgr` its options."""
    sub.add_argument(
        "scores",
        help="a frame of scores with `role` (base, student, reference), `benchmark`, `score` and labels: of items "
        "(`item_id`, 0 to 1), or of whole benchmarks (points)",
    )
    sub.add_argument(
        "--by",
        default=",".join(_SCOPES),
        help=f"show these scopes, with commas: {', '.join(_SCOPES)} (all of them)",
    )
    sub.add_argument("--labels", default="generator", help="what tells students apart, with commas (%(default)s)")
    sub.add_argument("--combine", default="mean-of-pgr", help=f"{' or '.join(_COMBINE)}, of a domain's benchmarks")
    sub.add_argument("--bootstrap", type=int, default=1000, metavar="N", help="resamples of the items (%(default)s)")
    sub.add_argument("--level", type=float, default=0.95, help="of the intervals (%(default)s)")
    sub.add_argument("--seed", type=int, default=0, help="of the resamples (%(default)s)")
    sub.add_argument("--output", metavar="FILE", help="write all rows and columns there too")
    sub.add_argument("--debug", action="store_true", help="show the traceback of an error")
    sub.set_defaults(command=_pgr)


def _pgr(args: argparse.Namespace) -> None:
    scopes, labels = _names(args.by), _names(args.labels)
    for scope in scopes:
        _must("--by", scope, _SCOPES)
    _must("--combine", args.combine, tuple(_COMBINE))
    combine = _COMBINE[args.combine]
    made = pgr(
        read_frame(args.scores),
        by=labels,
        combine=combine,
        resamples=args.bootstrap,
        level=args.level,
        seed=args.seed,
    )
    if made.is_empty():
        raise FrameError(
            f"{args.scores!r} has no scores of a student: there is no PGR to tell. Score one with `agora evaluate`: "
            "--scores … --label role=student --label generator=…"
        )
    out = Console(highlight=False)
    out.print(_title(made), style="bold", soft_wrap=True)
    out.print(_table(made, labels, scopes))
    for kind, message in made["pgr_error"].drop_nulls().unique(maintain_order=True).struct.unnest().iter_rows():
        out.print(f"{kind.replace('_', ' ')}: {message}", markup=False, soft_wrap=True)
    out.print(_note(made, combine, args.level), style="dim", soft_wrap=True)
    if args.output:
        write_frame(made, args.output)
        out.print(f"Wrote {made.height} rows to {args.output}", markup=False, soft_wrap=True)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _must(option: str, given: str, possible: tuple[str, ...]) -> None:
    if given not in possible:
        near = did_you_mean(given, possible) or "."
        raise BindError(f"{option} knows no {given!r}{near} Possible are: {listed(possible)}.")


def _table(made: pl.DataFrame, labels: list[str], scopes: list[str]) -> Table:
    """What a person reads of it: a line for each row of these scopes, parts below the whole that they are of."""
    paths = [_path(row, labels) for row in made.iter_rows(named=True)]
    begun: dict[tuple[str, ...], int] = {}
    for path in paths:
        for depth in range(1, len(path) + 1):
            begun.setdefault(path[:depth], len(begun))
    order = sorted(range(len(paths)), key=lambda n: [begun[paths[n][: d + 1]] for d in range(len(paths[n]))])
    shown = [place for place in order if made["scope"][place] in scopes]
    figures = _figures(made[shown])
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)  # so that eighty columns hold it
    table.add_column(escape(", ".join(labels)), overflow="fold")
    for name, dtype in figures.schema.items():
        table.add_column(name, justify="right" if dtype.is_numeric() else "left", overflow="fold")
    for place, row in zip(shown, figures.iter_rows(), strict=True):
        cells = ("" if value is None else escape(str(value)) for value in row)
        table.add_row(escape(_indented(paths[place], scopes)), *cells)
    return table


def _path(row: dict[str, object], labels: list[str]) -> tuple[str, ...]:
    """From the student down to what the row is of; a step that has no name is empty."""
    student = ", ".join(str(row[label]) for label in labels if row[label] is not None)
    return student, *(str(row[scope] or "") for scope in _SCOPES[1 : _SCOPES.index(str(row["scope"])) + 1])


def _indented(path: tuple[str, ...], scopes: list[str]) -> str:
    """The names since the last whole that has a line of its own, indented once for each that has."""
    above = [depth for depth, name in enumerate(path[:-1]) if name and _SCOPES[depth] in scopes]
    return "  " * len(above) + " / ".join(filter(None, path[above[-1] + 1 if above else 0 :]))


def _figures(made: pl.DataFrame) -> pl.DataFrame:
    """With one digit, and only the columns that say something."""
    ends = pl.format("{} to {}", pl.col("low").round(1), pl.col("high").round(1))
    flags, kind = pl.col("flags").list.join(", ").replace("", None), pl.col("pgr_error").struct.field("kind")
    table = made.select(
        pl.col("pgr").round(1).alias("PGR %"),
        pl.when(pl.col("low").is_not_null()).then(ends).alias("interval"),
        pl.col("se").round(1).alias("± se"),
        pl.col("sd_seeds").round(1).alias("sd of seeds"),
        pl.col("base", "student", "reference").round(1),
        pl.concat_str(flags, kind, separator=", ", ignore_nulls=True).str.replace_all("_", " ").alias("note"),
    )
    empty = [name for name in table.columns if table[name].cast(pl.String).fill_null("").eq("").all()]
    return table.drop([name for name in empty if name != "PGR %"])


def _title(made: pl.DataFrame) -> str:
    whole = made.filter(pl.col("scope") == "overall")
    without = whole["pgr"].null_count()
    told = f", {without} of them without an overall PGR" if without else ""
    return f"Performance gap recovered by {whole.height} student{'s' * (whole.height != 1)}{told}"


def _note(made: pl.DataFrame, combine: str, level: float) -> str:
    sure = f"Intervals hold {level:.0%}, items drawn in pairs. " if made["low"].null_count() < made.height else ""
    return f"0 is the base, 100 the reference; {_HOW[combine]}. {sure}Empty is unknown, never 0."

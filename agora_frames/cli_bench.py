"""The command `agora evaluate`: a model is put through a benchmark; its score is printed, its rows are kept."""

from __future__ import annotations

import argparse
import inspect
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import polars as pl
from rich.console import Console

from agora_frames.backends import connect
from agora_frames.bench import BENCHMARKS
from agora_frames.bench.benchmark import Benchmark, evaluation, report
from agora_frames.bench.evalplus import LIMITS
from agora_frames.cli_backend import add_backend_options, add_limit_options, connected, named_values
from agora_frames.cli_yield import show_records
from agora_frames.display import cost_text, frame_table, watched
from agora_frames.errors import BindError, FrameError, StorageError, did_you_mean, listed
from agora_frames.frames import ITEM_SCORES, REPORT
from agora_frames.io import located, read_frame, write_frame
from agora_frames.ledger.places import without_secrets
from agora_frames.metrics.labelled import ROLES
from agora_frames.metrics.scores import item_scores
from agora_frames.plan import plan
from agora_frames.remembered import Remembered
from agora_frames.run import check_output
from agora_frames.sandbox import Sandbox, sandbox
from agora_frames.stages.rows import failure_counts

__all__ = ["add_evaluate_command"]

# Parameters of benchmarks that are no texts or numbers; those of effects come from options of their own.
_NO_OPTIONS = ("runner", "judge_backend", "judge")


def add_evaluate_command(sub: argparse.ArgumentParser) -> None:
    """Gives the parser of `agora evaluate` its options."""
    sub.add_argument("benchmark", help=f"which: {', '.join(BENCHMARKS)}")
    sub.set_defaults(command=_evaluate)
    add = sub.add_argument
    add_backend_options(sub)
    add("--source", metavar="FILE", help="the benchmark's items, a file or a folder (its pinned public source)")
    add("--shots", choices=("zero", "few"), default="zero", help="how it is asked; `few` for base models (%(default)s)")
    add("--limit", type=int, metavar="N", help="the first N items only")
    add("--samples", type=int, metavar="N", help="replies to each item (the benchmark's own number)")
    add("--seed", type=int, default=0, help="another one draws other replies (%(default)s)")
    add(
        "--option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="of the benchmark, such as extraction=strict",
    )
    add("--decoding", action="append", default=[], metavar="NAME=VALUE", help="such as max_tokens=512, or extra=None")
    add("--level", type=float, help="of the interval (0.95)")
    add("--judge", metavar="MODEL", help="who judges, where a judge is needed: as --backend")
    add("--judge-model", metavar="NAME", help="its name, when --judge is a URL")
    add("--allow-unsafe-code", action="store_true", help="run the code that a model wrote, in a sandbox")
    add("--plan", action="store_true", help="say what would be asked and spent, and ask nothing")
    add("--output", metavar="FILE", help="where all rows go, with prompts and replies")
    add("--scores", metavar="FILE", help="where the items' scores go, beside those of other runs, for `agora pgr`")
    add("--report", metavar="FILE", help="where the row of this run goes, after those of other runs")
    add(
        "--label",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="whose run it is, in --scores and --report: role=base, role=reference, or role=student and generator=…",
    )
    add_limit_options(sub)


def _evaluate(args: argparse.Namespace) -> None:
    out = Console(highlight=False)
    labels = _labels(args.label)
    decoding = dict(named_values("--decoding", args.decoding, such_as="max_tokens=512"))
    if args.benchmark not in BENCHMARKS:
        near = did_you_mean(args.benchmark, BENCHMARKS) or "."
        raise BindError(f"there is no benchmark {args.benchmark!r}{near} There are: {listed(BENCHMARKS)}.")
    run = f"evaluate-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
    model = connected(args, recipe=args.benchmark, run=run)
    benchmark = _benchmark(args, model)
    items = _items(benchmark, args.source, args.limit)
    asked: dict[str, Any] = {"shots": args.shots, "decoding": decoding, "samples": args.samples, "seed": args.seed}
    stage = evaluation(benchmark, backend=model, **asked)
    if args.plan:
        show_records(out, plan(stage, df=items), title=f"{benchmark.name}: what an evaluation would ask now")
        out.print("Nothing was called. Figures of tokens and cost say on what they rest.", style="dim")
        return
    _check_places(args, stage(items.clear()), labels)
    out.print(f"{benchmark.name}: {items.height} items, {model.model}, ledger {model.ledger.path}", markup=False)
    begun = time.perf_counter()
    rows = watched(stage, out)(items)
    seconds = time.perf_counter() - begun
    known: dict[str, Any] = {"shots": args.shots, "level": args.level, "seconds": seconds}
    revision = None if args.source is None else "a file that was given"  # which the hash of the items tells apart
    told = report(rows, benchmark=benchmark, items=items, revision=revision, **known)
    _show(out, rows, told)
    tally = model.ledger.tally
    out.print(
        f"{tally.calls} calls made, {tally.known} replies from the ledger; {tally.prompt_tokens} prompt and "
        f"{tally.completion_tokens} completion tokens, cost {cost_text(tally)}, {seconds:.1f} s",
        soft_wrap=True,
    )
    _write(out, args, rows, told, labels)


def _labels(given: list[str]) -> dict[str, str]:
    """The labels as they were typed; a role is one that `agora pgr` knows."""
    labels = dict(named_values("--label", given, such_as="role=base", as_text=True))
    if (role := labels.get("role")) is not None and role not in ROLES:
        near = did_you_mean(role, ROLES) or "."
        raise BindError(f"--label role={role}: `agora pgr` knows no such role{near} There are: {listed(ROLES)}.")
    if taken := [name for name in labels if name in (*ITEM_SCORES, *REPORT, "date")]:
        raise BindError(f"--label cannot use {listed(taken)}: columns of the scores and reports have these names.")
    return labels


def _benchmark(args: argparse.Namespace, model: Remembered) -> Benchmark:
    """The benchmark with its options, and with the judge or the sandbox that it needs."""
    make = BENCHMARKS[args.benchmark]
    parameters = inspect.signature(make).parameters
    possible = [name for name in parameters if name not in _NO_OPTIONS]
    options = dict(named_values("--option", args.option, such_as="extraction=strict"))
    for option in options:
        if option not in possible:
            near = did_you_mean(option, possible) or "."
            raise BindError(f"{args.benchmark} has no option {option!r}{near} It has: {listed(possible)}.")
    if args.samples is not None and "samples" in possible:
        options.setdefault("samples", args.samples)  # pass@10 must know of them
    if "judge_backend" in parameters:
        options["judge_backend"] = _judge(args, model)
    if "runner" in parameters and parameters["runner"].default is inspect.Parameter.empty:
        options["runner"] = _sandbox(args)
    return make(**options)


def _judge(args: argparse.Namespace, model: Remembered) -> Remembered:
    """The backend of the judge, with the ledger and the ceiling of the model's."""
    if args.judge is None:
        raise BindError(f"{args.benchmark} needs a model that judges: --judge openai:gpt-4-1106-preview, say.")
    named = {} if args.judge_model is None else {"model": args.judge_model}
    return replace(connect(args.judge, ledger=model.ledger, offline=args.offline, **named), budget=model.budget)


def _sandbox(args: argparse.Namespace) -> Sandbox:
    if not args.allow_unsafe_code and not args.plan:
        raise BindError(
            f"{args.benchmark} runs code that a model wrote on this machine, in a sandbox of namespaces and limits "
            "that is no virtual machine (agora_frames.sandbox says what holds it). If you accept that: "
            "--allow-unsafe-code."
        )
    limits = LIMITS if args.benchmark.endswith("_plus") else {}
    return sandbox(allow_unsafe_code=True, **limits)  # of which a plan makes no use: it has no replies to run


def _items(benchmark: Benchmark, source: str | None, limit: int | None) -> pl.DataFrame:
    if limit is not None and limit < 1:
        raise BindError(f"--limit takes a number of items, at least 1, not {limit}.")
    items = benchmark.load(source)
    items = items if limit is None else items.head(limit)
    if items.is_empty():
        raise FrameError(f"{source or benchmark.source.dataset} has no items: there is nothing to ask.")
    return items


def _check_places(args: argparse.Namespace, rows: pl.DataFrame, labels: Mapping[str, str]) -> None:
    """Finds out before anything is asked what could not be written after it."""
    places = [place for place in (args.output, args.scores, args.report) if place]
    if len({*places}) < len(places):
        raise BindError(f"--output, --scores and --report each need a file of their own, not {listed(places)}.")
    if args.output:
        check_output(args.output, rows)
    if args.scores:
        check_output(args.scores, item_scores(rows, labels=labels))
        _kept(args.scores, ITEM_SCORES)
    if args.report:
        check_output(args.report, pl.DataFrame(schema=REPORT))
        _kept(args.report, REPORT)


def _show(out: Console, rows: pl.DataFrame, told: pl.DataFrame) -> None:
    lost = rows.filter(pl.col("score_error").is_not_null()).select("score_error")
    if lost.height:
        out.print(frame_table(failure_counts(lost), title="Why replies have no score, or count as wrong"))
    score, low, high = (pl.col(name).round(1) for name in ("score", "low", "high"))
    shown = told.select(
        *("benchmark", "shots", "metric", score, pl.format("{} to {}", low, high).alias("interval")),
        *("n", pl.col("n_failed").alias("failed"), pl.col("n_unread").alias("unread")),
    )
    how = told.select(pl.format("{} {} %", "interval", (100 * pl.col("level")).round(1))).to_series().drop_nulls()
    out.print(frame_table(shown, title=f"Score (interval: {', '.join(how.unique()) or 'none'})", whole=True))


def _write(
    out: Console, args: argparse.Namespace, rows: pl.DataFrame, told: pl.DataFrame, labels: Mapping[str, str]
) -> None:
    if args.output:
        write_frame(rows, args.output)
    if args.scores:
        _put_scores(args.scores, item_scores(rows, labels=labels), labels)
    if args.report:
        constants = [pl.lit(value).alias(name) for name, value in labels.items()]
        dated = told.select(*constants, pl.all(), pl.lit(datetime.now(UTC)).alias("date"))
        write_frame(pl.concat([*_kept(args.report, REPORT), dated], how="diagonal_relaxed"), args.report)
    if written := [without_secrets(place) for place in (args.output, args.scores, args.report) if place]:
        out.print(f"\nWrote {', '.join(written)}", markup=False, soft_wrap=True)


def _put_scores(place: str, fresh: pl.DataFrame, labels: Mapping[str, str]) -> None:
    """The scores of other runs stay; those of the same labels and benchmark give way to the new ones."""
    kept = _kept(place, ITEM_SCORES)
    for old in kept:
        names = [name for name in old.columns if name not in ITEM_SCORES]
        same = pl.col("benchmark") == fresh["benchmark"][0]
        for name in {*names, *labels}:
            value = pl.col(name).cast(pl.String) if name in names else pl.lit(None, dtype=pl.String)
            same &= value.eq_missing(pl.lit(labels.get(name), dtype=pl.String))
        kept = [old.filter(~same)]
    write_frame(pl.concat([*kept, fresh], how="diagonal_relaxed"), place)


def _kept(place: str, columns: pl.Schema) -> list[pl.DataFrame]:
    """What is there already: one frame of these columns and labels, or none."""
    fs, path = located(place)
    try:
        there = fs.exists(path)
    except Exception as exc:  # each kind of store raises errors of its own
        raise StorageError(f"{place!r} cannot be looked at: {exc}.") from exc
    if not there:
        return []
    old = read_frame(place)
    lacking = [name for name in columns if name not in old.columns]
    others = [name for name, dtype in old.schema.items() if name not in columns and dtype.is_nested()]
    if lacking or others:
        what = f"lacks {listed(lacking, most=3)}" if lacking else f"has {listed(others, most=3)}, which are no labels"
        raise FrameError(
            f"{place!r} was not written by this option, and stays as it is: it {what}. Name another file for what "
            "several runs are kept in."
        )
    return [old]

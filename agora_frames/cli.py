"""The command `agora`: `run` and `plan` a recipe, list `recipes`; the other commands are in the `cli_…` modules."""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shlex
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import polars as pl
from rich.console import Console
from rich.markup import escape

from agora_frames.against import compare
from agora_frames.cli_backend import add_backend_options, add_limit_options, connected
from agora_frames.cli_bench import add_evaluate_command
from agora_frames.cli_data import add_data_commands, read_input
from agora_frames.cli_ledger import add_ledger_command
from agora_frames.cli_pgr import add_pgr_command
from agora_frames.cli_serve import add_serve_command
from agora_frames.cli_yield import show_records, show_yield
from agora_frames.discover import Recipe, add_options, all_recipes, find_recipe
from agora_frames.display import accepted_table, cost_text, frame_table
from agora_frames.errors import AgoraError, BindError, FrameError, RecipeError, StorageError
from agora_frames.hashing import frame_hash
from agora_frames.io import check_writable
from agora_frames.ledger.places import without_secrets
from agora_frames.meter import money
from agora_frames.plan import plan
from agora_frames.remembered import Remembered
from agora_frames.run import Result, check_output, perform, write_result
from agora_frames.stage import Stage
from agora_frames.stages.rows import failure_counts
from agora_frames.store import Store

__all__ = ["main"]

_DONE, _USER_ERROR, _SHORT, _INTERRUPTED, _TERMINATED = 0, 1, 2, 130, 143
_USER_AND_PASSWORD = re.compile(r"(?<=://)[^/\s?#]*@")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `agora` with these arguments; gives the exit code: 0 done, 1 an error of use, 2 done with fewer rows
    than were wanted, 130 or 143 interrupted.

    A SIGTERM (143) ends a run as a first Ctrl-C does: what is in flight is waited for, and recorded.
    """
    given = list(sys.argv[1:] if argv is None else argv)
    errors = Console(stderr=True, highlight=False)
    terminated: list[int] = []
    try:
        with _interrupted_by_sigterm(terminated):
            args = _parser(_recipe_named(given)).parse_args(given, argparse.Namespace(given=given))
            return args.command(args) or _DONE
    except KeyboardInterrupt:
        errors.print("\nInterrupted. Every reply that was recorded is kept, and will not be asked again. Go on with:")
        errors.print(f"    {shlex.join([_program(), *given])}", markup=False, soft_wrap=True)
        return _TERMINATED if terminated else _INTERRUPTED
    except AgoraError as exc:
        if "--debug" in given:
            raise
        errors.print(f"[bold red]{type(exc).__name__}[/]")
        errors.print(str(exc), markup=False, soft_wrap=True)
        return _USER_ERROR
    except Exception as exc:
        if "--debug" in given:
            raise
        errors.print(f"[bold red]{type(exc).__name__}[/]")
        errors.print(
            f"{exc}\nThis is a mistake in the recipe, or in agora_frames. Nothing that was recorded is lost. ",
            end="",
            markup=False,
        )
        errors.print("--debug shows where it happened.")
        return _USER_ERROR


@contextlib.contextmanager
def _interrupted_by_sigterm(told: list[int]) -> Iterator[None]:
    """A SIGTERM is a KeyboardInterrupt, and noted; unless a program that calls us has other plans for it."""
    ours = threading.current_thread() is threading.main_thread()
    if not ours or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not cut short the waiting
        told.append(number)
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _recipe_named(given: Sequence[str]) -> Recipe | None:
    """The recipe that `run` or `plan` is to run, whose signature makes the other options; None while none is named."""
    asks = [arg for arg in given if arg not in ("-h", "--help")]
    try:
        name = getattr(_parser(None).parse_known_args(asks)[0], "recipe", None)
    except BindError:
        return None
    return find_recipe(name) if name else None


class _Parser(argparse.ArgumentParser):
    """argparse, with errors like all the others."""

    def error(self, message: str) -> NoReturn:
        raise BindError(f"{message}. `{self.prog} --help` shows what is possible.")


def _parser(recipe: Recipe | None) -> argparse.ArgumentParser:
    """The options; those of a recipe are made of its signature."""
    parser = _Parser("agora", description="Synthetic training data, from frame to frame.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    common = _Parser(add_help=False)
    common.add_argument("--debug", action="store_true", help="show the traceback of an error")
    common.add_argument(
        "--ledger",
        default=os.environ.get("AGORA_LEDGER") or ".agora/ledger",
        help="where replies are kept: a folder, or a URL such as s3://… (%(default)s)",
    )
    for name, command, about in (
        ("run", _run, "run a recipe and write the dataset"),
        ("plan", _plan, "say what a run would ask and spend; nothing is called"),
    ):
        sub = commands.add_parser(name, parents=[common], help=about, description=about)
        _add_run_options(sub, recipe)
        sub.set_defaults(command=command)
        if name == "plan":
            sub.add_argument("--against", metavar="MANIFEST", help="what would be done otherwise than in that run")
    sub = commands.add_parser("recipes", parents=[common], help="list the recipes")
    sub.set_defaults(command=_recipes)
    sub = commands.add_parser("serve", parents=[common], help="run vLLM's server for a model on this machine")
    add_serve_command(sub)
    about = "put a model through a benchmark, and say what it scored"
    add_evaluate_command(commands.add_parser("evaluate", parents=[common], help=about, description=about))
    sub = commands.add_parser("ledger", parents=[common], help="what was called, spent and failed")
    # Given after `export` or before it, an option counts: a default must not take the place of what was given.
    again = _Parser(add_help=False, argument_default=argparse.SUPPRESS)
    again.add_argument("--debug", action="store_true", help="show the traceback of an error")
    again.add_argument("--ledger", help="where replies are kept")
    add_ledger_command(sub, [again])
    about = "how much of the performance gap each generator's students recovered"
    add_pgr_command(commands.add_parser("pgr", help=about, description=about))
    add_data_commands(commands, [common])
    return parser


def _add_run_options(sub: argparse.ArgumentParser, recipe: Recipe | None) -> None:
    sub.set_defaults(found=recipe)
    sub.add_argument("recipe", help="a recipe's name (`agora recipes`), or the path of its .py file")
    group = sub.add_argument_group("options of every recipe")
    add = group.add_argument
    add_backend_options(group)
    add(
        *("--input", "--seeds"),
        help="a frame: .parquet, .jsonl, .json, .csv, a datasets folder, any fsspec URL (the recipe's seeds)",
    )
    add("--output", default="dataset.parquet", help="where the dataset goes (%(default)s)")
    add("--limit", type=int, metavar="ROWS", help="use the first rows of the input only")
    add("--preview", type=int, metavar="ROWS", help="run the first rows, show them, and write no file")
    add_limit_options(group)
    add(
        "--store",
        default=os.environ.get("AGORA_STORE") or ".agora/store",
        help="where computed steps are kept (%(default)s)",
    )
    if recipe is not None:
        add_options(sub, recipe)


def _run(args: argparse.Namespace) -> int:
    recipe, params, run = args.found, _params(args), _run_id()
    model, df = connected(args, recipe=recipe.name, run=run), _input(args, recipe)
    stage = _made(recipe, params, model)
    _check(stage, df, args)
    out = Console(highlight=False)
    out.print(f"{recipe.name}: {df.height} rows, {model.model}, ledger {model.ledger.path}", markup=False)
    result = perform(stage, df, store=Store(args.store), tally=model.ledger.tally, console=out)
    _show(out, result)
    show_yield(out, result)
    if model.budget.limited:
        out.print(f"Budget: {model.budget.said()}", markup=False)
    if args.preview is None:
        about = {
            "recipe": recipe.name,
            "parameters": params,
            "command": _without_passwords(shlex.join([_program(), *args.given])),
            "run": run,
            "endpoint": model.endpoint,
            "model": model.model,
            "ledger": str(model.ledger.path),
            "input": {
                "from": without_secrets(args.input) if args.input else f"seeds of {recipe.name}",
                "rows": df.height,
                "hash": frame_hash(df),
            },
        }
        files = write_result(result, args.output, about=about)
        out.print(f"\nWrote {', '.join(map(without_secrets, files.values()))}", markup=False, soft_wrap=True)
    _say_what_next(out, args)
    return _SHORT if result.shortfall else _DONE


def _made(recipe: Recipe, params: dict[str, Any], model: Remembered) -> Stage:
    stage = recipe.function(**params, backend=model)
    if not isinstance(stage, Stage):
        raise RecipeError(
            f"the recipe {recipe.name!r} returned a {type(stage).__name__}; it must return a Stage, such as "
            "agora_frames.recipe(…, name=…)."
        )
    return stage


def _check(stage: Stage, df: pl.DataFrame, args: argparse.Namespace) -> None:
    """Finds out before anything is asked what would fail after it.

    A recipe makes of an empty frame an empty one of the same columns, so it shows what the output must hold.
    """
    made = stage(df.clear())
    if args.preview is None:
        if args.input and os.path.realpath(args.input) == os.path.realpath(args.output):
            raise StorageError(
                f"--output {args.output!r} is the input itself, which would be replaced. Give another name."
            )
        check_output(args.output, made)
    try:
        check_writable(args.store)
    except StorageError as exc:
        raise StorageError(f"the store: {exc} Give another place: --store, or AGORA_STORE.") from exc


def _plan(args: argparse.Namespace) -> None:
    recipe, out = args.found, Console(highlight=False)
    stage, df = _made(recipe, _params(args), connected(args, recipe=recipe.name, run=None)), _input(args, recipe)
    if args.against:
        compared = compare(stage, df=df, run=args.against, store=Store(args.store))
        out.print(
            frame_table(_shortened(compared), title=f"{recipe.name}: what a run would do now, after {args.against}")
        )
    else:
        show_records(out, plan(stage, df=df), title=f"{recipe.name}: what a run would ask now")
    out.print("Nothing was called. Figures of tokens and cost say on what they rest; null is unknown.", style="dim")


def _shortened(compared: pl.DataFrame) -> pl.DataFrame:
    """One line for each step."""
    costs = [
        ""
        if row["cost_usd_expected"] is None
        else f"{money(row['cost_usd_expected'])} ({money(row['cost_usd_low'])} to {money(row['cost_usd_high'])})"
        for row in compared.iter_rows(named=True)
    ]
    return compared.select("step", "rows", "happens", "why", "to_ask", "known", pl.Series("expected cost", costs))


def _recipes(args: argparse.Namespace) -> None:
    rows = [{"recipe": r.name, "what it does": r.summary, "options": ", ".join(r.parameters)} for r in all_recipes()]
    out = Console()
    out.print(frame_table(pl.DataFrame(rows), title="Recipes"))
    out.print(f"{_program()} run NAME --help  shows the options of one.", style="dim", highlight=False)


def _params(args: argparse.Namespace) -> dict[str, Any]:
    params = {name: getattr(args, name) for name in args.found.parameters}
    if args.preview is not None and _wants_rows(args):
        params["rows"] = min(args.rows, args.preview)
    return params


def _wants_rows(args: argparse.Namespace) -> bool:
    """Whether the recipe makes so many rows as it is told to, however many it is given."""
    return isinstance(getattr(args, "rows", None), int)


def _input(args: argparse.Namespace, recipe: Recipe) -> pl.DataFrame:
    params = _params(args)
    df, told = read_input(args.input, own=lambda: recipe.seeds(params)) if args.input else (recipe.seeds(params), None)
    if told:
        Console(highlight=False).print(told, style="dim", markup=False, soft_wrap=True)
    if df is None:
        raise FrameError(f"the recipe {recipe.name!r} has no seeds of its own: give it a frame with --input FILE.")
    for limit, of_input in ((args.limit, True), (args.preview, not _wants_rows(args))):
        if limit is not None and limit < 1:
            raise BindError(f"--limit and --preview take a number of rows, at least 1, not {limit}.")
        df = df.head(limit) if limit is not None and of_input else df
    if df.is_empty():
        raise FrameError(f"the input {args.input!r} has no rows: there is nothing to run. Its columns: {df.columns}.")
    return df


def _show(out: Console, result: Result) -> None:
    counts, calls = result.counts, result.calls
    if result.accepted.height:
        out.print(accepted_table(result.accepted, rows=5))
    if result.others.height:
        out.print(frame_table(failure_counts(result.rows), title="Why rows were not accepted"))
    left = f" + {counts['left_out']} left out by the recipe" if counts["left_out"] else ""
    out.print(
        f"\n{counts['requested']} requested = [green]{counts['accepted']} accepted[/] + "
        f"[yellow]{counts['rejected']} rejected[/] + [red]{counts['failed']} failed[/]{left}",
    )
    made = f"{calls['made']} calls made" if calls["made"] else "No call was made"
    out.print(
        f"{made}, {calls['from_ledger']} replies from the ledger; {calls['prompt_tokens']} prompt and "
        f"{calls['completion_tokens']} completion tokens, cost {cost_text(result.tally)}, {result.seconds:.1f} s",
    )


def _say_what_next(out: Console, args: argparse.Namespace) -> None:
    program = _program()
    other = "hello" if args.recipe != "hello" else "response_generation --domain general --shots --max-tokens 200"
    same = _without_passwords(shlex.join([*args.given[1:], "--backend", "openai:gpt-4o-mini"]))
    out.print("\n[bold]Next[/]")
    for command, what in (
        (f"{program} run {other}", "another recipe"),
        (f"{program} recipes", "all of them"),
        (f"{program} run {same}", "another model (needs OPENAI_API_KEY; `plan` for `run` asks nothing)"),
        (f"{program} ledger", "what was called, spent and failed so far"),
    ):
        out.print(f"    {escape(command)}  [dim]# {what}[/]", soft_wrap=True)


def _without_passwords(command: str) -> str:
    """Who runs it again fills in the user and the password of each URL (`ftp://***@host/…`)."""
    return _USER_AND_PASSWORD.sub("***@", command)


def _program() -> str:
    """How this program can be called again from here."""
    called = Path(sys.argv[0])
    if called.name != "agora" or shutil.which("agora") == str(called):
        return "agora"
    return os.path.relpath(called) if called.is_absolute() else str(called)


def _run_id() -> str:
    return f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{os.getpid()}"


if __name__ == "__main__":
    raise SystemExit(main())

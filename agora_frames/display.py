"""What a person sees of a run: the bar while it goes on, the tables when it is done."""

from __future__ import annotations

import time
from dataclasses import replace

import polars as pl
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from agora_frames.compose import AnyStage, each_step, name_of, run_steps, steps
from agora_frames.frames import outcome
from agora_frames.ledger import Tally
from agora_frames.stage import Stage

__all__ = ["accepted_table", "bars", "cost_text", "frame_table", "watched"]

_LINE_EVERY_S = 10.0


def cost_text(tally: Tally) -> str:
    """What was spent: a sum, a lower bound, or that it is unknown."""
    if not tally.of_unknown_cost:
        return f"${tally.cost_usd:.4f}"
    return f"at least ${tally.cost_usd:.4f}" if tally.cost_usd else "unknown"


def watched(stage: Stage, progress: Progress, tally: Tally) -> Stage:
    """The same stage, with a bar for each step that calls a model.

    The steps after it that work row by row are run on what has arrived, so that the bar knows what is accepted.
    """
    flat = steps(stage)
    after = {id(step): _rowwise_after(flat, index) for index, step in enumerate(flat)}

    def wrap(step: AnyStage) -> Stage:
        if not isinstance(step, Stage):
            return Stage(name_of(step), step)
        if "backend" not in step.effects or "observer" not in step.params:
            return step
        bar = _Bar(progress, tally, step, after[id(step)])
        return replace(step, fn=run_watched, params={"stage": step, "bar": bar})

    return each_step(stage, wrap)


def run_watched(df: pl.DataFrame, *, stage: Stage, bar: _Bar) -> pl.DataFrame:
    """Runs the stage with an observer that moves the bar."""
    bar.start(df.height * stage.params.get("samples", 1))
    done = replace(stage, params={**stage.params, "observer": bar.tell})(df)
    bar.finish(done)
    return done


def _rowwise_after(flat: tuple[AnyStage, ...], index: int) -> Stage:
    """The steps after this one, up to the first that needs other rows or a model."""
    following = []
    for step in flat[index + 1 :]:
        if not isinstance(step, Stage) or not step.rowwise or step.effects:
            break
        following.append(step)
    return Stage("rest", run_steps, {"stages": tuple(following)})


class _Bar:
    """The progress of one step."""

    def __init__(self, progress: Progress, tally: Tally, step: Stage, rest: Stage) -> None:
        self.progress, self.tally, self.step, self.rest = progress, tally, step, rest
        self.counts = {"accepted": 0, "rejected": 0, "failed": 0}
        self.said = time.monotonic()

    def start(self, rows: int) -> None:
        self.task = self.progress.add_task(self.step.name, total=rows, told="waiting for the first reply")

    def tell(self, finished: pl.DataFrame) -> None:
        for kind, rows in self._outcomes(finished).items():
            self.counts[kind] += rows
        self._show()

    def finish(self, done: pl.DataFrame) -> None:
        self.counts = {**dict.fromkeys(self.counts, 0), **self._outcomes(done)}
        self._show(last=True)

    def _outcomes(self, rows: pl.DataFrame) -> dict[str, int]:
        judged = self.rest(rows)
        return dict(judged.select(outcome(judged)).group_by("outcome").len().iter_rows())

    def _show(self, *, last: bool = False) -> None:
        per_s = self.tally.completion_tokens / self.tally.seconds if self.tally.seconds else 0.0
        told = (
            f"[green]{self.counts['accepted']} accepted[/] [yellow]{self.counts['rejected']} rejected[/] "
            f"[red]{self.counts['failed']} failed[/] {per_s:.0f} tokens/s, cost {cost_text(self.tally)}"
        )
        self.progress.update(self.task, completed=sum(self.counts.values()), told=told)
        if not self.progress.console.is_terminal and (last or time.monotonic() - self.said > _LINE_EVERY_S):
            self.said = time.monotonic()
            done, total = sum(self.counts.values()), self.progress.tasks[self.task].total
            self.progress.console.print(f"{self.step.name}: {done}/{total:.0f} rows, {Text.from_markup(told).plain}")


def bars(console: Console) -> Progress:
    """The live display; on a pipe it stays silent, and lines are printed instead."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[told]}"),
        TimeElapsedColumn(),
        console=console,
        disable=not console.is_terminal,
    )


def frame_table(df: pl.DataFrame, *, title: str) -> Table:
    """A small frame as a table: numbers to the right, long texts on one line."""
    table = Table(title=title, title_justify="left", title_style="bold", expand=False)
    for name, dtype in df.schema.items():
        table.add_column(name, justify="right" if dtype.is_numeric() else "left", overflow="ellipsis")
    for row in df.iter_rows():
        table.add_row(*("" if value is None else escape(_short(value)) for value in row))
    return table


def accepted_table(df: pl.DataFrame, *, rows: int) -> Table:
    """The texts of the first accepted rows."""
    wanted: list[str] = [name for name in ("instruction", "response", "sentence") if name in df.columns]
    texts = wanted or [name for name, dtype in df.schema.items() if dtype == pl.String and name != "row_id"]
    return frame_table(
        df.select(texts).head(rows), title=f"Accepted: {df.height} rows, of which {min(rows, df.height)} are shown"
    )


def _short(value: object) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= 160 else f"{text[:100]} … {text[-55:]}"

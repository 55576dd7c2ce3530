"""What a person sees of a run of a recipe: how its calls go on, and the tables when it is done."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Literal

import polars as pl
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from agora_frames.compose import AnyStage, each_step, name_of, run_steps, steps
from agora_frames.frames import outcome
from agora_frames.meter import cost_text
from agora_frames.progress import Progress
from agora_frames.rounds import until_rows
from agora_frames.stage import Stage

__all__ = ["accepted_table", "cost_text", "frame_table", "outcomes", "watched"]


def watched(stage: Stage, console: Console) -> Stage:
    """The same stage, with a display of the calls of each step that asks a model.

    The steps after it that work row by row are run on what has arrived, so that it can say what is accepted.
    """
    flat = steps(stage)
    after = {id(step): _rowwise_after(flat, index) for index, step in enumerate(flat)}

    def wrap(step: AnyStage) -> AnyStage:
        if not isinstance(step, Stage) or "backend" not in step.effects or "observer" not in step.params:
            return step
        if step.fn is until_rows.fn:  # of so many rows wanted, those count that are accepted
            name, rest = name_of(step.params["stage"]), _after_asking(step.params["stage"])
            observer = Progress(name, partial(outcomes, rest=rest), console, wanted="accepted")
        else:
            observer = Progress(step.name, partial(outcomes, rest=after[id(step)]), console)
        return replace(step, params={**step.params, "observer": observer})

    return each_step(stage, wrap)


def outcomes(finished: pl.DataFrame, *, rest: Stage) -> dict[str, int]:
    """How many of the rows are accepted, rejected and failed after the rest of the steps, and how many those leave out.

    A step that raises does so again when the whole frame comes to it, and the calls go on until then.
    """
    try:
        judged = rest(finished)
    except Exception:
        judged = finished
    counted = dict(judged.select(outcome(judged)).group_by("outcome").len().iter_rows())
    counts = {state: counted.get(state, 0) for state in ("accepted", "rejected", "failed")}
    left_out = finished.height - judged.height
    return {**counts, "left out": left_out} if left_out > 0 else counts


def _after_asking(stage: AnyStage) -> Stage:
    """The steps after the last one that asks a model."""
    flat = steps(stage)
    asking = [place for place, step in enumerate(flat) if isinstance(step, Stage) and "backend" in step.effects]
    return _rowwise_after(flat, asking[-1])


def _rowwise_after(flat: tuple[AnyStage, ...], index: int) -> Stage:
    """The steps after this one, up to the first that needs other rows or a model."""
    following = []
    for step in flat[index + 1 :]:
        if not isinstance(step, Stage) or not step.rowwise or step.effects:
            break
        following.append(step)
    return Stage("rest", run_steps, {"stages": tuple(following)})


def frame_table(df: pl.DataFrame, *, title: str, whole: bool = False) -> Table:
    """A small frame as a table: numbers to the right. whole: what does not fit is folded, and not cut."""
    table = Table(title=escape(title), title_justify="left", title_style="bold", expand=False)
    for name, dtype in df.schema.items():
        overflow: Literal["fold", "ellipsis"] = "fold" if whole else "ellipsis"
        table.add_column(name, justify="right" if dtype.is_numeric() else "left", overflow=overflow)
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

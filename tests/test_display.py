"""The display of a run: states told from the steps that follow, and tables that hold what they are given."""

from __future__ import annotations

import io

import polars as pl
import pytest
from polars.testing import assert_frame_equal
from rich.console import Console

import agora_frames as af
from agora_frames.display import accepted_table, frame_table, outcomes, watched
from agora_frames.stage import Stage


def said(messages: list[dict[str, str]]) -> object:
    """A good reply to `a`, one without its tag to `b`, and none to `c`."""
    return {"a": "[r] yes [/r]", "b": "no", "c": af.failing("refused")}[messages[-1]["content"]]


def made(*after: Stage) -> Stage:
    asks = af.generate_column(backend=af.scripted(said))
    return af.recipe(
        asks, af.parse_column(column="completion", into="answer", parser=af.tagged("r")), *after, name="ask"
    )


def prompts(*texts: str) -> pl.DataFrame:
    return pl.DataFrame({"prompt": texts}, schema={"prompt": pl.String}).pipe(af.with_row_ids)


def piped() -> Console:
    return Console(file=io.StringIO(), width=80)


def written(console: Console) -> list[str]:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def test_a_watched_recipe_gives_the_same_frame() -> None:
    df = prompts("a", "b", "c")
    assert_frame_equal(watched(made(), piped())(df), made()(df))


def test_a_piped_run_says_in_one_line_what_is_accepted_rejected_and_failed() -> None:
    console = piped()
    watched(made(), console)(prompts("a", "a", "b", "c"))
    [line] = written(console)
    assert line.startswith("generate_column: 4/4 rows 100%; 2 accepted, 1 rejected, 1 failed; ")
    assert "done in " in line


def test_each_step_that_asks_has_a_line_of_its_own() -> None:
    again = af.generate_column(column="completion", into="second", backend=af.scripted(str, model="second"))
    console = piped()
    watched(made(again), console)(prompts("a"))
    assert [line.partition(":")[0] for line in written(console)] == ["generate_column", "generate_column"]


def test_a_step_without_rows_has_no_line() -> None:
    console = piped()
    watched(made(), console)(prompts())
    assert written(console) == []


def test_rows_that_later_steps_leave_out_are_told() -> None:
    df = prompts("a", "b", "c").pipe(af.generate_column, backend=af.scripted(said))
    rest = Stage("rest", lambda df: df.filter(pl.col("completion") == "no"), rowwise=True)
    assert outcomes(df, rest=rest) == {"accepted": 1, "rejected": 0, "failed": 0, "left out": 2}


def test_a_later_step_that_raises_does_not_end_the_calls() -> None:
    def fails(df: pl.DataFrame) -> pl.DataFrame:
        raise ValueError("this step is broken")

    console, asked = piped(), []

    def say(messages: list[dict[str, str]]) -> str:
        asked.append(messages)
        return "x"

    broken = af.recipe(af.generate_column(backend=af.scripted(say)), Stage("fails", fails, rowwise=True), name="broken")
    with pytest.raises(ValueError, match="this step is broken"):
        watched(broken, console)(prompts("a", "b"))
    assert len(asked) == 2
    assert "2/2 rows 100%; 2 accepted" in written(console)[-1]


def test_a_table_shows_texts_as_they_are_and_long_ones_shortened() -> None:
    console = Console(file=io.StringIO(), width=200)
    console.print(frame_table(pl.DataFrame({"text": ["[red]x[/]", "y" * 300], "n": [1, None]}), title="T"))
    told = "\n".join(written(console))
    assert "[red]x[/]" in told
    assert "y" * 100 + " … " + "y" * 55 in told


def test_the_accepted_table_says_how_many_rows_it_leaves_out() -> None:
    console = Console(file=io.StringIO(), width=200)
    df = pl.DataFrame({"row_id": ["1", "2"], "instruction": ["do this thing for me, " * 4, "go"], "other": ["x", "x"]})
    console.print(accepted_table(df, rows=1))
    told = "\n".join(written(console))
    assert "Accepted: 2 rows, of which 1 are shown" in told
    assert "do this thing" in told
    assert "other" not in told

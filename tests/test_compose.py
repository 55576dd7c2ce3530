"""Stages in a row are a stage, and what wraps a recipe reaches each of its steps."""

from __future__ import annotations

import functools
import pickle
import re
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from agora_frames.compose import each_step, recipe, steps, traced
from agora_frames.errors import BindError, FrameError
from agora_frames.stage import Stage, stage
from agora_frames.types import Step

DF = pl.DataFrame({"n": [1, 2, 3]})


@stage(rowwise=True)
def add(df: pl.DataFrame, *, by: int = 1) -> pl.DataFrame:
    return df.with_columns(pl.col("n") + by)


@stage()
def keep(df: pl.DataFrame, *, rows: int) -> pl.DataFrame:
    return df.head(rows)


def double(df: pl.DataFrame) -> pl.DataFrame:
    return df.with_columns(pl.col("n") * 2)


def numbers(df: pl.DataFrame) -> list[int]:
    return df["n"].to_list()


def test_a_recipe_runs_its_stages_in_their_order() -> None:
    assert numbers(recipe(add(by=1), double, name="r")(DF)) == [4, 6, 8]
    assert numbers(recipe(double, add(by=1), name="r")(DF)) == [3, 5, 7]


def test_a_recipe_is_a_stage_with_its_name() -> None:
    made = recipe(add(), name="made")
    assert isinstance(made, Stage)
    assert made.name == "made"
    assert_frame_equal(DF.pipe(made), made(DF))


def test_a_recipe_of_nothing_gives_the_frame_back() -> None:
    assert_frame_equal(recipe(name="nothing")(DF), DF)


def test_a_recipe_may_stand_in_a_recipe() -> None:
    inner = recipe(add(), double, name="inner")
    assert_frame_equal(recipe(inner, add(), name="outer")(DF), recipe(add(), double, add(), name="flat")(DF))


@pytest.mark.parametrize("plain", [double, lambda df: df.head(1), functools.partial(add, by=2)])
def test_any_callable_from_frame_to_frame_may_stand_in_a_recipe(plain: Any) -> None:
    assert_frame_equal(recipe(add(), plain, name="r")(DF), plain(add(DF)))


def test_an_unbound_stage_in_a_recipe_is_told_how_to_write_it() -> None:
    with pytest.raises(BindError) as error:
        recipe(add(), keep, name="r")  # type: ignore[arg-type]
    assert str(error.value) == "recipe('r') was given keep unbound: write keep(…), with its parameters."


@pytest.mark.parametrize("wrong", [None, "keep", [1], DF])
def test_what_cannot_be_called_is_no_stage(wrong: Any) -> None:
    message = f"recipe('r') was given a {type(wrong).__name__}, which is no stage: {wrong!r}."
    with pytest.raises(BindError) as error:
        recipe(wrong, name="r")
    assert str(error.value) == message


def test_a_frame_that_is_no_frame_is_told_by_the_recipe() -> None:
    with pytest.raises(FrameError, match=re.escape("r() was given a LazyFrame. Collect it first: lf.collect().")):
        recipe(add(), name="r")(DF.lazy())  # type: ignore[arg-type]


def test_a_plain_function_that_returns_no_frame_is_told_by_its_name() -> None:
    def forgets(df: pl.DataFrame) -> pl.DataFrame:
        return None  # type: ignore[return-value]

    for run in (recipe(forgets, add(), name="r"), traced(forgets, on_step=print)):
        with pytest.raises(FrameError, match=re.escape("forgets() returned a NoneType.")):
            run(DF)


@pytest.mark.parametrize(
    ("stages", "rowwise"),
    [((add(), add()), True), ((add(), keep(rows=1)), False), ((add(), double), False), ((), True)],
)
def test_a_recipe_is_rowwise_when_all_its_stages_are(stages: tuple[Any, ...], rowwise: bool) -> None:
    assert recipe(recipe(*stages, name="inner"), name="outer").rowwise is rowwise


def test_a_recipe_shows_its_stages() -> None:
    assert repr(recipe(add(by=2), keep(rows=1), name="r")) == "r(stages=(add(by=2), keep(rows=1)))"


def test_a_recipe_pickles_with_all_inside() -> None:
    made = recipe(recipe(add(), lambda df: df.head(2), name="inner"), double, name="outer")
    again = pickle.loads(pickle.dumps(made))
    assert_frame_equal(again(DF), made(DF))
    assert again.fingerprint == made.fingerprint


def test_equal_recipes_have_one_fingerprint() -> None:
    assert recipe(add(), double, name="r").fingerprint == recipe(add(by=1), double, name="r").fingerprint


def test_steps_opens_the_recipes_inside() -> None:
    first, second, third = add(), keep(rows=1), add(by=3)
    assert steps(recipe(first, recipe(second, recipe(double, name="c"), name="b"), third, name="a")) == (
        first,
        second,
        double,
        third,
    )


def test_a_stage_that_is_no_recipe_is_its_only_step() -> None:
    bound = add()
    assert steps(bound) == (bound,)
    assert steps(double) == (double,)


def test_each_step_is_wrapped_and_the_recipe_keeps_its_shape() -> None:
    inner = recipe(keep(rows=2), name="inner")
    wrapped = each_step(recipe(add(), inner, name="outer"), lambda step: Stage(f"wrapped {step.name}", step))  # type: ignore[attr-defined]
    assert [step.name for step in steps(wrapped)] == ["wrapped add", "wrapped keep"]  # type: ignore[attr-defined]
    assert (wrapped.name, wrapped.params["stages"][1].name) == ("outer", "inner")


def test_a_traced_recipe_tells_of_each_step() -> None:
    told: list[Step] = []
    traced(recipe(recipe(add(), double, name="inner"), keep(rows=1), name="r"), on_step=told.append)(DF)
    assert [(step["name"], step["rows_in"], step["rows_out"]) for step in told] == [
        ("add", 3, 3),
        ("double", 3, 3),
        ("keep", 3, 1),
    ]
    assert all(step["seconds"] >= 0 for step in told)


def test_a_traced_recipe_gives_what_the_recipe_gives() -> None:
    made = recipe(add(), keep(rows=2), name="r")
    assert_frame_equal(traced(made, on_step=lambda step: None)(DF), made(DF))


@pytest.mark.parametrize(
    ("traceable", "name"), [(add(), "add"), (double, "double"), (functools.partial(add), "partial")]
)
def test_what_is_no_recipe_is_told_as_one_step(traceable: Any, name: str) -> None:
    told: list[Step] = []
    traced(traceable, on_step=told.append)(DF)
    assert [step["name"] for step in told] == [name]


def test_a_step_that_fails_is_not_told() -> None:
    told: list[Step] = []
    with pytest.raises(pl.exceptions.ColumnNotFoundError):
        traced(recipe(keep(rows=1), add(), name="r"), on_step=told.append)(pl.DataFrame({"x": [1]}))
    assert [step["name"] for step in told] == ["keep"]


def test_a_traced_stage_is_rowwise_when_the_stage_is() -> None:
    assert [traced(each, on_step=print).rowwise for each in (add(), keep(rows=1), double)] == [True, False, False]


def test_being_traced_into_a_list_that_grows_does_not_change_the_fingerprint() -> None:
    told: list[Step] = []
    made = traced(recipe(add(), name="r"), on_step=told.append)
    before = made.fingerprint
    made(DF)
    assert made.fingerprint == before

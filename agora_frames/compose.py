"""Stages in a row are a stage: recipes, and what wraps them from outside."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import polars as pl

from agora_frames.errors import BindError
from agora_frames.stage import Stage, StageFunction, checked
from agora_frames.types import Step

__all__ = ["each_step", "recipe", "steps", "traced"]

AnyStage = Callable[[pl.DataFrame], pl.DataFrame]


def recipe(*stages: AnyStage, name: str) -> Stage:
    """Stages in a row, under a name; itself a Stage, so a recipe may stand in a recipe.

    stages: bound stages, recipes, or any callable from frame to frame (caching and scaling out will ask for
    `@stage` there). The recipe is rowwise when all its stages are.

    >>> import agora_frames as af
    >>> af.recipe(af.with_row_ids(), af.render_prompts(template="Say {{ word }}."), name="say").name
    'say'
    """
    for given in stages:
        if isinstance(given, StageFunction):
            raise BindError(
                f"recipe({name!r}) was given {given.name} unbound: write {given.name}(…), with its parameters."
            )
        if not callable(given):
            raise BindError(f"recipe({name!r}) was given a {type(given).__name__}, which is no stage: {given!r}.")
    rowwise = all(isinstance(s, Stage) and s.rowwise for s in stages)
    return Stage(name, run_steps, {"stages": stages}, rowwise=rowwise)


def run_steps(df: pl.DataFrame, *, stages: tuple[AnyStage, ...]) -> pl.DataFrame:
    """One stage after the other; what every recipe does."""
    for each in stages:
        df = checked(each(df), name_of(each), "returned")
    return df


def steps(stage: AnyStage) -> tuple[AnyStage, ...]:
    """The stages of a recipe, recipes inside it opened; of any other stage, itself alone."""
    if isinstance(stage, Stage) and stage.fn is run_steps:
        return tuple(inner for each in stage.params["stages"] for inner in steps(each))
    return (stage,)


def each_step(stage: AnyStage, wrap: Callable[[AnyStage], AnyStage]) -> Stage:
    """The same stage with `wrap` around each of its steps (around itself, when it is no recipe).

    What `wrap` gives may be any callable from frame to frame; one that is no Stage becomes one, under its own name.
    """
    if isinstance(stage, Stage) and stage.fn is run_steps:
        return replace(stage, params={"stages": tuple(each_step(step, wrap) for step in stage.params["stages"])})
    step = wrap(stage)
    return step if isinstance(step, Stage) else Stage(name_of(step), step)


def traced(stage: AnyStage, *, on_step: Callable[[Step], Any]) -> Stage:
    """The same stage, telling of each step as it ends: name, rows in, rows out, seconds.

    on_step: called with a `Step`; `list.append` keeps them all.

    >>> import agora_frames as af
    >>> told = []
    >>> say = af.recipe(af.with_row_ids(), af.render_prompts(template="Say {{ word }}."), name="say")
    >>> _ = af.traced(say, on_step=told.append)(pl.DataFrame({"word": ["yes", "no"]}))
    >>> [(step["name"], step["rows_out"]) for step in told]
    [('with_row_ids', 2), ('render_prompts', 2)]
    """

    def wrap(step: AnyStage) -> Stage:
        params = {"stage": step, "on_step": on_step}
        return Stage(name_of(step), run_traced, params, rowwise=isinstance(step, Stage) and step.rowwise)

    return each_step(stage, wrap)


def run_traced(df: pl.DataFrame, *, stage: AnyStage, on_step: Callable[[Step], Any]) -> pl.DataFrame:
    """Runs the stage and tells of it."""
    begun = time.perf_counter()
    done = checked(stage(df), name_of(stage), "returned")
    on_step(Step(name=name_of(stage), rows_in=df.height, rows_out=done.height, seconds=time.perf_counter() - begun))
    return done


def name_of(stage: AnyStage) -> str:
    """A stage's name; a plain function's own."""
    return str(getattr(stage, "name", None) or getattr(stage, "__name__", type(stage).__name__))

"""Recipes as commands: find one by name or file, and make options of its signature."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import inspect
import pkgutil
import sys
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import polars as pl

import agora_frames.recipes
from agora_frames.errors import RecipeError, did_you_mean, listed
from agora_frames.stage import Stage

__all__ = ["Recipe", "add_options", "all_recipes", "find_recipe"]


@dataclass(frozen=True)
class Recipe:
    """A function that gives a Stage, in the module that has its name."""

    name: str
    function: Callable[..., Stage]
    module: types.ModuleType

    @property
    def summary(self) -> str:
        """The first line of the module's docstring."""
        return (self.module.__doc__ or "").strip().partition("\n")[0]

    @property
    def parameters(self) -> dict[str, inspect.Parameter]:
        """All but the backend."""
        return {n: p for n, p in inspect.signature(self.function).parameters.items() if n != "backend"}

    def seeds(self, params: Mapping[str, Any]) -> pl.DataFrame | None:
        """The frame used when no other is given; None when the recipe has none."""
        make = getattr(self.module, "seeds", None)
        if make is None:
            return None
        frame: pl.DataFrame = make(**{name: params[name] for name in inspect.signature(make).parameters})
        return frame


def all_recipes() -> list[Recipe]:
    """The recipes that ship with agora_frames, by name."""
    found = (_recipe_in(importlib.import_module(module), name) for name, module in sorted(_modules().items()))
    return [recipe for recipe in found if recipe is not None]


def find_recipe(name: str) -> Recipe:
    """A recipe by name, or by the path of its file.

    Raises: RecipeError when there is none, or when the file has no function of its own name.
    """
    if name.endswith(".py"):
        return _from_file(Path(name))
    module = _modules().get(name)
    found = _recipe_in(importlib.import_module(module), name) if module else None
    if found is None:
        names = [recipe.name for recipe in all_recipes()]
        raise RecipeError(
            f"there is no recipe {name!r}{did_you_mean(name, names) or '.'} There are: {listed(names)}; "
            "or give the path of a recipe's .py file."
        )
    return found


def _modules() -> dict[str, str]:
    """The modules of the recipes folder, by their last name."""
    package = agora_frames.recipes
    names = [module.name for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")]
    return {name.rpartition(".")[2]: name for name in names}


def _from_file(path: Path) -> Recipe:
    if not path.is_file():
        raise RecipeError(f"there is no recipe file {str(path)!r}. `agora recipes` lists what ships with agora_frames.")
    name = path.stem.replace("-", "_")
    private = f"agora_recipe_{name}"  # so that a file named polars.py does no harm
    spec = importlib.util.spec_from_file_location(private, path)
    if spec is None or spec.loader is None:
        raise RecipeError(f"{str(path)!r} is not a Python file.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[private] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as exc:
        raise RecipeError(f"the recipe file {str(path)!r} fails when it is read: {type(exc).__name__}: {exc}") from exc
    found = _recipe_in(module, name)
    if found is None:
        raise RecipeError(
            f"{str(path)!r} holds no recipe: it needs a function named {name!r}, with keyword-only parameters "
            "(`backend` among them), that returns a Stage."
        )
    return found


def _recipe_in(module: types.ModuleType, name: str) -> Recipe | None:
    function = getattr(module, name, None)
    if not isinstance(function, types.FunctionType) or "backend" not in inspect.signature(function).parameters:
        return None
    return Recipe(name, function, module)


def add_options(parser: argparse.ArgumentParser, recipe: Recipe) -> None:
    """One option for each parameter of the recipe."""
    try:
        hints = typing.get_type_hints(recipe.function)
    except NameError as exc:
        raise RecipeError(
            f"the types of the recipe {recipe.name!r} cannot be read: {exc}. Import them outside of `if TYPE_CHECKING`."
        ) from exc
    helps = _parameter_docs(recipe.function.__doc__ or "")
    group = parser.add_argument_group(f"options of {recipe.name}", recipe.summary)
    for name, parameter in recipe.parameters.items():
        required = parameter.default is parameter.empty
        shown = helps.get(name, "") + ("" if required else f" (default: {parameter.default})")
        try:
            group.add_argument(
                f"--{name.replace('_', '-')}",
                dest=name,
                required=required,
                default=None if required else parameter.default,
                help=shown.strip().replace("%", "%%"),
                **_option(hints.get(name, str), recipe, name),
            )
        except argparse.ArgumentError as exc:
            raise RecipeError(f"the recipe {recipe.name!r} has a parameter {name!r}, which `agora run` needs.") from exc


def _option(hint: Any, recipe: Recipe, name: str) -> dict[str, Any]:
    """How argparse reads a value of this type."""
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        inner = [arg for arg in typing.get_args(hint) if arg is not types.NoneType]
        hint = inner[0] if len(inner) == 1 else None
    if hint is bool:
        return {"action": argparse.BooleanOptionalAction}
    if typing.get_origin(hint) is Literal:
        choices = typing.get_args(hint)
        return {"choices": choices, "type": type(choices[0])}
    if hint in (str, int, float, Path):
        return {"type": hint, "metavar": hint.__name__.upper()}
    raise RecipeError(
        f"the parameter {name!r} of the recipe {recipe.name!r} has a type that is no option: {hint}. "
        "Use str, int, float, bool, Path, a Literal, or one of these or None."
    )


def _parameter_docs(doc: str) -> dict[str, str]:
    """From `name: what it is. other: …` in a docstring, what is said of each name."""
    told: dict[str, str] = {}
    for sentence in " ".join(doc.split()).split(". "):
        names, colon, text = sentence.partition(": ")
        if colon and all(part.isidentifier() for part in names.split(", ")):
            told |= dict.fromkeys(names.split(", "), text.rstrip("."))
    return told

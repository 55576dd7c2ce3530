"""Recipes as commands."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from agora_frames.discover import add_options, all_recipes, find_recipe
from agora_frames.errors import RecipeError

HEAD = "from typing import Literal\nfrom pathlib import Path\nimport agora_frames as af\n"


def recipe_of(folder: Path, name: str, signature: str, doc: str = "Does it.") -> str:
    file = folder / f"{name}.py"
    file.write_text(f'"""One line of it."""\n{HEAD}\ndef {name}(*, backend, {signature}):\n    """{doc}"""\n')
    return str(file)


def parsed(file: str, *args: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_options(parser, find_recipe(file))
    return parser.parse_args(args)


def test_each_recipe_that_ships_has_a_summary_and_options() -> None:
    recipes = {recipe.name: recipe for recipe in all_recipes()}
    assert {"hello", "response_generation"} <= recipes.keys()
    for recipe in recipes.values():
        assert recipe.summary.endswith((".", ":")) or recipe.summary
        assert "backend" not in recipe.parameters
        add_options(argparse.ArgumentParser(), recipe)


def test_only_what_a_person_can_run_is_a_recipe() -> None:
    methods = ["instance_generation", "quality_enhancement", "response_generation"]
    assert sorted(recipe.name for recipe in all_recipes()) == ["classify_domain", "hello", *methods]


def test_a_signature_is_a_command_line(tmp_path: Path) -> None:
    file = recipe_of(
        tmp_path,
        "mine_all",
        "n: int, rate: float = 0.5, on: bool = False, kind: Literal['a', 'b'] = 'a', p: Path | None = None",
    )
    args = parsed(file, "--n", "3", "--on", "--kind", "b", "--p", "x")
    assert (args.n, args.rate, args.on, args.kind, args.p) == (3, 0.5, True, "b", Path("x"))


def test_a_parameter_without_a_default_is_required(tmp_path: Path) -> None:
    file = recipe_of(tmp_path, "mine_required", "n: int")
    with pytest.raises(SystemExit):
        parsed(file)


def test_what_the_docstring_says_of_a_parameter_is_its_help(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = recipe_of(tmp_path, "mine_helped", "many: int = 1", "Does it.\n\n    many: how often, 100% at most.")
    with pytest.raises(SystemExit):
        parsed(file, "--help")
    assert "how often, 100% at most (default: 1)" in capsys.readouterr().out


def test_an_unknown_recipe_is_an_error_that_names_the_nearest() -> None:
    with pytest.raises(RecipeError, match="did you mean 'response_generation'"):
        find_recipe("response_generaton")


def test_a_file_that_is_not_there_is_an_error() -> None:
    with pytest.raises(RecipeError, match="no recipe file"):
        find_recipe("nowhere.py")


def test_a_file_without_a_function_of_its_name_is_an_error_that_says_what_it_needs(tmp_path: Path) -> None:
    file = tmp_path / "mine_empty.py"
    file.write_text("x = 1\n")
    with pytest.raises(RecipeError, match="needs a function named 'mine_empty'"):
        find_recipe(str(file))


def test_a_file_that_fails_when_it_is_read_is_an_error_with_the_reason(tmp_path: Path) -> None:
    file = tmp_path / "mine_broken.py"
    file.write_text("import no_such_module_at_all\n")
    with pytest.raises(RecipeError, match="ModuleNotFoundError"):
        find_recipe(str(file))


def test_a_type_that_is_no_option_is_an_error_that_lists_the_possible(tmp_path: Path) -> None:
    file = recipe_of(tmp_path, "mine_typed", "table: dict = {}")
    with pytest.raises(RecipeError, match="Use str, int, float"):
        parsed(file)

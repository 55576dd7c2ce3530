"""What the README says of data-agora's behaviours and defects can be looked up; its prompts are what they are for."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from agora_frames.recipes.agorabench import METHODS, SETTINGS

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "recipes" / "agorabench"
README = (FOLDER / "README.md").read_text()


def named_in(path: Path) -> set[str]:
    return {node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)}


def test_every_test_that_the_readme_names_is_there() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", README)
    assert len(named) > 25
    assert [f"{path}::{name}" for path, name in named if name not in named_in(ROOT / path)] == []


def test_every_defect_has_its_line() -> None:
    assert re.findall(r"^\| D(\d+) ", README, re.MULTILINE) == [str(number) for number in range(1, 28)]


def test_each_setting_has_one_prompt_of_its_own() -> None:
    texts = [(FOLDER / "prompts" / s.method / f"{s.domain}.jinja").read_text() for s in SETTINGS]
    assert len(set(texts)) == 9
    for method in METHODS:
        files = {path.name for path in (FOLDER / "prompts" / method).iterdir()}
        assert files - {f"{domain}.shots.jinja" for domain in ("math", "code", "general")} == {
            f"{domain}.jinja" for domain in ("math", "code", "general")
        }


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: f"{setting.method} {setting.domain}")
def test_a_prompt_asks_for_what_its_domain_is_judged_by(setting: object) -> None:
    method, domain = setting[:2]  # type: ignore[index]
    text = (FOLDER / "prompts" / method / f"{domain}.jinja").read_text()
    assert ("[RESULT]" in text) == (domain == "math") and ("Q.E.D." in text) == (domain == "math")
    assert ("fenced code block" in text) == (domain == "code")
    assert ("{{ theme }}" in text) == (method == "instance_generation")
    assert ("{{ first_words }}" in text) == (method == "instance_generation" and domain == "general")
    assert "as_json" in text and "feedback" in text

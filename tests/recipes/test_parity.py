"""What the README says of data-agora's behaviours and defects can be looked up; its prompts are what they are for."""

from __future__ import annotations

import ast
import re
from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import agora_frames as af
from agora_frames.hashing import drawn
from agora_frames.recipes.agorabench import METHODS, SETTINGS
from agora_frames.recipes.agorabench.domains import seeds

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


def test_nothing_is_run_through_a_shell() -> None:
    for path in (ROOT / "agora_frames").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                assert "shell" not in [word.arg for word in node.keywords], f"{path}, line {node.lineno}"
                assert ast.unparse(node.func) not in ("os.system", "os.popen", "subprocess.getoutput"), path


ITEM = "A baker sells seven loaves in the morning and nine in the evening. How many loaves does she sell in all?"


def near_each_other(messages: list[dict[str, str]], sampling: dict[str, Any]) -> str:
    """Forty stories, told again and again with another number at the end; and a benchmark's item."""
    seed = sampling["seed"]
    story = " ".join(f"word{drawn(10**6, 'word', seed % 40, place)}" for place in range(30))
    return f"{story if seed % 41 else ITEM} No. {seed}?\nOUTPUT: We add.\n[RESULT] 1 [/RESULT]"


def test_the_readmes_example_ends_with_the_rows_wanted_none_nearly_another_or_of_a_benchmark(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)

    def run(wanted: int) -> dict[str, Any]:
        model = af.remembered(af.scripted(near_each_other), ledger=af.Ledger(tmp_path / "ledger"))
        benchmark = pl.DataFrame({"instruction": [ITEM]})
        names = {"wanted": wanted, "seeds": seeds(), "model": model, "benchmark": benchmark}
        exec(code, names)
        return names

    few, many = run(10), run(32)
    dataset = many["dataset"]
    columns = ["row_id", "instruction", "response", "near_of", "contamination"]
    assert dataset.height == 32 and dataset.head(10).select(columns).equals(few["dataset"].select(columns))
    assert dataset["instruction"].str.extract(r"^(\w+)").n_unique() == 32, "a story is told twice"
    assert not dataset["instruction"].str.contains("baker").any()
    reasons = Counter(dict(af.failure_counts(many["judged"]).select("reason", "rows").rows()))
    assert reasons["near_duplicate"] > 5 and reasons["contaminated"] > 0


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

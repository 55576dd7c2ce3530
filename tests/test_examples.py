"""Every documented example is run: docstrings, README, notebooks."""

from __future__ import annotations

import doctest
import importlib
import os
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

import agora_frames

ROOT = Path(__file__).parent.parent
MODULES = sorted(m.name for m in pkgutil.walk_packages(agora_frames.__path__, "agora_frames."))
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
README_BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
README_COMMANDS = re.findall(r"^agora [^#\n]*?(?=\s{2,}|$)", (ROOT / "README.md").read_text(), re.MULTILINE)


@pytest.mark.parametrize("name", MODULES)
def test_every_docstring_example_gives_what_it_says(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = doctest.testmod(importlib.import_module(name))
    assert found.failed == 0


def test_there_are_docstring_examples_to_run() -> None:
    finder = doctest.DocTestFinder()
    tests = [t for name in MODULES for t in finder.find(importlib.import_module(name)) if t.examples]
    assert len(tests) >= 8


@pytest.mark.slow
@pytest.mark.parametrize("block", README_BLOCKS, ids=lambda block: block.splitlines()[0][:40])
def test_every_python_block_of_the_readme_runs(block: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", block], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_readme_has_both_python_blocks_and_commands() -> None:
    assert len(README_BLOCKS) >= 2
    assert len(README_COMMANDS) >= 5


@pytest.mark.slow
def test_the_commands_of_the_readme_run_one_after_the_other(tmp_path: Path) -> None:
    mine = (ROOT / "recipes" / "hello.py").read_text().replace("def hello(", "def my_recipe(")
    (tmp_path / "my_recipe.py").write_text(mine)
    (tmp_path / "seeds.jsonl").write_text('{"topic": "a river"}\n')
    for command in README_COMMANDS:
        program = [sys.executable, "-c", "import sys; from agora_frames.cli import main; sys.exit(main())"]
        done = subprocess.run(
            [*program, *command.split()[1:]], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, f"{command}: {done.stderr}"


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_notebook_runs_from_top_to_bottom(notebook: Path, tmp_path: Path) -> None:
    os.environ.setdefault("IPYTHONDIR", str(tmp_path / "ipython"))
    content = nbformat.read(notebook, as_version=4)
    NotebookClient(content, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_notebook_is_kept_with_its_outputs(notebook: Path) -> None:
    cells = [cell for cell in nbformat.read(notebook, as_version=4).cells if cell.cell_type == "code"]
    assert any(cell.outputs for cell in cells)
    assert all(cell.execution_count for cell in cells)


def test_there_is_a_notebook() -> None:
    assert NOTEBOOKS

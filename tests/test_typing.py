"""mypy --strict and pyright accept every way of using a stage, and report every way of misusing one."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = [ROOT / "tests" / "typing" / name for name in ("usage_good.py", "usage_bad.py")]

Lines = set[tuple[str, int]]


def marked() -> Lines:
    return {
        (file.name, number)
        for file in FILES
        for number, line in enumerate(file.read_text().splitlines(), start=1)
        if line.endswith("# E")
    }


def run(*command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", *command], cwd=cwd, capture_output=True, text=True, timeout=200)


def reported_by_mypy(folder: Path) -> Lines:
    cache = f"--cache-dir={ROOT / '.mypy_cache'}"
    options = ("--strict", "--follow-imports=silent", "--config-file=", f"--python-executable={sys.executable}", cache)
    done = run("mypy", *options, *(file.name for file in FILES), cwd=folder)
    assert "Found" in done.stdout, done.stdout + done.stderr
    return {
        (name, int(line)) for name, line in re.findall(r"^(\w+\.py):(\d+): error:", done.stdout, flags=re.MULTILINE)
    }


def reported_by_pyright(folder: Path) -> Lines:
    (folder / "pyrightconfig.json").write_text(json.dumps({"include": ["."], "typeCheckingMode": "standard"}))
    try:
        done = run("pyright", "--outputjson", "--pythonpath", sys.executable, "--project", ".", cwd=folder)
        told = json.loads(done.stdout)["generalDiagnostics"]
    except (subprocess.TimeoutExpired, json.JSONDecodeError) as exc:  # it needs node, and to have been fetched once
        pytest.skip(f"pyright cannot start: {exc}")
    return {(Path(each["file"]).name, each["range"]["start"]["line"] + 1) for each in told}


@pytest.mark.parametrize("reported", [reported_by_mypy, reported_by_pyright])
def test_a_type_checker_reports_the_marked_lines_and_no_others(
    reported: Callable[[Path], Lines], tmp_path: Path
) -> None:
    for file in FILES:
        shutil.copy(file, tmp_path)
    assert reported(tmp_path) == marked()


def test_the_good_file_asks_for_no_exception_and_the_bad_one_has_enough() -> None:
    good, bad = (file.read_text() for file in FILES)
    assert not re.search("ignore|cast|Any", good)
    assert "ignore" not in bad
    assert len(marked()) > 30
    assert {name for name, _ in marked()} == {"usage_bad.py"}

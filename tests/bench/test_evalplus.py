"""Files of EvalPlus's form: how they are read, and the tests that are made of them."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from agora_frames.bench.benchmark import Source
from agora_frames.bench.evalplus import input_form, plus_tests, read_tasks
from agora_frames.errors import FrameError, StorageError
from agora_frames.sandboxed.comparing import FORMS

NOWHERE = Source("https://127.0.0.1:9/{revision}.jsonl.gz", "v1")
TASK: dict[str, Any] = {
    "task_id": "Mbpp/2",
    "prompt": "",
    "entry_point": "f",
    "canonical_solution": "def f(a, b=(1,), *, c=None):\n    return a + b",
    "contract": "\n\tassert isinstance(a, tuple)\n\tassert all(\n\t\tx > 0 for x in a)\n",
    "base_input": [[[1], [2]]],
    "plus_input": [[[0], [2]], [[3], [4]]],
    "atol": 0,
}


def ran(tests: str, f: Any) -> None:
    exec(tests, {"f": f})


def test_files_are_read_with_their_infinite_numbers(tmp_path: Path) -> None:
    line = json.dumps({**TASK, "base_input": [[float("inf"), "1", 10**30]]})
    (tmp_path / "a.jsonl").write_text(f"{line}\n\n{line}\n")
    (tmp_path / "b.gz").write_bytes(gzip.compress(line.encode()))
    assert [task["base_input"] for task in read_tasks(NOWHERE, tmp_path / "a.jsonl")] == [
        [[float("inf"), "1", 10**30]]
    ] * 2
    assert len(read_tasks(NOWHERE, tmp_path / "b.gz")) == 1
    (tmp_path / "folder").mkdir()
    (tmp_path / "a.jsonl").rename(tmp_path / "folder/a.jsonl")
    assert len(read_tasks(NOWHERE, tmp_path / "folder")) == 2


def test_what_is_no_such_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="does not exist"):
        read_tasks(NOWHERE, tmp_path / "none.jsonl")
    with pytest.raises(StorageError, match="holds 0"):
        read_tasks(NOWHERE, tmp_path)
    for text, told in (("{", "no file of JSON lines"), ('{"task_id": "x"}', "without 'prompt'"), ("[1]", "'task_id'")):
        (tmp_path / "a.jsonl").write_text(text)
        with pytest.raises(FrameError, match=told):
            read_tasks(NOWHERE, tmp_path / "a.jsonl")


def test_every_form_of_inputs_is_known_and_used() -> None:
    used = {input_form(f"Mbpp/{n}") for n in range(1, 975)}
    assert used == set(FORMS)
    assert input_form("HumanEval/2") == "as they are"


def test_tests_compare_what_keeps_the_contract() -> None:
    calls: list[Any] = []

    def candidate(a: Any, b: Any) -> Any:
        calls.append((a, b))
        return a + b

    ran(plus_tests(TASK, reference=TASK["canonical_solution"]), candidate)
    assert calls == [((1,), (2,)), ((3,), (4,))]
    calls.clear()
    ran(plus_tests(TASK, reference=TASK["canonical_solution"], inputs="base"), candidate)
    assert calls == [((1,), (2,))]
    with pytest.raises(AssertionError, match=r"f\(\(1,\), \(2,\)\) gave \(2, 1\), wanted \(1, 2\)"):
        ran(plus_tests(TASK, reference=TASK["canonical_solution"]), lambda a, b: b + a)


@pytest.mark.parametrize("changed", [{"contract": ""}, {"plus_input": {}}, {"contract": "\n    # nothing\n"}])
def test_a_task_may_lack_a_contract_or_inputs(changed: dict[str, Any]) -> None:
    task = {**TASK, **changed}
    ran(plus_tests(task, reference=task["canonical_solution"]), lambda a, b: a + b)

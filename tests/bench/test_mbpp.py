"""MBPP in its three forms: the references pass, what gives nothing fails, and a whole evaluation by a script."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import agora_frames as af
from agora_frames.bench.benchmark import evaluate, report
from agora_frames.bench.mbpp import load_mbpp, load_mbpp_plus, mbpp
from agora_frames.errors import BindError, FrameError
from agora_frames.sandbox import sandbox
from agora_frames.stages.code import grade_code

RUNNER = sandbox(allow_unsafe_code=True, timeout_s=60, memory_mb=4096)


def task(number: int, **fields: Any) -> dict[str, Any]:
    return {
        "task_id": number,
        "text": f"Write a function to add {number}.",
        "code": f"import math\r\ndef add(x):\r\n  return x + {number}",
        "test_setup_code": "",
        "test_list": [f"assert math.floor(add(1)) == {1 + number}", f"assert add(0) == {number}"],
        "challenge_test_list": [],
        **fields,
    }


NODES = task(
    12,
    code="class Node:\n  def __init__(self, x): self.x = x\ndef value(node): return node.x",
    test_setup_code="root = Node(1)\r\nroot.x = 2",
    test_list=["assert value(root) == 2", "assert value(Node(3)) == 3"],
    challenge_test_list=["assert value(Node(None)) is None"],
)
TASKS = [*map(task, (2, 3, 4, 11)), NODES, task(511), task(601)]


def written(tmp_path: Path, tasks: list[dict[str, Any]]) -> Path:
    (tmp_path / "tasks.jsonl").write_text("\n".join(json.dumps(task) for task in tasks))
    return tmp_path / "tasks.jsonl"


def knowing(items: pl.DataFrame, form: str) -> Any:
    known = dict(items.select("task", "solution").iter_rows())
    last = lambda text: max(known, key=lambda told: text.rfind(told))  # noqa: E731
    return af.scripted(lambda messages: form.format(known[last(messages[-1]["content"])]), model=form)


def test_the_test_split_is_11_to_510(tmp_path: Path) -> None:
    path = written(tmp_path, TASKS)
    assert load_mbpp(path)["item_id"].to_list() == ["11", "12"]
    assert load_mbpp(path, split="train")["item_id"].to_list() == ["601"]
    assert load_mbpp(path, split="prompt")["item_id"].to_list() == ["2", "3", "4"]
    assert load_mbpp(path, split="all").height == 7


@pytest.mark.parametrize("form", ["```python\n{}\n```", "{}", "{}\n[/CODE]\n\nTask: another"])
@pytest.mark.parametrize("shots", ["zero", "few"])
def test_a_model_that_knows_the_solutions_has_all_points(tmp_path: Path, form: str, shots: Any) -> None:
    benchmark = mbpp(runner=RUNNER, challenge=True)
    items = benchmark.load(written(tmp_path, TASKS))
    rows = evaluate(benchmark, backend=knowing(items, form), items=items, shots=shots)
    assert rows.select("item_id", "run_message", "score").rows() == [("11", "", 1.0), ("12", "", 1.0)]
    assert report(rows, benchmark=benchmark, items=items, shots=shots)["score"].to_list() == [100.0]


def test_a_model_that_writes_nothing_of_use_has_none(tmp_path: Path) -> None:
    benchmark = mbpp(runner=RUNNER)
    items = benchmark.load(written(tmp_path, TASKS))
    rows = evaluate(benchmark, backend=af.scripted(lambda messages: "def add(x): return 0"), items=items)
    assert rows["score"].to_list() == [0.0, 0.0]


def test_few_shows_the_three_tasks_of_the_paper(tmp_path: Path) -> None:
    benchmark = mbpp(runner=RUNNER)
    items = benchmark.load(written(tmp_path, TASKS))
    prompt = evaluate(benchmark, backend=knowing(items, "{}"), items=items, shots="few")["prompt"][0]
    places = [prompt.find(f"Write a function to add {n}.") for n in (2, 3, 4, 11)]
    assert places == sorted(places)
    assert min(places) >= 0
    assert "return x + 4\n[/CODE]" in prompt
    assert "return x + 11" not in prompt
    assert prompt.endswith("assert add(0) == 11\nCode:\n[CODE]\n")


def test_without_these_tasks_few_says_so_in_each_row(tmp_path: Path) -> None:
    benchmark = mbpp(runner=RUNNER)
    items = benchmark.load(written(tmp_path, TASKS[1:]))
    rows = evaluate(benchmark, backend=knowing(items, "{}"), items=items, shots="few")
    assert rows["score"].to_list() == [None, None]
    assert rows["prompt_error"].is_not_null().all()


def test_challenges_are_further_tests(tmp_path: Path) -> None:
    path = written(tmp_path, TASKS)
    code = "class Node:\n  def __init__(self, x): self.x = x\ndef value(node): return node.x or 0"
    for challenge, score in ((False, 1.0), (True, 0.0)):
        items = load_mbpp(path, challenge=challenge)[1:].with_columns(code=pl.lit(code))
        assert grade_code(items, runner=RUNNER)["score"].to_list() == [score]


def test_wrong_names_and_files_are_refused(tmp_path: Path) -> None:
    for wrong in ({"variant": "mini"}, {"split": "dev"}, {"ks": (2,)}):
        with pytest.raises(BindError, match=next(iter(wrong))):
            mbpp(runner=RUNNER, **wrong)  # type: ignore[arg-type]
    with pytest.raises(FrameError, match="'test_list'"):
        load_mbpp(written(tmp_path, [{"task_id": 1, "text": "", "code": ""}]))
    with pytest.raises(FrameError, match="EvalPlus"):
        load_mbpp_plus(written(tmp_path, TASKS))


# --- the data as they are published ----------------------------------------------------------------------------------

FILES: dict[str, tuple[int, Callable[[Path], pl.DataFrame]]] = {
    "MBPP": (974, lambda folder: load_mbpp(folder / "mbpp/mbpp.jsonl", split="all")),
    "sanitized": (
        427,
        lambda folder: load_mbpp(folder / "mbpp/sanitized-mbpp.json", variant="sanitized", split="all"),
    ),
    "MBPP+": (189, lambda folder: load_mbpp_plus(folder / "mbpp/MbppPlus_rows_000-188.jsonl.gz")),
}
BY_FILE = pytest.mark.parametrize("name", FILES)


@pytest.mark.slow
@BY_FILE
def test_all_references_pass(shared_data: Path, name: str) -> None:
    number, load = FILES[name]
    done = grade_code(load(shared_data).with_columns(code="solution"), runner=RUNNER)
    assert done.filter(pl.col("score") != 1).select("item_id", "run_status", "run_message").rows() == []
    assert done.height == number


@pytest.mark.slow
def test_all_references_pass_the_challenges(shared_data: Path) -> None:
    path = shared_data / "mbpp/mbpp.jsonl"
    ids = af.read_frame(path).filter(pl.col("challenge_test_list").list.len() > 0)["task_id"].cast(pl.String)
    items = load_mbpp(path, split="all", challenge=True).filter(pl.col("item_id").is_in(ids.implode()))
    assert items.height == 11
    assert grade_code(items.with_columns(code="solution"), runner=RUNNER)["score"].sum() == 11


@pytest.mark.slow
@BY_FILE
def test_no_code_that_gives_nothing_passes(shared_data: Path, name: str) -> None:
    """The same code, with functions of the same names in the place of what the tests call."""
    items = FILES[name][1](shared_data)
    emptied = [
        code + "".join(f"\ndef {function}(*args, **kwargs): return None\n" for function in names)
        for code, names in items.select("solution", "names").iter_rows()
    ]
    done = grade_code(items.with_columns(code=pl.Series(emptied)), runner=RUNNER)
    assert done.filter(pl.col("score") != 0).select("item_id", "run_status", "run_message").rows() == []


def test_the_test_split_of_the_published_file_has_500_tasks(shared_data: Path) -> None:
    items = load_mbpp(shared_data / "mbpp/mbpp.jsonl")
    assert items.height == 500
    assert items["item_id"].cast(pl.Int64).is_between(11, 510).all()
    assert (items["names"].list.len() > 0).all()
    assert (items["entry_point"] != "").all()

"""HumanEval and HumanEval+: the references pass, what gives nothing fails, and a whole evaluation by a script."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import agora_frames as af
from agora_frames.bench.benchmark import evaluate, report
from agora_frames.bench.humaneval import humaneval, load_humaneval, load_humaneval_plus
from agora_frames.errors import BindError, FrameError
from agora_frames.sandbox import sandbox
from agora_frames.stages.code import grade_code

RUNNER = sandbox(allow_unsafe_code=True, timeout_s=20, memory_mb=4096)
TASKS = [
    {
        "task_id": "HumanEval/0",
        "prompt": 'import math\n\n\ndef root(x: float) -> float:\n    """ Of a number. """\n',
        "entry_point": "root",
        "canonical_solution": "    return math.sqrt(x)\n",
        "test": "\n\ndef check(candidate):\n    assert abs(candidate(2) - math.sqrt(2)) < 1e-6\n",
    },
    {
        "task_id": "HumanEval/1",
        "prompt": 'def half(x):\n    """ Of it. """\n    return x / 2\n\n\ndef quarter(x):\n    """ Of it. """\n',
        "entry_point": "quarter",
        "canonical_solution": "    return half(half(x))\n",
        "test": "def check(candidate):\n    assert candidate(4) == 1\n    assert half(candidate(4)) == 0.5\n",
    },
]
PLUS = [
    {
        **{key: task[key] for key in ("task_id", "prompt", "entry_point", "canonical_solution")},
        "contract": '\n    assert x > 0, "invalid inputs" # $_CONTRACT_$\n',
        "base_input": [[1], [4]],
        "plus_input": [[-1], [0.5], [float("inf")]],
        "atol": 0,
    }
    for task in TASKS
]


def written(tmp_path: Path, tasks: list[dict[str, Any]]) -> Path:
    (tmp_path / "tasks.jsonl").write_text("\n".join(json.dumps(task) for task in tasks))
    return tmp_path / "tasks.jsonl"


def giving_nothing(items: pl.DataFrame) -> pl.DataFrame:
    """Code with the same names and imports, all of whose functions return None at once."""
    lines = [f"def {name}(*args, **kwargs): return None" for name in items["entry_point"]]
    return items.with_columns(pl.Series("code", lines))


def script(items: pl.DataFrame, form: Callable[[str, str], str]) -> Any:
    """A model that knows the solutions by their stubs, and says them in some form."""
    known = {stub.strip(): solution.lstrip() for stub, solution in items.select("stub", "solution").iter_rows()}

    def reply(messages: list[dict[str, str]]) -> str:
        asked = messages[-1]["content"]
        stub = next(stub for stub in known if stub in asked)
        return form(stub, known[stub])

    return af.scripted(reply)


FORMS = {
    "in a fence": lambda stub, solution: f"Here:\n```python\n{solution}\n```\nDone.",
    "alone": lambda stub, solution: solution,
    "as it goes on": lambda stub, solution: solution[len(stub) :] + "\n\n\ndef more(): pass\n",
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("plus", [False, True])
def test_a_model_that_knows_the_solutions_has_all_points(tmp_path: Path, form: str, plus: bool) -> None:
    benchmark = humaneval(runner=RUNNER, plus=plus)
    items = benchmark.load(written(tmp_path, PLUS if plus else TASKS))
    rows = evaluate(benchmark, backend=script(items, FORMS[form]), items=items)
    assert rows["score"].to_list() == [1.0, 1.0]
    told = report(rows, benchmark=benchmark, items=items)
    assert told.select("benchmark", "metric", "n", "score").row(0) == (benchmark.name, "pass@1", 2, 100.0)


def test_a_model_that_writes_nothing_of_use_has_none(tmp_path: Path) -> None:
    benchmark = humaneval(runner=RUNNER)
    items = benchmark.load(written(tmp_path, TASKS))
    for text in (
        "",
        "I cannot.",
        "```python\ndef root(x): pass\n\ndef quarter(x): pass\n```",
        "import sys; sys.exit(0)",
    ):
        rows = evaluate(benchmark, backend=af.scripted(lambda messages, text=text: text, model=text), items=items)
        assert rows["score"].to_list() == [0.0, 0.0]
        assert rows.height == 2


def test_what_is_asked_shows_the_head_and_never_the_solution(tmp_path: Path) -> None:
    for form, shots in (("chat", "zero"), ("completion", "zero"), ("completion", "few")):
        benchmark = humaneval(runner=RUNNER, form=form)  # type: ignore[arg-type]
        items = benchmark.load(written(tmp_path, TASKS))
        rows = evaluate(benchmark, backend=script(items, FORMS["alone"]), items=items, shots=shots)  # type: ignore[arg-type]
        for prompt, task in zip(rows["prompt"], TASKS, strict=True):
            assert task["prompt"].strip() in prompt
            assert task["canonical_solution"].strip() not in prompt
            assert (prompt == task["prompt"]) is (form == "completion" and shots == "zero")
            assert form == "chat" or prompt.endswith(task["prompt"])


def test_pass_at_k_is_taken_over_the_samples(tmp_path: Path) -> None:
    benchmark = humaneval(runner=RUNNER, samples=4, ks=(1, 2))
    items = benchmark.load(written(tmp_path, TASKS))
    known = script(items, FORMS["alone"])

    def sometimes(messages: list[dict[str, str]], sampling: dict[str, Any]) -> str:
        return known.script(messages) if sampling["seed"] % 2 else "no"

    rows = evaluate(benchmark, backend=af.scripted(sometimes), items=items, decoding={"temperature": 0.8})
    assert rows.height == 8
    told = report(rows, benchmark=benchmark, items=items)
    share = rows["score"].mean()
    assert told["metric"].to_list() == ["pass@1", "pass@2"]
    assert told["score"][0] == pytest.approx(100 * share)  # type: ignore[operator]
    assert told["score"][1] >= told["score"][0]


def test_more_draws_than_samples_are_refused() -> None:
    with pytest.raises(BindError, match="at least k samples"):
        humaneval(runner=RUNNER, samples=2, ks=(1, 10))
    with pytest.raises(BindError, match="'chat' or 'completion'"):
        humaneval(runner=RUNNER, form="base")  # type: ignore[arg-type]


def test_another_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FrameError, match="'canonical_solution'"):
        load_humaneval(written(tmp_path, [{"task_id": "HumanEval/0", "prompt": "", "entry_point": ""}]))
    with pytest.raises(FrameError, match="'contract'"):
        load_humaneval_plus(written(tmp_path, TASKS))


@pytest.mark.parametrize(
    ("code", "passes"),
    [
        ("def quarter(x): return x / 4", True),
        ("def quarter(x): return x / 4 + 1e-12", True),
        ("def quarter(x): return x // 4", False),
        ("def quarter(x): return 1 if x == 4 else x / 4 if x != 0.5 else 0", False),
    ],
)
def test_the_further_inputs_find_what_the_first_do_not(tmp_path: Path, code: str, passes: bool) -> None:
    items = load_humaneval_plus(written(tmp_path, PLUS))[1:].with_columns(code=pl.lit(code))
    assert grade_code(items, runner=RUNNER)["score"].to_list() == [float(passes)]
    if "0.5" in code:
        base = load_humaneval_plus(written(tmp_path, PLUS), inputs="base")[1:].with_columns(code=pl.lit(code))
        assert grade_code(base, runner=RUNNER)["score"].to_list() == [1.0]


# --- the data as they are published ----------------------------------------------------------------------------------

FILES: dict[str, Callable[[Path], pl.DataFrame]] = {
    "HumanEval": lambda folder: load_humaneval(folder / "humaneval/HumanEval.jsonl.gz"),
    "HumanEval+ Mini": lambda folder: load_humaneval_plus(folder / "humaneval/HumanEvalPlus-Mini.jsonl.gz"),
    "HumanEval+ Mini, base": lambda folder: load_humaneval_plus(
        folder / "humaneval/HumanEvalPlus-Mini.jsonl.gz", inputs="base"
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_all_references_pass(shared_data: Path, name: str) -> None:
    items = FILES[name](shared_data).with_columns(code="solution")
    done = grade_code(items, runner=RUNNER)
    assert done.filter(pl.col("score") != 1).select("item_id", "run_status", "run_message").rows() == []
    assert done.height == 164


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_no_function_that_gives_nothing_passes(shared_data: Path, name: str) -> None:
    done = grade_code(giving_nothing(FILES[name](shared_data)), runner=RUNNER)
    assert done.filter(pl.col("score") != 0).select("item_id", "run_status", "run_message").rows() == []


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_all_references_are_found_in_replies(shared_data: Path, form: str) -> None:
    benchmark = humaneval(runner=RUNNER)
    items = FILES["HumanEval"](shared_data)
    rows = evaluate(benchmark, backend=script(items, FORMS[form]), items=items)
    assert rows.filter(pl.col("score") != 1).select("item_id", "run_status", "run_message").rows() == []


@pytest.mark.slow
def test_the_embedded_model_is_scored_honestly(shared_data: Path, tmp_path: Path) -> None:
    benchmark = humaneval(runner=RUNNER)
    items = benchmark.load(shared_data / "humaneval/HumanEval.jsonl.gz").head(10)
    model = af.connect("llama:smollm2-135m", ledger=tmp_path / "ledger")
    rows = evaluate(benchmark, backend=model, items=items, decoding={"max_tokens": 128})
    (row,) = report(rows, benchmark=benchmark, items=items).to_dicts()
    print(f"HumanEval, {row['n']} items, {row['model']}: {row['score']} ({row['low']:.1f} to {row['high']:.1f})")
    assert row["n"] == 10
    assert row["n_failed"] == 0
    assert 0 <= row["low"] <= row["score"] <= row["high"] <= 100
    assert row["model"].startswith("SmolLM2")
    assert rows["completion"].str.len_chars().min() > 0

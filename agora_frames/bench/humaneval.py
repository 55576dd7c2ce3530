"""HumanEval: 164 functions of Python to be written from their head and docstring, judged by tests.

Source: Chen et al. 2021, arXiv 2107.03374; data https://github.com/openai/human-eval (MIT), on the hub as
openai/openai_humaneval. With EvalPlus's inputs: see `agora_frames.bench.evalplus`. Decoding: AgoraBench, arXiv
2412.03679v2, table 6. The prompts and the worked example are our own. Code runs in the version of Python of the host.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeAlias

import polars as pl

from agora_frames.bench.benchmark import DECODING, PROMPTS, UNREAD, Benchmark, Prompt, Source, load_rows
from agora_frames.bench.evalplus import Inputs, plus_tests, read_tasks
from agora_frames.compose import recipe
from agora_frames.errors import BindError, FrameError
from agora_frames.metrics.pass_at_k import pass_at_k
from agora_frames.stages.code import extract_code, grade_code, preamble
from agora_frames.stages.prompt import template_file
from agora_frames.types import Runner

__all__ = ["Form", "humaneval", "load_humaneval", "load_humaneval_plus"]

Form: TypeAlias = Literal["chat", "completion"]

SOURCE = Source("openai/openai_humaneval", "7dce6050a7d6d172f3cc5c32aa97f52fa1a2e544", configs=("openai_humaneval",))
PLUS_SOURCE = Source(
    "https://github.com/evalplus/humanevalplus_release/releases/download/{revision}/HumanEvalPlus.jsonl.gz", "v0.1.10"
)
# Where a completion ends: four of the five of the paper (section 3.1), as many as most endpoints take; whatever else is
# not indented is cut off afterwards.
STOP = ("\nclass", "\ndef", "\nif", "\nprint")

_COLUMNS: dict[str, Any] = {
    "item_id": pl.String,
    "stub": pl.String,
    "entry_point": pl.String,
    "solution": pl.String,
    "tests": pl.String,
    "names": pl.List(pl.String),
}


def humaneval(
    *,
    runner: Runner,
    plus: bool = False,
    inputs: Inputs = "plus",
    form: Form = "chat",
    samples: int = 1,
    ks: Sequence[int] = (1,),
    wrong: tuple[str, ...] = UNREAD,
) -> Benchmark:
    """HumanEval, or with `plus` HumanEval+, by pass@k.

    runner: from `sandbox`, which runs the code. plus: EvalPlus's tasks and inputs; inputs: `base` leaves its own inputs
    out. form: `zero` asks in a chat, or, as a `completion`, shows the head of the function alone, for base models;
    `few` shows one worked example in front of it, always as a text to be gone on with. samples: replies to each item.
    ks: of pass@k; each at most `samples`. wrong: kinds of errors for which a reply counts as wrong.
    """
    _check(form, ks, samples)
    chat = Prompt(template_file(PROMPTS / "humaneval_zero.jinja"))
    return Benchmark(
        name="humaneval_plus" if plus else "humaneval",
        source=PLUS_SOURCE if plus else SOURCE,
        load=partial(load_humaneval_plus, inputs=inputs) if plus else load_humaneval,
        prompts={
            "zero": chat if form == "chat" else Prompt("{{ stub }}", stop=STOP),
            "few": Prompt(template_file(PROMPTS / "humaneval_few.jinja"), stop=STOP),
        },
        decoding=DECODING,
        grade=recipe(extract_code(stub="stub"), grade_code(runner=runner), name="grade_humaneval"),
        metrics={f"pass@{k}": pass_at_k(k=k) for k in ks},
        samples=samples,
        wrong=wrong,
    )


def load_humaneval(given: str | Path | None = None) -> pl.DataFrame:
    """The items: `item_id` (`HumanEval/0`), `stub` (what the model is shown), `entry_point`, `solution` (all of it),
    `tests`, `names` (what they take from the code).

    given: a file of the official form, or None for the source. Helpers that a stub shows are the tests' own.
    Raises: FrameError when a column is missing.
    """
    rows = load_rows(SOURCE, given, "task_id", "prompt", "entry_point", "canonical_solution", "test")
    return pl.DataFrame(
        [
            _item(
                task, f"{preamble(task['prompt'], task['entry_point'])}\n{task['test']}\ncheck({task['entry_point']})\n"
            )
            for task in rows.iter_rows(named=True)
        ],
        schema=_COLUMNS,
    )


def load_humaneval_plus(given: str | Path | None = None, *, inputs: Inputs = "plus") -> pl.DataFrame:
    """The same columns as `load_humaneval`, of HumanEval+; given: a file of EvalPlus's form (also its Mini)."""
    tasks = read_tasks(PLUS_SOURCE, given)
    if strange := [task["task_id"] for task in tasks if not str(task["task_id"]).startswith("HumanEval/")]:
        raise FrameError(f"{given} has the task {strange[0]!r}: it is not HumanEval+.")
    sources = [task["prompt"] + task["canonical_solution"] for task in tasks]
    return pl.DataFrame(
        [_item(t, plus_tests(t, reference=source, inputs=inputs)) for t, source in zip(tasks, sources, strict=True)],
        schema=_COLUMNS,
    )


def _item(task: dict[str, Any], tests: str) -> dict[str, Any]:
    return {
        "item_id": task["task_id"],
        "stub": task["prompt"],
        "entry_point": task["entry_point"],
        "solution": task["prompt"] + task["canonical_solution"],
        "tests": tests,
        "names": [task["entry_point"]],
    }


def _check(form: str, ks: Sequence[int], samples: int) -> None:
    if form not in ("chat", "completion"):
        raise BindError(f"humaneval(form={form!r}): it must be 'chat' or 'completion'.")
    if not ks or any(k > samples for k in ks):
        raise BindError(f"humaneval(ks={ks!r}, samples={samples!r}): pass@k takes at least k samples of each item.")

"""MBPP: small tasks for Python in a sentence each, with three tests that the model is shown and judged by.

Source: Austin et al. 2021, arXiv 2108.07732; data https://github.com/google-research/google-research/tree/master/mbpp
(CC BY 4.0), on the hub as google-research-datasets/mbpp. With EvalPlus's inputs: see `agora_frames.bench.evalplus`.
Decoding: AgoraBench, arXiv 2412.03679v2, table 6. The prompts are our own; the three worked tasks of `few` are those
of the paper (2, 3 and 4), and come from the file itself. Code runs in the version of Python of the host.
"""

from __future__ import annotations

import ast
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

import polars as pl

from agora_frames.bench.benchmark import DECODING, PROMPTS, UNREAD, Benchmark, Prompt, Source, load_rows
from agora_frames.bench.evalplus import Inputs, plus_tests, read_tasks
from agora_frames.compose import recipe
from agora_frames.errors import BindError, FrameError, listed
from agora_frames.metrics.pass_at_k import pass_at_k
from agora_frames.stages.code import extract_code, grade_code
from agora_frames.stages.prompt import template_file
from agora_frames.types import Runner

__all__ = ["SPLITS", "Variant", "load_mbpp", "load_mbpp_plus", "mbpp"]

Variant: TypeAlias = Literal["full", "sanitized", "plus"]

REVISION = "4bb6404fdc6cacfda99d4ac4205087b89d32030c"
SOURCES: MappingProxyType[str, Source] = MappingProxyType(
    {
        "full": Source("google-research-datasets/mbpp", REVISION, "prompt+test+validation+train", ("full",)),
        "sanitized": Source("google-research-datasets/mbpp", REVISION, "prompt+test+validation+train", ("sanitized",)),
        "plus": Source(
            "https://github.com/evalplus/mbppplus_release/releases/download/{revision}/MbppPlus.jsonl.gz", "v0.2.0"
        ),
    }
)
# The numbers of the tasks in each part, as the data's README has them.
SPLITS: MappingProxyType[str, tuple[int, int]] = MappingProxyType(
    {"prompt": (1, 10), "test": (11, 510), "validation": (511, 600), "train": (601, 974), "all": (1, 974)}
)
SHOTS = (2, 3, 4)

_SHOT = pl.Struct({"task": pl.String, "shown_tests": pl.String, "solution": pl.String})
_COLUMNS: dict[str, Any] = {
    "item_id": pl.String,
    "task": pl.String,
    "shown_tests": pl.String,
    "entry_point": pl.String,
    "solution": pl.String,
    "tests": pl.String,
    "names": pl.List(pl.String),
}


def mbpp(
    *,
    runner: Runner,
    variant: Variant = "full",
    split: str = "test",
    challenge: bool = False,
    inputs: Inputs = "plus",
    samples: int = 1,
    ks: Sequence[int] = (1,),
    wrong: tuple[str, ...] = UNREAD,
) -> Benchmark:
    """MBPP by pass@k.

    runner: from `sandbox`, which runs the code. variant: `full` (974 tasks), `sanitized` (427 that were looked through
    by hand), `plus` (EvalPlus's). split: a key of `SPLITS`; of `plus` all tasks are taken. challenge: with the further
    tests that some tasks of `full` have. inputs: `base` leaves EvalPlus's own inputs out. samples: replies to each
    item. ks: of pass@k; each at most `samples`. wrong: kinds of errors for which a reply counts as wrong.
    `few` shows three tasks as one text that the reply goes on with; `plus` has none.
    """
    if variant not in SOURCES:
        raise BindError(f"mbpp(variant={variant!r}): it must be one of {listed(SOURCES)}.")
    if split not in SPLITS:
        raise BindError(f"mbpp(split={split!r}): it must be one of {listed(SPLITS)}.")
    if not ks or any(k > samples for k in ks):
        raise BindError(f"mbpp(ks={ks!r}, samples={samples!r}): pass@k takes at least k samples of each item.")
    zero = Prompt(template_file(PROMPTS / "mbpp_zero.jinja"))
    few = Prompt(template_file(PROMPTS / "mbpp_few.jinja"), stop=("[/CODE]",))
    load = partial(load_mbpp, variant=variant, split=split, challenge=challenge)
    return Benchmark(
        name="mbpp" if variant == "full" else f"mbpp_{variant}",
        source=SOURCES[variant],
        load=partial(load_mbpp_plus, inputs=inputs) if variant == "plus" else load,
        prompts={"zero": zero} if variant == "plus" else {"zero": zero, "few": few},
        decoding=DECODING,
        grade=recipe(extract_code(), grade_code(runner=runner), name="grade_mbpp"),
        metrics={f"pass@{k}": pass_at_k(k=k) for k in ks},
        samples=samples,
        wrong=wrong,
    )


def load_mbpp(
    given: str | Path | None = None, *, variant: Variant = "full", split: str = "test", challenge: bool = False
) -> pl.DataFrame:
    """The items: `item_id` (the task's number), `task`, `shown_tests` (the assertions), `entry_point` (what is called
    first), `solution`, `tests` (with set-up and imports), `names` (what they take from the code), `shots` (List of
    Struct{task, shown_tests, solution}: tasks 2, 3 and 4; null when the file lacks one).

    given: a file of the official form, or None for the source.
    Raises: FrameError when a column is missing.
    """
    told = "text" if variant == "full" else "prompt"
    rows = load_rows(SOURCES[variant], given, "task_id", told, "code", "test_list")
    items = [_item(task, told, challenge=challenge) for task in rows.iter_rows(named=True)]
    by_id = {int(item["item_id"]): item for item in items}
    shots = [{field.name: by_id[n][field.name] for field in _SHOT.fields} for n in SHOTS if n in by_id]
    first, last = SPLITS[split]
    return pl.DataFrame([item for n, item in by_id.items() if first <= n <= last], schema=_COLUMNS).with_columns(
        pl.lit(shots if len(shots) == len(SHOTS) else None, dtype=pl.List(_SHOT)).alias("shots")
    )


def load_mbpp_plus(given: str | Path | None = None, *, inputs: Inputs = "plus") -> pl.DataFrame:
    """The columns of `load_mbpp` but `shots`, of MBPP+; given: a file of EvalPlus's form."""
    tasks = read_tasks(SOURCES["plus"], given)
    if strange := [task["task_id"] for task in tasks if not str(task["task_id"]).startswith("Mbpp/")]:
        raise FrameError(f"{given} has the task {strange[0]!r}: it is not MBPP+.")
    items = [
        {
            "item_id": task["task_id"].partition("/")[2],
            "task": task["prompt"].strip().strip('"').strip(),  # which ends with an assertion
            "shown_tests": "",
            "entry_point": task["entry_point"],
            "solution": task["canonical_solution"],
            "tests": plus_tests(task, reference=task["canonical_solution"], inputs=inputs),
            "names": [task["entry_point"]],
        }
        for task in tasks
    ]
    return pl.DataFrame(items, schema=_COLUMNS)


def _item(task: dict[str, Any], told: str, *, challenge: bool) -> dict[str, Any]:
    code = _plain(task["code"])
    assertions = [_plain(test) for test in task["test_list"]]
    further = [_plain(test) for test in task.get("challenge_test_list") or []] if challenge else []
    before = [_plain(text) for text in (*(task.get("test_imports") or []), task.get("test_setup_code") or "")]
    tests = "\n".join([*before, *assertions, *further])
    used = _used(tests)
    imports, defined, functions = _offered(code)
    called = [name for name in _used("\n".join(assertions)) if name in functions]
    return {
        "item_id": str(task["task_id"]),
        "task": _plain(task[told]).strip(),
        "shown_tests": "\n".join(assertions),
        "entry_point": called[0] if called else next((name for name in functions), ""),
        "solution": code,
        "tests": "\n".join([*(line for name, line in imports.items() if name in used), tests]) + "\n",
        "names": [name for name in used if name in defined],
    }


def _plain(text: str) -> str:
    return text.replace("\r\n", "\n").strip("\n")


def _tree(source: str) -> ast.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of escapes in published solutions
        return ast.parse(source)


def _used(source: str) -> list[str]:
    """The names that a source reads, in their order."""
    loads = [n for n in ast.walk(_tree(source)) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)]
    return list(dict.fromkeys(n.id for n in sorted(loads, key=lambda n: (n.lineno, n.col_offset))))


def _offered(code: str) -> tuple[dict[str, str], set[str], list[str]]:
    """What a reference has at its top level: imports by the name they bring, all that it defines, its functions."""
    imports: dict[str, str] = {}
    defined: set[str] = set()
    functions: list[str] = []
    for node in _tree(code).body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            imports |= {a.asname or a.name.partition(".")[0]: ast.unparse(node) for a in node.names}
        elif isinstance(node, ast.FunctionDef):
            functions.append(node.name)
        defined |= {node.name} if isinstance(node, ast.FunctionDef | ast.ClassDef) else set()
        defined |= {n.id for n in ast.walk(node) if isinstance(node, ast.Assign) and isinstance(n, ast.Name)}
    return imports, defined, functions

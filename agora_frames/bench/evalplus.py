"""EvalPlus: HumanEval and MBPP with many more inputs, for which the reference says what is right.

Source: Liu et al. 2023, arXiv 2305.01210; https://github.com/evalplus/evalplus (Apache-2.0), commit 26d6d00, whose
evalplus/data/mbpp.py tells how the inputs are to be read. What counts as equal: `agora_frames.sandboxed.comparing`.
"""

from __future__ import annotations

import ast
import gzip
import json
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias

from agora_frames.bench.benchmark import Source
from agora_frames.errors import FrameError, StorageError, did_you_mean, listed
from agora_frames.io import read_bytes

__all__ = ["Inputs", "input_form", "plus_tests", "read_tasks"]

# `base`: the inputs of the original benchmark alone; `plus`: those, and EvalPlus's own.
Inputs: TypeAlias = Literal["base", "plus"]

_FIELDS = ("task_id", "prompt", "entry_point", "canonical_solution", "contract", "base_input", "plus_input", "atol")
# By number of the task of MBPP; all others are as they are. (evalplus/data/mbpp.py, lines 49-160)
_MBPP_FORMS: dict[str, tuple[int, ...]] = {
    "tuples": (
        *(2, 116, 132, 143, 222, 261, 273, 394, 399, 421, 424),
        *(429, 470, 560, 579, 596, 616, 630, 726, 740, 744, 809),
    ),
    "lists of tuples": (63, 64, 70, 94, 120, 237, 272, 299, 400, 409, 417, 438, 473, 614, 780),
    "first a list of tuples": (75, 413, 444, 753),
    "second a tuple": (106, 750),
    "first a list of sets": (115,),
    "a number and a complex number": (124,),
    "first a tuple": (250, 307, 405, 446, 617, 720, 763, 808),
    "tuples of tuples": (259, 401, 445),
    "first a complex number": (252,),
    "first a tuple, with tuples for lists": (278,),
    "tuples all through": (580, 615, 791),
    "first a dict of tuples": (722,),
}


def read_tasks(source: Source, given: str | Path | None) -> list[dict[str, Any]]:
    """The tasks of a file of EvalPlus's form, from a file, or a folder with one, or else from its source.

    Not as a frame: the inputs are of all types, also within one list.
    Raises: StorageError when it cannot be read; FrameError when it is no such file.
    """
    place = str(given or source.dataset.format(revision=source.revision))
    if Path(place).is_dir():
        files = sorted(path for path in Path(place).iterdir() if path.name.endswith((".jsonl", ".jsonl.gz")))
        if len(files) != 1:
            raise StorageError(f"the folder {place!r} must hold one .jsonl or .jsonl.gz file, and holds {len(files)}.")
        place = str(files[0])
    data = read_bytes(place)
    lines = (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).splitlines()
    try:
        tasks = [json.loads(line) for line in lines if line.strip()]  # which reads Infinity, as these files have it
    except ValueError as exc:
        raise FrameError(f"{place} is no file of JSON lines: {exc}. Is it EvalPlus's?") from exc
    for task in tasks:
        if missing := [name for name in _FIELDS if not isinstance(task, Mapping) or name not in task]:
            near = did_you_mean(missing[0], task) if isinstance(task, Mapping) else ""
            raise FrameError(f"{place} has a task without {listed(missing)}{near or '.'} Is it EvalPlus's?")
    return tasks


def input_form(task_id: str) -> str:
    """What the arguments of a task are made into, by its `task_id`; a key of `comparing.FORMS`.

    >>> input_form("Mbpp/2"), input_form("Mbpp/3"), input_form("HumanEval/2")
    ('tuples', 'as they are', 'as they are')
    """
    benchmark, _, number = task_id.partition("/")
    forms = [form for form, numbers in _MBPP_FORMS.items() if benchmark == "Mbpp" and int(number) in numbers]
    return forms[0] if forms else "as they are"


def plus_tests(task: Mapping[str, Any], *, reference: str, inputs: Inputs = "plus") -> str:
    """Tests that call what the code defines with each input, and compare it with what the reference gives.

    reference: source that defines the function of the task.
    Inputs that break the contract of the task are left out when the tests are run.
    """
    given = task["base_input"] + (_list(task["plus_input"]) if inputs == "plus" else [])
    told = {
        "reference": f"{reference}\n\n{_contract(task, reference)}",
        "entry_point": task["entry_point"],
        "inputs": json.dumps(given),
        "form": input_form(task["task_id"]),
        "atol": float(task["atol"]),
    }
    arguments = ", ".join(f"{name}={value!r}" for name, value in told.items())
    return f"from agora_frames.sandboxed.comparing import agree\nagree({task['entry_point']}, {arguments})\n"


def _list(inputs: Any) -> list[Any]:
    return inputs if isinstance(inputs, list) else []  # some files have an empty dict for none


def _contract(task: Mapping[str, Any], reference: str) -> str:
    """A function with the parameters of the task's own, that raises when they break its contract."""
    functions = [node for node in ast.parse(reference).body if isinstance(node, ast.FunctionDef)]
    own = next((node for node in functions if node.name == task["entry_point"]), None)
    rules = ast.parse(textwrap.dedent(task["contract"]).strip("\n")).body
    if own is None or not rules:
        return ""
    parameters = ast.unparse(own.args)
    return f"def __contract__({parameters}):\n" + textwrap.indent("\n".join(map(ast.unparse, rules)), "    ") + "\n"

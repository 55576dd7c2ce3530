"""Python out of a model's reply, and whether it does what it should."""

from __future__ import annotations

import ast
import re
import textwrap
import warnings
from collections.abc import Iterator
from typing import Any

import polars as pl

from agora_frames.errors import BindError, FrameError, listed
from agora_frames.frames import ERROR, OUTCOMES, UNPARSED, errors, require
from agora_frames.stage import stage
from agora_frames.types import Runner

__all__ = ["extract_code", "grade_code", "preamble", "python_in"]

_FENCE = re.compile(r"^[ \t]*(?P<fence>`{3,}|~{3,})[ \t]*(?P<tag>[\w+#.-]*)[^\n]*$", re.MULTILINE)
_PYTHON = ("", "py", "python", "python3", "py3")
# How a line of code may begin, where prose and code stand in one text.
_CODE_LINE = re.compile(r"^(?:async def|def|class|import|from|@)\b|^@", re.MULTILINE)
# A lost program says nothing of its code; all else that did not pass is wrong.
_UNTOLD = ("lost", "no_code")


@stage(rowwise=True)
def extract_code(
    df: pl.DataFrame, *, column: str = "completion", stub: str | None = None, name: str = "entry_point"
) -> pl.DataFrame:
    """The Python in a reply, whole and ready to be run.

    Reads: `column`, `name` (String: what the code must define) and `stub`, if named (String: the beginning that the
    model was shown: imports, helpers and the head of the function).
    Adds: `code` (String; null where there is none), `{column}_parse_error` (ERROR, kind `unparsed`; null where there is
    code, and where the text is null and `{column}_error` says why).
    Rows: the same, in the same order. How it is found: see `python_in`.

    >>> reply = "Sure:\\n```python\\ndef one():\\n    return 1\\n```"
    >>> df = pl.DataFrame({"completion": [reply], "entry_point": ["one"]})
    >>> extract_code(df)["code"].to_list()
    ['def one():\\n    return 1']
    """
    error = f"{column}_parse_error"
    require(df, column, name, *([stub] if stub else []), stage="extract_code", dtype=pl.String())
    if error in df.columns and "code" not in df.columns:
        raise FrameError(f"extract_code() would write over {error!r}, the reasons of another parse: rename it first.")
    stubs = df[stub].to_list() if stub else [None] * df.height
    texts, names = df[column].to_list(), df[name].to_list()
    found = [_outcome(*row) for row in zip(texts, names, stubs, strict=True)]
    reasons = [why for _, why in found]
    df = df.with_columns(
        pl.Series("code", [code for code, _ in found], dtype=pl.String),
        errors([why and UNPARSED for why in reasons], reasons, error),
    )
    if df.schema.get(f"{column}_error") != ERROR:
        return df
    told = pl.col(column).is_null() & pl.col(f"{column}_error").is_not_null()
    return df.with_columns(pl.when(~told).then(error).alias(error))


@stage(rowwise=True)
def grade_code(df: pl.DataFrame, *, code: str = "code", tests: str = "tests", runner: Runner) -> pl.DataFrame:
    """Runs the code of each row against its tests.

    Reads: `code`, `tests` (columns of String), and `names` (List(String)), if there.
    Adds: `score` (Float64: 1 where the tests passed, 0 where they did not; null where there is no code, or its run was
    lost), `score_error` (ERROR, kind `lost`; null elsewhere), `run_status`, `run_message`, `run_output` (String) and
    `run_s` (Float64, seconds), as `sandbox.run_python` says; null where there is no code.
    Rows: the same, in the same order.
    runner: from `sandbox`; the code that a model wrote is run by nothing else.
    Raises: BindError when that is no runner; SandboxError when no code can be run.
    """
    if not isinstance(runner, Runner):
        raise BindError(f"grade_code(runner={runner!r}) runs nothing: write runner=sandbox(allow_unsafe_code=True).")
    require(df, code, tests, stage="grade_code", dtype=pl.String())
    names = df["names"] if "names" in df.columns else pl.Series("names", [None] * df.height)
    programs = df.select(pl.col(code).cast(pl.String).alias("code"), pl.col(tests).cast(pl.String).alias("tests"))
    programs = programs.with_columns(names.cast(pl.List(pl.String)))
    there = programs["code"].is_not_null()
    ran = runner(programs.filter(there)) if there.any() else OUTCOMES.to_frame()
    if not isinstance(ran, pl.DataFrame) or ran.height != there.sum() or not set(OUTCOMES) <= set(ran.columns):
        raise BindError(
            f"{runner!r} must give {listed(OUTCOMES)} for each of {there.sum()} programs, and gave {ran!r}."
        )
    places = pl.select(pl.when(there).then(there.cast(pl.UInt32).cum_sum() - 1)).to_series()
    outcomes = ran.select(pl.col(name).cast(dtype) for name, dtype in OUTCOMES.items())[places]
    status = outcomes["status"]
    lost = status.is_in(_UNTOLD).fill_null(False)
    scores = pl.select(pl.when(~lost).then(status == "passed").cast(pl.Float64)).to_series()
    reasons = [why if is_lost else None for why, is_lost in zip(outcomes["message"], lost, strict=True)]
    return df.with_columns(
        scores.alias("score"),
        errors([None if why is None else "lost" for why in reasons], reasons, "score_error"),
        status.alias("run_status"),
        outcomes["message"].alias("run_message"),
        outcomes["output"].alias("run_output"),
        outcomes["seconds"].alias("run_s"),
    )


def python_in(reply: str, name: str, stub: str | None = None) -> str:
    """The code in a reply that should define `name`.

    Of fenced blocks of Python, also one that is not closed, it is the first that defines `name`; if none does, the
    first. Without fences it is what stands between the first line that begins as code does and the last with which it
    is Python. With a `stub`: code that does not define `name` goes on where the stub ends, and is cut off where a line
    is not indented any more; code that does gets the stub's imports and helpers in front.
    Raises: ValueError when there is no code.

    >>> stub = "import math\\n\\ndef area(r):\\n    '''Of a circle.'''\\n"
    >>> print(python_in("    return math.pi * r * r\\n\\nprint(area(1))", "area", stub))
    import math
    <BLANKLINE>
    def area(r):
        '''Of a circle.'''
        return math.pi * r * r
    """
    if not reply.strip():
        raise ValueError("the reply is empty")
    blocks = [code for tag, code in _blocks(reply) if tag.lower() in _PYTHON and code.strip()]
    if blocks:
        code = next((block for block in blocks if _defines(block, name)), blocks[0])
        code = textwrap.dedent(code) if _defines(textwrap.dedent(code), name) else code
    elif "def " in reply and _defines(reply, name):
        code = _without_prose(reply)
    else:
        code = reply
    code = code.replace("\r\n", "\n").strip("\n").rstrip()
    if stub is None:
        return code
    return f"{preamble(stub, name)}{code}" if _defines(code, name) else _continued(stub, code)


def preamble(stub: str, name: str) -> str:
    """What a stub has beside the function `name`, which it begins: imports and helpers.

    >>> preamble("import math\\n\\ndef area(r):\\n    'Of a circle.'\\n", "area")
    'import math\\n\\n'
    """
    lines = stub.splitlines(keepends=True)
    tree = _parsed(stub) or _parsed(f"{stub.rstrip()}\n    pass\n")
    for node in tree.body if tree else []:
        if getattr(node, "name", None) == name:
            first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
            return "".join([*lines[: first - 1], *lines[node.end_lineno :]])
    return ""


def _outcome(text: str | None, name: str | None, stub: str | None) -> tuple[str | None, str | None]:
    """The code of one reply, or why there is none."""
    try:
        if text is None or name is None:
            raise ValueError("the text is null" if text is None else "what the code should define is null")
        return python_in(text, name, stub), None
    except ValueError as exc:
        return None, str(exc)


def _blocks(text: str) -> Iterator[tuple[str, str]]:
    """Tag and code of each fenced block; the last may be open, where the reply was cut off."""
    fences = list(_FENCE.finditer(text))
    while fences:
        opening = fences.pop(0)
        marks = opening["fence"]
        closing = next((f for f in fences if f["fence"].startswith(marks) and not f["tag"]), None)
        yield opening["tag"], text[opening.end() + 1 : closing.start() if closing else len(text)]
        fences = [f for f in fences if closing and f.start() > closing.start()]


def _defines(code: str, name: str) -> bool:
    """Whether a line of its own defines the name: also in code that is cut off, or is no Python."""
    own = re.escape(name)
    return re.search(rf"^(?:(?:async def|def|class) +{own}\b|{own} *(?::[^=\n]*)?=)", code, re.MULTILINE) is not None


def _without_prose(text: str) -> str:
    """From the first line that begins as code to the last with which all is Python; all of it, if none is."""
    begin = _CODE_LINE.search(text)
    lines = text[begin.start() if begin else 0 :].splitlines()
    for end in range(len(lines), 0, -1):
        last = lines[end - 1].strip()
        if last and _parsed("\n".join(lines[:end])):
            return "\n".join(lines[:end])
    return "\n".join(lines)


def _continued(stub: str, body: str) -> str:
    """The stub with a body, which may have lost the indentation of all or of its first line."""
    shown = re.search(r"^([ \t]+)\S[^\n]*\s*\Z", stub, re.MULTILINE)
    indent = shown[1] if shown else "    "
    stub = stub if stub.endswith("\n") else f"{stub}\n"
    bodies = [_cut(body), textwrap.indent(textwrap.dedent(body), indent), _cut(indent + body.lstrip())]
    tried = [stub + each for each in bodies if each.strip()]
    return next((code for code in tried if _parsed(code)), tried[0] if tried else stub)


def _cut(body: str) -> str:
    """A body up to the first line that does not belong to it: one that is not indented."""
    lines = body.splitlines()
    first = next((i for i, line in enumerate(lines) if line.strip() and not line[0].isspace()), len(lines))
    return "\n".join(lines[:first]).rstrip()


def _parsed(code: str) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an escape in what a model wrote is no concern of ours
            return ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None

"""Code in all the forms in which models give it."""

from __future__ import annotations

import ast

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agora_frames.errors import BindError, FrameError
from agora_frames.frames import ERROR
from agora_frames.sandbox import sandbox
from agora_frames.stages.code import extract_code, grade_code, preamble, python_in

STUB = '''from typing import List
import math


def helper(x: float) -> float:
    """ Twice as much. """
    return 2 * x


def area(r: float) -> float:
    """ Of a circle.
    >>> area(0)
    0.0
    """
'''
WHOLE = "def area(r):\n    return math.pi * r * r"
BODY = "    return math.pi * r * r"


def value(code: str) -> float:
    scope: dict[str, object] = {}
    exec(code, scope)
    return scope["area"](2)  # type: ignore[operator, no-any-return]


@pytest.mark.parametrize(
    "reply",
    [
        BODY,
        BODY.strip(),
        f"{BODY}\n\n\ndef another():\n    return 1",
        f"{BODY}\n\nprint(area(2))\n",
        f"{BODY}\n# and so on, in prose that is no Python",
        f"    x = r\n{BODY}\nThis is it.",
        f"x = r\n{BODY}",
        f"x = r\nif x:\n{BODY}",
        "x = r\nif x:\n    return math.pi * r * r",
        f"Here it is:\n\n```python\n{WHOLE}\n```\n\nIt is right.",
        f"```\n{WHOLE}\n```",
        f"```Python3\n{WHOLE}\n```",
        f"~~~py\n{WHOLE}\n~~~",
        f"```python\r\n{WHOLE}\r\n```".replace("\n", "\r\n"),
        f"```python\n{BODY}\n```",
        f"```python\n{BODY.strip()}\n```",
        f"```python\n{STUB}{BODY}\n```",
        f"```python\n{WHOLE}",
        "1. So:\n   ```python\n   def area(r):\n       return math.pi * r * r\n   ```",
        f"Install it:\n```bash\npip install x\n```\nand\n```python\n{WHOLE}\n```\nUse:\n```python\nprint(area(1))\n```",
        f"```python\nprint(area(1))\n```\n```python\n{WHOLE}\n```",
        f"```python\n{WHOLE}\n```\nOr, worse:\n```python\ndef area(r):\n    return 0\n```",
        WHOLE,
        f"Sure! Here is the function:\n\n{WHOLE}\n\nIt multiplies.",
        f"import math\n{WHOLE}\n\n# Example\nprint(area(1))",
        f"{STUB}{BODY}",
        "area = lambda r: math.pi * r * r",
        "```python\nasync def other(): pass\narea: object = lambda r: math.pi * r * r\n```",
    ],
)
def test_the_function_is_found(reply: str) -> None:
    assert value(python_in(reply, "area", STUB)) == pytest.approx(12.566370614359172)


@pytest.mark.parametrize("reply", ["", " \n\t"])
def test_an_empty_reply_holds_no_code(reply: str) -> None:
    with pytest.raises(ValueError, match="empty"):
        python_in(reply, "area", STUB)


def test_without_a_stub_the_code_stands_alone() -> None:
    assert python_in(f"```python\n{WHOLE}\n```", "area") == WHOLE
    assert python_in(f"So: \n{WHOLE}\nDone it is.", "area") == WHOLE
    assert python_in(f"{WHOLE}\n[/CODE]", "area") == WHOLE


def test_helpers_of_the_stub_come_with_a_function_that_is_given_whole() -> None:
    code = python_in("```python\ndef area(r):\n    return helper(r)\n```", "area", STUB)
    assert value(code) == 4
    assert ast.parse(preamble(STUB, "area"))
    assert "def area" not in preamble(STUB, "area")


def test_a_stub_without_a_docstring_has_helpers_too() -> None:
    assert preamble("import math\n\ndef f(x):\n    # what it does\n", "f") == "import math\n\n"
    assert preamble("import math\n@cached\ndef f(x):\n    'doc'\nZ = 3\n", "f") == "import math\nZ = 3\n"
    assert preamble("no Python (", "f") == ""


@given(text=st.text(max_size=60), stub=st.none() | st.just(STUB))
def test_any_text_gives_code_or_a_reason(text: str, stub: str | None) -> None:
    try:
        assert isinstance(python_in(text, "area", stub), str)
    except ValueError as exc:
        assert str(exc)


def test_a_reply_that_failed_keeps_its_own_reason() -> None:
    why = {"kind": "refused", "message": "no"}
    df = pl.DataFrame({"completion": [None, None, "", "x = 1"], "entry_point": ["f"] * 4}).with_columns(
        completion_error=pl.Series([why, None, None, None], dtype=ERROR)
    )
    done = extract_code(df)
    assert done["code"].to_list() == [None, None, None, "x = 1"]
    assert done["completion_parse_error"].struct.field("message").to_list() == [
        None,
        "the text is null",
        "the reply is empty",
        None,
    ]


def test_a_column_that_is_missing_is_named() -> None:
    with pytest.raises(FrameError, match="'entry_point'"):
        extract_code(pl.DataFrame({"completion": ["x"]}))


def test_code_is_graded_and_what_was_lost_is_no_score() -> None:
    def runner(programs: pl.DataFrame) -> pl.DataFrame:
        status = pl.Series("status", ["passed", "failed", "lost", "timeout"])
        assert programs.columns == ["code", "tests", "names"]
        return pl.DataFrame({"status": status, "message": "why", "output": "", "seconds": 0.5})

    df = pl.DataFrame({"code": ["a", None, "b", "c", "d"], "tests": ["t"] * 5})
    done = grade_code(df, runner=runner)
    assert done["score"].to_list() == [1.0, None, 0.0, None, 0.0]
    assert done["run_status"].to_list() == ["passed", None, "failed", "lost", "timeout"]
    assert done["score_error"].to_list() == [None, None, None, {"kind": "lost", "message": "why"}, None]


def test_code_runs_in_a_sandbox() -> None:
    df = pl.DataFrame({"code": [WHOLE, f"import math\n{WHOLE}"], "tests": ["assert area(0) == 0"] * 2})
    done = grade_code(df, runner=sandbox(allow_unsafe_code=True))
    assert done["score"].to_list() == [0.0, 1.0]
    assert done["run_message"][0] == "the code raised NameError: name 'math' is not defined at 'assert area(0) == 0'"


@pytest.mark.parametrize("runner", [None, "sandbox"])
def test_a_runner_must_run(runner: object) -> None:
    with pytest.raises(BindError, match="allow_unsafe_code=True"):
        grade_code(pl.DataFrame({"code": ["a"], "tests": [""]}), runner=runner)  # type: ignore[arg-type]


def test_a_runner_must_say_what_came_of_each() -> None:
    with pytest.raises(BindError, match="'status'"):
        grade_code(pl.DataFrame({"code": ["a"], "tests": [""]}), runner=lambda programs: programs)

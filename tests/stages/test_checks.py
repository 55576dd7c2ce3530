"""Checks: what each rule lets through, and what it does not; D6 of data-agora both ways."""

import sys

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agora_frames.stages import checks
from agora_frames.stages.parsers import code_block, tagged


def holds(check, *texts):
    frame = pl.DataFrame({"text": texts}, schema={"text": pl.String})
    return frame.select(check("text"))["text"].to_list()


ONE_COLUMN = [
    checks.not_blank,
    checks.has_one_result,
    checks.ends_with_result,
    checks.balanced_fences,
    checks.is_one_code_block,
    checks.compiles_as_python,
    checks.no_leftover_markers,
]


@pytest.mark.parametrize("check", ONE_COLUMN, ids=lambda check: check.__name__)
def test_null_in_gives_null_out(check):
    assert holds(check, "```\n1\n```", None)[1] is None


@pytest.mark.parametrize("check", ONE_COLUMN, ids=lambda check: check.__name__)
def test_no_rows_give_no_answers(check):
    assert holds(check) == []


def test_differs_is_null_where_one_is_null():
    assert pl.DataFrame({"a": ["x", None]}).select(checks.differs("a", "a"))["a"].to_list() == [False, None]


@pytest.mark.parametrize("check", [checks.tag_matches_theme, checks.untagged_code_compiles], ids=lambda c: c.__name__)
def test_checks_of_a_theme_are_null_where_the_text_is(check):
    frame = pl.DataFrame(
        {"code": [None, "```\n1\n```"], "theme": ["Fixing a Python Code"] * 2}, {"code": str, "theme": str}
    )
    assert frame.select(found=check("code", "theme"))["found"].to_list() == [None, True]
    assert frame.clear().select(found=check("code", "theme"))["found"].to_list() == []


@pytest.mark.parametrize("blank", ["", " ", "\n\t", "\u3000", "\x1c"])
def test_white_space_is_blank(blank):
    assert holds(checks.not_blank, blank, f"{blank}x") == [False, True]


@pytest.mark.parametrize(
    ("a", "b", "differ"), [("q", "a", True), ("q", "q", False), (" Q\n", "q", False), ("É", "é", False)]
)
def test_case_and_surrounding_space_make_no_difference(a, b, differ):
    assert pl.DataFrame({"a": [a], "b": [b]}).select(checks.differs("a", "b")).item() is differ


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("6 + 36 [RESULT] 42 [/RESULT]", True),
        ("[RESULT][/RESULT]", False),
        ("[RESULT] \n [/RESULT]", False),
        ("[/RESULT] 42 [RESULT]", False),
        ("[RESULT] 1 [/RESULT] [RESULT] 2 [/RESULT]", False),
        ("[RESULT] 1 [/RESULT] 2 [/RESULT]", False),
        ("42", False),
    ],
)
def test_a_result_is_given_once_and_is_not_empty(text, good):
    assert holds(checks.has_one_result, text) == [good]


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("[RESULT] 42 [/RESULT]", True),
        ("[RESULT] 42 [/RESULT]\n \n", True),
        ("[RESULT] 42 [/RESULT].", False),
        ("", False),
    ],
)
def test_only_white_space_may_follow_the_result(text, good):
    assert holds(checks.ends_with_result, text) == [good]


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("", True),
        ("```\n1\n```", True),
        ("a\n```\n1\n```\nb\n```\n2\n```", True),
        ("```\n1", False),
        ("``````", False),
        ("x ``` y", True),
    ],
)
def test_fences_come_in_pairs(text, good):
    assert holds(checks.balanced_fences, text) == [good]


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("```python\nprint(1)\n```", True),
        ("```python\nprint(1)\n```\n\n", True),
        ('```python\nprint("Output:", x)\n```', True),
        ("```html\n<input>\n```", True),
        ("```python\ns = '```'\n```", True),
        ("```\n`x`\n```", True),
        ("``````", False),
        ("```a`\n1\n```", False),
        ("````\n1\n````", False),
        ("```\n```", False),
        ("```\n \n```", False),
        ("```python print(1)```", False),
        ("Here it is:\n```python\nprint(1)\n```", False),
        ("```python\nprint(1)\n```\nThis prints 1.", False),
        ("```python\n1\n```\nand then\n```python\n2\n```", False),
        ("```python\nprint(1)", False),
        ("print(1)", False),
        ("", False),
    ],
)
def test_code_is_one_block_with_something_in_it_and_nothing_around(text, good):
    assert holds(checks.is_one_code_block, text) == [good]


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("```python\nprint(1)\n```", True),
        ("```Python\nprint 1\n```", False),
        ("```py\ndef f(:\n```", False),
        ("```python3\nreturn 1\n```", False),
        ("```python\nx = '\x00'\n```", False),
        ("```python\n" + "(" * 300 + ")" * 300 + "\n```", False),
        ("```python\n" + "-" * 100_000 + "1\n```", False),
        ("```python\n1\n```\n```python\n1 +\n```", False),
        ("```java\nclass A {}\n```", True),
        ("```\nnot Python\n```", True),
        ("no code", True),
        ("```python\nnot closed", True),
    ],
)
def test_only_code_tagged_as_python_must_be_python(text, good):
    assert holds(checks.compiles_as_python, text) == [good]


def test_code_is_never_run(tmp_path):
    file = tmp_path / "made"
    assert holds(checks.compiles_as_python, f"```python\nopen({str(file)!r}, 'w')\n```") == [True]
    assert not file.exists()


@pytest.mark.filterwarnings("error")
def test_what_python_warns_of_is_let_through():
    assert holds(checks.compiles_as_python, "```python\nx = '\\d'\n```") == [True]


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="annotations are never evaluated at once there")
def test_the_future_of_this_package_does_not_reach_the_code():
    assert holds(checks.compiles_as_python, "```python\ndef f():\n    def g(x: (yield)): ...\n```") == [True]


@pytest.mark.parametrize(
    "text",
    [
        'print("Output:", x)',
        'print("OUTPUT:", x)',
        "<input>",
        "<form>\n<input>\n</form>",
        "The Input: is 3.\nInput: 3 4\nOutput: 7",
        "Given INPUT: 3 4 and OUTPUT: 7",
        "# INPUT: two numbers, as a comment",
        "    INPUT: indented code",
        "END",
    ],
)
def test_words_that_look_like_markers_are_content(text):
    assert holds(checks.no_leftover_markers, text) == [True]


@pytest.mark.parametrize(
    "text",
    [
        "[END]",
        "a\n[END]",
        "a\n[END] b",
        "INPUT: another",
        "a\n\nOUTPUT:\nb",
        "a\n**INPUT:** b",
        "### OUTPUT: b",
        "Revised Question: q",
    ],
)
def test_a_line_that_begins_with_a_marker_is_left_over(text):
    assert holds(checks.no_leftover_markers, text) == [False]


def test_other_markers_can_be_looked_for():
    df = pl.DataFrame({"text": ["Q: (a)", "INPUT: b"]})
    assert df.select(checks.no_leftover_markers("text", ["Q: ("]))["text"].to_list() == [False, True]


PIECES = ["```", "```python", "`", "x = 1", "\n", "\n", " ", "\x1c", "\r", "[RESULT]", "[/RESULT]"]
TEXTS = st.lists(st.lists(st.sampled_from(PIECES), max_size=9).map("".join), min_size=1, max_size=30)


def succeeds(parser, text):
    try:
        return bool(parser(text))
    except ValueError:
        return False


@settings(max_examples=100, deadline=None)
@given(TEXTS)
def test_one_code_block_is_what_the_parser_takes_for_one_with_nothing_around(texts):
    bare = [text.strip().startswith("```") and text.strip().split("\n")[-1] == "```" for text in texts]
    expected = [only and succeeds(code_block(), text.strip()) for text, only in zip(texts, bare, strict=True)]
    assert holds(checks.is_one_code_block, *texts) == expected


@settings(max_examples=100, deadline=None)
@given(TEXTS)
def test_one_result_is_what_the_parser_takes_for_one(texts):
    assert holds(checks.has_one_result, *texts) == [succeeds(tagged("RESULT"), text) for text in texts]

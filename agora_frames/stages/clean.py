"""Rules that change texts, each by its name, none of them unless asked for, and each telling what it changed.

The rules are what data-agora did to every data set before it uploaded it, without saying so.
Source: neulab/data-agora at 1ed3ec2, agora_scripts/upload_to_hf.py, `process_json_files`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import polars as pl

from agora_frames.errors import BindError, did_you_mean, listed
from agora_frames.frames import require
from agora_frames.stage import stage
from agora_frames.stages.parsers import WHITE

__all__ = ["CLEANING_RULES", "UPSTREAM", "UPSTREAM_CODE", "clean_texts"]

Rule = tuple[str, Callable[[str], str]]

_CHANGE = pl.Struct({"rule": pl.String, "column": pl.String, "removed": pl.Int64})

# Where data-agora cuts code, in this order.
_TEST_MARKS = ("# Test", "// Test", "# Example", "// Example", "# Output", "// Output")
# After the last of which the instruction of an enhanced pair begins, and before the first of which it ends.
_BEFORE = (
    *("Revised Question:", "revised Question:", "Revised Question", "<revised_question>"),
    *("Revised Instance:", "revised instance:", "Revised Instance"),
)
_AFTER = ("Revised Answer:", "revised Answer:")


@stage(rowwise=True)
def clean_texts(
    df: pl.DataFrame,
    *,
    rules: Sequence[str] = (),
    instruction: str = "instruction",
    response: str = "response",
    into: str = "cleaned",
) -> pl.DataFrame:
    """Changes texts by the rules that are named, in their order, and says of each row what each rule did to it.

    Reads: the columns `instruction` and `response` (String), as far as a rule is about them.
    Adds: `into` (List(Struct{rule, column, removed}), never null: one for each rule that changed the row, `removed`
    being how many characters fewer there are, negative where there are more). The two columns are replaced; a null
    stays null.
    Rows: the same, in the same order.
    rules: names in CLEANING_RULES; none by default. `UPSTREAM` is what data-agora does, `UPSTREAM_CODE` what it does
    where the name of the file holds "code". They are blunt: `cut_code_at_tests` cuts at any `# Example`, be it in a
    string, and `cut_response_at_note` takes all that follows "Note: ", so that later checks may fail a good row.
    Clean before `validate`, not after it.
    Raises: BindError for a rule that there is not; FrameError when a column is missing or is not String.

    >>> df = pl.DataFrame({"instruction": ["INPUT: What is 2 + 2?"], "response": ["4.Note: easy."]})
    >>> done = clean_texts(df, rules=["strip_input_marker", "cut_response_at_note"])
    >>> done.row(0)[:2]
    ('What is 2 + 2?', '4.')
    >>> done["cleaned"][0].to_list()[1]
    {'rule': 'cut_response_at_note', 'column': 'response', 'removed': 11}
    """
    if isinstance(rules, str):
        raise BindError(f"clean_texts(rules={rules!r}): it must be a list of names, such as [{rules!r}].")
    for rule in rules:
        if rule not in CLEANING_RULES:
            raise BindError(
                f"clean_texts() has no rule {rule!r}{did_you_mean(rule, CLEANING_RULES) or '.'} It has: "
                f"{listed(CLEANING_RULES, most=20)}."
            )
    named = {"instruction": instruction, "response": response}
    changes: list[list[dict[str, object]]] = [[] for _ in range(df.height)]
    for rule in rules:
        role, change = CLEANING_RULES[rule]
        column = named[role]
        require(df, column, stage="clean_texts", dtype=pl.String())
        after: list[str | None] = []
        for old, told in zip(df[column].cast(pl.String), changes, strict=True):
            if old is None:
                after.append(None)
                continue
            new = change(old)
            if new != old:
                told.append({"rule": rule, "column": column, "removed": len(old) - len(new)})
            after.append(new)
        df = df.with_columns(pl.Series(column, after, dtype=pl.String))
    return df.with_columns(pl.Series(into, changes, dtype=pl.List(_CHANGE)))


def _strip_input_marker(text: str) -> str:
    return text.removeprefix("[INPUT]") if text.startswith("[INPUT]") else text.removeprefix("INPUT: ")


def _cut_code_at_tests(text: str) -> str:
    for mark in _TEST_MARKS:
        if mark in text:
            text = text.partition(mark)[0] + "\n```"
    return text


def _keep_revised_question(text: str) -> str:
    for mark in _BEFORE:
        text = text.rpartition(mark)[2]
    for mark in _AFTER:
        text = text.partition(mark)[0]
    return text


def _strip_steps(text: str) -> str:
    for number in range(20):
        for signs in ("###", "##", "#"):
            text = text.replace(f"{signs} Step {number}:", "\n")
    return text


def _unrevise(text: str) -> str:
    return text.replace("revised question", "question").replace("revised answer", "answer")


def _unrevise_instruction(text: str) -> str:
    return _unrevise(text).replace("Revised Answer", "answer")


def _cut_at_note(text: str) -> str:
    return text.partition("Note: ")[0]


def _strip(text: str) -> str:
    return text.strip(WHITE)


def _drop_last_blank_line(text: str) -> str:
    return text.removesuffix("\n\n")


def _end_lines(text: str) -> str:
    return re.sub(r"\r\n?", "\n", text)


# What each is about, and what it does.
CLEANING_RULES: dict[str, Rule] = {
    "strip_input_marker": ("instruction", _strip_input_marker),
    "cut_code_at_tests": ("response", _cut_code_at_tests),
    "keep_revised_question": ("instruction", _keep_revised_question),
    "unrevise_instruction": ("instruction", _unrevise_instruction),
    "strip_instruction": ("instruction", _strip),
    "strip_steps": ("instruction", _strip_steps),
    "drop_last_blank_line": ("instruction", _drop_last_blank_line),
    "cut_response_at_note": ("response", _cut_at_note),
    "unrevise_response": ("response", _unrevise),
    "strip_response": ("response", _strip),
    # Not data-agora's: seeds of MBPP have Windows' line ends.
    "end_lines_in_instruction": ("instruction", _end_lines),
    "end_lines_in_response": ("response", _end_lines),
}

# What data-agora does, in its order; the code rule where the name of the file holds "code".
UPSTREAM_CODE = (
    *("strip_input_marker", "cut_code_at_tests", "keep_revised_question", "unrevise_instruction", "strip_instruction"),
    *("strip_steps", "drop_last_blank_line", "cut_response_at_note", "unrevise_response", "strip_response"),
)
UPSTREAM = tuple(rule for rule in UPSTREAM_CODE if rule != "cut_code_at_tests")

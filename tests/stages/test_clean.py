"""clean_texts: each rule does what its name says, is told of, and none runs unasked."""

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agora_frames.errors import BindError, FrameError
from agora_frames.stages.clean import CLEANING_RULES, UPSTREAM, UPSTREAM_CODE, clean_texts

KNOWN = [
    ("strip_input_marker", "INPUT: Add.", "Add."),
    ("strip_input_marker", "[INPUT] Add. [INPUT]", " Add. [INPUT]"),
    ("strip_input_marker", "Add INPUT: 3.", "Add INPUT: 3."),
    ("cut_code_at_tests", "```python\nf()\n# Test cases\nassert f()\n```", "```python\nf()\n\n```"),
    ("cut_code_at_tests", "```js\nf()\n// Example\nf(1)\n// Output\n```", "```js\nf()\n\n```"),
    ("cut_code_at_tests", "```c\nf();\n// Output\n# Test\n```", "```c\nf();\n\n```"),
    ("cut_code_at_tests", "```python\nf()\n```", "```python\nf()\n```"),
    ("keep_revised_question", "Better.\nRevised Question: What is 2?\nRevised Answer: 2", " What is 2?\n"),
    ("keep_revised_question", "<revised_question>What?", "What?"),
    ("unrevise_instruction", "The revised question and the Revised Answer", "The question and the answer"),
    ("strip_instruction", "\n\u3000Add. \x1c", "Add."),
    ("strip_steps", "### Step 1:Add.\n# Step 12: Halve. Step 3:", "\nAdd.\n\n Halve. Step 3:"),
    ("strip_steps", "### Step 20: Add.", "### Step 20: Add."),
    ("drop_last_blank_line", "Add.\n\n", "Add."),
    ("cut_response_at_note", "4. Note: easy. Note: very.", "4. "),
    ("unrevise_response", "My revised answer to the Revised Answer", "My answer to the Revised Answer"),
    ("strip_response", " 4\n", "4"),
    ("end_lines_in_instruction", "a\r\nb\rc\n", "a\nb\nc\n"),
    ("end_lines_in_response", "a\r\nb", "a\nb"),
]


def cleaned(rule, text, **columns):
    role = CLEANING_RULES[rule][0]
    other = "response" if role == "instruction" else "instruction"
    frame = pl.DataFrame({role: [text], other: ["untouched \n"], **columns}, schema_overrides={role: pl.String})
    done = clean_texts(frame, rules=[rule])
    assert done[other].to_list() == ["untouched \n"]
    return done[role][0], done["cleaned"][0].to_list(), role


@pytest.mark.parametrize(("rule", "text", "expected"), KNOWN)
def test_a_rule_does_what_it_says_and_tells_what_it_did(rule, text, expected):
    found, told, role = cleaned(rule, text)
    assert found == expected
    removed = len(text) - len(expected)
    assert told == ([{"rule": rule, "column": role, "removed": removed}] if text != expected else [])


def test_every_rule_has_a_known_answer():
    assert {rule for rule, _, _ in KNOWN} == set(CLEANING_RULES)


def test_nothing_is_changed_unless_asked_for():
    frame = pl.DataFrame({"instruction": ["INPUT: a "], "response": ["b Note: c"]})
    assert clean_texts(frame).equals(
        frame.with_columns(cleaned=pl.Series([[]], dtype=clean_texts(frame).schema["cleaned"]))
    )


def test_rules_run_in_the_order_given():
    frame = pl.DataFrame({"instruction": ["  INPUT: Add."], "response": ["4"]})
    late, early = (
        clean_texts(frame, rules=[*r])["instruction"][0]
        for r in ((*UPSTREAM[:1], "strip_instruction"), ("strip_instruction", *UPSTREAM[:1]))
    )
    assert (late, early) == ("INPUT: Add.", "Add.")


def test_what_upstream_does_to_a_row_is_told_rule_by_rule():
    frame = pl.DataFrame(
        {
            "instruction": ["INPUT: Revised Question: Fix the revised question.\n### Step 1:"],
            "response": ["```python\nf()\n# Example\nf(1)\n```\nNote: not run"],
        }
    )
    done = clean_texts(frame, rules=UPSTREAM_CODE)
    assert done.select("instruction", "response").row(0) == ("Fix the question.", "```python\nf()\n\n```")
    assert [change["rule"] for change in done["cleaned"][0]] == [
        "strip_input_marker", "cut_code_at_tests", "keep_revised_question", "unrevise_instruction", "strip_instruction",
        "strip_steps", "drop_last_blank_line",
    ]  # fmt: skip
    assert "cut_code_at_tests" not in UPSTREAM


@given(texts=st.lists(st.none() | st.text(alphabet="ab #/\n:", max_size=8) | st.sampled_from([t for _, t, _ in KNOWN])))
def test_the_changes_told_add_up(texts):
    frame = pl.DataFrame({"instruction": texts, "response": texts}, schema={"instruction": str, "response": str})
    done = clean_texts(frame, rules=UPSTREAM_CODE)
    for column in ("instruction", "response"):
        told = [sum(c["removed"] for c in row if c["column"] == column) for row in done["cleaned"].to_list()]
        lengths = [[None if t is None else len(t) for t in f[column]] for f in (frame, done)]
        assert told == [0 if a is None else a - b for a, b in zip(*lengths, strict=True)]
    assert done["instruction"].is_null().to_list() == [t is None for t in texts]


@pytest.mark.parametrize(
    ("rules", "told"), [(["strip_step"], "did you mean 'strip_steps'"), ("strip_steps", "must be a list")]
)
def test_a_rule_that_there_is_not_is_told(rules, told):
    with pytest.raises(BindError, match=told):
        clean_texts(pl.DataFrame({"instruction": ["a"]}), rules=rules)


def test_only_the_columns_of_the_rules_are_read():
    assert clean_texts(pl.DataFrame({"instruction": [" a"]}), rules=["strip_instruction"])["instruction"][0] == "a"
    with pytest.raises(FrameError, match="'response'"):
        clean_texts(pl.DataFrame({"instruction": ["a"]}), rules=["strip_response"])

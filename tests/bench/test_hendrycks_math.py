r"""MATH: answers in the last box, equality by meaning or by letter, and a whole evaluation by a script."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

import agora_frames as af
from agora_frames.bench.benchmark import evaluate, evaluation, report
from agora_frames.bench.hendrycks_math import grade_math, hendrycks_math, load_math, math_answer
from agora_frames.bench.math_runner import math_runner
from agora_frames.errors import BindError, FrameError

ROWS = "math/math500_rows_000-249.jsonl"
RUNNER = math_runner(limit_s=60)


@pytest.fixture(scope="module")
def items(shared_data: Path) -> pl.DataFrame:
    return load_math(shared_data / ROWS)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"So \boxed{5}.", "5"),
        (r"\boxed{1}, no: \boxed{2}", "2"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\fbox{7}", "7"),
        (r"\boxed{\boxed{5}}", "5"),
        (r"\boxed {5}", "5"),
        (r"$\boxed 5$", "5"),
        (r"\boxed{\{1,2\}}", r"\{1,2\}"),
        (r"\boxed{a \} b}", r"a \} b"),
        ("[RESULT] 42 [/RESULT]", "42"),
        ("[RESULT] $x = 3$. [/RESULT]", "x = 3"),
        (r"[RESULT] \(x\) [/RESULT]", "x"),
        (r"[RESULT] \boxed{5} [/RESULT]", "5"),
        (r"\boxed{5} then [RESULT] 6 [/RESULT]", "6"),
        ("[RESULT] 42\nThat is all.", "42"),
        (r"\boxed{" + "{" * 3000 + "}" * 3000 + "}", "{" * 3000 + "}" * 3000),
    ],
)
def test_the_last_answer_is_found(text: str, answer: str) -> None:
    assert math_answer()(text) == answer


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("42", "there is no"),
        ("", "there is no"),
        (r"\boxed{}", "is empty"),
        ("[RESULT] [/RESULT]", "is empty"),
        (r"\boxed{\frac{1}{2}", "not closed"),
        (r"\boxed{1} and \boxed{2", "not closed"),
        (r"\boxed{" * 1_000_000, "not closed"),
        ("x" * 10_000_000, "there is no"),
    ],
)
def test_a_text_without_an_answer_says_why(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        math_answer()(text)


@given(st.lists(st.sampled_from([*"\\{}[]$. 5x", r"\boxed{", "[RESULT]", "[/RESULT]"]), max_size=30).map("".join))
def test_any_text_gives_an_answer_or_a_reason(text: str) -> None:
    try:
        assert math_answer()(text).strip()
    except ValueError as reason:
        assert str(reason)


def test_each_reference_is_the_last_box_of_its_solution(items: pl.DataFrame) -> None:
    found = [math_answer()(solution) for solution in items["solution"]]
    assert (pl.Series(found) == items["reference"]).sum() == 250


def test_without_answers_the_references_are_found_in_the_solutions(shared_data: Path, tmp_path: Path) -> None:
    rows = af.read_frame(shared_data / ROWS)
    af.write_frame(rows.drop("answer", "unique_id"), tmp_path / "a.jsonl")
    loaded = load_math(tmp_path / "a.jsonl", subset="full")
    assert loaded["reference"].to_list() == rows["answer"].to_list()
    assert loaded["item_id"].to_list() == [str(i) for i in range(250)]


@pytest.mark.slow
def test_each_reference_means_the_same_as_itself_written_otherwise(items: pl.DataFrame) -> None:
    spaced = items.with_columns(answer=pl.format(r"\displaystyle {}", "reference"))
    assert grade_math(spaced, runner=RUNNER)["score"].to_list() == [1.0] * 250


@pytest.mark.slow
def test_no_reference_means_the_same_as_the_next_but_where_it_does(items: pl.DataFrame) -> None:
    shifted = items.with_columns(answer=pl.col("reference").shift(-1, fill_value=items["reference"][0]))
    differ = shifted.filter(pl.col("answer") != pl.col("reference"))
    graded = grade_math(differ, runner=RUNNER)
    assert graded.height == 249
    # 5 and x=5: an equation for one variable is taken as its value.
    assert graded.filter(pl.col("score") == 1).select("reference", "answer").rows() == [("5", "x=5")]
    assert graded["score"].null_count() == 0


def knowing(items: pl.DataFrame, form: str) -> Any:
    known = dict(items.select("problem", "reference").iter_rows())

    def reply(messages: list[dict[str, str]]) -> str:
        asked = messages[-1]["content"].rpartition("Problem: ")[2]
        problem = re.sub(r"\nSolution:\s*$", "", asked).partition("\n\nWork it out step by step.")[0]
        return form.replace("{}", known[problem.strip()])

    return af.scripted(reply, model=form)


@pytest.mark.parametrize("shots", ["zero", "few"])
@pytest.mark.parametrize("form", [r"It is \boxed{{}}.", "[RESULT] {} [/RESULT]"])
@pytest.mark.parametrize("equality", ["exact", "math_verify"])
def test_a_perfect_model_gets_all_points(items: pl.DataFrame, shots: Any, form: str, equality: Any) -> None:
    bench = hendrycks_math(equality=equality, runner=RUNNER)
    few = items.head(20)
    rows = evaluate(bench, backend=knowing(few, form), items=few, shots=shots)
    (row,) = report(rows, benchmark=bench, items=few, shots=shots).to_dicts()
    assert (row["benchmark"], row["score"], row["n"], row["n_unread"]) == ("math_500", 100, 20, 0)


@pytest.mark.parametrize(("reply", "unread"), [(r"\boxed{-123456789}", 0), ("I give up.", 20)])
def test_a_model_that_is_always_wrong_gets_none(items: pl.DataFrame, reply: str, unread: int) -> None:
    bench, few = hendrycks_math(runner=RUNNER), items.head(20)
    rows = evaluate(bench, backend=af.scripted(lambda messages: reply), items=few)
    (row,) = report(rows, benchmark=bench, items=few).to_dicts()
    assert (row["score"], row["n_failed"], row["n_unread"]) == (0, 0, unread)


def test_letters_count_in_the_exact_rule_and_meaning_in_the_other() -> None:
    one = pl.DataFrame({"item_id": ["0"], "problem": ["Half of 1?"], "reference": [r"\frac{1}{2}"]})
    half = af.scripted(lambda messages: r"\boxed{0.5}")
    assert evaluate(hendrycks_math(equality="exact"), backend=half, items=one)["score"].to_list() == [0.0]
    assert evaluate(hendrycks_math(runner=RUNNER), backend=half, items=one)["score"].to_list() == [1.0]


def test_an_answer_that_cannot_be_compared_counts_as_wrong_and_says_so() -> None:
    one = pl.DataFrame({"item_id": ["0"], "problem": ["6 * 7?"], "reference": ["42"]})
    long = af.scripted(lambda messages: r"\boxed{" + "1+" * 5000 + "1}")
    rows = evaluate(hendrycks_math(), backend=long, items=one)
    assert rows.select("score", pl.col("score_error").struct.field("kind")).row(0) == (0.0, "undecided")
    assert evaluate(hendrycks_math(wrong=()), backend=long, items=one)["score"].to_list() == [None]


def test_the_folder_of_the_official_release_is_read(tmp_path: Path) -> None:
    for subject, name in (("algebra", "10"), ("algebra", "2"), ("geometry", "1")):
        (tmp_path / subject).mkdir(exist_ok=True)
        one = {
            "problem": f"{subject} {name}",
            "level": "Level 3",
            "type": "Algebra",
            "solution": r"\boxed{\frac{1}{2}}",
        }
        (tmp_path / subject / f"{name}.json").write_text(json.dumps(one))
    items = load_math(tmp_path, subset="full")
    assert items["item_id"].to_list() == ["algebra/2.json", "algebra/10.json", "geometry/1.json"]
    assert items.select("reference", "level").unique().rows() == [(r"\frac{1}{2}", 3)]


def test_an_evaluation_has_the_same_fingerprint_each_time_and_another_for_another_rule() -> None:
    backend = af.scripted(str)
    one, same = (evaluation(hendrycks_math(), backend=backend) for _ in range(2))
    other = evaluation(hendrycks_math(equality="exact"), backend=backend)
    assert one.fingerprint == same.fingerprint != other.fingerprint


def test_a_problem_without_an_answer_is_told(tmp_path: Path) -> None:
    af.write_frame(pl.DataFrame({"problem": ["a"], "solution": ["none"]}), tmp_path / "a.jsonl")
    with pytest.raises(FrameError, match="'none'"):
        load_math(tmp_path / "a.jsonl")


def test_a_subset_that_is_not_there_is_refused() -> None:
    with pytest.raises(BindError, match="'full' or '500'"):
        hendrycks_math(subset="5000")  # type: ignore[arg-type]


def test_no_test_item_is_among_the_demonstrations(items: pl.DataFrame) -> None:
    template = str(hendrycks_math().prompts["few"].template)
    assert template.count(r"\boxed{") == 4
    assert not any(problem[:50] in template for problem in items["problem"])

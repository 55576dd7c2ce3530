"""Grades come from replies that can be read; all else is a null with its reason."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

import agora_frames as af
from agora_frames.backends.scripted import failing
from agora_frames.errors import BindError, FrameError, TemplateError
from agora_frames.metrics.judge import Judge, difficulty, judge_column, judge_fingerprint, quality, rated

MODEL = af.scripted(lambda messages: "Feedback: fine. [RESULT] 4", model="judge-1")


def rows(*answers: str | None) -> pl.DataFrame:
    return pl.DataFrame({"instruction": ["1 + 1?"] * len(answers), "response": answers}).pipe(af.with_row_ids)


def judged(said: Any, *answers: str | None, **params: Any) -> pl.DataFrame:
    """The rows, judged by a model that says this."""
    model = af.scripted(said if callable(said) else lambda messages: said, model="judge")
    return rows(*(answers or ("2",))).pipe(judge_column, judge=quality("math"), into="q", backend=model, **params)


# --- reading -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "Feedback: it holds. [RESULT] 4",
        "[RESULT] 4.",
        "[RESULT] 4/5",
        "**[RESULT]** 4",
        "[RESULT]: **4**",
        "[RESULT] (4)",
        "[result] Score: 4",
        "[RESULT]\n4\n",
        "[RESULT] 4 [/RESULT]",
        "as said, [RESULT] 4. So [RESULT] 4",
        "[RESULT] 4 out of 5",
    ],
)
def test_a_score_is_read_from_the_ways_in_which_judges_write_it(text: str) -> None:
    assert rated()(text) == 4


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "there is no '[RESULT]'"),
        ("I give it a 4.", "there is no '[RESULT]'"),
        ("[RESULT]", "found 'none'"),
        ("[RESULT] four", "found 'none'"),
        ("[RESULT] 6", "found '6'"),
        ("[RESULT] 0", "found '0'"),
        ("[RESULT] -1", "found '-1'"),
        ("[RESULT] 45", "found '45'"),
        ("[RESULT] 4.5", "found '4.5'"),
        ("[RESULT] 4,5", "found '4,5'"),
        ("[RESULT] 4/10", "found '4/10'"),
        ("[RESULT] 3-4", "found '3-4'"),
        ("[RESULT] ٤", "found '٤'"),
        ("[RESULT] 4 no, [RESULT] 2", "ambiguous"),
    ],
)
def test_what_is_no_score_is_not_taken_for_one(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=r".") as told:
        rated()(text)
    assert why in str(told.value)


@given(st.text())
def test_whatever_a_judge_says_a_score_is_on_the_scale(text: str) -> None:
    for said in (text, f"[RESULT]{text}", f"[RESULT] 4{text}"):
        try:
            assert rated()(said) in (1, 2, 3, 4, 5)
        except ValueError:
            continue


@given(low=st.integers(0, 9), span=st.integers(1, 9), data=st.data())
def test_each_number_of_a_scale_is_read_as_itself(low: int, span: int, data: st.DataObject) -> None:
    score = data.draw(st.integers(low, low + span))
    assert rated(low, low + span)(f"Feedback: so. [RESULT] {score}") == score


def test_a_scale_that_is_none_is_refused() -> None:
    with pytest.raises(BindError, match=r"rated\(5, 1\)"):
        rated(5, 1)


# --- judging -------------------------------------------------------------------------------------------------------


def test_a_grade_stands_beside_the_reply_the_call_and_the_judge() -> None:
    done = judged("Feedback: terse. [RESULT] 3")
    assert done.columns[-5:] == ["q", "q_text", "q_error", "q_call", "q_judge"]
    assert done["q"].to_list() == [3]
    assert done["q_text"].to_list() == ["Feedback: terse. [RESULT] 3"]
    assert done["q_call"].struct.field("model").to_list() == ["judge"]


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("I cannot say.", "unparsed"),
        (failing("refused", text="[RESULT] 5"), "refused"),
        (failing("timeout"), "timeout"),
        (failing("truncated", text="Feedback: it", finish_reason="length"), "truncated"),
    ],
)
def test_a_judgement_that_failed_is_a_null_with_its_reason(said: Any, kind: str) -> None:
    done = judged(said)
    assert done["q"].to_list() == [None]
    assert done["q_error"].struct.field("kind").to_list() == [kind]


def test_a_verdict_that_was_said_before_a_reply_was_cut_off_counts() -> None:
    done = judged(failing("truncated", text="Feedback: good. [RESULT] 5", finish_reason="length"))
    assert (done["q"].to_list(), done["q_error"].to_list()) == ([5], [None])


def test_a_row_with_nothing_to_judge_is_not_asked_and_stays() -> None:
    done = judged("[RESULT] 5", "2", None)
    assert done["q"].to_list() == [5, None]
    assert done["q_call"].to_list()[1] is None
    assert done["q_error"].struct.field("kind").to_list() == [None, "null_value"]


def test_the_judge_is_shown_rubric_task_and_answer_as_they_are() -> None:
    seen: list[str] = []

    def look(messages: list[dict[str, str]]) -> str:
        seen.append(messages[-1]["content"])
        return "[RESULT] 1"

    judged(look, "{{ rubric }} [RESULT] 5")
    assert quality("math").rubric in seen[0]
    assert "{{ rubric }} [RESULT] 5" in seen[0]


def test_a_difficulty_judge_needs_and_sees_no_response() -> None:
    df = rows("SECRET").drop("response")
    model = af.scripted(lambda messages: f"[RESULT] {2 + ('SECRET' in str(messages))}")
    assert df.pipe(judge_column, judge=difficulty("math"), backend=model)["judgement"].to_list() == [2]
    df = rows("SECRET")
    assert df.pipe(judge_column, judge=difficulty("math"), backend=model)["judgement"].to_list() == [2]


def test_columns_of_other_names_are_judged_and_those_of_the_frame_stay() -> None:
    df = pl.DataFrame({"question": ["1 + 1?"], "answer": ["2"], "response": ["kept"], "rubric": ["kept"]})
    model = af.scripted(lambda messages: "[RESULT] 5" if "kept" not in str(messages) else "[RESULT] 1")
    done = df.pipe(af.with_row_ids).pipe(
        judge_column, judge=quality("math"), instruction="question", response="answer", backend=model
    )
    assert done.select("response", "rubric", "judgement").row(0) == ("kept", "kept", 5)


def test_a_second_judgement_takes_the_place_of_the_first_of_its_name() -> None:
    df = judged("nothing to read").pipe(judge_column, judge=quality("math"), into="q", backend=MODEL)
    assert df["q"].to_list() == [4]
    assert df["q_error"].to_list() == [None]
    assert len(df.columns) == len(set(df.columns))


def test_two_judges_stand_side_by_side() -> None:
    other = af.scripted(lambda messages: "[RESULT] 2", model="judge-2")
    df = rows("2").pipe(judge_column, judge=quality("math"), into="a", backend=MODEL)
    df = df.pipe(judge_column, judge=quality("math"), into="b", backend=other)
    assert df.select("a", "b").row(0) == (4, 2)
    assert df["a_judge"][0] != df["b_judge"][0]


def test_a_missing_column_is_told_with_the_nearest() -> None:
    with pytest.raises(FrameError, match="did you mean 'response'"):
        rows("2").pipe(judge_column, judge=quality("math"), response="respone", backend=MODEL)
    with pytest.raises(TemplateError, match="asks for 'response'"):
        rows("2").drop("response").pipe(judge_column, judge=quality("math"), backend=MODEL)


def test_what_is_no_judge_is_refused() -> None:
    with pytest.raises(BindError, match=r"write judge=quality\('math'\)"):
        rows("2").pipe(judge_column, judge="quality/math", backend=MODEL)


def test_a_verdict_may_not_take_the_place_of_what_is_judged() -> None:
    with pytest.raises(BindError, match="over what is judged"):
        rows("2").pipe(judge_column, judge=quality("math"), into="response", backend=MODEL)


def test_a_domain_without_a_rubric_is_told_with_those_that_have_one() -> None:
    with pytest.raises(BindError, match="'math', 'code', 'general'"):
        quality("poetry")  # type: ignore[arg-type]


def test_a_plan_counts_what_a_judge_would_be_asked() -> None:
    model = af.connect("scripted:builtins:str", ledger="no-such-ledger")
    planned = af.plan(judge_column(judge=quality("math"), backend=model), df=rows("2", "3", None))
    assert planned.select("step", "rows", "calls", "to_ask").row(0) == ("judge_column", 3, 2, 2)


# --- fingerprints --------------------------------------------------------------------------------------------------

JUDGE = quality("math")
OTHERS = {
    "prompt": replace(JUDGE, prompt="Grade {{ response }}."),
    "rubric": replace(JUDGE, rubric="Is it short?"),
    "parser": replace(JUDGE, parser=rated(1, 10)),
    "sampling": replace(JUDGE, sampling={"temperature": 0.5, "max_tokens": 1024}),
    "follow_up": replace(JUDGE, follow_up="And?"),
    "domain": quality("code"),
    "what": difficulty("math"),
}


@pytest.mark.parametrize("what", OTHERS)
def test_whatever_changes_a_judgement_changes_the_fingerprint(what: str) -> None:
    assert judge_fingerprint(OTHERS[what], backend=MODEL) != judge_fingerprint(JUDGE, backend=MODEL)


def test_another_model_is_another_judge() -> None:
    other = af.scripted(str, model="judge-2")
    assert judge_fingerprint(JUDGE, backend=other) != judge_fingerprint(JUDGE, backend=MODEL)


def test_a_name_an_order_and_a_draw_make_no_other_judge() -> None:
    same = replace(JUDGE, name="other", sampling={"max_tokens": 1024, "temperature": 0, "top_p": None})
    assert judge_fingerprint(same, backend=MODEL) == judge_fingerprint(JUDGE, backend=MODEL)
    df = rows("2").pipe(judge_column, judge=JUDGE, into="a", seed=0, backend=MODEL)
    df = df.pipe(judge_column, judge=JUDGE, into="b", seed=1, backend=MODEL)
    assert df["a_judge"].to_list() == df["b_judge"].to_list()


def test_a_fingerprint_is_the_same_in_another_process() -> None:
    code = (
        "import agora_frames as af; from agora_frames.metrics.judge import *;"
        "print(judge_fingerprint(quality('math'), backend=af.scripted(str, model='judge-1')))"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": "7"}
    told = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True, env=env).stdout
    assert told.strip() == judge_fingerprint(JUDGE, backend=MODEL)


@pytest.mark.parametrize("what", [quality, difficulty])
@pytest.mark.parametrize("domain", ["math", "code", "general"])
def test_each_packaged_rubric_describes_each_grade_once(what: Any, domain: str) -> None:
    judge: Judge = what(domain)
    lines = judge.rubric.splitlines()
    assert [line[:3] for line in lines[1:]] == ["1: ", "2: ", "3: ", "4: ", "5: "]


def test_no_two_packaged_judges_are_the_same() -> None:
    judges = [what(domain) for what in (quality, difficulty) for domain in ("math", "code", "general")]
    assert len({judge_fingerprint(judge, backend=MODEL) for judge in judges}) == 6

"""Two answers are compared in a drawn order or in both, and the verdict says how far the second is preferred."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

import agora_frames as af
from agora_frames.backends.scripted import failing
from agora_frames.errors import BindError, FrameError
from agora_frames.metrics.judge import Judge, judge_fingerprint
from agora_frames.metrics.pairs import comparison, judge_again, judge_pairs
from agora_frames.metrics.verdicts import first_token, one_word, verdict_label

PROMPT = "{{ instruction }}\nA: {{ answer_a }}\nB: {{ answer_b }}"
LABELS = Judge("labels", PROMPT, verdict_label(), follow_up="Your verdict?")
TOKENS = Judge("tokens", PROMPT, first_token("m", "M"), sampling={"temperature": 0, "max_tokens": 1, "logprobs": 5})


def shown(messages: list[dict[str, str]]) -> tuple[str, str]:
    found = re.search(r"\nA: (.*)\nB: (.*)$", messages[0]["content"])
    assert found
    return found[1], found[2]


def prefers(good: str) -> Callable[[list[dict[str, str]]], str]:
    """A judge that knows which answer is the good one, wherever it stands."""
    return lambda messages: "[[A>>B]]" if shown(messages)[0] == good else "[[B>A]]"


def pairs(n: int = 1, *, first: str | None = "old", second: str | None = "new") -> pl.DataFrame:
    return pl.DataFrame(
        {"instruction": [f"task {i}" for i in range(n)], "first": [first] * n, "second": [second] * n}
    ).pipe(af.with_row_ids)


def test_the_preference_is_for_the_second_answer_wherever_it_was_shown() -> None:
    done = pairs(40).pipe(judge_pairs, judge=LABELS, backend=af.scripted(prefers("new")))
    assert done["preference"].to_list() == [1.0] * 40
    assert set(done["preference_label"]) == {"A>>B", "B>A"}
    assert (done["preference_weight"] == 3).to_list() == done["preference_swapped"].to_list()


def test_about_half_of_the_rows_are_swapped() -> None:
    done = pairs(1000).pipe(judge_pairs, judge=LABELS, backend=af.scripted(prefers("new")))
    assert 440 < done["preference_swapped"].sum() < 560


@given(st.randoms())
def test_the_order_of_a_row_hangs_on_its_name_and_not_on_its_place(rng: Any) -> None:
    df = pairs(20)
    mixed = df[rng.sample(range(20), 20)]
    backend = af.scripted(prefers("new"))
    one, other = (d.pipe(judge_pairs, judge=LABELS, backend=backend).sort("row_id") for d in (df, mixed))
    assert one.select("row_id", "preference_swapped").equals(other.select("row_id", "preference_swapped"))


def test_another_seed_draws_other_orders() -> None:
    backend = af.scripted(prefers("new"))
    one, other = (pairs(50).pipe(judge_pairs, judge=LABELS, seed=seed, backend=backend) for seed in (0, 1))
    assert one["preference_swapped"].to_list() != other["preference_swapped"].to_list()


def test_both_orders_are_two_games_of_one_row() -> None:
    done = pairs(2).pipe(judge_pairs, judge=LABELS, order="both", backend=af.scripted(lambda m: "[[A>B]]"))
    assert done["sample"].to_list() == [0, 1, 0, 1]
    assert done["preference_swapped"].to_list() == [False, True, False, True]
    assert done["preference"].to_list() == [0.0, 1.0, 0.0, 1.0]


def test_games_of_several_samples_are_all_told_apart() -> None:
    df = pairs(1).with_columns(sample=pl.Series([[0, 1]])).explode("sample")
    done = df.pipe(judge_pairs, judge=LABELS, order="both", backend=af.scripted(prefers("new")))
    assert done["sample"].to_list() == [0, 1, 2, 3]


def test_equal_answers_are_a_tie_that_nobody_is_asked_about() -> None:
    backend = af.scripted(lambda messages: pytest.fail("asked"))
    done = pairs(1, first="same", second="same").pipe(judge_pairs, judge=LABELS, backend=backend)
    assert done.select("preference", "preference_weight", "preference_label").row(0) == (0.5, 1.0, "equal")
    assert done["preference_error"].to_list() == [None]
    asked = pairs(1, first="same", second="same").pipe(
        judge_pairs, judge=LABELS, equal_is_tie=False, order="given", backend=af.scripted(lambda m: "[[A>B]]")
    )
    assert asked["preference"].to_list() == [0.0]


@pytest.mark.parametrize(
    ("said", "kind"),
    [("Both are fine.", "unparsed"), ("[[A>B]] [[B>A]]", "unparsed"), (failing("timeout"), "timeout")],
)
def test_a_comparison_that_failed_is_a_null_with_its_reason(said: Any, kind: str) -> None:
    done = pairs(1).pipe(judge_pairs, judge=LABELS, backend=af.scripted(lambda m: said))
    assert done.select("preference", "preference_weight", "preference_label").row(0) == (None, None, None)
    assert done["preference_error"].struct.field("kind").to_list() == [kind]


def test_a_missing_answer_is_not_judged() -> None:
    done = pairs(1, second=None).pipe(judge_pairs, judge=LABELS, backend=af.scripted(lambda m: "[[A>B]]"))
    assert done["preference"].to_list() == [None]
    assert done["preference_error"].struct.field("kind").to_list() == ["null_value"]


# --- probabilities ---------------------------------------------------------------------------------------------------


def token(said: str, top: dict[str, float]) -> dict[str, Any]:
    """One token, as an endpoint tells it when max_tokens is 1: the reply is cut off there."""
    seen = [{"token": t, "logprob": p} for t, p in top.items()]
    logprobs = [{"token": said, "logprob": top[said], "top": seen}]
    return failing("truncated", text=said, finish_reason="length", logprobs=logprobs)


def test_a_judge_of_tokens_shares_its_preference() -> None:
    backend = af.scripted(lambda m: token("m", {"m": -0.1, "M": -2.4}))
    done = pairs(40).pipe(judge_pairs, judge=TOKENS, backend=backend)
    p = 1 / (1 + 2.718281828459045 ** (-0.1 - -2.4))
    for preference, swapped in done.select("preference", "preference_swapped").rows():
        assert preference == pytest.approx(1 - p if swapped else p, abs=1e-12)
    assert done["preference_error"].to_list() == [None] * 40


def test_a_judge_of_tokens_without_probabilities_says_so() -> None:
    done = pairs(1).pipe(judge_pairs, judge=TOKENS, backend=af.scripted(lambda m: failing("truncated", text="m")))
    assert done["preference"].to_list() == [None]
    assert done["preference_error"].struct.field("kind").to_list() == ["no_logprobs"]


def test_a_judge_of_tokens_that_says_something_else_is_unparsed() -> None:
    done = pairs(1).pipe(judge_pairs, judge=TOKENS, backend=af.scripted(lambda m: token("The", {"The": -0.1})))
    assert done["preference_error"].struct.field("kind").to_list() == ["unparsed"]


def test_a_judge_of_words_needs_no_probabilities() -> None:
    words = replace(TOKENS, parser=one_word("m", "M"), sampling={"temperature": 0, "max_tokens": 1})
    backend = af.scripted(lambda m: failing("truncated", text="M", finish_reason="length"))
    done = pairs(1).pipe(judge_pairs, judge=words, order="given", backend=backend)
    assert done["preference"].to_list() == [1.0]


# --- asking again ----------------------------------------------------------------------------------------------------


def again(said: Callable[[list[dict[str, str]]], Any], n: int = 1, **params: Any) -> pl.DataFrame:
    backend = af.scripted(said)
    df = pairs(n).pipe(judge_pairs, judge=LABELS, backend=backend, **params)
    return df.pipe(judge_again, judge=LABELS, backend=backend)


def test_a_judge_that_was_silent_is_asked_to_finish_in_the_same_chat() -> None:
    seen = []

    def said(messages: list[dict[str, str]]) -> str:
        seen.append(messages)
        return "Let me think." if len(messages) == 1 else "[[B>A]]"

    done = again(said, order="given")
    assert [m["content"] for m in seen[1][1:]] == ["Let me think.", "Your verdict?"]
    assert done.select("preference", "preference_label", "preference_text").row(0) == (
        *(1.0, "B>A", "Let me think.\n[[B>A]]"),
    )
    assert done["preference_error"].to_list() == [None]
    assert done["preference_again_call"].struct.field("key").to_list() != [None]


def test_a_judge_that_stays_silent_leaves_a_null() -> None:
    done = again(lambda messages: "Let me think.")
    assert done["preference"].to_list() == [None]
    assert done["preference_error"].struct.field("kind").to_list() == ["unparsed"]


@pytest.mark.parametrize("said", ["[[A>B]]", "[[A>B]] [[B>A]]", failing("refused")])
def test_who_has_spoken_or_failed_is_not_asked_again(said: Any) -> None:
    asked = []

    def script(messages: list[dict[str, str]]) -> Any:
        asked.append(messages)
        return said

    done = again(script)
    assert len(asked) == 1
    assert done["preference_again_call"].to_list() == [None]


def test_rows_keep_their_places_when_some_are_asked_again() -> None:
    def said(messages: list[dict[str, str]]) -> str:
        odd = int(re.findall(r"task (\d+)", messages[0]["content"])[0]) % 2
        return "Hm." if odd and len(messages) == 1 else "[[A=B]]"

    done = again(said, n=6)
    assert done["instruction"].to_list() == [f"task {i}" for i in range(6)]
    assert done["preference"].to_list() == [0.5] * 6
    assert done["preference_again_call"].is_not_null().to_list() == [False, True] * 3


def test_a_judge_without_a_follow_up_cannot_be_asked_again() -> None:
    df = pairs(1).pipe(judge_pairs, judge=TOKENS, backend=af.scripted(lambda m: "x"))
    with pytest.raises(BindError, match="no follow_up"):
        df.pipe(judge_again, judge=TOKENS, backend=af.scripted(lambda m: "x"))


# --- in general ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("domain", ["math", "code", "general"])
def test_the_packaged_comparison_asks_for_the_labels_that_are_read(domain: Any) -> None:
    judge = comparison(domain)
    asked: list[str] = []

    def look(messages: list[dict[str, str]]) -> str:
        asked.append(messages[-1]["content"])
        return "[[A=B]]"

    done = pairs(1).pipe(judge_pairs, judge=judge, backend=af.scripted(look))
    assert done["preference"].to_list() == [0.5]
    assert judge.rubric in asked[0]
    assert re.findall(r"\[\[(.*?)\]\]", asked[0]) == ["A>>B", "A>B", "A=B", "B>A", "B>>A"]


def test_each_judged_row_has_the_fingerprint_of_its_judge() -> None:
    backend = af.scripted(prefers("new"))
    done = pairs(1).pipe(judge_pairs, judge=LABELS, backend=backend)
    assert done["preference_judge"].to_list() == [judge_fingerprint(LABELS, backend=backend)]


def test_an_order_that_is_none_and_a_column_that_is_missing_are_refused() -> None:
    with pytest.raises(BindError, match="order='random'"):
        judge_pairs(judge=LABELS, order="random", backend=af.scripted(str))(pairs(1))
    with pytest.raises(FrameError, match="did you mean 'second'"):
        judge_pairs(judge=LABELS, second="secnd", backend=af.scripted(str))(pairs(1))

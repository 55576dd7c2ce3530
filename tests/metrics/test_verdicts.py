"""What a judge of two answers says is read by one rule, and what cannot be read is no verdict."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agora_frames.errors import BindError
from agora_frames.metrics.verdicts import first_token, one_word, verdict_label

LABELS = {"A>>B": (0.0, 3.0), "A>B": (0.0, 1.0), "A=B": (0.5, 1.0), "B>A": (1.0, 1.0), "B>>A": (1.0, 3.0)}


@pytest.mark.parametrize("label", LABELS)
def test_each_of_the_five_labels_has_its_worth(label: str) -> None:
    assert verdict_label()(f"So, [[A]] aside: [[{label}]]".replace("[[A]]", "A")) == (label, *LABELS[label])


def test_a_label_that_stands_twice_is_one_verdict() -> None:
    assert verdict_label()("[[A>B]] … as said, [[A>B]]")[0] == "A>B"


@pytest.mark.parametrize("text", ["", "A>B", "[A>B]", "[[A>B]", "[[A > B]]", "[[a>b]]", "[[]]", "[[C>D]]"])
def test_a_text_without_a_label_has_no_verdict(text: str) -> None:
    with pytest.raises(ValueError, match="found none"):
        verdict_label()(text)
    assert verdict_label().is_silent(text)


@pytest.mark.parametrize("text", ["[[A>B]] or [[B>A]]", "[[A>>B]] [[A>B]]", "[[A<B]]", "[[A]]", "[[A>>>B]]"])
def test_labels_that_disagree_or_are_not_known_are_no_verdict_and_not_silence(text: str) -> None:
    with pytest.raises(ValueError, match="wanted one verdict"):
        verdict_label()(text)
    assert not verdict_label().is_silent(text)


def test_the_weight_of_a_strong_verdict_can_be_chosen() -> None:
    assert verdict_label(strong=1)("[[B>>A]]") == ("B>>A", 1.0, 1.0)
    with pytest.raises(BindError, match="strong=0"):
        verdict_label(strong=0)


def tokens(said: str, top: dict[str, float]) -> list[dict[str, Any]]:
    return [
        {"token": said, "logprob": top.get(said, -9.0), "top": [{"token": t, "logprob": p} for t, p in top.items()]}
    ]


@given(st.floats(-60, 0), st.floats(-60, 0))
def test_the_share_is_that_of_the_two_tokens_alone(m: float, big_m: float) -> None:
    _, share, weight = first_token("m", "M", least=0).of_tokens(tokens("m", {"m": m, "M": big_m, "other": -0.1}))
    assert share == pytest.approx(math.exp(big_m) / (math.exp(m) + math.exp(big_m)), rel=1e-12)
    assert weight == 1.0


@given(st.floats(-1e308, 0), st.floats(-1e308, 0))
def test_shares_of_both_orders_add_up_to_one(m: float, big_m: float) -> None:
    seen = tokens("m", {"m": m, "M": big_m})
    one, other = (first_token(*pair, least=0).of_tokens(seen)[1] for pair in (("m", "M"), ("M", "m")))
    assert one + other == pytest.approx(1)


def test_a_token_that_was_not_told_counts_as_impossible() -> None:
    assert first_token("m", "M").of_tokens(tokens("M", {"M": -0.1}))[1] == 1.0
    assert first_token("m", "M").of_tokens(tokens("m", {"m": -0.1}))[1] == 0.0
    assert first_token("m", "M").of_tokens([{"token": "m", "logprob": -0.1, "top": None}])[1] == 0.0


def test_a_reply_of_other_tokens_is_no_verdict() -> None:
    with pytest.raises(ValueError, match="neither 'm' nor 'M' is among 'The'"):
        first_token("m", "M").of_tokens(tokens("The", {"The": -0.1}))
    with pytest.raises(ValueError, match="no token"):
        first_token("m", "M").of_tokens([])


def test_letters_that_the_model_hardly_meant_are_no_verdict() -> None:
    seen = tokens("The", {"The": -0.01, "M": -5.0})
    with pytest.raises(ValueError, match=r"'m' and 'M' have 0\.0067 of the probability together.*begins with 'The'"):
        first_token("m", "M").of_tokens(seen)
    assert first_token("m", "M", least=0).of_tokens(seen)[1] == 1.0
    with pytest.raises(BindError, match="least=2"):
        first_token("m", "M", least=2)


def test_one_word_is_all_or_nothing() -> None:
    assert one_word("m", "M")(" m\n") == ("m", 0.0, 1.0)
    for text in ("", "mM", "m.", "Model m"):
        with pytest.raises(ValueError, match="alone"):
            one_word("m", "M")(text)


@pytest.mark.parametrize("parser", [first_token, one_word])
def test_two_answers_need_two_names(parser: Any) -> None:
    with pytest.raises(BindError, match="two different texts"):
        parser("m", "m")


def test_the_preferences_published_for_a_model_come_from_its_log_probabilities(shared_data: Path) -> None:
    published = json.loads((shared_data / "alpaca_eval" / "annotations_full_claude-2.1.json").read_text())
    asked = [row for row in published if (row["raw_completion"] or {}).get("logprobs")]
    assert len(asked) == 803
    given_order = 0
    for row in asked:
        (first,) = row["raw_completion"]["logprobs"]["content"]
        seen = [{"token": first["token"], "logprob": first["logprob"], "top": first["top_logprobs"]}]
        share = first_token("m", "M").of_tokens(seen)[1]
        as_given = abs(1 + share - row["preference"])
        given_order += as_given < 1e-9
        assert min(as_given, abs(2 - share - row["preference"])) < 1e-9  # the order of each row was not published
    assert 300 < given_order < 500

"""classify_domain: each row keeps its place, with a domain or with the reason why it has none."""

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

import agora_frames as af
from agora_frames.backends.scripted import failing
from agora_frames.recipes.agorabench.classify_domain import classify_domain, seeds, verdict


def judge(messages, sampling):
    task = messages[-1]["content"]
    if "refuse" in task:
        return failing("refused")
    if "long" in task:
        return failing("truncated", text="math, as it is", finish_reason="length")
    return "Math" if "+" in task else "Hard to say." if "?!" in task else "other."


JUDGE = af.scripted(judge, model="judge")


def test_rows_get_their_domain_and_the_rest_stays():
    frame = pl.DataFrame(
        {"instruction": ["1 + 1?", "Name a sea.", "What?!", "refuse", "long"], "response": list("abcde")}
    )
    done = classify_domain(backend=JUDGE)(frame)
    assert done["domain"].to_list() == ["math", "other", None, None, None]
    assert done.select("instruction", "response").equals(frame)
    assert done["verdict_parse_error"].struct.field("kind").to_list() == [None, None, "unparsed", None, None]
    assert done["verdict_error"].struct.field("kind").to_list() == [None, None, None, "refused", "truncated"]


@pytest.mark.parametrize(
    ("text", "domain"),
    [("math", "math"), ("Mathematics", "math"), ("**Other**\n", "other"), ("The task is math.", "math")],
)
def test_a_word_is_found_however_it_is_said(text, domain):
    assert verdict(text) == domain


@pytest.mark.parametrize("text", ["", "1", "math or other", "mathematically", "another"])
def test_neither_or_both_is_no_domain(text):
    with pytest.raises(ValueError, match="wanted 'math' or 'other'"):
        verdict(text)


@given(st.text())
def test_a_verdict_is_one_of_two_or_a_reason(text):
    try:
        assert verdict(text) in ("math", "other")
    except ValueError as reason:
        assert "found" in str(reason)


def test_the_same_task_is_asked_once():
    asked = []

    def counting(messages, sampling):
        asked.append(messages)
        return "other"

    frame = pl.DataFrame({"instruction": ["Name a sea."] * 3})
    done = classify_domain(backend=af.scripted(counting, model="m"))(frame)
    assert (done["domain"].to_list(), len(asked)) == (["other"] * 3, 1)


def test_the_seeds_are_of_all_three_domains():
    assert seeds().height == 90
    assert seeds()["config"].head(3).to_list() == ["agora_frames/math", "agora_frames/code", "agora_frames/general"]


@pytest.mark.slow
def test_it_runs_with_the_real_model(tmp_path):
    pytest.importorskip("xllamacpp")
    model = af.connect("llama:smollm2-135m", ledger=tmp_path / "ledger")
    done = classify_domain(backend=model)(seeds().head(6))
    reasons = done["verdict_parse_error"].is_not_null() | done["verdict_error"].is_not_null()
    assert (done["domain"].is_not_null() ^ reasons).all()

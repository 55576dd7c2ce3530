"""Intrinsic metrics: one row for each data set, in the paper's columns, with null where nobody was asked."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

import agora_frames as af
from agora_frames.bench.paper import INTRINSIC
from agora_frames.errors import BindError, FrameError
from agora_frames.metrics.intrinsic import intrinsic, intrinsic_rows


class Letters:
    name = "letters"

    def __call__(self, texts: Sequence[str], /) -> list[list[float]]:
        return [[float(text.count(letter)) for letter in "abc"] for text in texts]


class Length:
    name = "length"

    def __call__(self, pairs: Sequence[tuple[str, str]], /) -> list[float | None]:
        return [float(len(response)) for _, response in pairs]


def grade(messages: list[dict[str, str]]) -> str:
    """A judge that finds every instruction of difficulty 2, and grades responses by their first letter."""
    text = messages[-1]["content"]
    if "UNREADABLE" in text:
        return "no verdict"
    return "[RESULT] 5" if "good" in text else "[RESULT] 2"


JUDGE = af.scripted(grade, model="judge")
ROWS = af.with_row_ids(
    pl.DataFrame(
        {
            "set": ["x", "y", "x", "x"],
            "domain": ["math", "code", "math", "instruction_following"],
            "instruction": ["a a?", "b?", "b?", "a c?"],
            "response": ["good a", "bad", None, "UNREADABLE"],
        }
    )
)


def only(df: pl.DataFrame, **wanted: Any) -> dict[str, Any]:
    found = df.filter(**wanted) if wanted else df
    assert found.height == 1
    return found.row(0, named=True)


def test_the_columns_are_those_of_table_8_without_the_models() -> None:
    found = intrinsic(ROWS).columns
    models = ("_gpt4o", "_prometheus2_8x7b", "_llama31_8b", "_skywork")
    for name in INTRINSIC:
        for model in models:
            name = name.replace(model, "")
        assert {name, f"n_{name}"} <= set(found)


def test_without_effects_only_words_are_told() -> None:
    found = only(intrinsic(ROWS))
    asked = [name for name in found if not name.startswith(("n_", "rows")) and "distinct" not in name]
    asked = [name for name in asked if "compression" not in name and "overlap" not in name]
    assert len(asked) == 6 and all(found[name] is None for name in asked)
    assert all(found[name] == 0 for name in found if name.startswith("n_"))
    assert found["rows"] == 4 and found["instruction_distinct_1"] == pytest.approx(4 / 10)


def test_each_metric_is_the_mean_of_the_rows_that_have_it() -> None:
    found = intrinsic(ROWS, by=["set"], backend=JUDGE, embedder=Letters(), scorer=Length())
    assert found["set"].to_list() == ["x", "y"]
    x = only(found, set="x")
    assert (x["rows"], x["response_quality_judge"], x["n_response_quality_judge"]) == (3, 5, 1)
    assert (x["response_quality_reward"], x["n_response_quality_reward"]) == ((6 + 10) / 2, 2)
    assert x["n_instruction_difficulty_judge"] == 3
    assert only(found, set="y")["response_quality_judge"] == 2
    assert only(found, set="y")["instruction_diversity_cdist"] is None  # of one vector
    vectors = [[2, 0, 0], [0, 1, 0], [1, 0, 1]]
    cosines = [0, 1 / math.sqrt(2), 0]
    assert len(vectors) == x["n_instruction_diversity_cdist"]
    assert x["instruction_diversity_cdist"] == pytest.approx(1 - sum(cosines) / 3)


def test_difficulty_is_judged_of_the_instruction_by_the_rubric_of_the_domain() -> None:
    seen: list[str] = []

    def listen(messages: list[dict[str, str]]) -> str:
        seen.append(messages[-1]["content"])
        return "[RESULT] 3"

    intrinsic_rows(ROWS.head(1), backend=af.scripted(listen, model="listener"))
    assert len(seen) == 2
    (difficulty,) = [text for text in seen if "good a" not in text]
    rubrics = Path(af.__file__).parent / "metrics" / "rubrics"
    assert (rubrics / "difficulty" / "math.jinja").read_text().strip() in difficulty
    (quality,) = [text for text in seen if "good a" in text]
    assert (rubrics / "quality" / "math.jinja").read_text().strip() in quality


def test_perplexities_are_means_of_the_rows() -> None:
    df = ROWS.with_columns(nll=pl.Series([math.log(2), math.log(4), None, None]))
    found = only(intrinsic(df))
    assert (found["response_perplexity"], found["n_response_perplexity"]) == (pytest.approx(3), 2)


def test_rows_that_were_judged_before_are_not_judged_again() -> None:
    done = intrinsic_rows(ROWS, backend=JUDGE, embedder=Letters(), scorer=Length())
    assert_frame_equal(intrinsic(done), intrinsic(ROWS, backend=JUDGE, embedder=Letters(), scorer=Length()))


def test_rows_keep_their_order_and_columns() -> None:
    done = intrinsic_rows(ROWS, backend=JUDGE)
    assert_frame_equal(done.select(ROWS.columns), ROWS)
    assert done["quality"].to_list() == [5, 2, None, None]
    kinds = done["quality_error"].struct.field("kind").to_list()
    assert kinds == [None, None, "null_value", "unparsed"]


def test_the_perplexity_is_that_of_what_add_nll_adds() -> None:
    """Each character is a token, one of two equally likely ones in the first set, one of eight in the second."""

    def told(messages: list[dict[str, str]]) -> dict[str, Any]:
        bits = 1 if "one" in messages[0]["content"] else 3
        said = "".join(f"<{turn['role']}>{turn['content']}" for turn in messages)
        return {"text": "", "prompt_logprobs": [{"token": c, "logprob": -bits * math.log(2), "top": []} for c in said]}

    df = pl.DataFrame(
        {"set": ["a", "a", "b"], "instruction": ["one", "one more", "two"], "response": ["yes", None, "no"]},
    )
    scored = af.add_nll(af.with_row_ids(df), backend=af.scripted(told))
    done = intrinsic(scored, by=["set"]).select("set", pl.col("response_perplexity").round(9), "n_response_perplexity")
    assert done.rows() == [("a", 2.0, 1), ("b", 8.0, 1)]


DRAWN = st.lists(st.tuples(st.sampled_from(["math", "code", "general"]), st.text("ab", max_size=3)), max_size=6)


@given(DRAWN, st.integers(0, 6))
def test_rows_are_measured_one_by_one(drawn: list[tuple[str, str]], cut: int) -> None:
    df = pl.DataFrame(drawn, schema={"domain": pl.String, "instruction": pl.String}, orient="row")
    df = af.with_row_ids(df.with_columns(response=pl.lit("good")))
    run = intrinsic_rows(backend=JUDGE, embedder=Letters(), scorer=Length())
    assert_frame_equal(pl.concat([run(df[:cut]), run(df[cut:])]), run(df))


def test_no_rows_have_the_same_columns() -> None:
    given = {"by": ["set"], "backend": JUDGE, "embedder": Letters(), "scorer": Length()}
    assert intrinsic(ROWS.clear(), **given).schema == intrinsic(ROWS, **given).schema
    assert intrinsic(ROWS.clear(), **given).height == 0


def test_a_domain_may_be_said_for_all_rows() -> None:
    df = ROWS.drop("domain")
    assert only(intrinsic(df, domain="code", backend=JUDGE))["n_instruction_difficulty_judge"] == 4
    with pytest.raises(FrameError, match="reads the column 'domain'"):
        intrinsic(df, backend=JUDGE)
    with pytest.raises(BindError, match="there are rubrics for 'math'"):
        intrinsic(df, domain="maths", backend=JUDGE)
    with pytest.raises(FrameError, match="the first of 'poetry'"):
        intrinsic(ROWS.with_columns(domain=pl.lit("poetry")), backend=JUDGE)


def test_the_result_can_be_written_and_read(tmp_path: Path) -> None:
    found = intrinsic(ROWS, by=["set"], backend=JUDGE)
    found.write_parquet(tmp_path / "intrinsic.parquet")
    assert_frame_equal(pl.read_parquet(tmp_path / "intrinsic.parquet"), found)
    assert json.loads(found.head(1).write_json())[0]["rows"] == 3

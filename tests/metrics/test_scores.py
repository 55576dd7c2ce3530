"""Points, counts and intervals of item scores."""

from __future__ import annotations

import random
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from agora_frames.errors import BindError, FrameError
from agora_frames.frames import ITEM_SCORES
from agora_frames.metrics.scores import item_scores, summarise, wilson

UNPARSED = {"kind": "unparsed", "message": "no number"}
LOST = {"kind": "timeout", "message": "60 s"}


def scored(*rows: tuple[str, float | None], sample: int = 0, **columns: Any) -> pl.DataFrame:
    """Item scores of one benchmark, from (item_id, score); null for a lost call."""
    told = [
        {
            "benchmark": "b",
            "item_id": item,
            "sample": sample,
            "score": score,
            "score_error": LOST if score is None else None,
            "weight": 1.0,
            **columns,
        }
        for item, score in rows
    ]
    return pl.DataFrame(told, schema={**ITEM_SCORES, **{n: pl.String for n in columns if n not in ITEM_SCORES}})


def only(df: pl.DataFrame) -> dict[str, Any]:
    (row,) = df.iter_rows(named=True)
    return row


def test_the_score_is_the_mean_of_the_graded_items_in_points() -> None:
    row = only(summarise(scored(("a", 1.0), ("b", 0.0), ("c", 1.0), ("d", None))))
    assert row["score"] == pytest.approx(200 / 3)
    assert (row["n"], row["n_failed"], row["n_unread"]) == (4, 1, 0)


def test_a_reply_that_counts_as_wrong_is_counted_as_unread() -> None:
    row = only(summarise(scored(("a", 1.0)).vstack(scored(("b", 0.0), score_error=UNPARSED))))
    assert (row["score"], row["n_failed"], row["n_unread"]) == (50, 0, 1)


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    [(0, 10, 0.0, 27.7533), (10, 10, 72.2467, 100.0), (8, 10, 49.0162, 94.3318), (1, 1, 20.6549, 100.0)],
)  # as R's prop.test(right, n, correct = FALSE) tells them
def test_wilson_s_interval_is_the_textbook_one(right: int, n: int, low: float, high: float) -> None:
    row = only(summarise(scored(*[(str(i), float(i < right)) for i in range(n)])))
    assert row["interval"] == "wilson"
    assert (row["low"], row["high"]) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))


def test_a_wider_level_gives_a_wider_interval() -> None:
    df = scored(*[(str(i), float(i % 3 == 0)) for i in range(30)])
    narrow, wide = only(summarise(df, level=0.5)), only(summarise(df, level=0.99))
    assert wide["low"] < narrow["low"] < narrow["score"] < narrow["high"] < wide["high"]


def test_the_samples_of_an_item_are_averaged_first() -> None:
    df = scored(("a", 1.0)).vstack(scored(("b", 0.0))).vstack(scored(("a", 0.0), sample=1))
    df = df.vstack(scored(("b", None), sample=1))
    assert only(summarise(df))["score"] == 25
    assert only(summarise(df, pooled=True))["score"] == pytest.approx(100 / 3)


def test_the_weights_weigh() -> None:
    df = scored(("a", 1.0), weight=3.0).vstack(scored(("b", 0.0)))
    row = only(summarise(df))
    assert (row["score"], row["interval"]) == (75, "bootstrap")


def test_nothing_graded_gives_no_score_and_says_how_many_failed() -> None:
    row = only(summarise(scored(("a", None), ("b", None))))
    assert (row["score"], row["low"], row["interval"], row["n"], row["n_failed"]) == (None, None, None, 2, 2)


def test_runs_are_told_apart_by_their_labels() -> None:
    df = pl.concat([scored(("a", 1.0), model="x"), scored(("a", 0.0), model="y")])
    assert summarise(df, by=("benchmark", "model")).select("model", "score").rows() == [("x", 100.0), ("y", 0.0)]
    with pytest.raises(FrameError, match="name in `by` what tells them apart"):
        summarise(df)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.randoms())
def test_the_interval_holds_the_score_and_the_order_of_rows_does_not_matter(
    shares: list[float], rng: random.Random
) -> None:
    df = scored(*[(f"{i:02}", share) for i, share in enumerate(shares)])
    row = only(summarise(df, resamples=200))
    assert -1e-9 <= row["low"] <= row["high"] <= 100 + 1e-9
    mixed = df[rng.sample(range(df.height), df.height)]
    assert_frame_equal(summarise(mixed, resamples=200), summarise(df, resamples=200))


def test_the_bootstrap_comes_near_the_normal_interval_for_many_items() -> None:
    rng = random.Random(1)
    shares = [rng.random() for _ in range(2000)]
    row = only(summarise(scored(*[(str(i), s) for i, s in enumerate(shares)])))
    mean = sum(shares) / 2000
    half = 1.96 * (sum((s - mean) ** 2 for s in shares) / 1999 / 2000) ** 0.5 * 100
    assert row["interval"] == "bootstrap"
    assert row["high"] - row["low"] == pytest.approx(2 * half, rel=0.1)


def test_the_bootstrap_may_be_asked_for_and_wilson_s_refuses_what_is_no_proportion() -> None:
    assert only(summarise(scored(("a", 1.0), ("b", 0.0)), interval="bootstrap"))["interval"] == "bootstrap"
    with pytest.raises(FrameError, match=r"an item worth 0\.5"):
        summarise(scored(("a", 0.5)), interval="wilson")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"score": 55.0}, "give shares, not percentages"),
        ({"score": float("nan")}, "do not lie between 0 and 1"),
        ({"weight": -1.0}, "a weight is 0 or more"),
        ({"weight": None}, "a weight is 0 or more"),
    ],
)
def test_numbers_that_cannot_be_meant_are_refused(change: dict[str, float | None], told: str) -> None:
    with pytest.raises(FrameError, match=told):
        summarise(scored(("a", 1.0), ("b", 0.0)).with_columns(**{n: pl.lit(v) for n, v in change.items()}))


@pytest.mark.parametrize(
    "params", [{"by": "benchmark"}, {"by": ()}, {"interval": "normal"}, {"level": 95}, {"resamples": 0}]
)
def test_parameters_that_cannot_be_meant_are_refused(params: dict[str, Any]) -> None:
    with pytest.raises(BindError):
        summarise(scored(("a", 1.0)), **params)


def test_item_scores_are_kept_alone_with_their_labels() -> None:
    rows = scored(("a", 1.0)).with_columns(completion=pl.lit("long text"))
    kept = item_scores(rows, labels={"student": "s"})
    assert kept.schema == {"student": pl.String, **ITEM_SCORES}
    with pytest.raises(BindError, match="'score'"):
        item_scores(rows, labels={"score": "s"})


def test_wilson_s_interval_stays_within_its_bounds_at_the_ends() -> None:
    assert wilson(0.0, 3, 0.95)[0] == 0.0
    assert wilson(1.0, 3, 0.95)[1] == 1.0

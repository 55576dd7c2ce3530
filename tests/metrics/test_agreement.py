"""How far judgements agree is told with the number of rows that it rests on."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

import agora_frames as af
from agora_frames.backends.scripted import failing
from agora_frames.errors import BindError, FrameError
from agora_frames.metrics.agreement import judge_counts, judge_drift, swap_consistency
from agora_frames.metrics.judge import Judge, judge_column, quality
from agora_frames.metrics.pairs import comparison, judge_pairs

GRADES = st.lists(st.tuples(st.none() | st.integers(1, 5), st.none() | st.integers(1, 5)), max_size=12)


def graded(pairs: list[tuple[int | None, int | None]]) -> pl.DataFrame:
    return pl.DataFrame(pairs, schema={"a": pl.Int64, "b": pl.Int64}, orient="row")


def drift(pairs: list[tuple[int | None, int | None]]) -> dict[str, Any]:
    return graded(pairs or [(None, None)]).pipe(judge_drift, column="a", again="b").row(0, named=True)


@given(GRADES)
def test_drift_is_of_the_rows_judged_both_times(pairs: list[tuple[int | None, int | None]]) -> None:
    both = [(a, b) for a, b in pairs if a is not None and b is not None]
    told = drift(pairs)
    assert (told["n"], told["n_both"]) == (len(pairs) or 1, len(both))
    if both:
        assert told["exact_agreement"] == pytest.approx(sum(a == b for a, b in both) / len(both))
        assert told["mean_absolute_difference"] == pytest.approx(sum(abs(a - b) for a, b in both) / len(both))
    else:
        assert told["exact_agreement"] is None


def test_kappa_is_what_the_textbook_says() -> None:
    # Observed agreement 0.7, expected 0.5 x 0.6 + 0.5 x 0.4 = 0.5.
    pairs: list[tuple[int | None, int | None]] = [(1, 1)] * 20 + [(1, 2)] * 5 + [(2, 1)] * 10 + [(2, 2)] * 15
    assert drift(pairs)["kappa"] == pytest.approx(0.4)


def test_near_misses_cost_less_under_quadratic_weights_and_unused_grades_keep_their_distance() -> None:
    near, far = drift([(1, 2), (5, 4), (3, 3), (2, 2)]), drift([(1, 5), (5, 1), (3, 3), (2, 2)])
    assert near["kappa_quadratic"] > far["kappa_quadratic"]
    a, b = [1, 5, 1, 5], [1, 4, 2, 5]
    expected = 1 - sum((x - y) ** 2 for x, y in zip(a, b, strict=True)) * 4 / sum((x - y) ** 2 for x in a for y in b)
    assert drift(list(zip(a, b, strict=True)))["kappa_quadratic"] == pytest.approx(expected)


def test_kappa_is_null_where_it_is_not_defined() -> None:
    assert drift([(3, 3), (3, 3)])["kappa"] is None
    assert drift([])["kappa"] is None
    assert drift([(0, 0), (10**9, 10**9)])["kappa"] is None
    floats = pl.DataFrame({"a": [0.5, 1.0], "b": [0.5, 0.9]})
    assert judge_drift(floats, column="a", again="b")["kappa"].to_list() == [None]


def rows(n: int) -> pl.DataFrame:
    return pl.DataFrame({"instruction": [f"{i}?" for i in range(n)], "response": "2"}).pipe(af.with_row_ids)


def wavering(messages: list[dict[str, str]], sampling: dict[str, Any]) -> str:
    return f"[RESULT] {1 + sampling.get('seed', 0) % 5}"


def test_one_call_read_twice_is_told_as_such() -> None:
    judge = quality("math")
    backend = af.scripted(wavering)
    df = rows(20).pipe(judge_column, judge=judge, into="a", backend=backend)
    df = df.pipe(judge_column, judge=judge, into="b", seed=1, backend=backend)
    told = judge_drift(df, column="a", again="b").row(0, named=True)
    assert (told["n_same_call"], told["exact_agreement"]) == (20, 1.0)  # at temperature 0
    warm = Judge(judge.name, judge.prompt, judge.parser, judge.rubric, {"temperature": 1.0})
    df = rows(20).pipe(judge_column, judge=warm, into="a", backend=backend)
    df = df.pipe(judge_column, judge=warm, into="b", seed=1, backend=backend)
    told = judge_drift(df, column="a", again="b").row(0, named=True)
    assert told["n_same_call"] == 0
    assert told["exact_agreement"] < 1
    assert told["judge"] == told["judge_again"] is not None


def test_drift_of_texts_is_refused() -> None:
    with pytest.raises(FrameError, match="compares numbers"):
        judge_drift(pl.DataFrame({"a": ["4"], "b": [4]}), column="a", again="b")


# --- counts ----------------------------------------------------------------------------------------------------------


def test_what_was_not_judged_is_counted_and_left_out_of_the_mean() -> None:
    said = {"0": "[RESULT] 4", "1": "[RESULT] 2", "2": "no idea", "3": failing("timeout")}

    def script(messages: list[dict[str, str]]) -> Any:
        return next(reply for n, reply in said.items() if f"{n}?" in messages[-1]["content"])

    df = rows(4).pipe(judge_column, judge=quality("math"), backend=af.scripted(script))
    (told,) = judge_counts(df).to_dicts()
    judge = df["judgement_judge"][0]
    assert told == {
        "n": 4,
        "n_judged": 2,
        "n_unparsed": 1,
        "n_failed": 1,
        "mean": 3.0,
        "standard_error": 1.0,
        "judge": judge,
    }


def test_counts_are_told_by_group() -> None:
    df = rows(4).with_columns(domain=pl.Series(["x", "y", "x", "y"]))
    df = df.pipe(judge_column, judge=quality("math"), backend=af.scripted(lambda m: "[RESULT] 4"))
    assert judge_counts(df, by=["domain"]).select("domain", "n", "mean").rows() == [("x", 2, 4.0), ("y", 2, 4.0)]


# --- swaps -----------------------------------------------------------------------------------------------------------


def games(label: str) -> pl.DataFrame:
    """Two pairs in both orders, judged always by the same label."""
    df = pl.DataFrame({"instruction": ["a", "b"], "first": "x", "second": "y"}).pipe(af.with_row_ids)
    return df.pipe(judge_pairs, judge=comparison(), order="both", backend=af.scripted(lambda m: f"[[{label}]]"))


@pytest.mark.parametrize(("label", "first_shown"), [("A>B", 1.0), ("B>A", 0.0)])
def test_a_judge_that_looks_at_the_place_alone_is_found_out(label: str, first_shown: float) -> None:
    told = swap_consistency(games(label)).row(0, named=True)
    assert (told["n"], told["n_both"]) == (2, 2)
    assert (told["consistent"], told["reversed"], told["first_shown"]) == (0.0, 1.0, first_shown)


def test_a_judge_that_sees_ties_is_consistent() -> None:
    told = swap_consistency(games("A=B")).row(0, named=True)
    assert (told["consistent"], told["first_shown"], told["mean_absolute_difference"]) == (1.0, 0.5, 0.0)


def test_pairs_judged_in_one_order_only_are_counted_but_not_compared() -> None:
    df = games("A=B")
    df = df.with_columns(preference=pl.when(pl.int_range(4) == 0).then(None).otherwise("preference"))
    told = swap_consistency(df).row(0, named=True)
    assert (told["n"], told["n_both"]) == (2, 1)
    unjudged = df.with_columns(preference=pl.lit(None, dtype=pl.Float64))
    assert swap_consistency(unjudged).row(0, named=True)["consistent"] is None


def test_a_pair_judged_twice_in_one_order_is_refused() -> None:
    with pytest.raises(FrameError, match="more than once in the same order"):
        swap_consistency(pl.concat([games("A=B"), games("A>B")]))
    with pytest.raises(BindError, match="sequence of names"):
        swap_consistency(games("A=B"), by="row_id")

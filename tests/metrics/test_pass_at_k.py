"""pass@k is the chance that one of k draws passes."""

from __future__ import annotations

from itertools import combinations
from math import isclose

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agora_frames.errors import BindError
from agora_frames.frames import ERROR
from agora_frames.metrics.pass_at_k import chance_of_one, pass_at_k
from agora_frames.metrics.scores import summarise


def rows(*items: list[float | None]) -> pl.DataFrame:
    told = [(f"{i}", s, score) for i, scores in enumerate(items) for s, score in enumerate(scores)]
    df = pl.DataFrame(told, schema={"item_id": pl.String, "sample": pl.Int64, "score": pl.Float64}, orient="row")
    return df.with_columns(benchmark=pl.lit("mine"), weight=1.0, score_error=pl.lit(None, dtype=ERROR))


@given(passed=st.lists(st.booleans(), min_size=1, max_size=8), k=st.integers(1, 8))
def test_it_is_the_share_of_all_subsets_that_hold_one_that_passed(passed: list[bool], k: int) -> None:
    subsets = [any(each) for each in combinations(passed, k)]
    found = chance_of_one(len(passed), sum(passed), k)
    if len(passed) < k:
        assert found is None
    else:
        assert found is not None
        assert isclose(found, sum(subsets) / len(subsets), abs_tol=1e-12)


def test_with_one_it_is_the_mean() -> None:
    df = rows([1.0, 0.0], [0.0, 0.0], [1.0, 1.0])
    assert pass_at_k(df, k=1)["score"].item() == pytest.approx(50.0)
    assert pass_at_k(df, k=1)["score"].item() == pytest.approx(summarise(df)["score"].item())


def test_items_with_too_few_samples_are_told_and_left_out() -> None:
    done = pass_at_k(rows([1.0, None, None], [0.0, 1.0, 0.0]), k=2)
    assert done.select("n", "n_failed").row(0) == (2, 1)
    assert done["score"].item() == pytest.approx(100 * 2 / 3)


def test_the_columns_are_those_of_summarise() -> None:
    df = rows([1.0, 0.0])
    assert pass_at_k(df, k=2).schema == summarise(df).schema
    assert pass_at_k(df.clear(), k=2).schema == summarise(df).schema


@pytest.mark.parametrize("k", [0, -1, 1.5, True])
def test_k_is_a_whole_number(k: int) -> None:
    with pytest.raises(BindError, match="k="):
        pass_at_k(rows([1.0]), k=k)

"""Resamples are drawn by counters: the same in any order and number, and as random as they should be."""

from __future__ import annotations

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from agora_frames.errors import BindError
from agora_frames.metrics import bootstrap
from agora_frames.metrics.bootstrap import check_interval, interval, resampled_sums


def test_the_numbers_are_those_of_splitmix64() -> None:
    # The sequence from 1234567 that implementations are compared by.
    made = pl.select(bootstrap._split_mix(1234567, pl.int_range(5, dtype=pl.UInt64))).to_series()
    assert made.to_list() == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


def test_more_resamples_leave_the_earlier_as_they_were() -> None:
    df = pl.DataFrame({"x": [0.0, 1.0, 5.0, 7.0]})
    few = resampled_sums(df, columns=["x"], resamples=10, key=("k",))
    many = resampled_sums(df, columns=["x"], resamples=500, key=("k",))
    assert_frame_equal(few, many.head(10))


def test_the_draws_are_the_same_in_parts() -> None:
    # 3,000 rows and 3,000 resamples are more than are drawn at once.
    df = pl.DataFrame({"x": pl.int_range(3_000, eager=True)})
    whole = resampled_sums(df, columns=["x"], resamples=3_000, key=("k",))
    assert_frame_equal(whole.head(50), resampled_sums(df, columns=["x"], resamples=50, key=("k",)))
    assert whole["resample"].to_list() == list(range(3_000))


def test_columns_are_summed_over_the_same_draws() -> None:
    df = pl.DataFrame({"x": [0.1, 0.7, 0.3]}).with_columns(twice=pl.col("x") * 2)
    sums = resampled_sums(df, columns=["x", "twice"], resamples=100, key=("k",))
    assert (sums["twice"] - 2 * sums["x"]).abs().max() < 1e-12


def test_another_key_gives_other_draws() -> None:
    df = pl.DataFrame({"x": pl.int_range(100, eager=True)})
    one, two = (resampled_sums(df, columns=["x"], resamples=20, key=(key,))["x"] for key in "ab")
    assert (one != two).all()


@given(st.integers(1, 40))
def test_each_resample_has_as_many_rows_as_there_are(rows: int) -> None:
    df = pl.DataFrame({"one": [1.0] * rows})
    assert resampled_sums(df, columns=["one"], resamples=20, key=(rows,))["one"].to_list() == [rows] * 20


def test_the_spread_of_resampled_means_is_that_of_the_mean() -> None:
    df = pl.DataFrame({"x": [0.0] * 60 + [1.0] * 40})
    means = resampled_sums(df, columns=["x"], resamples=20_000, key=("spread",))["x"] / 100
    assert means.mean() == pytest.approx(0.4, abs=0.002)
    assert means.std() == pytest.approx((0.4 * 0.6 / 100) ** 0.5, rel=0.03)


def test_every_row_is_drawn_about_equally_often() -> None:
    df = pl.DataFrame({f"r{i}": [float(i == j) for j in range(7)] for i in range(7)})
    counts = resampled_sums(df, columns=df.columns, resamples=10_000, key=("even",)).drop("resample").sum().row(0)
    assert all(abs(count - 10_000) < 400 for count in counts)  # 4 standard deviations


def test_no_rows_and_no_resamples_give_no_sums() -> None:
    df = pl.DataFrame({"x": [1.0]})
    for found in (
        resampled_sums(df.clear(), columns=["x"], resamples=5, key=()),
        resampled_sums(df, columns=["x"], resamples=0, key=()),
    ):
        assert found.schema == {"resample": pl.UInt32, "x": pl.Float64}
        assert found.height == 0


def test_the_interval_holds_the_middle_of_the_values() -> None:
    df = pl.DataFrame({"x": pl.int_range(101, eager=True).cast(pl.Float64)})
    assert df.select(interval("x", 0.9)).row(0) == pytest.approx((5.0, 95.0))


@pytest.mark.parametrize("given", [{"resamples": -1, "level": 0.9}, {"resamples": True, "level": 0.9}])
def test_a_wrong_number_of_resamples_is_refused(given: dict[str, float]) -> None:
    with pytest.raises(BindError, match="resamples="):
        check_interval("pgr", **given)


@pytest.mark.parametrize("level", [0, 1, 95, "0.9"])
def test_a_wrong_level_is_refused(level: object) -> None:
    with pytest.raises(BindError, match=r"between 0 and 1, such as 0\.95"):
        check_interval("pgr", resamples=0, level=level)

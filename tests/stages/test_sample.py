"""Draws that hang on a row's name: uniform, without repetition, and the same wherever the row stands."""

from __future__ import annotations

import math
from collections import Counter

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from agora_frames.errors import BindError, FrameError
from agora_frames.stages.sample import sample_demos, sample_values


def rows(n: int, start: int = 0) -> pl.DataFrame:
    return pl.DataFrame({"row_id": [f"r{i}" for i in range(start, start + n)]}, schema={"row_id": pl.String})


def pool(seeds: int, generated: int = 0) -> pl.DataFrame:
    names = [f"s{i}" for i in range(seeds)] + [f"g{i}" for i in range(generated)]
    return pl.DataFrame(
        {
            "row_id": names,
            "instruction": [f"ask {name}" for name in names],
            "response": [f"say {name}" for name in names],
            "generated": [name.startswith("g") for name in names],
        }
    )


def chi_square(counts: Counter[str], cells: int) -> tuple[float, float]:
    """Of counts that should be alike: the statistic, and what it exceeds once in 100,000 times (Wilson-Hilferty)."""
    expected = counts.total() / cells
    free = cells - 1
    found = sum((n - expected) ** 2 for n in counts.values()) / expected + (cells - len(counts)) * expected
    return found, free * (1 - 2 / (9 * free) + 4.265 * math.sqrt(2 / (9 * free))) ** 3


def test_each_seed_is_drawn_as_often_as_any_other_in_each_place() -> None:
    drawn = sample_demos(rows(20_000), pool=pool(50), from_seeds=3, from_generated=0)["parents"]
    for place in range(3):
        found, most = chi_square(Counter(drawn.list.get(place).to_list()), 50)
        assert found < most
    pairs = Counter(f"{a} {b}" for a, b, _ in drawn.to_list())
    found, most = chi_square(pairs, 50 * 49)
    assert found < most


def test_the_test_of_uniformity_sees_a_value_that_comes_a_fifth_more_often() -> None:
    found, most = chi_square(Counter({"a": 1200, **{f"v{i}": 1000 for i in range(49)}}), 50)
    assert found > 0 and most > 0
    found, most = chi_square(Counter({"a": 1400, **{f"v{i}": 1000 for i in range(49)}}), 50)
    assert found > most


def test_each_value_is_drawn_as_often_as_any_other() -> None:
    values = [f"v{i}" for i in range(36)]
    found, most = chi_square(Counter(sample_values(rows(20_000), values=values, into="theme")["theme"]), 36)
    assert found < most


def test_themes_and_first_words_are_drawn_apart() -> None:
    df = (
        rows(20_000)
        .pipe(sample_values, values=list("abcdef"), into="x")
        .pipe(sample_values, values=list("ABCDEF"), into="y")
    )
    found, most = chi_square(Counter(x + y for x, y in df.select("x", "y").iter_rows()), 36)
    assert found < most


@given(st.integers(1, 8), st.integers(0, 8), st.integers(1, 4), st.data())
def test_no_row_is_shown_twice_in_one_prompt(seeds: int, generated: int, k: int, data: st.DataObject) -> None:
    from_seeds = data.draw(st.integers(0, k))
    from_generated = data.draw(st.integers(0, k - from_seeds))
    make = sample_demos(pool=pool(seeds, generated), k=k, from_seeds=from_seeds, from_generated=from_generated)
    if seeds + generated < k:
        with pytest.raises(FrameError, match="its pool has"):
            make(rows(5))
        return
    done = make(rows(5))
    assert done["parents"].list.n_unique().to_list() == [k] * 5
    shown = done["demos"].list.eval(pl.element().struct.field("instruction").str.replace("ask ", ""))
    assert shown.to_list() == done["parents"].to_list()


@given(st.integers(3, 8), st.integers(1, 8))
def test_the_mix_of_the_paper_is_two_seeds_and_one_that_was_generated(seeds: int, generated: int) -> None:
    for names in sample_demos(rows(20), pool=pool(seeds, generated))["parents"].to_list():
        assert [name[0] for name in names] == ["s", "s", "g"]


def test_seeds_stand_in_while_nothing_was_generated() -> None:
    assert {name[0] for names in sample_demos(rows(20), pool=pool(5))["parents"] for name in names} == {"s"}


def test_what_is_left_to_both_kinds_is_drawn_from_both_together() -> None:
    drawn = sample_demos(rows(4_000), pool=pool(10, 190), from_seeds=1, from_generated=0)["parents"].to_list()
    assert {names[0][0] for names in drawn} == {"s"}
    of_both = Counter(name for names in drawn for name in names[1:])
    assert len(of_both) == 200
    # As data-agora has it: among many generated rows, two of three examples are nearly always generated.
    assert sum(n for name, n in of_both.items() if name[0] == "g") / of_both.total() > 0.9


@given(st.integers(0, 30), st.integers(0, 30))
def test_a_row_draws_the_same_in_any_part_order_and_length_of_the_frame(n: int, more: int) -> None:
    make = sample_demos(pool=pool(7, 3))
    whole = make(rows(n + more))
    assert_frame_equal(make(rows(n)), whole[:n])
    assert_frame_equal(make(rows(more, start=n)), whole[n:])
    assert_frame_equal(make(rows(n + more).reverse()), whole.reverse())


def test_the_order_of_the_pool_is_of_no_matter() -> None:
    assert_frame_equal(sample_demos(rows(9), pool=pool(6, 6)), sample_demos(rows(9), pool=pool(6, 6).reverse()))


def test_another_seed_draws_others() -> None:
    first, second = (sample_demos(rows(50), pool=pool(50), seed=seed)["parents"].to_list() for seed in (0, 1))
    assert sum(a == b for a, b in zip(first, second, strict=True)) < 5


def test_rewording_a_value_changes_only_the_rows_that_drew_it() -> None:
    before = sample_values(rows(100), values=["a", "b", "c"], into="theme")["theme"]
    after = sample_values(rows(100), values=["a", "better", "c"], into="theme")["theme"]
    assert after.to_list() == ["better" if value == "b" else value for value in before]


def test_a_row_of_the_pool_without_a_response_is_not_shown() -> None:
    given = pool(5).with_columns(response=pl.when(pl.col("row_id") != "s0").then("response"))
    shown = sample_demos(rows(50), pool=given)["parents"].explode()
    assert sorted(set(shown)) == ["s1", "s2", "s3", "s4"]


def test_numbers_that_do_not_fit_are_told() -> None:
    with pytest.raises(BindError, match="at least the sum"):
        sample_demos(rows(1), pool=pool(5), k=2)
    with pytest.raises(BindError, match="needs a pool"):
        sample_demos(rows(1))
    with pytest.raises(BindError, match="at least one value"):
        sample_values(rows(1), values=[], into="theme")

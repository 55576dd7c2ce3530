"""Diversity: the sum over all pairs is exact, and words are counted as is said."""

from __future__ import annotations

import gzip
import math
import random
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from agora_frames.errors import BindError, FrameError
from agora_frames.metrics.diversity import cosine_diversity, embed_column, vocabulary_diversity

# --- cosine distance -------------------------------------------------------------------------------------------------


def brute_force(vectors: Sequence[Sequence[float]]) -> float | None:
    """The mean over all pairs, one after the other."""
    whole = [v for v in vectors if any(v)]
    distances = []
    for a, b in combinations(whole, 2):
        lengths = math.sqrt(math.fsum(x * x for x in a)) * math.sqrt(math.fsum(x * x for x in b))
        distances.append(1 - math.fsum(x * y for x, y in zip(a, b, strict=True)) / lengths)
    return math.fsum(distances) / len(distances) if distances else None


def frame(vectors: Sequence[Sequence[float] | None]) -> pl.DataFrame:
    return pl.DataFrame({"embedding": pl.Series(vectors, dtype=pl.List(pl.Float64))})


NUMBERS = st.floats(-10, 10).map(lambda x: 0.0 if abs(x) < 1e-3 else x)
VECTORS = st.integers(1, 5).flatmap(
    lambda d: st.lists(st.lists(NUMBERS, min_size=d, max_size=d), min_size=1, max_size=12)
)


@given(VECTORS)
def test_the_sum_identity_gives_what_all_pairs_give(vectors: list[list[float]]) -> None:
    found = cosine_diversity(frame(vectors)).row(0, named=True)
    expected = brute_force(vectors)
    assert found["n"] == sum(any(v) for v in vectors)
    assert found["cosine_distance"] == (None if expected is None else pytest.approx(expected, abs=1e-9))


def test_the_sum_identity_holds_for_hundreds_of_dimensions() -> None:
    rng = random.Random(0)
    vectors = [[rng.gauss(0.2, 1) for _ in range(384)] for _ in range(60)]
    assert cosine_diversity(frame(vectors))["cosine_distance"].item() == pytest.approx(brute_force(vectors), abs=1e-12)


@given(VECTORS, st.floats(1e-3, 1e3))
def test_the_length_of_a_vector_is_of_no_consequence(vectors: list[list[float]], scale: float) -> None:
    scaled = [[x * scale for x in v] if i % 2 else v for i, v in enumerate(vectors)]
    one, two = (cosine_diversity(frame(each))["cosine_distance"].item() for each in (vectors, scaled))
    assert one == (None if two is None else pytest.approx(two, abs=1e-9))


@given(VECTORS, st.randoms(use_true_random=False))
def test_the_order_of_rows_is_of_no_consequence(vectors: list[list[float]], rng: random.Random) -> None:
    shuffled = rng.sample(vectors, len(vectors))
    one, two = (cosine_diversity(frame(each))["cosine_distance"].item() for each in (vectors, shuffled))
    assert one == (None if two is None else pytest.approx(two, abs=1e-9))


def test_equal_vectors_are_no_distance_apart_and_opposite_ones_two() -> None:
    assert cosine_diversity(frame([[3.0, 4.0]] * 5))["cosine_distance"].item() == pytest.approx(0)
    assert cosine_diversity(frame([[3.0, 4.0], [-3.0, -4.0]]))["cosine_distance"].item() == pytest.approx(2)


@pytest.mark.parametrize("size", [1e-200, 1e200])
def test_vectors_that_are_tiny_or_huge_have_a_direction(size: float) -> None:
    found = cosine_diversity(frame([[size, 0.0], [0.0, size]]))
    assert found.row(0) == (2, 0, pytest.approx(1))


def test_what_has_no_direction_is_counted_and_left_out() -> None:
    found = cosine_diversity(frame([[1.0, 0.0], [0.0, 0.0], None, [0.0, 1.0]]))
    assert found.row(0) == (2, 2, pytest.approx(1))


@pytest.mark.parametrize("vectors", [[None], [[1.0, 2.0]], [[0.0], [1.0]], [[], []]])
def test_fewer_than_two_vectors_have_no_distance(vectors: list[Any]) -> None:
    assert cosine_diversity(frame(vectors))["cosine_distance"].to_list() == [None]


def test_groups_come_in_their_order() -> None:
    df = frame([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]).with_columns(who=pl.Series(["b", "a", "b", "a"]))
    assert cosine_diversity(df, by=["who"]).rows() == [("b", 2, 0, pytest.approx(0)), ("a", 2, 0, pytest.approx(1))]


@pytest.mark.parametrize("dtype", [pl.Array(pl.Float32, 2), pl.List(pl.Float32), pl.List(pl.Int8)])
def test_vectors_may_be_lists_or_arrays(dtype: Any) -> None:
    df = pl.DataFrame({"embedding": pl.Series([[1, 0], [0, 1]], dtype=dtype)})
    assert cosine_diversity(df)["cosine_distance"].item() == pytest.approx(1)


@pytest.mark.parametrize(
    ("column", "told"),
    [
        ([[1.0], [1.0, 2.0]], r"lengths \[1, 2\]"),
        ([[1.0], [math.nan]], "not finite"),
        ([[1.0], [math.inf]], "not finite"),
        ([[1.0], [None]], "not finite"),
        (["a", "b"], "a vector is a list"),
    ],
)
def test_what_are_no_vectors_is_refused(column: list[Any], told: str) -> None:
    with pytest.raises(FrameError, match=told):
        cosine_diversity(pl.DataFrame({"embedding": column}))


# --- embeddings ------------------------------------------------------------------------------------------------------


class Letters:
    """Counts of three letters; remembers what it was asked."""

    name = "letters"

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, texts: Sequence[str]) -> list[list[int]]:
        self.asked += texts
        return [[text.count(letter) for letter in "abc"] for text in texts]


def test_equal_texts_are_embedded_once_and_nulls_never() -> None:
    letters = Letters()
    df = pl.DataFrame({"text": ["ab", "c", "ab", None]})
    done = embed_column(df, column="text", into="v", embedder=letters)
    assert letters.asked == ["ab", "c"]
    assert done["v"].to_list() == [[1, 1, 0], [0, 0, 1], [1, 1, 0], None]
    assert done["v_model"].unique().to_list() == ["letters"]
    assert_frame_equal(done.select("text"), df)


@given(st.lists(st.none() | st.text("abcd", max_size=3), max_size=8), st.integers(0, 8))
def test_rows_are_embedded_one_by_one(texts: list[str | None], cut: int) -> None:
    df = pl.DataFrame({"text": texts}, schema={"text": pl.String})
    run = embed_column(column="text", embedder=Letters())
    assert_frame_equal(pl.concat([run(df[:cut]), run(df[cut:])]), run(df))


def test_an_embedder_that_loses_a_text_is_told() -> None:
    class Loses(Letters):
        def __call__(self, texts: Sequence[str]) -> list[list[int]]:
            return super().__call__(texts)[1:]

    with pytest.raises(FrameError, match="was given 2 texts and gave 1 vectors"):
        embed_column(pl.DataFrame({"text": ["a", "b"]}), column="text", embedder=Loses())


def test_what_is_no_embedder_is_refused() -> None:
    with pytest.raises(BindError, match="write embedder=embedder"):
        embed_column(pl.DataFrame({"text": ["a"]}), column="text", embedder=len)  # type: ignore[arg-type]


# --- words -----------------------------------------------------------------------------------------------------------

TEXTS = st.lists(st.text("ab c.", max_size=12), min_size=1, max_size=6)


def told(texts: list[str | None]) -> dict[str, Any]:
    df = pl.DataFrame({"text": texts}, schema={"text": pl.String})
    return vocabulary_diversity(df, column="text").row(0, named=True)


def words_of(text: str) -> list[str]:
    import re

    return re.findall(r"\w+|[^\w\s]", text.lower())


@given(TEXTS)
def test_distinct_words_and_pairs_are_counted_within_texts(texts: list[str]) -> None:
    found = told(texts)
    for length in (1, 2):
        runs = [tuple(words[i : i + length]) for words in map(words_of, texts) for i in range(len(words) - length + 1)]
        expected = len(set(runs)) / len(runs) if runs else None
        assert found[f"distinct_{length}"] == (None if expected is None else pytest.approx(expected))
    assert found["words"] == sum(len(words_of(text)) for text in texts)


@given(TEXTS)
def test_overlap_is_the_share_of_runs_that_stand_in_another_text(texts: list[str]) -> None:
    runs = [{tuple(w[i : i + 4]) for i in range(len(w) - 3)} for w in map(words_of, texts)]
    shares = [
        sum(any(run in other for j, other in enumerate(runs) if j != i) for run in own) / len(own)
        for i, own in enumerate(runs)
        if own
    ]
    expected = sum(shares) / len(shares) if shares else None
    assert told(texts)["self_overlap"] == (None if expected is None else pytest.approx(expected))


def test_the_compression_ratio_is_gzips() -> None:
    texts = ["the same words again"] * 30
    raw = "\n".join(texts).encode()
    assert told(texts)["compression_ratio"] == pytest.approx(len(raw) / len(gzip.compress(raw, 9)))


def test_what_is_repeated_is_less_diverse_by_every_measure() -> None:
    rng = random.Random(2)
    words = [f"w{i}" for i in range(300)]
    free = [" ".join(rng.choices(words, k=12)) for _ in range(40)]
    same = [free[i % 4] for i in range(40)]
    one, two = told(free), told(same)
    assert two["distinct_1"] < one["distinct_1"] and two["distinct_2"] < one["distinct_2"]
    assert two["compression_ratio"] > 2 * one["compression_ratio"]
    assert (two["self_overlap"], one["self_overlap"] < 0.05) == (1, True)


def test_nulls_are_left_out_and_nothing_has_no_measures() -> None:
    assert told(["a b", None])["n"] == 1
    assert told([None]) == {
        "n": 0,
        "words": 0,
        "distinct_1": None,
        "distinct_2": None,
        "compression_ratio": None,
        "self_overlap": None,
    }

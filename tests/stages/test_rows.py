"""Rows have names that stay, outcomes that add up, and leave in one place only."""

from __future__ import annotations

import random
import re
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from agora_frames.errors import FrameError
from agora_frames.frames import ERROR
from agora_frames.stages.rows import failure_counts, keep_valid, replace_rows, with_outcome, with_row_ids

TEXTS = st.text(st.characters(codec="utf-8"), max_size=5) | st.sampled_from(
    ["", " ", "\u00a0", "a\nb", "👩‍👩‍👧", "שלום", "a\u0301", "á"]
)


# --- with_row_ids ----------------------------------------------------------------------------------------------------


def ids(*texts: str | None) -> list[str]:
    return with_row_ids(pl.DataFrame({"text": texts}, schema={"text": pl.String}))["row_id"].to_list()


def test_row_ids_are_what_they_were_in_earlier_versions() -> None:
    assert ids("1 + 1?", "naïve 🙂", "1 + 1?", None) == [
        "d4828a790d4f345df0992999bbac41a9",
        "4ec1be5d75704aa0e23d0f3ae22e2e43",
        "0cf96353257dedb837f909abd313280c",
        "bb2099015e9c27e53c5c33eefddbb839",
    ]


@given(st.lists(st.none() | TEXTS, max_size=20))
def test_row_ids_are_unique_hex_digits(texts: list[str | None]) -> None:
    found = ids(*texts)
    assert len(set(found)) == len(texts)
    assert all(re.fullmatch("[0-9a-f]{32}", each) for each in found)


@given(st.lists(st.none() | TEXTS, unique=True, max_size=10), st.randoms())
def test_a_row_keeps_its_id_when_rows_come_and_go_and_move(texts: list[str | None], rng: random.Random) -> None:
    named = dict(zip(texts, ids(*texts), strict=True))
    some = rng.sample(texts, rng.randint(0, len(texts)))
    assert ids(*some) == [named[text] for text in some]


@given(st.lists(st.sampled_from(["a", "b"]), max_size=8), st.randoms())
def test_of_equal_rows_only_the_count_matters(texts: list[str], rng: random.Random) -> None:
    assert set(ids(*rng.sample(texts, len(texts)))) == set(ids(*texts))


def test_equal_rows_are_numbered_as_they_occur() -> None:
    once, twice = ids("a"), ids("a", "b", "a")
    assert (twice[0], twice[2]) == (once[0], ids("a", "a")[1])


def test_the_id_stands_in_front_and_all_else_stays() -> None:
    df = pl.DataFrame({"b": [1], "a": ["x"]})
    assert_frame_equal(with_row_ids(df).drop("row_id"), df)
    assert with_row_ids(df).columns == ["row_id", "b", "a"]


def test_the_order_of_columns_does_not_change_ids() -> None:
    df = pl.DataFrame({"a": ["x", "y"], "b": [1, 2]})
    assert_frame_equal(with_row_ids(df).select("row_id"), with_row_ids(df.select("b", "a")).select("row_id"))


def test_ids_of_some_columns_do_not_change_with_the_others() -> None:
    one = with_row_ids(pl.DataFrame({"q": ["x", "x"], "note": [1, 2]}), columns=["q"])
    other = with_row_ids(pl.DataFrame({"q": ["x", "x"], "more": [3.0, None]}), columns=["q"])
    assert one["row_id"].to_list() == other["row_id"].to_list() == ids_of_column("q", "x", "x")


def ids_of_column(name: str, *values: Any) -> list[str]:
    return with_row_ids(pl.DataFrame({name: values}))["row_id"].to_list()


def test_the_name_of_a_column_counts() -> None:
    assert ids_of_column("q", "x") != ids_of_column("p", "x")


def test_a_frame_that_has_ids_is_given_back() -> None:
    df = with_row_ids(pl.DataFrame({"q": ["x"]})).with_columns(answer=pl.lit(1))
    assert_frame_equal(with_row_ids(df), df)


@pytest.mark.parametrize("df", [pl.DataFrame(), pl.DataFrame(schema={"q": pl.String})])
def test_an_empty_frame_gets_an_empty_column_of_ids(df: pl.DataFrame) -> None:
    assert with_row_ids(df).schema == {"row_id": pl.String(), **df.schema}


def test_rows_without_columns_have_ids_too() -> None:
    assert with_row_ids(pl.DataFrame(height=3))["row_id"].n_unique() == 3


def test_a_column_that_is_missing_is_told() -> None:
    with pytest.raises(FrameError) as error:
        with_row_ids(pl.DataFrame({"question": ["x"]}), columns=["questions"])
    assert str(error.value) == (
        "with_row_ids() reads the column 'questions', which the frame does not have; did you mean 'question'? "
        "It has: 'question'."
    )


# --- with_outcome, keep_valid, failure_counts ------------------------------------------------------------------------

KINDS = st.none() | st.sampled_from(["unparsed", "truncated", "refused", "rate_limited", "not_asked"])
NAMES = st.lists(st.sampled_from(["completion_error", "answer_parse_error", "ü_error"]), unique=True)


@st.composite
def judged(draw: st.DrawFn) -> pl.DataFrame:
    """A frame with some error columns, and perhaps with what `validate` adds."""
    height = draw(st.integers(0, 8))
    columns: dict[str, pl.Series] = {"n": pl.Series(range(height), dtype=pl.Int64)}
    for name in draw(NAMES):
        kinds = draw(st.lists(KINDS, min_size=height, max_size=height))
        columns[name] = pl.Series([kind and {"kind": kind, "message": "why"} for kind in kinds], dtype=ERROR)
    if draw(st.booleans()):
        columns["valid"] = pl.Series(
            draw(st.lists(st.none() | st.booleans(), min_size=height, max_size=height)), dtype=pl.Boolean
        )
        if draw(st.booleans()):
            failures = st.none() | st.lists(st.sampled_from(["a: b", "c"]), max_size=2)
            columns["failures"] = pl.Series(
                draw(st.lists(failures, min_size=height, max_size=height)), dtype=pl.List(pl.String)
            )
    return pl.DataFrame(columns)


@given(judged())
def test_each_row_is_accepted_rejected_or_failed(df: pl.DataFrame) -> None:
    done = with_outcome(df)
    assert done["outcome"].is_in(["accepted", "rejected", "failed"]).all()
    assert_frame_equal(done.drop("outcome", "reason"), df)


@given(judged())
def test_accepted_rows_and_counted_failures_are_all_rows(df: pl.DataFrame) -> None:
    accepted = with_outcome(df).filter(pl.col("outcome") == "accepted").height
    assert accepted + failure_counts(df)["rows"].sum() == df.height


@given(judged())
def test_a_row_has_a_reason_exactly_when_it_is_not_accepted(df: pl.DataFrame) -> None:
    done = with_outcome(df)
    assert (done["reason"].is_null() == (done["outcome"] == "accepted")).all()


@given(judged())
def test_the_rows_that_are_kept_are_the_accepted_ones(df: pl.DataFrame) -> None:
    if "valid" in df.columns:
        assert keep_valid(df)["n"].to_list() == with_outcome(df).filter(outcome="accepted")["n"].to_list()


@given(judged())
def test_failures_are_counted_by_outcome_and_reason(df: pl.DataFrame) -> None:
    lost = with_outcome(df).filter(pl.col("outcome") != "accepted")
    counts = failure_counts(df)
    assert counts.schema == {"outcome": pl.String(), "reason": pl.String(), "rows": pl.UInt32()}
    assert counts["rows"].is_sorted(descending=True)
    for outcome, reason, rows in counts.rows():
        assert lost.filter(outcome=outcome, reason=reason).height == rows


def row(**cells: Any) -> tuple[str, str | None]:
    """Outcome and reason of one row; errors are given by their kind."""
    columns = {
        name: pl.Series([value and {"kind": value, "message": "why"}], dtype=ERROR)
        if name.endswith("_error")
        else pl.Series([value])
        for name, value in cells.items()
    }
    done = with_outcome(pl.DataFrame(columns))
    return done["outcome"].item(), done["reason"].item()


@pytest.mark.parametrize(
    ("cells", "outcome", "reason"),
    [
        ({"n": 1}, "accepted", None),
        ({"a_error": None}, "accepted", None),
        ({"a_error": None, "valid": True, "failures": []}, "accepted", None),
        ({"a_error": "truncated"}, "failed", "a: truncated"),
        ({"a_error": "unparsed"}, "rejected", "a: unparsed"),
        ({"a_error": "unparsed", "b_error": "refused"}, "failed", "a: unparsed"),
        ({"a_error": None, "b_error": "refused"}, "failed", "b: refused"),
        ({"valid": False, "failures": ["q: too short", "q: no digit"]}, "rejected", "q: too short"),
        ({"valid": False, "failures": []}, "rejected", "invalid"),
        ({"valid": False, "failures": None}, "rejected", "invalid"),
        ({"valid": False}, "rejected", "invalid"),
        ({"valid": None, "failures": []}, "rejected", "invalid"),
        ({"valid": None, "failures": None}, "rejected", "invalid"),
        ({"a_error": "refused", "valid": False, "failures": []}, "failed", "a: refused"),
        ({"valid": "a column of one's own"}, "accepted", None),
    ],
)
def test_outcome_and_first_reason(cells: dict[str, Any], outcome: str, reason: str | None) -> None:
    assert row(**cells) == (outcome, reason)


def test_a_column_that_only_has_the_name_of_an_error_is_none() -> None:
    assert row(standard_deviation="refused")[0] == "accepted"
    assert with_outcome(pl.DataFrame({"a_error": ["text"]}))["outcome"].item() == "accepted"


def test_keeping_the_valid_rows_of_a_frame_that_was_not_validated_is_told() -> None:
    with pytest.raises(
        FrameError, match=re.escape("keep_valid() reads the column 'valid', which the frame does not have")
    ):
        keep_valid(pl.DataFrame({"n": [1]}))


def test_keep_valid_reads_booleans() -> None:
    with pytest.raises(FrameError, match=re.escape("reads the column 'valid' as Boolean, but it is String")):
        keep_valid(pl.DataFrame({"valid": ["yes"]}))


def test_the_most_frequent_failure_is_counted_first() -> None:
    df = pl.DataFrame({"valid": [False] * 4, "failures": [["b"], ["a"], ["b"], ["a"]]}).extend(
        pl.DataFrame({"valid": [False] * 3, "failures": [["c"]] * 3})
    )
    assert failure_counts(df).rows() == [("rejected", "c", 3), ("rejected", "a", 2), ("rejected", "b", 2)]


# --- replace_rows ----------------------------------------------------------------------------------------------------

OLD = pl.DataFrame({"row_id": ["a", "b", "c"], "text": ["old a", "old b", "old c"]})
SAMPLES = pl.DataFrame({"row_id": ["a", "a", "b", "b"], "sample": [0, 1, 0, None], "n": [1, 2, 3, 4]})


@given(st.lists(st.sampled_from("abcdef"), unique=True), st.data())
def test_replaced_rows_stand_where_the_old_ones_stood(names: list[str], data: st.DataObject) -> None:
    again = data.draw(st.lists(st.sampled_from(names), unique=True)) if names else []
    schema = {"row_id": pl.String, "text": pl.String}
    old = pl.DataFrame({"row_id": names, "text": ["old"] * len(names)}, schema=schema)
    new = pl.DataFrame({"row_id": again, "text": ["new"] * len(again)}, schema=schema)
    expected = old.with_columns(text=pl.when(pl.col("row_id").is_in(again)).then(pl.lit("new")).otherwise("text"))
    assert_frame_equal(replace_rows(old, rows=new), expected)


def test_samples_are_told_apart() -> None:
    new = SAMPLES[[3, 1]].with_columns(n=pl.lit(9, dtype=pl.Int64))
    assert replace_rows(SAMPLES, rows=new)["n"].to_list() == [1, 9, 3, 9]


def test_columns_and_types_are_those_of_the_old_frame() -> None:
    new = pl.DataFrame({"more": [1], "text": [None], "row_id": ["b"]})
    done = replace_rows(OLD, rows=new)
    assert done.schema == OLD.schema
    assert done["text"].to_list() == ["old a", None, "old c"]


@pytest.mark.parametrize(
    ("df", "rows", "message"),
    [
        (
            OLD.drop("row_id"),
            OLD,
            "replace_rows() reads the column 'row_id', which the frame does not have. It has: 'text'.",
        ),
        (OLD, OLD.drop("text"), "replace_rows() needs all columns of the frame in `rows`, which lacks 'text'."),
        (
            SAMPLES,
            SAMPLES.drop("sample"),
            "replace_rows() needs all columns of the frame in `rows`, which lacks 'sample'.",
        ),
        (OLD, OLD[[0, 0]], "replace_rows() was given 'a' more than once in `rows`; which is meant?"),
        (OLD[[1, 2]], OLD, "replace_rows() was given rows that the frame does not have: 'a'."),
        (OLD[[0, 1, 0]], OLD[[0]], "replace_rows() found 'a' more than once in the frame; which is meant?"),
    ],
)
def test_rows_that_do_not_stand_for_one_row_are_told(df: pl.DataFrame, rows: pl.DataFrame, message: str) -> None:
    with pytest.raises(FrameError) as error:
        replace_rows(df, rows=rows)
    assert str(error.value) == message


def test_rows_that_occur_twice_and_are_not_replaced_stay_as_they_are() -> None:
    df = OLD[[0, 1, 0, 2]]
    assert replace_rows(df, rows=OLD[[1]].with_columns(text=pl.lit("new")))["text"].to_list() == [
        "old a",
        "new",
        "old a",
        "old c",
    ]


def test_a_column_of_the_users_own_that_is_called_valid_or_failures_says_nothing_of_the_outcome() -> None:
    df = pl.DataFrame({"valid": ["until May", None], "failures": [3, 4]})
    assert with_outcome(df)["outcome"].to_list() == ["accepted", "accepted"]
    assert failure_counts(df).is_empty()

"""validate: which rows break which rules, in a frame of any shape."""

import pickle
from typing import ClassVar

import pandera.polars as pa
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pandera.config import config_context
from polars.testing import assert_frame_equal

from agora_frames.errors import BindError, FrameError, InvalidRowsError
from agora_frames.fingerprint import fingerprint
from agora_frames.frames import ERROR
from agora_frames.stages.validate import validate


class Pair(pa.DataFrameModel):
    text: str
    n: int = pa.Field(gt=0, lt=10)

    @pa.check("text")
    def is_short(cls, data):
        return data.lazyframe.select(pl.col(data.key).str.len_chars() < 4)

    @pa.check("text")
    def is_lower(cls, data):
        return data.lazyframe.select(pl.col(data.key) == pl.col(data.key).str.to_lowercase())

    @pa.dataframe_check
    def length_is_n(cls, data):
        return data.lazyframe.select(pl.col("text").str.len_chars() == pl.col("n"))


def pairs(*rows):
    return pl.DataFrame(list(rows), schema={"text": pl.String, "n": pl.Int64}, orient="row")


def column(*checks, dtype=pl.String, **options):
    return pa.DataFrameSchema({"text": pa.Column(dtype, list(checks), **options)}, name="Texts")


def rule(expression, **options):
    return pa.Check(lambda data: data.lazyframe.select(expression), **options)


# --- what is found


def test_a_row_that_keeps_all_rules_is_valid():
    done = validate(pairs(("abc", 3)), schema=Pair)
    assert done.row(0) == ("abc", 3, True, [])


def test_a_row_names_every_rule_it_breaks_in_the_order_of_the_schema():
    done = validate(pairs(("ABCD", 12), ("ab", 3)), schema=Pair)
    assert done["valid"].to_list() == [False, False]
    assert done["failures"].to_list() == [
        ["text: is_short", "text: is_lower", "n: less_than(10)", "length_is_n"],
        ["length_is_n"],
    ]


def test_a_null_breaks_the_rule_that_there_is_none_and_no_other():
    assert validate(pairs((None, 3)), schema=Pair)["failures"].to_list() == [["text: not_nullable"]]


def test_a_nullable_column_may_be_null():
    schema = column(pa.Check.str_length(3), nullable=True)
    assert validate(pl.DataFrame({"text": [None, "a"]}), schema=schema)["valid"].to_list() == [True, False]


def test_a_schema_that_is_no_model_works_too():
    done = validate(pl.DataFrame({"text": ["a", "abc"]}), schema=column(pa.Check.isin(["abc"])))
    assert done["failures"].to_list() == [["text: isin(['abc'])"], []]


def test_the_error_text_of_a_check_is_its_name():
    schema = column(rule(pl.col("text") == "b", error="is b"))
    assert validate(pl.DataFrame({"text": ["a"]}), schema=schema)["failures"].to_list() == [["text: is b"]]


def test_the_same_check_twice_is_named_once():
    schema = column(pa.Check.isin(["b"]), pa.Check.isin(["b"]))
    assert validate(pl.DataFrame({"text": ["a"]}), schema=schema)["failures"].to_list() == [["text: isin(['b'])"]]


def test_each_column_of_a_pattern_is_named():
    schema = pa.DataFrameSchema({"^t.*$": pa.Column(str, pa.Check.isin(["a"]), regex=True)})
    done = validate(pl.DataFrame({"t1": ["a", "b"], "t2": ["b", "b"], "other": [1, 2]}), schema=schema)
    assert done["failures"].to_list() == [["t2: isin(['a'])"], ["t1: isin(['a'])", "t2: isin(['a'])"]]


def test_every_row_is_found_also_where_a_check_shows_only_some():
    schema = column(rule(pl.col("text") == "b", name="is_b", n_failure_cases=2))
    assert validate(pl.DataFrame({"text": ["a"] * 5000}), schema=schema)["valid"].sum() == 0


def test_other_columns_and_the_input_frame_stay():
    df = pairs(("abc", 3), ("x", 9)).with_columns(extra=pl.lit(b"bytes"), list=pl.lit(1).implode())
    before = df.clone()
    done = validate(df, schema=Pair)
    assert_frame_equal(df, before)
    assert_frame_equal(done.drop("valid", "failures"), df)
    assert done["failures"].to_list() == [[], ["length_is_n"]]


def test_what_was_found_before_is_replaced():
    once = validate(pairs(("abc", 3), ("x", 9)), schema=Pair)
    assert_frame_equal(validate(once, schema=Pair), once)


def test_what_was_found_before_is_no_stranger_to_a_strict_schema():
    schema = pa.DataFrameSchema({"text": pa.Column(str)}, strict=True)
    once = validate(pl.DataFrame({"text": ["a"]}), schema=schema)
    assert_frame_equal(validate(once, schema=schema), once)


# --- frames of odd shapes


def test_an_empty_frame_gives_the_same_schema():
    full = validate(pairs(("abc", 3)), schema=Pair)
    assert validate(pairs(), schema=Pair).schema == full.schema
    assert full.schema["failures"] == pl.List(pl.String)


def test_a_column_of_nothing_but_nulls_has_no_type_and_is_judged():
    done = validate(pl.DataFrame({"text": [None, None], "n": [1, 20]}), schema=Pair)
    assert done["failures"].to_list() == [["text: not_nullable"], ["text: not_nullable", "n: less_than(10)"]]
    assert done.schema["text"] == pl.Null


def test_a_schema_that_coerces_judges_the_cast_values_and_leaves_the_column():
    schema = column(pa.Check.gt(1), dtype=pl.Int64, coerce=True)
    done = validate(pl.DataFrame({"text": ["1", "2"]}), schema=schema)
    assert done["failures"].to_list() == [["text: greater_than(1)"], []]
    assert done.schema["text"] == pl.String


# --- rows that went wrong before


def with_errors(df, *kinds):
    return df.with_columns(
        pl.Series("reply_error", [kind and {"kind": kind, "message": "m"} for kind in kinds], dtype=ERROR)
    )


def test_a_row_with_an_error_is_not_judged_and_not_valid():
    df = with_errors(pairs((None, None), ("x", 9), ("abc", 3)), "refused", None, None)
    done = validate(df, schema=Pair)
    assert done["valid"].to_list() == [False, False, True]
    assert done["failures"].to_list() == [[], ["length_is_n"], []]


def test_a_frame_of_nothing_but_errors_is_not_judged():
    done = validate(with_errors(pl.DataFrame({"text": [None], "n": [None]}), "refused"), schema=Pair)
    assert done.select("valid", "failures").rows() == [(False, [])]


# --- on_invalid="raise"


def test_raise_tells_how_many_rows_break_what_and_which():
    df = pairs(("abc", 3), ("ABC", 3), ("x", 2), ("y", 3)).with_columns(row_id=pl.Series(["r0", "r1", "r2", "r3"]))
    with pytest.raises(InvalidRowsError) as caught:
        validate(df, schema=Pair, on_invalid="raise")
    assert "3 of 4 rows invalid: 'length_is_n' in 2, 'text: is_lower' in 1" in str(caught.value)
    assert "(by row_id): 'r1', 'r2', 'r3'" in str(caught.value)
    assert "keep_valid()" in str(caught.value)


def test_raise_lets_valid_rows_and_rows_with_errors_pass():
    done = validate(with_errors(pairs(("abc", 3), ("x", 9)), None, "refused"), schema=Pair, on_invalid="raise")
    assert done["valid"].to_list() == [True, False]


# --- frames that cannot be judged


def test_a_missing_column_is_named_with_a_guess():
    with pytest.raises(FrameError, match="no column 'text'; did you mean 'texts'"):
        validate(pairs(("abc", 3)).rename({"text": "texts"}), schema=Pair)


def test_a_wrong_type_is_told_with_the_right_one():
    with pytest.raises(FrameError, match="'text' is Int32, not String"):
        validate(pl.DataFrame({"text": [1], "n": [3]}, schema_overrides={"text": pl.Int32}), schema=Pair)


def test_a_wrong_type_is_found_in_an_empty_frame_too():
    with pytest.raises(FrameError, match="'n' is String"):
        validate(pl.DataFrame(schema={"text": pl.String, "n": pl.String}), schema=Pair)


def test_checks_that_crash_because_of_a_wrong_type_are_not_told():
    with pytest.raises(FrameError) as caught:
        validate(pl.DataFrame({"text": [1], "n": [3]}), schema=Pair)
    assert "is_short" not in str(caught.value)


def test_a_column_that_is_missing_is_named_where_the_schema_coerces():
    with pytest.raises(FrameError, match=r"no column 'text'; did you mean 'texts'\?.*The frame has: 'row_id', 'texts'"):
        validate(pl.DataFrame({"row_id": ["a"], "texts": ["1"]}), schema=column(dtype=pl.Int64, coerce=True))


def test_a_value_that_cannot_be_coerced_is_shown():
    with pytest.raises(FrameError, match="'foo'"):
        validate(pl.DataFrame({"text": ["1", "foo"]}), schema=column(dtype=pl.Int64, coerce=True))


def test_a_strict_schema_names_the_column_it_does_not_declare():
    with pytest.raises(FrameError, match="does not declare the column 'extra'"):
        validate(
            pl.DataFrame({"text": ["a"], "extra": [1]}),
            schema=pa.DataFrameSchema({"text": pa.Column(str)}, strict=True),
        )


def test_a_check_that_crashes_is_named_with_what_it_said():
    with pytest.raises(FrameError, match=r"'is_b' could not be done: .*nope"):
        validate(pl.DataFrame({"text": ["a"], "nope": [1]}), schema=column(rule(pl.col("nope") == "b", name="is_b")))


@pytest.mark.parametrize(
    "check", [rule(pl.col("text").n_unique() > 5, name="many"), pa.Check(lambda data: False, name="many")]
)
def test_a_check_with_one_answer_for_all_rows_is_refused(check):
    with pytest.raises(FrameError, match=r"'many' must give one Boolean for each row"):
        validate(pl.DataFrame({"text": ["a", "b"]}), schema=column(check))


def test_a_check_with_one_answer_beside_rows_that_fail_is_refused_too():
    schema = column(pa.Check(lambda data: False, name="many"), pa.Check.isin(["c"]))
    with pytest.raises(FrameError, match="one Boolean for each row"):
        validate(pl.DataFrame({"text": ["a", "b"]}), schema=schema)


class UniquePair(Pair):
    class Config:
        unique: ClassVar = ["text", "n"]


@pytest.mark.parametrize("schema", [UniquePair, column(unique=True)])
def test_a_schema_that_compares_rows_is_refused(schema):
    with pytest.raises(FrameError, match="a stage of its own"):
        validate(pairs(("abc", 3)), schema=schema)


@pytest.mark.parametrize(
    "schema", [column(drop_invalid_rows=True), pa.DataFrameSchema({"text": pa.Column(str)}, drop_invalid_rows=True)]
)
def test_a_schema_that_drops_rows_is_refused(schema):
    with pytest.raises(FrameError, match="keep_valid"):
        validate(pairs(("abc", 3)), schema=schema)


def test_on_invalid_is_one_of_two():
    with pytest.raises(BindError, match="'drop'"):
        validate(pairs(("abc", 3)), schema=Pair, on_invalid="drop")


@pytest.mark.parametrize("schema", [None, "Pair", pa.Column(str), dict])
def test_a_schema_is_a_model_or_a_schema_of_pandera(schema):
    with pytest.raises(BindError, match=r"pandera\.polars"):
        validate(pairs(("abc", 3)), schema=schema)


# --- laws


@pytest.mark.parametrize("off", [{"validation_enabled": False}, {"validation_depth": "SCHEMA_ONLY"}])
def test_settings_of_pandera_do_not_switch_it_off(off):
    with config_context(**off):
        assert validate(pairs(("x", 9)), schema=Pair)["valid"].to_list() == [False]


def test_a_fingerprint_stays_when_the_schema_is_used():
    bound = validate(schema=Pair)
    before = fingerprint(bound)
    bound(pairs(("abc", 3)))
    assert fingerprint(validate(schema=Pair)) == fingerprint(pickle.loads(pickle.dumps(bound))) == before


ROWS = st.lists(
    st.tuples(st.none() | st.sampled_from(["abc", "AB", "abcd", ""]), st.none() | st.integers(0, 10)), max_size=12
)


@settings(max_examples=25, deadline=None)
@given(
    rows=ROWS, at=st.integers(0, 12), wrong=st.lists(st.sampled_from([None, None, "refused"]), min_size=12, max_size=12)
)
def test_parts_give_what_the_whole_gives(rows, at, wrong):
    df = with_errors(pairs(*rows), *wrong[: len(rows)])
    parts = pl.concat([validate(df[:at], schema=Pair), validate(df[at:], schema=Pair)])
    assert_frame_equal(parts, validate(df, schema=Pair))


def test_a_hundred_thousand_rows_are_judged():
    df = pl.DataFrame({"text": ["abc", "ABCD"] * 50_000, "n": [3, 4] * 50_000})
    done = validate(df, schema=Pair)
    assert done["valid"].sum() == 50_000
    assert done["failures"][1].to_list() == ["text: is_short", "text: is_lower"]


@pytest.mark.parametrize(
    ("schema", "told"),
    [
        (pa.DataFrameSchema({"text": pa.Column(str, default="x")}), "`default`"),
        (pa.DataFrameSchema({"text": pa.Column(str, nullable=True)}, add_missing_columns=True), "add_missing_columns"),
        (pa.DataFrameSchema({"text": pa.Column(str, pa.Check.str_length(1), nullable=True)}), None),
        (pa.DataFrameSchema({"text": pa.Column(str, pa.Check.str_length(1, raise_warning=True))}), "raise_warning"),
    ],
    ids=["default", "missing", "plain", "warning"],
)
def test_a_schema_that_mends_or_only_warns_is_refused(schema: pa.DataFrameSchema, told: str | None) -> None:
    df = pl.DataFrame({"text": ["a", None]})
    if told is None:
        assert validate(df, schema=schema)["valid"].to_list() == [True, True]
    else:
        with pytest.raises(FrameError, match=told):
            validate(df, schema=schema)

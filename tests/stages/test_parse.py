"""parse_column: values beside their text, or the reason why there are none."""

import datetime as dt
import enum
import functools
import json
import os
import pickle
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from agora_frames.errors import BindError, FrameError
from agora_frames.frames import ERROR, outcome
from agora_frames.stages.parse import parse_column
from agora_frames.stages.parsers import code_block, json_object, split_on, tagged

IN_OUT = split_on("INPUT:", "OUTPUT:")
SHARED = Path(os.environ.get("AGORA_SHARED_DATA") or Path(__file__).parents[2] / "../shared/data")


def frame(*texts):
    return pl.DataFrame({"reply": texts}, schema={"reply": pl.String})


def parse(texts, parser, into="value"):
    return parse_column(frame(*texts), column="reply", parser=parser, into=into)


def reason(df, row=0):
    error = df["reply_parse_error"][row]
    assert error["kind"] == "unparsed"
    return error["message"]


# --- what is added


def test_values_and_their_text_stand_side_by_side():
    done = parse(["INPUT: q\nOUTPUT: a"], IN_OUT, into=["instruction", "response"])
    assert done.rows() == [("INPUT: q\nOUTPUT: a", "q", "a", None)]
    assert done.schema["reply_parse_error"] == ERROR


def test_missing_markers_give_nulls_and_a_reason_never_a_copy():
    done = parse(["No markers here.", ""], IN_OUT, into=("instruction", "response"))
    assert done["instruction"].to_list() == done["response"].to_list() == [None, None]
    assert reason(done, 0) == reason(done, 1) == "no line begins with 'INPUT:'"


def test_one_missing_value_makes_all_null():
    done = parse(['{"a": "x", "b": null}'], json_object("a", "b"), into=("a", "b"))
    assert done.row(0)[1:3] == (None, None)
    assert reason(done) == "there is no 'b'"


def test_an_unparsed_row_is_rejected_not_failed():
    assert parse(["x"], tagged("R")).select(outcome(parse(["x"], tagged("R")))).item() == "rejected"


def test_a_row_that_needs_the_call_and_one_that_does_not_keep_their_order():
    texts = ["INPUT: 1\nOUTPUT: a", "**INPUT:** 2\n**OUTPUT:** b", "none", "INPUT: 4\nOUTPUT: d"]
    assert parse(texts, IN_OUT, into=("i", "o"))["i"].to_list() == ["1", "2", None, "4"]


def test_other_columns_and_the_input_frame_stay():
    df = frame("[R] 1 [/R]").with_columns(n=pl.lit(1))
    before = df.clone()
    done = parse_column(df, column="reply", parser=tagged("R"), into="value")
    assert_frame_equal(df, before)
    assert done.columns == ["reply", "n", "value", "reply_parse_error"]


def test_an_empty_frame_gives_the_same_schema():
    full = parse(["[R] 1 [/R]"], tagged("R"), into={"value": pl.Int64})
    assert parse([], tagged("R"), into={"value": pl.Int64}).schema == full.schema
    assert parse([], str.upper).schema == parse(["a"], str.upper).schema


def test_it_binds_and_pickles():
    bound = parse_column(column="reply", parser=tagged("R"), into="value")
    assert repr(bound) == "parse_column(column='reply', parser=tagged('R'), into='value')"
    assert_frame_equal(pickle.loads(pickle.dumps(bound))(frame("[R] 1 [/R]")), bound(frame("[R] 1 [/R]")))


# --- nulls


def test_a_null_text_is_unparsed():
    assert reason(parse([None], tagged("R"))) == "the text is null"


def test_a_null_text_whose_call_failed_is_explained_already():
    failed = pl.Series("reply_error", [{"kind": "refused", "message": "no"}, None], dtype=ERROR)
    done = parse_column(frame(None, None).with_columns(failed), column="reply", parser=tagged("R"), into="value")
    assert done["reply_parse_error"].to_list() == [None, {"kind": "unparsed", "message": "the text is null"}]


def test_a_text_that_came_with_an_error_is_still_parsed():
    failed = pl.Series("reply_error", [{"kind": "truncated", "message": "no"}], dtype=ERROR)
    done = parse_column(frame("half").with_columns(failed), column="reply", parser=tagged("R"), into="value")
    assert done["reply_parse_error"][0]["kind"] == "unparsed"


def test_a_column_of_nothing_but_nulls_has_no_type_and_is_fine():
    done = parse_column(pl.DataFrame({"reply": [None]}), column="reply", parser=tagged("R"), into="value")
    assert done.schema["value"] == pl.String
    assert reason(done) == "the text is null"


# --- types


def test_texts_are_read_as_numbers():
    done = parse(["[R] 42 [/R]", "[R] -7 [/R]"], tagged("R"), into={"value": pl.Int64})
    assert done["value"].to_list() == [42, -7]


def test_a_value_that_does_not_fit_makes_the_row_unparsed():
    done = parse(["[R] 42 apples [/R]", "[R] 300 [/R]"], tagged("R"), into={"value": pl.Int8()})
    assert done["value"].to_list() == [None, None]
    assert [reason(done, i) for i in (0, 1)] == [
        "'value' is '42 apples', which is no Int8",
        "'value' is '300', which is no Int8",
    ]


def test_json_values_keep_their_types():
    text = json.dumps({"n": 1, "x": 2.5, "of": ["a"], "yes": True, "who": {"age": 3}})
    into = {
        "n": pl.Int64,
        "x": pl.Float64,
        "of": pl.List(pl.String),
        "yes": pl.Boolean,
        "who": pl.Struct({"age": pl.Int64}),
    }
    done = parse([text, text], json_object(*into), into=into)
    assert done.schema["of"] == pl.List(pl.String)
    assert done.rows()[1][1:-1] == (1, 2.5, ["a"], True, {"age": 3})


@pytest.mark.parametrize("dtype", [pl.Boolean, pl.List(pl.String), pl.Datetime])
def test_a_text_is_read_as_nothing_but_a_number(dtype):
    assert "which is no" in reason(parse(["[R] true [/R]"], tagged("R"), into={"value": dtype}))


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        ("ab", pl.List(pl.String)),
        (["ab"], pl.List(pl.List(pl.String))),
        ({"b": 1}, pl.List(pl.String)),
        ({"b": 1}, pl.Struct({"a": pl.Int64})),
        ({"a": "x"}, pl.Struct({"a": pl.Int64})),
        ([{"a": "xy"}], pl.List(pl.Struct({"a": pl.List(pl.String)}))),
        (True, pl.Int64),
        ([True], pl.List(pl.Int64)),
        (5, pl.Date),
        (2**60 + 1, pl.Float64),
        (1e300, pl.Float32),
        (5, pl.String),
        (True, pl.String),
        (["a"], pl.String),
        ("x", pl.Boolean),
        (1.5, pl.Int64),
        ([1, "a"], pl.List(pl.Int64)),
    ],
)
def test_no_value_is_bent_into_another_type(value, dtype):
    assert "which is no" in reason(parse([json.dumps({"a": value})], json_object("a"), into={"a": dtype}))


def test_an_enum_of_texts_is_a_text():
    class Verdict(enum.StrEnum):
        YES = "yes"

    assert parse(["x"], lambda text: Verdict.YES)["value"].to_list() == ["yes"]


@pytest.mark.parametrize(
    ("value", "dtype", "kept"),
    [
        (1, pl.Float64, 1.0),
        (float("nan"), pl.Float64, None),
        (0.5, pl.Float32, 0.5),
        ([1, None], pl.List(pl.Int8), [1, None]),
        ({"a": 1}, pl.Struct({"a": pl.Int64, "b": pl.String}), {"a": 1, "b": None}),
        ([{"a": ["x"]}], pl.List(pl.Struct({"a": pl.List(pl.String)})), [{"a": ["x"]}]),
        (dt.date(2024, 1, 1), pl.Date, dt.date(2024, 1, 1)),
        ((1, 2), pl.Array(pl.Int64, 2), [1, 2]),
    ],
)
def test_what_fits_is_kept(value, dtype, kept):
    done = parse(["x"], lambda text: (value,), into={"value": dtype})
    assert done["reply_parse_error"].to_list() == [None]
    assert kept is None or done["value"].to_list() == [kept]


def test_one_row_that_does_not_fit_leaves_the_others():
    texts = [json.dumps({"n": n}) for n in (1, "2", "two", None, 10**30)]
    assert parse(texts, json_object("n"), into={"n": pl.Int64})["n"].to_list() == [1, 2, None, None, None]


def test_lone_surrogates_are_unparsed():
    done = parse(['{"a": "\\ud800"}', '{"a": ["\\udfff"]}', '{"a": "fine"}'], json_object("a"))
    assert done["value"].to_list() == [None, None, "fine"]
    assert "ud800" in reason(done)


# --- parsers of the user's own


def test_any_function_of_a_text_is_a_parser():
    assert parse(["a b", "c d"], str.split, into=("x", "y"))["y"].to_list() == ["b", "d"]


def test_none_means_not_found():
    assert reason(parse(["x"], lambda text: None)) == "the parser found nothing"


def test_named_values_are_taken_by_name():
    assert parse(["x"], lambda text: {"b": text, "a": "first", "c": 1}, into=("a", "b")).row(0)[1:3] == ("first", "x")


def test_for_one_name_a_dict_is_the_value():
    done = parse(['{"a": {"a": 5}}'], json_object("a"), into={"a": pl.Struct({"a": pl.Int64})})
    assert done["a"].to_list() == [{"a": 5}]


def test_for_one_name_a_list_is_the_value():
    assert parse(["a b"], str.split, into={"words": pl.List(pl.String)})["words"].to_list() == [["a", "b"]]


def test_a_name_that_is_not_given_is_missing():
    assert reason(parse(["x"], lambda text: {"b": text}, into=("a", "b"))) == "there is no 'a'"


@pytest.mark.parametrize("found", ["one", ("a", "b", "c"), ()])
def test_a_wrong_number_of_values_is_unparsed(found):
    assert "values, but 2 were wanted: 'a', 'b'" in reason(parse(["x"], lambda text: found, into=("a", "b")))


@pytest.mark.parametrize("parser", [IN_OUT, split_on("INPUT:", "OUTPUT:").__call__])
def test_too_many_values_are_unparsed_whatever_way_they_come(parser):
    assert "gave 2 values, but 1 were wanted" in reason(parse(["INPUT: q\nOUTPUT: a"], parser))


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ValueError("no luck"), "no luck"),
        (ValueError(), "ValueError: "),
        (KeyError("k"), "KeyError: 'k'"),
        (ZeroDivisionError("by zero"), "ZeroDivisionError: by zero"),
        (ValueError("odd \ud800"), "odd \\ud800"),
        (RecursionError("deep"), "RecursionError: deep"),
    ],
)
def test_what_a_parser_raises_is_the_reason_of_that_row_alone(error, message):
    def parser(text):
        if text == "bad":
            raise error
        return text

    done = parse(["good", "bad", "fine"], parser)
    assert done["value"].to_list() == ["good", None, "fine"]
    assert reason(done, 1) == message


def test_an_interrupt_is_no_reason():
    def parser(text):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        parse(["x"], parser)


# --- bad arguments


@pytest.mark.parametrize("into", [[], {}, "reply", ("a", "a"), ("a", "reply"), "reply_parse_error", [1]])
def test_into_names_new_columns_each_once(into):
    with pytest.raises(BindError, match="into"):
        parse(["x"], str.upper, into=into)


def test_a_missing_column_is_named_with_a_guess():
    with pytest.raises(FrameError, match="did you mean 'reply'"):
        parse_column(frame("x"), column="replay", parser=str.upper, into="a")


def test_a_column_of_numbers_is_refused():
    with pytest.raises(FrameError, match="Int64"):
        parse_column(pl.DataFrame({"reply": [1]}), column="reply", parser=str, into="a")


def test_a_parser_must_be_callable():
    with pytest.raises(BindError, match="'INPUT:'"):
        parse(["x"], "INPUT:")


def test_another_parse_of_the_same_column_may_not_hide_the_reasons_of_the_first():
    first = parse(["[R] 1 [/R]"], tagged("R"), into="a")
    with pytest.raises(FrameError, match="rename that column"):
        parse_column(first, column="reply", parser=tagged("Q"), into="b")


def test_the_same_parse_may_be_done_again():
    once = parse(["[R] 1 [/R]", "x"], tagged("R"), into="a")
    assert_frame_equal(parse_column(once, column="reply", parser=tagged("R"), into="a"), once)


# --- laws

PIECES = ["INPUT:", "OUTPUT:", "[END]", "a", "7", "**", "\n", " "]
TEXTS = st.lists(st.none() | st.lists(st.sampled_from(PIECES), max_size=10).map("".join), max_size=12)
PARSES = [
    (IN_OUT, ("i", "o")),
    (split_on("INPUT:", "OUTPUT:", end="[END]"), {"i": pl.String, "o": pl.Int64}),
    (split_on("OUTPUT:", start_given=True), "o"),
]


@pytest.mark.parametrize(("parser", "into"), PARSES, ids=str)
@settings(max_examples=25, deadline=None)
@given(texts=TEXTS)
def test_columns_and_calls_give_the_same_frame(parser, into, texts):
    calls_only = functools.partial(parser)
    assert_frame_equal(parse(texts, parser, into), parse(texts, calls_only, into))


JSON_VALUES = st.recursive(
    st.sampled_from(
        ["x", "", " a ", 'q"k"', "{", "}", "é日", "\\under", "\u2028", "42", "true", '"a": "x"', "\ud83d", "\x01"]
    )
    | st.sampled_from([0, 1, -129, 300, -0.0, 0.1, 1.0, 1e16, 1e300, 10**15, 10**18, 2**63, 2**63 - 1, float("nan")])
    | st.integers()
    | st.floats()
    | st.booleans()
    | st.none(),
    lambda values: st.lists(values, max_size=2) | st.dictionaries(st.sampled_from("abc"), values, max_size=3),
    max_leaves=3,
)
BROKEN = st.lists(
    st.tuples(st.integers(0, 60), st.integers(0, 1), st.sampled_from([*'{}[]":,\\ \n01e-`', "\\u", '"a"']))
)


@st.composite
def json_replies(draw):
    """An object as models write one: perhaps escaped, wrapped, fenced, or broken at a few places."""
    value = draw(st.fixed_dictionaries({"a": JSON_VALUES, "b": JSON_VALUES}) | JSON_VALUES)
    separators = draw(st.sampled_from([(", ", ": "), (",", ":"), (" , ", " : ")]))
    text = json.dumps(value, ensure_ascii=draw(st.booleans()), separators=separators)
    for at, gone, new in draw(st.just([]) | BROKEN):
        text = text[:at] + new + text[at + gone :]
    text = draw(st.sampled_from(["{}", "{}", "```json\n{}\n```", "Sure: {} ok?"])).replace("{}", text)
    return text.encode("utf-8", "replace").decode()


@pytest.mark.parametrize("dtypes", [(pl.String, pl.String), (pl.Int64, pl.Float64), (pl.String, pl.UInt8)], ids=str)
@settings(max_examples=60, deadline=None)
@given(texts=st.lists(st.none() | json_replies(), max_size=6))
def test_json_in_columns_and_by_calls_gives_the_same_frame(dtypes, texts):
    parser, into = json_object("a", "b"), dict(zip("xy", dtypes, strict=True))
    assert_frame_equal(parse(texts, parser, into), parse(texts, functools.partial(parser), into), check_exact=True)


@settings(max_examples=100, deadline=None)
@given(values=st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=20))
def test_a_number_in_json_is_read_to_its_last_digit(values):
    texts = [json.dumps({"n": value}) for value in values]
    done = parse(texts, json_object("n"), into={"n": pl.Float64})
    assert [float.hex(value) for value in done["n"]] == [float.hex(value) for value in values]


@pytest.mark.parametrize(("parser", "into"), PARSES, ids=str)
@settings(max_examples=25, deadline=None)
@given(texts=TEXTS, at=st.integers(0, 12))
def test_parts_give_what_the_whole_gives(parser, into, texts, at):
    parts = pl.concat([parse(texts[:at], parser, into), parse(texts[at:], parser, into)])
    assert_frame_equal(parts, parse(texts, parser, into))


@settings(max_examples=25, deadline=None)
@given(
    values=st.lists(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.text()), max_size=8
    )
)
@pytest.mark.parametrize("dtype", [pl.String, pl.Int64, pl.Float64, pl.Boolean, pl.List(pl.String)])
def test_any_values_are_stored_or_explained_row_by_row(dtype, values):
    def look_up(text):
        return values[int(text)]

    texts = [str(i) for i in range(len(values))]
    whole = parse(texts, look_up, into={"v": dtype})
    assert (whole["v"].is_null() == whole["reply_parse_error"].is_not_null()).all()
    assert_frame_equal(
        pl.concat([parse([], look_up, into={"v": dtype}), *(parse([t], look_up, into={"v": dtype}) for t in texts)]),
        whole,
    )


# --- real data


@pytest.fixture(params=["code", "general", "math", "magpie_code", "webinstruct_math"])
def seeds(request):
    found = sorted((SHARED / "agora_seeds").glob(f"{request.param}_seed_data*_subsampled.json"))
    if not found:
        pytest.skip(f"no AgoraBench seeds at {SHARED}; set AGORA_SHARED_DATA")
    return pl.DataFrame(json.loads(found[0].read_text())).select(pl.col("instruction", "response").str.strip_chars())


def test_seeds_written_as_a_reply_are_read_back(seeds):
    reply = pl.format("Here is one.\nINPUT: {}\nOUTPUT: {}\n[END]", "instruction", "response").alias("reply")
    parser = split_on("INPUT:", "OUTPUT:", end="[END]")
    done = parse_column(seeds.select(reply), column="reply", parser=parser, into=("instruction", "response"))
    assert_frame_equal(done.select("instruction", "response"), seeds)
    assert done["reply_parse_error"].null_count() == seeds.height == 20


def test_the_code_of_code_seeds_is_found():
    file = SHARED / "agora_seeds/code_seed_data_subsampled.json"
    if not file.exists():
        pytest.skip(f"no AgoraBench seeds at {SHARED}; set AGORA_SHARED_DATA")
    seeds = pl.DataFrame(json.loads(file.read_text()))
    done = parse_column(seeds, column="response", parser=code_block("python"), into="code")
    assert done["code"].null_count() == 0
    assert done["code"].str.contains("def ").all()


def test_many_rows_are_parsed_like_each_of_them() -> None:
    texts = [None if n % 7 == 0 else f"[A] {n} [/A]" if n % 3 else f"none {n}" for n in range(4_100)]
    df = pl.DataFrame({"reply": texts}, schema={"reply": pl.String})
    whole = parse_column(df, column="reply", parser=tagged("A"), into={"a": pl.Int64})
    halves = [
        parse_column(half, column="reply", parser=tagged("A"), into={"a": pl.Int64}) for half in (df[:777], df[777:])
    ]
    assert_frame_equal(whole, pl.concat(halves))
    assert whole["a"].drop_nulls().to_list() == [n for n in range(4_100) if n % 7 and n % 3]

"""decontaminate: every planted item of a benchmark is found, with the evidence; what is common is not."""

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agora_frames.errors import BindError, FrameError
from agora_frames.stages.decontaminate import decontaminate
from agora_frames.stages.words import words

ITEM = "Ann has three red apples and buys two more of them at the market. How many has she now?"
ITEMS = pl.DataFrame({"row_id": ["a", "b"], "instruction": [ITEM, "Name a sea."]})


def rows(*texts):
    return pl.DataFrame({"instruction": pl.Series(texts, dtype=pl.String)})


def found(text, **options):
    done = decontaminate(rows(text), against=ITEMS, columns="instruction", **options)
    names = ("contamination", "contamination_of", "contamination_overlap", "contamination_method", "contamination_text")
    return done.select(names).row(0)


def test_an_item_in_one_piece_is_whole():
    assert found(f"Please solve: {ITEM.upper()} Think first.") == (True, "a", 1.0, "whole", " ".join(words(ITEM)))


def test_signs_and_white_space_do_not_hide_an_item():
    assert found(ITEM.replace(" ", "\n  ").replace(".", " !"))[:3] == (True, "a", 1.0)


def test_most_of_an_item_is_enough():
    share = ITEM.replace("more of", "further")
    contaminated, of, overlap, method, text = found(share)
    assert (contaminated, of, method) == (True, "a", "8-gram")
    assert (overlap, text) == (17 / 19, "them at the market how many has she now")


def test_less_is_evidence_and_no_verdict():
    contaminated, of, overlap, method, text = found("Yesterday ann has three red apples and buys two of each.")
    assert (contaminated, of, method, text) == (False, "a", "8-gram", "ann has three red apples and buys two")
    assert overlap == 8 / 19


def test_what_shares_no_run_has_no_evidence():
    assert found("How many has she now?") == (False, None, None, None, None)


def test_an_item_shorter_than_a_run_is_found_whole_or_not_at_all():
    assert found("Go on. Name a sea, please")[:3] == (True, "b", 1.0)
    assert found("Name a river.")[:3] == (False, None, None)


def test_the_item_with_the_most_in_the_row_is_named():
    both = pl.DataFrame({"instruction": [f"{ITEM} And how many in a week from now?", ITEM]})
    done = decontaminate(
        rows(ITEM),
        against=both.with_row_index("n").select(row_id=pl.col("n").cast(str), instruction="instruction"),
        columns="instruction",
    )
    assert done["contamination_of"].to_list() == ["1"]


def test_runs_do_not_go_from_one_column_into_the_next():
    said = words(ITEM)
    halves = pl.DataFrame({"instruction": [" ".join(said[:6])], "response": [" ".join(said[6:12])]})
    assert decontaminate(halves, against=ITEMS)["contamination_overlap"].to_list() == [None]
    inside = pl.DataFrame({"instruction": [None], "response": [ITEM]}, schema={"instruction": str, "response": str})
    assert decontaminate(inside, against=ITEMS)["contamination"].to_list() == [True]


def test_several_benchmarks_are_told_apart():
    done = decontaminate(
        rows("name a sea", ITEM), against={"fruit": ITEMS[:1], "seas": ITEMS[1:]}, columns="instruction"
    )
    assert done["contamination_in"].to_list() == ["seas", "fruit"]


PLANTED = st.lists(st.sampled_from(["the", "of", "a", "is", "to", "we", "go", "on", "by"]), min_size=1, max_size=30)


@given(item=PLANTED, before=PLANTED, after=PLANTED, n=st.integers(1, 9))
def test_a_planted_item_is_always_found(item, before, after, n):
    items = pl.DataFrame({"row_id": ["it"], "instruction": [" ".join(item)]})
    done = decontaminate(rows(" ".join([*before, *item, *after])), against=items, columns="instruction", n=n)
    assert done.select("contamination", "contamination_of", "contamination_overlap").row(0) == (True, "it", 1.0)


@given(item=PLANTED, text=PLANTED, n=st.integers(1, 5))
def test_the_overlap_is_the_share_of_words_in_a_shared_run(item, text, n):
    size = min(n, len(item))
    runs = {tuple(text[i : i + size]) for i in range(len(text) - size + 1)}
    places = {p for i in range(len(item) - size + 1) if tuple(item[i : i + size]) in runs for p in range(i, i + size)}
    done = decontaminate(
        rows(" ".join(text)), against=pl.DataFrame({"instruction": [" ".join(item)]}), columns="instruction", n=n
    )
    assert done["contamination_overlap"][0] == (len(places) / len(item) if places else None)


def test_every_benchmark_item_planted_among_real_rows_is_found(shared_data):
    train = (
        pl.read_ndjson(shared_data / "gsm8k" / "train.jsonl")
        .head(500)
        .select(instruction="question", response="answer")
    )
    test = pl.read_ndjson(shared_data / "gsm8k" / "test_rows_0000-0659.jsonl").head(100).select(instruction="question")
    planted = test.select(instruction="Here is a puzzle for you. " + pl.col("instruction"), response=pl.lit("42"))
    done = decontaminate(pl.concat([train, planted]), against={"gsm8k": test})
    assert done["contamination"].to_list() == [False] * 500 + [True] * 100


@pytest.mark.slow
def test_few_of_gsm8ks_own_test_rows_are_taken_for_training_rows(shared_data):
    train = pl.read_ndjson(shared_data / "gsm8k" / "train.jsonl").select(instruction="question")
    test = pl.read_ndjson(shared_data / "gsm8k" / "test_rows_0000-0659.jsonl").select(instruction="question")
    done = decontaminate(test, against=train, columns="instruction")
    # 2 of 660, both of them the same puzzle with other numbers; 41 share some run of 8 words (benchmarks/duplicates.py)
    assert done["contamination"].sum() == 2
    assert done["contamination_overlap"].is_not_null().sum() == 41


@pytest.mark.parametrize("options", [{"n": 0}, {"threshold": 0}, {"threshold": 2}, {"columns": ()}])
def test_what_cannot_be_looked_for_is_told(options):
    with pytest.raises(BindError, match="was given"):
        decontaminate(rows("a"), against=ITEMS, **{"columns": "instruction", **options})


@pytest.mark.parametrize("against", [ITEMS.clear(), {}, pl.DataFrame({"instruction": ["", "..."]})])
def test_a_benchmark_without_a_text_is_an_error(against):
    with pytest.raises(BindError, match="no text to look for"):
        decontaminate(rows("a"), against=against, columns="instruction")


def test_columns_must_be_there():
    with pytest.raises(FrameError, match="'question'"):
        decontaminate(rows("a"), against={"gsm8k": ITEMS}, columns="instruction", against_columns="question")

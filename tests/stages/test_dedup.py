"""mark_duplicates: what repeats an earlier row is marked, with the evidence; nothing else is, and nothing leaves."""

import random
import subprocess
import sys

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from agora_frames.errors import BindError, FrameError
from agora_frames.frames import ERROR
from agora_frames.stages.dedup import bands_for, mark_duplicates
from agora_frames.stages.rows import keep_valid, reject_where
from agora_frames.stages.words import normalised, shingles

WORDS = [f"{a}{b}" for a in "kstnmr" for b in ("a", "e", "i", "o", "u", "an", "el", "ir")]
MARKS = ["duplicate_of", "duplicate_in", "duplicate_similarity", "duplicate_method"]


def frame(texts, **columns):
    ids = pl.Series([f"id{i}" for i in range(len(texts))], dtype=pl.String)
    return pl.DataFrame({"row_id": ids, "instruction": pl.Series(texts, dtype=pl.String), **columns})


def marks(texts, **options):
    return mark_duplicates(frame(texts), **options)["duplicate_of"].to_list()


def similarity(a, b, n=3):
    return len(shingles(a, n) & shingles(b, n)) / len(shingles(a, n) | shingles(b, n))


def sentence(rng, length=60):
    return " ".join(rng.choices(WORDS, k=length))


def reworded(rng, text, times):
    said = text.split()
    for place in rng.sample(range(len(said)), times):
        said[place] = "changed"
    return " ".join(said)


# --- what is found


def test_the_same_but_for_case_and_white_space_is_exact():
    done = mark_duplicates(frame(["Name a sea.", "Another task.", "  name a\n SEA. "]))
    assert done.select(MARKS).row(2) == ("id0", "rows", 1.0, "exact")
    assert done.select(MARKS).row(0) == done.select(MARKS).row(1) == (None,) * 4


def test_signs_make_a_difference():
    assert marks(["a + b", "a - b"], near=False) == [None, None]


def test_nearly_the_same_is_near_and_says_how_near():
    first = "Tom has five apples and buys seven more at the market in the town. How many apples has Tom in all?"
    done = mark_duplicates(frame([first, first.replace("market", "shop")]), threshold=0.6)
    assert done["duplicate_of"].to_list() == [None, "id0"]
    assert done["duplicate_method"][1] == "near"
    assert done["duplicate_similarity"][1] == similarity(first, first.replace("market", "shop"))


def test_without_near_only_exact_ones_are_found():
    text = sentence(random.Random(1))
    assert marks([text, f"{text} more", text.upper()], near=False) == [None, None, "id0"]


def test_every_planted_duplicate_is_found():
    rng = random.Random(7)
    originals = [sentence(rng) for _ in range(400)]
    planted = [reworded(rng, text, times=2) for text in originals[:100]]
    done = mark_duplicates(frame([*originals, *planted]), threshold=0.7)
    assert done["duplicate_of"].to_list() == [None] * 400 + [f"id{i}" for i in range(100)]


def test_every_duplicate_planted_from_the_seeds_is_found():
    rng = random.Random(8)
    seeds = [sentence(rng) for _ in range(200)]
    rows = [sentence(rng) for _ in range(100)] + [reworded(rng, text, times=2) for text in seeds[:50]] + seeds[50:60]
    done = mark_duplicates(frame(rows), against=frame(seeds).with_columns(row_id="s_" + pl.col("row_id")))
    assert done["duplicate_of"].to_list() == [None] * 100 + [f"s_id{i}" for i in range(60)]
    assert set(done["duplicate_in"].drop_nulls()) == {"against"}
    assert done["duplicate_method"].to_list()[100:] == ["near"] * 50 + ["exact"] * 10


def test_seeds_that_repeat_each_other_are_all_compared_with():
    a, b = "one two three four five six seven eight nine ten", "one two three four five six seven eight nine eleven"
    other = "one two three four five six seven eight nine eleven twelve"
    found = mark_duplicates(frame([other]), against=frame([a, b]), threshold=0.6)
    assert found["duplicate_of"].to_list() == ["id1"]


def test_seeds_without_names_are_named_by_their_content():
    found = mark_duplicates(frame(["Name a sea."]), against=pl.DataFrame({"instruction": ["Name a sea."]}))
    assert len(found["duplicate_of"][0]) == 32


def test_of_several_the_most_similar_is_named():
    base = sentence(random.Random(3), 40)
    texts = [f"{base} x y z", f"{base} x", f"{base} x q"]
    assert marks(texts, threshold=0.99) == [None, None, None]
    assert marks([texts[0], "something else altogether", texts[1]], threshold=0.5) == [None, None, "id0"]


def test_a_row_is_compared_with_unmarked_rows_only():
    said = [f"w{i}" for i in range(30)]
    a, b, c = said, ["x0", "x1", "x2", *said[3:]], ["x0", "x1", "x2", *said[3:27], "y0", "y1", "y2"]
    texts = [" ".join(text) for text in (a, b, c)]
    assert similarity(texts[0], texts[1]) > 0.75 < similarity(texts[1], texts[2])
    assert similarity(texts[0], texts[2]) < 0.75
    assert marks(texts, threshold=0.75) == [None, "id0", None]


def test_rows_that_failed_or_are_not_valid_take_no_part():
    errors = pl.Series([None, {"kind": "unparsed", "message": ""}, None, None], dtype=ERROR)
    rows = frame(["a b"] * 4, valid=[False, True, True, True], completion_error=errors)
    assert mark_duplicates(rows)["duplicate_of"].to_list() == [None, None, None, "id2"]


def test_a_null_repeats_nothing():
    assert marks([None, None, "a"]) == [None, None, None]


def test_several_columns_are_compared_as_one():
    rows = frame(["a b c"] * 3, response=["x y z", "x y z", "p q r"])
    assert mark_duplicates(rows, columns=("instruction", "response"))["duplicate_of"].to_list() == [None, "id0", None]


# --- for any texts

SOME = st.lists(
    st.text(alphabet="ab AB\n.", max_size=12) | st.sampled_from(["one two three", "one two four"]), max_size=12
)


@given(texts=SOME, threshold=st.sampled_from([0.3, 0.5, 0.8, 1.0]))
def test_what_is_marked_is_that_much_like_an_unmarked_earlier_row(texts, threshold):
    done = mark_duplicates(frame(texts), threshold=threshold, n=1)
    unmarked = done.filter(pl.col("duplicate_of").is_null())["row_id"].to_list()
    for row, (of, _, alike, method) in enumerate(done.select(MARKS).iter_rows()):
        if of is not None:
            other = int(of[2:])
            assert (other < row, of in unmarked) == (True, True)
            assert alike >= threshold
            assert alike == similarity(texts[row], texts[other], 1)
            assert (method == "exact") == (normalised(texts[row]) == normalised(texts[other]))


@given(texts=SOME)
def test_no_two_unmarked_rows_are_much_more_alike_than_the_threshold(texts):
    kept = mark_duplicates(frame(texts), threshold=0.5, n=1).filter(pl.col("duplicate_of").is_null())["instruction"]
    pairs = [(a, b) for i, a in enumerate(kept) for b in kept[:i]]
    assert [pair for pair in pairs if similarity(*pair, 1) > 0.8] == []


@given(texts=SOME, cut=st.integers(0, 12))
def test_later_rows_change_nothing_in_the_marks_of_earlier_ones(texts, cut):
    whole, part = mark_duplicates(frame(texts), n=1), mark_duplicates(frame(texts[:cut]), n=1)
    assert_frame_equal(whole[:cut], part)


def test_marks_are_the_same_in_another_process():
    code = (
        "import polars as pl; from agora_frames.stages.dedup import mark_duplicates; "
        "t = ['one two three four five six', 'one two three four five seven', 'a', 'A']; "
        "d = pl.DataFrame({'row_id': ['0', '1', '2', '3'], 'instruction': t}); "
        "print(mark_duplicates(d, threshold=0.5).write_json())"
    )
    told = {
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            check=True,
            env={"PYTHONHASHSEED": s, "PYTHONPATH": ":".join(sys.path)},
        ).stdout
        for s in ("1", "2")
    }
    assert len(told) == 1


@pytest.mark.parametrize("threshold", [0.05, 0.3, 0.5, 0.7, 0.9, 0.99, 1.0])
def test_bands_find_a_pair_at_the_threshold_nearly_always(threshold):
    bands = bands_for(threshold)
    assert 128 % bands == 0
    assert 1 - (1 - threshold ** (128 // bands)) ** bands > 0.99


# --- to reject what is marked


def test_what_is_marked_can_be_rejected_and_says_so():
    rows = frame(["a b", "a b", "c d"], valid=[True, True, False], failures=[[], [], ["rule"]])
    done = reject_where(mark_duplicates(rows), column="duplicate_of", failure="duplicate")
    assert done["valid"].to_list() == [True, False, False]
    assert done["failures"].to_list() == [[], ["duplicate"], ["rule"]]
    assert keep_valid(done)["row_id"].to_list() == ["id0"]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"threshold": 0}, "threshold=0"),
        ({"threshold": 1.5}, "threshold=1.5"),
        ({"n": 0}, "n=0"),
        ({"columns": ()}, "one column"),
    ],
)
def test_what_cannot_be_compared_is_told(options, told):
    with pytest.raises(BindError, match=told):
        mark_duplicates(frame(["a"]), **options)


def test_columns_must_be_there_in_both_frames():
    with pytest.raises(FrameError, match="'row_id'"):
        mark_duplicates(pl.DataFrame({"instruction": ["a"]}))
    with pytest.raises(FrameError, match="against"):
        mark_duplicates(frame(["a"]), against=pl.DataFrame({"question": ["a"]}))

"""The yield table adds up, by whatever it is counted, and takes each reply's cost once."""

from __future__ import annotations

from typing import Any

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

import agora_frames as af
from agora_frames.frames import CALL
from agora_frames.stages.yields import yield_table


def call(key: str | None, tokens: int | None = 10, cost: float | None = 0.5) -> dict[str, Any] | None:
    if key is None:
        return None
    return dict.fromkeys(field.name for field in CALL.fields) | {
        "key": key,
        "prompt_tokens": tokens,
        "completion_tokens": tokens,
        "cost_usd": cost,
    }


def frame(rows: list[tuple[int, int, bool, dict[str, Any] | None]]) -> pl.DataFrame:
    rounds, attempts, valid, calls = zip(*rows, strict=True) if rows else ((), (), (), ())
    return pl.DataFrame(
        {
            "round": pl.Series(rounds, dtype=pl.Int64),
            "attempt": pl.Series(attempts, dtype=pl.Int64),
            "valid": pl.Series(valid, dtype=pl.Boolean),
            "failures": pl.Series([[] if v else ["text: rule"] for v in valid], dtype=pl.List(pl.String)),
            "text_call": pl.Series(calls, dtype=CALL),
        }
    )


ROWS = st.lists(
    st.tuples(
        st.integers(0, 3), st.integers(0, 2), st.booleans(), st.sampled_from("abcdef").map(call) | st.none().map(call)
    ),
    max_size=20,
)


@given(ROWS)
def test_every_way_of_counting_adds_up(rows: list[Any]) -> None:
    table = yield_table(frame(rows))
    sums = table.group_by("by").agg(pl.col("asked", "accepted", "rejected", "failed", "retried", "cost_usd").sum())
    by = {row["by"]: row for row in sums.to_dicts()}
    if not rows:
        assert table.is_empty()
        return
    whole, rounds = by["all"], by["round"]
    assert {k: v for k, v in whole.items() if k != "by"} == {k: v for k, v in rounds.items() if k != "by"}
    assert whole["asked"] == len(rows) == whole["accepted"] + whole["rejected"] + whole["failed"]
    assert by.get("reason", {"asked": 0})["asked"] == whole["asked"] - whole["accepted"]
    assert whole["cost_usd"] == 0.5 * len({row[3]["key"] for row in rows if row[3]})


def test_a_cost_that_nobody_knows_is_null_where_it_counts() -> None:
    df = frame([(0, 0, True, call("a")), (1, 0, True, call("b", cost=None)), (1, 1, False, None)])
    table = yield_table(df)
    assert table.select("by", "value", "cost_usd").rows() == [
        ("all", "", None),
        ("round", "0", 0.5),
        ("round", "1", None),
        ("reason", "text: rule", 0.0),
    ]
    assert table["cost_usd_at_least"].to_list() == [0.5, 0.5, 0.0, 0.0]
    assert table["tokens_at_least"].to_list()[0] == sum(2 * call(key)["prompt_tokens"] for key in "ab")


def test_further_attempts_are_counted_as_retried() -> None:
    assert yield_table(frame([(0, 0, False, None), (0, 1, False, None), (0, 2, True, None)]))["retried"][0] == 2


def test_a_frame_without_rounds_or_calls_has_its_outcomes() -> None:
    model = af.scripted(lambda messages: af.failing("refused"))
    df = pl.DataFrame({"prompt": ["a", "b"]}).pipe(af.with_row_ids)
    table = yield_table(df.pipe(af.generate_column, backend=model))
    assert table.select("by", "value", "asked", "failed").rows() == [
        ("all", "", 2, 2),
        ("reason", "completion: refused", 2, 2),
    ]

"""Rounds until N rows are accepted: exact, conserved, stable when more are wanted, and the same by a naive reading."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandera.polars as pa
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

import agora_frames as af
from agora_frames.backends.scripted import failing
from agora_frames.errors import BindError, FrameError
from agora_frames.frames import outcome
from agora_frames.hashing import drawn, hash_bytes, seed_of
from agora_frames.ledger import Ledger
from agora_frames.stage import Stage
from agora_frames.types import Backend


class Short(pa.DataFrameModel):
    instruction: str = pa.Field(nullable=True)

    @pa.check("instruction")
    def not_bad(cls, data: pa.PolarsData) -> pl.LazyFrame:
        return data.lazyframe.select(~pl.col(data.key).str.contains("bad"))


def says(*, bad: int = 0, failed: int = 0, texts: int = 1_000_000, log: list[str] | None = None) -> Callable[..., Any]:
    """A script: so many in 100 replies are bad, or fail; the others say one of so many texts."""

    def script(messages: list[dict[str, str]], sampling: dict[str, Any]) -> Any:
        prompt, seed = messages[-1]["content"], sampling["seed"]
        if log is not None:
            log.append(f"{prompt} {seed}")
        chance = drawn(100, "chance", seed)
        if chance < bad:
            return f"bad {seed}"
        if chance < bad + failed:
            return failing("refused") if seed % 2 else failing("timeout")
        return f"text {drawn(texts, 'text', seed)}"

    return script


def asking(model: Backend, template: str = "Write.{% if feedback %} Not again: {{ feedback }}{% endif %}") -> Stage:
    return af.recipe(
        af.render_prompts(template=template),
        af.generate_column(backend=model),
        af.parse_column(column="completion", parser=str.strip, into="instruction"),
        af.validate(schema=Short),
        name="ask",
    )


SEEDS = pl.DataFrame(
    {"row_id": ["a", "b", "c"], "instruction": ["text 0", "two", "three"], "response": ["1", "2", "3"]}
)


def run(script: Callable[..., Any], rows: int, **options: Any) -> pl.DataFrame:
    return af.until_rows(SEEDS, stage=asking(af.scripted(script)), rows=rows, **options)


def accepted(done: pl.DataFrame) -> pl.DataFrame:
    return done.pipe(af.keep_valid)


def reasons(done: pl.DataFrame) -> dict[str, int]:
    return dict(af.failure_counts(done).select("reason", "rows").iter_rows())


def naively(script: Callable[..., Any], rows: int, attempts: int) -> list[tuple[int, int, str]]:
    """What the promise says, one slot and one attempt after the other: (slot, attempt, text) of the accepted rows."""
    taken, slot = {"text 0", "two", "three"}, 0
    found: list[tuple[int, int, str]] = []
    while len(found) < rows and slot < 2_000:
        name = hash_bytes(b"ask:0", str(slot).encode())
        for attempt in range(attempts):
            said = script([{"content": "Write."}], {"seed": seed_of(0, name, attempt)})
            if isinstance(said, str) and not said.startswith("bad") and said not in taken:
                taken.add(said)
                found.append((slot, attempt, said))
                break
        slot += 1
    return found


SCRIPTS = st.fixed_dictionaries(
    {"bad": st.integers(0, 60), "failed": st.integers(0, 30), "texts": st.sampled_from([40, 200, 1_000_000])}
)


@settings(max_examples=40, deadline=None)
@given(SCRIPTS, st.integers(1, 30), st.integers(1, 5), st.sampled_from([1, 7, 25]))
def test_the_dataset_is_the_one_that_a_naive_reading_gives(
    script: dict[str, Any], rows: int, attempts: int, round_size: int
) -> None:
    done = run(says(**script), rows, attempts=attempts, round_size=round_size, max_candidates=2_000)
    found = accepted(done).select("slot", "attempt", "instruction").rows()
    assert found == naively(says(**script), rows, attempts)
    assert len(found) == rows


@settings(max_examples=30, deadline=None)
@given(SCRIPTS, st.integers(1, 30), st.integers(1, 4), st.integers(1, 60))
def test_asked_is_accepted_and_rejected_and_failed(script: dict[str, Any], rows: int, attempts: int, most: int) -> None:
    log: list[str] = []
    done = run(says(**script, log=log), rows, attempts=attempts, max_candidates=most)
    counts = Counter(done.select(outcome(done)).to_series())
    assert counts.total() == done.height == len(log)
    assert counts["accepted"] == min(rows, counts["accepted"])
    assert (counts["accepted"] == rows) == (
        af.shortfall(done, stage=af.until_rows(stage=pl.DataFrame.clone, rows=rows)) is None
    )
    assert not done.select("slot", "attempt").is_duplicated().any()
    assert sum(reasons(done).values()) == done.height - counts["accepted"]


@settings(max_examples=20, deadline=None)
@given(SCRIPTS, st.integers(1, 20), st.integers(1, 20))
def test_wanting_more_rows_only_appends(script: dict[str, Any], rows: int, more: int) -> None:
    few, many = (run(says(**script), n, attempts=3, max_candidates=2_000) for n in (rows, rows + more))
    assert_frame_equal(accepted(few), accepted(many)[:rows])


def test_wanting_more_rows_asks_exactly_what_is_missing(tmp_path: Path) -> None:
    log: list[str] = []
    script = says(bad=30, failed=5, texts=400, log=log)

    def want(rows: int, ledger: str) -> tuple[pl.DataFrame, Counter[str]]:
        model = af.remembered(af.scripted(script), ledger=Ledger(tmp_path / ledger))
        log.clear()
        done = af.until_rows(SEEDS, stage=asking(model), rows=rows)
        model.ledger.close()
        return done, Counter(log)

    whole, of_whole = want(200, "whole")
    _, first = want(100, "parts")
    both, second = want(200, "parts")
    failed = {key for key, n in (first + second).items() if n > 1}  # what had no reply is asked once more
    assert len(failed) <= 10 and first.keys() | second.keys() == of_whole.keys()
    assert_frame_equal(accepted(both).drop("completion_call"), accepted(whole).drop("completion_call"))


def test_the_rounds_begin_at_the_same_slots_however_many_rows_are_wanted() -> None:
    done = run(says(bad=20), 150, attempts=1, round_size=10, largest_round=40)
    begins = done.group_by("round", maintain_order=True).agg(pl.col("slot").min())["slot"].to_list()
    assert begins == [0, 10, 20, 40, 80, 120, 160][: len(begins)] and len(begins) >= 6


def test_rows_are_kept_in_the_order_of_slots_and_attempts() -> None:
    done = run(says(bad=50), 40)
    assert done.equals(done.sort("slot", "attempt"))
    assert done["sample"].equals(done["attempt"].rename("sample"))


# Duplicates, quotas, surplus


def test_what_says_the_same_as_an_earlier_slot_or_a_seed_is_a_duplicate_and_names_it() -> None:
    said = iter(["text 0", "One", " one\n", "two?", "two?"])
    done = run(lambda messages, sampling: next(said, "new " + str(sampling["seed"])), 4, attempts=1)
    found = done.filter(pl.col("duplicate_of").is_not_null())
    names = dict(done.select("instruction", "row_id").rows())
    assert found.select("instruction", "duplicate_of").rows()[0] == ("text 0", "a")
    assert found["duplicate_of"].to_list()[1] == names["One"]
    assert set(found["failures"].explode()) == {"duplicate"}
    assert accepted(done)["instruction"].n_unique() == 4


def test_rows_that_are_the_same_may_be_kept() -> None:
    done = run(lambda messages, sampling: "text 0", 30, distinct=())
    assert accepted(done).height == done.height == 30


def test_a_value_with_enough_rows_is_asked_no_more() -> None:
    themes = af.sample_values(values=["x", "y", "z"], into="theme")
    done = run(says(bad=20), 60, sample=themes, quota={"x": 5}, round_size=10)
    assert Counter(accepted(done)["theme"])["x"] == 5
    assert reasons(done).get("over_quota", 0) < 10, "slots of a full theme were asked in later rounds"
    assert done.filter(pl.col("round") > 3)["theme"].to_list().count("x") == 0
    few = run(says(bad=20), 20, sample=themes, quota={"x": 5}, round_size=10)
    assert_frame_equal(accepted(few), accepted(done)[:20])


def test_a_quota_for_all_values_makes_them_even() -> None:
    themes = af.sample_values(values=["x", "y", "z"], into="theme")
    done = run(says(), 30, sample=themes, quota=10)
    assert Counter(accepted(done)["theme"]) == {"x": 10, "y": 10, "z": 10}


def test_accepted_rows_beyond_those_wanted_are_kept_as_surplus() -> None:
    done = run(says(bad=60), 40, attempts=1)
    surplus = done.filter(pl.col("failures").list.contains("surplus"))
    assert surplus.height == reasons(done).get("surplus", 0) > 0
    assert surplus["slot"].min() > accepted(done)["slot"].max()  # type: ignore[operator]


# Attempts and feedback


def test_a_row_that_was_turned_down_is_drawn_again_as_often_as_allowed() -> None:
    done = run(says(bad=70), 20, attempts=4, max_candidates=500)
    last = accepted(done)["slot"].max()
    by_slot = done.filter(pl.col("slot") <= last).group_by("slot").agg(pl.len(), pl.col("valid").sum())
    assert set(by_slot.filter(pl.col("valid") == 0)["len"]) == {4}
    assert set(by_slot.filter(pl.col("valid") == 1)["len"]) == {1, 2, 3, 4}


def test_the_reason_is_told_to_the_next_attempt_when_asked_for() -> None:
    done = run(says(bad=50), 20, feedback=True)
    again = done.filter(pl.col("attempt") > 0)
    assert again.height and set(again["feedback"]) == {"instruction: not_bad"}
    assert again["prompt"].str.contains("Not again: instruction: not_bad").all()
    assert done.filter(pl.col("attempt") == 0)["feedback"].is_null().all()
    plain = run(says(bad=50), 20)
    assert plain["feedback"].is_null().all() and plain["prompt"].n_unique() == 1


def test_a_prompt_that_cannot_be_made_is_not_drawn_again() -> None:
    model = af.scripted(says())
    df = pl.DataFrame({"row_id": ["a", "b"], "topic": [None, "x"]})
    stage = asking(model, template="On {{ topic }}")
    done = af.until_rows(df, stage=stage, rows=1, candidates="rows")
    assert done.filter(pl.col("slot") == 0).height == 1
    assert accepted(done)["topic"].to_list() == ["x"]


# The pool


def with_demos(model: Backend) -> dict[str, Any]:
    stage = af.recipe(
        af.render_prompts(template="{% for demo in demos %}{{ demo.instruction }}|{% endfor %}"),
        af.generate_column(backend=model),
        af.parse_column(column="completion", parser=lambda text: (text, "said"), into=("instruction", "response")),
        af.validate(schema=Short),
        name="ask",
    )
    return {"stage": stage, "sample": af.sample_demos(k=2, from_seeds=1, from_generated=1)}


def test_examples_come_from_the_seeds_and_from_what_was_accepted_in_earlier_rounds() -> None:
    before = SEEDS.clone()
    done = af.until_rows(SEEDS, rows=60, round_size=10, **with_demos(af.scripted(says(bad=30))))
    assert_frame_equal(SEEDS, before)
    rounds = dict.fromkeys(SEEDS["row_id"], -1) | dict(accepted(done).select("row_id", "round").rows())
    for number, parents in done.select("round", "parents").rows():
        assert all(rounds[name] < number for name in parents)
        kinds = [name in ("a", "b", "c") for name in parents]
        assert kinds == ([True, False] if number else [True, True])


def test_every_row_of_earlier_rounds_may_be_drawn_and_none_that_was_turned_down() -> None:
    done = af.until_rows(SEEDS, rows=300, round_size=10, **with_demos(af.scripted(says(bad=30))))
    shown = set(done["parents"].explode()) - set(SEEDS["row_id"])
    good = accepted(done)
    assert shown <= set(good["row_id"])
    first = set(good.filter(pl.col("round") < 2)["row_id"])
    assert first <= shown


def test_the_growing_pool_is_stable_when_more_rows_are_wanted() -> None:
    few, many = (
        af.until_rows(SEEDS, rows=n, round_size=10, **with_demos(af.scripted(says(bad=40, texts=150))))
        for n in (33, 80)
    )
    assert_frame_equal(accepted(few), accepted(many)[:33])


# Candidates that are rows


def test_rows_are_candidates_in_turn_and_name_their_origin() -> None:
    done = run(says(), 7, candidates="rows", distinct=["completion"])
    assert done["parents"].explode().to_list() == ["a", "b", "c", "a", "b", "c", "a"]
    assert done["row_id"].to_list()[:3] == ["a", "b", "c"] and done["row_id"].n_unique() == 7


# Limits


def test_limits_end_a_run_with_what_is_there_and_say_so(tmp_path: Path) -> None:
    def told(rows: int = 50, script: Callable[..., Any] | None = None, **options: Any) -> tuple[int, str | None]:
        stage = af.until_rows(stage=asking(af.scripted(script or says())), rows=rows, **options)
        done = stage(SEEDS)
        return accepted(done).height, af.shortfall(done, stage=af.recipe(stage, name="all"))

    assert told() == (50, None)
    assert told(max_candidates=20) == (20, "30 of 50 rows are missing: max_candidates=20 was met.")
    assert told(max_rounds=1) == (25, "25 of 50 rows are missing: max_rounds=1 was met.")
    full = {"sample": af.sample_values(values=["x", "y"], into="theme"), "quota": 10}
    n, why = told(max_candidates=60, **full)
    assert n == 20 and why is not None and "30 of 50 rows are missing: the quota of 'theme' left out" in why
    none, why = told(script=lambda messages: "bad")
    assert none == 0 and why == "50 of 50 rows are missing: none of the first 250 attempts was accepted."


def test_a_ceiling_on_spending_ends_a_run_and_more_money_goes_on(tmp_path: Path) -> None:
    def script(messages: list[dict[str, str]], sampling: dict[str, Any]) -> dict[str, Any]:
        return {"text": f"text {sampling['seed']}", "cost_usd": 0.01, "prompt_tokens": 1, "completion_tokens": 1}

    def want(max_cost: float) -> tuple[pl.DataFrame, str | None]:
        model = af.remembered(af.scripted(script, prices=(1, 1)), ledger=Ledger(tmp_path / "ledger"), max_cost=max_cost)
        ask = af.recipe(
            af.render_prompts(template="Write."),
            af.generate_column(backend=model, max_tokens=5),
            af.parse_column(column="completion", parser=str, into="instruction"),
            name="ask",
        )
        make = af.until_rows(stage=ask, rows=40)
        done = make(SEEDS)
        return done, af.shortfall(done, stage=make)

    poor, why = want(0.2)
    assert 15 <= accepted(poor).height <= 20
    assert why is not None and "ceiling" in why
    assert Counter(poor.select(outcome(poor)).to_series()).total() == poor.height
    rich, why = want(5.0)
    assert accepted(rich).height == 40 and why is None
    assert_frame_equal(accepted(poor), accepted(rich)[: accepted(poor).height])


def test_numbers_that_make_no_sense_are_told() -> None:
    for name in ("rows", "attempts", "round_size", "max_candidates"):
        with pytest.raises(BindError, match=f"{name}=0"):
            run(says(), **{"rows": 5, name: 0})
    with pytest.raises(BindError, match="'new' or 'rows'"):
        run(says(), 5, candidates="old")
    with pytest.raises(FrameError, match="more than once"):
        af.until_rows(pl.concat([SEEDS, SEEDS]), stage=asking(af.scripted(says())), rows=5)


def test_a_column_that_must_differ_and_is_not_there_is_told() -> None:
    with pytest.raises(FrameError, match=r"'instructoin'.*did you mean 'instruction'"):
        run(says(), 5, distinct=["instructoin"])


def test_a_stage_that_loses_rows_is_told() -> None:
    stage = af.recipe(asking(af.scripted(says(bad=50))), af.keep_valid(), name="ask")
    with pytest.raises(FrameError, match="keep every row"):
        af.until_rows(SEEDS, stage=stage, rows=5)


def test_no_rows_make_no_rows_of_the_same_columns() -> None:
    options: dict[str, Any] = {"rows": 5, **with_demos(af.scripted(says()))}
    assert af.until_rows(SEEDS.clear(), **options).schema == af.until_rows(SEEDS, **options).schema


def test_an_observer_hears_of_every_row_and_of_one_beginning_and_end() -> None:
    told: list[Any] = []

    class Watcher:
        def begin(self, rows: int, backend: Backend) -> None:
            told.append(("begin", rows, backend.model))

        def __call__(self, finished: pl.DataFrame) -> None:
            told.append(finished.height)

        def end(self) -> None:
            told.append("end")

    done = run(says(bad=40), 30, observer=Watcher())
    assert told[0] == ("begin", 30, "scripted") and told[-1] == "end"
    assert sum(told[1:-1]) == done.height

"""What a plan counts, and that it asks nothing."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import agora_frames as af
from agora_frames.errors import BindError
from agora_frames.ledger import Ledger
from agora_frames.plan import PLAN, History
from agora_frames.prices import Prices, prices_of
from agora_frames.remembered import Remembered
from agora_frames.stage import Stage
from agora_frames.types import Backend


def refuse(messages: list[dict[str, str]]) -> str:
    raise AssertionError("a plan must not ask")


def two_calls(backend: Backend) -> Stage:
    return af.recipe(
        af.with_row_ids(columns=["word"]),
        af.render_prompts(template="Say {{ word }}."),
        af.generate_column(into="said", max_tokens=5, backend=backend),
        af.render_prompts(template="Repeat {{ said }}.", into="again"),
        af.generate_column(column="again", into="repeated", max_tokens=7, backend=backend),
        name="two_calls",
    )


WORDS = pl.DataFrame({"word": ["one", "two", "three"]})


def test_a_plan_counts_what_would_be_asked_and_asks_nothing(tmp_path: Path) -> None:
    model = af.remembered(af.scripted(refuse), ledger=Ledger(tmp_path))
    first, second = af.plan(two_calls(model), df=WORDS).to_dicts()
    assert (first["rows"], first["calls"], first["known"], first["to_ask"]) == (3, 3, 0, 3)
    assert first["completion_tokens_at_most"] == 15
    assert first["cost_usd_at_most"] == 0.0
    # What the second step would ask depends on the answers of the first.
    assert (second["rows"], second["to_ask"]) == (3, 0)
    assert not list(tmp_path.iterdir())


def test_replies_that_the_ledger_has_are_used_to_plan_the_next_step(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    told = af.remembered(af.scripted(lambda messages: "yes"), ledger=ledger)
    first_step = af.recipe(
        af.with_row_ids(columns=["word"]),
        af.render_prompts(template="Say {{ word }}."),
        af.generate_column(into="said", max_tokens=5, backend=told),
        name="first",
    )
    first_step(WORDS.head(2))
    model = af.remembered(af.scripted(refuse), ledger=ledger)
    first, second = af.plan(two_calls(model), df=WORDS).to_dicts()
    assert (first["known"], first["to_ask"]) == (2, 1)
    assert second["to_ask"] == 2


def generated(model: Backend, n: int, **options: Any) -> None:
    """Asks the model for n rows."""
    df = pl.DataFrame({"prompt": [f"row {i}" for i in range(n)]}).pipe(af.with_row_ids)
    af.generate_column(df, backend=model, **options)


def planned(df: pl.DataFrame, model: Backend, **options: Any) -> dict[str, Any]:
    """The one row of the plan of a generated column."""
    return af.plan(af.generate_column(backend=model, **options), df=df.pipe(af.with_row_ids)).to_dicts()[0]


def test_prompt_tokens_are_estimated_at_four_bytes_each(tmp_path: Path) -> None:
    model = af.remembered(af.scripted(refuse), ledger=Ledger(tmp_path))
    row = planned(pl.DataFrame({"prompt": ["x" * 370, "é" * 85]}), model, temperature=0.0)
    assert row["prompt_tokens_estimated"] == (400 + 200) // 4  # with the JSON around each message
    assert row["prompt_tokens_from"] == "4 bytes per token"


def test_prompt_tokens_are_estimated_by_the_replies_of_the_same_step(tmp_path: Path) -> None:
    told = af.scripted(lambda messages: {"text": "yes", "prompt_tokens": 61})
    model = af.remembered(told, ledger=Ledger(tmp_path))
    df = pl.DataFrame({"prompt": ["x" * 92, "y" * 214]})  # 122 and 244 bytes with the JSON around them
    af.generate_column(df.head(1).pipe(af.with_row_ids), temperature=0.0, backend=model)
    row = planned(df, model, temperature=0.0)
    assert (row["known"], row["prompt_tokens_estimated"], row["prompt_tokens_from"]) == (1, 122, "history")


@pytest.mark.parametrize(("others", "origin"), [([], "ledger"), (["a new one"], "ledger, history")])
def test_prompt_tokens_of_messages_that_were_asked_before_are_exact(
    tmp_path: Path, others: list[str], origin: str
) -> None:
    told = af.scripted(lambda messages: {"text": "yes", "prompt_tokens": 30})
    model = af.remembered(told, ledger=Ledger(tmp_path))
    first = pl.DataFrame({"prompt": ["one"], "row_id": ["a"], "sample": [0]})
    af.generate_column(first, backend=model)
    n = len(others)
    new = pl.DataFrame({"prompt": ["one", *others], "row_id": ["a"] * (n + 1), "sample": range(1, n + 2)})
    row = af.plan(af.generate_column(backend=model), df=pl.concat([first, new])).to_dicts()[0]
    assert (row["known"], row["to_ask"], row["prompt_tokens_from"]) == (1, n + 1, origin)
    assert row["prompt_tokens_estimated"] == (30 + 35 if others else 30)  # 39 bytes, at 30 tokens for 33 bytes


@pytest.mark.parametrize(("prices", "cost"), [(None, None), ((1.0, 2.0), (100 * 1.0 + 10 * 2.0) / 1e6)])
def test_the_cost_is_null_without_prices_and_exact_arithmetic_with(
    tmp_path: Path, prices: tuple[float, float] | None, cost: float | None
) -> None:
    model = af.connect("http://127.0.0.1:9/v1", model="m", prices=prices, ledger=tmp_path)
    row = planned(pl.DataFrame({"prompt": ["x" * 370]}), model, max_tokens=10)
    assert row["cost_usd_at_most"] == cost
    assert row["cost_usd_expected"] is None


def test_without_max_tokens_the_cost_is_not_bounded(tmp_path: Path) -> None:
    model = af.connect("http://127.0.0.1:9/v1", model="m", prices=(1.0, 2.0), ledger=tmp_path)
    row = planned(pl.DataFrame({"prompt": ["x"]}), model)
    assert row["completion_tokens_at_most"] is None
    assert row["cost_usd_at_most"] is None


# --- what is expected, from the history ------------------------------------------------------------------------------

LENGTHS = [10, 20, 30, 40, 50, 60]


@dataclass(frozen=True)
class Priced:
    """A backend that costs, and asks a scripted one."""

    inner: Backend
    prices: Prices | None = None
    endpoint: str = "scripted"
    model: str = "priced"

    def __call__(self, requests: pl.DataFrame, /) -> Iterator[pl.DataFrame]:
        return self.inner(requests)


def priced(ledger: Ledger, prices: tuple[float, float] | None = (1.0, 10.0)) -> Remembered:
    """Its replies have the lengths of LENGTHS, by the number at the end of the prompt."""

    def say(messages: list[dict[str, str]]) -> dict[str, Any]:
        number = int(messages[-1]["content"].split()[-1])
        return {"text": "yes", "prompt_tokens": 8, "completion_tokens": LENGTHS[number % 6]}

    return af.remembered(Priced(af.scripted(say), prices_of("", "", prices)), ledger=ledger)


def test_expected_tokens_and_cost_come_from_the_history(tmp_path: Path) -> None:
    generated(priced(Ledger(tmp_path)), 6, max_tokens=100)
    row = planned(pl.DataFrame({"prompt": [f"new {i}" for i in range(10)]}), priced(Ledger(tmp_path)), max_tokens=100)
    assert (row["history_attempts"], row["history_of"]) == (6, "recipe and max_tokens")
    assert row["completion_tokens_expected"] == 350
    prompts = row["prompt_tokens_estimated"]
    assert row["cost_usd_expected"] == pytest.approx((prompts * 1.0 + 350 * 10.0) / 1e6)
    # t of 5 degrees of freedom is 2.015, the variance of LENGTHS 350.
    width = 2.015 * math.sqrt(350 * (10 + 100 / 6))
    assert row["cost_usd_low"] == pytest.approx((prompts + (350 - width) * 10.0) / 1e6, rel=1e-3)
    assert row["cost_usd_high"] == pytest.approx((prompts + (350 + width) * 10.0) / 1e6, rel=1e-3)


def test_the_interval_ends_at_max_tokens(tmp_path: Path) -> None:
    generated(priced(Ledger(tmp_path)), 6, max_tokens=40)
    row = planned(pl.DataFrame({"prompt": ["new 1"]}), priced(Ledger(tmp_path)), max_tokens=40)
    assert row["cost_usd_high"] == row["cost_usd_at_most"]
    assert row["cost_usd_low"] < row["cost_usd_expected"] < row["cost_usd_high"]


def test_replies_of_the_same_step_are_the_nearest_history(tmp_path: Path) -> None:
    model = priced(Ledger(tmp_path))
    generated(model, 12, max_tokens=100)
    row = planned(pl.DataFrame({"prompt": [f"row {i}" for i in range(9)] + ["new 1"]}), model, max_tokens=100)
    assert (row["to_ask"], row["history_attempts"], row["history_of"]) == (1, 9, "step")


@pytest.mark.parametrize(
    ("recipe", "max_tokens", "nearest"),
    [("mine", 100, "recipe and max_tokens"), ("mine", 50, "recipe"), ("other", 100, "model")],
)
def test_the_nearest_history_that_is_long_enough_is_used(
    tmp_path: Path, recipe: str, max_tokens: int, nearest: str
) -> None:
    generated(priced(Ledger(tmp_path, recipe="mine")), 5, max_tokens=100)
    model = priced(Ledger(tmp_path, recipe=recipe))
    row = planned(pl.DataFrame({"prompt": ["new 1"]}), model, max_tokens=max_tokens)
    assert (row["history_attempts"], row["history_of"]) == (5, nearest)


def test_four_attempts_are_no_history(tmp_path: Path) -> None:
    generated(priced(Ledger(tmp_path)), 4)
    row = planned(pl.DataFrame({"prompt": ["new 1"]}), priced(Ledger(tmp_path)))
    names = ("completion_tokens_expected", "cost_usd_expected", "cost_usd_low", "cost_usd_high", "history_of")
    assert {row[name] for name in names} == {None}


def test_the_history_of_another_model_is_none(tmp_path: Path) -> None:
    generated(priced(Ledger(tmp_path)), 6)
    model = af.remembered(af.scripted(refuse, model="another"), ledger=Ledger(tmp_path))
    assert planned(pl.DataFrame({"prompt": ["new 1"]}), model)["history_of"] is None


def test_expected_tokens_are_known_without_prices(tmp_path: Path) -> None:
    generated(priced(Ledger(tmp_path), None), 6)
    row = planned(pl.DataFrame({"prompt": ["new 1"]}), priced(Ledger(tmp_path), None))
    assert (row["completion_tokens_expected"], row["cost_usd_expected"]) == (35, None)


def test_what_is_all_known_costs_nothing(tmp_path: Path) -> None:
    model = priced(Ledger(tmp_path))
    generated(model, 6)
    row = planned(pl.DataFrame({"prompt": [f"row {i}" for i in range(6)]}), model)
    assert (row["to_ask"], row["prompt_tokens_estimated"], row["completion_tokens_expected"]) == (0, 0, 0)
    assert (row["cost_usd_expected"], row["cost_usd_low"], row["cost_usd_high"], row["cost_usd_at_most"]) == (0,) * 4


@pytest.mark.parametrize(("m", "n"), [(5, 1), (5, 200), (20, 20), (200, 1000)])
def test_nine_in_ten_intervals_hold_the_sum(m: int, n: int) -> None:
    draws = random.Random(f"{m} {n}")
    held = 0
    for _ in range(2000):
        known = [draws.gauss(200, 50) for _ in range(m)]
        history = History("step", m, statistics.fmean(known), statistics.variance(known))
        _, low, high = history.interval(n)
        # The sum of n normal draws is a normal draw.
        held += low <= draws.gauss(200 * n, 50 * math.sqrt(n)) <= high
    assert 0.88 < held / 2000 < 0.92


def test_the_interval_holds_for_skew_lengths_when_there_are_many() -> None:
    draws, held = random.Random(0), 0
    for _ in range(1000):
        known = [draws.expovariate(1 / 200) for _ in range(100)]
        _, low, high = History("step", 100, statistics.fmean(known), statistics.variance(known)).interval(400)
        held += low <= draws.gammavariate(400, 200) <= high  # the sum of 400 exponential draws
    assert 0.87 < held / 1000 < 0.93


def test_a_wrapped_step_that_hides_its_backend_is_an_error(tmp_path: Path) -> None:
    stage = af.traced(af.generate_column(backend=af.scripted(refuse)), on_step=print)
    with pytest.raises(BindError, match="before it is wrapped"):
        af.plan(stage, df=pl.DataFrame({"prompt": ["x"]}).pipe(af.with_row_ids))


def test_a_stage_without_a_model_has_an_empty_plan() -> None:
    assert af.plan(af.with_row_ids(), df=WORDS).schema == PLAN
    assert af.plan(af.with_row_ids(), df=WORDS).is_empty()

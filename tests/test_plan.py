"""What a plan counts, and that it asks nothing."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

import agora_frames as af
from agora_frames.ledger import Ledger
from agora_frames.plan import PLAN
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


def test_prompt_tokens_are_estimated_at_four_bytes_each(tmp_path: Path) -> None:
    model = af.remembered(af.scripted(refuse), ledger=Ledger(tmp_path))
    stage = af.generate_column(temperature=0.0, backend=model)
    df = pl.DataFrame({"prompt": ["x" * 400, "é" * 100]}).pipe(af.with_row_ids)
    assert af.plan(stage, df=df)["prompt_tokens_estimated"].item() == 150


@pytest.mark.parametrize(("prices", "cost"), [(None, None), ((1.0, 2.0), (100 * 1.0 + 10 * 2.0) / 1e6)])
def test_the_cost_is_null_without_prices_and_exact_arithmetic_with(
    tmp_path: Path, prices: tuple[float, float] | None, cost: float | None
) -> None:
    model = af.connect("http://127.0.0.1:9/v1", model="m", prices=prices, ledger=tmp_path)
    df = pl.DataFrame({"prompt": ["x" * 400]}).pipe(af.with_row_ids)
    planned = af.plan(af.generate_column(max_tokens=10, backend=model), df=df)
    assert planned["cost_usd_at_most"].item() == cost


def test_without_max_tokens_the_cost_is_not_bounded(tmp_path: Path) -> None:
    model = af.connect("http://127.0.0.1:9/v1", model="m", prices=(1.0, 2.0), ledger=tmp_path)
    df = pl.DataFrame({"prompt": ["x"]}).pipe(af.with_row_ids)
    planned = af.plan(af.generate_column(backend=model), df=df)
    assert planned["completion_tokens_at_most"].item() is None
    assert planned["cost_usd_at_most"].item() is None


def test_a_stage_without_a_model_has_an_empty_plan() -> None:
    assert af.plan(af.with_row_ids(), df=WORDS).schema == PLAN
    assert af.plan(af.with_row_ids(), df=WORDS).is_empty()

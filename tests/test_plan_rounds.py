"""What a plan says of a run whose later calls hang on replies that nobody has yet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import agora_frames as af
from agora_frames.ledger import Ledger
from agora_frames.recipes.agorabench.instance_generation import instance_generation, seeds
from agora_frames.remembered import Remembered


def refuse(messages: list[dict[str, str]]) -> str:
    raise AssertionError("a plan must not ask")


def written(messages: list[dict[str, str]], sampling: dict[str, Any]) -> dict[str, Any]:
    seed = sampling["seed"]
    text = "no form" if seed % 2 else f"What is {seed}?\nOUTPUT: We add.\n[RESULT] {seed} [/RESULT]"
    return {"text": text, "prompt_tokens": 500, "completion_tokens": 100}


def model(script: Any, tmp_path: Path) -> Remembered:
    return af.remembered(af.scripted(script, prices=(1.0, 2.0)), ledger=Ledger(tmp_path / "ledger"))


def planned(tmp_path: Path, rows: int, **options: Any) -> dict[str, Any]:
    stage = instance_generation(backend=model(refuse, tmp_path), rows=rows, max_tokens=200, **options)
    (row,) = af.plan(stage, df=seeds()).to_dicts()
    return row


def run(tmp_path: Path, rows: int) -> int:
    backend = model(written, tmp_path)
    done = instance_generation(backend=backend, rows=rows, max_tokens=200)(seeds())
    backend.ledger.close()
    return done.height


def test_before_the_first_call_the_yield_is_assumed_and_said_to_be(tmp_path: Path) -> None:
    row = planned(tmp_path, 80)
    assert (row["rows_wanted"], row["rows_known"], row["known"]) == (80, 0, 0)
    assert (row["yield_expected"], row["yield_from"]) == (0.8, "assumed")
    assert row["to_ask"] == 100
    assert row["prompt_tokens_from"] == "4 bytes per token" and row["prompt_tokens_estimated"] > 30_000
    assert not list(tmp_path.iterdir())


def test_at_most_all_candidates_and_attempts_are_paid_for(tmp_path: Path) -> None:
    row = planned(tmp_path, 80, max_candidates=90, attempts=3)
    assert row["completion_tokens_at_most"] == 90 * 3 * 200


def test_a_run_that_is_whole_would_ask_nothing(tmp_path: Path) -> None:
    asked = run(tmp_path, 60)
    row = planned(tmp_path, 60)
    assert (row["rows_known"], row["known"], row["to_ask"]) == (60, asked, 0)
    assert row["cost_usd_expected"] in (0, None) and row["completion_tokens_at_most"] == 0


def test_what_the_ledger_holds_tells_the_yield_the_lengths_and_the_cost_of_the_rest(tmp_path: Path) -> None:
    run(tmp_path, 60)
    row = planned(tmp_path, 200)
    assert 50 <= row["rows_known"] <= 60
    assert 0.35 < row["yield_expected"] < 0.65 and "attempts that the ledger has" in row["yield_from"]
    missing = 200 - row["rows_known"]
    assert row["to_ask"] == pytest.approx(missing / row["yield_expected"], abs=1)
    assert row["completion_tokens_expected"] == row["to_ask"] * 100
    # The prompts that could be made cost about what those before did: 500 tokens at $1, 100 at $2 a million.
    assert row["cost_usd_expected"] == pytest.approx(row["to_ask"] * 0.0007, rel=0.3)
    # Replies that were all of one length will be so again.
    assert row["cost_usd_low"] == pytest.approx(row["cost_usd_expected"]) == row["cost_usd_high"]
    assert row["cost_usd_high"] < row["cost_usd_at_most"]


def test_what_was_expected_of_the_rest_comes_true(tmp_path: Path) -> None:
    run(tmp_path, 60)
    row = planned(tmp_path, 120)
    assert run(tmp_path, 120) == pytest.approx(row["calls"], rel=0.2)

"""Accounts: what was called, answered, spent and failed, told by what one likes."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from agora_frames.errors import BindError, FrameError
from agora_frames.io import read_frame
from agora_frames.ledger import LEDGER, Ledger
from agora_frames.ledger.accounts import ACCOUNTS, accounts, export

DAY_S = 86_400.0


def failure(kind: str) -> dict[str, str]:
    return {"kind": kind, "message": "as it is"}


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    rows: list[dict[str, Any]] = [
        {"model": "m", "run": "1", "at": 10.0, "error": failure("rate_limited"), "retried": True},
        {"model": "m", "run": "1", "at": 11.0, "cost_usd": 0.5, "prompt_tokens": 3, "completion_tokens": 4},
        {"model": "m", "run": "2", "at": DAY_S + 1, "cost_usd": 0.25, "error": failure("truncated")},
        {"model": "n", "run": "2", "at": DAY_S + 2, "error": failure("truncated"), "retried": False},
        {"model": "n", "run": "2", "at": DAY_S + 3, "error": failure("timeout"), "completion_tokens": 1},
    ]
    ledger = Ledger(tmp_path / "ledger")
    for number, row in enumerate(rows):
        ledger.write({"key": str(number), **row})
    return ledger


def test_all_in_one_row_when_it_is_told_by_nothing(ledger: Ledger) -> None:
    told = accounts(ledger.frame())
    assert told.schema == ACCOUNTS
    assert told.row(0, named=True) == {
        "calls": 4,
        "attempts": 5,
        "answered": 1,
        "failures": [
            {"kind": "truncated", "attempts": 2},
            {"kind": "rate_limited", "attempts": 1},
            {"kind": "timeout", "attempts": 1},
        ],
        "prompt_tokens": 3,
        "completion_tokens": 5,
        "cost_usd": 0.75,
        "of_unknown_cost": 3,
        "first_at": datetime(1970, 1, 1, 0, 0, 10, tzinfo=UTC),
        "last_at": datetime(1970, 1, 2, 0, 0, 3, tzinfo=UTC),
    }


def test_a_row_for_each_of_what_it_is_told_by_the_first_begun_first(ledger: Ledger) -> None:
    told = accounts(ledger.frame(), by=["model", "run"])
    assert told.select("model", "run", "calls", "attempts", "answered").rows() == [
        ("m", "1", 1, 2, 1),
        ("m", "2", 1, 1, 0),
        ("n", "2", 2, 2, 0),
    ]


def test_days_are_days_in_utc(ledger: Ledger) -> None:
    told = accounts(ledger.frame(), by=["day"])
    assert told.select("day", "attempts").rows() == [(date(1970, 1, 1), 2), (date(1970, 1, 2), 3)]


@pytest.mark.parametrize("by", [[], ["run"], ["model", "endpoint", "recipe", "day"]])
def test_a_scan_gives_the_same_as_the_frame(ledger: Ledger, by: list[str]) -> None:
    assert accounts(ledger.scan(), by=by).equals(accounts(ledger.frame(), by=by))


@pytest.mark.parametrize("by", [[], ["run"]])
def test_an_empty_ledger_has_accounts_too(by: list[str]) -> None:
    told = accounts(LEDGER.to_frame(), by=by)
    assert told.height == (0 if by else 1)
    assert told.select(list(ACCOUNTS)).schema == ACCOUNTS


def test_what_it_cannot_be_told_by_is_named(ledger: Ledger) -> None:
    with pytest.raises(BindError, match=r"'modle' is nothing to tell by; did you mean 'model'\?"):
        accounts(ledger.frame(), by=["modle"])


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl"])
def test_an_export_is_the_frame(ledger: Ledger, tmp_path: Path, name: str) -> None:
    assert export(ledger, tmp_path / name) == 5
    told = read_frame(tmp_path / name)
    assert told["key"].to_list() == list("01234")
    assert told["error"].to_list() == ledger.frame()["error"].to_list()


def test_in_csv_lists_and_errors_are_json(ledger: Ledger, tmp_path: Path) -> None:
    export(ledger, tmp_path / "a.csv")
    told = read_frame(tmp_path / "a.csv")
    assert told["error"].to_list()[:2] == ['{"kind":"rate_limited","message":"as it is"}', None]


def test_a_part_is_exported_when_it_is_asked_for(ledger: Ledger, tmp_path: Path) -> None:
    later = datetime(1970, 1, 2, tzinfo=UTC)
    assert export(ledger, tmp_path / "a.parquet", run="2", model="n") == 2
    assert export(ledger, tmp_path / "a.parquet", since=later) == 3
    assert export(ledger, tmp_path / "a.parquet", until=later, recipe="none") == 0
    assert pl.read_parquet(tmp_path / "a.parquet").schema == LEDGER


def test_a_file_of_no_known_format_is_told(ledger: Ledger, tmp_path: Path) -> None:
    with pytest.raises((FrameError, OSError), match="of no known format"):
        export(ledger, tmp_path / "a.xyz")

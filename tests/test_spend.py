"""The ceiling on what may be spent, end to end: a server that keeps its own bill, and every way of running again."""

from __future__ import annotations

import _thread
import json
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from servers import ChatServer, Fault, chat_server, completion

from agora_frames.backends.openai_chat import openai_chat
from agora_frames.budget import most_tokens
from agora_frames.cli import main
from agora_frames.errors import BindError
from agora_frames.ledger import Ledger
from agora_frames.remembered import Remembered, remembered
from agora_frames.stages.generate import generate_column
from agora_frames.stages.requests import build_requests

PROMPT_PRICE, COMPLETION_PRICE = 100.0, 400.0  # US dollars per million tokens
MAX_TOKENS, ROWS = 100, 40
NAMES = [f"row {n}" for n in range(ROWS)]
ROWS_DF = pl.DataFrame({"row_id": NAMES, "prompt": NAMES})
# What is reserved for each of these requests.
PROMPT, _ = most_tokens('[{"content":"row 10","role":"user"}]', None, sampling='{"max_tokens":100,"seed":2147483647}')
MOST = PROMPT + MAX_TOKENS
MOST_USD = (PROMPT * PROMPT_PRICE + MAX_TOKENS * COMPLETION_PRICE) / 1e6


class Bill:
    """What the server has to be paid: each reply has another length, and whatever is not a 429 is billed.

    faults: what it does instead of answering, in so many of 100 cases each.
    """

    def __init__(self, seed: int, **faults: int) -> None:
        self.chance, self.lock = random.Random(seed), threading.Lock()
        self.faults: list[Fault] = [int(name[1:]) if name[0] == "s" and name != "slow" else name for name in faults]
        self.shares = list(faults.values())
        self.tokens, self.cost_usd = 0, 0.0

    def plan(self, prompt: str, attempt: int) -> Fault:
        with self.lock:
            (fault,) = self.chance.choices(["ok", *self.faults], [100 - sum(self.shares), *self.shares])
            if fault == 429:
                return fault
            asked, written = self.chance.randint(1, PROMPT), self.chance.randint(1, MAX_TOKENS)
            self.tokens += asked + written
            self.cost_usd += (asked * PROMPT_PRICE + written * COMPLETION_PRICE) / 1e6
        return fault if fault != "ok" else {**completion(prompt), "usage": used(asked, written)}


def used(asked: int, written: int) -> dict[str, int]:
    return {"prompt_tokens": asked, "completion_tokens": written, "total_tokens": asked + written}


def model(
    chat: ChatServer, folder: Path, *, prices: Any = (PROMPT_PRICE, COMPLETION_PRICE), **options: Any
) -> Remembered:
    limits = {name: options.pop(name) for name in ("max_cost", "max_tokens_total") if name in options}
    given = {"api_key": "secret", "concurrency": 16, "pause_s": 0.001, "prices": prices, **options}
    return remembered(openai_chat("tiny", base_url=chat.url, **given), ledger=Ledger(folder / "ledger"), **limits)


def asked(backend: Remembered, **options: Any) -> pl.DataFrame:
    return generate_column(ROWS_DF, backend=backend, **{"max_tokens": MAX_TOKENS, **options})


def kinds(done: pl.DataFrame) -> list[str | None]:
    return done["completion_error"].struct.field("kind").to_list()


# The ceiling holds


@pytest.mark.parametrize("seed", range(20))
def test_the_servers_own_bill_is_never_above_the_ceiling_and_no_row_is_lost(seed: int, tmp_path: Path) -> None:
    bill = Bill(seed, s429=4, s500=4, reset=2, cut=2) if seed % 2 else Bill(seed)
    chance = random.Random(seed)
    in_tokens = seed % 4 > 1
    ceiling = chance.uniform(0.0, 20.0)
    limit: dict[str, Any] = {"max_tokens_total": int(ceiling * MOST)} if in_tokens else {"max_cost": ceiling * MOST_USD}
    with chat_server(bill.plan, latency_s=0.001) as chat:
        backend = model(chat, tmp_path, **limit)
        done = asked(backend)
    assert bill.tokens <= limit["max_tokens_total"] if in_tokens else bill.cost_usd <= limit["max_cost"] + 1e-12
    assert done["row_id"].to_list() == NAMES
    assert set(kinds(done)) <= {None, "over_budget"}
    assert backend.budget.reserved == {"tokens" if in_tokens else "cost_usd": 0}


@pytest.mark.parametrize("seed", range(3))
def test_the_ceiling_is_used_until_what_is_left_is_less_than_one_request_may_take(seed: int, tmp_path: Path) -> None:
    bill = Bill(seed)
    with chat_server(bill.plan, latency_s=0.001) as chat:
        done = asked(model(chat, tmp_path, max_cost=8 * MOST_USD))
    assert kinds(done).count("over_budget") > 0
    assert 7 * MOST_USD < bill.cost_usd <= 8 * MOST_USD


def test_both_ceilings_hold_at_once(tmp_path: Path) -> None:
    bill = Bill(1)
    with chat_server(bill.plan) as chat:
        asked(model(chat, tmp_path, max_cost=1000.0, max_tokens_total=5 * MOST))
    assert 4 * MOST < bill.tokens <= 5 * MOST


def test_a_ceiling_of_nothing_asks_nothing(tmp_path: Path) -> None:
    with chat_server() as chat:
        done = asked(model(chat, tmp_path, max_cost=0))
        assert chat.asked.total() == 0
    assert kinds(done) == ["over_budget"] * ROWS
    assert done["completion_error"].struct.field("message").str.contains("not asked: .* what is left").all()


def test_a_ceiling_that_is_never_reached_changes_nothing(tmp_path: Path) -> None:
    with chat_server() as chat:
        free, limited = model(chat, tmp_path / "free"), model(chat, tmp_path / "limited", max_cost=1000.0)
        assert asked(free)["completion"].equals(asked(limited)["completion"])
        assert chat.asked == dict.fromkeys(NAMES, 2)


# Attempts of unknown cost


def test_time_outs_count_as_what_they_may_have_cost(tmp_path: Path) -> None:
    bill = Bill(0, slow=100)
    with chat_server(bill.plan, slow_s=0.2) as chat:
        backend = model(chat, tmp_path, max_cost=5.5 * MOST_USD, timeout_s=0.05)
        done = asked(backend)
        assert chat.asked.total() == 5
    assert bill.cost_usd <= 5.5 * MOST_USD
    assert kinds(done) == ["over_budget"] * ROWS
    assert backend.budget.spent["cost_usd"] == pytest.approx(5 * MOST_USD, rel=0.02)


def test_time_outs_of_an_earlier_run_count_in_the_next(tmp_path: Path) -> None:
    bill = Bill(0, slow=100)
    with chat_server(bill.plan, slow_s=0.2) as chat:
        asked(model(chat, tmp_path, max_cost=3.5 * MOST_USD, timeout_s=0.05))
        first = chat.asked.total()
        chat.plan = lambda prompt, attempt: "ok"
        again = asked(model(chat, tmp_path, max_cost=3.5 * MOST_USD))
        paid = 15 * (chat.asked.total() - first) * COMPLETION_PRICE / 1e6
    assert first == 3
    assert bill.cost_usd + paid <= 3.5 * MOST_USD
    assert "over_budget" in kinds(again)


# Running again


def test_a_higher_ceiling_asks_only_the_rest(tmp_path: Path) -> None:
    bill = Bill(5)
    with chat_server(bill.plan, latency_s=0.001) as chat:
        first = asked(model(chat, tmp_path, max_cost=8 * MOST_USD))
        known = chat.asked.copy()
        second = asked(model(chat, tmp_path, max_cost=1000.0))
        assert chat.asked == dict.fromkeys(NAMES, 1)
    assert 0 < known.total() < ROWS
    assert kinds(second) == [None] * ROWS
    was, now = (done.filter(pl.col("row_id").is_in(list(known))) for done in (first, second))
    assert was.equals(now)


@pytest.mark.parametrize("limit", ["max_cost", "max_tokens_total"])
def test_the_same_ceiling_over_the_same_ledger_counts_what_was_spent_before(limit: str, tmp_path: Path) -> None:
    bill = Bill(6)
    ceiling: dict[str, Any] = {limit: 8 * MOST_USD if limit == "max_cost" else 8 * MOST}
    with chat_server(bill.plan, latency_s=0.001) as chat:
        for _ in range(4):
            done = asked(model(chat, tmp_path, **ceiling))
            assert chat.asked.total() == ROWS - kinds(done).count("over_budget")
    assert bill.cost_usd <= 8 * MOST_USD if limit == "max_cost" else bill.tokens <= 8 * MOST


def test_the_same_backend_asked_again_keeps_the_same_ceiling(tmp_path: Path) -> None:
    bill = Bill(7)
    with chat_server(bill.plan, latency_s=0.001) as chat:
        backend = model(chat, tmp_path, max_cost=8 * MOST_USD)
        for seed in range(3):
            asked(backend, seed=seed)
    assert bill.cost_usd <= 8 * MOST_USD


def test_what_is_in_the_ledger_is_given_without_a_budget(tmp_path: Path) -> None:
    with chat_server() as chat:
        full = asked(model(chat, tmp_path))
        again = asked(model(chat, tmp_path, max_cost=0))
        assert chat.asked.total() == ROWS
    assert full.equals(again)


# Interruptions


def test_an_interruption_in_the_middle_leaks_no_reservation(tmp_path: Path) -> None:
    backend: list[Remembered] = []

    def plan(prompt: str, attempt: int) -> Fault:
        if chat.asked.total() == 12:
            _thread.interrupt_main()
        return "ok"

    with chat_server(plan, latency_s=0.02) as chat:
        backend.append(model(chat, tmp_path, max_cost=20 * MOST_USD, concurrency=4))
        with pytest.raises(KeyboardInterrupt):
            asked(backend[0])
        before = chat.asked.total()
        assert before < ROWS
        assert backend[0].budget.reserved == {"cost_usd": 0}
        done = asked(backend[0])
        assert chat.asked == dict.fromkeys(NAMES, 1)
    assert kinds(done) == [None] * ROWS


def test_a_stream_that_is_left_in_the_middle_leaks_no_reservation(tmp_path: Path) -> None:
    with chat_server(lambda prompt, attempt: 500 if attempt < 2 else "ok", latency_s=0.005) as chat:
        backend = model(chat, tmp_path, max_cost=1000.0, concurrency=4)
        requests = build_requests(
            ROWS_DF, column="prompt", sampling={"max_tokens": MAX_TOKENS}, seed=0, backend=backend
        )
        stream: Iterator[pl.DataFrame] = backend(requests)
        next(stream)
        stream.close()  # type: ignore[attr-defined]
        assert backend.budget.reserved == {"cost_usd": 0}


# What cannot be kept is refused before anything is sent


@pytest.mark.parametrize(
    ("limit", "prices", "max_tokens", "remedy"),
    [
        ({"max_cost": 1.0}, None, MAX_TOKENS, r"give prices=\(…\)"),
        ({"max_cost": 1.0}, (1.0, 2.0), None, r"max_tokens=… to generate_column"),
        ({"max_tokens_total": 1000}, None, None, r"give max_tokens=… to generate_column"),
    ],
    ids=["no prices", "no max_tokens for the cost", "no max_tokens for the tokens"],
)
def test_a_ceiling_that_cannot_be_kept_is_refused_with_the_remedy_before_anything_is_sent(
    limit: dict[str, Any], prices: Any, max_tokens: int | None, remedy: str, tmp_path: Path
) -> None:
    with chat_server() as chat:
        with pytest.raises(BindError, match=f"{remedy}.*Nothing was asked"):
            asked(model(chat, tmp_path, prices=prices, **limit), max_tokens=max_tokens)
        assert chat.asked.total() == 0


# The command line


@pytest.fixture
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("AGORA_API_KEY", "secret")


def hello(chat: ChatServer, *options: str) -> int:
    return main(["run", "hello", "--backend", chat.url, "--model", "tiny", *options])


@pytest.mark.usefixtures("_in_an_empty_folder")
def test_a_run_with_a_ceiling_tells_the_budget_and_the_reasons_and_ends_well(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with chat_server() as chat:
        assert hello(chat, "--backend-option", "prices=(1000, 2000)", "--max-cost", "0.9") == 0
        paid = chat.asked.total() * (10 * 1000 + 5 * 2000) / 1e6
    said = capsys.readouterr().out
    assert 0 < paid <= 0.9
    assert f"Budget: ${paid:.2f} of $0.90 spent, $0.00 reserved" in said
    assert "completion: over_budget" in said
    reasons = json.loads(Path("dataset.manifest.json").read_text())["reasons"]
    rows = {each["reason"]: each["rows"] for each in reasons}
    assert rows["completion: over_budget"] == 8 - chat.asked.total()


@pytest.mark.usefixtures("_in_an_empty_folder")
def test_a_run_with_a_ceiling_in_tokens_tells_the_budget(capsys: pytest.CaptureFixture[str]) -> None:
    with chat_server() as chat:
        assert hello(chat, "--max-tokens-total", "1000000") == 0
    assert "Budget: 120 of 1,000,000" in capsys.readouterr().out.replace(" tokens", "")


@pytest.mark.usefixtures("_in_an_empty_folder")
def test_a_run_without_a_ceiling_tells_no_budget(capsys: pytest.CaptureFixture[str]) -> None:
    with chat_server() as chat:
        assert hello(chat) == 0
    assert "Budget" not in capsys.readouterr().out


@pytest.mark.usefixtures("_in_an_empty_folder")
def test_a_run_whose_ceiling_cannot_be_kept_is_an_error_of_use(capsys: pytest.CaptureFixture[str]) -> None:
    with chat_server() as chat:
        assert hello(chat, "--max-cost", "1") == 1
        assert chat.asked.total() == 0
    assert "give prices=(…)" in capsys.readouterr().err

"""The meter: what is counted while calls go on, and the words and numbers a person is given."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import polars as pl
import pytest

from agora_frames.backends.limits import Status
from agora_frames.backends.scripted import scripted
from agora_frames.ledger import Ledger, Tally
from agora_frames.meter import Meter, Reading, cost_text, duration, facts, fitted, line, money, pace, rate, times
from agora_frames.remembered import remembered
from agora_frames.stages.generate import generate_column


class Asked:
    """A backend with a ledger's tally, limits and a budget, and a clock that a test sets."""

    endpoint, model = "http://here/v1", "tiny"

    def __init__(self, *, said: str | None = None) -> None:
        self.tally, self.now, self.held = Tally(), 100.0, None
        self.budget = SimpleNamespace(limited=said is not None, said=lambda: said or "no ceiling")
        self.held: str | None = None

    def status(self) -> Status:
        return Status(limit=64, in_flight=8, held=self.held)

    def __call__(self, requests: pl.DataFrame, /) -> Iterator[pl.DataFrame]:
        return iter(())

    def clock(self) -> float:
        return self.now


def meter(backend: Asked, *, rows: int = 1000) -> Meter:
    return Meter("tiny", rows, backend, clock=backend.clock)


def works(backend: Asked, of: Meter, *, seconds: int, per_s: int, cost_usd: float | None = 0.01) -> None:
    """So many seconds in which so many calls are answered each."""
    for _ in range(seconds):
        backend.now += 1
        for _ in range(per_s):
            backend.tally.add({"prompt_tokens": 5, "completion_tokens": 20, "cost_usd": cost_usd})
        of.add(per_s, {"done": per_s})
        of.sample()


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "0.0 s"),
        (4.24, "4.2 s"),
        (45, "45 s"),
        (59.7, "1 min 00 s"),
        (125, "2 min 05 s"),
        (3900, "1 h 05 min"),
        (273_600, "3 d 04 h"),
    ],
)
def test_a_duration_is_said_in_two_units_at_most(seconds: float, said: str) -> None:
    assert duration(seconds) == said


@pytest.mark.parametrize(
    ("usd", "said"),
    [(0, "$0"), (0.00001, "<$0.0001"), (0.0123, "$0.0123"), (1.5, "$1.50"), (1234.5, "$1,234.50")],
)
def test_dollars_have_the_digits_that_matter(usd: float, said: str) -> None:
    assert money(usd) == said


@pytest.mark.parametrize(("per_s", "said"), [(0, "0"), (0.03, "0.03"), (1.25, "1.2"), (12.34, "12.3"), (1234, "1,234")])
def test_a_rate_has_the_digits_that_matter(per_s: float, said: str) -> None:
    assert rate(per_s) == said


@pytest.mark.parametrize(
    ("spent", "said"),
    [
        (Tally(cost_usd=0.25), "$0.2500"),
        (Tally(cost_usd=0.25, of_unknown_cost=1), "at least $0.2500"),
        (Tally(of_unknown_cost=1), "unknown"),
    ],
)
def test_a_cost_is_a_sum_a_lower_bound_or_unknown(spent: Tally, said: str) -> None:
    assert cost_text(spent) == said


def test_rates_and_the_time_left_are_those_of_the_last_ten_seconds() -> None:
    backend = Asked()
    of = meter(backend)
    works(backend, of, seconds=20, per_s=1)
    works(backend, of, seconds=20, per_s=10)
    reading = of.read()
    assert (reading.requests_per_s, reading.tokens_per_s) == (10, 200)
    assert reading.eta_s == pytest.approx(78)  # 780 rows, 10 a second
    assert reading.elapsed_s == 40


def test_when_little_came_in_ten_seconds_the_last_minute_says_how_long_it_takes() -> None:
    backend = Asked()
    of = meter(backend)
    works(backend, of, seconds=10, per_s=3)
    works(backend, of, seconds=30, per_s=0)
    reading = of.read()
    assert reading.requests_per_s == 0
    assert reading.eta_s == pytest.approx(970 * 40 / 30)


def test_while_all_is_held_for_long_the_time_left_is_unknown() -> None:
    backend = Asked()
    of = meter(backend)
    works(backend, of, seconds=10, per_s=10)
    backend.held = "rate limited, waits 12 min"
    works(backend, of, seconds=90, per_s=0)
    reading = of.read()
    assert reading.held == "rate limited, waits 12 min"
    assert times(reading) == "1 min 40 s, ETA –"


def test_a_slow_model_has_its_time_left_from_all_that_it_did() -> None:
    backend = Asked()
    of = meter(backend, rows=10)
    for _ in range(4):
        works(backend, of, seconds=1, per_s=1)
        works(backend, of, seconds=99, per_s=0)
    assert of.read().eta_s == pytest.approx(6 * 100)


def test_rows_that_the_ledger_knew_make_neither_the_pace_nor_the_cost() -> None:
    backend = Asked()
    backend.tally.add({"cost_usd": 7.0})  # of another stage, before
    of = meter(backend)
    backend.tally.begin(500)
    of.add(500, {"done": 500})
    works(backend, of, seconds=10, per_s=10)
    reading = of.read()
    assert (reading.done, reading.eta_s) == (600, pytest.approx(40))
    assert (reading.cost, reading.cost_at_end_usd) == ("$1.00", pytest.approx(5.0))


def test_a_cost_at_the_end_is_not_said_where_no_price_is_known() -> None:
    backend = Asked()
    of = meter(backend)
    works(backend, of, seconds=2, per_s=1, cost_usd=None)
    assert (of.read().cost, of.read().cost_at_end_usd) == ("unknown", None)


def test_once_ended_the_rates_are_those_of_all_the_time_and_time_stands_still() -> None:
    backend = Asked()
    of = meter(backend, rows=40)
    works(backend, of, seconds=20, per_s=2)
    of.end("done")
    backend.now += 1000
    reading = of.read()
    assert (reading.requests_per_s, reading.elapsed_s) == (2, 20)
    assert line(reading) == "tiny: 40/40 rows 100%; 40 done; 2.0 requests/s, 40.0 tokens/s; cost $0.4000; done in 20 s"


def test_a_backend_without_ledger_limits_and_budget_is_told_in_rows_alone() -> None:
    of = Meter("x", 3, lambda requests: iter(()), clock=lambda: 5.0)  # type: ignore[arg-type]
    of.add(2, {"done": 1, "failed": 1})
    assert line(of.read()) == "x: 2/3 rows 66%; 1 done, 1 failed; 0.0 s, ETA –"


def test_the_budget_is_said_only_where_there_is_one() -> None:
    assert "budget" not in line(meter(Asked()).read())
    assert "budget: $1.23 of $2.50 spent" in line(meter(Asked(said="$1.23 of $2.50 spent")).read())


def test_a_line_says_why_no_more_is_in_flight() -> None:
    backend = Asked()
    backend.held = "rate limited, waits 12 s"
    said = line(meter(backend).read())
    assert "8 in flight of at most 64" in said
    assert "held: rate limited, waits 12 s" in said


def test_before_anything_came_it_says_that_it_waits() -> None:
    assert facts(Reading("x", 10)) == ["waiting for the first reply"]


def test_what_was_stopped_says_how_many_replies_are_recorded() -> None:
    reading = Reading("x", 10, 2, {"done": 2}, elapsed_s=61, replies=4, ended="interrupted")
    assert line(reading) == "x: 2/10 rows 20%; 2 done; 4 replies recorded; interrupted after 1 min 01 s"


def test_all_but_one_row_is_not_yet_all() -> None:
    assert pace(Reading("x", 10_000, 9_999)) == "9,999/10,000 rows 99%"


def test_parts_are_put_on_lines_unbroken() -> None:
    assert fitted(["aaaa", "bbbb", "cccc"], 11) == ["aaaa · bbbb", "cccc"]
    assert fitted(["a" * 12], 11) == ["a" * 10 + "…"]


def test_two_meters_on_one_ledger_count_their_own_calls(tmp_path: Path) -> None:
    of = remembered(scripted(lambda messages: {"text": "x", "cost_usd": 1.0}), ledger=Ledger(tmp_path))
    one, other = of.apart(), of.apart()
    meters = [Meter("one", 2, one), Meter("other", 3, other)]
    generate_column(pl.DataFrame({"row_id": ["a", "b"], "prompt": ["a", "b"]}), backend=one)
    generate_column(pl.DataFrame({"row_id": ["c"], "prompt": ["c"]}), backend=other)
    assert [(reading.replies, reading.cost) for reading in (meter.read() for meter in meters)] == [
        (2, "$2.00"),
        (1, "$1.00"),
    ]

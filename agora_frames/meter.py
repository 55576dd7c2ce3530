"""How far the calls of a stage are: what is counted while they go on, and how a person is told."""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from agora_frames.ledger import Tally
from agora_frames.types import Backend

__all__ = [
    "Meter",
    "Reading",
    "cost_text",
    "cut",
    "duration",
    "facts",
    "fitted",
    "line",
    "money",
    "pace",
    "rate",
    "times",
]

_RECENT_S, _LONGER_S = 10.0, 60.0
_SAMPLE_EVERY_S = 0.5
# From fewer rows than these, no pace is told.
_ROWS_FOR_A_PACE = 3


@dataclass(frozen=True)
class Reading:
    """What is known of a stage's calls at one moment; None where it is not known.

    rows: how many are wanted; done: of these, finished; states: how many of those are what. replies: recorded by now.
    per second: over the last 10 s; once ended, over all of the time. cost: what was spent, as a text; cost_at_end_usd:
    what it will come to, US dollars. in_flight, limit, held, budget: of the backend. ended: None while it goes on.
    """

    label: str
    rows: int
    done: int = 0
    states: Mapping[str, int] = field(default_factory=dict)
    elapsed_s: float = 0.0
    eta_s: float | None = None
    replies: int | None = None
    requests_per_s: float | None = None
    tokens_per_s: float | None = None
    in_flight: int | None = None
    limit: int | None = None
    held: str | None = None
    cost: str | None = None
    cost_at_end_usd: float | None = None
    budget: str | None = None
    ended: str | None = None


@dataclass(frozen=True)
class _Sample:
    """What had been counted at a time."""

    at: float
    asked: int = 0  # rows that are finished, and were not known before
    attempts: int = 0
    tokens: int = 0


class Meter:
    """Counts what one stage's calls bring, from `begin` to `end`; may be read on any thread."""

    def __init__(self, label: str, rows: int, backend: Backend, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.label, self.rows, self.backend, self.clock = label, rows, backend, clock
        self.done = 0
        self.states: dict[str, int] = {}
        self.ended: tuple[str, float] | None = None
        # A backend need not have a tally, limits or a budget: `remembered` gives one all three.
        self.tally: Tally | None = getattr(backend, "tally", None)
        self.before = replace(self.tally) if self.tally is not None else Tally()
        self.begun = _Sample(clock())
        self.samples = deque([self.begun])
        self.lock = threading.Lock()

    def add(self, rows: int, states: Mapping[str, int]) -> None:
        """So many rows are finished."""
        self.done += rows
        for state, count in states.items():
            self.states[state] = self.states.get(state, 0) + count

    def end(self, how: str) -> None:
        """Nothing comes any more."""
        self.ended = (how, self.clock())

    def sample(self) -> _Sample:
        """What is counted now; kept, so that it can be said later how fast it went."""
        spent = self._spent()
        asked = max(0, self.done - spent.known)
        now = _Sample(self.clock(), asked, spent.attempts, spent.completion_tokens)
        with self.lock:
            if now.at - self.samples[-1].at >= _SAMPLE_EVERY_S:
                self.samples.append(now)
            while len(self.samples) > 1 and now.at - self.samples[1].at >= _LONGER_S:
                self.samples.popleft()
        return now

    def read(self) -> Reading:
        """How far it is now."""
        now, spent, status = self.sample(), self._spent(), _told(self.backend, "status")
        how, at = self.ended or (None, now.at)
        since = self._since(now.at - _RECENT_S) if how is None else self.begun
        took = at - since.at
        counted = self.tally is not None and (took >= _SAMPLE_EVERY_S or (how is not None and took > 0))
        budget = getattr(self.backend, "budget", None)
        return Reading(
            self.label,
            self.rows,
            self.done,
            dict(self.states),
            elapsed_s=at - self.begun.at,
            eta_s=self._eta_s(now, held=getattr(status, "held", None) is not None) if how is None else None,
            replies=spent.calls if self.tally is not None else None,
            requests_per_s=(now.attempts - since.attempts) / took if counted else None,
            tokens_per_s=(now.tokens - since.tokens) / took if counted else None,
            in_flight=getattr(status, "in_flight", None) if how is None else None,
            limit=getattr(status, "limit", None),
            held=getattr(status, "held", None) if how is None else None,
            cost=cost_text(spent) if spent.attempts else None,
            cost_at_end_usd=self._cost_at_end_usd(spent, now.asked) if how is None else None,
            budget=_told(budget, "said") if getattr(budget, "limited", False) else None,
            ended=how,
        )

    def _spent(self) -> Tally:
        """What went through the backend since this meter began."""
        now, was = self.tally or Tally(), self.before
        return Tally(
            known=now.known - was.known,
            calls=now.calls - was.calls,
            attempts=now.attempts - was.attempts,
            prompt_tokens=now.prompt_tokens - was.prompt_tokens,
            completion_tokens=now.completion_tokens - was.completion_tokens,
            cost_usd=now.cost_usd - was.cost_usd,
            of_unknown_cost=now.of_unknown_cost - was.of_unknown_cost,
        )

    def _since(self, at: float) -> _Sample:
        """The last sample that is so old; else the oldest."""
        with self.lock:
            older = list(itertools.takewhile(lambda sample: sample.at <= at, self.samples))
            return older[-1] if older else self.samples[0]

    def _eta_s(self, now: _Sample, *, held: bool) -> float | None:
        """From the last 10 s, when rows came in them; else from the last minute; else, if nothing is held, from all."""
        longest = (-float("inf"),) if not held else ()
        for at in (now.at - _RECENT_S, now.at - _LONGER_S, *longest):
            since = self.begun if at < self.begun.at else self._since(at)
            came, took = now.asked - since.asked, now.at - since.at
            if came >= _ROWS_FOR_A_PACE and took > 0:
                return (self.rows - self.done) * took / came
        return None

    def _cost_at_end_usd(self, spent: Tally, asked: int) -> float | None:
        """The rows to come cost what those asked so far did; those that the ledger knew cost nothing."""
        asked = max(asked, spent.calls)  # rows are told a moment after their calls; and rows may share a call
        if not spent.cost_usd or not asked:
            return None
        return spent.cost_usd * max(1.0, (self.rows - spent.known) / asked)


def _told(of: object, name: str) -> Any:
    """What it says when asked; None when it cannot be asked."""
    asked = getattr(of, name, None)
    return asked() if asked is not None else None


def cost_text(spent: Tally) -> str:
    """What was spent: a sum, a lower bound, or that it is unknown."""
    if not spent.of_unknown_cost:
        return money(spent.cost_usd)
    return f"at least {money(spent.cost_usd)}" if spent.cost_usd else "unknown"


def money(usd: float) -> str:
    """US dollars: $0, <$0.0001, $0.0123, $1,234.50."""
    if not usd:
        return "$0"
    if usd < 0.0001:
        return "<$0.0001"
    return f"${usd:.4f}" if usd < 0.99995 else f"${usd:,.2f}"


def duration(seconds: float) -> str:
    """45 s, 2 min 05 s, 1 h 05 min, 3 d 04 h."""
    whole = round(seconds)
    for size, big, small, part in ((86400, "d", "h", 3600), (3600, "h", "min", 60), (60, "min", "s", 1)):
        if whole >= size:
            return f"{whole // size} {big} {whole % size // part:02} {small}"
    return f"{whole} s" if whole >= 10 else f"{seconds:.1f} s"


def rate(per_s: float) -> str:
    """0, 0.03, 1.2, 12.3, 1,234."""
    if per_s >= 100 or not per_s:
        return f"{per_s:,.0f}"
    return f"{per_s:.1f}" if per_s >= 1 else f"{per_s:.2f}"


def pace(reading: Reading) -> str:
    """How many of the rows are done: 1,234/5,000 rows 24%."""
    share = int(100 * reading.done / reading.rows) if reading.rows else 100
    return f"{reading.done:,}/{reading.rows:,} rows {share}%"


def times(reading: Reading) -> str:
    """How long it took and how long it will take."""
    if reading.ended is None:
        left = "–" if reading.eta_s is None else duration(reading.eta_s)
        return f"{duration(reading.elapsed_s)}, ETA {left}"
    return f"{reading.ended} {'in' if reading.ended == 'done' else 'after'} {duration(reading.elapsed_s)}"


def facts(reading: Reading) -> list[str]:
    """What there is to say beside rows and times, each a text that stands for itself; the first say most."""
    said = [", ".join(f"{count:,} {state}" for state, count in reading.states.items())]
    if not reading.done and reading.ended is None:
        said = ["waiting for the first reply"]
    if reading.ended not in (None, "done") and reading.replies:
        said.append(f"{reading.replies:,} replies recorded")
    if reading.requests_per_s is not None:
        tokens = "" if reading.tokens_per_s is None else f", {rate(reading.tokens_per_s)} tokens/s"
        said.append(f"{rate(reading.requests_per_s)} requests/s{tokens}")
    if reading.in_flight is not None:
        most = "" if reading.limit is None else f" of at most {reading.limit:,}"
        said.append(f"{reading.in_flight:,} in flight{most}")
    if reading.cost is not None:
        end = "" if reading.cost_at_end_usd is None else f", about {money(reading.cost_at_end_usd)} at the end"
        said.append(f"cost {reading.cost}{end}")
    if reading.budget:
        said.append(f"budget: {reading.budget}")
    return [each for each in said if each]


def fitted(parts: list[str], width: int) -> list[str]:
    """The parts on as few lines as they need, none of them broken unless it is too long for any line."""
    lines: list[str] = []
    for part in parts:
        if lines and len(lines[-1]) + 3 + len(part) <= width:
            lines[-1] += f" · {part}"
        else:
            lines.append(cut(part, width))
    return lines


def cut(text: str, width: int) -> str:
    """The text, or as much of its beginning as there is room for."""
    return text if len(text) <= width else f"{text[: max(0, width - 1)]}…"


def line(reading: Reading) -> str:
    """All of it on one line, for a file or a pipe."""
    held = [f"held: {reading.held}"] if reading.held else []
    return f"{reading.label}: {'; '.join([pace(reading), *facts(reading), *held, times(reading)])}"

"""A backend that never asks twice: it answers from a ledger what was answered before, and records the rest."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import polars as pl

from agora_frames.budget import Budget
from agora_frames.errors import BindError, OfflineError, listed
from agora_frames.frames import as_replies
from agora_frames.ledger import Ledger, Tally
from agora_frames.types import Backend, DeskBackend, Reply

__all__ = ["Remembered", "remembered"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, repr=False)
class Remembered:
    """A backend that asks only what its ledger does not know; made by `remembered`.

    tally: what went through this backend alone; the ledger's own also counts what others bring to it.
    """

    backend: Backend
    ledger: Ledger
    budget: Budget
    offline: bool
    tally: Tally = field(default_factory=Tally, compare=False)

    @property
    def endpoint(self) -> str:
        return self.backend.endpoint

    @property
    def model(self) -> str:
        return self.backend.model

    @property
    def can(self) -> frozenset[str] | None:
        """What the backend says that it can do; None where it says nothing (see `types.ABILITIES`)."""
        return getattr(self.backend, "can", None)

    def __call__(self, requests: pl.DataFrame, /) -> Iterator[pl.DataFrame]:
        seen = self.ledger.state()
        known = self.ledger.answers(requests["key"])
        self._begin(known.height)
        self._count(requests["key"])
        if known.height:
            yield known
        requests = _without(requests, known["key"])
        del known
        if requests.is_empty():
            return
        if self.offline:
            raise OfflineError(_lacking(requests, self))
        # From here on nobody holds all of them but who asks them, and lets go of each that was asked.
        answers = self._claimed(requests, seen)
        del requests
        yield from answers

    def apart(self) -> Remembered:
        """The same backend, ledger and budget, with a tally of its own: for one of several calls at the same time."""
        return replace(self, tally=Tally())

    def _begin(self, known: int) -> None:
        for tally in (self.ledger.tally, self.tally):
            tally.begin(known)

    def _count(self, keys: pl.Series) -> None:
        """What was spent on these before, also by others and also where nothing is asked now, is under the ceiling."""
        if self.budget.limited:
            self.budget.count(self.ledger.spent(keys))

    def _claimed(self, missing: pl.DataFrame, seen: object) -> Iterator[pl.DataFrame]:
        """Asks what no other process is asking for, then waits for the others and asks what they did not get."""
        while True:
            with self.ledger.claim(missing["key"]) as claim:
                if self.ledger.state() != seen:  # somebody recorded something between the look-up and the claim
                    seen, found = self.ledger.state(), self.ledger.answers(missing["key"])
                    self._begin(found.height)
                    self._count(missing["key"])
                    yield found
                    missing = _without(missing, found["key"])
                theirs = _without(missing, claim.mine)
                if theirs.height < missing.height:
                    answers = self._ask(_without(missing, theirs["key"]))
                    del missing
                    yield from answers
            missing = theirs
            if missing.is_empty():
                return
            _log.warning("another process is asking for %d of these replies: waiting for it", missing.height)
            claim.wait()
            seen = None

    def _ask(self, requests: pl.DataFrame) -> Iterator[pl.DataFrame]:
        desk = _Desk(self, requests.select("row_id", "sample", "sampling"), _places(requests["key"]))
        self.ledger.open()
        if isinstance(self.backend, DeskBackend):
            answers = self.backend.answer(requests, desk=desk)
            del requests
            yield from answers
            return
        if self.budget.limited:
            raise BindError(
                f"{self.backend!r} cannot keep a ceiling: a backend that can has a method answer(requests, desk=…). "
                "Leave out max_cost and max_tokens_total."
            )
        for told in self.backend(requests):
            replies = as_replies(told, self.backend)
            for reply in replies.iter_rows(named=True):
                desk.record(reply)
            yield replies

    def status(self) -> Any:
        """What the backend says of its requests in flight (`backends.limits.Status`); None where it says nothing."""
        said = getattr(self.backend, "status", None)
        return said() if callable(said) else None

    def __repr__(self) -> str:
        limits = "".join(f", {name}={value!r}" for name, value in self.budget.limits().items())
        offline = ", offline=True" if self.offline else ""
        return f"remembered({self.backend!r}, ledger={str(self.ledger.path)!r}{limits}{offline})"


@dataclass(frozen=True)
class _Desk:
    """What a backend works with: the ledger and the budget behind one counter."""

    of: Remembered
    asked: pl.DataFrame
    places: Mapping[str, int]

    @property
    def ledger(self) -> Ledger:
        """For a backend whose work outlives the process: it keeps its notes beside it."""
        return self.of.ledger

    def reserve(self, key: str, *, tokens: int | None, cost_usd: float | None) -> bool | None:
        return self.of.budget.reserve(key, tokens=tokens, cost_usd=cost_usd)

    def release(self, key: str) -> None:
        self.of.budget.release(key)

    def record(self, reply: Reply) -> None:
        place = self.places.get(reply["key"])
        row_id, sample, sampling = (None, None, None) if place is None else self.asked.row(place)
        ledger = self.of.ledger
        row: dict[str, Any] = {
            "key": reply["key"],
            "retried": False,
            **reply,
            "endpoint": self.of.endpoint,
            "model": self.of.model,
            "sampling": sampling,
            "row_id": row_id,
            "sample": sample,
            "recipe": ledger.recipe,
            "run": ledger.run,
            "at": time.time(),
        }
        try:
            ledger.write(row, self.of.tally)
        finally:  # it was paid, whether it could be recorded or not
            self.of.budget.settle(reply)


def _without(requests: pl.DataFrame, keys: pl.Series) -> pl.DataFrame:
    """The requests of other keys; the same frame where that is all, as a copy would hold every message twice."""
    others = ~requests["key"].is_in(keys.implode())
    return requests if others.all() else requests.filter(others)


def _places(keys: pl.Series) -> dict[str, int]:
    """Where each key stands; a dict of the rows themselves would take several times the memory."""
    return {key: place for place, key in enumerate(keys)}


def remembered(
    backend: Backend,
    *,
    ledger: Ledger,
    offline: bool = False,
    max_cost: float | None = None,
    max_tokens_total: int | None = None,
) -> Remembered:
    """The same backend, answering from the ledger what it knows, and recording each reply before passing it on.

    offline: ask nothing; a run that lacks replies then raises OfflineError, which lists the requests.
    max_cost: US dollars, max_tokens_total: tokens of prompts and replies; together with what these requests have
    cost before, no more is spent (see `Budget`). Rows beyond it stay in the frame, as `over_budget`.
    Two processes on one local ledger never ask the same at the same time: one waits for the other's replies.
    """
    return Remembered(backend, ledger, Budget(max_cost=max_cost, max_tokens_total=max_tokens_total), offline)


def _lacking(missing: pl.DataFrame, backend: Remembered) -> str:
    rows = [f"row_id {row_id} sample {sample}" for row_id, sample in missing.select("row_id", "sample").iter_rows()]
    return (
        f"offline, and {str(backend.ledger.path)!r} lacks {missing.height} of the replies of {backend.model}: "
        f"{listed(rows, most=5)}. Run again without offline, or with the ledger that has them."
    )

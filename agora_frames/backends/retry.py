"""Whether a request is asked again, and when: by kind of failure, and by what became of the others meanwhile."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from agora_frames.backends.answers import TRANSIENT

__all__ = ["Health", "Retry"]

# Tries of one request that times out, is cut off, or meets a server error; of one that meets nobody at all, where
# nobody ever answered.
_TRIES, _TRIES_OF_THE_DEAD = 6, 3
# Rows that fail in a row before the run is stopped: of an endpoint that never answered, and of one that did.
_FAILED_ROWS_FIRST, _FAILED_ROWS = 20, 100
_LONGEST_WAIT_S = 60.0
_LONGEST_WAIT_FOR_THE_DEAD_S = 2.0


@dataclass
class Health:
    """What is known of an endpoint in a run: when it last answered anything, and how many rows failed since.

    outage_s: seconds that an endpoint which answered before, and where now nobody listens, is waited for.
    chance: what pauses are spread by.
    """

    outage_s: float
    chance: random.Random = field(default_factory=random.Random)
    answered_at: float | None = None
    failed_rows: int = 0

    def answered(self, now: float) -> None:
        """A request was answered, if only with a refusal of its content."""
        self.answered_at, self.failed_rows = now, 0

    def is_useless(self) -> bool:
        """Whether row after row fails."""
        return self.failed_rows >= (_FAILED_ROWS_FIRST if self.answered_at is None else _FAILED_ROWS)


@dataclass
class Retry:
    """The tries of one request.

    pause_s: seconds before the second try, doubled before each further one.
    """

    health: Health
    pause_s: float
    tries: int = 0
    waits: int = 0
    missed: int = 0
    gone_at: float | None = None

    def wait(
        self, kind: str | None, *, now: float, asked_s: float | None = None, gone: bool = False, unsent: bool = False
    ) -> float | None:
        """The seconds until the next try; None when there is none.

        asked_s: the seconds that the endpoint asks for. gone: the server is not there: nobody listens (unsent), or a
        gateway says so in its place.
        """
        if kind == "rate_limited":
            self.waits += 1
            if asked_s is not None:
                return float(asked_s * self.health.chance.uniform(1.0, 1.1))
            return self._pause(self.waits, _LONGEST_WAIT_S)
        if kind not in TRANSIENT:
            return None
        self.gone_at = (now if self.gone_at is None else self.gone_at) if gone else None
        if unsent or self._is_outage(now):  # no fault of this request; `is_dead` says when that has lasted too long
            self.missed += 1
            return self._pause(self.missed, _LONGEST_WAIT_FOR_THE_DEAD_S)
        self.tries += 1
        return self._pause(self.tries, _LONGEST_WAIT_S) if self.tries < _TRIES else None

    def _is_outage(self, now: float) -> bool:
        """The endpoint answered before, and has answered nobody since this request found it gone."""
        answered_at = self.health.answered_at
        if answered_at is None or self.gone_at is None or answered_at > self.gone_at:
            return False
        return now - answered_at <= self.health.outage_s

    @property
    def is_again(self) -> bool:
        """Whether it was sent before."""
        return self.tries + self.waits + self.missed > 0

    def is_dead(self, *, now: float) -> bool:
        """Whether the run should stop, where nobody listens."""
        answered_at = self.health.answered_at
        if answered_at is None:
            return self.missed >= _TRIES_OF_THE_DEAD
        return now - answered_at > self.health.outage_s

    def _pause(self, count: int, longest_s: float) -> float:
        """Growing, with a random part so that not all come at once."""
        return float(min(longest_s, self.pause_s * 2 ** (min(count, 20) - 1)) * self.health.chance.uniform(0.5, 1.0))

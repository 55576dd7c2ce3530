"""How many requests may be in flight at once, found by trying."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

__all__ = ["FAILING", "MANY", "Level"]

_DOUBTFUL, FAILING = 0.2, 0.5  # shares of the last twenty or so: above them nothing grows, and there is a cut
# After a cut nothing grows before so many replies and seconds: a probe may cost a refusal and a pause.
_PROBE_REPLIES, _PROBE_S, _PROBE_PAUSES, _LATEST_PROBE_S = 50, 2.0, 20, 120.0
_FEW, _SOME = 4, 20  # replies between two refusals: so few speak of a rate, more speak of none
_NO_GAP_S, _LONGEST_GAP_S = 1e-3, 20.0
MANY = 0.25  # share of refusals among the last replies: fewer may be chance
# Of a trial: its replies, as many refusals as say nothing, and a share of them that is a jam (or a rate).
_TRIAL, _BY_CHANCE, _JAM, _ASKED_JAM = 60, 2, 0.65, 0.25
# So many times the usual share is tolerated; it is forgotten, and so asked anew, within some hundred replies.
_TOLERATED, _MOST_TOLERATED, _FORGOTTEN, _RARE = 3.0, 0.75, 0.998, 0.01


@dataclass(slots=True)
class Level:
    """One more for each reply (a round doubles it) until the first refusal. Then down to what was admitted: the number
    in flight less those that are refused, and not below half. Later it is probed higher: by one in the first round, and
    by twice as many in each further one that brings no refusal.

    Some endpoints refuse by chance, however few are in flight. So when cuts that follow each other have come to half of
    where they began, there is a trial: if still some are refused, but not most, then fewer in flight do not help, as a
    jam of up to twice of what is admitted would be gone. The level goes back up, and that share is the usual one, for
    which nothing is cut."""

    limit: float
    most: float
    fixed: bool
    gain: float = 1.0  # slots won with a reply
    stale: int = 0  # in flight since before the last cut: their refusals belong to it
    floor: float = 1.0
    failing: float = 0.0  # share of failures among the last replies
    patience: int = 0  # doubled twice while the probes fail
    last_cut_to: float = 0.0
    replies: int = 0  # since the last cut
    quiet_until: float = -math.inf
    gap_s: float = 0.0  # between two requests, where one alone in flight is refused: the limit is one of rate
    asked_s: float = 0.0  # the longest pause that the endpoint asked for lately: no gap need be longer
    admitted: int = 0  # since the last refusal
    recent: deque[bool] = field(default_factory=lambda: deque(maxlen=50))  # of the last replies, which were refusals
    usual: float = 0.0  # share of refusals that no cut has lowered
    before: float = 0.0  # the level at which the cuts began that follow each other
    tried: int = 0  # replies of the trial
    refused_in_trial: int = 0
    jam: float = _JAM  # share of these that no chance explains

    @property
    def share(self) -> float:
        """Of refusals among the last replies."""
        return sum(self.recent) / max(1, len(self.recent))

    def change(self, concurrency: int | None, most: float) -> None:
        self.fixed, self.most = concurrency is not None, most
        self.limit = concurrency or min(self.limit, most)
        self.before = min(self.before, most)
        if self.fixed:
            self.stale, self.quiet_until = 0, -math.inf
            self._end_trial()

    def answered(self, now: float, in_flight: int) -> None:
        self.recent.append(False)
        self.failing *= 0.95
        self.admitted += 1
        self.gap_s *= 0.99 if self.admitted <= 2 * _SOME else 0.8
        self.gap_s *= self.gap_s > _NO_GAP_S
        self.usual *= _FORGOTTEN
        if self.fixed or self.stale:
            return
        self.replies += 1
        if self._on_trial() or self.failing > _DOUBTFUL or in_flight < 0.9 * int(self.limit):
            return
        if now >= self.quiet_until and self.replies >= _PROBE_REPLIES * self.patience:
            self.limit = min(self.most, self.limit + self.gain)
            self.gain = min(1.0, self.gain * (1 + math.log(2) / self.limit))

    def refused(self, now: float, in_flight: int, asked_s: float) -> None:
        """asked_s: for which the endpoint asked that all wait, or 0."""
        self.recent.append(True)
        if in_flight == 1:
            self._too_soon(asked_s)
        self.admitted = 0
        if self.fixed:
            return
        if self.stale:
            self.limit = max(self.floor, self.limit - 1)
        elif self._on_trial():
            self.refused_in_trial += 1
            self.jam = _ASKED_JAM if asked_s else _JAM
        elif in_flight > 1 and self.share > min(_TOLERATED * self.usual, _MOST_TOLERATED):
            if not self.before or self.replies >= _PROBE_REPLIES:
                self.before = self.limit
            self.floor = max(1.0, self.limit // 2)
            self._cut(now, in_flight, max(self.floor, min(int(self.limit), in_flight) - 1), asked_s)

    def failed(self, now: float, in_flight: int) -> None:
        self.failing += 0.05 * (1 - self.failing)
        if self.failing > FAILING and not self.stale and not self.fixed:
            self._cut(now, in_flight, max(1.0, self.limit // 2), 0.0)

    def left(self, now: float) -> None:
        """One more has ended, in whatever way."""
        self.stale = max(0, self.stale - 1)
        if not self._on_trial():
            return
        self.tried += 1
        share = self.refused_in_trial / self.tried
        if self.tried >= _TRIAL or (self.tried >= _SOME and self.refused_in_trial >= _FEW):
            if self.refused_in_trial >= _BY_CHANCE and share <= self.jam:
                self.usual, self.limit, self.quiet_until, self.patience = share, self.before, now, 0
            self._end_trial()

    def _on_trial(self) -> bool:
        return not self.stale and 0 < self.limit <= self.before / 2

    def _end_trial(self) -> None:
        self.before, self.tried, self.refused_in_trial = 0.0, 0, 0

    def _too_soon(self, asked_s: float) -> None:
        """One alone was refused: not one too many, but too soon if few passed before."""
        self.asked_s = max(asked_s, 0.99 * self.asked_s)
        if 0 < self.admitted < _FEW and self.share >= MANY:
            self.gap_s += asked_s / self.admitted
        elif self.admitted < _SOME:
            self.gap_s *= 1.2
        self.gap_s = min(self.gap_s, 2 * self.asked_s, _LONGEST_GAP_S)

    def _cut(self, now: float, in_flight: int, to: float, asked_s: float) -> None:
        self.stale = in_flight
        is_failed_probe = self.patience and self.usual < _RARE and self.limit <= 1.25 * self.last_cut_to + 1
        self.patience = min(4, 2 * self.patience) if is_failed_probe else 1
        self.limit = self.last_cut_to = to
        self.gain, self.replies = 1 / to, 0
        self.quiet_until = now + max(_PROBE_S * self.patience, min(_PROBE_PAUSES * asked_s, _LATEST_PROBE_S))

"""How many requests may be in flight at one endpoint and model, how many per minute, and when none at all."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import math
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from agora_frames.backends.headers import asked_s, seconds
from agora_frames.backends.level import FAILING, MANY, Level
from agora_frames.errors import BindError

__all__ = ["Limits", "Status", "limits_of", "status_of"]

_START = 8
# What fails in these ways says something about the server, and nothing about how much it takes.
_FAILURES = {"server_error", "timeout", "connection"}
_FIRST_PAUSE_S, _LONGEST_PAUSE_S, _RAMP_S = 0.05, 60.0, 1.0
_NEARLY_ALL = 0.9  # share of refusals among the last replies
_MANY_FIXED = 0.4  # as MANY, where no trial tells whether they are chance
_LONG_S, _TOLD_AGAIN_S = 10.0, 60.0  # a longer pause is told, and told again
_NOW_S = 1e-6  # sooner is now: a timer for less would only spin
# Rates are aimed at a little below what is allowed, as requests do not arrive in the rhythm in which they are sent.
_AIM, _WINDOW_S = 0.99, 60.0

_LEFT_HEADERS = (
    ("x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"),
    ("x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"),
    ("anthropic-ratelimit-requests-remaining", "anthropic-ratelimit-requests-reset"),
    ("anthropic-ratelimit-tokens-remaining", "anthropic-ratelimit-tokens-reset"),
    ("ratelimit-remaining", "ratelimit-reset"),
)
_WHY = ("", None, "rate limited", *("requests per minute", "tokens per minute") * 2)

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Status:
    """What a progress bar shows."""

    limit: int
    in_flight: int
    held: str | None


@dataclass(slots=True, eq=False)
class _Waiter:
    future: asyncio.Future[None]
    thread: int
    tokens: int
    entered: bool = False


@dataclass(slots=True)
class _Left:
    """What the endpoint says is left until a reset. All in flight is set against it, though some is counted already:
    that is careful, and where it refills all the time, the number in flight finds its balance without a refusal."""

    count: float = math.inf
    until: float = -math.inf

    def wait_s(self, now: float, in_use: float, need: float) -> float:
        return self.until - now if now < self.until and in_use + need > self.count else 0.0


class _Budget:
    """A rate per minute as a bucket: when full, with what flows in within 60 s, it holds the rate, so that no window
    of 60 s has more. What is larger than the bucket passes when that is full, and leaves a debt."""

    def __init__(self, per_minute: float, burst_s: float, least: float, now: float) -> None:
        self.size = max(least, per_minute / _WINDOW_S * burst_s)
        self.per_s = _AIM * (per_minute - self.size + least) / _WINDOW_S
        self.level, self.at = self.size, now

    def wait_s(self, now: float, cost: float) -> float:
        if self.level < self.size:
            self.level = min(self.size, self.level + (now - self.at) * self.per_s)
        self.at = now
        return (min(cost, self.size) - self.level) / self.per_s


class Limits:
    """Who may send now. Each `enter` is followed by one `leave`, from any thread; who waits is served in order.
    concurrency: so many in flight, always; None finds the number, up to `most`. rpm, tpm: requests and tokens per
    minute. clock: seconds, as they pass. chance: for the random parts of pauses."""

    def __init__(
        self,
        *,
        concurrency: int | None = None,
        rpm: float | None = None,
        tpm: float | None = None,
        most: int = 512,
        clock: Callable[[], float] = time.monotonic,
        chance: random.Random | None = None,
    ) -> None:
        _check(concurrency, rpm, tpm, most)
        self._clock, self._chance = clock, chance or random.Random()
        self._lock = threading.Lock()
        self._waiters: deque[_Waiter] = deque()
        self._in_flight, self._reserved = 0, 0.0  # requests, and tokens of these
        self._level = Level(concurrency or min(_START, most), most, fixed=concurrency is not None)
        # One second of requests, and two of tokens, as these come in larger pieces.
        self._rates = rpm, tpm
        self._rpm = _Budget(rpm, 1.0, 1.0, clock()) if rpm else None
        self._tpm = _Budget(tpm, 2.0, 0.0, clock()) if tpm else None
        self._requests_left, self._tokens_left = _Left(), _Left()
        self._sent_at = self._resume = -math.inf
        self._ramp_s, self._why = 0.0, ""
        self._resumed, self._doublings = 0, 0.0  # let in since the last pause; how often the next one is doubled
        self._told_at = -math.inf
        self._timer: tuple[asyncio.TimerHandle, asyncio.AbstractEventLoop, float] | None = None

    def change(self, *, concurrency: int | None, rpm: float | None, tpm: float | None, most: int) -> None:
        """Other settings from now on. More than a lower number stay in flight until they leave; who sets no number any
        more goes on from the present one."""
        _check(concurrency, rpm, tpm, most)
        with self._lock:
            now = self._clock()
            self._level.change(concurrency, most)
            if rpm != self._rates[0]:
                self._rpm = _renewed(self._rpm, _Budget(rpm, 1.0, 1.0, now) if rpm else None)
            if tpm != self._rates[1]:
                self._tpm = _renewed(self._tpm, _Budget(tpm, 2.0, 0.0, now) if tpm else None)
            self._rates = rpm, tpm
            self._serve(now)

    async def enter(self, tokens: int = 0, *, again: bool = False) -> None:
        """Returns when one more request, of about that many tokens, may be sent.

        again: it was sent before, and goes before those that were not: what is begun is ended first.
        """
        with self._lock:
            now = self._clock()
            if not self._waiters and not self._admit(now, tokens):
                self._count(1, tokens)
                self._sent_at = now
                return
            waiter = _Waiter(asyncio.get_running_loop().create_future(), threading.get_ident(), tokens)
            self._waiters.appendleft(waiter) if again else self._waiters.append(waiter)
            self._serve(now)
        try:
            await waiter.future
        except asyncio.CancelledError:
            with self._lock:
                if waiter.entered:
                    self._count(-1, tokens)
                self._serve(self._clock())
            raise

    def leave(self, kind: str | None, *, headers: Mapping[str, str] | None = None, tokens: int | None = None) -> None:
        """A request that entered has ended: answered (None), or failed in this kind. headers: of the response, with
        lower-case names. tokens: what it used, where that is known."""
        with self._lock:
            if not self._in_flight:
                raise RuntimeError("leave() was called more often than enter() has returned: call it once for each.")
            now = self._clock()
            share = self._reserved / self._in_flight  # of whichever it was: these means sum up to the whole
            self._reserved -= share
            if self._tpm and tokens is not None:
                self._tpm.level += share - tokens
            if headers:
                self._heed(now, headers)
            self._learn(now, kind, asked_s(headers) if headers and kind else None)
            self._in_flight -= 1
            self._serve(now)

    def status(self) -> Status:
        with self._lock:
            limit, held = int(self._level.limit), None
            tokens = next((waiter.tokens for waiter in self._waiters if not waiter.future.done()), 0)
            waits_s = self._waits_s(self._clock(), tokens)
            if waits_s[0] > 0:
                held = f"{self._why}, waits {_in_words(waits_s[0])}"
            elif self._level.failing > FAILING:
                held = "the server is failing"
            elif self._in_flight < limit and max(waits_s) > _NOW_S:
                held = _WHY[waits_s.index(max(waits_s))]
            return Status(limit, self._in_flight, held)

    def _admit(self, now: float, tokens: int) -> float:
        """0.0 if one more may be sent now, else the seconds until it may; inf if another one must leave first."""
        if self._in_flight >= int(self._level.limit):
            return math.inf
        wait_s = max(self._waits_s(now, tokens))
        return wait_s if wait_s > _NOW_S else 0.0

    def _waits_s(self, now: float, tokens: int) -> tuple[float, ...]:
        since_s = now - self._resume
        return (
            -since_s,  # in the order of _WHY
            # After a pause not all come in the same instant, but evenly within the ramp.
            self._resumed * self._ramp_s / self._level.limit - since_s if since_s < self._ramp_s else 0.0,
            self._sent_at + self._level.gap_s - now,
            self._rpm.wait_s(now, 1) if self._rpm else 0.0,
            self._tpm.wait_s(now, tokens) if self._tpm else 0.0,
            self._requests_left.wait_s(now, self._in_flight, 1),
            self._tokens_left.wait_s(now, self._reserved, tokens or 1),
        )

    def _count(self, sign: int, tokens: int) -> None:
        """One more in flight, or (-1) one less, which was not sent."""
        self._in_flight += sign
        self._resumed += sign
        self._reserved += sign * tokens
        if self._rpm:
            self._rpm.level -= sign
        if self._tpm:
            self._tpm.level -= sign * tokens

    def _learn(self, now: float, kind: str | None, wait_s: float | None) -> None:
        level = self._level
        if kind is None:
            self._doublings /= 2
            level.answered(now, self._in_flight)
        elif kind == "rate_limited":
            too_soon = wait_s and self._in_flight == 1 and level.gap_s > 0
            level.refused(now, self._in_flight, wait_s or 0.0)
            # A few among many replies: their own requests wait, the others need not.
            many = _MANY_FIXED if level.fixed and not wait_s else MANY
            if too_soon or level.share >= max(many, min(3 * level.usual, 0.9)):
                self._hold(now, wait_s or self._own_pause_s(now), "rate limited")
        elif kind in _FAILURES:
            level.failed(now, self._in_flight)
            if wait_s and kind == "server_error":
                self._hold(now, wait_s, "the server is failing")
        level.left(now)

    def _own_pause_s(self, now: float) -> float:
        if now < self._resume - _NOW_S:
            return 0.0  # it is one of those for which the pause began
        # Long pauses are for an endpoint that refuses nearly all: else a few by chance in a row would stop everything.
        longest_s = _LONGEST_PAUSE_S if self._level.share > _NEARLY_ALL else _RAMP_S
        pause_s = min(_FIRST_PAUSE_S * 2**self._doublings, longest_s) * self._chance.uniform(0.75, 1.25)
        self._doublings = min(self._doublings + 1, 11.0)
        return pause_s

    def _heed(self, now: float, headers: Mapping[str, str]) -> None:
        """Learns what the endpoint says is left, and holds when that is less than the next request needs."""
        for remaining, reset in _LEFT_HEADERS:
            count, reset_s = seconds(headers.get(remaining)), seconds(headers.get(reset), headers.get("date"))
            if count is None or reset_s is None:
                continue
            of_tokens = "tokens" in remaining
            left = self._tokens_left if of_tokens else self._requests_left
            left.count, left.until = count, now + reset_s
            if count < max(1, self._waiters[0].tokens if of_tokens and self._waiters else 1):
                self._hold(now, reset_s, "tokens per minute" if of_tokens else "requests per minute")

    def _hold(self, now: float, pause_s: float, why: str) -> None:
        pause_s *= 1 + 0.1 * self._chance.random()  # so that not all clients come back at once
        if now + pause_s > self._resume:
            self._resume, self._resumed, self._ramp_s, self._why = now + pause_s, 0, min(pause_s, _RAMP_S), why

    def _serve(self, now: float) -> None:
        """Lets in who is next, as long as there is room, and sets a timer for one who must wait for a time."""
        while self._waiters:
            waiter = self._waiters[0]
            if waiter.future.cancelled() or waiter.future.get_loop().is_closed():
                self._waiters.popleft()
                continue
            if wait_s := self._admit(now, waiter.tokens):
                self._set_timer(waiter, now, min(wait_s, self._tell(now, waiter.future.get_loop())))
                return
            self._waiters.popleft()
            self._count(1, waiter.tokens)
            self._sent_at, waiter.entered = now, True
            try:
                if waiter.thread == threading.get_ident():
                    waiter.future.set_result(None)
                else:
                    waiter.future.get_loop().call_soon_threadsafe(_wake, waiter.future)
            except RuntimeError:  # its loop was closed meanwhile
                self._count(-1, waiter.tokens)

    def _tell(self, now: float, loop: asyncio.AbstractEventLoop) -> float:
        """Says that all wait for long, at most once a minute; gives the seconds until it is to be said again."""
        if self._resume - now <= _LONG_S:
            return math.inf
        if now - self._told_at >= _TOLD_AGAIN_S - _NOW_S:
            self._told_at = now
            words = self._why, _in_words(self._resume - now)
            with contextlib.suppress(RuntimeError):  # its loop was closed meanwhile
                # Not under the lock, as whoever shows what is logged may ask for the status.
                loop.call_soon_threadsafe(_log.warning, "All requests are held: %s, waits %s.", *words)
        return self._told_at + _TOLD_AGAIN_S - now

    def _set_timer(self, waiter: _Waiter, now: float, wait_s: float) -> None:
        """On the loop of who is next: others may be closed before it is due."""
        loop = waiter.future.get_loop()
        timer = self._timer if self._timer and self._timer[1] is loop else None  # (its handle, its loop, when)
        if wait_s == math.inf or (timer and timer[2] <= now + wait_s + 1e-3):
            return
        if waiter.thread != threading.get_ident():
            with contextlib.suppress(RuntimeError):  # closed meanwhile: the next to enter or leave finds it so
                loop.call_soon_threadsafe(self._tick)
        else:
            if timer:
                timer[0].cancel()
            self._timer = (loop.call_later(wait_s, self._tick), loop, now + wait_s)

    def _tick(self) -> None:
        with self._lock:
            if self._timer and self._timer[1] is asyncio.get_running_loop():
                self._timer[0].cancel()
                self._timer = None
            self._serve(self._clock())


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():  # cancelled while the word was on its way
        future.set_result(None)


def _check(concurrency: int | None, rpm: float | None, tpm: float | None, most: int) -> None:
    if any(value is not None and not 0 < value < math.inf for value in (concurrency, rpm, tpm, most)):
        said = f"concurrency={concurrency!r}, rpm={rpm!r}, tpm={tpm!r}, most={most!r}"
        raise BindError(f"Limits({said}): each must be a number above 0, or None where you set no limit.")


def _renewed(old: _Budget | None, new: _Budget | None) -> _Budget | None:
    """The new rate, with what is spent or owed already."""
    if old and new:
        new.level = min(old.level, new.size)
    return new


def _in_words(wait_s: float) -> str:
    if wait_s < 120:
        return f"{math.ceil(wait_s)} s"
    return f"{round(wait_s / 60)} min" if wait_s < 7200 else f"{round(wait_s / 3600)} h"


# The one piece of process-wide state: a limit belongs to the endpoint, and not to the objects or the threads that ask
# it. Without the lock, two threads that ask at once would get two.
_made = functools.cache(lambda _endpoint, _model: Limits())
_ONE_AT_A_TIME = threading.Lock()


def limits_of(
    endpoint: str,
    model: str,
    *,
    concurrency: int | None = None,
    rpm: float | None = None,
    tpm: float | None = None,
    most: int = 512,
) -> Limits:
    """The limits of that model at that endpoint: one object for all threads, with the settings that came last."""
    with _ONE_AT_A_TIME:
        limits = _made(endpoint, model)
        limits.change(concurrency=concurrency, rpm=rpm, tpm=tpm, most=most)
        return limits


def status_of(endpoint: str, model: str) -> Status:
    """What goes on there, whoever asks; nothing is changed."""
    with _ONE_AT_A_TIME:
        return _made(endpoint, model).status()

"""Requests on their way to one endpoint: a sliding window of workers, each reply recorded as it comes."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

from agora_frames.backends.answers import TRANSIENT, raise_if_fatal, read_answer
from agora_frames.backends.chat import Put, Stop, failed, over_budget
from agora_frames.backends.headers import asked_s
from agora_frames.backends.limits import Limits
from agora_frames.backends.retry import Health, Retry
from agora_frames.backends.transport import Answer, Post, Unanswered
from agora_frames.budget import most_tokens
from agora_frames.errors import EndpointError
from agora_frames.prices import Prices
from agora_frames.types import Desk

__all__ = ["Asking", "ask_all"]

_log = logging.getLogger(__name__)

T = TypeVar("T")
# key, messages, sampling: the last two JSON.
Request: TypeAlias = tuple[str, str, str]

_LOOKS_UP_EVERY_S = 0.1
_WAITS_FOR_BUDGET_S = 0.1
# What a gateway says when the server behind it is gone, or not there yet.
_GATEWAY = {502, 503, 504, 521, 522, 523}


@dataclass(frozen=True)
class Asking:
    """What all requests have in common.

    body_of: the body of a request, and its limit of completion tokens. hidden: the API key, cut out of every message.
    """

    endpoint: str
    model: str
    variable: str
    hidden: str
    prices: Prices | None
    limits: Limits
    desk: Desk
    pause_s: float
    health: Health
    body_of: Callable[[str, str], tuple[bytes, int | None]]
    connected: Callable[[], AbstractAsyncContextManager[Post]]


async def ask_all(asking: Asking, rows: Iterator[Request], *, workers: int, put: Put, stop: Stop) -> None:
    """Asks every row, as many at once as the limits let; rows are taken as workers become free.

    When `stop` is set, what waits is given up, and what is in flight is waited for and recorded.
    Raises what concerns all requests, after the same.
    """
    async with asking.connected() as post:
        window = _Window(asking, rows, post, put)
        tasks = [asyncio.create_task(window.work()) for _ in range(workers)]
        watch = asyncio.create_task(window.watch(stop))
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        window.halt()
        error = next((e for task in done if not task.cancelled() and (e := task.exception())), None)
        if error is not None and window.in_flight:
            _log.warning("the run stops (%s): waiting for %d replies in flight", error, window.in_flight)
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        watch.cancel()
    if error := error or next((e for e in ended if e and not isinstance(e, asyncio.CancelledError)), None):
        raise error


@dataclass
class _Window:
    asking: Asking
    rows: Iterator[Request]
    post: Post
    put: Put
    halted: bool = False
    in_flight: int = 0
    waiting: set[asyncio.Task[Any]] = field(default_factory=set)

    def halt(self) -> None:
        """Nothing more is sent; who waits to send is sent home."""
        self.halted = True
        for task in self.waiting:
            task.cancel()

    async def watch(self, stop: Stop) -> None:
        while not stop.is_set():
            await asyncio.sleep(_LOOKS_UP_EVERY_S)
        self.halt()

    async def work(self) -> None:
        for key, messages, sampling in self.rows:
            if self.halted:
                return
            await self._ask(key, messages, sampling)

    async def _ask(self, key: str, messages: str, sampling: str) -> None:
        """One request, until it is answered, fails for good, or is not worth its cost."""
        asking, retry = self.asking, Retry(self.asking.health, self.asking.pause_s)
        body, most = asking.body_of(messages, sampling)
        asked, total = most_tokens(messages, most, sampling=sampling)
        cost = asking.prices.at_most(asked, most) if asking.prices is not None else None
        while True:
            if not await self._waits(self._reserved(key, total, cost)):
                self.put(over_budget(key))
                await asyncio.sleep(0)  # else thousands of such rows in a row would hold up what is in flight
                return
            try:
                await self._waits(asking.limits.enter(asked // 4 + (most or 0), again=retry.is_again))
            except asyncio.CancelledError:
                asking.desk.release(key)
                raise
            self.in_flight += 1
            attempt = await self._try(key, body)
            self.in_flight -= 1
            wait_s = self._settled(*attempt, retry)
            if wait_s is None:
                return
            await self._waits(asyncio.sleep(wait_s))

    async def _waits(self, what: Coroutine[Any, Any, T]) -> T:
        """Waits for leave to send; only there may a halt cancel a worker, so that nothing in flight is lost."""
        if self.halted:
            what.close()
            raise asyncio.CancelledError
        task = asyncio.current_task()
        assert task is not None
        self.waiting.add(task)
        try:
            return await what
        finally:
            self.waiting.discard(task)

    async def _reserved(self, key: str, tokens: int | None, cost_usd: float | None) -> bool:
        while True:
            leave = self.asking.desk.reserve(key, tokens=tokens, cost_usd=cost_usd)
            if leave is not False:
                return leave is True
            await asyncio.sleep(_WAITS_FOR_BUDGET_S)

    async def _try(self, key: str, body: bytes) -> tuple[dict[str, Any], Answer | None, bool]:
        """The reply to one attempt, the answer that it was read from, and whether nothing was sent at all."""
        asking, begun = self.asking, time.perf_counter()
        answer, unsent = None, False
        try:
            answer = await self.post(body)
            latency_s = time.perf_counter() - begun
            reply = read_answer(key, answer, latency_s=latency_s, prices=asking.prices, hidden=asking.hidden)
            return reply, answer, False
        except Unanswered as exc:
            kind, message, unsent = exc.kind, str(exc), exc.unsent
        except Exception as exc:  # of a client of the user's, or a body that nobody foresaw: one row's failure
            kind, message = "connection" if answer is None else "bad_reply", f"{type(exc).__name__}: {exc}"
        if asking.hidden:
            message = message.replace(asking.hidden, "[the API key]")
        reply = failed(key, kind, message, latency_s=time.perf_counter() - begun)
        if unsent and asking.prices is not None:
            free = {"prompt_tokens": 0, "completion_tokens": 0, "cost_usd": 0.0}
            reply |= {**free, "priced_by": asking.prices.source}
        return reply, answer, unsent

    def _settled(self, reply: dict[str, Any], answer: Answer | None, unsent: bool, retry: Retry) -> float | None:
        """Records an attempt, and only then lets the next be sent; gives the seconds until the next try, or None."""
        kind = reply["error"]["kind"] if "error" in reply else None
        headers = None if answer is None else answer.headers
        try:
            try:
                wait_s = self._next(reply, kind, answer, unsent, retry)
                reply["retried"] = wait_s is not None
            finally:
                self.asking.desk.record(reply)
            self.put(reply)
            return wait_s
        except BaseException:
            self.halt()
            raise
        finally:
            used = (reply.get("prompt_tokens") or 0) + (reply.get("completion_tokens") or 0)
            unused = 0 if kind == "rate_limited" else None
            self.asking.limits.leave(kind, headers=headers, tokens=used or unused)

    def _next(
        self, reply: dict[str, Any], kind: str | None, answer: Answer | None, unsent: bool, retry: Retry
    ) -> float | None:
        """Seconds until the next try of this request, or None. Raises what concerns all."""
        asking, now = self.asking, time.monotonic()
        if answer is not None and kind not in TRANSIENT and kind != "rate_limited":
            asking.health.answered(now)
        if kind is None:
            return None
        if answer is not None and answer.status != 200:
            whose = {"endpoint": asking.endpoint, "model": asking.model, "variable": asking.variable}
            raise_if_fatal(answer, **whose, hidden=asking.hidden)
        gone = unsent or (answer is not None and answer.status in _GATEWAY)
        asked = asked_s(answer.headers) if answer is not None else None
        wait_s = retry.wait(kind, now=now, asked_s=asked, gone=gone, unsent=unsent)
        if wait_s is None and kind in TRANSIENT:
            asking.health.failed_rows += 1
        if (unsent and retry.is_dead(now=now)) or asking.health.is_useless():
            what = "nobody answers at" if unsent else "nothing but failures come from"
            raise EndpointError(
                f"{what} {asking.endpoint} ({reply['error']['message']}). Is the server running, the address right, "
                "and the request one that it takes? Nothing that was answered is lost: run again when it is."
            )
        return wait_s

"""An OpenAI-shaped chat completion as one reply, and replies as a stream of frames."""

from __future__ import annotations

import contextlib
import itertools
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, InvalidStateError
from typing import Any, TypeAlias

import polars as pl

from agora_frames.frames import REPLIES

__all__ = ["Put", "Reply", "failed", "frame_of", "read_completion", "streamed"]

_log = logging.getLogger(__name__)

# One row of `frames.REPLIES`; what is left out is null.
Reply: TypeAlias = dict[str, Any]
# Hands a reply on; the future is done when it was passed on.
Put: TypeAlias = Callable[[Reply], "Future[None]"]
_Arrived: TypeAlias = tuple["Reply | BaseException | None", "Future[None]"]

# Polars' signal handler restarts a wait that Ctrl-C should end (pola-rs/polars#21739): waits are kept short.
_LOOKS_UP_EVERY_S = 0.1

_FINISHED_BADLY = {
    "length": ("truncated", "the reply reached max_tokens or the end of the context"),
    "content_filter": ("content_filtered", "the endpoint's content filter stopped the reply"),
}


def failed(key: str, kind: str, message: str, **fields: Any) -> Reply:
    """A reply that is no answer: what went wrong, of which kind."""
    return {"key": key, "error": {"kind": kind, "message": message}, **fields}


def read_completion(
    key: str, body: Mapping[str, Any], *, latency_s: float, prices: tuple[float, float] | None
) -> Reply:
    """A reply from the body of a chat completion.

    latency_s: seconds. prices: US dollars per million prompt and completion tokens; the cost is null without them.
    A body without a choice is a `bad_reply`.
    """
    usage = _mapping(body.get("usage"))
    asked, written = (_count(usage.get(name)) for name in ("prompt_tokens", "completion_tokens"))
    reply: Reply = {
        "key": key,
        "prompt_tokens": asked,
        "completion_tokens": written,
        "cost_usd": _cost(asked, written, prices),
        "latency_s": latency_s,
    }
    choices = body.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        return {**reply, **failed(key, "bad_reply", "the body holds no choice")}
    message = _mapping(choices[0].get("message"))
    finish = _text(choices[0].get("finish_reason"))
    reply |= {
        "text": _text(message.get("content")),
        "reasoning": _text(message.get("reasoning_content")) or _text(message.get("reasoning")),
        "finish_reason": finish,
    }
    if refusal := _text(message.get("refusal")):
        return {**reply, **failed(key, "refused", refusal)}
    if finish in _FINISHED_BADLY:
        return {**reply, **failed(key, *_FINISHED_BADLY[finish])}
    if reply["text"] is None:
        return {**reply, **failed(key, "bad_reply", f"the reply has no text (finish_reason {finish!r})")}
    return reply


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _count(value: object) -> int | None:
    return value if isinstance(value, int) else None


def _text(value: object) -> str | None:
    """A text as it is; of a list of parts, as some servers send it, the text parts joined."""
    if isinstance(value, list):
        parts = [_text(part.get("text")) for part in value if isinstance(part, dict) and part.get("type") == "text"]
        return "".join(filter(None, parts)) or None
    return value if isinstance(value, str) else None


def _cost(asked: int | None, written: int | None, prices: tuple[float, float] | None) -> float | None:
    if prices is None or asked is None or written is None:
        return None
    return (asked * prices[0] + written * prices[1]) / 1_000_000


def frame_of(replies: list[Reply]) -> pl.DataFrame:
    """Replies as a frame of `frames.REPLIES`."""
    whole = [{**reply, "retried": bool(reply.get("retried"))} for reply in replies]
    rows = [tuple(reply.get(name) for name in REPLIES) for reply in whole]
    try:
        return pl.DataFrame(rows, schema=REPLIES, orient="row")
    except UnicodeEncodeError:
        return pl.DataFrame([_paired(row) for row in rows], schema=REPLIES, orient="row")


def _paired(value: Any) -> Any:
    """The same with � for each half of a surrogate pair, which a model cut short can leave, and no file can hold."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, dict):
        return {name: _paired(inner) for name, inner in value.items()}
    return tuple(map(_paired, value)) if isinstance(value, tuple) else value


def streamed(work: Callable[[Put, threading.Event], None]) -> Iterator[pl.DataFrame]:
    """Runs `work(put, stop)` on a thread of its own, and yields what it puts as soon as it is put.

    `put` gives a future that is done when the reply was passed on, and so recorded: `work` should wait for it before it
    begins something new in that place, so that never more than what is in flight can be lost.
    When `stop` is set, because of Ctrl-C or because nobody reads any more, `work` should start nothing new and
    return when what it has begun is done. After one Ctrl-C those last replies are still yielded (they are paid for)
    before KeyboardInterrupt is raised; a second one raises it at once. Throwing KeyboardInterrupt into the generator
    does the same. What `work` raises is raised here.
    """
    arrived: list[_Arrived] = []
    woken, stop = threading.Event(), threading.Event()

    def put(item: Reply | BaseException | None) -> Future[None]:
        passed: Future[None] = Future()
        arrived.append((item, passed))
        woken.set()
        if stop.is_set():
            _done(passed)
        return passed

    def run() -> None:
        try:
            work(put, stop)
        except BaseException as exc:
            put(exc)
        else:
            put(None)

    thread = threading.Thread(target=run, name="agora-backend", daemon=True)
    try:
        thread.start()
        yield from _frames(arrived, woken)
    except KeyboardInterrupt:
        # One Ctrl-C in the midst of Polars is raised by Polars, and again by Python (pola-rs/polars#23988).
        try:  # noqa: SIM105 - `suppress` would be interrupted before it begins
            time.sleep(0)
        except KeyboardInterrupt:
            pass
        stop.set()
        if thread.is_alive() or arrived:
            _log.warning("interrupted: waiting for the replies in flight, which are kept (Ctrl-C again: stop now)")
            with contextlib.suppress(Exception):
                yield from _frames(arrived, woken)
        raise
    finally:
        stop.set()
        for _, passed in arrived:
            _done(passed)


def _frames(arrived: list[_Arrived], woken: threading.Event) -> Iterator[pl.DataFrame]:
    """Waits for one, takes with it all that is there already, until the end.

    What is being made into a frame stays in `arrived` until the frame is made: an interruption loses nothing.
    """
    while True:
        while not arrived:
            if sys.is_finalizing():  # a stream that nobody read to its end: its thread works no more
                return
            woken.wait(_LOOKS_UP_EVERY_S)
            woken.clear()
        if replies := [item for item, _ in itertools.takewhile(lambda one: isinstance(one[0], dict), arrived)]:
            frame, passing = frame_of(replies), arrived[: len(replies)]  # type: ignore[arg-type]
            del arrived[: len(replies)]
            try:
                yield frame
            finally:
                for _, passed in passing:
                    _done(passed)
        elif isinstance(end := arrived[0][0], BaseException):
            raise end
        else:
            return


def _done(passed: Future[None]) -> None:
    with contextlib.suppress(InvalidStateError):
        passed.set_result(None)

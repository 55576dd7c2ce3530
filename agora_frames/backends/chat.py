"""An OpenAI-shaped chat completion as one reply, and replies as a stream of frames."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias, cast

import orjson
import polars as pl

from agora_frames.frames import REPLIES, paired
from agora_frames.prices import Prices, prices_of
from agora_frames.types import Reply

__all__ = [
    "FREE",
    "GATHERED_S",
    "NO_DESK",
    "Put",
    "Stop",
    "failed",
    "frame_of",
    "over_budget",
    "read_completion",
    "rows_of",
    "streamed",
]

_log = logging.getLogger(__name__)

# Hands on a reply that is recorded.
Put: TypeAlias = Callable[[Reply], None]

# Replies are gathered for so long, since a frame costs as much as many replies.
GATHERED_S = 0.05
_ROWS_AT_ONCE = 500
_LOOKS_UP_EVERY_S = 0.005
# Two interruptions within so long are one.
_SAME_PRESS_S = 0.4

# What servers call an end that is none, and what it is here.
_CUT = ("truncated", "the reply reached max_tokens or the end of the context")
_BROKEN = ("server_error", "the endpoint gave up in the middle of the reply")
_FINISHED_BADLY = {
    "length": _CUT,
    "max_tokens": _CUT,
    "model_length": _CUT,
    "content_filter": ("content_filtered", "the endpoint's content filter stopped the reply"),
    "error": _BROKEN,
    "abort": _BROKEN,
    "aborted": _BROKEN,
    "cancelled": _BROKEN,
}


def failed(key: str, kind: str, message: str, **fields: Any) -> dict[str, Any]:
    """A reply that is no answer: what went wrong, of which kind."""
    return {"key": key, "error": {"kind": kind, "message": message}, **fields}


def over_budget(key: str) -> dict[str, Any]:
    """What becomes of a request that a ceiling does not let through."""
    return failed(key, "over_budget", "not asked: it could have cost or taken more than what is left of the budget")


def read_completion(
    key: str, body: Mapping[str, Any], *, latency_s: float | None, prices: Prices | None
) -> dict[str, Any]:
    """A reply from the body of a chat completion.

    latency_s: seconds; None where nobody knows. The cost is null without prices, or where the endpoint does not tell
    the usage. A body without a choice is a `bad_reply`; a reply of tool calls alone has no text, and is none.
    """
    reply = {"key": key, "latency_s": latency_s, **_used(_mapping(body.get("usage")), prices)}
    reply["served_model"] = _text(body.get("model"))
    choices = body.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        return reply | failed(key, "bad_reply", "the body holds no choice")
    choice, message = choices[0], _mapping(choices[0].get("message"))
    reply["text"], reply["finish_reason"] = _text(message.get("content")), _text(choice.get("finish_reason"))
    reply["reasoning"] = _text(message.get("reasoning_content")) or _text(message.get("reasoning"))
    if calls := _mappings(message.get("tool_calls")):
        reply["tool_calls"] = [_tool_call(call) for call in calls]
    if tokens := _mappings(_mapping(choice.get("logprobs")).get("content")):
        reply["logprobs"] = [
            {**_token(each), "top": [_token(other) for other in _mappings(each.get("top_logprobs"))]} for each in tokens
        ]
    if isinstance(prompt := body.get("prompt_logprobs"), list):  # of vLLM's server, and its engine
        reply["prompt_logprobs"] = [_prompt_token(_mapping(each)) for each in prompt]
    if refusal := _text(message.get("refusal")):
        return reply | failed(key, "refused", refusal)
    unfinished = reply["finish_reason"] is None
    if broken := _mapping(choice.get("error")) or (unfinished and _mapping(body.get("error"))):
        return reply | failed(key, "server_error", _text(broken.get("message")) or str(dict(broken)))
    if bad := _FINISHED_BADLY.get((reply["finish_reason"] or "").lower()):
        return reply | failed(key, *bad)
    if reply["text"] is None and "tool_calls" not in reply:
        # Such as a model that thought, and then said nothing: paid for, and the same when it is asked again.
        kind = "empty" if "content" in message and message["content"] is None else "bad_reply"
        return reply | failed(key, kind, f"the reply has no text (finish_reason {reply['finish_reason']!r})")
    return reply


def _used(usage: Mapping[str, Any], prices: Prices | None) -> dict[str, Any]:
    """Tokens and cost."""
    asked, written = _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens"))
    cached = _count(_mapping(usage.get("prompt_tokens_details")).get("cached_tokens"))
    used: dict[str, Any] = {"prompt_tokens": asked, "completion_tokens": written, "cached_tokens": cached}
    if prices is not None:
        used |= {"cost_usd": prices.cost(asked, written, cached), "priced_by": prices.source}
    return used


def _tool_call(call: Mapping[str, Any]) -> dict[str, Any]:
    """Its arguments are the JSON text that the model wrote, or that of the object that some servers make of it."""
    function = _mapping(call.get("function"))
    said = {"id": call.get("id"), "name": function.get("name"), "arguments": function.get("arguments")}
    return {
        name: value if isinstance(value, str | None) else orjson.dumps(value).decode() for name, value in said.items()
    }


def _token(each: Mapping[str, Any]) -> dict[str, Any]:
    logprob: Any = each.get("logprob")
    return {"token": _text(each.get("token")), "logprob": float(logprob) if type(logprob) in (int, float) else None}


def _prompt_token(likely: Mapping[str, Any]) -> dict[str, Any]:
    """By the number of each token: the prompt's own first, then the likeliest in its place; none for the first."""
    own, *others = [
        _token({**_mapping(each), "token": _mapping(each).get("decoded_token")}) for each in likely.values()
    ] or [_token({})]
    return {**own, "top": others}


def _mappings(value: object) -> list[Mapping[str, Any]]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _count(value: object) -> int | None:
    return value if type(value) is int and 0 <= value < 2**63 else None


def _text(value: object) -> str | None:
    """A text as it is; of a list of parts, as some servers send it, the text parts joined."""
    if isinstance(value, list):
        parts = [_text(part.get("text")) for part in value if isinstance(part, dict) and part.get("type") == "text"]
        return "".join(filter(None, parts)) or None
    return value if isinstance(value, str) else None


def frame_of(replies: list[Reply]) -> pl.DataFrame:
    """Replies as a frame of `frames.REPLIES`."""
    rows = [tuple(map(reply.get, REPLIES)) for reply in replies]
    try:
        frame = pl.DataFrame(rows, schema=REPLIES, orient="row")
    except UnicodeEncodeError:
        frame = pl.DataFrame(paired(rows), schema=REPLIES, orient="row")
    return frame.with_columns(pl.col("retried").fill_null(False))


def rows_of(requests: pl.DataFrame) -> Iterator[tuple[str, str, str]]:
    """Key, messages and sampling of each request, a few at a time: the texts of all are not there twice.

    What has been given is let go. Where the caller holds the frame no more, each of its chunks is free when its last
    request has been given; a frame of requests has one for each thousand.
    """
    parts = list(requests.select("key", "messages", "sampling").iter_slices(_ROWS_AT_ONCE))
    parts.reverse()
    del requests
    while parts:
        yield from parts.pop().iter_rows()


class _NoDesk:
    """Everything may be sent, and nothing is recorded."""

    def reserve(self, key: str, *, tokens: int | None, cost_usd: float | None) -> bool:
        return True

    def release(self, key: str) -> None:
        pass

    def record(self, reply: Reply) -> None:
        pass


NO_DESK = _NoDesk()
# What a model in this process, or a script, costs.
FREE = cast(Prices, prices_of("", "", (0.0, 0.0)))


class Stop:
    """A flag between threads that no signal can leave half set, as it can a `threading.Event`."""

    def __init__(self) -> None:
        self._set = False

    def set(self) -> None:
        self._set = True

    def is_set(self) -> bool:
        return self._set

    def wait(self, timeout_s: float) -> bool:
        """Until it is set, or the time is over; says whether it is set."""
        until = time.monotonic() + timeout_s
        while not self._set and (left_s := until - time.monotonic()) > 0:
            time.sleep(min(left_s, _LOOKS_UP_EVERY_S))
        return self._set


def streamed(work: Callable[[Put, Stop], None]) -> Iterator[pl.DataFrame]:
    """Runs `work(put, stop)` on a thread of its own, and yields what it puts.

    `work` records each reply before it puts it, so nothing hangs on who reads the frames, or whether anybody does.
    When `stop` is set, because of Ctrl-C or because nobody reads any more, it should begin nothing new, and return
    when what it has begun is done: that is paid for, and waited for here. A second Ctrl-C ends the waiting.
    What `work` raises is raised here.
    """
    arrived: list[Reply] = []
    raised: list[BaseException] = []
    stop, ended = Stop(), Stop()

    def run() -> None:
        try:
            work(arrived.append, stop)
        except BaseException as exc:
            raised.append(exc)
        finally:
            ended.set()

    threading.Thread(target=run, name="agora-backend", daemon=True).start()
    try:
        while not (ended.wait(GATHERED_S) and not arrived):
            if arrived:
                count = len(arrived)
                yield frame_of(arrived[:count])
                del arrived[:count]
        if raised:
            raise raised[0]
    finally:
        # What is raised a second time is raised at the next call, so this one is made before any that counts.
        try:  # noqa: SIM105 - `suppress` would be interrupted before it begins
            time.sleep(0)
        except KeyboardInterrupt:
            pass
        _settle(stop, ended)


def _settle(stop: Stop, ended: Stop) -> None:
    """Waits for what is in flight.

    What comes within a moment of the first Ctrl-C is the same one: a runner may pass it on that the terminal sends too,
    and Polars raises it when Python does as well (pola-rs/polars#23988).
    """
    begun, told = time.monotonic(), False
    while not ended.is_set() and not sys.is_finalizing():
        try:
            stop.set()
            if not told and not ended.wait(_LOOKS_UP_EVERY_S):
                told = True
                _log.warning("interrupted: waiting for the replies in flight, which are kept (Ctrl-C again: stop now)")
            ended.wait(GATHERED_S)
        except KeyboardInterrupt:
            if time.monotonic() - begun > _SAME_PRESS_S:
                raise

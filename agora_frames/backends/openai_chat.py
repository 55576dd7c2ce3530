"""Any OpenAI-compatible endpoint, through the official client, on an event loop of its own."""

from __future__ import annotations

import asyncio
import json
import math
import os
import random
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import orjson
import polars as pl

from agora_frames.backends.chat import Put, Reply, failed, read_completion, streamed
from agora_frames.errors import AuthenticationError, BindError, EndpointError, UnknownModelError

__all__ = ["OPENAI_URL", "OpenAIChat", "openai_chat"]

OPENAI_URL = "https://api.openai.com/v1"

# What goes into the call by name; every other parameter goes into the body as it is (top_k, min_p, …).
_NAMED = {"temperature", "top_p", "stop", "seed", "response_format", "logprobs", "top_logprobs", "tools"}
# Tries of one request that times out, is cut off, or meets a server error. Rate limits are waited out without end.
_TRIES = 6
_TURNED_AWAY = {"rate_limited", "bad_request", "context_too_long"}
_TRIES_OF_THE_DEAD = 3
_TRANSIENT = {"timeout", "connection", "server_error", "bad_reply"}
_LONGEST_WAIT_S = 60.0


@dataclass(frozen=True, repr=False)
class OpenAIChat:
    """A backend that asks an OpenAI-compatible endpoint; made by `openai_chat`."""

    model: str
    endpoint: str
    api_key: str = field(repr=False)
    concurrency: int
    timeout_s: float
    prices: tuple[float, float] | None
    pause_s: float

    def __call__(self, requests: pl.DataFrame, /) -> Iterator[pl.DataFrame]:
        if requests.is_empty():
            return
        if not self.api_key and self.endpoint == OPENAI_URL:
            raise AuthenticationError(
                f"openai:{self.model} needs an API key, and none was found. Set it in the environment, "
                "export OPENAI_API_KEY=…, or pass connect(…, api_key=…)."
            )
        rows = requests.select("key", "messages", "sampling").iter_rows()
        # Enough workers for what there is to do; each takes the next row when it is free, so nothing waits for a batch.
        workers = min(self.concurrency, requests.height)
        yield from streamed(lambda put, stop: asyncio.run(_ask_all(self, rows, workers, put, stop)))

    def __repr__(self) -> str:
        return f"openai_chat({self.model!r}, endpoint={self.endpoint!r}, concurrency={self.concurrency})"


def openai_chat(
    model: str,
    *,
    base_url: str = OPENAI_URL,
    api_key: str | None = None,
    concurrency: int = 32,
    timeout_s: float = 600.0,
    prices: tuple[float, float] | None = None,
    pause_s: float = 0.5,
) -> OpenAIChat:
    """A backend for a model of an OpenAI-compatible endpoint (OpenAI, vLLM's server, llama.cpp's, OpenRouter, …).

    api_key: by default the environment's OPENAI_API_KEY, for OpenAI's own endpoint and no other, or AGORA_API_KEY for
    any other; an endpoint of your own may need none. It is kept out of every key, ledger, log and repr.
    concurrency: requests in flight at most. timeout_s: for one try, in seconds. prices: US dollars per million prompt
    tokens and per million completion tokens; without them a reply's cost is null.
    Rate limits (429) are waited out, as the endpoint asks or with growing pauses; time-outs, cut connections, server
    errors and bodies that are no reply are asked again, in 6 tries at most. pause_s: seconds before the second try,
    doubled before each further one.
    Raises: BindError for an address that is none or holds a password, and for values of a wrong type; at the first
    request, AuthenticationError when OpenAI's own endpoint is asked without a key.
    """
    endpoint = _checked(base_url)
    if not isinstance(concurrency, int) or concurrency < 1:
        raise BindError(f"openai_chat(concurrency={concurrency!r}): it must be a whole number, at least 1.")
    if not _is_number(timeout_s) or not _is_number(pause_s) or timeout_s <= 0 or pause_s < 0:
        raise BindError(f"openai_chat(timeout_s={timeout_s!r}, pause_s={pause_s!r}): both are numbers of seconds.")
    if prices is not None and not (
        isinstance(prices, tuple | list) and len(prices) == 2 and all(map(_is_number, prices))
    ):
        raise BindError(
            f"openai_chat(prices={prices!r}): give two, US dollars per million tokens in and out: (0.15, 0.60)."
        )
    if api_key is not None and not isinstance(api_key, str):
        raise BindError("openai_chat(api_key=…): it must be a text.")
    key = (api_key or os.environ.get(_variable(endpoint), "")).strip()
    if not (key.isascii() and key.isprintable()):
        raise AuthenticationError(
            f"the API key for {endpoint} holds characters that no header can carry. Copy it again, alone on its line."
        )
    return OpenAIChat(model, endpoint, key, concurrency, timeout_s, prices and (prices[0], prices[1]), pause_s)


def _variable(endpoint: str) -> str:
    """OpenAI's key is for OpenAI: it is sent to nobody else."""
    return "OPENAI_API_KEY" if endpoint == OPENAI_URL else "AGORA_API_KEY"


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _checked(base_url: str) -> str:
    """The address without a slash at its end. It goes into keys, ledgers and errors, so it may hold no secret."""
    try:
        parts = urlsplit(base_url)
        whole = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # a port that is no number, a broken IPv6 address
        parts, whole = urlsplit(""), False
    if parts.username or parts.password or parts.query:
        raise BindError(
            f"the address of {parts.hostname} holds a user, a password or a query, and would be written into the "
            "ledger with them. Give the bare address, and the secret as api_key=…."
        )
    if not whole:
        raise BindError(f"base_url={base_url!r} is no address. It looks like http://localhost:8000/v1.")
    return base_url.rstrip("/")


async def _ask_all(
    backend: OpenAIChat,
    rows: Iterator[tuple[Any, ...]],
    workers: int,
    put: Put,
    stop: threading.Event,
) -> None:
    import openai

    client = openai.AsyncOpenAI(
        base_url=backend.endpoint, api_key=backend.api_key or "none", max_retries=0, timeout=backend.timeout_s
    )

    async def work() -> None:
        for row in rows:
            if stop.is_set():
                return
            try:
                await _ask(client, backend, *row, put=put, stop=stop)
            except BaseException:
                # The others finish what they have in flight, which may be paid for, and ask nothing more.
                stop.set()
                raise

    async with client:
        ended = await asyncio.gather(*(work() for _ in range(workers)), return_exceptions=True)
    for error in filter(None, ended):
        raise error


async def _ask(
    client: Any,
    backend: OpenAIChat,
    key: str,
    messages: list[dict[str, str]],
    sampling: str,
    *,
    put: Put,
    stop: threading.Event,
) -> None:
    """Puts the reply to one request, and before it each attempt that failed."""
    call = _call(backend, messages, orjson.loads(sampling))
    tries = waits = 0
    while True:
        reply, exc = await _try(client, backend, key, call)
        kind = reply["error"]["kind"] if "error" in reply else None
        limited = kind == "rate_limited"
        waits, tries = waits + limited, tries + (not limited)
        if stop.is_set() or not (limited or (kind in _TRANSIENT and tries < _TRIES)):
            await asyncio.wrap_future(put(reply))
            return
        if tries >= _TRIES_OF_THE_DEAD and _is_dead(exc):
            raise EndpointError(
                f"nobody answers at {backend.endpoint} ({_said(exc, backend)}). Is the server running, and the address "
                "right? Nothing that was answered is lost: run again when it is."
            ) from exc
        put({**reply, "retried": True})
        doubled = min(waits if limited else tries, 9) - 1
        await _pause(backend.pause_s * 2**doubled, _retry_after(exc), stop)
        if stop.is_set():
            return


async def _try(client: Any, backend: OpenAIChat, key: str, call: dict[str, Any]) -> tuple[Reply, Exception | None]:
    import httpx2
    import openai

    begun = time.perf_counter()
    try:
        raw = await client.chat.completions.with_raw_response.create(**call)
        body = json.loads(raw.content)  # orjson would refuse half a surrogate pair, and with it a whole reply
    except (openai.OpenAIError, httpx2.HTTPError) as exc:
        _raise_if_fatal(exc, backend)
        kind = _kind(exc)
        # What was turned away at the door costs nothing; of what broke later nobody knows.
        cost = 0.0 if backend.prices and kind in _TURNED_AWAY else None
        said = _said(exc, backend)
        return failed(key, kind, said, latency_s=time.perf_counter() - begun, cost_usd=cost), exc
    except ValueError as exc:
        return failed(key, "bad_reply", f"the body is not JSON: {exc}", latency_s=time.perf_counter() - begun), exc
    latency_s = time.perf_counter() - begun
    if not isinstance(body, dict):
        return failed(key, "bad_reply", "the body is no chat completion", latency_s=latency_s), None
    return read_completion(key, body, latency_s=latency_s, prices=backend.prices), None


def _call(backend: OpenAIChat, messages: list[dict[str, str]], sampling: dict[str, Any]) -> dict[str, Any]:
    named = {name: value for name, value in sampling.items() if name in _NAMED}
    body = {name: value for name, value in sampling.items() if name not in _NAMED}
    # OpenAI's newer models refuse the old name, other servers do not all know the new one.
    if "max_tokens" in body and backend.endpoint == OPENAI_URL:
        body["max_completion_tokens"] = body.pop("max_tokens")
    return {"model": backend.model, "messages": messages, **named, "extra_body": body}


def _raise_if_fatal(exc: Exception, backend: OpenAIChat) -> None:
    """Raises what concerns all requests: a refused key, an unknown model, an account without credit."""
    import openai

    said = _said(exc, backend)
    if isinstance(exc, openai.AuthenticationError | openai.PermissionDeniedError):
        raise AuthenticationError(
            f"{backend.endpoint} refused the API key ({said}). Nothing that was answered is lost. "
            f"Set a valid key, export {_variable(backend.endpoint)}=…, and run again."
        ) from exc
    if isinstance(exc, openai.NotFoundError):
        raise UnknownModelError(
            f"{backend.endpoint} has no model {backend.model!r} ({said}). Check the name and the base URL; "
            f"{backend.endpoint}/models lists what there is."
        ) from exc
    no_credit = isinstance(exc, openai.RateLimitError) and exc.code == "insufficient_quota"
    if no_credit or getattr(exc, "status_code", None) == 402:
        raise AuthenticationError(
            f"{backend.endpoint} says that the account's quota is used up ({said}). "
            "Nothing that was answered is lost: add credit and run again."
        ) from exc


def _kind(exc: Exception) -> str:
    import openai

    # One request above the whole limit of a minute will never be let in.
    if isinstance(exc, openai.RateLimitError) and "request too large" not in str(exc).lower():
        return "rate_limited"
    if isinstance(exc, openai.APITimeoutError):
        return "timeout"
    if not isinstance(exc, openai.APIStatusError):
        return "connection"
    if exc.status_code >= 500 or exc.status_code in (408, 409):
        return "server_error"
    said = f"{exc.code} {exc.message}".lower()
    return "context_too_long" if "context_length" in said or "context length" in said else "bad_request"


def _is_dead(exc: Exception | None) -> bool:
    """Nobody listens there, or there is no such host."""
    return isinstance(exc, Exception) and any(
        isinstance(cause, ConnectionRefusedError | socket.gaierror) for cause in _chain(exc)
    )


def _chain(exc: BaseException | None) -> Iterator[BaseException]:
    while exc is not None:
        yield exc
        exc = exc.__cause__ or exc.__context__


def _said(exc: Exception | None, backend: OpenAIChat) -> str:
    """The message of an error, and of what caused it (the client wraps the system's words several times).

    An endpoint may repeat the key that it was given: that is cut out.
    """
    chain = [exc] if hasattr(exc, "status_code") else _chain(exc)
    said = ": ".join(dict.fromkeys(said for each in chain if (said := str(each)))) or type(exc).__name__
    return said.replace(backend.api_key, "[the API key]") if backend.api_key else said


def _retry_after(exc: Any) -> float | None:
    """The seconds that the endpoint asks to wait; None where it does not say, or says 0 and means nothing by it."""
    try:
        asked_s = float(exc.response.headers["retry-after"])
    except (AttributeError, KeyError, ValueError):
        return None
    return asked_s if 0 < asked_s < math.inf else None


async def _pause(own_s: float, asked_s: float | None, stop: threading.Event) -> None:
    """As long as the endpoint asks, else as long as we think, with a random part so that not all come at once."""
    wait_s = min(_LONGEST_WAIT_S, own_s) * random.uniform(0.5, 1.0)
    if asked_s:
        wait_s = asked_s * random.uniform(1.0, 1.2)
    until = time.monotonic() + wait_s
    while not stop.is_set() and (left := until - time.monotonic()) > 0:
        await asyncio.sleep(min(left, 0.25))

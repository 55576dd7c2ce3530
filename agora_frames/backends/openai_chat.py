"""Any OpenAI-compatible endpoint, asked from an event loop on a thread of its own."""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import orjson
import polars as pl

from agora_frames.backends.chat import NO_DESK, Put, Stop, rows_of, streamed
from agora_frames.backends.engine import Asking, ask_all
from agora_frames.backends.limits import Limits, Status, limits_of, status_of
from agora_frames.backends.retry import Health
from agora_frames.backends.transport import Post, maker_of, poster, sdk_poster
from agora_frames.budget import most_completion
from agora_frames.errors import AuthenticationError, BindError, UnknownModelError
from agora_frames.prices import Prices, prices_of
from agora_frames.types import Desk

__all__ = ["OPENAI_CAN", "OPENAI_URL", "OpenAIChat", "body_of", "checked_url", "key_of", "openai_chat"]

OPENAI_URL = "https://api.openai.com/v1"
OPENAI_CAN = frozenset({"images", "json_object", "json_schema", "logprobs", "tools"})
# Workers beyond the requests in flight: those whose request waits to be asked again.
_SPARE_WORKERS = 64


@dataclass(frozen=True, repr=False)
class OpenAIChat:
    """A backend that asks an OpenAI-compatible endpoint; made by `openai_chat`."""

    model: str
    endpoint: str
    api_key: str = field(repr=False)
    client: Any
    concurrency: int | None
    max_concurrency: int
    rpm: float | None
    tpm: float | None
    timeout_s: float
    prices: Prices | None
    pause_s: float
    outage_s: float

    @property
    def can(self) -> frozenset[str] | None:
        """What OpenAI's own endpoint offers, if not for every model; what another one can is not known."""
        return OPENAI_CAN if self.endpoint == OPENAI_URL else None

    @property
    def limits(self) -> Limits:
        """Shared by all that ask this model of this endpoint in this process; the settings asked for last count."""
        return limits_of(
            self.endpoint,
            self.model,
            concurrency=self.concurrency,
            rpm=self.rpm,
            tpm=self.tpm,
            most=self.max_concurrency,
        )

    def status(self) -> Status:
        """How many requests are in flight now, how many may be, and why no more."""
        return status_of(self.endpoint, self.model)

    def __call__(self, requests: pl.DataFrame, /) -> Iterator[pl.DataFrame]:
        return self.answer(requests, desk=NO_DESK)

    def answer(self, requests: pl.DataFrame, *, desk: Desk) -> Iterator[pl.DataFrame]:
        """See `types.DeskBackend`."""
        if requests.is_empty():
            return
        if not self.api_key and self.endpoint == OPENAI_URL and self.client is None:
            raise AuthenticationError(
                f"openai:{self.model} needs an API key, and none was found. Set it in the environment, "
                "export OPENAI_API_KEY=…, or pass connect(…, api_key=…)."
            )
        workers = min(requests.height, (self.concurrency or self.max_concurrency) + _SPARE_WORKERS)
        rows = rows_of(requests)
        del requests  # each is let go when it has been asked

        def work(put: Put, stop: Stop) -> None:
            asking = self._asking(desk)
            with asyncio.Runner(loop_factory=_loop_factory()) as runner:
                runner.run(ask_all(asking, rows, workers=workers, put=put, stop=stop))

        yield from streamed(work)

    def _asking(self, desk: Desk) -> Asking:
        return Asking(
            endpoint=self.endpoint,
            model=self.model,
            variable=_variable(self.endpoint),
            hidden=self.api_key,
            prices=self.prices,
            limits=self.limits,
            desk=desk,
            pause_s=self.pause_s,
            health=Health(self.outage_s),
            body_of=partial(body_of, self.endpoint, self.model),
            connected=self._connected,
        )

    def _connected(self) -> AbstractAsyncContextManager[Post]:
        if self.client is not None:
            return sdk_poster(maker_of(self.client))
        return poster(f"{self.endpoint}/chat/completions", api_key=self.api_key, timeout_s=self.timeout_s)

    def __repr__(self) -> str:
        limits = {"concurrency": self.concurrency, "rpm": self.rpm, "tpm": self.tpm}
        told = "".join(f", {name}={value}" for name, value in limits.items() if value is not None)
        return f"openai_chat({self.model!r}, endpoint={self.endpoint!r}{told})"


def openai_chat(
    model: str,
    *,
    base_url: str = OPENAI_URL,
    api_key: str | None = None,
    client: Any = None,
    concurrency: int | None = None,
    max_concurrency: int = 256,
    rpm: float | None = None,
    tpm: float | None = None,
    timeout_s: float = 600.0,
    prices: tuple[float, ...] | None = None,
    pause_s: float = 0.5,
    outage_s: float = 300.0,
) -> OpenAIChat:
    """A backend for a model of an OpenAI-compatible endpoint (OpenAI, vLLM's server, llama.cpp's, OpenRouter, …).

    api_key: by default the environment's OPENAI_API_KEY, for OpenAI's own endpoint and no other, or AGORA_API_KEY for
    any other; an endpoint of your own may need none. It is kept out of every key, ledger, log and repr.
    client: an `openai.AsyncOpenAI` of your own, such as AsyncAzureOpenAI, whose address, key and time-outs are used; or
    a function that makes one, if it has an http_client of its own.
    concurrency: requests in flight, a fixed number; None finds out how many the endpoint takes, up to
    max_concurrency. rpm, tpm: requests and tokens per minute at most. timeout_s: for one try, in seconds.
    prices: US dollars per million prompt tokens, completion tokens and, if they differ, cached prompt tokens; by
    default those that genai-prices knows of this endpoint and model; unknown, a reply's cost is null.
    Rate limits (429) are waited out, as the endpoint asks or with growing pauses; time-outs, cut connections, server
    errors and bodies that are no reply are asked again, in 6 tries at most. pause_s: seconds before the second try,
    doubled before each further one. outage_s: seconds that an endpoint which answered before, and now answers
    nobody, is waited for.
    Raises: BindError for an address that is none or holds a password, and for values of a wrong type; at the first
    request, AuthenticationError when OpenAI's own endpoint is asked without a key.
    """
    if client is not None:
        if api_key is not None or base_url != OPENAI_URL:
            raise BindError("openai_chat(client=…) has its own address and key: leave out base_url and api_key.")
        made = maker_of(client)()
        # Never sent by us, but an endpoint may repeat the key, and then it is cut out.
        base_url, api_key = str(made.base_url), made.api_key if isinstance(made.api_key, str) else ""
    endpoint = checked_url(base_url)
    _check_wholes(concurrency=concurrency, max_concurrency=max_concurrency)
    _check_numbers(rpm=rpm, tpm=tpm, timeout_s=timeout_s, outage_s=outage_s)
    if not _is_number(pause_s) or pause_s < 0:
        raise BindError(f"openai_chat(pause_s={pause_s!r}): it must be a number of seconds.")
    key = key_of(endpoint, api_key) if client is None else api_key or ""
    return OpenAIChat(
        model=_named(model),
        endpoint=endpoint,
        api_key=key,
        client=client,
        concurrency=concurrency,
        max_concurrency=max_concurrency,
        rpm=rpm,
        tpm=tpm,
        timeout_s=timeout_s,
        prices=prices_of(endpoint, model, prices),
        pause_s=pause_s,
        outage_s=outage_s,
    )


def body_of(endpoint: str, model: str, messages: str, sampling: str) -> tuple[bytes, int | None]:
    """The body of a request, and the most tokens that its reply may have."""
    settings = orjson.loads(sampling)
    most = most_completion(settings)
    # OpenAI's newer models refuse the old name, other servers do not all know the new one.
    if "max_tokens" in settings and endpoint == OPENAI_URL:
        settings["max_completion_tokens"] = settings.pop("max_tokens")
    head = orjson.dumps({"model": model, **settings})
    return b'%b,"messages":%b}' % (head[:-1], messages.encode()), most


def _check_wholes(**given: Any) -> None:
    for name, value in given.items():
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise BindError(f"openai_chat({name}={value!r}): it must be a whole number, at least 1.")


def _check_numbers(**given: Any) -> None:
    for name, value in given.items():
        if value is not None and not (_is_number(value) and value > 0):
            raise BindError(f"openai_chat({name}={value!r}): it must be a number above 0.")


def _named(model: object) -> str:
    if not isinstance(model, str) or not model:
        raise UnknownModelError(f"openai_chat({model!r}): give the model's name as a text.")
    return model


def key_of(endpoint: str, api_key: str | None) -> str:
    """The key that was given, or else that of the environment for this endpoint; an empty text where there is none."""
    if api_key is not None and not isinstance(api_key, str):
        raise BindError("openai_chat(api_key=…): it must be a text.")
    key = (api_key or os.environ.get(_variable(endpoint), "")).strip()
    if not (key.isascii() and key.isprintable()):
        raise AuthenticationError(
            f"the API key for {endpoint} holds characters that no header can carry. Copy it again, alone on its line."
        )
    return key


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's, where there is one: it takes a third off the time of a request."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def _variable(endpoint: str) -> str:
    """OpenAI's key is for OpenAI: it is sent to nobody else."""
    return "OPENAI_API_KEY" if endpoint == OPENAI_URL else "AGORA_API_KEY"


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def checked_url(base_url: str) -> str:
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

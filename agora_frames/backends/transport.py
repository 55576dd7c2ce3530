"""One HTTP request to a chat-completions endpoint: by pyreqwest, or by an OpenAI client that the user made."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeAlias

import orjson

from agora_frames.errors import BindError

__all__ = ["Answer", "Post", "Unanswered", "maker_of", "poster", "sdk_poster"]

_CONNECTS_WITHIN_S = 30.0
_ENDS_WITHIN_S = 0.01


@dataclass(frozen=True)
class Answer:
    """What came back, whatever its status; names of headers are looked up in lower case."""

    status: int
    headers: Mapping[str, str]
    content: bytes


class Unanswered(Exception):
    """Nothing whole came back.

    kind: `timeout` or `connection`. unsent: there was no connection (nobody listens, no such host, no TLS), so nothing
    was sent, and nothing can have been billed.
    """

    def __init__(self, kind: str, message: str, *, unsent: bool = False) -> None:
        super().__init__(message)
        self.kind, self.unsent = kind, unsent


# Sends one body, and gives what comes back; raises Unanswered.
Post: TypeAlias = Callable[[bytes], Awaitable[Answer]]


@contextlib.asynccontextmanager
async def poster(url: str, *, api_key: str, timeout_s: float) -> AsyncIterator[Post]:
    """Posts JSON to that address, through the environment's proxy if it names one.

    timeout_s: seconds for the whole of one request.
    """
    _load()
    from pyreqwest.client import ClientBuilder
    from pyreqwest.exceptions import PyreqwestError, RequestTimeoutError

    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {api_key}"} if api_key else {})
    whole, connecting = (timedelta(seconds=s) for s in (timeout_s, min(timeout_s, _CONNECTS_WITHIN_S)))
    # As many connections as there are requests in flight, which is bounded elsewhere. Where one thread does it all,
    # each reply that waits for the interpreter keeps the others waiting, and the requests that are to be sent.
    builder = ClientBuilder().runtime_multithreaded(True)
    builder = builder.default_headers(headers).timeout(whole).connect_timeout(connecting)

    async with builder.build() as client:

        async def post(body: bytes) -> Answer:
            try:
                response = await client.post(url).body_bytes(body).build().send()
                return Answer(response.status, response.headers, bytes(await response.bytes()))
            except RequestTimeoutError as exc:
                raise Unanswered("timeout", f"no answer within {timeout_s:g} s") from exc
            except PyreqwestError as exc:
                causes = _causes(exc)
                raise Unanswered("connection", ": ".join(causes), unsent="client error (Connect)" in causes) from exc

        yield post
        # A thread of pyreqwest's that is still on its way out of Python would abort a process that ends now.
        await asyncio.sleep(_ENDS_WITHIN_S)


def _load() -> None:
    """Imports pyreqwest on a thread that lives as long as the process.

    Its memory allocator (mimalloc) belongs to the thread that loads it: once that has ended, the next use crashes
    (seen with 0.15.1).
    """
    loaded = threading.Event()

    def keep() -> None:
        try:
            importlib.import_module("pyreqwest.client")
        finally:
            loaded.set()
        threading.Event().wait()

    if "pyreqwest.client" not in sys.modules:
        threading.Thread(target=keep, name="agora-pyreqwest", daemon=True).start()
        loaded.wait()


def _causes(exc: Exception) -> list[str]:
    """The words of an error and of all that caused it."""
    causes = (getattr(exc, "details", None) or {}).get("causes") or []
    return [str(cause["message"]) for cause in causes] or [str(exc)]


def maker_of(client: Any) -> Callable[[], Any]:
    """A function that makes a client of the user's anew, as its connections belong to an event loop.

    client: an `openai.AsyncOpenAI` (AsyncAzureOpenAI, …), or a function that makes one.
    Raises: BindError for anything else, and for one with an http_client of its own, which cannot be made anew.
    """
    import openai
    from openai._base_client import AsyncHttpxClientWrapper

    if isinstance(client, openai.AsyncOpenAI):
        if not isinstance(client._client, AsyncHttpxClientWrapper):
            raise BindError(
                "openai_chat(client=…): this client has an http_client of its own, whose connections would be shared "
                "between event loops. Give a function that makes both: client=lambda: AsyncOpenAI(http_client=…)."
            )
        return lambda: client.copy(
            http_client=openai.DefaultAsyncHttpxClient(base_url=client.base_url, timeout=client.timeout)
        )
    made = client() if callable(client) and not isinstance(client, type) else client
    if not isinstance(made, openai.AsyncOpenAI):
        raise BindError(
            "openai_chat(client=…) takes an openai.AsyncOpenAI, such as AsyncAzureOpenAI, or a function that makes "
            f"one; it was given a {type(made).__name__}."
        )
    return client  # type: ignore[no-any-return]


@contextlib.asynccontextmanager
async def sdk_poster(make: Callable[[], Any]) -> AsyncIterator[Post]:
    """Posts through an OpenAI client of the user's own, as he set it up, but without its retries."""
    import httpx2
    import openai

    known = {"model", "messages"}
    async with make().with_options(max_retries=0) as client:

        async def post(body: bytes) -> Answer:
            call = orjson.loads(body)
            extra = {name: value for name, value in call.items() if name not in known}
            try:
                raw = await client.chat.completions.with_raw_response.create(
                    model=call["model"], messages=call["messages"], extra_body=extra
                )
            except openai.APIStatusError as exc:
                return Answer(exc.status_code, exc.response.headers, exc.response.content)
            except openai.APITimeoutError as exc:
                raise Unanswered("timeout", "no answer within the client's timeout") from exc
            except (openai.OpenAIError, httpx2.HTTPError, OSError) as exc:
                chain = list(_chain(exc))
                said = ": ".join(dict.fromkeys(said for each in chain if (said := str(each)))) or type(exc).__name__
                raise Unanswered(
                    "connection", said, unsent=any(isinstance(e, httpx2.ConnectError) for e in chain)
                ) from exc
            return Answer(raw.status_code, raw.headers, raw.content)

        yield post


def _chain(exc: BaseException | None) -> Iterator[BaseException]:
    while exc is not None:
        yield exc
        exc = exc.__cause__ or exc.__context__

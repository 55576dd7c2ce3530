"""Every shape on one screen: what a message, a backend, a parser and an observer are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Protocol, TypeAlias, TypedDict, runtime_checkable

import polars as pl

__all__ = [
    "ABILITIES",
    "Backend",
    "BoundedObserver",
    "Desk",
    "DeskBackend",
    "Embedder",
    "Message",
    "Observer",
    "Parser",
    "Reply",
    "Runner",
    "Scorer",
    "Step",
]

# What a request may want beyond a text for a text, and what it is, in words. A backend that knows which of these it can
# do says so in an attribute `can`, a frozenset of their names: a request for another is then an error before anything
# is asked. Without the attribute, or where it is None, nobody knows, and everything is sent.
ABILITIES: Mapping[str, str] = MappingProxyType(
    {
        "constraints": "a regular expression, a choice or a grammar (extra={'structured_outputs': …})",
        "images": "images in the messages",
        "json_object": "response_format={'type': 'json_object'}",
        "json_schema": "structured output (schema=…, or response_format={'type': 'json_schema', …})",
        "logprobs": "log probabilities (logprobs=…)",
        "prompt_logprobs": "log probabilities of the prompt (extra={'prompt_logprobs': …})",
        "tools": "tools (tools=…)",
    }
)


class Message(TypedDict):
    """One turn of a chat: who speaks (`system`, `user`, `assistant`) and what is said."""

    role: str
    content: str


@runtime_checkable
class Backend(Protocol):
    """A frame of requests in, a stream of frames of replies out; a model lives here.

    `requests` has the columns of `frames.REQUESTS`; what is yielded has the columns of `frames.REPLIES`.
    Replies come in any order, as they finish, in frames of any height. A request ends in exactly one reply
    with `retried` false; a failure of that one request is such a reply too, with its `error` filled.
    An attempt that failed and is being asked again may be told with `retried` true.
    Raised errors are for what concerns all requests: a wrong key, an unknown model, a dead endpoint.
    It may have an attribute `can`, a frozenset of names of `ABILITIES`: all that it can do.
    """

    @property
    def endpoint(self) -> str:
        """Where the model is asked, without secrets: a base URL, or the name of an embedded engine."""
        ...

    @property
    def model(self) -> str:
        """The model's name, with its revision where there is one."""
        ...

    def __call__(self, requests: pl.DataFrame, /) -> Iterator[pl.DataFrame]: ...


# One row of `frames.REPLIES`; what is left out is null.
Reply: TypeAlias = Mapping[str, Any]


class Desk(Protocol):
    """Where a backend asks leave before each attempt, and hands in each reply before anything else is done with it.

    Both may be called on any thread.
    """

    def reserve(self, key: str, *, tokens: int | None, cost_usd: float | None) -> bool | None:
        """Whether an attempt that takes at most so much may be sent: yes, not now (others may need less), or never."""
        ...

    def release(self, key: str) -> None:
        """What was reserved for an attempt is free again: it was not sent."""
        ...

    def record(self, reply: Reply) -> None:
        """The reply, of whatever kind, is durable when this returns; what was reserved for its key is settled."""
        ...


@runtime_checkable
class DeskBackend(Protocol):
    """A backend that hands in each reply itself, at the moment it comes, and so goes on without waiting for others.

    `Backend` is enough: the frames that it yields are recorded then, each before the next is taken.
    """

    def answer(self, requests: pl.DataFrame, *, desk: Desk) -> Iterator[pl.DataFrame]:
        """The same stream as `__call__`; what it yields is recorded already, also what nobody reads."""
        ...


# A text in; out comes one value, several values in order, or a dict of named values. None, or a ValueError
# with the reason, means "not found": the row is `unparsed`, and its text stays where it was.
Parser: TypeAlias = Callable[[str], Any]


@runtime_checkable
class Runner(Protocol):
    """Runs programs: made by `sandbox`.

    `programs` has `code` and `tests` (String) and `names` (List(String)); what comes back, in the same order, has the
    columns of `frames.OUTCOMES`. Errors are raised for what concerns all programs.
    """

    def __call__(self, programs: pl.DataFrame, /) -> pl.DataFrame: ...


# Called with each batch of finished rows, with all their columns, while a stage is still at work.
Observer: TypeAlias = Callable[[pl.DataFrame], None]


@runtime_checkable
class BoundedObserver(Protocol):
    """An observer that also wants to know how many rows there will be, of whom they are asked, and when it is over."""

    def __call__(self, finished: pl.DataFrame, /) -> None: ...

    def begin(self, rows: int, backend: Backend) -> None: ...

    def end(self) -> None:
        """No more rows will come: all are done, or the stage was interrupted or raised."""
        ...


@runtime_checkable
class Embedder(Protocol):
    """Texts in, a vector for each out, all of one length; an embedding model lives here."""

    @property
    def name(self) -> str:
        """The model's name, without secrets: vectors of two names are never compared."""
        ...

    def __call__(self, texts: Sequence[str], /) -> Sequence[Sequence[float]]: ...


@runtime_checkable
class Scorer(Protocol):
    """Instructions and their responses in, a score for each pair out; a reward model lives here.

    None stands for a pair that is too long for the model.
    """

    @property
    def name(self) -> str:
        """The model's name: scores of two models are never compared."""
        ...

    def __call__(self, pairs: Sequence[tuple[str, str]], /) -> Sequence[float | None]: ...


class Step(TypedDict):
    """What `traced` tells of one step that has run."""

    name: str
    rows_in: int
    rows_out: int
    seconds: float

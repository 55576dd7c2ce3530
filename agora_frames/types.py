"""Every shape on one screen: what a message, a backend, a parser and an observer are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol, TypeAlias, TypedDict, runtime_checkable

import polars as pl

__all__ = ["Backend", "Message", "Observer", "Parser", "Step"]


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


# A text in; out comes one value, several values in order, or a dict of named values. None, or a ValueError
# with the reason, means "not found": the row is `unparsed`, and its text stays where it was.
Parser: TypeAlias = Callable[[str], Any]

# Called with each batch of finished rows, with all their columns, while a stage is still at work.
Observer: TypeAlias = Callable[[pl.DataFrame], None]


class Step(TypedDict):
    """What `traced` tells of one step that has run."""

    name: str
    rows_in: int
    rows_out: int
    seconds: float

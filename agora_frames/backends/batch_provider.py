"""Who works off batches of requests: what is asked of them, and what their answers mean."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import orjson

from agora_frames.backends.answers import read_answer
from agora_frames.backends.chat import failed
from agora_frames.backends.transport import Answer
from agora_frames.prices import Prices

__all__ = ["Batch", "Provider", "Unsure", "free", "read_result"]

_CODES = {"batch_expired": "expired", "batch_cancelled": "cancelled", "request_timeout": "timeout"}


class Unsure(Exception):
    """Nobody knows whether what was sent has arrived: a batch may have been made of it, or be made yet."""


class Batch(NamedTuple):
    """What a provider says of a batch. errors: code, message and line (from 1; None for all) of a refused input."""

    id: str
    status: str
    done: int = 0
    files: tuple[str, ...] = ()
    errors: tuple[tuple[str, str, int | None], ...] = ()


class Provider(Protocol):
    """Who works off batches. Every call but `submit` is repeated by itself until it is answered."""

    def upload(self, name: str, lines: Sequence[bytes]) -> str:
        """Gives the id of a new file."""
        ...

    def delete(self, file_id: str) -> bool:
        """Says whether there was such a file. No batch can be made of it when this returns."""
        ...

    def submit(self, file_id: str, tag: str) -> Batch:
        """Makes a batch of a file. Raises: Unsure, when the batch may have been made."""
        ...

    def find(self, tag: str) -> Batch | None:
        """The batch that was submitted with this tag."""
        ...

    def look(self, batch_id: str) -> Batch: ...

    def lines(self, file_id: str) -> Iterator[Mapping[str, Any]]:
        """The objects in a file; lines that are none are left out."""
        ...

    def refused(self, batch: Batch) -> Exception:
        """The error that a refusal of a whole batch is."""
        ...


def read_result(key: str, line: Mapping[str, Any], prices: Prices | None) -> dict[str, Any]:
    """The reply in a line of a file of results."""
    response, error = line.get("response"), line.get("error")
    if isinstance(response, Mapping) and isinstance(response.get("status_code"), int):
        answer = Answer(response["status_code"], {}, orjson.dumps(response.get("body")))
        return read_answer(key, answer, latency_s=None, prices=prices)
    told = error if isinstance(error, Mapping) else {}
    kind = _CODES.get(str(told.get("code")), "bad_reply")
    why = str(told.get("message") or "the line holds neither a response nor an error")
    return failed(key, kind, why, **({} if kind == "bad_reply" else free(prices)))


def free(prices: Prices | None) -> dict[str, Any]:
    """The cost of a request that was not begun, where prices are known."""
    return {} if prices is None else {"cost_usd": 0.0, "priced_by": prices.source}

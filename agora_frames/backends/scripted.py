"""The public, honest fake: replies from a function or a table, and every failure the real ones know."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import orjson
import polars as pl

from agora_frames.backends.chat import FREE, GATHERED_S, NO_DESK, failed, frame_of, over_budget, rows_of
from agora_frames.budget import most_completion, most_tokens
from agora_frames.errors import BindError, FingerprintError, listed
from agora_frames.fingerprint import fingerprint
from agora_frames.frames import REPLIES
from agora_frames.prices import Prices, prices_of
from agora_frames.types import ABILITIES, Desk, Message, Reply

__all__ = ["Script", "failing", "named", "scripted"]

_WAITS_FOR_BUDGET_S = 0.02
_ROWS_AT_ONCE = 500

# What a script says to one request: a text; a dict with any fields of `frames.REPLIES`; a list of these, one for
# each attempt (all but the last are told as retried); or an error to raise, as a dead endpoint would.
Said: TypeAlias = "str | Reply | Exception | Sequence[str | Reply]"
Script: TypeAlias = "Callable[..., Said] | Mapping[str, Said]"


@dataclass(frozen=True, repr=False)
class Scripted:
    """A backend that says what its script says; made by `scripted`."""

    script: Script
    model: str
    delay_s: float
    prices: Prices
    can: frozenset[str] | None = None
    endpoint: str = "scripted"

    def __call__(self, requests: pl.DataFrame, /) -> Iterator[pl.DataFrame]:
        return self.answer(requests, desk=NO_DESK)

    def answer(self, requests: pl.DataFrame, *, desk: Desk) -> Iterator[pl.DataFrame]:
        """See `types.DeskBackend`. Replies are recorded one by one, and gathered for the frames."""
        gathered: list[Reply] = []
        begun, rows = time.monotonic(), rows_of(requests)
        del requests  # each is let go when it has been answered
        try:
            for key, messages, sampling in rows:
                gathered += self._replies(key, messages, sampling, desk)
                if len(gathered) >= _ROWS_AT_ONCE or time.monotonic() - begun > GATHERED_S:
                    yield frame_of(gathered)
                    gathered, begun = [], time.monotonic()
        except Exception:
            if gathered:
                yield frame_of(gathered)
            raise
        if gathered:
            yield frame_of(gathered)

    def _replies(self, key: str, messages: str, sampling: str, desk: Desk) -> list[Reply]:
        """The attempts at one request, recorded."""
        if self.delay_s:
            time.sleep(self.delay_s)
        most = most_completion(orjson.loads(sampling))
        asked, tokens = most_tokens(messages, most, sampling=sampling)
        cost_usd = self.prices.at_most(asked, most)
        while (leave := desk.reserve(key, tokens=tokens, cost_usd=cost_usd)) is False:
            time.sleep(_WAITS_FOR_BUDGET_S)  # another thread, whose call may take less than it reserved
        if leave is None:
            return [over_budget(key)]
        try:
            *earlier, last = self._attempts(key, orjson.loads(messages), sampling)
        except BaseException:
            desk.release(key)
            raise
        replies = [*({**reply, "retried": True} for reply in earlier), last]
        for reply in replies:
            desk.record(reply)
        return replies

    def _attempts(self, key: str, messages: list[Message], sampling: str) -> list[Reply]:
        said = self._say(messages, sampling)
        if isinstance(said, Exception):
            raise said
        attempts = said if isinstance(said, Sequence) and not isinstance(said, str) else [said]
        if not attempts or not all(isinstance(each, str | Mapping) for each in attempts):
            raise BindError(
                f"the script said {said!r} to {messages[-1]['content']!r}; it may say a text, a dict with "
                "fields of a reply, failing(kind), a list of these, or an exception."
            )
        return [_reply(key, each, self.prices) for each in attempts]

    def _say(self, messages: list[Message], sampling: str) -> Said:
        if isinstance(self.script, Mapping):
            prompt = messages[-1]["content"]
            return self.script.get(prompt, failing("bad_request", f"the script has no reply to {prompt!r}"))
        return self.script(messages, orjson.loads(sampling)) if _takes_two(self.script) else self.script(messages)

    def __repr__(self) -> str:
        return f"scripted({getattr(self.script, '__name__', type(self.script).__name__)}, model={self.model!r})"


def scripted(
    script: Script,
    *,
    model: str = "scripted",
    delay_s: float = 0.0,
    prices: tuple[float, ...] | None = None,
    can: Collection[str] | None = None,
) -> Scripted:
    """A backend for tests, examples and dry runs: it costs nothing and says what it is told to.

    script: a function of the messages (and, if it takes two values, of the sampling: temperature, seed, …), or a
    table from the last message's text to the reply. It says a text, or a dict with any fields of a reply
    (`frames.REPLIES`), or a failure (`failing`), or a list of those: one for each attempt. An exception that it
    returns is raised, as if the endpoint were dead.
    model: the name in keys and ledgers; a ledger that knows its replies does not ask the script again, so give another
    name to a script that changes (`connect` adds a hash of the script). delay_s: seconds slept before each reply.
    prices: US dollars per million tokens in and out, to pretend a cost for the tokens that the script says.
    can: names of `types.ABILITIES`, to pretend a model that can do no others; by default it is sent everything.
    Raises: BindError for an ability that there is not.

    >>> import agora_frames as af
    >>> model = af.scripted(lambda messages: messages[-1]["content"].upper())
    >>> df = pl.DataFrame({"prompt": ["one", "two"]}).pipe(af.with_row_ids)
    >>> df.pipe(af.generate_column, backend=model)["completion"].to_list()
    ['ONE', 'TWO']
    """
    if can is not None and not set(can) <= ABILITIES.keys():
        raise BindError(f"scripted(can={can!r}) may hold {listed(ABILITIES)}.")
    able = None if can is None else frozenset(can)
    return Scripted(script, model, delay_s, prices_of("", "", prices) or FREE, able)


def named(name: str, script: Script) -> str:
    """A name with a hash of the script, so that a script that was changed is asked anew.

    The name alone, when the script holds what cannot be hashed, such as a lock.
    """
    try:
        return f"{name}@{fingerprint(script)[:12]}"
    except FingerprintError:
        return name


def failing(kind: str, message: str = "as the script says", **fields: Any) -> dict[str, Any]:
    """A failure of one request, for a script to say; `kind` as in `frames`, fields as in `frames.REPLIES`.

    >>> failing("truncated", text="Once upon a", finish_reason="length")["error"]["kind"]
    'truncated'
    """
    return {**failed("", kind, message), **fields}


def _takes_two(script: Callable[..., Said]) -> bool:
    try:
        wanted = inspect.signature(script).parameters.values()
        return sum(p.kind <= p.VAR_POSITIONAL and p.default is p.empty for p in wanted) > 1
    except ValueError:  # a type or function written in C, such as str
        return False


def _reply(key: str, said: str | Reply, prices: Prices) -> Reply:
    reply: dict[str, Any] = {"text": said, "finish_reason": "stop"} if isinstance(said, str) else dict(said)
    if strange := reply.keys() - REPLIES.keys():
        raise BindError(f"a scripted reply may not hold {sorted(strange)}; it may hold {list(REPLIES)}.")
    if "cost_usd" not in reply and prices != FREE:
        used = (reply.get("prompt_tokens"), reply.get("completion_tokens"), reply.get("cached_tokens"))
        reply |= {"cost_usd": prices.cost(*used), "priced_by": prices.source}
    return {"cost_usd": 0.0, "latency_s": 0.0, **reply, "key": key}

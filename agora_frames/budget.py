"""A ceiling on what may be spent: reserved before each attempt, settled after it."""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from agora_frames.errors import BindError
from agora_frames.types import Reply

__all__ = ["Budget", "most_completion", "most_tokens"]

# Kinds that an endpoint turns away at the door, and those of what was never sent: nothing is charged for them.
_UNPAID = ("rate_limited", "bad_request", "context_too_long", "expired", "cancelled", "not_asked", "over_budget")
# Sums are whole numbers of picodollars, so that they neither drift nor depend on the order of what is added.
_PICO = 1e12

# A chat template may add a system prompt of its own: SmolLM3's, the longest we know of, has about 250 tokens.
_TOKENS_PER_REQUEST = 512
# The dearest image of OpenAI's table: gpt-4o-mini, 2833 tokens and 5667 for each of at most 8 tiles (2048 x 768
# pixels in tiles of 512). https://platform.openai.com/docs/guides/images-vision#calculating-costs
_TOKENS_PER_IMAGE = 2833 + 8 * 5667
_DATA_URL = re.compile(rb'"url":"data:[^"]*"')


class Budget:
    """What may be spent: US dollars (`max_cost`), tokens of prompts and replies (`max_tokens_total`), or both.

    Leave is asked before each attempt, with the most that it can take, and given only while all that was spent and
    all that is reserved fit under the ceiling with it. So the ceiling holds as long as no attempt takes more than was
    reserved for it. What an attempt took is settled when it ended; where nobody says (a time-out, a cut connection)
    it may have been billed, and the whole reservation counts as spent.
    Any thread may call. A copy in another process begins anew, with what it counts from the ledger.
    Raises: BindError for a ceiling that is no amount.

    >>> budget = Budget(max_cost=1.0)
    >>> budget.reserve("a", tokens=None, cost_usd=0.7), budget.reserve("b", tokens=None, cost_usd=0.7)
    (True, False)
    >>> budget.settle({"key": "a", "cost_usd": 0.2})
    >>> budget.reserve("b", tokens=None, cost_usd=0.7), budget.reserve("c", tokens=None, cost_usd=0.9)
    (True, None)
    >>> budget.said()
    '$0.20 of $1.00 spent, $0.70 reserved'
    """

    def __init__(self, *, max_cost: float | None = None, max_tokens_total: int | None = None) -> None:
        self.max_cost, self.max_tokens_total = max_cost, max_tokens_total
        self._lock = threading.Lock()
        self._accounts: list[_Account] = []
        if max_cost is not None:
            ceiling = round(_amount("max_cost", max_cost, float) * _PICO)
            self._accounts.append(_Account("cost_usd", ceiling, _PICO, _dollars))
        if max_tokens_total is not None:
            ceiling = int(_amount("max_tokens_total", max_tokens_total, int))
            self._accounts.append(_Account("tokens", ceiling, 1, "{:,.0f} tokens".format))

    @property
    def limited(self) -> bool:
        return bool(self._accounts)

    def limits(self) -> dict[str, float]:
        """The ceilings that are set, by name."""
        given = {"max_cost": self.max_cost, "max_tokens_total": self.max_tokens_total}
        return {name: value for name, value in given.items() if value is not None}

    @property
    def spent(self) -> dict[str, float]:
        """What was spent, `cost_usd` and `tokens`: of that which has a ceiling."""
        return {account.of: account.spent / account.unit for account in self._accounts}

    @property
    def reserved(self) -> dict[str, float]:
        """What is reserved for attempts in flight, `cost_usd` and `tokens`: of that which has a ceiling."""
        return {account.of: account.reserved / account.unit for account in self._accounts}

    def said(self) -> str:
        """In words, what was spent of which ceiling, and what is reserved."""
        with self._lock:
            return "; ".join(account.said() for account in self._accounts) or "no ceiling"

    def count(self, spent: pl.DataFrame) -> None:
        """Counts what attempts at some requests cost before, as `Ledger.spent` tells it: each attempt once.

        What was counted before, or settled here, is not counted again. An attempt of unknown cost counts as much as
        the dearest known one at the same request or, before there is one, as what is reserved for the next.
        """
        unpaid = pl.col("kind").is_in(_UNPAID).fill_null(False)
        for account in self._accounts:
            amount = pl.when(unpaid).then(pl.col(account.of).fill_null(0)).otherwise(account.of)
            amounts = spent.select("key", amount=amount.cast(pl.Float64) * account.unit)
            of_key = pl.col("amount")
            sums = amounts.group_by("key").agg(of_key.sum(), of_key.max().alias("most"), of_key.null_count().alias("n"))
            with self._lock:
                for key, total, most, unknown in sums.iter_rows():
                    account.count(key, round(total), round(most or 0), unknown)

    def reserve(self, key: str, *, tokens: int | None, cost_usd: float | None) -> bool | None:
        """May an attempt be sent that takes at most so much? True: yes, and so much is kept for it.

        False: not now, but others may need less than is kept for them. None: never, even if they needed nothing.
        Raises: BindError when that which has a ceiling is unknown.
        """
        if not self._accounts:
            return True
        given = {"cost_usd": cost_usd, "tokens": tokens}
        asked = [(account, account.asked(given[account.of])) for account in self._accounts]
        with self._lock:
            left = [account.ceiling - account.spent - account.owed(key, most) - most for account, most in asked]
            if min(left) < 0:
                return None
            if any(rest < account.reserved for rest, (account, _) in zip(left, asked, strict=True)):
                return False
            for account, most in asked:
                account.reserve(key, most)
        return True

    def settle(self, reply: Reply) -> None:
        """An attempt at `reply["key"]` ended: what it took replaces what was reserved for it."""
        if not self._accounts:
            return
        key, error = reply["key"], reply.get("error")
        unpaid = error is not None and error["kind"] in _UNPAID
        with self._lock:
            for account in self._accounts:
                took = reply.get("cost_usd") if account.of == "cost_usd" else _tokens(reply)
                account.settle(key, 0 if took is None and unpaid else took)

    def release(self, key: str) -> None:
        """The attempt that was reserved for this key is not sent after all."""
        with self._lock:
            for account in self._accounts:
                account.free(key)

    def __reduce__(self) -> tuple[Any, ...]:
        return _made, (self.max_cost, self.max_tokens_total)


@dataclass
class _Account:
    """One ceiling, in whole units: of what, how many units make one, and what is spent and reserved.

    held: what is reserved, of each key. known, unknown: what of `spent` is of known attempts at a key, and how many
    were of unknown cost: so that the ledger's are not counted again. owing: how many of those wait for a price.
    """

    of: str
    ceiling: int
    unit: float
    text: Callable[[float], str]
    spent: int = 0
    reserved: int = 0
    held: dict[str, list[int]] = field(default_factory=dict)
    known: dict[str, int] = field(default_factory=dict)
    unknown: dict[str, int] = field(default_factory=dict)
    owing: dict[str, int] = field(default_factory=dict)

    def count(self, key: str, total: int, most: int, unknown: int) -> None:
        new = max(0, total - self.known.get(key, 0))
        self.spent += new
        self.known[key] = self.known.get(key, 0) + new
        if more := max(0, unknown - self.unknown.get(key, 0)):
            self.unknown[key] = unknown
            self.owing[key] = self.owing.get(key, 0) + more
        if most and key in self.owing:
            self.spent += self.owing.pop(key) * most

    def asked(self, most: float | None) -> int:
        if most is None:
            raise BindError(_UNBOUNDED[self.of])
        return round(most * self.unit)

    def owed(self, key: str, most: int) -> int:
        """What earlier attempts at the request may have cost: each as much as this one."""
        return self.owing.get(key, 0) * most if self.owing else 0

    def reserve(self, key: str, most: int) -> None:
        self.spent += self.owed(key, most)
        self.owing.pop(key, None)
        self.reserved += most
        self.held.setdefault(key, []).append(most)

    def free(self, key: str) -> int | None:
        amounts = self.held.get(key)
        if amounts is None:
            return None
        most = amounts.pop()
        if not amounts:
            del self.held[key]
        self.reserved -= most
        return most

    def settle(self, key: str, took: float | None) -> None:
        most = self.free(key)
        if took is None:
            self.spent += most or 0
            self.unknown[key] = self.unknown.get(key, 0) + 1
        else:
            amount = round(took * self.unit)
            self.spent += amount
            self.known[key] = self.known.get(key, 0) + amount

    def said(self) -> str:
        spent, ceiling, reserved = (
            self.text(amount / self.unit) for amount in (self.spent, self.ceiling, self.reserved)
        )
        lacking = sum(self.owing.values())
        unsaid = f", {lacking} earlier attempts of unknown cost not counted" if lacking else ""
        return f"{spent} of {ceiling} spent, {reserved} reserved{unsaid}"


_UNBOUNDED = {
    "cost_usd": (
        "max_cost is set, but nobody knows what a request may cost: give prices=(…), US dollars per million tokens of "
        "prompt and completion, to connect, and max_tokens=… to generate_column. Nothing was asked."
    ),
    "tokens": (
        "max_tokens_total is set, but a reply may be of any length: give max_tokens=… to generate_column. "
        "Nothing was asked."
    ),
}


def most_completion(settings: Mapping[str, Any]) -> int | None:
    """The most tokens that a reply with these settings can have; None where nothing says so.

    Some servers heed `max_tokens`, some `max_completion_tokens`: where both are given it is the larger.

    >>> most_completion({"max_tokens": 10, "max_completion_tokens": 500})
    500
    """
    given = (settings.get(name) for name in ("max_tokens", "max_completion_tokens"))
    return max((most for most in given if isinstance(most, int)), default=None)


def most_tokens(messages: str, max_tokens: int | None, *, sampling: str = "") -> tuple[int, int | None]:
    """The most tokens of prompt that a request can have, and of prompt and reply together (None without max_tokens).

    messages: their JSON, as in `frames.REQUESTS`. A byte-level tokenizer makes at most one token of a byte, and the
    JSON is never shorter than the contents; what JSON puts around each message (28 bytes) is more than chat
    templates do (Llama 3: 5 tokens), and 512 tokens are added for a system prompt of the template's own.
    sampling: the JSON of what is sent beside, where it holds tools or a response format, which become part of the
    prompt; it counts twice, for templates write it with blanks.
    An image (an `image_url` part) counts as 48,169 tokens, the most of any model in OpenAI's table, in place of the
    bytes of its data URL.

    >>> most_tokens('[{"content":"hi","role":"user"}]', 100)
    (544, 644)
    """
    sent = messages.encode()
    size = _TOKENS_PER_REQUEST + len(sent) + 2 * len(sampling.encode())
    if images := sent.count(b'"image_url":'):
        size += images * _TOKENS_PER_IMAGE - sum(map(len, _DATA_URL.findall(sent)))
    return size, None if max_tokens is None else size + max_tokens


def _tokens(reply: Reply) -> int | None:
    asked, written = reply.get("prompt_tokens"), reply.get("completion_tokens")
    return None if asked is None or written is None else asked + written


def _amount(name: str, value: object, kind: type) -> float:
    right = isinstance(value, int | kind) and not isinstance(value, bool)
    if not right or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        what = "US dollars, such as 2.5" if kind is float else "a whole number of tokens, such as 1_000_000"
        raise BindError(f"{name}={value!r}: give {what}, or None for no ceiling.")
    return value


def _dollars(amount: float) -> str:
    """With two digits; below a cent, with two that say something."""
    return f"${amount:,.2f}" if amount >= 0.01 or not amount else f"${amount:.2g}"


def _made(max_cost: float | None, max_tokens_total: int | None) -> Budget:
    return Budget(max_cost=max_cost, max_tokens_total=max_tokens_total)

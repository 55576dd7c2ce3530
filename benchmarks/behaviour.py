"""What the benchmark's server does with a request, from (row, attempt) alone, so that every client meets the same.

Latency, fault and reply depend on nothing else: no clock, no chance, no state. That is what makes "requests = rows +
faults" a thing that can be checked, and an ideal schedule a thing that can be computed.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from statistics import NormalDist

__all__ = ["ASKED_AGAIN", "FAULTS", "Behaviour", "ideal_s", "parse_faults", "uniform"]

# In the order in which their rates are laid on [0, 1). `429` says how long to wait, `429_bare` does not; `malformed` is
# a cut JSON body under status 200; `hang` never answers.
FAULTS = ("429", "429_bare", "500", "reset", "truncated", "malformed", "hang")
# A truncated reply is an outcome: it was paid for, and asking again would bring no more.
ASKED_AGAIN = tuple(kind for kind in FAULTS if kind != "truncated")

_NORMAL = NormalDist()
_WORDS = "the quick brown fox jumps over a lazy dog while seven wizards calmly box hex numbers and judge my vow "
_POOL = (_WORDS * 60)[:6000]


def uniform(row: int, attempt: int, salt: str) -> float:
    """A number in [0, 1) that looks random and is always the same."""
    digest = blake2b(b"%s:%d:%d" % (salt.encode(), row, attempt), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


@dataclass(frozen=True)
class Behaviour:
    """How the server treats an attempt (0, 1, …) at a row.

    latency_ms: fixed, or the median of a lognormal distribution when sigma > 0. faults: rates by kind, which hit only
    the first `fault_attempts` attempts. reply_bytes: about the length of a reply. vary_tokens: replies use 1 to
    max_tokens completion tokens, by row.
    """

    latency_ms: float = 50.0
    sigma: float = 0.0
    faults: Mapping[str, float] = field(default_factory=dict)
    fault_attempts: int = 1
    reply_bytes: int = 400
    vary_tokens: bool = False

    def latency_s(self, row: int, attempt: int) -> float:
        if not self.sigma:
            return self.latency_ms / 1000
        middle = min(max(uniform(row, attempt, "latency"), 1e-9), 1 - 1e-9)
        return self.latency_ms / 1000 * 2.718281828459045 ** (self.sigma * _NORMAL.inv_cdf(middle))

    def fault(self, row: int, attempt: int) -> str | None:
        if attempt >= self.fault_attempts or not self.faults:
            return None
        drawn = uniform(row, attempt, "fault")
        for kind in FAULTS:
            drawn -= self.faults.get(kind, 0.0)
            if drawn < 0:
                return kind
        return None

    def planned(self, rows: int) -> Counter[str]:
        """How many first attempts of rows 0, 1, … meet each fault."""
        return Counter(kind for row in range(rows) if (kind := self.fault(row, 0)))

    def tokens(self, row: int, max_tokens: int | None) -> int:
        """The completion tokens that a reply uses."""
        if self.vary_tokens and max_tokens:
            return 1 + int(uniform(row, 0, "tokens") * max_tokens)
        plausible = max(1, self.reply_bytes // 4)
        return min(plausible, max_tokens) if max_tokens else plausible

    def text(self, row: int) -> str:
        """A reply that is told from every other row's; in JSON only its line ends need an escape."""
        filler = max(8, (self.reply_bytes - 60) // 2)
        at, then = row * 37 % 2000, row * 53 % 2000
        task, answer = _POOL[at : at + filler], _POOL[then : then + filler]
        return f"INSTRUCTION: Task {row}: {task}.\nRESPONSE: Answer {row}: {answer}. [END]"


def parse_faults(given: str) -> dict[str, float]:
    """Rates from a command line: `429=0.05,500=0.02`."""
    rates = {kind: float(rate) for kind, _, rate in (part.partition("=") for part in given.split(",") if part)}
    if strange := rates.keys() - set(FAULTS):
        raise ValueError(f"there is no fault {sorted(strange)}; there are {', '.join(FAULTS)}.")
    if not all(0 <= rate <= 1 for rate in rates.values()) or sum(rates.values()) > 1:
        raise ValueError(f"fault rates must be from 0 to 1, and at most 1 together; found {given!r}.")
    return rates


def ideal_s(latencies_s: Iterable[float], slots: int) -> float:
    """Seconds that a greedy list schedule needs: each row, in order, goes to the slot that is free first."""
    busy_until = [0.0] * slots
    for latency in latencies_s:
        heapq.heapreplace(busy_until, busy_until[0] + latency)
    return max(busy_until)

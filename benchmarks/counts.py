"""What the benchmark's server counts, and the rate limits it keeps."""

from __future__ import annotations

import math
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import orjson

__all__ = ["Bucket", "Counts"]


@dataclass
class Counts:
    """What was counted; times are seconds since 1970. By second since the first request: asked, answered, refused with
    429, and the most in flight."""

    requests: int = 0
    answered: int = 0
    refused: int = 0
    dropped: int = 0
    max_in_flight: int = 0
    connections: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    first_at: float | None = None
    last_at: float | None = None
    turned_away: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    attempts_by_row: Counter[int] = field(default_factory=Counter)
    answers_by_row: Counter[int] = field(default_factory=Counter)
    by_second: dict[int, list[int]] = field(default_factory=dict)

    def second(self, now: float) -> list[int]:
        number = int(now - (self.first_at or now))
        return self.by_second.get(number) or self.by_second.setdefault(number, [0, 0, 0, 0])

    @classmethod
    def loaded(cls, file: Path) -> Counts:
        kept = orjson.loads(file.read_bytes())
        for name in ("attempts_by_row", "answers_by_row"):
            kept[name] = Counter({int(row): n for row, n in kept[name].items()})
        seconds = {int(second): counts for second, counts in kept["by_second"].items()}
        return cls(**{**kept, "faults": Counter(kept["faults"]), "by_second": seconds})


@dataclass
class Bucket:
    """A rate limit: so many a minute, of which `burst_s` seconds' worth may come at once."""

    per_minute: float
    burst_s: float
    left: float = 0.0
    at: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.left = self.most

    @property
    def most(self) -> float:
        return self.per_minute * self.burst_s / 60

    def lacks_s(self, amount: float) -> float:
        """Seconds until so much can be taken; 0 when it can be now."""
        now = time.monotonic()
        self.left = min(self.most, self.left + (now - self.at) * self.per_minute / 60)
        self.at = now
        return max(0.0, min(amount, self.most) - self.left) * 60 / self.per_minute

    def headers(self, name: str) -> str:
        full_ms = math.ceil((self.most - self.left) * 60_000 / self.per_minute)
        return (
            f"x-ratelimit-limit-{name}: {self.per_minute:.0f}\r\n"
            f"x-ratelimit-remaining-{name}: {max(0, int(self.left))}\r\n"
            f"x-ratelimit-reset-{name}: {full_ms}ms\r\n"
        )

"""The three domains, as values: the benchmarks that judge them, their prompts and their seeds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import polars as pl

from agora_frames.schemas import CodeInstance, GeneralInstance, MathInstance

__all__ = ["DOMAINS", "Domain", "DomainName", "seeds"]

_HERE = Path(__file__).parent

DomainName = Literal["math", "code", "general"]


@dataclass(frozen=True)
class Domain:
    """One domain: its name, the schema of its instances, and the benchmarks that its students are scored on."""

    name: DomainName
    schema: Any
    benchmarks: tuple[str, str]

    def prompt(self, method: str) -> Path:
        """The prompt of this domain for a method."""
        return _HERE / "prompts" / method / f"{self.name}.jinja"


DOMAINS: dict[str, Domain] = {
    "math": Domain("math", MathInstance, ("gsm8k", "math")),
    "code": Domain("code", CodeInstance, ("mbpp", "humaneval")),
    "general": Domain("general", GeneralInstance, ("alpaca_eval_2", "arena_hard")),
}


def seeds(*, domain: DomainName = "math") -> pl.DataFrame:
    """The domain's seeds that ship with agora_frames: instruction, response, config (String); 30 rows."""
    return pl.read_parquet(_HERE / "seeds" / f"{domain}.parquet")

"""What the tests of ledgers share: scripts that count, segments written by hand, and processes of their own."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import polars as pl

from agora_frames.backends.scripted import scripted
from agora_frames.ledger import LEDGER, Ledger
from agora_frames.remembered import remembered
from agora_frames.stages.generate import generate_column


def prompts(n: int) -> pl.DataFrame:
    return pl.DataFrame({"row_id": [f"r{i}" for i in range(n)], "prompt": [f"p{i}" for i in range(n)]})


class Asked:
    """A script that answers in capitals, or as told, and counts what it was asked."""

    def __init__(self, **said: Any) -> None:
        self.said = said
        self.prompts: list[str] = []

    def __call__(self, messages: list[dict[str, str]]) -> Any:
        prompt = messages[-1]["content"]
        self.prompts.append(prompt)
        return self.said.get(prompt, prompt.upper())


@dataclass(frozen=True)
class Stub:
    stream: Callable[[pl.DataFrame], Iterator[pl.DataFrame]]
    endpoint: str = "scripted"
    model: str = "scripted"

    def __call__(self, requests: pl.DataFrame, /) -> Iterator[pl.DataFrame]:
        return self.stream(requests)


def run(ledger: Ledger, script: Any, df: pl.DataFrame, **options: Any) -> pl.DataFrame:
    return generate_column(df, backend=remembered(scripted(script), ledger=ledger), **options)


def line(**fields: Any) -> bytes:
    """A line of a segment, as `append` writes it."""
    row = dict.fromkeys(LEDGER) | {"retried": False, "text": "t", "at": 1.0, **fields}
    return orjson.dumps(row) + b"\n"


def segment(folder: Path, content: bytes, name: str = "20260101T000000-1-a.jsonl") -> Ledger:
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(content)
    return Ledger(folder)


def segments(ledger: Ledger) -> list[str]:
    """The names of the segments that are no Parquet yet, oldest first."""
    return [file.name for file in ledger.place.files() if file.name.endswith(".jsonl")]


def keys(ledger: Ledger) -> list[str | None]:
    return ledger.frame()["key"].to_list()


def child(code: str, *args: object) -> subprocess.CompletedProcess[str]:
    """Runs code in a process of its own, which must end well."""
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, args)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=25)
    assert done.returncode == 0, done.stderr
    return done

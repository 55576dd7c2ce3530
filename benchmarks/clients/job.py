"""The job that every client does: seeds, prompt, what counts as valid, command line and report."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import orjson
import polars as pl

__all__ = ["TEMPLATE", "arguments", "judged", "known", "report", "seeds", "written"]

_MARKERS = ("INSTRUCTION:", "RESPONSE:", "[END]")

# About 830 bytes when it is filled; `#…#` tells the server which row it is.
TEMPLATE = """\
You are {{ persona }}. Write one {{ difficulty }} task on {{ topic }} for {{ audience }}, and its solution.
The task must stand on its own: whoever reads it sees neither this text nor the example below. It must have one \
answer, which can be checked. Name every quantity before it is used, and leave out what is not needed. The solution \
shows each step, and ends with the result alone.
{% if hint %}
Hint: {{ hint }}
{% endif %}
Here is one on the same topic:
<example>
{{ example }}
</example>
Do not repeat the example, nor change only its numbers. Think about what makes a task worth doing, then write it down.
Answer in this form, and write nothing after the last marker:
INSTRUCTION: the task
RESPONSE: the solution [END]
(request #{{ row }}#)
"""


def seeds(rows: int) -> pl.DataFrame:
    """Rows 0, 1, … with the six fields that the template names."""
    n = pl.col("row").cast(pl.String)
    return pl.DataFrame({"row": pl.int_range(rows, eager=True)}).with_columns(
        persona=pl.format("teacher {}", n),
        difficulty=pl.lit("hard"),
        topic=pl.format("topic {}", n),
        audience=pl.lit("undergraduates"),
        hint=pl.when(pl.col("row") % 2 == 0).then(pl.format("think of {}", n)),
        example=pl.format("Let $x = {}$. What is $x^2 + x + 1$? Show each step, and then the result alone.", n),
    )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", required=True, help="http://127.0.0.1:PORT/v1")
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--concurrency", type=int, default=64, help="0: the client's own choice")
    parser.add_argument("--out", type=Path, required=True, help="the Parquet file to write")
    parser.add_argument("--folder", type=Path, required=True, help="where answers are kept for the next run")
    parser.add_argument("--max-tokens", type=int, default=256)
    parser.add_argument("--timeout-s", type=float, default=600.0)
    return parser.parse_args()


def known(log: Path) -> dict[int, list[Any]]:
    """What an earlier run has logged: row to text and finish reason. A torn last line is left out."""
    if not log.exists():
        return {}
    content = log.read_bytes()
    lines = content[: content.rfind(b"\n") + 1].splitlines()
    return {row: said for row, *said in map(orjson.loads, lines)}


def judged(row: int, text: str | None, finish: str | None) -> tuple[int, str | None, str | None, str, str | None]:
    """The fields of a reply by `str.split`, and whether they are valid."""
    if finish == "length":
        return row, None, None, "failed", "truncated"
    head, marker, rest = (text or "").partition(_MARKERS[1])
    if not marker or _MARKERS[0] not in head:
        return row, None, None, "rejected", "unparsed"
    instruction, response = head.split(_MARKERS[0])[1].strip(), rest.split(_MARKERS[2])[0].strip()
    bad = not instruction or not response or instruction == response
    if bad or any(marker in field for marker in _MARKERS for field in (instruction, response)):
        return row, instruction, response, "rejected", "invalid"
    return row, instruction, response, "accepted", None


def written(replies: dict[int, list[Any]], rows: int, out: Path) -> None:
    """Parses and checks the replies, and writes them as Parquet in the order of the rows."""
    fields = {
        "row": pl.Int64,
        "instruction": pl.String,
        "response": pl.String,
        "outcome": pl.String,
        "reason": pl.String,
    }
    pl.DataFrame([judged(row, *replies[row]) for row in range(rows)], schema=fields, orient="row").write_parquet(out)


def report(asked_at: float, **more: Any) -> None:
    """The last line that a client prints."""
    loaded = [name for name in ("aiohttp", "httpx", "httpx2", "openai", "pyreqwest") if name in sys.modules]
    sys.stdout.write(
        orjson.dumps({"asked_at": asked_at, "ended_at": time.time(), "http": loaded, **more}).decode() + "\n"
    )

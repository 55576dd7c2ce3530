"""What a row costs without a model: render, parse, validate and hash, for 100,000 rows.

    python benchmarks/rows.py            # 5 runs, medians
    python benchmarks/rows.py 20000 3    # rows, runs

Prints a table of CPU seconds (of all threads), wall seconds and rows per second of wall time.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import pandera.polars as pa
import polars as pl

from agora_frames.hashing import frame_hash, row_hashes
from agora_frames.stages.checks import not_blank
from agora_frames.stages.parse import parse_column
from agora_frames.stages.parsers import json_object, split_on
from agora_frames.stages.prompt import render_prompts
from agora_frames.stages.rows import with_row_ids
from agora_frames.stages.validate import validate

TEMPLATE = """\
You are {{ persona }}. Write a {{ difficulty }} question on {{ topic }} for {{ audience }}.
{{ rules }}
Here is one on the same topic:
<example>
{{ example }}
</example>
"""
WITH_A_CONDITION = TEMPLATE + "{% if hint %}\nHint: {{ hint }}\n{% endif %}\n"
TEXT = "Let $x$ be a number, neither 0 nor 1. What is $x^2 + x + 1$? Show each step, then the result, as in № 7. "


class Pair(pa.DataFrameModel):
    instruction: str = pa.Field(str_length={"max_value": 2_000})
    response: str = pa.Field(str_length={"max_value": 2_000})

    @pa.check("response")
    def said(cls, data: pa.PolarsData) -> pl.LazyFrame:
        return data.lazyframe.select(not_blank(data.key))


def frame(rows: int) -> pl.DataFrame:
    """Seeds of six fields, and replies in two forms: 900 bytes of marked text, 750 bytes of JSON."""
    n = pl.col("n")
    pair = [pl.concat_str(pl.lit(TEXT * times), n) for times in (3, 5)]
    json_pair = [pl.concat_str(pl.lit(TEXT * times), n) for times in (3, 3)]
    return pl.select(n=pl.int_range(rows).cast(pl.String)).select(
        persona=pl.format("teacher {}", n),
        difficulty=pl.lit("hard"),
        topic=pl.format("topic {}", n),
        audience=pl.lit("undergraduates"),
        rules=pl.lit(TEXT * 2),
        hint=pl.when(pl.int_range(pl.len()) % 2 == 0).then(pl.format("think of {}", n)),
        example=pl.concat_str(pl.lit(TEXT * 3), n),
        reply=pl.format("INPUT: {}\nOUTPUT: {}\n[END]", *pair),
        reply_json=pl.format('{{"instruction": "{}", "response": "{}", "score": {}, "share": 0.25}}', *json_pair, n),
        instruction=pair[0],
        response=pair[1],
    )


def n_bytes(texts: pl.Series) -> float:
    return float(texts.str.len_bytes().sum()) / len(texts)


def measured(df: pl.DataFrame) -> dict[str, Callable[[], object]]:
    """What is run, by the name of its line."""
    marked = split_on("INPUT:", "OUTPUT:", end="[END]")
    from_json = json_object("instruction", "response", "score", "share")
    typed = {"i": pl.String, "r": pl.String, "score": pl.Int64, "share": pl.Float64}
    broken = (
        pl.when(pl.int_range(pl.len()) % 100 == 7)
        .then(pl.lit('{"instruction": "a", "response": "b", "score": 1, "share": 0.5, oh}'))
        .otherwise("reply_json")
    )
    one_in_100 = df.select(broken.alias("reply_json"))
    texts, pairs = df.select("reply"), df.select("instruction", "response")
    both = df.select("reply", "reply_json")
    print(f"replies of {n_bytes(df['reply']):.0f} B, JSON of {n_bytes(df['reply_json']):.0f} B")
    print(f"frame hash of {both.estimated_size() / 1e6:.0f} MB")
    return {
        "render, 6 variables": lambda: render_prompts(df, template=TEMPLATE),
        "render, as a chat": lambda: render_prompts(df, template=TEMPLATE, system="You are {{ persona }}."),
        "render, with a condition": lambda: render_prompts(df, template=WITH_A_CONDITION),
        "parse, split_on": lambda: parse_column(texts, column="reply", parser=marked, into=("i", "r")),
        "parse, by calls": lambda: parse_column(texts, column="reply", parser=marked.__call__, into=("i", "r")),
        "JSON, 4 columns": lambda: parse_column(df, column="reply_json", parser=from_json, into=typed),
        "JSON, 1 in 100 broken": lambda: parse_column(one_in_100, column="reply_json", parser=from_json, into=typed),
        "JSON, by calls": lambda: parse_column(df, column="reply_json", parser=from_json.__call__, into=typed),
        "validate, 3 rules": lambda: validate(pairs, schema=Pair),
        "row keys": lambda: row_hashes(texts),
        "row ids": lambda: with_row_ids(texts),
        "frame hash": lambda: frame_hash(both),
    }


def median(run: Callable[[], object], runs: int) -> tuple[float, float]:
    """CPU and wall seconds."""
    cpu, wall = [], []
    for _ in range(runs):
        cpu_begun, begun = time.process_time(), time.perf_counter()
        run()
        cpu.append(time.process_time() - cpu_begun)
        wall.append(time.perf_counter() - begun)
    return statistics.median(cpu), statistics.median(wall)


if __name__ == "__main__":
    rows, runs = (int(given) for given in (sys.argv[1:] + ["100000", "5"][len(sys.argv) - 1 :]))
    print(f"{rows:,} rows, median of {runs}, Polars {pl.__version__} with {pl.thread_pool_size()} threads")
    lines = measured(frame(rows))
    print(f"\n{'':26}{'CPU s':>8}{'wall s':>8}{'rows/s':>12}")
    for name, run in lines.items():
        cpu_s, wall_s = median(run, runs)
        print(f"{name:26}{cpu_s:8.3f}{wall_s:8.3f}{rows / wall_s:12,.0f}")

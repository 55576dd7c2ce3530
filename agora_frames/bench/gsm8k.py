"""GSM8K: 1,319 word problems of primary school, each with one number for an answer.

Source: Cobbe et al. 2021, arXiv 2110.14168; data https://github.com/openai/grade-school-math (MIT), on the hub as
openai/gsm8k. Decoding: AgoraBench, arXiv 2412.03679v2, table 6. The prompts and demonstrations are our own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypeAlias

import polars as pl

from agora_frames.bench.benchmark import MATH_DECODING, PROMPTS, UNREAD, Benchmark, Prompt, Source, load_rows
from agora_frames.compose import recipe
from agora_frames.errors import BindError, FrameError
from agora_frames.stages.grade import grade_equal
from agora_frames.stages.numbers import last_number, number_after
from agora_frames.stages.parse import parse_column
from agora_frames.stages.prompt import template_file
from agora_frames.types import Parser

__all__ = ["Extraction", "gsm8k", "load_gsm8k"]

Extraction: TypeAlias = Literal["flexible", "strict"]

SOURCE = Source("openai/gsm8k", "e53f048856ff4f594e959d75785d2c2d37b678ee", configs=("main",))
# Ours ends with `#### 18`, as the data do; a student of AgoraBench's math data with `[RESULT] 18 [/RESULT]`.
MARKERS = ("####", "[RESULT]")


def gsm8k(*, extraction: Extraction = "flexible", wrong: tuple[str, ...] = UNREAD) -> Benchmark:
    """GSM8K by accuracy.

    extraction: `flexible` takes the last number of a reply; `strict` the one right after its last `####` or `[RESULT]`.
    Commas, currencies and units are no hindrance, and numbers are compared as numbers: `$18.00` is 18.
    wrong: the kinds of errors for which a reply counts as wrong: by default, replies that are there and give no
    number; one that never came leaves its item without a score.
    `few` shows eight worked problems as one text that the reply goes on with; a base model must be served with a chat
    template that passes the text on as it is.
    """
    parsers: dict[Extraction, Parser] = {"flexible": last_number(), "strict": number_after(*MARKERS)}
    if extraction not in parsers:
        raise BindError(f"gsm8k(extraction={extraction!r}): it must be 'flexible' or 'strict'.")
    return Benchmark(
        name="gsm8k",
        source=SOURCE,
        load=load_gsm8k,
        prompts={
            "zero": Prompt(template_file(PROMPTS / "gsm8k_zero.jinja")),
            "few": Prompt(template_file(PROMPTS / "gsm8k_few.jinja"), stop=("\nQuestion:",)),
        },
        decoding=MATH_DECODING,
        grade=recipe(
            parse_column(column="completion", parser=parsers[extraction], into="answer"),
            grade_equal(),
            name=f"grade_gsm8k_{extraction}",
        ),
        wrong=wrong,
    )


def load_gsm8k(given: str | Path | None = None) -> pl.DataFrame:
    """The items: `item_id` (the place in the file), `question`, `solution`, `reference` (the number in plain form).

    given: a file of the official form (`question`, `answer`, which ends with `#### 18`), or None for the source.
    Raises: FrameError when a row has no reference.
    """
    rows = load_rows(SOURCE, given, "question", "answer")
    items = rows.select(
        pl.int_range(pl.len()).cast(pl.String).alias("item_id"), "question", pl.col("answer").alias("solution")
    )
    items = items.pipe(parse_column, column="solution", parser=number_after("####"), into="reference")
    if (lacking := items.filter(pl.col("reference").is_null())).height:
        raise FrameError(
            f"{given or SOURCE.dataset} has {lacking.height} rows whose answer has no number after '####', the first "
            f"in row {lacking['item_id'][0]}: {lacking['solution'][0]!r:.200}. Is it GSM8K?"
        )
    return items.drop("solution_parse_error")

"""The rows that PGR reads are judged by their schemas."""

from __future__ import annotations

import polars as pl

from agora_frames.frames import ERROR
from agora_frames.schemas import LabelledItem, LabelledScore
from agora_frames.stages.validate import validate


def rows() -> pl.DataFrame:
    return pl.DataFrame(
        {
            "role": ["base", "student", "student", "teacher"],
            "generator": [None, "G", None, None],
            "method": [None, "m", "m", None],
            "benchmark": "gsm8k",
            "item_id": "1",
            "sample": pl.Series([0] * 4, dtype=pl.Int64),
            "score": [0.0, 1.0, 0.5, 2.0],
            "score_error": pl.Series([None] * 4, dtype=ERROR),
            "weight": 1.0,
        }
    )


def test_an_item_says_whose_it_is() -> None:
    assert validate(rows(), schema=LabelledItem)["failures"].to_list() == [
        [],
        [],
        ["student_is_named"],
        ["score: less_than_or_equal_to(1)", "role: isin(('base', 'student', 'reference'))"],
    ]


def test_a_score_in_points_says_whose_it_is() -> None:
    points = rows().drop("item_id", "sample", "score_error", "weight")
    assert validate(points, schema=LabelledScore)["valid"].to_list() == [True, True, False, False]

"""`agora pgr` prints the table of a file of scores, and says what is missing in it."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from agora_frames.cli import main


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path


def points(**labels: str) -> pl.DataFrame:
    """Two math benchmarks: PGRs of 50 and 100, and of 60 for the mean score."""
    rows = [("gsm8k", 20.0, 40.0, 60.0), ("math", 10.0, 20.0, 20.0)]
    made = pl.DataFrame(
        [
            {"role": role, "benchmark": name, "score": score, "generator": "G" if role == "student" else None}
            for name, *scores in rows
            for role, score in zip(("base", "student", "reference"), scores, strict=True)
        ],
        infer_schema_length=None,
    )
    return made.with_columns(pl.lit(value).alias(name) for name, value in labels.items())


def items() -> pl.DataFrame:
    right = {"base": 10, "student": 50, "reference": 90}
    return pl.DataFrame(
        [
            {"role": role, "generator": "G", "benchmark": "gsm8k", "item_id": str(i), "score": float(i < n)}
            for role, n in right.items()
            for i in range(100)
        ]
    )


def printed(capsys: pytest.CaptureFixture[str], *args: str) -> list[list[str]]:
    """The cells of the rows of the table, without those that are empty; the first one as it is indented."""
    assert main(["pgr", *args]) == 0
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    after = lines[next(n for n, line in enumerate(lines) if line.endswith("───")) + 1 :]
    return [re.split(r"(?<=\S) {2,}", line[1:]) for line in itertools.takewhile(bool, after)]


def test_below_each_whole_are_its_parts(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    points(method="m").write_parquet("scores.parquet")
    assert printed(capsys, "scores.parquet") == [
        ["G", "75.0"],
        ["  m", "75.0"],
        ["    math", "75.0"],
        ["      gsm8k", "50.0", "20.0", "40.0", "60.0"],
        ["      math", "100.0", "10.0", "20.0", "20.0"],
    ]


def test_the_scopes_are_those_asked_for_and_what_has_no_line_is_named(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    points(method="m").write_csv("scores.csv")
    assert printed(capsys, "scores.csv", "--by", "method,domain") == [["G / m", "75.0"], ["  math", "75.0"]]


def test_the_table_fits_into_eighty_columns(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    names = pl.col("generator").replace("G", "gpt-4o-mini-2024-07-18")
    items().with_columns(names, method=pl.lit("quality_enhancement")).write_parquet("scores.parquet")
    rows = printed(capsys, "scores.parquet", "--bootstrap", "100")
    assert [row[0] for row in rows] == ["gpt-4o-mini-2024-07-18", "  quality_enhancement", "    math", "      gsm8k"]


def test_a_domain_is_combined_as_asked_for_and_the_table_says_how(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    points().write_parquet("scores.parquet")
    assert main(["pgr", "scores.parquet", "--combine", "pgr-of-mean", "--by", "domain"]) == 0
    said = capsys.readouterr().out
    assert "60.0" in said and "a domain is the PGR of its benchmarks' mean scores" in said
    assert main(["pgr", "scores.parquet"]) == 0
    assert "a domain is the mean of its benchmarks' PGRs" in capsys.readouterr().out


def test_items_have_intervals_and_benchmarks_have_none(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    items().write_parquet("items.parquet")
    ((*_, interval, _se),) = printed(capsys, "items.parquet", "--by", "overall", "--bootstrap", "200")
    low, high = map(float, interval.split(" to "))
    assert 30 < low < 50 < high < 70
    ((*_, pgr, _se),) = printed(capsys, "items.parquet", "--by", "overall", "--bootstrap", "0")
    assert pgr == "50.0"


def test_what_is_missing_is_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    points().filter(~((pl.col("role") == "base") & (pl.col("benchmark") == "math"))).write_parquet("scores.parquet")
    assert main(["pgr", "scores.parquet"]) == 0
    said = capsys.readouterr().out
    assert "1 of them without an overall PGR" in said
    assert "missing scores: no graded score of base on math" in said


def test_all_columns_are_written_where_asked(folder: Path) -> None:
    points().write_parquet("scores.parquet")
    assert main(["pgr", "scores.parquet", "--by", "overall", "--output", "pgr.parquet"]) == 0
    assert {"pgr", "flags", "pgr_error", "combine"} <= set(pl.read_parquet("pgr.parquet").columns)
    assert pl.read_parquet("pgr.parquet")["scope"].n_unique() == 3


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        (pl.col("role").replace("student", "base").alias("role"), "has no scores of a student"),
        (pl.lit("Student").alias("role"), "did you mean 'student'"),
        (pl.lit("high").alias("score"), "reads the column 'score' as numbers, but it is String"),
        (pl.lit(None, dtype=pl.String).alias("benchmark"), "rows without a benchmark"),
        (pl.lit("gsm9k").alias("benchmark"), "does not know the domain of 'gsm9k'"),
    ],
)
def test_a_file_of_something_else_is_refused_in_words(
    changed: pl.Expr, told: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    students_only = pl.col("role") == "student"
    points().filter(students_only).head(1).with_columns(changed).write_parquet("scores.parquet")
    assert main(["pgr", "scores.parquet"]) == 1
    assert told in " ".join(capsys.readouterr().err.split())


def test_scores_that_say_of_nobody_whose_they_are_name_the_option_that_does(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    points().drop("role").write_parquet("scores.parquet")
    assert main(["pgr", "scores.parquet"]) == 1
    assert "--label role=student" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["--by", "domian"], "did you mean 'domain'"),
        (["--combine", "mean"], "'mean-of-pgr', 'pgr-of-mean'"),
        (["--labels", "model"], "reads the column 'model'"),
        (["--bootstrap", "-1"], "0 makes no intervals"),
    ],
)
def test_a_wrong_option_is_an_error_of_use(
    args: list[str], told: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    points().write_parquet("scores.parquet")
    assert main(["pgr", "scores.parquet", *args]) == 1
    assert told in " ".join(capsys.readouterr().err.split())


def test_the_command_runs_as_a_program(folder: Path) -> None:
    points().write_parquet("scores.parquet")
    program = [sys.executable, "-c", "import sys; from agora_frames.cli import main; sys.exit(main())"]
    done = subprocess.run([*program, "pgr", "scores.parquet"], capture_output=True, text=True, check=True)
    assert "Performance gap recovered" in done.stdout

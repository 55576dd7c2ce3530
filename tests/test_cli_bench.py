"""`agora evaluate`: a model is put through a benchmark from the command line."""

from __future__ import annotations

import sys
from pathlib import Path

import polars as pl
import pytest

import agora_frames as af
from agora_frames.cli import main
from agora_frames.frames import ITEM_SCORES, REPORT

SCRIPT = """
def right(messages):
    return "#### " + str(len(messages[-1]["content"].split("?")[0].split()))

def wrong(messages):
    return "I cannot tell."
"""

# Three models that know the first 4, 10 and 16 of the published answers.
ANSWERING = """
import polars as pl

ROWS = pl.read_ndjson({source!r}).rows(named=True)

def first(messages, known):
    place, row = next((i, row) for i, row in enumerate(ROWS) if row["question"] in messages[-1]["content"])
    return row["answer"] if place < known else "The answer is #### -1"

def base(messages):
    return first(messages, 4)

def student(messages):
    return first(messages, 10)

def reference(messages):
    return first(messages, 16)
"""


@pytest.fixture(autouse=True)
def _in_a_folder_with_items(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three questions whose answer is the number of their words, and two models as scripts."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.delenv("AGORA_LEDGER", raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    Path("counting.py").write_text(SCRIPT)
    monkeypatch.delitem(sys.modules, "counting", raising=False)
    questions = ["How many words?", "And how many words here?", "Words?"]
    rows = [{"question": q, "answer": f"Counted. #### {len(q.split())}"} for q in questions]
    af.write_frame(pl.DataFrame(rows), "gsm8k.jsonl")


def agora(*args: str, model: str = "right") -> int:
    return main(["evaluate", "gsm8k", "--backend", f"scripted:counting:{model}", "--source", "gsm8k.jsonl", *args])


def cells(said: str) -> list[list[str]]:
    """The rows of the printed tables, without their heads."""
    rows = [row for row in said.splitlines() if row.startswith("│")]
    return [[cell.strip() for cell in row.strip("│").split("│")] for row in rows]


def test_the_score_is_printed_and_nothing_is_written_unasked(capsys: pytest.CaptureFixture[str]) -> None:
    assert agora() == 0
    said = capsys.readouterr().out
    assert ["gsm8k", "zero", "accuracy", "100.0", "43.9 to 100.0", "3", "0", "0"] in cells(said)
    assert "3 calls made, 0 replies from the ledger" in said
    assert {path.name for path in Path().iterdir()} - {"__pycache__"} == {".agora", "counting.py", "gsm8k.jsonl"}


def test_a_second_run_makes_no_call(capsys: pytest.CaptureFixture[str]) -> None:
    assert agora() == agora() == 0
    assert "0 calls made, 3 replies from the ledger" in capsys.readouterr().out


def test_replies_that_cannot_be_read_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert agora(model="wrong") == 0
    said = capsys.readouterr().out
    assert "score: unparsed" in said
    assert ["gsm8k", "zero", "accuracy", "0.0", "0.0 to 56.1", "3", "0", "3"] in cells(said)


def test_rows_scores_and_report_are_written() -> None:
    assert agora("--output", "rows.parquet", "--scores", "scores.parquet", "--report", "report.parquet") == 0
    assert {"prompt", "completion", "completion_call", "score"} <= set(af.read_frame("rows.parquet").columns)
    assert af.read_frame("scores.parquet").schema == ITEM_SCORES
    (row,) = af.read_frame("report.parquet").to_dicts()
    assert set(row) == {*REPORT, "date"}
    assert (row["benchmark"], row["score"], row["n"]) == ("gsm8k", 100, 3)
    assert row["revision"] == "a file that was given"
    assert row["seconds"] > 0


def test_scores_of_several_runs_stand_in_one_file_and_a_run_again_takes_its_own_place() -> None:
    for role, model, limit in (("base", "wrong", 3), ("student", "right", 2), ("student", "right", 3)):
        args = ("--scores", "scores.parquet", "--report", "report.parquet", "--label", f"role={role}")
        assert agora(*args, "--limit", str(limit), model=model) == 0
    scores = af.read_frame("scores.parquet")
    assert scores.group_by("role", maintain_order=True).agg(pl.col("score").sum(), pl.len()).rows() == [
        ("base", 0.0, 3),
        ("student", 3.0, 3),
    ]
    assert af.read_frame("report.parquet").select("role", "n").rows() == [("base", 3), ("student", 2), ("student", 3)]


def test_scores_with_further_labels_leave_those_without_alone() -> None:
    assert agora("--scores", "scores.parquet") == 0
    assert agora("--scores", "scores.parquet", "--label", "role=base") == 0
    assert agora("--scores", "scores.parquet", "--label", "role=base") == 0
    assert af.read_frame("scores.parquet")["role"].to_list() == [None] * 3 + ["base"] * 3


def test_rows_that_were_kept_for_something_else_are_not_written_over(capsys: pytest.CaptureFixture[str]) -> None:
    assert agora("--output", "rows.parquet") == 0
    before = Path("rows.parquet").read_bytes()
    assert agora("--scores", "rows.parquet") == 1
    assert "'completion_call'" in capsys.readouterr().err
    assert Path("rows.parquet").read_bytes() == before


def test_labels_are_kept_as_they_were_typed() -> None:
    assert agora("--scores", "scores.parquet", "--label", "generator=1e3", "--label", "train_seed=01") == 0
    assert af.read_frame("scores.parquet").select("generator", "train_seed").unique().rows() == [("1e3", "01")]


def test_reports_of_several_runs_stand_in_a_csv_file_too() -> None:
    for _ in range(2):
        assert agora("--report", "report.csv", "--label", "role=base", "--label", "train_seed=1") == 0
    assert af.read_frame("report.csv").select("role", "train_seed", "n").rows() == [("base", 1, 3)] * 2


def test_the_scores_of_three_models_become_a_pgr(shared_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The whole way: base, student and reference answer real items, and the table tells how far the student went."""
    source = str(shared_data / "gsm8k/test_rows_0000-0659.jsonl")
    Path("answering.py").write_text(ANSWERING.format(source=source))
    common = ["evaluate", "gsm8k", "--source", source, "--limit", "20", "--scores", "scores.parquet"]
    roles = {"base": [], "student": ["--label", "generator=gpt-4o"], "reference": []}
    for role, further in roles.items():
        model = f"scripted:answering:{role}"
        assert (
            main([*common, "--backend", model, "--report", "report.parquet", "--label", f"role={role}", *further]) == 0
        )
    capsys.readouterr()
    for file in ("scores.parquet", "report.parquet"):
        assert main(["pgr", file]) == 0
        lines = [line.split() for line in capsys.readouterr().out.splitlines()]
        (benchmark,) = (line for line in lines if line[:1] == ["gsm8k"])
        assert next(line[:2] for line in lines if line[:1] == ["gpt-4o"]) == ["gpt-4o", "50.0"]
        assert (benchmark[1], benchmark[-3:]) == ("50.0", ["20.0", "50.0", "80.0"])


def test_a_plan_says_what_would_be_asked_and_asks_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert agora("--plan", "--shots", "few", "--samples", "2", "--output", "rows.parquet") == 0
    said = capsys.readouterr().out
    assert ["to_ask", "6"] in cells(said)
    assert not Path("rows.parquet").exists()
    assert agora("--offline") == 1


def test_options_and_decoding_reach_the_benchmark() -> None:
    assert agora("--option", "extraction=strict", "--decoding", "extra=None", "--report", "report.parquet") == 0
    assert af.read_frame("report.parquet")["decoding"][0] == '{"max_tokens": 1024, "temperature": 0.2, "top_p": 0.95}'


def test_a_judge_is_asked_under_the_same_ledger_and_ceiling(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"instruction": f"Say {i}.", "output": "No.", "generator": "baseline"} for i in range(3)]
    af.write_frame(pl.DataFrame(rows), "alpaca.jsonl")
    args = ["evaluate", "alpaca_eval", "--source", "alpaca.jsonl", "--backend", "scripted:counting:right"]
    assert main([*args, "--judge", "scripted:counting:wrong", "--report", "report.parquet", "--max-cost", "1"]) == 0
    assert "6 calls made" in capsys.readouterr().out
    (row,) = af.read_frame("report.parquet").to_dicts()
    assert (row["metric"], row["n"], row["n_failed"]) == ("win_rate", 3, 3)  # a judge that says nothing of use
    assert len(row["judge"]) == 32


@pytest.mark.slow
def test_code_is_run_when_that_is_allowed(shared_data: Path) -> None:
    source = str(shared_data / "humaneval/HumanEval.jsonl.gz")
    args = ["evaluate", "humaneval", "--source", source, "--limit", "2", "--backend", "scripted:counting:wrong"]
    args += ["--samples", "3", "--option", "ks=(1, 3)", "--allow-unsafe-code", "--report", "report.parquet"]
    assert main(args) == 0
    told = af.read_frame("report.parquet").select("metric", "score", "n", "samples")
    assert told.rows() == [("pass@1", 0.0, 2, 3), ("pass@3", 0.0, 2, 3)]


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["evaluate", "gsm8"], "did you mean 'gsm8k'?"),
        (["evaluate", "humaneval"], "If you accept that: --allow-unsafe-code."),
        (["evaluate", "arena_hard"], "needs a model that judges: --judge"),
        (["evaluate", "gsm8k", "--option", "extractio=strict"], "did you mean 'extraction'?"),
        (["evaluate", "gsm8k", "--option", "strict"], "must read NAME=VALUE, such as extraction=strict"),
        (["evaluate", "gsm8k", "--source", "gsm8.jsonl"], "did you mean 'gsm8k.jsonl'?"),
        (["evaluate", "gsm8k", "--source", "gsm8k.jsonl", "--limit", "0"], "at least 1, not 0"),
        (["evaluate", "gsm8k", "--source", "gsm8k.jsonl", "--label", "score=1", "--scores", "s.parquet"], "'score'"),
        (["evaluate", "gsm8k", "--source", "gsm8k.jsonl", "--label", "n=1", "--report", "r.parquet"], "'n'"),
        (["evaluate", "gsm8k", "--source", "gsm8k.jsonl", "--output", "rows.csv"], "is csv, which cannot hold"),
        (["evaluate", "gsm8k", "--source", "gsm8k.jsonl", "--scores", "counting.py"], "of no known format"),
        (["evaluate", "gsm8k", "--source", "gsm8k.jsonl", "--scores", "scores.csv"], "is csv, which cannot hold"),
        (["evaluate", "gsm8k", "--source", "gsm8k.jsonl", "--scores", "gsm8k.jsonl"], "lacks 'benchmark', 'item_id'"),
        (["evaluate", "gsm8k", "--source", "gsm8k.jsonl", "--report", "gsm8k.jsonl"], "lacks 'benchmark', 'revision'"),
        (["evaluate", "gsm8k", "--source", "gsm8k.jsonl", "--scores", "a.parquet", "--report", "a.parquet"], "own"),
        (["evaluate", "gsm8k", "--source", "gsm8k.jsonl", "--label", "role=studnet"], "did you mean 'student'?"),
        (["evaluate", "gsm8k", "--source", "gsm8k.jsonl", "--backend-option", "api_key=1"], "OPENAI_API_KEY"),
    ],
)
def test_what_cannot_be_done_is_told_before_anything_is_asked(
    args: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*args, "--backend", "scripted:counting:right"]) == 1
    assert told in " ".join(capsys.readouterr().err.split())
    assert not Path(".agora").exists()

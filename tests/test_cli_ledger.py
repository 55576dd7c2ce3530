"""`agora ledger`: what was called, spent and failed; and what becomes of files that are damaged or needed no more."""

from __future__ import annotations

import os
import pty
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import polars as pl
import pytest
from ledgers import line

from agora_frames.cli import main
from agora_frames.ledger import LEDGER, Ledger

MONDAY, TUESDAY = datetime(2026, 11, 16, 12, tzinfo=UTC), datetime(2026, 11, 17, 12, tzinfo=UTC)
FIRST, SECOND = "20261116T120000-1-a.jsonl", "20261117T120000-1-b.jsonl"
GOOD = {"error": None, "prompt_tokens": 10, "completion_tokens": 5, "cost_usd": 0.25}
LIMITED = {"text": None, "error": {"kind": "rate_limited", "message": "later"}, "retried": True, "cost_usd": 0.0}
TIMEOUT = {"text": None, "error": {"kind": "timeout", "message": "late"}}


def attempt(key: str, at: datetime, **fields: Any) -> bytes:
    named = {"recipe": "math", "run": "monday", "model": "small", "endpoint": "http://h/v1"}
    return line(key=key, at=at.timestamp(), **{**named, **GOOD, **fields})


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A ledger of two days and recipes, in two segments, at the place where the command looks for it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "220")
    monkeypatch.delenv("AGORA_LEDGER", raising=False)
    made = tmp_path / ".agora" / "ledger"
    made.mkdir(parents=True)
    first = attempt("a", MONDAY, **LIMITED) + attempt("a", MONDAY) + attempt("b", MONDAY)
    other = {"recipe": "chat", "run": "tuesday", "model": "large"}
    (made / FIRST).write_bytes(first)
    (made / SECOND).write_bytes(attempt("c", TUESDAY, **other) + attempt("d", TUESDAY, **other, **TIMEOUT))
    return made


def cells(said: str) -> list[list[str]]:
    """The rows of a printed table, without its head."""
    rows = [row for row in said.splitlines() if row.startswith("│")]
    return [[cell.strip() for cell in row.strip("│").split("│")] for row in rows]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


# What was called


@pytest.mark.parametrize(
    ("by", "named"),
    [
        (["--by", "run"], [["monday"], ["tuesday"]]),
        (["--by", "day"], [["2026-11-16"], ["2026-11-17"]]),
        (["--by", "recipe,model"], [["math", "small"], ["chat", "large"]]),
        (["--by", " recipe , model "], [["math", "small"], ["chat", "large"]]),
        ([], [["math", "small"], ["chat", "large"]]),
        (["--by", "endpoint"], [["http://h/v1"]]),
        (["--by", ""], [[]]),
    ],
    ids=str,
)
@pytest.mark.usefixtures("folder")
def test_calls_are_told_by_what_is_wanted(
    by: list[str], named: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["ledger", *by]) == 0
    said = capsys.readouterr().out
    width = len(named[0])
    assert [row[:width] for row in cells(said)] == named
    assert sum(int(row[width]) for row in cells(said)) == 4, "calls: one that was tried again is one"
    assert "5 attempts" in said


@pytest.mark.usefixtures("folder")
def test_answers_failures_tokens_and_cost_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    main(["ledger", "--by", "run"])
    monday, tuesday = cells(capsys.readouterr().out)
    assert monday[1:4] == ["2", "2", "1 rate limited"]
    assert tuesday[1:4] == ["2", "1", "1 timeout"]
    assert "30 + 15" in monday
    assert "2026-11-16 12:00" in monday


@pytest.mark.usefixtures("folder")
def test_a_name_that_is_none_gives_the_nearest_and_all_that_are_possible(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ledger", "--by", "recipe,modle"]) == 1
    said = capsys.readouterr().err
    assert "did you mean 'model'?" in said
    for name in ("run", "recipe", "model", "endpoint", "day"):
        assert repr(name) in said


def test_an_empty_ledger_says_so(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(folder)
    folder.mkdir()
    assert main(["ledger"]) == 0
    assert "is empty" in capsys.readouterr().out


@pytest.mark.parametrize("command", [[], ["export", "x.parquet"], ["verify"], ["gc"], ["compact"]], ids=str)
def test_a_ledger_that_is_not_there_is_an_error(
    command: list[str], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["ledger", "--ledger", "typo/nowhere", *command]) == 1
    assert "there is no ledger at 'typo/nowhere'" in capsys.readouterr().err
    assert not (folder.parents[1] / "typo").exists(), "looking makes no folder"


@pytest.mark.usefixtures("folder")
def test_a_day_that_is_none_is_told_with_the_form_of_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ledger", "export", "x.jsonl", "--since", "yesterday"]) == 1
    assert "'yesterday' is no day: write it as 2026-11-22" in capsys.readouterr().err


# Exports


def exported(name: str) -> list[str]:
    """The keys in an exported file."""
    if name.endswith(".parquet"):
        return pl.read_parquet(name)["key"].to_list()
    if name.endswith(".csv"):
        return pl.read_csv(name)["key"].to_list()
    return [orjson.loads(each)["key"] for each in Path(name).read_bytes().splitlines()]


@pytest.mark.parametrize("name", ["x.parquet", "x.jsonl", "x.csv", "made/x.parquet"])
@pytest.mark.usefixtures("folder")
def test_all_attempts_are_exported_in_the_order_of_time(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ledger", "export", name]) == 0
    assert f"Wrote 5 attempts to {name}." in capsys.readouterr().out
    assert exported(name) == ["a", "a", "b", "c", "d"]


@pytest.mark.parametrize(
    ("options", "keys"),
    [
        (["--run", "monday"], ["a", "a", "b"]),
        (["--recipe", "chat"], ["c", "d"]),
        (["--model", "small"], ["a", "a", "b"]),
        (["--endpoint", "http://h/v1"], ["a", "a", "b", "c", "d"]),
        (["--endpoint", "http://other/v1"], []),
        (["--since", "2026-11-17"], ["c", "d"]),
        (["--until", "2026-11-17"], ["a", "a", "b"]),
        (["--since", "2026-11-16T12:00:00", "--until", "2026-11-17T12:00:00+00:00"], ["a", "a", "b"]),
        (["--since", "2026-11-16T14:00:00+02:00", "--recipe", "math", "--run", "tuesday"], []),
        (["--since", "2026-11-16", "--recipe", "chat", "--model", "large"], ["c", "d"]),
    ],
    ids=str,
)
@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
@pytest.mark.usefixtures("folder")
def test_filters_leave_out_the_rest(options: list[str], keys: list[str], suffix: str) -> None:
    assert main(["ledger", "export", f"x.{suffix}", *options]) == 0
    assert exported(f"x.{suffix}") == keys


@pytest.mark.usefixtures("folder")
def test_a_parquet_export_has_all_columns_of_the_ledger_and_csv_has_errors_as_json() -> None:
    main(["ledger", "export", "x.parquet"])
    main(["ledger", "export", "x.csv"])
    assert set(LEDGER) <= set(pl.read_parquet_schema("x.parquet"))
    errors = pl.read_csv("x.csv")["error"].to_list()
    assert orjson.loads(errors[0]) == {"kind": "rate_limited", "message": "later"}


@pytest.mark.parametrize(
    "wrong",
    [["x.pdf"], ["x.parquet", "--since", "soon"], ["x.parquet", "--runn", "a"], []],
    ids=str,
)
@pytest.mark.usefixtures("folder")
def test_an_export_that_cannot_be_is_an_error_of_use_and_writes_nothing(
    wrong: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["ledger", "export", *wrong]) == 1
    assert capsys.readouterr().err
    assert not list(Path().glob("x.*"))


# What is found in the files


def test_files_that_are_whole_are_found_to_be_so(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(folder)
    assert main(["ledger", "verify"]) == 0
    said = capsys.readouterr().out
    assert [row[0] for row in cells(said)] == [FIRST, SECOND]
    assert "Every file is whole." in said
    assert contents(folder) == before


def test_what_is_damaged_is_found_by_its_kind_and_left_as_it_is(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with (folder / FIRST).open("ab") as segment:
        segment.write(attempt("e", MONDAY)[:30])
    (folder / "20261118T000000-1-c.jsonl").write_bytes(b"\x00\x01 no line of a ledger\nnor this\n")
    pl.DataFrame({"key": ["k"] * 100}).write_parquet(folder / "20261119T000000-1-d.parquet")
    whole = (folder / "20261119T000000-1-d.parquet").read_bytes()
    (folder / "20261119T000000-1-d.parquet").write_bytes(whole[: len(whole) // 2])
    (folder / "20261120T000000-1-e.parquet").write_bytes(b"this is no Parquet")
    before = contents(folder)
    assert main(["ledger", "verify"]) == 1
    said = capsys.readouterr().out
    assert {row[0]: row[3] for row in cells(said)} == {
        FIRST: "torn tail",
        SECOND: "ok",
        "20261118T000000-1-c.jsonl": "garbage",
        "20261119T000000-1-d.parquet": "truncated",
        "20261120T000000-1-e.parquet": "garbage",
    }
    assert "4 findings to look at; nothing was changed." in said
    assert contents(folder) == before


def test_a_ledger_without_files_says_so(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(folder)
    folder.mkdir()
    assert main(["ledger", "verify"]) == 0
    assert "has no files" in capsys.readouterr().out


# Compacting, and removing what is needed no more


def leave_behind(folder: Path) -> list[str]:
    """Makes what crashes leave: segments that are in Parquet already, an empty one, half a file."""
    segments = {name: (folder / name).read_bytes() for name in (FIRST, SECOND)}
    assert Ledger(folder).compact()
    for name, content in segments.items():
        (folder / name).write_bytes(content)
    (folder / "20261121T000000-1-f.jsonl").touch()
    (folder / ".half.parquet.tmp").write_bytes(b"PAR1")
    return sorted([FIRST, SECOND, "20261121T000000-1-f.jsonl", ".half.parquet.tmp"])


def remaining(folder: Path, names: list[str]) -> list[str]:
    return [name for name in names if (folder / name).exists()]


def test_compacting_gathers_segments_and_loses_no_attempt(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = Ledger(folder).frame()
    assert main(["ledger", "compact"]) == 0
    assert "Gathered segments in 1 files." in capsys.readouterr().out
    assert not list(folder.glob("*.jsonl"))
    assert Ledger(folder).frame().equals(before)
    assert main(["ledger", "compact"]) == 0
    assert "There was nothing to gather." in capsys.readouterr().out


def test_with_yes_nobody_is_asked_and_only_what_is_superseded_goes(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names, before = leave_behind(folder), Ledger(folder).frame()
    assert main(["ledger", "gc", "--yes"]) == 0
    said = capsys.readouterr().out
    assert "Removed 4 files. No reply and no cost is lost with them." in said
    assert sorted(row[0] for row in cells(said)) == names
    assert remaining(folder, names) == []
    assert Ledger(folder).frame().equals(before)
    assert main(["ledger", "gc"]) == 0
    assert "Nothing is superseded" in capsys.readouterr().out


def test_where_all_is_needed_nobody_is_asked(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(folder)
    assert main(["ledger", "gc"]) == 0
    assert "Nothing is superseded: every file is needed." in capsys.readouterr().out
    assert contents(folder).items() >= before.items()


PROGRAM = [sys.executable, "-c", "import sys; from agora_frames.cli import main; sys.exit(main())", "ledger", "gc"]


def test_without_a_terminal_nothing_is_removed_and_the_remedy_is_told(folder: Path) -> None:
    names = leave_behind(folder)
    done = subprocess.run(PROGRAM, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 1
    assert "nobody can answer here: give --yes" in done.stderr
    assert remaining(folder, names) == names


@pytest.mark.parametrize(
    ("answer", "is_removed"), [("y\n", True), ("YES\n", True), ("n\n", False), ("\n", False), ("\x04", False)], ids=repr
)
def test_a_person_at_a_terminal_is_asked(answer: str, is_removed: bool, folder: Path) -> None:
    names = leave_behind(folder)
    person, terminal = pty.openpty()
    try:
        with subprocess.Popen(
            PROGRAM, stdin=terminal, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as gc:
            os.write(person, answer.encode())
            said, _ = gc.communicate(timeout=30)
    finally:
        os.close(person)
        os.close(terminal)
    assert "Remove them? [y/N]" in said
    assert gc.returncode == 0
    assert ("Removed 4 files" if is_removed else "Nothing was removed.") in said
    assert remaining(folder, names) == ([] if is_removed else names)


# Where options stand


@pytest.mark.parametrize(
    "args",
    [
        ["ledger", "--ledger", "other", "verify"],
        ["ledger", "verify", "--ledger", "other"],
        ["ledger", "--ledger", "nowhere", "verify", "--ledger", "other"],
    ],
    ids=" ".join,
)
def test_the_ledger_may_be_named_before_the_command_or_after_it(
    args: list[str], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder.rename("other")
    assert main(args) == 0
    assert [row[0] for row in cells(capsys.readouterr().out)] == [FIRST, SECOND]


@pytest.mark.parametrize("command", [[], ["export", "x.parquet"], ["verify"], ["gc"], ["compact"]], ids=str)
def test_each_command_takes_the_ledger_of_the_environment(
    command: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder.rename("elsewhere")
    monkeypatch.setenv("AGORA_LEDGER", "elsewhere")
    assert main(["ledger", *command]) == 0
    assert not folder.exists()
    assert "is empty" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "args", [["ledger", "--debug", "--by", "x"], ["ledger", "export", "x.pdf", "--debug"]], ids=str
)
@pytest.mark.usefixtures("folder")
def test_debug_before_or_after_the_command_shows_the_traceback(args: list[str]) -> None:
    with pytest.raises((TypeError, OSError)):
        main(args)


@pytest.mark.usefixtures("folder")
def test_a_command_that_is_none_is_an_error_of_use(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ledger", "burn"]) == 1
    assert "--help" in capsys.readouterr().err

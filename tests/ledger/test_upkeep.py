"""Upkeep: what is damaged and what is there twice is told; only what is provably of no use is removed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import polars as pl
import pytest
from ledgers import child, line, segment, segments
from polars.testing import assert_frame_equal

from agora_frames.ledger import Ledger
from agora_frames.ledger.upkeep import FINDINGS, SUPERSEDED, remove, superseded, verify


def findings(ledger: Ledger) -> list[tuple[str, int | None]]:
    found = verify(ledger)
    assert found.schema == FINDINGS
    return found.select("finding", "attempts").rows()


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (line(key="a"), [("ok", 1)]),
        (b"", [("ok", 0)]),
        (line(key="a") + b'{"key', [("torn tail", 1)]),
        (line(key="a") + b"broken\n", [("broken lines", 1)]),
        (b"broken\n" + line(key="a") + b'{"key', [("torn tail", 1), ("broken lines", 1)]),
        (b"\x00\xff" * 100, [("garbage", 0)]),
        (b"<html>\n</html>\n", [("garbage", 0)]),
    ],
)
def test_of_each_segment_it_is_told_what_is_wrong(
    tmp_path: Path, content: bytes, found: list[tuple[str, int | None]]
) -> None:
    assert findings(segment(tmp_path, content)) == found


def test_of_each_parquet_file_it_is_told_what_is_wrong(tmp_path: Path) -> None:
    ledger = segment(tmp_path, b"".join(line(key=str(n), text=str(n) * 1000) for n in range(500)))
    (name,) = ledger.compact()
    assert findings(ledger) == [("ok", 500)]
    whole = (tmp_path / name).read_bytes()
    for content, finding in (
        (whole[: len(whole) // 2], "truncated"),
        (b"garbage", "garbage"),
        (b"", "garbage"),
        (whole[:4] + bytes(len(whole) - 204) + whole[-200:], "damaged"),
    ):
        (tmp_path / name).write_bytes(content)
        assert findings(ledger) == [(finding, None)]


def test_what_is_there_twice_is_told(tmp_path: Path) -> None:
    ledger = segment(tmp_path / "ledger", line(key="a"))
    shutil.copytree(tmp_path / "ledger", tmp_path / "before")
    ledger.compact()
    shutil.copytree(tmp_path / "before", tmp_path / "ledger", dirs_exist_ok=True)
    found = verify(ledger)
    assert found.filter(pl.col("file").str.ends_with(".jsonl"))["finding"].to_list() == ["covered twice"]


def test_what_was_set_aside_is_told(tmp_path: Path) -> None:
    ledger = segment(tmp_path, line(key="a") + b"broken\n")
    with pytest.warns(UserWarning, match="cannot be read"):
        ledger.compact()
    assert sorted(finding for finding, _ in findings(ledger)) == ["ok", "set aside"]


def test_what_may_not_be_read_is_told(tmp_path: Path) -> None:
    ledger = segment(tmp_path, line(key="a"))
    (tmp_path / "20260102T000000-1-a.jsonl").mkdir()
    assert findings(ledger) == [("ok", 1), ("unreadable", None)]


def test_verifying_changes_nothing(tmp_path: Path) -> None:
    ledger = segment(tmp_path, line(key="a") + b"broken\n")
    before = files(tmp_path)
    verify(ledger)
    assert files(tmp_path) == before


def test_a_sound_ledger_has_nothing_to_remove(tmp_path: Path) -> None:
    ledger = segment(tmp_path, line(key="a", retried=True) + line(key="a") + b"broken\n" + b'{"torn')
    ledger.write({"key": "b"})
    found = superseded(ledger)
    assert found.schema == SUPERSEDED
    assert found.is_empty()
    assert superseded(Ledger(tmp_path / "none")).is_empty()


def left_behind(folder: Path) -> Ledger:
    """All that a crash can leave."""
    ledger = segment(folder, line(key="a"))
    kept = (folder / "20260101T000000-1-a.jsonl").read_bytes()
    (name,) = ledger.compact()
    (folder / "20260101T000000-1-a.jsonl").write_bytes(kept)
    shutil.copy(folder / name, folder / "20990101T000000-1-a.parquet")
    (folder / ".123.tmp").write_bytes(b"PAR1")
    (folder / "20260102T000000-1-a.jsonl").touch()
    (folder / "claims").mkdir()
    (folder / "claims" / "1-a.keys").write_bytes(b'["a"]')
    return ledger


def test_what_a_crash_left_behind_is_removed_and_no_attempt_with_it(tmp_path: Path) -> None:
    ledger = left_behind(tmp_path)
    frame = ledger.frame()
    found = superseded(ledger)
    assert sorted(found["file"]) == [
        ".123.tmp",
        "20260101T000000-1-a.jsonl",
        "20260102T000000-1-a.jsonl",
        "20990101T000000-1-a.parquet",
        "claims/1-a.keys",
    ]
    assert remove(ledger, found)["file"].to_list() == found["file"].to_list()
    assert superseded(ledger).is_empty()
    assert_frame_equal(ledger.frame(), frame)


def test_only_what_was_asked_for_is_removed(tmp_path: Path) -> None:
    ledger = left_behind(tmp_path)
    asked = superseded(ledger).filter(pl.col("file") == ".123.tmp")
    remove(ledger, asked)
    assert superseded(ledger).height == 4


def test_what_is_superseded_no_more_is_not_removed(tmp_path: Path) -> None:
    ledger = left_behind(tmp_path)
    found = superseded(ledger)
    for path in tmp_path.glob("*.parquet"):
        path.unlink()
    remove(ledger, found)
    assert ledger.frame()["key"].to_list() == ["a"]


def test_nothing_is_superseded_by_a_damaged_file(tmp_path: Path) -> None:
    ledger = segment(tmp_path, b"".join(line(key=str(n), text=str(n) * 1000) for n in range(500)))
    segmented = (tmp_path / "20260101T000000-1-a.jsonl").read_bytes()
    (name,) = ledger.compact()
    whole = (tmp_path / name).read_bytes()
    damaged = bytearray(whole)
    damaged[100 : len(whole) // 2] = bytes(len(whole) // 2 - 100)
    (tmp_path / name).write_bytes(damaged)
    (tmp_path / "20260101T000000-1-a.jsonl").write_bytes(segmented)
    assert superseded(ledger).is_empty()
    with pytest.warns(UserWarning, match="is damaged, and was skipped"):
        assert ledger.answers(pl.Series(["7"])).height == 1


def test_a_claim_of_the_living_is_left_alone(tmp_path: Path) -> None:
    ledger = segment(tmp_path, line(key="a"))
    with ledger.claim(pl.Series("key", ["k"])):
        assert superseded(ledger).is_empty()


def test_a_segment_that_is_just_begun_is_left_alone(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.open()
    assert superseded(Ledger(tmp_path)).is_empty()


def test_two_that_clean_up_at_once_remove_only_one_of_two_copies(tmp_path: Path) -> None:
    ledger = left_behind(tmp_path)
    code = """
        import sys
        from agora_frames.ledger import Ledger
        from agora_frames.ledger.upkeep import remove, superseded
        ledger = Ledger(sys.argv[1])
        remove(ledger, superseded(ledger))
    """
    command = [sys.executable, "-c", textwrap.dedent(code), os.fspath(tmp_path)]
    running = [subprocess.Popen(command) for _ in range(2)]
    assert [process.wait(30) for process in running] == [0, 0]
    assert len(list(tmp_path.glob("*.parquet"))) == 1
    assert ledger.frame()["key"].to_list() == ["a"]


READ_ONLY = """
    import os, sys
    from agora_frames.errors import StorageError
    from agora_frames.ledger import Ledger
    from agora_frames.ledger.upkeep import remove, superseded
    if os.geteuid() == 0:
        os.seteuid(65534)
    ledger = Ledger(sys.argv[1])
    found = superseded(ledger)
    print(found["file"].to_list())
    try:
        remove(ledger, found)
    except StorageError as exc:
        print(exc)
"""


def test_a_folder_that_may_not_be_written_is_listed_and_nothing_is_removed() -> None:
    # Not in tmp_path: pytest closes the folders above it to the user that the child becomes.
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        ledger = segment(Path(name) / "ledger", b"")
        (Path(name) / "ledger").chmod(0o555)
        try:
            listed, said = child(READ_ONLY, Path(name) / "ledger").stdout.splitlines()
        finally:
            (Path(name) / "ledger").chmod(0o755)
        assert listed == str(segments(ledger)) == "['20260101T000000-1-a.jsonl']"
    assert "cannot be removed: Permission denied. No reply is lost. Make the folder writable" in said

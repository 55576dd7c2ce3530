"""Compaction: the same attempts, in fewer files, whatever happens in between."""

from __future__ import annotations

import shutil
import subprocess
import sys
import textwrap
import time
import warnings
from pathlib import Path

import polars as pl
import pytest
from ledgers import keys, line, segment, segments
from polars.testing import assert_frame_equal

from agora_frames.errors import StorageError
from agora_frames.ledger import LEDGER, Ledger
from agora_frames.ledger.reading import attempts, covered


def filled(folder: Path, files: int = 5, rows: int = 4) -> Ledger:
    """Segments that nobody writes, with every kind of value."""
    for number in range(files):
        content = b"".join(
            line(
                key=f"{number}-{row}",
                text=None if row % 3 == 0 else f"ä\n{row}",
                tool_calls=[{"id": "1", "name": "f", "arguments": "{}"}] if row % 2 else None,
                logprobs=[{"token": "a", "logprob": -0.5, "top": [{"token": "b", "logprob": None}]}],
                error={"kind": "refused", "message": "no"} if row % 3 == 0 else None,
                cost_usd=0.1 * row,
                at=float(number),
            )
            for row in range(rows)
        )
        segment(folder, content, f"20260101T00000{number}-1-a.jsonl")
    return Ledger(folder)


def parquets(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.parquet"))


def test_the_frame_and_the_answers_are_the_same_after_it(tmp_path: Path) -> None:
    ledger = filled(tmp_path)
    frame, found = ledger.frame(), ledger.answers(ledger.frame()["key"])
    assert ledger.compact() == parquets(tmp_path)
    assert segments(ledger) == []
    assert_frame_equal(ledger.frame(), frame, check_exact=True)
    assert_frame_equal(ledger.answers(frame["key"]), found, check_exact=True)
    assert_frame_equal(ledger.scan().collect(), frame, check_exact=True)
    assert ledger.frame().schema == LEDGER


def test_what_is_written_after_it_comes_after_it(tmp_path: Path) -> None:
    ledger = filled(tmp_path, files=2)
    ledger.compact()
    ledger.write({"key": "new"})
    assert keys(ledger)[-1] == "new"
    assert len(keys(ledger)) == 9


def test_a_segment_that_is_being_written_is_left_alone(tmp_path: Path) -> None:
    ledger = filled(tmp_path, files=2)
    ledger.write({"key": "mine"})
    Ledger(tmp_path).compact()
    assert len(segments(ledger)) == 1
    ledger.write({"key": "mine too"})
    assert keys(ledger)[-2:] == ["mine", "mine too"]
    assert len(keys(ledger)) == 10


def test_a_segment_is_counted_once_when_a_crash_left_it_behind(tmp_path: Path) -> None:
    ledger = filled(tmp_path / "ledger")
    frame = ledger.frame()
    shutil.copytree(tmp_path / "ledger", tmp_path / "before")
    ledger.compact()
    for path in (tmp_path / "before").glob("*.jsonl"):
        shutil.copy(path, tmp_path / "ledger")
    assert_frame_equal(ledger.frame(), frame)
    assert ledger.compact() == []
    assert_frame_equal(ledger.frame(), frame)


def test_a_segment_is_counted_once_when_two_compactions_were_at_it_at_once(tmp_path: Path) -> None:
    frame = filled(tmp_path / "one", files=5).frame()
    filled(tmp_path / "two", files=3)
    for name in ("one", "two"):
        Ledger(tmp_path / name).compact()
    for path in (tmp_path / "two").glob("*.parquet"):
        shutil.copy(path, tmp_path / "one")
    assert len(parquets(tmp_path / "one")) == 2
    assert_frame_equal(Ledger(tmp_path / "one").frame(), frame)
    assert_frame_equal(Ledger(tmp_path / "one").spent(frame["key"]).select("key").sort("key"), frame.select("key"))


def test_broken_and_torn_lines_are_kept_aside(tmp_path: Path) -> None:
    ledger = segment(tmp_path, line(key="a") + b"broken\n" + line(key="b") + b'{"key": "torn')
    with pytest.warns(UserWarning, match="2 lines of the ledger segment .* cannot be read. They are in .*-broken.txt"):
        ledger.compact()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert keys(ledger) == ["a", "b"]
    assert (tmp_path / "20260101T000000-1-a-broken.txt").read_bytes() == b'broken\n{"key": "torn\n'


def test_lines_that_were_mended_are_read_again(tmp_path: Path) -> None:
    ledger = segment(tmp_path, line(key="a") + b"broken\n")
    with pytest.warns(UserWarning, match="cannot be read"):
        ledger.compact()
    (tmp_path / "20260101T000000-1-a-broken.txt").unlink()
    (tmp_path / "20260101T000000-1-a-broken.jsonl").write_bytes(line(key="mended"))
    assert sorted(filter(None, keys(ledger))) == ["a", "mended"]


def test_nothing_is_made_of_nothing(tmp_path: Path) -> None:
    assert Ledger(tmp_path / "none").compact() == []
    assert not (tmp_path / "none").exists()
    filled(tmp_path / "some", files=1).compact()
    assert Ledger(tmp_path / "some").compact() == []


def test_small_parquet_files_are_merged_when_they_are_many(tmp_path: Path) -> None:
    for number in range(10):
        segment(tmp_path, line(key=str(number)), f"2026010{number}T000000-1-a.jsonl").compact()
    assert len(parquets(tmp_path)) < 10
    assert keys(Ledger(tmp_path)) == [str(number) for number in range(10)]
    whole = {name for file in parquets(tmp_path) for name in covered(str(tmp_path / file))}
    assert len(whole) == 10


def test_the_first_write_of_a_process_compacts_when_segments_are_many(tmp_path: Path) -> None:
    for number in range(40):
        segment(tmp_path, line(key=str(number)), f"20260101T0000{number:02}-1-a.jsonl")
    ledger = Ledger(tmp_path)
    ledger.write({"key": "new"})
    assert len(segments(ledger)) == 1
    assert keys(ledger) == [*map(str, range(40)), "new"]


def test_the_first_write_of_a_process_leaves_few_segments_as_they_are(tmp_path: Path) -> None:
    ledger = filled(tmp_path, files=5)
    ledger.write({"key": "new"})
    assert len(segments(ledger)) == 6


def test_a_reader_looks_again_for_what_a_compaction_removes_meanwhile(tmp_path: Path) -> None:
    ledger = filled(tmp_path, files=5)
    expected = ledger.frame()["key"].to_list()
    seen: list[str] = []
    for frame in attempts(ledger.place):
        seen += frame["key"].to_list()
        Ledger(tmp_path).compact()  # after the first segment was read, all are gone
    assert sorted(seen) == sorted(expected)


def test_a_disk_without_room_leaves_everything_as_it_was(tmp_path: Path) -> None:
    ledger = filled(tmp_path / "ledger")
    frame = ledger.frame()
    code = """
        import resource, sys
        from agora_frames.errors import StorageError
        from agora_frames.ledger import Ledger
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
        try:
            Ledger(sys.argv[1]).compact()
        except StorageError as exc:
            print(exc)
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "ledger")]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "was not compacted, and is as it was" in said
    assert len(segments(ledger)) == 5
    assert list((tmp_path / "ledger").glob(".*.tmp")) == []
    assert_frame_equal(ledger.frame(), frame)


def test_a_run_goes_on_when_the_compaction_before_it_fails(tmp_path: Path) -> None:
    for number in range(40):
        segment(tmp_path, line(key=str(number)), f"20260101T0000{number:02}-1-a.jsonl")
    (tmp_path / "20260102T000000-1-a.jsonl").mkdir()
    with pytest.warns(UserWarning, match="was not compacted, and is as it was"):
        Ledger(tmp_path).open()
    assert len(list(tmp_path.glob("*.jsonl"))) == 41
    with pytest.raises(StorageError):
        Ledger(tmp_path).compact()


@pytest.mark.slow
def test_writers_readers_and_compactions_at_once_lose_and_double_nothing(tmp_path: Path) -> None:
    write = """
        import sys
        from agora_frames.ledger import Ledger
        for n in range(40):
            ledger = Ledger(sys.argv[1])
            for m in range(5):
                ledger.write({"key": f"{sys.argv[2]}-{n}-{m}", "text": "x" * 2000})
            ledger.close()
    """
    merge = """
        import sys
        from agora_frames.ledger import Ledger
        for _ in range(30):
            Ledger(sys.argv[1]).compact()
    """
    commands = [(write, "a"), (write, "b"), (merge, ""), (merge, "")]
    running = [
        subprocess.Popen([sys.executable, "-c", textwrap.dedent(code), str(tmp_path), who]) for code, who in commands
    ]
    while any(process.poll() is None for process in running):
        found = Ledger(tmp_path).frame()["key"]
        assert found.n_unique() == len(found)
    assert [process.returncode for process in running] == [0] * 4
    assert sorted(Ledger(tmp_path).frame()["key"]) == sorted(
        f"{w}-{n}-{m}" for w in "ab" for n in range(40) for m in range(5)
    )


@pytest.mark.slow
def test_a_compaction_that_is_killed_at_any_instant_loses_and_doubles_nothing(tmp_path: Path) -> None:
    code = "import sys\nfrom agora_frames.ledger import Ledger\nprint(flush=True)\nLedger(sys.argv[1]).compact()"
    for delay_ms in (0, 5, 10, 20, 40, 60, 80, 100, 140):
        folder = tmp_path / str(delay_ms)
        frame = filled(folder, files=9, rows=300).frame()
        with subprocess.Popen([sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"\n"
            time.sleep(delay_ms / 1000)
            process.kill()
        assert_frame_equal(Ledger(folder).frame(), frame)
        Ledger(folder).compact()
        assert_frame_equal(Ledger(folder).frame(), frame)


def test_a_ledger_of_a_later_version_with_more_columns_is_read(tmp_path: Path) -> None:
    ledger = filled(tmp_path, files=1)
    frame = ledger.frame()
    (name,) = ledger.compact()
    path = tmp_path / name
    told = pl.read_parquet_metadata(path)
    later = pl.read_parquet(path).with_columns(more=pl.lit(1)).drop("priced_by")
    later.write_parquet(path, metadata={"agora_frames.covers": told["agora_frames.covers"]})
    assert_frame_equal(ledger.frame(), frame)

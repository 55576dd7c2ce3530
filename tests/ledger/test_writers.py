"""Writers of local segments: each line is whole or not there, and no segment grows without end."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from ledgers import child, keys, line, segments

from agora_frames.errors import StorageError
from agora_frames.ledger import Ledger
from agora_frames.ledger.locks import taken
from agora_frames.ledger.writers import LocalWriter


def test_a_segment_is_locked_as_long_as_it_is_written(tmp_path: Path) -> None:
    writer = LocalWriter(tmp_path)
    writer.write(line(key="a"))
    file = os.open(writer.path, os.O_RDONLY)
    assert taken(file) is False
    writer.close()
    assert taken(file) is True
    os.close(file)


def test_a_segment_that_nobody_refers_to_is_closed(tmp_path: Path) -> None:
    writer = LocalWriter(tmp_path)
    writer.write(line(key="a"))
    file = os.open(writer.path, os.O_RDONLY)
    del writer
    assert taken(file) is True
    os.close(file)


def test_a_segment_of_64_megabytes_is_followed_by_another(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    for n in range(70):
        ledger.write({"key": str(n), "text": "x" * 1_000_000})
    assert len(segments(ledger)) == 2
    assert keys(ledger) == [str(n) for n in range(70)]


def test_a_line_that_is_torn_is_taken_away_also_when_it_is_long_and_the_first(tmp_path: Path) -> None:
    child(
        """
        import resource, sys
        from pathlib import Path
        from agora_frames.errors import StorageError
        from agora_frames.ledger.writers import LocalWriter
        resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, resource.RLIM_INFINITY))
        writer = LocalWriter(Path(sys.argv[1]))
        for _ in range(2):
            try:
                writer.write(b"x" * 600_000 + b"\\n")
                raise AssertionError
            except StorageError:
                assert writer.path.stat().st_size == 0
        writer.write(b'{"key": "a"}\\n')
        """,
        tmp_path,
    )
    assert keys(Ledger(tmp_path)) == ["a"]


def test_a_write_after_the_file_was_closed_behind_it_is_told_and_the_next_begins_another(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.write({"key": "a"})
    writer = ledger.open()
    assert isinstance(writer, LocalWriter)
    writer.close()
    ledger.write({"key": "b"})
    assert keys(ledger) == ["a", "b"]


def test_what_is_written_is_forced_to_the_disk_within_a_second_or_told(tmp_path: Path) -> None:
    writer = LocalWriter(tmp_path)
    writer.write(line(key="a"))
    assert writer.timer is not None
    assert writer.timer.interval <= 1
    writer.failed = OSError(5, "Input/output error")  # as a disk says it when it is forced
    with pytest.raises(StorageError, match=r"could not be recorded in .*: Input/output error"):
        writer.write(line(key="b"))
    writer.write(line(key="c"))
    assert keys(Ledger(tmp_path)) == ["a", "b", "c"]


def test_threads_that_write_at_once_tear_nothing(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)

    def work(who: str) -> None:
        for n in range(500):
            ledger.write({"key": f"{who}{n}", "text": "ä" * n})

    threads = [threading.Thread(target=work, args=(who,)) for who in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(key or "" for key in keys(ledger)) == sorted(f"{who}{n}" for who in "abcd" for n in range(500))
    assert ledger.tally.attempts == 2000
    assert len(segments(ledger)) == 1


LOOKS_UP = """
    import sys
    from pathlib import Path
    import polars as pl
    from agora_frames.ledger import Ledger
    keys = pl.Series([f"{n * 300:032x}" for n in range(1000)])
    ledger = Ledger(sys.argv[1])
    assert ledger.answers(keys).height == ledger.spent(keys).height == 1000
    told = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    print(int(told["VmHWM"].split()[0]) // 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc to read the memory of a process from")
def test_a_look_up_in_a_large_ledger_takes_little_memory_merged_or_not(tmp_path: Path) -> None:
    text = "".join(map(chr, range(97, 123))) * 40
    with (tmp_path / "20260101T000000-1-a.jsonl").open("wb") as file:
        for n in range(300_000):
            file.write(b'{"key":"%032x","text":"%d %s","at":%d.0}\n' % (n, n * n, text.encode(), n))
    assert int(child(LOOKS_UP, tmp_path).stdout) < 250
    Ledger(tmp_path).compact()
    assert int(child(LOOKS_UP, tmp_path).stdout) < 250


def test_a_segment_that_was_deleted_behind_its_writer_is_begun_anew_within_a_second(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger")
    ledger.write({"key": "a"})
    shutil.rmtree(tmp_path / "ledger")
    writer = ledger.open()
    ledger.write({"key": "b"})
    assert keys(Ledger(tmp_path / "ledger")) == ["b"]
    shutil.rmtree(tmp_path / "ledger")
    assert isinstance(writer, LocalWriter)
    writer.looked -= 1.0  # a second later
    ledger.write({"key": "c"})
    assert keys(Ledger(tmp_path / "ledger")) == ["c"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 512 KB."""
    (tmp_path / "disk").mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(tmp_path / "disk")]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system needs root")
    yield tmp_path / "disk"
    subprocess.run(["umount", "-l", str(tmp_path / "disk")], check=True)


def told(ledger: Ledger, key: str) -> str:
    try:
        ledger.write({"key": key, "text": "x" * 10_000})
    except StorageError as exc:
        return str(exc)
    return ""


def test_on_a_full_disk_each_reply_in_flight_is_recorded_and_each_is_told(small_disk: Path) -> None:
    ledger = Ledger(small_disk)
    written = 0
    while not told(ledger, str(written)):
        written += 1
    assert written > 10
    for n in range(written + 1, written + 11):
        assert "are recorded" in told(ledger, str(n))
    assert keys(ledger) == [str(n) for n in range(written + 11)]


def test_a_disk_without_any_room_is_told_before_anything_is_asked(small_disk: Path) -> None:
    with (small_disk / "other").open("wb", buffering=0) as other, contextlib.suppress(OSError):
        while other.write(b"x" * 4096):
            pass
    with pytest.raises(StorageError, match=r"No space left on device\. Nothing was asked.*make room"):
        Ledger(small_disk / "ledger").open()


def test_after_room_was_made_the_next_step_goes_on(small_disk: Path) -> None:
    ledger = Ledger(small_disk / "ledger")
    (small_disk / "other").write_bytes(b"x" * 100_000)
    while not told(ledger, "a"):
        pass
    (small_disk / "other").unlink()
    ledger.open()
    assert told(ledger, "b") == ""


def test_kept_room_has_no_name_and_is_free_again_when_the_writer_is_gone(small_disk: Path) -> None:
    free = shutil.disk_usage(small_disk).free
    writer = LocalWriter(small_disk)
    assert shutil.disk_usage(small_disk).free <= free // 2
    assert [path.name for path in small_disk.iterdir()] == [writer.path.name]
    del writer
    assert shutil.disk_usage(small_disk).free == free

"""Writers of local segments: each line is whole or not there, and no segment grows without end."""

from __future__ import annotations

import os
import threading
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

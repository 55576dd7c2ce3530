"""Ledgers on an object store: lines become objects, and what could not be put is kept and told."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import time
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import fsspec
import polars as pl
import pytest
from ledgers import Asked, child, prompts, run
from polars.testing import assert_frame_equal

from agora_frames.errors import StorageError
from agora_frames.ledger import Ledger
from agora_frames.ledger.objects import ObjectWriter
from agora_frames.ledger.places import Prefix
from agora_frames.ledger.upkeep import remove, superseded, verify


@dataclass
class Shelf:
    """An object store that refuses so many puts, when they were made or before, and remembers the others."""

    refuses: int = 0
    too_late: bool = False
    objects: dict[str, bytes] = field(default_factory=dict)

    def pipe_file(self, path: str, content: bytes) -> None:
        if content and self.refuses:
            self.refuses -= 1
            if self.too_late:
                self.objects[path] = content
            raise ConnectionError("the store is away")
        self.objects[path] = content

    def lines(self) -> list[bytes]:
        return b"".join(self.objects[path] for path in sorted(self.objects)).splitlines()


def writer(shelf: Shelf) -> ObjectWriter:
    return ObjectWriter(Prefix(shelf, "bucket/ledger", "shelf://bucket/ledger"))


def ledger_in_memory() -> Ledger:
    return Ledger(f"memory://{uuid4().hex}/ledger")


def test_the_first_object_is_empty_and_shows_that_the_store_takes_it() -> None:
    shelf = Shelf()
    writer(shelf)
    assert list(shelf.objects.values()) == [b""]


def test_a_store_that_takes_nothing_is_told_before_anything_is_asked() -> None:
    class Closed:
        def pipe_file(self, path: str, content: bytes) -> None:
            raise PermissionError(13, "Permission denied")

    with pytest.raises(StorageError, match=r"'shelf://b' cannot be written: Permission denied\. Nothing was asked"):
        ObjectWriter(Prefix(Closed(), "b", "shelf://b"))


def test_lines_are_gathered_into_one_object() -> None:
    shelf = Shelf()
    objects = writer(shelf)
    for n in range(100):
        objects.write(b"%d\n" % n)
    objects.flush()
    assert len(shelf.objects) == 2
    assert shelf.lines() == [b"%d" % n for n in range(100)]


def test_four_megabytes_are_put_at_once() -> None:
    shelf = Shelf()
    objects = writer(shelf)
    objects.write(b"x" * (5 << 20) + b"\n")
    while len(shelf.objects) < 2:
        time.sleep(0.01)
    assert objects.lines == []


def test_what_could_not_be_put_is_told_at_the_next_write_and_kept() -> None:
    shelf = Shelf(refuses=2)
    objects = writer(shelf)
    objects.write(b"a\n")
    with pytest.raises(StorageError, match=r"a reply could not be recorded in .*: the store is away"):
        objects.flush()
    with pytest.raises(StorageError, match="the store is away"):
        objects.write(b"b\n")
    objects.write(b"c\n")
    objects.flush()
    assert shelf.lines() == [b"a", b"b", b"c"]


def test_what_was_put_though_it_was_told_as_failed_is_there_once() -> None:
    shelf = Shelf(refuses=1, too_late=True)
    objects = writer(shelf)
    objects.write(b"a\n")
    with pytest.raises(StorageError):
        objects.flush()
    objects.write(b"b\n")
    objects.close()
    assert shelf.lines() == [b"a", b"b"]


def test_closing_tells_what_could_not_be_put() -> None:
    objects = writer(Shelf(refuses=1))
    objects.write(b"a\n")
    with pytest.raises(StorageError, match="the store is away"):
        objects.close()


def test_what_was_written_is_answered_and_seen_by_others_when_the_run_ends() -> None:
    ledger, script = ledger_in_memory(), Asked()
    first = run(ledger, script, prompts(5))
    again = run(Ledger(str(ledger.path)), script, prompts(5))
    assert script.prompts == [f"p{n}" for n in range(5)]
    assert_frame_equal(again, first)


def test_a_process_sees_its_own_replies_before_they_are_put() -> None:
    ledger = ledger_in_memory()
    ledger.write({"key": "a", "text": "t"})
    state = ledger.state()
    assert ledger.answers(pl.Series(["a"]))["text"].to_list() == ["t"]
    assert ledger.frame().height == ledger.scan().collect().height == 1
    ledger.write({"key": "b"})
    assert ledger.state() != state


def grown(ledger: Ledger, objects: int) -> Ledger:
    """So many objects from an hour long ago."""
    fs, root = fsspec.url_to_fs(str(ledger.path))
    for n in range(objects):
        fs.pipe_file(f"{root}/20260101T0000{n:02}000000-1-a.jsonl", b'{"key":"%d","at":%d.0}\n' % (n, n))
    return ledger


def test_objects_are_merged_and_hold_the_same() -> None:
    ledger = grown(ledger_in_memory(), 20)
    frame = ledger.frame()
    assert len(ledger.compact()) == 1
    assert [file.name.rpartition(".")[2] for file in ledger.place.files()] == ["parquet"]
    assert_frame_equal(ledger.frame(), frame)
    assert ledger.answers(pl.Series(["7", "none"]))["key"].to_list() == ["7"]
    assert verify(ledger).select("finding", "attempts").rows() == [("ok", 20)]


def test_young_objects_are_left_alone() -> None:
    ledger = grown(ledger_in_memory(), 3)
    ledger.write({"key": "young"})
    ledger.close()
    ledger.compact()
    assert sum(file.name.endswith(".jsonl") for file in ledger.place.files()) == 2  # the empty one, and the reply
    assert ledger.frame()["key"].to_list()[-1] == "young"


def test_the_first_write_merges_when_objects_are_many() -> None:
    ledger = grown(ledger_in_memory(), 40)
    ledger.open()
    assert sum(file.name.endswith(".parquet") for file in ledger.place.files()) == 1
    assert sorted(map(int, ledger.frame()["key"])) == list(range(40))


def test_what_a_crashed_compaction_left_is_counted_once_and_can_be_removed() -> None:
    ledger = grown(ledger_in_memory(), 5)
    ledger.compact()
    grown(ledger, 5)
    assert ledger.frame().height == 5
    found = superseded(ledger)
    assert found.height == 5
    remove(ledger, found)
    assert ledger.frame().height == 5
    assert superseded(ledger).is_empty()


WRITES = """
    import fsspec, shutil, sys
    from pathlib import Path
    from agora_frames.ledger.objects import ObjectWriter
    from agora_frames.ledger.places import Prefix
    writer = ObjectWriter(Prefix(fsspec.filesystem("file"), sys.argv[1], "there"))
    writer.write(b'{"key": "a"}\\n')
"""


def test_what_was_not_put_yet_is_put_at_the_exit_of_the_process(tmp_path: Path) -> None:
    child(WRITES, tmp_path)
    assert Ledger(tmp_path).frame()["key"].to_list() == ["a"]


def test_a_forked_process_puts_nothing_of_its_parent(tmp_path: Path) -> None:
    child(WRITES + "    import os\n    if os.fork() == 0: sys.exit()\n    os.wait()\n", tmp_path)
    assert Ledger(tmp_path).frame()["key"].to_list() == ["a"]


def test_a_put_that_fails_at_the_exit_is_not_silent(tmp_path: Path) -> None:
    (tmp_path / "ledger").mkdir()
    code = textwrap.dedent(WRITES) + "shutil.rmtree(sys.argv[1])\n"
    command = [sys.executable, "-c", code, str(tmp_path / "ledger")]
    said = subprocess.run(command, capture_output=True, text=True, check=False).stderr
    assert "a reply could not be recorded in 'there'" in said


@pytest.mark.parametrize("url", ["nowhere://bucket/ledger", "memory2://x"])
def test_a_place_that_nobody_knows_is_told_at_once(url: str) -> None:
    with pytest.raises(StorageError, match="cannot be reached"):
        Ledger(url)

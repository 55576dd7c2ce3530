"""Notes beside a ledger: whole, there when they are said to be, and worked on by one at a time."""

from __future__ import annotations

from pathlib import Path

import pytest

from agora_frames.errors import StorageError
from agora_frames.ledger import Ledger
from agora_frames.ledger.notes import Notes, notes_beside


@pytest.fixture(params=["folder", "memory"])
def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "ledger" if request.param == "folder" else f"memory://notes{tmp_path}")


@pytest.fixture
def notes(ledger: Ledger) -> Notes:
    return notes_beside(ledger.place, "batches")


def test_a_note_is_read_as_it_was_written_until_it_is_removed(notes: Notes) -> None:
    notes.write("b", {"keys": ["k"], "file_id": None})
    notes.write("a", {})
    notes.write("b", {"keys": ["k"], "file_id": "f"})
    assert notes.names() == ["a", "b"]
    assert notes.read("b") == {"keys": ["k"], "file_id": "f"}
    notes.remove("b")
    assert notes.names() == ["a"]
    assert notes.read("b") is None


def test_where_nothing_was_written_there_is_no_note(notes: Notes) -> None:
    assert notes.names() == []
    assert notes.read("a") is None


def test_a_ledger_does_not_take_notes_for_replies(ledger: Ledger, notes: Notes) -> None:
    notes.write("a", {"key": "k"})
    ledger.write({"key": "k", "text": "t"})
    assert ledger.frame()["text"].to_list() == ["t"]


def test_of_a_ledger_on_a_disk_one_at_a_time_holds_a_note(tmp_path: Path) -> None:
    notes = notes_beside(Ledger(tmp_path).place, "batches")
    notes.write("a", {})
    with notes.held("a") as first, notes.held("a") as second, notes.held("b") as other:
        assert (first, second, other) == (True, False, True)
    with notes.held("a") as again:
        assert again is True


def test_the_lock_of_a_note_goes_with_it(tmp_path: Path) -> None:
    notes = notes_beside(Ledger(tmp_path).place, "batches")
    with notes.held("a"):
        notes.write("a", {})
        notes.remove("a")
    assert list((tmp_path / "batches").iterdir()) == []


def test_a_broken_note_is_an_error_and_not_forgotten(tmp_path: Path) -> None:
    notes = notes_beside(Ledger(tmp_path).place, "batches")
    notes.write("a", {})
    (tmp_path / "batches" / "a.json").write_bytes(b'{"tag":')
    with pytest.raises(StorageError, match="may be paid for"):
        notes.read("a")


def test_a_note_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "batches").write_text("a file")
    with pytest.raises(StorageError, match="cannot be written"):
        notes_beside(Ledger(tmp_path).place, "batches").write("a", {})

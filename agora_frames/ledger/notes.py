"""Notes beside a ledger: what is written down about work that goes on elsewhere, so that nobody begins it twice."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson

from agora_frames.errors import StorageError
from agora_frames.ledger.locks import held
from agora_frames.ledger.places import Folder, Prefix
from agora_frames.ledger.writers import unwritable

__all__ = ["Notes", "notes_beside"]


@dataclass(frozen=True)
class Notes:
    """Small JSON files in a folder, or under a prefix, of their own; made by `notes_beside`.

    A note is there, whole and for good, when `write` returns.
    """

    place: Folder | Prefix

    def names(self) -> list[str]:
        """Of all notes, the oldest first where names begin with a time."""
        return [file.name.removesuffix(".json") for file in self.place.files() if file.name.endswith(".json")]

    def read(self, name: str) -> dict[str, Any] | None:
        """A note; None where there is none. Raises: StorageError when it cannot be read."""
        try:
            content = self.place.whole(f"{name}.json")
        except FileNotFoundError:
            return None
        try:
            if isinstance(content, str):
                content = Path(content).read_bytes()
            note = orjson.loads(content)
            if not isinstance(note, dict):
                raise ValueError("it is no JSON object")
        except FileNotFoundError:
            return None
        except ValueError as exc:
            raise StorageError(
                f"the note {name!r} in {self.place.shown!r} is broken: {exc}. It says of a batch that may be paid for: "
                "look into it, and at your batches, before you delete it."
            ) from exc
        return note

    def write(self, name: str, note: Mapping[str, Any]) -> None:
        """Raises: StorageError when it cannot be written; what was there before is there then."""
        content = orjson.dumps(dict(note))
        try:
            if isinstance(self.place, Prefix):
                self.place.write(f"{name}.json", content)
                return
            self.place.path.mkdir(parents=True, exist_ok=True)
            temporary = self.place.temporary()
            temporary.write_bytes(content)
            self.place.put(f"{name}.json", temporary)
        except Exception as exc:  # each kind of store raises errors of its own
            raise unwritable(self.place.shown, exc) from exc

    def remove(self, name: str) -> None:
        self.place.remove(f"{name}.json")

    @contextlib.contextmanager
    def held(self, name: str) -> Iterator[bool | None]:
        """While it is held, no other process or thread holds it: True; False where another one does.

        None on an object store, and on a system without file locks: nobody knows.
        """
        if isinstance(self.place, Prefix):
            yield None
            return
        self.place.path.mkdir(parents=True, exist_ok=True)
        lock = self.place.path / f"{name}.lock"
        with held(lock, wait=False) as ours:
            yield ours
            if ours and not (self.place.path / f"{name}.json").exists():
                with contextlib.suppress(OSError):  # an empty file that may stay
                    lock.unlink()


def notes_beside(place: Folder | Prefix, kind: str) -> Notes:
    """The notes of some kind of work, in the place of a ledger."""
    if isinstance(place, Folder):
        return Notes(Folder(place.path / kind))
    return Notes(replace(place, root=f"{place.root}/{kind}", shown=f"{place.shown}/{kind}"))

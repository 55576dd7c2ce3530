"""The state of a ledger's files: what is damaged, what is there twice, and what can be removed without any loss."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import NamedTuple, TypeAlias

import polars as pl

from agora_frames.errors import StorageError
from agora_frames.ledger import Ledger
from agora_frames.ledger.locks import held, taken
from agora_frames.ledger.places import File, Folder, Place
from agora_frames.ledger.reading import DAMAGED, blocks_of, covered, parsed, scanned

__all__ = ["FINDINGS", "SUPERSEDED", "remove", "superseded", "verify"]

# What `verify` tells of each file: `ok`, `torn tail`, `broken lines`, `truncated`, `garbage`, `damaged`, `unreadable`,
# `covered twice` or `set aside`. attempts: those that can be read.
FINDINGS = pl.Schema(
    {
        "file": pl.String(),
        "bytes": pl.Int64(),
        "attempts": pl.Int64(),
        "finding": pl.String(),
        "detail": pl.String(),
    }
)
# What `superseded` tells of each file.
SUPERSEDED = pl.Schema({"file": pl.String(), "bytes": pl.Int64(), "why": pl.String()})
_MAGIC = b"PAR1"
_BROKEN = "-broken.txt"


# How the lock of a file is held.
_Hold: TypeAlias = Callable[[Path], contextlib.AbstractContextManager[bool | None]]


class _Finding(NamedTuple):
    finding: str
    detail: str
    attempts: int | None = None


def verify(ledger: Ledger) -> pl.DataFrame:
    """What is found in each file of a ledger, by reading all of it; nothing is changed.

    Gives a frame of FINDINGS, a row for each file and finding.
    Raises: StorageError when the ledger itself cannot be read.
    """
    place = ledger.place
    files = [file for file in place.files() if file.name.endswith((".jsonl", ".parquet", _BROKEN))]
    holders = _holders(place, files)
    rows = []
    for file in files:
        found = list(_examined(place, file))
        if (other := _superseding(file.name, holders)) is not None:
            found = [each for each in found if each.finding != "ok"]
            found.append(_Finding("covered twice", f"all of it is in {other!r} too, and counted once"))
        rows += [(file.name, file.size, each.attempts, each.finding, each.detail) for each in found]
    return pl.DataFrame(rows, schema=FINDINGS, orient="row")


def superseded(ledger: Ledger) -> pl.DataFrame:
    """The files that can be removed without changing what any run gets, or what was spent: leftovers of crashes.

    Gives a frame of SUPERSEDED: segments and Parquet files that are wholly in another Parquet file (which is read
    to its end first), empty segments that nobody writes, temporary files, and claims of the dead.
    Where a folder may be read alone, it may also list what a compaction is at work on: `remove` looks again.
    """
    with contextlib.ExitStack() as locks:
        try:
            return _superseded(ledger.place, locks, hold=_held)
        except OSError as exc:
            if isinstance(exc, StorageError):
                raise
            return _superseded(ledger.place, locks, hold=_unheld)


def remove(ledger: Ledger, found: pl.DataFrame) -> pl.DataFrame:
    """Removes those files that `superseded` found and that are so still; gives them.

    Raises: StorageError when one cannot be removed.
    """
    try:
        with contextlib.ExitStack() as locks:
            now = _superseded(ledger.place, locks, hold=_held).filter(pl.col("file").is_in(found["file"].implode()))
            for name in now["file"]:
                ledger.place.remove(name)
    except OSError as exc:
        if isinstance(exc, StorageError):
            raise
        raise StorageError(
            f"files of the ledger {ledger.place.shown!r} cannot be removed: {exc.strerror or exc}. No reply is lost. "
            "Make the folder writable, or do it as its owner."
        ) from exc
    return now


def _held(path: Path) -> contextlib.AbstractContextManager[bool | None]:
    return held(path, wait=True)


def _unheld(path: Path) -> contextlib.AbstractContextManager[bool | None]:
    return contextlib.nullcontext(True)


def _superseded(place: Place, locks: contextlib.ExitStack, *, hold: _Hold) -> pl.DataFrame:
    """With no compaction at work meanwhile, until the locks are let go of."""
    rows: list[tuple[str, int, str]] = []
    if isinstance(place, Folder):
        if not place.path.is_dir() or not locks.enter_context(hold(place.path / "compact.lock")):
            return SUPERSEDED.to_frame()
        rows += _left_behind(place.path, locks, hold=hold)
    files = [file for file in place.files() if file.name.endswith((".jsonl", ".parquet"))]
    holders = _holders(place, files)
    sound: dict[str, bool] = {}
    for file in files:
        other = _superseding(file.name, holders)
        if other is not None and other not in sound:
            sound[other] = all(each.finding == "ok" for each in _of_parquet(place, other))
        if other is not None and sound[other]:
            rows.append((file.name, file.size, f"all of it is in {other!r}"))
    return pl.DataFrame(rows, schema=SUPERSEDED, orient="row")


def _left_behind(folder: Path, locks: contextlib.ExitStack, *, hold: _Hold) -> Iterator[tuple[str, int, str]]:
    """What the dead have left in a local folder."""
    for path in sorted(folder.glob(".*.tmp")):
        yield path.name, path.stat().st_size, "a compaction did not finish it"
    for path in sorted(folder.glob("*.jsonl")):
        if path.stat().st_size == 0 and _free(path, locks) and path.stat().st_size == 0:
            yield path.name, 0, "it holds nothing, and nobody writes it"
    if (folder / "claims").is_dir():
        locks.enter_context(hold(folder / "claims" / "lock"))  # no claim is being made meanwhile
        for path in sorted((folder / "claims").glob("*.keys")):
            if _free(path, locks):
                yield f"claims/{path.name}", path.stat().st_size, "its holder is dead"


def _free(path: Path, locks: contextlib.ExitStack) -> bool:
    file = os.open(path, os.O_RDONLY)
    locks.callback(os.close, file)
    return taken(file) is True


def _holders(place: Place, files: list[File]) -> dict[str, set[str]]:
    """The segments that each Parquet file holds."""
    held_by = {}
    for file in files:
        if file.name.endswith(".parquet"):
            with contextlib.suppress(*DAMAGED, StorageError):
                held_by[file.name] = covered(place.whole(file.name))
    return held_by


def _superseding(name: str, holders: dict[str, set[str]]) -> str | None:
    """A Parquet file that holds all of this file and more or, of two with the same, the one that is named first.

    So nothing is superseded in a circle: two that clean up at once never remove both.
    """
    own = {name} if name.endswith(".jsonl") else holders.get(name)
    if own is None:
        return None
    for other, covers in holders.items():
        if other != name and own <= covers and (name.endswith(".jsonl") or own < covers or other < name):
            return other
    return None


def _examined(place: Place, file: File) -> Iterator[_Finding]:
    try:
        if file.name.endswith(".parquet"):
            yield from _of_parquet(place, file.name)
        elif file.name.endswith(_BROKEN):
            yield _Finding("set aside", "lines that could not be read: mend them and name it .jsonl, or delete it")
        else:
            yield from _of_segment(place, file)
    except StorageError as exc:
        yield _Finding("unreadable", str(exc))


def _of_segment(place: Place, file: File) -> Iterator[_Finding]:
    rows = broken = 0
    torn: list[bytes] = []
    for _, content in place.opened([file]):
        for block in blocks_of(content, torn):
            frame, bad = parsed(block)
            rows += frame.height
            broken += len(bad)
    if not rows and (broken or torn):
        yield _Finding("garbage", "not a line of it can be read", 0)
        return
    if torn:
        yield _Finding("torn tail", f"{len(torn[0])} bytes: its writer died, or is writing", rows)
    if broken:
        yield _Finding("broken lines", f"{broken} lines cannot be read, and are left out", rows)
    if not torn and not broken:
        yield _Finding("ok", "", rows)


def _of_parquet(place: Place, name: str) -> Iterator[_Finding]:
    whole = place.whole(name)
    with BytesIO(whole) if isinstance(whole, bytes) else Path(whole).open("rb") as file:
        begin = file.read(4)
        file.seek(-min(4, file.seek(0, os.SEEK_END)), os.SEEK_END)
        end = file.read(4)
    if begin != _MAGIC or end != _MAGIC:
        yield _Finding(*(("truncated", "its end is missing") if begin == _MAGIC else ("garbage", "it is no Parquet")))
        return
    try:
        covered(whole)
        every = scanned(whole).select(pl.len(), pl.all().hash().sum()).collect(engine="streaming")
        yield _Finding("ok", "", every["len"].item())
    except DAMAGED as exc:
        yield _Finding("damaged", str(exc).split("\n")[0])

"""Segments that nobody writes any more, merged into Parquet; each is counted once, whatever a crash leaves behind.

A Parquet file holds whole segments, and its metadata names them. It takes its name when it is complete and on the disk;
only then are the files that went into it removed. So a crash, or two compactions at once, leave at most something that
is there twice, and a reader counts a segment that a Parquet file names only once.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import chain

import orjson
import polars as pl
from polars.io.plugins import register_io_source

from agora_frames.errors import StorageError
from agora_frames.formats import why
from agora_frames.ledger.locks import held, taken
from agora_frames.ledger.places import File, Folder, Place, Prefix
from agora_frames.ledger.reading import COVERS, DAMAGED, SEGMENT, STORED, blocks_of, covered, parsed, scanned
from agora_frames.ledger.writers import fresh_name

__all__ = ["compact", "compact_if_due"]

# When it is due.
_MOST_FILES, _MOST_BYTES = 32, 64 << 20
# So much data goes into one Parquet file, unless a single segment is larger: reading one from afar stays bounded.
_PARQUET_BYTES = 192 << 20
# Parquet files below this are merged too, when there are many.
_SMALL_BYTES = 16 << 20
# A row group is so large in memory.
_GROUP_BYTES = 16 << 20
# Objects younger than this are left alone: readers that have just listed them need not look again.
_YOUNG = timedelta(minutes=5)


def compact_if_due(place: Folder | Prefix) -> None:
    """Merges closed segments when they are many. What goes wrong is warned of: the replies are where they were."""
    try:
        segments = [file for file in place.files() if file.name.endswith(".jsonl")]
        if len(segments) > _MOST_FILES or sum(file.size for file in segments) > _MOST_BYTES:
            _compact(place, due_only=True)
    except (StorageError, OSError, *DAMAGED) as exc:
        warnings.warn(f"the ledger {place.shown!r} was not compacted, and is as it was: {why(exc)}", stacklevel=3)


def compact(place: Folder | Prefix) -> list[str]:
    """Merges all closed segments, and gives the names of the files that were made.

    Raises: StorageError when it cannot be done; then the replies are where they were.
    """
    try:
        return _compact(place, due_only=False)
    except (OSError, *DAMAGED) as exc:
        if isinstance(exc, StorageError):
            raise
        raise StorageError(
            f"the ledger {place.shown!r} was not compacted, and is as it was: {why(exc)}. Make room, or mend it."
        ) from exc


def _compact(place: Folder | Prefix, *, due_only: bool) -> list[str]:
    with contextlib.ExitStack() as locks:
        if isinstance(place, Folder) and not _alone(place, locks):
            return []
        files = _mergeable(place, locks)
        segments = [file for file in files if file.name.endswith(".jsonl")]
        if due_only and len(segments) <= _MOST_FILES and sum(file.size for file in segments) <= _MOST_BYTES:
            return []
        if not segments and len(files) < 2:
            return []
        return [_merge(place, batch) for batch in _batches(files)]


def _alone(place: Folder, locks: contextlib.ExitStack) -> bool:
    """False when nothing is there, another is at it, or nobody can tell which segments are closed."""
    return place.path.is_dir() and locks.enter_context(held(place.path / "compact.lock", wait=False)) is True


def _mergeable(place: Folder | Prefix, locks: contextlib.ExitStack) -> list[File]:
    """Closed segments that no Parquet file holds yet, and small Parquet files when they are many; oldest first."""
    files = place.files()
    done: set[str] = set()
    small = []
    for file in files:
        if file.name.endswith(".parquet"):
            with contextlib.suppress(*DAMAGED):
                done |= covered(place.whole(file.name))
                if file.size < _SMALL_BYTES:
                    small.append(file)
    closed = [
        file
        for file in files
        if file.name.endswith(".jsonl") and file.name not in done and _is_closed(place, file.name, locks)
    ]
    return sorted([*closed, *(small if len(small) > _MOST_FILES // 4 else [])])


def _is_closed(place: Folder | Prefix, name: str, locks: contextlib.ExitStack) -> bool:
    """Whether nobody writes it any more; if so, its lock is held until all is done."""
    if isinstance(place, Prefix):
        with contextlib.suppress(ValueError):
            begun = datetime.strptime(name.partition("-")[0], "%Y%m%dT%H%M%S%f").replace(tzinfo=UTC)
            return datetime.now(UTC) - begun > _YOUNG
        return True
    try:
        file = os.open(place.path / name, os.O_RDONLY)
    except OSError:
        return False
    locks.callback(os.close, file)
    return taken(file) is True


def _batches(files: Sequence[File]) -> Iterator[list[File]]:
    batch: list[File] = []
    size = 0
    for file in files:
        data = file.size * 4 if file.name.endswith(".parquet") else file.size  # about what it is unpacked
        if batch and size + data > _PARQUET_BYTES:
            yield batch
            batch, size = [], 0
        batch.append(file)
        size += data
    if batch:
        yield batch


def _merge(place: Place, files: Sequence[File]) -> str:
    """Writes one Parquet file of these, then removes them; gives its name."""
    segments = [file for file in files if file.name.endswith(".jsonl")]
    covers = {file.name for file in segments}
    merged = {file.name: place.whole(file.name) for file in files if file not in segments}
    broken: dict[str, list[bytes]] = {}
    rows = [0]
    frames = _counted(_frames(place, segments, merged, broken), rows)
    for whole in merged.values():
        covers |= covered(whole)
    first = next(frames, STORED.to_frame())
    group = max(64, min(1 << 16, _GROUP_BYTES * first.height // max(1, int(first.estimated_size()))))
    temporary, name = place.temporary(), fresh_name(".parquet")
    try:
        register_io_source(lambda *_: chain([first], frames), schema=STORED).sink_parquet(
            temporary, row_group_size=group, metadata={COVERS: orjson.dumps(sorted(covers)).decode()}
        )
        _check(str(temporary), rows[0])
        for segment, lines in broken.items():
            _set_aside(place, segment, lines)
        place.put(name, temporary)
    finally:
        temporary.unlink(missing_ok=True)
    for file in files:
        place.remove(file.name)
    return name


def _frames(
    place: Place, segments: Sequence[File], merged: Mapping[str, str | bytes], broken: dict[str, list[bytes]]
) -> Iterator[pl.DataFrame]:
    """All attempts in the columns of `STORED`; lines that cannot be read, and torn ones, are put into `broken`."""
    for name, content in place.opened(segments):
        bad: list[bytes] = []
        for block in blocks_of(content, torn=bad):
            frame, unread = parsed(block)
            bad += unread
            yield frame.with_columns(pl.lit(name).alias(SEGMENT))
        if bad:
            broken[name] = bad
    seen: set[str] = set()
    for whole in merged.values():
        yield from scanned(whole).filter(~pl.col(SEGMENT).is_in(list(seen))).collect_batches()
        seen |= covered(whole)


def _counted(frames: Iterator[pl.DataFrame], rows: list[int]) -> Iterator[pl.DataFrame]:
    for frame in frames:
        rows[0] += frame.height
        yield frame


def _check(path: str, rows: int) -> None:
    """Reads each value back, before anything is removed. Raises: StorageError when it is not what was written."""
    found = scanned(path).select(pl.len(), pl.all().hash().sum()).collect(engine="streaming")["len"].item()
    if found != rows:
        raise StorageError(f"the Parquet file has {found} of {rows} attempts: something is wrong with the disk")


def _set_aside(place: Place, segment: str, lines: Sequence[bytes]) -> None:
    """Keeps lines that cannot be read: they may be paid replies, which a person can mend."""
    name = f"{segment.removesuffix('.jsonl')}-broken.txt"
    temporary = place.temporary()
    temporary.write_bytes(b"".join(line + b"\n" for line in lines))
    place.put(name, temporary)
    warnings.warn(
        f"{len(lines)} lines of the ledger segment '{place.shown}/{segment}' cannot be read. They are in {name!r} now: "
        "mend them and name the file .jsonl, or delete it.",
        stacklevel=2,
    )

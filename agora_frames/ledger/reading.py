"""What a ledger holds, each attempt once, whatever a compaction or a crash left behind; a part at a time."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from io import BytesIO
from typing import BinaryIO

import orjson
import polars as pl

from agora_frames.errors import StorageError
from agora_frames.frames import REPLIES
from agora_frames.ledger.places import Place

__all__ = ["COVERS", "DAMAGED", "LEDGER", "SEGMENT", "STORED", "attempts", "blocks_of", "covered", "parsed", "scanned"]

# One row per attempt: the reply, what was asked of whom and for which row, by which recipe and run, and when
# (`at`: seconds since 1970, UTC, when the reply was recorded).
LEDGER = pl.Schema(
    {
        **REPLIES,
        "endpoint": pl.String(),
        "model": pl.String(),
        "sampling": pl.String(),
        "row_id": pl.String(),
        "sample": pl.Int64(),
        "recipe": pl.String(),
        "run": pl.String(),
        "at": pl.Float64(),
    }
)
# Beside these: the name of the segment in which the attempt was written.
SEGMENT = "segment"
STORED = pl.Schema({**LEDGER, SEGMENT: pl.String()})
# In the metadata of a Parquet file: the names of the segments that it holds, each of them whole.
COVERS = "agora_frames.covers"
# What Polars raises at a damaged file.
DAMAGED = (pl.exceptions.PolarsError, pl.exceptions.PanicException)

_BLOCK = 4 << 20
# A Parquet file below this is read at once: only such are merged again, and so may vanish in the midst.
_AT_ONCE = 32 << 20
_BEGIN = b'{"key":"'
_LISTED_AGAIN = 20


def attempts(
    place: Place, keys: pl.Series | None = None, columns: Iterable[str] | None = None
) -> Iterator[pl.DataFrame]:
    """The attempts (at these keys, if given), in these columns and that of the segment, in frames of bounded size.

    Each segment is counted once. Files that a compaction removes meanwhile are looked for again.
    What is damaged is left out, with a warning that names it.
    Raises: StorageError when something may not be read.
    """
    names = [*(LEDGER if columns is None else columns), SEGMENT]
    counted: set[str] = set()
    for _ in range(_LISTED_AGAIN):
        try:
            for covers, frames in _sources(place, counted, keys, names):
                yield from frames
                counted |= covers
            return
        except FileNotFoundError:
            continue
    raise StorageError(f"the ledger {place.shown!r} changes faster than it can be read. Try again.")


def _sources(
    place: Place, counted: set[str], keys: pl.Series | None, columns: list[str]
) -> Iterator[tuple[set[str], Iterable[pl.DataFrame]]]:
    """Each file that holds segments which are not yet counted: those segments, and their attempts.

    The caller reads the attempts, then adds the segments to `counted`, before it takes the next.
    """
    files = place.files()
    for file in files:
        if file.name.endswith(".parquet"):
            whole = place.whole(file.name)
            try:
                covers = covered(whole)
                if covers - counted:
                    lf = _narrowed(scanned(whole), counted & covers, keys).select(columns)
                    if keys is not None or file.size < _AT_ONCE:
                        yield covers, [lf.collect(engine="streaming")]
                    else:
                        yield covers, _in_batches(place, file.name, lf)
            except DAMAGED as exc:
                _warn_of_damage(place, file.name, exc)
    left = [file for file in files if file.name.endswith(".jsonl") and file.name not in counted]
    for name, content in place.opened(left):
        yield {name}, _from_lines(f"{place.shown}/{name}", name, content, keys, columns)


def covered(whole: str | bytes) -> set[str]:
    """The segments that a Parquet file holds. Raises: one of DAMAGED when it is damaged, or none of ours."""
    told = pl.read_parquet_metadata(BytesIO(whole) if isinstance(whole, bytes) else whole)
    if COVERS not in told:
        raise pl.exceptions.ComputeError("it was not written by a compaction")
    return set(orjson.loads(told[COVERS]))


def scanned(whole: str | bytes) -> pl.LazyFrame:
    """The attempts in a Parquet file: one of another version may lack columns, or have more."""
    lf = pl.scan_parquet(BytesIO(whole) if isinstance(whole, bytes) else whole)
    stored = lf.collect_schema()
    return lf.select(
        pl.col(column) if stored.get(column) == dtype else _fitted(column, stored.get(column), dtype)
        for column, dtype in STORED.items()
    )


def _fitted(column: str, stored: pl.DataType | None, dtype: pl.DataType) -> pl.Expr:
    value = pl.lit(None) if stored is None else pl.col(column)
    return value.cast(dtype).alias(column)


def _narrowed(lf: pl.LazyFrame, but: set[str], keys: pl.Series | None) -> pl.LazyFrame:
    if keys is not None:
        lf = lf.filter(pl.col("key").is_in(keys.implode()))
    return lf.filter(~pl.col(SEGMENT).is_in(list(but))) if but else lf


def _in_batches(place: Place, name: str, lf: pl.LazyFrame) -> Iterator[pl.DataFrame]:
    try:
        yield from lf.collect_batches(maintain_order=True)
    except DAMAGED as exc:
        _warn_of_damage(place, name, exc)


def _warn_of_damage(place: Place, name: str, exc: BaseException) -> None:
    place.whole(name)  # when it is gone, it is not damaged, but must be looked for again
    said = str(exc).split("\n")[0]
    warnings.warn(f"the ledger file '{place.shown}/{name}' is damaged, and was skipped: {said}", stacklevel=3)


def _from_lines(
    shown: str, name: str, content: BinaryIO, keys: pl.Series | None, columns: list[str]
) -> Iterator[pl.DataFrame]:
    broken = 0
    blocks = blocks_of(content)
    if keys is not None:
        blocks = _gathered(blocks, frozenset(orjson.dumps(key)[1:-1] for key in keys.to_list()))
    schema = pl.Schema({column: LEDGER[column] for column in dict.fromkeys(["key", *columns]) if column != SEGMENT})
    for block in blocks:
        whole, bad = parsed(block, schema)
        broken += len(bad)
        if keys is not None:
            whole = whole.filter(pl.col("key").is_in(keys.implode()))
        yield whole.with_columns(pl.lit(name).alias(SEGMENT)).select(columns)
    if broken:
        warnings.warn(f"the ledger segment {shown!r} has {broken} broken lines, which were skipped", stacklevel=2)


def blocks_of(content: BinaryIO, torn: list[bytes] | None = None) -> Iterator[bytes]:
    """The whole lines of a segment, without the end of the last, some megabytes at a time.

    What comes after the last end of a line is torn, or at this moment being written: it is put into `torn`.
    """
    rest: list[bytes] = []
    while chunk := content.read(_BLOCK):
        before, end, after = chunk.rpartition(b"\n")
        if end:
            yield b"".join([*rest, before]) if any(rest) else before
            rest = []
        rest.append(after)
    if torn is not None and any(rest):
        torn.append(b"".join(rest))


def _gathered(blocks: Iterator[bytes], wanted: frozenset[bytes]) -> Iterator[bytes]:
    """The lines that may be of a wanted key, gathered: their first bytes tell that quicker than parsing does."""
    found: list[bytes] = []
    size = 0
    for block in blocks:
        last = block.rfind(b"\n") + 9
        if block[8 : block.find(b'"', 8)] in wanted and block[last : block.find(b'"', last)] in wanted:
            yield block  # most likely all of it is wanted: parsing it tells
            continue
        lines = block.split(b"\n")
        # Another writer's line, and a key with an escaped character, must be parsed to be known.
        hits = [
            line
            for line in lines
            if (key := line[8 : line.find(b'"', 8)]) in wanted or line[:8] != _BEGIN or b"\\" in key
        ]
        found += hits
        size += sum(map(len, hits))
        if size > _BLOCK:
            yield b"\n".join(found)
            found, size = [], 0
    if found:
        yield b"\n".join(found)


def parsed(block: bytes, schema: pl.Schema = LEDGER) -> tuple[pl.DataFrame, list[bytes]]:
    """The attempts of the lines that can be read, and the lines that cannot."""
    frames = [schema.to_frame()]
    broken: list[bytes] = []
    _parse(block, schema, frames, broken)
    return pl.concat(frames), broken


def _parse(block: bytes, schema: pl.Schema, frames: list[pl.DataFrame], broken: list[bytes]) -> None:
    """All at once or, where a line is broken, by halves."""
    ends = block.count(b"\n")
    try:
        frame = pl.read_ndjson(block, schema=schema)
        if frame.height == ends + 1:
            frames.append(frame)
            return
    except DAMAGED:
        pass
    if not ends:
        broken.append(block)
        return
    lines = block.split(b"\n")
    for half in (lines[: len(lines) // 2], lines[len(lines) // 2 :]):
        _parse(b"\n".join(half), schema, frames, broken)

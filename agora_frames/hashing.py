"""Content under a hash: of bytes, of a frame, of its rows; and numbers drawn from content.

Equal content gives equal hashes in any process, on any machine and in any version of Polars that writes the same JSON
(Polars' own `hash_rows` does not: it changes between versions and ignores column names).
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import Any

import polars as pl
import xxhash

from agora_frames.errors import FingerprintError

__all__ = ["drawn", "frame_hash", "hash_bytes", "row_hashes", "seed_of", "text_series"]

# So few that their JSON stays in the processor's cache; how many does not change a hash.
_ROWS_AT_ONCE = 2_000


def hash_bytes(*parts: bytes) -> str:
    """32 hex digits (xxh3, 128 bits) of the parts, their borders included."""
    digest = xxhash.xxh3_128()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()


def seed_of(*parts: object) -> int:
    """A number from 0 to 2**31-1 drawn from the parts alone: the same wherever and whenever it is drawn."""
    return xxhash.xxh3_64_intdigest(repr(parts).encode()) & 0x7FFF_FFFF


def drawn(n: int, *parts: object) -> int:
    """A number from 0 to n-1 drawn from the parts alone, each as likely (to one part in 2**64/n)."""
    return xxhash.xxh3_64_intdigest(repr(parts).encode()) % n


def frame_hash(df: pl.DataFrame) -> str:
    """32 hex digits of a frame's content: names, types and order of its columns, and every value."""
    schema = repr(list(df.schema.items()))
    return hash_bytes(schema.encode(), str(df.height).encode(), _json_lines(df))


def row_hashes(df: pl.DataFrame) -> pl.Series:
    """A String series with 32 hex digits of each row's content: names and values of its columns, in any order."""
    if not df.width:
        return pl.repeat(hash_bytes(b"{}"), df.height, eager=True)
    parts = df.select(sorted(df.columns)).iter_slices(_ROWS_AT_ONCE)
    return text_series(
        [xxhash.xxh3_128_hexdigest(line) for line in _json_lines(part).split(b"\n")[: part.height]] for part in parts
    )


def text_series(parts: Iterable[list[str]]) -> pl.Series:
    """One String series of parts that are made in turn; all at once, as strings of Python, take three times as much."""
    return pl.concat([pl.Series(dtype=pl.String), *(pl.Series(part, dtype=pl.String) for part in parts)])


def _json_lines(df: pl.DataFrame) -> bytes:
    """One JSON object per row that loses nothing of the values."""
    binary = [name for name, dtype in df.schema.items() if dtype == pl.Binary]
    exact = {name: _json_type(dtype, name) for name, dtype in df.schema.items() if name not in binary}
    buffer = io.BytesIO()
    # None of these casts can fail, and Polars' search for failures (strict=True) panics where nulls hide lists.
    df.with_columns(pl.col(binary).bin.encode("hex")).cast(exact, strict=False).write_ndjson(buffer)  # type: ignore[arg-type]
    return buffer.getvalue()


def _json_type(given: Any, column: str) -> pl.DataType:
    """The type in which values of a type go through JSON and stay apart (JSON has no NaN, for one)."""
    dtype: pl.DataType = given() if isinstance(given, type) else given
    if dtype.is_float() or dtype.is_decimal():
        return pl.String()
    if dtype.is_temporal():
        return pl.Int64()
    if isinstance(dtype, pl.List):
        return pl.List(_json_type(dtype.inner, column))
    if isinstance(dtype, pl.Array):
        return pl.Array(_json_type(dtype.inner, column), dtype.size)
    if isinstance(dtype, pl.Struct):
        return pl.Struct({field.name: _json_type(field.dtype, column) for field in dtype.fields})
    if isinstance(dtype, pl.Boolean | pl.Categorical | pl.Enum | pl.Null | pl.String) or dtype.is_integer():
        return dtype
    raise FingerprintError(
        f"the column {column!r} holds {dtype} values, whose content cannot be hashed. "
        "Drop it, or turn it into text (base64) or numbers first."
    )

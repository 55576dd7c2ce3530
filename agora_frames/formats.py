"""What the bytes of a file mean: Parquet, JSON, CSV and Arrow into frames and back, malformed ones with the line."""

from __future__ import annotations

import csv
import json
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from io import BytesIO, StringIO
from pathlib import PurePosixPath
from typing import Any, Literal, TypeAlias, get_args

import orjson
import polars as pl

from agora_frames.errors import AgoraError, FrameError, ReadError, listed

__all__ = ["MALFORMED", "Format", "decode", "encode", "format_of", "why"]

Format: TypeAlias = Literal["parquet", "jsonl", "json", "csv", "datasets"]

_SUFFIXES: dict[str, Format] = {
    ".parquet": "parquet",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    "": "datasets",
}

_POSSIBLE = (
    "Possible: .parquet, .jsonl, .ndjson, .json and .csv (a text also with .gz), and a name without a suffix, or "
    "with a / at its end, for the folder of a Hugging Face data set. "
    f"Rename it, or say what it is: format= one of {listed(get_args(Format))}."
)

# What a format refuses or, worse, writes as rubbish: Python objects and 128-bit integers that `datasets` cannot read.
_CANNOT_HOLD: dict[Format, tuple[type[pl.DataType], ...]] = {
    "parquet": (pl.Object,),
    "jsonl": (pl.Object, pl.Binary),
    "json": (pl.Object, pl.Binary),
    "csv": (pl.Object, pl.Binary, pl.Duration, pl.List, pl.Array, pl.Struct),
    "datasets": (pl.Object, pl.Int128, pl.UInt128),
}

# What readers and writers raise at malformed content. Polars panics at a type that it did not expect.
MALFORMED: tuple[type[BaseException], ...] = (
    *(pl.exceptions.PolarsError, pl.exceptions.PanicException, csv.Error, zlib.error),
    *(OSError, EOFError, ValueError, TypeError, LookupError),
)

# Of a Parquet file's row groups: all of a group is in memory, encoded, until it is written.
_ROWS_AT_ONCE = 10_000

_REMEDY = "Cast or drop that, or write Parquet (all but Python objects) or JSONL (all but bytes)."


def format_of(url: str, format: Format | None, error: type[AgoraError]) -> Format:
    """The format that is asked for, or that the suffix says; `error`: what to raise when neither is known."""
    suffix = "" if url.endswith("/") else PurePosixPath(url.lower().removesuffix(".gz")).suffix
    known = format or _SUFFIXES.get(suffix)
    if known is None or known not in get_args(Format):
        raise error(f"{url!r} is of no known format: {format or suffix!r}. {_POSSIBLE}")
    return known


def decode(data: bytes, format: Format, url: str) -> pl.DataFrame:
    """The frame in a file's bytes; types are inferred over all rows. `url`: its name in errors.

    Raises: ReadError that names the line, where the line can be told; else one of MALFORMED.
    """
    if format == "parquet":
        return pl.read_parquet(data)
    if format == "csv":
        try:
            return pl.read_csv(data, infer_schema_length=None)
        except MALFORMED:
            _check_records(data, url)
            raise
    return _read_lines(data, "line", url) if format == "jsonl" else _read_array(data, url)


def encode(df: pl.DataFrame, format: Format, url: str) -> bytes:
    """A frame as a file's bytes.

    Raises: FrameError when the format cannot hold a column.
    """
    refused = [name for name, dtype in df.schema.items() if any(_held(dtype, _CANNOT_HOLD[format]))]
    if refused:
        found = ", ".join(f"{name!r} ({df.schema[name]})" for name in refused)
        raise FrameError(f"{url!r} is {format}, which cannot hold the columns {found}. {_REMEDY}")
    if df.height and not df.width and format in ("csv", "datasets"):
        raise FrameError(f"{url!r} is {format}, which cannot hold {df.height} rows without a column. {_REMEDY}")
    buffer = BytesIO()
    writers: dict[Format, Callable[[BytesIO], object]] = {
        "parquet": partial(df.write_parquet, row_group_size=_ROWS_AT_ONCE),
        "jsonl": df.write_ndjson,
        "json": df.write_json,
        "csv": df.write_csv,
        "datasets": partial(df.write_ipc_stream, compat_level=pl.CompatLevel.oldest()),
    }
    try:
        writers[format](buffer)
    except MALFORMED as error:
        raise FrameError(f"{url!r} is {format}, which cannot hold the frame: {why(error)}. {_REMEDY}") from error
    return buffer.getvalue()


def why(error: BaseException) -> str:
    """The first line of what an error says, without the name of a temporary file."""
    if isinstance(error, OSError) and error.strerror:
        named = f" ({error.filename!r})" if error.filename and not str(error.filename).endswith(".tmp") else ""
        return error.strerror + named
    return (str(error) or type(error).__name__).split("\n")[0].rstrip(".")


def _held(dtype: Any, kinds: tuple[type[pl.DataType], ...]) -> Iterator[bool]:
    """Whether the type is one of `kinds`, then whether each type inside it is."""
    yield dtype in kinds
    if isinstance(dtype, pl.List | pl.Array):
        yield from _held(dtype.inner, kinds)
    elif isinstance(dtype, pl.Struct):
        for field in dtype.fields:
            yield from _held(field.dtype, kinds)


def _check_records(data: bytes, url: str) -> None:
    """Raises ReadError at the first record with an open quote, or with more values than there are columns."""
    text = data.decode("utf-8-sig")
    records = csv.reader(StringIO(text, newline=""), strict=True)
    width = begun = 0
    wrong = ""
    try:
        for values in records:
            width = width or len(values)
            wrong = f"{len(values)} values, but the first line names {width} columns" if len(values) > width else ""
            if wrong:
                break
            begun = records.line_num
    except csv.Error as error:
        wrong = f"{error} (is a quote never closed?)"
    if wrong:
        begin = text.split("\n")[begun][:80]
        raise ReadError(
            f"{url!r}, line {begun + 1}: {wrong}. It begins: {begin!r}. Fix the quotes, or delete the line."
        )


def _read_array(data: bytes, url: str) -> pl.DataFrame:
    try:
        rows = json.loads(data)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data" and data.lstrip().startswith(b"{"):
            remedy = "It is one object per line (JSON Lines): name it .jsonl, or pass format='jsonl'."
        else:
            remedy = "Fix it there; if the file ends there (its writer was cut off), write or fetch it again."
        wrong = f"{error.msg}, at character {error.colno}"
        begin = error.doc.split("\n")[error.lineno - 1][:80]
        raise ReadError(f"{url!r}, line {error.lineno}: {wrong}. It begins: {begin!r}. {remedy}") from error
    if not isinstance(rows, list):
        raise ReadError(
            f"{url!r} is no array of objects, but {_kind(rows)} that begins: {_begin(data)}. "
            "Wrap it in [ ]; or, if it is JSON Lines, name it .jsonl or pass format='jsonl'."
        )
    # Not pl.read_json, which turns `true` among numbers into 1.
    return _read_lines("\n".join(map(json.dumps, rows)).encode(), "item", url) if rows else pl.DataFrame()


def _read_lines(data: bytes, unit: str, url: str) -> pl.DataFrame:
    """A frame of one object per line; `unit`: what a line is called in an error."""
    data = data.removeprefix(b"\xef\xbb\xbf")
    if b"\\ud" in data or b"\\uD" in data:  # half a surrogate pair: Polars reads it as "\0", without a word
        _check_lines(data, unit, url)
    try:
        return pl.read_ndjson(data, infer_schema_length=None)
    except MALFORMED:
        _check_lines(data, unit, url)
        _check_kinds(data, unit, url)
        raise


def _check_lines(data: bytes, unit: str, url: str) -> None:
    """Raises ReadError at the first line that is no JSON object."""
    lines = data.split(b"\n")
    for number, line in enumerate(lines, 1):
        try:
            value = orjson.loads(line) if line.strip() else {}
            wrong = "" if isinstance(value, dict) else f"{_kind(value)}, not an object"
        except orjson.JSONDecodeError as error:
            wrong = f"{error.msg}, at character {error.colno}"
        if wrong:
            remedy = _line_remedy(lines, number) if unit == "line" else "Fix or delete it."
            raise ReadError(f"{url!r}, {unit} {number}: {wrong}. It begins: {_begin(line)}. {remedy}")


def _line_remedy(lines: list[bytes], number: int) -> str:
    if number == 1 and (lines[0].lstrip().startswith(b"[") or lines[0].strip() == b"{"):
        return "This looks like JSON over several lines: name it .json, or pass format='json'."
    if number == len(lines):  # no newline after it
        return "The last line is torn (its writer was cut off): drop it, head -n -1 FILE > WHOLE, or write it again."
    return f"Fix it, or delete it: sed {number}d FILE > FIXED."


def _check_kinds(data: bytes, unit: str, url: str) -> None:
    """Raises ReadError at the first place whose values cannot have one type, and says where they part."""
    seen: dict[str, dict[str, int]] = {}
    for number, line in enumerate(data.split(b"\n"), 1):
        for path, kind in _kinds(orjson.loads(line) if line.strip() else {}, ""):
            seen.setdefault(path, {}).setdefault(kind, number)
    parted = [(path, kinds) for path, kinds in seen.items() if len(kinds) > 1]
    if parted:  # most of what has texts among it is read as texts
        path, kinds = min(parted, key=lambda place: "a text" in place[1])
        found = ", ".join(f"{kind} in {unit} {number}" for kind, number in kinds.items())
        raise ReadError(f"{url!r}: {path!r} is {found}. A column has one type: make them alike, or all of them texts.")


def _kinds(value: object, path: str) -> Iterator[tuple[str, str]]:
    """Each place in a value, such as `messages[].role`, and the kind of what is there; a null fits anywhere."""
    if value is not None and path:
        yield path, _kind(value)
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _kinds(inner, f"{path}.{key}" if path else key)
    elif isinstance(value, list):
        for inner in value:
            yield from _kinds(inner, f"{path}[]")


def _kind(value: object) -> str:
    kinds = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return kinds.get(type(value), "a number")


def _begin(data: bytes) -> str:
    return repr(data[:80].decode(errors="replace"))

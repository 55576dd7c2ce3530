"""Frames in and out of files, wherever fsspec reaches: read_frame, write_frame, and one atomic write."""

from __future__ import annotations

import gzip
import os
import shutil
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias
from uuid import uuid4

import orjson
import polars as pl
from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from agora_frames.errors import ReadError, StorageError, did_you_mean, listed
from agora_frames.formats import MALFORMED, Format, decode, encode, format_of, why
from agora_frames.hashing import hash_bytes
from agora_frames.stage import checked

__all__ = [
    "Format",
    "Url",
    "check_writable",
    "located",
    "read_bytes",
    "read_frame",
    "write_bytes_atomically",
    "write_frame",
]

Url: TypeAlias = str | os.PathLike[str]

_DATA_FILE = "data-00000-of-00001.arrow"


def read_frame(url: Url, *, format: Format | None = None) -> pl.DataFrame:
    """Reads a file, or a Hugging Face data set saved to disk, into a frame.

    url: a path, or any fsspec URL (`s3://…`, `memory://…`). format: what it is, when the suffix does not say:
    `.parquet`, `.jsonl` or `.ndjson` (an object per line), `.json` (an array of objects), `.csv`, each text also
    with `.gz`; no suffix means the folder that `Dataset.save_to_disk` writes.
    Types are inferred over all rows: a key first seen in the last line is a column, whole numbers and fractions
    are Float64, texts beside anything else make texts of all (of lists and objects, their JSON). CSV has no types of
    its own: what looks like a number is read as one.
    Raises: ReadError when the content is malformed (it names the line) or of no known format; StorageError when
    nothing is there, or it cannot be reached.

    >>> write_frame(pl.DataFrame({"question": ["1 + 1?"]}), "memory://seeds.jsonl")
    >>> read_frame("memory://seeds.jsonl")["question"].to_list()
    ['1 + 1?']
    """
    shown = os.fspath(url)
    known = format_of(shown, format, ReadError)
    if known == "datasets":
        return _read_dataset(shown.removesuffix("/"))
    data = read_bytes(shown)
    try:
        data = gzip.decompress(data) if shown.lower().endswith(".gz") else data
        if data.strip():
            return decode(data, known, shown)
    except ReadError:
        raise
    except MALFORMED as error:
        raise ReadError(f"{shown!r} cannot be read as {known}: {why(error)}. Write or fetch it again.") from error
    raise ReadError(
        f"{shown!r} is empty: it has neither rows nor columns. If that is wrong, write or fetch it again; "
        "to keep the columns of a frame without rows, write Parquet."
    )


def write_frame(df: pl.DataFrame, url: Url, *, format: Format | None = None) -> None:
    """Writes a frame to a file, or to a folder that `datasets.load_from_disk` opens.

    url, format: as `read_frame` takes them. Missing parent folders are made. On a local disk the old file stays
    whole until the new one is; on an object store it is one put.
    Parquet keeps every type. JSON has no dates, durations or NaN: they become texts and nulls. Categories become
    texts in JSON and CSV, and when `datasets` opens them.
    Raises: FrameError when the format cannot hold a column; StorageError when the place cannot be written.
    """
    shown = os.fspath(url)
    known = format_of(shown, format, StorageError)
    data = encode(checked(df, "write_frame", "was given"), known, shown)
    if known == "datasets":
        _write_dataset(data, shown.removesuffix("/"))
    else:
        write_bytes_atomically(shown, gzip.compress(data, mtime=0) if shown.lower().endswith(".gz") else data)


def write_bytes_atomically(url: Url, data: bytes) -> None:
    """Writes a whole file, or leaves what was there: never a part of it, whatever happens meanwhile.

    On a local disk: a temporary file beside it, fsync, rename; parent folders are made. Elsewhere: one put.
    Raises: StorageError when the place cannot be written.
    """
    shown = os.fspath(url)
    fs, path = located(shown)
    try:
        if isinstance(fs, LocalFileSystem):
            _replace(Path(path).resolve(), data)  # the file behind a link, so that the link stays
        else:
            fs.pipe_file(path, data)
    except Exception as error:  # each kind of store raises errors of its own
        raise StorageError(
            f"{shown!r} cannot be written: {why(error)}. What was there is as it was. "
            "Free space, or give a place that you may write to."
        ) from error


def check_writable(folder: Url) -> None:
    """Finds out whether files can be written into a folder, which is made if need be: writes one, and removes it.

    Raises: StorageError when they cannot.
    """
    probe = f"{os.fspath(folder).removesuffix('/')}/.{uuid4().hex}.probe"
    fs, path = located(probe)
    try:
        write_bytes_atomically(probe, b"")
    except StorageError as error:
        raise StorageError(
            f"nothing can be written into {os.fspath(folder)!r}: {why(error.__cause__ or error)}. "
            "Give a folder that you may write to, on a disk with room."
        ) from error
    fs.rm_file(path)


def located(url: Url) -> tuple[Any, str]:
    """The fsspec file system that a path or URL is on, and the path there; nothing is read yet.

    Raises: StorageError when no file system is known by that name, or its package is not installed.
    """
    try:
        fs, path = url_to_fs(os.fspath(url))
    except Exception as error:
        raise StorageError(
            f"{os.fspath(url)!r} cannot be reached: {why(error)}. Give a local path, or a URL that fsspec knows."
        ) from error
    return fs, path


def _replace(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{uuid4().hex}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if path.is_file():
            shutil.copymode(path, temporary)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def read_bytes(url: Url) -> bytes:
    """A whole file as it is; url as `read_frame` takes it.

    Raises: StorageError when there is none, or it cannot be read.
    """
    url = os.fspath(url)
    fs, path = located(url)
    try:
        data: bytes = fs.cat_file(path)
    except FileNotFoundError as error:
        raise StorageError(f"{url!r} does not exist{_near(fs, path)}") from error
    except Exception as error:
        raise StorageError(f"{url!r} cannot be read: {why(error)}. See that it is a file you may read.") from error
    return data


def _near(fs: AbstractFileSystem, path: str) -> str:
    """How a sentence goes on that says `path` is missing: what is like it, or beside it."""
    folder, _, name = path.rpartition("/")
    try:
        names = sorted(PurePosixPath(found).name for found in fs.ls(folder or "/", detail=False))
    except Exception:
        return f": there is no folder {folder!r}{_near(fs, folder)}" if folder else "."
    return f"{did_you_mean(name, names) or '.'} {folder or '/'!r} has: {listed(names) or 'nothing'}."


def _read_dataset(url: str) -> pl.DataFrame:
    try:
        state = orjson.loads(read_bytes(f"{url}/state.json"))
        return pl.concat([_read_stream(f"{url}/{file['filename']}") for file in state["_data_files"]])
    except StorageError as error:
        raise StorageError(
            f"{error} A folder is read as a saved Hugging Face data set, each split by itself; "
            "of a file without a suffix, say format=."
        ) from error
    except MALFORMED as error:
        raise ReadError(f"{url!r} is no whole data set: {why(error)}. Save it again: `save_to_disk`.") from error


def _read_stream(url: str) -> pl.DataFrame:
    df = pl.read_ipc_stream(read_bytes(url))
    extended = [name for name, dtype in df.schema.items() if isinstance(dtype, pl.BaseExtension)]
    return df.with_columns(pl.col(extended).ext.storage())  # Array2D and the like: the lists that they are


def _write_dataset(data: bytes, url: str) -> None:
    """Each file whole, and last the one that names the data: a reader finds the old set or the new one."""
    state: dict[str, Any] = {
        "_data_files": [{"filename": _DATA_FILE}],
        "_fingerprint": hash_bytes(data)[:16],
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": None,
    }
    # Without `features`, `datasets` takes the types from the data itself.
    info = {"citation": "", "description": "", "homepage": "", "license": ""}
    write_bytes_atomically(f"{url}/dataset_info.json", orjson.dumps(info))
    write_bytes_atomically(f"{url}/{_DATA_FILE}", data)
    write_bytes_atomically(f"{url}/state.json", orjson.dumps(state))

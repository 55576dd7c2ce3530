"""Results that can be computed again, kept under the content they were computed from: Store, cached, store_entries."""

from __future__ import annotations

import os
import platform
import re
import time
import warnings
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib import metadata
from io import BytesIO
from pathlib import PurePosixPath

import orjson
import polars as pl
from fsspec import AbstractFileSystem

from agora_frames.compose import AnyStage, each_step, name_of, run_traced
from agora_frames.errors import BindError, FingerprintError, StorageError
from agora_frames.fingerprint import fingerprint
from agora_frames.hashing import frame_hash, hash_bytes
from agora_frames.io import Url, located, write_bytes_atomically
from agora_frames.stage import Stage

__all__ = ["ENTRIES", "Store", "cached", "store_entries", "versions"]

# What `store_entries` tells of each result: the stage that computed it, how long that took, how large it is.
ENTRIES = pl.Schema(
    {
        "stage": pl.String(),
        "key": pl.String(),
        "rows": pl.Int64(),
        "seconds": pl.Float64(),
        "bytes": pl.Int64(),
        "created_at": pl.Datetime("us", "UTC"),
    }
)

# Each kind of store raises errors of its own, and a panic of Polars is no Exception.
_UNREADABLE = (Exception, pl.exceptions.PanicException)


@dataclass(frozen=True)
class Store:
    """A folder of results, by path or fsspec URL; it may be deleted at any time.

    Each result is `<stage>/<key>.parquet`, and `<key>.json`, written last, which says where it is from.
    """

    url: Url

    @property
    def fingerprint(self) -> str:
        """The same for all: where results are kept says nothing about what they are."""
        return "store"


def cached(stage: AnyStage, *, store: Store) -> Stage:
    """The same stage, that computes nothing twice: what the store has for this stage and frame is read from it.

    Of a recipe, each step is cached by itself, so that changing one leaves those before it. A step with effects
    (a model, a runner, a store already) is left as it is: its ledger remembers its replies, and a stored copy of
    its result would keep its failures too. Of a traced step, the step inside is cached, and the tracing goes on.
    The key is the content of the frame, and name, version, parameters and code of the stage, never the time.
    A stored file that is damaged, and a store that cannot be written, are warned of, and the result is computed.
    Raises: BindError when a step is a plain function or is not bound; FingerprintError when a parameter or the
    code of a step has no content that can be hashed.

    >>> from agora_frames.stage import stage
    >>> @stage()
    ... def shout(df: pl.DataFrame) -> pl.DataFrame:
    ...     return df.select(pl.all().str.to_uppercase())
    >>> store = Store("memory://shouts")
    >>> cached(shout(), store=store)(pl.DataFrame({"word": ["yes"]})).item()
    'YES'
    >>> store_entries(store).select("stage", "rows").rows()
    [('shout', 1)]
    """
    if not isinstance(store, Store):
        raise BindError(f"cached() needs a Store, but was given {store!r}: write store=Store(…).")
    located(store.url)  # a URL that cannot be right is told of now, not warned of at each call

    def wrap(step: AnyStage) -> Stage:
        if not isinstance(step, Stage):
            raise BindError(
                f"cached() was given {name_of(step)}, a {type(step).__name__}, but keeps the results of bound stages "
                "only, which their name, version and parameters tell apart. Make a plain function a stage with "
                "@stage(); bind a stage by calling it without a frame."
            )
        if step.effects:
            return step
        if step.fn is run_traced:
            return replace(step, params={**step.params, "stage": cached(step.params["stage"], store=store)})
        _check_content(step)
        return replace(step, fn=run_cached, params={"stage": step, "store": store})

    return each_step(stage, wrap)


def run_cached(df: pl.DataFrame, *, stage: Stage, store: Store) -> pl.DataFrame:
    """Reads the result, or computes and stores it."""
    source = frame_hash(df)
    key = hash_bytes(stage.fingerprint.encode(), source.encode())
    folder = re.sub(r"[^\w-]", "_", stage.name)[:60]  # at most 240 bytes: a name of a file has at most 255
    entry = f"{os.fspath(store.url).removesuffix('/')}/{folder}/{key}"
    if (found := _recalled(entry)) is not None:
        return found
    begun = time.perf_counter()
    result = stage(df)
    about = {
        "stage": stage.name,
        "parameters": {name: repr(value)[:1000] for name, value in stage.params.items()},
        "input": source,
        "rows": result.height,
        "seconds": round(time.perf_counter() - begun, 6),
        "created_at": datetime.now(UTC).isoformat(),
        "versions": versions(),
    }
    try:
        _keep(result, entry, about)
    except StorageError as error:
        warnings.warn(f"the result of {stage.name}() was not stored: {error}", stacklevel=3)
    return result


def store_entries(store: Store) -> pl.DataFrame:
    """What a store holds, a row per result, the oldest first.

    Gives a frame of ENTRIES: `stage` (String), `key` (String, the name of its files), `rows` (Int64), `seconds`
    (Float64: what computing it took), `bytes` (Int64: the size of its Parquet file), `created_at` (Datetime, UTC).
    What cannot be read is warned of and left out.
    Raises: StorageError when the store cannot be reached.
    """
    fs, root = located(store.url)
    try:
        fs.invalidate_cache()  # another process may have written since
        names = [name for name in fs.find(root, maxdepth=2) if name.endswith(".json")]
    except Exception as error:  # each kind of store raises errors of its own
        raise StorageError(f"{store!r} cannot be read: {error}. See that it is there and that you may.") from error
    told = [row for name in names if (row := _told(fs, name)) is not None]
    return pl.concat([ENTRIES.to_frame(), *told]).sort("created_at", "key")


def _check_content(step: Stage) -> None:
    """Raises FingerprintError naming the part of the stage that cannot be fingerprinted."""
    parts = {**{f"its parameter {name!r}": value for name, value in step.params.items()}, "its code": step.fn}
    for part, value in parts.items():
        try:
            fingerprint(value)
        except FingerprintError as error:
            raise FingerprintError(f"{step.name}() cannot be cached, because of {part}: {error}") from error


def _recalled(entry: str) -> pl.DataFrame | None:
    """The result under an entry; None when there is none, or (with a warning) when it is damaged."""
    try:
        fs, path = located(entry)
        try:
            about = fs.cat_file(f"{path}.json")
        except (FileNotFoundError, NotADirectoryError):
            return None
        data = fs.cat_file(f"{path}.parquet")
        if hash_bytes(data) != orjson.loads(about)["digest"]:
            raise ValueError("the Parquet file is not the one that was written")
        return pl.read_parquet(data)
    except _UNREADABLE as error:  # whatever it is, the result can be computed again
        said = f"{type(error).__name__}: {error}"
        warnings.warn(
            f"what is stored as {entry}.parquet and .json cannot be read, so it is computed again: {said}", stacklevel=4
        )
        return None


def _keep(result: pl.DataFrame, entry: str, about: dict[str, object]) -> None:
    """Stores a result, if Parquet gives it back as it is. Raises StorageError when it is not stored."""
    buffer = BytesIO()
    try:
        result.rechunk().write_parquet(buffer)  # rechunked, equal frames become equal bytes
        data = buffer.getvalue()
        back = pl.read_parquet(data)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise StorageError(f"Parquet cannot hold it: {error}") from error
    if back.schema != result.schema or not back.equals(result):
        raise StorageError(f"Parquet gives it back as something else: {back.schema} for {result.schema}.")
    write_bytes_atomically(f"{entry}.parquet", data)
    told = {**about, "bytes": len(data), "digest": hash_bytes(data)}
    write_bytes_atomically(f"{entry}.json", orjson.dumps(told, option=orjson.OPT_INDENT_2))


def versions() -> dict[str, str]:
    """Of agora_frames, Polars and Python."""
    try:
        own = metadata.version("agora-frames")
    except metadata.PackageNotFoundError:  # run from a checkout
        own = "unversioned"
    return {"agora_frames": own, "polars": pl.__version__, "python": platform.python_version()}


def _told(fs: AbstractFileSystem, name: str) -> pl.DataFrame | None:
    """One row of ENTRIES, from a JSON file; None, with a warning, when that cannot be read."""
    try:
        about = orjson.loads(fs.cat_file(name))
        created_at = datetime.fromisoformat(about["created_at"])
        return pl.DataFrame([{**about, "key": PurePosixPath(name).stem, "created_at": created_at}], schema=ENTRIES)
    except _UNREADABLE as error:
        warnings.warn(f"{name} is left out, for it cannot be read: {type(error).__name__}: {error}", stacklevel=3)
        return None

"""The ledger: every reply that was paid for, as a frame, on disk before anybody sees it."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import polars as pl
from polars.io.plugins import register_io_source

from agora_frames.frames import REPLIES, SETTLED, paired
from agora_frames.ledger.claims import Claim, claimed
from agora_frames.ledger.compaction import compact, compact_if_due
from agora_frames.ledger.objects import ObjectWriter
from agora_frames.ledger.places import Folder, Prefix, place_of
from agora_frames.ledger.reading import LEDGER, SEGMENT, attempts
from agora_frames.ledger.writers import LocalWriter, Writer, unwritable
from agora_frames.types import Reply

__all__ = ["LEDGER", "SPENT", "Claim", "Ledger", "Tally"]

# What `spent` tells of each attempt. tokens: of prompt and reply together. kind: of its error.
SPENT = pl.Schema(
    {
        "key": pl.String(),
        "tokens": pl.Int64(),
        "cost_usd": pl.Float64(),
        "kind": pl.String(),
        "retried": pl.Boolean(),
        "run": pl.String(),
    }
)


@dataclass
class Tally:
    """What went through a ledger in this process: replies that it knew, and what was asked, used and spent.

    calls: replies that ended a request; attempts: those, and the failed ones before them. tokens and cost_usd: of the
    attempts whose usage is known; of_unknown_cost: how many attempts are not in the sum. seconds: from the first
    request to the last reply.
    """

    known: int = 0
    calls: int = 0
    attempts: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float = 0.0
    of_unknown_cost: int = 0
    begun: float | None = None
    seconds: float = 0.0

    def begin(self, known: int) -> None:
        """A run of requests begins, of which so many are known."""
        self.known += known
        self.begun = self.begun or time.monotonic()

    def add(self, attempt: Reply) -> None:
        """An attempt was recorded."""
        self.calls += not attempt.get("retried")
        self.attempts += 1
        self.prompt_tokens += attempt.get("prompt_tokens") or 0
        self.completion_tokens += attempt.get("completion_tokens") or 0
        self.cost_usd += attempt.get("cost_usd") or 0.0
        self.of_unknown_cost += attempt.get("cost_usd") is None
        self.seconds = time.monotonic() - (self.begun or time.monotonic())


@dataclass(frozen=True)
class Ledger:
    """Every attempt at every request, in a local folder or under a prefix on an object store.

    path: the folder, made when the first reply is recorded, or an fsspec URL (`s3://bucket/ledger`), given as a text.
    A relative one stays where it was when the ledger was made, wherever the process goes.
    recipe, run: names put into each row. tally: what went through it in this process.
    On a local disk a reply survives the death of the process at any instant, and that of the machine after a second.
    On an object store, replies are put every 2 s or 4 MB, and when a run ends: those of the last 2 s before a kill are
    lost, and paid again. Nothing is ever changed or deleted; files are merged (see `compaction`). A torn last line
    is ignored.
    """

    path: Path | str
    recipe: str | None = None
    run: str | None = None
    tally: Tally = field(default_factory=Tally, init=False, repr=False, compare=False)
    place: Folder | Prefix = field(init=False, repr=False, compare=False)
    _given: str = field(init=False, repr=False, compare=False)
    _writer: list[Writer] = field(default_factory=list, init=False, repr=False, compare=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        place = place_of(str(self.path))
        object.__setattr__(self, "_given", str(self.path))
        object.__setattr__(self, "place", place)
        folder = Path(self._given.removeprefix("file://")).expanduser()
        object.__setattr__(self, "path", folder if isinstance(place, Folder) else place.shown)

    def frame(self) -> pl.DataFrame:
        """All attempts in the columns of `LEDGER`, in the order in which segments were begun and rows written."""
        return _in_order([LEDGER.to_frame().with_columns(pl.lit("").alias(SEGMENT)), *self._read()]).drop(SEGMENT)

    def scan(self) -> pl.LazyFrame:
        """All attempts in the columns of `LEDGER`, in no order, read as the query needs them: for large ledgers."""

        def read(
            columns: list[str] | None, predicate: pl.Expr | None, rows: int | None, _: int | None
        ) -> Iterator[pl.DataFrame]:
            wanted = list(LEDGER) if columns is None else columns
            needed = wanted if predicate is None else [*dict.fromkeys([*wanted, *predicate.meta.root_names()])]
            for frame in self._read(columns=needed):
                if rows is not None:
                    frame = frame.head(rows)
                    rows -= frame.height
                yield (frame if predicate is None else frame.filter(predicate)).select(wanted)
                if rows == 0:
                    return

        return register_io_source(read, schema=LEDGER)

    def answers(self, keys: pl.Series) -> pl.DataFrame:
        """The replies to these keys that need not be asked again, in the columns of `REPLIES`; one for each key.

        An attempt that failed is no answer; one that ended in a truncated, refused, filtered or empty reply is: it was
        paid for, and asking again would bring no more. Of several answers it is the first.
        """
        kind = pl.col("error").struct.field("kind")
        answer = ~pl.col("retried").fill_null(False) & (kind.is_null() | kind.is_in(SETTLED))
        found = [frame.filter(answer) for frame in self._read(keys, [*REPLIES, "at"])]
        empty = LEDGER.to_frame().select(*REPLIES, "at", pl.lit("").alias(SEGMENT))
        first = _in_order([empty, *found], "at").unique("key", keep="first", maintain_order=True)
        return first.select(pl.col("retried").fill_null(False) if name == "retried" else name for name in REPLIES)

    def spent(self, keys: pl.Series) -> pl.DataFrame:
        """Every attempt at these keys, in the columns of `SPENT`; what is unknown is null."""
        read = ("key", "prompt_tokens", "completion_tokens", "cost_usd", "error", "retried", "run")
        told = (
            pl.col("key"),
            (pl.col("prompt_tokens") + pl.col("completion_tokens")).alias("tokens"),
            pl.col("cost_usd"),
            pl.col("error").struct.field("kind").alias("kind"),
            pl.col("retried").fill_null(False),
            pl.col("run"),
        )
        return pl.concat([SPENT.to_frame(), *(frame.select(told) for frame in self._read(keys, read))])

    def state(self) -> object:
        """Something that is equal as long as nobody recorded anything."""
        self.flush(only_objects=True)
        return [file for file in self.place.files() if file.name.endswith((".jsonl", ".parquet"))]

    def write(self, row: Mapping[str, Any], *tallies: Tally) -> None:
        """Records an attempt, in the columns of `LEDGER` (what is left out is null); it is durable when this returns.

        tallies: that count it beside the ledger's own.
        Raises: StorageError when it cannot be written, with nothing torn left behind.
        """
        if next(iter(row)) != "key":  # from which a look-up tells most lines that it does not want
            row = {"key": row["key"], **row}
        try:
            line = orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE)
        except TypeError:
            line = orjson.dumps(paired(row), default=str, option=orjson.OPT_APPEND_NEWLINE)
        try:
            self._own().write(line)
        finally:  # it was paid, whether it could be recorded or not
            with self._lock:
                for tally in (self.tally, *tallies):
                    tally.add(row)

    def open(self) -> Writer:
        """This process's own writer, made if need be: so that a ledger that cannot be written is found out early.

        Where closed segments have become many, they are merged first.
        """
        writer = self._own()
        writer.look()
        return writer

    def _own(self) -> Writer:
        writer = self._writer[0] if self._writer else None
        if writer is not None and writer.pid == os.getpid():
            return writer
        with self._lock:
            if not self._writer or self._writer[0].pid != os.getpid():
                if not self._writer:
                    compact_if_due(self.place)
                place = self.place
                self._writer[:] = [LocalWriter(place.path) if isinstance(place, Folder) else ObjectWriter(place)]
            return self._writer[0]

    @contextlib.contextmanager
    def claim(self, keys: pl.Series) -> Iterator[Claim]:
        """While it is held, no other process or thread is given the same keys.

        On an object store, and on a system without file locks, everybody is given all.
        """
        if isinstance(self.place, Prefix):
            try:
                yield Claim(keys)
            finally:
                self.flush()
            return
        with contextlib.ExitStack() as claims:
            try:
                claim = claims.enter_context(claimed(self.place.path / "claims", keys))
            except OSError as exc:
                raise unwritable(str(self.path), exc) from exc
            yield claim

    def flush(self, *, only_objects: bool = False) -> None:
        """Puts or forces to the disk what was written; raises StorageError when that fails."""
        writer = self._writer[0] if self._writer else None
        if writer is None or writer.pid != os.getpid() or (only_objects and isinstance(self.place, Folder)):
            return
        writer.flush()

    def close(self) -> None:
        """Ends this process's segment, after a flush; the next write begins another."""
        with self._lock:
            if self._writer and self._writer[0].pid == os.getpid():
                self._writer[0].close()
            self._writer.clear()

    def compact(self) -> list[str]:
        """Merges all segments that nobody writes any more into Parquet, and gives the names of the files made.

        Raises: StorageError when it cannot be done; the replies are where they were.
        """
        return compact(self.place)

    def _read(self, keys: pl.Series | None = None, columns: Iterable[str] | None = None) -> Iterator[pl.DataFrame]:
        self.flush(only_objects=True)
        return attempts(self.place, keys, columns)

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopened, (self._given, self.recipe, self.run, self.place if isinstance(self.place, Folder) else None)


def _reopened(given: str, recipe: str | None, run: str | None, folder: Folder | None) -> Ledger:
    """A copy in another process, which may be in another directory."""
    ledger = Ledger(given, recipe, run)
    if folder is not None:
        object.__setattr__(ledger, "place", folder)
    return ledger


def _in_order(frames: list[pl.DataFrame], *before: str) -> pl.DataFrame:
    return pl.concat(frames).sort(*before, SEGMENT, maintain_order=True)

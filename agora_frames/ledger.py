"""The ledger: every reply that was paid for, as a frame, on disk before anybody sees it."""

from __future__ import annotations

import contextlib
import os
import secrets
import threading
import time
import warnings
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeAlias

import orjson
import polars as pl

from agora_frames.errors import OfflineError, StorageError, listed
from agora_frames.frames import REPLIES, SETTLED, as_replies
from agora_frames.types import Backend

__all__ = ["LEDGER", "Ledger", "Remembered", "remembered"]

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
_SYNC_EVERY_S = 1.0

# Of each key: sampling, row_id, sample.
_Asked: TypeAlias = dict[str, tuple[str, str, int]]


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

    def add(self, attempts: pl.DataFrame) -> None:
        """Attempts were recorded."""
        self.calls += attempts.filter(~pl.col("retried")).height
        self.attempts += attempts.height
        self.prompt_tokens += int(attempts["prompt_tokens"].sum())
        self.completion_tokens += int(attempts["completion_tokens"].sum())
        self.cost_usd += float(attempts["cost_usd"].sum())
        self.of_unknown_cost += attempts["cost_usd"].null_count()
        self.seconds = time.monotonic() - (self.begun or time.monotonic())


@dataclass(frozen=True)
class Ledger:
    """A folder of append-only segments, JSON lines, each written by one process alone.

    path: the folder, made when the first reply is recorded. recipe, run: names put into each row. tally: what went
    through it in this process.
    A reply is handed to the operating system in one write before it is passed on, so it survives the death of the
    process at any instant; it is forced to the disk at least once a second, for the death of the machine.
    A torn last line is ignored. Nothing is ever changed or deleted.
    """

    path: Path
    recipe: str | None = None
    run: str | None = None
    tally: Tally = field(default_factory=Tally, init=False, repr=False, compare=False)
    _segment: list[_Segment] = field(default_factory=list, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        given = str(self.path)
        if not given.strip() or given == "." or (":/" in given and not Path(given).exists()):
            raise StorageError(
                f"the ledger {given!r} is no local folder. Give the path of one, such as .agora/ledger; a ledger on an "
                "object store is not written yet."
            )
        object.__setattr__(self, "path", Path(given).expanduser())

    def frame(self) -> pl.DataFrame:
        """All attempts in the columns of `LEDGER`, in the order in which segments were begun and rows written."""
        return pl.concat([LEDGER.to_frame(), *(_read(file) for file in self.segments())])

    def segments(self) -> list[Path]:
        """The files of the ledger, oldest first."""
        try:
            return sorted(file for file in self.path.iterdir() if file.suffix == ".jsonl")
        except FileNotFoundError:
            return []
        except OSError as exc:
            raise StorageError(_unreadable("folder", self.path, exc)) from exc

    def answers(self, keys: pl.Series) -> pl.DataFrame:
        """The replies to these keys that need not be asked again, in the columns of `REPLIES`; one for each key.

        An attempt that failed is no answer; one that ended in a truncated, refused or filtered reply is: it was
        paid for, and asking again would bring no more.
        """
        wanted = keys.to_frame("key")
        kind = pl.col("error").struct.field("kind")
        answer = ~pl.col("retried") & (kind.is_null() | kind.is_in(SETTLED))
        known = [_read(file).filter(answer).join(wanted, on="key", how="semi") for file in self.segments()]
        return (
            pl.concat([LEDGER.to_frame(), *known])
            .select(list(REPLIES))
            .unique("key", keep="first", maintain_order=True)
        )

    def append(self, attempts: pl.DataFrame) -> None:
        """Records attempts, in the columns of `LEDGER`; they are durable when this returns.

        Raises: StorageError when they cannot be written, with nothing torn left behind.
        """
        self.open().write(b"".join(orjson.dumps(row) + b"\n" for row in attempts.iter_rows(named=True)))
        self.tally.add(attempts)

    def open(self) -> _Segment:
        """This process's own segment, made if need be: so that a ledger that cannot be written is found out early."""
        if not self._segment or self._segment[0].pid != os.getpid():
            self._segment[:] = [_Segment(self.path)]
        return self._segment[0]

    def __reduce__(self) -> tuple[Any, ...]:
        return Ledger, (self.path, self.recipe, self.run)


class _Segment:
    """A file that this process alone appends to."""

    def __init__(self, folder: Path) -> None:
        self.pid = os.getpid()
        self.synced = time.monotonic()
        self.lock = threading.Lock()
        begun = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%f")  # to the microsecond, so that names sort by it
        self.path = folder / f"{begun}-{self.pid}-{secrets.token_hex(4)}.jsonl"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self.file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o644)
        except OSError as exc:
            raise StorageError(
                f"the ledger {str(folder)!r} cannot be written: {exc.strerror}. Nothing was asked. "
                "Give another folder (ledger=…, or AGORA_LEDGER), or mend its permissions."
            ) from exc

    def write(self, lines: bytes) -> None:
        """All of the lines or, when that fails or is interrupted, none of them."""
        with self.lock:
            size = os.fstat(self.file).st_size
            try:
                self._write(lines)
            except BaseException as exc:
                self._cut(size)
                if not isinstance(exc, OSError):
                    raise
                raise StorageError(
                    f"a reply could not be recorded in {str(self.path)!r}: {exc.strerror}. The run was stopped, "
                    "so that no further one is paid for and lost. What was recorded before is safe: make room, and run "
                    "again."
                ) from exc

    def _write(self, lines: bytes) -> None:
        left = memoryview(lines)
        while left:
            left = left[os.write(self.file, left) :]
        if time.monotonic() - self.synced > _SYNC_EVERY_S:
            os.fsync(self.file)
            self.synced = time.monotonic()

    def _cut(self, size: int) -> None:
        try:
            os.ftruncate(self.file, size)
        except OSError:
            self.pid = 0  # nobody's any more: what comes next begins a new segment, not in the middle of a torn line

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError, OSError):
            os.fsync(self.file)
            os.close(self.file)


def _read(file: Path) -> pl.DataFrame:
    """The attempts of a segment; what is no whole line is left out, with a warning that names it."""
    try:
        content = file.read_bytes()
    except OSError as exc:
        raise StorageError(_unreadable("segment", file, exc)) from exc
    # The last line without an end is one whose writer died, or is at this moment writing.
    lines = content[: content.rfind(b"\n") + 1].splitlines()
    rows = pl.concat([LEDGER.to_frame(), *_whole(lines)])
    if broken := len(lines) - rows.height:
        warnings.warn(f"the ledger segment {str(file)!r} has {broken} broken lines, which were skipped", stacklevel=2)
    return rows


def _whole(lines: list[bytes]) -> Iterator[pl.DataFrame]:
    """The lines that can be read: all at once or, where one of them is broken, by halves."""
    if not lines:
        return
    try:
        yield pl.read_ndjson(b"\n".join(lines), schema=LEDGER)
    except pl.exceptions.PolarsError:
        if len(lines) > 1:
            yield from _whole(lines[: len(lines) // 2])
            yield from _whole(lines[len(lines) // 2 :])


def _unreadable(what: str, path: Path, exc: OSError) -> str:
    return (
        f"the ledger {what} {str(path)!r} cannot be read: {exc.strerror}. It may hold replies that were paid for, "
        "so nothing was asked. Mend its permissions, or move it away."
    )


@dataclass(frozen=True, repr=False)
class Remembered:
    """A backend that asks only what its ledger does not know; made by `remembered`."""

    backend: Backend
    ledger: Ledger
    offline: bool

    @property
    def endpoint(self) -> str:
        return self.backend.endpoint

    @property
    def model(self) -> str:
        return self.backend.model

    def __call__(self, requests: pl.DataFrame, /) -> Iterator[pl.DataFrame]:
        known = self.ledger.answers(requests["key"])
        self.ledger.tally.begin(known.height)
        if known.height:
            yield known
        missing = requests.join(known, on="key", how="anti", maintain_order="left")
        if missing.is_empty():
            return
        if self.offline:
            raise OfflineError(_lacking(missing, self))
        self.ledger.open()
        asked = {row[0]: row[1:] for row in missing.select("key", "sampling", "row_id", "sample").iter_rows()}
        stream = self.backend(missing)
        owed: list[pl.DataFrame] = []
        try:
            for replies in stream:
                owed.append(replies)
                self._record(owed, asked)
                yield replies
        except (KeyboardInterrupt, GeneratorExit):
            try:  # noqa: SIM105 - one Ctrl-C can be raised twice: see `backends.chat.streamed`
                time.sleep(0)
            except KeyboardInterrupt:
                pass
            self._settle(stream, owed, asked)
            raise

    def _record(self, owed: list[pl.DataFrame], asked: _Asked) -> None:
        """Records what was not yet; interrupted in the middle, it may be called again."""
        while owed:
            self.ledger.append(self._attempts(owed[0], asked))
            del owed[0]

    def _settle(self, stream: Iterator[pl.DataFrame], owed: list[pl.DataFrame], asked: _Asked) -> None:
        """Records what the backend still has in flight: nobody reads on, but it is paid for."""
        self._record(owed, asked)
        if not isinstance(stream, Generator):
            return  # it cannot be told to ask nothing more
        with contextlib.suppress(KeyboardInterrupt, StopIteration):
            self._record([stream.throw(KeyboardInterrupt())], asked)
            for replies in stream:
                self._record([replies], asked)

    def _attempts(self, told: pl.DataFrame, asked: _Asked) -> pl.DataFrame:
        replies = as_replies(told, self.backend)
        of = [asked.get(key, (None, None, None)) for key in replies["key"]]
        sampling, row_id, sample = zip(*of, strict=True) if of else ((), (), ())
        return replies.select(
            *REPLIES,
            pl.lit(self.endpoint).alias("endpoint"),
            pl.lit(self.model).alias("model"),
            pl.Series("sampling", sampling, dtype=pl.String),
            pl.Series("row_id", row_id, dtype=pl.String),
            pl.Series("sample", sample, dtype=pl.Int64),
            pl.lit(self.ledger.recipe, dtype=pl.String).alias("recipe"),
            pl.lit(self.ledger.run, dtype=pl.String).alias("run"),
            pl.lit(time.time()).alias("at"),
        )

    def __repr__(self) -> str:
        offline = ", offline=True" if self.offline else ""
        return f"remembered({self.backend!r}, ledger={str(self.ledger.path)!r}{offline})"


def remembered(backend: Backend, *, ledger: Ledger, offline: bool = False) -> Remembered:
    """The same backend, answering from the ledger what it knows, and recording each reply before passing it on.

    offline: ask nothing; a run that lacks replies then raises OfflineError, which lists the requests.
    """
    return Remembered(backend, ledger, offline)


def _lacking(missing: pl.DataFrame, backend: Remembered) -> str:
    rows = [f"row_id {row_id} sample {sample}" for row_id, sample in missing.select("row_id", "sample").iter_rows()]
    return (
        f"offline, and {str(backend.ledger.path)!r} lacks {missing.height} of the replies of {backend.model}: "
        f"{listed(rows, most=5)}. Run again without offline, or with the ledger that has them."
    )

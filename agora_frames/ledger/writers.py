"""What records a ledger's lines on a local disk: a segment that takes each line at once."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import tempfile
import threading
import time
import weakref
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from agora_frames.errors import StorageError
from agora_frames.formats import why
from agora_frames.ledger.locks import taken

__all__ = ["LocalWriter", "Writer", "fresh_name", "lost", "unwritable"]

_SYNC_EVERY_S = 1.0
_ROLL_BYTES = 64 << 20  # so that no segment is too large to be read, or merged, at once
# Kept free for the replies that are in flight when the disk is full.
_RESERVE_BYTES = 4 << 20
_LOOK_EVERY_S = 1.0
_FULL = (errno.ENOSPC, errno.EDQUOT)


class Writer(Protocol):
    """What records lines for one process, from any of its threads."""

    pid: int

    def look(self) -> None:
        """Begins anew what was deleted behind it, and sees that there is room. Raises: StorageError."""
        ...

    def write(self, line: bytes) -> None:
        """A whole line, with its end. Raises: StorageError, with nothing torn left behind."""
        ...

    def flush(self) -> None:
        """All that was written survives the machine when this returns. Raises: StorageError."""
        ...

    def close(self) -> None:
        """Flushes, and writes no more. Raises: StorageError."""
        ...


def fresh_name(suffix: str) -> str:
    """A name for a new file that nobody else gives, and that sorts by the time when it was begun."""
    return f"{datetime.now(UTC).strftime('%Y%m%dT%H%M%S%f')}-{os.getpid()}-{secrets.token_hex(4)}{suffix}"


def unwritable(shown: str, exc: Exception) -> StorageError:
    return StorageError(
        f"the ledger {shown!r} cannot be written: {_said(exc)}. Nothing was asked. "
        "Give another place (ledger=…, or AGORA_LEDGER), or mend its permissions, or make room."
    )


class LocalWriter:
    """Segments that this process alone appends to, each locked for as long as it is open.

    A line is handed to the operating system in one write, so it survives the death of the process at any instant; it
    is forced to the disk within a second, for the death of the machine.
    Some room is kept, in a file without a name, for the replies that are paid already when the disk is full: they are
    recorded there, and then the run stops.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.pid = folder, os.getpid()
        self.lock = threading.Lock()
        self.timer: threading.Timer | None = None
        self.failed: OSError | None = None
        self.full: OSError | None = None
        self.kept = _Kept()
        weakref.finalize(self, self.kept.free).atexit = False
        try:
            self._begin()
            self.kept.take(folder)
        except OSError as exc:
            raise unwritable(str(folder), exc) from exc

    def look(self) -> None:
        with self.lock:
            try:
                self._begin_if_gone()
                if self.full is not None:
                    self.kept.take(self.folder)
                    self.full = None
            except OSError as exc:
                raise unwritable(str(self.folder), exc) from exc

    def write(self, line: bytes) -> None:
        with self.lock:
            try:
                if time.monotonic() - self.looked >= _LOOK_EVERY_S:
                    self._begin_if_gone()
                if self.size > _ROLL_BYTES:
                    self._end()
                    self._begin()
                self._append(line)
            except BaseException as exc:
                self._cut()
                if not isinstance(exc, OSError):
                    raise
                if exc.errno not in _FULL or not self._appended_to_kept_room(line):
                    raise lost(str(self.path), exc) from exc
                self.full = OSError(exc.errno, exc.strerror)  # the error itself would hold this writer by its traceback
            if self.timer is None:
                self._sync_later()
            if self.full is not None:
                raise _filled(str(self.path), self.full) from self.full
            if self.failed is not None:  # to force an earlier line to the disk
                failed, self.failed = self.failed, None
                raise lost(str(self.path), failed) from failed

    def flush(self) -> None:
        with self.lock:
            try:
                os.fsync(self.file)
            except OSError as exc:
                raise lost(str(self.path), exc) from exc

    def close(self) -> None:
        self.flush()
        with self.lock:
            self.pid = 0
            self._end()

    def _begin_if_gone(self) -> None:
        """Who deletes a ledger means what was in it, not the replies to come."""
        self.looked = time.monotonic()
        if self._end.alive and not os.fstat(self.file).st_nlink:
            self._end()
            self._begin()

    def _appended_to_kept_room(self, line: bytes) -> bool:
        self.kept.free()
        try:
            if not self.pid:
                self._end()
                self._begin()
                self.pid = os.getpid()
            self._append(line)
        except OSError:
            self._cut()
            return False
        return True

    def _begin(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        while True:
            self.path = self.folder / fresh_name(".jsonl")
            self.file = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o644)
            self._end = weakref.finalize(self, _ended, self.file, self.path, self.pid)
            # Before it was locked, a compaction may have taken it for one that nobody writes.
            if taken(self.file) is not False and os.fstat(self.file).st_nlink:
                break
            self._end()
        self.size, self.looked = 0, time.monotonic()

    def _append(self, line: bytes) -> None:
        left = memoryview(line)
        while left:
            left = left[os.write(self.file, left) :]
        self.size += len(line)

    def _cut(self) -> None:
        """Takes away the beginning of a line that has no end."""
        if not self._end.alive:  # it is closed, and the next one could not be begun
            self.pid = 0
            return
        try:
            size = os.fstat(self.file).st_size
            look = 1 << 16
            while (end := os.pread(self.file, look, max(0, size - look)).rfind(b"\n")) < 0 and look < size:
                look *= 2
            os.ftruncate(self.file, max(0, size - look) + end + 1)
        except OSError:
            self.pid = 0  # nobody's any more: what comes next begins a new segment, not in the middle of a torn line

    def _sync_later(self) -> None:
        self.timer = threading.Timer(_SYNC_EVERY_S, _sync, [weakref.ref(self)])  # which keeps nobody open
        self.timer.daemon = True
        try:
            self.timer.start()
        except RuntimeError:  # the interpreter is ending: its exit forces the rest
            self.timer = None

    def sync(self) -> None:
        """Forces to the disk what was written; nobody waits for that."""
        with self.lock:
            self.timer = None
            if not self._end.alive:
                return
            file = os.dup(self.file)
        try:
            os.fsync(file)
        except OSError as exc:
            self.failed = exc
        finally:
            os.close(file)


class _Kept:
    """Room on a disk that is ours until it is freed, or until the process dies: a file that has no name."""

    def __init__(self) -> None:
        self.file: int | None = None
        self.pid = os.getpid()

    def take(self, folder: Path) -> None:
        """So much as there is room for, at most half of it; none where files cannot be made so.

        Raises: OSError when the disk is full.
        """
        if self.file is not None or not hasattr(os, "posix_fallocate"):
            return
        try:
            with tempfile.TemporaryFile(dir=folder) as file:
                state = os.fstatvfs(file.fileno())
                os.posix_fallocate(file.fileno(), 0, max(1, min(_RESERVE_BYTES, state.f_bavail * state.f_frsize // 2)))
                self.file = os.dup(file.fileno())
        except OSError as exc:
            if exc.errno in _FULL:
                raise

    def free(self) -> None:
        if self.file is not None:
            if self.pid == os.getpid():  # a forked child has it open, too
                with contextlib.suppress(OSError):
                    os.ftruncate(self.file, 0)
            os.close(self.file)
            self.file = None


def _sync(writer: weakref.ref[LocalWriter]) -> None:
    if (living := writer()) is not None:
        living.sync()


def _ended(file: int, path: Path, pid: int) -> None:
    """A segment is closed; one that holds nothing is deleted. A forked child leaves it to its parent."""
    with contextlib.suppress(OSError):
        if pid == os.getpid():
            if os.fstat(file).st_size == 0:
                path.unlink(missing_ok=True)
            os.fsync(file)
    with contextlib.suppress(OSError):
        os.close(file)


def lost(shown: str, exc: Exception) -> StorageError:
    return StorageError(
        f"a reply could not be recorded in {shown!r}: {_said(exc)}. The run was stopped, so that no further one is "
        "paid for and lost. What was recorded before is safe: make room, and run again."
    )


def _filled(shown: str, exc: Exception) -> StorageError:
    return StorageError(
        f"there is no more room for {shown!r}: {_said(exc)}. This reply and those in flight are recorded, in room kept "
        "for them, and the run was stopped. Nothing is lost: make room, and run again."
    )


def _said(exc: Exception) -> str:
    return exc.strerror if isinstance(exc, OSError) and exc.strerror else why(exc)

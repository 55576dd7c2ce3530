"""What records a ledger's lines on an object store: objects of some seconds of lines, each put once and for all."""

from __future__ import annotations

import atexit
import contextlib
import os
import threading

from agora_frames.errors import StorageError
from agora_frames.ledger.places import Prefix
from agora_frames.ledger.writers import fresh_name, lost, unwritable

__all__ = ["ObjectWriter"]

_PUT_EVERY_S = 2.0
_PUT_BYTES = 4 << 20  # or earlier, when so much is waiting
_WAIT_BYTES = 16 << 20  # a store that is slower than the replies: from here on they wait for it


class ObjectWriter:
    """Lines gathered for at most two seconds or 4 MB, then put as one object that is never changed.

    The lines of the last two seconds before a kill are lost. What could not be put stays, and is tried again: at
    the next write, which raises what went wrong, at `flush`, and at the exit of the process.
    """

    def __init__(self, place: Prefix) -> None:
        self.place, self.pid = place, os.getpid()
        self.lock, self.putting = threading.Lock(), threading.Lock()
        self.lines: list[bytes] = []
        self.size = 0
        # What is being put keeps its name until it is there: one that was there though it was told as failed, is
        # written over with the same.
        self.batch: tuple[str, bytes] | None = None
        self.timer: threading.Timer | None = None
        self.failed: Exception | None = None
        try:
            place.write(fresh_name(".jsonl"), b"")  # so that a store that takes nothing is found out early
        except Exception as exc:  # each kind of store raises errors of its own
            raise unwritable(place.shown, exc) from exc
        atexit.register(self._end)

    def look(self) -> None:
        """Each put makes an object of its own, so there is nothing to begin anew."""

    def write(self, line: bytes) -> None:
        with self.lock:
            self.lines.append(line)
            self.size += len(line)
            waits = self.failed is not None or self.size > _WAIT_BYTES
            if self.timer is None or self.size - len(line) < _PUT_BYTES <= self.size:
                self._put_later(0.0 if self.size >= _PUT_BYTES else _PUT_EVERY_S)
        if waits:
            self.flush()

    def flush(self) -> None:
        with self.putting:
            for _ in range(2):  # what an earlier put left behind, and what came since
                with self.lock:
                    if self.batch is None and self.lines:
                        self.batch = fresh_name(".jsonl"), b"".join(self.lines)
                        self.lines, self.size = [], 0
                if self.batch is None:
                    return
                try:
                    self.place.write(*self.batch)
                except Exception as exc:
                    self.failed = exc
                    raise lost(self.place.shown, exc) from exc
                self.batch = self.failed = None

    def close(self) -> None:
        self.flush()
        self.pid = 0
        atexit.unregister(self._end)

    def _put_later(self, seconds: float) -> None:
        if self.timer is not None:
            self.timer.cancel()
        self.timer = threading.Timer(seconds, self._put)
        self.timer.daemon = True
        with contextlib.suppress(RuntimeError):  # the interpreter is ending: its exit puts the rest
            self.timer.start()

    def _put(self) -> None:
        with self.lock:
            self.timer = None
        with contextlib.suppress(StorageError):  # it is kept, and raised at the next write
            self.flush()

    def _end(self) -> None:
        """At the exit of the process; a forked child leaves it to its parent."""
        if self.pid == os.getpid():
            self.flush()

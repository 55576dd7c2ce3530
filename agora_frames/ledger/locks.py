"""Locks on files that die with their holder: what a dead process held is free."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # not on this system
    fcntl = None  # type: ignore[assignment]

__all__ = ["held", "taken"]

_TAKEN = (errno.EAGAIN, errno.EACCES)


def taken(file: int, *, shared: bool = False, wait: bool = False) -> bool | None:
    """Takes the lock of an open file: True when it is ours until the file is closed, False when another has it.

    shared: beside others that share it. wait: until it is free; Ctrl-C interrupts that.
    None where there are no locks: not on this system, or not on this file system.
    """
    if fcntl is None:
        return None
    mode = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB)
    try:
        fcntl.flock(file, mode)
    except OSError as exc:
        return False if exc.errno in _TAKEN else None
    return True


@contextlib.contextmanager
def held(path: Path, *, wait: bool) -> Iterator[bool | None]:
    """Holds the lock of a file, which is made if need be; gives what `taken` says."""
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        yield taken(file, wait=wait)
    finally:
        os.close(file)

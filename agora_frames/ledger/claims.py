"""Who is asking for what: while one holder asks for a key, no other does."""

from __future__ import annotations

import contextlib
import functools
import os
import platform
import re
import secrets
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson
import polars as pl

from agora_frames.ledger.locks import held, taken

__all__ = ["Claim", "claimed"]

# How long `wait` sleeps between two looks: from the first, doubled each time, to the last.
_FIRST_LOOK_S, _LAST_LOOK_S = 0.01, 0.2


@dataclass(frozen=True)
class Claim:
    """The keys that this holder alone may ask for.

    mine: those that nobody else held when it was made, in the order in which they were wanted.
    """

    mine: pl.Series
    _others: Sequence[Path] = ()

    def wait(self) -> None:
        """Until one of the others that held keys we wanted has let go of them, or died. Ctrl-C interrupts it."""
        pause_s = _FIRST_LOOK_S
        while self._others and not any(_let_go(file) for file in self._others):
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, _LAST_LOOK_S)


@contextlib.contextmanager
def claimed(folder: Path, keys: pl.Series, *, who: str | None = None) -> Iterator[Claim]:
    """A claim on those of the keys that no other process or thread holds, for the time of the `with`.

    folder: of the claims; each is a file of keys that its holder has locked, so that it is void when the holder dies.
    who: the holder, by default this thread. Its own claims do not bind it: it would wait for itself for ever, as when
    a stream that was read in part is left lying.
    Where there are no such locks, everybody gets all keys.
    Raises: OSError when a claim cannot be written.
    """
    own = re.sub(r"\W", "_", who or f"{platform.node()} {_process(os.getpid())} {threading.get_native_id()}")
    folder.mkdir(parents=True, exist_ok=True)
    with held(folder / "lock", wait=True) as alone:
        if alone is None:
            yield Claim(keys)
            return
        others = {file: theirs for file, theirs in _living(folder).items() if file.name.partition("-")[0] != own}
        wanted = keys.to_frame("key")
        mine = wanted.join(pl.DataFrame({"key": _all(others)}), on="key", how="anti", maintain_order="left")["key"]
        claim = Claim(mine, [file for file, theirs in others.items() if keys.is_in(theirs).any()])
        path, file = _made(folder, own, mine)
    try:
        yield claim
    finally:
        path.unlink(missing_ok=True)
        os.close(file)


@functools.cache
def _process(pid: int) -> str:
    """A name of this process that no other has: of two containers, host name and pid may be the same."""
    return f"{pid} {secrets.token_hex(8)}"


def _made(folder: Path, who: str, keys: pl.Series) -> tuple[Path, int]:
    path = folder / f"{who}-{secrets.token_hex(4)}.keys"
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        taken(file)
        left = memoryview(orjson.dumps(keys.to_list()))
        while left:
            left = left[os.write(file, left) :]
    except BaseException:
        path.unlink(missing_ok=True)
        os.close(file)
        raise
    return path, file


def _living(folder: Path) -> dict[Path, list[str]]:
    """The claims of the living, with their keys; those of the dead are deleted."""
    found = {}
    for path in sorted(folder.glob("*.keys")):
        if _let_go(path):
            path.unlink(missing_ok=True)
            continue
        with contextlib.suppress(FileNotFoundError):  # let go of since
            found[path] = orjson.loads(path.read_bytes())
    return found


def _all(claims: dict[Path, list[str]]) -> pl.Series:
    return pl.Series("key", [key for keys in claims.values() for key in keys], dtype=pl.String)


def _let_go(path: Path) -> bool:
    try:
        file = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return True
    try:
        return taken(file, shared=True) is not False
    finally:
        os.close(file)

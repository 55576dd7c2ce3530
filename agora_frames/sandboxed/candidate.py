"""The untrusted side: runs the code, and answers calls to what it defines, with plain data."""

from __future__ import annotations

import contextlib
import io
import pickle
import socket
import sys
import types
from typing import Any

from agora_frames.sandboxed.wire import DATA, PLAIN, receive, send

__all__ = ["serve"]

class _Pickler(pickle.Pickler):
    """Plain data by value; anything else stays here, and a number stands for it."""

    def __init__(self, file: io.BytesIO, kept: list[Any]) -> None:
        super().__init__(file, protocol=5)
        self.kept = kept

    def persistent_id(self, value: Any) -> int | None:
        if value is None or type(value) in DATA or isinstance(value, PLAIN):
            return None
        if any(value is kind for kind in DATA):
            return None
        self.kept.append(value)
        return len(self.kept) - 1

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, type) or type(value) in DATA:
            return NotImplemented
        # An instance of a class of the code's own: its data goes, its methods stay.
        plain = next((plain for plain in PLAIN if isinstance(value, plain)), None)
        return NotImplemented if plain is None else (plain, (_as(plain, value),))


def _as(plain: type, value: Any) -> Any:
    """The value as `plain` holds it, whatever its class would rather say."""
    if plain is dict:
        return [(key, dict.__getitem__(value, key)) for key in dict.__iter__(value)]
    if plain in (list, tuple, set, frozenset):
        return list(plain.__iter__(value))  # type: ignore[attr-defined]
    if plain is complex:
        return complex.__add__(value, 0j)
    if plain is float:
        return float.__float__(value)
    if plain in (int, bool):
        return int.__int__(value)
    return plain.__getitem__(value, slice(None))  # type: ignore[attr-defined]


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, kept: list[Any]) -> None:
        super().__init__(file)
        self.kept = kept

    def persistent_load(self, pid: Any) -> Any:
        return self.kept[pid]


def serve(code: str, channel: socket.socket) -> None:
    """Runs the code; then does what it is asked for, until nobody asks."""
    module = types.ModuleType("candidate")
    sys.modules["candidate"] = module  # where dataclasses look for the module of a class
    kept: list[Any] = [module]
    _answer(channel, kept, lambda: exec(compile(code, "<candidate>", "exec"), vars(module)))
    while True:
        asked = _Unpickler(io.BytesIO(receive(channel)), kept).load()
        _answer(channel, kept, lambda asked=asked: _do(module, *asked))


def _do(module: types.ModuleType, what: str, target: Any, *values: Any) -> Any:
    if what == "call":
        args, kwargs = values
        return target(*args, **kwargs)
    if what == "names":
        return [name for name in values[0] if name in vars(module)]
    operations: dict[str, Any] = {"get": getattr, "set": setattr, "iter": iter, "next": next, "len": len}
    return operations[what](target, *values)


def _answer(channel: socket.socket, kept: list[Any], do: Any) -> None:
    """Sends what came of it: a value, or an exception by its name and message."""
    buffer = io.BytesIO()
    try:
        value = do()
        _Pickler(buffer, kept).dump((None, value))
    except BaseException as exc:
        try:
            message = str(exc)[:1000]
        except BaseException:
            message = ""
        buffer = io.BytesIO()
        names = [kind.__name__ for kind in type(exc).__mro__ if kind.__module__ == "builtins"]
        pickle.Pickler(buffer, protocol=5).dump(((type(exc).__name__, names[0], message), None))
    with contextlib.suppress(BaseException):
        sys.stdout.flush()
    send(channel, buffer.getvalue())

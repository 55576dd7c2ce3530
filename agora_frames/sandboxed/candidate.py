"""The untrusted side: runs the code, and answers calls to what it defines, with plain data."""

from __future__ import annotations

import contextlib
import io
import pickle
import socket
import sys
import types
from typing import Any

from agora_frames.sandboxed.wire import DATA, PLAIN, kept, receive, send

__all__ = ["serve"]


class _Pickler(pickle.Pickler):
    """Plain data by value; anything else stays here, and a number stands for it."""

    def __init__(self, file: io.BytesIO, here: list[Any]) -> None:
        super().__init__(file, protocol=5)
        self.here = here

    def reducer_override(self, value: Any) -> Any:  # is not asked about numbers, texts and the common collections
        if type(value) in DATA or any(value is known for known in (*DATA, kept)):
            return NotImplemented
        # An instance of a class of the code's own: its data goes, its methods stay.
        for plain in PLAIN:
            if isinstance(value, plain):
                return plain, (_as(plain, value),)
        self.here.append(value)
        return kept, (len(self.here) - 1,)


def _as(plain: Any, value: Any) -> Any:
    """The value as `plain` holds it, whatever its class would rather say."""
    if plain is dict:
        return [(key, dict.__getitem__(value, key)) for key in dict.__iter__(value)]
    if plain in (list, tuple, set, frozenset):
        return list(plain.__iter__(value))
    if plain is complex:
        return complex.__add__(value, 0j)
    if plain is float:
        return float.__float__(value)
    if plain in (int, bool):
        return int.__int__(value)
    return plain.__getitem__(value, slice(None))


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, here: list[Any]) -> None:
        super().__init__(file)
        self.here = here

    def find_class(self, module: str, name: str) -> Any:
        found = super().find_class(module, name)
        return self.here.__getitem__ if found is kept else found


def serve(code: str, channel: socket.socket) -> None:
    """Runs the code; then does what it is asked for, until nobody asks."""
    module = types.ModuleType("candidate")
    sys.modules["candidate"] = module  # where dataclasses look for the module of a class
    here: list[Any] = [module]
    _answer(channel, here, lambda: exec(compile(code, "<candidate>", "exec"), vars(module)))
    while True:
        asked = _Unpickler(io.BytesIO(receive(channel)), here).load()
        _answer(channel, here, lambda asked=asked: _do(module, *asked))


def _do(module: types.ModuleType, what: str, target: Any, *values: Any) -> Any:
    if what == "call":
        args, kwargs = values
        return target(*args, **kwargs)
    if what == "names":
        return [name for name in values[0] if name in vars(module)]
    operations: dict[str, Any] = {"get": getattr, "set": setattr, "iter": iter, "next": next, "len": len}
    return operations[what](target, *values)


def _answer(channel: socket.socket, here: list[Any], do: Any) -> None:
    """Sends what came of it: a value, or an exception by its name and message."""
    buffer = io.BytesIO()
    try:
        value = do()
        _Pickler(buffer, here).dump((None, value))
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

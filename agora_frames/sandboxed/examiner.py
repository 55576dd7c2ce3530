"""The trusted side: runs the tests, in an interpreter that untrusted code never enters; data is all that comes in."""

from __future__ import annotations

import builtins
import functools
import io
import pickle
import socket
import symtable
import traceback
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from agora_frames.sandboxed.wire import DATA, kept, receive, send

__all__ = ["Verdict", "examine", "free_names"]

Verdict = tuple[str, str]


class _Ended(BaseException):
    """The candidate ended its process, or broke off talking: nothing that tests catch."""


class Remote:
    """Stands for something that lives with the candidate: called, read and written there; equal only to itself."""

    __slots__ = ("_id", "_line")

    def __init__(self, line: _Line, number: int) -> None:
        object.__setattr__(self, "_line", line)
        object.__setattr__(self, "_id", number)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._line.ask("call", self, args, kwargs)

    def __getattr__(self, name: str) -> Any:
        return self._line.ask("get", self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._line.ask("set", self, name, value)

    def __iter__(self) -> Any:
        return self._line.ask("iter", self)

    def __next__(self) -> Any:
        return self._line.ask("next", self)

    def __len__(self) -> int:
        return int(self._line.ask("len", self))

    def __bool__(self) -> bool:
        return True

    __hash__ = object.__hash__


class _Pickler(pickle.Pickler):
    def reducer_override(self, value: Any) -> Any:
        return (kept, (object.__getattribute__(value, "_id"),)) if type(value) is Remote else NotImplemented


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, line: _Line) -> None:
        super().__init__(file)
        self.line = line

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == (kept.__module__, kept.__name__):
            return functools.partial(Remote, self.line)
        kind = next((kind for kind in DATA if (kind.__module__, kind.__name__) == (module, name)), None)
        if kind is None:
            raise pickle.UnpicklingError(f"{module}.{name} is no data")
        # A pickle can set attributes of what it names: of the class itself, were it not for the `partial`.
        return kind if module == "builtins" else functools.partial(kind)


class _Line:
    """The way to the candidate and back."""

    def __init__(self, channel: socket.socket) -> None:
        self.channel = channel
        self.ended: Verdict | None = None
        self.raised: BaseException | None = None

    def ask(self, *asked: Any) -> Any:
        buffer = io.BytesIO()
        _Pickler(buffer, protocol=5).dump(asked)
        try:
            send(self.channel, buffer.getvalue())
        except OSError:
            self.end("exited", "")
        return self.answer()

    def answer(self) -> Any:
        """What came of it; what the candidate raised is raised here."""
        try:
            raised, value = _Unpickler(io.BytesIO(receive(self.channel)), self).load()
            if raised is not None:
                kind, base, message = map(str, raised)
        except (EOFError, OSError):
            self.end("exited", "")
        except MemoryError:
            self.end("memory", "what the code returned needs more memory than there may be")
        except Exception as exc:  # no honest answer breaks the rules of the wire
            self.end("error", f"what the code returned is no data: {type(exc).__name__}: {exc}")
        if raised is None:
            return value
        if kind in ("SystemExit", "KeyboardInterrupt", "GeneratorExit"):
            self.end("exited", f"it raised {kind}({message})")
        if kind == "MemoryError":
            self.end("memory", "the code needs more memory than there may be")
        self.raised = _exception(base, message, kind)
        raise self.raised

    def end(self, status: str, message: str) -> NoReturn:
        self.ended = self.ended or (status, message)
        raise _Ended


def _exception(base: str, message: str, kind: str) -> Exception:
    """An exception that tests can catch as they would the candidate's own."""
    known = getattr(builtins, base, None)
    if isinstance(known, type) and issubclass(known, Exception):
        try:
            made = known(message)
        except TypeError:  # a few want more than a message
            made = Exception(message)
    else:
        made = Exception(message)
    made.__dict__["kind"] = kind
    return made


def free_names(source: str) -> list[str]:
    """The names that a source uses and neither defines nor finds among Python's own, in order.

    >>> free_names("import math\\nassert math.floor(area(2)) == len(sides(x) for x in [1])")
    ['area', 'sides']
    """
    top = symtable.symtable(source, "<tests>", "exec")
    own = {s.get_name() for s in top.get_symbols() if s.is_assigned() or s.is_imported() or s.is_namespace()}
    used = [
        s.get_name() for t in _tables(top) for s in t.get_symbols() if (s.is_referenced() and s.is_global()) or t is top
    ]
    return [name for name in dict.fromkeys(used) if name not in own and not hasattr(builtins, name)]


def _tables(table: symtable.SymbolTable) -> Iterator[symtable.SymbolTable]:
    yield table
    for child in table.get_children():
        yield from _tables(child)


def examine(tests: str, names: Sequence[str] | None, channel: socket.socket) -> Verdict:
    """What is to be said of the candidate at the other end: `passed` when all of the tests ran, and held.

    names: what the tests take from the candidate; None: all that they name and do not define.
    """
    line = _Line(channel)
    try:
        line.answer()  # that the code was run
    except _Ended:
        return line.ended or ("exited", "")
    except Exception as exc:
        return "error", f"the code raised {_told(exc)}"
    scope: dict[str, Any] = {"__name__": "tests"}
    try:
        wanted = free_names(tests) if names is None else list(names)
        there = line.ask("names", None, wanted)
        candidate = Remote(line, 0)
        scope |= {name: line.ask("get", candidate, name) for name in wanted if name in there}
        exec(compile(tests, "<tests>", "exec"), scope)
        return line.ended or ("passed", "")
    except _Ended:
        return line.ended or ("exited", "")
    except MemoryError:
        return line.ended or ("memory", "the tests need more memory than there may be")
    except BaseException as exc:
        if line.ended:
            return line.ended
        if exc is line.raised:
            return "error", f"the code raised {_told(exc)}{_where(exc, tests)}"
        if isinstance(exc, AssertionError):
            return "failed", f"{exc!s:.300}{_where(exc, tests)}".strip()
        return "error", f"the tests raised {_told(exc)}{_where(exc, tests)}"


def _told(exc: BaseException) -> str:
    return f"{vars(exc).get('kind', type(exc).__name__)}: {exc!s:.300}"


def _where(exc: BaseException, tests: str) -> str:
    """The line of the tests in which it happened."""
    numbers = [frame.lineno for frame in traceback.extract_tb(exc.__traceback__) if frame.filename == "<tests>"]
    lines = tests.splitlines()
    number = numbers[-1] if numbers else None
    return f" at {lines[number - 1].strip()!r:.300}" if number and number <= len(lines) else ""

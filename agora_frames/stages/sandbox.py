"""What a template can do: Jinja2's sandbox, in which nothing grows without end, and no null becomes a text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from itertools import islice
from typing import Any, NoReturn

from jinja2 import StrictUndefined, Undefined
from jinja2 import TemplateError as JinjaError
from jinja2.sandbox import ImmutableSandboxedEnvironment

__all__ = ["PIECES", "NullUsed", "environment", "null_printed", "seen"]

# A short template can fill the memory, and no prompt is that long.
_LONGEST = 10_000_000
# The environment joins what is printed in parts of so many pieces, and looks at the length after the first.
PIECES = 1000


class _Sandbox(ImmutableSandboxedEnvironment):
    """Jinja2's sandbox, in which a template can neither grow without end nor meet a method in the place of a field.

    Not bounded: the time of loops that print nothing, and what `~`, `%` and padding filters make of one value.
    """

    intercepted_binops = frozenset({"+", "*", "**"})

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if _size_of(operator, left, right) > _LONGEST:
            raise JinjaError(f"{operator!r} would make more than {_LONGEST:,} characters")
        return super().call_binop(context, operator, left, right)

    def getattr(self, obj: Any, attribute: str) -> Any:
        if isinstance(obj, dict) and attribute in obj:
            return obj[attribute]
        return super().getattr(obj, attribute)

    @staticmethod
    def concat(pieces: Iterable[str]) -> str:
        """Joins what a template prints, as it is printed, so that a loop without end is stopped."""
        printed = iter(pieces)
        text = "".join(islice(printed, PIECES))
        while some := list(islice(printed, PIECES)):
            text += "".join(some)
            if len(text) > _LONGEST:
                raise JinjaError(f"the prompt would be longer than {_LONGEST:,} characters")
        return text


def _size_of(operator: str, left: Any, right: Any) -> int:
    """About how many characters, items or bits an operator would make."""
    if isinstance(left, int) and isinstance(right, int):
        return left.bit_length() * right if operator == "**" else left.bit_length() + right.bit_length()
    if operator == "+":
        return sum(len(value) for value in (left, right) if isinstance(value, Sized))
    for value, times in ((left, right), (right, left)):
        if isinstance(value, Sized) and isinstance(times, int):
            return len(value) * times
    return 0


class _Undefined(StrictUndefined):
    """What is not there fails its row, also inside a list that is printed."""

    __repr__ = StrictUndefined._fail_with_undefined_error


class NullUsed(Exception):
    """A null would have become the text "None"."""


def null_printed(name: str) -> str:
    return f"null would be printed: {name!r}"


class _Null:
    """A null as a template sees it: false, equal to none, and never a text, in whatever filter it ends."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __bool__(self) -> bool:
        return False

    def __eq__(self, other: object) -> bool:
        return other is None or isinstance(other, _Null)

    def __hash__(self) -> int:
        return hash(None)

    def _used(self, *_: object) -> NoReturn:
        raise NullUsed(null_printed(self._name))

    __str__ = __repr__ = __format__ = __len__ = __iter__ = __getitem__ = _used


def seen(name: str, value: Any) -> Any:
    """A cell as a template sees it."""
    if value is None:
        return _Null(name)
    if isinstance(value, list):
        return [seen(name, item) for item in value]
    if isinstance(value, dict):
        return {field: seen(f"{name}.{field}", item) for field, item in value.items()}
    return value


def _finalize(value: Any) -> Any:
    """What is printed: neither none, nor something that shows its address instead of a content."""
    if isinstance(value, str):
        return value
    if value is None:
        raise NullUsed("null would be printed: an expression that gives none")
    if isinstance(value, Iterator) or (callable(value) and not isinstance(value, Undefined)):
        raise TypeError(f"a {type(value).__name__} would be printed: call it, or join it: {{{{ … | join(', ') }}}}")
    return value


def environment() -> _Sandbox:
    env = _Sandbox(undefined=_Undefined, trim_blocks=True, lstrip_blocks=True, finalize=_finalize)
    env.globals = {"range": env.globals["range"]}
    del env.filters["random"]
    env.tests["none"] = lambda value: value is None or isinstance(value, _Null)
    env.policies["json.dumps_kwargs"] = {"ensure_ascii": False, "default": _json_value}
    return env


def _json_value(value: Any) -> None:
    if not isinstance(value, _Null):
        raise TypeError(f"a {type(value).__name__} has no JSON form")

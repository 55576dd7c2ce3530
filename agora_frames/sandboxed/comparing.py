"""What tests made of inputs and a reference say: a candidate is right when it gives what the reference gives.

Runs beside the tests. The rules are EvalPlus's (https://github.com/evalplus/evalplus, commit 26d6d00,
evalplus/eval/__init__.py lines 130-205 and evalplus/data/mbpp.py lines 49-160), in our own words.
"""

from __future__ import annotations

import json
import math
import pickle
from collections.abc import Callable, Sequence
from typing import Any

__all__ = ["FORMS", "agree", "is_close", "shaped"]

# As `numpy.testing.assert_allclose` has it.
_RELATIVE = 1e-7
_LEAST = 1e-6

# Three MBPP functions of which only whether they find something is compared.
_NOT_NONE = ("check_str", "text_match_three", "text_starta_endb")
# MBPP functions that give what they find in any order, as often as they find it.
_SETS = (
    *("similar_elements", "find_char_long", "common_in_nested_lists", "extract_singly", "larg_nnum"),
    *("intersection_array", "find_dissimilar", "Diff"),
)


def _deep(value: Any) -> Any:
    return tuple(map(_deep, value)) if isinstance(value, list) else value


# JSON has neither tuples nor sets nor complex numbers: what the inputs of some tasks are made into again.
FORMS: dict[str, Callable[[list[Any]], Sequence[Any]]] = {
    "as they are": lambda args: args,
    "tuples": lambda args: [tuple(arg) for arg in args],
    "lists of tuples": lambda args: [[tuple(member) for member in arg] for arg in args],
    "tuples of tuples": lambda args: [tuple(tuple(member) for member in arg) for arg in args],
    "first a list of tuples": lambda args: [[tuple(member) for member in args[0]], *args[1:]],
    "first a tuple": lambda args: [tuple(args[0]), *args[1:]],
    "second a tuple": lambda args: [args[0], tuple(args[1])],
    "first a list of sets": lambda args: [[set(member) if member else {} for member in args[0]]],
    "first a tuple, with tuples for lists": lambda args: [
        tuple(tuple(member) if isinstance(member, list) else member for member in args[0])
    ],
    "first a dict of tuples": lambda args: [{key: tuple(value) for key, value in args[0].items()}, *args[1:]],
    "first a complex number": lambda args: [complex(args[0])],
    "a number and a complex number": lambda args: [float(args[0]), complex(args[1])],
    "tuples all through": lambda args: [_deep(arg) for arg in args],
}


def shaped(inputs: str, form: str) -> list[Sequence[Any]]:
    """The arguments of each call, out of a JSON list."""
    return [FORMS[form](args) for args in json.loads(inputs)]


def agree(
    candidate: Callable[..., Any], *, reference: str, entry_point: str, inputs: str, form: str, atol: float
) -> None:
    """Raises AssertionError at the first input for which the candidate gives something else than the reference.

    reference: source that defines `entry_point`, and, if inputs may break the contract of the task, `__contract__`,
    which raises where one does: it is left out. inputs, form: see `shaped`. atol: by how much numbers may differ.
    """
    scope: dict[str, Any] = {"__name__": "reference"}
    exec(compile(reference, "<reference>", "exec"), scope)
    compared = 0
    for args in shaped(inputs, form):
        if "__contract__" in scope and not _keeps(scope["__contract__"], args):
            continue
        expected = scope[entry_point](*_copied(args))
        compared += 1
        given = candidate(*args)
        right, atol = _is_right(entry_point, args, given, expected, atol, scope)
        if not right:
            raise AssertionError(f"{entry_point}{tuple(args)!r:.150} gave {given!r:.80}, wanted {expected!r:.80}")
    if not compared:
        raise RuntimeError(f"all inputs of {entry_point} break its contract: nothing was compared")


def _copied(args: Sequence[Any]) -> Any:
    return pickle.loads(pickle.dumps(args))  # of plain data, and faster than `deepcopy`


def _keeps(contract: Callable[..., Any], args: Sequence[Any]) -> bool:
    try:
        contract(*_copied(args))
        return True
    except Exception:
        return False


def _is_right(
    name: str, args: Sequence[Any], given: Any, expected: Any, atol: float, scope: dict[str, Any]
) -> tuple[bool, float]:
    """Whether the candidate's value is right, and the tolerance from here on: once there are floats, it is not 0."""
    if name == "find_zero" and "poly" in scope:  # any zero will do
        return _is_number(given) and abs(scope["poly"](*args, given)) <= atol, atol
    if name in _SETS:
        try:
            return set(given) == set(expected), atol
        except TypeError:
            return False, atol
    if name in _NOT_NONE:
        return (given if isinstance(given, bool) else given is not None) == (expected is not None), atol
    if name == "are_equivalent" or (name == "sum_div" and _is_number(given) and given == 0):
        return given is not None, atol  # the task says too little: these answers are as good
    if atol == 0 and _holds_floats(expected):
        atol = _LEAST
    if name == "surface_Area" and _is_number(given) and abs(given - _pyramid(*args)) <= atol:
        return True, atol
    if name == "digit_distance_nums" and given == _digit_distance(*args):
        return True, atol
    same = bool(given == expected)
    return same or (atol != 0 and type(given) is type(expected) and is_close(given, expected, atol)), atol


def is_close(given: Any, expected: Any, atol: float) -> bool:
    """Numbers that differ by no more than `atol` and a ten-millionth of what is expected; so for those in lists.

    >>> is_close([1.0, (2.0,)], [1.0, (2.0000001,)], 1e-6), is_close([1.0], [1.0, 1.0], 1e-6), is_close("1", 1.0, 1)
    (True, False, False)
    """
    if isinstance(expected, list | tuple):
        return (
            isinstance(given, list | tuple)
            and len(given) == len(expected)
            and all(is_close(a, b, atol) for a, b in zip(given, expected, strict=True))
        )
    if not (_is_number(given) and _is_number(expected)):
        return bool(type(given) is type(expected) and given == expected)
    if given == expected or (given != given and expected != expected):
        return True
    return bool(abs(given - expected) <= atol + _RELATIVE * abs(expected) < math.inf)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | complex)


def _holds_floats(value: Any) -> bool:
    return isinstance(value, float) or (
        isinstance(value, list | tuple) and bool(value) and all(isinstance(member, float) for member in value)
    )


def _pyramid(edge: float, height: float) -> int:
    """The surface of a square pyramid, if `height` is taken from its tip to the middle of its base."""
    return round(edge**2 + 2 * edge * math.hypot(edge / 2, height))


def _digit_distance(first: int, second: int) -> int:
    """How far the digits in the same place are apart, all together; the shorter number gets zeros in front."""
    digits = max(len(str(first)), len(str(second)))
    pairs = zip(str(first).zfill(digits), str(second).zfill(digits), strict=True)
    return sum(abs(int(a) - int(b)) for a, b in pairs)

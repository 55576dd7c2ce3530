"""What counts as the same answer."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agora_frames.sandboxed.comparing import FORMS, agree, is_close, shaped


def agrees(name: str, given_: Any, wanted: Any, *args: Any, atol: float = 0, before: str = "") -> bool:
    reference = f"{before}\ndef {name}(*args): return {wanted!r}"
    inputs = json.dumps([list(args) or [1]])
    try:
        agree(lambda *_: given_, reference=reference, entry_point=name, inputs=inputs, form="as they are", atol=atol)
    except AssertionError:
        return False
    return True


@pytest.mark.parametrize(
    ("given_", "wanted", "same"),
    [
        ([1, 2], [1, 2], True),
        ([1, 2], (1, 2), False),
        (1, True, True),
        (0.1 + 0.2, 0.3, True),
        ([0.1 + 0.2], [0.3], True),
        ((0.1 + 0.2,), [0.3], False),
        ([0.3, 0.3], [0.3], False),
        (0.3001, 0.3, False),
        (1, 1.0, True),
        ("0.3", 0.3, False),
        (None, 0.3, False),
        (None, None, True),
    ],
)
def test_floats_may_differ_by_a_millionth_and_nothing_else(given_: Any, wanted: Any, same: bool) -> None:
    assert agrees("f", given_, wanted) is same


def test_a_task_may_allow_more() -> None:
    assert agrees("f", 3.1415, math.pi, atol=1e-4)
    assert not agrees("f", 3.14, math.pi, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "given_", "wanted", "same"),
    [
        ("find_dissimilar", [3, 1, 1], (1, 3), True),
        ("find_dissimilar", 3, (1, 3), False),
        ("check_str", "a", "b", True),
        ("check_str", False, "b", False),
        ("check_str", None, "b", False),
        ("sum_div", 0, 7, True),
        ("sum_div", None, 7, False),
        ("are_equivalent", False, True, True),
        ("are_equivalent", None, True, False),
    ],
)
def test_some_tasks_have_rules_of_their_own(name: str, given_: Any, wanted: Any, same: bool) -> None:
    assert agrees(name, given_, wanted) is same


def test_tasks_whose_text_is_read_in_two_ways_allow_both() -> None:
    assert agrees("surface_Area", 35, 33, 3, 4)  # the height of the pyramid, or of its sides
    assert agrees("surface_Area", 33, 33, 3, 4)
    assert not agrees("surface_Area", 34, 33, 3, 4)
    assert agrees("digit_distance_nums", 7, 0, 123, 256)
    assert not agrees("digit_distance_nums", 5, 0, 123, 256)


def test_any_zero_of_a_polynomial_is_one() -> None:
    poly = "def poly(xs, x): return sum(c * x**i for i, c in enumerate(xs))"
    assert agrees("find_zero", 2.0, -2.0, [-4, 0, 1], atol=1e-4, before=poly)
    assert not agrees("find_zero", 2.1, -2.0, [-4, 0, 1], atol=1e-4, before=poly)
    assert not agrees("find_zero", None, -2.0, [-4, 0, 1], atol=1e-4, before=poly)


def test_inputs_that_break_the_contract_are_left_out_and_not_all_may() -> None:
    reference = "def f(x): return 1 / x\ndef __contract__(x): assert x > 0, 'invalid inputs'"
    calls: list[Any] = []

    def candidate(x: float) -> float:
        calls.append(x)
        return 1 / x

    agree(candidate, reference=reference, entry_point="f", inputs="[[0], [2], [-1]]", form="as they are", atol=0)
    assert calls == [2]
    with pytest.raises(RuntimeError, match="nothing was compared"):
        agree(candidate, reference=reference, entry_point="f", inputs="[[0]]", form="as they are", atol=0)


def test_a_candidate_that_changes_its_input_changes_its_own() -> None:
    def candidate(x: list[int]) -> int:
        return x.pop()

    reference = "def f(x): return x.pop()"
    agree(candidate, reference=reference, entry_point="f", inputs="[[[1, 2]], [[3]]]", form="as they are", atol=0)


@pytest.mark.parametrize(
    ("form", "args", "made"),
    [
        ("as they are", [[1], 2], [[1], 2]),
        ("tuples", [[1], [2]], [(1,), (2,)]),
        ("lists of tuples", [[[1], [2]]], [[(1,), (2,)]]),
        ("tuples of tuples", [[[1], [2]]], [((1,), (2,))]),
        ("first a list of tuples", [[[1]], 2], [[(1,)], 2]),
        ("first a tuple", [[1], 2, 3], [(1,), 2, 3]),
        ("second a tuple", [[1], [2]], [[1], (2,)]),
        ("first a list of sets", [[[1], []]], [[{1}, {}]]),
        ("first a tuple, with tuples for lists", [[1, [2]]], [(1, (2,))]),
        ("first a dict of tuples", [{"a": [1]}, 2], [{"a": (1,)}, 2]),
        ("first a complex number", ["1+2j"], [1 + 2j]),
        ("a number and a complex number", ["1", "2j"], [1.0, 2j]),
        ("tuples all through", [[1, [2, [3]]]], [(1, (2, (3,)))]),
    ],
)
def test_json_becomes_what_the_task_takes(form: str, args: list[Any], made: list[Any]) -> None:
    assert [list(each) for each in shaped(json.dumps([args]), form)] == [made]
    assert form in FORMS


@given(x=st.floats(allow_nan=False, allow_infinity=False), by=st.floats(0, 1e-7))
def test_what_is_near_enough_is_close_and_closeness_needs_equal_shapes(x: float, by: float) -> None:
    assert is_close(x + by, x, 1e-6)
    assert not is_close([x], x, 1e-6)
    assert not is_close([x, x], [x], 1e-6)


def test_what_is_no_number_is_close_to_itself() -> None:
    assert is_close(math.nan, math.nan, 1e-6)
    assert is_close(math.inf, math.inf, 1e-6)
    assert not is_close(math.inf, 1.0, 1e-6)
    assert not is_close(1.0, math.inf, 1e-6)

"""Numbers cut out of texts, as models write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agora_frames.errors import BindError
from agora_frames.stages.numbers import last_number, number_after


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("The answer is 18.", "18"),
        ("18", "18"),
        ("$1,234.50 in all", "1234.5"),
        ("1,000,000", "1000000"),
        ("a loss of -$5", "-5"),
        ("a loss of $-5", "-5"),
        ("a loss of \\$5", "5"),
        ("−3 degrees", "-3"),
        ("10-5", "5"),
        ("10 - 5 = 5", "5"),
        ("(2)-7", "7"),
        ("25%", "25"),
        ("1{,}000 apples", "1000"),
        (r"$1\,000$", "1000"),
        ("**72**", "72"),
        ("1, 2, 3", "3"),
        ("1,2,3", "3"),
        ("12,34", "34"),
        ("0.50", "0.5"),
        (".5", "0.5"),
        ("Rs.500", "500"),
        ("007", "7"),
        ("-0", "0"),
        ("+4", "4"),
        ("1.5e3", "1500"),
        ("25e-1", "2.5"),
        ("2eggs", "2"),
        ("3.\n", "3"),
        ("at 3:30", "30"),
        ("[RESULT] 42 [/RESULT]", "42"),
    ],
)
def test_the_last_number_is_found_and_written_plainly(text: str, number: str) -> None:
    assert last_number()(text) == number


@pytest.mark.parametrize("text", ["", "none at all", "٣", "x" * 100, "9" * 101])
def test_a_text_without_a_usable_number_says_so(text: str) -> None:
    with pytest.raises(ValueError, match=r"no number|no answer is that long"):
        last_number()(text)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("so\n#### 72", "72"),
        ("####72 clips of 80", "72"),
        ("#### $1,234", "1234"),
        ("#### **-5**", "-5"),
        ("#### 5\n#### 6", "6"),
        ("#### 5\n#### I am not sure", "5"),
        ("[RESULT] 42 [/RESULT]", "42"),
        ("[RESULT]\n$42$\n[/RESULT]", "42"),
    ],
)
def test_the_number_right_after_the_last_marker_is_found(text: str, number: str) -> None:
    assert number_after("####", "[RESULT]")(text) == number


@pytest.mark.parametrize("text", ["72", "#### the answer is 72", "[RESULT] about 7 [/RESULT]", "### 5", ""])
def test_a_number_elsewhere_is_not_taken(text: str) -> None:
    with pytest.raises(ValueError, match="no number comes right after '####' or"):
        number_after("####", "[RESULT]")(text)


@given(st.integers(-(10**12), 10**12), st.sampled_from(["{}", "{:,}", "about {} eggs.", "({})", "= {:,}."]))
def test_every_whole_number_is_read_as_it_was_written(number: int, form: str) -> None:
    assert last_number()(form.format(number)) == str(number)


@given(st.decimals(-1000, 1000, places=3))
def test_every_decimal_number_is_read_as_the_same_number(number: object) -> None:
    assert float(last_number()(f"It is {number:f}.")) == float(str(number))


@given(st.text())
def test_any_text_gives_a_number_or_a_reason(text: str) -> None:
    for parser in (last_number(), number_after("#")):
        try:
            assert float(parser(text)) == float(parser(text))
        except ValueError as reason:
            assert str(reason)


def test_a_marker_must_be_a_text() -> None:
    for markers in ((), ("",), (" ",)):
        with pytest.raises(BindError, match="number_after"):
            number_after(*markers)


@pytest.mark.parametrize("rest", ["", " " * 9_900, " " * 20_000])
def test_a_number_far_from_the_end_is_read_whole(rest: str) -> None:
    assert last_number()(f"#### 1,234,567{rest}") == number_after("####")(f"#### 1,234,567{rest}") == "1234567"


@pytest.mark.parametrize("text", ["1," * 3_000_000, "9" * 10_000_000, "-" * 10_000_000 + "7", "#### " * 1_000_000])
def test_a_text_of_ten_megabytes_is_no_trap(text: str) -> None:
    for parser in (last_number(), number_after("####")):
        try:
            parser(text)
        except ValueError:
            continue

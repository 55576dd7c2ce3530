"""Times in headers: every form that endpoints write, and every nonsense, which says nothing and breaks nothing."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agora_frames.backends.headers import asked_s, seconds

NOW = "Sun, 22 Nov 2026 12:00:00 GMT"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0.0),
        ("12", 12.0),
        ("12.5", 12.5),
        (" 7 ", 7.0),
        ("1e2", 100.0),
        ("20ms", 0.02),
        ("1.5s", 1.5),
        ("6m0s", 360.0),
        ("1h2m3.5s", 3723.5),
        ("2d", 172_800.0),
        ("1m30s500ms", 90.5),
        ("250us", 0.00025),
        ("250µs", 0.00025),
        ("3ns", 3e-9),
        (" 1s ", 1.0),
    ],
)
def test_a_duration_is_read(text: str, expected: float) -> None:
    assert seconds(text) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    "text",
    [
        "Sun, 22 Nov 2026 12:00:30 GMT",
        "Sun, 22 Nov 2026 13:00:30 +0100",
        "2026-11-22T12:00:30Z",
        "2026-11-22T12:00:30",
        "2026-11-22T14:00:30+02:00",
        "2026-11-22 12:00:30",
    ],
)
def test_a_date_is_read_against_the_clock_of_who_wrote_it(text: str) -> None:
    assert seconds(text, NOW) == 30.0


@pytest.mark.parametrize("date", [None, "", "yesterday"])
def test_a_date_is_read_against_our_own_clock_where_theirs_is_not_told(date: str | None) -> None:
    then = datetime.now(UTC) + timedelta(seconds=100)
    for text in (format_datetime(then, usegmt=True), then.isoformat()):
        found = seconds(text, date)
        assert found is not None
        assert 60 < found <= 100


NONSENSE = [
    *(
        None,
        "",
        " ",
        "soon",
        "-1",
        "-0.5s",
        "nan",
        "inf",
        "-inf",
        "1e400",
        "s",
        "5 parsecs",
        "1h and 2m",
        "1.2.3s",
        "5x",
    ),
    *("1s2", "ms5", "1790000000", "9" * 400, "9" * 5000 + "s", "Sun, 22 Nov 2026 11:59:59 GMT", "2026-11-22T11:00:00Z"),
    *("2026-13-45", "Sun, 99 Foo 2026", "Sun, 22 Nov 99999 12:00:00 GMT", "\x00", "５s５", "{}", "[30]"),
    *("Sun, 22 Nov 2026 12:00:00 +99999999999999999999", "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59"),
]


@pytest.mark.parametrize("text", NONSENSE, ids=lambda text: str(text)[:40])
def test_what_is_no_time_to_come_says_nothing(text: str | None) -> None:
    assert seconds(text, NOW) is None


@given(st.text(max_size=30) | st.from_regex(r"[A-Z][a-z]{2}, \d{1,5} [A-Z][a-z]{2} \d{1,8} [\d:]{1,9} [+-]\d{1,30}"))
def test_no_text_at_all_breaks_the_reading(text: str) -> None:
    for found in (seconds(text), seconds(text, text), seconds("5s", text)):
        assert found is None or 0 <= found < 1e9


# What an answer asks


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, None),
        ({"retry-after": "3"}, 3.0),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after": "Sun, 22 Nov 2026 12:00:09 GMT", "date": NOW}, 9.0),
        ({"retry-after-ms": "250"}, 0.25),
        ({"retry-after-ms": "250", "retry-after": "1"}, 0.25),
        ({"retry-after-ms": "soon", "retry-after": "1"}, 1.0),
        ({"retry-after-ms": "0", "retry-after": "1"}, 1.0),
        ({"retry-after": "0"}, None),
        ({"retry-after": "-5"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "Sun, 22 Nov 2026 11:00:00 GMT", "date": NOW}, None),
        ({"date": NOW}, None),
    ],
    ids=str,
)
def test_the_time_that_an_endpoint_asks_for_is_read_and_no_time_at_all_is_none(
    headers: dict[str, str], expected: float | None
) -> None:
    assert asked_s(headers) == expected


def test_a_date_without_the_endpoints_own_is_set_against_ours() -> None:
    in_a_minute = format_datetime(datetime.fromtimestamp(time.time() + 60, UTC), usegmt=True)
    found = asked_s({"retry-after": in_a_minute})
    assert found is not None
    assert 30 < found <= 60

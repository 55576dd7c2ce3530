"""When a request is asked again, and when a run should stop: decided from given times, without waiting for any."""

from __future__ import annotations

import random

import pytest

from agora_frames.backends.answers import TRANSIENT
from agora_frames.backends.retry import Health, Retry

LASTING = [
    *("bad_request", "context_too_long", "truncated", "refused", "content_filtered"),
    *("no_prompt", "not_asked", "over_budget", "a kind that nobody knows"),
]


class Fixed(random.Random):
    """Draws always the same share of what is between the bounds."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def uniform(self, a: float, b: float) -> float:
        return a + (b - a) * self.share


def health(*, share: float = 1.0, outage_s: float = 100.0, answered_at: float | None = None) -> Health:
    return Health(outage_s, chance=Fixed(share), answered_at=answered_at)


def waits(
    kind: str | None, times: int, *, share: float = 1.0, pause_s: float = 0.5, **told: float | bool
) -> list[object]:
    retry = Retry(health(share=share), pause_s)
    return [retry.wait(kind, **{"now": 0.0, **told}) for _ in range(times)]  # type: ignore[arg-type]


# One request


@pytest.mark.parametrize("kind", sorted(TRANSIENT))
def test_what_another_try_may_mend_is_tried_6_times_with_doubled_pauses(kind: str) -> None:
    assert waits(kind, 6) == [0.5, 1.0, 2.0, 4.0, 8.0, None]


@pytest.mark.parametrize("kind", [None, *LASTING])
def test_an_answer_and_what_would_come_back_the_same_are_not_asked_again(kind: str | None) -> None:
    assert waits(kind, 2) == [None, None]


def test_what_is_not_asked_again_counts_as_no_try() -> None:
    retry = Retry(health(), 0.5)
    retry.wait("bad_request", now=0.0)
    assert (retry.tries, retry.waits, retry.is_again) == (0, 0, False)


def test_a_pause_is_spread_over_its_later_half() -> None:
    assert waits("timeout", 3, share=0.0) == [0.25, 0.5, 1.0]
    retries = [Retry(Health(1.0, chance=random.Random(seed)), 1.0) for seed in range(200)]
    pauses = [retry.wait("timeout", now=0.0) or 0.0 for retry in retries]
    assert 0.5 <= min(pauses) < 0.55 < 0.95 < max(pauses) <= 1.0


def test_no_pause_is_longer_than_a_minute() -> None:
    assert waits("timeout", 2, pause_s=500.0) == [60.0, 60.0]
    assert waits("rate_limited", 3000)[-1] == 60.0


def test_without_a_pause_the_next_try_comes_at_once() -> None:
    assert waits("timeout", 6, pause_s=0.0) == [0.0] * 5 + [None]


def test_a_rate_limit_is_waited_out_however_often_and_takes_no_try() -> None:
    retry = Retry(health(), 0.001)
    assert None not in [retry.wait("rate_limited", now=0.0) for _ in range(1000)]
    assert (retry.tries, retry.waits) == (0, 1000)
    assert [retry.wait("timeout", now=0.0) for _ in range(6)].index(None) == 5


@pytest.mark.parametrize(("share", "expected"), [(0.0, 7.0), (1.0, 7.7)])
def test_after_a_rate_limit_the_endpoints_own_time_counts_and_up_to_a_tenth_more(share: float, expected: float) -> None:
    assert waits("rate_limited", 3, share=share, asked_s=7.0) == pytest.approx([expected] * 3)


def test_a_time_longer_than_our_longest_pause_is_given_if_the_endpoint_asks_for_it() -> None:
    assert waits("rate_limited", 1, share=0.0, asked_s=3600.0) == [3600.0]


def test_pauses_after_a_rate_limit_grow_where_the_endpoint_names_no_time() -> None:
    assert waits("rate_limited", 9) == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]


def test_a_request_is_sent_again_once_it_was_tried_or_limited() -> None:
    for kind in ("timeout", "rate_limited"):
        retry = Retry(health(), 0.5)
        assert not retry.is_again
        retry.wait(kind, now=0.0)
        assert retry.is_again


# Nobody listens


def test_where_nobody_listens_a_request_is_tried_without_end_and_without_long_pauses() -> None:
    assert waits("connection", 8, gone=True, unsent=True) == [0.5, 1.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0]


def test_an_endpoint_that_never_answered_is_dead_at_the_third_try() -> None:
    retry = Retry(health(), 0.5)
    found = []
    for _ in range(3):
        retry.wait("connection", gone=True, unsent=True, now=0.0)
        found.append(retry.is_dead(now=1e9))
    assert found == [False, False, True]


def test_an_endpoint_that_answered_is_waited_for_as_long_as_an_outage_may_last() -> None:
    retry = Retry(health(outage_s=100.0, answered_at=50.0), 0.5)
    for _ in range(30):
        retry.wait("connection", gone=True, unsent=True, now=0.0)
    assert [retry.is_dead(now=now) for now in (51.0, 150.0, 150.1)] == [False, False, True]


def test_each_answer_begins_the_wait_for_an_outage_anew() -> None:
    known = health(outage_s=100.0, answered_at=50.0)
    known.answered(120.0)
    assert not Retry(known, 0.5).is_dead(now=200.0)
    assert Retry(known, 0.5).is_dead(now=221.0)


# Row after row


@pytest.mark.parametrize(("answered_at", "enough"), [(None, 20), (1.0, 100)])
def test_an_endpoint_is_useless_when_row_after_row_fails(answered_at: float | None, enough: int) -> None:
    known = health(answered_at=answered_at)
    found = []
    for _ in range(enough):
        known.failed_rows += 1
        found.append(known.is_useless())
    assert found == [False] * (enough - 1) + [True]


def test_an_answer_forgives_the_rows_that_failed() -> None:
    known = health()
    known.failed_rows = 19
    known.answered(3.0)
    assert (known.failed_rows, known.answered_at, known.is_useless()) == (0, 3.0, False)


# Gateways


def test_a_gateway_whose_server_is_gone_is_waited_for_where_others_were_answered_before() -> None:
    health = Health(outage_s=300.0)
    health.answered(10.0)
    retry = Retry(health, 0.5)
    assert None not in [retry.wait("server_error", now=now, gone=True) for now in range(11, 200)]
    assert retry.tries == 0


def test_a_gateway_is_waited_for_no_longer_than_an_outage_may_last() -> None:
    health = Health(outage_s=300.0)
    health.answered(10.0)
    retry = Retry(health, 0.5)
    assert retry.wait("server_error", now=11.0, gone=True) is not None
    assert [retry.wait("server_error", now=311.0, gone=True) for _ in range(6)][-1] is None


def test_a_request_that_a_gateway_turns_away_while_others_are_answered_is_at_fault_itself() -> None:
    health = Health(outage_s=300.0)
    retry = Retry(health, 0.5)
    waits_s = []
    for now in range(6):
        health.answered(now + 0.5)
        waits_s.append(retry.wait("server_error", now=float(now), gone=True))
    assert waits_s[-1] is None or retry.tries > 0

"""Who may send when: in simulated time against simulated servers, and with real threads."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import random
import selectors
import threading
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agora_frames.backends.limits import Limits, limits_of
from agora_frames.errors import BindError

# --- simulated time --------------------------------------------------------------------------------------------------


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


class Sleepless(selectors.DefaultSelector):
    """Where a loop would sleep, its clock moves on."""

    clock: Clock

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready:
            assert timeout is not None, "all wait, and nobody will ever come"
            self.clock.now += max(timeout, 0)
        return ready


class SimulatedLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        selector = Sleepless()
        self.clock = selector.clock = Clock()
        super().__init__(selector)

    def time(self) -> float:
        return self.clock.now


class Lowest(random.Random):
    """Chance without any: every pause is as short as it can be."""

    def random(self) -> float:
        return 0.0


@contextlib.contextmanager
def simulated(**settings: Any) -> Iterator[tuple[SimulatedLoop, Limits]]:
    loop = SimulatedLoop()
    with contextlib.closing(loop):
        yield loop, Limits(clock=loop.clock, chance=random.Random(7), **settings)


def enters(limits: Limits, tokens: int = 0) -> bool:
    """Whether one may enter now; then it has."""
    try:
        limits.enter(tokens).send(None)
    except StopIteration:
        return True
    except RuntimeError:  # it would wait, but no loop runs
        return False
    raise AssertionError("it waits")


def seconds_until_next(limits: Limits, clock: Clock, step_s: float = 0.01, at_most_s: float = 10_000.0) -> float:
    begun = clock.now
    while not enters(limits):
        assert clock.now - begun < at_most_s
        clock.now += step_s
    return clock.now - begun


# --- simulated servers -----------------------------------------------------------------------------------------------

Answer = tuple[str | None, dict[str, str]]


@dataclass
class Server:
    """Admits so many at once, and refuses the others when their request has arrived."""

    clock: Clock
    admits: Callable[[float], float]
    latency_s: float
    way_s: float = 0.0025
    chance: random.Random = field(default_factory=lambda: random.Random(11))
    inside: int = 0

    async def __call__(self) -> Answer:
        await asyncio.sleep(self.way_s)
        if self.inside >= self.admits(self.clock.now):
            await asyncio.sleep(self.way_s)
            return "rate_limited", {}
        self.inside += 1
        await asyncio.sleep(self.latency_s * self.chance.uniform(0.9, 1.1))
        self.inside -= 1
        await asyncio.sleep(self.way_s)
        return None, {}


@dataclass
class PerMinute:
    """Has a bucket of requests that refills all the time, and says when there is one again."""

    clock: Clock
    rpm: float
    capacity: float
    latency_s: float
    level: float = 0.0
    at: float = -1e9

    async def __call__(self) -> Answer:
        await asyncio.sleep(0.0025)
        now = self.clock.now
        self.level, self.at = min(self.capacity, self.level + (now - self.at) * self.rpm / 60), now
        if self.level < 1:
            return "rate_limited", {"retry-after-ms": f"{(1 - self.level) * 60_000 / self.rpm:.0f}"}
        self.level -= 1
        await asyncio.sleep(self.latency_s)
        return None, {}


@dataclass
class Outcome:
    clock: Clock
    answered: int = 0
    refused: int = 0
    levels: list[tuple[float, int]] = field(default_factory=list)  # when the limit changed, and to what

    @property
    def share_refused(self) -> float:
        return self.refused / (self.answered + self.refused)

    @property
    def per_s(self) -> float:
        return self.answered / self.clock.now

    def level_at(self, at: float) -> int:
        return [level for when, level in self.levels if when <= at][-1]


def outcome(
    server: Callable[[Clock], Callable[[], Coroutine[Any, Any, Answer]]],
    requests: int,
    clients: int = 300,
    until: float = 1e9,
    **settings: Any,
) -> Outcome:
    """What becomes of so many requests; who is refused asks again."""
    with simulated(**settings) as (loop, limits):
        found, ask, todo = Outcome(loop.clock), server(loop.clock), iter(range(requests))

        async def client() -> None:
            for _ in todo:
                kind: str | None = "not yet"
                while kind and loop.clock.now < until:
                    await limits.enter()
                    kind, headers = await ask()
                    limits.leave(kind, headers=headers)
                    found.answered, found.refused = found.answered + (not kind), found.refused + bool(kind)
                    if not found.levels or found.levels[-1][1] != limits.status().limit:
                        found.levels.append((loop.clock.now, limits.status().limit))
                if loop.clock.now >= until:
                    return

        async def all_clients() -> None:
            await asyncio.gather(*(client() for _ in range(clients)))

        loop.run_until_complete(all_clients())
        assert limits.status().in_flight == 0
        return found


def admits(count: float, latency_s: float) -> Callable[[Clock], Server]:
    return lambda clock: Server(clock, lambda now: count, latency_s)


# The number in flight is found


def test_a_server_that_admits_32_is_found_and_kept_busy() -> None:
    found = outcome(admits(32, 0.1), 10_000, most=256)
    fixed = outcome(admits(32, 0.1), 10_000, concurrency=32)
    assert fixed.refused == 0
    assert 30 <= found.level_at(10) <= 34
    assert found.share_refused <= 0.01
    assert found.per_s >= 0.95 * fixed.per_s


def test_a_slow_server_that_admits_5_is_found_and_kept_busy() -> None:
    found = outcome(admits(5, 2.0), 800)
    assert found.level_at(30) == 5
    assert found.share_refused <= 0.02
    assert found.per_s >= 0.95 * outcome(admits(5, 2.0), 800, concurrency=5).per_s


def test_a_fast_server_that_admits_200_is_found_and_kept_busy() -> None:
    found = outcome(admits(200, 0.05), 12_000)
    assert 190 <= found.level_at(1.5) <= 225
    assert found.share_refused <= 0.01
    assert found.per_s >= 0.85 * outcome(admits(200, 0.05), 12_000, concurrency=200).per_s


def test_a_server_that_admits_less_for_a_time_is_followed_down_and_up() -> None:
    found = outcome(lambda clock: Server(clock, lambda now: 16 if 10 <= now < 30 else 64, 0.1), 16_000)
    assert 62 <= found.level_at(9) <= 68
    assert 15 <= found.level_at(12) <= 18
    assert 62 <= found.level_at(42) <= 68
    assert found.share_refused <= 0.02


def test_a_server_without_a_limit_gets_the_most_within_a_second() -> None:
    found = outcome(admits(1e9, 0.1), 12_000, clients=600)
    assert found.levels[-1][1] == 512 and found.levels[-1][0] <= 1.0


@pytest.mark.parametrize("latency_s", [0.1, 1.0, 5.0])
@pytest.mark.parametrize("rpm", [60, 600])
def test_a_server_with_a_rate_is_used_to_the_full_with_few_refusals(rpm: float, latency_s: float) -> None:
    found = outcome(lambda clock: PerMinute(clock, rpm, rpm, latency_s), 10**9, until=600)
    assert found.per_s >= 0.95 * rpm / 60
    assert found.share_refused <= 0.15  # the burst before the rate is known, then about one in eighteen


def test_a_client_that_asks_little_does_not_drift_up() -> None:
    found = outcome(admits(1e9, 0.1), 2_000, clients=5)
    assert [level for _, level in found.levels] == [8]


def test_a_limit_set_by_hand_stays_as_it_is() -> None:
    assert [level for _, level in outcome(admits(10, 0.1), 500, concurrency=20).levels] == [20]


@given(st.integers(1, 6), st.lists(st.sampled_from(["enter", None, "rate_limited", "server_error", "later"])))
def test_no_more_than_the_limit_set_by_hand_are_ever_in_flight(concurrency: int, steps: list[str | None]) -> None:
    clock = Clock()
    limits, in_flight = Limits(concurrency=concurrency, clock=clock), 0
    for step in steps:
        if step == "enter":
            in_flight += enters(limits)
        elif step == "later":
            clock.now += 100
        elif in_flight:
            limits.leave(step)
            in_flight -= 1
        assert limits.status().in_flight == in_flight <= concurrency == limits.status().limit


@given(st.integers(1, 40), st.lists(st.sampled_from([None, "rate_limited", "timeout", "bad_request"]), max_size=300))
def test_the_number_found_stays_between_1_and_the_most(most: int, kinds: list[str | None]) -> None:
    clock = Clock()
    limits = Limits(most=most, clock=clock)
    for kind in kinds:
        clock.now += 100
        while enters(limits):
            clock.now += 1
        assert 1 <= limits.status().in_flight <= limits.status().limit <= most
        limits.leave(kind)


def filled(clock: Clock, **settings: Any) -> Limits:
    """Limits with all in flight that may be."""
    limits = Limits(clock=clock, chance=Lowest(), **settings)
    while enters(limits):
        pass
    return limits


def test_the_refusals_of_one_jam_cut_once() -> None:
    limits = filled(Clock())
    for _ in range(8):
        limits.leave("rate_limited")
    assert limits.status().limit == 4  # half: the others of the eight were sent before the cut


@pytest.mark.parametrize("kind", ["server_error", "timeout", "connection"])
def test_a_few_failures_cut_nothing_and_many_do(kind: str) -> None:
    limits = filled(Clock())
    limits.leave(kind)
    assert limits.status().limit == 8 and limits.status().held is None
    for _ in range(40):
        assert enters(limits) or limits.status().in_flight
        limits.leave(kind)
    assert limits.status().limit < 8
    assert limits.status().held == "the server is failing"


# Refusals by chance


@dataclass
class ByChance:
    """Refuses that share of the requests, however few are in flight."""

    clock: Clock
    share: Callable[[float], float]
    chance: random.Random = field(default_factory=lambda: random.Random(5))

    async def __call__(self) -> Answer:
        await asyncio.sleep(0.0025)
        if self.chance.random() < self.share(self.clock.now):
            await asyncio.sleep(0.0025)
            return "rate_limited", {}
        await asyncio.sleep(0.02)
        return None, {}


def answered_by(at: list[float], share: Callable[[float], float], **settings: Any) -> list[int]:
    """How many were answered until each of these times."""
    return [outcome(lambda clock: ByChance(clock, share), 10**9, 64, until=end, **settings).answered for end in at]


@pytest.mark.parametrize(("concurrency", "sensible"), [(None, 8), (4, 4), (64, 64)])
@pytest.mark.parametrize("share", [0.1, 0.2])
def test_refusals_by_chance_cost_little_more_than_themselves(
    share: float, concurrency: int | None, sensible: int
) -> None:
    [answered] = answered_by([6], lambda now: share, concurrency=concurrency)
    assert answered >= 0.5 * (1 - share) * 6 * sensible / 0.0225


@pytest.mark.parametrize("concurrency", [None, 4, 64])
def test_three_seconds_after_a_storm_of_refusals_all_is_as_before(concurrency: int | None) -> None:
    counts = answered_by([3, 4, 15, 16], lambda now: 0.5 if 4 <= now < 12 else 0, concurrency=concurrency)
    assert counts[3] - counts[2] >= 0.8 * (counts[1] - counts[0]) > 0


# Pauses


def held_after(kind: str | None, headers: dict[str, str]) -> str | None:
    limits = filled(Clock())
    limits.leave(kind, headers=headers)
    return limits.status().held


DATE = "Wed, 21 Oct 2026 07:28:00 GMT"


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "12"}, 12),
        ({"retry-after": "0.5"}, 1),
        ({"retry-after-ms": "1500"}, 2),
        ({"retry-after-ms": "3000", "retry-after": "60"}, 3),
        ({"retry-after-ms": "soon", "retry-after": "60"}, 60),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:30 GMT", "date": DATE}, 30),
        ({"retry-after": "Wed, 21 Oct 2026 09:28:30 GMT", "date": "Wed, 21 Oct 2026 11:28:00 +0200"}, 30),
        # none of these says a time: the pause is our own
        ({}, 1),
        ({"retry-after": "0"}, 1),
        ({"retry-after": "-5"}, 1),
        ({"retry-after": "nan"}, 1),
        ({"retry-after": "inf"}, 1),
        ({"retry-after": "soon"}, 1),
        ({"retry-after": ""}, 1),
        ({"retry-after": "Wed, 99 Oct 2026 07:28:30 GMT", "date": DATE}, 1),
        ({"retry-after": "Wed, 21 Oct 2026 07:27:00 GMT", "date": DATE}, 1),
        ({"retry-after": "1792000000"}, 1),
    ],
)
def test_a_refusal_holds_all_for_as_long_as_the_endpoint_asks(headers: dict[str, str], seconds: int) -> None:
    assert held_after("rate_limited", headers) == f"rate limited, waits {seconds} s"


@pytest.mark.parametrize(
    ("kind", "held"),
    [("server_error", "the server is failing, waits 5 s"), ("timeout", None), ("bad_request", None), (None, None)],
)
def test_a_server_that_is_down_may_ask_to_wait_and_no_other_reply_may(kind: str | None, held: str | None) -> None:
    assert held_after(kind, {"retry-after": "5"}) == held


@pytest.mark.parametrize(
    ("reset", "waits"),
    [
        ("1s", "1 s"),
        ("6m0s", "6 min"),
        ("20ms", "1 s"),
        ("1h2m", "62 min"),
        ("1m2.5s", "63 s"),
        ("3h5m", "3 h"),
        ("1d", "24 h"),
        ("7", "7 s"),
        ("2026-10-21T07:28:45Z", "45 s"),
    ],
)
@pytest.mark.parametrize(
    ("remaining", "reset_name", "why"),
    [
        ("x-ratelimit-remaining-requests", "x-ratelimit-reset-requests", "requests per minute"),
        ("x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens", "tokens per minute"),
        ("anthropic-ratelimit-requests-remaining", "anthropic-ratelimit-requests-reset", "requests per minute"),
        ("anthropic-ratelimit-tokens-remaining", "anthropic-ratelimit-tokens-reset", "tokens per minute"),
        ("ratelimit-remaining", "ratelimit-reset", "requests per minute"),
    ],
)
def test_nobody_sends_until_the_reset_when_nothing_is_left(
    remaining: str, reset_name: str, why: str, reset: str, waits: str
) -> None:
    assert held_after(None, {remaining: "0", reset_name: reset, "date": DATE}) == f"{why}, waits {waits}"


@pytest.mark.parametrize(
    "headers",
    [
        {"x-ratelimit-remaining-requests": "0"},
        {"x-ratelimit-reset-requests": "1s"},
        {"x-ratelimit-remaining-requests": "none", "x-ratelimit-reset-requests": "1s"},
        {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "soon"},
        {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1792000000"},
        {"x-ratelimit-remaining-requests": "100", "x-ratelimit-reset-requests": "60s"},
    ],
)
def test_headers_that_say_nothing_hold_nobody(headers: dict[str, str]) -> None:
    assert held_after(None, headers) is None


def test_no_more_are_in_flight_than_the_endpoint_says_are_left() -> None:
    clock = Clock()
    limits = filled(clock, concurrency=8)
    limits.leave(None, headers={"x-ratelimit-remaining-requests": "3", "x-ratelimit-reset-requests": "60s"})
    for _ in range(4):
        assert not enters(limits)
        limits.leave(None)
    assert limits.status().in_flight == 3 and limits.status().held == "requests per minute"
    limits.leave(None)
    assert enters(limits) and not enters(limits)
    clock.now += 60
    assert enters(limits)


def test_a_request_that_needs_more_tokens_than_are_left_waits_for_the_reset() -> None:
    clock = Clock()
    limits = Limits(clock=clock)
    assert enters(limits)
    limits.leave(None, headers={"x-ratelimit-remaining-tokens": "500", "x-ratelimit-reset-tokens": "9s"})
    assert enters(limits, tokens=400)
    assert not enters(limits, tokens=400)
    limits.leave(None)
    assert not enters(limits, tokens=501)
    clock.now += 9
    assert enters(limits, tokens=1_000_000)


def test_a_pause_is_a_little_longer_than_asked_by_chance() -> None:
    waits = []
    for seed in range(20):
        clock = Clock()
        limits = Limits(clock=clock, chance=random.Random(seed))
        enters(limits)
        limits.leave("rate_limited", headers={"retry-after": "10"})
        waits.append(seconds_until_next(limits, clock))
    assert min(waits) >= 10 and max(waits) <= 11.02 and len(set(waits)) > 10


def test_after_a_long_pause_they_come_evenly_within_a_second() -> None:
    clock = Clock()
    limits = filled(clock, concurrency=50)
    limits.leave("rate_limited", headers={"retry-after": "30"})
    for _ in range(49):
        limits.leave(None)
    came = []
    while len(came) < 50:
        came += [clock.now] * enters(limits)
        clock.now += 0.001
    assert came[0] == pytest.approx(30, abs=0.01) and came[-1] == pytest.approx(31, abs=0.05)
    assert max(later - earlier for earlier, later in itertools.pairwise(came)) < 0.03


def test_a_pause_of_our_own_grows_while_all_are_refused_and_shrinks_with_replies() -> None:
    clock = Clock()
    limits = Limits(concurrency=1, clock=clock, chance=Lowest())
    waits = []
    for kind in ["rate_limited"] * 14 + [None] * 60 + ["rate_limited"]:
        waits.append(seconds_until_next(limits, clock))
        limits.leave(kind)
    assert waits[1:8] == pytest.approx([0.0375 * 2**n for n in range(7)], abs=0.02)
    assert 40 <= max(waits) <= 61
    assert waits[-1] < 1


def test_an_earlier_pause_is_not_cut_short_by_a_shorter_one() -> None:
    clock = Clock()
    limits = filled(clock)
    limits.leave("rate_limited", headers={"retry-after": "30"})
    limits.leave("rate_limited", headers={"retry-after": "1"})
    limits.leave("rate_limited")
    assert limits.status().held == "rate limited, waits 30 s"


# Rates


def most_in_a_minute(sent: list[tuple[float, int]]) -> int:
    return max(sum(cost for at, cost in sent if begin <= at < begin + 60) for begin, _ in sent)


@given(st.integers(1, 400), st.lists(st.floats(0, 30), min_size=1, max_size=60))
def test_no_window_of_a_minute_has_more_requests_than_the_rate(rpm: int, gaps: list[float]) -> None:
    clock = Clock()
    limits, sent = Limits(rpm=rpm, concurrency=10**6, clock=clock), []
    for gap in gaps:
        clock.now += gap
        while enters(limits):
            sent.append((clock.now, 1))
    assert most_in_a_minute(sent) <= rpm


@given(
    st.integers(1_000, 100_000),
    st.lists(st.tuples(st.floats(0, 30), st.floats(0.001, 1)), min_size=1, max_size=60),
)
def test_no_window_of_a_minute_has_more_tokens_than_the_rate(tpm: int, steps: list[tuple[float, float]]) -> None:
    clock = Clock()
    limits, sent = Limits(tpm=tpm, concurrency=10**6, clock=clock), []
    for gap, share in steps:
        clock.now += gap
        tokens = max(1, int(share * tpm / 30))  # up to what the bucket holds
        while enters(limits, tokens):
            sent.append((clock.now, tokens))
    assert most_in_a_minute(sent) <= tpm


def sent_in_ten_minutes(tokens: int, used: int | None, **settings: Any) -> int:
    with simulated(concurrency=1000, **settings) as (loop, limits):
        count = 0

        async def client() -> None:
            nonlocal count
            while True:
                await limits.enter(tokens)
                if loop.clock.now > 600:
                    return
                count += 1
                await asyncio.sleep(1)
                limits.leave(None, tokens=used)

        async def all_clients() -> None:
            clients = [asyncio.ensure_future(client()) for _ in range(100)]
            await asyncio.wait(clients, timeout=700)
            for each in clients:
                each.cancel()

        loop.run_until_complete(all_clients())
        return count


@pytest.mark.parametrize("rpm", [3, 60, 1500])
def test_nearly_all_of_a_rate_of_requests_is_used(rpm: int) -> None:
    assert 0.95 * rpm * 10 <= sent_in_ten_minutes(0, None, rpm=rpm) <= rpm * 10 + 1


@pytest.mark.parametrize(
    ("tokens", "used"),
    [
        (100, 100),
        (5_000, 5_000),  # more than the bucket holds
        (100, None),
        (200, 100),  # guessed too high, too low, and not at all
        (50, 100),
        (0, 100),
    ],
)
def test_nearly_all_of_a_rate_of_tokens_is_used_and_guesses_are_corrected(tokens: int, used: int | None) -> None:
    spent = sent_in_ten_minutes(tokens, used, tpm=60_000) * (used or tokens)
    assert 0.95 * 600_000 <= spent <= 1.03 * 600_000


def test_a_request_larger_than_the_bucket_passes_when_that_is_full_and_is_paid_off_after() -> None:
    clock = Clock()
    limits = Limits(tpm=6000, clock=clock)
    assert enters(limits, tokens=3000)
    assert not enters(limits, tokens=1) and limits.status().held == "tokens per minute"
    clock.now += 25
    assert not enters(limits, tokens=1)
    clock.now += 10
    assert enters(limits, tokens=3000)


def test_what_is_held_by_the_rate_of_requests_is_said() -> None:
    limits = filled(Clock(), rpm=60)
    assert (limits.status().in_flight, limits.status().held) == (1, "requests per minute")


# Who waits


@given(st.integers(1, 4), st.lists(st.sampled_from(["stays", "cancelled", "cancelled later"]), max_size=20))
def test_who_waits_is_served_in_order_and_who_is_cancelled_leaks_nothing(concurrency: int, fates: list[str]) -> None:
    with simulated(concurrency=concurrency) as (loop, limits):
        served: list[int] = []

        async def client(place: int) -> None:
            await limits.enter(10)
            served.append(place)
            try:
                await asyncio.sleep(1)
            finally:
                limits.leave(None)

        async def all_clients() -> None:
            clients = [asyncio.ensure_future(client(place)) for place in range(len(fates))]
            for fate, wait_s in (("cancelled", 0.5), ("cancelled later", 1.0)):
                await asyncio.sleep(wait_s)
                for place, each in enumerate(clients):
                    if fates[place] == fate:
                        each.cancel()
            await asyncio.gather(*clients, return_exceptions=True)

        loop.run_until_complete(all_clients())
        assert served == sorted(served)
        assert {place for place, fate in enumerate(fates) if fate == "stays"} <= set(served)
        assert limits.status().in_flight == 0
        assert all(enters(limits) for _ in range(concurrency)) and not enters(limits)


def test_one_who_is_cancelled_just_when_let_in_gives_the_place_to_the_next() -> None:
    async def scene() -> None:
        limits = Limits(concurrency=1, tpm=60_000)
        await limits.enter()
        first, second = (asyncio.ensure_future(limits.enter(10)) for _ in range(2))
        await asyncio.sleep(0)
        limits.leave(None)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        await second
        assert first.cancelled() and limits.status().in_flight == 1

    asyncio.run(scene())


def test_one_whose_loop_is_gone_is_passed_over() -> None:
    limits, lost = Limits(concurrency=1), asyncio.new_event_loop()
    lost.set_exception_handler(lambda *_: None)  # which tells of a task that never ended
    assert enters(limits)
    task = lost.create_task(limits.enter())
    lost.run_until_complete(asyncio.sleep(0))
    lost.close()
    assert not task.done()

    async def scene() -> None:
        waiting = asyncio.ensure_future(limits.enter())
        await asyncio.sleep(0)
        limits.leave(None)
        await waiting

    asyncio.run(scene())
    assert limits.status().in_flight == 1


def test_one_who_leaves_twice_is_told() -> None:
    limits = filled(Clock(), concurrency=1)
    limits.leave(None)
    with pytest.raises(RuntimeError, match="once for each"):
        limits.leave(None)


@pytest.mark.parametrize("settings", [{"concurrency": 0}, {"rpm": -1}, {"tpm": float("inf")}, {"most": 0}])
def test_limits_that_let_nobody_in_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(BindError, match="a number above 0"):
        Limits(**settings)


# Threads


def in_threads(count: int, work: Callable[[], None]) -> None:
    failed: list[BaseException] = []

    def guarded() -> None:
        try:
            work()
        except BaseException as exc:
            failed.append(exc)

    threads = [threading.Thread(target=guarded) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not failed and not any(thread.is_alive() for thread in threads)


@pytest.mark.parametrize("settings", [{}, {"rpm": 3_000_000, "tpm": 6_000_000}])
def test_the_loops_of_several_threads_share_one_limit(settings: dict[str, Any]) -> None:
    limits, inside, highest, answered = Limits(concurrency=3, **settings), 0, 0, 0
    counting = threading.Lock()

    async def client() -> None:
        nonlocal inside, highest, answered
        for _ in range(10):
            await limits.enter(10)
            with counting:
                inside += 1
                highest = max(highest, inside)
            await asyncio.sleep(0)
            with counting:
                inside -= 1
                answered += 1
            limits.leave(None, tokens=10)

    async def clients() -> None:
        await asyncio.gather(*(client() for _ in range(20)))

    in_threads(3, lambda: asyncio.run(clients()))
    assert (answered, limits.status().in_flight) == (600, 0)
    assert 1 <= highest <= 3


def test_those_who_wait_in_several_threads_all_come_back_after_a_pause() -> None:
    limits = Limits(concurrency=6)
    assert enters(limits)
    limits.leave("rate_limited", headers={"retry-after-ms": "50"})

    async def clients() -> None:
        await asyncio.gather(*(limits.enter() for _ in range(3)))

    in_threads(2, lambda: asyncio.run(clients()))
    assert limits.status().in_flight == 6


def test_all_threads_get_the_same_limits_for_an_endpoint_and_model() -> None:
    start, got = threading.Barrier(8), []

    def get() -> None:
        start.wait()
        got.append(limits_of("http://same", "model", rpm=60))

    in_threads(8, get)
    assert len(got) == 8 and len(set(map(id, got))) == 1


def test_other_models_and_other_endpoints_have_limits_of_their_own() -> None:
    asked = [("a", "m"), ("b", "m"), ("a", "n")]
    got = [limits_of(*each) for each in asked]
    assert len(set(map(id, got))) == 3 and [limits_of(*each) for each in asked] == got


def test_the_settings_that_came_last_count_for_all() -> None:
    first = limits_of("changed", "m", concurrency=4)
    assert limits_of("changed", "m", concurrency=6) is first and first.status().limit == 6
    assert limits_of("changed", "m") is first and first.status().limit == 6  # goes on from there
    assert limits_of("changed", "m", most=3).status().limit == 3
    assert enters(limits_of("changed", "m", rpm=60)) and not enters(first)
    assert first.status().held == "requests per minute"
    assert enters(limits_of("changed", "m"))


def test_more_than_a_lowered_limit_stay_in_flight_until_they_leave() -> None:
    limits = filled(Clock(), concurrency=4)
    limits.change(concurrency=2, rpm=None, tpm=None, most=512)
    for in_flight in (3, 2):
        assert not enters(limits)
        limits.leave(None)
        assert limits.status().in_flight == in_flight
    assert not enters(limits)
    limits.leave(None)
    assert enters(limits)


def test_a_raised_limit_lets_in_who_waits() -> None:
    with simulated(concurrency=1) as (loop, limits):

        async def scene() -> None:
            waiting = [asyncio.ensure_future(limits.enter()) for _ in range(3)]
            await asyncio.sleep(1)
            limits.change(concurrency=3, rpm=None, tpm=None, most=512)
            await asyncio.gather(*waiting)

        loop.run_until_complete(scene())
        assert limits.status().in_flight == 3


def test_a_change_of_a_rate_gives_no_second_burst() -> None:
    clock = Clock()
    limits = filled(clock, rpm=600, concurrency=1000)
    limits.change(concurrency=1000, rpm=1200, tpm=None, most=512)
    assert not enters(limits)
    clock.now += 0.1
    assert enters(limits)


@pytest.mark.parametrize(("pause_s", "told"), [(9, []), (30, ["30 s"]), (160, ["3 min", "100 s", "40 s"])])
def test_a_long_pause_is_told_at_its_beginning_and_each_minute(
    pause_s: int, told: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    loop = SimulatedLoop()
    limits = Limits(concurrency=2, clock=loop.clock, chance=Lowest())

    async def scene() -> None:
        await limits.enter()
        limits.leave("rate_limited", headers={"retry-after": str(pause_s)})
        await asyncio.gather(*(limits.enter() for _ in range(2)))
        await asyncio.sleep(1)

    with contextlib.closing(loop), caplog.at_level(logging.WARNING, "agora_frames.backends.limits"):
        loop.run_until_complete(scene())
    assert caplog.messages == [f"All requests are held: rate limited, waits {each}." for each in told]


def test_one_refusal_among_many_replies_holds_nobody_else() -> None:
    limits = Limits(concurrency=4, clock=lambda: 0.0)

    async def asked() -> None:
        for _ in range(20):
            await limits.enter()
            limits.leave(None)
        await limits.enter()
        limits.leave("rate_limited", headers={"retry-after": "5"})
        assert limits.status().held is None
        await asyncio.wait_for(limits.enter(), 1)

    asyncio.run(asked())


def test_what_was_sent_before_goes_before_what_was_not() -> None:
    limits, order = Limits(concurrency=1), list[str]()

    async def ask(name: str, *, again: bool) -> None:
        await limits.enter(again=again)
        order.append(name)
        limits.leave(None)

    async def asked() -> None:
        await limits.enter()
        waiting = [asyncio.create_task(ask(name, again=name == "again")) for name in ("first", "second", "again")]
        await asyncio.sleep(0)
        limits.leave(None)
        await asyncio.gather(*waiting)

    asyncio.run(asked())
    assert order == ["again", "first", "second"]

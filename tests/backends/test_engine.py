"""The window of workers over a post that is a function: what it reserves, records, tells and gives up, and when."""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import orjson
import pytest

from agora_frames.backends.engine import Asking, Request, ask_all
from agora_frames.backends.limits import Limits
from agora_frames.backends.retry import Health
from agora_frames.backends.transport import Answer, Post, Unanswered
from agora_frames.budget import Budget, most_tokens
from agora_frames.errors import AuthenticationError, EndpointError, StorageError
from agora_frames.prices import prices_of
from agora_frames.types import Desk, Reply

PRICES = prices_of("", "", (1.0, 2.0))
MOST = 50


def done(text: str = "yes", completion_tokens: int = 5) -> Answer:
    usage = {"prompt_tokens": 10, "completion_tokens": completion_tokens}
    body = {"choices": [{"message": {"content": text}, "finish_reason": "stop"}], "usage": usage}
    return Answer(200, {}, orjson.dumps(body))


def status(code: int, message: str = "no", **headers: str) -> Answer:
    return Answer(code, headers, orjson.dumps({"error": {"message": message}}))


class Book:
    """A desk that gives leave as it is told, and notes everything that happens, in order.

    leaves: what `reserve` says to each question in turn; then always yes.
    """

    def __init__(self, *leaves: bool | None) -> None:
        self.leaves = list(leaves)
        self.notes: list[tuple[str, str]] = []
        self.asked: list[tuple[int | None, float | None]] = []
        self.replies: list[Reply] = []
        self.held: list[str] = []

    def reserve(self, key: str, *, tokens: int | None, cost_usd: float | None) -> bool | None:
        leave = self.leaves.pop(0) if self.leaves else True
        self.notes.append((f"reserve {leave}", key))
        self.asked.append((tokens, cost_usd))
        if leave:
            self.held.append(key)
        return leave

    def release(self, key: str) -> None:
        self.notes.append(("release", key))
        self.held.remove(key)

    def record(self, reply: Reply) -> None:
        self.notes.append(("record", reply["key"]))
        self.replies.append(dict(reply))
        self.held.remove(reply["key"])


class Run:
    """One call of `ask_all`; `told` is what it put, `sent` the keys in the order in which they were sent."""

    def __init__(self, answer: Callable[[str, int], Any], desk: Desk | None = None, **options: Any) -> None:
        self.answer, self.desk = answer, desk or Book()
        self.told: list[Reply] = []
        self.sent: list[str] = []
        self.stop = threading.Event()
        self.limits = Limits(concurrency=options.pop("concurrency", 4), chance=random.Random(1))
        self.health = Health(options.pop("outage_s", 60.0), chance=random.Random(1))
        self.options = options

    async def post(self, body: bytes) -> Answer:
        key = body.decode()
        self.sent.append(key)
        said = self.answer(key, self.sent.count(key) - 1)
        answer = await said if isinstance(said, Awaitable) else said
        if isinstance(answer, Exception):
            raise answer
        assert isinstance(answer, Answer)
        return answer

    @contextlib.asynccontextmanager
    async def connected(self) -> AsyncIterator[Post]:
        yield self.post

    def __call__(self, *keys: str, workers: int = 4) -> list[Reply]:
        given: dict[str, Any] = {"prices": PRICES, "pause_s": 0.001, "hidden": "sk-1"}
        asking = Asking(
            endpoint="http://h/v1",
            model="m",
            variable="AGORA_API_KEY",
            limits=self.limits,
            desk=self.desk,
            health=self.health,
            body_of=lambda messages, sampling: (messages.encode(), MOST),
            connected=self.connected,
            **{**given, **self.options},
        )
        asyncio.run(ask_all(asking, rows(*keys), workers=workers, put=self.told.append, stop=self.stop))
        return self.told


def rows(*keys: str) -> Iterator[Request]:
    for key in keys:
        yield key, key, "{}"  # the key is the message and the body


def kinds(replies: list[Reply]) -> list[str | None]:
    return [reply["error"]["kind"] if "error" in reply else None for reply in replies]


# The order of things


def test_leave_is_asked_before_an_attempt_and_its_reply_recorded_after_it() -> None:
    desk = Book()
    told = Run(lambda key, attempt: done(), desk)("a", "b", workers=1)
    assert desk.notes == [("reserve True", "a"), ("record", "a"), ("reserve True", "b"), ("record", "b")]
    assert told == desk.replies


def test_the_most_that_an_attempt_can_take_is_reserved() -> None:
    desk = Book()
    Run(lambda key, attempt: done(), desk)("a")
    asked, total = most_tokens("a", MOST, sampling="{}")
    ((tokens, cost_usd),) = desk.asked
    assert tokens == total
    assert cost_usd == pytest.approx((asked * 1.0 + MOST * 2.0) / 1e6)


def test_without_prices_no_cost_is_reserved() -> None:
    desk = Book()
    Run(lambda key, attempt: done(), desk, prices=None)("a")
    assert desk.asked[0][1] is None


def test_each_attempt_is_reserved_and_recorded_for_itself() -> None:
    desk = Book()
    told = Run(lambda key, attempt: [status(500), status(429), done()][attempt], desk)("a")
    assert [note for note, _ in desk.notes] == ["reserve True", "record"] * 3
    assert kinds(told) == ["server_error", "rate_limited", None]
    assert [reply["retried"] for reply in told] == [True, True, False]


def test_every_row_ends_in_one_reply_that_is_not_asked_again() -> None:
    chance = random.Random(7)

    def answer(key: str, attempt: int) -> Answer | Exception:
        other: list[Answer | Exception] = [
            status(500),
            status(400),
            Unanswered("timeout", "late"),
            Unanswered("connection", "cut"),
        ]
        return chance.choice([done(), done(), *other])

    desk = Book()
    keys = [f"r{n}" for n in range(200)]
    told = Run(answer, desk)(*keys, workers=20)
    assert sorted(reply["key"] for reply in told if not reply["retried"]) == sorted(keys)
    assert (desk.held, told) == ([], desk.replies)


# Leave to spend


def test_what_must_wait_for_leave_is_sent_when_it_is_given() -> None:
    desk = Book(False, False, True)
    told = Run(lambda key, attempt: done(), desk)("a")
    assert [note for note, _ in desk.notes] == ["reserve False", "reserve False", "reserve True", "record"]
    assert kinds(told) == [None]


def test_what_is_never_given_leave_is_not_sent_and_told_as_over_budget_without_a_record() -> None:
    desk = Book(None)
    run = Run(lambda key, attempt: done(), desk)
    told = run("a", "b", workers=1)
    assert (run.sent, kinds(told)) == (["b"], ["over_budget", None])
    assert [reply["key"] for reply in desk.replies] == ["b"]


def test_a_second_try_without_leave_ends_as_over_budget() -> None:
    desk = Book(True, None)
    told = Run(lambda key, attempt: status(500), desk)("a")
    assert kinds(told) == ["server_error", "over_budget"]
    assert desk.held == []


def test_attempts_that_need_less_than_was_reserved_make_room_for_those_that_wait() -> None:
    asked, _ = most_tokens("a", None, sampling="{}")

    class Purse(Book):
        budget = Budget(max_tokens_total=asked + MOST + 15 * 7)

        def reserve(self, key: str, *, tokens: int | None, cost_usd: float | None) -> bool | None:
            return self.budget.reserve(key, tokens=tokens, cost_usd=cost_usd)

        def record(self, reply: Reply) -> None:
            self.budget.settle(reply)

    run = Run(lambda key, attempt: done(), Purse())
    told = run(*"abcdefghijkl")
    assert kinds(told).count(None) == 8, "15 tokens each, until what is left is less than one may take"
    assert kinds(told).count("over_budget") == 4
    assert Purse.budget.reserved == {"tokens": 0}


def test_where_the_connection_was_not_made_the_attempt_cost_nothing() -> None:
    told = Run(lambda key, attempt: Unanswered("connection", "refused", unsent=True) if attempt == 0 else done())("a")
    assert (told[0]["cost_usd"], told[0]["prompt_tokens"], told[0]["completion_tokens"]) == (0.0, 0, 0)


def test_where_nobody_knows_whether_it_was_billed_the_cost_is_unknown() -> None:
    told = Run(lambda key, attempt: Unanswered("timeout", "late") if attempt == 0 else done())("a")
    assert told[0].get("cost_usd") is None
    assert told[1]["cost_usd"] == pytest.approx(20 / 1e6)


# The limits


def test_no_more_than_the_limit_are_in_flight() -> None:
    now: list[int] = []

    async def answer() -> Answer:
        now.append(run.limits.status().in_flight)
        await asyncio.sleep(0.001)
        return done()

    run = Run(lambda key, attempt: answer(), concurrency=3)
    run(*(f"r{n}" for n in range(40)), workers=20)
    assert max(now) == 3


@pytest.mark.parametrize("code", [200, 400, 401])
def test_after_a_run_nothing_is_in_flight_however_it_ended(code: int) -> None:
    run = Run(lambda key, attempt: done() if code == 200 else status(code))
    with contextlib.suppress(AuthenticationError):
        run("a", "b", "c")
    assert run.limits.status().in_flight == 0


# What concerns all


@pytest.mark.parametrize("code", [401, 402, 403])
def test_a_fatal_answer_is_recorded_stops_the_others_and_is_raised(code: int) -> None:
    desk = Book()
    run = Run(lambda key, attempt: status(code), desk, concurrency=1)
    with pytest.raises(AuthenticationError):
        run("a", "b", "c")
    assert run.sent == ["a"]
    assert ([reply["key"] for reply in desk.replies], desk.held) == (["a"], [])


def test_what_is_in_flight_when_another_is_fatal_is_waited_for_and_recorded() -> None:
    async def late() -> Answer:
        await asyncio.sleep(0.05)
        return done("late")

    desk = Book()
    run = Run(lambda key, attempt: late() if key == "slow" else status(401), desk, concurrency=2)
    with pytest.raises(AuthenticationError):
        run("slow", "bad", "never")
    assert run.sent == ["slow", "bad"]
    assert [reply.get("text") for reply in desk.replies] == [None, "late"]
    assert [reply.get("text") for reply in run.told] == ["late"]
    assert desk.held == []


def test_nobody_there_is_an_error_after_3_tries_of_a_request() -> None:
    run = Run(lambda key, attempt: Unanswered("connection", "refused", unsent=True), concurrency=1)
    with pytest.raises(EndpointError, match=r"nobody answers at http://h/v1 \(refused\)"):
        run("a", workers=1)
    assert run.sent == ["a"] * 3


def test_nothing_but_failures_is_an_error_after_20_rows() -> None:
    run = Run(lambda key, attempt: status(500, "broken"), pause_s=0.0)
    with pytest.raises(EndpointError, match=r"nothing but failures come from http://h/v1 \(500: broken\)"):
        run(*(f"r{n}" for n in range(100)), workers=1)
    assert len(set(run.sent)) == 20


def test_a_refusal_of_content_shows_that_the_endpoint_is_alive() -> None:
    run = Run(lambda key, attempt: status(400 if key.startswith("bad") else 500), pause_s=0.0)
    keys = [name for n in range(15) for name in (f"r{n}", f"s{n}", f"bad{n}")]
    assert len([reply for reply in run(*keys, workers=1) if not reply["retried"]]) == 45


def test_a_desk_that_cannot_record_stops_the_run_and_nothing_more_is_sent() -> None:
    class Full(Book):
        def record(self, reply: Reply) -> None:
            raise StorageError("the disk is full")

    run = Run(lambda key, attempt: done(), Full(), concurrency=1)
    with pytest.raises(StorageError, match="disk is full"):
        run("a", "b", "c")
    assert (run.sent, run.told) == (["a"], [])
    assert run.limits.status().in_flight == 0


# Stopping


def test_when_stopped_what_is_in_flight_is_recorded_and_what_waits_is_given_up() -> None:
    desk = Book()

    async def answer(key: str) -> Answer:
        run.stop.set()
        await asyncio.sleep(0.2)
        return done(key)

    run = Run(lambda key, attempt: answer(key), desk, concurrency=2)
    told = run(*"abcdef", workers=6)
    assert run.sent == ["a", "b"]
    assert [reply["key"] for reply in told] == ["a", "b"]
    assert desk.held == [], "what was reserved for those that waited is free again"
    assert [note for note, _ in desk.notes].count("release") == 4


def test_when_stopped_a_pause_before_the_next_try_is_cut_short() -> None:
    def answer(key: str, attempt: int) -> Answer:
        run.stop.set()
        return status(429, **{"retry-after": "600"})

    run = Run(answer)
    assert kinds(run("a", "b", workers=1)) == ["rate_limited"]
    assert run.sent == ["a"]


def test_when_stopped_who_waits_for_leave_to_spend_is_sent_home() -> None:
    desk = Book(True, *[False] * 10_000)

    async def answer() -> Answer:
        run.stop.set()
        return done()

    run = Run(lambda key, attempt: answer(), desk)
    assert kinds(run("a", "b", "c", workers=3)) == [None]
    assert desk.held == []


def test_stopped_before_it_began_it_ends() -> None:
    async def answer() -> Answer:
        await asyncio.sleep(0)
        return done()

    desk = Book()
    run = Run(lambda key, attempt: answer(), desk)
    run.stop.set()
    told = run(*(f"r{n}" for n in range(2000)), workers=2)
    assert told == desk.replies
    assert len(told) <= 2


def test_rows_beyond_the_ceiling_hold_up_neither_the_others_nor_a_stop() -> None:
    async def answer() -> Answer:
        run.stop.set()
        await asyncio.sleep(0)
        return done()

    run = Run(lambda key, attempt: answer(), Book(True, *[None] * 20_000))
    told = run(*(f"r{n}" for n in range(20_000)), workers=2)
    assert kinds(told).index(None) < 10
    assert len(told) < 20_000


# The key


@pytest.mark.parametrize(
    "answer",
    [
        status(400, "bad sk-1"),
        status(500, "bad sk-1"),
        Answer(500, {}, b"sk-1!"),
        Answer(200, {}, b'{"error": "sk-1"}'),
    ],
    ids=["bad request", "server error", "plain text", "in a good status"],
)
def test_the_key_is_cut_out_of_what_an_endpoint_says(answer: Answer) -> None:
    for reply in Run(lambda key, attempt: answer)("a"):
        assert "sk-1" not in str(reply)
        assert "[the API key]" in reply["error"]["message"]


def test_the_key_is_cut_out_of_what_a_connection_says() -> None:
    told = Run(lambda key, attempt: Unanswered("connection", "http://sk-1@h failed"))("a")
    assert "sk-1" not in str(told)


@pytest.mark.parametrize("answer", [status(401, "sk-1"), status(402, "sk-1"), status(404, "sk-1")])
def test_the_key_is_cut_out_of_errors(answer: Answer) -> None:
    with pytest.raises((AuthenticationError, LookupError)) as caught:
        Run(lambda key, attempt: answer)("a")
    assert "sk-1" not in str(caught.value)

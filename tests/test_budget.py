"""The ceiling holds, whoever asks at once; what is unknown stays counted; what was counted is not counted again."""

from __future__ import annotations

import pickle
import threading
from typing import Any

import orjson
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agora_frames.budget import Budget, most_completion, most_tokens
from agora_frames.errors import BindError

SPENT = {
    "key": pl.String,
    "tokens": pl.Int64,
    "cost_usd": pl.Float64,
    "kind": pl.String,
    "retried": pl.Boolean,
    "run": pl.String,
}


def ledger(*attempts: tuple[str, float | None] | tuple[str, float | None, str]) -> pl.DataFrame:
    """What `Ledger.spent` tells: of each attempt its key, its cost and, where it failed, the kind."""
    rows = [(key, None, cost, kind[0] if kind else None, False, "r") for key, cost, *kind in attempts]
    return pl.DataFrame(rows, schema=SPENT, orient="row")


def failure(key: str, kind: str, cost_usd: float | None = None) -> dict[str, Any]:
    return {"key": key, "cost_usd": cost_usd, "error": {"kind": kind, "message": ""}}


# --- what may be asked -----------------------------------------------------------------------------------------------


def test_without_a_ceiling_everything_is_granted() -> None:
    budget = Budget()
    assert not budget.limited
    assert budget.reserve("a", tokens=None, cost_usd=None) is True
    budget.settle({"key": "a", "cost_usd": 5.0})
    assert (budget.limits(), budget.spent, budget.reserved, budget.said()) == ({}, {}, {}, "no ceiling")


@pytest.mark.parametrize("name", ["max_cost", "max_tokens_total"])
@pytest.mark.parametrize("wrong", [-1, float("nan"), float("inf"), "1", True])
def test_a_ceiling_that_is_no_amount_is_an_error(name: str, wrong: Any) -> None:
    with pytest.raises(BindError, match=f"{name}=.*or None for no ceiling"):
        Budget(**{name: wrong})


def test_tokens_come_whole() -> None:
    with pytest.raises(BindError, match="a whole number of tokens"):
        Budget(max_tokens_total=1.5)  # type: ignore[arg-type]


def test_a_cost_that_nobody_knows_is_an_error_that_says_what_to_give() -> None:
    with pytest.raises(BindError, match=r"prices=.*max_tokens=…"):
        Budget(max_cost=1.0).reserve("a", tokens=5, cost_usd=None)


def test_a_number_of_tokens_without_bound_is_an_error_that_says_what_to_give() -> None:
    with pytest.raises(BindError, match=r"give max_tokens=…"):
        Budget(max_tokens_total=5).reserve("a", tokens=None, cost_usd=0.0)


def test_what_fits_only_if_others_need_less_must_wait() -> None:
    budget = Budget(max_cost=1.0)
    assert budget.reserve("a", tokens=None, cost_usd=0.7) is True
    assert budget.reserve("b", tokens=None, cost_usd=0.4) is False
    budget.settle({"key": "a", "cost_usd": 0.5})
    assert budget.reserve("b", tokens=None, cost_usd=0.4) is True


def test_what_fits_in_no_case_is_never_granted() -> None:
    budget = Budget(max_cost=1.0)
    assert budget.reserve("a", tokens=None, cost_usd=0.7) is True
    budget.settle({"key": "a", "cost_usd": 0.7})
    assert budget.reserve("b", tokens=None, cost_usd=0.4) is None


def test_a_ceiling_of_nothing_grants_what_is_free() -> None:
    budget = Budget(max_cost=0)
    assert budget.reserve("a", tokens=None, cost_usd=0.0) is True
    assert budget.reserve("b", tokens=None, cost_usd=1e-9) is None


def test_a_ceiling_can_be_used_up_to_the_last_tenth() -> None:
    budget = Budget(max_cost=1.0)
    for i in range(10):  # in floating point, ten tenths are less than one, and three are more than 0.3
        assert budget.reserve(str(i), tokens=None, cost_usd=0.1) is True
        budget.settle({"key": str(i), "cost_usd": 0.1})
    assert budget.spent == {"cost_usd": 1.0}


def test_both_ceilings_hold() -> None:
    budget = Budget(max_cost=1.0, max_tokens_total=100)
    assert budget.reserve("a", tokens=101, cost_usd=0.1) is None
    assert budget.reserve("a", tokens=90, cost_usd=0.1) is True
    assert budget.reserve("b", tokens=20, cost_usd=0.1) is False
    assert budget.reserved == {"cost_usd": 0.1, "tokens": 90}
    budget.settle({"key": "a", "cost_usd": 0.05, "prompt_tokens": 10, "completion_tokens": 5})
    assert budget.spent == {"cost_usd": 0.05, "tokens": 15}


def test_what_is_not_sent_after_all_is_released() -> None:
    budget = Budget(max_cost=1.0)
    budget.reserve("a", tokens=None, cost_usd=1.0)
    budget.release("a")
    budget.release("b")
    assert (budget.spent, budget.reserved) == ({"cost_usd": 0.0}, {"cost_usd": 0.0})


def test_two_attempts_at_the_same_request_are_reserved_apart() -> None:
    budget = Budget(max_cost=1.0)
    budget.reserve("a", tokens=None, cost_usd=0.3)
    budget.reserve("a", tokens=None, cost_usd=0.3)
    budget.settle({"key": "a", "cost_usd": 0.1})
    assert (budget.spent, budget.reserved) == ({"cost_usd": 0.1}, {"cost_usd": 0.3})


# --- what an attempt took --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["timeout", "connection", "server_error", "bad_reply"])
def test_what_may_have_been_billed_counts_as_all_that_was_reserved(kind: str) -> None:
    budget = Budget(max_cost=1.0)
    budget.reserve("a", tokens=None, cost_usd=0.3)
    budget.settle(failure("a", kind))
    assert (budget.spent, budget.reserved) == ({"cost_usd": 0.3}, {"cost_usd": 0.0})


@pytest.mark.parametrize("kind", ["rate_limited", "bad_request", "context_too_long"])
def test_what_was_turned_away_cost_nothing_unless_it_says_so(kind: str) -> None:
    budget = Budget(max_cost=1.0)
    budget.reserve("a", tokens=None, cost_usd=0.3)
    budget.settle(failure("a", kind))
    budget.settle(failure("b", kind, cost_usd=0.2))
    assert budget.spent == {"cost_usd": 0.2}


def test_a_reply_that_does_not_tell_its_tokens_counts_as_reserved() -> None:
    budget = Budget(max_tokens_total=100)
    budget.reserve("a", tokens=30, cost_usd=None)
    budget.settle({"key": "a", "prompt_tokens": 3, "completion_tokens": None})
    assert budget.spent == {"tokens": 30}


def test_what_was_not_reserved_counts_too() -> None:
    budget = Budget(max_cost=1.0)
    budget.settle({"key": "a", "cost_usd": 0.9})
    assert budget.reserve("b", tokens=None, cost_usd=0.2) is None


def test_it_says_in_words_how_it_stands() -> None:
    budget = Budget(max_cost=1.0, max_tokens_total=20_000)
    budget.settle({"key": "a", "cost_usd": 0.42, "prompt_tokens": 1000, "completion_tokens": 500})
    budget.reserve("b", tokens=2000, cost_usd=0.03)
    assert budget.said() == (
        "$0.42 of $1.00 spent, $0.03 reserved; 1,500 tokens of 20,000 tokens spent, 2,000 tokens reserved"
    )


def test_less_than_a_cent_is_said_with_its_digits() -> None:
    budget = Budget(max_cost=0.001)
    budget.settle({"key": "a", "cost_usd": 0.00042})
    assert budget.said() == "$0.00042 of $0.001 spent, $0.00 reserved"


# --- what was spent before -------------------------------------------------------------------------------------------


def test_what_earlier_runs_spent_is_counted() -> None:
    budget = Budget(max_cost=1.0)
    budget.count(ledger(("a", 0.1), ("a", 0.2), ("b", 0.3)))
    assert budget.spent == pytest.approx({"cost_usd": 0.6})


def test_what_was_counted_is_not_counted_again() -> None:
    budget = Budget(max_cost=1.0)
    budget.count(ledger(("a", 0.1)))
    budget.count(ledger(("a", 0.1), ("b", 0.2)))
    assert budget.spent == pytest.approx({"cost_usd": 0.3})


def test_what_another_process_added_since_is_counted() -> None:
    budget = Budget(max_cost=1.0)
    budget.count(ledger(("a", 0.1)))
    budget.count(ledger(("a", 0.1), ("a", 0.4)))
    assert budget.spent == pytest.approx({"cost_usd": 0.5})


def test_what_was_settled_here_is_not_counted_from_the_ledger() -> None:
    budget = Budget(max_cost=1.0)
    budget.reserve("a", tokens=None, cost_usd=0.3)
    budget.settle(failure("a", "timeout"))
    budget.reserve("a", tokens=None, cost_usd=0.3)
    budget.settle({"key": "a", "cost_usd": 0.1})
    budget.count(ledger(("a", None, "timeout"), ("a", 0.1)))
    assert budget.spent == pytest.approx({"cost_usd": 0.4})


def test_an_earlier_attempt_of_unknown_cost_counts_as_the_dearest_known_one_at_the_request() -> None:
    budget = Budget(max_cost=1.0)
    budget.count(ledger(("a", None, "timeout"), ("a", 0.2), ("a", 0.1), ("a", None, "rate_limited")))
    assert budget.spent == pytest.approx({"cost_usd": 0.5})


def test_an_earlier_attempt_of_unknown_cost_counts_as_the_next_one_at_the_request_may_cost() -> None:
    budget = Budget(max_cost=1.0)
    budget.count(ledger(("a", None, "timeout"), ("a", None, "connection")))
    assert budget.said() == "$0.00 of $1.00 spent, $0.00 reserved, 2 earlier attempts of unknown cost not counted"
    assert budget.reserve("a", tokens=None, cost_usd=0.4) is None
    assert budget.reserve("a", tokens=None, cost_usd=0.3) is True
    assert (budget.spent, budget.reserved) == ({"cost_usd": 0.6}, {"cost_usd": 0.3})


def test_tokens_of_earlier_runs_are_counted() -> None:
    rows = [("a", 70, None, None, False, None)]
    budget = Budget(max_tokens_total=100)
    budget.count(pl.DataFrame(rows, schema=SPENT, orient="row"))
    assert budget.reserve("b", tokens=31, cost_usd=None) is None


def test_a_budget_pickles_and_begins_anew() -> None:
    budget = Budget(max_cost=1.0)
    budget.settle({"key": "a", "cost_usd": 0.9})
    copy = pickle.loads(pickle.dumps(budget))
    assert (copy.limits(), copy.spent) == ({"max_cost": 1.0}, {"cost_usd": 0.0})


# --- the ceiling holds -----------------------------------------------------------------------------------------------

# Of each request: the most that it can take, the share of it that it takes, and whether nobody says what it took.
CALLS = st.lists(st.tuples(st.floats(0, 0.4), st.floats(0, 1), st.booleans()), min_size=1, max_size=60)


@given(CALLS, st.floats(0, 3), st.randoms(use_true_random=False), st.integers(1, 20))
def test_spent_and_reserved_never_exceed_the_ceiling(
    calls: list[tuple[float, float, bool]], ceiling: float, random: Any, places: int
) -> None:
    budget, waiting, flying = Budget(max_cost=ceiling), list(enumerate(calls)), []
    while waiting or flying:
        if waiting and len(flying) < places:
            number, call = waiting.pop(0)
            leave = budget.reserve(str(number), tokens=None, cost_usd=call[0])
            if leave:
                flying.append((number, call))
            elif leave is False:
                assert flying  # somebody will free something: nobody waits for ever
                waiting.insert(0, (number, call))
        if flying and (len(flying) == places or not waiting or random.random() < 0.5 or leave is False):
            number, (most, share, silent) = flying.pop(random.randrange(len(flying)))
            budget.settle(failure(str(number), "timeout") if silent else {"key": str(number), "cost_usd": most * share})
        assert budget.spent["cost_usd"] + budget.reserved["cost_usd"] <= ceiling + 1e-12
    assert budget.reserved == {"cost_usd": 0.0}


def test_the_ceiling_holds_with_many_threads() -> None:
    budget, over = Budget(max_tokens_total=10_000), []

    def work(name: int) -> None:
        for i in range(200):
            key = f"{name} {i}"
            while (leave := budget.reserve(key, tokens=50, cost_usd=None)) is False:
                pass
            if leave is None:
                return
            over.extend([1] * (budget.spent["tokens"] > 10_000))
            budget.settle({"key": key, "prompt_tokens": 20, "completion_tokens": i % 31})

    threads = [threading.Thread(target=work, args=(name,)) for name in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not over
    assert 9_950 <= budget.spent["tokens"] <= 10_000
    assert budget.reserved == {"tokens": 0}


# --- the most tokens of a request ------------------------------------------------------------------------------------


@given(st.lists(st.text(), min_size=1), st.none() | st.integers(1, 1000))
def test_no_byte_of_the_contents_is_left_out(contents: list[str], max_tokens: int | None) -> None:
    messages = orjson.dumps([{"content": text, "role": "user"} for text in contents]).decode()
    asked, total = most_tokens(messages, max_tokens)
    assert asked >= sum(len(text.encode()) for text in contents) + 10 * len(contents)
    assert total == (None if max_tokens is None else asked + max_tokens)


def image(url: str) -> str:
    parts = [{"type": "text", "text": 'is "image_url": {} a key?'}, {"type": "image_url", "image_url": {"url": url}}]
    return orjson.dumps([{"content": parts, "role": "user"}]).decode()


def test_an_image_counts_the_same_however_many_bytes_it_has() -> None:
    short, long = (most_tokens(image(f"data:image/png;base64,{'A' * size}"), None)[0] for size in (10, 1_000_000))
    assert short == long
    assert 48_169 < short < 2 * 48_169


def test_an_image_elsewhere_counts_too() -> None:
    assert most_tokens(image("https://example.org/a.png"), None)[0] > 48_169


def test_tools_are_part_of_the_prompt() -> None:
    assert most_tokens("[]", None, sampling='{"tools":[]}')[0] >= most_tokens("[]", None)[0] + 12


@pytest.mark.parametrize(
    ("settings", "most"),
    [
        ({}, None),
        ({"max_tokens": 10}, 10),
        ({"max_completion_tokens": 20}, 20),
        ({"max_tokens": 10, "max_completion_tokens": 500}, 500),
        ({"max_tokens": 10, "max_completion_tokens": None}, 10),
    ],
    ids=str,
)
def test_the_most_tokens_of_a_reply_are_the_larger_of_both_limits(settings: dict[str, Any], most: int | None) -> None:
    assert most_completion(settings) == most

"""What is read from the body of a chat completion, and the stream between a backend's thread and its reader."""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Iterator
from typing import Any

import polars as pl
import pytest

from agora_frames.backends.chat import Put, failed, frame_of, read_completion, streamed
from agora_frames.errors import EndpointError
from agora_frames.frames import REPLIES, SETTLED
from agora_frames.prices import prices_of


def read(body: dict[str, Any], prices: tuple[float, ...] | None = None) -> dict[str, Any]:
    """The row that a body becomes."""
    given = prices_of("http://h/v1", "m", prices)
    return frame_of([read_completion("k", body, latency_s=1.5, prices=given)]).row(0, named=True)


def body(message: Any = None, finish: Any = "stop", **fields: Any) -> dict[str, Any]:
    return {"choices": [{"message": message or {"content": "Hi"}, "finish_reason": finish}], **fields}


def kind(row: dict[str, Any]) -> Any:
    return row["error"] and row["error"]["kind"]


# Bodies


def test_a_whole_reply_has_its_text_and_no_error() -> None:
    row = read(body(usage={"prompt_tokens": 10, "completion_tokens": 5}))
    assert row == {
        **dict.fromkeys(REPLIES),
        "key": "k",
        "text": "Hi",
        "finish_reason": "stop",
        "prompt_tokens": 10,
        "completion_tokens": 5,
        "latency_s": 1.5,
        "retried": False,
    }


def test_the_cost_is_exact_when_prices_and_tokens_are_known() -> None:
    row = read(body(usage={"prompt_tokens": 1000, "completion_tokens": 200}), prices=(0.15, 0.60))
    assert math.isclose(row["cost_usd"], 0.00027, rel_tol=1e-12)


@pytest.mark.parametrize("usage", [None, {}, {"prompt_tokens": 3}, {"prompt_tokens": "3", "completion_tokens": 1}, []])
def test_the_cost_is_null_when_the_tokens_are_not_known(usage: Any) -> None:
    assert read(body(usage=usage), prices=(1.0, 1.0))["cost_usd"] is None


def test_a_reply_cut_at_its_length_keeps_its_text() -> None:
    row = read(body({"content": "Once upon"}, finish="length"))
    assert (kind(row), row["text"]) == ("truncated", "Once upon")


def test_a_reply_that_was_all_reasoning_is_truncated_and_not_bad() -> None:
    row = read(body({"content": None, "reasoning_content": "Let me see"}, finish="length"))
    assert (kind(row), row["text"], row["reasoning"]) == ("truncated", None, "Let me see")


def test_a_filtered_reply_is_told_as_filtered() -> None:
    assert kind(read(body(finish="content_filter"))) == "content_filtered"


def test_a_refusal_is_an_error_with_the_refusal_as_its_message() -> None:
    row = read(body({"content": None, "refusal": "I cannot."}))
    assert row["error"] == {"kind": "refused", "message": "I cannot."}


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content"])
def test_reasoning_is_kept_apart_from_the_text(name: str) -> None:
    row = read(body({"content": "4", name: "2 + 2"}))
    assert (row["text"], row["reasoning"]) == ("4", "2 + 2")


def test_an_empty_text_is_a_text() -> None:
    row = read(body({"content": ""}))
    assert (kind(row), row["text"]) == (None, "")


def test_a_text_that_comes_in_parts_is_joined() -> None:
    parts = [{"type": "thinking", "thinking": []}, {"type": "text", "text": "a"}, {"type": "text", "text": "b"}, None]
    assert read(body({"content": parts}))["text"] == "ab"


@pytest.mark.parametrize(
    "strange",
    [
        {},
        {"choices": None},
        {"choices": []},
        {"choices": [None]},
        {"choices": "text"},
        {"choices": [{}]},
        {"choices": [{"message": None}]},
        {"choices": [{"message": "text"}]},
        body({"content": 5}),
        body({"content": [{"type": "image"}]}),
        body({"refusal": {"a": 1}}, finish=7),
    ],
    ids=str,
)
def test_a_body_without_a_text_is_a_bad_reply_and_no_crash(strange: dict[str, Any]) -> None:
    row = read({"usage": {"prompt_tokens": 7, "completion_tokens": 1}, **strange})
    assert (kind(row), row["text"], row["prompt_tokens"]) == ("bad_reply", None, 7)


STRANGE_PARTS: list[dict[str, Any]] = [
    {"tool_calls": 5},
    {"tool_calls": [5, None]},
    {"tool_calls": [{"id": 7, "function": {"name": None, "arguments": {"a": 1}}}]},
    {"tool_calls": [{"function": 3}]},
]


@pytest.mark.parametrize("message", STRANGE_PARTS, ids=str)
def test_calls_of_tools_in_an_odd_shape_lose_no_reply(message: dict[str, Any]) -> None:
    row = read(body({"content": "Hi", **message}))
    assert (row["text"], row["error"]) == ("Hi", None)


def test_arguments_that_come_as_an_object_are_kept_as_its_json() -> None:
    calls = [{"id": 7, "function": {"name": "f", "arguments": {"a": 1}}}]
    assert read(body({"content": "Hi", "tool_calls": calls}))["tool_calls"] == [
        {"id": "7", "name": "f", "arguments": '{"a":1}'}
    ]


@pytest.mark.parametrize("content", [5, [5], [{"token": 3, "logprob": "x", "top_logprobs": [3]}], [{}]], ids=str)
def test_log_probabilities_in_an_odd_shape_lose_no_reply(content: Any) -> None:
    choice = {"message": {"content": "Hi"}, "finish_reason": "stop", "logprobs": {"content": content}}
    assert read({"choices": [choice]})["text"] == "Hi"


@pytest.mark.parametrize("count", [-5, True, 10**30, 1.5, "3"])
def test_a_count_that_is_none_is_null(count: Any) -> None:
    usage = {"prompt_tokens": count, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": count}}
    row = read(body(usage=usage), prices=(1.0, 1.0))
    assert (row["prompt_tokens"], row["cached_tokens"], row["cost_usd"]) == (None, None, None)


@pytest.mark.parametrize("message", [{"content": None}, {"content": None, "reasoning": "I think."}], ids=str)
def test_a_reply_that_says_nothing_is_kept_as_empty_and_not_asked_for_again(message: dict[str, Any]) -> None:
    row = read(body(message))
    assert kind(row) == "empty"
    assert row["reasoning"] == message.get("reasoning")
    assert "empty" in SETTLED


@pytest.mark.parametrize(
    ("choice", "wanted"),
    [
        ({"finish_reason": "error"}, "server_error"),
        ({"finish_reason": "abort"}, "server_error"),
        ({"finish_reason": "max_tokens"}, "truncated"),
        ({"finish_reason": "STOP"}, None),
        ({"finish_reason": "stop", "error": {"message": "upstream died"}}, "server_error"),
    ],
    ids=str,
)
def test_half_a_reply_is_none(choice: dict[str, Any], wanted: str | None) -> None:
    assert kind(read({"choices": [{"message": {"content": "Hi, I"}, **choice}]})) == wanted


# Frames


def test_replies_become_a_frame_in_the_columns_of_replies() -> None:
    df = frame_of([{"key": "a", "text": "x"}, failed("b", "timeout", "late", retried=True)])
    assert df.schema == REPLIES
    assert df["retried"].to_list() == [False, True]


def test_no_replies_become_an_empty_frame() -> None:
    assert frame_of([]).schema == REPLIES


def test_half_a_surrogate_pair_is_replaced_and_the_rest_of_the_text_kept() -> None:
    df = frame_of([{"key": "a", "text": "x \ud83d"}, failed("b", "refused", "\ude00!"), {"key": "c", "text": "🌍"}])
    assert df["text"].to_list() == ["x \ufffd", None, "🌍"]
    assert df["error"][1]["message"] == "\ufffd!"


# Streams


def keys(frames: Iterator[pl.DataFrame]) -> Iterator[str]:
    return itertools.chain.from_iterable(frame["key"] for frame in frames)


def test_what_is_put_comes_out_in_order_and_the_stream_ends() -> None:
    def work(put: Put, stop: threading.Event) -> None:
        for n in range(100):
            put({"key": str(n)})

    assert list(keys(streamed(work))) == [str(n) for n in range(100)]


def test_a_reply_comes_out_while_the_work_goes_on() -> None:
    go_on = threading.Event()

    def work(put: Put, stop: threading.Event) -> None:
        put({"key": "a"})
        assert go_on.wait(5)
        put({"key": "b"})

    stream = keys(streamed(work))
    assert next(stream) == "a"
    go_on.set()
    assert list(stream) == ["b"]


def test_what_the_work_raises_comes_after_what_it_had_put() -> None:
    def work(put: Put, stop: threading.Event) -> None:
        put({"key": "a"})
        raise EndpointError("dead")

    stream = keys(streamed(work))
    assert next(stream) == "a"
    with pytest.raises(EndpointError, match="dead"):
        next(stream)


def until_stopped(ended: threading.Event, put: Put, stop: threading.Event) -> None:
    """Puts one reply after the other until it is stopped, and then the one that is in flight."""
    for n in itertools.count():
        put({"key": str(n)})
        if stop.wait(0.001):
            break
    put({"key": "last"})
    ended.set()


def test_a_stream_that_nobody_reads_any_more_stops_the_work_and_waits_for_it() -> None:
    ended = threading.Event()
    stream = streamed(lambda put, stop: until_stopped(ended, put, stop))
    next(stream)
    assert not ended.is_set()
    stream.close()  # type: ignore[attr-defined]
    assert ended.is_set()


def test_an_interruption_waits_for_what_is_in_flight_and_is_raised() -> None:
    ended = threading.Event()
    stream = streamed(lambda put, stop: until_stopped(ended, put, stop))
    next(stream)
    with pytest.raises(KeyboardInterrupt):
        stream.throw(KeyboardInterrupt())  # type: ignore[attr-defined]
    assert ended.is_set()


def test_replies_that_come_together_come_in_one_frame() -> None:
    def work(put: Put, stop: threading.Event) -> None:
        for n in range(1000):
            put({"key": str(n)})

    assert len(list(streamed(work))) <= 3


def test_an_interruption_is_told_even_when_what_was_in_flight_fails() -> None:
    def work(put: Put, stop: threading.Event) -> None:
        put({"key": "a"})
        assert stop.wait(5)
        raise EndpointError("dead")

    stream = streamed(work)
    next(stream)
    with pytest.raises(KeyboardInterrupt):
        stream.throw(KeyboardInterrupt())  # type: ignore[attr-defined]


def test_an_interruption_after_the_last_reply_ends_too() -> None:
    def work(put: Put, stop: threading.Event) -> None:
        put({"key": "a"})

    stream = streamed(work)
    next(stream)
    with pytest.raises(KeyboardInterrupt):
        stream.throw(KeyboardInterrupt())  # type: ignore[attr-defined]

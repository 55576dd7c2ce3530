"""The client of OpenAI-compatible endpoints, against a real server on loopback that fails in every known way."""

from __future__ import annotations

import asyncio
import json
import pickle
import socket
import time
from typing import Any

import openai
import polars as pl
import pytest
from servers import ChatServer, Fault, chat_server

from agora_frames.backends.openai_chat import OPENAI_URL, OpenAIChat, body_of, openai_chat
from agora_frames.errors import AuthenticationError, BindError, EndpointError, StorageError, UnknownModelError
from agora_frames.stages.requests import build_requests
from agora_frames.types import Reply

PAUSE_S = 0.002


def backend_of(chat: ChatServer, model: str = "tiny", api_key: str = "secret", **options: Any) -> OpenAIChat:
    return openai_chat(model, **{"base_url": chat.url, "api_key": api_key, "pause_s": PAUSE_S, **options})


def requests(*prompts: str, **sampling: Any) -> pl.DataFrame:
    """One request for each prompt; its row_id is the prompt."""
    df = pl.DataFrame({"row_id": prompts, "prompt": prompts})
    return build_requests(df, column="prompt", sampling=sampling, seed=0, backend=openai_chat("m", base_url="http://x"))


def attempts(backend: OpenAIChat, asked: pl.DataFrame) -> pl.DataFrame:
    """Every attempt that the backend tells of, with the prompt it was for."""
    return pl.concat(backend(asked)).join(asked.select("key", "row_id"), on="key", maintain_order="left")


def final(backend: OpenAIChat, *prompts: str) -> dict[str, Any]:
    """The one reply that the last prompt ends in."""
    told = attempts(backend, requests(*prompts)).filter(~pl.col("retried"), pl.col("row_id") == prompts[-1])
    return told.row(0, named=True) if told.height == 1 else pytest.fail(f"{told.height} final replies")


class Book:
    """A desk that lets everything through, and keeps what is recorded."""

    def __init__(self) -> None:
        self.replies: list[Reply] = []

    def reserve(self, key: str, *, tokens: int | None, cost_usd: float | None) -> bool:
        return True

    def release(self, key: str) -> None:
        pass

    def record(self, reply: Reply) -> None:
        self.replies.append(reply)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# What is sent


def test_a_reply_comes_with_its_tokens_and_its_latency() -> None:
    with chat_server() as chat:
        reply = final(backend_of(chat), "hi")
    assert reply["text"] == "HI"
    assert (reply["finish_reason"], reply["prompt_tokens"], reply["completion_tokens"]) == ("stop", 10, 5)
    assert 0 < reply["latency_s"] < 30


def test_the_cost_is_null_without_prices_and_exact_with_them() -> None:
    with chat_server() as chat:
        assert final(backend_of(chat), "hi")["cost_usd"] is None
        assert final(backend_of(chat, prices=(0.15, 0.60)), "hi")["cost_usd"] == (10 * 0.15 + 5 * 0.60) / 1_000_000


def test_messages_and_parameters_are_sent_as_they_are() -> None:
    sampling = {
        "temperature": 0.5,
        "top_p": 0.9,
        "stop": ["END"],
        "max_tokens": 7,
        "response_format": {"type": "json_object"},
        "top_k": 3,
        "guided_choice": ["a", "b"],
    }
    with chat_server() as chat:
        list(backend_of(chat)(requests("hi", **sampling)))
    (sent,) = chat.bodies
    assert isinstance(sent.pop("seed"), int)
    assert sent == {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], **sampling}


@pytest.mark.parametrize("url", [OPENAI_URL, OPENAI_URL + "/"])
def test_openai_itself_is_sent_the_new_name_of_max_tokens(url: str) -> None:
    body, most = body_of(
        openai_chat("gpt", base_url=url, api_key="k").endpoint, "gpt", "[]", '{"max_tokens":5,"top_k":1}'
    )
    assert json.loads(body) == {"model": "gpt", "messages": [], "max_completion_tokens": 5, "top_k": 1}
    assert most == 5


def test_an_endpoint_of_ones_own_needs_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with chat_server(key="") as chat:
        assert final(backend_of(chat, api_key=""), "hi")["text"] == "HI"


def test_openais_key_in_the_environment_is_sent_to_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "for OpenAI alone")
    assert openai_chat("m").api_key == "for OpenAI alone"
    assert openai_chat("m", base_url="http://127.0.0.1:9/v1").api_key == ""


@pytest.mark.parametrize(
    "options",
    [
        {"prices": 3},
        {"prices": (1,)},
        {"prices": ("a", "b")},
        {"prices": (1, 2, 3, 4)},
        {"prices": (1, float("nan"))},
        {"prices": (1, -2)},
        {"concurrency": "many"},
        {"concurrency": True},
        {"max_concurrency": 0},
        {"rpm": 0},
        {"tpm": "x"},
        {"pause_s": -1},
        {"outage_s": float("inf")},
        {"timeout_s": "x"},
        {"api_key": 12345},
    ],
    ids=str,
)
def test_an_option_of_a_wrong_type_is_refused_before_anything_is_paid_for(options: dict[str, object]) -> None:
    with pytest.raises(BindError):
        openai_chat("m", base_url="http://127.0.0.1:9/v1", **options)  # type: ignore[arg-type]


def test_an_attempt_that_was_turned_away_costs_nothing() -> None:
    with chat_server(lambda prompt, attempt: 429 if attempt == 0 else "ok") as chat:
        refused, answered = attempts(backend_of(chat, prices=(1.0, 2.0)), requests("hi"))["cost_usd"]
    assert refused == 0.0
    assert answered == pytest.approx((10 * 1.0 + 5 * 2.0) / 1e6)


def test_the_key_is_taken_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGORA_API_KEY", "from the environment\n")
    with chat_server(key="from the environment") as chat:
        assert final(backend_of(chat, api_key=None), "hi")["text"] == "HI"  # type: ignore[arg-type]


def test_nothing_is_connected_to_when_nothing_is_asked() -> None:
    backend = openai_chat("m", base_url=f"http://127.0.0.1:{free_port()}/v1")
    assert list(backend(requests())) == []


# Failures of one request

ONCE: list[Fault] = ["reset", "cut", "not json", "no choice", 500, 502, 503, 408, 409, 429, b"", b"[]", {"choices": 5}]


@pytest.mark.parametrize("fault", ONCE, ids=str)
def test_what_passes_is_asked_again_and_the_failed_attempt_is_told(fault: Fault) -> None:
    with chat_server(lambda prompt, attempt: fault if attempt == 0 else "ok") as chat:
        told = attempts(backend_of(chat), requests("hi"))
    assert told["text"].to_list() == [None, "HI"]
    assert told["retried"].to_list() == [True, False]
    assert told["error"].is_null().to_list() == [False, True]
    assert chat.asked["hi"] == 2


LASTING: list[tuple[Fault, str]] = [
    ("reset", "connection"),
    ("cut", "connection"),
    ("not json", "bad_reply"),
    ("no choice", "bad_reply"),
    (b"\xff\xfe", "bad_reply"),
    ({"choices": [{"message": {"content": 5}}]}, "bad_reply"),
    (500, "server_error"),
    (507, "server_error"),
]


@pytest.mark.parametrize(("fault", "kind"), LASTING, ids=str)
def test_what_does_not_pass_ends_as_a_typed_failure_after_6_tries_and_hurts_no_other_row(
    fault: Fault, kind: str
) -> None:
    with chat_server(lambda prompt, attempt: fault if prompt == "bad" else "ok") as chat:
        told = attempts(backend_of(chat), requests("bad", "good"))
    last = told.filter(~pl.col("retried"))
    assert dict(last.select("row_id", pl.col("error").struct.field("kind")).rows()) == {"bad": kind, "good": None}
    assert chat.asked["bad"] == 6
    assert told.filter(pl.col("row_id") == "bad").height == 6


def test_a_request_that_takes_too_long_is_a_timeout() -> None:
    with chat_server(lambda prompt, attempt: "slow", slow_s=0.5) as chat:
        assert final(backend_of(chat, timeout_s=0.05), "hi")["error"]["kind"] == "timeout"


AT_ONCE: list[tuple[Fault, str]] = [
    (400, "bad_request"),
    (413, "bad_request"),
    (422, "bad_request"),
    ("context", "context_too_long"),
    ("too large", "bad_request"),
    ("length", "truncated"),
    ("refusal", "refused"),
    ("filter", "content_filtered"),
]


@pytest.mark.parametrize(("fault", "kind"), AT_ONCE, ids=str)
def test_what_would_come_back_the_same_is_asked_only_once(fault: Fault, kind: str) -> None:
    with chat_server(lambda prompt, attempt: fault) as chat:
        assert final(backend_of(chat), "hi")["error"]["kind"] == kind
        assert chat.asked["hi"] == 1


def test_half_a_surrogate_pair_costs_neither_the_reply_nor_a_second_call() -> None:
    content = json.dumps({"choices": [{"message": {"content": "cut \ud83d"}, "finish_reason": "stop"}]}).encode()
    with chat_server(lambda prompt, attempt: content) as chat:
        assert final(backend_of(chat), "hi")["text"] == "cut \ufffd"
        assert chat.asked["hi"] == 1


# Rate limits


def test_a_rate_limit_is_waited_out_beyond_the_6_tries_of_other_failures() -> None:
    with chat_server(lambda prompt, attempt: 429 if attempt < 9 else "ok", retry_after="0.01") as chat:
        told = attempts(backend_of(chat), requests("hi"))
    assert told["text"].to_list() == [None] * 9 + ["HI"]
    assert set(told["error"].drop_nulls().struct.field("kind")) == {"rate_limited"}


def test_the_endpoint_is_given_the_time_that_it_asks_for() -> None:
    with chat_server(lambda prompt, attempt: 429 if attempt == 0 else "ok", retry_after="0.3") as chat:
        begun = time.monotonic()
        assert final(backend_of(chat), "hi")["text"] == "HI"
    assert time.monotonic() - begun >= 0.3


@pytest.mark.parametrize("says", ["0", "-1", "nan", "inf", "soon", "Wed, 21 Oct 2015 07:28:00 GMT"])
def test_a_time_to_wait_that_says_nothing_gives_way_to_our_own(says: str) -> None:
    with chat_server(lambda prompt, attempt: 429 if attempt == 0 else "ok", retry_after=says) as chat:
        begun = time.monotonic()
        assert final(backend_of(chat, pause_s=0.2), "hi")["text"] == "HI"
    assert time.monotonic() - begun >= 0.1


# Failures of all requests


def test_a_wrong_key_is_an_error_that_says_what_to_do_and_does_not_repeat_the_key() -> None:
    with chat_server() as chat, pytest.raises(AuthenticationError, match="Set a valid key") as caught:
        list(backend_of(chat, api_key="sk-wrong")(requests("hi")))
    assert "Incorrect API key provided: [the API key]" in str(caught.value)
    assert "sk-wrong" not in str(caught.value)


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_stops_the_run(status: int) -> None:
    with chat_server(lambda prompt, attempt: status) as chat, pytest.raises(AuthenticationError, match="run again"):
        list(backend_of(chat, concurrency=1)(requests("a", "b", "c")))
    assert chat.asked.total() == 1


def test_an_unknown_model_is_an_error_that_says_where_the_known_ones_are() -> None:
    with chat_server() as chat, pytest.raises(UnknownModelError, match=r"no model 'tiny2'.*/v1/models lists"):
        list(backend_of(chat, "tiny2")(requests("hi")))


@pytest.mark.parametrize("fault", ["quota", 402])
def test_an_account_without_credit_is_an_error_and_no_endless_wait(fault: Fault) -> None:
    with chat_server(lambda prompt, attempt: fault) as chat, pytest.raises(AuthenticationError, match="add credit"):
        list(backend_of(chat)(requests("hi")))


def test_an_address_where_nobody_listens_is_an_error_that_names_it() -> None:
    url = f"http://127.0.0.1:{free_port()}/v1"
    with pytest.raises(EndpointError, match=f"nobody answers at {url}.*Is the server running"):
        list(openai_chat("m", base_url=url, pause_s=PAUSE_S)(requests("a", "b")))


def test_a_host_that_does_not_exist_is_an_error_that_names_it() -> None:
    url = "http://no-such-host.invalid/v1"
    with pytest.raises(EndpointError, match=f"nobody answers at {url}"):
        list(openai_chat("m", base_url=url, pause_s=PAUSE_S)(requests("a")))


def test_what_was_in_flight_when_the_run_had_to_stop_is_still_told() -> None:
    def plan(prompt: str, attempt: int) -> Fault:
        if prompt == "slow":
            time.sleep(0.3)
        return 401 if prompt == "bad" else "ok"

    told: list[str] = []
    with chat_server(plan) as chat, pytest.raises(AuthenticationError):
        for frame in backend_of(chat, concurrency=2)(requests("slow", "bad", "never")):
            told += frame["text"].to_list()
    assert told == ["SLOW"]
    assert chat.asked["never"] == 0


# Concurrency, loops and interruptions


def test_as_many_requests_as_allowed_are_in_flight_and_never_more() -> None:
    with chat_server(latency_s=0.03) as chat:
        told = attempts(backend_of(chat, concurrency=4), requests(*(f"p{n}" for n in range(32))))
    assert told.height == 32
    assert chat.most_in_flight == 4


def test_replies_arrive_while_others_are_still_being_asked() -> None:
    def plan(prompt: str, attempt: int) -> Fault:
        time.sleep(0.3 if prompt == "late" else 0)
        return "ok"

    with chat_server(plan) as chat:
        frames = [frame["text"].to_list() for frame in backend_of(chat)(requests("late", "early"))]
    assert frames == [["EARLY"], ["LATE"]]


def test_nothing_new_is_asked_before_the_reply_in_its_place_is_recorded() -> None:
    asked: list[int] = []

    class Slow(Book):
        def record(self, reply: Reply) -> None:
            super().record(reply)
            time.sleep(0.02)  # room for workers that do not wait
            asked.append(chat.asked.total() - len(self.replies))

    with chat_server() as chat:
        told = list(backend_of(chat, concurrency=2).answer(requests(*(f"p{n}" for n in range(9))), desk=Slow()))
    assert sum(frame.height for frame in told) == 9
    assert max(asked) < 2


def test_no_more_connections_are_opened_than_requests_may_be_in_flight() -> None:
    with chat_server(latency_s=0.01) as chat:
        attempts(backend_of(chat, concurrency=5), requests(*(f"p{n}" for n in range(60))))
    assert len(chat.server.connections) <= 5 + 2


def test_without_a_number_it_finds_out_how_many_the_endpoint_takes() -> None:
    with chat_server(latency_s=0.02, admits=6) as chat:
        backend = backend_of(chat)
        told = attempts(backend, requests(*(f"p{n}" for n in range(150))))
    assert told.filter(~pl.col("retried"))["text"].null_count() == 0
    assert chat.asked.total() - 150 < 60, "most were refused"
    assert 3 <= backend.status().limit <= 12


def test_rows_are_taken_as_they_are_needed() -> None:
    with chat_server(latency_s=0.02) as chat:
        stream = backend_of(chat, concurrency=2)(requests(*(f"p{n}" for n in range(500))))
        next(stream)
        stream.close()  # type: ignore[attr-defined]
        assert chat.asked.total() < 50


def test_it_works_inside_a_running_event_loop_as_in_a_notebook() -> None:
    async def cell(chat: ChatServer) -> dict[str, Any]:
        return final(backend_of(chat), "hi")

    with chat_server() as chat:
        assert asyncio.run(cell(chat))["text"] == "HI"


def test_after_an_interruption_what_is_in_flight_is_recorded_and_nothing_new_is_asked() -> None:
    book = Book()
    with chat_server(latency_s=0.05) as chat:
        stream = backend_of(chat, concurrency=3).answer(requests(*(f"p{n}" for n in range(60))), desk=book)
        next(stream)
        with pytest.raises(KeyboardInterrupt):
            stream.throw(KeyboardInterrupt())  # type: ignore[attr-defined]
        assert len(book.replies) == chat.asked.total() < 15


def test_after_an_interruption_nothing_that_waits_is_asked_again() -> None:
    with chat_server(lambda prompt, attempt: 429 if prompt == "limited" else "ok") as chat:
        stream = backend_of(chat, pause_s=0.5)(requests("limited", "fine"))
        for frame in stream:
            if "FINE" in frame["text"].to_list():
                break
        with pytest.raises(KeyboardInterrupt):
            stream.throw(KeyboardInterrupt())  # type: ignore[attr-defined]
        assert chat.asked["limited"] == 1


def test_a_ledger_that_cannot_be_written_stops_the_run() -> None:
    class Full(Book):
        def record(self, reply: Reply) -> None:
            raise StorageError("the disk is full")

    with chat_server() as chat, pytest.raises(StorageError, match="disk is full"):
        list(backend_of(chat, concurrency=2).answer(requests(*(f"p{n}" for n in range(50))), desk=Full()))
    assert chat.asked.total() <= 2


# Outages


def test_a_server_that_is_restarted_in_the_midst_of_a_run_costs_no_row() -> None:
    with chat_server(latency_s=0.02) as first:
        port = first.server.server_address[1]
        stream = backend_of(first, concurrency=4, pause_s=0.05)(requests(*(f"p{n}" for n in range(200))))
        texts = next(stream)["text"].to_list()
        first.close()
        time.sleep(0.3)
        with chat_server(port=port):
            frames = [frame.filter(~pl.col("retried")) for frame in stream]
            texts += [text for frame in frames for text in frame["text"]]
    assert sorted(filter(None, texts)) == sorted(f"P{n}" for n in range(200))


def test_an_endpoint_that_does_not_come_back_stops_the_run() -> None:
    with chat_server(latency_s=0.02) as chat:
        stream = backend_of(chat, concurrency=4, outage_s=0.2)(requests(*(f"p{n}" for n in range(200))))
        next(stream)
        chat.close()
        with pytest.raises(EndpointError, match=r"nobody answers at .* run again when it is"):
            list(stream)


def test_an_endpoint_that_answers_nothing_but_errors_stops_the_run_before_every_row_is_burnt() -> None:
    with chat_server(lambda prompt, attempt: 500) as chat:
        with pytest.raises(EndpointError, match=r"nothing but failures come from .*status 500"):
            list(backend_of(chat, pause_s=0.0001)(requests(*(f"p{n}" for n in range(500)))))
        assert len(chat.asked) < 400


# A client of the user's own


def own_client(chat: ChatServer, **options: Any) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=chat.url, **{"api_key": "secret", **options})


def test_an_openai_client_of_ones_own_is_used_as_it_is() -> None:
    with chat_server(lambda prompt, attempt: [429, "reset", "not json", 500, "ok"][min(attempt, 4)]) as chat:
        backend = openai_chat("tiny", client=own_client(chat), pause_s=PAUSE_S, prices=(1, 2))
        told = attempts(backend, requests("hi", temperature=0.5, top_k=3))
    kinds = told["error"].struct.field("kind").to_list()
    assert kinds == ["rate_limited", "connection", "bad_reply", "server_error", None]
    assert told["text"].to_list()[-1] == "HI"
    assert told["cost_usd"].to_list()[-1] == pytest.approx(20 / 1e6)
    assert (chat.bodies[-1]["temperature"], chat.bodies[-1]["top_k"]) == (0.5, 3)
    assert backend.endpoint == chat.url


def test_a_client_of_ones_own_may_be_asked_again_and_again() -> None:
    with chat_server() as chat:
        backend = openai_chat("tiny", client=own_client(chat))
        assert [final(backend, f"p{n}")["text"] for n in range(3)] == ["P0", "P1", "P2"]


def test_a_client_of_ones_own_with_a_wrong_key_stops_the_run() -> None:
    with chat_server() as chat, pytest.raises(AuthenticationError, match="refused the API key"):
        list(openai_chat("tiny", client=own_client(chat, api_key="wrong"))(requests("hi")))


def test_a_client_of_ones_own_brings_its_own_time_out() -> None:
    with chat_server(lambda prompt, attempt: "slow", slow_s=0.5) as chat:
        backend = openai_chat("tiny", client=own_client(chat, timeout=0.05), pause_s=PAUSE_S)
        assert final(backend, "hi")["error"]["kind"] == "timeout"


def test_a_client_of_ones_own_needs_no_other_address_or_key() -> None:
    client = openai.AsyncOpenAI(api_key="k", base_url="http://h/v1")
    with pytest.raises(BindError, match="leave out base_url and api_key"):
        openai_chat("m", client=client, api_key="k")


# What else a reply brings


def test_tool_calls_are_data_and_need_no_text() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    body = {"choices": [{"message": {"content": None, "tool_calls": [call]}, "finish_reason": "tool_calls"}]}
    with chat_server(lambda prompt, attempt: body) as chat:
        reply = final(backend_of(chat), "hi")
    assert reply["tool_calls"] == [{"id": "c1", "name": "add", "arguments": '{"a": 1}'}]
    assert (reply["text"], reply["error"]) == (None, None)


def test_log_probabilities_are_data() -> None:
    token = {"token": "H", "logprob": -0.5, "bytes": [72], "top_logprobs": [{"token": "h", "logprob": -1.5}]}
    body = {"choices": [{"message": {"content": "H"}, "finish_reason": "stop", "logprobs": {"content": [token]}}]}
    with chat_server(lambda prompt, attempt: body) as chat:
        reply = final(backend_of(chat), "hi")
    assert reply["logprobs"] == [{"token": "H", "logprob": -0.5, "top": [{"token": "h", "logprob": -1.5}]}]


def test_cached_tokens_are_counted_and_cost_what_they_cost() -> None:
    usage = {"prompt_tokens": 10, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 8}}
    body = {"choices": [{"message": {"content": "x"}, "finish_reason": "stop"}], "usage": usage, "model": "tiny-1.2"}
    with chat_server(lambda prompt, attempt: body) as chat:
        reply = final(backend_of(chat, prices=(1.0, 2.0, 0.5)), "hi")
    assert (reply["cached_tokens"], reply["served_model"]) == (8, "tiny-1.2")
    assert reply["cost_usd"] == pytest.approx((2 * 1.0 + 8 * 0.5 + 5 * 2.0) / 1e6)
    assert "given" in reply["priced_by"]


# Secrets and addresses


def test_the_key_is_not_in_the_repr() -> None:
    assert "secret" not in repr(openai_chat("m", base_url="http://h/v1", api_key="secret"))


def test_a_key_that_the_endpoint_repeats_is_cut_out_of_the_failure() -> None:
    with chat_server(lambda prompt, attempt: "tells key") as chat:
        message = final(backend_of(chat), "hi")["error"]["message"]
    assert "bad request with Bearer [the API key]" in message
    assert "secret" not in message


@pytest.mark.parametrize("key", ["sk-ключ", "sk-a\nsk-b", "sk\x00"])
def test_a_key_that_no_header_can_carry_is_refused_without_repeating_it(key: str) -> None:
    with pytest.raises(AuthenticationError, match="characters that no header can carry") as caught:
        openai_chat("m", base_url="http://h/v1", api_key=key)
    assert key not in str(caught.value)


@pytest.mark.parametrize("url", [OPENAI_URL, OPENAI_URL + "/"])
def test_openai_without_a_key_is_an_error_that_says_how_to_set_it(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(AuthenticationError, match=r"export OPENAI_API_KEY=…, or pass connect\(…, api_key=…\)"):
        list(openai_chat("gpt-4o-mini", base_url=url)(requests("hi")))


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost:8000/v1",
        "ftp://h/v1",
        "http://",
        "http:///v1",
        "http://h:port/v1",
        "http://h:99999",
        "http://[::",
    ],
)
def test_an_address_that_is_none_is_refused_at_once(url: str) -> None:
    with pytest.raises(BindError, match=r"is no address\. It looks like http://localhost:8000/v1"):
        openai_chat("m", base_url=url)


@pytest.mark.parametrize("url", ["http://me:hunter2@h/v1", "http://hunter2@h/v1", "https://h/v1?api-key=hunter2"])
def test_an_address_with_a_secret_in_it_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(BindError, match="Give the bare address") as caught:
        openai_chat("m", base_url=url)
    assert "hunter2" not in str(caught.value)


def test_a_slash_at_the_end_makes_no_other_endpoint() -> None:
    assert openai_chat("m", base_url="http://h/v1/").endpoint == "http://h/v1"


@pytest.mark.parametrize("concurrency", [0, -1])
def test_no_concurrency_at_all_is_refused(concurrency: int) -> None:
    with pytest.raises(BindError, match="at least 1"):
        openai_chat("m", base_url="http://h/v1", concurrency=concurrency)


def test_it_travels_to_another_process() -> None:
    backend = openai_chat("m", base_url="http://h/v1", api_key="k", concurrency=3)
    assert pickle.loads(pickle.dumps(backend)) == backend

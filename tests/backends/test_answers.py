"""What an answer means, in every status and in every form of body that endpoints are known to send."""

from __future__ import annotations

import json
from typing import Any

import pytest

from agora_frames.backends.answers import TRANSIENT, raise_if_fatal, read_answer, said
from agora_frames.backends.transport import Answer
from agora_frames.errors import AuthenticationError, BackendError, UnknownModelError
from agora_frames.prices import prices_of

PRICES = prices_of("", "", (1.0, 2.0))
TOO_LONG = "This model's maximum context length is 8192 tokens. However, you requested 9000 tokens."
GOOD = {"choices": [{"message": {"content": "Four."}, "finish_reason": "stop"}], "model": "m"}


def answer(status: int, body: object) -> Answer:
    """An answer with that body: bytes as they are, all else as JSON."""
    return Answer(status, {}, body if isinstance(body, bytes) else json.dumps(body).encode())


def read(status: int, body: object, **options: Any) -> dict[str, Any]:
    return read_answer("k", answer(status, body), latency_s=0.5, **{"prices": None, **options})


def kind_of(status: int, body: object) -> str | None:
    reply = read(status, body)
    return reply["error"]["kind"] if "error" in reply else None


def openai(message: str, **fields: object) -> dict[str, Any]:
    return {"error": {"message": message, "type": "x", "param": None, "code": None, **fields}}


# What is said

SAID: list[tuple[object, str]] = [
    (openai("No such thing."), "No such thing."),
    ({"detail": "Not Found"}, "Not Found"),
    (
        {"detail": [{"loc": ["body"], "msg": "field required"}]},
        '{"detail": [{"loc": ["body"], "msg": "field required"}]}',
    ),
    ({"object": "error", "message": "max_tokens is too large", "code": 400}, "max_tokens is too large"),
    ([{"error": {"code": 400, "message": "API key not valid.", "status": "INVALID_ARGUMENT"}}], "API key not valid."),
    ({"error": "model is loading"}, "model is loading"),
    ({"error": {"message": {"deep": 1}}}, '{"error": {"message": {"deep": 1}}}'),
    ({"error": None}, '{"error": null}'),
    ({"error": ["a"]}, '{"error": ["a"]}'),
    ({"message": "Internal server error"}, "Internal server error"),
    ({}, "{}"),
    ([], "[]"),
    (["a"], '["a"]'),
    (5, "5"),
    (None, "null"),
    (b"upstream connect error", "upstream connect error"),
    (b"<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n</html>", "502 Bad Gateway</title></head> </html>"),
    (b"", "an empty body"),
    (b" \r\n\t ", "an empty body"),
    (b'{"error": {"mess', '{"error": {"mess'),
    (b"\xff\xfe", "\ufffd\ufffd"),
    (openai("two\n  lines"), "two lines"),
    (openai(""), '{"error": {"message": "", "type": "x"'),
    (b'{"error": {"message": "half \\ud83d"}}', "half \ufffd"),
]


@pytest.mark.parametrize(("body", "text"), SAID, ids=lambda value: repr(value)[:40])
def test_what_an_endpoint_says_is_told_in_one_line(body: object, text: str) -> None:
    told = said(answer(503, body))
    assert told.startswith("503: ")
    assert text in told
    assert "\n" not in told


@pytest.mark.parametrize("body", [b"x" * 100_000, openai("y" * 100_000)], ids=["text", "JSON"])
def test_what_an_endpoint_says_at_length_is_cut(body: object) -> None:
    assert len(said(answer(500, body))) == len("500: ") + 500


# Kinds

STATUSES = [
    *((status, "bad_request") for status in (400, 405, 406, 411, 413, 415, 418, 422, 451)),
    *((status, "server_error") for status in (408, 409, 500, 501, 502, 503, 504, 520, 524, 529, 599)),
    (429, "rate_limited"),
]
BODIES: list[object] = [openai("x"), {"detail": "x"}, [openai("x")], b"plain", b"<html></html>", b"", {}, [], 7, None]


@pytest.mark.parametrize("body", BODIES, ids=lambda body: repr(body)[:25])
@pytest.mark.parametrize(("status", "kind"), STATUSES)
def test_the_status_is_the_kind_whatever_the_body(status: int, kind: str, body: object) -> None:
    reply = read(status, body)
    assert reply["error"]["kind"] == kind
    assert (reply["key"], reply["latency_s"], "text" in reply) == ("k", 0.5, False)


@pytest.mark.parametrize("status", [201, 204, 301, 302, 304])
def test_what_is_neither_a_reply_nor_an_error_is_no_reply(status: int) -> None:
    assert kind_of(status, b"") == "bad_request"


@pytest.mark.parametrize(
    "body",
    [
        openai(TOO_LONG),
        openai("x", code="context_length_exceeded"),
        {"object": "error", "message": TOO_LONG, "code": 400},
        {"detail": TOO_LONG},
        [{"error": {"code": 400, "message": TOO_LONG.upper()}}],
        TOO_LONG.encode(),
    ],
    ids=lambda body: repr(body)[:40],
)
def test_a_prompt_that_is_too_long_is_told_as_such(body: object) -> None:
    assert kind_of(400, body) == "context_too_long"


def test_a_request_above_the_limit_of_a_minute_is_no_rate_limit_that_could_be_waited_out() -> None:
    assert (
        kind_of(429, openai("Request too large for gpt on tokens per min (TPM): Limit 10, Requested 20."))
        == "bad_request"
    )


NO_COMPLETIONS: list[object] = [
    *(b"", b"[]", b"null", b"5", b'"text"', b"OK", b"<html></html>", b'{"choices": [', b"\xff", {}, {"choices": []}),
    *({"choices": None}, {"choices": 5}, {"choices": ["a"]}, {"choices": [{}]}, {"choices": [{"message": None}]}),
    *(
        {"choices": [{"message": {"content": 5}}]},
        {"choices": [{"delta": {"content": "x"}}]},
        openai("x"),
        {"error": "x"},
    ),
]


@pytest.mark.parametrize("body", NO_COMPLETIONS, ids=lambda body: repr(body)[:40])
def test_a_body_that_is_no_completion_is_a_bad_reply(body: object) -> None:
    assert kind_of(200, body) == "bad_reply"


def test_an_error_in_the_body_of_a_good_status_is_repeated() -> None:
    assert read(200, openai("Provider returned error"))["error"]["message"] == "200: Provider returned error"


@pytest.mark.parametrize("more", [{}, {"error": None}, {"error": {"message": "a warning"}}], ids=str)
def test_a_completion_is_a_reply_whatever_stands_beside_it(more: dict[str, Any]) -> None:
    reply = read(200, {**GOOD, **more})
    assert (reply["text"], reply["served_model"], "error" in reply) == ("Four.", "m", False)


def test_half_a_surrogate_pair_costs_no_reply() -> None:
    body = json.dumps({"choices": [{"message": {"content": "x\ud83d"}, "finish_reason": "stop"}]}).encode()
    assert read(200, body)["text"] == "x\ufffd"


def test_only_what_another_try_may_mend_is_transient() -> None:
    assert sorted(TRANSIENT) == ["bad_reply", "connection", "server_error", "timeout"]


# Cost


@pytest.mark.parametrize("status", [400, 413, 422, 429])
def test_what_was_turned_away_at_the_door_costs_nothing(status: int) -> None:
    reply = read(status, openai("no"), prices=PRICES)
    assert (reply["cost_usd"], reply["priced_by"]) == (0.0, "given (1.0, 2.0)")


@pytest.mark.parametrize(("status", "body"), [(500, openai("x")), (408, b""), (200, b"no JSON"), (200, openai("x"))])
def test_the_cost_of_what_broke_later_is_unknown(status: int, body: object) -> None:
    assert read(status, body, prices=PRICES).get("cost_usd") is None


def test_without_prices_no_cost_is_known() -> None:
    assert "cost_usd" not in read(400, openai("no"))


# What concerns all requests


def fatal(status: int, body: object) -> BackendError | None:
    given = answer(status, body)
    try:
        raise_if_fatal(given, endpoint="http://h/v1", model="m", variable="SOME_KEY", hidden="")
    except BackendError as exc:
        return exc
    return None


@pytest.mark.parametrize("body", BODIES, ids=lambda body: repr(body)[:25])
@pytest.mark.parametrize(
    ("status", "error", "remedy"),
    [
        (401, AuthenticationError, "Set a valid key, export SOME_KEY=…, and run again"),
        (403, AuthenticationError, "Set a valid key, export SOME_KEY=…, and run again"),
        (402, AuthenticationError, "add credit and run again"),
        (404, UnknownModelError, "http://h/v1/models lists what there is"),
    ],
)
def test_a_fatal_status_stops_the_run_with_a_remedy_whatever_the_body(
    status: int, error: type[BackendError], remedy: str, body: object
) -> None:
    exc = fatal(status, body)
    assert type(exc) is error
    assert remedy in str(exc)
    assert "http://h/v1" in str(exc)
    assert f"{status}: " in str(exc)


@pytest.mark.parametrize(
    "body", [openai("no credit", code="insufficient_quota"), [openai("x", code="insufficient_quota")]]
)
def test_a_quota_that_is_used_up_is_no_rate_limit(body: object) -> None:
    exc = fatal(429, body)
    assert isinstance(exc, AuthenticationError)
    assert "quota is used up" in str(exc)


@pytest.mark.parametrize("body", BODIES, ids=lambda body: repr(body)[:25])
@pytest.mark.parametrize("status", [200, 400, 408, 409, 413, 422, 429, 500, 502, 503])
def test_what_concerns_one_request_stops_no_run(status: int, body: object) -> None:
    assert fatal(status, body) is None


def test_the_error_tells_what_it_was_given_to_tell_and_so_no_key_of_the_body() -> None:
    leaking = answer(401, openai("Incorrect API key provided: sk-secret"))
    with pytest.raises(AuthenticationError) as caught:
        raise_if_fatal(leaking, endpoint="http://h/v1", model="m", variable="K", hidden="sk-secret")
    assert "sk-secret" not in str(caught.value)
    assert "[the API key]" in str(caught.value)


# Content that was turned away


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, {"message": "filtered", "code": "content_filter"}),
        (400, {"message": "filtered", "innererror": {"code": "ResponsibleAIPolicyViolation"}}),
        (403, {"message": "Your input was flagged", "metadata": {"reasons": ["violence"]}}),
    ],
    ids=["azure", "azure, within", "openrouter"],
)
def test_a_filtered_request_is_its_own_outcome_and_stops_no_run(status: int, error: dict[str, Any]) -> None:
    given = answer(status, {"error": error})
    assert read_answer("k", given, latency_s=1.0, prices=None)["error"]["kind"] == "content_filtered"
    raise_if_fatal(given, endpoint="http://h/v1", model="m", variable="K", hidden="")


def test_a_key_at_the_end_of_a_long_message_is_cut_out_before_the_message_is_cut() -> None:
    told = said(answer(400, {"error": {"message": "x" * 485 + " sk-secret-key"}}), "sk-secret-key")
    assert "sk-" not in told


def test_a_body_of_endless_brackets_is_a_bad_reply() -> None:
    given = answer(200, b"[" * 200_000)
    assert read_answer("k", given, latency_s=1.0, prices=None)["error"]["kind"] == "bad_reply"

"""What an endpoint's answer means: a reply, a failure of one request, or a reason to stop asking."""

from __future__ import annotations

import json
from typing import Any

import orjson

from agora_frames.backends.chat import failed, read_completion
from agora_frames.backends.transport import Answer
from agora_frames.errors import AuthenticationError, UnknownModelError
from agora_frames.frames import paired
from agora_frames.prices import Prices

__all__ = ["TRANSIENT", "raise_if_fatal", "read_answer", "said"]

# Kinds of failures that another try may mend; a rate limit is no failure, it is waited out.
TRANSIENT = frozenset({"timeout", "connection", "server_error", "bad_reply"})
_LONGEST_SAID = 500
_FILTERS = {"content_filter", "content_policy_violation", "ResponsibleAIPolicyViolation"}


def read_answer(
    key: str, answer: Answer, *, latency_s: float | None, prices: Prices | None, hidden: str = ""
) -> dict[str, Any]:
    """The reply that an answer holds, or the kind of failure that it is.

    hidden: the API key, which an endpoint may repeat: it is cut out of what it says.
    What was turned away at the door costs nothing, where prices are known; of what broke later nobody knows.
    """
    if answer.status == 200:
        body = _body(answer.content)
        if isinstance(body, dict) and not ("error" in body and "choices" not in body):
            return read_completion(key, body, latency_s=latency_s, prices=prices)
        what = said(answer, hidden) if isinstance(body, dict) else "the body is no chat completion"
        return failed(key, "bad_reply", what, latency_s=latency_s)
    kind = _kind(answer)
    free = {"cost_usd": 0.0, "priced_by": prices.source} if prices and kind != "server_error" else {}
    return failed(key, kind, said(answer, hidden), latency_s=latency_s, **free)


def _body(content: bytes) -> Any:
    """The JSON value of a body; None where it is none."""
    try:
        return orjson.loads(content)
    except ValueError:
        pass
    try:
        return paired(json.loads(content))  # orjson refuses half a surrogate pair, and with it a whole reply
    except (ValueError, RecursionError):
        return None


def _kind(answer: Answer) -> str:
    if _is_filtered(answer):
        return "content_filtered"
    # One request above the whole limit of a minute will never be let in.
    if answer.status == 429 and "request too large" not in said(answer).lower():
        return "rate_limited"
    if answer.status >= 500 or answer.status in (408, 409):
        return "server_error"
    text = f"{_error(answer).get('code')} {said(answer)}".lower()
    return "context_too_long" if "context_length" in text or "context length" in text else "bad_request"


def _is_filtered(answer: Answer) -> bool:
    """Whether it was the content of this one request that was turned away: Azure says 400, OpenRouter 403."""
    error = _error(answer)
    inner, metadata = error.get("innererror"), error.get("metadata")
    codes = [error.get("code"), inner.get("code") if isinstance(inner, dict) else None]
    return answer.status in (400, 403) and (
        any(isinstance(code, str) and code in _FILTERS for code in codes)
        or (isinstance(metadata, dict) and bool(metadata.keys() & {"reasons", "flagged_input"}))
    )


def said(answer: Answer, hidden: str = "") -> str:
    """What the endpoint says about an error, in one line, without the key that is to be hidden."""
    error = _error(answer)
    text = error.get("message") or error.get("detail") or error.get("error")
    if not isinstance(text, str):
        text = answer.content[: 100 * _LONGEST_SAID].decode("utf-8", "replace")
    text = " ".join((text.replace(hidden, "[the API key]") if hidden else text).split())
    return f"{answer.status}: {text[:_LONGEST_SAID] or 'an empty body'}"


def _error(answer: Answer) -> dict[str, Any]:
    body = _body(answer.content)
    if isinstance(body, list) and body:  # as Google's endpoint sends it
        body = body[0]
    inner = body.get("error", body) if isinstance(body, dict) else {}
    return inner if isinstance(inner, dict) else {"error": inner}


def raise_if_fatal(answer: Answer, *, endpoint: str, model: str, variable: str, hidden: str) -> None:
    """Raises what concerns all requests: a refused key, an unknown model, an account without credit.

    variable: the environment variable of the key. hidden: the key itself.
    """
    told = said(answer, hidden)
    if answer.status in (401, 403) and not _is_filtered(answer):
        raise AuthenticationError(
            f"{endpoint} refused the API key ({told}). Nothing that was answered is lost. "
            f"Set a valid key, export {variable}=…, and run again."
        )
    if answer.status == 404:
        raise UnknownModelError(
            f"{endpoint} has no model {model!r} ({told}). Check the name and the base URL; "
            f"{endpoint}/models lists what there is."
        )
    if answer.status == 402 or (answer.status == 429 and _error(answer).get("code") == "insufficient_quota"):
        raise AuthenticationError(
            f"{endpoint} says that the account's quota is used up ({told}). "
            "Nothing that was answered is lost: add credit and run again."
        )

"""What a request says in OpenAI's words, in vLLM's: sampling, constraints, and how the chat is rendered."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from agora_frames.errors import BindError, did_you_mean, listed

__all__ = ["PARAMETERS", "Asked", "asked_of", "split_reasoning"]

# Of vLLM's SamplingParams, by the names that its server knows them by too.
_SAMPLING = (
    *("temperature", "top_p", "top_k", "min_p", "seed", "stop", "stop_token_ids", "max_tokens", "min_tokens"),
    *("repetition_penalty", "presence_penalty", "frequency_penalty", "logit_bias", "bad_words", "allowed_token_ids"),
    *("ignore_eos", "skip_special_tokens", "spaces_between_special_tokens", "include_stop_str_in_output"),
    *("prompt_logprobs", "thinking_token_budget"),
)
# Of `LLM.chat`: how the messages become a prompt.
_CHAT = ("add_generation_prompt", "continue_final_message", "chat_template_kwargs")
_FURTHER = ("logprobs", "top_logprobs", "max_completion_tokens", "response_format", "structured_outputs")
PARAMETERS = (*_SAMPLING, *_CHAT, *_FURTHER)
_CONSTRAINTS = ("json", "regex", "choice", "grammar", "json_object", "structural_tag", "whitespace_pattern")
_BEGIN, _END = "<think>", "</think>"


class Asked(NamedTuple):
    """One request in vLLM's words: arguments of SamplingParams, of StructuredOutputsParams if any, and of LLM.chat."""

    sampling: dict[str, Any]
    constraint: dict[str, Any] | None
    chat: dict[str, Any]


def asked_of(settings: Mapping[str, Any]) -> Asked:
    """What `frames.REQUESTS.sampling` asks for.

    Without max_tokens a reply may fill the rest of the context, as it may at vLLM's server.
    Raises: BindError for a parameter that the engine does not know, or a form that it cannot keep to.

    >>> asked_of({"max_tokens": 5, "logprobs": True, "top_logprobs": 2, "structured_outputs": {"choice": ["a", "b"]}})
    Asked(sampling={'max_tokens': 5, 'logprobs': 2}, constraint={'choice': ['a', 'b']}, chat={})
    """
    for name in settings:
        if name not in PARAMETERS:
            raise BindError(
                f"the vLLM engine has no parameter {name!r}{did_you_mean(name, PARAMETERS) or '.'} "
                f"It has: {listed(PARAMETERS, most=99)}."
            )
    sampling = {name: settings[name] for name in _SAMPLING if name in settings}
    if "max_completion_tokens" in settings:
        sampling["max_tokens"] = settings["max_completion_tokens"]
    sampling.setdefault("max_tokens", None)
    if settings.get("logprobs"):
        sampling["logprobs"] = settings.get("top_logprobs") or 0
    return Asked(sampling, _constraint(settings), {name: settings[name] for name in _CHAT if name in settings})


def _constraint(settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """The form that a reply must have, from `response_format` or `structured_outputs`."""
    wanted, given = settings.get("response_format"), settings.get("structured_outputs")
    kind = wanted.get("type") if isinstance(wanted, Mapping) else None
    if wanted is not None and kind not in ("text", "json_object", "json_schema"):
        raise BindError(
            f"response_format={wanted!r}: its type is 'json_schema', 'json_object' or 'text'; for a regular "
            "expression or a choice give extra={'structured_outputs': {'regex': '…'}} or {'choice': [...]}."
        )
    if given is None and kind in (None, "text"):
        return None
    if given is not None and kind not in (None, "text"):
        raise BindError("response_format and structured_outputs are both given: a reply has one form.")
    if kind == "json_object":
        return {"json_object": True}
    if wanted is not None and kind == "json_schema":
        named = wanted.get("json_schema")
        if not isinstance(named, Mapping) or not isinstance(named.get("schema"), Mapping):
            raise BindError(
                f"response_format={wanted!r} lacks its schema: write {{'type': 'json_schema', 'json_schema': "
                "{'name': '…', 'schema': {…}}}."
            )
        return {"json": named["schema"]}
    if not isinstance(given, Mapping) or not given or not set(given) <= set(_CONSTRAINTS):
        raise BindError(f"structured_outputs={given!r}: give one of {listed(_CONSTRAINTS)}.")
    return dict(given)


def split_reasoning(text: str, *, thinking: bool) -> tuple[str | None, str | None]:
    """The thoughts of a model that writes `<think>…</think>`, and what it says after them; None for what is not there.

    thinking: the prompt ended with an open `<think>`, as some chat templates have it.

    >>> split_reasoning("<think>Two and two.</think>Four.", thinking=False)
    ('Two and two.', 'Four.')
    >>> split_reasoning("<think>Two and", thinking=False)
    ('Two and', None)
    """
    begun = text.lstrip().startswith(_BEGIN)
    if not (begun or thinking):
        return None, text
    thoughts, end, said = text.partition(_END)
    if begun:
        thoughts = thoughts.partition(_BEGIN)[2]
    return thoughts.strip("\n") or None, said.lstrip("\n") if end else None

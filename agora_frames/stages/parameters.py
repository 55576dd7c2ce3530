"""What is sent beside the messages, checked before anything is asked."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
import polars as pl

from agora_frames.errors import BindError, listed
from agora_frames.types import ABILITIES, Backend

__all__ = ["check_abilities", "parameters"]

_OURS = ("messages", "model", "n", "seed", "stream")
# What vLLM calls a form that is no JSON schema, now and before; others drop what they do not know, without a word.
_CONSTRAINTS = ("structured_outputs", "guided_json", "guided_regex", "guided_choice", "guided_grammar")


def parameters(named: Mapping[str, Any], extra: Mapping[str, Any] | None) -> dict[str, Any]:
    """The parameters of a call that were given, in the form in which they are sent.

    named: those of `generate_column`, None where they were not given. extra: any others that the endpoint knows.
    Raises: BindError for a wrong type or value, for what cannot be sent as JSON, and for one that is given twice.
    """
    extra = {} if extra is None else extra
    _must("extra", extra, isinstance(extra, Mapping), "a dict of further parameters")
    given = {name: value for name, value in named.items() if value is not None}
    for name, value in given.items():
        _must(name, value, *_CHECKS[name](value))
    if clash := [name for name in extra if name in _OURS]:
        raise BindError(f"generate_column(extra=…) may not hold {listed(clash)}: the stage sets these itself.")
    if clash := [name for name in extra if name in named]:
        raise BindError(f"generate_column(extra=…) holds {listed(clash)}: give it by its own name.")
    for name in given.keys() & {"temperature", "top_p"}:
        given[name] = float(given[name])
    if "stop" in given:
        given["stop"] = [given["stop"]] if isinstance(given["stop"], str) else list(given["stop"])
    if (top := given.pop("logprobs", None)) is not None:
        given |= {"logprobs": True, "top_logprobs": top}
    given |= extra
    try:
        json.dumps(given, allow_nan=False)  # the other one makes null of what is no number
        orjson.dumps(given)  # and this one would take keys that are no texts
    except (TypeError, ValueError) as exc:
        raise BindError(f"generate_column() cannot send {given!r} as JSON: {exc}.") from exc
    return given


def check_abilities(backend: Backend, sampling: Mapping[str, Any], prompts: pl.Series, images: str | None) -> None:
    """Raises BindError where a request would want what the backend says that it cannot do; see `types.ABILITIES`."""
    can = getattr(backend, "can", None)
    if can is None:
        return
    asked = {
        "constraints": any(name in sampling for name in _CONSTRAINTS),
        "images": images is not None or _shown(prompts),
        "json_object": _format(sampling) == "json_object",
        "json_schema": _format(sampling) == "json_schema",
        "logprobs": "logprobs" in sampling,
        "prompt_logprobs": sampling.get("prompt_logprobs") is not None,
        "tools": "tools" in sampling,
    }
    if lacking := [ABILITIES[name] for name, wanted in asked.items() if wanted and name not in can]:
        does = "; ".join(ABILITIES[name] for name in sorted(can)) or "none of what can be asked for beside a text"
        raise BindError(
            f"{backend!r} cannot do this: {'; '.join(lacking)}. Nothing was asked. Leave it out, or ask another model. "
            f"What it can do: {does}."
        )


def _shown(prompts: pl.Series) -> bool:
    """Whether a turn of a chat shows an image."""
    if not isinstance(prompts.dtype, pl.List) or not isinstance(turn := prompts.dtype.inner, pl.Struct):
        return False
    if not any(field.name == "images" and field.dtype != pl.Null for field in turn.fields):
        return False
    images = prompts.explode().struct.field("images")
    return bool((images.list.len() > 0).any())


def _format(sampling: Mapping[str, Any]) -> object:
    return sampling.get("response_format", {}).get("type")


def _must(name: str, value: object, is_right: bool, wanted: str) -> None:
    if not is_right:
        raise BindError(f"generate_column({name}={value!r}): it must be {wanted}.")


def _number(value: Any, least: float, most: float) -> bool:
    is_one = isinstance(value, int | float) and not isinstance(value, bool)
    return is_one and math.isfinite(value) and least <= value <= most


def _whole(value: Any, least: int, most: float) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _several(value: Any, kind: type | tuple[type, ...]) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str) and all(isinstance(each, kind) for each in value)


_CHECKS: dict[str, Any] = {
    "temperature": lambda v: (_number(v, 0, 2), "a number from 0 to 2"),
    "top_p": lambda v: (_number(v, 0, 1), "a number from 0 to 1"),
    "max_tokens": lambda v: (_whole(v, 1, math.inf), "a whole number, at least 1"),
    "stop": lambda v: (isinstance(v, str) or _several(v, str), "a text, or a list of texts"),
    "response_format": lambda v: (isinstance(v, Mapping), "a dict, such as {'type': 'json_object'}"),
    "tools": lambda v: (_several(v, Mapping), "a list of dicts"),
    "logprobs": lambda v: (_whole(v, 0, 20), "a whole number from 0 to 20"),
}

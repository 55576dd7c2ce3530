"""Where models live. `connect` gives the backend for a name, remembered in a ledger."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl

from agora_frames.backends.discovery import only_model
from agora_frames.backends.llama_cpp import PACKAGED, llama_cpp
from agora_frames.backends.openai_batch import openai_batch
from agora_frames.backends.openai_chat import OpenAIChat, openai_chat
from agora_frames.backends.scripted import named, scripted
from agora_frames.backends.vllm_engine import vllm_engine
from agora_frames.errors import BindError, UnknownModelError, did_you_mean, listed
from agora_frames.frames import require
from agora_frames.io import read_frame
from agora_frames.ledger import Ledger
from agora_frames.remembered import Remembered, remembered
from agora_frames.types import Backend

__all__ = ["connect", "llama_cpp", "openai_batch", "openai_chat", "scripted", "vllm_engine"]

_FORMS = {
    "vllm": "vllm:FOLDER or vllm:ORG/NAME in the hub's cache, in a process of its own",
    "llama": f"llama:NAME or llama:PATH.gguf, in this process ({listed(PACKAGED)})",
    "openai": "openai:MODEL, with OPENAI_API_KEY",
    "openai-batch": "openai-batch:MODEL, the same for half the price, within a day",
    "http": "http://HOST:PORT/v1 (model='…' if it has several), any OpenAI-compatible server (vLLM's, llama.cpp's, …)",
    "https": "https://HOST/v1, the same with TLS",
    "scripted": "scripted:MODULE:FUNCTION or scripted:TABLE.jsonl (columns prompt, reply), a fake",
}

_NO_SCRIPT = (
    "scripted:{} names neither a table (a file with the columns prompt and reply) nor a function "
    "(scripted:MODULE:FUNCTION): {}"
)


def connect(
    url: str = "",
    *,
    ledger: str | Path | Ledger = ".agora/ledger",
    offline: bool = False,
    max_cost: float | None = None,
    max_tokens_total: int | None = None,
    **options: Any,
) -> Remembered:
    """The backend for a model's name, durable by default: what it once answered is never asked again.

    url: `llama:smollm2-135m`, `llama:/path/to/any.gguf`, `vllm:/path/to/model`, `openai:gpt-4o-mini`,
    `openai-batch:gpt-4o-mini`, `http://host:8000/v1` (which is asked for its model's name unless `model=` gives it),
    `scripted:module:function`; none for an `openai.AsyncOpenAI` of your own: connect(client=…, model=…).
    ledger: the folder or address where every reply is recorded. offline: ask nothing; what the ledger lacks is listed.
    max_cost: US dollars, and max_tokens_total: of prompts and replies; what could exceed them is not asked (see
    `remembered`). options: those of the backend: see `llama_cpp`, `vllm_engine`, `openai_chat`, `openai_batch`,
    `scripted`.
    Raises: UnknownModelError for a name of no backend; BindError for an option that the backend does not have;
    MissingExtraError and AuthenticationError when something must first be installed or set.

    >>> import agora_frames as af
    >>> af.connect("http://127.0.0.1:8000/v1", model="tiny")
    remembered(openai_chat('tiny', endpoint='http://127.0.0.1:8000/v1'), ledger='.agora/ledger')
    """
    opened = ledger if isinstance(ledger, Ledger) else Ledger(ledger)
    if not url and "client" in options and "model" in options:
        url = f"openai:{options.pop('model')}"
    backend = _backend(url, options, offline)
    return remembered(backend, ledger=opened, offline=offline, max_cost=max_cost, max_tokens_total=max_tokens_total)


def _backend(url: str, options: dict[str, Any], offline: bool) -> Backend:
    kind, _, name = url.partition(":")
    if kind not in _FORMS or not name:
        forms = "\n".join(f"    {form}" for form in _FORMS.values())
        raise UnknownModelError(f"{url!r} names no model{did_you_mean(kind, _FORMS) or '.'} What there is:\n{forms}")
    if kind in ("http", "https"):
        model = options.pop("model", None) or _discovered(url, options, offline)
        return _made(openai_chat, model, {"base_url": url, **options})
    if kind == "scripted":
        script = _script(name)
        return _made(scripted, script, {"model": named(name, script), **options})
    makers: dict[str, Callable[..., Backend]] = {
        "llama": llama_cpp,
        "openai": openai_chat,
        "openai-batch": openai_batch,
        "vllm": vllm_engine,
    }
    return _made(makers[kind], name, options)


def _made(make: Callable[..., Backend], what: Any, options: dict[str, Any]) -> Backend:
    _, *possible = inspect.signature(make).parameters
    for name in options:
        if name not in possible:
            raise BindError(
                f"{make.__name__} has no option {name!r}{did_you_mean(name, possible) or '.'} "
                f"It has: {listed(possible)}."
            )
    return make(what, **options)


def _discovered(url: str, options: dict[str, Any], offline: bool) -> str:
    """The name of the one model at that address, which is asked for it."""
    if offline:
        raise UnknownModelError(f"{url} may not be asked for the model's name, offline: connect({url!r}, model='…').")
    # Any name does to check the address and the key.
    asked = _made(openai_chat, "?", {"base_url": url, **options})
    assert isinstance(asked, OpenAIChat)
    return only_model(asked.endpoint, api_key=asked.api_key)


def _script(name: str) -> Any:
    if name.endswith((".jsonl", ".json", ".parquet", ".csv")):
        table = read_frame(name)
        require(table, "prompt", "reply", stage=f"connect('scripted:{name}')", dtype=pl.String())
        return dict(table.select("prompt", "reply").iter_rows())
    module, _, function = name.partition(":")
    try:
        script = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as exc:
        raise UnknownModelError(_NO_SCRIPT.format(name, exc)) from exc
    if not callable(script):
        raise UnknownModelError(_NO_SCRIPT.format(name, f"it is a {type(script).__name__}"))
    return script

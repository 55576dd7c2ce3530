"""vLLM in a process of this program's own: each reply is recorded the moment it is finished."""

from __future__ import annotations

import json
import logging
import queue
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import polars as pl

from agora_frames.backends.chat import FREE, NO_DESK, Put, Stop, failed, over_budget, read_completion, streamed
from agora_frames.backends.vllm_process import Died, Engine, Mail
from agora_frames.backends.vllm_requests import asked_of
from agora_frames.backends.vllm_weights import digest_of, folder_of
from agora_frames.budget import most_completion, most_tokens
from agora_frames.errors import BackendError, BindError, listed
from agora_frames.prices import Prices
from agora_frames.types import Desk

__all__ = ["VllmEngine", "vllm_engine"]

_log = logging.getLogger(__name__)

_CAN = ("constraints", "json_object", "json_schema", "logprobs", "prompt_logprobs")
# Arguments of the engine that decide what is answered, not only how fast.
_ANSWERING = (
    *("max_model_len", "dtype", "quantization", "kv_cache_dtype", "hf_overrides", "rope_scaling", "tokenizer"),
    *("chat_template", "reasoning_parser", "generation_config", "override_generation_config"),
    *("trust_remote_code", "structured_outputs_config"),
)
# Those that come from other options; and a secret, which nothing here needs, as nothing is downloaded.
_OURS = ("model", "served_model_name", "enable_lora", "max_lora_rank", "hf_token")
# The ranks of adapters that vLLM can make room for.
_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
_LOOKS_UP_EVERY_S = 0.05
_REMEDY = "out of memory? a smaller max_model_len or in_flight takes less"
# Characters of a process's last words that go into the error of a row.
_SAID = 300
_ROWS_AT_ONCE = 500


@dataclass(frozen=True, eq=False, repr=False)
class VllmEngine:
    """A backend that runs a model by vLLM; made by `vllm_engine`. The process begins at the first request."""

    model: str
    endpoint: str
    folder: Path
    adapter: Path | None
    engine_args: Mapping[str, Any]
    environment: Mapping[str, str]
    in_flight: int | None
    by_prefix: bool
    restarts: int
    can: frozenset[str]
    prices: Prices | None = FREE
    engine: Engine = field(init=False)

    def __post_init__(self) -> None:
        config = {"engine": {"model": str(self.folder), **self.engine_args}, "model": self.model}
        if self.adapter is not None:
            config["adapter"] = str(self.adapter)
        object.__setattr__(self, "engine", Engine(config, self.environment))

    def __call__(self, requests: pl.DataFrame, /) -> Iterator[pl.DataFrame]:
        return self.answer(requests, desk=NO_DESK)

    def answer(self, requests: pl.DataFrame, *, desk: Desk) -> Iterator[pl.DataFrame]:
        """See `types.DeskBackend`."""
        if requests.is_empty():
            return
        asked_of(orjson.loads(requests["sampling"][0]))  # what the engine does not know, it knows of no row
        rows = _rows(requests, by_prefix=self.by_prefix)

        def work(put: Put, stop: Stop) -> None:
            _Call(self, rows, desk, put, stop).run()

        yield from streamed(work)

    def close(self) -> None:
        """Ends the process and frees its memory; without it, that happens when nobody holds the backend any more."""
        self.engine.close()

    def __repr__(self) -> str:
        told = {"adapter": self.adapter and self.adapter.name, **self.engine_args}
        return f"vllm_engine({self.folder.name!r}{''.join(f', {n}={v!r}' for n, v in told.items() if v is not None)})"

    def __reduce__(self) -> tuple[Any, ...]:
        made = (self.model, self.endpoint, self.folder, self.adapter, self.engine_args, self.environment)
        return VllmEngine, (*made, self.in_flight, self.by_prefix, self.restarts, self.can)


def vllm_engine(
    name: str | Path,
    *,
    max_model_len: int | None = None,
    dtype: str | None = None,
    tensor_parallel_size: int | None = None,
    gpu_memory_utilization: float | None = None,
    kv_cache_memory_bytes: int | None = None,
    revision: str | None = None,
    adapter: str | Path | None = None,
    reasoning_parser: str | None = None,
    n_threads: int | None = None,
    in_flight: int | None = None,
    by_prefix: bool = True,
    restarts: int = 3,
    engine_args: Mapping[str, Any] | None = None,
) -> VllmEngine:
    """A backend for a model in the form of transformers: a folder, or one that the hub's cache holds (`revision`).

    max_model_len: tokens of prompt and reply together. dtype, tensor_parallel_size (GPUs), gpu_memory_utilization,
    kv_cache_memory_bytes, reasoning_parser (the name of vLLM's for this model; without one, `<think>…</think>` at the
    beginning of a reply is split off) and engine_args, which may hold any other: as `vllm.LLM` takes them. None leaves
    vLLM's own default; on a processor that is 1 GiB of cache, and prompts are never cut into chunks, as that and a
    seed end vLLM 0.32. adapter: the folder of a LoRA adapter. n_threads: of the processor (OMP_NUM_THREADS).
    in_flight: requests in the engine at once, by default twice as many as it works on at the same time, whatever the
    frame's height. by_prefix: asks equal beginnings one after the other, so that each is computed once.
    restarts: how often, with no reply in between, a process that died is begun again, for fewer requests at once; only
    what was in it is asked anew. A request at whose asking it died twice, the second time with nothing else in it, is a
    `server_error` (not where restarts < 2, nor while several calls ask one engine).
    Each draw (`samples`) is a request with a seed and a key of its own, and has the same text alone as among others
    (on a GPU only mostly: its sums depend on what is computed together); the cache of prefixes saves its prompt.
    The model's name in keys and ledgers is that of the folder with a hash of its content (see `digest_of`).
    Raises: UnknownModelError when there is no such model; BindError for values of a wrong type; at the first request,
    MissingExtraError without vLLM, and BackendError with vLLM's last words when it cannot start.
    """
    _check(restarts=(restarts, 0), in_flight=(in_flight, 1), n_threads=(n_threads, 1), max_model_len=(max_model_len, 1))
    if clash := [each for each in engine_args or {} if each in _OURS]:
        raise BindError(f"vllm_engine(engine_args=…) may not hold {listed(clash)}: they are made of the other options.")
    named = {
        "max_model_len": max_model_len,
        "dtype": dtype,
        "tensor_parallel_size": tensor_parallel_size,
        "gpu_memory_utilization": gpu_memory_utilization,
        "kv_cache_memory_bytes": kv_cache_memory_bytes,
        "reasoning_parser": reasoning_parser,
    }
    given = {each: value for each, value in {**named, **(engine_args or {})}.items() if value is not None}
    folder, lora = folder_of(str(name), revision=revision), None if adapter is None else _adapter(adapter)
    return VllmEngine(
        model=_model(str(name), folder, lora),
        endpoint=_endpoint(given),
        folder=folder,
        adapter=lora,
        engine_args=given if lora is None else {**given, "enable_lora": True, "max_lora_rank": _rank(lora)},
        environment={} if n_threads is None else {"OMP_NUM_THREADS": str(n_threads)},
        in_flight=in_flight,
        by_prefix=by_prefix,
        restarts=restarts,
        can=frozenset({*_CAN, "images"} if _sees(folder) else _CAN),
    )


def _check(**given: tuple[Any, int]) -> None:
    for name, (value, least) in given.items():
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < least):
            raise BindError(f"vllm_engine({name}={value!r}): it must be a whole number, at least {least}.")


def _model(name: str, folder: Path, adapter: Path | None) -> str:
    """A folder's own name, wherever it lies, or that of a model of the hub; and what it holds."""
    shown = folder.resolve().name if Path(name).expanduser().is_dir() else name
    further = "" if adapter is None else f"+{adapter.name}@{digest_of(adapter)}"
    return f"{shown}@{digest_of(folder)}{further}"


def _endpoint(given: Mapping[str, Any]) -> str:
    """The engine and all of its settings that decide what is answered."""
    known = {"max_model_len": "auto", "dtype": "auto", **{n: v for n, v in given.items() if n in _ANSWERING}}
    return "vllm " + " ".join(
        f"{name}={value if isinstance(value, str) else orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()}"
        for name, value in known.items()
    )


def _adapter(given: str | Path) -> Path:
    path = Path(given).expanduser()
    if not (path / "adapter_config.json").is_file():
        raise BindError(
            f"vllm_engine(adapter={str(given)!r}): this is no folder of a LoRA adapter (adapter_config.json)."
        )
    return path.resolve()


def _rank(adapter: Path) -> int:
    rank = json.loads((adapter / "adapter_config.json").read_text()).get("r", 16)
    return next((room for room in _RANKS if room >= rank), rank)


def _sees(folder: Path) -> bool:
    """Whether the model takes images."""
    return "vision_config" in json.loads((folder / "config.json").read_text())


def _rows(requests: pl.DataFrame, *, by_prefix: bool) -> Iterator[tuple[str, str, str]]:
    """Key, messages and sampling; in the order of their messages, so that equal beginnings follow each other."""
    asked = requests.select("key", "messages", "sampling")
    order = asked["messages"].arg_sort() if by_prefix else None
    for start in range(0, asked.height, _ROWS_AT_ONCE):
        part = asked[start : start + _ROWS_AT_ONCE] if order is None else asked[order[start : start + _ROWS_AT_ONCE]]
        yield from part.iter_rows()


@dataclass
class _Call:
    """One frame of requests on its way through the engine."""

    of: VllmEngine
    rows: Iterator[tuple[str, str, str]]
    desk: Desk
    put: Put
    stop: Stop
    flying: dict[str, bytes] = field(default_factory=dict)
    waiting: tuple[str, str, str] | None = None
    # Times that the process died, and that a request was found to be why, since it last gave a reply; what was in it
    # when it died; and what shall be asked alone.
    died: int = 0
    blamed: int = 0
    suspected: set[str] = field(default_factory=set)
    apart: dict[str, bytes] = field(default_factory=dict)
    most: int = 1

    def run(self) -> None:
        """Keeps the engine full, and records what it finishes, until nothing is left or nothing more is wanted."""
        engine, mail = self.of.engine, Mail()
        caller, life, limits = engine.enter(mail, given_up=self.stop.is_set)
        self.most = self.of.in_flight or 2 * limits["at_once"]
        try:
            while True:
                if lines := self._next(caller):
                    engine.send(lines, life)
                if not self.flying and (self.stop.is_set() or (self.waiting is None and not self.apart)):
                    return
                for told in _heard(mail):
                    if isinstance(told, dict):
                        self._settle(told)
                    elif told.life == life:
                        life = self._again(told, mail, caller)
        finally:
            for key in (*self.flying, *self.apart):
                self.desk.release(key)
            engine.leave(caller)

    def _next(self, caller: int) -> bytes:
        """The lines of as many requests as there is room and leave for."""
        if self.apart:
            if self.flying or self.stop.is_set():
                return b""
            key, line = self.apart.popitem()
            self.flying[key] = line
            return line
        lines = []
        while len(self.flying) < self.most and not self.stop.is_set():
            row = self.waiting or next(self.rows, None)
            self.waiting = row
            if row is None:
                break
            key, messages, sampling = row
            _, tokens = most_tokens(messages, most_completion(orjson.loads(sampling)), sampling=sampling)
            leave = self.desk.reserve(key, tokens=tokens, cost_usd=0.0)
            if leave is False:
                break
            self.waiting = None
            if leave is None:
                self.put(over_budget(key))
                continue
            line = f'{{"call":{caller},"key":{json.dumps(key)},"messages":{messages},"sampling":{sampling}}}\n'.encode()
            self.flying[key] = line
            lines.append(line)
        return b"".join(lines)

    def _settle(self, told: dict[str, Any]) -> None:
        key = told["key"]
        if key not in self.flying:
            return
        if "body" in told:
            self.died = self.blamed = 0
            reply = read_completion(key, told["body"], latency_s=told["latency_s"], prices=FREE)
        else:
            reply = failed(key, told["kind"], told["said"])
        del self.flying[key]
        self.suspected.discard(key)
        self.desk.record(reply)
        self.put(reply)

    def _again(self, end: Died, mail: Mail, caller: int) -> int:
        """The process is gone: asks another one for what was in it; gives the number of its life."""
        if self.stop.is_set():
            raise BackendError(f"the process of {self.of!r} died while the run was being stopped.")
        again = self.suspected & self.flying.keys()
        if again and end.alone and len(self.flying) == 1:
            self._blame(again.pop())
        else:
            self.died += 1
            self.most = max(1, self.most // 2) if len(self.flying) > 1 else self.most
        if max(self.died, self.blamed) > self.of.restarts:
            raise BackendError(
                f"the process of {self.of!r} died {self.died + self.blamed} times without a reply ({_REMEDY}). Every "
                "reply that was finished is recorded: run again. What it said last:\n"
                f"{self.of.engine.last_words()}"
            )
        self.apart |= {key: self.flying.pop(key) for key in list(self.flying) if key in again}
        self.suspected |= self.flying.keys()
        self.waiting = self.waiting or next(self.rows, None)
        if not (self.flying or self.apart or self.waiting):
            return end.life  # nothing is left to be asked
        # As a text: a handler that keeps records must not keep the backend, and with it the process.
        left = len(self.flying) + len(self.apart)
        _log.warning("the process of %s died (%s): beginning it again for %d requests", repr(self.of), _REMEDY, left)
        _, life, _ = self.of.engine.enter(mail, caller=caller, given_up=self.stop.is_set)
        self.of.engine.send(b"".join(self.flying.values()), life)
        return life

    def _blame(self, key: str) -> None:
        """What ended the process twice, the second time with nothing else in it, is a failure of its row."""
        said = " ".join(self.of.engine.last_words()[-_SAID:].split())
        said = f"the process of vLLM died whenever this was in it, also when nothing else was: {said}"
        self._settle({"key": key, "kind": "server_error", "said": said})
        self.blamed, self.died = self.blamed + 1, 0


def _heard(mail: Mail) -> Iterator[dict[str, Any] | Died]:
    """What has come; waits a moment for the first."""
    try:
        yield mail.get(timeout=_LOOKS_UP_EVERY_S)
        while True:
            yield mail.get_nowait()
    except queue.Empty:
        return

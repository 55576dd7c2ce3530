"""The process in which an embedded vLLM lives: requests in by lines of JSON, each reply out as it finishes.

`vllm_process` starts it. It ends when its input does, and when the process that started it is gone.
"""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from typing import Any, BinaryIO

import orjson

from agora_frames.backends.vllm_requests import asked_of, split_reasoning

__all__ = ["ENGINE_ON_CPU", "main", "on_cpu", "prepare", "serve", "watch"]

_LOOKS_UP_EVERY_S = 0.5
_ENDS_WITHIN_S = 10.0
# Set before vLLM is imported, unless the environment says otherwise: nothing is told to anybody, nothing is fetched,
# and no process is forked.
_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_HOST_IP": "127.0.0.1",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
}
# On a processor the engine lives in this very process: another would only import everything once more.
_ON_CPU = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
# On a processor a prompt in two chunks and a seed of its own end the engine (vLLM 0.32: "CPU Generator does not use
# offset"), so prompts stay whole there; and the share of the memory that vLLM would take by itself is refused on
# machines of several nodes.
ENGINE_ON_CPU = {"enable_chunked_prefill": False, "kv_cache_memory_bytes": 1 << 30}


class _Gone(Exception):
    """There is nobody left to work for."""


def serve(source: BinaryIO, sink: BinaryIO) -> None:
    """Loads the model that the first line names, and answers the other lines until there are no more."""
    inbox: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
    config = orjson.loads(source.readline())
    threading.Thread(target=_listen, args=(source, inbox), daemon=True).start()
    threading.Thread(target=watch, args=(os.getppid(),), daemon=True).start()
    prepare()
    try:
        engine = _Engine(config)
    except Exception as exc:
        traceback.print_exc()
        _tell(sink, [{"failed": f"{type(exc).__name__}: {exc}"}])
        return
    closing = threading.Event()
    threading.Thread(target=_watch_core, args=(engine.core, closing), daemon=True).start()
    _tell(sink, [{"ready": engine.limits()}])
    try:
        engine.work(inbox, sink)
    except _Gone:
        pass
    finally:
        closing.set()
        engine.close()


def prepare() -> None:
    """Sets what vLLM reads from the environment, where the user has not."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if on_cpu():
        for name, value in _ON_CPU.items():
            os.environ.setdefault(name, value)


def on_cpu() -> bool:
    """Whether vLLM runs on the processor here."""
    from vllm.platforms import current_platform

    return bool(current_platform.is_cpu())


def _listen(source: BinaryIO, inbox: queue.SimpleQueue[dict[str, Any] | None]) -> None:
    """Takes lines at once, so that who writes them never waits for the engine."""
    try:
        for line in source:
            inbox.put(orjson.loads(line))
    finally:  # whatever ends it, nobody may wait for an answer
        inbox.put(None)
    time.sleep(_ENDS_WITHIN_S)  # the engine has heard it, or hangs
    _end_all()


def watch(parent: int) -> None:
    """A process that was killed closes its end of the pipe, unless a child that it forked still holds it."""
    while os.getppid() == parent:
        time.sleep(_LOOKS_UP_EVERY_S)
    _end_all()


def _watch_core(core: Any, closing: threading.Event) -> None:
    """Ends this process when the one is gone that vLLM computes in: it does so on a GPU, and where it was killed (out
    of memory, say), vLLM 0.26 and 0.32 note it, and leave who waits for its next step waiting."""
    resources = getattr(core, "resources", None)  # none where the engine lives in this very process
    while resources is not None and not closing.wait(_LOOKS_UP_EVERY_S):
        if resources.engine_dead and not closing.is_set():
            print("The process of vLLM's engine is gone.", file=sys.stderr, flush=True)
            _end_all()


def _end_all() -> None:
    """Ends this process and all that it started: it leads a group of its own."""
    if os.getpgid(0) == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


def _tell(sink: BinaryIO, lines: list[dict[str, Any]]) -> None:
    try:
        sink.write(b"".join(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE) for line in lines))
        sink.flush()
    except BrokenPipeError as exc:
        raise _Gone from exc


class _Engine:
    """vLLM's engine, and the requests that are in it."""

    def __init__(self, config: dict[str, Any]) -> None:
        import vllm
        from vllm.lora.request import LoRARequest
        from vllm.sampling_params import SamplingParams, StructuredOutputsParams
        from vllm.v1.engine.exceptions import EngineDeadError

        arguments = {**(ENGINE_ON_CPU if on_cpu() else {}), **config["engine"]}
        self.dead = EngineDeadError
        self.version, self.params_of, self.form_of = vllm.__version__, SamplingParams, StructuredOutputsParams
        self.llm: Any = vllm.LLM(**arguments)
        self.model = config["model"]
        self.defaults = self.llm.model_config.get_diff_sampling_param()
        self.lora = LoRARequest("adapter", 1, config["adapter"]) if "adapter" in config else None
        self.parser, self.request = self._parser(arguments.get("reasoning_parser"))
        self.asked: dict[str, tuple[dict[str, Any], float]] = {}

    def _parser(self, name: str | None) -> Any:
        if not name:
            return None, None
        from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
        from vllm.reasoning import ReasoningParserManager

        return ReasoningParserManager.get_reasoning_parser(name)(self.llm.get_tokenizer()), ChatCompletionRequest

    @property
    def core(self) -> Any:
        """vLLM's own end of the process that computes, or what computes here."""
        return self.llm.llm_engine.engine_core

    def limits(self) -> dict[str, Any]:
        """What was made of the settings that were left open."""
        config = self.llm.llm_engine.vllm_config
        return {
            "at_once": config.scheduler_config.max_num_seqs,
            "max_model_len": config.model_config.max_model_len,
            "vllm": self.version,
        }

    def work(self, inbox: queue.SimpleQueue[dict[str, Any] | None], sink: BinaryIO) -> None:
        """Adds what comes in, and takes steps while there is something to do."""
        engine = self.llm.llm_engine
        while True:
            told = []
            for call in self._arrived(inbox):
                if call is None:
                    return
                if refused := self._add(call):
                    told.append(refused)
            if self.asked:
                told += [self._told(output) for output in engine.step() if output.finished]
            if told:
                _tell(sink, told)

    def _arrived(self, inbox: queue.SimpleQueue[dict[str, Any] | None]) -> Iterator[dict[str, Any] | None]:
        """What has come in; waits for it if there is nothing else to do."""
        if not self.asked:
            yield inbox.get()
        while not inbox.empty():
            yield inbox.get()

    def _add(self, call: dict[str, Any]) -> dict[str, Any] | None:
        """Hands one request to vLLM; gives the failure of one that it does not take."""
        begun = time.perf_counter()
        try:
            sampling, constraint, chat = asked_of(call["sampling"])
            if constraint is not None:
                sampling["structured_outputs"] = self.form_of(**constraint)
            params = self.params_of.from_optional(**{**self.defaults, **sampling})
            (number,) = self.llm.enqueue_chat(
                call["messages"], params, use_tqdm=False, lora_request=self.lora, **_closed(chat)
            )
        except self.dead:  # of its own process, on a GPU: no fault of this request
            raise
        except Exception as exc:
            said = " ".join(f"{exc}".split()) or type(exc).__name__
            kind = "context_too_long" if "context length" in said or "max_model_len" in said else "bad_request"
            return {"call": call["call"], "key": call["key"], "kind": kind, "said": said[:1000]}
        self.asked[number.rpartition("-")[0] or number] = call, begun
        return None

    def _told(self, output: Any) -> dict[str, Any]:
        """What is said of a finished request. One that cannot be read, say by a parser of thoughts, fails alone."""
        call, begun = self.asked.pop(output.request_id)
        about = {"call": call["call"], "key": call["key"]}
        try:
            body = self._body(call, output)
        except Exception as exc:
            traceback.print_exc()
            return {**about, "kind": "bad_reply", "said": f"{type(exc).__name__}: {exc}"[:1000]}
        return {**about, "body": body, "latency_s": time.perf_counter() - begun, "at": time.time()}

    def _body(self, call: dict[str, Any], output: Any) -> dict[str, Any]:
        """A finished request as the body of a chat completion, as vLLM's server would write it."""
        (choice,) = output.outputs
        reasoning, text = self._split(choice.text, output, call["messages"])
        usage = {
            "prompt_tokens": len(output.prompt_token_ids),
            "completion_tokens": len(choice.token_ids),
            "prompt_tokens_details": {"cached_tokens": output.num_cached_tokens},
        }
        top = call["sampling"].get("top_logprobs") or 0
        body = {
            "model": self.model,
            "choices": [
                {
                    "finish_reason": choice.finish_reason,
                    "message": {"content": text, "reasoning": reasoning},
                    "logprobs": _logprobs(choice, top),
                }
            ],
            "usage": usage,
        }
        if output.prompt_logprobs is not None:
            body["prompt_logprobs"] = [each and _by_number(each) for each in output.prompt_logprobs]
        return body

    def _split(self, text: str, output: Any, messages: list[Any]) -> tuple[str | None, str | None]:
        if self.parser is not None:
            thoughts, said = self.parser.extract_reasoning(text, self.request(messages=messages))
            return thoughts, said
        return split_reasoning(text, thinking=(output.prompt or "").rstrip().endswith("<think>"))

    def close(self) -> None:
        """Frees the memory, that of other processes too."""
        self.core.shutdown()


def _closed(chat: dict[str, Any]) -> dict[str, Any]:
    """A last message that is to be continued is followed by no prompt for another."""
    return {"add_generation_prompt": not chat.get("continue_final_message"), **chat}


def _logprobs(choice: Any, top: int) -> dict[str, Any] | None:
    if choice.logprobs is None:
        return None
    tokens = []
    for number, likely in zip(choice.token_ids, choice.logprobs, strict=True):
        # Beside the likeliest tokens stands the one that was drawn, whether it is one of them or not.
        likeliest = sorted(likely.values(), key=lambda each: each.logprob, reverse=True)[:top]
        tokens.append({**_token(likely[number]), "top_logprobs": [_token(each) for each in likeliest]})
    return {"content": tokens}


def _token(each: Any) -> dict[str, Any]:
    return {"token": each.decoded_token, "logprob": _finite(each.logprob)}


def _by_number(likely: dict[int, Any]) -> dict[str, Any]:
    """In the form of vLLM's server: the prompt's own token comes first."""
    return {
        str(number): {"logprob": _finite(each.logprob), "decoded_token": each.decoded_token}
        for number, each in likely.items()
    }


def _finite(logprob: float) -> float:
    """JSON knows no infinity; vLLM's server says the same."""
    return max(logprob, -9999.0)


def main() -> None:
    """Answers on what was standard output; what anybody else prints goes to standard error, the log."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sink = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    try:
        serve(sys.stdin.buffer, sink)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        _end_all()


if __name__ == "__main__":
    main()

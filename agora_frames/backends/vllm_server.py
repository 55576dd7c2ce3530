"""vLLM's OpenAI-compatible server on this machine: started, waited for, and stopped with all its children."""

from __future__ import annotations

import contextlib
import http.client
import importlib.util
import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from agora_frames.backends.vllm_process import INSTALL, command_of, log_tail
from agora_frames.backends.vllm_weights import folder_of
from agora_frames.backends.vllm_worker import ENGINE_ON_CPU, on_cpu, prepare, watch
from agora_frames.errors import BackendError, BindError, MissingExtraError, listed

__all__ = ["Served", "main", "serving"]

_HOST = "127.0.0.1"
_OURS = ("--model", "--served-model-name", "--host", "--port", "--uds")
_LOOKS_UP_EVERY_S = 0.2
_ENDS_WITHIN_S = 20.0


@dataclass(frozen=True)
class Served:
    """A server that is healthy; made by `serving`."""

    url: str
    process: subprocess.Popen[bytes] = field(repr=False)
    log: Path

    def wait(self) -> NoReturn:
        """Returns never: raises BackendError, with the server's last words, when it ends by itself."""
        code = self.process.wait()
        raise BackendError(f"vLLM's server ended with {code}. What it said last ({self.log}):\n{log_tail(self.log)}")


@contextlib.contextmanager
def serving(
    model: str,
    *,
    port: int = 8000,
    name: str | None = None,
    options: Sequence[str] = (),
    log: Path,
    starts_within_s: float = 1800.0,
) -> Iterator[Served]:
    """Runs vLLM's server for the model while the block runs; the block begins when it is healthy.

    model: a folder, or a name in the hub's cache. port: of the loopback address; 0 takes a free one. name: what the
    model is called, by default as its folder. options: further ones of `vllm serve`, such as ["--dtype", "float32"].
    log: the file that takes what the server says.
    The server never outlives this process, however it ends.
    Raises: BindError for a port that is none or is taken, and for options that are given otherwise; MissingExtraError
    without vLLM; BackendError, with the server's last words, when it does not start.
    """
    if clash := [each for each in options if each.partition("=")[0] in _OURS]:
        raise BindError(
            f"agora serve(--server-option …) may not hold {listed(clash)}: the model, the name and the port are given "
            f"by their own options, and the server is reached from this machine alone, at {_HOST}."
        )
    if not 0 <= port < 1 << 16:
        raise BindError(f"there is no port {port}: it must be from 1 to 65535, or 0 for a free one.")
    folder = folder_of(model)
    if importlib.util.find_spec("vllm") is None:
        raise MissingExtraError(f"vLLM is not installed. Install it with:\n    {INSTALL}")
    port = _free(port)
    shown = name or (folder.resolve().name if Path(model).expanduser().is_dir() else model)
    arguments = ["--model", str(folder), "--served-model-name", shown, "--host", _HOST, "--port", str(port)]
    command, environment = command_of("agora_frames.backends.vllm_server", *arguments, *options)
    try:
        said = log.open("wb")
    except OSError as exc:
        raise BindError(f"the log cannot be written to {str(log)!r} ({exc.strerror}). Give another file.") from exc
    with said:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, start_new_session=True, env=environment
        )
    try:
        _wait(process, f"http://{_HOST}:{port}/health", log, starts_within_s)
        yield Served(f"http://{_HOST}:{port}/v1", process, log)
    finally:
        _stop(process)


def _free(port: int) -> int:
    """That port of the loopback address, or any if it is 0. Raises: BindError when somebody has it."""
    with socket.socket() as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind((_HOST, port))
        except OSError as exc:
            raise BindError(f"port {port} of {_HOST} is taken ({exc.strerror}). Give another: --port 8001.") from exc
        number: int = tried.getsockname()[1]
        return number


def _wait(process: subprocess.Popen[bytes], health: str, log: Path, within_s: float) -> None:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    until = time.monotonic() + within_s
    while process.poll() is None and time.monotonic() < until:
        with contextlib.suppress(OSError, http.client.HTTPException), direct.open(health, timeout=5.0):
            return
        time.sleep(_LOOKS_UP_EVERY_S)
    ended = f"ended with {process.returncode}" if process.poll() is not None else f"was not healthy in {within_s:g} s"
    raise BackendError(f"vLLM's server {ended}. What it said last ({log}):\n{log_tail(log)}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    """As it likes best, then all that is left of its group."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.terminate()
        process.wait(_ENDS_WITHIN_S)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def main() -> None:
    """What the process runs: vLLM's own server, as `vllm serve` does, but found by module.

    `vllm serve` asks for the metadata of a distribution named vllm, which builds for processors do not have.
    """
    threading.Thread(target=watch, args=(os.getppid(),), daemon=True).start()
    prepare()
    given = sys.argv[1:]
    if not any(each.startswith("--enable-prompt-tokens-details") for each in given):
        given.append("--enable-prompt-tokens-details")  # so that replies tell their cached tokens
    if on_cpu():
        if not any("enable-chunked-prefill" in each for each in given):
            given.append("--no-enable-chunked-prefill")
        if not any(each.startswith("--kv-cache-memory-bytes") for each in given):
            given += ["--kv-cache-memory-bytes", str(ENGINE_ON_CPU["kv_cache_memory_bytes"])]
    sys.argv = ["vllm", *given]
    runpy.run_module("vllm.entrypoints.openai.api_server", run_name="__main__", alter_sys=False)


if __name__ == "__main__":
    main()

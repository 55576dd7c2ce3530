"""Servers and clients as processes of their own: started, killed, measured.

Nothing but the standard library is imported here: the peak memory that the system tells of a child is never below what
its parent held when it started it, so the parent has to stay small.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["HERE", "Client", "Ran", "Server", "checked", "running_server", "told_by"]

HERE = Path(__file__).resolve().parent
_LONGEST_S = 600.0
_DROPPED_PROXIES = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def told_by(script: str, *options: object) -> dict[str, Any]:
    """The JSON that a script of this folder prints as its last line. Raises RuntimeError with its last words."""
    done = subprocess.run([sys.executable, str(HERE / script), *map(str, options)], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{script} ended with {done.returncode}: {done.stderr.strip()[-600:]}")
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


@dataclass
class Server:
    """A running server of `server.py`."""

    options: tuple[str, ...]
    port: int = 0
    process: subprocess.Popen[str] = field(init=False)

    def __post_init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Starts it, the second time on the same port."""
        command = [sys.executable, str(HERE / "server.py"), "--port", str(self.port), *self.options]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())

    def stop(self) -> None:
        self.process.terminate()
        self.process.communicate(timeout=30)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def stats(self) -> dict[str, Any]:
        return self._asked("stats", None)

    def reset(self) -> None:
        self._asked("reset", b"")

    def _asked(self, page: str, body: bytes | None) -> dict[str, Any]:
        with _DROPPED_PROXIES.open(f"http://127.0.0.1:{self.port}/{page}", data=body, timeout=30) as answer:
            told: dict[str, Any] = json.load(answer)
        return told

    def at_rest(self) -> dict[str, Any]:
        """Waits until the server has noticed that a dead client is gone; then what it counted."""
        while (stats := self.stats())["in_flight"]:
            time.sleep(0.01)
        return stats


@contextmanager
def running_server(*options: object) -> Iterator[Server]:
    server = Server(tuple(map(str, options)))
    try:
        yield server
    finally:
        server.stop()


@dataclass(frozen=True)
class Ran:
    """What a client's process took, what it printed, and what the server counted meanwhile.

    status: below zero, the signal that ended it. words: the end of what it wrote to stderr.
    """

    status: int
    wall_s: float
    cpu_s: float
    peak_mb: float
    told: dict[str, Any]
    stats: dict[str, Any]
    words: str

    @property
    def per_second(self) -> float:
        """Requests answered per second, from the first request to the last answer."""
        return float(self.stats["answered"] / self.stats["span_s"]) if self.stats["span_s"] else 0.0


class Client:
    """A running client: `clients/NAME.py`, with its output and its answers in a folder."""

    def __init__(self, name: str, server: Server, *, rows: int, concurrency: int, folder: Path, **options: object):
        folder.mkdir(parents=True, exist_ok=True)
        self.server, self.out = server, folder / "out.parquet"
        self.printed, self.words = folder / "stdout.txt", folder / "stderr.txt"
        given = {"rows": rows, "concurrency": concurrency, "out": self.out, "folder": folder / "answers", **options}
        command = [sys.executable, str(HERE / "clients" / f"{name}.py"), "--url", server.url]
        for option, value in given.items():
            command += [f"--{option.replace('_', '-')}", str(value)]
        self.out.unlink(missing_ok=True)
        self.begun = time.perf_counter()
        with self.printed.open("w") as stdout, self.words.open("w") as stderr:
            self.process = subprocess.Popen(command, stdout=stdout, stderr=stderr)

    def running(self) -> bool:
        """Whether it still is; its end is left to `finish` to collect."""
        done = os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        return done is None

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)

    def finish(self) -> Ran:
        """Waits for its end."""
        late = threading.Timer(_LONGEST_S, self.kill)
        late.start()
        _, status, used = os.wait4(self.process.pid, 0)
        wall_s = time.perf_counter() - self.begun
        late.cancel()
        self.process.returncode = os.waitstatus_to_exitcode(status)
        lines = self.printed.read_text().splitlines()
        return Ran(
            self.process.returncode,
            wall_s,
            used.ru_utime + used.ru_stime,
            used.ru_maxrss / 1024,
            json.loads(lines[-1]) if lines else {},
            self.server.at_rest(),
            self.words.read_text().strip()[-600:],
        )


def checked(out: Path, rows: int) -> dict[str, Any]:
    """Rows lost, doubled and wrong in a client's file, and the number of each outcome."""
    return told_by("checks.py", "--out", out, "--rows", rows)

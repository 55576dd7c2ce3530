"""Untrusted Python, run against tests: no network, no files, bounded in all it takes, and without a say in the verdict.

The code and the tests of a program are in two processes. The one that runs the tests never runs a line of the code: it
calls what the code defines over a pipe, and plain data is all that comes back. So the code cannot change what the tests
do, does not know what they expect, and passes only by giving the right values.

Around both, where Linux allows it, is a world of its own (namespaces): no network, no `/proc`, no other process, no
files but Python's own, read-only, and an empty folder in memory; all of it ends with the program. Everywhere: a
cleared environment, and limits on time, memory, files, processes and output.

What is not protected: the kernel itself, which has no filter of system calls in front of it (there is no seccomp here):
for code that is written to break out, use a virtual machine. Memory in files that have no name (`memfd_create`) is
bounded for each file and each process, and not for all together. Without namespaces, see `isolation`: the network is
open, and what other users may read can be read. The tests are trusted: they are held by the same limits, and what they
say is the verdict.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import polars as pl

from agora_frames.errors import BindError, SandboxError
from agora_frames.frames import OUTCOMES, paired, require
from agora_frames.sandboxed.wire import LENGTHS

__all__ = ["Sandbox", "isolation", "run_python", "sandbox"]

_LOG = logging.getLogger(__name__)

# The worker is a Python with nothing of ours but its own modules: the package itself, and Polars, are not imported.
_START = (
    "import sys, types; package = types.ModuleType('agora_frames'); package.__path__ = [sys.argv[1]]; "
    "sys.modules['agora_frames'] = package; from agora_frames.sandboxed.worker import main; main()"
)
# Sets and dicts have the same order in each run.
_ENVIRONMENT = {"PYTHONHASHSEED": "0", "LANG": "C.UTF-8", "PATH": "/usr/bin:/bin", "HOME": ".", "TMPDIR": "."}
_GRACE_S = 10.0


@dataclass(frozen=True)
class Sandbox:
    """A runner: a frame of programs in, a frame of outcomes out; made by `sandbox`."""

    timeout_s: float
    wall_s: float
    memory_mb: int
    file_mb: int
    output_kb: int
    processes: int
    workers: int
    paths: tuple[str, ...]
    isolated: bool

    def __call__(self, programs: pl.DataFrame, /) -> pl.DataFrame:
        """Reads: `code` (String), and `tests` (String) and `names` (List(String)) if there are any; see `run_python`.

        Gives: the columns of `frames.OUTCOMES`, a row for each program, in the same order.
        """
        require(programs, "code", stage="run_python", dtype=pl.String())
        given = {name: programs[name].to_list() for name in ("code", "tests", "names") if name in programs.columns}
        nothing = [None] * programs.height
        rows = list(zip(given["code"], given.get("tests", nothing), given.get("names", nothing), strict=True))
        waiting: SimpleQueue[int] = SimpleQueue()
        for place in range(len(rows)):
            waiting.put(place)
        outcomes: list[dict[str, Any]] = [{}] * len(rows)
        n = min(self.workers, len(rows))
        with ThreadPoolExecutor(max(n, 1), thread_name_prefix="sandbox") as pool:
            working = [pool.submit(self._work, rows, waiting, outcomes) for _ in range(n)]
            try:
                for each in working:
                    each.result()
            finally:  # should one fail, or somebody interrupt, the others begin nothing more
                with contextlib.suppress(Empty):
                    while True:
                        waiting.get_nowait()
        return pl.DataFrame(outcomes, schema=OUTCOMES)

    def __fingerprint__(self) -> tuple[object, ...]:
        limits = {name: value for name, value in asdict(self).items() if name != "workers"}
        return sys.version_info[:2], limits  # what runs in one Python need not in another

    def _work(self, rows: list[tuple[Any, ...]], waiting: SimpleQueue[int], outcomes: list[dict[str, Any]]) -> None:
        """One worker after the other (mostly it is one), until no program waits."""
        with contextlib.ExitStack() as stack:
            worker = None
            while True:
                try:
                    place = waiting.get_nowait()
                except Empty:
                    return
                code, tests, names = rows[place]
                if code is None:
                    outcomes[place] = {"status": "no_code", "message": "the code is null"}
                    continue
                for _ in range(2):  # should a worker end, it may be for reasons of the machine; twice, of the code
                    if worker is None or worker.poll() is not None:
                        worker = stack.enter_context(_worker(self))
                    outcome = _outcome(worker, code, tests or "", names, self.wall_s)
                    outcomes[place] = outcome or {"status": "exited", "message": "it ended the workers that ran it"}
                    if outcome:
                        break


def sandbox(
    *,
    allow_unsafe_code: bool = False,
    timeout_s: float = 20.0,
    wall_s: float | None = None,
    memory_mb: int = 4096,
    file_mb: int = 16,
    output_kb: int = 64,
    processes: int = 16,
    workers: int | None = None,
    paths: Sequence[str | Path] = (),
    isolated: bool | None = None,
) -> Sandbox:
    """A runner for untrusted Python, which runs in the version of Python that this process has.

    allow_unsafe_code: must be said. What a model wrote is run on this machine: see the module for what holds it, and
    `isolation` for what does so here. timeout_s: seconds of CPU that the code may take, and the tests; not on the
    clock, so that a busy machine makes nobody fail. wall_s: seconds on the clock until what waits or sleeps is ended
    (four times as many). memory_mb: for all processes of a program together (looked at 20 times a second), and of
    addresses in each. file_mb: of all files it writes (of each, without namespaces). output_kb: of what it prints,
    kept; a program that prints more than 16 MB is ended. processes: and threads, at once. workers: programs at once (as
    many as there are cores). paths: folders with packages that the code may import; when root runs this, such as any
    user may read.
    isolated: True insists on namespaces, False does without; None takes what there is, and logs a warning where there
    are none.
    Raises: BindError when `allow_unsafe_code` is not given or a number makes no sense; SandboxError where there are no
    namespaces and code could not read Python's own modules.
    """
    if allow_unsafe_code is not True:
        raise BindError(
            "sandbox() runs code that a model wrote on this machine. It is held by namespaces and limits (see "
            "agora_frames.sandbox.isolation()), and not by a virtual machine: code written to break out of a Linux "
            "kernel may do so. If you accept that, write sandbox(allow_unsafe_code=True)."
        )
    given = {"timeout_s": timeout_s, "wall_s": wall_s, "memory_mb": memory_mb, "file_mb": file_mb}
    given |= {"output_kb": output_kb, "processes": processes, "workers": workers}
    for name, value in given.items():
        wanted = int | float if name.endswith("_s") else int
        optional = value is None and name in ("wall_s", "workers")
        if not optional and (not isinstance(value, wanted) or isinstance(value, bool) or not 0 < value < 1e9):
            raise BindError(f"sandbox({name}={value!r}): it must be a {'whole ' * (wanted is int)}number over 0.")
    return Sandbox(
        timeout_s=float(timeout_s),
        wall_s=float(4 * timeout_s if wall_s is None else wall_s),
        memory_mb=memory_mb,
        file_mb=file_mb,
        output_kb=output_kb,
        processes=processes,
        workers=workers or (len(os.sched_getaffinity(0)) if sys.platform == "linux" else 1),
        paths=tuple(str(Path(path).resolve()) for path in paths),
        isolated=_chosen(isolated),
    )


def run_python(programs: pl.DataFrame, *, allow_unsafe_code: bool = False, **limits: Any) -> pl.DataFrame:
    """Runs each program against its tests; limits as in `sandbox`.

    Reads: `code` (String); `tests` (String: Python that raises when the code is wrong; none means that the code has
    only to run); `names` (List(String): what the tests take from the code; null: all names that they use and do not
    define, and that are not Python's own).
    Gives: `status`, `message` (String), `output` (String: what the code printed), `seconds` (Float64). A status is
    `passed`; `failed`: an assertion of the tests does not hold; `error`: the code or the tests raised; `exited`: the
    code ended its process or that of the tests, or crashed; `timeout`, `memory`, `output`: it went over that limit;
    or `no_code`.
    Rows: one for each program, in the same order.
    In the tests, what the code defines is called where it lives, in another process. Numbers, texts, collections, dates
    and what inherits from them come back as plain data; anything else can be called, read and iterated, and is equal to
    itself alone. What the code does to a list that it was given is not seen.

    >>> code = "def double(x): return 2 * x"
    >>> programs = pl.DataFrame({"code": [code] * 2, "tests": ["assert double(2) == 4", "double()"]})
    >>> run_python(programs, allow_unsafe_code=True)["status"].to_list()
    ['passed', 'error']
    """
    return sandbox(allow_unsafe_code=allow_unsafe_code, **limits)(programs)


def isolation() -> tuple[bool, str]:
    """Whether programs get a world of their own on this machine; and what is not protected, in words."""
    try:
        with _worker(_PROBE):
            return True, "not protected: the kernel, against code that is written to break it (no seccomp filter)"
    except SandboxError as exc:
        return False, (
            f"{exc} Not protected then: the network is open; files that any user may read can be read, and those of "
            "this user too, if it is not root; files outside can be written where that user may, and the disk can be "
            "filled, as the limit is on each file and not on all; other processes of that user can be ended. Limits of "
            "time, memory and output hold. Run it inside of a container or a virtual machine that has none of this."
        )


def _chosen(isolated: bool | None) -> bool:
    """Whether programs will have a world of their own; what that leaves open is logged.

    Raises: SandboxError when they will not, and could not read Python's own modules.
    """
    there, why = isolation() if isolated is None else (isolated, "")
    if not there and why:
        _LOG.warning("code will run without a world of its own: %s", why)
    if not there and (closed := _closed_folder()):
        told = (
            f"root runs this, so code would run as nobody, who may not enter {closed!r}, where Python is: most of what "
            "it imports would not be found, and right code would fail. Run this as another user, or with a Python that "
            "all may read, or where namespaces are allowed."
        )
        if isolated is None:
            raise SandboxError(told)
        _LOG.warning(told)
    return there


def _closed_folder() -> str | None:
    """When root runs this: the first folder on the way to Python's own modules that others may not enter."""
    if sys.platform != "linux" or os.getuid():
        return None
    library = Path(os.__file__).resolve().parent
    return next((str(each) for each in (*reversed(library.parents), library) if not each.stat().st_mode & 1), None)


_PROBE = Sandbox(1.0, 1.0, 256, 1, 1, 1, 1, (), isolated=True)


@contextlib.contextmanager
def _worker(settings: Sandbox) -> Iterator[subprocess.Popen[bytes]]:
    """A fresh worker, ready for programs; it and all it started is ended in the end."""
    if sys.platform != "linux":
        raise SandboxError(f"code is run on Linux only, and this is {sys.platform}: use a container.")
    told = {name: value for name, value in asdict(settings).items() if name != "workers"}
    arguments = [str(Path(__file__).parent), json.dumps(told)]
    worker = subprocess.Popen(
        [os.path.realpath(sys.executable), "-s", "-S", "-P", "-B", "-c", _START, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=_ENVIRONMENT,
        cwd="/",
        start_new_session=True,
    )
    try:
        said = _reply(worker)
        if said is None:
            raise SandboxError("the worker of the sandbox does not start; what it wrote stands above.")
        if said["isolated"] != settings.isolated:
            raise SandboxError(f"namespaces are not to be had here ({said['why']}).")
        yield worker
    finally:
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            worker.communicate(timeout=_GRACE_S)  # the end of its input is the end of the worker
        worker.kill()
        worker.wait()


def _outcome(
    worker: subprocess.Popen[bytes], code: str, tests: str, names: list[str] | None, wall_s: float
) -> dict[str, Any] | None:
    """What a worker says of one program; None if it says nothing: then it has ended."""
    program = code.encode()
    examination = json.dumps([names, tests]).encode()
    watchdog = threading.Timer(wall_s + _GRACE_S, worker.kill)
    watchdog.start()
    try:
        assert worker.stdin is not None
        worker.stdin.write(LENGTHS.pack(len(program), len(examination)) + program + examination)
        worker.stdin.flush()
        said = _reply(worker)
    except OSError:
        said = None
    finally:
        watchdog.cancel()
    if said is None or said.pop("last"):  # by then nothing of the program is left; it may have stopped the worker
        worker.kill()
        worker.wait()
    return said


def _reply(worker: subprocess.Popen[bytes]) -> dict[str, Any] | None:
    assert worker.stdout is not None
    line = worker.stdout.readline()
    said: dict[str, Any] | None = paired(json.loads(line)) if line.endswith(b"\n") else None
    return said

"""A process that forks for each program: one half of the fork runs the code, another the tests, and it watches both.

It is started anew for a run, with nothing but Python's own modules, and talks with the host over its standard input
and output. It reads neither the code nor the tests itself, so that a fork of it knows nothing of other programs.
"""

from __future__ import annotations

import bisect
import contextlib
import copy
import functools
import gc
import heapq
import itertools
import json
import math
import os
import random
import re
import select
import shutil
import signal
import socket
import string
import sys
import tempfile
import time
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

from agora_frames.sandboxed import comparing, namespaces
from agora_frames.sandboxed.candidate import serve
from agora_frames.sandboxed.examiner import examine
from agora_frames.sandboxed.wire import LENGTHS, read_exactly

__all__ = ["main"]

# What most programs import: a fork has it already.
_PRELOADED = (bisect, comparing, copy, functools, heapq, itertools, math, re, string, typing)
_POLL_S = 0.05
_OPEN_FDS = 4096
_READ = b"\n"  # what the examiner says when it has its tests


@dataclass(frozen=True)
class _Settings:
    """As `sandbox()` was told them."""

    isolated: bool
    timeout_s: float
    wall_s: float
    memory_mb: int
    file_mb: int
    output_kb: int
    processes: int
    paths: list[str]
    proc: int = -1  # the machine's /proc, open: in a world of its own there is none


class _Watched:
    """What the two halves of one program did, as seen from outside."""

    def __init__(self, output_kb: int) -> None:
        self.most = output_kb << 10
        self.output = b""
        self.printed = 0
        self.verdict = b""

    def hear(self, fd: int, verdict_fd: int) -> bool:
        """Takes what a pipe holds; whether it is still open."""
        try:
            part = os.read(fd, 1 << 16)
        except BlockingIOError:
            return True
        if fd == verdict_fd:
            self.verdict += part
        else:
            self.printed += len(part)
            self.output += part[: self.most - len(self.output)]
        return bool(part)


def main() -> None:
    """Serves programs until the host closes its end."""
    settings = _Settings(**json.loads(sys.argv[2]), proc=os.open("/proc", os.O_RDONLY | os.O_DIRECTORY))
    sys.path.extend(settings.paths)
    reply_fd = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    if settings.isolated:
        try:
            namespaces.enter([sys.base_prefix, sys.base_exec_prefix, *settings.paths], settings.proc)
        except (OSError, KeyError, AttributeError) as exc:  # of the kernel, the machine, the C library
            _reply(reply_fd, {"isolated": False, "why": f"{exc}"})
            return
        if first := os.fork():  # the child is the first process in its world: all others end with it
            _, status = os.waitpid(first, 0)
            sys.exit(os.waitstatus_to_exitcode(status))
        namespaces.die_with_parent(signal.SIGKILL)
    else:
        namespaces.become_reaper()
    namespaces.hide()
    gc.freeze()
    _reply(reply_fd, {"isolated": settings.isolated, "why": ""})
    while True:
        try:
            sizes = LENGTHS.unpack(read_exactly(0, LENGTHS.size))
        except EOFError:
            return
        begun = time.monotonic()
        outcome = _run(settings, *sizes)
        _reply(reply_fd, {**outcome, "seconds": time.monotonic() - begun})
        if outcome["last"]:
            return


def _reply(fd: int, message: dict[str, Any]) -> None:
    text = json.dumps(message).encode() + b"\n"
    while text:
        text = text[os.write(fd, text) :]


def _run(settings: _Settings, code_size: int, tests_size: int) -> dict[str, Any]:
    """One program from its fork to the end of all its processes."""
    folder = _folder(settings)
    here, there = socket.socketpair()
    output_in, output_out = os.pipe()
    verdict_in, verdict_out = os.pipe()
    os.set_blocking(output_in, False)
    if not (candidate := os.fork()):
        _be_candidate(settings, folder, there.fileno(), output_out, code_size)
    if not (examiner := os.fork()):
        _be_examiner(settings, here.fileno(), verdict_out, tests_size)
    here.close()
    there.close()
    os.close(output_out)
    os.close(verdict_out)
    watched = _Watched(settings.output_kb)
    ended = _watch(settings, watched, output_in, verdict_in)
    status, message = ended or _said(watched.verdict, candidate, examiner)
    _end_all(settings)
    while watched.hear(output_in, verdict_in) and select.select([output_in], [], [], 0)[0]:
        pass  # the last of its output
    os.close(output_in)
    os.close(verdict_in)
    if not settings.isolated:
        shutil.rmtree(folder, ignore_errors=True)
    # If it was not read to its end, what is left of it in the pipe would be read as the next program.
    last = not watched.verdict.startswith(_READ)
    return {"status": status, "message": message, "output": watched.output.decode("utf-8", "replace"), "last": last}


def _folder(settings: _Settings) -> str:
    """An empty working folder for the next program."""
    if settings.isolated:
        namespaces.fresh_ipc()
        namespaces.empty_work(settings.file_mb)
        return namespaces.WORK
    folder = tempfile.mkdtemp(prefix="sandbox-", dir="/tmp")
    if os.getuid() == 0:
        os.chown(folder, namespaces.NOBODY, namespaces.NOBODY)
    return folder


def _be_candidate(settings: _Settings, folder: str, channel: int, output: int, size: int) -> NoReturn:
    try:
        os.setsid()  # what is signalled to the group of the code reaches neither the worker nor the tests
        _only_these([0, output, output, channel])
        code = read_exactly(0, size).decode()
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.write(3, b"r")  # the tests, which come next, are for the other half to read
        os.chdir(folder)
        _confine(settings, settings.processes)
        sys.stdout = open(1, "w", encoding="utf-8", errors="replace", buffering=8192, closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", encoding="utf-8", errors="replace", buffering=1, closefd=False)  # noqa: SIM115
        sys.argv = ["candidate"]
        serve(code, socket.socket(fileno=3))
    except BaseException:  # the other half is gone, or is told by the end of this one
        pass
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
        os._exit(0)


def _be_examiner(settings: _Settings, channel: int, verdict: int, size: int) -> NoReturn:
    try:
        _only_these([0, 1, 1, channel, verdict])
        if os.read(3, 1) != b"r":
            os._exit(1)
        names, tests = json.loads(read_exactly(0, size))
        os.write(4, _READ)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        _confine(settings, None)
        found = examine(tests, names, socket.socket(fileno=3))
        os.write(4, json.dumps(found).encode())
    finally:
        os._exit(0)


def _only_these(fds: list[int]) -> None:
    """The open files become 0, 1, 2, … in this order, and there are no others."""
    high = [os.dup2(fd, _free(fds, place)) for place, fd in enumerate(fds)]
    for place, fd in enumerate(high):
        os.dup2(fd, place)
    os.closerange(len(fds), _OPEN_FDS)


def _free(fds: list[int], place: int) -> int:
    return max(*fds, len(fds)) + 1 + place


def _confine(settings: _Settings, processes: int | None) -> None:
    random.seed(0)  # so that the same program does the same again
    if processes is not None:
        processes += 2 if settings.isolated else _tasks_of_user()
    namespaces.hide()
    namespaces.limit(
        memory_mb=settings.memory_mb,
        cpu_s=math.ceil(settings.timeout_s),
        file_mb=settings.file_mb,
        processes=processes,
    )
    namespaces.drop_privileges()
    namespaces.hide()


def _tasks_of_user() -> int:
    """How many tasks the user has already whom the program will be: without a world of its own they are counted too."""
    user = os.getuid() or namespaces.NOBODY
    count = 0
    for name in os.listdir("/proc"):
        with contextlib.suppress(OSError):
            if name.isdigit() and os.stat(f"/proc/{name}").st_uid == user:
                count += len(os.listdir(f"/proc/{name}/task"))
    return count


def _watch(settings: _Settings, watched: _Watched, output: int, verdict: int) -> tuple[str, str] | None:
    """Listens until the verdict is there; or says why that was not waited for."""
    looked = begun = time.monotonic()
    waiting = [output, verdict]
    while verdict in waiting:
        now = time.monotonic()
        if (left := begun + settings.wall_s - now) <= 0:
            return "timeout", f"it was not done after {settings.wall_s:g} s"
        ready = select.select(waiting, [], [], min(left, _POLL_S))[0]
        waiting = [fd for fd in waiting if fd not in ready or watched.hear(fd, verdict)]
        if watched.printed > _most_printed(settings):
            return "output", f"it printed more than {_most_printed(settings) >> 20} MB"
        if now - looked < _POLL_S:
            continue
        looked = now
        if (used := _resident_mb(settings.proc)) > settings.memory_mb:
            return "memory", f"its processes together took {used} MB, and may take {settings.memory_mb}"
    return None


def _most_printed(settings: _Settings) -> int:
    """What is printed is thrown away beyond `output_kb`; so much of it is a flood."""
    return max(16 << 20, settings.output_kb << 11)


def _said(verdict: bytes, candidate: int, examiner: int) -> tuple[str, str]:
    """The verdict, made out of what the examiner and the kernel say."""
    try:
        status, message = json.loads(verdict)
    except ValueError:
        how = _how_it_ended(examiner)
        if how == "SIGXCPU":
            return "timeout", "the tests took more CPU time than they may"
        # Mostly it was the code that did so: no way to be left out of the count.
        return "exited", f"the process that runs the tests was ended before they were done{how and f' ({how})'}"
    if status != "exited" or message:
        return status, message
    how = _how_it_ended(candidate)
    if how == "SIGXCPU":
        return "timeout", "the code took more CPU time than it may"
    return "exited", f"the code ended its process before the tests were done{how and f' ({how})'}"


def _how_it_ended(pid: int) -> str:
    """Of a process that has ended by itself: how."""
    for _ in range(50):
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
            named = {number.value: number.name for number in signal.Signals}
            return f"exit {code}" if code >= 0 else named.get(-code, f"signal {-code}")
        time.sleep(0.002)
    return ""


def _end_all(settings: _Settings) -> None:
    """Nothing of the program lives on."""
    if settings.isolated:
        # The first process of a world is not signalled by this, and all that it can see is.
        if os.getpid() != 1:
            raise RuntimeError("the worker is not alone with its programs")
        with contextlib.suppress(ProcessLookupError):
            os.kill(-1, signal.SIGKILL)
        _reap(0)
        return
    while alive := set(_descendants(settings.proc, str(os.getpid()))):
        for pid in alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        _reap(os.WNOHANG)
        time.sleep(0.001)


def _reap(options: int) -> None:
    """Takes leave of children that have ended: of all there are, unless told not to wait."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, options)[0]:
            pass


def _descendants(proc: int, pid: str) -> Iterator[str]:
    with contextlib.suppress(OSError):
        for task in _read(proc, f"{pid}/task"):
            for child in _read(proc, f"{pid}/task/{task}/children"):
                yield child
                yield from _descendants(proc, child)


def _resident_mb(proc: int) -> int:
    """What all descendants hold of the memory."""
    pages = 0
    with contextlib.suppress(OSError):
        for pid in _descendants(proc, os.readlink("self", dir_fd=proc)):
            with contextlib.suppress(OSError):
                pages += int(_read(proc, f"{pid}/statm")[1])
    return pages * os.sysconf("SC_PAGE_SIZE") >> 20


def _read(proc: int, path: str) -> list[str]:
    """The words of a file, or the names in a folder, of the machine's /proc."""
    fd = os.open(path, os.O_RDONLY, dir_fd=proc)
    try:
        return os.listdir(fd) if path.endswith("/task") else os.read(fd, 1 << 20).decode().split()
    finally:
        os.close(fd)

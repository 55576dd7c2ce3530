"""A world of its own for untrusted code, by Linux namespaces: no other processes, no network, no files but Python's."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import platform
import resource
from collections.abc import Sequence
from pathlib import Path

__all__ = [
    "NOBODY",
    "WORK",
    "become_reaper",
    "die_with_parent",
    "drop_privileges",
    "empty_work",
    "enter",
    "fresh_ipc",
    "hide",
    "limit",
]

# Where a program finds itself: an empty folder in memory, the only place that it can write to.
WORK = "/work"
# Whom the worker becomes when it is started by root; the number is `nobody` on most systems, and needs no name.
NOBODY = 65534

# From linux/sched.h, linux/mount.h, linux/prctl.h and linux/capability.h.
_NEWNS, _NEWUTS, _NEWIPC, _NEWUSER, _NEWPID, _NEWNET = 0x20000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
_RDONLY, _NOSUID, _NODEV, _REMOUNT, _BIND, _REC, _PRIVATE = 1, 2, 4, 32, 4096, 16384, 1 << 18
_DETACH, _AT_RECURSIVE, _AT_FDCWD = 2, 0x8000, -100
_PDEATHSIG, _DUMPABLE, _SUBREAPER, _NO_NEW_PRIVS = 1, 4, 36, 38
_CAPABILITY_VERSION_3 = 0x20080522
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41, "riscv64": 41}
_MOUNT_SETATTR = 442  # on all architectures, since Linux 5.12

_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/share/zoneinfo")
_DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random")


def enter(paths: Sequence[str], proc: int) -> None:
    """Leaves the machine behind: after this, children of the process live in a world of their own.

    In it are Python and the system's libraries and `paths`, all read-only; no `/proc`; no network, not even loopback;
    no user but one, without any privilege. proc: the machine's `/proc`, open.
    Raises: OSError where the kernel, or who runs it, does not allow that.
    """
    root = os.getuid() == 0
    if root:  # as itself, root can bring Python in from a folder that only root may enter
        _unshare(_NEWNS)
        _build_root(paths)
        _become_nobody()
        _prctl(_DUMPABLE, 1)  # or its own files in /proc, written below, would be root's
    uid, gid = os.getuid(), os.getgid()
    _unshare(_NEWUSER | _NEWNS | _NEWPID | _NEWNET | _NEWIPC | _NEWUTS)
    for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        _write(f"self/{name}", text, proc)
    if not root:
        _build_root(paths)
    with contextlib.suppress(OSError):  # where /proc/sys is read-only; it takes nothing from the rest
        _write("sys/user/max_user_namespaces", "0", proc)  # nobody gets privileges back in a namespace inside


def _build_root(paths: Sequence[str]) -> None:
    """A root folder in memory that holds only what Python needs, in place of the machine's."""
    _mount(None, "/", None, _REC | _PRIVATE)
    _mount("tmpfs", "/tmp", "tmpfs", _NOSUID | _NODEV, "mode=755,size=1m")
    os.chdir("/tmp")
    os.mkdir("old")
    if _libc().syscall(_PIVOT_ROOT[platform.machine()], b".", b"old"):
        raise _error("pivot_root")
    os.chdir("/")
    for path in dict.fromkeys([*_LIBRARIES, *paths]):
        _bring(path)
    os.makedirs("/dev", exist_ok=True)
    for device in _DEVICES:
        Path(device).touch()
        _mount(f"/old{device}", device, None, _BIND)
    os.mkdir(WORK)
    if not os.path.lexists("/tmp"):
        os.symlink(WORK, "/tmp")
    _umount("/old")
    os.rmdir("/old")
    _mount(None, "/", None, _REMOUNT | _BIND | _RDONLY | _NOSUID | _NODEV)


def _bring(path: str) -> None:
    """A file or folder of the machine, read-only, under the same name; what is in a folder brought before is there."""
    old = f"/old{path}"
    if os.path.lexists(path) or not os.path.lexists(old):
        return
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if os.path.islink(old):
        os.symlink(os.readlink(old), path)
        return
    if os.path.isdir(old):
        os.mkdir(path)
    else:
        Path(path).touch()
    _mount(old, path, None, _BIND | _REC)
    attributes = (ctypes.c_uint64 * 4)(_RDONLY | _NOSUID, 0, 0, 0)
    at = (ctypes.c_long(_AT_FDCWD), path.encode(), ctypes.c_long(_AT_RECURSIVE))
    if _libc().syscall(_MOUNT_SETATTR, *at, ctypes.byref(attributes), ctypes.c_long(32)):
        raise _error(f"mount_setattr {path}")


def empty_work(file_mb: int) -> None:
    """An empty folder in memory in the place of the one before, whatever lies in that."""
    os.chdir("/")
    with contextlib.suppress(OSError):  # the first has none before it
        _umount(WORK)
    _mount("tmpfs", WORK, "tmpfs", _NOSUID | _NODEV, f"mode=700,size={file_mb}m,nr_inodes=4096")


def fresh_ipc() -> None:
    """Shared memory, semaphores and queues that the program before left behind are gone."""
    _unshare(_NEWIPC)


def limit(*, memory_mb: int, cpu_s: int, file_mb: int, processes: int | None) -> None:
    """What one process may take: all of it hard limits, which it cannot raise again."""
    bytes_ = memory_mb << 20
    limits = {
        resource.RLIMIT_AS: (bytes_, bytes_),
        resource.RLIMIT_CPU: (cpu_s, cpu_s + 1),
        resource.RLIMIT_FSIZE: (file_mb << 20,) * 2,
        resource.RLIMIT_NOFILE: (64, 64),
        resource.RLIMIT_CORE: (0, 0),
        resource.RLIMIT_MSGQUEUE: (0, 0),
        resource.RLIMIT_MEMLOCK: (0, 0),
    }
    if processes is not None:
        limits[resource.RLIMIT_NPROC] = (processes, processes)
    for which, (soft, hard) in limits.items():
        most = resource.getrlimit(which)[1]
        cap = most if most != resource.RLIM_INFINITY else max(soft, hard)
        resource.setrlimit(which, (min(soft, cap), min(hard, cap)))


def drop_privileges() -> None:
    """No capability is left, none can come back, and root becomes nobody."""
    if os.getuid() == 0:
        _become_nobody()
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    none = (ctypes.c_uint32 * 6)()
    if _libc().capset(ctypes.byref(header), ctypes.byref(none)):
        raise _error("capset")
    _prctl(_NO_NEW_PRIVS, 1)


def hide() -> None:
    """No process of the same user may look into the memory of this one, or hold it."""
    _prctl(_DUMPABLE, 0)


def die_with_parent(signal: int) -> None:
    _prctl(_PDEATHSIG, signal)


def become_reaper() -> None:
    """Orphans among the descendants become children of this process, whatever they did to get away."""
    _prctl(_SUBREAPER, 1)


def _become_nobody() -> None:
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _unshare(flags: int) -> None:
    if _libc().unshare(flags):
        raise _error(f"unshare {flags:#x}")


def _mount(source: str | None, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    texts = [None if text is None else text.encode() for text in (source, target, kind, data)]
    if _libc().mount(*texts[:3], ctypes.c_ulong(flags), texts[3]):
        raise _error(f"mount {target}")


def _umount(target: str) -> None:
    if _libc().umount2(target.encode(), _DETACH):
        raise _error(f"umount {target}")


def _prctl(option: int, value: int) -> None:
    if _libc().prctl(option, ctypes.c_ulong(value), *[ctypes.c_ulong(0)] * 3):
        raise _error(f"prctl {option}")


def _write(path: str, text: str, folder: int) -> None:
    fd = os.open(path, os.O_WRONLY, dir_fd=folder)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def _error(what: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"{what}: {os.strerror(number)}")

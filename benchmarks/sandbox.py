"""How many programs a sandbox runs in a second, beside plain starts of Python that protect nothing.

python benchmarks/sandbox.py --programs 1000 --rounds 3
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import polars as pl

import agora_frames as af
from agora_frames.sandbox import isolation

CODE = "def double(x):\n    return 2 * x\n"
TESTS = "assert double(2) == 4\nassert double(-7) == -14\n"


def sandboxed(isolated: bool) -> Callable[[int, int], int]:
    def run(programs: int, workers: int) -> int:
        df = pl.DataFrame({"code": [CODE] * programs, "tests": [TESTS] * programs})
        runner = af.sandbox(allow_unsafe_code=True, workers=workers, isolated=isolated)
        return int((runner(df)["status"] == "passed").sum())

    return run


def plain_starts(programs: int, workers: int) -> int:
    """A Python for each program, with the tests beside the code: no limits, and the code can say what it likes."""

    def start(_: int) -> bool:
        command = [os.path.realpath(sys.executable), "-I", "-S", "-B", "-c", CODE + TESTS]
        return subprocess.run(command, check=False).returncode == 0

    with ThreadPoolExecutor(workers) as pool:
        return sum(pool.map(start, range(programs)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--programs", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    asked = parser.parse_args()
    ways: dict[str, Callable[[int, int], int]] = {"plain starts": plain_starts, "limits alone": sandboxed(False)}
    if isolation()[0]:
        ways["namespaces"] = sandboxed(True)
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(asked.rounds):  # in turns, so that a slow minute of the machine is slow for all
        for name, run in ways.items():
            begun = time.perf_counter()
            if run(asked.programs, asked.workers) != asked.programs:
                sys.exit(f"{name}: not all programs passed")
            taken[name].append(time.perf_counter() - begun)
    print(f"Python {platform.python_version()}, {asked.workers} workers, load {os.getloadavg()[0]:.1f}")
    print(f"{'':16}{'s for ' + str(asked.programs):>14}{'a second':>12}{'of plain':>12}")
    plain = statistics.median(taken["plain starts"])
    for name, seconds in taken.items():
        median = statistics.median(seconds)
        print(f"{name:16}{median:14.1f}{asked.programs / median:12.0f}{plain / median:11.2f}x")


if __name__ == "__main__":
    main()

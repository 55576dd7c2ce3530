"""Measures the engine behind `generate_column` on a local server, against two other clients, and makes the table.

    python benchmarks/calls.py                          # all measures, medians of 5 rounds, about half an hour
    python benchmarks/calls.py --only kill heavy_tail   # some of them
    python benchmarks/calls.py --quick                  # a tenth of the rows, one round: tries it out, proves nothing

Writes `results/calls.json` and `results/calls.md` (with --quick only when --results names a folder), a measure at a
time: what is not measured now stays from before. Ends with 1 when a mark was missed, 2 when a measure broke.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import safety
import speed
from bench import Bench
from findings import Finding, keep
from harness import HERE

MEASURES: dict[str, Callable[[Bench], list[Finding]]] = {
    "concurrency_64": speed.concurrency_64,
    "concurrency_256": speed.concurrency_256,
    "heavy_tail": speed.heavy_tail,
    "faults": safety.faults,
    "adaptive": speed.adaptive,
    "kill": safety.kill,
    "growth": speed.growth,
    "big_ledger": speed.big_ledger,
    "hung": safety.hung,
    "restarted": safety.restarted,
    "rate_limits": safety.rate_limits,
    "spend_ceiling": safety.spend_ceiling,
}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=MEASURES, default=list(MEASURES), metavar="NAME")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--results", type=Path, help="a folder; benchmarks/results unless --quick")
    return parser.parse_args()


def _measured(name: str, bench: Bench) -> tuple[list[Finding], bool]:
    """The findings of a measure; one that breaks is a finding too, and ends nothing else."""
    try:
        return MEASURES[name](bench), False
    except Exception as exc:
        traceback.print_exc()
        words = f"{type(exc).__name__}: {exc}".splitlines()
        return [Finding(name, "it runs", (words[0] + " … " + words[-1])[-300:], False)], True


def main() -> int:
    given = _arguments()
    rounds = given.rounds or (1 if given.quick else 5)
    results = given.results or (None if given.quick else HERE / "results")
    missed = broke = False
    for name in given.only:
        begun = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            findings, failed = _measured(name, Bench(Path(folder), rounds, given.quick))
        for found in findings:
            sign = "kept  " if found.kept else "MISSED"
            print(f"{sign}  {found.measure}: {found.found}, mark {found.mark}")
        print(f"        ({name}: {time.perf_counter() - begun:.0f} s)", flush=True)
        missed, broke = missed or not all(found.kept for found in findings), broke or failed
        if results is not None:
            keep(results, name, findings, order=list(MEASURES), rounds=rounds)
    return 2 if broke else int(missed)


if __name__ == "__main__":
    sys.exit(main())

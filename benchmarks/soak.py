"""A long run through every fault at once, killed at random and begun again until done; then the books are checked.

    python benchmarks/soak.py --rows 200000 --minutes 30
    python benchmarks/soak.py --rows 3000 --minutes 1 --kills 2

Each life of the client is the same command on the same ledger. Some are ended by SIGKILL, after random numbers of
answers; the server is restarted once. Prints a report as JSON. Ends with 1 when a promise was broken, 3 when the time
was over first (what is in the ledger is then checked, and no file of rows).
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness import Client, Server, checked, running_server, told_by

_FAULTS = "429=0.03,429_bare=0.02,500=0.02,reset=0.01,truncated=0.02,malformed=0.02,hang=0.002"
_TIMEOUT_S = 5.0
# A life that neither ends the run nor is killed has failed; so many may, as the server is away at times.
_MOST_FAILURES = 5


@dataclass
class Soak:
    """The state of a soak: what is left to kill, and what each life of the client was."""

    server: Server
    folder: Path
    rows: int
    concurrency: int
    until: float
    kill_at: list[int]
    restart_at: int
    lives: list[dict[str, Any]] = field(default_factory=list)

    def over(self) -> bool:
        return time.monotonic() > self.until

    def live(self) -> int:
        """One life of the client, to its end or its kill; its exit status."""
        client = Client(
            "ours",
            self.server,
            rows=self.rows,
            concurrency=self.concurrency,
            folder=self.folder,
            timeout_s=_TIMEOUT_S,
        )
        in_flight = 0
        while client.running() and not self.over():
            stats = self.server.stats()
            in_flight = stats["in_flight"]
            if stats["answered"] >= self.restart_at:
                self.restart_at = sys.maxsize
                self.server.stop()
                time.sleep(2)
                self.server.start()
            if self.kill_at and stats["answered"] >= self.kill_at[0]:
                del self.kill_at[0]
                break
            time.sleep(0.01)
        if client.running():
            client.kill()
        ran = client.finish()
        self.lives.append(
            {
                "status": ran.status,
                "seconds": round(ran.wall_s, 1),
                "cpu_s": round(ran.cpu_s, 1),
                "peak_mb": round(ran.peak_mb),
                "answered": ran.stats["answered"],
                "in_flight_at_end": in_flight if ran.status else 0,
                "words": ran.words if ran.status > 0 else "",
            }
        )
        return ran.status

    def run(self) -> bool:
        """Lives until one comes to the end; False when the time was over, or too many failed."""
        while not self.over():
            if self.live() == 0:
                return True
            if sum(life["status"] > 0 for life in self.lives) > _MOST_FAILURES:
                return False
        return False


def report(soak: Soak, complete: bool, restarts: int) -> dict[str, Any]:
    """What came out, and which promises it breaks."""
    stats, ledger = soak.server.at_rest(), told_by("checks.py", "--ledger", soak.folder / "answers" / "ledger")
    killed = sum(life["status"] < 0 for life in soak.lives)
    failed = sum(life["status"] > 0 for life in soak.lives)
    unrecorded = stats["answered"] - ledger["answered"]
    # What can be answered and not recorded: all that was in flight whenever a process, of either side, went away.
    most_unrecorded = soak.concurrency * (killed + failed + restarts)
    peaks = [life["peak_mb"] for life in soak.lives]
    most_mb = 150 + soak.rows * 7 / 1000
    broken = [
        ("answers recorded twice", ledger["doubled"] > 0),
        ("more answers in the ledger than the server gave", unrecorded < 0),
        ("more answers lost than were in flight", unrecorded > most_unrecorded),
        ("a life failed that nobody killed", failed > 0),
        (f"memory above {most_mb:.0f} MB", max(peaks) > most_mb),
    ]
    rows: dict[str, Any] = {}
    if complete:
        rows = checked(soak.folder / "out.parquet", soak.rows)
        outcomes = rows["accepted"] + rows["rejected"] + rows["failed"]
        broken += [
            ("accepted + rejected + failed is not asked", outcomes != soak.rows),
            ("rows lost, doubled or wrong", bool(rows["lost"] + rows["doubled"] + rows["wrong"])),
            # A truncated answer that was in flight at a kill is asked for again, and is whole then.
            ("rows failed for another reason than truncation", set(rows["reasons"]) - {"completion: truncated"}),
            ("more rows truncated than were", rows["failed"] > stats["faults"].get("truncated", 0)),
        ]
    return {
        "complete": complete,
        "asked": soak.rows,
        "rows": rows,
        "server": {name: stats[name] for name in ("requests", "answered", "refused", "dropped", "faults", "span_s")},
        "ledger": ledger,
        "answered_and_not_recorded": unrecorded,
        "of_at_most": most_unrecorded,
        "in_flight_at_kills_seen_by_server": sum(life["in_flight_at_end"] for life in soak.lives),
        "kills": killed,
        "peak_mb": {"first": peaks[0], "last": peaks[-1], "most": max(peaks), "mark": most_mb},
        "lives": soak.lives,
        "broken": [promise for promise, is_broken in broken if is_broken],
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--kills", type=int, default=8)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--seed", type=int, default=20261122, help="of the moments of the kills")
    return parser.parse_args()


def main() -> int:
    given = _arguments()
    chance = random.Random(given.seed)
    kill_at = sorted(chance.sample(range(1, given.rows), given.kills))
    restart_at = chance.randrange(given.rows // 4, given.rows)
    options = ("--latency-ms", 30, "--sigma", 0.5, "--faults", _FAULTS, "--admit", given.concurrency)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with running_server(*options, "--state", folder / "server.json") as server:
            until = time.monotonic() + given.minutes * 60
            soak = Soak(server, folder / "client", given.rows, given.concurrency, until, kill_at, restart_at)
            complete = soak.run()
            told = report(soak, complete, restarts=int(soak.restart_at == sys.maxsize))
    print(json.dumps(told, indent=1))
    if told["broken"]:
        return 1
    return 0 if complete else 3


if __name__ == "__main__":
    sys.exit(main())

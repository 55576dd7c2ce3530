"""A run with a growing pool that is killed again and again ends like one that never was, and pays for little twice."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from agora_frames.frames import outcome
from agora_frames.ledger import Ledger

pytestmark = pytest.mark.slow

ROWS, KILLS = 120, 10

# What each process runs, on one ledger: a scripted model that is slow enough to be killed while it is asked, that often
# keeps to no form, fails, and says the same again.
RUN = """
import os, sys
from pathlib import Path
from agora_frames import connect
from agora_frames.backends.scripted import failing, scripted
from agora_frames.ledger import Ledger
from agora_frames.recipes.agorabench.instance_generation import instance_generation, seeds
from agora_frames.remembered import remembered

folder = Path(sys.argv[1])
log = os.open(folder / "asked.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

def script(messages, sampling):
    seed = sampling["seed"]
    os.write(log, f"{seed}\\n".encode())
    if seed % 6 == 0:
        return "no form"
    if seed % 11 == 0:
        return failing("truncated", text="cut sh")
    return f"What is {seed % 200}?\\nOUTPUT: We add.\\n[RESULT] {seed} [/RESULT]"

model = remembered(scripted(script, delay_s=0.004), ledger=Ledger(folder / "ledger"))
stage = instance_generation(backend=model, rows=int(sys.argv[2]), round_size=10)
print("ready", flush=True)
stage(seeds()).write_parquet(folder / "done.parquet")
"""


@contextmanager
def running(folder: Path, rows: int) -> Iterator[subprocess.Popen[str]]:
    """A process that is about to ask."""
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-c", RUN, str(folder), str(rows)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process


def asked(folder: Path) -> Counter[str]:
    log = folder / "asked.log"
    return Counter(log.read_text().split()) if log.exists() else Counter()


def finished(folder: Path, rows: int = ROWS) -> pl.DataFrame:
    """What a process that nobody disturbs ends with."""
    with running(folder, rows) as process:
        _, said = process.communicate(timeout=120)
    assert (process.returncode, said) == (0, "")
    return pl.read_parquet(folder / "done.parquet")


def killed(folder: Path, chance: random.Random) -> bool:
    """Starts a run and kills it at some instant; says whether it was the kill that ended it."""
    with running(folder, ROWS) as process:
        until = asked(folder).total() + chance.randrange(25)
        while asked(folder).total() < until and process.poll() is None:
            time.sleep(0.001)
        time.sleep(chance.uniform(0, 0.01))
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
    return process.returncode == -signal.SIGKILL


def test_a_growing_run_killed_at_ten_instants_ends_like_one_that_never_was(tmp_path: Path) -> None:
    whole = finished(tmp_path / "whole")
    needed = asked(tmp_path / "whole")
    assert set(needed.values()) == {1} and needed.total() == whole.height
    counts = Counter(whole.select(outcome(whole)).to_series())
    assert counts["accepted"] == ROWS and counts["rejected"] and counts["failed"]
    assert whole["duplicate_of"].count() and whole["round"].n_unique() > 3

    chance, kills = random.Random(20261125), 0
    while kills < KILLS:
        before = asked(tmp_path / "killed")
        known = Ledger(tmp_path / "killed" / "ledger").frame().height
        kills += killed(tmp_path / "killed", chance)
        more = Ledger(tmp_path / "killed" / "ledger").frame().height - known
        assert (asked(tmp_path / "killed") - before).total() <= more + 1, "more was lost than the one call in flight"
    final = finished(tmp_path / "killed")
    assert_frame_equal(final, whole)
    paid = asked(tmp_path / "killed")
    assert paid.keys() == needed.keys()
    assert paid.total() <= needed.total() + kills
    counts_after = Counter(final.select(outcome(final)).to_series())
    assert counts_after == counts and counts_after.total() == final.height


def test_a_killed_run_that_goes_on_with_more_rows_ends_like_one_that_wanted_them_at_once(tmp_path: Path) -> None:
    more = ROWS + 30
    whole = finished(tmp_path / "whole", more)
    chance, kills = random.Random(7), 0
    while kills < 3:
        kills += killed(tmp_path / "killed", chance)
    assert_frame_equal(finished(tmp_path / "killed", more), whole)
    needed, paid = asked(tmp_path / "whole"), asked(tmp_path / "killed")
    assert paid.keys() == needed.keys() and paid.total() <= needed.total() + kills

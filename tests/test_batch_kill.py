"""Batches are submitted once, whenever the process is killed that submits them; a real one, by a real SIGKILL."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from batch_server import After, BatchServer, batch_server
from polars.testing import assert_frame_equal

from agora_frames.backends.openai_batch import openai_batch
from agora_frames.ledger import Ledger
from agora_frames.ledger.notes import notes_beside
from agora_frames.remembered import remembered
from agora_frames.stages.generate import generate_column

pytestmark = pytest.mark.slow

ROWS = 7
RUN = """
import sys
from pathlib import Path
import polars as pl
from agora_frames.backends.openai_batch import openai_batch
from agora_frames.ledger import Ledger
from agora_frames.remembered import remembered
from agora_frames.stages.generate import generate_column

folder, url = Path(sys.argv[1]), sys.argv[2]
names = [f"r{n}" for n in range(ROWS)]
df = pl.DataFrame({"row_id": names, "prompt": names})
often = {"poll_s": 0.02, "longest_poll_s": 0.05}
model = openai_batch("tiny", base_url=url, api_key="secret", prices=(1, 2), max_requests=3, **often)
backend = remembered(model, ledger=Ledger(folder / "ledger"))
print("ready", flush=True)
generate_column(df, backend=backend, max_tokens=5).write_parquet(folder / "done.parquet")
""".replace("ROWS", str(ROWS))
ONCE = Counter(f"r{n}" for n in range(ROWS))


@contextmanager
def running(folder: Path, url: str) -> Iterator[subprocess.Popen[str]]:
    """A process that is about to ask."""
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-c", RUN, str(folder), url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        try:
            yield process
        finally:
            process.kill()


def here(folder: Path, url: str) -> pl.DataFrame:
    """The same run, in this process."""
    names = [f"r{n}" for n in range(ROWS)]
    model = openai_batch(
        "tiny", base_url=url, api_key="secret", prices=(1, 2), max_requests=3, poll_s=0.02, longest_poll_s=0.05
    )
    backend = remembered(model, ledger=Ledger(folder / "ledger"))
    return generate_column(pl.DataFrame({"row_id": names, "prompt": names}), backend=backend, max_tokens=5)


def same(one: pl.DataFrame, other: pl.DataFrame) -> None:
    """Cell for cell; the address is that of another server, so the key is another."""
    fields = ["completion_tokens", "cost_usd", "finish_reason", "sampling"]
    shown = [
        frame.drop("completion_call").with_columns(frame["completion_call"].struct.unnest().select(fields))
        for frame in (one, other)
    ]
    assert_frame_equal(*shown)


class Killing:
    """Kills the process at the nth of some call: before it is done, or when it is done and nobody told."""

    def __init__(self, call: str, nth: int, *, after: bool = False) -> None:
        self.call, self.nth, self.after = call, nth, after
        self.arrived, self.dead = threading.Event(), threading.Event()

    def __call__(self, call: str, before: int) -> Any:
        if (call, before) != (self.call, self.nth):
            return None
        return After(self.hold) if self.after else self.hold

    def hold(self) -> None:
        self.arrived.set()
        assert self.dead.wait(60)


def killed(folder: Path, server: BatchServer, killing: Killing) -> None:
    server.faults = killing
    with running(folder, server.url) as process:
        assert killing.arrived.wait(60), process.communicate()
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> pl.DataFrame:
    with batch_server() as server:
        return here(tmp_path_factory.mktemp("undisturbed"), server.url)


# Which of which calls, and whether it is done by then; from the first upload to the last result.
STAGES = [
    *(("POST /files", 0, False), ("POST /files", 2, True)),
    *(("POST /batches", 0, False), ("POST /batches", 0, True), ("POST /batches", 2, True)),
    *(("GET /batches/ID", 0, False), ("GET /batches/ID", 7, True)),
    *(("GET /files/ID/content", 0, False), ("GET /files/ID/content", 1, True)),
]


@pytest.mark.parametrize(("call", "nth", "after"), STAGES, ids=str)
def test_a_run_that_was_killed_is_taken_up_and_nothing_is_begun_twice(
    tmp_path: Path, undisturbed: pl.DataFrame, call: str, nth: int, after: bool
) -> None:
    with batch_server() as server:
        killing = Killing(call, nth, after=after)
        killed(tmp_path, server, killing)
        killing.dead.set()
        time.sleep(0.1)  # in which a call that was under way is done, without the one who made it
        same(here(tmp_path, server.url), undisturbed)
        assert server.begun == server.paid == ONCE
    ledger = Ledger(tmp_path / "ledger")
    assert ledger.frame().height == ROWS
    assert notes_beside(ledger.place, "batches").names() == []


@pytest.mark.parametrize("then", ["GET /batches", "DELETE /files/ID", "POST /batches", "GET /files/ID/content"])
def test_a_submission_that_arrives_late_is_found_or_comes_to_nothing(
    tmp_path: Path, undisturbed: pl.DataFrame, then: str
) -> None:
    """The process dies while its submission is on its way; that arrives when the next run is at some call."""
    with batch_server() as server:
        killing = Killing("POST /batches", 0)
        killed(tmp_path, server, killing)
        told: list[str] = []

        def arrive(call: str, before: int) -> Any:
            if call == then and not told:
                told.append(call)

                def late() -> None:
                    killing.dead.set()
                    time.sleep(0.2)

                return After(late) if then == "GET /batches" else late
            return None

        server.faults = arrive
        same(here(tmp_path, server.url), undisturbed)
        assert told == [then]
        assert server.begun == server.paid == ONCE


def test_it_may_be_killed_again_and_again_at_any_moment(tmp_path: Path, undisturbed: pl.DataFrame) -> None:
    rng, kills = random.Random(5), 0
    instants = [0.0, *(rng.uniform(0.0, 0.6) for _ in range(4))]  # no machine is done before the first
    with batch_server() as server:
        for instant in instants:
            with running(tmp_path, server.url) as process:
                try:
                    process.wait(timeout=instant)
                    break
                except subprocess.TimeoutExpired:
                    process.kill()
                    kills += 1
        same(here(tmp_path, server.url), undisturbed)
        assert kills > 0
        assert server.begun == server.paid == ONCE


def test_two_processes_at_the_same_time_begin_nothing_twice(tmp_path: Path, undisturbed: pl.DataFrame) -> None:
    with batch_server() as server:
        with running(tmp_path / "a", server.url) as one:
            (tmp_path / "b").mkdir()
            (tmp_path / "b" / "ledger").symlink_to(tmp_path / "a" / "ledger")
            with running(tmp_path / "b", server.url) as other:
                for process in (one, other):
                    _, told = process.communicate(timeout=120)
                    assert process.returncode == 0, told
        assert server.begun == server.paid == ONCE
    for folder in ("a", "b"):
        same(pl.read_parquet(tmp_path / folder / "done.parquet"), undisturbed)
    assert Ledger(tmp_path / "a" / "ledger").frame().height == ROWS


def test_two_processes_that_take_up_parts_of_the_same_batch_record_it_once(tmp_path: Path) -> None:
    """The first dies; the second and the third ask for different rows of its one batch, at the same time."""
    part = RUN.replace('names = [f"r{n}" for n in range(7)]', "names = sys.argv[3].split()").replace(
        "max_requests=3", "max_requests=9"
    )
    whole = " ".join(ONCE)

    def begin(names: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", part, str(tmp_path), server.url, names]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    with batch_server(steps=("validating", "in_progress", *["in_progress"] * 40, "completed")) as server:
        server.faults = killing = Killing("GET /batches/ID", 2)
        with begin(whole) as first:
            assert killing.arrived.wait(60)
            first.kill()
        killing.dead.set()
        server.faults = lambda call, before: None
        with begin("r0 r1") as second, begin("r4 r5") as third:
            for process in (second, third):
                _, told = process.communicate(timeout=120)
                assert process.returncode == 0, told
        assert server.begun == server.paid == ONCE
    assert Ledger(tmp_path / "ledger").frame().height == ROWS

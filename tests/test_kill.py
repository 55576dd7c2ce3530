"""The promises of the ledger, kept by real processes that are killed and interrupted, and servers that fail."""

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
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal
from servers import ChatServer, Fault, chat_server

from agora_frames.backends.openai_chat import OpenAIChat, openai_chat
from agora_frames.errors import EndpointError
from agora_frames.frames import CALL
from agora_frames.ledger import Ledger
from agora_frames.remembered import remembered
from agora_frames.stages.generate import generate_column

pytestmark = pytest.mark.slow

CONCURRENCY = 4
ROWS, SAMPLES = 60, 2

# What each process runs: the same stage over the same rows, on one ledger. `ready` is printed when all is imported.
RUN = """
import os, sys
from pathlib import Path
import polars as pl
from agora_frames.backends.openai_chat import openai_chat
from agora_frames.backends.scripted import failing, scripted
from agora_frames.ledger import Ledger
from agora_frames.remembered import remembered
from agora_frames.stages.generate import generate_column

folder, url = Path(sys.argv[1]), sys.argv[2]
log = os.open(folder / "asked.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

def script(messages, sampling):
    prompt = messages[-1]["content"]
    os.write(log, f"{prompt} {sampling['seed']}\\n".encode())
    good = {"text": prompt, "cost_usd": 0.1}
    kinds = [failing("timeout"), failing("truncated", text=prompt), failing("refused"), good]
    return [failing("rate_limited"), kinds[sampling["seed"] % 4]] if sampling["seed"] % 3 == 0 else good

if url:
    model = openai_chat("tiny", base_url=url, api_key="secret", concurrency=CONCURRENCY, prices=(1, 3))
else:
    model = scripted(script, delay_s=0.004)
names = [f"r{n}" for n in range(ROWS)]
df = pl.DataFrame({"row_id": names, "prompt": names})
backend = remembered(model, ledger=Ledger(folder / "ledger"))
print("ready", flush=True)
done = generate_column(df, backend=backend, temperature=1, samples=SAMPLES)
done.write_parquet(folder / "done.parquet")
"""
for name in ("CONCURRENCY", "ROWS", "SAMPLES"):
    RUN = RUN.replace(name, str(globals()[name]))


@contextmanager
def running(folder: Path, url: str = "") -> Iterator[subprocess.Popen[str]]:
    """A process that is about to ask."""
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-c", RUN, str(folder), url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process


def done(folder: Path, url: str = "") -> pl.DataFrame:
    """What a process that nobody disturbs ends with."""
    with running(folder, url) as process:
        _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (0, "")
    return pl.read_parquet(folder / "done.parquet")


def signalled(process: subprocess.Popen[str], number: signal.Signals) -> bool:
    """Sends the signal unless the process is faster; says whether it was what ended it."""
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    # A library in whose code the interrupt was raised may have made another exception of it: the exit code is 1 then.
    ended = process.returncode == -number or (number == signal.SIGINT and "KeyboardInterrupt" in said)
    assert ended or process.returncode == 0, said
    return ended


def answered(folder: Path) -> set[tuple[str, int]]:
    """The draws that the ledger need not ask again."""
    ledger = Ledger(folder / "ledger")
    frame = ledger.frame()
    known = ledger.answers(frame["key"])["key"]
    return set(frame.filter(pl.col("key").is_in(known.implode())).select("row_id", "sample").rows())


def without_latency(df: pl.DataFrame) -> pl.DataFrame:
    """All but the seconds that a call took: a real server does not take the same twice."""
    kept = [field.name for field in CALL.fields if field.name != "latency_s"]
    return df.with_columns(pl.struct(pl.col("completion_call").struct.field(*kept)).alias("completion_call"))


def heard(chat: ChatServer, calls: int, *, process: subprocess.Popen[str]) -> None:
    """Waits until the server has heard so many calls in all, or the process has ended."""
    while chat.asked.total() < calls and process.poll() is None:
        time.sleep(0.001)


def at_rest(chat: ChatServer) -> None:
    """Waits until the server has heard all that a dead process had sent."""
    quiet = 0
    while quiet < 5:
        time.sleep(0.01)
        quiet = quiet + 1 if chat.in_flight == 0 else 0


def every_draw() -> list[str]:
    return [f"r{n}" for n in range(ROWS) for _ in range(SAMPLES)]


# Killed


def test_a_run_over_http_that_is_killed_again_and_again_ends_like_one_that_never_was(tmp_path: Path) -> None:
    chance = random.Random(20261122)
    kills = 0
    with chat_server(latency_s=0.02) as chat:
        while kills < 6:
            known, before = answered(tmp_path / "killed"), chat.asked.copy()
            with running(tmp_path / "killed", chat.url) as process:
                heard(chat, before.total() + chance.randrange(12), process=process)
                time.sleep(chance.uniform(0, 0.03))
                kills += signalled(process, signal.SIGKILL)
            at_rest(chat)
            asked, now_known = chat.asked - before, answered(tmp_path / "killed")
            assert known <= now_known, "a reply that was recorded is gone"
            assert asked.total() <= len(now_known - known) + CONCURRENCY, "more was lost than was in flight"
            open_draws = Counter(every_draw()) - Counter(row_id for row_id, _ in known)
            assert asked <= open_draws, "a reply that was recorded was asked for again"
        final = done(tmp_path / "killed", chat.url)
        assert chat.asked.total() > ROWS * SAMPLES, "no kill hit a call in flight: this test saw nothing"
        assert chat.asked.total() <= ROWS * SAMPLES + kills * CONCURRENCY
        model = model_of(chat, concurrency=CONCURRENCY, prices=(1, 3))
        df = rows(ROWS)
        whole = generate_column(df, backend=model, temperature=1, samples=SAMPLES)
    assert_frame_equal(without_latency(final), without_latency(whole), check_exact=True)
    assert final["completion"].to_list() == [row_id.upper() for row_id in every_draw()]


def test_a_run_of_scripted_replies_that_is_killed_again_and_again_ends_with_the_same_cells(tmp_path: Path) -> None:
    chance = random.Random(42)
    kills = 0
    while kills < 14:
        known = answered(tmp_path / "killed")
        with running(tmp_path / "killed") as process:
            time.sleep(chance.uniform(0, 0.1))
            kills += signalled(process, signal.SIGKILL)
        assert known <= answered(tmp_path / "killed"), "a reply that was recorded is gone"
    final = done(tmp_path / "killed")
    assert_frame_equal(final, done(tmp_path / "whole"), check_exact=True)
    asked = Counter((tmp_path / "killed" / "asked.log").read_text().splitlines())
    once = Counter((tmp_path / "whole" / "asked.log").read_text().splitlines())
    failures = final.filter(pl.col("completion_error").struct.field("kind") == "timeout").height
    assert set(asked) == set(once)
    # A failure is no answer, and may be asked again in each life; of all else, only the one call in flight.
    assert asked.total() <= once.total() + kills * (1 + failures)
    assert len(answered(tmp_path / "killed")) == ROWS * SAMPLES - failures


# Interrupted


def test_an_interrupted_run_settles_what_is_in_flight_and_loses_no_reply(tmp_path: Path) -> None:
    chance = random.Random(7)
    with chat_server(latency_s=0.02) as chat:
        for _ in range(4):
            before = chat.asked.total()
            with running(tmp_path, chat.url) as process:
                heard(chat, before + 1 + chance.randrange(12), process=process)
                time.sleep(chance.uniform(0, 0.03))
                assert signalled(process, signal.SIGINT), "the process was faster"
            at_rest(chat)
            # Every call that the server has heard of is in the ledger: none was in vain.
            assert Counter(row_id for row_id, _ in answered(tmp_path)) == chat.asked
        assert chat.asked.total() < ROWS * SAMPLES
        final = done(tmp_path, chat.url)
        assert chat.asked.total() == ROWS * SAMPLES
    assert final["completion"].to_list() == [row_id.upper() for row_id in every_draw()]


def test_an_interruption_is_told_as_one(tmp_path: Path) -> None:
    with chat_server(latency_s=0.1) as chat, running(tmp_path, chat.url) as process:
        heard(chat, 1, process=process)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGINT
    assert said.rstrip().endswith("KeyboardInterrupt")
    assert not (tmp_path / "done.parquet").exists()


def test_a_second_interruption_does_not_wait_for_what_is_in_flight(tmp_path: Path) -> None:
    with chat_server(latency_s=20) as chat, running(tmp_path, chat.url) as process:
        heard(chat, CONCURRENCY, process=process)
        begun = time.monotonic()
        process.send_signal(signal.SIGINT)
        time.sleep(0.5)  # a person does not press twice at once
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
        assert time.monotonic() - begun < 10
    assert process.returncode == -signal.SIGINT


# Ctrl-C comes while the reader is busy in Polars, which then raises it a second time. What is in flight ends later.
BUSY = """
import itertools, os, signal, sys, threading
from pathlib import Path
import polars as pl
from agora_frames.backends.chat import streamed
from agora_frames.frames import REQUESTS
from agora_frames.ledger import Ledger
from agora_frames.remembered import remembered

class Slow:
    endpoint = model = "slow"
    def answer(self, requests, *, desk):
        def work(put, stop):
            for which in ("first", "last"):
                reply = {"key": f"{which} {requests['key'].item()}"}
                desk.record(reply)
                put(reply)
                stop.wait(10)
        return streamed(work)

backend = remembered(Slow(), ledger=Ledger(Path(sys.argv[1])))
df = pl.DataFrame({"x": range(9)})
for n in range(20):
    requests = pl.DataFrame({name: [None] for name in REQUESTS}, schema=REQUESTS).with_columns(key=pl.lit(str(n)))
    timer = threading.Timer(0.003, os.kill, (os.getpid(), signal.SIGINT))
    try:
        for frame in backend(requests):
            timer.start()
            for _ in itertools.count():
                df.with_columns(y=pl.col("x") * 2)
    except KeyboardInterrupt:
        pass
"""


def test_an_interruption_that_polars_raises_twice_is_taken_as_one(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", BUSY, str(tmp_path)], check=True, timeout=60)
    assert Ledger(tmp_path).frame()["key"].to_list() == [
        f"{which} {n}" for n in range(20) for which in ("first", "last")
    ]


# Servers that fail


def model_of(chat: ChatServer, **options: Any) -> OpenAIChat:
    return openai_chat("tiny", base_url=chat.url, api_key="secret", pause_s=0.01, **options)


def rows(n: int) -> pl.DataFrame:
    names = [f"r{i}" for i in range(n)]
    return pl.DataFrame({"row_id": names, "prompt": names})


def test_a_storm_of_rate_limits_slows_a_run_and_drops_no_row(tmp_path: Path) -> None:
    with chat_server(latency_s=0.01, admits=3) as chat:
        backend = remembered(model_of(chat, concurrency=24), ledger=Ledger(tmp_path))
        final = generate_column(rows(60), backend=backend)
    assert final["completion"].to_list() == [f"R{n}" for n in range(60)]
    assert final["completion_error"].null_count() == 60
    attempts = backend.ledger.frame()
    limited = attempts.filter(pl.col("retried"))["error"].struct.field("kind")
    assert set(limited) == {"rate_limited"}
    assert len(limited) > 20, "there was no storm"
    assert attempts.height == chat.asked.total() == 60 + len(limited)


def test_an_endpoint_that_dies_in_the_middle_loses_nothing_and_the_run_can_go_on(tmp_path: Path) -> None:
    def dies(prompt: str, attempt: int) -> Fault:
        if prompt == "r20":
            chat.close()
            return "reset"
        return "ok"

    with chat_server(dies) as chat:
        model = model_of(chat, concurrency=4, outage_s=0.3)
        with pytest.raises(EndpointError, match=r"nobody answers at .* run again when it is"):
            generate_column(rows(50), backend=remembered(model, ledger=Ledger(tmp_path)))
    recorded = Ledger(tmp_path).frame().filter(~pl.col("retried"), pl.col("text").is_not_null())["row_id"].to_list()
    assert 10 < len(recorded) < 50
    port = int(chat.url.split(":")[2].removesuffix("/v1"))
    with chat_server(port=port) as again:
        final = generate_column(rows(50), backend=remembered(model_of(again), ledger=Ledger(tmp_path)))
    assert final["completion"].to_list() == [f"R{n}" for n in range(50)]
    assert not set(again.asked) & set(recorded)
    assert set(again.asked) | set(recorded) == {f"r{n}" for n in range(50)}

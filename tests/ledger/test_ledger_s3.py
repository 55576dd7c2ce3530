"""A ledger on a real S3 protocol over HTTP: several processes write, one is killed, and nothing is lost but 2 s."""

from __future__ import annotations

import importlib.util
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import ExitStack
from uuid import uuid4

import polars as pl
import pytest
from ledgers import Asked, prompts, run
from polars.testing import assert_frame_equal

from agora_frames.errors import StorageError
from agora_frames.ledger import Ledger
from agora_frames.ledger.places import Prefix
from agora_frames.ledger.upkeep import verify

LACKING = [name for name in ("moto", "s3fs", "flask") if importlib.util.find_spec(name) is None]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(LACKING), reason=f"no S3 to talk to without {LACKING}: pip install 'moto[server]' s3fs"),
]

# Each line tells what was written, and when; `write` returned before it was printed.
WRITES = """
    import sys, time
    from agora_frames.ledger import Ledger
    ledger = Ledger(sys.argv[1])
    for n in range(int(sys.argv[3])):
        ledger.write({"key": f"{sys.argv[2]}-{n}", "text": "x" * 1000})
        print(f"{sys.argv[2]}-{n}", time.time(), flush=True)
        time.sleep(0.01)
"""


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """The URL of a bucket on a server of its own."""
    import s3fs  # type: ignore[import-untyped]

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with pytest.MonkeyPatch.context() as patch, ExitStack() as stack:
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "hush-hush-hush",
            "AWS_DEFAULT_REGION": "us-east-1",
        }.items():
            patch.setenv(name, value)
        server = stack.enter_context(
            subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # its log fills a pipe
        )
        stack.callback(server.kill)
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                assert server.poll() is None
                time.sleep(0.05)
        s3fs.S3FileSystem.clear_instance_cache()
        s3fs.S3FileSystem().mkdir("ledgers")
        yield "s3://ledgers"


@pytest.fixture
def url(bucket: str) -> str:
    return f"{bucket}/{uuid4().hex}"


def writer(url: str, who: str, lines: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", textwrap.dedent(WRITES), url, who, str(lines)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_run_is_recorded_and_never_asked_again(url: str) -> None:
    script = Asked()
    first = run(Ledger(url), script, prompts(20))
    assert_frame_equal(run(Ledger(url), script, prompts(20)), first)
    assert len(script.prompts) == 20
    ledger = Ledger(url)
    assert ledger.frame().height == 20
    assert verify(ledger)["finding"].unique().to_list() == ["ok"]


def test_several_processes_write_and_one_is_killed_and_nothing_is_lost_but_the_last_two_seconds(url: str) -> None:
    with ExitStack() as stack:
        writers = {who: stack.enter_context(writer(url, who, 250)) for who in "ab"}
        victim = stack.enter_context(writer(url, "victim", 100_000))
        told: list[tuple[str, float]] = []
        assert victim.stdout is not None
        for line in victim.stdout:
            key, at = line.split()
            told.append((key, float(at)))
            if told[-1][1] - told[0][1] > 4:
                break
        killed_at = time.time()
        victim.kill()
        for who, process in writers.items():
            out, said = process.communicate(timeout=60)
            assert (process.returncode, out.count(f"{who}-")) == (0, 250), said
    keys = Ledger(url).frame()["key"].to_list()
    assert len(keys) == len(set(keys))
    assert {f"{who}-{n}" for who in "ab" for n in range(250)} <= set(keys)
    # 2 s until it is put, and as much for the put on a machine that has other things to do.
    assert {key for key, at in told if at < killed_at - 3} <= set(keys)
    assert sum(key.startswith("victim") for key in keys) < len(told) + 100


def test_objects_are_merged_by_two_at_once_and_nothing_is_lost_or_doubled(url: str) -> None:
    ledger = Ledger(url)
    assert isinstance(ledger.place, Prefix)
    for n in range(40):
        ledger.place.write(f"20260101T0000{n:02}000000-1-a.jsonl", b'{"key":"%d","text":"t","at":%d.0}\n' % (n, n))
    frame = ledger.frame()
    code = "import sys; from agora_frames.ledger import Ledger; Ledger(sys.argv[1]).compact()"
    running = [subprocess.Popen([sys.executable, "-c", code, url], stderr=subprocess.DEVNULL) for _ in range(2)]
    for process in running:
        process.wait(60)
    assert 0 in [process.returncode for process in running]  # the other may have found that files are gone
    assert_frame_equal(Ledger(url).frame(), frame)
    assert not [file for file in ledger.place.files() if file.name.endswith(".jsonl")]
    assert ledger.answers(pl.Series(["7"]))["text"].to_list() == ["t"]


def test_a_bucket_that_is_not_there_is_told_before_anything_is_asked(bucket: str) -> None:
    script = Asked()
    with pytest.raises(StorageError, match=r"'s3://no-such-bucket/ledger' cannot be written.*Nothing was asked"):
        run(Ledger("s3://no-such-bucket/ledger"), script, prompts(1))
    assert script.prompts == []


def test_no_secret_is_in_the_ledger_or_in_what_it_says(url: str) -> None:
    ledger = Ledger(url)
    run(ledger, Asked(), prompts(2))
    assert isinstance(ledger.place, Prefix)
    objects = b"".join(content.read() for _, content in ledger.place.opened(ledger.place.files()))
    assert "hush-hush-hush" not in f"{ledger!r} {ledger.path} {objects!r}"

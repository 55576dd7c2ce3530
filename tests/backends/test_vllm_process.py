"""The process of an embedded vLLM, as far as it goes without vLLM."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import psutil
import pytest

from agora_frames.backends.vllm_engine import vllm_engine
from agora_frames.backends.vllm_process import command_of, log_tail
from agora_frames.backends.vllm_server import _wait, serving
from agora_frames.cli import main
from agora_frames.errors import BackendError, BindError, MissingExtraError
from agora_frames.stages.generate import generate_column

without_vllm = pytest.mark.skipif(bool(importlib.util.find_spec("vllm")), reason="vLLM is installed here")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "tiny"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    return folder


@without_vllm
def test_without_vllm_the_first_request_says_how_to_install_it(model: Path) -> None:
    df = pl.DataFrame({"row_id": ["a"], "prompt": ["Hi"]})
    backend = vllm_engine(model)
    assert generate_column(df[:0], backend=backend).height == 0
    with pytest.raises(MissingExtraError, match=r"pip install 'agora-frames\[vllm\]'"):
        generate_column(df, backend=backend)


@without_vllm
def test_without_vllm_the_server_says_how_to_install_it(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(MissingExtraError), serving(str(model), port=0, log=tmp_path / "log"):
        pass
    assert main(["serve", str(model), "--port", "0"]) == 1
    assert "pip install 'agora-frames[vllm]'" in capsys.readouterr().err


def test_a_module_runs_in_another_process_wherever_it_is_started(tmp_path: Path) -> None:
    """And what lies in the working folder is not taken for a library."""
    (tmp_path / "polars.py").write_text("raise SystemExit('the wrong polars')")
    command, environment = command_of("agora_frames.cli", "recipes")
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert os.environ.get("PYTHONPATH", "") in environment["PYTHONPATH"]


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"options": ["--host", "0.0.0.0"]}, "may not hold '--host'"),
        ({"options": ["--port=9000"]}, "may not hold '--port=9000'"),
        ({"port": 65536}, "no port 65536"),
        ({"port": -1}, "no port -1"),
    ],
    ids=str,
)
def test_a_server_is_told_its_address_in_one_way_only(
    model: Path, tmp_path: Path, wrong: dict[str, Any], told: str
) -> None:
    with pytest.raises(BindError, match=told), serving(str(model), log=tmp_path / "log", **wrong):
        pass


def test_the_end_of_a_log_is_read_without_the_rest(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as log:
        log.truncate(1 << 40)  # more than there is memory
        log.seek(0, os.SEEK_END)
        log.write(b"ValueError: no")
    assert log_tail(tmp_path / "log").endswith("ValueError: no")


WATCHED = """
import os, subprocess, sys, threading, time
from agora_frames.backends.vllm_worker import watch
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
threading.Thread(target=watch, args=(os.getppid(),), daemon=True).start()
print(os.getpid(), child.pid, flush=True)
time.sleep(300)
"""
OWNER = f"""
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", {WATCHED!r}], start_new_session=True)
time.sleep(300)
"""


def test_a_process_and_its_children_end_when_their_owner_is_killed() -> None:
    """So that no engine and no server outlives a program that got a SIGKILL."""
    with subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        processes = [psutil.Process(int(pid)) for pid in owner.stdout.readline().split()]
        owner.kill()
        _, alive = psutil.wait_procs(processes, timeout=20)
    assert len(processes) == 2
    assert alive == []


def test_the_last_words_are_the_end_of_the_log(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("x" * 10_000 + "ValueError: no\n")
    said = log_tail(tmp_path / "log")
    assert said.endswith("ValueError: no")
    assert len(said) < 4_000
    assert log_tail(tmp_path / "none") == "(nothing)"


@pytest.mark.parametrize(
    ("code", "within_s", "how"),
    [
        ("import sys; sys.exit('no memory')", 60, "ended with 1"),
        ("import time; print('no memory', flush=True); time.sleep(60)", 1.5, "was not healthy in 1.5 s"),
    ],
    ids=["ended", "late"],
)
def test_a_server_that_does_not_start_is_an_error_with_its_last_words(
    tmp_path: Path, code: str, within_s: float, how: str
) -> None:
    log = tmp_path / "log"
    with log.open("wb") as said:
        process = subprocess.Popen([sys.executable, "-c", code], stdout=said, stderr=said)
    with pytest.raises(BackendError, match=f"(?s)server {how}.*no memory"):
        _wait(process, "http://127.0.0.1:9/health", log, within_s)
    process.kill()
    process.wait()

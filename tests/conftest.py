"""What holds for all tests: no other host is reached, nothing is random in CI, and the shared data are found."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import tiny_model
from hypothesis import HealthCheck, settings

from agora_frames.backends.vllm_engine import VllmEngine, vllm_engine

ROOT = Path(__file__).parents[1]

settings.register_profile(
    "agora",
    deadline=None,
    derandomize="CI" in os.environ,
    max_examples=40,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("agora")


@pytest.hookimpl(tryfirst=True)  # before pytest-socket reads its options
def pytest_configure(config: pytest.Config) -> None:
    config.option.allow_hosts = config.option.allow_hosts or "127.0.0.1,::1,localhost"
    config.option.allow_unix_socket = True


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests that talk to a paid endpoint may use the network, and run only when asked for: `-m live`.

    Those of vLLM run where it is installed, in an environment of its own.
    """
    asked = "live" in config.option.markexpr
    no_vllm = None if importlib.util.find_spec("vllm") else pytest.mark.skip(reason="no vLLM here: make test-vllm")
    no_gpu = pytest.mark.skip(reason="no GPU that torch can use here")
    for item in items:
        if no_vllm and item.get_closest_marker("vllm"):
            item.add_marker(no_vllm)
        elif item.get_closest_marker("gpu") and not _has_gpu():
            item.add_marker(no_gpu)
        if item.get_closest_marker("live"):
            item.add_marker(pytest.mark.enable_socket if asked else pytest.mark.skip(reason="not asked for: -m live"))


def _has_gpu() -> bool:
    if importlib.util.find_spec("torch") is None:
        return False
    import torch

    return torch.cuda.is_available()


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny Llama, for vLLM and transformers."""
    return tiny_model.build(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def vllm_tiny(tiny: Path) -> Iterator[VllmEngine]:
    """The one engine that all tests share which do not kill it: each start takes as long as a hundred tests."""
    backend = vllm_engine(tiny, **tiny_model.SETTINGS)
    yield backend
    backend.close()


@pytest.fixture(scope="session")
def served(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """What `agora serve` said, when vLLM's server is up for the same model; it is stopped, and must leave nothing."""
    log = tmp_path_factory.mktemp("server") / "server.log"
    program = "import sys; from agora_frames.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", program, "serve", str(tiny), "--port", "0", "--log", str(log)]
    command += [part for option in tiny_model.OPTIONS for part in ("--server-option", option)]
    # One thread, as the engine has: two spin at barriers on a busy machine, and take 5 times as long.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        yield [process.stdout.readline() for _ in range(3)]
        children = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        process.communicate(timeout=60)
    assert process.returncode == 143
    assert len(children) >= 2
    assert psutil.wait_procs(children, timeout=10)[1] == []


@pytest.fixture(scope="session")
def vllm_url(served: list[str]) -> str:
    """The address that `agora serve` tells."""
    return served[2].partition("connect('")[2].partition("'")[0]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of public data sets that are shared between projects, and not part of the repository."""
    folder = Path(os.environ.get("AGORA_SHARED_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no shared data at {folder}: set AGORA_SHARED_DATA")
    return folder

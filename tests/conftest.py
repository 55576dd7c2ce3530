"""What holds for all tests: no other host is reached, nothing is random in CI, and the shared data are found."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

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
    """Tests that talk to a paid endpoint may use the network, and run only when asked for: `-m live`."""
    asked = "live" in config.option.markexpr
    for item in items:
        if item.get_closest_marker("live"):
            item.add_marker(pytest.mark.enable_socket if asked else pytest.mark.skip(reason="not asked for: -m live"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of public data sets that are shared between projects, and not part of the repository."""
    folder = Path(os.environ.get("AGORA_SHARED_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no shared data at {folder}: set AGORA_SHARED_DATA")
    return folder

"""The benchmark's server does what it says, so that what is measured with it can be believed."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"

pytest.importorskip("uvloop")


@pytest.fixture(scope="module")
def scripts() -> Iterator[None]:
    """The scripts import each other from their own folder."""
    sys.path.insert(0, str(BENCHMARKS))
    yield
    sys.path.remove(str(BENCHMARKS))


@pytest.fixture(scope="module")
def behaviour(scripts: None) -> Any:
    return importlib.import_module("behaviour")


@pytest.fixture(scope="module")
def harness(scripts: None) -> Any:
    return importlib.import_module("harness")


def asked(server: Any, row: int, **body: Any) -> tuple[int, dict[str, Any], bytes]:
    """Status, headers and body of the answer to one request."""
    sent = {"model": "tiny", "messages": [{"role": "user", "content": f"Write a task. (request #{row}#)"}], **body}
    try:
        with urlopen(Request(f"{server.url}/chat/completions", data=json.dumps(sent).encode()), timeout=10) as answer:
            return answer.status, dict(answer.headers), answer.read()
    except HTTPError as exc:
        with exc:
            return exc.code, dict(exc.headers), exc.read()


def met(server: Any, row: int) -> str:
    """What became of one request, in a word."""
    try:
        status, headers, body = asked(server, row)
    except ConnectionResetError:
        return "reset"
    if status != 200:
        return f"{status}" if status != 429 or "retry-after" in headers else "429_bare"
    try:
        finish = json.loads(body)["choices"][0]["finish_reason"]
    except ValueError:
        return "malformed"
    return "truncated" if finish == "length" else "answered"


# Pure functions


def test_faults_come_at_about_their_rates_and_only_at_first_attempts(behaviour: Any) -> None:
    told = behaviour.Behaviour(faults={"429": 0.1, "reset": 0.05})
    planned = told.planned(10_000)
    assert planned.keys() == {"429", "reset"}
    assert 900 < planned["429"] < 1100 and 420 < planned["reset"] < 580
    assert {told.fault(row, 1) for row in range(1000)} == {None}


def test_latencies_of_a_heavy_tail_have_the_median_they_were_given(behaviour: Any) -> None:
    told = behaviour.Behaviour(latency_ms=200, sigma=1)
    latencies = sorted(told.latency_s(row, 0) for row in range(4001))
    assert latencies[2000] == pytest.approx(0.2, rel=0.1)
    assert latencies[2000 + 1365] / latencies[2000] == pytest.approx(2.718, rel=0.15), "one sigma up"
    assert told.latency_s(7, 0) == told.latency_s(7, 0) != told.latency_s(7, 1)


@pytest.mark.parametrize(
    ("latencies_s", "slots", "ideal_s"),
    [([1, 1, 1, 1], 2, 2), ([3, 1, 1, 1], 2, 3), ([1, 1, 1, 3], 2, 4), ([], 2, 0), ([5], 64, 5)],
)
def test_the_ideal_schedule_gives_each_row_to_the_slot_that_is_free_first(
    behaviour: Any, latencies_s: list[float], slots: int, ideal_s: float
) -> None:
    assert behaviour.ideal_s(latencies_s, slots) == ideal_s


def test_rates_that_make_no_sense_are_refused(behaviour: Any) -> None:
    assert behaviour.parse_faults("429=0.5,hang=0.1") == {"429": 0.5, "hang": 0.1}
    for given in ("teapot=0.1", "429=0.7,500=0.7", "429=-1"):
        with pytest.raises(ValueError, match="fault"):
            behaviour.parse_faults(given)


# The server


def test_the_server_answers_and_counts(harness: Any) -> None:
    with harness.running_server("--latency-ms", 1) as server:
        for row in (0, 1, 1):
            status, _, body = asked(server, row)
            assert status == 200
        answer, stats = json.loads(body), server.stats()
        assert answer["choices"][0]["message"]["content"].startswith("INSTRUCTION: Task 1: ")
        assert answer["usage"]["completion_tokens"] == 100
        assert (stats["requests"], stats["answered"], stats["rows_answered"]) == (3, 3, 2)
        assert (stats["rows_answered_twice"], stats["max_in_flight"], stats["connections"]) == (1, 1, 3)
        assert stats["completion_tokens"] == 300
        server.reset()
        assert server.stats()["requests"] == 0


def test_the_server_injects_the_fault_that_row_and_attempt_say(behaviour: Any, harness: Any) -> None:
    given = "429=0.15,429_bare=0.15,500=0.15,reset=0.15,truncated=0.15,malformed=0.15"
    told = behaviour.Behaviour(faults=behaviour.parse_faults(given))
    with harness.running_server("--latency-ms", 1, "--faults", given) as server:
        for row in range(40):
            assert met(server, row) == (told.fault(row, 0) or "answered")
        assert {met(server, row) for row in range(40)} == {"answered"}, "second attempts meet no fault"
        assert server.stats()["faults"] == told.planned(40)


def test_a_limit_of_requests_is_told_in_headers_and_is_no_attempt_at_the_row(harness: Any) -> None:
    with harness.running_server("--latency-ms", 1, "--rpm", 60, "--burst-s", 2, "--faults", "500=1") as server:
        statuses = [asked(server, 0)[0] for _ in range(2)]
        status, headers, _ = asked(server, 1)
        assert statuses == [500, 200]
        assert (status, headers["retry-after"], headers["x-ratelimit-remaining-requests"]) == (429, "1", "0")
        assert (server.stats()["turned_away"], server.stats()["faults"]) == (1, {"500": 1})


def test_a_reply_of_varying_length_keeps_below_max_tokens(harness: Any) -> None:
    with harness.running_server("--latency-ms", 1, "--vary-tokens") as server:
        used = [json.loads(asked(server, n, max_tokens=9)[2])["usage"]["completion_tokens"] for n in range(30)]
    assert len(set(used)) > 4 and min(used) >= 1 and max(used) <= 9


def test_a_server_that_is_started_again_goes_on_counting(harness: Any, tmp_path: Path) -> None:
    with harness.running_server("--latency-ms", 1, "--faults", "500=1", "--state", tmp_path / "state") as server:
        assert asked(server, 5)[0] == 500
        server.stop()
        server.start()
        assert asked(server, 5)[0] == 200, "its second attempt"
        assert server.stats()["requests"] == 2


# The runner


@pytest.mark.slow
def test_the_runner_measures_and_writes_its_table(tmp_path: Path) -> None:
    command = [sys.executable, str(BENCHMARKS / "calls.py"), "--quick", "--only", "kill", "--results", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode in (0, 1), done.stderr
    told = json.loads((tmp_path / "calls.json").read_text())
    measures = [found["measure"] for found in told["kill"]["findings"]]
    table = (tmp_path / "calls.md").read_text()
    assert all(f"| {measure} |" in table for measure in measures)
    assert any("rows lost, doubled, wrong" in measure for measure in measures)

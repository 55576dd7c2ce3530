"""Measures of what is promised when things go wrong: faults, kills, dead servers, limits and ceilings."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from behaviour import ASKED_AGAIN, Behaviour, ideal_s, parse_faults
from bench import Bench, Task, lost_and_doubled
from findings import Finding, at_least, at_most, equal, median
from harness import Server, running_server, told_by

__all__ = ["faults", "hung", "kill", "rate_limits", "restarted", "spend_ceiling"]

_NOTHING = "0, 0, 0"
_LOST = "rows lost, doubled, wrong"


def faults(bench: Bench) -> list[Finding]:
    """One request in eight goes wrong, each fault once."""
    given = "429=0.03,429_bare=0.02,500=0.02,reset=0.01,truncated=0.02,malformed=0.02"
    rows, found, bare_s = bench.rows(5000), [], []
    planned = Behaviour(faults=parse_faults(given)).planned(rows)
    again = sum(planned[kind] for kind in ASKED_AGAIN)
    with running_server("--latency-ms", 50, "--faults", given) as server:
        for _ in range(min(bench.rounds, 3)):
            folder = bench.fresh()
            ran = bench.once(Task("ours", rows, 64), server, folder)
            found.append((ran, *lost_and_doubled(folder / "out.parquet", rows)))
            bare_s.append(bench.once(Task("bare_aiohttp", rows, 64), server).stats["span_s"])
    _, said, told = found[-1]
    took_s = median(ran.stats["span_s"] for ran, *_ in found)
    what = f"faults (5% 429, 2% 500, 1% reset, 2% truncated, 2% malformed), {rows:,} rows"
    said = next((each for _, each, _ in found if each != _NOTHING), said)
    requests = [ran.stats["requests"] for ran, *_ in found]
    return [
        equal(f"{what}: {_LOST}", _NOTHING, said),
        equal(
            f"{what}: requests = rows + faults to ask again",
            rows + again,
            next((n for n in requests if n != rows + again), rows + again),
            requests=requests,
            planned=dict(planned),
        ),
        equal(
            f"{what}: accepted + rejected + failed, failed = truncated",
            f"{rows}, {planned['truncated']}",
            f"{told['accepted'] + told['rejected'] + told['failed']}, {told['failed']}",
            reasons=told["reasons"],
        ),
        at_most(
            f"{what}: time / bare aiohttp, which waits for each row alone",
            1.2,
            took_s / median(bare_s),
            beside=f"{took_s:.1f} / {median(bare_s):.1f} s",
        ),
    ]


def kill(bench: Bench) -> list[Finding]:
    """SIGKILL when half of the rows are answered, then the same command again."""
    rows, slots = bench.rows(1000), 64
    task, paid_again, said = Task("ours", rows, slots), [], _NOTHING
    with running_server("--latency-ms", 50) as server:
        for _ in range(bench.rounds):
            folder = bench.fresh()
            client = bench.client(task, server, folder)
            while client.running() and server.stats()["answered"] < rows // 2:
                time.sleep(0.005)
            client.kill()
            killed = client.finish()
            again = bench.once(task, server, folder)
            paid_again.append(killed.stats["requests"] + again.stats["requests"] - rows)
            each, _ = lost_and_doubled(folder / "out.parquet", rows)
            said = each if each != _NOTHING else said
    what = f"SIGKILL at half of {rows:,} rows, C={slots}, run again"
    return [
        at_most(f"{what}: requests made twice (in flight at the kill)", slots, max(paid_again), paid_again=paid_again),
        at_least(f"{what}: requests made twice, at least none", 0, min(paid_again)),
        equal(f"{what}: {_LOST}", _NOTHING, said),
    ]


def hung(bench: Bench) -> list[Finding]:
    """Some requests are never answered: only the time-out ends them."""
    rows, slots, timeout_s, behaviour = bench.rows(5000), 64, 5.0, Behaviour(faults={"hang": 0.01})
    attempts_s = [
        timeout_s + behaviour.latency_s(row, 1) if behaviour.fault(row, 0) else behaviour.latency_s(row, 0)
        for row in range(rows)
    ]
    folder = bench.fresh()
    with running_server("--latency-ms", 50, "--faults", "hang=0.01") as server:
        ran = bench.once(Task("ours", rows, slots), server, folder, timeout_s=timeout_s)
    what = f"1% of {rows:,} requests hang, timeout_s={timeout_s:g}, C={slots}"
    return _complete(what, folder, rows, ran.stats["span_s"], ideal_s(attempts_s, slots))


def restarted(bench: Bench) -> list[Finding]:
    """The server is gone for a while in the middle of a run."""
    rows, slots, away_s = bench.rows(6000), 64, 4.0 if bench.quick else 20.0
    latency_s, folder, state = 0.2, bench.fresh(), bench.folder / "server-state.json"
    state.unlink(missing_ok=True)
    with running_server("--latency-ms", latency_s * 1000, "--state", state) as server:
        client = bench.client(Task("ours", rows, slots), server, folder)
        while client.running() and server.stats()["answered"] < rows // 3:
            time.sleep(0.02)
        server.stop()
        back = threading.Timer(away_s, server.start)
        back.start()
        while client.running():
            time.sleep(0.05)
        back.join()
        ran = client.finish()
    what = f"the server is away for {away_s:g} s in {rows:,} rows, C={slots}"
    if ran.status:
        return [equal(f"{what}: exit status", 0, ran.status, beside=ran.words[-200:])]
    best_s = away_s + ideal_s([latency_s] * rows, slots)
    return _complete(what, folder, rows, ran.stats["span_s"], best_s)


def rate_limits(bench: Bench) -> list[Finding]:
    """A limit of requests and one of tokens, told in headers."""
    rows, per_minute, burst_s, found = max(200, bench.rows(500)), 1200, 5, []
    with running_server("--latency-ms", 50, "--rpm", per_minute, "--burst-s", burst_s) as server:
        best_s = (rows - per_minute * burst_s / 60) * 60 / per_minute
        found += _limited(bench, f"{per_minute:,} requests a minute", server, rows, best_s)
    with running_server("--latency-ms", 50) as server:
        ran = bench.once(Task("ours", rows, 64), server)
        tokens = ran.stats["prompt_tokens"] + ran.stats["completion_tokens"]
    tpm = round(tokens / rows * per_minute)
    with running_server("--latency-ms", 50, "--tpm", tpm, "--burst-s", burst_s) as server:
        best_s = (tokens - tpm * burst_s / 60) * 60 / tpm
        found += _limited(bench, f"{tpm:,} tokens a minute", server, rows, best_s)
    return found


def _limited(bench: Bench, limit: str, server: Server, rows: int, best_s: float) -> list[Finding]:
    folder = bench.fresh()
    ran = bench.once(Task("ours", rows, 64), server, folder)
    refused = ran.stats["refused"] / ran.stats["requests"]
    what = f"{limit}, 5 s of it at once, {rows:,} rows, C=64"
    return _complete(what, folder, rows, ran.stats["span_s"], best_s, beside=f"{refused:.1%} of requests met 429")


def _complete(what: str, folder: Path, rows: int, took_s: float, best_s: float, *, beside: str = "") -> list[Finding]:
    """Nothing lost, and not much more time than the limits allow."""
    said, _ = lost_and_doubled(folder / "out.parquet", rows)
    beside = f"{took_s:.1f} s, possible {best_s:.1f} s" + (f"; {beside}" if beside else "")
    return [
        equal(f"{what}: {_LOST}", _NOTHING, said),
        at_most(f"{what}: time / what is possible", 1.2, took_s / best_s, beside=beside),
    ]


def spend_ceiling(bench: Bench) -> list[Finding]:
    """Random small runs under a ceiling, with replies of varying length; the server's own count is what was paid."""
    runs = max(10, bench.rows(1000) // 10)
    with running_server("--latency-ms", 5, "--vary-tokens") as server:
        told = told_by("spend.py", "--url", server.url, "--runs", runs)
    used = told["used_when_stopped"]
    what = f"max_cost, {runs} random runs at C=64"
    least = "none was stopped" if used is None else f"stopped runs used {used:.0%} of theirs at least"
    return [
        at_most(f"{what}: US dollars above the ceiling", 0.0, max(0.0, told["excess_usd"]), beside=least, **told),
        equal(f"{what}: runs with a row without outcome", 0, told["rows_without_outcome"]),
    ]

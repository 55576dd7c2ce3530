"""Measures of speed: requests per second, CPU, memory, connections, and how well the slots are filled."""

from __future__ import annotations

import shutil

from behaviour import Behaviour, ideal_s
from bench import Bench, Task
from findings import Finding, at_least, at_most, equal, median
from harness import Ran, running_server, told_by

__all__ = ["adaptive", "big_ledger", "concurrency_64", "concurrency_256", "growth", "heavy_tail"]


def _rate(runs: list[Ran]) -> float:
    return median(ran.per_second for ran in runs)


def concurrency_64(bench: Bench) -> list[Finding]:
    """50 ms fixed, 64 at a time, against a hand-written client and the plain way."""
    rows, plain_rows, slots = bench.rows(5000), bench.rows(1000), 64
    ours, bare = Task("ours", rows, slots), Task("bare_aiohttp", rows, slots)
    plain = Task("plain_openai", plain_rows, slots)
    with running_server("--latency-ms", 50) as server:
        ran = bench.turns(server, [ours, bare, plain])
    rates = {task.client: [round(run.per_second) for run in runs] for task, runs in ran.items()}
    what = f"{rows:,} rows, C={slots}, 50 ms"
    our_rate, bare_rate, plain_rate = (_rate(ran[task]) for task in (ours, bare, plain))
    cpu = {task: median(run.cpu_s / task.rows * 1000 for run in runs) for task, runs in ran.items()}
    stats = [run.stats for run in ran[ours]]
    return [
        at_least(
            f"req/s, {what}: ours / bare aiohttp",
            0.90,
            our_rate / bare_rate,
            beside=f"{our_rate:.0f} / {bare_rate:.0f} req/s",
            per_second=rates,
        ),
        at_least(
            f"req/s, {what}: ours / plain AsyncOpenAI (which does {plain_rows:,} rows)",
            3.0,
            our_rate / plain_rate,
            beside=f"{our_rate:.0f} / {plain_rate:.0f} req/s",
        ),
        at_most(f"CPU s per 1,000 requests, start included, {what}", 0.6, cpu[ours], beside=f"plain {cpu[plain]:.2f}"),
        at_most(
            "the same: ours / bare aiohttp", 1.5, cpu[ours] / cpu[bare], beside=f"{cpu[ours]:.3f} / {cpu[bare]:.3f}"
        ),
        at_most(f"connections, {what}", slots + 2, max(told["connections"] for told in stats)),
        at_most(f"requests in flight, {what}", slots, max(told["max_in_flight"] for told in stats)),
    ]


def concurrency_256(bench: Bench) -> list[Finding]:
    """50 ms fixed, 256 at a time: the loop itself is what limits."""
    rows = bench.rows(5000)
    wide, narrow, bare = Task("ours", rows, 256), Task("ours", rows, 64), Task("bare_aiohttp", rows, 256)
    with running_server("--latency-ms", 50) as server:
        ran = bench.turns(server, [wide, bare, narrow])
    wide_rate, bare_rate, narrow_rate = (_rate(ran[task]) for task in (wide, bare, narrow))
    stats = [run.stats for run in ran[wide]]
    what = f"{rows:,} rows, C=256, 50 ms"
    rates = {f"{task.client} C={task.concurrency}": [round(run.per_second) for run in ran[task]] for task in ran}
    return [
        at_least(
            f"req/s, {what}: ours / bare aiohttp",
            0.80,
            wide_rate / bare_rate,
            beside=f"{wide_rate:.0f} / {bare_rate:.0f} req/s",
            per_second=rates,
        ),
        at_least(
            f"req/s, {what}: ours / ours at C=64", 1.0, wide_rate / narrow_rate, beside=f"{narrow_rate:.0f} at C=64"
        ),
        at_most(f"connections, {what}", 258, max(told["connections"] for told in stats)),
        at_most(f"requests in flight, {what}", 256, max(told["max_in_flight"] for told in stats)),
    ]


def heavy_tail(bench: Bench) -> list[Finding]:
    """Lognormal latencies: whoever waits for a batch loses."""
    rows, slots, behaviour = bench.rows(1000), 64, Behaviour(latency_ms=200, sigma=1)
    best_s = ideal_s((behaviour.latency_s(row, 0) for row in range(rows)), slots)
    ours, bare = Task("ours", rows, slots), Task("bare_aiohttp", rows, slots)
    with running_server("--latency-ms", behaviour.latency_ms, "--sigma", behaviour.sigma) as server:
        ran = bench.turns(server, [ours, bare])
    efficiency = {task: median(best_s / run.stats["span_s"] for run in runs) for task, runs in ran.items()}
    what = f"heavy tail (lognormal, median 200 ms, sigma 1), {rows:,} rows, C={slots}: ideal / ours"
    beside = f"ideal {best_s:.2f} s; bare aiohttp {efficiency[bare]:.3f}"
    return [at_least(what, 0.98, efficiency[ours], beside=beside)]


def adaptive(bench: Bench) -> list[Finding]:
    """A server that takes 32 at a time, and a client that is not told so."""
    rows = bench.rows(10_000)
    free, fixed = Task("ours", rows, 0), Task("ours", rows, 32)
    short = Bench(bench.folder, min(bench.rounds, 2), bench.quick, bench._numbers)
    with running_server("--latency-ms", 100, "--admit", 32) as server:
        ran = short.turns(server, [free, fixed])
    known_rate = _rate(ran[fixed])
    found_s = max(_found_at_s(run, 0.9 * known_rate) for run in ran[free])
    refused = max(run.stats["refused"] / run.stats["requests"] for run in ran[free])
    what = f"the server takes 32, ours adapts, {rows:,} rows, 100 ms"
    by_second = [run.stats["by_second"] for run in ran[free]]
    return [
        at_most(f"{what}: seconds until it is at 0.9 of that rate", 10, found_s, unit=" s", by_second=by_second),
        at_most(f"{what}: share of requests answered 429", 0.05, refused),
        at_least(
            f"{what}: req/s / ours fixed at 32", 0.9, _rate(ran[free]) / known_rate, beside=f"fixed {known_rate:.0f}"
        ),
    ]


def _found_at_s(run: Ran, rate: float) -> float:
    """The end of the first whole second in which so many were answered; the run's length if there is none."""
    seconds = sorted((int(second), counts) for second, counts in run.stats["by_second"].items())
    return next(
        (float(second + 1) for second, (_, answered, *_) in seconds if answered >= rate), run.stats["span_s"] + 1
    )


def growth(bench: Bench) -> list[Finding]:
    """Memory as rows grow, and the same run again when all is in the ledger."""
    found = []
    for full, most_mb, most_cpu_s in ((5000, 130, 1.2), (50_000, 300, 2.0)):
        task, folder = Task("ours", bench.rows(full), 64), bench.fresh()
        with running_server("--latency-ms", 5) as server:
            first = bench.once(task, server, folder)
            again = [bench.once(task, server, folder) for _ in range(bench.rounds)]
        shutil.rmtree(folder)
        what = f"{task.rows:,} rows"
        asked = sum(run.stats["requests"] for run in again)
        loaded = sorted({name for run in again for name in run.told["http"]})
        again_mb = max(run.peak_mb for run in again)
        found += [
            at_most(
                f"peak RSS, {what}, C=64", most_mb, first.peak_mb, unit=" MB", beside=f"run again {again_mb:.0f} MB"
            ),
            equal(f"{what}, all in the ledger: requests", 0, asked),
            at_most(f"{what}, all in the ledger: CPU s", most_cpu_s, median(run.cpu_s for run in again), unit=" s"),
            equal(f"{what}, all in the ledger: HTTP clients imported", "none", ", ".join(loaded) or "none"),
        ]
    return found


def big_ledger(bench: Bench) -> list[Finding]:
    """A ledger that has grown: of the rows asked for some are among a million other replies, the rest is new."""
    replies, rows, folder = bench.rows(1_000_000), bench.rows(1000), bench.fresh()
    with running_server("--latency-ms", 50) as server:
        bench.once(Task("ours", rows // 2, 64), server, folder)
        told_by("fill_ledger.py", folder / "answers" / "ledger", "--replies", replies)
        # One process wrote a million replies, as no run does: the first run after it may have to put them in order.
        first = bench.once(Task("ours", rows // 2 + 10, 64), server, folder)
        second = bench.once(Task("ours", rows, 64), server, folder)
    shutil.rmtree(folder)
    what = f"{rows:,} rows on a ledger of {replies:,} replies of 1 KB"
    beside = f"{_lookup_s(first):.1f} s, {first.peak_mb:.0f} MB in the first run after the million"
    return [
        at_most(f"{what}: peak RSS", 400, second.peak_mb, unit=" MB"),
        at_most(f"{what}: look-up, to the first request", 3.0, _lookup_s(second), unit=" s", beside=beside),
        equal(f"{what}: requests", rows - rows // 2 - 10, second.stats["requests"]),
    ]


def _lookup_s(run: Ran) -> float:
    return float(run.stats["first_at"] - run.told["asked_at"])

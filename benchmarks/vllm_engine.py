"""The embedded vLLM against `vllm.LLM.chat`: the time for the same prompts, and how soon each reply is durable.

    .venv-vllm/bin/python benchmarks/vllm_engine.py --model FOLDER

Both engines run in a process of their own with the same arguments, and both are asked by a program that waits: ours by
`generate_column` with a ledger, the other by one `LLM.chat` with the same conversations and seeds. They take turns,
with other prompts each round, so that no cache of prefixes helps either; how many texts differ is counted (none on a
processor; on a GPU the sums depend on what is computed together). Then the cache is looked at: prompts that
share their beginnings in groups, shuffled, asked in the order of the frame and in that of their beginnings.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import polars as pl
import psutil

from agora_frames.backends.vllm_engine import VllmEngine, _Call, vllm_engine
from agora_frames.backends.vllm_process import command_of
from agora_frames.hashing import seed_of
from agora_frames.ledger import Ledger
from agora_frames.remembered import remembered
from agora_frames.stages.generate import generate_column

HERE = Path(__file__).resolve().parent
WORDS = [
    "river",
    "stone",
    "market",
    "letter",
    "garden",
    "winter",
    "engine",
    "violin",
    "harbour",
    "lantern",
    "meadow",
    "copper",
    "window",
    "thunder",
]
MARK, DURABLE_WITHIN_S = 1.10, 1.0

# The other side: one chat for each line that comes in, its seconds out.
DIRECT = """
import json, os, sys, time
from agora_frames.backends.vllm_worker import ENGINE_ON_CPU, on_cpu, prepare
out = os.fdopen(os.dup(1), "w"); os.dup2(2, 1)
prepare()
from vllm import LLM, SamplingParams
llm = LLM(**{**(ENGINE_ON_CPU if on_cpu() else {}), **json.loads(sys.argv[1])})
print("ready", file=out, flush=True)
for line in sys.stdin:
    asked = json.loads(line)
    settings = {name: asked[name] for name in ("temperature", "max_tokens")}
    params = [SamplingParams(**settings, seed=seed) for seed in asked["seeds"]]
    begun = time.perf_counter()
    outputs = llm.chat([[{"role": "user", "content": p}] for p in asked["prompts"]], params, use_tqdm=False)
    seconds = time.perf_counter() - begun
    print(json.dumps({"s": seconds, "texts": [o.outputs[0].text for o in outputs]}), file=out, flush=True)
"""


def prompts(round_: int, rows: int) -> pl.DataFrame:
    """Prompts of about 60 tokens, no two of which begin alike."""
    rng = random.Random(round_)
    texts = [f"{rng.random()} {' '.join(rng.choices(WORDS, k=12))}: tell more." for _ in range(rows)]
    return pl.DataFrame({"row_id": [f"{round_}-{n}" for n in range(rows)], "prompt": texts})


class Direct:
    """`LLM.chat` in a process of its own."""

    def __init__(self, arguments: dict[str, Any]) -> None:
        _, environment = command_of("-")
        self.process = subprocess.Popen(
            [sys.executable, "-c", DIRECT, json.dumps(arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**environment, "OMP_NUM_THREADS": "1"},
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"

    def ask(self, df: pl.DataFrame, settings: dict[str, Any]) -> tuple[float, list[str]]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        seeds = [seed_of(0, row_id, 0) for row_id in df["row_id"]]
        print(
            json.dumps({"prompts": df["prompt"].to_list(), "seeds": seeds, **settings}),
            file=self.process.stdin,
            flush=True,
        )
        told = json.loads(self.process.stdout.readline())
        return told["s"], told["texts"]


def ours(
    backend: VllmEngine, df: pl.DataFrame, settings: dict[str, Any], folder: Path
) -> tuple[float, float, list[str], list[float]]:
    """Seconds in all, and until the last reply was durable; the texts; and for each reply the seconds from when the
    engine had it until it was durable."""
    waited: list[float] = []
    settled = [0.0]
    settle = _Call._settle

    def watched(call: Any, told: dict[str, Any]) -> None:
        settle(call, told)
        waited.append(time.time() - told["at"])
        settled[0] = time.perf_counter()

    _Call._settle = watched  # type: ignore[method-assign]
    try:
        begun = time.perf_counter()
        done = generate_column(df, backend=remembered(backend, ledger=Ledger(folder)), **settings)
        seconds = time.perf_counter() - begun
    finally:
        _Call._settle = settle  # type: ignore[method-assign]
    return seconds, settled[0] - begun, done["completion"].to_list(), waited


def cached_share(backend: VllmEngine, groups: int, each: int, words: int) -> float:
    """How many of the prompts' tokens were in the cache: groups that begin alike, shuffled."""
    rng = random.Random(backend.by_prefix)
    starts = [f"{rng.random()} " + " ".join(rng.choices(WORDS, k=words)) for _ in range(groups)]
    texts = [f"{start} {n}" for start in starts for n in range(each)]
    random.Random(7).shuffle(texts)
    df = pl.DataFrame({"row_id": [f"c{n}" for n in range(len(texts))], "prompt": texts})
    call = generate_column(df, backend=backend, max_tokens=1, temperature=0)["completion_call"].struct
    return int(call.field("cached_tokens").sum()) / int(call.field("prompt_tokens").sum())


def cpu_s(pid: int | None) -> float:
    """Seconds of CPU that a process has used; None is this one."""
    used = psutil.Process(pid).cpu_times()
    return used.user + used.system


def compared(pairs: list[tuple[float, float]]) -> dict[str, Any]:
    """Both sides, and how they stand to each other."""
    theirs, ours_ = (statistics.median(side) for side in zip(*pairs, strict=True))
    ratios = sorted(two / one for one, two in pairs)
    return {
        "LLM.chat": round(theirs, 3),
        "ours": round(ours_, 3),
        "ratio_of_medians": round(ours_ / theirs, 3),
        "median_of_ratios": round(statistics.median(ratios), 3),
        "ratios": [round(ratio, 2) for ratio in ratios],
    }


def measured(options: argparse.Namespace) -> dict[str, Any]:
    settings = {"temperature": 0.8, "max_tokens": options.max_tokens}
    arguments: dict[str, Any] = {"dtype": options.dtype, "max_model_len": 512, "kv_cache_memory_bytes": options.cache}
    backend = vllm_engine(options.model, **arguments, n_threads=1, engine_args={"enforce_eager": True})
    with ThreadPoolExecutor() as pool:  # both start at the same time
        started = pool.submit(generate_column, prompts(-1, 1), backend=backend, **settings)
        direct = Direct({"model": options.model, **arguments, "enforce_eager": True})
        started.result()
    rounds: list[tuple[float, float]] = []
    durable: list[tuple[float, float]] = []
    cpu: list[tuple[float, float]] = []
    waits: list[float] = []
    differ: list[int] = []
    with tempfile.TemporaryDirectory() as folder:
        for n in range(options.rounds + 1):  # the first one warms up
            df = prompts(n, options.rows)
            begun = cpu_s(direct.process.pid)
            one, theirs = direct.ask(df, settings)
            their_cpu, begun = cpu_s(direct.process.pid) - begun, cpu_s(backend.engine.pid) + cpu_s(None)
            two, last, texts, waited = ours(backend, df, settings, Path(folder) / str(n))
            our_cpu = cpu_s(backend.engine.pid) + cpu_s(None) - begun
            if n:
                differ.append(sum(text != other for text, other in zip(texts, theirs, strict=True)))
                rounds.append((one, two))
                durable.append((one, last))
                cpu.append((their_cpu, our_cpu))
                waits += waited
                told = f"LLM.chat {one:.2f} s, {their_cpu:.2f} of CPU; "
                told += f"ours {two:.2f} s ({last:.2f} to the last reply), {our_cpu:.2f} of CPU"
                print(f"round {n}: {told}", file=sys.stderr, flush=True)
    direct.process.terminate()
    found = {
        "model": Path(options.model).name,
        "rows": options.rows,
        "max_tokens": options.max_tokens,
        "seconds": compared(rounds),
        "seconds_until_the_last_reply_is_durable": compared(durable),
        "cpu_seconds": compared(cpu),
        "durable_after_s": {"median": statistics.median(waits), "most": max(waits)},
        "texts_that_differ": differ,
        "python": platform.python_version(),
    }
    object.__setattr__(backend, "in_flight", options.cached_in_flight)
    for by_prefix in (False, True):
        object.__setattr__(backend, "by_prefix", by_prefix)
        found["cached_by_prefix" if by_prefix else "cached_in_frame_order"] = cached_share(backend, 400, 4, 100)
    backend.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a folder; `python tests/tiny_model.py FOLDER` makes one")
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--max-tokens", type=int, default=32)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--cache", type=int, default=1 << 26, help="bytes for keys and values")
    parser.add_argument("--cached-in-flight", type=int, default=64)
    found = measured(parser.parse_args())
    path = HERE / "results" / f"vllm_engine_{found['model']}.json"
    path.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))
    print("ratio", "reached" if found["seconds"]["median_of_ratios"] <= MARK else "MISSED", MARK)
    print("durable", "reached" if found["durable_after_s"]["most"] <= DURABLE_WITHIN_S else "MISSED", DURABLE_WITHIN_S)


if __name__ == "__main__":
    main()

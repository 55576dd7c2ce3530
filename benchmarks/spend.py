"""Many small random runs under a spend ceiling; what the server counted is held against what was allowed.

    python benchmarks/spend.py --url http://127.0.0.1:PORT/v1 --runs 100

The server runs with `--vary-tokens`. Prints one line of JSON: the largest excess over a ceiling in US dollars, the
largest as a share of one reply's highest price, and how much of the ceilings was used.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl

import agora_frames as af

_CONCURRENCY = 64


def asked(url: str, page: str, body: bytes | None = None) -> dict[str, Any]:
    address = url.removesuffix("/v1") + "/" + page
    with urllib.request.urlopen(urllib.request.Request(address, data=body), timeout=30) as answer:
        told: dict[str, Any] = json.load(answer)
    return told


def one_run(url: str, chance: random.Random, folder: Path) -> dict[str, Any]:
    """One run: how many rows, how long, at what price and under which ceiling is drawn."""
    rows, max_tokens = chance.randint(20, 300), chance.randint(10, 400)
    prices = (chance.uniform(0.1, 5.0), chance.uniform(0.1, 20.0))
    prompts = [f"Say something of {n}, {'at length, ' * chance.randint(0, 60)} #{n}#" for n in range(rows)]
    dearest = (max(map(len, prompts)) * prices[0] + max_tokens * prices[1]) / 1e6
    # From a few replies to more than all of them.
    ceiling = dearest * chance.uniform(2, rows)
    asked(url, "reset", b"")
    backend = af.connect(
        url, model="tiny", concurrency=_CONCURRENCY, ledger=folder, prices=prices, max_cost=ceiling, timeout_s=30
    )
    df = pl.DataFrame({"prompt": prompts}).pipe(af.with_row_ids)
    try:
        done = af.generate_column(df, temperature=0.7, max_tokens=max_tokens, backend=backend)
        kinds = Counter(error["kind"] for error in done["completion_error"].drop_nulls())
        whole = done["completion"].drop_nulls().len() + sum(kinds.values()) == rows
    except af.AgoraError as exc:
        kinds, whole = Counter({type(exc).__name__: 1}), True
    stats = asked(url, "stats")
    paid = (stats["prompt_tokens"] * prices[0] + stats["completion_tokens"] * prices[1]) / 1e6
    return {"rows": rows, "ceiling": ceiling, "paid": paid, "dearest": dearest, "kinds": kinds, "whole": whole}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", required=True)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=20261122)
    given = parser.parse_args()
    chance = random.Random(given.seed)
    with tempfile.TemporaryDirectory() as folder:
        runs = [one_run(given.url, chance, Path(folder) / str(n)) for n in range(given.runs)]
    kinds = sum((run["kinds"] for run in runs), Counter())
    stopped = [run for run in runs if run["kinds"]]
    told = {
        "runs": len(runs),
        "stopped": len(stopped),
        "excess_usd": max(run["paid"] - run["ceiling"] for run in runs),
        "excess_in_replies": max((run["paid"] - run["ceiling"]) / run["dearest"] for run in runs),
        "used_when_stopped": min((run["paid"] / run["ceiling"] for run in stopped), default=None),
        "rows_without_outcome": sum(not run["whole"] for run in runs),
        "kinds": kinds,
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main()

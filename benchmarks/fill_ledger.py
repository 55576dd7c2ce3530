"""Fills a ledger with replies that no run asks for, so that a run can be measured on a ledger that has grown.

    python benchmarks/fill_ledger.py FOLDER --replies 1000000

Prints one line of JSON: seconds and bytes on disk.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from hashlib import blake2b
from pathlib import Path
from typing import Any

from agora_frames.ledger import Ledger

_REPLY_BYTES = 1000


def reply(number: int, pool: str) -> dict[str, Any]:
    """About 1 KB, cut from the pool at a place of its own, under a key that looks like that of a real request."""
    key = blake2b(b"%d" % number, digest_size=16).hexdigest()
    begin = int(key[:8], 16) % (len(pool) - _REPLY_BYTES)
    return {
        "key": key,
        "text": pool[begin : begin + _REPLY_BYTES],
        "finish_reason": "stop",
        "prompt_tokens": 200,
        "completion_tokens": 250,
        "latency_s": 1.0,
        "retried": False,
        "endpoint": "http://127.0.0.1:9/v1",
        "model": "tiny",
        "sampling": f'{{"max_tokens":256,"seed":{int(key[:8], 16)},"temperature":0.7}}',
        "row_id": key[::-1],
        "sample": 0,
        "at": 1.7e9 + number,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--replies", type=int, default=1_000_000)
    given = parser.parse_args()
    begun, ledger, chance = time.perf_counter(), Ledger(given.folder), random.Random(20261122)
    pool = " ".join(f"{chance.randrange(100_000):x}" for _ in range(200_000))
    for number in range(given.replies):
        ledger.write(reply(number, pool))
    size = sum(file.stat().st_size for file in given.folder.rglob("*") if file.is_file())
    print(json.dumps({"seconds": round(time.perf_counter() - begun, 1), "bytes": size}))


if __name__ == "__main__":
    main()

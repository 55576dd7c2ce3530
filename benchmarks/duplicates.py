"""Duplicates and contamination: what the libraries take and find, and how often real rows are flagged wrongly.

    python benchmarks/duplicates.py                    # 10,000 texts, 1,000 of them planted
    python benchmarks/duplicates.py --data FOLDER      # and GSM8K's own test rows against its training rows
    pip install gaoya datasketch                       # the others to compare with; what is missing is left out

The texts are 100 words drawn with Zipf's weights; in a planted one 1 to 15 words are others, so that some are as alike
as the threshold, 0.6 of all word 3-grams, and some are not. All tools have 128 hashes in the same bands. Libraries give
candidates; ours are counted exactly after that.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import polars as pl

from agora_frames import decontaminate, mark_duplicates
from agora_frames.stages.dedup import bands_for
from agora_frames.stages.words import shingles

THRESHOLD, N, WORDS = 0.6, 3, 20_000
Pairs = set[tuple[int, int]]


def texts(rows: int, planted: int, seed: int = 0) -> list[str]:
    """Originals, then the planted ones: number rows - planted + i is made of number i."""
    rng = random.Random(seed)
    weights = list(itertools.accumulate(1 / (rank + 10) for rank in range(WORDS)))
    originals = [rng.choices(range(WORDS), cum_weights=weights, k=100) for _ in range(rows - planted)]
    copies = []
    for words in originals[:planted]:
        copy = list(words)
        for place in rng.sample(range(100), rng.randint(1, 15)):
            copy[place] = WORDS + rng.randrange(WORDS)
        copies.append(copy)
    return [" ".join(f"w{word}" for word in words) for words in [*originals, *copies]]


def by_rensa(given: list[str]) -> Pairs:
    import rensa

    index = rensa.RMinHashLSH(threshold=THRESHOLD, num_perm=128, num_bands=bands_for(THRESHOLD))
    hashes = rensa.RMinHash.from_token_sets([sorted(shingles(text, N)) for text in given], num_perm=128, seed=42)
    index.insert_many(hashes)
    return _pairs((row, index.query(each)) for row, each in enumerate(hashes))


def by_gaoya(given: list[str]) -> Pairs:
    import gaoya

    bands = bands_for(THRESHOLD)
    index = gaoya.minhash.MinHashStringIndex(
        hash_size=32,
        jaccard_threshold=THRESHOLD,
        num_bands=bands,
        band_size=128 // bands,
        analyzer="word",
        lowercase=True,
        ngram_range=(N, N),
    )
    for row, text in enumerate(given):
        index.insert_document(row, text)
    return _pairs((row, index.query(text)) for row, text in enumerate(given))


def by_datasketch(given: list[str]) -> Pairs:
    from datasketch import MinHash, MinHashLSH

    bands = bands_for(THRESHOLD)
    index = MinHashLSH(num_perm=128, params=(bands, 128 // bands))
    found: list[tuple[int, list[int]]] = []
    for row, text in enumerate(given):
        hashes = MinHash(num_perm=128, seed=42)
        hashes.update_batch([run.encode() for run in shingles(text, N)])
        found.append((row, index.query(hashes)))
        index.insert(row, hashes)
    return _pairs(iter(found))


def by_ours(given: list[str]) -> Pairs:
    frame = pl.DataFrame({"row_id": [str(row) for row in range(len(given))], "instruction": given})
    marked = mark_duplicates(frame, threshold=THRESHOLD, n=N).with_row_index().drop_nulls("duplicate_of")
    return {(int(of), row) for row, of in marked.select("index", "duplicate_of").iter_rows()}


def _pairs(found: Iterator[tuple[int, list[int]]]) -> Pairs:
    return {(min(row, int(other)), max(row, int(other))) for row, others in found for other in others if other != row}


def libraries(rows: int, planted: int, rounds: int) -> pl.DataFrame:
    given = texts(rows, planted)
    wanted = {(i, rows - planted + i) for i in range(planted)}
    alike = {pair: _similarity(given, *pair) >= THRESHOLD for pair in wanted}
    truth = {pair for pair, is_alike in alike.items() if is_alike}
    tools: dict[str, Callable[[list[str]], Pairs]] = {
        "rensa": by_rensa,
        "gaoya": by_gaoya,
        "datasketch": by_datasketch,
        "mark_duplicates (rensa, counted exactly)": by_ours,
    }
    there = {name: run for name, run in tools.items() if " " in name or importlib.util.find_spec(name)}
    seconds: dict[str, list[float]] = {name: [] for name in there}
    pairs: dict[str, Pairs] = {}
    for _ in range(rounds):  # in turns, so that a slow minute of the machine is slow for all
        for name, run in there.items():
            begun = time.process_time()
            pairs[name] = run(given)
            seconds[name].append(time.process_time() - begun)
    return pl.DataFrame(
        {
            "tool": name,
            "CPU s": round(sorted(seconds[name])[rounds // 2], 2),
            "found of alike": round(len(found & truth) / len(truth), 4),
            "alike of found": round(sum(_similarity(given, *p) >= THRESHOLD for p in found) / max(1, len(found)), 4),
        }
        for name, found in pairs.items()
    )


def _similarity(given: list[str], a: int, b: int) -> float:
    one, other = shingles(given[a], N), shingles(given[b], N)
    return len(one & other) / len(one | other)


def false_flags(data: Path) -> pl.DataFrame:
    """How many of 660 test rows of GSM8K are flagged against its 7,473 training rows."""
    train = pl.read_ndjson(data / "gsm8k" / "train.jsonl").select(instruction="question")
    test = pl.read_ndjson(data / "gsm8k" / "test_rows_0000-0659.jsonl").select(instruction="question")
    rows = []
    for n in (5, 6, 8, 10, 13):
        overlap = decontaminate(test, against=train, columns="instruction", n=n)["contamination_overlap"].fill_null(0)
        by = {f"{share:.0%}": int((overlap >= share).sum()) for share in (0.2, 0.3, 0.4, 0.5, 0.6, 0.8)}
        rows.append({"n": n, "any": int((overlap > 0).sum()), **by})
    return pl.DataFrame(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--planted", type=int, default=1_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--data", type=Path)
    args = parser.parse_args()
    with pl.Config(tbl_rows=-1, tbl_cols=-1, fmt_str_lengths=60):
        print(libraries(args.rows, args.planted, args.rounds))
        if args.data is not None:
            print(false_flags(args.data))


if __name__ == "__main__":
    main()

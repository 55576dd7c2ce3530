"""Builds the small tokenizer that ships with agora_frames: byte pairs over permitted text, the same bytes each time.

    python train/tokenizer.py DATA            # writes agora_frames/stages/tokenizer.json
    python train/tokenizer.py DATA --check    # says whether the file is what would be written

DATA: a folder with `gsm8k/train.jsonl` (openai/grade-school-math at 3101c7d, MIT). The rest is here already: the seeds
that ship (our own), and sources and help texts of Python's standard library (PSF-2.0). The library is not the same
in each version of Python, so the corpus has a hash, and the script stops when it is another one.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sysconfig
from pathlib import Path
from pydoc_data.topics import topics

import polars as pl

ROOT = Path(__file__).parents[1]
OUTPUT = ROOT / "agora_frames" / "stages" / "tokenizer.json"
VOCABULARY = 6_144
GSM8K_ROWS = 1_500  # more would teach it names and sums, at the cost of everything else
SEED_TIMES = 3  # the only LaTeX there is, and the only code that is not Python
# Of Python 3.11.7.
CORPUS = "a37764209e4973f5ef64b3ae231c95b5205fa19f14e7bc3d70a2436ec7b7f34c"

SPECIAL = (
    *("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    *("<|im_start|>", "<|im_end|>", "<|endoftext|>"),
)
# Contractions; words with the space before them; numbers by up to three digits; signs; white space by itself.
WORDS = (
    r"(?i:'(?:s|t|re|ve|m|ll|d))|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LIBRARY = (
    *("argparse", "bisect", "calendar", "collections/__init__", "copy", "csv", "dataclasses", "datetime", "difflib"),
    *("enum", "fractions", "functools", "graphlib", "heapq", "json/decoder", "json/encoder", "pathlib", "queue"),
    *("random", "shelve", "shutil", "statistics", "string", "tarfile", "tempfile", "textwrap", "typing", "zipfile"),
)


def corpus(data: Path) -> list[str]:
    """The texts, in order."""
    lines = (data / "gsm8k" / "train.jsonl").read_text(encoding="utf-8").splitlines()[:GSM8K_ROWS]
    sums = [text for line in lines for text in json.loads(line).values()]
    library = Path(sysconfig.get_path("stdlib"))
    code = [(library / f"{name}.py").read_text(encoding="utf-8") for name in LIBRARY]
    folder = ROOT / "recipes" / "agorabench" / "seeds"
    frames = [pl.read_parquet(folder / f"{domain}.parquet") for domain in ("math", "code", "general")]
    seeds = [text for df in frames for row in df.select("instruction", "response").iter_rows() for text in row]
    return [*sums, *code, *topics.values(), *seeds * SEED_TIMES]


def built(texts: list[str]) -> str:
    """The content of the file."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    by_words = pre_tokenizers.Split(Regex(WORDS), "isolated")
    by_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([by_words, by_bytes])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return json.dumps(json.loads(tokenizer.to_str()), ensure_ascii=False, separators=(",", ":")) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    texts = corpus(args.data)
    found = hashlib.sha256(json.dumps(texts).encode()).hexdigest()
    if found != CORPUS:
        raise SystemExit(
            f"The corpus is another one: {found}, not {CORPUS}. Use Python 3.11.7 and the files named above."
        )
    content = built(texts).encode()
    if not args.check:
        OUTPUT.write_bytes(content)
    same = OUTPUT.read_bytes() == content
    print(f"{OUTPUT.relative_to(ROOT)}: {len(content):,} bytes, {'as built' if same else 'NOT as built'}")
    raise SystemExit(not same)


if __name__ == "__main__":
    main()

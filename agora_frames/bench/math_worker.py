"""A process of its own that says whether two mathematical answers are the same: JSON lines in, JSON lines out.

Run by `math_runner`, as a script, so that nothing but math-verify is imported here, and the caller's `__main__` is not.
A line in is [reference, answer]; a line out is true, false or null (the reference could not be read).
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

__all__ = ["main"]


def main(memory_mb: int) -> None:
    """Answers lines until there are no more."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what libraries print is no reply
    _limit_memory(memory_mb)
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

    def read(text: str) -> Any:
        # The time limits of math-verify work by signals; here, the caller has a harder one: it ends this process.
        configs = [LatexExtractionConfig(), ExprExtractionConfig()]
        return parse(rf"\boxed{{{text}}}", extraction_config=configs, parsing_timeout=0)

    def same(reference: str, answer: str) -> bool | None:
        gold = read(reference)
        return verify(gold, read(answer), timeout_seconds=0) if gold else None

    print("ready", file=replies, flush=True)
    for line in sys.stdin:
        try:
            told = same(*json.loads(line))
        except MemoryError:
            return  # what is left of this process is not to be relied on
        except Exception:  # whatever math-verify could not make sense of, it is not the reference
            told = False
        print(json.dumps(told), file=replies, flush=True)


def _limit_memory(memory_mb: int) -> None:
    try:
        import resource
    except ImportError:  # Windows has no such limits
        return
    resource.setrlimit(resource.RLIMIT_AS, (memory_mb << 20, memory_mb << 20))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    main(int(sys.argv[1]))

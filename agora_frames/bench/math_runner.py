"""Whether mathematical answers are the same, by math-verify in processes that are ended when they take too long."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import TypeAlias

from agora_frames.errors import BindError, MissingExtraError

__all__ = ["MathRunner", "Pair", "Verdict", "math_runner"]

# A reference and an answer; what becomes of them: the same or not, or why that could not be told.
Pair: TypeAlias = tuple[str, str]
Verdict: TypeAlias = bool | str

_WORKER = Path(__file__).with_name("math_worker.py")
_STARTS_WITHIN_S = 300.0  # importing SymPy takes a second, and a minute on a machine that is busy enough
# No answer of MATH is longer than 200; the parser takes a time that is quadratic and worse in the length.
_LONGEST = 1_000


@dataclass(frozen=True)
class MathRunner:
    """Compares answers; made by `math_runner`."""

    limit_s: float
    workers: int
    memory_mb: int

    def __call__(self, pairs: Iterable[Pair]) -> dict[Pair, Verdict]:
        """Each different pair with its verdict; a text is why there is none."""
        verdicts: dict[Pair, Verdict] = {}
        todo: deque[Pair] = deque()
        for pair in dict.fromkeys(pairs):
            known = _known(*pair)
            if known is None:
                todo.append(pair)
            else:
                verdicts[pair] = known
        if todo:
            _require_math_verify()
            with ThreadPoolExecutor(workers := min(self.workers, len(todo))) as pool:
                try:
                    for told in pool.map(self._work, repeat(todo, workers)):
                        verdicts |= told
                except BaseException:
                    todo.clear()  # the others stop after the pair that they are at
                    raise
        return verdicts

    def _work(self, todo: deque[Pair]) -> dict[Pair, Verdict]:
        """Takes pairs until there are none; a process that was ended is replaced when there is more to do."""
        told: dict[Pair, Verdict] = {}
        process: subprocess.Popen[str] | None = None
        try:
            while True:
                try:
                    pair = todo.popleft()
                except IndexError:
                    return told
                process = process or self._started()
                reply = _asked(process, json.dumps(pair), self.limit_s)
                told[pair] = self._verdict(reply)
                if not reply:
                    _end(process)
                    process = None
        finally:
            if process is not None:
                _end(process)

    def _verdict(self, reply: str) -> Verdict:
        if not reply:
            return f"the comparison took more than {self.limit_s:g} s or {self.memory_mb:,} MB, and was ended"
        told = json.loads(reply)
        return told if told is not None else "the reference could not be read as mathematics, and the texts differ"

    def _started(self) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            # -P: the names of the modules beside the script are not to stand for others.
            [sys.executable, "-P", str(_WORKER), str(self.memory_mb)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            encoding="utf-8",
        )
        if not _reply(process, _STARTS_WITHIN_S):
            _end(process)
            raise MissingExtraError(
                "the process that compares answers did not start. See why: "
                f"echo | {sys.executable} {_WORKER} {self.memory_mb}"
            )
        return process


def math_runner(*, limit_s: float = 10.0, workers: int = 2, memory_mb: int = 2_000) -> MathRunner:
    """What compares mathematical answers: math-verify in processes of its own.

    limit_s: seconds for one pair; a pair that takes longer is `undecided`, and its process is ended and replaced.
    workers: processes at once. memory_mb: of each; a pair that needs more ends likewise (not on Windows).
    Equal texts are the same without asking. An answer with unbalanced braces, or over 1,000 characters, is not asked
    about. Processes start when there is something to compare, and end with the comparison; they are started afresh,
    never forked, so the runner may be used on any thread and in a notebook.
    """
    if not (limit_s > 0 and isinstance(workers, int) and workers >= 1 and memory_mb >= 500):
        raise BindError(
            f"math_runner(limit_s={limit_s!r}, workers={workers!r}, memory_mb={memory_mb!r}): seconds over 0, a whole "
            "number of workers, at least 1, and at least 500 MB."
        )
    return MathRunner(float(limit_s), workers, memory_mb)


def _asked(process: subprocess.Popen[str], line: str, limit_s: float) -> str:
    """The reply, or an empty text when the process died or took too long."""
    try:
        assert process.stdin is not None
        process.stdin.write(line + "\n")
        process.stdin.flush()
    except OSError:  # it died meanwhile
        return ""
    return _reply(process, limit_s)


def _reply(process: subprocess.Popen[str], limit_s: float) -> str:
    assert process.stdout is not None
    clock = threading.Timer(limit_s, process.kill)
    clock.start()
    try:
        return process.stdout.readline()
    finally:
        clock.cancel()


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        try:
            if pipe is not None:
                pipe.close()
        except OSError:  # what was not read by a process that is gone
            continue


def _known(reference: str, answer: str) -> Verdict | None:
    """What can be told without math-verify."""
    if reference == answer:
        return True
    if len(answer) > _LONGEST:
        return f"an answer of {len(answer):,} characters is not compared; the most is {_LONGEST:,}"
    return None if _is_balanced(answer) else False


def _is_balanced(text: str) -> bool:
    r"""Whether each brace is closed, so that the answer cannot reach out of the `\boxed{}` that it is read in."""
    depth = 0
    for letter in re.sub(r"\\.", "", text, flags=re.DOTALL):
        depth += {"{": 1, "}": -1}.get(letter, 0)
        if depth < 0:
            return False
    return depth == 0 and not text.endswith("\\")


def _require_math_verify() -> None:
    if importlib.util.find_spec("math_verify") is None:
        raise MissingExtraError(
            "answers of MATH are compared by math-verify, which is not installed: pip install 'agora-frames[bench]'. "
            "Or compare texts letter by letter: hendrycks_math(equality='exact')."
        )

"""Answers compared by math-verify in processes of their own: what is the same, and what must do no harm."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from pathlib import Path

import pytest

from agora_frames.bench.math_runner import Pair, Verdict, math_runner
from agora_frames.errors import BindError

RUNNER = math_runner(workers=1, limit_s=60)


@pytest.fixture(scope="module")
def verdicts() -> dict[Pair, Verdict]:
    """All the pairs of the tests below, by one process."""
    return RUNNER([*SAME, *OTHER])


SAME = [
    (r"\frac{1}{2}", "0.5"),
    (r"\frac{1}{2}", r"\dfrac12"),
    ("0.5", r"\frac{1}{2}"),
    (r"2\sqrt{3}", r"\sqrt{12}"),
    ("x + 1", "1 + x"),
    (r"(x+1)^2", "x^2+2x+1"),
    (r"\left( 3, \frac{\pi}{2} \right)", r"(3,\pi/2)"),
    ("5", "x=5"),
    ("10", r"10\%"),
    (r"\text{Evelyn}", r"\text{ Evelyn }"),
    (r"\begin{pmatrix} 1 & 0 \\ 0 & 1 \end{pmatrix}", r"\begin{pmatrix}1&0\\0&1\end{pmatrix}"),
]
OTHER = [
    ("5", "6"),
    ("5", "-5"),
    (r"\frac{1}{2}", r"\frac{2}{1}"),
    ("(1,2)", "(2,1)"),
    (r"\text{Evelyn}", r"\text{Carla}"),
    ("x", "y"),
    ("5", ""),
    ("5", "\\"),
    ("5", "\x00"),
    ("5", "import os; os.exit(5)"),
    ("5", "0/0"),
]


@pytest.mark.parametrize("pair", SAME)
def test_what_means_the_same_is_the_same(pair: Pair, verdicts: dict[Pair, Verdict]) -> None:
    assert verdicts[pair] is True


@pytest.mark.parametrize("pair", OTHER)
def test_what_means_something_else_is_not(pair: Pair, verdicts: dict[Pair, Verdict]) -> None:
    assert verdicts[pair] is False


def test_equal_texts_are_the_same_without_any_process() -> None:
    begun = threading.active_count()
    assert math_runner(limit_s=1e-9)([("no { mathematics", "no { mathematics")]) == {
        ("no { mathematics", "no { mathematics"): True
    }
    assert threading.active_count() == begun


@pytest.mark.parametrize("answer", ["{", "}", "1} or \\boxed{42", "\\{ {", "4{2", "\\\\{", "42\\"])
def test_an_answer_cannot_reach_out_of_its_box(answer: str) -> None:
    assert math_runner(limit_s=1e-9)([("42", answer)])[("42", answer)] is False


def test_a_very_long_answer_is_not_compared() -> None:
    long = "1+" * 5_000_000 + "1"
    assert math_runner(limit_s=1e-9)([("42", long)])[("42", long)] == (
        "an answer of 10,000,001 characters is not compared; the most is 1,000"
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "answer", ["9^{9^{9^9}}", "9^9^9^9", "(10^{9})!", r"\binom{10^8}{5\cdot 10^7}", "(" * 900, r"\prod_{n=1}^{10^9} n"]
)
def test_an_answer_without_end_is_ended_and_the_next_is_compared(answer: str) -> None:
    told = math_runner(limit_s=3, workers=1)([("42", answer), ("0.5", r"\frac12")])
    assert told[("42", answer)] is False or "was ended" in str(told[("42", answer)])
    assert told[("0.5", r"\frac12")] is True or "was ended" in str(told[("0.5", r"\frac12")])


def test_a_comparison_that_takes_too_long_says_so_and_its_process_is_gone() -> None:
    begun = time.monotonic()
    children = set(_children())
    told = math_runner(limit_s=0.001, workers=1)([("0.5", r"\frac{1}{2}+0"), ("0.25", r"\frac14+0")])
    assert {"was ended" in str(verdict) for verdict in told.values()} == {True}
    assert set(_children()) <= children
    assert time.monotonic() - begun < 300


def test_no_code_in_an_answer_is_run(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    code = f"__import__('pathlib').Path('{mark}').touch()"
    answers = [code, rf"\text{{{code}}}", f"1+{code}", f"[{code} for _ in (1,)]", f"1 if {code} else 2"]
    RUNNER([("5", answer) for answer in answers])
    assert not mark.exists()


def test_a_runner_works_on_any_thread() -> None:
    told: list[dict[Pair, Verdict]] = []
    thread = threading.Thread(target=lambda: told.append(RUNNER([("0.5", r"\frac{2}{4}")])))
    thread.start()
    thread.join()
    assert told == [{("0.5", r"\frac{2}{4}"): True}]


@pytest.mark.parametrize("params", [{"limit_s": 0}, {"workers": 0}, {"workers": 1.5}, {"memory_mb": 10}])
def test_limits_that_cannot_be_meant_are_refused(params: dict[str, float]) -> None:
    with pytest.raises(BindError, match="math_runner"):
        math_runner(**params)  # type: ignore[arg-type]


def _children() -> list[str]:
    tasks = Path(f"/proc/{os.getpid()}/task")
    if not tasks.is_dir():
        pytest.skip("no /proc here")
    found: list[str] = []
    for task in tasks.iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread that has ended since it was listed
            found += (task / "children").read_text().split()
    return found

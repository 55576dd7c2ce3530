"""Benchmarks: one file each, and the table of their names; `benchmark` says what one is, and how a model is put
through it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType

from agora_frames.bench.alpaca_eval import alpaca_eval
from agora_frames.bench.arena_hard import arena_hard
from agora_frames.bench.benchmark import Benchmark
from agora_frames.bench.gsm8k import gsm8k
from agora_frames.bench.hendrycks_math import hendrycks_math
from agora_frames.bench.humaneval import humaneval
from agora_frames.bench.mbpp import mbpp

__all__ = ["BENCHMARKS"]

# By the name that `agora evaluate` knows: what makes the benchmark, with keyword-only parameters. A `runner` without
# a default is a sandbox for code, a `judge_backend` the model that judges.
BENCHMARKS: Mapping[str, Callable[..., Benchmark]] = MappingProxyType(
    {
        "gsm8k": gsm8k,
        "math": partial(hendrycks_math, subset="full"),
        "math_500": partial(hendrycks_math, subset="500"),
        "humaneval": humaneval,
        "humaneval_plus": partial(humaneval, plus=True),
        "mbpp": mbpp,
        "mbpp_sanitized": partial(mbpp, variant="sanitized"),
        "mbpp_plus": partial(mbpp, variant="plus"),
        "alpaca_eval": alpaca_eval,
        "arena_hard": arena_hard,
    }
)

"""Benchmarks: one file each, and the table of their names; `benchmark` says what one is, and how a model is put
through it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType

from agora_frames.bench.benchmark import Benchmark
from agora_frames.bench.gsm8k import gsm8k
from agora_frames.bench.hendrycks_math import hendrycks_math

__all__ = ["BENCHMARKS"]

# By the name that `agora evaluate` knows: what makes the benchmark, with keyword-only parameters.
BENCHMARKS: Mapping[str, Callable[..., Benchmark]] = MappingProxyType(
    {
        "gsm8k": gsm8k,
        "math": partial(hendrycks_math, subset="full"),
        "math_500": partial(hendrycks_math, subset="500"),
    }
)

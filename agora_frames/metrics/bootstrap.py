"""Items drawn again with replacement, by counters: the same draws in any order, in any process and any version."""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl

from agora_frames.errors import BindError
from agora_frames.hashing import hash_bytes

__all__ = ["check_interval", "interval", "resampled_sums"]

# So many draws at once, which take some hundred megabytes; how many does not change a draw.
_AT_ONCE = 4_000_000


def resampled_sums(df: pl.DataFrame, *, columns: list[str], resamples: int, key: tuple[object, ...]) -> pl.DataFrame:
    """The sums of columns over so many resamples of the rows, each as many rows as there are, with replacement.

    Gives a new frame: `resample` (UInt32, 0 to resamples-1) and each of `columns` (Float64).
    All columns are summed over the same draws, so what is compared is compared on the same items. The draws depend on
    key, the number of rows and the number of the resample alone: bring the rows into a fixed order first (sort them
    by item), and more resamples leave the earlier ones as they were.
    Raises: FrameError by Polars when a column is missing.

    >>> scores = pl.DataFrame({"right": [1.0, 0.0, 1.0, 1.0]})
    >>> resampled_sums(scores, columns=["right"], resamples=3, key=("gsm8k", 0))["right"].to_list()
    [4.0, 3.0, 2.0]
    """
    schema = {"resample": pl.UInt32, **dict.fromkeys(columns, pl.Float64)}
    if not df.height or not resamples:
        return pl.DataFrame(schema=schema)
    values = df.select(pl.col(columns).cast(pl.Float64))
    parts = []
    for first, count in _parts(df.height, resamples):
        drawn = _draws(df.height, first, count, key)
        sums = [values[name].gather(drawn).reshape((count, df.height)).arr.sum().alias(name) for name in columns]
        numbers = pl.int_range(first, first + count, dtype=pl.UInt32, eager=True).alias("resample")
        parts.append(pl.DataFrame([numbers, *sums], schema=schema))
    return pl.concat(parts)


def interval(column: str, level: float) -> tuple[pl.Expr, pl.Expr]:
    """The percentile interval of resampled values: two expressions, `low` and `high`."""
    tail = (1 - level) / 2
    value = pl.col(column)
    return value.quantile(tail, "linear").alias("low"), value.quantile(1 - tail, "linear").alias("high")


def check_interval(stage: str, *, resamples: object, level: object) -> None:
    """Raises BindError unless resamples is a whole number, 0 or more, and level lies between 0 and 1."""
    if not isinstance(resamples, int) or isinstance(resamples, bool) or resamples < 0:
        raise BindError(f"{stage}(resamples={resamples!r}): it must be a whole number; 0 makes no intervals.")
    if not isinstance(level, int | float) or not 0 < level < 1:
        raise BindError(f"{stage}(level={level!r}): it must be a number between 0 and 1, such as 0.95.")


def _parts(rows: int, resamples: int) -> Iterator[tuple[int, int]]:
    """The first resample and how many, for each part."""
    size = max(1, _AT_ONCE // rows)
    for first in range(0, resamples, size):
        yield first, min(size, resamples - first)


def _draws(rows: int, first: int, count: int, key: tuple[object, ...]) -> pl.Series:
    """For each of `count` resamples from `first` on, one after the other, the places of `rows` drawn rows."""
    start = int(hash_bytes(*(repr(each).encode() for each in key))[:16], 16)
    place = pl.int_range(count * rows, dtype=pl.UInt64)
    counter = (place // rows + first) * _u64(1 << 32) + place % rows
    return pl.select((_split_mix(start, counter) % rows).cast(pl.UInt32)).to_series()


def _split_mix(start: int, counter: pl.Expr) -> pl.Expr:
    """UInt64: the number that SplitMix64 gives at a place of its sequence. Polars' integers wrap, as it asks for.

    Source: Steele, Lea and Flood, Fast splittable pseudorandom number generators, OOPSLA 2014; the constants are those
    of https://prng.di.unimi.it/splitmix64.c.
    """
    z = _u64(start) + (counter + 1) * _u64(0x9E3779B97F4A7C15)
    z = (z ^ (z // (1 << 30))) * _u64(0xBF58476D1CE4E5B9)
    z = (z ^ (z // (1 << 27))) * _u64(0x94D049BB133111EB)
    return z ^ (z // (1 << 31))


def _u64(value: int) -> pl.Expr:
    return pl.lit(value, dtype=pl.UInt64)

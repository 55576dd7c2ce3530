"""Item scores into points: what a benchmark's score is, over how many items, and how sure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Any, Literal

import polars as pl

from agora_frames.errors import BindError, FrameError, listed
from agora_frames.frames import ITEM_SCORES, require
from agora_frames.metrics.bootstrap import check_interval, resampled_sums
from agora_frames.metrics.bootstrap import interval as percentiles
from agora_frames.stage import stage

__all__ = ["Interval", "item_scores", "summarise", "wilson"]

Interval = Literal["auto", "wilson", "bootstrap"]

_SUMMARY = {
    "n": pl.Int64,
    "n_failed": pl.Int64,
    "n_unread": pl.Int64,
    "score": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "interval": pl.String,
    "level": pl.Float64,
}


@stage(rowwise=True)
def item_scores(df: pl.DataFrame, *, labels: Mapping[str, str] | None = None) -> pl.DataFrame:
    """The columns of `frames.ITEM_SCORES` alone, with labels: what is kept of many runs in one file.

    Reads: the columns of `ITEM_SCORES`. Gives a new frame: the labels (String), then those columns.
    Rows: the same, in the same order.
    labels: names and values of constant columns, such as {"student": "gpt-4o, math"}.
    Raises: FrameError when a column is missing or of another type; BindError when a label has the name of one.

    >>> rows = pl.DataFrame([{"benchmark": "gsm8k", "item_id": "0", "sample": 0, "score": 1.0, "score_error": None,
    ...     "weight": 1.0, "completion": "18"}])
    >>> item_scores(rows, labels={"student": "a"}).columns
    ['student', 'benchmark', 'item_id', 'sample', 'score', 'score_error', 'weight']
    """
    if taken := [name for name in labels or {} if name in ITEM_SCORES]:
        raise BindError(
            f"item_scores(labels=…) cannot use {listed(taken)}: these are columns of the scores themselves."
        )
    for name, dtype in ITEM_SCORES.items():
        require(df, name, stage="item_scores", dtype=dtype)
    constants = [pl.lit(value, dtype=pl.String).alias(name) for name, value in (labels or {}).items()]
    return df.select(*constants, *(pl.col(name).cast(dtype) for name, dtype in ITEM_SCORES.items()))


@stage()
def summarise(
    df: pl.DataFrame,
    *,
    by: Sequence[str] = ("benchmark",),
    pooled: bool = False,
    interval: Interval = "auto",
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> pl.DataFrame:
    """One row for each benchmark: its points, over how many items, and an interval.

    Reads: `by`, `item_id`, `score`, `score_error`, `weight`; see `frames.ITEM_SCORES`.
    Gives a new frame, in the order in which the groups come: `by`, `n` (items), `n_failed` (items without any score,
    which are left out of the mean), `n_unread` (items of which a reply was scored 0 because no answer was read),
    `score`, `low`, `high` (0 to 100; null when nothing was graded), `interval` (`wilson` or `bootstrap`), `level`.
    by: what makes a group; add labels such as "model" to tell several runs apart.
    pooled: False takes the mean over the samples of each item first, so that each item counts by its weight (the mean
    of its samples' weights), however many of its samples were graded; True puts all samples into one sum.
    interval: Wilson's for proportions, or percentiles of a bootstrap over items; `auto` takes Wilson's where each item
    was worth 0 or 1 with one weight, and the bootstrap elsewhere. resamples, seed: of the bootstrap. A resample is
    drawn by its number over the items sorted by name, so the same items in any order give the same interval, and more
    resamples repeat the first ones.
    Raises: FrameError for scores outside of 0 to 1, weights below 0, an item scored twice for the same sample, or
    Wilson's interval asked for what is no proportion.
    Source: E. B. Wilson (1927), "Probable inference, the law of succession, and statistical inference".

    >>> rows = pl.DataFrame({"benchmark": "gsm8k", "item_id": list("abcd"), "sample": 0, "score": [1.0, 1.0, 0.0, None],
    ...     "score_error": None, "weight": 1.0})
    >>> done = summarise(rows)
    >>> done.select("n", "n_failed", pl.col("score", "low", "high").round(2)).row(0)
    (4, 1, 66.67, 20.77, 93.85)
    """
    _check_parameters(by, interval, level, resamples)
    require(df, *by, *ITEM_SCORES, stage="summarise")
    df = df.with_columns(pl.col("score", "weight").cast(pl.Float64), pl.col("item_id").cast(pl.String))
    _check_scores(df, by)
    items = _items(df, by, pooled)
    options: dict[str, Any] = {"interval": interval, "level": level, "resamples": resamples, "seed": seed}
    groups = items.group_by(by, maintain_order=True)
    rows = [{**dict(zip(by, key, strict=True)), **_summary(group, options)} for key, group in groups]
    return pl.DataFrame(rows, schema={**{name: df.schema[name] for name in by}, **_SUMMARY})


def wilson(share: float, n: float, level: float) -> tuple[float, float]:
    """Wilson's score interval of a proportion `share` seen in `n` trials.

    >>> [round(end, 4) for end in wilson(0.5, 10, 0.95)]
    [0.2366, 0.7634]
    """
    z2 = NormalDist().inv_cdf((1 + level) / 2) ** 2
    middle = share + z2 / (2 * n)
    width = math.sqrt(z2 * (share * (1 - share) / n + z2 / (4 * n * n)))
    return max(0.0, (middle - width) / (1 + z2 / n)), min(1.0, (middle + width) / (1 + z2 / n))


def _items(df: pl.DataFrame, by: Sequence[str], pooled: bool) -> pl.DataFrame:
    """One row for each item: what it adds to the two sums."""
    graded = pl.col("score").is_not_null()
    weight = pl.col("weight").filter(graded)
    total = (pl.col("weight") * pl.col("score")).filter(graded).sum()
    share = pl.lit(1.0) if pooled else 1.0 / weight.len()
    return df.group_by(*by, "item_id", maintain_order=True).agg(
        graded.any().alias("graded"),
        (graded & pl.col("score_error").is_not_null()).any().alias("unread"),
        (total * share).alias("gained"),
        (weight.sum() * share).alias("weight"),
    )


def _summary(items: pl.DataFrame, options: Mapping[str, Any]) -> dict[str, Any]:
    counts = {
        "n": items.height,
        "n_failed": items.height - int(items["graded"].sum()),
        "n_unread": int(items["unread"].sum()),
    }
    graded = items.filter("graded").sort("item_id")  # in whatever order they came, the same bootstrap
    weight = float(graded["weight"].sum())
    if not weight > 0:
        return {**counts, "score": None, "low": None, "high": None, "interval": None, "level": None}
    share = float(graded["gained"].sum()) / weight
    method = _method(graded, options["interval"])
    level = options["level"]
    if method == "wilson":
        ends = wilson(share, graded.height, level)
    else:
        ends = _bootstrap(graded, level, options["resamples"], options["seed"])
    points = {"score": 100 * share, "low": 100 * ends[0], "high": 100 * ends[1]}
    return {**counts, **points, "interval": method, "level": level}


def _method(graded: pl.DataFrame, interval: Interval) -> Interval:
    share = graded["gained"] / graded["weight"]
    proportion = graded["weight"].n_unique() == 1 and bool(((share == 0) | (share == 1)).all())
    if interval == "auto":
        return "wilson" if proportion else "bootstrap"
    if interval == "wilson" and not proportion:
        odd = share.filter((share != 0) & (share != 1))
        raise FrameError(
            "summarise(interval='wilson') is for items worth 0 or 1, all of one weight; found "
            f"{f'an item worth {odd[0]}' if len(odd) else 'several weights'}. Use interval='bootstrap'."
        )
    return interval


def _bootstrap(graded: pl.DataFrame, level: float, resamples: int, seed: int) -> tuple[float, float]:
    """Percentiles of the share over resampled items."""
    sums = resampled_sums(graded, columns=["gained", "weight"], resamples=resamples, key=("summarise", seed))
    shares = sums.filter(pl.col("weight") > 0).select(share=pl.col("gained") / pl.col("weight"))
    low, high = shares.select(*percentiles("share", level)).row(0)
    return low, high


def _check_parameters(by: Sequence[str], interval: str, level: float, resamples: int) -> None:
    if isinstance(by, str) or not by:
        raise BindError(f"summarise(by={by!r}): it must be a sequence of names of columns, such as ('benchmark',).")
    if interval not in ("auto", "wilson", "bootstrap"):
        raise BindError(f"summarise(interval={interval!r}): it must be 'auto', 'wilson' or 'bootstrap'.")
    check_interval("summarise", resamples=resamples, level=level)
    if resamples < 1:
        raise BindError(f"summarise(resamples={resamples!r}): it must be at least 1.")


def _check_scores(df: pl.DataFrame, by: Sequence[str]) -> None:
    outside = df.filter(~pl.col("score").is_between(0, 1))
    if outside.height:
        raise FrameError(
            f"summarise() found the score {outside['score'][0]!r} (item_id {outside['item_id'][0]!r}) among "
            f"{outside.height} that do not lie between 0 and 1. Points are made here: give shares, not percentages."
        )
    weighs = pl.col("weight").is_finite() & (pl.col("weight") >= 0)
    if (wrong := df.filter(~weighs.fill_null(False))).height:
        raise FrameError(
            f"summarise() found the weight {wrong['weight'][0]!r} (item_id {wrong['item_id'][0]!r}); a weight is 0 or "
            "more, and 1 unless the benchmark says otherwise."
        )
    if (twice := df.filter(pl.struct(*by, "item_id", "sample").is_duplicated())).height:
        raise FrameError(
            f"summarise() found item_id {listed(twice['item_id'].unique(maintain_order=True), most=3)} more than once "
            f"for the same sample and {listed(by)}. If these are several runs in one frame, name in `by` what tells "
            "them apart."
        )

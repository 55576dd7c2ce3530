"""pass@k: the chance that one of k samples passes, without bias, from n that were drawn."""

from __future__ import annotations

from math import comb

import polars as pl

from agora_frames.errors import BindError
from agora_frames.frames import require
from agora_frames.metrics.scores import summarise
from agora_frames.stage import stage

__all__ = ["chance_of_one", "pass_at_k"]


@stage()
def pass_at_k(
    df: pl.DataFrame, *, k: int = 1, level: float = 0.95, resamples: int = 1000, seed: int = 0
) -> pl.DataFrame:
    """One row for each benchmark: pass@k over its items, and an interval.

    Reads: as `summarise`; a sample passed when its `score` is 1.
    Gives: the columns of `summarise`. Of the n graded samples of an item c passed: it is worth 1 - C(n-c, k) / C(n, k).
    An item with fewer than k graded samples is not told, and counts in `n_failed`.
    level, resamples, seed: of the interval, as in `summarise`.
    Raises: BindError when k is no whole number over 0; FrameError as `summarise`.
    Source: Chen et al. 2021, arXiv 2107.03374, equation 1.

    >>> rows = pl.DataFrame({"benchmark": "mine", "item_id": ["a"] * 4, "sample": range(4), "score": [1.0, 0, 0, 0],
    ...     "score_error": None, "weight": 1.0})
    >>> pass_at_k(rows, k=2)["score"].to_list()
    [50.0]
    """
    if not isinstance(k, int) or isinstance(k, bool) or k < 1:
        raise BindError(f"pass_at_k(k={k!r}): it must be a whole number, at least 1.")
    require(df, "benchmark", "item_id", "sample", "score", "score_error", "weight", stage="pass_at_k")
    checked = summarise(df, level=level, resamples=1)  # what it refuses is refused here
    graded = pl.col("score").is_not_null()
    items = df.group_by("benchmark", "item_id", maintain_order=True).agg(
        graded.sum().alias("n"),
        (pl.col("score") == 1).sum().alias("c"),
        pl.col("weight").filter(graded).mean().fill_null(1.0).alias("weight"),
        pl.col("score_error").filter(graded).drop_nulls().first().alias("score_error"),
        pl.lit(0, dtype=pl.Int64).alias("sample"),
    )
    scores = [chance_of_one(n, c, k) for n, c in items.select("n", "c").iter_rows()]
    told = items.with_columns(pl.Series("score", scores, dtype=pl.Float64)).drop("n", "c")
    return summarise(told, level=level, resamples=resamples, seed=seed).select(checked.columns)


def chance_of_one(n: int, c: int, k: int) -> float | None:
    """That one of k samples drawn from n, of which c passed, has passed; None when there are not so many.

    >>> chance_of_one(5, 2, 1), chance_of_one(5, 2, 4), chance_of_one(5, 2, 6)
    (0.4, 1.0, None)
    """
    return 1 - comb(n - c, k) / comb(n, k) if n >= k else None

"""How far judgements can be trusted: the same pairs in both orders, the same rows judged again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import polars as pl

from agora_frames.errors import BindError, FrameError, MissingExtraError, listed
from agora_frames.frames import require
from agora_frames.stage import stage

__all__ = ["judge_counts", "judge_drift", "swap_consistency"]

_MOST_GRADES = 101  # kappa takes a table of all grades by all grades

_COUNTS = {"n": pl.Int64, "n_judged": pl.Int64, "n_unparsed": pl.Int64, "n_failed": pl.Int64}
_DRIFT = {
    "n": pl.Int64,
    "n_both": pl.Int64,
    "n_same_call": pl.Int64,
    "exact_agreement": pl.Float64,
    "mean_absolute_difference": pl.Float64,
    "mean_difference": pl.Float64,
    "kappa": pl.Float64,
    "kappa_quadratic": pl.Float64,
    "judge": pl.String,
    "judge_again": pl.String,
}
_SWAP = {
    "n": pl.Int64,
    "n_both": pl.Int64,
    "consistent": pl.Float64,
    "reversed": pl.Float64,
    "first_shown": pl.Float64,
    "mean_absolute_difference": pl.Float64,
    "judge": pl.String,
}


@stage()
def judge_counts(df: pl.DataFrame, *, column: str = "judgement", by: Sequence[str] = ()) -> pl.DataFrame:
    """How many rows a judge graded, how many not and why, and the mean over those that it graded.

    Reads: `by`, `column` (numbers), `{column}_error`, `{column}_judge`, as `judge_column` and `judge_pairs` add them.
    Gives a new frame, one row for each group in the order in which they come (without `by`, one in all): `by`, `n`,
    `n_judged`, `n_unparsed` (replies without a verdict that can be read), `n_failed` (no usable reply, or nothing to
    judge); `n_judged + n_unparsed + n_failed = n`; `mean` and its `standard_error` over the judged ones (Float64; null
    where there are too few), `judge` (String: the fingerprint; null when several judged a group).

    >>> df = pl.DataFrame({"q": [4, 2, None], "q_judge": ["j"] * 3, "q_error": [None, None,
    ...     {"kind": "unparsed", "message": "there is no '[RESULT]'"}]})
    >>> judge_counts(df, column="q").row(0)
    (3, 2, 1, 0, 3.0, 1.0, 'j')
    """
    require(df, *by, column, f"{column}_error", f"{column}_judge", stage="judge_counts")
    _check_by("judge_counts", by)
    value, kind = pl.col(column).cast(pl.Float64), pl.col(f"{column}_error").struct.field("kind")
    unparsed = value.is_null() & (kind == "unparsed").fill_null(False)
    told = [
        pl.len().alias("n"),
        value.count().alias("n_judged"),
        unparsed.sum().alias("n_unparsed"),
        (value.is_null() & ~unparsed).sum().alias("n_failed"),
        value.mean().alias("mean"),
        (value.std() / value.count().sqrt()).alias("standard_error"),
        _one(f"{column}_judge").alias("judge"),
    ]
    counted = df.group_by(by, maintain_order=True).agg(told) if by else df.select(told)[: df.height]
    return counted.cast(_COUNTS)  # type: ignore[arg-type]


@stage()
def judge_drift(df: pl.DataFrame, *, column: str = "judgement", again: str = "judgement_again") -> pl.DataFrame:
    """How far two judgements of the same rows agree: by the same judge in another draw, or by another judge.

    Reads: `column` and `again` (numbers; null where a judge gave none), and, if they are there, `{…}_judge` and
    `{…}_call` of both.
    Gives one row (none of an empty frame): `n`; `n_both` (rows judged both times; all that follows is of these, and
    null without any); `n_same_call` (of them, those in which both were read from one call: at temperature 0 equal
    requests are one call, and say nothing of drift); `exact_agreement` (share, 0 to 1); `mean_absolute_difference` and
    `mean_difference` (again minus column); Cohen's `kappa`, and `kappa_quadratic` with quadratic weights (null for
    grades that are no whole numbers, lie over a hundred apart, or are all the same); `judge`, `judge_again`
    (fingerprints; null for several).
    Raises: MissingExtraError without scikit-learn; FrameError when a column is missing or is not of numbers.
    Source of kappa: Cohen 1960 and 1968, as scikit-learn's `cohen_kappa_score`.

    >>> judge_drift(pl.DataFrame({"a": [1, 5, 3, None], "b": [1, 4, 3, 2]}), column="a", again="b").select(
    ...     "n", "n_both", pl.col("exact_agreement").round(3), pl.col("kappa_quadratic").round(3)).row(0)
    (4, 3, 0.667, 0.923)
    """
    require(df, column, again, stage="judge_drift")
    for name in (column, again):
        if not (df.schema[name].is_numeric() or df.schema[name] == pl.Null):
            raise FrameError(f"judge_drift() compares numbers, but {name!r} is {df.schema[name]}.")
    both = df.filter(pl.col(column).is_not_null() & pl.col(again).is_not_null())
    one, two = both[column], both[again]
    difference = two.cast(pl.Float64) - one.cast(pl.Float64)
    whole = one.dtype.is_integer() and two.dtype.is_integer()
    row = {
        "n": df.height,
        "n_both": both.height,
        "n_same_call": _same_calls(both, column, again),
        "exact_agreement": (difference == 0).mean(),
        "mean_absolute_difference": difference.abs().mean(),
        "mean_difference": difference.mean(),
        "kappa": _kappa(one, two, None) if whole else None,
        "kappa_quadratic": _kappa(one, two, "quadratic") if whole else None,
        "judge": _fingerprint(df, column),
        "judge_again": _fingerprint(df, again),
    }
    return pl.DataFrame([row], schema=_DRIFT)[: df.height]


@stage()
def swap_consistency(df: pl.DataFrame, *, column: str = "preference", by: Sequence[str] = ("row_id",)) -> pl.DataFrame:
    """How far a judge says the same of two answers when they change places.

    Reads: `by`, `column`, `{column}_swapped` and `{column}_judge`, as `judge_pairs(order="both")` adds them.
    Gives one row (none of an empty frame): `n` (pairs), `n_both` (judged in both orders; all that follows is of these,
    and null without any),
    `consistent` (share of pairs with the same winner, or a tie, both times), `reversed` (share whose winner is another;
    the rest is a win that becomes a tie), `first_shown` (how far the answer shown first is preferred on average, 0 to
    1; 0.5 is fair), `mean_absolute_difference` of the two preferences, `judge` (the fingerprint; null for several).
    by: what names a pair; its two rows differ in `{column}_swapped`.
    Raises: FrameError when a column is missing, or a pair was judged twice in the same order.

    >>> df = pl.DataFrame({"row_id": ["a", "a", "b", "b"], "preference": [1.0, 1.0, 0.0, 1.0],
    ...     "preference_swapped": [False, True, False, True], "preference_judge": "j"})
    >>> swap_consistency(df).select("n_both", "consistent", "reversed", "first_shown").row(0)
    (2, 0.5, 0.5, 0.75)
    """
    swapped = f"{column}_swapped"
    _check_by("swap_consistency", by)
    require(df, *by, column, swapped, f"{column}_judge", stage="swap_consistency")
    if not by:
        raise BindError("swap_consistency(by=()): name the columns that name a pair, such as ('row_id',).")
    if (twice := df.filter(pl.struct(*by, swapped).is_duplicated())).height:
        raise FrameError(
            f"swap_consistency() found {listed(twice[by[0]].unique(maintain_order=True), most=3)} more than once in "
            f"the same order. Name in `by` what tells the pairs apart; found {listed(by)}."
        )
    value = pl.col(column).cast(pl.Float64)
    sides = df.group_by(by, maintain_order=True).agg(
        value.filter(~pl.col(swapped)).first().alias("given"), value.filter(pl.col(swapped)).first().alias("turned")
    )
    both = sides.drop_nulls(["given", "turned"])
    given, turned = pl.col("given"), pl.col("turned")
    leans = ((given - 0.5).sign(), (turned - 0.5).sign())
    told = both.select(
        consistent=(leans[0] == leans[1]).mean(),
        reversed=(leans[0] * leans[1] < 0).mean(),
        first_shown=((1 - given) + turned).mean() / 2,
        mean_absolute_difference=(given - turned).abs().mean(),
    )
    row = {"n": sides.height, "n_both": both.height, **told.row(0, named=True), "judge": _fingerprint(df, column)}
    return pl.DataFrame([row], schema=_SWAP)[: df.height]


def _kappa(one: pl.Series, two: pl.Series, weights: str | None) -> float | None:
    """Cohen's kappa; null where it is not defined."""
    scale = _scale(one, two)
    if not 2 <= len(scale) <= _MOST_GRADES:
        return None
    try:
        from sklearn.metrics import cohen_kappa_score  # type: ignore[import-untyped]
    except ImportError as exc:
        raise MissingExtraError(
            "judge_drift() takes Cohen's kappa from scikit-learn, which is not installed: "
            "pip install 'agora-frames[bench]'."
        ) from exc
    found: Any = cohen_kappa_score(one.to_list(), two.to_list(), labels=list(scale), weights=weights)
    return None if math.isnan(found) else float(found)


def _scale(one: pl.Series, two: pl.Series) -> range:
    """All grades from the lowest to the highest given: a grade that nobody gave still lies between its neighbours."""
    given = pl.concat([one.cast(pl.Int64), two.cast(pl.Int64)])
    low, high = pl.select(pl.lit(given).min().alias("low"), pl.lit(given).max().alias("high")).row(0)
    return range(0) if low is None else range(low, high + 1)


def _same_calls(df: pl.DataFrame, column: str, again: str) -> int | None:
    calls = [f"{column}_call", f"{again}_call"]
    if not set(calls) <= set(df.columns):
        return None
    one, two = (df[name].struct.field("key") for name in calls)
    return int((one == two).sum())


def _fingerprint(df: pl.DataFrame, column: str) -> str | None:
    name = f"{column}_judge"
    return df.select(_one(name)).item() if name in df.columns else None


def _one(column: str) -> pl.Expr:
    """The one value of a column; null when it has several."""
    return pl.when(pl.col(column).drop_nulls().n_unique() == 1).then(pl.col(column).drop_nulls().first())


def _check_by(stage: str, by: object) -> None:
    if isinstance(by, str):
        raise BindError(f"{stage}(by={by!r}): it must be a sequence of names of columns, such as ({by!r},).")

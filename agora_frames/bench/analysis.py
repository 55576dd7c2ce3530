"""What goes with PGR: principal components, regressions, and correlations within settings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import polars as pl

from agora_frames.errors import BindError, FrameError, MissingExtraError, listed
from agora_frames.frames import require
from agora_frames.stage import stage

__all__ = ["component_scores", "principal_components", "regression", "within_correlations"]

_EXTRA = "pip install 'agora-frames[bench]'"
_COEFFICIENTS = pl.List(pl.Struct({"name": pl.String, "value": pl.Float64, "se": pl.Float64, "p": pl.Float64}))
_COMPONENTS = pl.Schema(
    {
        "component": pl.Int64(),
        "share": pl.Float64(),
        "cumulative": pl.Float64(),
        "feature": pl.String(),
        "loading": pl.Float64(),
    }
)
_REGRESSION = pl.Schema(
    {
        "n": pl.Int64(),
        "regressors": pl.Int64(),
        "r2": pl.Float64(),
        "r2_adjusted": pl.Float64(),
        "r2_leave_one_out": pl.Float64(),
        "f": pl.Float64(),
        "p": pl.Float64(),
        "coefficients": _COEFFICIENTS,
    }
)
_CORRELATION = pl.Schema(
    {"feature": pl.String(), "n": pl.Int64(), "groups": pl.Int64(), "r": pl.Float64(), "p": pl.Float64()}
)


@stage()
def principal_components(df: pl.DataFrame, *, features: Sequence[str], components: int | None = None) -> pl.DataFrame:
    """In which directions standardised features vary together: a row for each component and feature.

    Reads: `features` (numbers, no nulls). Gives a new frame: `component` (Int64, from 1), `share` (Float64: of the
    features' variance), `cumulative` (Float64), `feature` (String), `loading` (Float64). The share is of the variance
    of the features, not of anything that they may explain. A component's sign is scikit-learn's choice.
    components: how many, at most as many as there are rows or features; None gives all.
    Raises: FrameError for nulls or fewer than two rows; MissingExtraError without scikit-learn.
    Source: arXiv 2412.03679v2, section 5.2 and figure 5.
    """
    _, found = _fitted(df, features, components, "principal_components")
    shares = [float(share) for share in found.explained_variance_ratio_]
    rows = [
        {"component": i + 1, "share": share, "cumulative": sum(shares[: i + 1]), "feature": name, "loading": loading}
        for i, share in enumerate(shares)
        for name, loading in zip(features, map(float, found.components_[i]), strict=True)
    ]
    return pl.DataFrame(rows, schema=_COMPONENTS)


@stage()
def component_scores(df: pl.DataFrame, *, features: Sequence[str], components: int = 5) -> pl.DataFrame:
    """Where each row stands on the principal components of its features.

    Reads: `features` (numbers, no nulls). Adds: `pc1`, `pc2`, … (Float64). Rows: the same, in the same order.
    Raises: as `principal_components`.
    """
    scaled, found = _fitted(df, features, components, "component_scores")
    scores = found.transform(scaled)
    return df.with_columns(pl.Series(f"pc{i + 1}", scores[:, i], dtype=pl.Float64) for i in range(components))


@stage()
def regression(df: pl.DataFrame, *, on: Sequence[str], target: str = "pgr") -> pl.DataFrame:
    """How much of `target` is explained by a linear regression, and how much would be of a row not seen: one row.

    Reads: `target` and `on` (no nulls): numbers, or texts, which stand for a dummy for each of their values but the
    first. Gives a new frame: `n` (rows), `regressors`, `r2`, `r2_adjusted`, `r2_leave_one_out` (1 - PRESS / total sum
    of squares: each row predicted by a regression on the others; below 0 is worse than the mean of all; null when
    one of those is not determined), `f` and `p` of the F-test that nothing is explained, `coefficients`
    (List(Struct{name, value, se, p})), the constant first, named `const`.
    Raises: FrameError for nulls, or fewer rows than it takes; MissingExtraError without statsmodels.
    Source: arXiv 2412.03679v2, figures 4 and 6; D. M. Allen (1974) for PRESS.
    """
    on = [on] if isinstance(on, str) else list(on)
    if not on:
        raise BindError("regression(on=…) must name what is to explain, such as on=['problem_solving'].")
    require(df, target, *on, stage="regression")
    _no_nulls(df, [target, *on], "regression")
    texts = [name for name in on if not df.schema[name].is_numeric()]
    given = df.select(on).to_dummies(texts, drop_first=True) if texts else df.select(on)
    if df.height < given.width + 2:
        raise FrameError(
            f"regression() fits {given.width + 1} coefficients and needs more rows than that, but has {df.height}. "
            f"Explain {target!r} by less, or give it more rows."
        )
    statsmodels = _statsmodels()
    fit = statsmodels.OLS(
        df[target].cast(pl.Float64).to_numpy(), statsmodels.add_constant(given.cast(pl.Float64).to_numpy())
    ).fit()
    told = zip(["const", *given.columns], fit.params, fit.bse, fit.pvalues, strict=True)
    coefficients = [{"name": name, "value": value, "se": se, "p": p} for name, value, se, p in told]
    row = {
        "n": df.height,
        "regressors": given.width,
        "r2": _finite(fit.rsquared),
        "r2_adjusted": _finite(fit.rsquared_adj),
        "r2_leave_one_out": _leave_one_out(fit),
        "f": _finite(fit.fvalue),
        "p": _finite(fit.f_pvalue),
        "coefficients": coefficients,
    }
    return pl.DataFrame([row], schema=_REGRESSION)


@stage()
def within_correlations(
    df: pl.DataFrame, *, on: Sequence[str], target: str = "pgr", groups: str = "setting"
) -> pl.DataFrame:
    """How features go with `target` within groups: what is left when each group's means are taken out of both.

    Reads: `target`, `on` (numbers, no nulls) and `groups`. Gives a new frame, a row for each of `on`: `feature`, `n`
    (rows), `groups` (Int64: how many), `r` (Float64: Pearson's; null where nothing varies) and `p` (Float64: that there
    is no correlation; n - groups - 1 degrees of freedom, as the means are fitted too).
    Raises: FrameError for nulls; MissingExtraError without statsmodels.
    """
    on = [on] if isinstance(on, str) else list(on)
    require(df, target, groups, *on, stage="within_correlations")
    _no_nulls(df, [target, groups, *on], "within_correlations")
    numbers = pl.col(list(dict.fromkeys((target, *on)))).cast(pl.Float64)
    varies = pl.when(numbers.n_unique().over(groups) > 1).then(numbers - numbers.mean().over(groups)).otherwise(0.0)
    centred = df.with_columns(varies)
    count = df[groups].n_unique()
    rows = [_correlation(centred[name], centred[target], df.height, count) for name in on]
    return pl.DataFrame(rows, schema=_CORRELATION)


def _correlation(feature: pl.Series, target: pl.Series, n: int, groups: int) -> dict[str, Any]:
    """Of centred values: r by statsmodels' slope through the origin, whose test has the degrees of freedom left."""
    row: dict[str, Any] = {"feature": feature.name, "n": n, "groups": groups, "r": None, "p": None}
    squares = float((feature**2).sum()) * float((target**2).sum())
    if n > groups + 1 and squares > 0:
        model = _statsmodels().OLS(target.to_numpy(), feature.to_numpy())
        model.df_resid = n - groups - 1  # it does not know that means were taken out
        r = float((feature * target).sum()) / math.sqrt(squares)
        row |= {"r": r, "p": _finite(model.fit().pvalues[0])}
    return row


def _leave_one_out(fit: Any) -> float | None:
    """1 - PRESS / total sum of squares; None when a coefficient hangs on one row, and there is none without it."""
    influence = fit.get_influence()
    if influence.hat_matrix_diag.max() > 1 - 1e-9 or not fit.centered_tss:
        return None
    return _finite(1 - (influence.resid_press**2).sum() / fit.centered_tss)


def _finite(value: Any) -> float | None:
    return float(value) if math.isfinite(value) else None


def _fitted(df: pl.DataFrame, features: Sequence[str], components: int | None, name: str) -> tuple[Any, Any]:
    """The standardised features, and scikit-learn's PCA of them."""
    require(df, *features, stage=name)
    _no_nulls(df, features, name)
    most = min(df.height, len(features))
    if df.height < 2:
        raise FrameError(f"{name}() needs at least two rows, but has {df.height}.")
    if components is not None and not (isinstance(components, int) and 1 <= components <= most):
        raise BindError(f"{name}(components={components!r}): it must be a whole number from 1 to {most}.")
    try:
        from sklearn.decomposition import PCA
        from sklearn.preprocessing import StandardScaler
    except ImportError as exc:
        raise MissingExtraError(f"scikit-learn is not installed. Install it with:\n    {_EXTRA}") from exc
    scaled = StandardScaler().fit_transform(df.select(pl.col(list(features)).cast(pl.Float64)).to_numpy())
    return scaled, PCA(components, svd_solver="full").fit(scaled)


def _statsmodels() -> Any:
    try:
        import statsmodels.api as statsmodels
    except ImportError as exc:
        raise MissingExtraError(f"statsmodels is not installed. Install it with:\n    {_EXTRA}") from exc
    return statsmodels


def _no_nulls(df: pl.DataFrame, columns: Sequence[str], name: str) -> None:
    counts = df.select(pl.col(column).is_null().sum() for column in dict.fromkeys(columns)).row(0, named=True)
    lacking = {column: count for column, count in counts.items() if count}
    if lacking:
        raise FrameError(
            f"{name}() reads numbers in all {df.height} rows, but finds nulls in {listed(lacking)} "
            f"({max(lacking.values())} rows at the most). Filter those rows, or leave the column out."
        )

"""Length-controlled win rates: what a model would win if its answers were as long as the baseline's.

A generalised linear model explains the preference for the model's answer to item i by three terms,
    logit p = b_length * tanh((length of the baseline's answer - of the model's) / sd) + b_difficulty * d_i + b_model,
and the win rate is read off without the first: 100 * mean of 1 / (1 + exp(-(b_difficulty * d_i + b_model))). Lengths
are characters, sd is that of the differences (with n - 1), d_i is how hard the item is, the same for all models.
Source: Dubois et al. 2024, arXiv 2404.04475; tatsu-lab/alpaca_eval at cd543a1, src/alpaca_eval/metrics/glm_winrate.py.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from agora_frames.errors import FrameError, MissingExtraError, listed
from agora_frames.frames import require
from agora_frames.hashing import seed_of
from agora_frames.io import read_frame
from agora_frames.metrics.bootstrap import check_interval
from agora_frames.metrics.bootstrap import interval as percentiles
from agora_frames.stage import stage

__all__ = [
    "FEATURES",
    "LengthModel",
    "fit_official",
    "fit_plain",
    "length_controlled",
    "length_features",
    "load_difficulty",
    "load_gamed",
]

# The terms of the model without their weights: of each answer that was compared.
FEATURES = ("length", "difficulty", "model")
_GAMED_WEIGHT = 0.2 / 2  # of each item of each of the two gamed baselines, where an item of the model weighs 1
_FOLDS, _RANDOM_STATE = 5, 123
_STRENGTHS = tuple(10 ** (-4 + 8 * i / 9) for i in range(10))  # scikit-learn's ten values of C
_SUMMARY = {
    **dict.fromkeys(("n", "n_failed", "n_unread"), pl.Int64),
    **dict.fromkeys(("score", "low", "high"), pl.Float64),
    "interval": pl.String,
    "level": pl.Float64,
}


@dataclass(frozen=True)
class LengthModel:
    """The weights of the three terms."""

    length: float
    difficulty: float
    model: float

    def win_rate(self, difficulty: pl.Series) -> float:
        """The win rate in points, 0 to 100, at equal length, over items that are so difficult."""
        logit = self.difficulty * difficulty + self.model
        return 100.0 * float((1 / (1 + (-logit).exp())).mean())  # type: ignore[arg-type]


def load_difficulty(given: str | Path) -> pl.DataFrame:
    """How hard each item is: `item_id`, `difficulty`, from a file with an index and `instruction_difficulty`.

    The official one is `instruction_difficulty.csv` of the data set tatsu-lab/alpaca_eval on the Hugging Face hub.
    """
    df = read_frame(given)
    require(df, "instruction_difficulty", stage="load_difficulty")
    index = "index" if "index" in df.columns else df.columns[0]
    return df.select(
        pl.col(index).cast(pl.Int64).cast(pl.String).alias("item_id"),
        pl.col("instruction_difficulty").cast(pl.Float64).alias("difficulty"),
    )


def load_gamed(given: str | Path) -> pl.DataFrame:
    """The gamed baselines that hold the official fit: `share` (0 to 1) and `FEATURES`, in the order of the file.

    They are answers of the baseline that was told to be concise, or verbose: one that won by length alone would differ.
    The official file is `df_gamed.csv` of the data set tatsu-lab/alpaca_eval on the Hugging Face hub (`preference`,
    `std_delta_len`, `instruction_difficulty`).
    """
    df = read_frame(given)
    require(df, "preference", "std_delta_len", "instruction_difficulty", stage="load_gamed")
    return df.select(
        pl.col("preference").cast(pl.Float64).alias("share"),
        pl.col("std_delta_len").cast(pl.Float64).tanh().alias("length"),
        pl.col("instruction_difficulty").cast(pl.Float64).alias("difficulty"),
        pl.lit(0.0).alias("model"),
    )


def length_features(
    df: pl.DataFrame, *, difficulty: pl.DataFrame, baseline: str = "baseline", answer: str = "completion"
) -> pl.DataFrame:
    """What the model is fitted to: `share` (the score; null where nobody judged) and `FEATURES`, one row each.

    df: `item_id`, `score`, and the two answers (String), or their lengths in characters (a number each). An answer that
    is not there is of length 0. difficulty: of `load_difficulty`.
    Raises: FrameError when an item has no difficulty, or a column is missing.
    """
    require(df, "item_id", "score", baseline, answer, stage="length_features")
    require(difficulty, "item_id", "difficulty", stage="length_features")
    joined = df.join(difficulty.select("item_id", "difficulty"), on="item_id", how="left", maintain_order="left")
    if (lacking := joined.filter(pl.col("difficulty").is_null())).height:
        raise FrameError(
            f"no difficulty is known of item_id {listed(lacking['item_id'].unique(maintain_order=True), most=3)} "
            f"({lacking.height} of {df.height} rows). Give the difficulties of the benchmark that these rows are of."
        )
    lengths = [
        (pl.col(name).str.len_chars() if df.schema[name] == pl.String else pl.col(name)).cast(pl.Float64).fill_null(0.0)
        for name in (baseline, answer)
    ]
    delta = lengths[0] - lengths[1]
    return joined.select(
        pl.col("score").cast(pl.Float64).alias("share"),
        pl.when(delta.std() > 0).then((delta / delta.std()).tanh()).otherwise(0.0).alias("length"),
        "difficulty",
        pl.lit(1.0).alias("model"),
    )


def fit_plain(features: pl.DataFrame) -> LengthModel:
    """The weights of greatest likelihood, with nothing to hold them; null shares are left out.

    It differs from the official fit by a point or so, and by far more for answers that were made to game the length.
    Raises: MissingExtraError without statsmodels.
    """
    try:
        import statsmodels.api as sm  # type: ignore[import-untyped]
    except ImportError as exc:
        raise _no_extra("statsmodels") from exc
    _check_fit(features)
    used = features.drop_nulls("share")
    family = sm.families.Binomial()
    model = sm.GLM(used["share"].to_numpy(), used.select(FEATURES).to_numpy(), family=family)
    return LengthModel(*map(float, model.fit(maxiter=100, tol=1e-12).params))


def fit_official(features: pl.DataFrame, *, gamed: pl.DataFrame) -> LengthModel:
    """The weights as AlpacaEval 2.0 fits them: L1-penalised, by five-fold cross-validation, with the gamed baselines.

    gamed: of `load_gamed`; they come first, and weigh 0.1 a row. Each row stands in the fit twice, once as won and once
    as lost, weighted by its share; both stay in one fold. The strength of the penalty is that of the least mean log
    loss among scikit-learn's ten. Solver liblinear, random_state 123, no intercept.
    Raises: MissingExtraError without scikit-learn.
    """
    try:
        from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]
        from sklearn.model_selection import GroupKFold  # type: ignore[import-untyped]
        from sklearn.utils import check_random_state  # type: ignore[import-untyped]
    except ImportError as exc:
        raise _no_extra("scikit-learn") from exc
    rows = pl.concat(
        [
            gamed.select("share", *FEATURES, pl.lit(_GAMED_WEIGHT).alias("weight")),
            features.select("share", *FEATURES, pl.lit(1.0).alias("weight")),
        ]
    )
    _check_fit(features)
    rows = rows.drop_nulls("share").with_row_index("group")
    lost = rows.with_columns(share=1 - pl.col("share"))
    twice = pl.concat([rows.with_columns(won=1), lost.with_columns(won=0)])
    x, won, weights = twice.select(FEATURES).to_numpy(), twice["won"].to_numpy(), twice["weight"].to_numpy()
    shares = twice["share"].to_numpy()

    def fitted(part: Any, strength: float, state: Any) -> Any:
        model = LogisticRegression(
            C=strength, l1_ratio=1.0, solver="liblinear", fit_intercept=False, random_state=state
        )
        return model.fit(x[part], won[part], sample_weight=(shares * weights)[part])

    losses = [0.0] * len(_STRENGTHS)
    for train, test in GroupKFold(n_splits=_FOLDS).split(x, won, twice["group"].to_numpy()):
        state = check_random_state(_RANDOM_STATE)
        for i, strength in enumerate(_STRENGTHS):
            p = fitted(train, strength, state).predict_proba(x[test])[:, 1].clip(1e-15, 1 - 1e-15)
            losses[i] += _log_loss(twice[test], pl.Series(p)) / _FOLDS
    best = _STRENGTHS[losses.index(min(losses))]
    every = slice(None)
    return LengthModel(*map(float, fitted(every, best, check_random_state(_RANDOM_STATE)).coef_[0]))


@stage()
def length_controlled(
    df: pl.DataFrame,
    *,
    difficulty: pl.DataFrame,
    gamed: pl.DataFrame | None = None,
    baseline: str = "baseline",
    answer: str = "completion",
    resamples: int = 200,
    level: float = 0.95,
    seed: int = 0,
) -> pl.DataFrame:
    """The length-controlled win rate, in the columns of `summarise`.

    Reads: `item_id`, `score` (0 to 1), `score_error`, and the two answers, or their lengths.
    Gives one row (none of an empty frame): `n` (rows), `n_failed` (not judged: left out of the fit, but not of the
    items over which it is read off, as in the official code), `n_unread`, `score`, `low`, `high` (points, 0 to 100;
    null when fewer than five rows were judged, or all answers differ by the same length), `interval` (`bootstrap`:
    percentiles over refits of resampled rows; null when resamples is 0), `level`.
    difficulty: of `load_difficulty`. gamed: of `load_gamed`, for the official fit, which takes about a second a fit;
    None fits by plain maximum likelihood. resamples: refits for the interval.
    Rows that are all of the baseline itself get 50, as the model is not told from it.
    Raises: FrameError when an item has no difficulty.
    """
    check_interval("length_controlled", resamples=resamples, level=level)
    require(df, "item_id", "score", "score_error", stage="length_controlled")
    # In whatever order rows come, they are fitted in that of the official files, by which the folds are made.
    df = df.sort(pl.col("item_id").str.len_chars(), "item_id", maintain_order=True)
    judged, unread = df["score"].is_not_null(), df["score"].is_not_null() & df["score_error"].is_not_null()
    row: dict[str, Any] = {"n": df.height, "n_failed": int((~judged).sum()), "n_unread": int(unread.sum())}
    if df.height and judged.any():
        if _is_baseline(df, baseline, answer):
            row["score"] = 50.0
        else:
            row |= _controlled(df, difficulty, gamed, baseline, answer, resamples, level, seed)
    return pl.DataFrame([row], schema=_SUMMARY)[: df.height]


def _is_baseline(df: pl.DataFrame, baseline: str, answer: str) -> bool:
    """Whether all answers are the baseline's own texts; of lengths alone nobody knows."""
    texts = all(df.schema.get(name) == pl.String for name in (baseline, answer))
    return texts and bool(df.select((pl.col(baseline) == pl.col(answer)).fill_null(False).all()).item())


def _controlled(
    df: pl.DataFrame,
    difficulty: pl.DataFrame,
    gamed: pl.DataFrame | None,
    baseline: str,
    answer: str,
    resamples: int,
    level: float,
    seed: int,
) -> dict[str, Any]:
    def won(rows: pl.DataFrame) -> float | None:
        features = length_features(rows, difficulty=difficulty, baseline=baseline, answer=answer)
        if _unfit(features):
            return None
        model = fit_plain(features) if gamed is None else fit_official(features, gamed=gamed)
        return model.win_rate(features["difficulty"])

    told: dict[str, Any] = {"score": won(df)}
    if resamples and told["score"] is not None:
        drawn = (random.Random(seed_of("length_controlled", seed, i)) for i in range(resamples))
        again = [won(df[rng.choices(range(df.height), k=df.height)]) for rng in drawn]
        low, high = (
            pl.DataFrame({"points": again}, schema={"points": pl.Float64}).select(*percentiles("points", level)).row(0)
        )
        told |= {"low": low, "high": high, "interval": "bootstrap", "level": level}
    return told


def _log_loss(rows: pl.DataFrame, p: pl.Series) -> float:
    """The mean log loss of shares, weighted; the prediction is that the row was won."""
    share = pl.when(pl.col("won") == 1).then("share").otherwise(1 - pl.col("share"))
    loss = -(share * pl.col("p").log() + (1 - share) * (1 - pl.col("p")).log()) * pl.col("weight")
    return float(rows.with_columns(p=p).select(loss.mean()).item())


def _unfit(features: pl.DataFrame) -> str | None:
    """Why nothing can be fitted to these rows; None when it can."""
    used = features.drop_nulls("share")
    if used.height < _FOLDS:
        return f"{used.height} judged rows are too few to tell the effect of length: {_FOLDS} are the least."
    if used["length"].n_unique() < 2:
        return "the answers are all longer than the baseline's by the same length: nothing tells its effect."
    return None


def _check_fit(features: pl.DataFrame) -> None:
    if why := _unfit(features):
        raise FrameError(why)


def _no_extra(package: str) -> MissingExtraError:
    return MissingExtraError(
        f"length-controlled win rates are fitted by {package}, which is not installed: "
        "pip install 'agora-frames[bench]'."
    )

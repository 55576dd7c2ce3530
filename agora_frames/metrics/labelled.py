"""Score rows that say whose they are, gathered: one score for each model and benchmark, and its resamples.

What `pgr` reads. A row is labelled by

    role         String: `base` (the model before training), `student` (after it) or `reference`
    benchmark    String
    domain       String, may be missing: the domain of the benchmark (see DOMAINS)
    generator    String, of students: whose data the student was trained on; so is any other label named in `by`
    method       String, of students, may be missing: how the data were made
    train_seed   of students, may be missing: tells apart students trained several times on the same data

and is either one item's score, as `benchmark`, `item_id`, `sample`, `score` (0 to 1, null when it could not be
graded), `weight` (1 when missing); or, without a column `item_id`, a benchmark's score in points: `score`, and where
known `n` (of items) and `se` (its standard error, in points); or, as report rows have them (see `frames.REPORT`), the
ends `low` and `high` of its interval at `level`, of which half the width is taken for so many `se`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import NormalDist

import polars as pl

from agora_frames.errors import FrameError, did_you_mean, listed
from agora_frames.frames import require
from agora_frames.metrics.bootstrap import resampled_sums

__all__ = ["DOMAINS", "ROLES", "item_sums", "labelled", "labels", "replicates", "summaries"]

ROLES = ("base", "student", "reference")

# The domains of AgoraBench (arXiv 2412.03679, table 1): of its benchmarks and their variants, by the names that stand
# in the rows of `bench`, and by others that they are known by.
DOMAINS = {
    **dict.fromkeys(("gsm8k", "math", "math_500", "math500", "hendrycks_math"), "math"),
    **dict.fromkeys(("mbpp", "mbpp_sanitized", "mbpp_plus", "humaneval", "humaneval_plus"), "code"),
    **dict.fromkeys(("alpaca_eval_2", "alpaca_eval_2_unweighted", "arena_hard"), "instruction_following"),
    **dict.fromkeys(("alpaca_eval", "alpacaeval2"), "instruction_following"),
}


_TELL_APART = "Tell them apart by a label named in by=, by `train_seed` or `sample`, or leave one out."
_METRICS = "They are of several metrics: keep one of each benchmark, with df.filter(pl.col('metric') == …)."


def labels(by: Sequence[str], *, seeds: bool) -> list[str]:
    """The columns that say whose a score is: one model (with `seeds`), or all those trained on the same data."""
    return ["role", *by, "method", "domain", "benchmark", *(["train_seed"] if seeds else [])]


def labelled(df: pl.DataFrame, *, by: Sequence[str], domains: Mapping[str, str] | None) -> pl.DataFrame:
    """The rows with every label as String (null where it does not apply), checked.

    Raises: FrameError for a missing column, an unknown role, a benchmark without a domain or with two, a score or
    weight that cannot be one, and for two rows that say the same thing.
    """
    if "role" not in df.columns:
        raise FrameError(
            f"pgr() reads whose each score is in the column 'role', which the frame does not have: {listed(ROLES)}. "
            "Add it, or let `agora evaluate` do so: --scores scores.parquet --label role=student. The frame has: "
            f"{listed(df.columns) or 'no columns'}."
        )
    require(df, "benchmark", "score", *(name for name in by if name != "generator"), stage="pgr")
    _check_columns(df)
    names = labels(by, seeds=True)
    lacking = [pl.lit(None, dtype=pl.String).alias(name) for name in names if name not in df.columns]
    df = df.with_columns(lacking).with_columns(pl.col(names).cast(pl.String), pl.col("score").cast(pl.Float64))
    others = df.filter(~pl.col("role").is_in(ROLES).fill_null(False))["role"].unique().sort().to_list()
    if others:
        near = did_you_mean(others[-1], ROLES) if others[-1] else ""
        raise FrameError(f"pgr() reads the roles {listed(ROLES)}, but the frame has {listed(others)}{near or '.'}")
    # What base and reference are called is of no consequence: there is one of each for a benchmark.
    students = [pl.when(pl.col("role") == "student").then(name).alias(name) for name in (*by, "method", "train_seed")]
    df = _with_domains(df.with_columns(students), {**DOMAINS, **(domains or {})})
    if "item_id" in df.columns:
        df = _with_weights(df)
    elif (odd := df.filter(~pl.col("score").is_finite())).height:
        raise FrameError(
            f"pgr() found the score {odd['score'][0]!r} of {odd['benchmark'][0]!r}: it must be a number of points, or "
            "null where there is none."
        )
    _no_duplicates(df, names)
    return df


def _check_columns(df: pl.DataFrame) -> None:
    """Raises: FrameError for a column of numbers that holds something else, or for scores of no benchmark."""
    for name in ("score", "weight", "se", "n", "low", "high", "level"):
        dtype = df.schema.get(name, pl.Float64())
        if not (dtype.is_numeric() or dtype in (pl.Null, pl.Boolean)):
            raise FrameError(f"pgr() reads the column {name!r} as numbers, but it is {dtype}. Cast it first.")
    if without := df["benchmark"].null_count():
        raise FrameError(f"pgr() found {without} rows without a benchmark: their 'benchmark' is null.")


def summaries(df: pl.DataFrame, *, by: Sequence[str], seeds: bool) -> pl.DataFrame:
    """One row for each model (or all seeds of one together) and benchmark: `score` and `se` in points, `n` items.

    The score of items is 100 * sum(weight * score) / sum(weight) over the graded rows. Rows of one item are no
    independent samples and are taken together: `se` is that of a ratio of sums over items. Without items the mean
    over seeds is given, and the mean of their `se`, for they share their items.
    """
    names = labels(by, seeds=seeds)
    if "item_id" not in df.columns:
        counted = pl.col("n").cast(pl.Int64).min() if "n" in df.columns else pl.lit(None, dtype=pl.Int64).alias("n")
        given = [_standard_error(df).mean().alias("se"), counted]
        return (
            df.filter(pl.col("score").is_not_null())
            .group_by(names, maintain_order=True)
            .agg(pl.col("score").mean(), *given)
        )
    mean, count = pl.col("ws").sum() / pl.col("w").sum(), pl.len().cast(pl.Int64)
    residual = pl.col("ws") - mean * pl.col("w")
    variance = (residual**2).sum() / pl.col("w").sum() ** 2 * count / (count - 1)
    return (
        item_sums(df, names)
        .group_by(names, maintain_order=True)
        .agg(score=100 * mean, se=pl.when(count > 1).then(100 * variance.sqrt()), n=count)
    )


def _standard_error(df: pl.DataFrame) -> pl.Expr:
    """Float64: of a benchmark's score in points; null where it is not known."""
    if "se" in df.columns:
        return pl.col("se").cast(pl.Float64)
    if not {"low", "high", "level"} <= set(df.columns):
        return pl.lit(None, dtype=pl.Float64)
    levels = df["level"].drop_nulls().unique()
    of_level = {level: 2 * NormalDist().inv_cdf((1 + level) / 2) for level in levels}
    widths = pl.col("level").replace_strict(of_level, default=None, return_dtype=pl.Float64)
    return (pl.col("high") - pl.col("low")) / widths


def item_sums(df: pl.DataFrame, names: Sequence[str]) -> pl.DataFrame:
    """Of each item that was graded: the sum of weight * score (`ws`) and of weight (`w`)."""
    graded = df.filter(pl.col("score").is_not_null() & (pl.col("weight") > 0))
    return graded.group_by(*names, "item_id", maintain_order=True).agg(
        ws=(pl.col("weight") * pl.col("score")).sum(), w=pl.col("weight").sum()
    )


def replicates(df: pl.DataFrame, *, by: Sequence[str], resamples: int, seed: int) -> pl.DataFrame:
    """The scores of `summaries` (without seeds) for each resample of the items: `resample`, and `score` in points.

    All models are scored on the same draws, benchmark by benchmark. Of students trained several times, the seeds are
    drawn again too, the same for all benchmarks.
    """
    names = labels(by, seeds=True)
    models = df.select(names).unique(maintain_order=True).with_row_index("model")
    sums = item_sums(df.join(models, on=names, nulls_equal=True), ["benchmark", "model"])
    scores = [
        _resampled_scores(part, resamples, (seed, name))
        for (name,), part in sums.group_by("benchmark", maintain_order=True)
    ]
    counts = _seed_counts(models, by=by, resamples=resamples, seed=seed)
    whole = pl.concat([_REPLICATES.to_frame(), *scores]).join(counts, on=["model", "resample"]).join(models, on="model")
    drawn = pl.col("count").filter(pl.col("score").is_not_nan())
    score = (pl.col("count") * pl.col("score")).filter(pl.col("score").is_not_nan()).sum() / drawn.sum()
    return whole.group_by(*labels(by, seeds=False), "resample").agg(score.fill_nan(None).alias("score"))


_REPLICATES = pl.Schema({"resample": pl.UInt32(), "model": pl.UInt32(), "score": pl.Float64()})


def _resampled_scores(sums: pl.DataFrame, resamples: int, key: tuple[object, ...]) -> pl.DataFrame:
    """The score in points of each model for each resample of one benchmark's items; NaN where none was graded."""
    wide = sums.pivot("model", index="item_id", values=["ws", "w"]).fill_null(0.0).sort("item_id")
    columns = [name for name in wide.columns if name != "item_id"]
    drawn = resampled_sums(wide, columns=columns, resamples=resamples, key=("items", *key))
    models = [name.removeprefix("ws_") for name in columns if name.startswith("ws_")]
    points = drawn.select("resample", *((100 * pl.col(f"ws_{m}") / pl.col(f"w_{m}")).alias(m) for m in models))
    long = points.unpivot(models, index="resample", variable_name="model", value_name="score")
    return long.cast(_REPLICATES).select(_REPLICATES.names())


def _seed_counts(models: pl.DataFrame, *, by: Sequence[str], resamples: int, seed: int) -> pl.DataFrame:
    """How often each model stands for its data in each resample: always once, unless it has sisters of other seeds."""
    whose = ["role", *by, "method", "domain"]
    parts = []
    for key, part in models.group_by(whose, maintain_order=True):
        seeds = part["train_seed"].unique().sort()
        one_hot = pl.DataFrame([(seeds.eq_missing(each)).alias(str(place)) for place, each in enumerate(seeds)])
        counts = resampled_sums(one_hot, columns=one_hot.columns, resamples=resamples, key=("seeds", seed, *key))
        long = counts.unpivot(one_hot.columns, index="resample", variable_name="place", value_name="count")
        places = pl.DataFrame({"train_seed": seeds, "place": one_hot.columns})
        of_models = part.select("model", "train_seed").join(places, on="train_seed", nulls_equal=True)
        parts.append(long.join(of_models, on="place").select("model", "resample", "count"))
    schema = {"model": pl.UInt32, "resample": pl.UInt32, "count": pl.Float64}
    return pl.concat([pl.DataFrame(schema=schema), *parts])


def _with_domains(df: pl.DataFrame, known: Mapping[str, str]) -> pl.DataFrame:
    """The domain of each row's benchmark: as the frame says, else as it is known."""
    said = df.filter(pl.col("domain").is_not_null()).group_by("benchmark").agg(pl.col("domain").unique().sort())
    for name, found in said.filter(pl.col("domain").list.len() > 1).iter_rows():
        raise FrameError(
            f"the benchmark {name!r} is in the domains {listed(found)}; pgr() combines each benchmark in one. "
            "Give its rows the domain that the benchmark measures."
        )
    domains = dict(known) | {name: found[0] for name, found in said.iter_rows()}
    if lacking := [name for name in df["benchmark"].unique().sort() if name not in domains]:
        raise FrameError(
            f"pgr() does not know the domain of {listed(lacking)}. Say it in a column `domain`, or with "
            f"domains={{{lacking[0]!r}: …}}. Known are: {listed(sorted(known), most=20)}."
        )
    return df.with_columns(pl.col("benchmark").replace_strict(domains, return_dtype=pl.String).alias("domain"))


def _with_weights(df: pl.DataFrame) -> pl.DataFrame:
    """The rows of items with `item_id` as String, and `sample` and `weight` filled in; their numbers checked."""
    lacking = [pl.lit(value).alias(name) for name, value in (("sample", 0), ("weight", 1.0)) if name not in df.columns]
    df = df.with_columns(lacking).with_columns(pl.col("item_id").cast(pl.String), pl.col("weight").cast(pl.Float64))
    bounds = (
        ("score", 1.0, "a number from 0 to 1, or null where it could not be graded"),
        ("weight", float("inf"), "a number, at least 0"),
    )
    for name, most, wanted in bounds:
        wrong = df.filter(~pl.col(name).is_between(0, most) | pl.col(name).is_nan())
        if wrong.height:
            row = wrong.row(0, named=True)
            raise FrameError(
                f"pgr() reads items' scores, but the item {row['item_id']!r} of {row['benchmark']!r} has the {name} "
                f"{row[name]!r}: it must be {wanted}. Scores in points come without `item_id`."
            )
    if df["item_id"].null_count() or df["weight"].null_count():
        raise FrameError("pgr() found rows of items without `item_id` or `weight`: give each its item, and its weight.")
    return df


def _no_duplicates(df: pl.DataFrame, names: Sequence[str]) -> None:
    key = [*names, *(name for name in ("item_id", "sample") if name in df.columns)]
    twice = df.filter(pl.struct(key).is_duplicated())
    if twice.height:
        shown = {name: value for name, value in twice.select(key).row(0, named=True).items() if value is not None}
        raise FrameError(
            f"pgr() found {twice.height} rows that say whose they are no better than another: the first is {shown}. "
            f"{_METRICS if 'metric' in twice.columns and twice['metric'].n_unique() > 1 else _TELL_APART}"
        )

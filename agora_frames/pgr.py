"""Performance gap recovered: how much of the way from a base model to a reference a student went, in percent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Literal

import polars as pl

from agora_frames.errors import BindError, listed
from agora_frames.frames import ERROR
from agora_frames.metrics.bootstrap import check_interval
from agora_frames.metrics.labelled import ROLES, labelled
from agora_frames.metrics.recovery import (
    SCOPES,
    cells_of,
    intervals,
    mean_of_all,
    over_seeds,
    scopes_of,
    standard_errors,
    unequal_items,
)
from agora_frames.stage import stage

__all__ = ["average_pgr", "pgr"]

_COMBINE = ("mean_of_pgr", "pgr_of_mean")
_MADE = pl.Schema(
    {
        "method": pl.String(),
        "domain": pl.String(),
        "benchmark": pl.String(),
        "scope": pl.String(),
        "combine": pl.String(),
        "pgr": pl.Float64(),
        "low": pl.Float64(),
        "high": pl.Float64(),
        "se": pl.Float64(),
        "seeds": pl.Int64(),
        "sd_seeds": pl.Float64(),
        **{role: pl.Float64() for role in ROLES},
        "gap": pl.Float64(),
        **{f"n_{role}": pl.Int64() for role in ROLES},
        "flags": pl.List(pl.String),
        "pgr_error": ERROR,
    }
)


@stage()
def pgr(
    df: pl.DataFrame,
    *,
    by: Sequence[str] = ("generator",),
    combine: Literal["mean_of_pgr", "pgr_of_mean"] = "mean_of_pgr",
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    domains: Mapping[str, str] | None = None,
) -> pl.DataFrame:
    """Says how much of the performance gap each student recovered: by benchmark, domain and method, and overall.

    Reads: labelled score rows, of items or of whole benchmarks (see `metrics.labelled`): `role`, `benchmark`, `score`,
    the labels of `by` (`generator` may be missing), and, as far as there, `method`, `domain`, `train_seed`, `item_id`,
    `sample`, `weight`, `se`, `n`.
    Gives a new frame, a row for each student and `scope`: `benchmark`, `domain` (its benchmarks combined), `method`
    (the mean of its domains) and `overall` (the mean over methods and domains); what a scope sums up is null there.
    `combine` (String: how a domain was combined), `pgr` (Float64, percent; null for a reason in `pgr_error`),
    `low`, `high` (Float64: the interval; null without items), `se` (Float64: the analytic standard error; null when
    that of a score is not known), `seeds` (Int64: of students, with which there is a PGR of the whole scope),
    `sd_seeds` (Float64: its standard deviation over them; null with one), `base`, `student`, `reference`, `gap`
    (Float64, points; null where PGRs were averaged), `n_base`, `n_student`, `n_reference` (Int64: graded items),
    `flags` (List(String), never null), `pgr_error` (`zero_gap`, `missing_scores`; null when there is a PGR).
    Flags: `negative_gap` (the reference is below the base: the sign is turned, and 50 means that the student got
    worse), `unstable_gap` (the interval of the gap reaches 0, so PGR may be anything), `unequal_items` (the three
    were graded on different items).
    by: what tells one student from another beside method and domain. combine: `mean_of_pgr` averages the PGRs of a
    domain's benchmarks; `pgr_of_mean` takes the PGR of their mean scores (the paper does not say which it does).
    resamples, level, seed: of the paired percentile bootstrap. Items are drawn for base, students and reference
    together, and seeds of students, where there are several, too; with two or three seeds it is still too narrow. 0
    makes none. domains: of benchmarks that neither the frame nor `metrics.labelled.DOMAINS` knows.
    Nothing is averaged over a part that is missing: if any student was scored in a method and domain, all are expected
    to be, and a lacking score is a row with a reason.
    Raises: FrameError when the rows cannot be what they should (see `metrics.labelled.labelled`).
    Source: arXiv 2412.03679v2, equation 2 and table 2. `se` is by the delta method, with scores taken as independent:
    100 * sqrt(var_student + (1-g)^2 var_base + g^2 var_reference) / gap, with g = pgr / 100.

    >>> scores = pl.DataFrame({"role": ["base", "student", "reference"], "score": [19.84, 28.08, 34.60]})
    >>> pgr(scores.with_columns(benchmark=pl.lit("math")))["pgr"].round(4).to_list()
    [55.8266, 55.8266, 55.8266]
    """
    check_interval("pgr", resamples=resamples, level=level)
    by = [by] if isinstance(by, str) else list(by)
    _check_names(by, combine)
    rows = labelled(df, by=by, domains=domains)
    cells = cells_of(rows, by)
    made = _with_errors(scopes_of(cells, by, combine), by)
    found = [standard_errors(cells, made, by, combine), over_seeds(rows, by, combine)]
    found += [intervals(rows, by, combine, resamples, level, seed), unequal_items(rows, by)]
    for each in found:
        made = made.join(each, on=[*by, *SCOPES["benchmark"], "scope"], how="left", nulls_equal=True)
    made = _with_flags(made, by, combine, NormalDist().inv_cdf((1 + level) / 2))
    return _in_order(made.with_columns(pl.lit(combine).alias("combine")), by)


def average_pgr(df: pl.DataFrame, *, by: Sequence[str] = ("generator",)) -> pl.DataFrame:
    """PGRs of domains averaged as the paper's tables do: by method, and overall.

    Reads: `by`, `method`, `domain` (String) and `pgr` (Float64, percent). Gives a new frame: `by`, `method` (null
    overall), `scope` (`method` or `overall`) and `pgr`, null where one of its parts is null.
    """
    wholes = [
        df.group_by(*by, *SCOPES[scope], maintain_order=True).agg(mean_of_all("pgr")).with_columns(scope=pl.lit(scope))
        for scope in ("method", "overall")
    ]
    return pl.concat(wholes, how="diagonal").select(*by, "method", "scope", "pgr")


def _check_names(by: list[str], combine: str) -> None:
    if combine not in _COMBINE:
        raise BindError(f"pgr(combine={combine!r}): it must be 'mean_of_pgr' or 'pgr_of_mean'.")
    if not by:
        raise BindError("pgr(by=…) must name what tells students apart, such as 'generator'.")
    if taken := [name for name in by if name in _MADE or name in ("role", "score", "train_seed", "item_id", "sample")]:
        raise BindError(
            f"pgr(by=…) may not hold {listed(taken)}: it names what else tells students apart, such as 'generator'. "
            "method, domain and train_seed always do."
        )


def _with_errors(made: pl.DataFrame, by: list[str]) -> pl.DataFrame:
    """Why there is no PGR: of a benchmark by its scores, of what sums up by its first part that has none."""
    lacking = pl.concat_str(
        [pl.when(pl.col(role).is_null()).then(pl.lit(role)) for role in ROLES], separator=" and ", ignore_nulls=True
    )
    where = pl.concat_str([pl.coalesce("benchmark", "domain"), "method"], separator=", ", ignore_nulls=True)
    own = (
        pl.when((pl.col("scope") == "benchmark") & (lacking != ""))
        .then(_error("missing_scores", pl.format("no graded score of {} on {}", lacking, where)))
        .when(pl.col("gap") == 0)
        .then(_error("zero_gap", pl.format("base and reference both score {} on {}", pl.col("base").round(2), where)))
    )
    made = made.with_columns(own.alias("pgr_error"))
    for scope, part in (("domain", "benchmark"), ("method", "domain"), ("overall", "domain")):
        parts = made.filter((pl.col("scope") == part) & pl.col("pgr_error").is_not_null())
        reasons = parts.group_by(*by, *SCOPES[scope], maintain_order=True).agg(
            pl.col("pgr_error").first().alias("of_part")
        )
        keys = [*by, *SCOPES[scope], "scope"]
        made = made.join(reasons.with_columns(scope=pl.lit(scope)), on=keys, how="left", nulls_equal=True)
        either = pl.when(pl.col("pgr").is_null()).then(pl.coalesce("pgr_error", "of_part"))
        made = made.with_columns(either.alias("pgr_error")).drop("of_part")
    return made


def _error(kind: str, message: pl.Expr) -> pl.Expr:
    return pl.struct(kind=pl.lit(kind), message=message).cast(ERROR)


def _with_flags(made: pl.DataFrame, by: list[str], combine: str, z: float) -> pl.DataFrame:
    """What makes a PGR doubtful; what sums up carries the flags of its parts."""
    noise = z * (pl.col("se_base") ** 2 + pl.col("se_reference") ** 2).sqrt()
    reaches_zero = pl.coalesce((pl.col("gap_low") <= 0) & (pl.col("gap_high") >= 0), pl.col("gap").abs() <= noise)
    told = {"negative_gap": pl.col("gap") < 0, "unstable_gap": reaches_zero, "unequal_items": pl.col("unequal")}
    flags = pl.concat_list([pl.when(found).then(pl.lit(name)) for name, found in told.items()]).list.drop_nulls()
    made = made.with_columns(flags.alias("flags"))
    for scope, part in (("domain", "benchmark"), ("method", "domain"), ("overall", "domain")):
        of_parts = pl.col("flags").explode().drop_nulls()
        if scope == "domain" and combine == "pgr_of_mean":  # the gap that counts is that of the means
            of_parts = of_parts.filter(of_parts == "unequal_items")
        group = [*by, *SCOPES[scope]]
        parts = made.filter(pl.col("scope") == part).group_by(group).agg(of_parts.alias("of_parts"))
        parts = parts.with_columns(scope=pl.lit(scope))
        made = made.join(parts, on=[*group, "scope"], how="left", nulls_equal=True)
        both = pl.concat_list("flags", pl.col("of_parts").fill_null([])).list.unique(maintain_order=True)
        made = made.with_columns(both.alias("flags")).drop("of_parts")
    return made


def _in_order(made: pl.DataFrame, by: list[str]) -> pl.DataFrame:
    """The columns in their order; the rows by student, then from the whole to its parts."""
    sure = pl.when(pl.col("pgr").is_not_null())
    made = made.with_columns(sure.then(name).alias(name) for name in ("low", "high", "se"))
    if made["method"].null_count() == made.height:  # one method without a name is all there is: that is `overall`
        made = made.filter(pl.col("scope") != "method")
    places = {name: place for place, name in enumerate(reversed(list(SCOPES)))}
    place = pl.col("scope").replace_strict(places, return_dtype=pl.Int8)
    made = made.with_columns(pl.col("seeds").fill_null(0)).sort(*by, place, *SCOPES["benchmark"])
    return made.select(*by, *(pl.col(name).cast(dtype) for name, dtype in _MADE.items()))

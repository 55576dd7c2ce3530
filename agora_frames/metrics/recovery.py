"""From scores to gaps: what each student recovered in every scope, how surely, and over which seeds."""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from agora_frames.metrics.bootstrap import interval
from agora_frames.metrics.labelled import ROLES, item_sums, replicates, summaries

__all__ = [
    "SCOPES",
    "cells_of",
    "intervals",
    "mean_of_all",
    "over_seeds",
    "recovered",
    "scopes_of",
    "standard_errors",
    "unequal_items",
]

# What is averaged over what: each scope's rows are told apart by these (beside `by`).
SCOPES: Mapping[str, tuple[str, ...]] = {
    "benchmark": ("method", "domain", "benchmark"),
    "domain": ("method", "domain"),
    "method": ("method",),
    "overall": (),
}


def recovered(base: str = "base", student: str = "student", reference: str = "reference") -> pl.Expr:
    """PGR in percent: 100 * (student - base) / (reference - base) of three columns; null where the gap is zero.

    100 is the reference itself, 0 the base, below 0 is worse than the base.
    Source: Kim et al., Evaluating Language Models as Synthetic Data Generators, arXiv 2412.03679v2, equation 2.

    >>> df = pl.DataFrame({"base": [19.84, 40.0], "student": [28.08, 41.0], "reference": [34.60, 40.0]})
    >>> df.select(recovered().round(4))["pgr"].to_list()
    [55.8266, None]
    """
    gap = pl.col(reference) - pl.col(base)
    return pl.when(gap != 0).then(100 * (pl.col(student) - pl.col(base)) / gap).alias("pgr")


def cells_of(rows: pl.DataFrame, by: list[str]) -> pl.DataFrame:
    """Each student on each benchmark that is expected of it, with the scores of the three roles as far as known.

    If any student was scored in a method and domain, all are expected to be, on all benchmarks of that domain.
    """
    seeds = "train_seed" in by
    students = rows.filter(pl.col("role") == "student")
    settings = students.select("method", "domain").unique(maintain_order=True)
    expected = students.select(by).unique(maintain_order=True).join(settings, how="cross")
    cells = expected.join(rows.select("domain", "benchmark").unique(maintain_order=True), on="domain")
    scores = summaries(rows, by=[name for name in by if name != "train_seed"], seeds=seeds)
    for role, key in (("student", [*by, "method", "benchmark"]), ("base", ["benchmark"]), ("reference", ["benchmark"])):
        of_role = scores.filter(pl.col("role") == role).select(
            *key, pl.col("score").alias(role), pl.col("se").alias(f"se_{role}"), pl.col("n").alias(f"n_{role}")
        )
        cells = cells.join(of_role, on=key, how="left", nulls_equal=True)
    return cells


def scopes_of(cells: pl.DataFrame, keys: list[str], combine: str) -> pl.DataFrame:
    """The PGR of each student (told apart by `keys`) in every scope."""
    with_pgr = (pl.col("reference") - pl.col("base")).alias("gap"), recovered()
    each = cells.with_columns(with_pgr)
    by_domain = each.group_by(*keys, *SCOPES["domain"], maintain_order=True)
    if combine == "pgr_of_mean":
        known = [name for name in ("se_base", "se_reference") if name in cells.columns]
        of_means = [(_sum_of(pl.col(name) ** 2).sqrt() / pl.len()).alias(name) for name in known]
        domains = by_domain.agg(*map(mean_of_all, ROLES), *of_means).with_columns(with_pgr)
    else:
        domains = by_domain.agg(mean_of_all("pgr"))
    wholes = [
        domains.group_by(*keys, *SCOPES[scope], maintain_order=True).agg(mean_of_all("pgr"))
        for scope in ("method", "overall")
    ]
    found = zip(SCOPES, (each, domains, *wholes), strict=True)
    return pl.concat([frame.with_columns(scope=pl.lit(scope)) for scope, frame in found], how="diagonal")


def standard_errors(cells: pl.DataFrame, made: pl.DataFrame, by: list[str], combine: str) -> pl.DataFrame:
    """By the delta method: how much each score moves the PGR, squared, times its variance; scores as independent.

    Base and reference are shared by methods and count once for each benchmark, with all that they move.
    """
    found = []
    for scope, names in SCOPES.items():
        group, means = [*by, *names], combine == "pgr_of_mean" and scope != "benchmark"
        source = "domain" if means else "benchmark"
        key = [*by, *SCOPES[source]]
        gaps = made.filter(pl.col("scope") == source).select(*key, "gap", "pgr")
        parts = pl.len().over(*by, "method", "domain") * pl.struct("method", "domain").n_unique().over(group)
        moves = 100 / pl.col("gap") / (1 if scope == "benchmark" else parts)
        moved = cells.join(gaps, on=key, nulls_equal=True).with_columns(
            student=(moves * pl.col("se_student")) ** 2,
            base=moves * (1 - pl.col("pgr") / 100),
            reference=moves * pl.col("pgr") / 100,
        )
        on_benchmarks = moved.group_by(*dict.fromkeys((*group, "benchmark"))).agg(
            pl.col("se_base", "se_reference").first(), *(_sum_of(pl.col(role)).alias(role) for role in ROLES)
        )
        shared = sum((pl.col(role) * pl.col(f"se_{role}")) ** 2 for role in ("base", "reference"))
        variance = on_benchmarks.with_columns(variance=pl.col("student") + shared)
        found.append(
            variance.group_by(group)
            .agg(_sum_of(pl.col("variance")).sqrt().alias("se"))
            .with_columns(scope=pl.lit(scope))
        )
    return _keyed(found, by, "se")


def over_seeds(rows: pl.DataFrame, by: list[str], combine: str) -> pl.DataFrame:
    """In every scope, from how many seeds of students there is a PGR, and the standard deviation over them."""
    keys = [*by, "train_seed"]
    each = scopes_of(cells_of(rows, keys), keys, combine).filter(pl.col("pgr").is_not_null())
    spread = each.group_by(*by, *SCOPES["benchmark"], "scope").agg(
        pl.len().cast(pl.Int64).alias("seeds"), pl.col("pgr").std().alias("sd_seeds")
    )
    return _keyed([spread], by, "seeds", "sd_seeds")


def intervals(rows: pl.DataFrame, by: list[str], combine: str, resamples: int, level: float, seed: int) -> pl.DataFrame:
    """In every scope, the percentile intervals of PGR and of the gap over resamples of the items."""
    wanted = ("low", "high", "gap_low", "gap_high")
    if "item_id" not in rows.columns or not resamples:
        return _keyed([], by, *wanted)
    scores = replicates(rows, by=by, resamples=resamples, seed=seed)
    cells = scores.filter(pl.col("role") == "student").rename({"score": "student"}).drop("role")
    for role in ("base", "reference"):
        of_role = scores.filter(pl.col("role") == role).select("benchmark", "resample", pl.col("score").alias(role))
        cells = cells.join(of_role, on=["benchmark", "resample"], how="left")
    drawn = scopes_of(cells, [*by, "resample"], combine)
    low, high = interval("gap", level)
    found = drawn.group_by(*by, *SCOPES["benchmark"], "scope").agg(
        *interval("pgr", level), low.alias("gap_low"), high.alias("gap_high")
    )
    return _keyed([found], by, *wanted)


def unequal_items(rows: pl.DataFrame, by: list[str]) -> pl.DataFrame:
    """For each student and benchmark, whether the three roles were graded on different items."""
    if "item_id" not in rows.columns:
        return _keyed([], by, "unequal")
    graded = item_sums(rows, ["role", *by, "method", "domain", "benchmark"])
    sets = {role: graded.filter(pl.col("role") == role) for role in ROLES}
    item = ["benchmark", "item_id"]
    shared = sets["base"].join(sets["reference"], on=item, how="inner").select(item)
    students = sets["student"].join(shared.with_columns(shared=True), on=item, how="left")
    counts = students.group_by(*by, *SCOPES["benchmark"]).agg(pl.len(), pl.col("shared").sum())
    for role in ("base", "reference"):
        counts = counts.join(sets[role].group_by("benchmark").len(role), on="benchmark", how="left")
    unequal = pl.any_horizontal(pl.col(name) != pl.col("shared") for name in ("len", "base", "reference"))
    unequal &= (
        pl.col("base").is_not_null() & pl.col("reference").is_not_null()
    )  # else what there is to say is that one is missing
    return _keyed([counts.with_columns(unequal.alias("unequal"), scope=pl.lit("benchmark"))], by, "unequal")


def mean_of_all(column: str) -> pl.Expr:
    """The mean over all parts; null where one is."""
    return pl.when(pl.col(column).null_count() == 0).then(pl.col(column).mean()).alias(column)


def _sum_of(parts: pl.Expr) -> pl.Expr:
    """The sum of all parts; null where one is."""
    return pl.when(parts.null_count() == 0).then(parts.sum())


def _keyed(parts: list[pl.DataFrame], by: list[str], *columns: str) -> pl.DataFrame:
    """The parts as one frame of `by`, the names of a scope, and columns; so that they can be joined."""
    keys = [*by, *SCOPES["benchmark"], "scope"]
    types = {"seeds": pl.Int64, "unequal": pl.Boolean}
    schema = {**dict.fromkeys(keys, pl.String), **{name: types.get(name, pl.Float64) for name in columns}}
    return pl.concat([pl.DataFrame(schema=schema), *parts], how="diagonal").select(list(schema))

"""What a data set is like in itself: quality, difficulty, perplexity and diversity, in one row for each data set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import polars as pl

from agora_frames.errors import BindError, FrameError, listed
from agora_frames.frames import require
from agora_frames.metrics.diversity import cosine_diversity, embed_column, vocabulary_diversity
from agora_frames.metrics.judge import difficulty, judge_column, quality
from agora_frames.metrics.reward import reward_column
from agora_frames.stage import stage
from agora_frames.types import Backend, Embedder, Scorer

__all__ = ["intrinsic", "intrinsic_rows"]

# The rubric for each domain of AgoraBench.
_RUBRICS: dict[str, Literal["math", "code", "general"]] = {
    "math": "math",
    "code": "code",
    "instruction_following": "general",
    "general": "general",
}
# Table 8's metrics: the row's column that each is the mean of.
_MEANS = {
    "instruction_difficulty_judge": "difficulty",
    "response_perplexity": "perplexity",
    "response_quality_judge": "quality",
    "response_quality_reward": "reward",
}
_WORDS = ("distinct_1", "distinct_2", "compression_ratio", "self_overlap")


@stage()
def intrinsic(
    df: pl.DataFrame,
    *,
    by: Sequence[str] = (),
    domain: str | None = None,
    backend: Backend | None = None,
    embedder: Embedder | None = None,
    scorer: Scorer | None = None,
) -> pl.DataFrame:
    """Says in one row for each data set what it is like: the intrinsic metrics of AgoraBench, and some of words.

    Reads: `instruction`, `response` (String), `by`, and what `intrinsic_rows` reads for the effects that are given;
    or what that stage has added, when it was run before: its columns are taken as they are.
    Gives a new frame, a row for each data set (told apart by `by`; one without), in the order in which they come: `by`,
    `rows` (Int64), and the columns of the paper's table 8, less the models' names (Float64, null where the metric's
    effect was not given or no row has a value), each with the number of rows behind it (`n_…`, Int64):
    `instruction_difficulty_judge`, `response_quality_judge` (means of grades from 1 to 5), `response_perplexity` (the
    mean of the rows' exp of `nll`, see `add_nll`), `response_quality_reward` (mean, on the model's scale),
    `instruction_diversity_cdist`, `response_diversity_cdist` (see `cosine_diversity`); then, of `instruction_` and
    `response_`, what `vocabulary_diversity` tells: `…distinct_1`, `…distinct_2`, `…compression_ratio`, `…self_overlap`.
    domain, backend, embedder, scorer: as of `intrinsic_rows`.
    Raises: FrameError when a column is missing; and as `intrinsic_rows`.
    Source: arXiv 2412.03679v2, section 5.2 and table 8.

    >>> df = pl.DataFrame({"instruction": ["1 + 1?", "2 + 3?"], "response": ["It is 2.", "It is 5."]})
    >>> intrinsic(df).select("rows", "response_quality_judge", "n_response_quality_judge", "response_distinct_1").row(0)
    (2, None, 0, 0.625)
    """
    require(df, "instruction", "response", stage="intrinsic", dtype=pl.String())
    require(df, *by, stage="intrinsic")
    done = intrinsic_rows(df, domain=domain, backend=backend, embedder=embedder, scorer=scorer)
    if "nll" in done.columns:
        done = done.with_columns(perplexity=pl.col("nll").cast(pl.Float64).exp())
    values = [
        pl.col(column).cast(pl.Float64) if column in done.columns else pl.lit(None, dtype=pl.Float64).alias(column)
        for column in _MEANS.values()
    ]
    done = done.with_columns(values)
    told = [each for name, column in _MEANS.items() for each in (_mean(column, name), _count(column, name))]
    one = pl.lit(0).alias("_one")  # so that without `by` all rows are one data set, and no rows are none
    keys = [*by, "_one"]
    done = done.with_columns(one)
    made = done.group_by(keys, maintain_order=True).agg(pl.len().cast(pl.Int64).alias("rows"), *told)
    for part in (*_distances(done, keys), *_of_words(done, keys)):
        made = made.join(part, on=keys, how="left", nulls_equal=True, maintain_order="left")
    return made.select(*by, "rows", *_columns())


@stage(rowwise=True)
def intrinsic_rows(
    df: pl.DataFrame,
    *,
    domain: str | None = None,
    backend: Backend | None = None,
    embedder: Embedder | None = None,
    scorer: Scorer | None = None,
) -> pl.DataFrame:
    """Adds to each row what `intrinsic` sums up; what needs a model is added where that model is given.

    Reads: `instruction`, `response` (String), and for judges `row_id` and, unless `domain` is given, `domain`.
    Adds: with a backend `difficulty` and `quality` (Int64, and their errors, texts, calls and judges: see
    `judge_column`); with an embedder `instruction_embedding` and `response_embedding` (see `embed_column`); with a
    scorer `reward` (see `reward_column`). Perplexities are added by `add_nll`.
    Rows: the same, in the same order.
    domain: whose rubrics are used: `math`, `code`, `instruction_following` or `general`; None reads it from the rows.
    backend: the model that judges. embedder: from `embedder(…)`. scorer: from `reward_model(…)`.
    Raises: FrameError when a column is missing or a row's domain has no rubric; and as those stages.
    """
    if backend is not None:
        df = _judged(df, domain, backend)
    if embedder is not None:
        for column in ("instruction", "response"):
            df = embed_column(df, column=column, into=f"{column}_embedding", embedder=embedder)
    return df if scorer is None else reward_column(df, scorer=scorer)


def _judged(df: pl.DataFrame, domain: str | None, backend: Backend) -> pl.DataFrame:
    """The rows with both grades, each by the rubrics of its domain, in the order in which they came."""
    if domain is not None and domain not in _RUBRICS:
        raise BindError(f"intrinsic(domain={domain!r}): there are rubrics for {listed(_RUBRICS)}.")
    if domain is None:
        require(df, "domain", stage="intrinsic", dtype=pl.String())
    named = pl.lit(domain) if domain else pl.col("domain").cast(pl.String)
    rubric = named.replace_strict(_RUBRICS, default=None, return_dtype=pl.String)
    rows = df.with_columns(rubric.alias("_rubric"), pl.int_range(pl.len()).alias("_place"))
    if (wrong := rows.filter(pl.col("_rubric").is_null())).height:
        raise FrameError(
            f"{wrong.height} rows are of a domain without a rubric, the first of {wrong['domain'][0]!r}. There are "
            f"rubrics for {listed(_RUBRICS)}: say which to use with domain=."
        )
    parts: list[pl.DataFrame] = []
    for name in dict.fromkeys(_RUBRICS.values()):
        part = rows.filter(pl.col("_rubric") == name)
        if part.height or (not rows.height and not parts):  # no rows, judged by any, have its columns
            part = judge_column(part, judge=difficulty(name), into="difficulty", backend=backend)
            parts.append(judge_column(part, judge=quality(name), into="quality", backend=backend))
    return pl.concat(parts).sort("_place").drop("_place", "_rubric")


def _mean(column: str, name: str) -> pl.Expr:
    return pl.col(column).mean().alias(name)


def _count(column: str, name: str) -> pl.Expr:
    return pl.col(column).count().cast(pl.Int64).alias(f"n_{name}")


def _distances(done: pl.DataFrame, keys: list[str]) -> list[pl.DataFrame]:
    """For each data set, how far its instructions are from each other, and its responses; null without embeddings."""
    parts: list[pl.DataFrame] = []
    for column in ("instruction", "response"):
        vectors, name = f"{column}_embedding", f"{column}_diversity_cdist"
        if vectors in done.columns:
            found = cosine_diversity(done, column=vectors, by=keys)
        else:
            found = (
                done.select(keys)
                .unique(maintain_order=True)
                .with_columns(cosine_distance=pl.lit(None, dtype=pl.Float64), n=pl.lit(0, dtype=pl.Int64))
            )
        parts.append(found.select(*keys, pl.col("cosine_distance").alias(name), pl.col("n").alias(f"n_{name}")))
    return parts


def _of_words(done: pl.DataFrame, keys: list[str]) -> list[pl.DataFrame]:
    return [
        vocabulary_diversity(done, column=column, by=keys).select(
            *keys, *(pl.col(name).alias(f"{column}_{name}") for name in _WORDS)
        )
        for column in ("instruction", "response")
    ]


def _columns() -> list[Any]:
    distances = [f"{column}_diversity_cdist" for column in ("instruction", "response")]
    measured = [each for name in (*_MEANS, *distances) for each in (name, f"n_{name}")]
    return [*measured, *(f"{column}_{name}" for column in ("instruction", "response") for name in _WORDS)]

"""What a benchmark is, and how a model is put through it: items in, rows with scores out."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

import polars as pl

from agora_frames.compose import recipe
from agora_frames.errors import BindError, FrameError, MissingExtraError, StorageError, did_you_mean, listed
from agora_frames.frames import CALL, ERROR, REPORT, SETTLED, UNPARSED, error_columns, require
from agora_frames.hashing import frame_hash
from agora_frames.io import read_frame
from agora_frames.metrics.scores import summarise
from agora_frames.stage import Stage, stage
from agora_frames.stages.generate import generate_column
from agora_frames.stages.prompt import render_prompts
from agora_frames.stages.rows import with_row_ids
from agora_frames.types import Backend, Message, Observer

__all__ = [
    "DECODING",
    "MATH_DECODING",
    "PROMPTS",
    "UNREAD",
    "Benchmark",
    "Prompt",
    "Shots",
    "Source",
    "evaluate",
    "evaluation",
    "load_rows",
    "name_items",
    "report",
    "settle_scores",
]

Shots: TypeAlias = Literal["zero", "few"]

# What a model did with a whole, paid reply: these count as wrong unless a benchmark says otherwise. A call that never
# came to a reply (`rate_limited`, `timeout`, `context_too_long`, …) says nothing of the model: its item has no score.
UNREAD = (UNPARSED, *SETTLED)

PROMPTS = Path(__file__).parent / "prompts"

# How AgoraBench decodes (arXiv 2412.03679v2, table 6): temperature 0.2 for mathematics, 0 for all else.
# `repetition_penalty` is vLLM's name for it; see `_PENALTY`.
DECODING: Mapping[str, Any] = MappingProxyType(
    {"temperature": 0.0, "top_p": 0.95, "max_tokens": 1024, "extra": {"repetition_penalty": 1.03}}
)
MATH_DECODING: Mapping[str, Any] = MappingProxyType({**DECODING, "temperature": 0.2})
# What endpoints call the repetition penalty, by how their address begins; None where they refuse it by any name.
_PENALTY = {"llama.cpp": "repeat_penalty", "https://api.openai.com/": None}


@dataclass(frozen=True)
class Source:
    """Where a benchmark's items come from when no file is given.

    dataset: a data set on the Hugging Face hub; or the URL of a file, with {revision} in the place of a commit.
    revision: a commit of its repository, so that the items are the same tomorrow. split, configs: of a data set; the
    configs are joined, in this order.
    """

    dataset: str
    revision: str
    split: str = "test"
    configs: tuple[str, ...] = ("default",)


@dataclass(frozen=True)
class Prompt:
    """How an item is asked: the template (as `render_prompts` takes it), and where the reply is cut off."""

    template: str | Sequence[Message]
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class Benchmark:
    """One benchmark, as a value; the modules of `agora_frames.bench` make them.

    name: as it stands in every row. source: of its items, with a pinned revision.
    load: a path or URL, or None for the source, to items: `item_id` (String, unique) and what the prompts and `grade`
    read. prompts: by `zero` and `few` shots; one may be missing. decoding: arguments of `generate_column`.
    grade: a Stage that reads `completion` (null where there is none) and adds `score` (Float64, 0 to 1; null where it
    could not be told), and, if it can say why, `score_error` (ERROR); and `weight` (Float64), if not all are 1.
    metrics: by name, Stages from rows to one row with the columns of `summarise`. samples: replies to each item.
    wrong: kinds of errors for which a reply counts as 0 (see `UNREAD`). judge: the fingerprint of who judges, if any.
    """

    name: str
    source: Source
    load: Callable[[str | Path | None], pl.DataFrame]
    prompts: Mapping[Shots, Prompt]
    grade: Stage
    decoding: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Stage] = field(default_factory=lambda: {"accuracy": summarise()})
    samples: int = 1
    wrong: tuple[str, ...] = UNREAD
    judge: str | None = None

    @property
    def revision(self) -> str:
        """The commit of its data."""
        return self.source.revision


def evaluation(
    benchmark: Benchmark,
    *,
    backend: Backend,
    shots: Shots = "zero",
    decoding: Mapping[str, Any] | None = None,
    samples: int | None = None,
    seed: int = 0,
    observer: Observer | None = None,
) -> Stage:
    """The Stage that puts a model through a benchmark: items in, scored rows out; to be run, planned or cached.

    decoding: arguments of `generate_column` in the place of the benchmark's own; None takes one back. The benchmark's
    `repetition_penalty` is sent to llama.cpp by its name there, and to OpenAI not at all; another endpoint that refuses
    it is asked with {"extra": None}. samples: replies to each item. seed: another one draws other replies.
    Its rows have the items' columns and `row_id`, `benchmark`, `sample`, `prompt`, `completion`, `completion_call`,
    their errors, what `grade` adds, and `score`, `score_error`, `weight` (see `frames.ITEM_SCORES`).
    Raises: BindError when the benchmark has no such prompt, or `decoding` holds what is no argument of decoding.
    """
    if shots not in benchmark.prompts:
        raise BindError(f"{benchmark.name} has no prompt for shots={shots!r}; it has: {listed(benchmark.prompts)}.")
    if taken := sorted({"column", "into", "samples", "seed", "backend", "observer"} & {*(decoding or {})}):
        raise BindError(f"decoding={{…}} says how replies are drawn, and cannot hold {listed(taken)}.")
    prompt = benchmark.prompts[shots]
    own = _spoken(benchmark.decoding, backend.endpoint)
    sent = {"stop": list(prompt.stop) or None, **own, **(decoding or {})}
    return recipe(
        name_items(benchmark=benchmark.name),
        with_row_ids(columns=("benchmark", "item_id")),
        render_prompts(template=prompt.template),
        generate_column(
            **sent,
            samples=benchmark.samples if samples is None else samples,
            seed=seed,
            backend=backend,
            observer=observer,
        ),
        benchmark.grade,
        settle_scores(wrong=benchmark.wrong),
        name=f"{benchmark.name}_{shots}",
    )


def evaluate(
    benchmark: Benchmark,
    *,
    backend: Backend,
    items: pl.DataFrame | str | Path | None = None,
    shots: Shots = "zero",
    decoding: Mapping[str, Any] | None = None,
    samples: int | None = None,
    seed: int = 0,
    observer: Observer | None = None,
) -> pl.DataFrame:
    """The rows of one run; see `evaluation`.

    items: a frame (of `benchmark.load`, or a part of it), a file to load them from, or None for the benchmark's source.
    """
    df = items if isinstance(items, pl.DataFrame) else benchmark.load(items)
    stage = evaluation(
        benchmark, backend=backend, shots=shots, decoding=decoding, samples=samples, seed=seed, observer=observer
    )
    return stage(df)


def report(
    rows: pl.DataFrame,
    *,
    benchmark: Benchmark,
    items: pl.DataFrame,
    shots: Shots = "zero",
    level: float | None = None,
    seconds: float | None = None,
    revision: str | None = None,
) -> pl.DataFrame:
    """What a run measured: one row for each metric of the benchmark, in the columns of `frames.REPORT`.

    rows: of `evaluate`. items: what it was given. level: of the interval; None leaves the metric's own.
    seconds: how long the run took. revision: of the items, where they are not from the benchmark's source.
    The date is yours to add.
    """
    spent = _spent(rows)
    about = {
        "benchmark": benchmark.name,
        "revision": revision or benchmark.revision,
        "shots": shots,
        "judge": benchmark.judge,
        "samples": rows["sample"].n_unique(),
        "dataset_hash": frame_hash(items),
        "seconds": seconds,
        **spent,
    }
    told = []
    for name, metric in benchmark.metrics.items():
        if level is not None:
            metric = replace(metric, params={**metric.params, "level": level})
        told += [{**about, "metric": name, **row} for row in metric(rows).iter_rows(named=True)]
    return pl.DataFrame(told, schema=REPORT)


@stage(rowwise=True)
def name_items(df: pl.DataFrame, *, benchmark: str) -> pl.DataFrame:
    """Says of each item which benchmark it is of.

    Reads: `item_id` (String, never null). Adds: `benchmark` (String), in front. Rows: the same, in the same order.
    Raises: FrameError when there is no `item_id`, or it is null, or names two items.
    """
    require(df, "item_id", stage="name_items", dtype=pl.String())
    if df["item_id"].has_nulls():
        raise FrameError("name_items() found a null in 'item_id': every item of a benchmark has a name.")
    key = [name for name in ("item_id", "sample") if name in df.columns]
    if (twice := df.filter(pl.struct(key).is_duplicated())["item_id"]).len():
        raise FrameError(
            f"name_items() found item_id {listed(twice.unique(maintain_order=True), most=3)} more than once; the items "
            "of a benchmark have names of their own. Are two files of it in one folder?"
        )
    return df.select(pl.lit(benchmark).alias("benchmark"), pl.exclude("benchmark"))


@stage(rowwise=True)
def settle_scores(df: pl.DataFrame, *, wrong: tuple[str, ...] = UNREAD) -> pl.DataFrame:
    """Says of each row that has no score why, and whether it counts as wrong.

    Reads: `score` (Float64), `score_error`, `sample` and `weight`, if there, and every other `…_error` column.
    Adds: `score` (0 where it was null and the reason is one of `wrong`), `score_error` (ERROR; null where the score was
    told by `grade`), `sample` (Int64; 0 if there was none), `weight` (Float64; 1 if there was none).
    Rows: the same, in the same order.
    wrong: kinds of reasons for which a reply is worth 0; all others leave the score null, and the item out of the mean.
    The reason is `score_error`, or else the first of the other errors that stands in the row, or else `ungraded`.

    >>> rows = pl.DataFrame({"score": [1.0, None]}).with_columns(
    ...     completion_error=pl.Series([None, {"kind": "refused", "message": "no"}], dtype=ERROR))
    >>> settle_scores(rows)["score"].to_list()
    [1.0, 0.0]
    """
    require(df, "score", stage="settle_scores")
    own = ["score_error"] if "score_error" in df.columns else []
    others = [name for name in error_columns(df) if name not in own]
    unknown = pl.struct(kind=pl.lit("ungraded"), message=pl.lit("the benchmark gave no score and no reason")).cast(
        ERROR
    )
    reasons = pl.coalesce(*(pl.col(name).cast(ERROR) for name in (*own, *others)), unknown)
    told = pl.when(pl.col("score").is_null()).then(reasons).alias("score_error")
    df = df.with_columns(pl.col("score").cast(pl.Float64)).with_columns(told)
    counts = pl.col("score_error").struct.field("kind").is_in(wrong)
    sample = pl.col("sample").cast(pl.Int64) if "sample" in df.columns else pl.lit(0, dtype=pl.Int64)
    weight = pl.col("weight").cast(pl.Float64) if "weight" in df.columns else pl.lit(1.0)
    return df.with_columns(
        pl.when(counts).then(0.0).otherwise("score").alias("score"), sample.alias("sample"), weight.alias("weight")
    )


def _spoken(decoding: Mapping[str, Any], endpoint: str) -> dict[str, Any]:
    """The decoding in the words of an endpoint."""
    extra = dict(decoding.get("extra") or {})
    for begins, name in _PENALTY.items():
        if endpoint.startswith(begins) and (penalty := extra.pop("repetition_penalty", None)) is not None and name:
            extra[name] = penalty
    return {**decoding, "extra": extra or None}


def load_rows(source: Source, given: str | Path | None, *columns: str) -> pl.DataFrame:
    """The rows of a benchmark as they are published, from a file, or else from its source.

    given: a file, or any URL that `read_frame` takes; a folder with the one file in it or several, in the order of
    their names. columns: those that must be there.
    Raises: FrameError when a column is missing; StorageError when nothing can be read; MissingExtraError when the
    source is asked for and `datasets` is not installed.
    """
    if given is None and "://" in source.dataset:
        given = source.dataset.format(revision=source.revision)
    df = _from_hub(source) if given is None else _from_files(given)
    for name in columns:
        if name not in df.columns:
            raise FrameError(
                f"{given or source.dataset} has no column {name!r}{did_you_mean(name, df.columns) or '.'} "
                f"It has: {listed(df.columns)}."
            )
    return df


def _from_files(given: str | Path) -> pl.DataFrame:
    path = Path(given)
    if not path.is_dir() or (path / "state.json").exists():
        return read_frame(given)
    suffixes = (".jsonl", ".json", ".parquet", ".csv", ".jsonl.gz", ".json.gz", ".csv.gz")
    if not (files := sorted(file for file in path.rglob("*") if file.name.endswith(suffixes))):
        raise StorageError(f"the folder {str(path)!r} holds no file of a known format: {listed(suffixes)}.")
    return pl.concat([read_frame(file) for file in files], how="diagonal_relaxed")


def _from_hub(source: Source) -> pl.DataFrame:
    try:
        from datasets import load_dataset
    except ImportError as exc:
        raise MissingExtraError(
            f"{source.dataset} comes from the Hugging Face hub through `datasets`, which is not installed: "
            "pip install 'agora-frames[bench]'. Or give a file of it."
        ) from exc
    try:
        parts = [
            pl.from_arrow(load_dataset(source.dataset, config, split=source.split, revision=source.revision).data.table)
            for config in source.configs
        ]
    except Exception as exc:  # each kind of trouble with the hub has errors of its own
        raise StorageError(
            f"{source.dataset} at revision {source.revision} could not be loaded from the Hugging Face hub: "
            f"{type(exc).__name__}: {exc}. Give a file of it instead."
        ) from exc
    return pl.concat([part for part in parts if isinstance(part, pl.DataFrame)])


def _spent(rows: pl.DataFrame) -> dict[str, Any]:
    """Who was asked, with what, and what all calls of the rows used, each once; no sum of costs is told without all."""
    columns = [rows[name].struct.unnest() for name, dtype in rows.schema.items() if dtype == CALL]
    calls = pl.concat([pl.Series(dtype=CALL).struct.unnest(), *columns]).drop_nulls("key").unique("key")
    own = rows["completion_call"].drop_nulls().struct.unnest() if "completion_call" in rows.columns else calls.clear()

    sampling = json.loads(own["sampling"][0]) if own.height and own["sampling"][0] else None
    if sampling is not None:
        sampling.pop("seed", None)  # each draw has its own
    return {
        "decoding": None if sampling is None else json.dumps(sampling, sort_keys=True),
        "model": own["model"][0] if own.height else None,
        "endpoint": own["endpoint"][0] if own.height else None,
        "cost_usd": None if calls["cost_usd"].has_nulls() else calls["cost_usd"].sum(),
        "prompt_tokens": calls["prompt_tokens"].sum(),
        "completion_tokens": calls["completion_tokens"].sum(),
    }

"""The data card of a dataset: what is in it, what it cost, who wrote it and from what; a README with YAML in front."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import polars as pl

__all__ = ["data_card"]

# Of the hub: the size categories that it knows.
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))

_COLUMNS = {
    "instruction": "the task",
    "response": "the answer to it",
    "config": "where the row comes from: the generator, or the seed set",
    "row_id": "the row's name, born of its content",
    "sample": "which of several answers to one instruction",
    "parents": "the rows that were shown to the model, by `row_id`",
    "theme": "what the row was asked to be about",
    "round": "the round of generation",
    "attempt": "which attempt made it",
    "n_tokens": "tokens in the student's chat template",
    "model": "the model that wrote it",
    "prompt_tokens": "tokens of its prompt",
    "completion_tokens": "tokens of its reply",
    "cost_usd": "what its call cost, in US dollars",
}


def data_card(
    df: pl.DataFrame,
    *,
    manifest: Mapping[str, Any] | None = None,
    title: str | None = None,
    licence: str | None = None,
    seed_licences: Mapping[str, str] | None = None,
) -> str:
    """The text of a dataset's README.md, with the metadata that the Hugging Face hub reads in front.

    manifest: what `agora run` wrote beside the dataset; without it the card says that yield, cost and prompts are not
    known. licence: of the dataset, as the hub spells it (`apache-2.0`, `cc-by-4.0`, …); "other" unless given.
    seed_licences: of each seed set, by name. No path of a machine and no key goes into a card.
    """
    run = manifest or {}
    name = title or (f"{run['recipe']} by {_short(run.get('model'))}" if run.get("recipe") else "A synthetic dataset")
    parts = [
        _metadata(df, name, licence),
        f"# {name}",
        f"{df.height:,} rows, written by language models and checked row by row. Made with agora_frames.",
        _table("Columns", ("column", "content"), ((c, _COLUMNS.get(c, "")) for c in df.columns)),
        _table("Where rows come from", ("config", "rows"), _counts(df)),
        *_of_run(run),
        _lineage(df),
        _licences(licence, seed_licences),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _metadata(df: pl.DataFrame, name: str, licence: str | None) -> str:
    """Scalars are written as JSON, which YAML holds."""
    size = next((size for most, size in _SIZES if df.height < most), "n>1M")
    lines = [
        f"license: {json.dumps(licence or 'other')}",
        f"pretty_name: {json.dumps(name)}",
        f"size_categories: [{json.dumps(size)}]",
        'task_categories: ["text-generation"]',
        'tags: ["synthetic", "agora_frames"]',
        "configs:",
        "- config_name: default",
        "  data_files:",
        "  - split: train",
        '    path: "data/train-*.parquet"',
    ]
    return "\n".join(["---", *lines, "---"])


def _of_run(run: Mapping[str, Any]) -> Iterator[str]:
    if not run:
        yield "## How it was made\n\nNot known: there was no manifest of a run beside the dataset."
        return
    settings = ", ".join(f"{name} = {value}" for name, value in (run.get("parameters") or {}).items())
    source = str((run.get("input") or {}).get("from", "unknown")).rstrip("/").rpartition("/")[2]
    yield _table(
        "How it was made",
        ("what", ""),
        (
            ("recipe", run.get("recipe")),
            ("settings", settings or "by default"),
            ("model", _short(run.get("model"))),
            ("endpoint", run.get("endpoint")),
            ("input", f"{source}, {(run.get('input') or {}).get('rows', 'unknown')} rows"),
            ("versions", ", ".join(f"{name} {value}" for name, value in (run.get("versions") or {}).items())),
            ("hash of the dataset", run.get("dataset_hash")),
        ),
    )
    rows = run.get("rows") or {}
    if asked := rows.get("requested"):
        share = f" ({rows.get('accepted', 0) / asked:.1%} of those requested)"
        kinds = ("requested", "accepted", "rejected", "failed", "left_out")
        told = [(kind.replace("_", " "), f"{rows.get(kind, 0):,}" + share * (kind == "accepted")) for kind in kinds]
        yield _table("Yield", ("rows", "number"), told)
    if reasons := run.get("reasons"):
        yield _table(
            "Why rows were not accepted",
            ("outcome", "reason", "rows"),
            ((each["outcome"], each["reason"], f"{each['rows']:,}") for each in reasons),
        )
    replies = run.get("replies") or {}
    cost = replies.get("cost_usd")
    yield _table(
        "Cost",
        ("what", "number"),
        (
            ("replies", f"{replies.get('count', 0):,}"),
            ("prompt tokens", f"{replies.get('prompt_tokens', 0):,}"),
            ("completion tokens", f"{replies.get('completion_tokens', 0):,}"),
            ("US dollars", "unknown" if cost is None else f"{cost:,.4f}"),
            ("by the prices of", ", ".join(map(str, replies.get("priced_by") or ())) or "nobody"),
        ),
    )
    yield _prompts(run)


def _prompts(run: Mapping[str, Any]) -> str:
    told = [
        f"Step `{step['name']}` (fingerprint {step.get('fingerprint')}):\n\n    {template}"
        for step in run.get("steps") or ()
        if (template := (step.get("parameters") or {}).get("template")) not in (None, "None")
    ]
    return "\n\n".join(["## Prompts", *told]) if told else ""


def _lineage(df: pl.DataFrame) -> str:
    told = []
    if "parents" in df.columns:
        parents = df["parents"].explode(empty_as_null=False).drop_nulls()
        with_some = df["parents"].list.len().fill_null(0) > 0
        told.append(f"{with_some.sum():,} rows name their parents, {parents.n_unique():,} different ones.")
    if "model" in df.columns:
        models = df.group_by("model").len().sort("len", "model", descending=[True, False]).drop_nulls("model").rows()
        told += [f"{n:,} rows were written by `{_short(model)}`." for model, n in models]
    return "## Lineage\n\n" + "\n".join(f"- {line}" for line in told) if told else ""


def _licences(licence: str | None, seeds: Mapping[str, str] | None) -> str:
    said = f"The dataset: {licence}." if licence else "The dataset: not said."
    note = "Terms of the model's provider may apply to what it wrote as well."
    if not seeds:
        return f"## Licences\n\n{said} The seeds: not said. {note}"
    return f"{_table('Licences', ('seeds', 'licence'), seeds.items())}\n\n{said} {note}"


def _counts(df: pl.DataFrame) -> list[tuple[str, str]]:
    counted = df.group_by("config").len().sort("len", "config", descending=[True, False])
    return [(config, f"{n:,}") for config, n in counted.rows()]


def _table(title: str, head: tuple[str, ...], rows: Any) -> str:
    """A section with a table; what would break a cell is escaped."""
    lines = [[_cell(value) for value in row] for row in rows]
    marks = ["---"] * len(head)
    return f"## {title}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in [list(head), marks, *lines])


def _cell(value: object) -> str:
    text = "unknown" if value is None else str(value)
    return " ".join(text.replace("|", "\\|").split())


def _short(model: object) -> str:
    """A model's name without the folder that its weights were in."""
    name = str(model or "an unknown model")
    return name.rpartition("/")[2] if name.startswith(("/", "~", "file:")) else name

"""One run of a recipe, from a frame to files: the dataset, what was left out of it and why, and the manifest."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl
from rich.console import Console

from agora_frames.against import describe_steps, noting_inputs
from agora_frames.compose import traced
from agora_frames.display import watched
from agora_frames.errors import StorageError
from agora_frames.formats import encode, format_of
from agora_frames.frames import CALL, outcome
from agora_frames.hashing import frame_hash
from agora_frames.io import check_writable, write_bytes_atomically, write_frame
from agora_frames.ledger import Tally
from agora_frames.ledger.places import without_secrets
from agora_frames.rounds import shortfall, until_rows
from agora_frames.stage import Stage
from agora_frames.stages.rows import failure_counts
from agora_frames.stages.yields import yield_table
from agora_frames.store import Store, cached, versions
from agora_frames.types import Step

__all__ = ["Result", "check_output", "files_of", "perform", "write_result"]


@dataclass(frozen=True)
class Result:
    """What a run made: every row, what each step was and how long it took, and what was asked; and, where fewer rows
    were accepted than were wanted, why."""

    rows: pl.DataFrame
    steps: list[dict[str, Any]]
    seconds: float
    tally: Tally
    shortfall: str | None = None

    @property
    def accepted(self) -> pl.DataFrame:
        """The rows of the dataset."""
        return self.rows.filter(outcome(self.rows) == "accepted")

    @property
    def others(self) -> pl.DataFrame:
        """The rejected and the failed rows, with their reasons."""
        return self.rows.filter(outcome(self.rows) != "accepted")

    @property
    def counts(self) -> dict[str, int]:
        """Rows requested, and of these accepted, rejected, failed, and left out by a step of the recipe.

        A run in rounds requests the candidates that it makes; the seeds before it are no rows that were requested.
        """
        by = dict(self.rows.select(outcome(self.rows)).group_by("outcome").len().iter_rows())
        in_rounds = [place for place, step in enumerate(self.steps) if step["name"] == until_rows.name]
        counting = self.steps[max(in_rounds, default=0) :]
        requested = max([self.rows.height, *(step["rows_out"] for step in counting)])
        kinds = {kind: by.get(kind, 0) for kind in ("accepted", "rejected", "failed")}
        return {"requested": requested, **kinds, "left_out": requested - self.rows.height}

    @property
    def calls(self) -> dict[str, Any]:
        """Calls made now, replies taken from the ledger instead, and what was used and spent now."""
        return {
            "made": self.tally.calls,
            "from_ledger": self.tally.known,
            "attempts": self.tally.attempts,
            "prompt_tokens": self.tally.prompt_tokens,
            "completion_tokens": self.tally.completion_tokens,
            "cost_usd": None if self.tally.of_unknown_cost else self.tally.cost_usd,
            "cost_usd_at_least": self.tally.cost_usd,
        }

    @property
    def replies(self) -> dict[str, Any]:
        """The replies that the rows are made of, whenever they were asked for: their number, tokens and cost."""
        columns = [self.rows[name].struct.unnest() for name, dtype in self.rows.schema.items() if dtype == CALL]
        calls = pl.concat([pl.Series(dtype=CALL).struct.unnest(), *columns]).drop_nulls("key").unique("key")
        known = not calls["cost_usd"].has_nulls()
        return {
            "count": calls.height,
            "prompt_tokens": calls["prompt_tokens"].sum(),
            "completion_tokens": calls["completion_tokens"].sum(),
            "cost_usd": calls["cost_usd"].sum() if known else None,
            "priced_by": calls["priced_by"].drop_nulls().unique().sort().to_list(),
        }


def perform(stage: Stage, df: pl.DataFrame, *, store: Store, tally: Tally, console: Console) -> Result:
    """Runs a recipe on a frame, with bars on the console, and with its steps cached in the store."""
    told: list[Step] = []
    begun = time.perf_counter()
    inputs: list[str | None] = []
    shown = traced(cached(watched(stage, console), store=store), on_step=told.append)
    rows = noting_inputs(shown, inputs=inputs)(df)
    steps = [
        {**about, **step, "input": content}
        for about, step, content in zip(describe_steps(stage), told, inputs, strict=True)
    ]
    return Result(rows, steps, time.perf_counter() - begun, tally, shortfall(rows, stage=stage))


def files_of(output: str) -> dict[str, str]:
    """The three files of a run: the dataset, the other rows and the manifest, side by side.

    Raises: StorageError when `output` is a folder that holds other things, such as `.`.
    """
    folder, slash, name = output.rstrip("/").rpartition("/")
    packed = ".gz" if name.endswith(".gz") else ""
    base, dot, suffix = name.removesuffix(packed).rpartition(".")
    base, suffix = (base, suffix + packed) if base else (name, "")
    dot = dot if suffix else ""
    if not base.strip("."):
        raise StorageError(f"the output {output!r} must have a name: dataset.parquet, say, or a new folder's.")
    end = "/" if output.endswith("/") else ""
    return {
        "accepted": output,
        "others": f"{folder}{slash}{base}.others{dot}{suffix}" if dot else f"{folder}{slash}{base}_others{end}",
        "manifest": f"{folder}{slash}{base}.manifest.json",
    }


def check_output(output: str, columns: pl.DataFrame) -> None:
    """Finds out before a run whether its result can be written: `columns` is an empty frame like it.

    Raises: FrameError when the format cannot hold a column; StorageError when the place cannot be written.
    """
    encode(columns, format_of(output, None, StorageError), output)
    folder, slash, _ = files_of(output)["manifest"].rpartition("/")
    check_writable(folder + slash or ".")


def write_result(result: Result, output: str, *, about: Mapping[str, Any]) -> dict[str, str]:
    """Writes the dataset to `output`, the other rows and the manifest beside it; gives the names of the files.

    about: what the manifest should say of the run beside the counts: recipe, parameters, command, input, model, run.
    Raises: StorageError when a file cannot be written. The replies are in the ledger by then, so nothing is lost.
    """
    files = files_of(output)
    write_frame(result.accepted, files["accepted"])
    write_frame(result.others, files["others"])
    manifest = {
        **about,
        "rows": result.counts,
        "reasons": failure_counts(result.rows).to_dicts(),
        "yield": yield_table(result.rows).to_dicts(),
        "shortfall": result.shortfall,
        "calls": result.calls,
        "replies": result.replies,
        "steps": result.steps,
        "seconds": round(result.seconds, 3),
        "files": {name: without_secrets(file) for name, file in files.items()},
        "dataset_hash": frame_hash(result.accepted),
        "versions": versions(),
    }
    # Not orjson: a recipe's parameter may be a number of any size.
    write_bytes_atomically(files["manifest"], json.dumps(manifest, indent=2, default=str).encode())
    return files

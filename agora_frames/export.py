"""A dataset in the form that others take: data-agora's JSON, JSON Lines, Parquet, chats for trainers, a hub folder."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias, get_args

import polars as pl

from agora_frames.card import data_card
from agora_frames.errors import BindError, FrameError, listed
from agora_frames.frames import CALL, MESSAGES, outcome, require
from agora_frames.io import Url, write_bytes_atomically, write_frame

__all__ = ["DATA_FILE", "Form", "as_messages", "export_dataset", "instances"]

Form: TypeAlias = Literal["json", "jsonl", "parquet", "messages", "folder"]

_INSTANCE = ("instruction", "response", "config")
# What tells where a row comes from, as far as a dataset has it.
_LINEAGE = ("row_id", "sample", "parents", "theme", "round", "attempt", "n_tokens")
# Where `datasets` looks for the one split.
DATA_FILE = "data/train-00000-of-00001.parquet"


def instances(df: pl.DataFrame, *, config: str | None = None, lineage: bool = False) -> pl.DataFrame:
    """The columns of a dataset and no others: `instruction`, `response`, `config`; all String, none null.

    config: what the column `config` says where the frame has none. lineage: with `row_id`, `sample`, `parents`,
    `theme`, `round`, `attempt` and `n_tokens`, and `model`, `prompt_tokens`, `completion_tokens` and `cost_usd` of the
    row's call, as far as they are there.
    Raises: FrameError when a column is missing or a value is null, and when a row is not accepted: what is exported is
    a dataset, so take out the others first.
    """
    if config is not None and "config" not in df.columns:
        df = df.with_columns(pl.lit(config).alias("config"))
    if "config" not in df.columns and {"instruction", "response"} <= set(df.columns):
        raise FrameError(
            "the dataset has no column 'config', which says where each row comes from. Give what it should say: "
            "config='…', or --config on the command line."
        )
    require(df, *_INSTANCE, stage="export_dataset", dtype=pl.String())
    if others := df.filter(outcome(df) != "accepted").height:
        raise FrameError(
            f"{others} of {df.height} rows are not accepted, and a dataset has accepted rows alone. Take the others "
            "out with keep_valid(), or give the file that `agora run` calls the dataset."
        )
    if nulls := [name for name in _INSTANCE if df[name].has_nulls()]:
        raise FrameError(f"a dataset has a text in every row, but the columns {listed(nulls)} have nulls.")
    told = [name for name in _LINEAGE if name in df.columns] if lineage else []
    call = next((name for name, dtype in df.schema.items() if dtype == CALL), None) if lineage else None
    of_call = ("model", "prompt_tokens", "completion_tokens", "cost_usd")
    fields = [pl.col(call).struct.field(name) for name in of_call if name not in df.columns] if call else []
    return df.select(*_INSTANCE, *told, *fields)


def as_messages(df: pl.DataFrame, *, system: str | None = None) -> pl.DataFrame:
    """One column `messages` (List(Struct{role, content})): the instruction is the user's, the response the assistant's.

    It is what trainers such as TRL take. system: what a system message in front says, in every row.

    >>> df = pl.DataFrame({"instruction": ["1 + 1?"], "response": ["2"]})
    >>> [turn["role"] for turn in as_messages(df, system="Be brief.")["messages"][0]]
    ['system', 'user', 'assistant']
    """
    require(df, "instruction", "response", stage="as_messages", dtype=pl.String())
    turns = [("user", pl.col("instruction")), ("assistant", pl.col("response"))]
    if system is not None:
        turns.insert(0, ("system", pl.lit(system)))
    each = [pl.struct(pl.lit(role).alias("role"), content.alias("content")) for role, content in turns]
    return df.select(pl.concat_list(each).cast(MESSAGES).alias("messages"))


def export_dataset(
    df: pl.DataFrame,
    to: Url,
    *,
    form: Form,
    config: str | None = None,
    system: str | None = None,
    manifest: Mapping[str, Any] | None = None,
    title: str | None = None,
    licence: str | None = None,
    seed_licences: Mapping[str, str] | None = None,
) -> list[str]:
    """Writes a dataset in one form; gives the files that it wrote.

    form: `json` (an array like data-agora's: instruction, response, config), `jsonl`, `parquet` (with lineage),
    `messages` (JSON Lines of chats), or `folder` (Parquet with lineage and a data card, in the layout of a
    Hugging Face data set: `datasets.load_dataset(folder)` opens it, and `push_folder` uploads it).
    config: see `instances`. system: see `as_messages`. manifest, title, licence, seed_licences: for the card; see
    `card.data_card`.
    Raises: BindError for a form that there is not; FrameError as `instances`; StorageError when the place cannot be
    written.
    """
    if form not in get_args(Form):
        raise BindError(f"export_dataset(form={form!r}): it must be one of {listed(get_args(Form))}.")
    plain = instances(df, config=config)
    place = os.fspath(to)
    if form == "json":
        # As Python's json writes it, which data-agora uses: a file of the same rows is the same bytes.
        data = json.dumps(plain.to_dicts(), indent=4).encode()
        write_bytes_atomically(place, gzip.compress(data, mtime=0) if place.lower().endswith(".gz") else data)
    elif form == "folder":
        place = place.rstrip("/")
        rows = instances(df, config=config, lineage=True)
        write_frame(rows, f"{place}/{DATA_FILE}")
        card = data_card(rows, manifest=manifest, title=title, licence=licence, seed_licences=seed_licences)
        write_bytes_atomically(f"{place}/README.md", card.encode())
        return [f"{place}/README.md", f"{place}/{DATA_FILE}"]
    elif form == "parquet":
        write_frame(instances(df, config=config, lineage=True), place, format="parquet")
    else:
        write_frame(plain if form == "jsonl" else as_messages(plain, system=system), place, format="jsonl")
    return [place]

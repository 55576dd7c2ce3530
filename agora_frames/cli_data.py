"""The commands `agora import`, `agora export` and `agora push`: data sets from others, and for them."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Any, get_args

import polars as pl
from rich.console import Console

from agora_frames.display import frame_table
from agora_frames.errors import AuthenticationError, BindError, FrameError, ReadError, StorageError, listed
from agora_frames.export import Form, export_dataset
from agora_frames.hub import check_repo, push_folder, upload_plan
from agora_frames.importing import Source, import_instances
from agora_frames.io import read_bytes, read_frame, write_frame
from agora_frames.ledger.places import without_secrets
from agora_frames.run import files_of

__all__ = ["add_data_commands", "read_input"]

_SUFFIXES = {
    "json": ".json",
    "jsonl": ".jsonl",
    "parquet": ".export.parquet",
    "messages": ".messages.jsonl",
    "folder": "_hub",
}


def read_input(url: str, *, own: Callable[[], pl.DataFrame | None]) -> tuple[pl.DataFrame, str | None]:
    """A recipe's input, and what is to be said of how it was read; a benchmark's own file is imported.

    own: gives the recipe's own seeds. Where they are instances, and the file has none but is of a source that
    `agora import` knows, it is read as that command reads it.
    Raises: FrameError when it holds rows that no seeds may come from.
    """
    df = read_frame(url)
    if "instruction" in df.columns or df.is_empty() or (seeds := own()) is None or "instruction" not in seeds.columns:
        return df, None
    try:
        done = import_instances(url)
    except ReadError:  # it is of no known source: the recipe says which column it lacks
        return df, None
    if n := done.rows.filter(pl.col("split") == "test").height:
        raise FrameError(
            f"{n} rows of {without_secrets(url)} are the test split of {done.source}, which no seeds may come from. "
            f"Leave them out: agora import {without_secrets(url)} --split train --output seeds.parquet"
        )
    lost = int(done.problems["left_out"].sum())
    return done.rows, f"{without_secrets(url)}: read as {done.source}, as by `agora import`; {lost} rows left out."


def add_data_commands(commands: Any, parents: list[argparse.ArgumentParser]) -> None:
    """Adds the three commands to those of `agora`."""

    def add(name: str, command: Callable[[argparse.Namespace], None], about: str) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = commands.add_parser(name, parents=parents, help=about, description=about)
        parser.set_defaults(command=command)
        return parser

    imports = add("import", _import, "read data-agora's files, GSM8K, MATH, MBPP or CoNaLa as seeds")
    imports.add_argument("file", help="JSON or JSON Lines, also .gz; a path or any fsspec URL")
    imports.add_argument("--output", default="seeds.parquet", help="where the frame goes (%(default)s)")
    imports.add_argument("--source", choices=get_args(Source), help="what wrote it (told by the keys of its rows)")
    imports.add_argument("--config", help="what the column config says of rows that have none")
    imports.add_argument("--split", help="only the rows of this split: of MBPP, train is 601 to 974")

    exports = add("export", _export, "write a dataset as JSON, JSON Lines, Parquet, chats, or a folder for the hub")
    exports.add_argument("dataset", help="the dataset of a run: .parquet, .jsonl, …")
    exports.add_argument("--format", dest="form", required=True, choices=get_args(Form), help="the form")
    exports.add_argument("--output", help="where it goes (beside the dataset)")
    exports.add_argument("--config", help="what the column config says, if the dataset has none")
    exports.add_argument("--system", help="messages: a system message in front of each chat")
    exports.add_argument("--manifest", help="folder: what the run wrote beside the dataset (DATASET.manifest.json)")
    exports.add_argument("--title", help="folder: what the data card calls it")
    exports.add_argument("--licence", help="folder: of the dataset, as the hub spells it: apache-2.0, cc-by-4.0, …")
    exports.add_argument(
        *("--seed-licence",),
        action="append",
        default=[],
        metavar="NAME=LICENCE",
        help="folder: of a seed set; repeatable",
    )

    pushes = add(
        "push", _push, "upload such a folder to the Hugging Face hub; says what it would send, and sends nothing"
    )
    pushes.add_argument("folder", help="what `agora export --format folder` wrote")
    pushes.add_argument("repo", help="owner/name of the data set")
    pushes.add_argument("--upload", action="store_true", help="send it; the key is taken from HF_TOKEN")
    pushes.add_argument("--public", action="store_true", help="if the data set is new, make it public (else private)")


def _import(args: argparse.Namespace) -> None:
    out = Console(highlight=False)
    done = import_instances(args.file, source=args.source, config=args.config)
    rows = done.rows
    if args.split is not None:
        rows = rows.filter(pl.col("split") == args.split)
        if rows.is_empty():
            there = listed(done.rows["split"].unique().drop_nulls().sort())
            raise FrameError(f"no row is of the split {args.split!r}. The splits: {there or 'none is known'}.")
    write_frame(rows, args.output)
    left_out, odd = (done.problems.filter(pl.col("left_out") == lost) for lost in (True, False))
    if done.problems.height:
        shown = done.problems.head(20).select(
            "place", "what", pl.when("left_out").then(pl.lit("left out")).otherwise(pl.lit("kept")).alias("row")
        )
        out.print(frame_table(shown, title=f"{done.problems.height} problems in {without_secrets(args.file)}"))
    if (n := rows.filter(pl.col("split") == "test").height) and done.source == "mbpp":
        out.print(
            f"{n} of the rows are MBPP's test split, which no seeds may come from: --split train leaves them out."
        )
    told = f"{rows.height} rows of {done.source}, {left_out.height} left out, {odd.height} kept with a problem."
    out.print(f"{told}\nWrote {without_secrets(args.output)}", markup=False, soft_wrap=True)


def _export(args: argparse.Namespace) -> None:
    df = read_frame(args.dataset)
    output = args.output or _beside(args.dataset, _SUFFIXES[args.form])
    if os.path.realpath(output) == os.path.realpath(args.dataset):
        raise StorageError(f"--output {output!r} is the dataset itself, which would be replaced. Give another name.")
    files = export_dataset(
        df,
        output,
        form=args.form,
        config=args.config,
        system=args.system,
        manifest=_manifest(args) if args.form == "folder" else None,
        title=args.title,
        licence=args.licence,
        seed_licences=dict(map(_licence, args.seed_licence)),
    )
    out = Console(highlight=False)
    out.print(f"Wrote {df.height} rows: {', '.join(map(without_secrets, files))}", markup=False, soft_wrap=True)
    if args.form == "folder":
        out.print(f"Look at the card, and then: agora push {without_secrets(output)} OWNER/NAME", markup=False)


def _push(args: argparse.Namespace) -> None:
    out = Console(highlight=False)
    check_repo(args.repo)
    planned = upload_plan(args.folder)
    told = planned.with_columns(pl.col("sha256").str.slice(0, 16) + "…")
    size = int(planned["bytes"].sum())
    new = "public" if args.public else "private"
    what = f"{planned.height} files, {size:,} bytes, to the data set {args.repo} ({new} if it is new)"
    out.print(frame_table(told, title=what, whole=True))
    if not args.upload:
        out.print("Nothing was sent. --upload sends it, with the key in HF_TOKEN.")
        return
    token = os.environ.get("HF_TOKEN")
    if not token:
        raise AuthenticationError(
            "uploading needs a key: set HF_TOKEN in the environment to one that may write. It is not taken from the "
            "command line, where others see it."
        )
    endpoint = os.environ.get("HF_ENDPOINT")
    url = push_folder(args.folder, args.repo, token=token, private=not args.public, endpoint=endpoint)
    out.print(f"Uploaded: {url}", markup=False, soft_wrap=True)


def _beside(dataset: str, suffix: str) -> str:
    folder, slash, name = dataset.rstrip("/").rpartition("/")
    plain = name.removesuffix(".gz")
    return f"{folder}{slash}{plain.removesuffix(PurePosixPath(plain).suffix)}{suffix}"


def _manifest(args: argparse.Namespace) -> dict[str, Any] | None:
    """What the run wrote beside the dataset; None where nothing was, and none was asked for."""
    place = args.manifest or files_of(args.dataset)["manifest"]
    try:
        manifest = json.loads(read_bytes(place))
    except StorageError:
        if args.manifest:
            raise
        return None
    except ValueError as exc:
        raise ReadError(f"the manifest {place!r} is no JSON: {exc}. Give another one with --manifest.") from exc
    if not isinstance(manifest, dict):
        raise ReadError(f"the manifest {place!r} is a {type(manifest).__name__}, not an object. Give --manifest.")
    return manifest


def _licence(given: str) -> tuple[str, str]:
    name, equals, licence = given.rpartition("=")
    if not equals or not name or not licence:
        raise BindError(f"--seed-licence {given!r} must read NAME=LICENCE, such as gsm8k=MIT.")
    return name, licence

"""What a model is asked, row by row: canonical messages, sampling with a seed of its own, and the key of both."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import orjson
import polars as pl

from agora_frames.errors import FrameError, listed
from agora_frames.frames import MESSAGES, REQUESTS, TOOL_CALLS, outcome, require
from agora_frames.hashing import hash_bytes, seed_of
from agora_frames.types import Backend

__all__ = ["build_requests"]

# What a turn may hold beside role and content: images (addresses, or bytes) and calls of tools with their results.
_FURTHER: dict[str, tuple[Any, ...]] = {
    "images": (pl.List(pl.String), pl.List(pl.Binary)),
    "tool_calls": (TOOL_CALLS,),
    "tool_call_id": (pl.String,),
    "name": (pl.String,),
}
_IMAGES = (pl.String, pl.Binary, *_FURTHER["images"])
# How the files of each kind of image begin.
_MAGIC = {b"\x89PNG": "png", b"\xff\xd8\xff": "jpeg", b"GIF8": "gif", b"RIFF": "webp"}
_ROWS_AT_ONCE = 1_000


def build_requests(
    rows: pl.DataFrame,
    *,
    column: str,
    images: str | None = None,
    sampling: Mapping[str, Any],
    seed: int | None,
    backend: Backend,
) -> pl.DataFrame:
    """One request for each row, in the columns of `frames.REQUESTS`; key and messages are null without a prompt."""
    require(rows, column, *([images] if images else []), stage="generate_column")
    greedy = sampling.get("temperature") == 0
    named = _named(rows, unique=not greedy)
    _check_prompts(rows, column, images)
    settings = _settings(sampling)
    head = (backend.endpoint.encode(), backend.model.encode(), settings)
    sent, seeded = settings.decode(), None if greedy or seed is None else _seeded(sampling)

    def requests(part: pl.DataFrame) -> Iterator[tuple[str | None, str, int, str | None, str]]:
        for row_id, sample, chat in zip(part["row_id"], part["sample"], _chats(part, column, images), strict=True):
            draw = b"" if greedy else f"{seed}:{row_id}:{sample}".encode()
            key = None if chat is None else hash_bytes(*head, chat, draw)
            own = sent if seeded is None else seeded % seed_of(seed, row_id, sample)
            yield key, row_id, sample, None if chat is None else chat.decode(), own

    parts = [pl.DataFrame(requests(part), schema=REQUESTS, orient="row") for part in _parts(named)]
    return pl.concat([REQUESTS.to_frame(), *parts])


def _parts(rows: pl.DataFrame) -> Iterable[pl.DataFrame]:
    """Some rows at a time, so that the texts of all are never there twice."""
    return rows.iter_slices(_ROWS_AT_ONCE) if rows.height else ()


def _json(value: object) -> bytes:
    """The one form in which messages go into keys."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def _settings(sampling: Mapping[str, Any]) -> bytes:
    """The sampling as it goes into keys, and is sent.

    What its parts hold keeps its order: a model fills a schema in the order of its properties.
    """
    return orjson.dumps(dict(sorted(sampling.items())))


def _seeded(sampling: Mapping[str, Any]) -> str:
    """The same with a seed in its place, as a format of the seed."""
    before = _settings({name: value for name, value in sampling.items() if name < "seed"})[1:-1].decode()
    after = _settings({name: value for name, value in sampling.items() if name > "seed"})[1:-1].decode()
    parts = (before.replace("%", "%%"), '"seed":%d', after.replace("%", "%%"))
    return "{" + ",".join(filter(None, parts)) + "}"


def _named(rows: pl.DataFrame, *, unique: bool) -> pl.DataFrame:
    """The rows, after a look at what names the draw of each: row_id and sample."""
    named = "row_id" in rows.columns
    remedy = "Give every row its own name: df" + (".drop('row_id')" if named else "") + ".pipe(with_row_ids)."
    if not named or rows.schema["row_id"] not in (pl.String, pl.Null) or rows["row_id"].has_nulls():
        raise FrameError(f"generate_column() needs a column 'row_id' of texts, without nulls. {remedy}")
    if "sample" not in rows.columns:
        rows = rows.with_columns(sample=pl.lit(0))
    if not rows.schema["sample"].is_integer() or rows["sample"].has_nulls():
        raise FrameError(
            "generate_column() reads the column 'sample' as the number of a reply to its row, but it is "
            f"{rows.schema['sample']}{' with nulls' if rows['sample'].has_nulls() else ''}. Rename that column."
        )
    if unique and (double := rows.select("row_id", "sample").is_duplicated()).any():
        twice = rows.filter(double)["row_id"].unique(maintain_order=True)
        raise FrameError(
            f"generate_column() would draw twice for the same row_id and sample: {listed(twice, most=3)}. {remedy}"
        )
    return rows


def _check_prompts(rows: pl.DataFrame, column: str, images: str | None) -> None:
    """A row that went wrong before has its reason; a null prompt without one is a mistake in the frame."""
    dtype = rows.schema[column]
    if dtype not in (pl.String, pl.Null) and not _is_messages(dtype):
        further = listed(_FURTHER)
        raise FrameError(
            f"generate_column() reads {column!r} as String, or as List(Struct{{role, content}}) with {further} if need "
            f"be, but it is {dtype}. Make it with render_prompts, or cast it first."
        )
    if images and rows.schema[images] not in (*_IMAGES, pl.Null):
        raise FrameError(
            f"generate_column() reads {images!r} as the addresses of images (String) or their bytes (Binary), one or a "
            f"list for each row, but it is {rows.schema[images]}."
        )
    judged = _without_verdict(rows)
    strange = judged.filter(pl.col(column).is_null() & (outcome(judged) == "accepted"))
    if strange.height:
        raise FrameError(
            f"generate_column() found {strange.height} null prompts in {column!r} that no earlier step explains "
            f"(row_id {listed(strange['row_id'], most=3)}). Nothing was asked. Fill them, or leave these rows out: "
            f"df.filter(pl.col({column!r}).is_not_null())."
        )


def _without_verdict(rows: pl.DataFrame) -> pl.DataFrame:
    """`valid` says that a row is bad only when it is false; a null, or a column of another type, explains nothing."""
    if rows.schema.get("valid") != pl.Boolean:
        return rows.drop("valid", strict=False)
    return rows.with_columns(pl.col("valid").fill_null(True))


def _is_messages(dtype: pl.DataType) -> bool:
    if not isinstance(dtype, pl.List) or not isinstance(dtype.inner, pl.Struct):
        return False
    fields = {field.name: field.dtype for field in dtype.inner.fields}
    role, content = fields.pop("role", None), fields.pop("content", None)
    return (
        role == pl.String
        and content == pl.String
        and all(name in _FURTHER and kind in (*_FURTHER[name], pl.Null) for name, kind in fields.items())
    )


def _chats(rows: pl.DataFrame, column: str, images: str | None) -> Iterator[bytes | None]:
    """The messages of each row as JSON; None where an earlier step left no prompt."""
    shown: Iterable[Any] = rows[images] if images else (None for _ in range(rows.height))
    if rows.schema[column] in (pl.String, pl.Null) and not images:
        for text in rows[column]:
            yield None if text is None else _json([{"role": "user", "content": text}])
        return
    plain = rows.schema[column] == MESSAGES and not images
    for row_id, prompt, seen in zip(rows["row_id"], rows[column].to_list(), shown, strict=True):
        chat = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        if chat is not None and not (chat and all(map(_is_turn, chat))):
            raise FrameError(
                f"generate_column() found a chat in {column!r} without a message, or with a null in one "
                f"(row_id {row_id!r}). Nothing was asked. Fill it, or leave this row out."
            )
        if chat is None or plain:
            yield None if chat is None else _json(chat)
        else:
            turns = [_turn(turn, row_id) for turn in chat]
            yield _json([*turns[:-1], _with_images(turns[-1], _listed(seen), row_id)])


def _is_turn(turn: Mapping[str, Any] | None) -> bool:
    """A turn says who speaks and what, be it only a call of a tool or an image."""
    return (
        turn is not None
        and turn["role"] is not None
        and (turn["content"] is not None or bool(turn.get("tool_calls") or turn.get("images")))
    )


def _turn(turn: Mapping[str, Any], row_id: str) -> dict[str, Any]:
    """A turn in the form of OpenAI's chat completions."""
    made: dict[str, Any] = {"role": turn["role"], "content": turn["content"]}
    made |= {name: turn[name] for name in ("name", "tool_call_id") if turn.get(name) is not None}
    if calls := turn.get("tool_calls"):
        made["tool_calls"] = [
            {"id": c["id"], "type": "function", "function": {"name": c["name"], "arguments": c["arguments"]}}
            for c in calls
        ]
    return _with_images(made, turn.get("images") or [], row_id)


def _with_images(turn: dict[str, Any], images: list[str | bytes], row_id: str) -> dict[str, Any]:
    if not images:
        return turn
    parts = turn["content"] if isinstance(turn["content"], list) else [{"type": "text", "text": turn["content"] or ""}]
    shown = [{"type": "image_url", "image_url": {"url": _address(image, row_id)}} for image in images]
    return {**turn, "content": [*parts, *shown]}


def _listed(images: Any) -> list[str | bytes]:
    if images is None:
        return []
    return [images] if isinstance(images, str | bytes) else list(images)


def _address(image: str | bytes | None, row_id: str) -> str:
    """An image's address as it is; its bytes as a data URL."""
    if isinstance(image, str):
        return image
    kind = next((kind for magic, kind in _MAGIC.items() if image is not None and image.startswith(magic)), None)
    if kind is None or image is None:
        found = "a null" if image is None else f"bytes that begin with {image[:8]!r}"
        raise FrameError(
            f"generate_column() found {found} among the images of row_id {row_id!r}: it knows PNG, JPEG, GIF and WebP "
            "files. Nothing was asked. Convert it first."
        )
    return f"data:image/{kind};base64,{base64.b64encode(image).decode()}"

"""A column written by a model: build the requests, take the replies as they come, join them by key."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
import polars as pl

from agora_frames.errors import BindError, FrameError, listed
from agora_frames.frames import CALL, ERROR, MESSAGES, REPLIES, REQUESTS, as_replies, outcome, require
from agora_frames.hashing import hash_bytes, seed_of
from agora_frames.stage import stage
from agora_frames.types import Backend, Observer

__all__ = ["build_requests", "generate_column"]

_TOLD_EVERY_S = 0.25
_OURS = ("messages", "model", "n", "seed", "stream")


@stage(rowwise=True)
def generate_column(
    df: pl.DataFrame,
    *,
    column: str = "prompt",
    into: str = "completion",
    temperature: float | None = None,
    top_p: float | None = None,
    max_tokens: int | None = None,
    stop: str | Sequence[str] | None = None,
    response_format: Mapping[str, Any] | None = None,
    extra: Mapping[str, Any] | None = None,
    samples: int = 1,
    seed: int = 0,
    backend: Backend,
    observer: Observer | None = None,
) -> pl.DataFrame:
    """Asks a model for each row, and keeps every row whatever comes back.

    Reads: `row_id`, `column` (String, or List(Struct{role, content}) for a chat), `sample` if there is one.
    Adds: `into` (String: the reply; null when there is none), `{into}_error` (Struct{kind, message}; null when the
    reply is whole; a truncated reply has its text and an error), `{into}_call` (Struct: key, endpoint, model,
    sampling, reasoning, finish_reason, prompt_tokens, completion_tokens, cost_usd in US dollars, latency_s in
    seconds; null where nothing was asked), and `sample` (Int64, 0 to samples-1) when samples > 1.
    Rows: the same, in the same order; each `samples` times in a row when samples > 1.
    temperature, top_p, max_tokens, stop, response_format, extra (further parameters of the endpoint): sent as they
    are; None leaves the endpoint's own default. seed: with row_id and sample it gives every draw its own seed.
    backend: from `connect`. observer: called with finished rows, each once, while the rest is still being asked.
    The key of a call is its content: endpoint, model, messages and sampling; and, unless temperature is 0, the draw
    (seed, row_id, sample). At temperature 0 equal requests are one call. A row whose prompt is null because an
    earlier step failed is not asked (`no_prompt`).
    Raises: FrameError when the column or `row_id` is missing, a draw would be asked twice, or a prompt is null for
    no reason; BackendError when no request can be answered.
    """
    if not isinstance(backend, Backend):
        raise BindError(
            f"generate_column(backend={backend!r}) is no backend: write backend=connect('openai:gpt-4o-mini')."
        )
    sampling = _sampling(temperature, top_p, max_tokens, stop, response_format, extra)
    rows = _draws(df, samples)
    requests = build_requests(rows, column=column, sampling=sampling, seed=seed, backend=backend)
    replies: list[pl.DataFrame] = []
    told, fresh, last = pl.repeat(False, rows.height, dtype=pl.Boolean, eager=True), 0, time.monotonic()
    for batch in backend(_asked(requests)):
        replies.append(as_replies(batch, backend).filter(~pl.col("retried")))
        if observer is not None and time.monotonic() - last > _TOLD_EVERY_S:
            new = requests["key"].is_in(pl.concat(replies[fresh:])["key"].implode()).fill_null(False) & ~told
            if new.any():
                observer(_finished(rows.filter(new), requests.filter(new), replies[fresh:], into, backend))
            told, fresh, last = told | new, len(replies), time.monotonic()
    done = _finished(rows, requests, replies, into, backend)
    if observer is not None and not told.all():
        observer(done.filter(~told))
    return done


def build_requests(
    rows: pl.DataFrame, *, column: str, sampling: Mapping[str, Any], seed: int, backend: Backend
) -> pl.DataFrame:
    """One request for each row, in the columns of `frames.REQUESTS`; key and messages are null without a prompt."""
    require(rows, column, stage="generate_column")
    greedy = sampling.get("temperature") == 0
    row_ids, samples = _names(rows, unique=not greedy)
    chats = _chats(rows, column)
    settings = _json(sampling)
    head = (backend.endpoint.encode(), backend.model.encode(), settings)
    keys, sent = [], []
    for chat, row_id, sample in zip(chats, row_ids, samples, strict=True):
        draw = b"" if greedy else f"{seed}:{row_id}:{sample}".encode()
        keys.append(None if chat is None else hash_bytes(*head, _json(chat), draw))
        sent.append((settings if greedy else _json({**sampling, "seed": seed_of(seed, row_id, sample)})).decode())
    return pl.DataFrame([keys, row_ids, samples, chats, sent], schema=REQUESTS)


def _sampling(
    temperature: float | None,
    top_p: float | None,
    max_tokens: int | None,
    stop: str | Sequence[str] | None,
    response_format: Mapping[str, Any] | None,
    extra: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """What is sent beside the messages; only what was given."""
    if temperature is not None and not 0 <= temperature <= 2:
        raise BindError(f"generate_column(temperature={temperature!r}): it must be from 0 to 2.")
    if max_tokens is not None and max_tokens < 1:
        raise BindError(f"generate_column(max_tokens={max_tokens!r}): it must be at least 1.")
    if clash := [name for name in extra or {} if name in _OURS]:
        raise BindError(f"generate_column(extra=…) may not hold {listed(clash)}: the stage sets these itself.")
    named = {
        "temperature": None if temperature is None else float(temperature),
        "top_p": None if top_p is None else float(top_p),
        "max_tokens": max_tokens,
        "stop": [stop] if isinstance(stop, str) else stop and list(stop),
        "response_format": response_format,
    }
    if clash := [name for name in extra or {} if name in named]:
        raise BindError(f"generate_column(extra=…) holds {listed(clash)}: give it by its own name.")
    sampling = {**{name: value for name, value in named.items() if value is not None}, **(extra or {})}
    try:
        _json(sampling)
    except TypeError as exc:
        raise BindError(f"generate_column() cannot send {sampling!r} as JSON: {exc}.") from exc
    return sampling


def _draws(df: pl.DataFrame, samples: int) -> pl.DataFrame:
    if samples < 1:
        raise BindError(f"generate_column(samples={samples!r}): it must be at least 1.")
    if samples == 1:
        return df
    if "sample" in df.columns:
        raise FrameError(
            "generate_column(samples=…) would number its samples in the column 'sample', which the frame has already. "
            "Ask for samples=1 (each row and sample is its own draw), or rename that column."
        )
    numbers = pl.lit(pl.Series("sample", range(samples), dtype=pl.Int64)).implode().alias("sample")
    return df.with_columns(numbers).explode("sample")


def _names(rows: pl.DataFrame, *, unique: bool) -> tuple[list[str], list[int]]:
    """The row_id and the sample of each row: together, the name of its draw."""
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
    return rows["row_id"].to_list(), rows["sample"].to_list()


def _chats(rows: pl.DataFrame, column: str) -> list[list[dict[str, str]] | None]:
    """The messages of each row; None where an earlier step left no prompt."""
    dtype = rows.schema[column]
    if dtype not in (pl.String, MESSAGES, pl.Null):
        raise FrameError(
            f"generate_column() reads {column!r} as String, or as List(Struct{{role, content}}), but it is {dtype}. "
            "Make it with render_prompts, or cast it first."
        )
    # A row that went wrong before has its reason; a null prompt without one is a mistake in the frame.
    judged = _without_verdict(rows)
    strange = judged.filter(pl.col(column).is_null() & (outcome(judged) == "accepted"))
    if strange.height:
        raise FrameError(
            f"generate_column() found {strange.height} null prompts in {column!r} that no earlier step explains "
            f"(row_id {listed(strange['row_id'], most=3)}). Nothing was asked. Fill them, or leave these rows out: "
            f"df.filter(pl.col({column!r}).is_not_null())."
        )
    values = rows[column].to_list()
    if dtype == MESSAGES:
        if broken := [row_id for row_id, chat in zip(rows["row_id"], values, strict=True) if not _is_chat(chat)]:
            raise FrameError(
                f"generate_column() found chats in {column!r} without a message, or with a null in one "
                f"(row_id {listed(broken, most=3)}). Nothing was asked. Fill them, or leave these rows out."
            )
        return values
    return [None if v is None else [{"role": "user", "content": v}] for v in values]


def _is_chat(chat: list[dict[str, str | None] | None] | None) -> bool:
    return chat is None or (bool(chat) and all(said and None not in said.values() for said in chat))


def _without_verdict(rows: pl.DataFrame) -> pl.DataFrame:
    """`valid` says that a row is bad only when it is false; a null, or a column of another type, explains nothing."""
    if rows.schema.get("valid") != pl.Boolean:
        return rows.drop("valid", strict=False)
    return rows.with_columns(pl.col("valid").fill_null(True))


def _asked(requests: pl.DataFrame) -> pl.DataFrame:
    return requests.filter(pl.col("key").is_not_null()).unique("key", keep="first", maintain_order=True)


def _json(value: object) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def _finished(
    rows: pl.DataFrame, requests: pl.DataFrame, replies: list[pl.DataFrame], into: str, backend: Backend
) -> pl.DataFrame:
    """The rows with their three columns."""
    first = pl.concat([REPLIES.to_frame(), *replies]).unique("key", keep="first", maintain_order=True)
    answers = requests.select("key", "sampling").join(
        first.with_columns(answered=True), on="key", how="left", maintain_order="left"
    )
    known = {"endpoint": pl.lit(backend.endpoint), "model": pl.lit(backend.model)}
    call = pl.struct([known.get(f.name, pl.col(f.name)).alias(f.name) for f in CALL.fields])
    columns = answers.select(
        pl.col("text").alias(into),
        pl.when(pl.col("key").is_null())
        .then(_error("no_prompt", "the prompt is null"))
        .when(pl.col("answered").is_null())
        .then(_error("bad_reply", "the backend ended without a reply to this request"))
        .otherwise("error")
        .alias(f"{into}_error"),
        pl.when("answered").then(call).cast(CALL).alias(f"{into}_call"),
    )
    return rows.with_columns(columns.get_columns())


def _error(kind: str, message: str) -> pl.Expr:
    return pl.struct(kind=pl.lit(kind), message=pl.lit(message)).cast(ERROR)

"""The columns that stages and backends agree on, and the checks made when a frame comes in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import polars as pl

from agora_frames.errors import FrameError, did_you_mean, listed

__all__ = [
    "CALL",
    "ERROR",
    "LOGPROBS",
    "MESSAGES",
    "REPLIES",
    "REQUESTS",
    "SETTLED",
    "TOOL_CALLS",
    "UNPARSED",
    "as_replies",
    "error_columns",
    "errors",
    "outcome",
    "paired",
    "reason",
    "require",
]

# A chat: its turns in order.
MESSAGES = pl.List(pl.Struct({"role": pl.String, "content": pl.String}))

# Why a row has no good value: a short kind to filter by, and a message for people. Null where all is well.
# Kinds of a call that ended in a reply, paid for, which nobody asks again unless told to:
SETTLED = ("truncated", "refused", "content_filtered", "empty")
# Kinds of a call that did not: `rate_limited`, `timeout`, `connection`, `server_error`, `bad_reply`,
# `bad_request`, `context_too_long`; in a batch: `expired`, `cancelled`;
# of one never made: `no_prompt`, `not_asked`, `over_budget`;
# of a prompt that could not be rendered, or a chat that broke off: `null_value`, `template_error`;
# and of a text without the parts that were looked for:
UNPARSED = "unparsed"
ERROR = pl.Struct({"kind": pl.String, "message": pl.String})

# What a backend is asked. `key`: 32 hex digits, the content of the request (see `stages.generate`).
# `row_id`, `sample`: for whom. `messages`: a JSON list in the form of OpenAI's chat completions; `sampling`: a JSON
# object of what is sent beside them. Both canonical, and ready to be sent as they are.
REQUESTS = pl.Schema(
    {
        "key": pl.String(),
        "row_id": pl.String(),
        "sample": pl.Int64(),
        "messages": pl.String(),
        "sampling": pl.String(),
    }
)

# What a model wants called: `arguments` is the JSON that it wrote, whole or not.
TOOL_CALLS = pl.List(pl.Struct({"id": pl.String, "name": pl.String, "arguments": pl.String}))
# Each token of a reply with its natural-log probability, and the likeliest ones in its place.
_TOKEN = {"token": pl.String, "logprob": pl.Float64}
LOGPROBS = pl.List(pl.Struct({**_TOKEN, "top": pl.List(pl.Struct(_TOKEN))}))

# What it answers. `text` is null when there is none; tokens and `cost_usd` are null when unknown, never 0.
# `cached_tokens`: those of the prompt that the endpoint had in its cache. `priced_by`: whose prices made the cost.
# `served_model`: what the endpoint calls the model that answered.
# `prompt_logprobs`: those of the prompt's tokens, where they were asked for; the first has none.
# `retried`: this attempt failed and the same request is being asked again.
REPLIES = pl.Schema(
    {
        "key": pl.String(),
        "text": pl.String(),
        "reasoning": pl.String(),
        "tool_calls": TOOL_CALLS,
        "logprobs": LOGPROBS,
        "prompt_logprobs": LOGPROBS,
        "finish_reason": pl.String(),
        "served_model": pl.String(),
        "prompt_tokens": pl.Int64(),
        "cached_tokens": pl.Int64(),
        "completion_tokens": pl.Int64(),
        "cost_usd": pl.Float64(),
        "priced_by": pl.String(),
        "latency_s": pl.Float64(),
        "error": ERROR,
        "retried": pl.Boolean(),
    }
)

# What a generated column keeps about its call, beside the text. `model` is null where no call was made.
CALL = pl.Struct(
    {
        "key": pl.String(),
        "endpoint": pl.String(),
        "model": pl.String(),
        "sampling": pl.String(),
        **{name: dtype for name, dtype in REPLIES.items() if name not in ("key", "text", "error", "retried")},
    }
)


def require(df: pl.DataFrame, *columns: str, stage: str, dtype: pl.DataType | None = None) -> None:
    """Raises FrameError unless `df` has the columns (all of type `dtype`, where one is given)."""
    for column in columns:
        if column not in df.columns:
            raise FrameError(
                f"{stage}() reads the column {column!r}, which the frame does not have"
                f"{did_you_mean(column, df.columns) or '.'} It has: {listed(df.columns) or 'no columns'}."
            )
        found = df.schema[column]
        # A column of nothing but nulls has no type of its own: it may stand for any.
        if dtype is not None and found != dtype and found != pl.Null:
            raise FrameError(
                f"{stage}() reads the column {column!r} as {dtype}, but it is {found}. "
                f"Cast it first: df.with_columns(pl.col({column!r}).cast(…))."
            )


def as_replies(given: object, backend: object) -> pl.DataFrame:
    """What a backend yielded, in the columns of `REPLIES`: those left out are null, numbers may be of other types.

    Raises: FrameError when it is no frame, has no `key`, or a column does not fit.
    """
    if not isinstance(given, pl.DataFrame) or "key" not in given.columns:
        found = listed(given.columns) if isinstance(given, pl.DataFrame) else f"a {type(given).__name__}"
        raise FrameError(f"{backend!r} yielded {found}: a backend yields frames with the columns of frames.REPLIES.")
    lacking = [pl.lit(None, dtype=dtype).alias(name) for name, dtype in REPLIES.items() if name not in given.columns]
    try:
        whole = given.with_columns(lacking).select(pl.col(name).cast(dtype) for name, dtype in REPLIES.items())
    except pl.exceptions.PolarsError as exc:
        raise FrameError(f"{backend!r} yielded a column that does not fit frames.REPLIES: {exc}") from exc
    return whole.with_columns(pl.col("retried").fill_null(False))


def errors(kinds: Iterable[str | None], messages: Iterable[str | None], name: str) -> pl.Series:
    """A column of type ERROR; null where the kind is null."""
    values = [
        None if kind is None else {"kind": kind, "message": message}
        for kind, message in zip(kinds, messages, strict=True)
    ]
    return pl.Series(name, values, dtype=ERROR)


def error_columns(df: pl.DataFrame) -> list[str]:
    """The columns that hold typed reasons, in the order in which stages added them."""
    return [name for name, dtype in df.schema.items() if name.endswith("_error") and dtype == ERROR]


def reason(df: pl.DataFrame) -> pl.Expr:
    """String: the first thing that went wrong with a row, `completion: truncated`; null when nothing did.

    Errors come before what `validate` found, in the order of the columns. A row that is not valid for no reason
    that stands in the frame is `invalid`.
    """
    found = [
        pl.concat_str(pl.lit(f"{name.removesuffix('_error')}: "), pl.col(name).struct.field("kind"))
        for name in error_columns(df)
    ]
    if df.schema.get("valid") in (pl.Boolean, pl.Null):  # a column of another type is the user's own
        told = df.schema.get("failures") == pl.List(pl.String)
        first = pl.col("failures").list.first() if told else pl.lit(None, dtype=pl.String)
        found.append(pl.when(~pl.col("valid").fill_null(False)).then(pl.coalesce(first, pl.lit("invalid"))))
    return pl.coalesce(*found, pl.lit(None, dtype=pl.String)).alias("reason")


def outcome(df: pl.DataFrame) -> pl.Expr:
    """String: `failed` (no usable reply), `rejected` (a reply that is unparsed or invalid) or `accepted`.

    Each row is one of the three, so accepted + rejected + failed is always the number of rows.
    """
    kinds = [pl.col(name).struct.field("kind") for name in error_columns(df)]
    none = pl.lit(False)
    failed = pl.any_horizontal(none, *[kind.is_not_null() & (kind != UNPARSED) for kind in kinds])
    rejected = pl.any_horizontal(none, *[kind.is_not_null() for kind in kinds])
    if df.schema.get("valid") in (pl.Boolean, pl.Null):
        rejected = rejected | ~pl.col("valid").fill_null(False)
    return (
        pl.when(failed)
        .then(pl.lit("failed"))
        .when(rejected)
        .then(pl.lit("rejected"))
        .otherwise(pl.lit("accepted"))
        .alias("outcome")
    )


def paired(value: Any) -> Any:
    """The same with � for each half of a surrogate pair, which a model cut short can leave, and no file can hold."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, Mapping):
        return {paired(name): paired(inner) for name, inner in value.items()}
    return type(value)(map(paired, value)) if isinstance(value, list | tuple) else value

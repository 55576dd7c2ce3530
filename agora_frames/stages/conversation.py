"""A conversation is a column of message lists, which grows by one turn at a time."""

from __future__ import annotations

from typing import Any

import polars as pl

from agora_frames.errors import BindError, FrameError, listed
from agora_frames.frames import ERROR, error_columns, require
from agora_frames.stage import stage

__all__ = ["extend_chat"]

_ROLES = ("system", "user", "assistant")


@stage(rowwise=True)
def extend_chat(
    df: pl.DataFrame,
    *,
    column: str = "messages",
    reply: str = "completion",
    role: str = "assistant",
    into: str | None = None,
) -> pl.DataFrame:
    """Adds one more turn to each chat: the reply it got, or the next question.

    Reads: `column` (List(Struct{role, content}), further fields allowed; or String, which is taken as one message of
    the user), `reply` (String), and every `…_error` column.
    Adds: `into` (the chat with one more message, whose further fields are null; null where the chat or the reply is
    null), `{into}_error` (Struct{kind, message}: the first error of such a row, or `null_value` if it has none; null
    elsewhere). So `generate_column` does not ask a chat that broke off (`no_prompt`), and its reason stays, also when
    the next reply is written over the last one.
    Rows: the same, in the same order.
    role: who says it: `assistant` for a model's reply, `user` for the next question, `system`.
    into: the name of the extended chat; None puts it in the place of `column`, and keeps an error that is told of it.
    Raises: FrameError when a column is missing or of another type; BindError for another role.

    >>> import agora_frames as af
    >>> tutor = af.scripted(lambda messages, sampling: f"Answer to: {messages[-1]['content']}", model="tutor")
    >>> df = pl.DataFrame({"messages": ["What is a set?"], "follow_up": ["And a group?"]}).pipe(af.with_row_ids)
    >>> df = df.pipe(af.generate_column, column="messages", backend=tutor)
    >>> df = df.pipe(extend_chat).pipe(extend_chat, reply="follow_up", role="user")
    >>> df = df.pipe(af.generate_column, column="messages", backend=tutor).pipe(extend_chat)
    >>> for turn in df["messages"][0]:
    ...     print(turn["role"], "-", turn["content"])
    user - What is a set?
    assistant - Answer to: What is a set?
    user - And a group?
    assistant - Answer to: And a group?
    """
    if role not in _ROLES:
        raise BindError(f"extend_chat(role={role!r}): a turn is said by {listed(_ROLES)}.")
    into = column if into is None else into
    require(df, column, stage="extend_chat")
    require(df, reply, stage="extend_chat", dtype=pl.String())
    chat, fields = _chat(df, column)
    broken = pl.col(column).is_null() | pl.col(reply).is_null()
    error: pl.Expr = pl.when(broken).then(_first_error(df, (column, reply)))
    if into == column and f"{into}_error" in error_columns(df):
        error = pl.coalesce(f"{into}_error", error)
    longer = pl.concat_list(chat, _turn(fields, role, reply))
    return df.with_columns(pl.when(~broken).then(longer).alias(into), error.alias(f"{into}_error"))


def _chat(df: pl.DataFrame, column: str) -> tuple[pl.Expr, dict[str, Any]]:
    """The chat so far, and the fields of its messages."""
    found: Any = df.schema[column]
    if found in (pl.String, pl.Null):
        said = pl.struct(role=pl.lit("user"), content=pl.col(column).cast(pl.String))
        return pl.concat_list(said), {"role": pl.String(), "content": pl.String()}
    fields = dict(found.inner) if isinstance(found, pl.List) and isinstance(found.inner, pl.Struct) else {}
    if fields.get("role") != pl.String or fields.get("content") != pl.String:
        raise FrameError(
            f"extend_chat() reads {column!r} as List(Struct{{role, content}}), or as String for one message of the "
            f"user, but it is {found}. Make it with render_prompts, or cast it first."
        )
    return pl.col(column), fields


def _turn(fields: dict[str, Any], role: str, reply: str) -> pl.Expr:
    said = {"role": pl.lit(role), "content": pl.col(reply).cast(pl.String)}
    return pl.struct(said.get(name, pl.lit(None, dtype=dtype)).alias(name) for name, dtype in fields.items())


def _first_error(df: pl.DataFrame, columns: tuple[str, ...]) -> pl.Expr:
    """Why one of the columns is null: the row's first error, or else that it is."""
    nulls = [
        pl.when(pl.col(name).is_null()).then(pl.struct(kind=pl.lit("null_value"), message=pl.lit(f"{name!r} is null")))
        for name in columns
    ]
    return pl.coalesce(*error_columns(df), *nulls).cast(ERROR)

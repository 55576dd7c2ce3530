"""A conversation is a column of message lists, which grows by one turn at a time."""

from __future__ import annotations

from typing import Any

import polars as pl

from agora_frames.errors import BindError, FrameError, listed
from agora_frames.frames import CALL, ERROR, TOOL_CALLS, error_columns, require
from agora_frames.stage import stage

__all__ = ["extend_chat"]

_TOOLS: dict[str, Any] = {"tool_calls": TOOL_CALLS, "tool_call_id": pl.String()}
_ROLES = ("system", "user", "assistant", "tool")


@stage(rowwise=True)
def extend_chat(
    df: pl.DataFrame,
    *,
    column: str = "messages",
    reply: str = "completion",
    role: str = "assistant",
    tool_calls: str | None = None,
    tool_call_id: str | None = None,
    into: str | None = None,
) -> pl.DataFrame:
    """Adds one more turn to each chat: the reply it got, or the next question.

    Reads: `column` (List(Struct{role, content}), further fields allowed; or String, which is taken as one message of
    the user), `reply` (String), and every `…_error` column; `tool_calls` and `tool_call_id`, if named.
    Adds: `into` (the chat with one more message, whose further fields are null; null where the chat is null, or the
    reply is and calls no tool), `{into}_error` (Struct{kind, message}: the first error of such a row, or `null_value`
    if it has none; null elsewhere). So `generate_column` does not ask a chat that broke off (`no_prompt`), and its
    reason stays, also when the next reply is written over the last one.
    Rows: the same, in the same order.
    role: who says it: `assistant` for a model's reply, `user` for the next question, `system`, or `tool` for the result
    of a call. tool_calls: the column of the calls that the reply makes (`completion_call`, or a list like its field
    `tool_calls`). tool_call_id: the column (String) that says which call a tool's result answers.
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
    said = {"role": pl.lit(role), "content": pl.col(reply).cast(pl.String), **_of_tools(df, tool_calls, tool_call_id)}
    chat, fields = _widened(chat, fields, {name: _TOOLS[name] for name in said.keys() & _TOOLS.keys()})
    turn = pl.struct(said.get(name, pl.lit(None, dtype=dtype)).alias(name) for name, dtype in fields.items())
    calls = said["tool_calls"].list.len().fill_null(0) > 0 if tool_calls else pl.lit(False)
    broken = pl.col(column).is_null() | (pl.col(reply).is_null() & ~calls)
    error: pl.Expr = pl.when(broken).then(_first_error(df, (column, reply)))
    if into == column and f"{into}_error" in error_columns(df):
        error = pl.coalesce(f"{into}_error", error)
    return df.with_columns(pl.when(~broken).then(pl.concat_list(chat, turn)).alias(into), error.alias(f"{into}_error"))


def _of_tools(df: pl.DataFrame, tool_calls: str | None, tool_call_id: str | None) -> dict[str, pl.Expr]:
    """The fields of a turn that calls a tool, or answers such a call."""
    fields = {}
    if tool_calls is not None:
        require(df, tool_calls, stage="extend_chat")
        calls, found = pl.col(tool_calls), df.schema[tool_calls]
        if found not in (CALL, TOOL_CALLS, pl.Null):
            raise FrameError(
                f"extend_chat() reads {tool_calls!r} as the calls of tools, such as `completion_call`, "
                f"but it is {found}."
            )
        fields["tool_calls"] = calls.struct.field("tool_calls") if found == CALL else calls.cast(TOOL_CALLS)
    if tool_call_id is not None:
        require(df, tool_call_id, stage="extend_chat", dtype=pl.String())
        fields["tool_call_id"] = pl.col(tool_call_id).cast(pl.String)
    return fields


def _widened(chat: pl.Expr, fields: dict[str, Any], needed: dict[str, Any]) -> tuple[pl.Expr, dict[str, Any]]:
    """The chat with the fields that it lacks, null in every turn so far."""
    new = {name: dtype for name, dtype in needed.items() if name not in fields}
    if not new:
        return chat, fields
    nulls = [pl.lit(None, dtype=dtype).alias(name) for name, dtype in new.items()]
    return chat.list.eval(pl.element().struct.with_fields(*nulls)), {**fields, **new}


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


def _first_error(df: pl.DataFrame, columns: tuple[str, ...]) -> pl.Expr:
    """Why one of the columns is null: the row's first error, or else that it is."""
    nulls = [
        pl.when(pl.col(name).is_null()).then(pl.struct(kind=pl.lit("null_value"), message=pl.lit(f"{name!r} is null")))
        for name in columns
    ]
    return pl.coalesce(*error_columns(df), *nulls).cast(ERROR)

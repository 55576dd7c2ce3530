"""extend_chat: a conversation grows by one turn, and one that broke off says why."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

import agora_frames as af
from agora_frames.backends.scripted import failing
from agora_frames.errors import BindError, FrameError
from agora_frames.frames import ERROR, MESSAGES, TOOL_CALLS
from agora_frames.stages.conversation import extend_chat

Q, A = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
REFUSED = {"kind": "refused", "message": "no"}


def frame(chats: list[Any], replies: list[str | None], dtype: Any = MESSAGES) -> pl.DataFrame:
    return pl.DataFrame({"messages": chats, "completion": replies}, schema={"messages": dtype, "completion": pl.String})


def told(reasons: list[Any]) -> pl.Series:
    return pl.Series("completion_error", reasons, dtype=ERROR)


# --- the turn that is added


def test_a_reply_is_added_to_the_chat_it_answers() -> None:
    done = extend_chat(frame([[Q], [Q, A, Q]], ["a", "b"]))
    assert done["messages"].to_list() == [[Q, A], [Q, A, Q, {"role": "assistant", "content": "b"}]]
    assert done["messages_error"].to_list() == [None, None]


def test_the_next_question_is_said_by_the_user() -> None:
    df = frame([[Q, A]], ["a"]).with_columns(more=pl.lit("why?"))
    done = extend_chat(df, reply="more", role="user")
    assert done["messages"][0][-1] == {"role": "user", "content": "why?"}


def test_a_text_is_one_message_of_the_user() -> None:
    done = extend_chat(frame(["q"], ["a"], pl.String))
    assert done.schema["messages"] == MESSAGES
    assert done["messages"].to_list() == [[Q, A]]


def test_a_chat_without_messages_gets_its_first() -> None:
    assert extend_chat(frame([[]], ["a"]))["messages"].to_list() == [[A]]


def test_an_empty_reply_is_a_turn_too() -> None:
    assert extend_chat(frame([[Q]], [""]))["messages"][0][-1]["content"] == ""


def test_the_longer_chat_may_stand_beside_the_old_one() -> None:
    done = extend_chat(frame([[Q]], ["a"]), into="so_far")
    assert done.columns == ["messages", "completion", "so_far", "so_far_error"]
    assert done["messages"].to_list() == [[Q]]
    assert done["so_far"].to_list() == [[Q, A]]


def test_further_fields_of_a_message_are_kept_and_null_in_the_new_turn() -> None:
    fields: dict[str, Any] = {
        "images": pl.List(pl.Binary),
        "role": pl.String,
        "content": pl.String,
        "tool_calls": pl.List(pl.Struct({"id": pl.String, "name": pl.String})),
        "tool_call_id": pl.String,
    }
    dtype = pl.List(pl.Struct(fields))
    first = {"images": [b"1"], **Q, "tool_calls": [{"id": "c", "name": "n"}], "tool_call_id": "c"}
    done = extend_chat(frame([[first]], ["a"], dtype))
    assert done.schema["messages"] == dtype
    assert done["messages"].to_list() == [[first, {**dict.fromkeys(fields), **A}]]


def test_an_empty_frame_gives_the_same_schema() -> None:
    for dtype in (pl.String, MESSAGES):
        assert extend_chat(frame([], [], dtype)).schema == extend_chat(frame([None], ["a"], dtype)).schema


def test_columns_of_nothing_but_nulls_have_no_type_and_are_fine() -> None:
    done = extend_chat(pl.DataFrame({"messages": [None], "completion": [None]}))
    assert done.schema["messages"] == MESSAGES
    assert done["messages"].to_list() == [None]


# --- chats that break off


def test_a_chat_or_reply_that_is_null_breaks_off_and_says_so() -> None:
    done = extend_chat(frame([None, [Q], None], ["a", None, None]))
    assert done["messages"].to_list() == [None] * 3
    assert [error["kind"] for error in done["messages_error"]] == ["null_value"] * 3
    assert [error["message"] for error in done["messages_error"]] == [
        "'messages' is null",
        "'completion' is null",
        "'messages' is null",
    ]


def test_the_first_error_of_the_row_is_the_reason_if_there_is_one() -> None:
    df = frame([[Q], [Q], [Q]], [None, None, "cut"]).with_columns(told([REFUSED, None, REFUSED]))
    done = extend_chat(df)
    assert [error and error["kind"] for error in done["messages_error"]] == ["refused", "null_value", None]
    assert done["messages"].is_null().to_list() == [True, True, False]
    assert done["completion_error"].to_list() == df["completion_error"].to_list()


def test_an_error_that_is_told_of_the_chat_is_kept() -> None:
    df = frame([None, [Q]], ["a", "a"]).with_columns(told([REFUSED, REFUSED]).alias("messages_error"))
    assert extend_chat(df)["messages_error"].to_list() == [REFUSED, REFUSED]


def test_a_chat_that_broke_off_is_not_asked_and_keeps_its_first_reason() -> None:
    def tutor(messages: list[dict[str, str]]) -> Any:
        return failing("refused") if messages[-1]["content"] == "bad" else f"re {messages[-1]['content']}"

    backend = af.scripted(tutor)
    df = pl.DataFrame({"messages": ["good", "bad"], "more": ["why?", "why?"]}).pipe(af.with_row_ids)
    df = df.pipe(af.generate_column, column="messages", backend=backend)
    df = df.pipe(extend_chat).pipe(extend_chat, reply="more", role="user")
    df = df.pipe(af.generate_column, column="messages", backend=backend)
    assert df["completion"].to_list() == ["re why?", None]
    assert df["completion_error"][1]["kind"] == "no_prompt"
    assert df["messages_error"][1]["kind"] == "refused"
    assert df["messages"][0].to_list()[-1] == {"role": "user", "content": "why?"}


# --- what is refused


@pytest.mark.parametrize("role", ["model", "", "User", None])
def test_a_role_that_no_chat_has_is_refused(role: Any) -> None:
    with pytest.raises(BindError, match="'system', 'user', 'assistant'"):
        extend_chat(frame([[Q]], ["a"]), role=role)


@pytest.mark.parametrize("column", ["mesages", "completions"])
def test_a_missing_column_is_named_with_a_guess(column: str) -> None:
    with pytest.raises(FrameError, match="did you mean"):
        extend_chat(frame([[Q]], ["a"]), **{"column" if column[0] == "m" else "reply": column})


@pytest.mark.parametrize(
    "dtype", [pl.Int64, pl.List(pl.String), pl.List(pl.Struct({"role": pl.String})), pl.Struct({"role": pl.String})]
)
def test_a_column_that_is_no_chat_is_refused(dtype: Any) -> None:
    with pytest.raises(FrameError, match="reads 'messages' as List"):
        extend_chat(frame([None], ["a"], dtype))


def test_a_reply_that_is_no_text_is_refused() -> None:
    with pytest.raises(FrameError, match="'completion' as String"):
        extend_chat(pl.DataFrame({"messages": ["q"], "completion": [1]}))


# --- the law


@given(
    rows=st.lists(
        st.tuples(st.none() | st.lists(st.just(Q), max_size=3), st.none() | st.text(max_size=3), st.booleans()),
        max_size=6,
    ),
    at=st.integers(0, 6),
)
@settings(max_examples=40)
def test_each_row_stays_and_is_extended_alike_in_any_part(rows: list[Any], at: int) -> None:
    chats, replies, failed = zip(*rows, strict=True) if rows else ((), (), ())
    df = frame(list(chats), list(replies)).with_columns(told([REFUSED if bad else None for bad in failed]))
    done = extend_chat(df)
    expected = [
        None if chat is None or said is None else [*chat, {"role": "assistant", "content": said}]
        for chat, said, _ in rows
    ]
    assert done["messages"].to_list() == expected
    assert (done["messages"].is_null() == done["messages_error"].is_not_null()).all()
    assert_frame_equal(pl.concat([extend_chat(df[:at]), extend_chat(df[at:])]), done)


# Tools


def adds(messages: list[dict[str, Any]]) -> Any:
    """A model that calls a tool first, and then says what it was told."""
    if messages[-1]["role"] == "tool":
        return f"It is {messages[-1]['content']}, as {messages[-1]['tool_call_id']} says."
    return {"tool_calls": [{"id": "c1", "name": "add", "arguments": '{"a": 1, "b": 2}'}], "finish_reason": "tool_calls"}


def test_a_model_calls_a_tool_and_goes_on_with_its_result() -> None:
    model = af.scripted(adds)
    df = pl.DataFrame({"row_id": ["r"], "messages": ["1 + 2?"]})
    df = df.pipe(af.generate_column, column="messages", backend=model)
    assert df["completion"].to_list() == [None]
    assert df["completion_error"].to_list() == [None]
    df = df.pipe(extend_chat, tool_calls="completion_call")
    df = df.with_columns(result=pl.lit("3"), of=pl.lit("c1")).pipe(
        extend_chat, reply="result", role="tool", tool_call_id="of"
    )
    assert df["messages_error"].to_list() == [None]
    df = df.pipe(af.generate_column, column="messages", backend=model)
    assert df["completion"].to_list() == ["It is 3, as c1 says."]
    assert [turn["role"] for turn in df["messages"][0]] == ["user", "assistant", "tool"]


def test_a_reply_without_text_that_calls_no_tool_breaks_the_chat_off() -> None:
    calls = pl.Series("calls", [[], None], dtype=TOOL_CALLS)
    df = pl.DataFrame({"messages": ["a", "b"], "completion": [None, None]}).with_columns(calls)
    done = extend_chat(df, tool_calls="calls")
    assert done["messages"].to_list() == [None, None]
    assert done["messages_error"].struct.field("kind").to_list() == ["null_value", "null_value"]


def test_calls_of_another_type_are_an_error() -> None:
    df = pl.DataFrame({"messages": ["a"], "completion": ["b"], "calls": [1]})
    with pytest.raises(FrameError, match="'calls' as the calls of tools"):
        extend_chat(df, tool_calls="calls")

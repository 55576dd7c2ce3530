"""Requests: keys, seeds and bodies that never move, images and tools in OpenAI's form, and errors that name the row."""

from __future__ import annotations

import base64
import json
from typing import Any

import polars as pl
import pytest

from agora_frames.backends.scripted import scripted
from agora_frames.errors import FrameError
from agora_frames.frames import MESSAGES, REQUESTS, TOOL_CALLS
from agora_frames.stages.requests import build_requests

BACKEND = scripted(str, model="m")
PNG, JPEG, GIF, WEBP = b"\x89PNG\r\n\x1a\n1", b"\xff\xd8\xff\xe01", b"GIF89a1", b"RIFF\x04\0\0\0WEBP1"
TURN = pl.Struct(
    {
        "role": pl.String,
        "content": pl.String,
        "images": pl.List(pl.String),
        "tool_calls": TOOL_CALLS,
        "tool_call_id": pl.String,
        "name": pl.String,
    }
)


def frame(*prompts: Any, dtype: Any = None, **more: Any) -> pl.DataFrame:
    names = [f"r{n}" for n in range(len(prompts))]
    return pl.DataFrame({"row_id": names, "prompt": pl.Series(prompts, dtype=dtype), **more})


def built(df: pl.DataFrame, *, images: str | None = None, seed: int = 0, **sampling: Any) -> pl.DataFrame:
    return build_requests(df, column="prompt", images=images, sampling=sampling, seed=seed, backend=BACKEND)


def messages(df: pl.DataFrame, *, images: str | None = None) -> list[Any]:
    return [json.loads(chat) for chat in built(df, images=images)["messages"]]


def user(text: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text}]


def chats(*given: list[dict[str, Any]], dtype: Any = TURN) -> pl.DataFrame:
    return frame(*given, dtype=pl.List(dtype))


# Keys, seeds and bodies: a change here would pay for every reply again

GOLDEN: list[tuple[str, int, dict[str, Any], str, str]] = [
    ("What is 1 + 1?", 0, {}, "71cf2f18b39c7800c397f6bbd69e3c6f", '{"seed":619192736}'),
    ("What is 1 + 1?", 0, {"temperature": 0.0}, "8f7d8c5ee24f1c15fcaef131c03381b2", '{"temperature":0.0}'),
    (
        "What is 1 + 1?",
        7,
        {"temperature": 0.7, "top_p": 0.9, "max_tokens": 64, "stop": ["\n"]},
        "1ec1dd2665098bb5f280b9c8870b40e7",
        r'{"max_tokens":64,"seed":258456454,"stop":["\n"],"temperature":0.7,"top_p":0.9}',
    ),
    (
        "Grüße, 世界 🌍",
        3,
        {"top_k": 5, "response_format": {"type": "json_object"}},
        "e06f6458dc9fdc7dc0835ae315282774",
        '{"response_format":{"type":"json_object"},"seed":1961085234,"top_k":5}',
    ),
    (
        '100 % "quoted"\n',
        0,
        {"temperature": 1.0, "stop": ["%d"], "logprobs": True, "top_logprobs": 2},
        "747434c57f39e8e4f8cb4b9b3278f143",
        '{"logprobs":true,"seed":619192736,"stop":["%d"],"temperature":1.0,"top_logprobs":2}',
    ),
    (
        "",
        0,
        {"temperature": 0.0, "max_tokens": 1},
        "833cf48c262a4f5d27d81854bc3d98a9",
        '{"max_tokens":1,"temperature":0.0}',
    ),
]


@pytest.mark.parametrize(("prompt", "seed", "sampling", "key", "sent"), GOLDEN)
@pytest.mark.parametrize("form", ["text", "chat", "full chat"])
def test_key_and_sampling_are_what_they_have_always_been(
    prompt: str, seed: int, sampling: dict[str, Any], key: str, sent: str, form: str
) -> None:
    forms = {
        "text": frame(prompt),
        "chat": chats(user(prompt), dtype=MESSAGES.inner),
        "full chat": chats(user(prompt)),
    }
    found = built(forms[form], seed=seed, **sampling)
    assert found.select("key", "sampling").rows() == [(key, sent)]


def test_the_columns_are_those_of_requests_and_the_messages_canonical() -> None:
    found = built(frame("hi"), temperature=0.0)
    assert found.schema == REQUESTS
    assert found["messages"].to_list() == ['[{"content":"hi","role":"user"}]']


def test_no_rows_make_no_requests() -> None:
    assert built(frame(dtype=pl.String)).equals(REQUESTS.to_frame())


def test_more_rows_than_are_made_at_a_time_are_what_they_are_one_by_one() -> None:
    df = frame(*(f"p{n}" for n in range(2_345)))
    found = built(df, temperature=1.0)
    assert found["row_id"].equals(df["row_id"])
    for n in (0, 999, 1_000, 2_344):
        assert found[n].equals(built(df[n], temperature=1.0))


def test_the_seed_is_in_its_place_in_the_order_of_names() -> None:
    (sent,) = built(frame("a"), temperature=0.5, best_of=2)["sampling"]
    assert list(json.loads(sent)) == ["best_of", "seed", "temperature"]


@pytest.mark.parametrize(
    "sampling", [{}, {"stop": ["100%", "%d", "%%s"]}, {"a%d": "%"}, {"z%": {"%s": ["%"]}}], ids=str
)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_per_cent_sign_in_the_sampling_stays_what_it_is(sampling: dict[str, Any], temperature: float) -> None:
    (sent,) = built(frame("a"), temperature=temperature, **sampling)["sampling"]
    told = json.loads(sent)
    assert told.pop("temperature") == temperature
    assert ("seed" in told) is bool(temperature)
    told.pop("seed", None)
    assert told == sampling


@pytest.mark.parametrize(
    "sampling", [{}, {"a": 1}, {"top_p": 0.5, "a": {"z": 1, "b": 2}}, {"seed2": 1, "t": None}], ids=str
)
def test_the_sampling_is_canonical_with_a_seed_in_it(sampling: dict[str, Any]) -> None:
    (sent,) = built(frame("a"), **sampling)["sampling"]
    assert list(json.loads(sent)) == sorted(json.loads(sent))


def test_a_schema_is_sent_in_the_order_in_which_it_was_written() -> None:
    properties: dict[str, Any] = {"reasoning": {}, "answer": {}}
    orders = [{"properties": properties}, {"properties": dict(reversed(properties.items()))}]
    first, second = (built(frame("a"), response_format=order) for order in orders)
    assert list(json.loads(first["sampling"][0])["response_format"]["properties"]) == ["reasoning", "answer"]
    assert first["key"][0] != second["key"][0], "another order is another request"


def test_without_a_seed_none_is_sent_and_each_draw_is_still_its_own() -> None:
    df = frame("a", "a")
    made = build_requests(df, column="prompt", sampling={"temperature": 1.0}, seed=None, backend=BACKEND)
    assert made["sampling"].to_list() == ['{"temperature":1.0}'] * 2
    assert made["key"].n_unique() == 2


def test_seeds_hang_on_row_sample_and_seed_alone() -> None:
    def seeds(*, seed: int = 0, prompt: str = "p", sample: int = 0) -> set[int]:
        df = frame(prompt, sample=[sample])
        return {json.loads(sent)["seed"] for sent in built(df, seed=seed)["sampling"]}

    assert seeds() == seeds(prompt="another")
    assert len(seeds() | seeds(seed=1) | seeds(sample=1)) == 3


def test_at_temperature_0_the_draw_is_neither_sent_nor_in_the_key() -> None:
    found = built(frame("same", "same"), temperature=0.0)
    assert found["key"].n_unique() == 1
    assert found["sampling"].to_list() == ['{"temperature":0.0}'] * 2


# What is null, or not there


@pytest.mark.parametrize("dtype", [MESSAGES.inner, TURN, pl.Struct({**dict(TURN), "images": pl.List(pl.Binary)})])
def test_further_fields_that_are_null_leave_the_key_as_it_was(dtype: Any) -> None:
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    plain = built(chats(chat, dtype=MESSAGES.inner))
    assert built(chats(chat, dtype=dtype)).equals(plain)


def test_further_fields_of_nulls_only_and_empty_lists_leave_the_key_as_it_was() -> None:
    plain = built(chats(user("Hi"), dtype=MESSAGES.inner))
    nulls = pl.Struct({"role": pl.String, "content": pl.String, "name": pl.Null, "images": pl.Null})
    empty = [{**user("Hi")[0], "images": [], "tool_calls": [], "tool_call_id": None, "name": None}]
    assert built(chats(user("Hi"), dtype=nulls)).equals(plain)
    assert built(chats(empty)).equals(plain)


@pytest.mark.parametrize("dtype", [pl.String, pl.Binary, pl.List(pl.String), pl.List(pl.Binary), pl.Null])
def test_a_row_without_an_image_is_asked_as_if_there_were_no_such_column(dtype: Any) -> None:
    df = frame("Hi", shown=pl.Series([None], dtype=dtype))
    assert built(df, images="shown").equals(built(frame("Hi")))


def test_an_empty_list_of_images_is_none() -> None:
    df = frame("Hi", shown=pl.Series([[]], dtype=pl.List(pl.String)))
    assert built(df, images="shown").equals(built(frame("Hi")))


def test_a_prompt_that_an_earlier_step_left_null_has_no_key_whatever_its_image() -> None:
    error = pl.Series([{"kind": "null_value", "message": "x"}, None])
    found = built(frame(None, "b", shown=["http://h/a.png", "http://h/b.png"], prompt_error=error), images="shown")
    assert found["key"].is_null().to_list() == [True, False]
    assert found["messages"].is_null().to_list() == [True, False]


# Images


def test_the_address_of_an_image_is_shown_after_the_text() -> None:
    found = messages(frame("What is it?", shown=["https://h/cat.png"]), images="shown")
    image = {"type": "image_url", "image_url": {"url": "https://h/cat.png"}}
    assert found == [[{"role": "user", "content": [{"type": "text", "text": "What is it?"}, image]}]]


@pytest.mark.parametrize(("content", "kind"), [(PNG, "png"), (JPEG, "jpeg"), (GIF, "gif"), (WEBP, "webp")])
def test_the_bytes_of_an_image_are_shown_as_a_data_url_of_their_kind(content: bytes, kind: str) -> None:
    ((turn,),) = messages(frame("x", shown=[content]), images="shown")
    url = turn["content"][1]["image_url"]["url"]
    assert url == f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


@pytest.mark.parametrize("given", [["http://h/a", "http://h/b"], [PNG, GIF]], ids=["addresses", "bytes"])
def test_several_images_are_shown_in_their_order(given: list[Any]) -> None:
    ((turn,),) = messages(frame("x", shown=[given]), images="shown")
    urls = [part["image_url"]["url"] for part in turn["content"][1:]]
    expected = [
        each if isinstance(each, str) else f"data:image/{kind};base64,{base64.b64encode(each).decode()}"
        for each, kind in zip(given, ("png", "gif"), strict=True)
    ]
    assert urls == expected


def test_each_row_is_shown_its_own_images() -> None:
    df = frame("a", "b", "c", shown=[["http://h/1"], None, ["http://h/2", "http://h/3"]])
    found = messages(df, images="shown")
    assert found[1] == user("b")
    assert [len(chat[0]["content"]) for chat in (found[0], found[2])] == [2, 3]


def test_the_images_of_a_row_are_shown_with_the_last_turn_of_a_chat() -> None:
    df = chats([{"role": "system", "content": "S"}, *user("U")]).with_columns(shown=pl.lit("http://h/a"))
    ((system, last),) = messages(df, images="shown")
    assert system == {"role": "system", "content": "S"}
    assert [part["type"] for part in last["content"]] == ["text", "image_url"]


def test_images_in_a_turn_stand_where_they_are_and_those_of_the_row_behind_them() -> None:
    chat = [{**user("one")[0], "images": ["http://h/1"]}, {**user("two")[0], "images": ["http://h/2"]}]
    ((first, last),) = messages(chats(chat).with_columns(shown=pl.lit("http://h/3")), images="shown")

    def urls(turn: dict[str, Any]) -> list[str]:
        return [part["image_url"]["url"] for part in turn["content"] if part["type"] == "image_url"]

    assert (urls(first), urls(last)) == (["http://h/1"], ["http://h/2", "http://h/3"])
    assert [part for part in last["content"] if part["type"] == "text"] == [{"type": "text", "text": "two"}]


def test_the_bytes_of_images_may_stand_in_a_turn() -> None:
    dtype = pl.Struct({"role": pl.String, "content": pl.String, "images": pl.List(pl.Binary)})
    ((turn,),) = messages(chats([{**user("x")[0], "images": [JPEG]}], dtype=dtype))
    assert turn["content"][1]["image_url"]["url"].startswith("data:image/jpeg;base64,")


def test_a_turn_may_hold_an_image_alone() -> None:
    ((turn,),) = messages(chats([{"role": "user", "content": None, "images": ["http://h/1"]}]))
    assert turn["content"][0] == {"type": "text", "text": ""}


def test_images_are_in_the_key() -> None:
    shown = [None, "http://h/1", "http://h/2"]
    found = built(frame("x", "x", "x", shown=shown), images="shown", temperature=0.0)
    assert found["key"].n_unique() == 3


@pytest.mark.parametrize("content", [b"", b"BM1234", b"<svg/>", b"\x89PN", b"%PDF-1.7"])
def test_bytes_of_no_known_kind_are_an_error_that_names_the_row(content: bytes) -> None:
    df = frame("a", "b", shown=[PNG, content])
    with pytest.raises(FrameError, match=r"row_id 'r1'.*it knows PNG, JPEG, GIF and WebP.*Convert it first") as caught:
        built(df, images="shown")
    assert repr(content[:8]) in str(caught.value)


@pytest.mark.parametrize("shown", [[["http://h/1"], ["http://h/2", None]], [[PNG], [PNG, None]]])
def test_a_null_among_images_is_an_error_that_names_the_row(shown: list[Any]) -> None:
    with pytest.raises(FrameError, match=r"found a null among the images of row_id 'r1'"):
        built(frame("a", "b", shown=shown), images="shown")


@pytest.mark.parametrize("shown", [[1], [[1]], [{"url": "x"}], [True]], ids=str)
def test_images_of_another_type_are_an_error_that_names_the_type(shown: list[Any]) -> None:
    df = frame("a", shown=shown)
    with pytest.raises(FrameError, match=r"'shown' as the addresses of images.*but it is") as caught:
        built(df, images="shown")
    assert str(df.schema["shown"]) in str(caught.value)


def test_a_missing_column_of_images_names_the_nearest() -> None:
    with pytest.raises(FrameError, match="did you mean 'picture'"):
        built(frame("a", picture=["http://h/1"]), images="pictures")


# Tools


def test_calls_of_tools_and_their_results_are_sent_in_openais_form() -> None:
    call = {"id": "c1", "name": "add", "arguments": '{"a": 1}'}
    chat: list[dict[str, Any]] = [
        {"role": "user", "content": "1 + 1?", "name": "Ann"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "2", "tool_call_id": "c1"},
    ]
    (found,) = messages(chats(chat))
    called = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    assert found == [
        {"role": "user", "content": "1 + 1?", "name": "Ann"},
        {"role": "assistant", "content": None, "tool_calls": [called]},
        {"role": "tool", "content": "2", "tool_call_id": "c1"},
    ]


@pytest.mark.parametrize(
    "more",
    [
        {"name": "Ann"},
        {"tool_call_id": "c1"},
        {"tool_calls": [{"id": "c1", "name": "add", "arguments": "{}"}]},
        {"images": ["http://h/1"]},
    ],
    ids=str,
)
def test_each_further_field_is_in_the_key(more: dict[str, Any]) -> None:
    plain, other = built(chats(user("x"), [{**user("x")[0], **more}]), temperature=0.0)["key"]
    assert plain != other


def test_the_arguments_of_a_call_are_sent_as_they_were_written_whole_or_not() -> None:
    call = {"id": "c", "name": "f", "arguments": '{"a": '}
    ((turn,),) = messages(chats([{"role": "assistant", "content": None, "tool_calls": [call]}]))
    assert turn["tool_calls"][0]["function"]["arguments"] == '{"a": '


def test_a_chat_of_the_models_own_reply_can_be_sent_back() -> None:
    """The tool calls of a reply (`frames.TOOL_CALLS`) fit into a turn as they are."""
    assert dict(TURN)["tool_calls"] == TOOL_CALLS


# Chats that are none


@pytest.mark.parametrize(
    "dtype",
    [
        pl.Int64,
        pl.List(pl.String),
        pl.Struct({"role": pl.String, "content": pl.String}),
        pl.List(pl.Struct({"role": pl.String})),
        pl.List(pl.Struct({"role": pl.String, "content": pl.Int64})),
        pl.List(pl.Struct({"role": pl.String, "content": pl.String, "mood": pl.String})),
        pl.List(pl.Struct({"role": pl.String, "content": pl.String, "name": pl.Int64})),
        pl.List(pl.Struct({"role": pl.String, "content": pl.String, "images": pl.String})),
        pl.List(pl.Struct({"role": pl.String, "content": pl.String, "tool_calls": pl.List(pl.String)})),
    ],
    ids=str,
)
def test_a_prompt_of_another_type_is_an_error_that_says_what_it_may_be(dtype: Any) -> None:
    with pytest.raises(FrameError, match=r"'prompt' as String, or as List\(Struct{role, content}\) with 'images'"):
        built(frame(dtype=dtype))


@pytest.mark.parametrize(
    "chat",
    [
        [],
        [None],
        [{"role": None, "content": "x"}],
        [{"role": "user", "content": None}],
        [{"role": "assistant", "content": None, "tool_calls": []}],
        [*user("x"), {"role": "user", "content": None, "name": "Ann"}],
    ],
    ids=str,
)
def test_a_chat_with_a_hole_is_an_error_that_names_the_row(chat: list[Any]) -> None:
    with pytest.raises(FrameError, match=r"\(row_id 'r1'\)\. Nothing was asked"):
        built(chats(user("fine"), chat))

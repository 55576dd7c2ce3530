"""A generated column: every row kept, keys that never move, each row its own draw, and observers that miss none."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from agora_frames.backends.chat import failed, frame_of
from agora_frames.backends.openai_chat import openai_chat
from agora_frames.backends.scripted import failing, scripted
from agora_frames.errors import BindError, FrameError
from agora_frames.frames import CALL, ERROR, MESSAGES, REPLIES, REQUESTS
from agora_frames.ledger import Ledger
from agora_frames.remembered import remembered
from agora_frames.stages.generate import generate_column
from agora_frames.stages.prompt import render_prompts
from agora_frames.stages.requests import build_requests
from agora_frames.stages.rows import with_row_ids

UPPER = scripted(lambda messages: messages[-1]["content"].upper())
# Says what it was asked with, so that a wrong prompt or seed shows in the text.
ECHO = scripted(lambda messages, sampling: f"{messages[-1]['content']} {sampling.get('seed')}")


@dataclass(frozen=True)
class Stub:
    """A backend whose whole stream is given."""

    stream: Callable[[pl.DataFrame], Iterator[pl.DataFrame]]
    endpoint: str = "stub"
    model: str = "stub"

    def __call__(self, requests: pl.DataFrame, /) -> Iterator[pl.DataFrame]:
        return self.stream(requests)


class Recorder:
    """A backend that keeps what it was asked and answers in capitals."""

    endpoint = model = "recorder"

    def __init__(self) -> None:
        self.asked = REQUESTS.to_frame()

    def __call__(self, requests: pl.DataFrame, /) -> Iterator[pl.DataFrame]:
        self.asked = pl.concat([self.asked, requests])
        yield from UPPER(requests)


def refuses_to_be_asked(requests: pl.DataFrame) -> Iterator[pl.DataFrame]:
    raise AssertionError(f"asked for {requests.height} requests")


def prompts(*texts: str | None) -> pl.DataFrame:
    return pl.DataFrame({"row_id": [f"r{i}" for i in range(len(texts))], "prompt": list(texts)})


def said(key: str, text: str) -> dict[str, Any]:
    return {"key": key, "text": text}


# Columns


def test_three_columns_are_added_with_their_types() -> None:
    done = generate_column(prompts("a"), backend=UPPER)
    assert done.schema == {
        "row_id": pl.String,
        "prompt": pl.String,
        "completion": pl.String,
        "completion_error": ERROR,
        "completion_call": CALL,
    }


def test_a_call_is_kept_with_all_that_is_known_of_it() -> None:
    reply = {
        "text": "t",
        "reasoning": "because",
        "finish_reason": "stop",
        "prompt_tokens": 3,
        "completion_tokens": 5,
        "cost_usd": 0.25,
        "latency_s": 1.5,
    }
    done = generate_column(prompts("a"), backend=scripted({"a": reply}, model="m"), temperature=0)
    call = done["completion_call"][0]
    assert len(call.pop("key")) == 32
    del reply["text"]
    known = {"endpoint": "scripted", "model": "m", "sampling": '{"temperature":0.0}', **reply}
    assert call == {**dict.fromkeys(call), **known}


def test_an_empty_frame_gives_an_empty_frame_of_the_same_schema() -> None:
    full = generate_column(prompts("a"), backend=UPPER, samples=2, temperature=1)
    empty = generate_column(prompts("a")[:0], backend=UPPER, samples=2, temperature=1)
    assert empty.schema == full.schema
    assert empty.height == 0


def test_a_chat_is_sent_as_it_is() -> None:
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    df = pl.DataFrame({"row_id": ["r"], "prompt": [chat]}, schema={"row_id": pl.String, "prompt": MESSAGES})
    backend = Recorder()
    generate_column(df, backend=backend)
    assert [json.loads(messages) for messages in backend.asked["messages"]] == [chat]


def test_a_text_and_the_same_text_as_a_chat_have_the_same_key() -> None:
    text = prompts("Hi")
    chat = render_prompts(text, template=[{"role": "user", "content": "{{ prompt }}"}])
    keys = [generate_column(df, backend=UPPER)["completion_call"].struct.field("key")[0] for df in (text, chat)]
    assert keys[0] == keys[1]


def test_columns_of_the_user_survive_whatever_their_names() -> None:
    names = ["__key", "text", "key", "error", "answered", "retried", "messages", "sampling", "valid", "failures", "r"]
    df = prompts("a", "b").with_columns(pl.Series(name, [f"{name} 1", None]) for name in names)
    assert_frame_equal(generate_column(df, backend=UPPER).select(df.columns), df)


def test_an_existing_column_is_written_anew() -> None:
    first = generate_column(prompts("a", "b"), backend=scripted({"a": "old", "b": failing("timeout")}))
    again = generate_column(first, backend=UPPER)
    assert again.columns == first.columns
    assert again["completion"].to_list() == ["A", "B"]
    assert again["completion_error"].to_list() == [None, None]


def test_two_columns_can_be_generated_beside_each_other() -> None:
    done = prompts("a").pipe(generate_column, backend=UPPER, into="x").pipe(generate_column, backend=ECHO, into="y")
    assert done.columns == ["row_id", "prompt", "x", "x_error", "x_call", "y", "y_error", "y_call"]


# Failures stay in their rows

KINDS = [
    "truncated",
    "refused",
    "content_filtered",
    "rate_limited",
    "timeout",
    "connection",
    "server_error",
    "bad_reply",
    "bad_request",
    "context_too_long",
]


@pytest.mark.parametrize("kind", KINDS)
def test_a_failed_row_stays_with_its_kind_and_message(kind: str) -> None:
    done = generate_column(prompts("a", "b", "c"), backend=scripted({"a": "A", "b": failing(kind, "why"), "c": "C"}))
    assert done["completion"].to_list() == ["A", None, "C"]
    assert done["completion_error"].to_list() == [None, {"kind": kind, "message": "why"}, None]
    assert done["completion_call"][1]["model"] == "scripted"


def test_a_truncated_text_is_kept_beside_its_error() -> None:
    cut = failing("truncated", text="Once upon a", finish_reason="length")
    done = generate_column(prompts("a"), backend=scripted({"a": cut}))
    assert done["completion"].to_list() == ["Once upon a"]
    assert done["completion_error"][0]["kind"] == "truncated"
    assert done["completion_call"][0]["finish_reason"] == "length"


def test_an_attempt_that_was_tried_again_does_not_stand_in_the_row() -> None:
    done = generate_column(prompts("a"), backend=scripted({"a": [failing("timeout"), failing("server_error"), "A"]}))
    assert done["completion"].to_list() == ["A"]
    assert done["completion_error"].to_list() == [None]


def test_an_unknown_token_count_or_cost_is_null_and_not_zero() -> None:
    def stream(requests: pl.DataFrame) -> Iterator[pl.DataFrame]:
        yield frame_of([said(key, "x") for key in requests["key"]])

    call = generate_column(prompts("a"), backend=Stub(stream))["completion_call"][0]
    assert [call[name] for name in ("prompt_tokens", "completion_tokens", "cost_usd", "latency_s")] == [None] * 4


# Backends that behave oddly


def test_replies_in_any_order_find_their_rows() -> None:
    def backwards(requests: pl.DataFrame) -> Iterator[pl.DataFrame]:
        for row in requests.reverse().iter_slices(2):
            yield frame_of([said(r["key"], r["row_id"] * 2) for r in row.iter_rows(named=True)])

    done = generate_column(prompts("a", "b", "c"), backend=Stub(backwards))
    assert done["completion"].to_list() == ["r0r0", "r1r1", "r2r2"]


def test_of_two_replies_to_one_request_the_first_counts() -> None:
    def twice(requests: pl.DataFrame) -> Iterator[pl.DataFrame]:
        for text in ("first", "second"):
            yield frame_of([said(key, text) for key in requests["key"]])

    assert generate_column(prompts("a", "b"), backend=Stub(twice))["completion"].to_list() == ["first", "first"]


def test_a_reply_to_a_request_that_was_never_made_changes_nothing() -> None:
    def strange(requests: pl.DataFrame) -> Iterator[pl.DataFrame]:
        yield frame_of([said("f" * 32, "lost"), {"text": "no key"}])
        yield from UPPER(requests)

    df = prompts("a", None).with_columns(pl.Series("prompt_error", [None, {"kind": "x", "message": ""}], dtype=ERROR))
    done = generate_column(df, backend=Stub(strange))
    assert done["completion"].to_list() == ["A", None]


def test_a_request_without_a_reply_is_a_bad_reply_in_its_row() -> None:
    def half(requests: pl.DataFrame) -> Iterator[pl.DataFrame]:
        yield from UPPER(requests[:1])

    done = generate_column(prompts("a", "b"), backend=Stub(half))
    assert done["completion"].to_list() == ["A", None]
    assert done["completion_error"][1]["kind"] == "bad_reply"
    assert done["completion_call"][1] is None


def test_a_backend_that_yields_nothing_at_all_loses_no_row() -> None:
    done = generate_column(prompts("a", "b"), backend=Stub(lambda requests: iter(())))
    assert done["completion_error"].struct.field("kind").to_list() == ["bad_reply", "bad_reply"]


# Sampling


def test_only_what_was_given_is_sent() -> None:
    backend = Recorder()
    generate_column(prompts("a"), backend=backend)
    assert orjson.loads(backend.asked["sampling"][0]).keys() == {"seed"}


def test_every_parameter_reaches_the_backend_under_its_name() -> None:
    backend = Recorder()
    schema = {"type": "json_schema", "json_schema": {"name": "n", "schema": {}}}
    generate_column(
        prompts("a"),
        backend=backend,
        temperature=1,
        top_p=1,
        max_tokens=7,
        stop="\n",
        response_format=schema,
        extra={"top_k": 3, "min_p": 0.1},
    )
    sent = orjson.loads(backend.asked["sampling"][0])
    assert sent.pop("seed") >= 0
    assert sent == {
        "temperature": 1.0,
        "top_p": 1.0,
        "max_tokens": 7,
        "stop": ["\n"],
        "response_format": schema,
        "top_k": 3,
        "min_p": 0.1,
    }


def test_at_temperature_0_no_seed_is_sent() -> None:
    backend = Recorder()
    generate_column(prompts("a"), backend=backend, temperature=0)
    assert backend.asked["sampling"].to_list() == ['{"temperature":0.0}']


def test_the_sampling_in_the_call_is_the_one_that_was_sent() -> None:
    backend = Recorder()
    done = generate_column(prompts("a", "b"), backend=backend, temperature=0.5, samples=2)
    assert done["completion_call"].struct.field("sampling").to_list() == backend.asked["sampling"].to_list()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"temperature": -0.1}, "from 0 to 2"),
        ({"temperature": 2.1}, "from 0 to 2"),
        ({"temperature": float("nan")}, "from 0 to 2"),
        ({"max_tokens": 0}, "at least 1"),
        ({"samples": 0}, "at least 1"),
        ({"extra": {"seed": 1}}, "'seed': the stage sets"),
        ({"extra": {"messages": []}}, "'messages': the stage sets"),
        ({"extra": {"n": 2}}, "'n': the stage sets"),
        ({"extra": {"temperature": 0.5}}, "'temperature': give it by its own name"),
        ({"extra": {"max_tokens": 5}}, "'max_tokens': give it by its own name"),
        ({"extra": {"top_k": {1, 2}}}, "cannot send .* as JSON"),
        ({"extra": {"tools": []}}, "'tools': give it by its own name"),
        ({"logprobs": 21}, "from 0 to 20"),
        ({"logprobs": True}, "from 0 to 20"),
        ({"response_format": {"schema": object()}}, "cannot send .* as JSON"),
        ({"stop": "\ud800"}, "cannot send .* as JSON"),
    ],
)
def test_a_wrong_parameter_is_refused_before_anything_is_asked(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(BindError, match=message):
        generate_column(prompts("a"), backend=Stub(refuses_to_be_asked), **wrong)


# Samples and draws


def test_samples_are_numbered_and_stand_behind_each_other() -> None:
    done = generate_column(prompts("a", "b"), backend=UPPER, samples=3, temperature=1)
    assert done["row_id"].to_list() == ["r0"] * 3 + ["r1"] * 3
    assert done["sample"].to_list() == [0, 1, 2, 0, 1, 2]
    assert done.schema["sample"] == pl.Int64


def test_every_draw_has_its_own_seed_and_its_own_key() -> None:
    backend = Recorder()
    generate_column(prompts("same", "same"), backend=backend, samples=3, temperature=1)
    assert backend.asked.height == 6
    assert backend.asked["key"].n_unique() == 6
    assert len({orjson.loads(sampling)["seed"] for sampling in backend.asked["sampling"]}) == 6


def test_without_a_temperature_draws_are_draws_too() -> None:
    backend = Recorder()
    generate_column(prompts("same", "same"), backend=backend)
    assert backend.asked.height == 2


def test_samples_of_one_are_the_first_of_many() -> None:
    one = generate_column(prompts("a", "b"), backend=ECHO, temperature=1)
    many = generate_column(prompts("a", "b"), backend=ECHO, temperature=1, samples=3)
    assert many.filter(pl.col("sample") == 0)["completion"].to_list() == one["completion"].to_list()


def test_more_samples_leave_the_first_ones_as_they_were() -> None:
    few = generate_column(prompts("a", "b"), backend=ECHO, temperature=1, samples=2)
    many = generate_column(prompts("a", "b"), backend=ECHO, temperature=1, samples=4)
    assert_frame_equal(many.filter(pl.col("sample") < 2), few)


def test_samples_that_are_there_already_are_draws_of_their_own() -> None:
    sampled = generate_column(prompts("a"), backend=ECHO, temperature=1, samples=2)
    again = generate_column(sampled, backend=ECHO, temperature=1, into="second")
    assert again["second"].to_list() == sampled["completion"].to_list()


def test_another_seed_is_another_draw() -> None:
    backend = Recorder()
    for seed in (0, 1):
        generate_column(prompts("a"), backend=backend, temperature=1, seed=seed)
    assert backend.asked["key"].n_unique() == 2
    assert backend.asked["sampling"].n_unique() == 2


def test_at_temperature_0_equal_requests_are_one_call_that_all_rows_share() -> None:
    backend = Recorder()
    done = generate_column(prompts("same", "other", "same"), backend=backend, temperature=0, samples=2)
    assert backend.asked.height == 2
    assert done["completion"].to_list() == ["SAME", "SAME", "OTHER", "OTHER", "SAME", "SAME"]
    assert done["completion_call"].struct.field("key").n_unique() == 2


def test_at_temperature_0_rows_of_one_name_may_be_asked() -> None:
    df = pl.DataFrame({"row_id": ["r", "r"], "prompt": ["a", "b"]})
    assert generate_column(df, backend=UPPER, temperature=0)["completion"].to_list() == ["A", "B"]


def test_the_same_draw_twice_is_an_error_that_names_the_row_and_the_remedy() -> None:
    df = pl.DataFrame({"row_id": ["one", "two", "two"], "prompt": ["a", "b", "c"]})
    with pytest.raises(FrameError, match=r"sample: 'two'\..*df\.drop\('row_id'\)\.pipe\(with_row_ids\)"):
        generate_column(df, backend=Stub(refuses_to_be_asked))


def test_samples_over_samples_are_an_error_that_says_what_to_do() -> None:
    df = prompts("a").with_columns(sample=pl.lit(0))
    with pytest.raises(FrameError, match=r"'sample', which the frame has already.*samples=1"):
        generate_column(df, backend=Stub(refuses_to_be_asked), samples=2)


@pytest.mark.parametrize("sample", [pl.Series(["a"]), pl.Series([None], dtype=pl.Int64), pl.Series([0.5])])
def test_a_sample_column_that_holds_no_numbers_is_an_error(sample: pl.Series) -> None:
    with pytest.raises(FrameError, match=r"'sample' as the number of a reply.*Rename that column"):
        generate_column(prompts("a").with_columns(sample=sample), backend=Stub(refuses_to_be_asked))


# Prompts that are null


def explained(**column: pl.Series) -> pl.DataFrame:
    return prompts("a", None).with_columns(**column)


@pytest.mark.parametrize(
    "column",
    [
        {"prompt_error": pl.Series([None, {"kind": "null_value", "message": "x"}], dtype=ERROR)},
        {"earlier_error": pl.Series([None, {"kind": "unparsed", "message": "x"}], dtype=ERROR)},
        {"valid": pl.Series([True, False])},
    ],
)
def test_a_null_prompt_that_an_earlier_step_explains_is_not_asked(column: dict[str, pl.Series]) -> None:
    backend = Recorder()
    done = generate_column(explained(**column), backend=backend)
    assert backend.asked.height == 1
    assert done["completion"].to_list() == ["A", None]
    assert done["completion_error"][1]["kind"] == "no_prompt"
    assert done["completion_call"][1] is None


@pytest.mark.parametrize(
    "column",
    [
        {},
        {"prompt_error": pl.Series([None, None], dtype=ERROR)},
        {"prompt_error": pl.Series([{"kind": "x", "message": "x"}, None], dtype=ERROR)},
        {"valid": pl.Series([False, True])},
        {"valid": pl.Series([True, None], dtype=pl.Boolean)},
        {"valid": pl.Series(["yes", "no"])},
        {"notes_error": pl.Series([None, "a text is no typed reason"])},
    ],
)
def test_a_null_prompt_that_nothing_explains_stops_before_anything_is_asked(column: dict[str, pl.Series]) -> None:
    with pytest.raises(FrameError, match=r"1 null prompts in 'prompt'.*'r1'.*Nothing was asked.*is_not_null"):
        generate_column(explained(**column), backend=Stub(refuses_to_be_asked))


def test_a_failed_rendering_goes_through_to_the_end() -> None:
    df = pl.DataFrame({"x": ["a", None]}).pipe(with_row_ids).pipe(render_prompts, template="{{ x }}")
    done = generate_column(df, backend=UPPER)
    assert done["completion"].to_list() == ["A", None]


def test_a_column_of_nulls_only_asks_nothing() -> None:
    df = pl.DataFrame({"row_id": ["r"], "prompt": [None], "valid": [False]})
    done = generate_column(df, backend=Stub(lambda requests: iter(()) if requests.is_empty() else 1 / 0))  # type: ignore[arg-type,return-value]
    assert done["completion_error"][0]["kind"] == "no_prompt"


@pytest.mark.parametrize(
    "chat", [[], [None], [{"role": "user", "content": None}], [{"role": None, "content": "x"}]], ids=str
)
def test_a_chat_with_a_hole_in_it_stops_before_anything_is_asked(chat: list[Any]) -> None:
    df = pl.DataFrame({"row_id": ["whole", "holed"], "prompt": [[{"role": "user", "content": "x"}], chat]})
    with pytest.raises(FrameError, match=r"row_id 'holed'\)\. Nothing was asked"):
        generate_column(df, backend=Stub(refuses_to_be_asked))


# Frames that cannot be asked


def test_a_missing_row_id_says_what_to_do() -> None:
    with pytest.raises(FrameError, match=r"'row_id'.*df\.pipe\(with_row_ids\)"):
        generate_column(pl.DataFrame({"prompt": ["a"]}), backend=Stub(refuses_to_be_asked))


@pytest.mark.parametrize("row_id", [pl.Series([1]), pl.Series([None], dtype=pl.String)])
def test_a_row_id_that_is_no_name_says_what_to_do(row_id: pl.Series) -> None:
    df = pl.DataFrame({"row_id": row_id, "prompt": ["a"]})
    with pytest.raises(
        FrameError, match=r"'row_id' of texts, without nulls.*df\.drop\('row_id'\)\.pipe\(with_row_ids\)"
    ):
        generate_column(df, backend=Stub(refuses_to_be_asked))


def test_a_missing_prompt_column_names_the_nearest() -> None:
    with pytest.raises(FrameError, match=r"'promt'.*did you mean 'prompt'"):
        generate_column(prompts("a"), column="promt", backend=Stub(refuses_to_be_asked))


def test_a_prompt_column_of_another_type_is_an_error() -> None:
    with pytest.raises(FrameError, match=r"as String, or as List.*but it is Int64"):
        generate_column(prompts("a").with_columns(prompt=pl.lit(1).cast(pl.Int64)), backend=Stub(refuses_to_be_asked))


# Keys: a change here would pay for every reply again


def keys_of(df: pl.DataFrame, *, backend: Any = UPPER, seed: int = 0, **sampling: Any) -> list[str]:
    return build_requests(df, column="prompt", sampling=sampling, seed=seed, backend=backend)["key"].to_list()


FROZEN = [
    (prompts("What is 1 + 1?"), {}, "b5d407f720b93ffea056cfcd59f8e216"),
    (prompts("What is 1 + 1?"), {"temperature": 0.0}, "817b7745906d5101c52ed4f2c39138c2"),
    (
        prompts("What is 1 + 1?"),
        {"temperature": 0.7, "top_p": 0.9, "max_tokens": 64, "stop": ["\n"]},
        "763b923e3bf364f0476cc35445902701",
    ),
    (
        prompts("Grüße, 世界 🌍"),
        {"response_format": {"type": "json_object"}, "top_k": 5},
        "fcd637bfd9aef561fefb6e2eba062df3",
    ),
]


@pytest.mark.parametrize(("df", "sampling", "key"), FROZEN, ids=["draw", "greedy", "sampled", "unicode"])
def test_a_key_is_what_it_has_always_been(df: pl.DataFrame, sampling: dict[str, Any], key: str) -> None:
    assert keys_of(df, **sampling) == [key]


def test_the_key_of_a_call_to_an_endpoint_is_what_it_has_always_been() -> None:
    backend = openai_chat("gpt-4o-mini", base_url="http://localhost:8000/v1", api_key="k")
    chat = render_prompts(prompts("Hi"), template="{{ prompt }}", system="Be brief.")
    assert keys_of(chat, backend=backend, temperature=1.0, seed=7) == ["ba6656c6fddf93db1985df7a88a33ba0"]


def test_a_seed_is_what_it_has_always_been() -> None:
    requests = build_requests(prompts("a"), column="prompt", sampling={"temperature": 1.0}, seed=0, backend=UPPER)
    assert requests["sampling"].to_list() == ['{"seed":619192736,"temperature":1.0}']


def test_secrets_concurrency_and_patience_are_not_in_the_key() -> None:
    url = "http://localhost:8000/v1"
    mine = openai_chat("m", base_url=url, api_key="mine", concurrency=1, timeout_s=1)
    yours = openai_chat("m", base_url=url + "/", api_key="yours", concurrency=99, prices=(1, 2), pause_s=9)
    assert keys_of(prompts("a"), backend=mine) == keys_of(prompts("a"), backend=yours)


def test_the_observer_and_the_names_of_columns_are_not_in_the_key() -> None:
    plain = generate_column(prompts("a"), backend=UPPER)
    watched = generate_column(
        prompts("a").rename({"prompt": "ask"}).with_columns(more=pl.lit(1)),
        column="ask",
        into="answer",
        backend=UPPER,
        observer=lambda df: None,
    )
    assert plain["completion_call"].struct.field("key")[0] == watched["answer_call"].struct.field("key")[0]


OTHERS: list[dict[str, Any]] = [
    {"temperature": 0.0},
    {"temperature": 0.5},
    {"top_p": 0.5},
    {"max_tokens": 5},
    {"stop": ["a"]},
    {"stop": ["a", "b"]},
    {"response_format": {"type": "json_object"}},
    {"top_k": 5},
    {"seed": 1},
    {"backend": openai_chat("m", base_url="http://a/v1")},
    {"backend": openai_chat("m2", base_url="http://a/v1")},
    {"backend": openai_chat("m", base_url="http://b/v1")},
]


def test_endpoint_model_and_every_parameter_are_in_the_key() -> None:
    keys = [*keys_of(prompts("a")), *(key for other in OTHERS for key in keys_of(prompts("a"), **other))]
    assert len(set(keys)) == 1 + len(OTHERS)


def test_messages_roles_and_their_order_are_in_the_key() -> None:
    chats = [
        [{"role": "user", "content": "ab"}],
        [{"role": "system", "content": "ab"}],
        [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}],
        [{"role": "user", "content": "b"}, {"role": "user", "content": "a"}],
    ]
    df = pl.DataFrame({"row_id": [str(i) for i in range(4)], "prompt": chats})
    assert len(set(keys_of(df, temperature=0.0))) == 4


def test_a_whole_number_and_the_same_number_as_a_float_have_one_key() -> None:
    backend = Recorder()
    generate_column(prompts("a"), backend=backend, temperature=1, top_p=1)
    generate_column(prompts("a"), backend=backend, temperature=1.0, top_p=1.0)
    assert backend.asked["key"].n_unique() == 1


FRAMES = st.lists(st.tuples(st.text("abc", min_size=1, max_size=3), st.text(max_size=3)), unique_by=lambda r: r[0])


@given(rows=FRAMES, more=FRAMES, order=st.randoms(use_true_random=False))
@settings(max_examples=50, deadline=None)
def test_more_rows_in_another_order_leave_the_keys_and_seeds_of_a_row_as_they_were(
    rows: list[tuple[str, str]], more: list[tuple[str, str]], order: Any
) -> None:
    def asked(rows: list[tuple[str, str]]) -> set[tuple[str, str, str]]:
        df = pl.DataFrame(rows, schema={"row_id": pl.String, "prompt": pl.String}, orient="row")
        requests = build_requests(df, column="prompt", sampling={}, seed=3, backend=UPPER)
        return set(requests.select("row_id", "key", "sampling").rows())

    extended = rows + [(f"{name}'", text) for name, text in more]
    order.shuffle(extended)
    assert asked(rows) <= asked(extended)


@given(rows=FRAMES, at=st.integers(0, 6), samples=st.integers(1, 3), order=st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
def test_parts_in_any_order_give_what_the_whole_gives(
    rows: list[tuple[str, str]], at: int, samples: int, order: Any
) -> None:
    df = pl.DataFrame(rows, schema={"row_id": pl.String, "prompt": pl.String}, orient="row").with_row_index("row")
    stage = generate_column(backend=ECHO, temperature=1, samples=samples)
    whole = stage(df)
    assert_frame_equal(pl.concat([stage(df[:at]), stage(df[at:])]), whole)
    shuffled = stage(df[order.sample(range(df.height), df.height)])
    assert_frame_equal(shuffled.sort("row", maintain_order=True), whole)


# Observers


def slowly(requests: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """Each reply late enough to be told of at once, and with it all earlier ones again."""
    for n in range(requests.height):
        time.sleep(0.13)
        yield frame_of([failed(requests["key"][n], "timeout", "", retried=True)])
        yield from UPPER(requests[n])
        yield from UPPER(requests[: n + 1])


def test_an_observer_sees_every_row_once_with_all_its_columns_as_it_will_be() -> None:
    df = prompts("a", "b", None, "c", "a", "d", "e").with_columns(valid=pl.col("prompt").is_not_null())
    told: list[pl.DataFrame] = []
    done = generate_column(df, backend=Stub(slowly), observer=told.append)
    assert len(told) > 2
    assert all(part.height for part in told)
    assert_frame_equal(pl.concat(told).sort("row_id"), done.sort("row_id"))


def test_an_observer_sees_all_rows_that_share_a_reply() -> None:
    told: list[pl.DataFrame] = []
    done = generate_column(prompts("x", "x", "x"), backend=UPPER, temperature=0, samples=2, observer=told.append)
    assert_frame_equal(pl.concat(told), done)


def test_an_observer_sees_rows_while_the_rest_is_still_being_asked() -> None:
    asked: list[str] = []

    def stream(requests: pl.DataFrame) -> Iterator[pl.DataFrame]:
        for part in requests.iter_slices(1):
            asked.append(part["row_id"][0])
            time.sleep(0.3)
            yield from UPPER(part)

    asked_when_told: list[int] = []
    generate_column(prompts("a", "b"), backend=Stub(stream), observer=lambda df: asked_when_told.append(len(asked)))
    assert asked_when_told == [1, 2]


def test_an_observer_of_an_empty_frame_is_not_called() -> None:
    told: list[pl.DataFrame] = []
    generate_column(prompts(), backend=UPPER, observer=told.append)
    assert told == []


def test_replies_have_the_columns_that_a_backend_promises() -> None:
    requests = build_requests(prompts("a"), column="prompt", sampling={}, seed=0, backend=UPPER)
    assert requests.schema == REQUESTS
    assert [part.schema for part in UPPER(requests)] == [REPLIES]


@pytest.mark.parametrize(
    "backend", ["openai:gpt-4o-mini", None, lambda requests: iter(())], ids=["name", "none", "function"]
)
def test_what_is_no_backend_is_told_how_to_make_one(backend: Any) -> None:
    df = pl.DataFrame({"row_id": ["r"], "prompt": ["p"]})
    with pytest.raises(BindError, match="write backend=connect"):
        generate_column(df, backend=backend)


def test_a_backend_of_ones_own_may_leave_columns_out_and_give_whole_numbers(tmp_path: Path) -> None:
    class Own:
        endpoint, model = "own", "m"

        def __call__(self, requests: pl.DataFrame) -> Iterator[pl.DataFrame]:
            yield requests.select("key", text=pl.lit("said"), cost_usd=pl.lit(1))

    df = pl.DataFrame({"row_id": ["r"], "prompt": ["p"]})
    for backend in (Own(), remembered(Own(), ledger=Ledger(tmp_path))):
        done = generate_column(df, backend=backend)
        assert done["completion"].to_list() == ["said"]
        assert done["completion_call"].struct.field("cost_usd").to_list() == [1.0]


@pytest.mark.parametrize(
    "said", [None, pl.DataFrame({"text": ["x"]}), pl.DataFrame({"key": ["k"], "latency_s": ["x"]})]
)
def test_a_backend_that_yields_no_replies_is_told_what_to_yield(said: Any) -> None:
    class Own:
        endpoint, model = "own", "m"

        def __call__(self, requests: pl.DataFrame) -> Iterator[pl.DataFrame]:
            yield said

    df = pl.DataFrame({"row_id": ["r"], "prompt": ["p"]})
    with pytest.raises(FrameError, match=r"frames\.REPLIES"):
        generate_column(df, backend=Own())


def test_many_rows_each_get_their_own_reply() -> None:
    texts = [None if n % 11 == 0 else str(n) for n in range(5_300)]
    error = pl.Series(
        "prompt_error", [None if t else {"kind": "null_value", "message": "m"} for t in texts], dtype=ERROR
    )
    df = pl.DataFrame({"row_id": [f"r{n}" for n in range(5_300)], "prompt": texts}).with_columns(error)
    done = generate_column(df, backend=scripted(lambda messages: messages[-1]["content"] * 2))
    assert done["completion"].to_list() == [t and t * 2 for t in texts]
    assert done["completion_error"].is_null().to_list() == [t is not None for t in texts]

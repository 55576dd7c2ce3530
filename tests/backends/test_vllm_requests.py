"""A request in vLLM's words, without vLLM."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agora_frames.backends.vllm_requests import PARAMETERS, asked_of, split_reasoning
from agora_frames.errors import BindError

SCHEMA = {"type": "object", "properties": {"b": {"type": "string"}, "a": {"type": "integer"}}}


def test_sampling_goes_over_by_name() -> None:
    given = {"temperature": 0.5, "top_k": 7, "min_p": 0.1, "repetition_penalty": 1.2, "seed": 9, "stop": ["x"]}
    assert asked_of({**given, "max_tokens": 4}).sampling == {**given, "max_tokens": 4}


def test_without_a_limit_a_reply_may_fill_the_context() -> None:
    assert asked_of({}).sampling == {"max_tokens": None}


def test_the_newer_name_of_the_limit_counts() -> None:
    assert asked_of({"max_tokens": 4, "max_completion_tokens": 9}).sampling == {"max_tokens": 9}


@pytest.mark.parametrize(
    ("settings", "logprobs"),
    [({"logprobs": True, "top_logprobs": 3}, 3), ({"logprobs": True, "top_logprobs": 0}, 0), ({"logprobs": True}, 0)],
)
def test_logprobs_are_as_many_as_asked_beside_the_token_itself(settings: dict[str, Any], logprobs: int) -> None:
    assert asked_of(settings).sampling["logprobs"] == logprobs


def test_how_the_chat_is_rendered_is_no_sampling() -> None:
    asked = asked_of({"continue_final_message": True, "chat_template_kwargs": {"enable_thinking": False}})
    assert asked.chat == {"continue_final_message": True, "chat_template_kwargs": {"enable_thinking": False}}


@pytest.mark.parametrize(
    ("settings", "constraint"),
    [
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}},
            {"json": SCHEMA},
        ),
        ({"response_format": {"type": "json_object"}}, {"json_object": True}),
        ({"response_format": {"type": "text"}}, None),
        ({"structured_outputs": {"choice": ["a", "b"]}}, {"choice": ["a", "b"]}),
        ({"structured_outputs": {"regex": "a+"}}, {"regex": "a+"}),
    ],
    ids=["schema", "object", "text", "choice", "regex"],
)
def test_the_form_of_a_reply(settings: dict[str, Any], constraint: dict[str, Any] | None) -> None:
    assert asked_of(settings).constraint == constraint


def test_a_schema_keeps_the_order_of_its_properties() -> None:
    settings = {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}}
    constraint = asked_of(json.loads(json.dumps(settings))).constraint
    assert constraint is not None
    assert list(constraint["json"]["properties"]) == ["b", "a"]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"topk": 3}, "no parameter 'topk'; did you mean 'top_k'"),
        ({"tools": []}, "no parameter 'tools'"),
        ({"response_format": {"type": "regex"}}, "its type is 'json_schema', 'json_object' or 'text'"),
        ({"response_format": {}}, "its type is"),
        ({"response_format": {"type": "json_schema", "schema": {}}}, "lacks its schema"),
        ({"structured_outputs": {}}, "give one of 'json', 'regex'"),
        ({"structured_outputs": {"jason": {}}}, "give one of 'json', 'regex'"),
        ({"structured_outputs": {"regex": "a"}, "response_format": {"type": "json_object"}}, "a reply has one form"),
    ],
    ids=str,
)
def test_what_the_engine_cannot_do_is_said(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(BindError, match=said):
        asked_of(wrong)


def test_every_parameter_that_is_named_is_taken() -> None:
    assert set(
        asked_of({name: 1 for name in PARAMETERS if name not in ("response_format", "structured_outputs")}).sampling
    )


@pytest.mark.parametrize(
    ("text", "thinking", "parts"),
    [
        ("Four.", False, (None, "Four.")),
        ("", False, (None, "")),
        ("<think>\nTwo and two.\n</think>\n\nFour.", False, ("Two and two.", "Four.")),
        ("Two and two.\n</think>\n\nFour.", True, ("Two and two.", "Four.")),
        ("<think></think>Four.", False, (None, "Four.")),
        ("<think>Two and", False, ("Two and", None)),
        ("Two and", True, ("Two and", None)),
        ("It says <think>so</think>.", False, (None, "It says <think>so</think>.")),
        ("<think>a</think>b</think>c", False, ("a", "b</think>c")),
    ],
)
def test_thoughts_are_split_from_what_is_said(text: str, thinking: bool, parts: tuple[str | None, str | None]) -> None:
    assert split_reasoning(text, thinking=thinking) == parts


@given(st.text(alphabet="ab <>/think\n"), st.booleans())
def test_a_split_loses_nothing_but_marks_and_ends_of_lines(text: str, thinking: bool) -> None:
    thought, said = split_reasoning(text, thinking=thinking)
    for part in (thought, said):
        assert part is None or part in text
    if not thinking and not text.lstrip().startswith("<think>"):
        assert (thought, said) == (None, text)

"""What is sent beside the messages, and what a backend says that it cannot do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import polars as pl
import pytest

from agora_frames.backends.openai_chat import openai_chat
from agora_frames.backends.scripted import scripted
from agora_frames.errors import BindError
from agora_frames.ledger import Ledger
from agora_frames.plan import plan
from agora_frames.remembered import remembered
from agora_frames.stages.generate import generate_column
from agora_frames.types import ABILITIES, Backend

ASKED = pl.DataFrame({"row_id": ["a"], "prompt": ["Hi."], "picture": ["http://127.0.0.1/a.png"]})
SCHEMA = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}
WANTED: dict[str, dict[str, Any]] = {
    "constraints": {"extra": {"structured_outputs": {"choice": ["a", "b"]}}},
    "images": {"images": "picture"},
    "json_object": {"response_format": {"type": "json_object"}},
    "json_schema": {"response_format": SCHEMA},
    "logprobs": {"logprobs": 0},
    "prompt_logprobs": {"extra": {"prompt_logprobs": 0}},
    "tools": {"tools": [{"type": "function", "function": {"name": "f"}}]},
}
BY_ABILITY = pytest.mark.parametrize("ability", ABILITIES)


class Asked:
    def __init__(self) -> None:
        self.times = 0

    def __call__(self, messages: list[dict[str, Any]]) -> str:
        self.times += 1
        return "Hello."


def test_each_ability_is_tried_here() -> None:
    assert WANTED.keys() == ABILITIES.keys()


@BY_ABILITY
def test_what_a_backend_cannot_do_is_an_error_before_anything_is_asked(ability: str) -> None:
    script = Asked()
    backend = scripted(script, can=ABILITIES.keys() - {ability})
    with pytest.raises(BindError, match="cannot do this") as told:
        generate_column(ASKED, backend=backend, **WANTED[ability])
    found, _, possible = str(told.value).partition("What it can do")
    assert ABILITIES[ability] in found
    assert ABILITIES[ability] not in possible
    assert script.times == 0


@BY_ABILITY
@pytest.mark.parametrize("able", [lambda name: {name}, lambda name: None], ids=["it can", "nobody knows"])
def test_what_it_can_do_or_may_be_able_to_do_is_sent(ability: str, able: Callable[[str], Any]) -> None:
    script = Asked()
    generate_column(ASKED, backend=scripted(script, can=able(ability)), **WANTED[ability])
    assert script.times == 1


def test_a_text_for_a_text_is_asked_of_every_model() -> None:
    script = Asked()
    generate_column(ASKED, backend=scripted(script, can=()), temperature=0.5, max_tokens=5)
    assert script.times == 1


@pytest.mark.parametrize("images", [["http://127.0.0.1/a.png"], [b"\x89PNG"]])
def test_an_image_in_a_turn_is_an_image(images: list[Any]) -> None:
    df = pl.DataFrame({"row_id": ["a"], "prompt": [[{"role": "user", "content": "Hi.", "images": images}]]})
    with pytest.raises(BindError, match="images in the messages"):
        generate_column(df, backend=scripted(Asked(), can=()))


def test_a_chat_that_could_show_images_but_shows_none_is_asked_of_every_model() -> None:
    turn = pl.Struct({"role": pl.String, "content": pl.String, "images": pl.List(pl.String)})
    turns = [[{"role": "user", "content": "Hi.", "images": images}] for images in ([], None)]
    df = pl.DataFrame({"row_id": ["a", "b"], "prompt": turns}, schema_overrides={"prompt": pl.List(turn)})
    script = Asked()
    generate_column(df, backend=scripted(script, can=()))
    assert script.times == 2


def test_a_remembered_backend_can_do_what_the_one_inside_can() -> None:
    backend = remembered(scripted(Asked(), can=()), ledger=Ledger("memory://abilities"))
    with pytest.raises(BindError, match="tools"):
        generate_column(ASKED, backend=backend, **WANTED["tools"])


def test_a_plan_tells_it_too() -> None:
    backend: Backend = remembered(scripted(Asked(), can=()), ledger=Ledger("memory://abilities"))
    with pytest.raises(BindError, match="tools"):
        plan(generate_column(backend=backend, **WANTED["tools"]), df=ASKED)


def test_openais_own_endpoint_gives_no_log_probabilities_of_prompts() -> None:
    with pytest.raises(BindError, match="of the prompt"):
        generate_column(ASKED, backend=openai_chat("gpt-4o-mini", api_key="none"), **WANTED["prompt_logprobs"])


def test_what_another_endpoint_can_do_is_not_known() -> None:
    assert openai_chat("tiny", base_url="http://127.0.0.1:9/v1").can is None


def test_there_are_no_other_abilities() -> None:
    with pytest.raises(BindError, match="fly"):
        scripted(Asked(), can={"fly"})


@pytest.mark.parametrize("extra", [{"top_k": 2**70}, {"logit_bias": {5: 1.0}}, {"a": float("nan")}, {"a": "\ud800"}])
def test_what_cannot_be_sent_as_json_is_an_error_before_anything_is_asked(extra: dict[str, Any]) -> None:
    script = Asked()
    with pytest.raises(BindError, match=r"cannot send .* as JSON"):
        generate_column(ASKED, backend=scripted(script), extra=extra)
    assert script.times == 0

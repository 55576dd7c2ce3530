"""Replies for recipes run from the command line: `--backend scripted:fakes:math_answer`, with tests/ on the path."""

from __future__ import annotations

import hashlib
from typing import Any

from agora_frames.backends.scripted import failing


def math_answer(messages: list[dict[str, str]], sampling: dict[str, Any]) -> object:
    """Of five replies three are good, one lacks its result, one is truncated; which, the draw decides."""
    said = f"{messages[-1]['content']} {sampling.get('seed')}"
    number = int(hashlib.sha256(said.encode()).hexdigest(), 16)
    if number % 5 == 0:
        return failing("truncated", text="First we", finish_reason="length", completion_tokens=2)
    result = "" if number % 5 == 1 else f"\n[RESULT] {number % 97} [/RESULT]"
    text = f"We count the steps of the problem, which are {number % 1000}.{result}"
    return {"text": text, "finish_reason": "stop", "prompt_tokens": 20, "completion_tokens": 10}


def echo(messages: list[dict[str, str]]) -> str:
    """The last message, said back."""
    return messages[-1]["content"]


def long_text(messages: list[dict[str, str]]) -> str:
    """100,000 characters, to fill a disk with."""
    return messages[-1]["content"] + "x" * 100_000


def instance(messages: list[dict[str, str]], sampling: dict[str, Any]) -> object:
    """A new problem in mathematics with its solution; one in four keeps to no form."""
    seed = sampling["seed"]
    text = f"What is {seed} and 2?\nOUTPUT: We add them.\n[RESULT] {seed + 2} [/RESULT]" if seed % 4 else "No."
    return {"text": text, "finish_reason": "stop", "prompt_tokens": 900, "completion_tokens": 30}

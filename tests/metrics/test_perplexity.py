"""Perplexity: known answers with a scripted model, and the numbers of transformers with a real one."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agora_frames.backends import connect
from agora_frames.backends.scripted import failing, scripted
from agora_frames.backends.vllm_engine import VllmEngine
from agora_frames.errors import FrameError
from agora_frames.ledger import Ledger
from agora_frames.metrics.perplexity import add_nll, perplexities
from agora_frames.remembered import remembered


def rendered(messages: list[dict[str, str]]) -> str:
    return "".join(f"<{m['role']}>{m['content']}" for m in messages)


def half(messages: list[dict[str, str]]) -> dict[str, Any]:
    """Each character is a token of probability 1/2, an x of 1/8; the first has none."""
    tokens = [{"token": c, "logprob": -math.log(8 if c == "x" else 2), "top": []} for c in rendered(messages)]
    return {"text": "", "prompt_logprobs": [{**tokens[0], "logprob": None}, *tokens[1:]]}


def pairs(*rows: tuple[str | None, str | None]) -> pl.DataFrame:
    schema = {"instruction": pl.String, "response": pl.String}
    return pl.DataFrame(rows, schema=schema, orient="row").with_columns(row_id=pl.int_range(pl.len()).cast(pl.String))


def scored(df: pl.DataFrame, script: Any = half) -> pl.DataFrame:
    return add_nll(df, backend=scripted(script))


def test_only_the_tokens_after_the_instruction_are_scored() -> None:
    done = scored(pairs(("xxxx", "aax")))
    # `<assistant>` is 11 tokens of the template that the instruction alone does not have here.
    assert done["nll_tokens"].to_list() == [14]
    assert done["nll"][0] == pytest.approx((13 * math.log(2) + math.log(8)) / 14)


def test_what_the_prompt_of_the_instruction_has_already_is_not_scored() -> None:
    def opened(messages: list[dict[str, str]]) -> dict[str, Any]:
        """A template that opens the reply after the instruction, as the real ones do."""
        open_end = [] if messages[-1]["role"] == "assistant" else [{"role": "assistant", "content": ""}]
        return half([*messages, *open_end])

    done = scored(pairs(("xxxx", "aax"), ("y", "x")), opened)
    assert done["nll_tokens"].to_list() == [3, 1]
    assert done["nll"].to_list() == pytest.approx([(2 * math.log(2) + math.log(8)) / 3, math.log(8)])


@pytest.mark.parametrize("pair", [(None, "a"), ("a", None), (None, None)])
def test_a_row_without_a_text_says_so(pair: tuple[str | None, str | None]) -> None:
    done = scored(pairs(("a", "b"), pair))
    assert done["nll"].is_null().to_list() == [False, True]
    assert done["nll_error"].struct.field("kind").to_list() == [None, "no_prompt"]


def test_an_error_of_the_call_is_that_of_the_row() -> None:
    def script(messages: list[dict[str, str]]) -> dict[str, Any]:
        return failing("context_too_long", "far too long") if "long" in rendered(messages) else half(messages)

    done = scored(pairs(("a", "b"), ("a", "long")), script)
    assert done["nll_error"].to_list() == [None, {"kind": "context_too_long", "message": "far too long"}]
    assert done["nll"].is_null().to_list() == [False, True]


def test_a_backend_that_tells_no_logprobs_is_no_source_of_numbers() -> None:
    done = scored(pairs(("a", "b")), lambda messages: "fine")
    assert done["nll_error"].struct.field("kind").to_list() == ["no_logprobs"]
    assert done.select("nll", "nll_tokens").row(0) == (None, None)


def test_a_response_without_a_token_is_empty() -> None:
    done = scored(pairs(("a", "")), lambda messages: half(messages[:1]))
    assert done["nll_error"].struct.field("kind").to_list() == ["empty"]


def test_a_reply_that_was_cut_at_its_one_token_is_fine() -> None:
    done = scored(pairs(("a", "b")), lambda messages: failing("truncated", **half(messages)))
    assert done["nll_error"].to_list() == [None]


def test_an_instruction_may_be_a_chat() -> None:
    chat = [{"role": "system", "content": "xx"}, {"role": "user", "content": "a"}]
    df = pl.DataFrame({"row_id": ["r"], "instruction": [chat], "response": ["bbb"]})
    assert scored(df)["nll_tokens"].to_list() == [len("<assistant>bbb")]


def test_an_instruction_of_another_type_is_refused() -> None:
    with pytest.raises(FrameError, match=r"reads 'instruction' as String or as List.*but it is Int64"):
        scored(pl.DataFrame({"row_id": ["r"], "instruction": [1], "response": ["b"]}))


def test_an_instruction_of_several_responses_is_asked_once(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    df = pairs(("a", "b"), ("a", "c"), ("a", "c"))
    add_nll(df, backend=remembered(scripted(half), ledger=ledger))
    assert ledger.frame().height == 3  # the instruction, and each of its two responses


# Summaries


def test_the_three_perplexities_differ_as_their_names_say() -> None:
    df = pl.DataFrame({"nll": [math.log(2), math.log(8)], "nll_tokens": [3, 1]})
    row = perplexities(df).row(0, named=True)
    assert row["mean_of_exp"] == pytest.approx(5)
    assert row["exp_of_mean"] == pytest.approx(4)
    assert row["exp_of_token_mean"] == pytest.approx(math.exp((3 * math.log(2) + math.log(8)) / 4))
    assert (row["rows"], row["tokens"]) == (2, 4)


@given(st.lists(st.tuples(st.floats(0, 20), st.integers(1, 500)), min_size=1, max_size=30))
def test_the_mean_of_exp_is_never_below_exp_of_the_mean(rows: list[tuple[float, int]]) -> None:
    df = pl.DataFrame(rows, schema={"nll": pl.Float64, "nll_tokens": pl.Int64}, orient="row")
    row = perplexities(df).row(0, named=True)
    assert row["mean_of_exp"] >= row["exp_of_mean"] * (1 - 1e-9)
    low, high = math.exp(min(rows)[0]), math.exp(max(rows)[0])
    assert all(low * (1 - 1e-9) <= row[name] <= high * (1 + 1e-9) for name in list(row)[2:])


def test_rows_without_a_number_are_left_out_and_nothing_scored_gives_no_row() -> None:
    df = pl.DataFrame({"nll": [1.0, None], "nll_tokens": [2, None]})
    assert perplexities(df).row(0)[:3] == (1, 2, pytest.approx(math.e))
    assert perplexities(df[1:]).height == 0


# With a real model

TEXTS = [
    ("Say hello.", "Hello, world!"),
    ("Write a function.", "def add(a, b):\n    return a + b"),
    ("Count.", "1 2 3 4 5 6 7 8 9 10"),
    ("Sing in Hebrew.", "שלום 👋🏽, עולם"),
    ("What is JSON?", '{"is": ["an", "object"], "or": null}'),
    ("Begin with a line.", "x"),
]


def by_transformers(folder: Path, instruction: str, response: str) -> tuple[float, int]:
    """The same number without vLLM: the tokens that the response adds, and the model's logits before each."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    user = {"role": "user", "content": instruction}
    text = tokenizer.apply_chat_template([user], add_generation_prompt=True, tokenize=False)
    before = tokenizer(text, add_special_tokens=False)["input_ids"]
    whole = tokenizer(text + response, add_special_tokens=False)["input_ids"]
    assert whole[: len(before)] == before
    with torch.no_grad():
        logprobs = model(torch.tensor([whole])).logits[0].log_softmax(-1)
    places = range(len(before), len(whole))
    return -sum(float(logprobs[n - 1, whole[n]]) for n in places) / len(places), len(places)


@pytest.mark.vllm
@pytest.mark.slow
@pytest.mark.parametrize("who", ["engine", "server"])
def test_a_real_model_is_as_surprised_as_transformers_says(
    who: str, tiny: Path, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    backend: Any
    if who == "engine":
        engine: VllmEngine = request.getfixturevalue("vllm_tiny")
        backend = engine
    else:
        backend = connect(request.getfixturevalue("vllm_url"), ledger=tmp_path)
    done = add_nll(pairs(*TEXTS), backend=backend)
    expected = [by_transformers(tiny, *pair) for pair in TEXTS]
    assert done["nll_error"].to_list() == [None] * len(TEXTS)
    assert done["nll_tokens"].to_list() == [count for _, count in expected]
    assert done["nll"].to_list() == pytest.approx([value for value, _ in expected], rel=1e-3)
    assert done["nll"].n_unique() == len(TEXTS)

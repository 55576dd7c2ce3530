"""Rewards: each pair's own score, whatever stands beside it in a batch; and a reason where there is none."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from agora_frames.errors import BindError, FrameError, UnknownModelError
from agora_frames.metrics.reward import RewardModel, reward_column, reward_model


class Longer:
    """A reward for length; more than ten characters are too many."""

    name = "longer"

    def __call__(self, pairs: Sequence[tuple[str, str]], /) -> list[float | None]:
        return [None if len(response) > 10 else float(len(response)) for _, response in pairs]


def frame(*responses: str | None) -> pl.DataFrame:
    return pl.DataFrame({"instruction": "q", "response": responses}, schema_overrides={"response": pl.String})


def test_each_row_has_its_own_score_or_a_reason() -> None:
    done = reward_column(frame("a", None, "much too long", "abc"), scorer=Longer())
    assert done["reward"].to_list() == [1, None, None, 3]
    kinds = done["reward_error"].struct.field("kind").to_list()
    assert kinds == [None, "null_value", "context_too_long", None]
    assert done["reward_model"].unique().to_list() == ["longer"]


@given(st.lists(st.none() | st.text("ab", max_size=12), max_size=8), st.integers(0, 8))
def test_rows_are_scored_one_by_one(texts: list[str | None], cut: int) -> None:
    df, run = frame(*texts), reward_column(scorer=Longer())
    assert_frame_equal(pl.concat([run(df[:cut]), run(df[cut:])]), run(df))


@pytest.mark.parametrize("scorer", [len, "Skywork", None])
def test_what_is_no_scorer_is_refused(scorer: Any) -> None:
    with pytest.raises(BindError, match="write scorer=reward_model"):
        reward_column(frame("a"), scorer=scorer)


def test_a_scorer_that_loses_a_pair_is_told() -> None:
    class Loses(Longer):
        def __call__(self, pairs: Sequence[tuple[str, str]], /) -> list[float | None]:
            return super().__call__(pairs)[1:]

    with pytest.raises(BindError, match="was given 2 pairs and gave 1 scores"):
        reward_column(frame("a", "b"), scorer=Loses())


def test_a_missing_column_is_told() -> None:
    with pytest.raises(FrameError, match="did you mean 'response'"):
        reward_column(frame("a"), response="respons", scorer=Longer())


def test_a_model_of_no_size_is_refused() -> None:
    with pytest.raises(BindError, match="batch_tokens=0"):
        reward_model("x", batch_tokens=0)


# --- a real model ----------------------------------------------------------------------------------------------------


def built(folder: Path, *, pad: str | None, labels: int = 1) -> Path:
    """A tiny Llama with a random head, and a tokenizer of words made from few texts."""
    torch = pytest.importorskip("torch", reason="needs torch and transformers: the environment of vLLM has them")
    transformers = pytest.importorskip("transformers", reason="needs transformers")
    tokenizers = pytest.importorskip("tokenizers")
    words = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token=None))
    words.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = ["<|bos|>", "<|end|>", "<|pad|>"]
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=300, special_tokens=special, initial_alphabet=alphabet)
    words.train_from_iterator(["one two three", "a question and its answer"], trainer)
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, bos_token="<|bos|>", eos_token="<|end|>", pad_token=pad
    )
    fast.chat_template = "<|bos|>{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}<|end|>{% endfor %}"
    config = transformers.LlamaConfig(
        vocab_size=len(fast),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
        num_labels=labels,
        pad_token_id=None,
    )
    torch.manual_seed(0)
    transformers.LlamaForSequenceClassification(config).save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


PAIRS = [("one two?", "three"), ("a question", "a"), ("x", "its answer and one two three and a question"), ("", "")]


@pytest.fixture(params=[None, "<|pad|>", "<|end|>"], ids=["no padding", "own padding", "padding is the end"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return built(tmp_path / "reward", pad=request.param)


@pytest.mark.vllm
def test_a_pair_has_the_same_score_alone_and_in_any_batch(folder: Path) -> None:
    whole = reward_model(folder)(PAIRS)
    alone = [reward_model(folder)([pair])[0] for pair in PAIRS]
    small = reward_model(folder, batch_tokens=1)(PAIRS)
    backwards = reward_model(folder)(PAIRS[::-1])[::-1]
    for scores in (alone, small, backwards):
        assert scores == pytest.approx(whole, abs=1e-5)
    assert len({round(score or 0.0, 4) for score in whole}) == len(PAIRS)


@pytest.mark.vllm
def test_the_score_is_the_models_at_the_last_token(folder: Path) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForSequenceClassification.from_pretrained(folder)
    text = "<|bos|>user: one two?<|end|>assistant: three<|end|>"
    ids = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]])
    with torch.inference_mode():
        expected = float(model.score(model.model(ids).last_hidden_state[0, -1]))
    assert reward_model(folder)(PAIRS)[0] == pytest.approx(expected, abs=1e-5)


@pytest.mark.vllm
def test_a_pair_that_does_not_fit_has_no_score(tmp_path: Path) -> None:
    scorer = reward_model(built(tmp_path / "reward", pad=None))
    done = reward_column(frame("three", "z" * 100), scorer=scorer)
    assert done["reward"].is_null().to_list() == [False, True]
    assert done["reward_error"][1]["kind"] == "context_too_long"


@pytest.mark.vllm
def test_a_model_travels_by_its_name_and_is_loaded_there(tmp_path: Path) -> None:
    scorer = reward_model(built(tmp_path / "reward", pad=None))
    scores = scorer(PAIRS)
    copy = pickle.loads(pickle.dumps(scorer))
    assert isinstance(copy, RewardModel) and copy == scorer
    assert copy(PAIRS) == pytest.approx(scores)


@pytest.mark.vllm
def test_a_model_with_several_outputs_is_no_reward_model(tmp_path: Path) -> None:
    with pytest.raises(UnknownModelError, match="has 3 outputs"):
        reward_model(built(tmp_path / "classes", pad=None, labels=3))(PAIRS)


@pytest.mark.vllm
def test_a_model_that_is_not_there_is_told(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    with pytest.raises(UnknownModelError, match="cannot be loaded"):
        reward_model(tmp_path / "nothing")(PAIRS)

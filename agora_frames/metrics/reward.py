"""A reward model scores each response: one number for each pair of texts, by transformers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from agora_frames.errors import BindError, MissingExtraError, UnknownModelError
from agora_frames.frames import ERROR, require
from agora_frames.stage import stage
from agora_frames.types import Scorer

__all__ = ["RewardModel", "reward_column", "reward_model"]

_EXTRA = "pip install 'agora-frames[train]'"


@stage(rowwise=True)
def reward_column(
    df: pl.DataFrame,
    *,
    instruction: str = "instruction",
    response: str = "response",
    into: str = "reward",
    scorer: Scorer,
) -> pl.DataFrame:
    """Scores each response by a reward model; the scale is the model's own.

    Reads: `instruction` and `response` (String). Adds: `into` (Float64; null when there is no score), `{into}_error`
    (Struct{kind, message}: `null_value` where a text is null, `context_too_long` where the pair does not fit into the
    model, which is never cut; null when there is a score), `{into}_model` (String: the scorer's name).
    Rows: the same, in the same order.
    scorer: from `reward_model("Skywork/Skywork-Reward-Llama-3.1-8B")`, or anything with a `name` that gives a number
    (None: too long) for each of a list of (instruction, response).
    Raises: FrameError when a column is missing; BindError when the scorer is none, or loses a pair.
    Source: arXiv 2412.03679v2, section 5.2 (response quality by a reward model).

    >>> class Longer:
    ...     name = "longer is better"
    ...     def __call__(self, pairs):
    ...         return [float(len(response)) for _, response in pairs]
    >>> df = pl.DataFrame({"instruction": ["1 + 1?", "2 + 2?"], "response": ["2", None]})
    >>> reward_column(df, scorer=Longer())["reward"].to_list()
    [1.0, None]
    """
    require(df, instruction, response, stage="reward_column", dtype=pl.String())
    if not isinstance(scorer, Scorer) or not callable(scorer):
        raise BindError(f"reward_column(scorer={scorer!r:.80}) is none: write scorer=reward_model('NAME or folder').")
    whole = pl.col(instruction).is_not_null() & pl.col(response).is_not_null()
    pairs = df.filter(whole).select(instruction, response).rows()
    scores = list(scorer(pairs)) if pairs else []
    if len(scores) != len(pairs):
        raise BindError(f"the scorer {scorer.name!r} was given {len(pairs)} pairs and gave {len(scores)} scores.")
    given = df.select(whole.alias("whole"))["whole"]
    found = pl.Series(scores, dtype=pl.Float64).gather((given.cum_sum() - 1).cast(pl.Int64).set(~given, None))
    error = (
        pl.when(~given)
        .then(_error("null_value", "there is no instruction, or no response"))
        .when(found.is_null())
        .then(_error("context_too_long", f"the pair does not fit into {scorer.name}"))
    )
    return df.with_columns(
        found.alias(into), error.cast(ERROR).alias(f"{into}_error"), pl.lit(scorer.name).alias(f"{into}_model")
    )


def reward_model(
    name: str | Path, *, batch_tokens: int = 16_384, device: str | None = None, revision: str | None = None
) -> RewardModel:
    """A scorer: any sequence-classification model with one output, by its name or folder; loaded when first asked.

    The pair is put to it by its own chat template, as a user's turn and the answer.
    batch_tokens: so many tokens at once, padding included. device: such as `cuda`; None takes a GPU if there is one.
    revision: a commit of the model. Nothing is cut: a pair over the model's length has no score.
    Padding stands on the right, under the attention mask, and is of a token that no text of the batch holds: models of
    this kind read the score at the last token that is not padding, and a text may well end with a token that is.
    Raises: when it is called, MissingExtraError without transformers; UnknownModelError when there is no such model,
    it has more than one output, or it needs token types.
    """
    if not isinstance(batch_tokens, int) or isinstance(batch_tokens, bool) or batch_tokens < 1:
        raise BindError(f"reward_model(batch_tokens={batch_tokens!r}): it must be a whole number, at least 1.")
    shown = f"{name}@{revision}" if revision else str(name)
    return RewardModel(shown, str(name), revision, batch_tokens, device)


@dataclass(frozen=True)
class RewardModel:
    """See `reward_model`."""

    name: str
    path: str
    revision: str | None
    batch_tokens: int
    device: str | None
    _loaded: list[Any] = field(default_factory=list, repr=False, compare=False)

    def __call__(self, pairs: Sequence[tuple[str, str]], /) -> list[float | None]:
        tokenizer, model = self._load()
        tokens = [_tokens(tokenizer, *pair) for pair in pairs]
        most = getattr(model.config, "max_position_embeddings", None) or 1 << 30
        scores: list[float | None] = [None] * len(pairs)
        fitting = sorted((i for i in range(len(pairs)) if len(tokens[i]) <= most), key=lambda i: len(tokens[i]))
        for batch in _batches(fitting, tokens, self.batch_tokens):
            for i, score in zip(batch, _scored(tokenizer, model, [tokens[i] for i in batch]), strict=True):
                scores[i] = score
        return scores

    def _load(self) -> tuple[Any, Any]:
        if not self._loaded:
            self._loaded.extend(_load(self.path, self.revision, self.device))
        return self._loaded[0], self._loaded[1]

    def __reduce__(self) -> tuple[Any, ...]:
        return RewardModel, (self.name, self.path, self.revision, self.batch_tokens, self.device)

    def __fingerprint__(self) -> tuple[object, ...]:
        return ("reward_model", self.name)


def _load(path: str, revision: str | None, device: str | None) -> tuple[Any, Any]:
    try:
        import torch
        from transformers import AutoModelForSequenceClassification, AutoTokenizer
    except ImportError as exc:
        raise MissingExtraError(f"a reward model needs transformers and torch. Install them:\n    {_EXTRA}") from exc
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, revision=revision)
        model = AutoModelForSequenceClassification.from_pretrained(path, revision=revision, dtype="auto")
    except (OSError, ValueError) as exc:
        raise UnknownModelError(f"the reward model {path!r} cannot be loaded: {exc}") from exc
    if model.config.num_labels != 1:
        raise UnknownModelError(f"{path!r} has {model.config.num_labels} outputs; a reward model has one.")
    if tokenizer.chat_template is None and getattr(model.config, "type_vocab_size", 0) > 1:
        raise UnknownModelError(f"{path!r} tells its two texts apart by token types, which are not given here.")
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return tokenizer, model.to(device).eval()


def _tokens(tokenizer: Any, instruction: str, response: str) -> list[int]:
    """The pair in the model's own form; one without a chat template takes it as two segments."""
    if tokenizer.chat_template is None:
        return list(tokenizer(instruction, response)["input_ids"])
    turns = [{"role": "user", "content": instruction}, {"role": "assistant", "content": response}]
    # As text first: a template that writes the special tokens itself shall not get them twice.
    return list(tokenizer(tokenizer.apply_chat_template(turns, tokenize=False), add_special_tokens=False)["input_ids"])


def _batches(order: Sequence[int], tokens: Sequence[Sequence[int]], most: int) -> Iterator[list[int]]:
    """Runs of places, sorted by length, whose padded tokens are at most `most`; each has at least one."""
    batch: list[int] = []
    for i in order:
        if batch and (len(batch) + 1) * len(tokens[i]) > most:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def _scored(tokenizer: Any, model: Any, batch: Sequence[Sequence[int]]) -> list[float]:
    import torch

    width = max(map(len, batch))
    pad = _unused(tokenizer.pad_token_id, batch)
    ids = torch.tensor([[*each, *[pad] * (width - len(each))] for each in batch], device=model.device)
    mask = torch.tensor([[1] * len(each) + [0] * (width - len(each)) for each in batch], device=model.device)
    model.config.pad_token_id = pad
    with torch.inference_mode():
        logits = model(input_ids=ids, attention_mask=mask).logits
    return [float(value) for value in logits[:, 0].float().cpu()]


def _unused(pad: int | None, batch: Sequence[Sequence[int]]) -> int:
    """The tokenizer's own padding, unless it has none or a text holds it; then the first token that none holds."""
    held = {token for each in batch for token in each}
    return pad if pad is not None and pad not in held else next(i for i in range(len(held) + 1) if i not in held)


def _error(kind: str, message: str) -> pl.Expr:
    return pl.struct(kind=pl.lit(kind), message=pl.lit(message)).cast(ERROR)

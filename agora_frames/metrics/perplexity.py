"""How surprising each response is to a model, given its instruction; and the perplexities of all of them."""

from __future__ import annotations

from itertools import takewhile
from typing import Any

import polars as pl

from agora_frames.errors import FrameError
from agora_frames.frames import ERROR, MESSAGES, errors, require
from agora_frames.stage import stage
from agora_frames.stages.generate import generate_column
from agora_frames.types import Backend

__all__ = ["add_nll", "perplexities"]

_WHOLE = {"prompt_logprobs": 0, "add_generation_prompt": False, "continue_final_message": True}
# A call that ended so did its work.
_FINE = ("truncated", "empty")


@stage(rowwise=True)
def add_nll(
    df: pl.DataFrame,
    *,
    instruction: str = "instruction",
    response: str = "response",
    into: str = "nll",
    backend: Backend,
) -> pl.DataFrame:
    """Scores each response under a model: the mean negative log-likelihood of its tokens, given the instruction.

    Reads: `row_id`; `instruction`: String, or List(Struct{role, content}) for a chat; `response`: String.
    Adds: `into` (Float64, nats per token; null where there is an error), `{into}_tokens` (Int64: how many tokens of
    the response were scored) and `{into}_error` (Struct{kind, message}; `no_prompt` where a text is null, `empty` for
    a response without a token, `no_logprobs` when the backend tells none; else what went wrong with the call).
    Rows: the same, in the same order.
    backend: one that tells the log probabilities of a prompt: `connect("vllm:…")`, or vLLM's server. Each distinct
    instruction is asked once, to learn where it ends, and each pair of instruction and response once; both are kept
    in the ledger.
    Scored are the tokens by which the prompt with the response, in the model's own chat template and open at its end,
    goes on after what it has in common with the prompt of the instruction alone. What the template puts before a
    response (an empty block of thoughts) thus counts, what it puts after one does not.
    The perplexity of a row is exp of this; for one number over all rows see `perplexities`.
    Raises: FrameError when a column is missing; BackendError when no request can be answered.
    Source: perplexity of a response as in arxiv.org/abs/2412.03679, section 6, under the base model.

    >>> import math
    >>> import agora_frames as af
    >>> def even(messages):  # each character is a token, and one of 26 equally likely ones
    ...     said = "".join(f"<{m['role']}>{m['content']}" for m in messages)
    ...     return {"text": "", "prompt_logprobs": [{"token": c, "logprob": -math.log(26), "top": []} for c in said]}
    >>> df = pl.DataFrame({"row_id": ["a"], "instruction": ["Greet."], "response": ["Hi!"]})
    >>> round(math.exp(df.pipe(add_nll, backend=af.scripted(even))["nll"][0]), 9)
    26.0
    """
    require(df, "row_id", instruction, response, stage="add_nll")
    require(df, response, stage="add_nll", dtype=pl.String())
    asked = _chats(df, instruction, response)
    alone = _told(asked, "alone", {"prompt_logprobs": 0}, backend)
    whole = _told(asked, "whole", _WHOLE, backend)
    scores = [_score(*pair) for pair in zip(*alone, *whole, strict=True)]
    values, counts, kinds, messages = zip(*scores, strict=True) if scores else ((), (), (), ())
    return df.with_columns(
        pl.Series(into, values, dtype=pl.Float64),
        pl.Series(f"{into}_tokens", counts, dtype=pl.Int64),
        errors(kinds, messages, f"{into}_error"),
    )


def _chats(df: pl.DataFrame, instruction: str, response: str) -> pl.DataFrame:
    """The instruction as a chat, and the same with the response as its end; null where either is."""
    first = pl.col(instruction)
    if df.schema[instruction] in (pl.String, pl.Null):
        first = pl.concat_list(_turn("user", first.cast(pl.String)))
    elif df.schema[instruction] != MESSAGES:
        raise FrameError(
            f"add_nll() reads {instruction!r} as String or as {MESSAGES}, but it is {df.schema[instruction]}."
        )
    there = pl.all_horizontal(pl.col(instruction, response).is_not_null())
    answered = first.list.concat(pl.concat_list(_turn("assistant", pl.col(response).cast(pl.String))))
    return df.select(
        "row_id",
        *(["sample"] if "sample" in df.columns else []),
        alone=pl.when(there).then(first).cast(MESSAGES),
        whole=pl.when(there).then(answered).cast(MESSAGES),
        # A null is this stage's to explain, and not a mistake in the frame.
        missing_error=pl.when(~there)
        .then(pl.struct(kind=pl.lit("no_prompt"), message=pl.lit("the instruction or the response is null")))
        .cast(ERROR),
    )


def _turn(role: str, content: pl.Expr) -> pl.Expr:
    return pl.struct(role=pl.lit(role), content=content)


def _told(asked: pl.DataFrame, column: str, extra: dict[str, Any], backend: Backend) -> tuple[list[Any], list[Any]]:
    """The tokens of each prompt with their log probabilities, and what went wrong with the call."""
    # One token is written, as a call must write one; it is not looked at.
    done = generate_column(
        asked, column=column, into="told", temperature=0, max_tokens=1, seed=None, extra=extra, backend=backend
    )
    tokens = done["told_call"].struct.field("prompt_logprobs").to_list()
    return tokens, done["told_error"].to_list()


def _score(
    alone: list[Any] | None, alone_error: dict[str, str] | None, whole: list[Any] | None, error: dict[str, str] | None
) -> tuple[float | None, int | None, str | None, str | None]:
    """The mean of one row, of how many tokens; or the kind and message of what went wrong."""
    for wrong in (alone_error, error):
        if wrong is not None and wrong["kind"] not in _FINE:
            return None, None, wrong["kind"], wrong["message"]
    if alone is None or whole is None:
        return None, None, "no_logprobs", "the backend told no log probabilities of the prompt"
    names = [each["token"] for each in whole]
    common = sum(1 for _ in takewhile(lambda pair: pair[0]["token"] == pair[1], zip(alone, names, strict=False)))
    logprobs = [each["logprob"] for each in whole[common:]]
    if not logprobs:
        return None, 0, "empty", "the response has no token of its own"
    if None in logprobs:
        return None, None, "no_logprobs", "the backend left out the log probability of a token"
    return -sum(logprobs) / len(logprobs), len(logprobs), None, None


@stage(rowwise=False)
def perplexities(df: pl.DataFrame, *, column: str = "nll", tokens: str | None = None) -> pl.DataFrame:
    """The perplexities of all rows that were scored, in the three ways in which it is meant.

    Reads: `column` (nats per token) and `tokens` (whole numbers; by default `{column}_tokens`), as of `add_nll`.
    Adds: nothing; gives a frame of its own: `rows` (Int64: those that were scored), `tokens` (Int64: theirs),
    `mean_of_exp` (Float64: the mean of the rows' perplexities; a single odd row decides it), `exp_of_mean` (Float64:
    exp of the rows' mean, each row alike) and `exp_of_token_mean` (Float64: each token alike, the perplexity of all of
    them as one text).
    Rows: one; none when no row was scored.
    Raises: FrameError when a column is missing.

    >>> df = pl.DataFrame({"nll": [1.0, 3.0, None], "nll_tokens": [30, 10, None]})
    >>> df.pipe(perplexities).select(pl.exclude("rows", "tokens").log().round(2)).row(0)
    (2.43, 2.0, 1.5)
    """
    counted = tokens or f"{column}_tokens"
    require(df, column, counted, stage="perplexities")
    scored = df.select(nll=pl.col(column).cast(pl.Float64), tokens=pl.col(counted).cast(pl.Int64)).drop_nulls("nll")
    whole = (pl.col("nll") * pl.col("tokens")).sum() / pl.col("tokens").sum()
    return scored.select(
        rows=pl.len().cast(pl.Int64),
        tokens=pl.col("tokens").sum(),
        mean_of_exp=pl.col("nll").exp().mean(),
        exp_of_mean=pl.col("nll").mean().exp(),
        exp_of_token_mean=whole.exp(),
    ).filter(pl.col("rows") > 0)

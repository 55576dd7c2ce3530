"""A judge compares two answers in each row: in a drawn order, or in both."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import polars as pl

from agora_frames.errors import BindError, FrameError
from agora_frames.frames import CALL, UNPARSED, errors, require
from agora_frames.hashing import seed_of
from agora_frames.metrics.judge import Judge, ask_judge, packaged, settled
from agora_frames.metrics.verdicts import TokenParser, verdict_label
from agora_frames.stage import stage
from agora_frames.stages.conversation import extend_chat
from agora_frames.stages.generate import generate_column
from agora_frames.stages.parse import parse_column
from agora_frames.stages.prompt import render_prompts
from agora_frames.types import Backend, Observer

__all__ = ["Order", "comparison", "judge_again", "judge_pairs"]

# `drawn`: one order for each row, by a counter; `both`: each row twice; `given`: the first is always shown first.
Order: TypeAlias = Literal["drawn", "both", "given"]

_VERDICT: dict[str, Any] = {"label": pl.String, "share": pl.Float64, "weight": pl.Float64}


def comparison(domain: Literal["math", "code", "general"] = "general") -> Judge:
    """Compares two answers to `instruction` by the quality rubric of a domain, with one of five verdicts.

    Source: see metrics/rubrics/README.md; the wording is our own.
    """
    follow_up = "Finish your comparison now: write one of the five verdicts, in its double brackets."
    return packaged("comparison", domain, rubric="quality", parser=verdict_label(), follow_up=follow_up)


@stage(rowwise=True)
def judge_pairs(
    df: pl.DataFrame,
    *,
    judge: Judge,
    instruction: str = "instruction",
    first: str = "first",
    second: str = "second",
    order: Order = "drawn",
    equal_is_tie: bool = True,
    into: str = "preference",
    seed: int | None = 0,
    backend: Backend,
    observer: Observer | None = None,
) -> pl.DataFrame:
    """Asks in each row which of two answers is better, and keeps what the judge said.

    Reads: `row_id`, `sample` if there is one, the columns `instruction`, `first` and `second` (in the judge's prompt:
    `instruction`, `answer_a`, `answer_b`), and any other that its prompt names.
    Adds: `into` (Float64: how far `second` is preferred, 0 to 1, 0.5 for a tie; null when there is no verdict),
    `{into}_weight` (Float64: what the verdict counts), `{into}_label` (String: what was said, of the answers as
    shown), `{into}_swapped` (Boolean: `second` was shown first), `{into}_text`, `{into}_error`, `{into}_call`,
    `{into}_judge` as of `judge_column`; with order="both", `sample` (Int64: twice what it was, and one more where they
    were swapped).
    Rows: the same, in the same order; with order="both" each twice, first as given, then swapped.
    order: see `Order`; a drawn one depends on seed, row_id and sample alone. equal_is_tie: two answers that are the
    same text are a tie, and not asked about. judge: `comparison("math")`, or one of your own with a parser of
    `metrics.verdicts`; one that reads token probabilities (`first_token`) fails where none are told (`no_logprobs`).
    Raises: FrameError when a column is missing; BindError for another order.

    >>> import agora_frames as af
    >>> prompt = "{{ instruction }} m: {{ answer_a }} M: {{ answer_b }}"
    >>> judge = Judge("longer", prompt, verdict_label())
    >>> longer = af.scripted(lambda m: "[[B>>A]]" if m[0]["content"].endswith("M: Two.") else "[[A>B]]")
    >>> df = pl.DataFrame({"instruction": "1 + 1?", "first": "2", "second": "Two."}).pipe(af.with_row_ids)
    >>> done = df.pipe(judge_pairs, judge=judge, order="both", backend=longer)
    >>> done.select("sample", "preference", "preference_weight").rows()
    [(0, 1.0, 3.0), (1, 1.0, 1.0)]
    """
    require(df, instruction, first, second, stage="judge_pairs")
    df = _ordered(df, order, seed, f"{into}_swapped")
    same = (pl.col(first) == pl.col(second)).fill_null(False)
    asked = ask_judge(
        df,
        judge=judge,
        shown=_shown(instruction, first, second, f"{into}_swapped"),
        unless=same if equal_is_tie else None,
        into=into,
        seed=seed,
        backend=backend,
        observer=observer,
    )
    done = _settled(df, _read(asked, judge, into), into)
    if not equal_is_tie:
        return done
    tie = {into: 0.5, f"{into}_weight": 1.0, f"{into}_label": "equal", f"{into}_error": None}
    return done.with_columns(pl.when(~same).then(name).otherwise(pl.lit(v)).alias(name) for name, v in tie.items())


@stage(rowwise=True)
def judge_again(
    df: pl.DataFrame,
    *,
    judge: Judge,
    instruction: str = "instruction",
    first: str = "first",
    second: str = "second",
    into: str = "preference",
    seed: int | None = 0,
    backend: Backend,
    observer: Observer | None = None,
) -> pl.DataFrame:
    """Asks a judge of pairs to finish where its reply had no verdict yet: one more turn, with its `follow_up`.

    Reads: what `judge_pairs` read and added.
    Adds: the same columns, renewed in those rows (`{into}_text` has both replies, one below the other, and is read as
    one), and `{into}_again_call` (CALL: the second call; null elsewhere).
    Rows: the same, in the same order. A reply with verdicts that contradict each other is not asked about again.
    Raises: BindError when the judge has no `follow_up`.
    """
    if judge.follow_up is None:
        raise BindError(f"judge_again() was given the judge {judge.name!r}, which has no follow_up to say.")
    require(df, instruction, first, second, into, f"{into}_text", f"{into}_swapped", stage="judge_again")
    silent = getattr(judge.parser, "is_silent", lambda text: True)
    unparsed = df[f"{into}_error"].struct.field("kind") == UNPARSED
    texts = zip(df[f"{into}_text"], unparsed.fill_null(False), strict=True)
    open_ = pl.Series([bool(lacks and text is not None and silent(text)) for text, lacks in texts], dtype=pl.Boolean)
    none_yet = pl.lit(None, dtype=CALL).alias(f"{into}_again_call")
    shown = _shown(instruction, first, second, f"{into}_swapped")
    again = _finished(df.filter(open_), judge, shown, into, seed, backend, observer)
    whole = pl.concat([df.filter(~open_).with_columns(none_yet), again.select(*df.columns, f"{into}_again_call")])
    return whole[pl.concat([(~open_).arg_true(), open_.arg_true()]).arg_sort()]


def _finished(
    df: pl.DataFrame,
    judge: Judge,
    shown: dict[str, pl.Expr],
    into: str,
    seed: int | None,
    backend: Backend,
    observer: Observer | None,
) -> pl.DataFrame:
    """The rows with what the judge says when it is asked once more."""
    chat, before = f"{into}_prompt", pl.col(f"{into}_text")
    seen = df.with_columns(rubric=pl.lit(judge.rubric), **shown)
    prompts = render_prompts(seen, template=judge.prompt, into=chat).select(chat, f"{chat}_error")
    chats = df.with_columns(prompts).with_columns(follow_up=pl.lit(judge.follow_up))
    chats = chats.pipe(extend_chat, column=chat, reply=f"{into}_text")
    chats = chats.pipe(extend_chat, column=chat, reply="follow_up", role="user")
    more = generate_column(
        chats, column=chat, into="more", **judge.sampling, seed=seed, backend=backend, observer=observer
    )
    joined = pl.concat_str([before, pl.lit("\n"), pl.col("more").fill_null("")])
    more = more.with_columns(joined.alias(f"{into}_text"), pl.col("more_error").alias(f"{into}_text_error"))
    more = more.with_columns(pl.col(f"{into}_call").alias(f"{into}_text_call"))
    again = more.select(pl.col("more_call").alias(f"{into}_again_call"))
    return _settled(df, _read(more, judge, into), into).with_columns(again)


def _ordered(df: pl.DataFrame, order: Order, seed: int | None, swapped: str) -> pl.DataFrame:
    """The rows in the order in which their answers will be shown; each twice for both."""
    if order not in ("drawn", "both", "given"):
        raise BindError(f"judge_pairs(order={order!r}): it must be 'drawn', 'both' or 'given'.")
    if order == "given":
        return df.with_columns(pl.lit(False).alias(swapped))
    if order == "both":
        sides = pl.lit(pl.Series([False, True])).implode().alias(swapped)
        sample = pl.col("sample").cast(pl.Int64) * 2 if "sample" in df.columns else pl.lit(0, dtype=pl.Int64)
        return df.with_columns(sides).explode(swapped).with_columns(sample=sample + pl.col(swapped).cast(pl.Int64))
    if "row_id" not in df.columns:
        raise FrameError("judge_pairs() draws the order by 'row_id': df.pipe(with_row_ids) gives each row its own.")
    samples = df["sample"].to_list() if "sample" in df.columns else [0] * df.height
    drawn = [bool(seed_of("judge_pairs", seed, *name) & 1) for name in zip(df["row_id"], samples, strict=True)]
    return df.with_columns(pl.Series(swapped, drawn, dtype=pl.Boolean))


def _shown(instruction: str, first: str, second: str, swapped: str) -> dict[str, pl.Expr]:
    """What the judge's prompt reads, with the answers in their places."""
    return {
        "instruction": pl.col(instruction),
        "answer_a": pl.when(swapped).then(second).otherwise(first),
        "answer_b": pl.when(swapped).then(first).otherwise(second),
    }


def _read(asked: pl.DataFrame, judge: Judge, into: str) -> pl.DataFrame:
    """The verdicts on the answers as shown: `{into}_label`, `{into}_share`, `{into}_weight`, and why there is none."""
    names = {f"{into}_{name}": dtype for name, dtype in _VERDICT.items()}
    if not isinstance(judge.parser, TokenParser):
        return parse_column(asked, column=f"{into}_text", parser=judge.parser, into=names)
    outcomes = [_of_tokens(call, judge.parser) for call in asked[f"{into}_text_call"]]
    columns = [pl.Series(n, [found[0][i] for found in outcomes], dtype=d) for i, (n, d) in enumerate(names.items())]
    error, kind = pl.col(f"{into}_text_error"), pl.col(f"{into}_text_error").struct.field("kind")
    return asked.with_columns(
        *columns,
        errors([kind for _, kind, _ in outcomes], [why for *_, why in outcomes], f"{into}_text_parse_error"),
        pl.when(kind != "truncated").then(error),  # a verdict of one token is meant to end there
    )


def _of_tokens(call: dict[str, Any] | None, parser: TokenParser) -> tuple[tuple[Any, ...], str | None, str | None]:
    """The verdict of one call, and why there is none."""
    if call is None:
        return (None,) * 3, None, None
    if call["logprobs"] is None:
        why = "the reply came without the log probabilities of its tokens; a judge of texts (one_word) needs none"
        return (None,) * 3, "no_logprobs", why
    try:
        return parser.of_tokens(call["logprobs"]), None, None
    except ValueError as exc:
        return (None,) * 3, UNPARSED, str(exc)


def _settled(df: pl.DataFrame, read: pl.DataFrame, into: str) -> pl.DataFrame:
    """The rows with the verdict's columns, turned to say how far the second answer is preferred."""
    share = pl.col(f"{into}_share")
    read = read.with_columns(pl.when(f"{into}_swapped").then(1.0 - share).otherwise(share).alias(into))
    values = (into, f"{into}_weight", f"{into}_label")
    return settled(df, read, into=into, values=values)

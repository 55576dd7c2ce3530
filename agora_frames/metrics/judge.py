"""A judge grades each row: one value says how it is asked and read, and with its model has one fingerprint."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import polars as pl

from agora_frames.errors import BindError, listed
from agora_frames.fingerprint import fingerprint
from agora_frames.frames import CALL, ERROR, require
from agora_frames.stage import stage
from agora_frames.stages.generate import generate_column
from agora_frames.stages.parse import parse_column
from agora_frames.stages.prompt import render_prompts, template_file
from agora_frames.types import Backend, Message, Observer, Parser

__all__ = [
    "Judge",
    "ask_judge",
    "difficulty",
    "judge_column",
    "judge_fingerprint",
    "packaged",
    "quality",
    "rated",
    "settled",
]

_RUBRICS = Path(__file__).parent / "rubrics"
_DOMAINS = ("math", "code", "general")


@dataclass(frozen=True, repr=False)
class Judge:
    """How a judge is asked and read: all of it but the model.

    name: what it is called in errors and reports. prompt: a template, or a list of messages with templates; it may read
    what the stage shows (`instruction`, `response`, …), `rubric`, and any other column. parser: what it cuts out of a
    reply. rubric: the criteria, inserted as they are. sampling: parameters of `generate_column`.
    follow_up: what is said to a judge whose reply has no verdict; None asks once.
    """

    name: str
    prompt: str | Sequence[Message]
    parser: Parser
    rubric: str = ""
    sampling: Mapping[str, Any] = field(default_factory=lambda: {"temperature": 0.0, "max_tokens": 1024})
    follow_up: str | None = None

    def __fingerprint__(self) -> tuple[object, ...]:
        """What makes a judgement what it is: the name is not part of it, nor the order in which sampling is given."""
        prompt: Any = self.prompt
        if not isinstance(prompt, str):
            prompt = [(message["role"], message["content"]) for message in prompt]
        given = {name: value for name, value in self.sampling.items() if value is not None}
        given |= {name: float(given[name]) for name in ("temperature", "top_p") if name in given}
        return prompt, self.parser, self.rubric, sorted(given.items()), self.follow_up

    def __repr__(self) -> str:
        return f"Judge({self.name!r}, parser={self.parser!r}, sampling={dict(self.sampling)!r})"


def judge_fingerprint(judge: Judge, *, backend: Backend) -> str:
    """32 hex digits of all that makes a judgement: endpoint and model, prompt, rubric, parser, sampling, follow-up.

    The seed is not part of it: another draw is of the same judge. Equal in any process; our own parsers count by what
    they are called and given, one of yours by what it does (see `fingerprint`).
    """
    return fingerprint((backend.endpoint, backend.model, judge))


@dataclass(frozen=True, repr=False)
class _Rated:
    low: int
    high: int

    def __call__(self, text: str) -> int:
        said = re.findall(r"\[RESULT\][\s:*_(\[]*(?:score\b[\s:*_]*)?([+-]?\d[\d.,/–-]*)?", text, re.IGNORECASE)
        if not said:
            raise ValueError("there is no '[RESULT]'")
        found = sorted({number.rstrip(".,-–/").removesuffix(f"/{self.high}") for number in said})
        if len(found) > 1:
            raise ValueError(f"it is ambiguous which score is meant: {listed(found)}")
        if not re.fullmatch(r"\d+", found[0], re.ASCII) or not self.low <= int(found[0]) <= self.high:
            raise ValueError(
                f"wanted a whole number from {self.low} to {self.high} after '[RESULT]', found {found[0] or 'none'!r}"
            )
        return int(found[0])

    @property
    def fingerprint(self) -> str:
        return f"{self!r} v1"

    def __repr__(self) -> str:
        return f"rated({self.low}, {self.high})"


def rated(low: int = 1, high: int = 5) -> _Rated:
    """The whole number that stands after `[RESULT]`, from `low` to `high`.

    Stars, brackets, a colon or the word "score" before it, and `/5` after it, are no hindrance.
    Unparsed: there is no mark; no number, a fraction or one off the scale after it; several marks that disagree.

    >>> rated()("Feedback: each step holds, the last is terse. [RESULT] 4")
    4
    """
    if not all(isinstance(n, int) and not isinstance(n, bool) for n in (low, high)) or not 0 <= low < high:
        raise BindError(f"rated({low!r}, {high!r}): a scale goes from a whole number, at least 0, to a larger one.")
    return _Rated(low, high)


def quality(domain: Literal["math", "code", "general"] = "general") -> Judge:
    """Grades `response` as an answer to `instruction` from 1 to 5, by the rubric of a domain.

    Source: see metrics/rubrics/README.md; the wording is our own.
    """
    return packaged("quality", domain)


def difficulty(domain: Literal["math", "code", "general"] = "general") -> Judge:
    """Rates how hard `instruction` is from 1 to 5, by the rubric of a domain; it does not see the response.

    Source: see metrics/rubrics/README.md; the wording is our own.
    """
    return packaged("difficulty", domain)


def packaged(
    what: str, domain: str, *, rubric: str | None = None, parser: Parser | None = None, follow_up: str | None = None
) -> Judge:
    """The judge with the packaged prompt of `what`, and the criteria of a domain for `rubric` (`what` itself)."""
    if domain not in _DOMAINS:
        raise BindError(f"{what}({domain!r}): there are rubrics for {listed(_DOMAINS)}. For another, make a Judge(…).")
    criteria = (_RUBRICS / (rubric or what) / f"{domain}.jinja").read_text(encoding="utf-8").strip()
    prompt = template_file(_RUBRICS / what / "prompt.jinja")
    return Judge(f"{what}/{domain}", prompt, parser or rated(1, 5), criteria, follow_up=follow_up)


@stage(rowwise=True)
def judge_column(
    df: pl.DataFrame,
    *,
    judge: Judge,
    instruction: str = "instruction",
    response: str = "response",
    into: str = "judgement",
    seed: int | None = 0,
    backend: Backend,
    observer: Observer | None = None,
) -> pl.DataFrame:
    """Grades each row by a rubric, and keeps what the judge said.

    Reads: `row_id`, `sample` if there is one, and what the judge's prompt names: the columns `instruction` and
    `response` stand in it under these names, all others under their own.
    Adds: `into` (Int64: the grade; null when there is none), `{into}_text` (String: the whole reply), `{into}_error`
    (Struct{kind, message}: why there is no grade; null when there is one), `{into}_call` (as of `generate_column`),
    `{into}_judge` (String: `judge_fingerprint`; the same in all rows).
    Rows: the same, in the same order. A failed call, a reply that cannot be read and a row with nothing to be judged
    have a null, never a number.
    judge: `quality("math")`, `difficulty("code")`, …, or a `Judge` of your own. seed: another one draws anew, unless
    the temperature is 0. backend: the model that judges. observer: as of `generate_column`; it sees replies, no grades.
    Raises: as `render_prompts` and `generate_column`.

    >>> import agora_frames as af
    >>> strict = af.scripted(lambda messages: "Feedback: no step is shown. [RESULT] 2", model="strict")
    >>> df = pl.DataFrame({"instruction": ["1 + 1?", "2 + 2?"], "response": ["2", None]}).pipe(af.with_row_ids)
    >>> done = df.pipe(judge_column, judge=quality("math"), into="quality", backend=strict)
    >>> done["quality"].to_list(), done["quality_error"].struct.field("kind").to_list()
    ([2, None], [None, 'null_value'])
    """
    given = {"instruction": instruction, "response": response}
    require(df, *(column for name, column in given.items() if column != name), stage="judge_column")
    shown = {name: pl.col(column) for name, column in given.items() if column in df.columns}
    asked = ask_judge(df, judge=judge, shown=shown, into=into, seed=seed, backend=backend, observer=observer)
    parsed = parse_column(asked, column=f"{into}_text", parser=judge.parser, into={into: pl.Int64})
    return settled(df, parsed, into=into, values=(into,))


def ask_judge(
    df: pl.DataFrame,
    *,
    judge: Judge,
    shown: Mapping[str, pl.Expr],
    into: str,
    seed: int | None,
    backend: Backend,
    observer: Observer | None = None,
    unless: pl.Expr | None = None,
) -> pl.DataFrame:
    """The rows with `{into}_prompt` and the judge's reply to it, `{into}_text`, each with its error; no verdict yet.

    shown: what the prompt reads that is no column of `df` by that name. unless: rows that need no judge are not asked.
    """
    if not isinstance(judge, Judge):
        raise BindError(f"judge={judge!r:.80} is no judge: write judge=quality('math'), or make a Judge(…).")
    if read := [name for name, value in shown.items() if into in (name, *value.meta.root_names())]:
        raise BindError(
            f"into={into!r} would write the verdict over what is judged: the judge is shown it as {read[0]!r}."
        )
    seen = df.with_columns(rubric=pl.lit(judge.rubric), **shown)
    prompts = render_prompts(seen, template=judge.prompt, into=f"{into}_prompt")
    df = df.drop(f"{into}_text_parse_error", strict=False)  # of an earlier judge
    df = df.with_columns(prompts.select(f"{into}_prompt", f"{into}_prompt_error"))
    if unless is not None:
        why = pl.lit({"kind": "no_judge", "message": "this row needs none"}, dtype=ERROR)
        prompt, error = pl.col(f"{into}_prompt"), pl.col(f"{into}_prompt_error")
        needed = ~unless.fill_null(False)
        df = df.with_columns(pl.when(needed).then(prompt), pl.when(needed).then(error).otherwise(why))
    done = generate_column(
        df,
        column=f"{into}_prompt",
        into=f"{into}_text",
        **judge.sampling,
        seed=seed,
        backend=backend,
        observer=observer,
    )
    return done.with_columns(pl.lit(judge_fingerprint(judge, backend=backend)).alias(f"{into}_judge"))


def settled(df: pl.DataFrame, parsed: pl.DataFrame, *, into: str, values: Sequence[str]) -> pl.DataFrame:
    """The rows of `df` with the verdict's columns: its values, or else the first reason why there are none."""
    errors = [f"{into}_prompt_error", f"{into}_text_error", f"{into}_text_parse_error"]
    kind = pl.col(f"{into}_text_error").struct.field("kind")
    # A reply that was cut off may have said its verdict before; whether it has, its text tells.
    whole = kind.is_null() | (kind == "truncated")
    good = whole & pl.all_horizontal(pl.col(name).is_not_null() for name in values)
    return df.with_columns(
        parsed.select(
            *(pl.when(good).then(name).alias(name) for name in values),
            f"{into}_text",
            pl.when(~good).then(pl.coalesce(errors)).cast(ERROR).alias(f"{into}_error"),
            pl.col(f"{into}_text_call").cast(CALL).alias(f"{into}_call"),
            f"{into}_judge",
        )
    )

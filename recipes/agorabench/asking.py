"""What the nine settings have in common: how a row is asked, how its reply is read, and how the rows are laid out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import polars as pl

from agora_frames.compose import AnyStage, recipe
from agora_frames.recipes.agorabench.domains import DOMAINS, DomainName
from agora_frames.schemas import schema_for
from agora_frames.stage import Stage, stage
from agora_frames.stages.generate import generate_column
from agora_frames.stages.parse import parse_column
from agora_frames.stages.parsers import json_object, split_on
from agora_frames.stages.prompt import render_prompts, template_file
from agora_frames.stages.tokens import count_tokens
from agora_frames.stages.validate import validate
from agora_frames.tokenizer import load_tokenizer
from agora_frames.types import Backend, Message, Parser

__all__ = ["Format", "Strictness", "chat_of", "from_seeds", "instances_asked", "laid_out"]

Format = Literal["markers", "json"]
Strictness = Literal["corrected", "agorabench"]

# The markers between the two texts, as in data-agora (agora_scripts/run.py at d7e66e1, lines 277-292), and its stop
# phrase. A response is all of its reply: it has no markers, and is not stopped.
_MARKERS = {
    "instance_generation": ("INPUT:", "OUTPUT:"),
    "quality_enhancement": ("Revised Question:", "Revised Answer:"),
}
_STOP = "[END]"

# In JSON, what the form of a response is made of has keys of its own, so that a schema holds the model to the form.
_TEXT = {"type": "string"}
_TAGS = ["python", "java", "cpp", "c", "javascript", "csharp", "php"]
_PARTS: dict[DomainName, dict[str, Any]] = {
    "math": {"solution": _TEXT, "result": _TEXT},
    "code": {"language": {"type": "string", "enum": _TAGS}, "code": _TEXT},
    "general": {"response": _TEXT},
}

# Where the texts stand in a row, in front of all else.
_FIRST = ("row_id", "instruction", "response", "config", "parents", "theme", "first_words", "slot", "round", "attempt")


def instances_asked(
    method: Literal["instance_generation", "response_generation", "quality_enhancement"],
    domain: DomainName,
    *,
    template: Sequence[Message] | None = None,
    format: Format,
    strictness: Strictness,
    token_limit: int | None,
    tokenizer: str | None = None,
    themes: bool = False,
    sampling: Mapping[str, Any],
    backend: Backend,
) -> Stage:
    """Rows in, each asked once, its reply read and judged: what `until_rows` repeats.

    template: unless given, the setting's own. format: `markers`, a free form with markers between the texts; `json`, an
    object that the backend is held to by a schema, in which solution and result, or language and code, stand apart.
    strictness, token_limit: see `schema_for`. tokenizer: of the student, by `load_tokenizer`; unless given, the one
    that ships. themes: code must be in the language of its theme. sampling: of `generate_column`.
    """
    into = ("response",) if method == "response_generation" else ("instruction", "response")
    free = method not in _MARKERS
    parser: Parser = str.strip if free else split_on(*_MARKERS[method], end=_STOP, start_given=True)
    told: dict[str, Any] = {} if free else {"stop": [_STOP]}
    if format == "json":
        keys = {**dict.fromkeys(into[:-1], _TEXT), **_PARTS[domain]}
        parser, told = _FromJson(tuple(keys), domain), {"response_format": _held_to(keys)}
    schema = schema_for(domain, strictness=strictness, max_tokens=token_limit, themes=themes, method=method)
    own: dict[str, Any] = {} if tokenizer is None else {"tokenizer": load_tokenizer(tokenizer)}
    counting = [count_tokens(**own)] if token_limit is not None else []
    steps: list[AnyStage] = [
        in_form(as_json=format == "json"),
        render_prompts(template=template or chat_of(template_file(DOMAINS[domain].prompt(method)))),
        generate_column(**sampling, **told, backend=backend),
        parse_column(column="completion", parser=parser, into=into),
        named_after_model(),
        *counting,
        validate(schema=schema),
    ]
    return recipe(*steps, name=f"{method}_{domain}")


def _held_to(keys: Mapping[str, Any]) -> dict[str, Any]:
    """The response format of an object with these keys, as OpenAI's chat completions take it."""
    schema = {"type": "object", "properties": keys, "required": list(keys), "additionalProperties": False}
    return {"type": "json_schema", "json_schema": {"name": "instance", "strict": True, "schema": schema}}


@dataclass(frozen=True)
class _FromJson:
    """A parser of objects with these keys, that puts the parts of a response together in its domain's form."""

    keys: tuple[str, ...]
    domain: DomainName

    def __call__(self, text: str) -> tuple[str, ...]:
        found = json_object(*self.keys)(text)
        values = [found] if len(self.keys) == 1 else list(found)
        if strange := [key for key, value in zip(self.keys, values, strict=True) if not isinstance(value, str)]:
            raise ValueError(f"the value of {strange[0]!r} is no text")
        *before, last = values
        if self.domain == "math":
            return (*before[:-1], f"{before[-1]}\n[RESULT] {last} [/RESULT]")
        if self.domain == "code":
            return (*before[:-1], f"```{before[-1]}\n{last}\n```")
        return (*before, last)


def chat_of(template: str | Sequence[Message]) -> list[Message]:
    """A template as the turns of a chat."""
    return [Message(role="user", content=template)] if isinstance(template, str) else list(template)


@stage(rowwise=True)
def in_form(df: pl.DataFrame, *, as_json: bool) -> pl.DataFrame:
    """What the prompts ask for the form. Adds: `as_json` (Boolean), and `feedback` (String, null) if it is missing."""
    feedback = [] if "feedback" in df.columns else [pl.lit(None, dtype=pl.String).alias("feedback")]
    return df.with_columns(pl.lit(as_json).alias("as_json"), *feedback)


@stage(rowwise=True)
def from_seeds(df: pl.DataFrame, *, aside: Sequence[str] = ("response", "config")) -> pl.DataFrame:
    """The seed's own texts and origin step aside, and its `row_id` becomes the parent of what is made of it.

    In a frame that was made by such a recipe they have stepped aside already: it may be run again.

    Reads: `row_id`, and the columns `aside`. Adds: `seed_…` in their place, as far as there are any; `parents`
    (List(String)). Rows: the same, in the same order.
    """
    names = {name: f"seed_{name}" for name in aside if name in df.columns and f"seed_{name}" not in df.columns}
    return df.rename(names).with_columns(pl.concat_list("row_id").alias("parents"))


@stage(rowwise=True)
def named_after_model(df: pl.DataFrame) -> pl.DataFrame:
    """Reads: `completion_call`. Adds: `config` (String: the model's name; null where it was not asked)."""
    return df.with_columns(pl.col("completion_call").struct.field("model").alias("config"))


@stage(rowwise=True)
def laid_out(df: pl.DataFrame) -> pl.DataFrame:
    """Puts the instance and its origin in front. Leaves out `demos` (the prompt has them, `parents` names them) and
    `as_json`. Rows: the same, in the same order.
    """
    first = [name for name in _FIRST if name in df.columns]
    return df.select(*first, pl.exclude(*first, "demos", "as_json"))

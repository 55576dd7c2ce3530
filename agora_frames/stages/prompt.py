"""Prompts from a template and a frame, before anything is spent."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
from jinja2 import TemplateError as JinjaError
from jinja2 import TemplateSyntaxError, meta

from agora_frames.errors import TemplateError, did_you_mean, listed
from agora_frames.frames import MESSAGES, errors
from agora_frames.stage import stage
from agora_frames.stages.files import file_text
from agora_frames.stages.plain import inserted, plain_body
from agora_frames.stages.sandbox import NullUsed, environment, seen
from agora_frames.types import Message

__all__ = ["render_prompts", "template_file"]

_ROWS_AT_ONCE = 1000
_ROLE_LINE = re.compile(r"^\[\[(system|user|assistant)\]\][ \t]*$", re.MULTILINE)


@stage(rowwise=True)
def render_prompts(
    df: pl.DataFrame,
    *,
    template: str | Sequence[Message],
    system: str | None = None,
    into: str = "prompt",
) -> pl.DataFrame:
    """Fills a Jinja2 template from the columns of each row.

    Reads: the columns that the template names.
    Adds: `into` (String; with `system`, or a list of messages, List(Struct{role, content}); null when it could
    not be rendered), `{into}_error` (Struct{kind, message}; null when it could).
    Rows: the same, in the same order.
    template: the text, or a list of messages whose `content` are templates. Of a file: `template_file(path)`.
    system: the template of a system message to go in front.
    A value is inserted once and as it is: what looks like a template or a marker in it stays text. A null value
    that would be printed makes the row fail (`null_value`) instead of reading "None"; test it, `{% if x %}`, or
    name what to say instead, `{{ x or "none" }}`. Templates run in Jinja2's immutable sandbox, without the
    random functions.
    Raises: TemplateError, before any row is rendered, for a wrong template or a variable that is no column.

    >>> df = pl.DataFrame({"topic": ["primes", "{{ sets }}"]})
    >>> render_prompts(df, template="A question on {{ topic }}.")["prompt"].to_list()
    ['A question on primes.', 'A question on {{ sets }}.']
    """
    texts = _messages(template, system)
    fills = [_compiled(m["content"]) for m in texts]
    names = sorted(set().union(*(_variables(m["content"], df.columns) for m in texts)))
    as_chat = _is_chat(template, system)
    schema = df.select(names).schema
    plain = [body for m in texts if (body := plain_body(m["content"], schema)) is not None]
    if names and len(plain) == len(texts):
        return df.with_columns(inserted(texts, plain, df, into, as_chat=as_chat))
    dtype = MESSAGES if as_chat else pl.String()
    parts = [_rendered(part, fills, texts, into, dtype) for part in _parts(df, names)]
    return df.with_columns(pl.concat(parts).get_columns())


def template_file(path: str | Path) -> str | list[Message]:
    """The template in a file: a text, or, where lines of their own say `[[system]]`, `[[user]]` or `[[assistant]]`,
    a list of messages.

    Raises: TemplateError when there is no such file, with the nearest one that is there, or when a chat does not begin
    with such a line.
    """
    path = Path(path)
    text = file_text(path, what="template", error=TemplateError)
    before, *parts = _ROLE_LINE.split(text)
    if not parts:
        return text
    if before.strip():
        raise TemplateError(f"the chat template {str(path)!r} must begin with a line such as [[user]].")
    return [Message(role=role, content=said.strip()) for role, said in zip(parts[::2], parts[1::2], strict=True)]


def _is_chat(template: str | Sequence[Message], system: str | None) -> bool:
    return system is not None or not isinstance(template, str)


def _messages(template: object, system: str | None) -> list[Message]:
    """The templates as a list of messages."""
    if isinstance(template, Path):
        raise TemplateError(
            f"template={template!r} is a path: give its text, template=template_file({str(template)!r})."
        )
    if not isinstance(system, str | None):
        raise TemplateError(f"system={system!r} is no text. Of a file: system=template_file(path).")
    if isinstance(template, str):
        texts = [Message(role="user", content=template)]
    elif isinstance(template, Sequence) and template and all(map(_is_message, template)):
        texts = list(template)
    else:
        raise TemplateError(
            f"template={template!r} is neither a text nor a list of messages such as "
            "[{'role': 'user', 'content': '…'}]."
        )
    return texts if system is None else [Message(role="system", content=system), *texts]


def _is_message(value: object) -> bool:
    return (
        isinstance(value, Mapping)
        and value.keys() == {"role", "content"}
        and all(isinstance(said, str) for said in value.values())
    )


def _compiled(text: str) -> Callable[[Mapping[str, Any]], str]:
    env = environment()
    try:
        others = list(meta.find_referenced_templates(env.parse(text)))
        fill = env.from_string(text).render
    except TemplateSyntaxError as exc:
        line = re.split(r"\r\n?|\n", text)[exc.lineno - 1 : exc.lineno] or [""]
        raise TemplateError(f"the template is wrong in line {exc.lineno}, {line[0].strip()!r}: {exc.message}") from exc
    except JinjaError as exc:
        raise TemplateError(f"the template is wrong: {exc}") from exc
    if others:
        raise TemplateError(
            f"the template includes, imports or extends {listed(others)}, but a template stands alone: "
            "join the texts in Python, template_file(a) + template_file(b)."
        )
    return fill


def _variables(text: str, columns: Sequence[str]) -> set[str]:
    """The columns that a template reads."""
    env = environment()
    functions, env.globals = env.globals, {}  # a column comes before a function of the same name
    variables = meta.find_undeclared_variables(env.parse(text))
    for name in sorted(variables - set(columns) - functions.keys()):
        raise TemplateError(
            f"the template asks for {name!r}, which is no column{did_you_mean(name, columns) or '.'} "
            f"The frame has: {listed(columns) or 'no columns'}."
        )
    return variables & set(columns)


def _parts(df: pl.DataFrame, names: list[str]) -> Iterator[list[dict[str, Any]]]:
    """The rows in parts, so that the values of all are never there twice; at least one part, if an empty one."""
    for offset in range(0, max(df.height, 1), _ROWS_AT_ONCE):
        part = df[offset : offset + _ROWS_AT_ONCE]
        yield [dict(zip(names, row, strict=True)) for row in part.select(names).rows()] if names else [{}] * part.height


def _rendered(
    rows: Iterable[Mapping[str, Any]],
    fills: Sequence[Callable[[Mapping[str, Any]], str]],
    texts: list[Message],
    into: str,
    dtype: pl.DataType,
) -> pl.DataFrame:
    """The prompts of some rows, and the reasons why there are none."""
    prompts: list[Any] = []
    kinds: list[str | None] = []
    messages: list[str | None] = []
    for row in rows:
        filled, (kind, message) = _filled(fills, {n: v if isinstance(v, str) else seen(n, v) for n, v in row.items()})
        prompts.append(filled and _prompt(filled, texts, as_chat=dtype != pl.String))
        kinds.append(kind)
        messages.append(message)
    return pl.DataFrame([pl.Series(into, prompts, dtype=dtype), errors(kinds, messages, f"{into}_error")])


def _filled(
    fills: Sequence[Callable[[Mapping[str, Any]], str]], values: Mapping[str, Any]
) -> tuple[list[str] | None, tuple[str | None, str | None]]:
    try:
        filled = [fill(values) for fill in fills]
        for text in filled:
            text.encode()  # half a surrogate pair, written as an escape in the template, is no text
        return filled, (None, None)
    except NullUsed as exc:
        return None, ("null_value", str(exc))
    except Exception as exc:  # a template can fail on a value in any way; the row keeps the reason
        return None, ("template_error", f"{type(exc).__name__}: {exc}")


def _prompt(filled: list[str], texts: list[Message], *, as_chat: bool) -> Any:
    if not as_chat:
        return filled[0]
    return [Message(role=m["role"], content=content) for m, content in zip(texts, filled, strict=True)]

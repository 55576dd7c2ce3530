"""Prompts from a template and a frame, before anything is spent."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn

import polars as pl
from jinja2 import StrictUndefined, TemplateSyntaxError, Undefined, meta, nodes
from jinja2 import TemplateError as JinjaError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from agora_frames.errors import TemplateError, did_you_mean, listed
from agora_frames.frames import ERROR, MESSAGES, errors
from agora_frames.stage import stage
from agora_frames.types import Message

__all__ = ["render_prompts", "template_file"]

# A short template can fill the memory, and no prompt is that long.
_LONGEST = 10_000_000
# The environment joins what is printed in parts of so many pieces, and looks at the length after the first.
_PIECES = 1000
_ROWS_AT_ONCE = 1000
_ROLE_LINE = re.compile(r"^\[\[(system|user|assistant)\]\][ \t]*$", re.MULTILINE)
_SURROGATE = re.compile("[\ud800-\udfff]")

# Types whose values read in Polars as they do in Python.
_WRITTEN_ALIKE = (
    *(pl.String, pl.Boolean, pl.Int8, pl.Int16, pl.Int32, pl.Int64, pl.UInt8, pl.UInt16, pl.UInt32, pl.UInt64),
)


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
    plain = [body for m in texts if (body := _plain_body(m["content"], schema)) is not None]
    if names and len(plain) == len(texts):
        return df.with_columns(_inserted(texts, plain, df, into, as_chat=as_chat))
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
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as exc:
        there = sorted(p.name for p in path.parent.glob("*")) if path.parent.is_dir() else []
        near = did_you_mean(path.name, there) or "."
        raise TemplateError(f"there is no template file {str(path)!r}{near} In its folder: {listed(there)}.") from exc
    except (OSError, UnicodeDecodeError) as exc:
        raise TemplateError(f"the template file {str(path)!r} cannot be read: {exc}") from exc
    before, *parts = _ROLE_LINE.split(text)
    if not parts:
        return text
    if before.strip():
        raise TemplateError(f"the chat template {str(path)!r} must begin with a line such as [[user]].")
    return [Message(role=role, content=said.strip()) for role, said in zip(parts[::2], parts[1::2], strict=True)]


class _Sandbox(ImmutableSandboxedEnvironment):
    """Jinja2's sandbox, in which a template can neither grow without end nor meet a method in the place of a field.

    Not bounded: the time of loops that print nothing, and what `~`, `%` and padding filters make of one value.
    """

    intercepted_binops = frozenset({"+", "*", "**"})

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if _size_of(operator, left, right) > _LONGEST:
            raise JinjaError(f"{operator!r} would make more than {_LONGEST:,} characters")
        return super().call_binop(context, operator, left, right)

    def getattr(self, obj: Any, attribute: str) -> Any:
        if isinstance(obj, dict) and attribute in obj:
            return obj[attribute]
        return super().getattr(obj, attribute)

    @staticmethod
    def concat(pieces: Iterable[str]) -> str:
        """Joins what a template prints, as it is printed, so that a loop without end is stopped."""
        printed = iter(pieces)
        text = "".join(islice(printed, _PIECES))
        while some := list(islice(printed, _PIECES)):
            text += "".join(some)
            if len(text) > _LONGEST:
                raise JinjaError(f"the prompt would be longer than {_LONGEST:,} characters")
        return text


def _size_of(operator: str, left: Any, right: Any) -> int:
    """About how many characters, items or bits an operator would make."""
    if isinstance(left, int) and isinstance(right, int):
        return left.bit_length() * right if operator == "**" else left.bit_length() + right.bit_length()
    if operator == "+":
        return sum(len(value) for value in (left, right) if isinstance(value, Sized))
    for value, times in ((left, right), (right, left)):
        if isinstance(value, Sized) and isinstance(times, int):
            return len(value) * times
    return 0


class _Undefined(StrictUndefined):
    """What is not there fails its row, also inside a list that is printed."""

    __repr__ = StrictUndefined._fail_with_undefined_error


class _NullUsed(Exception):
    """A null would have become the text "None"."""


def _null_printed(name: str) -> str:
    return f"null would be printed: {name!r}"


class _Null:
    """A null as a template sees it: false, equal to none, and never a text, in whatever filter it ends."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __bool__(self) -> bool:
        return False

    def __eq__(self, other: object) -> bool:
        return other is None or isinstance(other, _Null)

    def __hash__(self) -> int:
        return hash(None)

    def _used(self, *_: object) -> NoReturn:
        raise _NullUsed(_null_printed(self._name))

    __str__ = __repr__ = __format__ = __len__ = __iter__ = __getitem__ = _used


def _seen(name: str, value: Any) -> Any:
    """A cell as a template sees it."""
    if value is None:
        return _Null(name)
    if isinstance(value, list):
        return [_seen(name, item) for item in value]
    if isinstance(value, dict):
        return {field: _seen(f"{name}.{field}", item) for field, item in value.items()}
    return value


def _finalize(value: Any) -> Any:
    """What is printed: neither none, nor something that shows its address instead of a content."""
    if isinstance(value, str):
        return value
    if value is None:
        raise _NullUsed("null would be printed: an expression that gives none")
    if isinstance(value, Iterator) or (callable(value) and not isinstance(value, Undefined)):
        raise TypeError(f"a {type(value).__name__} would be printed: call it, or join it: {{{{ … | join(', ') }}}}")
    return value


def _environment() -> _Sandbox:
    env = _Sandbox(undefined=_Undefined, trim_blocks=True, lstrip_blocks=True, finalize=_finalize)
    env.globals = {"range": env.globals["range"]}
    del env.filters["random"]
    env.tests["none"] = lambda value: value is None or isinstance(value, _Null)
    env.policies["json.dumps_kwargs"] = {"ensure_ascii": False, "default": _json_value}
    return env


def _json_value(value: Any) -> None:
    if not isinstance(value, _Null):
        raise TypeError(f"a {type(value).__name__} has no JSON form")


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
    env = _environment()
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
    env = _environment()
    functions, env.globals = env.globals, {}  # a column comes before a function of the same name
    variables = meta.find_undeclared_variables(env.parse(text))
    for name in sorted(variables - set(columns) - functions.keys()):
        raise TemplateError(
            f"the template asks for {name!r}, which is no column{did_you_mean(name, columns) or '.'} "
            f"The frame has: {listed(columns) or 'no columns'}."
        )
    return variables & set(columns)


def _plain_body(text: str, schema: Mapping[str, pl.DataType]) -> list[nodes.Node] | None:
    """A template that prints nothing but texts and columns that Polars writes alike, in branches that hang on such."""
    parsed = _environment().parse(text)
    leaves = sum(1 for _ in parsed.find_all((nodes.TemplateData, nodes.Name)))
    return parsed.body if leaves <= _PIECES and all(_is_plain(node, schema) for node in parsed.body) else None


def _is_plain(node: nodes.Node, schema: Mapping[str, pl.DataType]) -> bool:
    if isinstance(node, nodes.Output):
        return all(_is_plain(piece, schema) for piece in node.nodes)
    if isinstance(node, nodes.If):
        test = node.test.node if isinstance(node.test, nodes.Not) else node.test
        inner = (*node.body, *node.elif_, *node.else_)
        return (
            isinstance(test, nodes.Name) and _is_plain(test, schema) and all(_is_plain(each, schema) for each in inner)
        )
    if isinstance(node, nodes.TemplateData):
        return not _SURROGATE.search(node.data)
    # Letters that Python reads as others in a name, such as a ligature, are left to Jinja2, whose names are Python's.
    return isinstance(node, nodes.Name) and node.name.isascii() and schema.get(node.name) in _WRITTEN_ALIKE


def _inserted(
    texts: list[Message], plain: list[list[nodes.Node]], df: pl.DataFrame, into: str, *, as_chat: bool
) -> tuple[pl.Expr, pl.Expr]:
    """Prompts and errors of templates that only insert columns, made by Polars: many times faster, and the same."""
    printed = [_printed(body, df) for body in plain]
    contents = [content for content, _ in printed]
    prompt = contents[0]
    if as_chat:
        turns = [pl.struct(role=pl.lit(m["role"]), content=c) for m, c in zip(texts, contents, strict=True)]
        whole = pl.all_horizontal(content.is_not_null() for content in contents)
        prompt = pl.when(whole).then(pl.concat_arr(turns).arr.to_list())  # 20 times as fast as concat_list
    message = pl.coalesce(*(unsaid for _, unsaid in printed))
    error = pl.when(message.is_not_null()).then(pl.struct(kind=pl.lit("null_value"), message=message)).cast(ERROR)
    return prompt.alias(into), error.alias(f"{into}_error")


def _printed(body: Sequence[nodes.Node], df: pl.DataFrame) -> tuple[pl.Expr, pl.Expr]:
    """What is printed; and where that is null, because a null would be, the message of the first one."""
    pieces, unsaid = [pl.lit("")], [pl.lit(None, dtype=pl.String)]
    for node in body:
        if isinstance(node, nodes.If):
            piece, message = _branch(node, df)
            pieces.append(piece)
            unsaid.append(message)
            continue
        for leaf in node.nodes if isinstance(node, nodes.Output) else [node]:
            pieces.append(_written(leaf, df.schema))
            if isinstance(leaf, nodes.Name) and df[leaf.name].has_nulls():
                unsaid.append(pl.when(pl.col(leaf.name).is_null()).then(pl.lit(_null_printed(leaf.name))))
    return pl.concat_str(pieces), pl.coalesce(*unsaid)


def _branch(node: nodes.If, df: pl.DataFrame) -> tuple[pl.Expr, pl.Expr]:
    """The same of one branch or another."""
    content, message = _printed(node.else_, df)
    for each in reversed([node, *node.elif_]):
        holds = _is_true(each.test, df.schema)
        inner, inner_message = _printed(each.body, df)
        content = pl.when(holds).then(inner).otherwise(content)
        message = pl.when(holds).then(inner_message).otherwise(message)
    return content, message


def _is_true(test: nodes.Node, schema: Mapping[str, pl.DataType]) -> pl.Expr:
    """As Python sees it: neither null, nor empty, nor zero."""
    if isinstance(test, nodes.Not):
        return ~_is_true(test.node, schema)
    assert isinstance(test, nodes.Name)
    column, dtype = pl.col(test.name), schema[test.name]
    is_true = column if dtype == pl.Boolean else column != (pl.lit("") if dtype == pl.String else 0)
    return is_true.fill_null(False)


def _written(leaf: nodes.Node, schema: Mapping[str, pl.DataType]) -> pl.Expr:
    if isinstance(leaf, nodes.TemplateData):
        return pl.lit(leaf.data)
    assert isinstance(leaf, nodes.Name)
    column = pl.col(leaf.name)
    if schema[leaf.name] == pl.Boolean:
        return pl.when(column).then(pl.lit("True")).when(~column).then(pl.lit("False"))
    return column.cast(pl.String)


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
        filled, (kind, message) = _filled(fills, {n: v if isinstance(v, str) else _seen(n, v) for n, v in row.items()})
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
    except _NullUsed as exc:
        return None, ("null_value", str(exc))
    except Exception as exc:  # a template can fail on a value in any way; the row keeps the reason
        return None, ("template_error", f"{type(exc).__name__}: {exc}")


def _prompt(filled: list[str], texts: list[Message], *, as_chat: bool) -> Any:
    if not as_chat:
        return filled[0]
    return [Message(role=m["role"], content=content) for m, content in zip(texts, filled, strict=True)]

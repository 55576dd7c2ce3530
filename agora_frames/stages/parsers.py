"""Parsers say what they cut out of a text; a text without it is unparsed, never passed on whole.

A parser is a function of one text that gives one value, or a tuple of values in order. When the text lacks
what is looked for, it raises a ValueError with the reason (or gives None). Any function of yours that does so
works the same way. The texts that these give are stripped of surrounding white space.

A parser may also have a method `columns(texts, dtypes)` that gives one pl.Series per value, or None: the same work by
Polars for all texts at once, which is faster. It must be null wherever it is not sure to give what a call gives.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from agora_frames.errors import BindError, did_you_mean, listed

__all__ = [
    "between",
    "boxed",
    "check_numbers",
    "code_block",
    "fenced_blocks",
    "json_object",
    "objects_in",
    "split_on",
    "tagged",
]

# What Python's `str.strip` takes away; Polars' own notion lacks U+001C to U+001F.
WHITE = (
    "\t\n\x0b\x0c\r\x1c\x1d\x1e\x1f \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000"
)

# The start of a line on which a marker counts: up to three spaces, a heading of level two or deeper
# (`# INPUT:` is a comment in too many languages). Texts get a line break in front before this is looked for.
LINE_START = r"\n {0,3}(?:#{2,6} +)?"

# How a value is written in JSON that Polars and Python are sure to read alike, by the type of its column.
_JSON_FORMS = {
    pl.String(): '"',
    pl.Int64(): r"(?:0|-?[1-9][0-9]{0,17})[,}\s]",
    pl.Float64(): r"(?:0|-?[1-9][0-9]{0,14}|-?(?:0|[1-9][0-9]{0,14})\.[0-9]{1,20})[,}\s]",
}
_JSON_INTEGERS = (pl.Int8, pl.Int16, pl.Int32, pl.Int64, pl.UInt8, pl.UInt16, pl.UInt32, pl.UInt64)


@dataclass(frozen=True, repr=False)
class _SplitOn:
    markers: tuple[str, ...]
    end: str | None
    start_given: bool

    def __call__(self, text: str) -> str | tuple[str, ...]:
        text = "\n" + (text if self.end is None else text.partition(self.end)[0])
        longest_first = sorted(map(re.escape, self.markers), key=len, reverse=True)
        pattern = rf"{LINE_START}(?P<bold>\*{{0,3}})(?P<marker>{'|'.join(longest_first)})(?P=bold)"
        cuts = [(m["marker"], m.start(), m.end()) for m in re.finditer(pattern, text)]
        if self.start_given and not (cuts and cuts[0][0] == self.markers[0] and not text[: cuts[0][1]].strip()):
            cuts.insert(0, (self.markers[0], 0, 0))
        self._require_each_once([marker for marker, _, _ in cuts])
        borders = [*(begin for _, begin, _ in cuts[1:]), len(text)]
        fields = [
            _visible(text[after:until], f"nothing comes after {marker!r}")
            for (marker, _, after), until in zip(cuts, borders, strict=True)
        ]
        return fields[0] if len(fields) == 1 else tuple(fields)

    def _require_each_once(self, found: list[str]) -> None:
        for marker in self.markers:
            if marker not in found:
                raise ValueError(f"no line begins with {marker!r}")
            if found.count(marker) > 1:
                raise ValueError(f"{found.count(marker)} lines begin with {marker!r}: it is ambiguous which is meant")
        if tuple(found) != self.markers:
            raise ValueError(f"the markers come in another order: {listed(found)}")

    def columns(self, texts: pl.Series, dtypes: Sequence[pl.DataType]) -> list[pl.Series]:
        # Sure when each marker occurs once in all, at the very start of a line; the rest is left to the call.
        text = texts if self.end is None else texts.str.split(self.end).list.get(0)
        given = self.markers[:1] if self.start_given else ()
        sure = pl.Series([True]).new_from_index(0, len(texts))
        for marker in self.markers:  # (as a pattern it is found twice as fast as as a literal)
            sure &= text.str.count_matches(pl.escape_regex(marker)) == int(marker not in given)
        rest, fields = text, []
        for place, marker in enumerate(self.markers[len(given) :]):
            first = not given and place == 0
            halves = rest.str.split(marker if first else f"\n{marker}")
            before, rest = halves.list.get(0), halves.list.get(1, null_on_oob=True)
            if first:
                sure &= (before == "") | before.str.ends_with("\n")
            else:
                fields.append(before)
        return [_unless_empty(field, sure) for field in (*fields, rest)]

    def __repr__(self) -> str:
        options = [] if self.end is None else [f"end={self.end!r}"]
        options += ["start_given=True"] if self.start_given else []
        return f"split_on({', '.join([*map(repr, self.markers), *options])})"


def split_on(*markers: str, end: str | None = None, start_given: bool = False) -> _SplitOn:
    """Cuts a text at its markers: one value for each, what stands after it and before the next.

    markers: each must begin exactly one line, spelt as given and in this order; within a line a marker is content.
    Up to three spaces, a heading (`##` and deeper) or stars that close again (`**INPUT:**`) may decorate it.
    What stands before the first marker is left out.
    end: a stop phrase; it and all that follows are cut off, if it is there.
    start_given: the prompt ended with the first marker, so the text begins with the first value; a model that
    says the marker again is understood.
    Unparsed: a marker is missing, out of order, or begins several lines (the model ran on into another example);
    a value is empty.

    >>> split_on("INPUT:", "OUTPUT:")("INPUT: Given INPUT: 3 4 and OUTPUT: 7, what is done?\\nOUTPUT: A sum.")
    ('Given INPUT: 3 4 and OUTPUT: 7, what is done?', 'A sum.')
    >>> split_on("OUTPUT:", end="[END]", start_given=True)(" A sum. [END] And so on")
    'A sum.'
    """
    stripped = tuple(_marker(marker, "split_on") for marker in markers)
    if not stripped or len(set(stripped)) < len(stripped):
        raise BindError(f"split_on() needs one or more different markers, and was given {listed(markers) or 'none'}.")
    if end is not None:
        _marker(end, "split_on")
    return _SplitOn(stripped, end, start_given)


@dataclass(frozen=True, repr=False)
class _Between:
    start: str
    end: str

    def __call__(self, text: str) -> str:
        opened, closed = text.count(self.start), text.count(self.end)
        inside, end, _ = text.partition(self.start)[2].partition(self.end)
        if opened != 1 or closed != 1:
            raise ValueError(f"wanted one {self.start!r} and one {self.end!r}, found {opened} and {closed}")
        if not end:
            raise ValueError(f"{self.end!r} comes before {self.start!r}")
        return _visible(inside, f"nothing stands between {self.start!r} and {self.end!r}")

    def expressions(self, column: pl.Expr) -> tuple[pl.Expr]:
        once = [column.str.count_matches(marker, literal=True) == 1 for marker in (self.start, self.end)]
        halves = column.str.split(self.start).list.get(1, null_on_oob=True).str.split(self.end)
        inside = halves.list.get(0).str.strip_chars(WHITE)
        return (pl.when(*once, halves.list.len() == 2, inside != "").then(inside),)

    def columns(self, texts: pl.Series, dtypes: Sequence[pl.DataType]) -> list[pl.Series]:
        return pl.select(*self.expressions(pl.lit(texts))).get_columns()

    def __repr__(self) -> str:
        tag = self.start[1:-1]
        is_tag = (self.start, self.end) == (f"[{tag}]", f"[/{tag}]")
        return f"tagged({tag!r})" if is_tag else f"between({self.start!r}, {self.end!r})"


def between(start: str, end: str) -> _Between:
    """What stands between the one `start` and the one `end`.

    Unparsed: either is missing or occurs more than once, they come the other way round, nothing is inside.

    >>> between("<answer>", "</answer>")("So <answer> 42 </answer>.")
    '42'
    """
    for marker in (start, end):
        _marker(marker, "between")
    if start == end:
        raise BindError(f"between() needs two different markers, and was given {start!r} twice.")
    return _Between(start, end)


def tagged(tag: str) -> _Between:
    """What stands in the one `[TAG] … [/TAG]`, as in `between`.

    >>> tagged("RESULT")("The sum is 6 + 36. [RESULT] 42 [/RESULT]")
    '42'
    """
    _marker(tag, "tagged")
    return _Between(f"[{tag}]", f"[/{tag}]")


def fenced_blocks(text: str) -> list[tuple[str, str]]:
    """The tag (in lower case) and the code of each fenced block, in order.

    A fence is a line that begins with three backticks and no more; an indented one is content. A closing fence
    stands alone on its line.
    Raises: ValueError when the fences do not pair up.

    >>> fenced_blocks("So:\\n```Python\\nprint(1)\\n```")
    [('python', 'print(1)')]
    """
    lines = text.split("\n")
    fences = [i for i, line in enumerate(lines) if line.startswith("```")]
    if len(fences) % 2:
        raise ValueError(f"the code fences do not pair up: {len(fences)} lines begin with ```")
    blocks = []
    for opening, closing in zip(fences[::2], fences[1::2], strict=True):
        tag = lines[opening][3:].strip()
        if "`" in tag or lines[closing].strip() != "```":
            raise ValueError(
                f"the code fences do not pair up: {lines[opening]!r:.40} is followed by {lines[closing]!r:.40}"
            )
        body = itertools.dropwhile(lambda line: not line.strip(), lines[opening + 1 : closing])
        blocks.append((tag.lower(), "\n".join(body).rstrip()))
    return blocks


@dataclass(frozen=True, repr=False)
class _CodeBlock:
    language: str | None

    def __call__(self, text: str) -> str:
        blocks = fenced_blocks(text)
        codes = [code for tag, code in blocks if self.language in (None, tag)]
        wanted = "one code block" + (f" of {self.language!r}" if self.language else "")
        if len(codes) != 1:
            raise ValueError(f"wanted {wanted}, found {len(codes)} (tags: {listed(t for t, _ in blocks) or 'none'})")
        if not codes[0]:
            raise ValueError("the code block is empty")
        return codes[0]

    def __repr__(self) -> str:
        return f"code_block({'' if self.language is None else repr(self.language)})"


def code_block(language: str | None = None) -> _CodeBlock:
    """The code of the one fenced block, without its fences; the indentation of its first line is kept.

    language: count only blocks with this tag (`python`), in upper or lower case. Prose around is no hindrance.
    Unparsed: no such block or several; an empty one; fences that do not pair up (see `fenced_blocks`).

    >>> code_block("python")("Here it is:\\n```python\\nprint(1)\\n```\\nIt prints.")
    'print(1)'
    """
    return _CodeBlock(None if language is None else _marker(language, "code_block").lower())


@dataclass(frozen=True, repr=False)
class _Boxed:
    def __call__(self, text: str) -> str:
        begins = [found.end() for found in re.finditer(r"\\boxed\s*\{", text)]
        if not begins:
            raise ValueError(r"there is no \boxed{")
        depth = 1
        # A backslash takes the next character with it: `\{` is a brace to be printed.
        for token in re.finditer(r"\\.|[{}]", text[begins[-1] :], re.DOTALL):
            depth += {"{": 1, "}": -1}.get(token[0], 0)
            if not depth:
                return _visible(text[begins[-1] : begins[-1] + token.start()], r"the last \boxed{} is empty")
        raise ValueError(r"the last \boxed{ is not closed")

    def __repr__(self) -> str:
        return "boxed()"


def boxed() -> _Boxed:
    r"""What stands in the last `\boxed{…}`, to its own closing brace.

    Unparsed: there is none, or the last is empty or not closed (the reply was cut off).

    >>> boxed()(r"First \boxed{1}, then \boxed{\frac{1}{2}}.")
    '\\frac{1}{2}'
    """
    return _Boxed()


@dataclass(frozen=True, repr=False)
class _JsonObject:
    keys: tuple[str, ...]

    def __call__(self, text: str) -> Any:
        why = "there is no JSON object"
        for found, broken in objects_in(text):
            if all(key in found for key in self.keys):
                check_numbers({key: found[key] for key in self.keys})
                values = [v.strip() if isinstance(v := found[key], str) else v for key in self.keys]
                return values[0] if len(values) == 1 else tuple(values)
            why = broken or self._lacks(found)
        raise ValueError(why)

    def columns(self, texts: pl.Series, dtypes: Sequence[pl.DataType]) -> list[pl.Series] | None:
        # Sure when the text is one object, but for a fence around it, in which each key occurs once, as a key of its
        # own and before a value that Polars keeps as it is; the rest is left to the call.
        kinds = [pl.Int64() if dtype in _JSON_INTEGERS else dtype for dtype in dtypes]
        if not all(re.fullmatch(r"[\w -]+", key, re.ASCII) for key in self.keys) or not set(kinds) <= set(_JSON_FORMS):
            return None
        whole = texts.str.strip_chars(f"{WHITE}`").str.strip_prefix("json").str.strip_chars_start(WHITE)
        # Polars takes the first of two equal keys, makes U+0000 of half a surrogate pair and dies of deep nesting.
        sure = whole.str.starts_with("{") & whole.str.ends_with("}") & ~whole.str.contains("\\u", literal=True)
        sure &= whole.str.count_matches(r"[\[{]") <= 200
        for key, kind in zip(self.keys, kinds, strict=True):
            sure &= whole.str.count_matches(f'"{key}"') == 1
            sure &= whole.str.contains(f'"{key}": ?{_JSON_FORMS[kind]}')
        decodable = pl.select(pl.when(sure).then(whole).otherwise(pl.lit("null"))).to_series()
        found = _decoded(decodable, pl.Struct(dict(zip(self.keys, kinds, strict=True))))
        values = [found.struct.field(key) for key in self.keys]
        return [v.str.strip_chars(WHITE) if v.dtype == pl.String else v for v in values]

    def _lacks(self, found: dict[str, Any]) -> str:
        missing = next(key for key in self.keys if key not in found)
        hint = did_you_mean(missing, found) or f"; it has {listed(found) or 'none'}"
        return f"the JSON object has no key {missing!r}{hint}"

    def __repr__(self) -> str:
        return f"json_object({', '.join(map(repr, self.keys))})"


def objects_in(text: str) -> Iterator[tuple[dict[str, Any], str]]:
    """Each JSON object in a text, outer ones first; where one begins and is broken, an empty one and the reason."""
    at = text.find("{")
    while at >= 0:
        found, resume, broken = _object_at(text, at)
        yield found, broken
        at = text.find("{", resume)


def _object_at(text: str, at: int) -> tuple[dict[str, Any], int, str]:
    """The object that begins there, where to look for the next, and why there is none."""
    try:
        # Not strict: models write plain line breaks into their strings.
        return json.JSONDecoder(strict=False).raw_decode(text, at)[0], at + 1, ""
    except json.JSONDecodeError as exc:
        # What a broken object held before it broke is no answer: go on from there.
        return {}, max(exc.pos, at + 1), f"there is no whole JSON object: {exc.msg} at character {exc.pos}"
    except RecursionError:
        raise ValueError("the JSON object is nested too deep") from None


def check_numbers(value: Any, name: str = "") -> None:
    """Raises ValueError for a NaN or an infinity in it, which JSON has not, but Python reads, or makes of 1e999."""
    if isinstance(value, Mapping):
        for field, inner in value.items():
            check_numbers(inner, field)
    elif isinstance(value, list):
        for inner in value:
            check_numbers(inner, name)
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{name!r} holds {value}, which is no finite number")


def _decoded(texts: pl.Series, dtype: pl.Struct) -> pl.Series:
    """The objects, null where the JSON is broken."""
    whole = texts
    for _ in range(2):
        try:
            return whole.str.json_decode(dtype)
        except (
            pl.exceptions.ComputeError
        ):  # it refuses all for one; only looking for the broken ones costs as much again
            unbroken = texts.str.json_path_match("$").is_not_null()
            whole = pl.select(pl.when(unbroken).then(texts).otherwise(pl.lit("null"))).to_series()
    return pl.Series([None], dtype=dtype).new_from_index(0, len(texts))


def json_object(*keys: str) -> _JsonObject:
    """The values of `keys` in the first JSON object that has them all, whatever stands around it.

    Code fences, prose before and after, braces in prose and in strings, an outer object that wraps it and
    plain line breaks in strings are no hindrance. Values keep their JSON types; texts are stripped, and may be
    empty if the object says so.
    Unparsed: no whole object has all the keys; a number is NaN, infinite or beyond 1.8e308.

    >>> json_object("instruction", "response")('Sure {x}: {"instruction": "What is {}?", "response": "A set."} Ok?')
    ('What is {}?', 'A set.')
    """
    if not keys or not all(isinstance(key, str) for key in keys):
        raise BindError(f"json_object() needs the names of one or more keys, and was given {listed(keys) or 'none'}.")
    return _JsonObject(keys)


def _marker(marker: object, parser: str) -> str:
    if not isinstance(marker, str) or not marker.strip():
        raise BindError(f"{parser}() needs texts to look for, and was given {marker!r}.")
    return marker.strip()


def _visible(text: str, otherwise: str) -> str:
    if not text.strip():
        raise ValueError(otherwise)
    return text.strip()


def _unless_empty(field: pl.Series, sure: pl.Series) -> pl.Series:
    stripped = field.str.strip_chars(WHITE)
    return pl.select(pl.when(sure & (stripped != "")).then(stripped)).to_series()

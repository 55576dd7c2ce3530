"""The schema of a domain's instances, as strict as is asked: corrected rules, or AgoraBench's own as they are.

Source of the rules of `agorabench`: neulab/data-agora, agora/core/validators.py and agora_scripts/run.py at
1ed3ec2 (the markers), described in arXiv 2412.03679v2, section 3. They are here to replicate its numbers; each
is told what it gets wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, get_args

import pandera.polars as pa
import polars as pl

from agora_frames.errors import BindError, did_you_mean, listed
from agora_frames.stages import checks

__all__ = ["TALK", "schema_for"]

DomainName = Literal["math", "code", "general"]
Method = Literal["instance_generation", "response_generation", "quality_enhancement"]
Strictness = Literal["corrected", "agorabench"]
Rule = Callable[..., pl.Expr]

# The rules of `MathInstance`, `CodeInstance` and `GeneralInstance`, as values: what inherits cannot be built upon.
_OF_EACH_TEXT: tuple[Rule, ...] = (checks.not_blank, checks.no_leftover_markers)
_CORRECTED: dict[str, tuple[Rule, ...]] = {
    "math": (checks.has_one_result, checks.ends_with_result),
    "code": (checks.is_one_code_block, checks.compiles_as_python),
    "general": (),
}

# What data-agora takes for talk around code.
TALK = (
    *("example usage", "this function", "test the function", "test cases", "this implementation", "explanation"),
    "this solution",
)
# Its placeholders and stop phrase, none of which a response may hold anywhere; in lower case, as they are compared.
_PLACEHOLDERS = ("<input@>", "<output@>", "<input>", "<output>", "[end]", "<input_theme>")
_FIRST_WORD = "<first_word>"
_TRIGGERS = {
    "instance_generation": ("input:", "output:"),
    "response_generation": ("input:", "output:"),
    "quality_enhancement": ("revised question:", "revised answer:"),
}


def schema_for(
    domain: DomainName,
    *,
    strictness: Strictness = "corrected",
    max_tokens: int | None = None,
    themes: bool = False,
    method: Method = "instance_generation",
) -> pa.DataFrameSchema:
    """What `validate(schema=…)` holds the instances of a domain to.

    Reads: `instruction`, `response`; with `max_tokens`, `n_tokens` (see `count_tokens`); with `themes`, `theme`.
    strictness: `corrected` judges a text by what it is: the rules of `MathInstance`, `CodeInstance` and
    `GeneralInstance`. `agorabench` has the rules of data-agora as they are, of the response alone:
    `holds_no_prompt_word` (in all domains: no placeholder, trigger or stop phrase anywhere, in upper or lower case;
    rejects `print("Output:", x)` and HTML's `<input>`); `has_each_result_tag_once` and `ends_with_the_tag` (math;
    accepts `[RESULT][/RESULT]`, rejects a line break after it); `fences_are_even`,
    `begins_and_ends_with_a_fence` and `no_talk_outside_code` (code; accepts an empty block and most prose between
    two blocks). They accept empty texts, and an instruction for a response.
    max_tokens: the most that `n_tokens` may be (the paper: 4096); not looked at unless given.
    themes: `theme` says what each row is about, and may be null. In `corrected` code, the fence's tag must be of a
    language that the theme names (`tag_matches_theme`), and code without a tag must compile where the theme is
    Python (`untagged_code_compiles`).
    method: whose triggers `agorabench` forbids; no other rule depends on it.
    Raises: BindError for a domain, strictness, method or limit that there is not.

    >>> from agora_frames import validate
    >>> df = pl.DataFrame({"instruction": ["Print x."], "response": ["```python\\nprint('Output:', x)\\n```"]})
    >>> validate(df, schema=schema_for("code"))["failures"].to_list()
    [[]]
    >>> validate(df, schema=schema_for("code", strictness="agorabench"))["failures"].to_list()
    [['response: holds_no_prompt_word']]
    """
    _must_be("domain", domain, get_args(DomainName))
    _must_be("strictness", strictness, get_args(Strictness))
    _must_be("method", method, get_args(Method))
    if max_tokens is not None and (type(max_tokens) is not int or max_tokens < 1):
        raise BindError(f"schema_for(max_tokens={max_tokens!r}): it must be a whole number, at least 1, or None.")
    if strictness == "corrected":
        own = [_check(rule, "response") for rule in _CORRECTED[domain]]
        instruction, response = ([_check(rule, name) for rule in _OF_EACH_TEXT] for name in ("instruction", "response"))
        columns = {"instruction": pa.Column(pl.String, instruction), "response": pa.Column(pl.String, response + own)}
        of_rows = [_check(response_differs_from_instruction)]
    else:
        columns = {"instruction": pa.Column(pl.String), "response": pa.Column(pl.String, _agorabench(domain, method))}
        of_rows = []
    if max_tokens is not None:  # null where a text is, which that text's own rule tells
        columns["n_tokens"] = pa.Column(pl.Int64, pa.Check.le(max_tokens), nullable=True)
    if themes:
        columns["theme"] = pa.Column(pl.String, nullable=True)
        if (domain, strictness) == ("code", "corrected"):
            of_rows += [_check(checks.tag_matches_theme, "response", "theme")]
            of_rows += [_check(checks.untagged_code_compiles, "response", "theme")]
    return pa.DataFrameSchema(columns, of_rows, name=f"{domain} instance, {strictness}")


def _agorabench(domain: str, method: str) -> list[pa.Check]:
    words = [*_PLACEHOLDERS, *_TRIGGERS[method]]
    if (domain, method) == ("general", "instance_generation"):
        words.append(_FIRST_WORD)
    rules: dict[str, tuple[Rule, ...]] = {
        "math": (has_each_result_tag_once, ends_with_the_tag),
        "code": (fences_are_even, begins_and_ends_with_a_fence, no_talk_outside_code),
        "general": (),
    }
    return [_check(holds_no_prompt_word, "response", words=words), *(_check(r, "response") for r in rules[domain])]


def response_differs_from_instruction() -> pl.Expr:
    return checks.differs("instruction", "response")


def holds_no_prompt_word(column: str, *, words: list[str]) -> pl.Expr:
    return ~pl.col(column).str.to_lowercase().str.contains_any(words)


def has_each_result_tag_once(column: str) -> pl.Expr:
    once = [pl.col(column).str.count_matches(tag, literal=True) == 1 for tag in ("[RESULT]", "[/RESULT]")]
    return pl.all_horizontal(once)


def ends_with_the_tag(column: str) -> pl.Expr:
    return pl.col(column).str.ends_with("[/RESULT]")


def fences_are_even(column: str) -> pl.Expr:
    return pl.col(column).str.count_matches("```", literal=True) % 2 == 0


def begins_and_ends_with_a_fence(column: str) -> pl.Expr:
    return pl.col(column).str.starts_with("```") & pl.col(column).str.ends_with("```")


def no_talk_outside_code(column: str) -> pl.Expr:
    outside = pl.col(column).str.split("```").list.gather_every(2).list.join("")
    return ~outside.str.to_lowercase().str.contains_any(list(TALK))


def _check(rule: Rule, *columns: str, **options: Any) -> pa.Check:
    return pa.Check(partial(_kept, rule=rule, columns=columns, options=options), name=rule.__name__)


def _kept(data: pa.PolarsData, *, rule: Rule, columns: tuple[str, ...], options: dict[str, Any]) -> pl.LazyFrame:
    return data.lazyframe.select(rule(*columns, **options))


def _must_be(name: str, value: object, possible: tuple[str, ...]) -> None:
    if value not in possible:
        raise BindError(
            f"schema_for({name}={value!r}): there is none of that name{did_you_mean(str(value), possible) or '.'} "
            f"Possible: {listed(possible)}."
        )

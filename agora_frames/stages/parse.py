"""Parsed values stand beside the text they come from, and a text without them says why."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from agora_frames.errors import BindError, FrameError, listed
from agora_frames.frames import ERROR, UNPARSED, errors, require
from agora_frames.stage import stage
from agora_frames.types import Parser

__all__ = ["parse_column"]

Dtypes = dict[str, pl.DataType]
# So few that what is made on the way to the values stays small; how many does not change a value.
_ROWS_AT_ONCE = 2_000


@stage(rowwise=True)
def parse_column(
    df: pl.DataFrame,
    *,
    column: str,
    parser: Parser,
    into: str | Sequence[str] | Mapping[str, pl.DataType | type[pl.DataType]],
) -> pl.DataFrame:
    """Cuts the values out of a column of texts; the texts stay.

    Reads: `column` (String), and `{column}_error` if the frame has it.
    Adds: the columns `into` (all null where any of them is missing), and `{column}_parse_error` (ERROR, kind
    `unparsed`; null where parsed, and where the text is null and `{column}_error` says why).
    Rows: the same, in the same order. What a parser raises in one row is that row's reason.
    parser: from `agora_frames.stages.parsers`, or your own function of a text; see `types.Parser`.
    into: a name, for the parser's one value; several, for its values in order (or by name, if it gives a dict);
    or names with their types (String unless given). A text for a column of numbers is read as a number; any other
    value must be of the column's type.
    Raises: FrameError when `column` is missing or is not String, or when `{column}_parse_error` holds the reasons
    of another parse; BindError when `into` names no columns, one twice, or `column` itself.

    >>> from agora_frames.stages.parsers import tagged
    >>> df = pl.DataFrame({"reply": ["[RESULT] 42 [/RESULT]", "no idea"]})
    >>> done = parse_column(df, column="reply", parser=tagged("RESULT"), into={"answer": pl.Int64})
    >>> done["answer"].to_list()
    [42, None]
    >>> done["reply_parse_error"][1]["message"]
    "wanted one '[RESULT]' and one '[/RESULT]', found 0 and 0"
    """
    error = f"{column}_parse_error"
    dtypes = _dtypes(into, taken=(column, error))
    if not callable(parser):
        raise BindError(f"parse_column() needs a parser, which is called with a text; it was given {parser!r}.")
    require(df, column, stage="parse_column", dtype=pl.String())
    if error in df.columns and not dtypes.keys() <= set(df.columns):
        raise FrameError(
            f"parse_column() would write over {error!r}, the reasons of an earlier parse of {column!r} into other "
            "columns. Take all values with one parser, or rename that column first, to a name that ends in '_error'."
        )
    texts = df[column].cast(pl.String)
    parts = [texts[at : at + _ROWS_AT_ONCE] for at in range(0, max(df.height, 1), _ROWS_AT_ONCE)]
    parsed = pl.concat([_parsed(part, parser, dtypes, error) for part in parts])
    df = df.with_columns(parsed.get_columns())
    if df.schema.get(f"{column}_error") != ERROR:
        return df
    told = pl.col(column).is_null() & pl.col(f"{column}_error").is_not_null()
    return df.with_columns(pl.when(~told).then(error).alias(error))


def _dtypes(into: str | Sequence[str] | Mapping[str, Any], taken: tuple[str, ...]) -> Dtypes:
    """The columns to add, with their types."""
    names = [into] if isinstance(into, str) else list(into)
    wrong = [name for name in names if not isinstance(name, str) or name in taken or names.count(name) > 1]
    if wrong or not names:
        raise BindError(
            f"parse_column() adds the columns that `into` names: one or more, each once, and not {listed(taken)}; "
            f"it was given {into!r}."
        )
    dtypes = into if isinstance(into, Mapping) else dict.fromkeys(names, pl.String)
    return {name: dtype() if isinstance(dtype, type) else dtype for name, dtype in dtypes.items()}


def _parsed(texts: pl.Series, parser: Parser, dtypes: Dtypes, error: str) -> pl.DataFrame:
    """The values of each text and the reason why there are none."""
    quick = _by_columns(texts, parser, dtypes)
    if quick is None:
        return _by_calls(texts, parser, dtypes, error)
    settled = quick.select(pl.all_horizontal(pl.all().is_not_null())).to_series()
    quick = quick.with_columns(pl.lit(None, dtype=ERROR).alias(error))
    if settled.all():
        return quick
    called = _by_calls(texts.filter(~settled), parser, dtypes, error)
    places = pl.concat([settled.arg_true(), (~settled).arg_true()])
    return pl.concat([quick.filter(settled), called])[places.arg_sort()]


def _by_columns(texts: pl.Series, parser: Any, dtypes: Dtypes) -> pl.DataFrame | None:
    """What the parser finds in all texts at once; null where it leaves a text to the call."""
    if not hasattr(parser, "columns") or not all(d == pl.String or d.is_numeric() for d in dtypes.values()):
        return None
    values = parser.columns(texts, list(dtypes.values()))
    if values is None or len(values) != len(dtypes):
        return None
    return pl.DataFrame(
        [v.cast(dtype, strict=False).alias(name) for v, (name, dtype) in zip(values, dtypes.items(), strict=True)]
    )


def _by_calls(texts: pl.Series, parser: Parser, dtypes: Dtypes, error: str) -> pl.DataFrame:
    """Texts parsed one by one, or with the reason why not."""
    outcomes = [_outcome(text, parser, dtypes) for text in texts]
    columns = [
        pl.Series(name, [values[i] for values, _ in outcomes], dtype=dtype)
        for i, (name, dtype) in enumerate(dtypes.items())
    ]
    reasons = [why for _, why in outcomes]
    return pl.DataFrame([*columns, errors([why and UNPARSED for why in reasons], reasons, error)])


def _outcome(text: str | None, parser: Parser, dtypes: Dtypes) -> tuple[Sequence[Any], str | None]:
    """The values of one text, and why there are none."""
    try:
        if text is None:
            raise ValueError("the text is null")
        values = _in_order(parser(text), list(dtypes))
        return [_fitted(value, *item) for value, item in zip(values, dtypes.items(), strict=True)], None
    except Exception as exc:
        said = str(exc) if isinstance(exc, ValueError) and str(exc) else f"{type(exc).__name__}: {exc}"
        # A text may hold lone surrogates, which no column of texts can; a reason that quotes them must be stored.
        return [None] * len(dtypes), said.encode("utf-8", "backslashreplace").decode()


def _in_order(found: Any, names: list[str]) -> list[Any]:
    """What a parser gave, as one value for each name; for one name, a list or a dict is that value."""
    if found is None:
        raise ValueError("the parser found nothing")
    if isinstance(found, Mapping) and len(names) > 1:
        return [found.get(name) for name in names]
    several = isinstance(found, tuple) or (isinstance(found, list) and len(names) > 1)
    values = list(found) if several else [found]
    if len(values) != len(names):
        raise ValueError(f"the parser gave {len(values)} values, but {len(names)} were wanted: {listed(names)}")
    return values


def _fitted(value: Any, name: str, dtype: pl.DataType) -> Any:
    """The value as a column of type `dtype` keeps it."""
    if value is None:
        raise ValueError(f"there is no {name!r}")
    try:
        if isinstance(value, str) and isinstance(dtype, pl.String):
            return value.encode().decode()  # refuses lone surrogates; makes a plain str of a subclass
        if _is_native(value, dtype):
            return value
        if isinstance(value, str) and dtype.is_numeric():
            return pl.Series([value], dtype=pl.String).cast(dtype).item()
        kept = pl.Series([value], dtype=dtype).to_list()[0]
        if _is_same(kept, value):
            return kept
        raise TypeError(f"Polars would keep {kept!r}")
    except Exception as exc:
        raise ValueError(f"{name!r} is {value!r:.60}, which is no {dtype}") from exc


def _is_native(value: Any, dtype: pl.DataType) -> bool:
    """The common types, which Polars need not be asked about: that takes 10 µs a value."""
    return (
        (type(value) is int and isinstance(dtype, pl.Int64) and -(2**63) <= value < 2**63)
        or (type(value) is float and isinstance(dtype, pl.Float64))
        or (type(value) is bool and isinstance(dtype, pl.Boolean))
    )


def _is_same(kept: Any, value: Any) -> bool:
    """Polars makes a list of letters of a text, 1 of True, null of a field that does not fit; that is no fit."""
    if isinstance(kept, list):
        return isinstance(value, list | tuple) and all(map(_is_same, kept, value))
    if isinstance(kept, dict):
        return value.keys() <= kept.keys() and all(_is_same(kept[name], value.get(name)) for name in kept)
    if isinstance(value, float):  # may be kept in fewer digits
        return math.isclose(kept, value, rel_tol=1e-6) or value != value
    return bool(kept == value) and isinstance(kept, bool) == isinstance(value, bool)

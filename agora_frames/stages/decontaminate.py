"""Rows that hold what a benchmark asks: marked, with the item and the words that they share, and left in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import polars as pl

from agora_frames.errors import BindError, listed
from agora_frames.frames import require
from agora_frames.stage import stage
from agora_frames.stages.rows import with_row_ids
from agora_frames.stages.words import words

__all__ = ["decontaminate"]


class _Item(NamedTuple):
    source: str
    row_id: str
    words: list[str]


class _Match(NamedTuple):
    item: _Item
    overlap: float
    shared: str


@stage(rowwise=True)
def decontaminate(
    df: pl.DataFrame,
    *,
    against: pl.DataFrame | Mapping[str, pl.DataFrame],
    columns: str | Sequence[str] = ("instruction", "response"),
    against_columns: str | Sequence[str] = "instruction",
    n: int = 8,
    threshold: float = 0.5,
    into: str = "contamination",
) -> pl.DataFrame:
    """Says of each row whether it holds an item of a benchmark, which one, how much of it, and in what words.

    The overlap is the share of the item's words that stand in a run of `n` words which the row has too. Case, signs and
    white space do not count. An item of fewer than `n` words is one run: all of it, or nothing.

    Reads: `columns` (String); runs do not go from one into the next, and a null has none.
    Adds: `{into}` (Boolean, never null: the overlap is at least `threshold`), and the evidence, also below it:
    `{into}_of` (String: the row_id of the item with the largest overlap, the first of several), `{into}_in` (String:
    the name of its benchmark), `{into}_overlap` (Float64, above 0 up to 1), `{into}_text` (String: the longest run
    of words that they share), `{into}_method` (String: `whole`, the item in one piece; else `8-gram`, or what `n` is);
    all null where no run is shared.
    Rows: the same, in the same order. To reject what is marked: `reject_where(column="contamination", …)`.
    against: the benchmark's items, or several frames by name; a `row_id` names the items, or what `with_row_ids`
    would give. against_columns: what of them must not be in the data, as one text; an answer that is a number cannot
    be looked for. n, threshold: by their default as in Tülu 3.
    Raises: FrameError when a column is missing or is not String; BindError when there is no item to look for.
    Source: Lambert et al., Tulu 3, arXiv 2411.15124, section 3.2: 8-grams, more than half of the tokens (there of
    spaCy's, here of words).

    >>> items = pl.DataFrame({"instruction": ["Ann has three red apples and buys two more. How many has she now?"]})
    >>> df = pl.DataFrame({"instruction": ["Solve: ann has THREE red apples, and buys two more.", "Name a sea."]})
    >>> done = decontaminate(df, against={"fruit": items}, columns="instruction")
    >>> done.select("contamination", "contamination_in", "contamination_overlap").rows()
    [(True, 'fruit', 0.6428571428571429), (False, None, None)]
    """
    names = [columns] if isinstance(columns, str) else list(columns)
    if not names or not 0 < threshold <= 1 or n < 1:
        raise BindError(
            "decontaminate() looks into one column or more, for runs of at least one word, by a threshold above 0 and "
            f"up to 1; it was given columns={columns!r}, n={n!r}, threshold={threshold!r}."
        )
    require(df, *names, stage="decontaminate", dtype=pl.String())
    items = _items(against, [against_columns] if isinstance(against_columns, str) else list(against_columns))
    runs = _indexed(items, n)
    short = sorted({min(n, len(item.words)) for item in items})
    found = [_best(texts, items, runs, short) for texts in df.select(names).iter_rows()]
    of_kind = [m and ("whole" if m.shared == " ".join(m.item.words) else f"{n}-gram") for m in found]
    return df.with_columns(
        pl.Series(into, [m is not None and m.overlap >= threshold for m in found], dtype=pl.Boolean),
        pl.Series(f"{into}_of", [m and m.item.row_id for m in found], dtype=pl.String),
        pl.Series(f"{into}_in", [m and m.item.source for m in found], dtype=pl.String),
        pl.Series(f"{into}_overlap", [m and m.overlap for m in found], dtype=pl.Float64),
        pl.Series(f"{into}_text", [m and m.shared for m in found], dtype=pl.String),
        pl.Series(f"{into}_method", of_kind, dtype=pl.String),
    )


def _items(against: pl.DataFrame | Mapping[str, pl.DataFrame], columns: list[str]) -> list[_Item]:
    frames = {"against": against} if isinstance(against, pl.DataFrame) else dict(against)
    items = []
    for source, frame in frames.items():
        require(frame, *columns, stage=f"decontaminate(against: {source})", dtype=pl.String())
        named = with_row_ids(frame)
        texts = named.select(pl.concat_str(columns, separator=" ", ignore_nulls=True))
        items += [_Item(source, *pair) for pair in zip(named["row_id"], map(words, texts.to_series()), strict=True)]
    items = [item for item in items if item.words]
    if not items:
        raise BindError(
            f"decontaminate() was given no text to look for: {listed(columns)} of {listed(frames) or 'no frame'} are "
            "empty."
        )
    return items


def _indexed(items: list[_Item], n: int) -> dict[tuple[str, ...], list[tuple[int, int]]]:
    """Where each run of words stands: the item's number, and the place in it."""
    places: dict[tuple[str, ...], list[tuple[int, int]]] = {}
    for number, item in enumerate(items):
        size = min(n, len(item.words))
        for place, run in _runs(item.words, size):
            places.setdefault(run, []).append((number, place))
    return places


def _runs(of: list[str], size: int) -> Iterator[tuple[int, tuple[str, ...]]]:
    return ((i, tuple(of[i : i + size])) for i in range(len(of) - size + 1))


def _best(
    texts: Sequence[str | None],
    items: list[_Item],
    places: dict[tuple[str, ...], list[tuple[int, int]]],
    sizes: list[int],
) -> _Match | None:
    """The item of which most is in the texts."""
    hits: dict[int, set[int]] = {}  # of an item: the places of its words that are in a shared run
    for text in texts:
        said = words(text or "")
        for size in sizes:
            for _, run in _runs(said, size):
                for number, place in places.get(run, ()):
                    hits.setdefault(number, set()).update(range(place, place + size))
    best = None
    for number in sorted(hits):
        overlap = len(hits[number]) / len(items[number].words)
        if best is None or overlap > best[1]:
            best = number, overlap
    if best is None:
        return None
    item = items[best[0]]
    return _Match(item, best[1], _longest(item.words, hits[best[0]]))


def _longest(of: list[str], places: set[int]) -> str:
    """The longest stretch of words without a gap, the first of several."""
    stretches: list[list[str]] = [[]]
    for place, word in enumerate(of):
        if place not in places:
            stretches.append([])
        else:
            stretches[-1].append(word)
    longest = max(stretches, key=len)
    return " ".join(longest)

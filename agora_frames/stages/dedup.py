"""Rows that say again what an earlier row says, exactly or nearly: marked, with the evidence, and left in."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import polars as pl

from agora_frames.errors import BindError
from agora_frames.frames import outcome, require
from agora_frames.stage import stage
from agora_frames.stages.rows import with_row_ids
from agora_frames.stages.words import normalised, shingles

__all__ = ["bands_for", "mark_duplicates"]

# Hash functions in a signature; and the least chance that a pair as alike as `threshold` becomes a candidate.
_HASHES = 128
_RECALL = 0.999
_SEED = 42
# So few that the shingles in memory stay small; how many does not change a verdict.
_ROWS_AT_ONCE = 2_000

Signature = Sequence[int]


class _Match(NamedTuple):
    row: int  # among the texts of both frames, those of `against` first
    similarity: float
    method: str


@stage()
def mark_duplicates(
    df: pl.DataFrame,
    *,
    columns: str | Sequence[str] = "instruction",
    threshold: float = 0.7,
    n: int = 3,
    near: bool = True,
    against: pl.DataFrame | None = None,
    into: str = "duplicate",
) -> pl.DataFrame:
    """Says of each row which earlier row it repeats, how alike they are, and how that was found.

    The first of several stays unmarked, and a row is compared with unmarked rows only: every marked row is as alike as
    `threshold` to the unmarked one that it names. Rows that failed or are not valid take no part. To reject what is
    marked: `reject_where(column="duplicate_of", failure="duplicate")`.

    Reads: `row_id`, `columns` (String), and what says that a row is not accepted (`…_error`, `valid`).
    Adds: `{into}_of` (String: the row_id of the most similar unmarked row; null where there is none),
    `{into}_in` (String: `rows` or `against`), `{into}_similarity` (Float64, from `threshold` to 1),
    `{into}_method` (String: `exact`, the same but for case and white space, or `near`); all null together.
    Rows: the same, in the same order, which is the order in which rows come first.
    columns: the texts that are compared, as one. threshold: the least Jaccard similarity of two sets of runs of `n`
    words or signs. near: False looks for exact ones alone.
    against: a frame with the same columns, such as the seeds, all of whose rows come first; its `row_id` names them,
    or what `with_row_ids` would give.
    Candidates come from MinHash (128 hashes in bands: of pairs at the very threshold one in a thousand is missed, of
    closer ones fewer); their similarity is then counted exactly, so nothing is marked that is not that much alike.
    Raises: FrameError when a column is missing or is not String; BindError for a threshold outside of 0 to 1.

    >>> df = pl.DataFrame({"instruction": ["How many are 2 and 2?", "Name a sea.", "how many are  2 and 2?"]})
    >>> done = df.pipe(with_row_ids).pipe(mark_duplicates)
    >>> (done["duplicate_of"] == done["row_id"][0]).to_list(), done["duplicate_method"].to_list()
    ([None, None, True], [None, None, 'exact'])
    """
    names = [columns] if isinstance(columns, str) else list(columns)
    if not names or not 0 < threshold <= 1 or n < 1:
        raise BindError(
            "mark_duplicates() compares one column or more, by a threshold above 0 and up to 1, in runs of at least "
            f"one word; it was given columns={columns!r}, threshold={threshold!r}, n={n!r}."
        )
    require(df, "row_id", *names, stage="mark_duplicates", dtype=pl.String())
    earlier = df.clear() if against is None else with_row_ids(against)
    require(earlier, *names, stage="mark_duplicates(against=…)", dtype=pl.String())
    taking_part = df.select(outcome(df) == "accepted").to_series()
    texts = [*_texts(earlier, names), *_texts(df, names, taking_part)]
    found = list(_matches(texts, earlier.height, threshold, n, near))
    ids = [*earlier["row_id"], *df["row_id"]]
    return df.with_columns(
        pl.Series(f"{into}_of", [m and ids[m.row] for m in found], dtype=pl.String),
        pl.Series(f"{into}_in", [m and ("against" if m.row < earlier.height else "rows") for m in found], pl.String),
        pl.Series(f"{into}_similarity", [m and m.similarity for m in found], dtype=pl.Float64),
        pl.Series(f"{into}_method", [m and m.method for m in found], dtype=pl.String),
    )


def bands_for(threshold: float) -> int:
    """How many bands the hashes are cut into: as few as find a pair at the threshold with a chance of 0.999.

    With b bands of r hashes that chance is 1 - (1 - s^r)^b, for a similarity of s.

    >>> bands_for(0.7), bands_for(0.9)
    (32, 16)
    """
    bands = (b for b in (1, 2, 4, 8, 16, 32, 64) if 1 - (1 - threshold ** (_HASHES // b)) ** b >= _RECALL)
    return next(bands, _HASHES)


def _texts(df: pl.DataFrame, names: list[str], which: pl.Series | None = None) -> Iterator[str | None]:
    """The text of each row; None where one of its columns is null, or where it takes no part."""
    text = pl.concat_str(names, separator="\n\n")
    taken = text if which is None else pl.when(pl.lit(which)).then(text)
    yield from df.select(taken.alias("text"))["text"]


def _matches(texts: list[str | None], n_earlier: int, threshold: float, n: int, near: bool) -> Iterator[_Match | None]:
    """For each text after the earlier ones: the unmarked text before it that it repeats."""
    first: dict[str, int] = {}
    buckets: list[dict[tuple[int, ...], list[int]]] = [{} for _ in range(bands_for(threshold))]
    width = _HASHES // len(buckets)
    runs = functools.lru_cache(maxsize=_ROWS_AT_ONCE)(lambda row: shingles(texts[row] or "", n))
    for row, (text, signature) in enumerate(zip(texts, _signatures(texts, n) if near else _none(texts), strict=True)):
        match = None
        if text is not None:
            key = normalised(text)
            keys = [tuple(signature[i * width : (i + 1) * width]) for i in range(len(buckets))] if signature else []
            if row >= n_earlier:  # all of the earlier ones are compared with, and none of them is marked
                if key in first:
                    match = _Match(first[key], 1.0, "exact")
                else:
                    candidates = {other for band, k in zip(buckets, keys, strict=False) for other in band.get(k, ())}
                    match = _nearest(row, candidates, threshold, runs)
            if match is None and key not in first:
                first[key] = row
                for band, k in zip(buckets, keys, strict=False):
                    band.setdefault(k, []).append(row)
        if row >= n_earlier:
            yield match


def _nearest(row: int, candidates: Iterable[int], threshold: float, runs: Callable[[int], set[str]]) -> _Match | None:
    """The candidate that is most alike by exact count, the first of several; None below the threshold."""
    best = None
    for other in sorted(candidates):
        shared = len(runs(row) & runs(other))
        similarity = shared / (len(runs(row)) + len(runs(other)) - shared)
        if similarity >= max(threshold, best.similarity if best else 0) and (not best or similarity > best.similarity):
            best = _Match(other, similarity, "near")
    return best


def _signatures(texts: list[str | None], n: int) -> Iterator[Signature]:
    """MinHash of each text; empty where there is none."""
    import rensa

    sketch: Any = rensa  # written in Rust, without stubs
    for start in range(0, len(texts), _ROWS_AT_ONCE):
        part = texts[start : start + _ROWS_AT_ONCE]
        # In order, since what a set gives differs from process to process; a text that is null is not looked at.
        runs = [sorted(shingles(text or "", n)) for text in part]
        yield from sketch.RMinHash.digest_matrix_from_token_sets(runs, num_perm=_HASHES, seed=_SEED).to_rows()


def _none(texts: list[str | None]) -> Iterator[Signature]:
    return iter([()] * len(texts))

"""How unlike each other the texts of a data set are: by their embeddings, exactly, and by their words."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import polars as pl

from agora_frames.errors import BindError, FrameError
from agora_frames.frames import require
from agora_frames.stage import stage
from agora_frames.types import Embedder

__all__ = ["cosine_diversity", "embed_column", "vocabulary_diversity"]

_WORDS = r"\w+|[^\w\s]"
_OVERLAP = 4
_VOCABULARY = {
    "n": pl.Int64,
    "words": pl.Int64,
    "distinct_1": pl.Float64,
    "distinct_2": pl.Float64,
    "compression_ratio": pl.Float64,
    "self_overlap": pl.Float64,
}


@stage(rowwise=True)
def embed_column(df: pl.DataFrame, *, column: str, into: str = "embedding", embedder: Embedder) -> pl.DataFrame:
    """Gives each text its vector.

    Reads: `column` (String). Adds: `into` (List(Float32); null where the text is null), `{into}_model` (String: the
    embedder's name). Rows: the same, in the same order. Equal texts are embedded once.
    embedder: from `embedder("all-minilm-l6-v2")`, or anything with a `name` that gives a vector for each of a list of
    texts.
    Raises: FrameError when the column is missing or no text, or the embedder gives other vectors than it should.

    >>> import agora_frames as af
    >>> class Lengths:
    ...     name = "lengths"
    ...     def __call__(self, texts):
    ...         return [[float(len(text)), 1.0] for text in texts]
    >>> df = pl.DataFrame({"text": ["one", None, "three"]})
    >>> embed_column(df, column="text", embedder=Lengths())["embedding"].to_list()
    [[3.0, 1.0], None, [5.0, 1.0]]
    """
    require(df, column, stage="embed_column", dtype=pl.String())
    if not isinstance(embedder, Embedder) or not callable(embedder):
        raise BindError(
            f"embed_column(embedder={embedder!r:.80}) is none: write embedder=embedder('all-minilm-l6-v2')."
        )
    texts = df[column].cast(pl.String).unique(maintain_order=True).drop_nulls()
    vectors = _vectors(embedder, texts.to_list()) if texts.len() else []
    known = pl.DataFrame({column: texts, into: pl.Series(vectors, dtype=pl.List(pl.Float32))})
    found = df.select(pl.col(column).cast(pl.String)).join(known, on=column, how="left", maintain_order="left")[into]
    return df.with_columns(found, pl.lit(embedder.name).alias(f"{into}_model"))


def _vectors(embedder: Embedder, texts: list[str]) -> list[list[float]]:
    vectors = [list(map(float, vector)) for vector in embedder(texts)]
    lengths = {len(vector) for vector in vectors}
    if len(vectors) != len(texts) or len(lengths) > 1:
        raise FrameError(
            f"the embedder {embedder.name!r} was given {len(texts)} texts and gave {len(vectors)} vectors of the "
            f"lengths {sorted(lengths)}: it must give one for each, all of one length."
        )
    return vectors


@stage()
def cosine_diversity(df: pl.DataFrame, *, column: str = "embedding", by: Sequence[str] = ()) -> pl.DataFrame:
    """The mean cosine distance over all pairs of vectors: 0 when all point the same way, about 1 when unrelated.

    Reads: `column` (a list or array of numbers) and `by`. Gives a new frame, a row for each group in the order in
    which they come (one without `by`, none of no rows): `by`, `n` (Int64: vectors that count), `n_without` (Int64: rows
    without a vector, or with one of length zero, which has no direction), `cosine_distance` (Float64; null with fewer
    than two vectors). Equal vectors count as pairs of distance 0.
    It is exact, and takes O(n * d): the sum of all pairs' cosines is the squared length of the sum of the unit
    vectors, less those of the vectors with themselves.
    Raises: FrameError for vectors of several lengths, or with values that are not finite.
    Source: arXiv 2412.03679v2, section 5.2 and table 8 ("c-dist").

    >>> df = pl.DataFrame({"embedding": [[1.0, 0.0], [0.0, 2.0], [3.0, 0.0]]})
    >>> cosine_diversity(df)["cosine_distance"].round(4).item()
    0.6667
    """
    require(df, column, *by, stage="cosine_diversity")
    vectors = _as_lists(df[column])
    rows = df.select(*by, vectors.alias("vector"))
    schema: dict[str, Any] = {"n": pl.Int64, "n_without": pl.Int64, "cosine_distance": pl.Float64}
    made = [(*key, *_distance(part["vector"])) for key, part in _groups(rows, by)]
    return pl.DataFrame(made, schema={**{name: df.schema[name] for name in by}, **schema}, orient="row")


def _groups(rows: pl.DataFrame, by: Sequence[str]) -> Iterator[tuple[tuple[Any, ...], pl.DataFrame]]:
    """The rows of each data set; without names they are of one, if there are any."""
    if by:
        yield from rows.group_by(by, maintain_order=True)
    elif rows.height:
        yield (), rows


def _as_lists(vectors: pl.Series) -> pl.Series:
    """The vectors as lists of Float64, all of one length and finite."""
    dtype = vectors.dtype
    inner = dtype.inner if isinstance(dtype, pl.List | pl.Array) else None
    if dtype != pl.Null and not (inner is not None and (inner.is_numeric() or inner == pl.Null)):
        raise FrameError(f"the column {vectors.name!r} is {dtype}; a vector is a list or an array of numbers.")
    lists = vectors.cast(pl.List(pl.Float64))
    lengths = lists.list.len().drop_nulls().unique().sort().to_list()
    if len(lengths) > 1:
        raise FrameError(f"the vectors of {vectors.name!r} have the lengths {lengths}: they are of several models.")
    if not lists.explode().is_finite().fill_null(not lists.list.eval(pl.element().is_null()).explode().any()).all():
        raise FrameError(f"the vectors of {vectors.name!r} hold values that are not finite: no distance can be told.")
    return lists


def _distance(vectors: pl.Series) -> tuple[int, int, float | None]:
    """How many vectors count and how many do not, and the mean distance of all pairs of those that do."""
    given = vectors.drop_nulls()
    width = int(given.list.len()[0]) if given.len() else 0
    if not width:
        return 0, vectors.len(), None
    array = given.explode().reshape((given.len(), width))
    # Divided by its largest value first, a vector's squares can neither overflow nor vanish.
    ends = pl.DataFrame({"most": array.arr.max(), "least": -array.arr.min()})
    scaled = array / ends.max_horizontal()
    unit = scaled / (scaled * scaled).arr.sum().sqrt()
    unit = unit.filter(unit.arr.first().is_not_nan())  # of a vector of zeros, 0 / 0
    count = unit.len()
    if count < 2:
        return count, vectors.len() - count, None
    values = unit.explode().alias("value").to_frame().with_columns(at=pl.int_range(pl.len()) % width)
    total = values.group_by("at").agg(pl.col("value").sum())["value"]
    cosines = (float((total**2).sum()) - float((values["value"] ** 2).sum())) / (count * (count - 1))
    return count, vectors.len() - count, 1.0 - cosines


@stage()
def vocabulary_diversity(df: pl.DataFrame, *, column: str, by: Sequence[str] = ()) -> pl.DataFrame:
    """What words tell of diversity, without any model.

    Reads: `column` (String; nulls are left out) and `by`. Gives a new frame, a row for each group in the order in
    which they come (one without `by`, none of no rows): `by`, `n` (Int64: texts), `words` (Int64: lower-cased, signs of
    punctuation count as words), and (Float64, null where there is nothing to divide by)
    `distinct_1`, `distinct_2`: different words and pairs of words, over all of them: higher is more diverse;
    `compression_ratio`: bytes of all texts over the bytes that gzip makes of them: higher is more repetitive;
    `self_overlap`: the mean share of a text's different runs of 4 words that also stand in another text; lower is more
    diverse. Each falls or rises with the number and length of texts: compare data sets of one size.
    Source: distinct-n of Li et al., arXiv 1510.03055; compression ratio of Shaib et al., arXiv 2403.00553.

    >>> df = pl.DataFrame({"text": ["the sea is calm today", "the sea is calm now"]})
    >>> vocabulary_diversity(df, column="text").select(pl.exclude("compression_ratio").round(2)).row(0)
    (2, 10, 0.6, 0.62, 0.5)
    """
    require(df, column, *by, stage="vocabulary_diversity", dtype=None)
    require(df, column, stage="vocabulary_diversity", dtype=pl.String())
    rows = df.select(*by, pl.col(column).cast(pl.String).alias("text"))
    made = [(*key, *_vocabulary(part["text"].drop_nulls())) for key, part in _groups(rows, by)]
    return pl.DataFrame(made, schema={**{name: df.schema[name] for name in by}, **_VOCABULARY}, orient="row")


def _vocabulary(texts: pl.Series) -> tuple[Any, ...]:
    words = texts.str.to_lowercase().str.extract_all(_WORDS).alias("word").to_frame().with_row_index("row")
    words = words.explode("word").drop_nulls()
    overlap = _runs(words, _OVERLAP).unique()
    overlap = overlap.with_columns(elsewhere=pl.len().over("run") > 1).group_by("row").agg(pl.col("elsewhere").mean())
    raw = "\n".join(texts).encode()
    # gzip's own head and tail take 18 bytes, which weigh in small sets only.
    packed = len(zlib.compress(raw, 9, wbits=31)) if raw else 0
    return (
        texts.len(),
        words.height,
        _distinct(words, 1),
        _distinct(words, 2),
        len(raw) / packed if packed else None,
        overlap["elsewhere"].mean(),
    )


def _distinct(words: pl.DataFrame, length: int) -> float | None:
    runs = _runs(words, length)["run"]
    return runs.n_unique() / runs.len() if runs.len() else None


def _runs(words: pl.DataFrame, length: int) -> pl.DataFrame:
    """Every run of so many words within a text: `row`, `run`."""
    parts = [pl.col("word").shift(-i) for i in range(length)]
    return words.select("row", pl.concat_str(parts, separator=" ").alias("run")).filter(
        words["row"] == words["row"].shift(1 - length)
    )

"""Demonstrations and values drawn for each row: by its name alone, never by where it stands."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import polars as pl

from agora_frames.errors import BindError, FrameError, listed
from agora_frames.frames import require
from agora_frames.hashing import drawn
from agora_frames.stage import stage

__all__ = ["sample_demos", "sample_values"]


@stage(rowwise=True)
def sample_demos(
    df: pl.DataFrame,
    *,
    pool: pl.DataFrame | None = None,
    k: int = 3,
    from_seeds: int = 2,
    from_generated: int = 1,
    columns: Sequence[str] = ("instruction", "response"),
    into: str = "demos",
    seed: int = 0,
) -> pl.DataFrame:
    """Draws demonstrations for each row from a pool of seeds and generated rows, none of them twice.

    Reads: `row_id`. Adds: `into` (List(Struct) of `columns`, k of them: first the seeds, then the generated ones, then
    those of either kind) and `parents` (List(String): their row_ids).
    Rows: the same, in the same order.
    pool: a frame with `row_id` and `columns`; where its column `generated` (Boolean) is true a row counts as generated,
    else as a seed. Rows with a null in `columns` are not drawn. Left out, `until_rows` gives it anew for each round.
    k: how many; from_seeds, from_generated: how many of these come from one kind alone, the rest from both together.
    While there are too few generated rows, seeds stand in for them. So (3, 2, 1) is the mix that AgoraBench's paper
    states, (3, 3, 0) shows seeds only, and (3, 1, 0) is what its code really does: two from both together, one seed.
    seed: another number draws others. A row's draw depends on seed, `row_id` and the pool, whose order is of no matter.
    Raises: BindError for numbers that do not fit; FrameError when the pool lacks a column, or has fewer rows than k.

    >>> pool = pl.DataFrame({"row_id": ["a", "b"], "instruction": ["1+1?", "2+2?"], "response": ["2", "4"]})
    >>> df = pl.DataFrame({"row_id": ["x", "y"]})
    >>> sample_demos(df, pool=pool, k=2, from_seeds=2, from_generated=0)["parents"].list.sort().to_list()
    [['a', 'b'], ['a', 'b']]
    """
    require(df, "row_id", stage="sample_demos")
    if pool is None:
        raise BindError("sample_demos() needs a pool=…, a frame to draw from; only until_rows() gives it one itself.")
    if min(k - from_seeds - from_generated, from_seeds, from_generated) < 0 or k < 1:
        raise BindError(
            f"sample_demos(k={k}, from_seeds={from_seeds}, from_generated={from_generated}): k is at least 1, and at "
            "least the sum of the other two, which are at least 0."
        )
    require(pool, "row_id", *columns, stage="sample_demos, for its pool,")
    pool = pool.drop_nulls(columns).sort("row_id")
    if pool.height < k and df.height:
        raise FrameError(
            f"sample_demos() is to draw {k} different rows, and its pool has {pool.height} (without those that have a "
            f"null in {listed(columns)}). Give more seeds, or a smaller k."
        )
    made = _made(pool)
    parts = [(~made).arg_true().to_list(), made.arg_true().to_list()]
    places = [place for name in df["row_id"] for place in _draw(name, parts, (k, from_seeds, from_generated), seed)]
    return df.with_columns(
        _lists(pool.select(pl.struct(columns)).to_series()[places], k, into),
        _lists(pool["row_id"].cast(pl.String)[places], k, "parents"),
    )


def _made(pool: pl.DataFrame) -> pl.Series:
    """Which rows of the pool were generated."""
    if "generated" not in pool.columns:
        return pl.repeat(False, pool.height, dtype=pl.Boolean, eager=True)
    require(pool, "generated", stage="sample_demos, for its pool,", dtype=pl.Boolean())
    return pool["generated"].cast(pl.Boolean).fill_null(False)


def _draw(name: str, parts: list[list[int]], numbers: tuple[int, int, int], seed: int) -> list[int]:
    """The places in the pool that one row draws."""
    (k, from_seeds, from_generated), (seeds, generated) = numbers, parts
    both = seeds + generated if k > from_seeds + from_generated else []
    few_seeds, few_generated = max(0, from_seeds - len(seeds)), max(0, from_generated - len(generated))
    # Each kind stands in for what the other lacks.
    chosen = list(_different(seeds, from_seeds - few_seeds + few_generated, [], ("seeds", seed, name)))
    chosen += _different(generated, from_generated - few_generated + few_seeds, [], ("generated", seed, name))
    return chosen + list(_different(both, k - len(chosen), chosen, ("both", seed, name)))


def _different(places: list[int], n: int, without: list[int], key: tuple[object, ...]) -> Iterator[int]:
    """n of the places, one after the other, each as likely as any other that is left."""
    taken, tries = set(without), 0
    for _ in range(n):
        while (place := places[drawn(len(places), "sample_demos", *key, tries)]) in taken:
            tries += 1
        tries += 1
        taken.add(place)
        yield place


def _lists(values: pl.Series, k: int, name: str) -> pl.Series:
    """Every k values as a list."""
    rows = pl.select(pl.int_range(len(values)) // k).to_series()
    lists = pl.DataFrame({"row": rows, name: values}).group_by("row", maintain_order=True).agg(name)
    return lists[name]


@stage(rowwise=True)
def sample_values(df: pl.DataFrame, *, values: Sequence[str], into: str, seed: int = 0) -> pl.DataFrame:
    """Draws one of some values for each row, such as a theme.

    Reads: `row_id`. Adds: `into` (String, never null). Rows: the same, in the same order.
    values: each is as likely; one that stands twice is twice as likely. A row's draw is a place in the list, and
    depends on seed, `into`, `row_id` and the length of the list: the rewording of one value changes only its own rows.
    Raises: BindError when there is none.

    >>> df = pl.DataFrame({"row_id": ["a", "b", "c"]})
    >>> sample_values(df, values=["Algebra", "Geometry"], into="theme")["theme"].to_list()
    ['Geometry', 'Algebra', 'Geometry']
    """
    require(df, "row_id", stage="sample_values")
    if isinstance(values, str) or not values:
        raise BindError(f"sample_values(values={values!r}): give a list of at least one value to draw from.")
    places = [drawn(len(values), "sample_values", seed, into, name) for name in df["row_id"]]
    return df.with_columns(pl.Series(into, list(values), dtype=pl.String)[places])

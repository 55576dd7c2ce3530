"""The book of a run in rounds: which candidates are accepted, which repeat another one, which are to be asked again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import polars as pl

from agora_frames.frames import error_columns, outcome, reason

__all__ = ["Book", "counted", "decided", "entered"]

# Kinds of a prompt or a request that no other draw will mend, and of calls that nobody makes any more.
_HOPELESS = ("no_prompt", "null_value", "template_error", "bad_request", "context_too_long")
_OVER = ("over_budget", "not_asked")

_ENTRY = pl.Schema(
    {
        "slot": pl.Int64(),
        "attempt": pl.Int64(),
        "row_id": pl.String(),
        "good": pl.Boolean(),
        "kind": pl.String(),
        "said": pl.String(),
        "same": pl.String(),
        "of": pl.String(),
        "over": pl.Boolean(),
    }
)
_TAKEN = pl.Schema({"same": pl.String(), "duplicate_of": pl.String()})


@dataclass(frozen=True)
class Book:
    """What is known at the beginning of a round, and by which rules its candidates are judged.

    distinct, quota, quota_of: see `until_rows`. taken: what may not be said again, and who said it. accepted, slots:
    how many there are of both. counts: of each value of `quota_of`, how many are accepted. made: the accepted rows.
    """

    distinct: tuple[str, ...] = ()
    quota: int | Mapping[str, int] | None = None
    quota_of: str = "theme"
    taken: pl.DataFrame = field(default_factory=_TAKEN.to_frame)
    accepted: int = 0
    slots: int = 0
    counts: Mapping[str, int] = field(default_factory=dict)
    made: tuple[pl.DataFrame, ...] = ()

    def begun_with(self, seeds: pl.DataFrame) -> Book:
        """What the seeds say is taken, as far as they have the columns."""
        if not self.distinct or not set(self.distinct) <= set(seeds.columns):
            return self
        return replace(self, taken=_taken(seeds, self.distinct))

    def after(self, done: pl.DataFrame) -> Book:
        """The book at the beginning of the next round."""
        accepted = done.filter("valid")
        new = _taken(accepted, self.distinct) if self.distinct else _TAKEN.to_frame()
        counts = dict(self.counts)
        if self.quota is not None:
            for value, n in accepted.group_by(self.quota_of).len().iter_rows():
                counts[value] = counts.get(value, 0) + n
        return replace(
            self,
            taken=pl.concat([self.taken, new]),
            accepted=self.accepted + accepted.height,
            slots=self.slots + done["slot"].n_unique(),
            counts=counts,
            made=(*self.made, accepted),
        )

    def pool(self, seeds: pl.DataFrame) -> pl.DataFrame:
        """What may be shown as an example: the seeds, and what was accepted so far."""
        parts = [seeds.with_columns(pl.lit(False).alias("generated"))]
        for made in self.made:
            names = [name for name in seeds.columns if name in made.columns]
            parts.append(made.select(*names, pl.lit(True).alias("generated")))
        return pl.concat(parts, how="diagonal_relaxed")

    def most(self) -> pl.Expr:
        """Int64: how many more rows of its value of `quota_of` each may have; null where there is no quota."""
        if self.quota is None:
            return pl.lit(None, dtype=pl.Int64)
        quota = self.quota
        named = quota if isinstance(quota, Mapping) else dict.fromkeys(self.counts, quota)
        left = {value: most - self.counts.get(value, 0) for value, most in named.items()}
        other = pl.lit(quota if isinstance(quota, int) else None, dtype=pl.Int64)
        return pl.col("of").replace_strict(left, default=other, return_dtype=pl.Int64) if left else other

    def without_full(self, slots: pl.DataFrame) -> pl.DataFrame:
        """The slots, without those of a value of which there are enough."""
        if self.quota is None:
            return slots
        left = slots.select(pl.col(self.quota_of).cast(pl.String).alias("of")).select(self.most()).to_series()
        return slots.filter((left > 0).fill_null(True))


def _taken(df: pl.DataFrame, distinct: Sequence[str]) -> pl.DataFrame:
    rows = df.select(_same(distinct).alias("same"), pl.col("row_id").alias("duplicate_of"))
    return rows.drop_nulls("same").unique("same", keep="first", maintain_order=True)


def _same(columns: Sequence[str]) -> pl.Expr:
    """A text that two rows have in common when they are the same in all the columns; null where one of them is null."""
    texts = [pl.col(name).cast(pl.String).str.to_lowercase().str.replace_all(r"\s+", " ") for name in columns]
    return pl.concat_str([text.str.strip_chars() for text in texts], separator="\x00")


def entered(done: pl.DataFrame | None, book: Book) -> pl.DataFrame:
    """What the book has to know of some judged rows."""
    if done is None:
        return _ENTRY.to_frame()
    nothing = pl.lit(None, dtype=pl.String)
    errors = [pl.col(name).struct for name in error_columns(done)]
    told = [pl.concat_str(e.field("kind"), pl.lit(": "), e.field("message")) for e in errors]
    same = _same(book.distinct) if book.distinct else nothing
    return done.select(
        "slot",
        "attempt",
        "row_id",
        (outcome(done) == "accepted").alias("good"),
        pl.coalesce(*(e.field("kind") for e in errors), nothing).alias("kind"),
        pl.coalesce(*told, reason(done)).alias("said"),
        same.alias("same"),
        (pl.col(book.quota_of).cast(pl.String) if book.quota is not None else nothing).alias("of"),
    ).select(
        *(name for name in _ENTRY if name != "over"),
        pl.col("kind").is_in(_OVER).fill_null(False).alias("over"),
    )


def decided(entries: pl.DataFrame, book: Book, *, attempts: int) -> pl.DataFrame:
    """The entries of a round by slot, each with `duplicate_of`, `why` (null unless a good one is turned down),
    `accepted`, and `again`: whether another attempt is to follow.

    The first good one to say something has it, be it over its quota: in a round slots go before later ones, whenever
    they were answered. So that a row repeats an earlier one is known as soon as both are there, whatever becomes of
    others, and no attempt is made that a complete round would not need. Later rounds may say what only such a row said.
    """
    entries = entries.sort("slot", "attempt").join(book.taken, on="same", how="left", maintain_order="left")
    good, told = pl.col("good"), pl.col("same").is_not_null()
    among = pl.when(good & told).then("same")
    first = pl.col("row_id").filter(good).first().over(among)
    later = good & told & (good.cum_sum().over(among) > 1)
    entries = entries.with_columns(
        pl.when(good).then(pl.coalesce("duplicate_of", pl.when(later).then(first))).alias("duplicate_of")
    ).with_columns(left=book.most(), new=good & pl.col("duplicate_of").is_null())
    full = pl.col("new") & (pl.col("new").cum_sum().over("of") > pl.col("left")).fill_null(False)
    entries = entries.with_columns(
        why=pl.when(pl.col("duplicate_of").is_not_null())
        .then(pl.lit("duplicate"))
        .when(full)
        .then(pl.lit("over_quota"))
    ).with_columns(accepted=good & pl.col("why").is_null(), said=pl.coalesce("why", "said"))
    last = pl.col("attempt") == pl.col("attempt").max().over("slot")
    hopeless = pl.col("kind").is_in([*_HOPELESS, *_OVER]).fill_null(False)
    turned_down = ~pl.col("accepted") & ~hopeless & (pl.col("why") != "over_quota").fill_null(True)
    return entries.with_columns(again=last & turned_down & (pl.col("attempt") + 1 < attempts))


def counted(done: pl.DataFrame, verdicts: pl.DataFrame) -> pl.DataFrame:
    """The rows with what the book decided on each: `valid`, `failures`, `duplicate_of`."""
    told = verdicts.select("slot", "attempt", "accepted", "why", "duplicate_of")
    if "failures" not in done.columns:
        done = done.with_columns(pl.lit([], dtype=pl.List(pl.String)).alias("failures"))
    why = (
        pl.when(pl.col("why").is_not_null()).then(pl.concat_list("why")).otherwise(pl.lit([], dtype=pl.List(pl.String)))
    )
    return (
        done.drop("duplicate_of", strict=False)
        .join(told, on=["slot", "attempt"], how="left", maintain_order="left")
        .with_columns(pl.concat_list("failures", why).alias("failures"), pl.col("accepted").alias("valid"))
        .drop("accepted", "why")
    )

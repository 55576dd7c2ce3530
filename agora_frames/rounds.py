"""Candidates in rounds, until so many rows are accepted: exactly N, whatever the yield, however often interrupted.

Candidates stand in numbered slots, and all that is drawn for one hangs on its name. Rounds begin at fixed slots, and
what may be shown as an example in one round was accepted in those before it. The dataset is the first N accepted slots.
So it is a function of the frame, the parameters and the replies: more rows only append to it, asking what is missing;
and a run that was interrupted, or asked in another order, ends with the same.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import polars as pl

from agora_frames.book import Book, counted, decided, entered
from agora_frames.compose import AnyStage, each_step, name_of, steps
from agora_frames.errors import BindError, FrameError, listed
from agora_frames.frames import require
from agora_frames.hashing import hash_bytes
from agora_frames.stage import Stage, checked, stage
from agora_frames.types import BoundedObserver, Observer

__all__ = ["most_attempts", "shortfall", "until_rows"]

# What a run writes into its rows; of an earlier run's rows, given as input, it is left out.
_OWN = ("slot", "round", "attempt", "sample", "feedback", "duplicate_of", "valid", "failures", "generated")
# After so many attempts without one accepted row, something is wrong that more of them will not mend.
_IN_VAIN = 100
_LIMITS = ("rows", "attempts", "round_size", "largest_round", "max_rounds", "max_candidates")


@stage()
def until_rows(
    df: pl.DataFrame,
    *,
    stage: AnyStage,
    rows: int,
    candidates: Literal["new", "rows"] = "new",
    sample: Stage | None = None,
    distinct: Sequence[str] = ("instruction",),
    from_input: bool = True,
    attempts: int = 10,
    feedback: bool = False,
    quota: int | Mapping[str, int] | None = None,
    quota_of: str = "theme",
    round_size: int = 25,
    largest_round: int = 1_000,
    max_rounds: int | None = None,
    max_candidates: int | None = None,
    seed: int = 0,
    observer: Observer | None = None,
) -> pl.DataFrame:
    """Asks for candidates, round by round, until exactly `rows` of them are accepted; keeps all that were asked.

    Reads: `row_id`, and what `sample` and `stage` read. Gives, for each attempt at each candidate, what `stage` made of
    it, and `slot`, `round`, `attempt` (Int64, from 0; also as `sample`, the number of the draw), `feedback` (String),
    `duplicate_of` (String: the row_id of what it repeats), `valid` and `failures` as of `validate`, which also say
    `duplicate`, `over_quota` and `surplus`. Rows: by slot and attempt; `rows` of them accepted, or see `shortfall`.
    stage: what is done with candidates, row by row: prompts, calls, parsing, validation.
    candidates: `new` ones have a `row_id` of their own, and `sample` gives them the rest; or the `rows` of the frame,
    each once, then each again as another draw, with `parents` (List(String): the row_id in the frame).
    sample: run on candidates before `stage`. A parameter `pool` of it that is None is given anew in each round: the
    frame and what was accepted in earlier rounds, where `generated` is true (see `sample_demos`).
    distinct: columns in which no two accepted rows may be the same, nor one the same as a row of the frame (unless
    `from_input` is false), case and white space aside. attempts: draws at a candidate until one is accepted; feedback:
    a next draw finds in the column `feedback` why. quota: at most so many accepted rows of each value of the column
    `quota_of`, or of those named. round_size: slots of the first round; each later one has as many as all before it,
    and at most `largest_round`. max_rounds, max_candidates: no more than these (unless said, candidates for 20 attempts
    a row). seed: another one names other candidates. observer: see `generate_column`.
    Ends early, too, when a reply is `over_budget`, and after a round when 100 attempts brought no row at all.
    Raises: BindError for numbers that make no sense; FrameError when columns are missing or `stage` loses rows.
    """
    limits = (rows, attempts, round_size, largest_round, max_rounds, max_candidates)
    _check(candidates, **dict(zip(_LIMITS, limits, strict=True)))
    seeds = _seeds(df)
    book = Book(tuple(distinct), quota, quota_of).begun_with(seeds if from_input else seeds.clear())
    most = _most_candidates(rows, attempts, max_candidates) if seeds.height else 0
    rounds = list(_rounds(round_size, largest_round, most))[:max_rounds]
    with _watched(stage, observer, rows) as heard:
        run = _Run(seeds, heard, name_of(stage), sample, candidates == "new", feedback, seed, rows, attempts)
        return _with_surplus(_all(run, book, rounds), rows)


def _check(candidates: object, **limits: object) -> None:
    for name, value in limits.items():
        whole = isinstance(value, int) and not isinstance(value, bool) and value >= 1
        if not whole and not (value is None and name.startswith("max_")):
            raise BindError(f"until_rows({name}={value!r}): it must be a whole number, at least 1.")
    if candidates not in ("new", "rows"):
        raise BindError(f"until_rows(candidates={candidates!r}): write 'new' or 'rows'.")


@dataclass(frozen=True)
class _Run:
    """What stays the same through all rounds."""

    seeds: pl.DataFrame
    stage: AnyStage
    name: str
    sample: Stage | None
    new: bool
    feedback: bool
    seed: int
    rows: int
    attempts: int


def _seeds(df: pl.DataFrame) -> pl.DataFrame:
    require(df, "row_id", stage="until_rows")
    if twice := df.filter(df["row_id"].is_duplicated())["row_id"].unique(maintain_order=True).to_list():
        raise FrameError(
            f"until_rows() tells rows by their row_id, and {listed(twice, most=3)} stand in the frame more than once. "
            "Give each its own name: df.drop('row_id').pipe(with_row_ids)."
        )
    return df.drop(_OWN, strict=False).with_columns(pl.col("row_id").cast(pl.String))


def _most_candidates(rows: int, attempts: int, given: int | None) -> int:
    """Enough for 20 attempts a row, unless said; and for 100 candidates."""
    return given if given is not None else max(100, 2 * rows, math.ceil(20 * rows / attempts))


def _rounds(first: int, largest: int, most: int) -> Iterator[tuple[int, int]]:
    """The slots of each round, up to `most`: 0 to 25, 25 to 50, 50 to 100, …"""
    begin = 0
    while begin < most or begin == 0:
        end = begin + max(min(first, largest), min(begin, largest))
        yield begin, min(end, most)
        begin = end


def _all(run: _Run, book: Book, rounds: Sequence[tuple[int, int]]) -> pl.DataFrame:
    """One round after the other, as far as there is need and leave."""
    done: list[pl.DataFrame] = []
    for number, (begin, end) in enumerate(rounds):
        made, over = _round(run, book, number, begin, end)
        done.append(made)
        book = book.after(made)
        in_vain = not book.accepted and sum(each.height for each in done) >= _IN_VAIN
        if over or in_vain or book.accepted >= run.rows:
            break
    return pl.concat(done, how="vertical_relaxed")


def _round(run: _Run, book: Book, number: int, begin: int, end: int) -> tuple[pl.DataFrame, bool]:
    """Every attempt at the slots of one round that were needed, judged; and whether nothing more may be asked."""
    slots = _slots(run, book, number, begin, end)
    waves: list[pl.DataFrame] = []
    entries = entered(None, book)
    fresh, over = slots["slot"].to_list(), False
    while True:
        verdicts = decided(entries, book, attempts=run.attempts)
        again, n_new = _needed(verdicts, book, run)
        wave = _wave(run, slots, again, fresh[:n_new])
        fresh = fresh[n_new:]
        if over or (waves and wave.is_empty()):
            return counted(pl.concat(waves, how="vertical_relaxed"), verdicts), over
        waves.append(_asked(run, book, wave))
        entries = pl.concat([entries, entered(waves[-1], book)])
        over = bool(entries["over"].any())
        if slots.is_empty():
            return counted(waves[0], decided(entries, book, attempts=run.attempts)), over


def _slots(run: _Run, book: Book, number: int, begin: int, end: int) -> pl.DataFrame:
    """The candidates of a round, with what is drawn for each; without those of which there are enough."""
    slots = pl.DataFrame({"slot": pl.int_range(begin, end, dtype=pl.Int64, eager=True)})
    if run.new:
        key = f"{run.name}:{run.seed}".encode()
        names = [hash_bytes(key, str(slot).encode()) for slot in slots["slot"]]
        made = slots.select(pl.Series("row_id", names, dtype=pl.String), pl.col("slot"))
    else:
        n = max(1, run.seeds.height)
        origins = run.seeds[slots["slot"] % n] if slots.height else run.seeds.clear()
        draws = [slot // n for slot in slots["slot"]]
        # The first draw at a row keeps its name, so that its call is the one that a plain recipe makes.
        pairs = zip(origins["row_id"], draws, strict=True)
        names = [hash_bytes(name.encode(), str(draw).encode()) if draw else name for name, draw in pairs]
        made = origins.with_columns(
            pl.Series("row_id", names, dtype=pl.String), slots["slot"], pl.concat_list("row_id").alias("parents")
        )
    made = made.with_columns(pl.lit(number, dtype=pl.Int64).alias("round"))
    if run.sample is not None:
        made = checked(_with_pool(run.sample, book.pool(run.seeds))(made), run.sample.name, "returned")
    return book.without_full(made)


def _with_pool(sample: Stage, pool: pl.DataFrame) -> Stage:
    def wrap(step: AnyStage) -> AnyStage:
        if isinstance(step, Stage) and "pool" in step.params and step.params["pool"] is None:
            return replace(step, params={**step.params, "pool": pool})
        return step

    return each_step(sample, wrap)


def _needed(verdicts: pl.DataFrame, book: Book, run: _Run) -> tuple[pl.DataFrame, int]:
    """The attempts that are to be followed by another one, and how many slots are to be begun."""
    accepted = verdicts.filter("accepted")["slot"]
    again = verdicts.filter("again")
    missing = run.rows - book.accepted - len(accepted)
    if missing <= 0:  # only what stands before the last row can still change which rows those are
        return again.filter(pl.col("slot") < accepted.sort()[run.rows - book.accepted - 1]), 0
    settled = book.slots + verdicts["slot"].n_unique() - again.height
    share = max(0.05, (book.accepted + len(accepted) + 1) / (settled + 1))
    return again, max(0, math.ceil(missing / min(1.0, share)) - again.height)


def _wave(run: _Run, slots: pl.DataFrame, again: pl.DataFrame, fresh: list[int]) -> pl.DataFrame:
    """The candidates to ask now: further attempts first, then new slots."""
    said = pl.col("said") if run.feedback else pl.lit(None, dtype=pl.String)
    first = pl.DataFrame({"slot": fresh}, schema={"slot": pl.Int64}).with_columns(
        pl.lit(0, dtype=pl.Int64).alias("attempt"), pl.lit(None, dtype=pl.String).alias("feedback")
    )
    asked = pl.concat([again.select("slot", pl.col("attempt") + 1, said.alias("feedback")), first])
    wave = asked.join(slots, on="slot", how="left", maintain_order="left")
    return wave.select(*slots.columns, "attempt", pl.col("attempt").alias("sample"), "feedback")


def _asked(run: _Run, book: Book, wave: pl.DataFrame) -> pl.DataFrame:
    done = checked(run.stage(wave), run.name, "returned")
    columns = (*book.distinct, *([book.quota_of] if book.quota is not None else []))
    require(done, "row_id", "slot", "round", "attempt", *columns, stage="until_rows, of what its stage made,")
    if not done.select("slot", "attempt").equals(wave.select("slot", "attempt")):
        raise FrameError(
            f"until_rows() gave {run.name}() {wave.height} candidates and got {done.height} rows that are not the same "
            "ones in their order: its stage must keep every row, with its reason. Leave out keep_valid() and `samples`."
        )
    return done


def _with_surplus(done: pl.DataFrame, rows: int) -> pl.DataFrame:
    """Marks what was accepted beyond the rows that were wanted."""
    done = done.sort("slot", "attempt")
    surplus = pl.col("valid") & (pl.col("valid").cum_sum() > rows)
    return done.with_columns(
        pl.when(surplus).then(pl.lit(False)).otherwise("valid").alias("valid"),
        pl.when(surplus)
        .then(pl.concat_list("failures", pl.lit(["surplus"], dtype=pl.List(pl.String))))
        .otherwise("failures")
        .alias("failures"),
    )


@contextlib.contextmanager
def _watched(stage: AnyStage, observer: Observer | None, rows: int) -> Iterator[AnyStage]:
    """The stage, whose last step that asks a model tells the observer of its rows; that of so many wanted ones."""
    asking = [s for s in steps(stage) if isinstance(s, Stage) and "observer" in s.params and "backend" in s.params]
    if observer is None or not asking:
        yield stage
        return

    def hear(finished: pl.DataFrame) -> None:  # a plain function: a run has one beginning and one end
        observer(finished)

    def wrap(step: AnyStage) -> AnyStage:
        if step is asking[-1]:
            return replace(asking[-1], params={**asking[-1].params, "backend": backend, "observer": hear})
        return step

    apart = getattr(asking[-1].params["backend"], "apart", None)
    backend = asking[-1].params["backend"] if apart is None else apart()
    if isinstance(observer, BoundedObserver):
        observer.begin(rows, backend)
    try:
        yield each_step(stage, wrap)
    finally:
        if isinstance(observer, BoundedObserver):
            observer.end()


def most_attempts(stage: Stage) -> int:
    """How many attempts a bound `until_rows(…)` may make, all candidates and draws together."""
    rows, attempts = int(stage.params["rows"]), int(stage.params["attempts"])
    return attempts * _most_candidates(rows, attempts, stage.params["max_candidates"])


def shortfall(done: pl.DataFrame, *, stage: AnyStage) -> str | None:
    """Why a run of `until_rows` has fewer rows than were wanted, in words; None when it has all.

    done: what the stage made. stage: the bound `until_rows(…)`, or a recipe with one in it.
    """
    found = [step.params for step in steps(stage) if isinstance(step, Stage) and step.fn is until_rows.fn]
    if not found:
        return None
    wanted, accepted = found[0]["rows"], done["valid"].sum()
    if accepted >= wanted:
        return None
    most = _most_candidates(wanted, found[0]["attempts"], found[0]["max_candidates"])
    kinds = set(entered(done, Book())["kind"].drop_nulls())
    rounds = done["round"].n_unique()
    if "over_budget" in kinds:
        why = "the ceiling on what may be spent was met (max_cost, max_tokens_total)"
    elif "not_asked" in kinds:
        why = "this was only planned"
    elif not accepted and done.height >= _IN_VAIN:
        why = f"none of the first {done.height:,} attempts was accepted"
    elif rounds == found[0]["max_rounds"]:
        why = f"max_rounds={rounds} was met"
    elif found[0]["quota"] is not None and done["slot"].n_unique() < most:
        of, n = found[0]["quota_of"], most - done["slot"].n_unique()
        why = f"the quota of {of!r} left out {n:,} of the {most:,} candidates that max_candidates allows"
    else:
        why = f"max_candidates={most:,} was met"
    return f"{wanted - accepted:,} of {wanted:,} rows are missing: {why}."

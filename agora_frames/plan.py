"""What a stage would ask, before it is asked: everything is rendered for real, nothing is called."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import orjson
import polars as pl

from agora_frames.budget import most_completion
from agora_frames.compose import AnyStage, each_step
from agora_frames.errors import BindError
from agora_frames.frames import REPLIES, error_columns
from agora_frames.ledger import Ledger
from agora_frames.prices import Prices
from agora_frames.remembered import Remembered
from agora_frames.rounds import most_attempts, until_rows
from agora_frames.stage import Stage
from agora_frames.types import Backend

__all__ = ["PLAN", "History", "plan", "run_noted", "run_planned", "run_planned_rounds"]

# One row for each step that calls a model. `rows`: that reach it. `calls`: different requests among them. `known`:
# answered by the ledger. `to_ask`: the rest, and of it alone is told what follows.
# `prompt_tokens_estimated`, by what `prompt_tokens_from` says: `ledger` (a reply to the same messages is known),
# `history` (the tokens to a byte of the replies that this step has already), `4 bytes per token` (of the messages'
# JSON, which stands for what chat templates add, too).
# `completion_tokens_expected`, `cost_usd_expected` and, from `cost_usd_low` to `cost_usd_high`, its 90 % interval: from
# `history_attempts` attempts at this endpoint and model (`history_of`: of the same step, `recipe and max_tokens`,
# `recipe`, or all of the `model`; the first that has 5 of them); null without.
# `completion_tokens_at_most`, `cost_usd_at_most`: all replies as long as max_tokens, asked once, with the prompts as
# estimated. Costs are null without prices.
PLAN = pl.Schema(
    {
        "step": pl.String(),
        "model": pl.String(),
        "rows": pl.Int64(),
        "calls": pl.Int64(),
        "known": pl.Int64(),
        "to_ask": pl.Int64(),
        "prompt_tokens_estimated": pl.Int64(),
        "prompt_tokens_from": pl.String(),
        "completion_tokens_expected": pl.Int64(),
        "completion_tokens_at_most": pl.Int64(),
        "cost_usd_expected": pl.Float64(),
        "cost_usd_low": pl.Float64(),
        "cost_usd_high": pl.Float64(),
        "cost_usd_at_most": pl.Float64(),
        "history_attempts": pl.Int64(),
        "history_of": pl.String(),
        "rows_wanted": pl.Int64(),
        "rows_known": pl.Int64(),
        "yield_expected": pl.Float64(),
        "yield_from": pl.String(),
    }
)
# Of `until_rows`, whose later calls hang on replies: `rows_known` of `rows_wanted` are made by replies of the ledger.
# `to_ask` and what follows is then an estimate: the attempts that the rest takes at `yield_expected`, the accepted
# share of attempts, by what `yield_from` says; `…_at_most` is what all candidates and attempts allowed would take.
_ASSUMED_YIELD, _FEWEST_JUDGED = 0.8, 20
_BYTES_PER_TOKEN = 4
_FEWEST_ATTEMPTS = 5
_Z = 1.6448536269514722  # of a normal value, 5 % lie above so many standard deviations

# Of each ledger, endpoint and model: how many attempts, by recipe and max_tokens, and the sums of their lengths.
_Read = dict[tuple[str, str, str], pl.DataFrame]


def plan(stage: AnyStage, *, df: pl.DataFrame) -> pl.DataFrame:
    """One row for each step that calls a model, in the columns of `PLAN`.

    The stage is run on `df` with backends that ask nothing: replies that the ledger has are used, so that later steps
    can be planned for these rows; rows without a reply end at the step that would have asked (`not_asked`).
    The interval of the cost is that of `History.interval`. It takes the prompts as estimated, at the price of a prompt
    that is in no cache; attempts that are paid for and fail, and are made again, are not in it.

    >>> import agora_frames as af
    >>> model = af.connect("scripted:builtins:str", ledger="no-such-ledger")
    >>> say = af.recipe(
    ...     af.with_row_ids(),
    ...     af.render_prompts(template="Say {{ word }}."),
    ...     af.generate_column(backend=model, max_tokens=5),
    ...     name="say",
    ... )
    >>> af.plan(say, df=pl.DataFrame({"word": ["yes", "no"]})).select("rows", "known", "to_ask").rows()
    [(2, 0, 2)]
    """
    planned: list[dict[str, object]] = []
    read: _Read = {}

    def wrap(step: AnyStage) -> AnyStage:
        if isinstance(step, Stage) and "backend" in step.effects:
            if step.fn is until_rows.fn:
                return replace(step, fn=run_planned_rounds, params={"stage": step, "planned": planned, "read": read})
            return replace(step, fn=run_planned, params={"stage": step, "planned": planned, "read": read})
        return step

    each_step(stage, wrap)(df)
    return pl.DataFrame(planned, schema=PLAN)


def run_planned_rounds(
    df: pl.DataFrame, *, stage: Stage, planned: list[dict[str, object]], read: _Read
) -> pl.DataFrame:
    """Runs `until_rows` as far as the ledger has replies, and notes what the rest is expected to take."""
    waves: list[tuple[str, _Planned]] = []

    def wrap(step: AnyStage) -> AnyStage:
        if isinstance(step, Stage) and "backend" in step.effects:
            return replace(step, fn=run_noted, params={"stage": step, "waves": waves, "read": read})
        return step

    inner = each_step(stage.params["stage"], wrap)
    done = replace(stage, params={**stage.params, "stage": inner, "observer": None})(df)
    asked = done.select(
        pl.any_horizontal(*(pl.col(n).struct.field("kind") == "not_asked" for n in error_columns(done)))
    )
    judged = done.height - int(asked.to_series().sum())
    known, wanted = int(done["valid"].sum()), int(stage.params["rows"])
    enough = judged >= _FEWEST_JUDGED and known > 0
    share = known / judged if enough else _ASSUMED_YIELD
    more = math.ceil((wanted - known) / share)
    most = max(more, most_attempts(stage) - judged) if more else 0
    for name in dict.fromkeys(name for name, _ in waves):
        backends = [backend for of, backend in waves if of == name]
        counts = {key: sum(int(str(b.noted.get(key, 0))) for b in backends) for key in ("calls", "known")}
        planned.append(
            {
                "step": name,
                "model": backends[-1].model,
                "rows": counts["known"] + more,
                "calls": counts["known"] + more,
                "known": counts["known"],
                "to_ask": more,
                **backends[-1].figures(more, most=most),
                "rows_wanted": wanted,
                "rows_known": known,
                "yield_expected": share,
                "yield_from": f"{judged:,} attempts that the ledger has" if enough else "assumed",
            }
        )
    return done


def run_noted(df: pl.DataFrame, *, stage: Stage, waves: list[tuple[str, _Planned]], read: _Read) -> pl.DataFrame:
    """Runs one wave of a step with a backend that asks nothing, and keeps that backend, with what it noted."""
    backend = _Planned(_asked_of(stage), read)
    waves.append((stage.name, backend))
    return _asking_nothing(stage, backend)(df)


def run_planned(df: pl.DataFrame, *, stage: Stage, planned: list[dict[str, object]], read: _Read) -> pl.DataFrame:
    """Runs the stage with a backend that asks nothing, and notes what it would have asked, in the columns of PLAN."""
    asking_nothing = _Planned(_asked_of(stage), read)
    done = _asking_nothing(stage, asking_nothing)(df)
    planned.append({"step": stage.name, "rows": done.height, **asking_nothing.noted})
    return done


def _asked_of(stage: Stage) -> Backend:
    if not isinstance(backend := stage.params.get("backend"), Backend):
        raise BindError(f"{stage.name}() hides its backend: plan the recipe itself, before it is wrapped (traced(…)).")
    return backend


def _asking_nothing(stage: Stage, backend: _Planned) -> Stage:
    unseen = {"observer": None} if "observer" in stage.params else {}
    return replace(stage, params={**stage.params, **unseen, "backend": backend})


@dataclass(frozen=True)
class History:
    """How long replies were: of how many attempts, their mean and variance, in tokens; and what the attempts are of."""

    of: str
    attempts: int
    mean: float
    variance: float

    def interval(self, n: int) -> tuple[float, float, float]:
        """What n further replies will have together: the expected tokens, and the ends of a 90 % interval.

        The replies to come are taken as draws from the same distribution as the m known ones, of mean x and variance
        s². Their sum is then about normal, with the mean n·x and the variance n·s² (the draws) + n²·s²/m (x is itself
        uncertain). As s² is estimated as well, the interval is n·x ± t·s·√(n + n²/m), with Student's t for m - 1
        degrees of freedom. It is too narrow when the rows to come are of another kind than the known ones, and rough
        when n or m is small and lengths are very skew.
        Source: the prediction interval of a normal sample; t by its expansion in 1/(m - 1), Abramowitz & Stegun 26.7.5.
        """
        width = _t(self.attempts - 1) * math.sqrt(self.variance * (n + n * n / self.attempts))
        return n * self.mean, max(0.0, n * self.mean - width), n * self.mean + width


def _t(freedom: int) -> float:
    """Student's t, 95 % below it."""
    z = _Z
    return (
        z
        + (z**3 + z) / (4 * freedom)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3)
    )


@dataclass(frozen=True)
class _Planned:
    """A backend that answers from its ledger alone; the rest is `not_asked`."""

    backend: Backend
    read: _Read
    noted: dict[str, object] = field(default_factory=dict)
    # The prompts that were rendered, their origin, max_tokens, and how long replies were.
    basis: list[tuple[pl.Series, str | None, int | None, History | None]] = field(default_factory=list)

    @property
    def endpoint(self) -> str:
        return self.backend.endpoint

    @property
    def model(self) -> str:
        return self.backend.model

    @property
    def can(self) -> frozenset[str] | None:
        return getattr(self.backend, "can", None)

    @property
    def ledger(self) -> Ledger | None:
        return self.backend.ledger if isinstance(self.backend, Remembered) else None

    def __call__(self, requests: pl.DataFrame, /) -> Iterator[pl.DataFrame]:
        known = self.ledger.answers(requests["key"]) if self.ledger else REPLIES.to_frame()
        missing = requests.join(known, on="key", how="anti", maintain_order="left")
        self.noted.update(model=self.model, calls=requests.height, known=known.height, to_ask=missing.height)
        self.noted.update(self._notes(missing, requests.join(known, on="key")))
        yield known
        yield missing.select("key", error=pl.struct(kind=pl.lit("not_asked"), message=pl.lit("only planned")))

    def _notes(self, missing: pl.DataFrame, known: pl.DataFrame) -> dict[str, object]:
        n, prompts, origin = missing.height, *_prompts(missing, known)
        limits = {most_completion(orjson.loads(sampling)) for sampling in missing["sampling"]}
        each = limits.pop() if len(limits) == 1 else None  # one stage sends one max_tokens
        self.basis.append((prompts, origin, each, self._history(known, each) if n else None))
        return self.figures(n)

    def figures(self, n: int, *, most: int | None = None) -> dict[str, object]:
        """What n requests such as those missing will take; and `most` of them, or n, at most."""
        prompts, origin, each, past = self.basis[-1] if self.basis else (pl.Series(dtype=pl.Int64), None, None, None)
        most = n if most is None else most
        share, share_most = (k / prompts.len() if prompts.len() else 0.0 for k in (n, most))
        tokens = past.interval(n) if past and n else None
        if tokens and each:
            tokens = (min(tokens[0], n * each), min(tokens[1], n * each), min(tokens[2], n * each))
        prices = getattr(getattr(self.backend, "backend", self.backend), "prices", None)
        costs = [_cost(prices, prompts, total and total / n, share) for total in tokens or (None,) * 3]
        return {
            "prompt_tokens_estimated": round(float(prompts.sum()) * share),
            "prompt_tokens_from": origin,
            "completion_tokens_expected": round(tokens[0]) if tokens else None if n else 0,
            "completion_tokens_at_most": most * each if each else None if n else 0,
            **dict(zip(("cost_usd_expected", "cost_usd_low", "cost_usd_high"), costs, strict=True)),
            "cost_usd_at_most": _cost(prices, prompts, each, share_most),
            "history_attempts": past.attempts if past else None,
            "history_of": past.of if past else None,
        }

    def _history(self, known: pl.DataFrame, max_tokens: int | None) -> History | None:
        """The nearest history that is long enough."""
        if found := _summed("step", known.select(_sums())):
            return found
        if self.ledger is None:
            return None
        asked = (str(self.ledger.path), self.endpoint, self.model)
        if asked not in self.read:
            self.read[asked] = _read(self.ledger, self.endpoint, self.model)
        all_of = self.read[asked]
        recipe = all_of.filter(pl.col("recipe").eq_missing(pl.lit(self.ledger.recipe, dtype=pl.String)))
        limit = pl.lit(None if max_tokens is None else str(max_tokens), dtype=pl.String)
        alike = recipe.filter(pl.col("max_tokens").eq_missing(limit))
        nearest = {"recipe and max_tokens": alike, "recipe": recipe, "model": all_of}
        return next(filter(None, (_summed(of, sums) for of, sums in nearest.items())), None)


def _read(ledger: Ledger, endpoint: str, model: str) -> pl.DataFrame:
    """Sums over the attempts at a model, by recipe and max_tokens: small, however long the ledger is."""
    here = (pl.col("endpoint") == endpoint) & (pl.col("model") == model) & pl.col("completion_tokens").is_not_null()
    by = ["recipe", pl.col("sampling").str.json_path_match("$.max_tokens").alias("max_tokens")]
    return ledger.scan().filter(here).group_by(by).agg(_sums()).collect(engine="streaming")


def _sums() -> list[pl.Expr]:
    tokens = pl.col("completion_tokens").cast(pl.Float64)
    return [tokens.count().alias("n"), tokens.sum().alias("tokens"), (tokens**2).sum().alias("squares")]


def _summed(of: str, sums: pl.DataFrame) -> History | None:
    n, tokens, squares = sums.select(pl.col("n", "tokens", "squares").sum()).row(0)
    if n < _FEWEST_ATTEMPTS:
        return None
    return History(of, n, tokens / n, max(0.0, squares - tokens * tokens / n) / (n - 1))


def _prompts(missing: pl.DataFrame, known: pl.DataFrame) -> tuple[pl.Series, str | None]:
    """The tokens of each prompt that would be asked, and what tells of them."""
    told = known.select("messages", "prompt_tokens", size=pl.col("messages").str.len_bytes()).drop_nulls()
    same = told.group_by("messages").agg(pl.col("prompt_tokens").max())
    asked = missing.select("messages", size=pl.col("messages").str.len_bytes()).join(
        same, on="messages", how="left", maintain_order="left"
    )
    ratio = (
        told.select(pl.col("prompt_tokens").sum() / pl.col("size").sum()).item()
        if told.height
        else 1 / _BYTES_PER_TOKEN
    )
    guessed = asked["prompt_tokens"].null_count()
    origins = ["ledger"] * (guessed < asked.height)
    if guessed:
        origins.append("history" if told.height else f"{_BYTES_PER_TOKEN} bytes per token")
    tokens = asked.select(pl.col("prompt_tokens").fill_null((pl.col("size") * ratio).round().cast(pl.Int64)))
    return tokens.to_series(), ", ".join(origins) or None


def _cost(prices: object, prompts: pl.Series, completion_tokens: float | None, share: float) -> float | None:
    """US dollars of `share` times the requests with these prompts and, each, so long a reply; None when unknown."""
    if not isinstance(prices, Prices):
        return None
    sizes = prompts.alias("tokens").value_counts().iter_rows()
    costs = [(prices.cost(tokens, completion_tokens), times) for tokens, times in sizes]
    return None if any(cost is None for cost, _ in costs) else share * sum(float(cost or 0.0) * n for cost, n in costs)

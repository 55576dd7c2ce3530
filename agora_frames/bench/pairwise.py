"""What the benchmarks share in which a judge compares a model's answers with those of a baseline."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from agora_frames.bench.benchmark import PROMPTS, Prompt, Shots
from agora_frames.errors import FrameError, listed
from agora_frames.frames import ERROR, require
from agora_frames.stage import stage
from agora_frames.stages.prompt import template_file

__all__ = ["JUDGE_FAILED", "chat_prompts", "check_baseline", "score_verdicts", "win_rates"]

# In front of the kind of an error that is the judge's: it says nothing of the model, whose item has no score then.
JUDGE_FAILED = "judge_"

_WIN_RATES = {
    "n": pl.Int64,
    "n_failed": pl.Int64,
    "n_wins": pl.Int64,
    "n_wins_base": pl.Int64,
    "n_draws": pl.Int64,
    "win_rate": pl.Float64,
    "standard_error": pl.Float64,
    "discrete_win_rate": pl.Float64,
}


def chat_prompts() -> dict[Shots, Prompt]:
    """An instruction as it is; and, for base models, after three demonstrations, as one text that the reply goes on
    with (the idea is that of URIAL, arXiv 2312.01552; the demonstrations are our own).
    """
    return {
        "zero": Prompt("{{ instruction }}"),
        "few": Prompt(template_file(PROMPTS / "chat_few.jinja"), stop=("\n# Request:", "\n# Answer:")),
    }


def check_baseline(items: pl.DataFrame, benchmark: str) -> pl.DataFrame:
    """The items, when each has an answer of the baseline.

    Raises: FrameError when one has none.
    """
    require(items, "item_id", "baseline", stage=benchmark, dtype=pl.String())
    if (lacking := items.filter(pl.col("baseline").is_null())).height:
        raise FrameError(
            f"{benchmark} has {lacking.height} items without an answer of the baseline, the first "
            f"{listed(lacking['item_id'], most=3)}. Give a file of the baseline's answers that has them all."
        )
    return items


@stage(rowwise=True)
def score_verdicts(df: pl.DataFrame, *, verdict: str = "preference", answer: str = "completion") -> pl.DataFrame:
    """Makes item scores of a judge's verdicts on pairs.

    Reads: `verdict`, `{verdict}_weight`, `{verdict}_error` (of `judge_pairs`, for the second answer), and `answer`.
    Adds: `score` (Float64: the preference, 0 to 1; null without a verdict), `weight` (Float64: what the verdict counts;
    1 without one), `score_error` (ERROR: why there is none; null when there is, and where there was no answer to judge,
    whose own error says why). The kinds are the judge's, after `judge_`: a judge that failed makes no answer wrong.
    Rows: the same, in the same order.
    """
    require(df, verdict, f"{verdict}_weight", f"{verdict}_error", answer, stage="score_verdicts")
    error = pl.col(f"{verdict}_error").struct
    told = pl.struct(kind=pl.lit(JUDGE_FAILED) + error.field("kind"), message=error.field("message")).cast(ERROR)
    lost = pl.col(verdict).is_null() & pl.col(answer).is_not_null()
    return df.with_columns(
        pl.col(verdict).alias("score"),
        pl.col(f"{verdict}_weight").fill_null(1.0).alias("weight"),
        pl.when(lost).then(told).alias("score_error"),
    )


@stage()
def win_rates(df: pl.DataFrame, *, by: Sequence[str] = ("benchmark",)) -> pl.DataFrame:
    """The columns of AlpacaEval's own leaderboard, of item scores.

    Reads: `by`, `score` (0 to 1: how far the model's answer is preferred; null where nobody judged).
    Gives a new frame, one row for each group in the order in which they come: `by`, `n`, `n_failed` (without a score:
    left out of all that follows), `n_wins`, `n_wins_base`, `n_draws` (score over, under, or exactly 0.5), `win_rate`,
    `standard_error` (100 * sd / sqrt(n), with n - 1), `discrete_win_rate` (wins, and draws by half); in points.
    Source: tatsu-lab/alpaca_eval at cd543a1, metrics/helpers.py.
    """
    require(df, *by, "score", stage="win_rates")
    score = pl.col("score").cast(pl.Float64)
    draws, wins = (score == 0.5).sum(), (score > 0.5).sum()
    told = [
        pl.len().alias("n"),
        score.null_count().alias("n_failed"),
        wins.alias("n_wins"),
        (score < 0.5).sum().alias("n_wins_base"),
        draws.alias("n_draws"),
        (100 * score.mean()).alias("win_rate"),
        (100 * score.std() / score.count().sqrt()).alias("standard_error"),
        (100 * (wins + 0.5 * draws) / score.count()).alias("discrete_win_rate"),
    ]
    counted = df.group_by(by, maintain_order=True).agg(told) if by else df.select(told)[: df.height]
    return counted.cast(_WIN_RATES)  # type: ignore[arg-type]

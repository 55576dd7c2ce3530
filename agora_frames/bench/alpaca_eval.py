"""AlpacaEval 2.0: 805 instructions; a judge prefers the model's answer to the baseline's, with some probability.

Source: Li et al. 2023, https://github.com/tatsu-lab/alpaca_eval (code Apache-2.0, data CC BY-NC 4.0), at cd543a1,
evaluators_configs/weighted_alpaca_eval_gpt4_turbo; length control: see `length_control`. The judge's prompt and the
demonstrations are our own, so scores compare with each other, and not with the published board. Decoding: AgoraBench,
arXiv 2412.03679v2, table 6.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from agora_frames.bench.benchmark import DECODING, PROMPTS, Benchmark, Source, load_rows
from agora_frames.bench.length_control import length_controlled, load_difficulty, load_gamed
from agora_frames.bench.pairwise import chat_prompts, check_baseline, score_verdicts
from agora_frames.compose import recipe
from agora_frames.errors import BindError, FrameError
from agora_frames.frames import ERROR, require
from agora_frames.metrics.judge import Judge, judge_fingerprint
from agora_frames.metrics.pairs import judge_pairs
from agora_frames.metrics.scores import summarise
from agora_frames.metrics.verdicts import TokenParser, first_token, one_word
from agora_frames.stage import Stage, stage
from agora_frames.stages.prompt import template_file
from agora_frames.types import Backend

__all__ = ["SOURCE", "alpaca_eval", "alpaca_judge", "load_alpaca_eval", "scores_of_annotations"]

# The answers of the baseline, gpt-4-1106-preview, which stand beside the instructions.
SOURCE = Source(
    "https://raw.githubusercontent.com/tatsu-lab/alpaca_eval/{revision}/results/gpt4_1106_preview/model_outputs.json",
    "cd543a149df89434d8a54582c0151c0b945c3d20",
)


def alpaca_judge(*, weighted: bool = True) -> Judge:
    """The judge: it names the better answer by one letter, "m" or "M".

    weighted: its preference is shared by the probabilities of the two letters (their log probabilities must be told);
    False takes the letter alone, all or nothing, and is another judge.
    """
    prompt = template_file(PROMPTS / "alpaca_judge.jinja")
    sampling = {"temperature": 1.0, "max_tokens": 1, "logprobs": 5}
    if weighted:
        return Judge("alpaca_eval_2", prompt, first_token("m", "M"), sampling=sampling)
    return Judge("alpaca_eval_2_unweighted", prompt, one_word("m", "M"), sampling={"temperature": 0.0, "max_tokens": 1})


def alpaca_eval(
    *,
    judge: Judge | None = None,
    weighted: bool = True,
    difficulty: pl.DataFrame | str | Path | None = None,
    gamed: pl.DataFrame | str | Path | None = None,
    seed: int = 0,
    judge_backend: Backend,
) -> Benchmark:
    """AlpacaEval 2.0 by win rate over the baseline's answers.

    judge: None for `alpaca_judge(weighted=…)`. weighted: False for a model that tells no log probabilities. A judge
    that does not read them makes another benchmark, by the name of `alpaca_eval_2_unweighted`.
    difficulty: how hard each item is (of `length_control.load_difficulty`, or a file for it), for the metric
    `lc_win_rate_mle`, fitted by plain maximum likelihood; with gamed (of `length_control.load_gamed`, or a file) it is
    `lc_win_rate`, the official fit, which is told without an interval. Without difficulty there is no such win rate.
    seed: of the order in which each pair is shown, which hangs on the item alone. judge_backend: the model that judges.
    An answer that is the baseline's, letter by letter, is a tie. An answer that is not there because the model refused,
    or had nothing to say, is lost; a judge that fails leaves its item without a score.
    """
    if gamed is not None and difficulty is None:
        raise BindError("alpaca_eval(gamed=…) fits by difficulty, too: give difficulty=load_difficulty(…).")
    difficulty = load_difficulty(difficulty) if isinstance(difficulty, str | Path) else difficulty
    gamed = load_gamed(gamed) if isinstance(gamed, str | Path) else gamed
    judge = judge or alpaca_judge(weighted=weighted)
    name = "alpaca_eval_2" if isinstance(judge.parser, TokenParser) else "alpaca_eval_2_unweighted"
    compared = judge_pairs(judge=judge, first="baseline", second="completion", seed=seed, backend=judge_backend)
    metrics: dict[str, Stage] = {"win_rate": summarise()}
    if difficulty is not None:
        fit = "lc_win_rate_mle" if gamed is None else "lc_win_rate"
        resamples = 200 if gamed is None else 0
        metrics[fit] = length_controlled(difficulty=difficulty, gamed=gamed, resamples=resamples)
    return Benchmark(
        name=name,
        source=SOURCE,
        load=load_alpaca_eval,
        prompts=chat_prompts(),
        decoding=DECODING,
        grade=recipe(compared, score_verdicts(), name=f"grade_{name}"),
        metrics=metrics,
        judge=judge_fingerprint(judge, backend=judge_backend),
    )


def load_alpaca_eval(given: str | Path | None = None) -> pl.DataFrame:
    """The items: `item_id` (the place in the file), `dataset`, `instruction`, `baseline`, `baseline_model`.

    given: a file of a model's answers in the official form (`dataset`, `instruction`, `output`, `generator`): that
    model is the baseline; None for the source.
    """
    rows = load_rows(SOURCE, given, "instruction", "output", "generator")
    dataset = pl.col("dataset") if "dataset" in rows.columns else pl.lit(None, dtype=pl.String)
    items = rows.select(
        pl.int_range(pl.len()).cast(pl.String).alias("item_id"),
        dataset.alias("dataset"),
        "instruction",
        pl.col("output").alias("baseline"),
        pl.col("generator").alias("baseline_model"),
    )
    return check_baseline(items, "alpaca_eval")


@stage()
def scores_of_annotations(df: pl.DataFrame, *, benchmark: str = "alpaca_eval_2") -> pl.DataFrame:
    """Item scores of annotations that AlpacaEval itself has written, as if they had been judged here.

    Reads: `preference` (Float64: 1 to 2, 1.5 or 0 for a tie; null where nobody judged), and `index` or the place of the
    row, which names the item.
    Adds: `benchmark`, `item_id` (String), `sample`, `score` (preference - 1), `score_error` (ERROR: `judge_unparsed`
    where there is no preference), `weight`; see `frames.ITEM_SCORES`. Rows: the same, in the same order.
    Raises: FrameError for a preference that is none.
    """
    require(df, "preference", stage="scores_of_annotations")
    preference = pl.col("preference").cast(pl.Float64)
    if (odd := df.filter(~(preference.is_between(1, 2) | (preference == 0)))).height:
        raise FrameError(
            f"scores_of_annotations() found the preference {odd['preference'][0]!r} among {odd.height} that are "
            "neither from 1 (the baseline is better) to 2, nor 0 for a tie."
        )
    index = pl.col("index") if "index" in df.columns else pl.int_range(pl.len())
    why = pl.struct(kind=pl.lit("judge_unparsed"), message=pl.lit("the annotation has no preference")).cast(ERROR)
    return df.with_columns(
        pl.lit(benchmark).alias("benchmark"),
        index.cast(pl.String).alias("item_id"),
        pl.lit(0, dtype=pl.Int64).alias("sample"),
        pl.when(preference == 0).then(0.5).otherwise(preference - 1).alias("score"),
        pl.when(preference.is_null()).then(why).alias("score_error"),
        pl.lit(1.0).alias("weight"),
    )

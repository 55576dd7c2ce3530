"""What the benchmarks with a judge share: verdicts become scores, and a judge's failure is not the model's."""

from __future__ import annotations

import polars as pl
import pytest

from agora_frames.bench.benchmark import settle_scores
from agora_frames.bench.pairwise import chat_prompts, check_baseline, score_verdicts, win_rates
from agora_frames.errors import FrameError
from agora_frames.frames import ERROR


def judged() -> pl.DataFrame:
    """A strong win; a judge that said nothing; a refused answer; an answer that never came."""

    def errors(*kinds: str | None) -> pl.Series:
        return pl.Series([kind and {"kind": kind, "message": "why"} for kind in kinds], dtype=ERROR)

    return pl.DataFrame(
        {
            "completion": ["a", "b", None, None],
            "completion_error": errors(None, None, "refused", "timeout"),
            "preference": [1.0, None, None, None],
            "preference_weight": [3.0, None, None, None],
            "preference_error": errors(None, "unparsed", "null_value", "null_value"),
        }
    )


def test_a_verdict_is_a_score_with_its_weight() -> None:
    assert score_verdicts(judged()).select("score", "weight").row(0) == (1.0, 3.0)


def test_a_judge_that_fails_takes_the_score_away_and_a_model_that_refuses_has_lost() -> None:
    done = judged().pipe(score_verdicts).pipe(settle_scores)
    assert done["score"].to_list() == [1.0, None, 0.0, None]
    assert done["weight"].to_list() == [3.0, 1.0, 1.0, 1.0]
    kinds = done["score_error"].struct.field("kind").to_list()
    assert kinds == [None, "judge_unparsed", "refused", "timeout"]


def test_win_rates_are_those_of_the_graded_rows() -> None:
    df = pl.DataFrame({"benchmark": "b", "score": [1.0, 0.5, 0.2, None]})
    (told,) = win_rates(df).to_dicts()
    assert (told["n"], told["n_failed"], told["n_wins"], told["n_wins_base"], told["n_draws"]) == (4, 1, 1, 1, 1)
    assert told["win_rate"] == pytest.approx(100 * 1.7 / 3)
    assert told["discrete_win_rate"] == pytest.approx(50)
    assert win_rates(df.clear()).height == 0


def test_the_few_shot_prompt_ends_where_the_reply_begins() -> None:
    few = chat_prompts()["few"]
    assert isinstance(few.template, str)
    assert few.template.rstrip().endswith("# Answer:")
    assert all(stop.strip() in few.template for stop in few.stop)


def test_items_without_an_answer_of_the_baseline_are_told() -> None:
    with pytest.raises(FrameError, match=r"1 items without an answer of the baseline, the first '1'"):
        check_baseline(pl.DataFrame({"item_id": ["0", "1"], "baseline": ["a", None]}), "alpaca_eval")

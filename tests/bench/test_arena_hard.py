"""Arena-Hard: published scores of public judgments, and whole runs with a judge that knows what it wants."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import agora_frames as af
from agora_frames.backends.scripted import failing
from agora_frames.bench.arena_hard import arena_hard, load_arena_hard, scores_of_games
from agora_frames.bench.benchmark import evaluate, report
from agora_frames.errors import FrameError, ReadError, StorageError
from agora_frames.frames import ITEM_SCORES
from agora_frames.metrics.agreement import swap_consistency
from agora_frames.metrics.bootstrap import interval
from agora_frames.metrics.scores import summarise

MODEL = af.scripted(lambda messages: "MINE", model="student")


@pytest.fixture(scope="module")
def items(shared_data: Path) -> pl.DataFrame:
    return load_arena_hard(shared_data / "arena_hard_v0.1")


# --- published numbers -----------------------------------------------------------------------------------------------


def published(shared_data: Path) -> tuple[dict[str, pl.DataFrame], dict[str, dict[str, Any]]]:
    """The judgments of each model, and its line of the board."""
    folder = shared_data / "ko_arena_hard"
    board = pl.read_csv(folder / "leaderboard_20250423_no_control.csv")
    games = {}
    for file in sorted((folder / "judgments_ensemble").glob("*.jsonl")):
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        for (
            row
        ) in rows:  # one row has lost a game since, which must have gone like the other to give what was published
            row["games"] *= 3 - len(row["games"])
        games[rows[0]["model"]] = pl.DataFrame(rows)
    return games, {row["model"]: row for row in board.to_dicts()}


def test_the_published_scores_of_public_judgments_come_out(shared_data: Path) -> None:
    games, board = published(shared_data)
    scores = {
        model: summarise(scores_of_games(df), pooled=True, resamples=1)["score"][0] for model, df in games.items()
    }
    compared = [model for model in board if model in scores and model != "claude-3.7-sonnet"]  # which is the baseline
    assert len(compared) == 39
    assert [m for m in compared if abs(scores[m] - board[m]["score"]) > 0.005 + 1e-9] == []


def test_the_interval_of_a_model_is_around_its_published_score(shared_data: Path) -> None:
    games, board = published(shared_data)
    for model in ("o3-low", "command-a", "lfm-3b"):
        (told,) = summarise(scores_of_games(games[model]), pooled=True).to_dicts()
        assert told["low"] < board[model]["score"] < told["high"]
        assert told["high"] - told["low"] < 10


def test_percentiles_of_published_bootstraps_are_the_published_intervals(shared_data: Path) -> None:
    lines = (shared_data / "arena_hard_v0.1" / "bootstrap_stats.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    assert len(found) == 13
    for row in found:
        low, high = pl.DataFrame({"points": row["results"]}).select(*interval("points", 0.95)).row(0)
        assert (low, high) == pytest.approx((row["lower"], row["upper"]), abs=1e-9)


def test_games_become_item_scores_with_weights() -> None:
    games = [[{"score": "B>>A"}, {"score": "A>B"}], [{"score": "A=B"}, {"score": "A<B"}], [None, {"score": None}]]
    df = pl.DataFrame({"question_id": ["x", "y", "z"], "games": games})
    done = scores_of_games(df)
    assert done.select("item_id", "sample", "score", "weight").rows() == [
        *[("x", 0, 1.0, 3.0), ("x", 1, 1.0, 1.0), ("y", 0, 0.5, 1.0)],
        *[("y", 1, None, 1.0), ("z", 0, None, 1.0), ("z", 1, None, 1.0)],
    ]
    assert done["score_error"].is_null().to_list() == done["score"].is_not_null().to_list()
    assert done.select(*ITEM_SCORES).schema == ITEM_SCORES


# --- loading ---------------------------------------------------------------------------------------------------------


def test_the_items_are_the_500_prompts_with_the_answers_of_the_baseline(items: pl.DataFrame) -> None:
    assert items.height == items["item_id"].n_unique() == 500
    assert items.columns == ["item_id", "cluster", "instruction", "baseline", "baseline_model"]
    assert items["baseline_model"].unique().to_list() == ["gpt-4-0314"]
    assert items["baseline"][1].strip()
    assert not items["baseline"].str.starts_with('{"answer"').any()


def test_another_baseline_may_be_given(shared_data: Path) -> None:
    folder = shared_data / "arena_hard_v0.1"
    other = load_arena_hard(folder / "question.jsonl", answers=folder / "answers_gpt-3.5-turbo-0125.jsonl")
    assert other["baseline_model"].unique().to_list() == ["gpt-3.5-turbo-0125"]
    with pytest.raises(FrameError, match="answers=…"):
        load_arena_hard(folder / "question.jsonl")


def test_the_files_of_2024_have_another_form_and_are_read_too(tmp_path: Path) -> None:
    question = {"question_id": "q", "cluster": "c", "turns": [{"content": "Why?"}]}
    answer = {
        "question_id": "q",
        "model_id": "old",
        "choices": [{"index": 0, "turns": [{"content": "So.", "token_len": 1}]}],
    }
    (tmp_path / "question.jsonl").write_text(json.dumps(question))
    (tmp_path / "model_answer").mkdir()
    (tmp_path / "model_answer" / "gpt-4-0314.jsonl").write_text(json.dumps(answer))
    assert load_arena_hard(tmp_path).rows() == [("q", "c", "Why?", "So.", "old")]


def test_a_question_without_an_answer_of_the_baseline_is_told(tmp_path: Path) -> None:
    (tmp_path / "question.jsonl").write_text('{"uid":"a","prompt":"?"}\n{"uid":"b","prompt":"?"}')
    (tmp_path / "gpt-4-0314.jsonl").write_text(
        '{"uid":"a","model":"m","messages":[{"role":"assistant","content":"x"}]}'
    )
    with pytest.raises(FrameError, match="1 items without an answer of the baseline, the first 'b'"):
        load_arena_hard(tmp_path)


def test_answers_that_are_not_there_or_of_another_form_are_told(tmp_path: Path) -> None:
    (tmp_path / "question.jsonl").write_text('{"uid":"a","prompt":"?"}')
    (tmp_path / "other.jsonl").write_text('{"uid":"a","text":"x"}')
    with pytest.raises(StorageError, match="Is it there"):
        load_arena_hard(tmp_path / "question.jsonl", answers=tmp_path / "none.jsonl")
    with pytest.raises(ReadError, match="`uid`, `model` and `messages`"):
        load_arena_hard(tmp_path / "question.jsonl", answers=tmp_path / "other.jsonl")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FrameError, match=r"no file 'question\.jsonl'"):
        load_arena_hard(tmp_path / "empty")


# --- whole runs ------------------------------------------------------------------------------------------------------


def sides(messages: list[dict[str, str]]) -> tuple[bool, bool]:
    """On which sides the model's answer stands."""
    found = re.search(
        r"ASSISTANT A\n(.*)\nANSWER OF ASSISTANT A >>>\s+<<< ANSWER OF ASSISTANT B\n(.*)\nANSWER",
        messages[1]["content"],
        re.DOTALL,
    )
    assert found
    return "MINE" in found[1], "MINE" in found[2]


def judge(for_a: str, for_b: str) -> Any:
    """What the judge says when the model's answer is A, and when it is B."""
    return af.scripted(lambda messages: f"I say [[{for_a if sides(messages)[0] else for_b}]]", model=for_a + for_b)


@pytest.mark.parametrize(("said", "score"), [(("A>>B", "B>>A"), 100.0), (("B>A", "A>B"), 0.0), (("A=B", "A=B"), 50.0)])
def test_a_judge_that_is_for_or_against_the_model_gives_all_points_or_none(
    items: pl.DataFrame, said: tuple[str, str], score: float
) -> None:
    few = items[:100]
    bench = arena_hard(judge_backend=judge(*said))
    rows = evaluate(bench, backend=MODEL, items=few)
    (row,) = report(rows, benchmark=bench, items=few).to_dicts()
    assert rows.height == 200
    assert (row["benchmark"], row["metric"], row["n"], row["score"]) == ("arena_hard", "score", 100, score)
    assert row["judge"] == rows["preference_judge"].unique().item()
    assert swap_consistency(rows)["consistent"].item() == 1.0


def test_strong_verdicts_count_three_times(items: pl.DataFrame) -> None:
    rows = evaluate(arena_hard(judge_backend=judge("A>>B", "A>B")), backend=MODEL, items=items[:10])
    assert summarise(rows, pooled=True)["score"].item() == pytest.approx(100 * 3 / 4)


def test_a_game_without_a_verdict_is_left_out_and_told(items: pl.DataFrame) -> None:
    def half(messages: list[dict[str, str]]) -> str:
        return "[[B>A]]" if sides(messages)[1] else "Hm."

    rows = evaluate(arena_hard(judge_backend=af.scripted(half)), backend=MODEL, items=items[:10])
    assert rows["score"].to_list() == [1.0, None] * 10
    assert rows["score_error"].struct.field("kind").to_list() == [None, "judge_unparsed"] * 10
    assert rows["preference_again_call"].is_not_null().to_list() == [False, True] * 10
    assert summarise(rows, pooled=True).select("n", "n_failed", "score").row(0) == (10, 0, 100.0)


def test_an_answer_that_was_refused_has_lost_both_games(items: pl.DataFrame) -> None:
    bench = arena_hard(judge_backend=judge("A>B", "B>A"))
    rows = evaluate(bench, backend=af.scripted(lambda messages: failing("refused")), items=items[:2])
    assert rows["score"].to_list() == [0.0] * 4
    assert rows["weight"].to_list() == [1.0] * 4


def test_several_samples_of_a_model_are_all_played(items: pl.DataFrame) -> None:
    bench = arena_hard(judge_backend=judge("A>B", "B>A"))
    rows = evaluate(bench, backend=MODEL, items=items[:2], samples=2)
    assert rows["sample"].to_list() == [0, 1, 2, 3] * 2
    assert rows["score"].to_list() == [1.0] * 8

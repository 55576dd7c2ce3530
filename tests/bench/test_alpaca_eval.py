"""AlpacaEval 2.0: published win rates, and whole runs with a judge that knows what it wants."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import agora_frames as af
from agora_frames.backends.scripted import failing
from agora_frames.bench.alpaca_eval import alpaca_eval, alpaca_judge, load_alpaca_eval, scores_of_annotations
from agora_frames.bench.benchmark import evaluate, evaluation, report
from agora_frames.bench.length_control import load_difficulty
from agora_frames.bench.pairwise import win_rates
from agora_frames.errors import BindError, FrameError
from agora_frames.frames import ITEM_SCORES
from agora_frames.metrics.judge import judge_fingerprint
from agora_frames.metrics.scores import summarise


@pytest.fixture(scope="module")
def folder(shared_data: Path) -> Path:
    return shared_data / "alpaca_eval"


@pytest.fixture(scope="module")
def items(folder: Path) -> pl.DataFrame:
    return load_alpaca_eval(folder / "baseline_gpt4_1106_preview_outputs.json")


def answers(messages: list[dict[str, str]]) -> tuple[str, str]:
    """What the judge is shown of m and of M."""
    found = re.search(
        r"ANSWER OF m\n(.*)\nANSWER OF m >>>\s+<<< ANSWER OF M\n(.*)\nANSWER OF M", messages[-1]["content"], re.DOTALL
    )
    assert found
    return found[1], found[2]


def says(token: str, other: str, p: float) -> dict[str, Any]:
    """One token with probability p, and the other one with the rest; the reply is cut off after it."""
    seen = [{"token": token, "logprob": math.log(p)}, {"token": other, "logprob": math.log1p(-p)}]
    return failing("truncated", text=token, finish_reason="length", logprobs=[{**seen[0], "top": seen}])


def sure_of(text: str, *, for_it: bool = True, p: float = 1 - 1e-12) -> Any:
    """A judge that is for the answer with this text, or against it, whatever name it bears."""

    def judge(messages: list[dict[str, str]]) -> dict[str, Any]:
        first = (text in answers(messages)[0]) == for_it
        return says("m", "M", p) if first else says("M", "m", p)

    return af.scripted(judge, model=f"judge {for_it} {p}")


MODEL = af.scripted(lambda messages: "MINE", model="student")


# --- published numbers -----------------------------------------------------------------------------------------------


def test_the_published_win_rates_of_all_models_come_out(folder: Path) -> None:
    compact = pl.read_csv(folder / "annotations_compact.csv.gz").rename({"instruction_index": "index"})
    board = pl.read_csv(folder / "leaderboard_weighted_gpt4_turbo.csv").rename({"": "model"})
    found = scores_of_annotations(compact).pipe(win_rates, by=["model"]).join(board, on="model", suffix="_published")
    assert found.height == compact["model"].n_unique() == 34
    for name, tolerance in {"win_rate": 1e-9, "standard_error": 1e-9, "discrete_win_rate": 1e-9}.items():
        off = (found[name] - found[f"{name}_published"]).abs()
        assert off.max() < tolerance, found.filter(off >= tolerance)  # type: ignore[operator]
    for name in ("n_wins", "n_wins_base", "n_draws"):
        assert found[name].to_list() == found[f"{name}_published"].to_list()


def test_the_points_of_item_scores_are_the_win_rate(folder: Path) -> None:
    compact = pl.read_csv(folder / "annotations_compact.csv.gz").rename({"instruction_index": "index"})
    rows = scores_of_annotations(compact.filter(pl.col("model") == "claude-2.1"))
    (told,) = summarise(rows).to_dicts()
    assert told["score"] == pytest.approx(15.733507, abs=1e-6)
    assert told["low"] == pytest.approx(told["score"] - 1.96 * 1.120316, abs=0.4)
    assert told["high"] == pytest.approx(told["score"] + 1.96 * 1.120316, abs=0.4)


def test_annotations_become_item_scores() -> None:
    df = pl.DataFrame({"preference": [1.0, 2.0, 0.0, 1.5, None]})
    done = scores_of_annotations(df)
    assert done["score"].to_list() == [0.0, 1.0, 0.5, 0.5, None]
    assert done["score_error"].struct.field("kind").to_list() == [None] * 4 + ["judge_unparsed"]
    assert done.select(*ITEM_SCORES).schema == ITEM_SCORES
    with pytest.raises(FrameError, match=r"the preference 0\.5"):
        scores_of_annotations(pl.DataFrame({"preference": [0.5]}))


# --- whole runs ------------------------------------------------------------------------------------------------------


def test_the_items_are_the_805_instructions_with_the_answers_of_the_baseline(items: pl.DataFrame) -> None:
    assert items.height == items["item_id"].n_unique() == 805
    assert items.columns == ["item_id", "dataset", "instruction", "baseline", "baseline_model"]
    assert items["baseline_model"].unique().to_list() == ["gpt4_1106_preview"]


@pytest.mark.parametrize(("for_it", "score"), [(True, 100.0), (False, 0.0)])
def test_a_judge_that_is_for_or_against_the_model_gives_all_points_or_none(
    items: pl.DataFrame, for_it: bool, score: float
) -> None:
    bench = alpaca_eval(judge_backend=sure_of("MINE", for_it=for_it))
    rows = evaluate(bench, backend=MODEL, items=items)
    (row,) = report(rows, benchmark=bench, items=items).to_dicts()
    assert (row["benchmark"], row["metric"], row["n"], row["n_failed"]) == ("alpaca_eval_2", "win_rate", 805, 0)
    assert row["score"] == pytest.approx(score, abs=1e-9)
    assert 300 < rows["preference_swapped"].sum() < 500
    assert row["judge"] == rows["preference_judge"].unique().item()
    assert row["model"] == "student"


def test_a_preference_is_shared_by_the_probabilities(items: pl.DataFrame) -> None:
    bench = alpaca_eval(judge_backend=sure_of("MINE", p=0.7))
    rows = evaluate(bench, backend=MODEL, items=items[:50])
    assert rows["score"].to_list() == pytest.approx([0.7] * 50)


def test_a_judge_that_looks_at_the_place_alone_is_even_on_average(items: pl.DataFrame) -> None:
    bench = alpaca_eval(judge_backend=af.scripted(lambda messages: says("m", "M", 0.99)))
    rows = evaluate(bench, backend=MODEL, items=items)
    assert summarise(rows)["score"].item() == pytest.approx(50, abs=5)


def test_the_order_of_an_item_does_not_hang_on_the_others(items: pl.DataFrame) -> None:
    bench = alpaca_eval(judge_backend=sure_of("MINE"))
    whole = evaluate(bench, backend=MODEL, items=items[:60])
    part = evaluate(bench, backend=MODEL, items=items[20:60].reverse())
    both = whole.join(part, on="item_id", suffix="_part")
    assert both.height == 40
    assert (both["preference_swapped"] == both["preference_swapped_part"]).all()


def test_a_judge_without_probabilities_is_another_benchmark(items: pl.DataFrame) -> None:
    weighted, words = alpaca_judge(), alpaca_judge(weighted=False)
    backend = af.scripted(lambda messages: "M" if "MINE" in answers(messages)[1] else "m")
    bench = alpaca_eval(weighted=False, judge_backend=backend)
    rows = evaluate(bench, backend=MODEL, items=items[:20])
    assert bench.name == "alpaca_eval_2_unweighted"
    assert rows["score"].to_list() == [1.0] * 20
    assert judge_fingerprint(weighted, backend=backend) != bench.judge == judge_fingerprint(words, backend=backend)
    silent = evaluate(alpaca_eval(judge_backend=backend), backend=MODEL, items=items[:2])
    assert silent["score"].to_list() == [None, None]
    assert silent["score_error"].struct.field("kind").to_list() == ["judge_no_logprobs"] * 2


def test_a_refused_answer_has_lost_and_a_call_that_never_came_has_no_score(items: pl.DataFrame) -> None:
    replies = iter([failing("refused"), failing("timeout"), "MINE"])
    bench = alpaca_eval(judge_backend=sure_of("MINE"))
    rows = evaluate(bench, backend=af.scripted(lambda messages: next(replies)), items=items[:3])
    assert rows["score"].round(6).to_list() == [0.0, None, 1.0]
    (told,) = summarise(rows).to_dicts()
    assert (told["n"], told["n_failed"], told["n_unread"]) == (3, 1, 1)


def test_an_answer_that_is_the_baselines_is_a_tie(items: pl.DataFrame) -> None:
    by_task = dict(items.select("instruction", "baseline").rows())
    model = af.scripted(lambda messages: by_task[messages[-1]["content"]])
    bench = alpaca_eval(judge_backend=af.scripted(lambda messages: pytest.fail("asked")))
    rows = evaluate(bench, backend=model, items=items[:30])
    assert rows["score"].to_list() == [0.5] * 30


def test_the_length_controlled_win_rate_is_a_metric_of_its_own(items: pl.DataFrame, folder: Path) -> None:
    difficulty = load_difficulty(folder / "instruction_difficulty_derived.csv")
    few = items[:60]  # given as a frame below, and as a file

    def judge(messages: list[dict[str, str]]) -> dict[str, Any]:
        m, big_m = answers(messages)
        return says("m", "M", 0.8) if len(m) > len(big_m) else says("M", "m", 0.8)

    file = folder / "instruction_difficulty_derived.csv"
    bench = alpaca_eval(difficulty=file, judge_backend=af.scripted(judge))
    model = af.scripted(lambda messages: "long " * 40 * (1 + len(messages[-1]["content"]) % 20))
    told = report(evaluate(bench, backend=model, items=few), benchmark=bench, items=few)
    assert told["metric"].to_list() == ["win_rate", "lc_win_rate_mle"]
    assert told["interval"].to_list() == ["bootstrap", "bootstrap"]
    gamed = pl.DataFrame({"share": [0.4, 0.6], "length": [0.5, -0.5], "difficulty": [0.0, 1.0], "model": [0.0, 0.0]})
    official = alpaca_eval(difficulty=difficulty, gamed=gamed, judge_backend=af.scripted(judge))
    told = report(evaluate(official, backend=model, items=few), benchmark=official, items=few)
    assert told["metric"].to_list() == ["win_rate", "lc_win_rate"]
    assert told["interval"].to_list() == ["bootstrap", None]
    assert 0 < told["score"][1] < 100
    with pytest.raises(BindError, match="give difficulty"):
        alpaca_eval(gamed=pl.DataFrame(), judge_backend=MODEL)


def test_a_plan_shows_the_calls_of_model_and_judge(items: pl.DataFrame) -> None:
    judge, model = (af.connect("scripted:builtins:str", ledger="no-such-ledger") for _ in range(2))
    planned = af.plan(evaluation(alpaca_eval(judge_backend=judge), backend=model), df=items[:5])
    assert planned.select("step", "rows", "to_ask").rows() == [("generate_column", 5, 5), ("judge_pairs", 5, 0)]


def test_a_base_model_is_shown_demonstrations(items: pl.DataFrame) -> None:
    seen: list[Any] = []

    def note(messages: list[dict[str, str]], sampling: dict[str, Any]) -> str:
        seen.append((messages[-1]["content"], sampling))
        return "MINE"

    evaluate(alpaca_eval(judge_backend=sure_of("MINE")), backend=af.scripted(note), items=items[:1], shots="few")
    ((prompt, sampling),) = seen
    assert prompt.count("# Answer:") == 4
    assert items["instruction"][0] in prompt
    assert sampling["stop"] == ["\n# Request:", "\n# Answer:"]
    assert (sampling["temperature"], sampling["max_tokens"]) == (0.0, 1024)

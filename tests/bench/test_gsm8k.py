"""GSM8K: the references and four models' published grades, and a whole evaluation by a script."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import agora_frames as af
from agora_frames.bench.benchmark import evaluate, report
from agora_frames.bench.gsm8k import gsm8k, load_gsm8k
from agora_frames.errors import BindError, FrameError
from agora_frames.stages.grade import grade_equal
from agora_frames.stages.numbers import last_number, number_after
from agora_frames.stages.parse import parse_column

RIGHT = {"6b_finetuning": 146, "6b_verification": 266, "175b_finetuning": 225, "175b_verification": 371}
TEST_ROWS = "gsm8k/test_rows_0000-0659.jsonl"


@pytest.fixture(scope="module")
def items(shared_data: Path) -> pl.DataFrame:
    return load_gsm8k(shared_data / TEST_ROWS)


@pytest.mark.parametrize("model", RIGHT)
def test_the_grades_of_four_models_are_those_published(shared_data: Path, model: str) -> None:
    told = af.read_frame(shared_data / "gsm8k/example_model_solutions_rows_0000-0659.jsonl")
    df = told.select("ground_truth", pl.col(model).struct.unnest())
    for column, into in (("solution", "answer"), ("ground_truth", "reference")):
        df = parse_column(df, column=column, parser=number_after("A:"), into=into)
    graded = grade_equal(df).with_columns(pl.col("score").fill_null(0.0))
    assert graded["score"].sum() == RIGHT[model]
    assert graded["score"].cast(pl.Boolean).to_list() == graded["is_correct"].to_list()


def test_every_row_has_a_reference(shared_data: Path, items: pl.DataFrame) -> None:
    assert items.height == 660
    assert not items["reference"].has_nulls()
    assert load_gsm8k(shared_data / "gsm8k/train.jsonl")["reference"].null_count() == 0


def test_the_last_number_of_a_published_solution_is_its_reference(items: pl.DataFrame) -> None:
    done = parse_column(items, column="solution", parser=last_number(), into="answer")
    assert grade_equal(done)["score"].sum() == 660


def perfect(items: pl.DataFrame, form: str) -> Any:
    """A script that knows the solutions; `form` says how it ends."""
    known = dict(items.select("question", "reference").iter_rows())

    def reply(messages: list[dict[str, str]]) -> str:
        asked = messages[-1]["content"]
        question = re.sub(r"\nAnswer:$", "", asked.rpartition("Question: ")[2].strip()).partition("\n\nWork it out")[0]
        return form.format(known[question.strip()])

    return af.scripted(reply, model=form)


@pytest.mark.parametrize("shots", ["zero", "few"])
@pytest.mark.parametrize("extraction", ["strict", "flexible"])
@pytest.mark.parametrize("form", ["So it is.\n#### {}", "1 + 1 = 2 [RESULT] ${}.00 [/RESULT]"])
def test_a_perfect_model_gets_all_points(items: pl.DataFrame, shots: Any, extraction: Any, form: str) -> None:
    bench = gsm8k(extraction=extraction)
    rows = evaluate(bench, backend=perfect(items, form), items=items, shots=shots)
    (row,) = report(rows, benchmark=bench, items=items, shots=shots).to_dicts()
    assert (row["score"], row["n"], row["n_failed"], row["n_unread"], row["shots"]) == (100, 660, 0, 0, shots)
    assert row["low"] == pytest.approx(99.42, abs=0.01)


@pytest.mark.parametrize(("reply", "unread"), [("#### 123456789", 0), ("I cannot tell.", 660)])
def test_a_model_that_is_always_wrong_gets_none(items: pl.DataFrame, reply: str, unread: int) -> None:
    rows = evaluate(gsm8k(), backend=af.scripted(lambda messages: reply), items=items)
    (row,) = report(rows, benchmark=gsm8k(), items=items).to_dicts()
    assert (row["score"], row["low"], row["n_failed"], row["n_unread"]) == (0, 0, 0, unread)


def test_strict_asks_for_the_marker_where_flexible_takes_the_last_number(items: pl.DataFrame) -> None:
    backend = perfect(items, "The answer is {}.")
    few = items[:10]
    assert evaluate(gsm8k(extraction="flexible"), backend=backend, items=few)["score"].sum() == 10
    strict = evaluate(gsm8k(extraction="strict"), backend=backend, items=few)
    assert strict["score"].sum() == 0
    assert strict["score_error"].struct.field("kind").to_list() == ["unparsed"] * 10


def test_replies_without_a_number_may_be_left_ungraded(items: pl.DataFrame) -> None:
    bench = gsm8k(wrong=())
    rows = evaluate(bench, backend=af.scripted(lambda messages: "no"), items=items[:3])
    (row,) = report(rows, benchmark=bench, items=items[:3]).to_dicts()
    assert (row["score"], row["n"], row["n_failed"]) == (None, 3, 3)


def test_the_sampling_is_that_of_the_paper(items: pl.DataFrame) -> None:
    asked: list[dict[str, Any]] = []

    def note(messages: list[dict[str, str]], sampling: dict[str, Any]) -> str:
        asked.append(sampling)
        return "1"

    evaluate(gsm8k(), backend=af.scripted(note), items=items[:1])
    (sent,) = asked
    assert {n: v for n, v in sent.items() if n != "seed"} == {
        "temperature": 0.2,
        "top_p": 0.95,
        "max_tokens": 1024,
        "repetition_penalty": 1.03,
    }


def test_an_extraction_that_is_not_there_is_refused() -> None:
    with pytest.raises(BindError, match="'flexible' or 'strict'"):
        gsm8k(extraction="loose")  # type: ignore[arg-type]


def test_a_row_without_a_reference_is_told(tmp_path: Path) -> None:
    af.write_frame(pl.DataFrame({"question": ["a", "b"], "answer": ["#### 1", "two"]}), tmp_path / "a.jsonl")
    with pytest.raises(FrameError, match="row 1: 'two'"):
        load_gsm8k(tmp_path / "a.jsonl")


@pytest.mark.parametrize("shots", ["zero", "few"])
def test_the_demonstrations_are_right_and_no_test_item_is_among_them(items: pl.DataFrame, shots: Any) -> None:
    template = str(gsm8k().prompts[shots].template)
    assert template.count("{{ question }}") == 1
    for sum_ in re.findall(r"((?:[\d.]+ [-+*/] )+[\d.]+) = ([\d.]+)", template):
        assert eval(sum_[0]) == pytest.approx(float(sum_[1]))
    assert not any(question[:60] in template for question in items["question"])


@pytest.mark.slow
def test_the_embedded_model_is_scored_honestly(items: pl.DataFrame, tmp_path: Path) -> None:
    model = af.connect("llama:smollm2-135m", ledger=tmp_path / "ledger")
    few = items[:20]
    rows = evaluate(gsm8k(), backend=model, items=few, decoding={"max_tokens": 128})
    (row,) = report(rows, benchmark=gsm8k(), items=few).to_dicts()
    print(f"GSM8K, {row['n']} items, {row['model']}: {row['score']} ({row['low']:.1f} to {row['high']:.1f})")
    assert row["n"] == 20
    assert row["n_failed"] == 0
    assert 0 <= row["low"] <= row["score"] <= row["high"] <= 100
    assert row["model"].startswith("SmolLM2")
    assert rows["completion"].str.len_chars().min() > 0

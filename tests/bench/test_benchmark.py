"""What any benchmark does: asks, grades, settles, sums up and reports."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import agora_frames as af
from agora_frames.backends.scripted import failing
from agora_frames.bench.benchmark import (
    Benchmark,
    Prompt,
    Source,
    evaluate,
    evaluation,
    load_rows,
    report,
    settle_scores,
)
from agora_frames.errors import BindError, FrameError, StorageError
from agora_frames.frames import ERROR, ITEM_SCORES, REPORT
from agora_frames.hashing import frame_hash
from agora_frames.metrics.scores import item_scores, summarise
from agora_frames.schemas import ItemScore, ReportRow
from agora_frames.stage import stage
from agora_frames.store import store_entries

ITEMS = pl.DataFrame({"item_id": ["0", "1", "2", "3"], "question": ["a", "b", "c", "d"], "reference": list("ABCD")})


@stage(rowwise=True)
def same_as_reference(df: pl.DataFrame) -> pl.DataFrame:
    return df.with_columns((pl.col("completion") == pl.col("reference")).cast(pl.Float64).alias("score"))


SPELLING = Benchmark(
    name="spelling",
    source=Source("nobody/spelling", "0" * 40),
    load=lambda given: load_rows(SPELLING.source, given, "question"),
    prompts={"zero": Prompt("{{ question }}"), "few": Prompt("x -> X\n{{ question }} ->", stop=("\n",))},
    grade=same_as_reference(),
    decoding={"temperature": 0.2, "max_tokens": 9},
)


def upper(messages: list[dict[str, str]]) -> Any:
    """Right for a and b, wrong for c, and lost for d."""
    said = {"a": "A", "b": "B", "c": "no"}.get(messages[-1]["content"])
    return said or failing("timeout")


def test_every_item_is_asked_graded_and_kept() -> None:
    rows = evaluate(SPELLING, backend=af.scripted(upper), items=ITEMS)
    assert rows["score"].to_list() == [1.0, 1.0, 0.0, None]
    assert rows["score_error"].struct.field("kind").to_list() == [None, None, None, "timeout"]
    assert {"question", "prompt", "completion", "completion_call", *ITEM_SCORES} <= set(rows.columns)


def test_item_scores_and_report_rows_satisfy_their_schemas() -> None:
    rows = evaluate(SPELLING, backend=af.scripted(upper), items=ITEMS)
    assert item_scores(rows).pipe(af.validate, schema=ItemScore)["failures"].to_list() == [[], [], [], []]
    done = report(rows, benchmark=SPELLING, items=ITEMS)
    assert done.schema == REPORT
    assert done.pipe(af.validate, schema=ReportRow)["valid"].all()
    broken = item_scores(rows).with_columns(score_error=pl.lit(None, dtype=ERROR))
    assert broken.pipe(af.validate, schema=ItemScore)["failures"].to_list() == [[], [], [], ["null_has_a_reason"]]


def test_a_report_row_says_what_was_measured_and_how() -> None:
    backend = af.scripted(upper, prices=(1.0, 2.0))
    (row,) = report(
        evaluate(SPELLING, backend=backend, items=ITEMS), benchmark=SPELLING, items=ITEMS, seconds=1.5
    ).to_dicts()
    assert (row["benchmark"], row["revision"], row["shots"], row["metric"]) == (
        *("spelling", "0" * 40, "zero", "accuracy"),
    )
    assert row["score"] == pytest.approx(200 / 3)
    assert (row["n"], row["n_failed"], row["interval"], row["level"]) == (4, 1, "wilson", 0.95)
    assert json.loads(row["decoding"]) == {"temperature": 0.2, "max_tokens": 9}
    assert (row["model"], row["endpoint"], row["judge"], row["seconds"]) == ("scripted", "scripted", None, 1.5)
    assert row["dataset_hash"] == frame_hash(ITEMS)


def test_the_level_of_the_interval_is_a_parameter() -> None:
    rows = evaluate(SPELLING, backend=af.scripted(upper), items=ITEMS)
    (row,) = report(rows, benchmark=SPELLING, items=ITEMS, level=0.8).to_dicts()
    assert row["level"] == 0.8


def test_a_benchmark_with_several_metrics_reports_a_row_for_each() -> None:
    both = replace(SPELLING, metrics={"accuracy": summarise(), "pooled": summarise(pooled=True)})
    rows = evaluate(both, backend=af.scripted(upper), items=ITEMS, samples=2)
    assert report(rows, benchmark=both, items=ITEMS)["metric"].to_list() == ["accuracy", "pooled"]


def test_shots_choose_the_prompt_and_its_stop() -> None:
    asked = []

    def note(messages: list[dict[str, str]], sampling: dict[str, Any]) -> str:
        asked.append((messages[-1]["content"], sampling.get("stop")))
        return "A"

    evaluate(SPELLING, backend=af.scripted(note), items=ITEMS[:1], shots="few")
    assert asked == [("x -> X\na ->", ["\n"])]


def test_a_prompt_that_is_not_there_is_refused_with_those_that_are() -> None:
    zero = replace(SPELLING, prompts={"zero": Prompt("{{ question }}")})
    with pytest.raises(BindError, match="'zero'"):
        evaluate(zero, backend=af.scripted(upper), items=ITEMS, shots="few")


def test_decoding_can_be_changed_and_taken_back() -> None:
    asked: list[dict[str, Any]] = []

    def note(messages: list[dict[str, str]], sampling: dict[str, Any]) -> str:
        asked.append(sampling)
        return "A"

    evaluate(SPELLING, backend=af.scripted(note), items=ITEMS[:1], decoding={"temperature": 0, "max_tokens": None})
    assert asked == [{"temperature": 0}]


@pytest.mark.parametrize("decoding", [{"samples": 2}, {"seed": 1}, {"into": "x"}, {"temperatur": 1}])
def test_what_is_no_decoding_is_refused(decoding: dict[str, Any]) -> None:
    with pytest.raises(BindError, match=next(iter(decoding))):
        evaluate(SPELLING, backend=af.scripted(upper), items=ITEMS, decoding=decoding)


def test_an_evaluation_can_be_planned_before_anything_is_asked(tmp_path: Path) -> None:
    model = af.connect("scripted:builtins:str", ledger=tmp_path / "ledger")
    done = af.plan(evaluation(SPELLING, backend=model), df=ITEMS)
    assert done.select("step", "rows", "to_ask").rows() == [("generate_column", 4, 4)]


def test_an_evaluation_that_is_run_again_asks_nothing_and_grades_nothing(tmp_path: Path) -> None:
    model = af.connect("scripted:builtins:str", ledger=tmp_path / "ledger")
    store = af.Store(tmp_path / "store")
    run = af.cached(evaluation(SPELLING, backend=model), store=store)
    first = run(ITEMS)
    entries = store_entries(store)
    assert run(ITEMS).equals(first)
    assert (model.ledger.tally.calls, model.ledger.tally.known) == (4, 4)
    assert "same_as_reference" in entries["stage"].to_list()
    assert store_entries(store).height == entries.height


@pytest.mark.parametrize(
    ("kind", "score"),
    [
        ("unparsed", 0.0),
        ("truncated", 0.0),
        ("refused", 0.0),
        ("empty", 0.0),
        ("timeout", None),
        ("rate_limited", None),
    ],
)
def test_a_reply_without_an_answer_is_wrong_and_a_reply_that_never_came_is_unknown(
    kind: str, score: float | None
) -> None:
    rows = pl.DataFrame(
        {"score": [None], "completion_error": pl.Series([{"kind": kind, "message": ""}], dtype=ERROR)},
        schema_overrides={"score": pl.Float64},
    )
    assert settle_scores(rows).select("score", pl.col("score_error").struct.field("kind")).row(0) == (score, kind)


def test_what_counts_as_wrong_is_a_parameter() -> None:
    rows = pl.DataFrame(
        {"score": [None], "completion_error": pl.Series([{"kind": "refused", "message": ""}], dtype=ERROR)},
        schema_overrides={"score": pl.Float64},
    )
    assert settle_scores(rows, wrong=())["score"].to_list() == [None]


def test_a_score_without_a_reason_is_said_to_have_none() -> None:
    rows = settle_scores(pl.DataFrame({"score": pl.Series([None], dtype=pl.Float64)}))
    assert rows["score_error"][0]["kind"] == "ungraded"


def test_a_score_that_was_told_has_no_error_whatever_befell_the_reply() -> None:
    rows = pl.DataFrame(
        {"score": [1.0], "completion_error": pl.Series([{"kind": "truncated", "message": ""}], dtype=ERROR)}
    )
    assert settle_scores(rows)["score_error"].to_list() == [None]


def test_items_come_from_a_file_or_a_folder_of_files(tmp_path: Path) -> None:
    af.write_frame(ITEMS[:2], tmp_path / "a.jsonl")
    af.write_frame(ITEMS[2:], tmp_path / "sub" / "b.jsonl")
    assert SPELLING.load(tmp_path / "a.jsonl").height == 2
    assert SPELLING.load(tmp_path)["item_id"].to_list() == ["0", "1", "2", "3"]


@pytest.mark.slow
def test_a_data_set_is_read_by_datasets_split_by_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    af.write_frame(ITEMS, tmp_path / "set" / "test.jsonl")
    af.write_frame(ITEMS[:1], tmp_path / "set" / "train.jsonl")
    source = Source(str(tmp_path / "set"), revision="main")
    assert load_rows(source, None, "question").equals(ITEMS)


def test_a_source_may_be_a_file_at_a_revision() -> None:
    af.write_frame(ITEMS, "memory://abc/rows.jsonl")
    assert load_rows(Source("memory://{revision}/rows.jsonl", "abc"), None, "question").equals(ITEMS)


def test_a_file_of_something_else_is_refused_with_its_columns(tmp_path: Path) -> None:
    af.write_frame(ITEMS.rename({"question": "questions"}), tmp_path / "a.jsonl")
    with pytest.raises(FrameError, match="did you mean 'questions'"):
        SPELLING.load(tmp_path / "a.jsonl")


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="no file of a known format"):
        SPELLING.load(tmp_path)


@pytest.mark.parametrize(
    ("endpoint", "sent"),
    [
        ("http://127.0.0.1:8000/v1", {"repetition_penalty": 1.03}),
        ("llama.cpp n_ctx=2048", {"repeat_penalty": 1.03}),
        ("https://api.openai.com/v1/", {}),
    ],
)
def test_the_repetition_penalty_is_sent_by_the_name_that_the_endpoint_knows(
    endpoint: str, sent: dict[str, float]
) -> None:
    asked: list[dict[str, Any]] = []

    def note(messages: list[dict[str, str]], sampling: dict[str, Any]) -> str:
        asked.append(sampling)
        return "A"

    penal = replace(SPELLING, decoding={"extra": {"repetition_penalty": 1.03}})
    evaluate(penal, backend=replace(af.scripted(note), endpoint=endpoint), items=ITEMS[:1])
    assert {name: value for name, value in asked[0].items() if name != "seed"} == sent


def test_items_with_one_name_are_refused_before_anything_is_asked() -> None:
    with pytest.raises(FrameError, match="'0' more than once"):
        evaluate(SPELLING, backend=af.scripted(upper), items=pl.concat([ITEMS, ITEMS[:1]]))


def test_items_without_names_are_refused() -> None:
    with pytest.raises(FrameError, match="'item_id'"):
        evaluate(SPELLING, backend=af.scripted(upper), items=ITEMS.drop("item_id"))

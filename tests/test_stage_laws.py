"""What holds for every stage, by one table: a stage that is not in it fails."""

from __future__ import annotations

import importlib
import json
import os
import pickle
import pkgutil
import random
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import pandera.polars as pa
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

import agora_frames as af
import agora_frames.metrics
import agora_frames.stages
from agora_frames.backends.scripted import failing
from agora_frames.bench.alpaca_eval import scores_of_annotations
from agora_frames.bench.arena_hard import scores_of_games
from agora_frames.bench.benchmark import name_items, settle_scores
from agora_frames.bench.hendrycks_math import grade_math
from agora_frames.bench.length_control import length_controlled
from agora_frames.bench.math_runner import MathRunner
from agora_frames.bench.pairwise import score_verdicts, win_rates
from agora_frames.frames import ERROR, REPLIES
from agora_frames.hashing import seed_of
from agora_frames.metrics.agreement import judge_counts, judge_drift, swap_consistency
from agora_frames.metrics.diversity import cosine_diversity, embed_column, vocabulary_diversity
from agora_frames.metrics.intrinsic import intrinsic, intrinsic_rows
from agora_frames.metrics.judge import difficulty, judge_column, quality
from agora_frames.metrics.pairs import comparison, judge_again, judge_pairs
from agora_frames.metrics.pass_at_k import pass_at_k
from agora_frames.metrics.perplexity import add_nll, perplexities
from agora_frames.metrics.reward import reward_column
from agora_frames.metrics.scores import item_scores, summarise
from agora_frames.pgr import pgr
from agora_frames.stage import Stage, StageFunction
from agora_frames.stages.clean import UPSTREAM_CODE, clean_texts
from agora_frames.stages.code import extract_code, grade_code
from agora_frames.stages.conversation import extend_chat
from agora_frames.stages.decontaminate import decontaminate
from agora_frames.stages.dedup import mark_duplicates
from agora_frames.stages.generate import generate_column
from agora_frames.stages.grade import grade_equal
from agora_frames.stages.parse import parse_column
from agora_frames.stages.parsers import tagged
from agora_frames.stages.prompt import render_prompts
from agora_frames.stages.rows import (
    failure_counts,
    keep_valid,
    reject_where,
    replace_rows,
    with_outcome,
    with_row_ids,
)
from agora_frames.stages.sample import sample_demos, sample_values
from agora_frames.stages.tokens import count_tokens
from agora_frames.stages.validate import validate
from agora_frames.stages.yields import yield_table


class Sentence(pa.DataFrameModel):
    text: str = pa.Field(nullable=True, str_length={"max_value": 12})

    @pa.check("text")
    def not_blank(cls, data: pa.PolarsData) -> pl.LazyFrame:
        return data.lazyframe.select(pl.col(data.key).str.strip_chars() != "")


class Said(pa.DataFrameModel):
    said: str = pa.Field(str_length={"max_value": 4})
    size: int = pa.Field(ge=1)


def echo(messages: list[dict[str, str]], sampling: dict[str, Any]) -> str | dict[str, Any]:
    """The text and its draw; some texts are refused, or cut short."""
    text = f"{messages[-1]['content']} {sampling.get('seed')}"
    if "R" in text:
        return failing("refused")
    return failing("truncated", text=text, finish_reason="length") if "\u05d0" in text else text


def vowels(text: str) -> tuple[str, int] | None:
    """A parser of one's own, with two values; it may find nothing, or fail."""
    found = [letter for letter in text if letter in "aeiou"]
    return (found[0], len(found)) if found else None


def grade(messages: list[dict[str, str]], sampling: dict[str, Any]) -> str | dict[str, Any]:
    """A judge: its verdict hangs on what it sees; some it does not give, and some calls fail."""
    said = seed_of(str(messages), sampling.get("seed"))
    if said % 5 == 0:
        return failing("refused")
    return f"It is so. [RESULT] {said % 7} [[{('A>B', 'B>>A', 'A=B', 'A')[said % 4]}]]"


ECHO = af.scripted(echo, model="echo")


def surprised(messages: list[dict[str, str]]) -> dict[str, Any]:
    """Each character of the prompt is a token, the less likely the later it comes in the alphabet."""
    said = "".join(f"<{m['role']}>{m['content']}" for m in messages)
    return {"text": "", "prompt_logprobs": [{"token": c, "logprob": -ord(c) / 64, "top": []} for c in said]}


def as_json(messages: list[dict[str, str]]) -> str:
    """The text in the shape that is wanted, if it is a short one."""
    text = messages[-1]["content"]
    return json.dumps({"said": text, "size": len(text)}) if len(text) < 10 else text


@dataclass(frozen=True)
class InOneGo:
    """A backend that says the same, and answers all requests in one frame, the last one first."""

    endpoint: str = "in one go"
    model: str = "echo"
    script: Any = echo

    def __call__(self, requests: pl.DataFrame, /) -> Iterator[pl.DataFrame]:
        replies = []
        for key, messages, sampling in requests.select("key", "messages", "sampling").reverse().iter_rows():
            said = self.script(json.loads(messages), json.loads(sampling))
            replies.append({"retried": False, **(said if isinstance(said, dict) else {"text": said}), "key": key})
        yield pl.DataFrame(replies, schema=REPLIES)


@dataclass(frozen=True)
class ByLength:
    """A runner that runs nothing: short code passes, empty code is lost."""

    def __call__(self, programs: pl.DataFrame, /) -> pl.DataFrame:
        n = pl.col("code").str.len_chars()
        status = pl.when(n == 0).then(pl.lit("lost")).when(n < 4).then(pl.lit("passed")).otherwise(pl.lit("failed"))
        columns = {"status": status, "message": pl.col("code"), "output": pl.lit(""), "seconds": pl.lit(0.1)}
        return programs.select(**columns)


GRADE = InOneGo(model="grade", script=grade)


class Case(NamedTuple):
    """A stage with example parameters, which may depend on the frame; and what of the laws does not apply to it."""

    stage: Any
    params: Mapping[str, Any] | Callable[[pl.DataFrame], Mapping[str, Any]] = MappingProxyType({})
    without: tuple[str, ...] = ()  # columns that the frame must lack for the stage to do its work
    keeps_columns: bool = True
    prepared: Callable[[pl.DataFrame], pl.DataFrame] = lambda df: df  # what the stage reads beside the common columns

    def bound(self, df: pl.DataFrame) -> Stage:
        return self.stage(**(self.params(df) if callable(self.params) else self.params))  # type: ignore[no-any-return]

    def frame(self, df: pl.DataFrame) -> pl.DataFrame:
        return self.prepared(df.drop(self.without))


def as_games(df: pl.DataFrame) -> pl.DataFrame:
    """Judgments of two games each, as Arena-Hard writes them."""
    label = pl.col("position").cast(pl.String).replace_strict({"0": "A>>B", "1": "A=B", "2": "B>A"}, default=None)
    game = pl.struct(score=label)
    return df.select("position", "note", pl.col("row_id").alias("uid"), pl.concat_list(game, game).alias("games"))


def as_lengths(df: pl.DataFrame) -> dict[str, Any]:
    difficulty = df.select(item_id="row_id", difficulty=pl.col("position") % 5)
    return {"difficulty": difficulty, "baseline": "text", "answer": "position", "resamples": 2}


def some_anew(df: pl.DataFrame) -> dict[str, Any]:
    return {"rows": df[::2].with_columns(text=pl.lit("anew"))}


POOL = pl.DataFrame({"row_id": list("abcd"), "instruction": list("1234"), "response": list("5678")})
ITEMS = pl.DataFrame({"instruction": ["RESULT 42 and more", "שלום", "plain"]})


def as_scores(df: pl.DataFrame) -> pl.DataFrame:
    """Rows of a benchmark: some right, some wrong, some lost."""
    told = pl.when(pl.col("earlier_error").is_null()).then((pl.col("position") % 2).cast(pl.Float64))
    return df.with_columns(
        pl.lit("b").alias("benchmark"),
        pl.col("row_id").alias("item_id"),
        pl.lit(0, dtype=pl.Int64).alias("sample"),
        told.alias("score"),
        pl.col("earlier_error").alias("score_error"),
        pl.lit(1.0).alias("weight"),
    )


def as_labelled(df: pl.DataFrame) -> pl.DataFrame:
    """Scores of a base model, of two generators' students and of a reference."""
    role, generator = pl.col("position") % 4, pl.lit(None, dtype=pl.String)
    roles = pl.Series(["base", "student", "student", "reference"])
    scored = as_scores(df).with_columns(benchmark=pl.lit("gsm8k"), item_id=(pl.col("position") // 4).cast(pl.String))
    return scored.with_columns(
        role=roles.gather(df["position"] % 4),
        generator=pl.when(role == 1).then(pl.lit("g")).when(role == 2).then(pl.lit("h")).otherwise(generator),
    )


def as_vectors(df: pl.DataFrame) -> pl.DataFrame:
    """Vectors of two numbers; some rows have none, some point nowhere."""
    vector = pl.concat_list(pl.col("text").str.len_chars().cast(pl.Float64), (pl.col("position") % 3).cast(pl.Float64))
    return df.with_columns(embedding=pl.when(pl.col("text").is_not_null()).then(vector))


def as_instances(df: pl.DataFrame) -> pl.DataFrame:
    domain = pl.when(pl.col("position") % 2 == 0).then(pl.lit("math")).otherwise(pl.lit("instruction_following"))
    return df.with_columns(domain=domain, instruction="text", response="prompt")


class Embeds:
    """Vectors that tell of lengths only."""

    name = "embeds"

    def __call__(self, given: Sequence[Any], /) -> list[Any]:
        return [[float(len(text)), 1.0] for text in given]


class Longer:
    """A reward for length; what is very long is too long."""

    name = "longer"

    def __call__(self, pairs: Sequence[tuple[str, str]], /) -> list[float | None]:
        return [None if len(response) > 15 else float(len(response)) for _, response in pairs]


ITEMS = pl.DataFrame({"instruction": ["RESULT 42 and more", "שלום", "plain"]})
CASES: dict[str, Case] = {
    "with_row_ids": Case(with_row_ids, without=("row_id",)),
    "with_row_ids, given": Case(with_row_ids),
    "with_row_ids of columns": Case(with_row_ids, {"columns": ["text", "valid"]}, without=("row_id",)),
    "with_outcome": Case(with_outcome),
    "with_outcome, not validated": Case(with_outcome, without=("valid", "failures")),
    "keep_valid": Case(keep_valid),
    "failure_counts": Case(failure_counts, keeps_columns=False),
    "replace_rows": Case(replace_rows, some_anew),
    "reject_where": Case(reject_where, {"column": "note", "failure": "has a note"}),
    "reject_where, not validated": Case(
        reject_where, {"column": "text", "failure": "x"}, without=("valid", "failures")
    ),
    "mark_duplicates": Case(mark_duplicates, {"columns": "text"}),
    "mark_duplicates, against": Case(mark_duplicates, lambda df: {"columns": "text", "against": df[::2], "n": 1}),
    "clean_texts": Case(clean_texts, {"rules": UPSTREAM_CODE, "instruction": "text", "response": "prompt"}),
    "clean_texts, no rule": Case(clean_texts),
    "decontaminate": Case(decontaminate, {"against": ITEMS, "columns": ("text", "prompt"), "n": 2}),
    "render_prompts": Case(
        render_prompts, {"template": "Say {{ text }} {% if note %}{{ note }}{% endif %}", "into": "say"}
    ),
    "render_prompts, plain columns": Case(render_prompts, {"template": "Say {{ text }}.", "into": "say"}),
    "extend_chat": Case(extend_chat, {"column": "prompt", "reply": "text", "into": "messages"}),
    "extend_chat, in place": Case(extend_chat, {"column": "prompt", "reply": "text", "role": "user"}),
    "render_prompts, chat": Case(render_prompts, {"template": "{{ text }}", "system": "You are {{ position }}."}),
    "generate_column": Case(generate_column, {"backend": InOneGo(), "temperature": 0.7, "max_tokens": 9}),
    "generate_column, greedy": Case(generate_column, {"backend": ECHO, "temperature": 0}),
    "generate_column, samples": Case(generate_column, {"backend": InOneGo(), "samples": 2, "into": "reply"}),
    "generate_column, schema": Case(
        generate_column, {"backend": af.scripted(as_json, model="json"), "schema": Said, "into": "reply"}
    ),
    "parse_column": Case(parse_column, {"column": "text", "parser": tagged("RESULT"), "into": {"answer": pl.Int64}}),
    "parse_column, own parser": Case(
        parse_column, {"column": "text", "parser": vowels, "into": {"first": pl.String, "count": pl.Int8}}
    ),
    "count_tokens": Case(count_tokens, {"columns": ("text", "prompt")}),
    "count_tokens, texts alone": Case(count_tokens, {"columns": "text", "template": None, "into": "n"}),
    "add_nll": Case(
        add_nll, {"instruction": "prompt", "response": "text", "backend": af.scripted(surprised, model="surprised")}
    ),
    "perplexities": Case(perplexities, {"column": "note", "tokens": "position"}, keeps_columns=False),
    "validate": Case(validate, {"schema": Sentence}),
    "extract_code": Case(extract_code, {"column": "text", "name": "prompt"}),
    "extract_code, with a stub": Case(extract_code, {"column": "text", "name": "prompt", "stub": "prompt"}),
    "grade_code": Case(grade_code, {"code": "text", "tests": "prompt", "runner": ByLength()}),
    "grade_equal": Case(grade_equal, {"answer": "text", "reference": "prompt"}),
    "item_scores": Case(item_scores, {"labels": {"student": "s"}}, keeps_columns=False, prepared=as_scores),
    "summarise": Case(summarise, {"resamples": 50}, keeps_columns=False, prepared=as_scores),
    "summarise, by labels": Case(
        summarise, {"by": ("benchmark", "valid"), "interval": "bootstrap", "resamples": 50}, (), False, as_scores
    ),
    "pass_at_k": Case(pass_at_k, {"k": 2, "resamples": 50}, keeps_columns=False, prepared=as_scores),
    "name_items": Case(name_items, {"benchmark": "b"}, prepared=lambda df: df.rename({"row_id": "item_id"})),
    "settle_scores": Case(settle_scores, prepared=lambda df: as_scores(df).drop("score_error", "sample", "weight")),
    "settle_scores, given": Case(settle_scores, {"wrong": ("truncated",)}, prepared=as_scores),
    "grade_math": Case(grade_math, {"answer": "text", "reference": "prompt", "runner": MathRunner(10, 1, 2_000)}),
    "judge_column": Case(
        judge_column, {"judge": quality("math"), "instruction": "text", "response": "prompt", "backend": GRADE}
    ),
    "judge_column, of instructions": Case(
        judge_column, {"judge": difficulty("code"), "instruction": "text", "into": "hard", "backend": GRADE}
    ),
}
PAIRS = {"judge": comparison("code"), "instruction": "text", "first": "text", "second": "prompt", "backend": GRADE}
GAMES = judge_pairs(**PAIRS, order="both", equal_is_tie=False)
GRADED = judge_column(judge=quality("math"), instruction="text", response="prompt", backend=GRADE)
CASES |= {
    "judge_pairs": Case(judge_pairs, {**PAIRS, "equal_is_tie": False}),
    "judge_pairs, both orders": Case(judge_pairs, {**PAIRS, "order": "both", "into": "better"}),
    "judge_again": Case(judge_again, PAIRS, prepared=judge_pairs(**PAIRS)),
    "swap_consistency": Case(swap_consistency, keeps_columns=False, prepared=GAMES),
    "judge_counts": Case(judge_counts, keeps_columns=False, prepared=GRADED),
    "score_verdicts": Case(score_verdicts, {"answer": "text"}, prepared=judge_pairs(**PAIRS)),
    "pass_at_k": Case(pass_at_k, {"resamples": 50}, keeps_columns=False, prepared=as_scores),
    "scores_of_games": Case(scores_of_games, keeps_columns=False, prepared=as_games),
    "length_controlled": Case(length_controlled, as_lengths, keeps_columns=False, prepared=as_scores),
    "win_rates": Case(win_rates, keeps_columns=False, prepared=as_scores),
    "scores_of_annotations": Case(
        scores_of_annotations, prepared=lambda df: df.with_columns(preference=1 + pl.col("position") % 2)
    ),
    "judge_drift": Case(
        judge_drift, {"column": "judgement", "again": "position"}, keeps_columns=False, prepared=GRADED
    ),
    "sample_demos": Case(sample_demos, {"pool": POOL}),
    "sample_values": Case(sample_values, {"values": ("one", "two", "three"), "into": "theme"}),
    "yield_table": Case(yield_table, {"by": ("note",)}, keeps_columns=False),
    "until_rows": Case(
        af.until_rows,
        {"stage": validate(schema=Sentence), "rows": 3, "candidates": "rows", "distinct": ("note",)},
        keeps_columns=False,
    ),
    "pgr": Case(pgr, {"resamples": 20}, keeps_columns=False, prepared=as_labelled),
    "pgr, of the mean": Case(
        pgr, {"combine": "pgr_of_mean", "resamples": 0}, keeps_columns=False, prepared=as_labelled
    ),
    "embed_column": Case(embed_column, {"column": "text", "embedder": Embeds()}),
    "cosine_diversity": Case(cosine_diversity, keeps_columns=False, prepared=as_vectors, without=("note",)),
    "vocabulary_diversity": Case(vocabulary_diversity, {"column": "text", "by": ["valid"]}, keeps_columns=False),
    "reward_column": Case(reward_column, {"instruction": "text", "response": "prompt", "scorer": Longer()}),
    "intrinsic": Case(intrinsic, {"by": ["valid"]}, keeps_columns=False, prepared=as_instances),
    "intrinsic_rows": Case(
        intrinsic_rows, {"backend": GRADE, "embedder": Embeds(), "scorer": Longer()}, prepared=as_instances
    ),
}
BY_CASE = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def found_stages() -> dict[str, StageFunction[Any]]:
    """Every stage that the package offers."""
    modules = [
        importlib.import_module(m.name)
        for package in (agora_frames.stages, agora_frames.metrics)
        for m in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    ]
    return {
        value.name: value
        for module in (af, *modules)
        for value in vars(module).values()
        if isinstance(value, StageFunction)
    }


def test_every_stage_is_in_the_table() -> None:
    missing = [name for name, each in found_stages().items() if not any(case.stage is each for case in CASES.values())]
    assert missing == [], "add each with example parameters to CASES"


def test_the_stages_of_the_package_are_found() -> None:
    assert {"with_row_ids", "keep_valid", "render_prompts", "generate_column"} <= found_stages().keys()


# --- frames ----------------------------------------------------------------------------------------------------------

TEXTS = [
    *("plain", "R", "", " ", "\n", "\t x ", "\u00a0", "\u2028", "\x1c", "\x00", "a\u0301", "á", "e" * 20),
    *(
        "שלום \u05d0",
        "\u202eabc",
        "👩‍👩‍👧",
        "[RESULT] 42 [/RESULT]",
        "[RESULT] many [/RESULT]",
        "{{ text }}",
        '"}',
        "None",
        None,
    ),
]
KINDS = [None, None, None, "unparsed", "truncated"]


def made(rows: list[tuple[Any, ...]]) -> pl.DataFrame:
    """A frame as it stands in the middle of a recipe, from (text, kind of error, valid, note) of each row."""
    texts, kinds, valid, notes = zip(*rows, strict=True) if rows else ((), (), (), ())
    return pl.DataFrame(
        {
            "row_id": [f"{i:032x}" for i in range(len(rows))],
            "text": pl.Series(texts, dtype=pl.String),
            "prompt": pl.Series(texts, dtype=pl.String),
            "prompt_error": pl.Series([_error("null_value") if t is None else None for t in texts], dtype=ERROR),
            "earlier_error": pl.Series([kind and _error(kind) for kind in kinds], dtype=ERROR),
            "valid": pl.Series(valid, dtype=pl.Boolean),
            "failures": pl.Series([[] if v else ["text: rule"] for v in valid], dtype=pl.List(pl.String)),
            "note": pl.Series(notes, dtype=pl.Float64),
            "position": pl.Series(range(len(rows)), dtype=pl.Int64),
        },
        schema_overrides={"row_id": pl.String},
    )


def _error(kind: str) -> dict[str, str]:
    return {"kind": kind, "message": "why"}


ROWS = st.tuples(
    st.sampled_from(TEXTS) | st.text(max_size=4),
    st.sampled_from(KINDS),
    st.sampled_from([True, True, False, None]),
    st.none() | st.floats(),
)
# With duplicates: a row may stand in the frame up to three times, apart from its name.
FRAMES = st.lists(st.tuples(ROWS, st.integers(1, 3)), max_size=5).map(
    lambda drawn: made([row for row, times in drawn for _ in range(times)])
)
MANY = made([(random.Random(i).choice(TEXTS), KINDS[i % 5], i % 3 > 0, i % 7 / 4) for i in range(10_000)])
LAW = settings(max_examples=12)


def in_order(df: pl.DataFrame) -> pl.DataFrame:
    named = "position" if "position" in df.columns else "item_id"
    return df.sort(named, *(["sample"] if "sample" in df.columns else []))


# --- laws ------------------------------------------------------------------------------------------------------------


@BY_CASE
@given(df=FRAMES)
@LAW
def test_the_input_is_left_as_it_was(case: Case, df: pl.DataFrame) -> None:
    df = case.frame(df)
    copy = pickle.loads(pickle.dumps(df))
    case.bound(df)(df)
    assert_frame_equal(df, copy)


@BY_CASE
@given(df=FRAMES)
@LAW
def test_the_same_call_gives_the_same_frame(case: Case, df: pl.DataFrame) -> None:
    df = case.frame(df)
    assert_frame_equal(case.bound(df)(df), case.bound(df)(pickle.loads(pickle.dumps(df))))


@BY_CASE
@given(df=FRAMES)
@LAW
def test_an_empty_frame_gives_an_empty_frame_of_the_same_schema(case: Case, df: pl.DataFrame) -> None:
    df = case.frame(df)
    empty = case.bound(df.clear())(df.clear())
    assert empty.height == 0
    assert empty.schema == case.bound(df)(df).schema


@BY_CASE
@given(df=FRAMES)
@LAW
def test_columns_that_a_stage_does_not_declare_are_kept(case: Case, df: pl.DataFrame) -> None:
    df = case.frame(df)
    done = case.bound(df)(df)
    if case.keeps_columns:
        assert set(df.columns) <= set(done.columns)
        assert_frame_equal(done.select("position", "note"), df[done["position"]].select("position", "note"))


@BY_CASE
@given(df=FRAMES)
@LAW
def test_all_ways_of_running_a_stage_agree(case: Case, df: pl.DataFrame) -> None:
    df = case.frame(df)
    bound = case.bound(df)
    direct = case.stage(df, **bound.params)
    assert_frame_equal(bound(df), direct)
    assert_frame_equal(df.pipe(bound), direct)
    assert_frame_equal(df.pipe(case.stage, **bound.params), direct)
    assert_frame_equal(pickle.loads(pickle.dumps(bound))(df), direct)


ROWWISE = {name: case for name, case in CASES.items() if case.stage.rowwise}
BY_ROWWISE_CASE = pytest.mark.parametrize("case", ROWWISE.values(), ids=ROWWISE)


@BY_ROWWISE_CASE
@given(df=FRAMES, rng=st.randoms())
@LAW
def test_a_rowwise_stage_may_run_in_parts_in_any_order(case: Case, df: pl.DataFrame, rng: random.Random) -> None:
    df = case.frame(df)
    run = case.bound(df)
    mixed = df[rng.sample(range(df.height), df.height)]
    cut = rng.randint(0, df.height)
    assert_frame_equal(pl.concat([run(mixed[:cut]), run(mixed[cut:])]), run(mixed))
    assert_frame_equal(in_order(run(mixed)), in_order(run(df)))


@BY_ROWWISE_CASE
def test_a_rowwise_stage_may_run_in_parts_on_many_rows(case: Case) -> None:
    df = case.frame(MANY)
    run = case.bound(df)
    parts = [run(df[start : start + 2_500]) for start in range(0, df.height, 2_500)]
    assert_frame_equal(pl.concat(parts), run(df))


@pytest.mark.parametrize("case", [c for c in CASES.values() if not c.stage.rowwise], ids=lambda case: case.stage.name)
def test_a_stage_that_looks_at_all_rows_does_so_with_many(case: Case) -> None:
    df = case.frame(MANY)
    copy = pickle.loads(pickle.dumps(df))
    run = case.bound(df)
    assert_frame_equal(run(df), run(copy))
    assert_frame_equal(df, copy)


def test_stages_have_the_same_fingerprint_in_another_process(tmp_path: Path) -> None:
    df = made([("text", None, True, 1.0)])
    stages = {name: case.bound(case.frame(df)) for name, case in CASES.items()}
    (tmp_path / "stages").write_bytes(pickle.dumps(stages))
    code = "import pickle, sys; print(*(s.fingerprint for s in pickle.load(open(sys.argv[1], 'rb')).values()))"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path]), "PYTHONHASHSEED": "17"}
    told = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "stages")], stdout=subprocess.PIPE, check=True, env=env
    ).stdout
    assert dict(zip(stages, told.decode().split(), strict=True)) == {n: s.fingerprint for n, s in stages.items()}


def test_no_two_stages_have_the_same_fingerprint() -> None:
    df = made([("text", None, True, 1.0)])
    distinct = {case.bound(df).fingerprint for case in CASES.values()}
    assert len(distinct) == len({repr(case.bound(df)) for case in CASES.values()})

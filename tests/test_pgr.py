"""PGR: the paper's formula, combined as is said, with intervals that are paired, and reasons where there is none."""

from __future__ import annotations

import inspect
import json
import math
import random
import statistics
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from agora_frames.backends.scripted import scripted
from agora_frames.bench import BENCHMARKS
from agora_frames.errors import BindError, FrameError
from agora_frames.metrics.labelled import DOMAINS
from agora_frames.pgr import average_pgr, pgr


def summary(
    base: float | None, student: float | None, reference: float | None, benchmark: str = "math"
) -> pl.DataFrame:
    """The three scores of one student on one benchmark."""
    return pl.DataFrame(
        {
            "role": ["base", "student", "reference"],
            "generator": [None, "G", None],
            "method": [None, "response_generation", None],
            "benchmark": benchmark,
            "score": [base, student, reference],
        },
        schema_overrides={"score": pl.Float64, "generator": pl.String, "method": pl.String},
    )


def only(df: pl.DataFrame, **wanted: str) -> dict[str, Any]:
    """The one row with these values."""
    found = df.filter(**wanted)
    assert found.height == 1, found
    return found.row(0, named=True)


def items(
    benchmark: str, scores: list[float | None], *, role: str = "student", generator: str | None = "G", **labels: Any
) -> pl.DataFrame:
    """One model's scores of items."""
    named = {"method": "response_generation" if role == "student" else None, **labels}
    rows = {"benchmark": benchmark, "item_id": [f"i{i:04d}" for i in range(len(scores))], "sample": 0, "score": scores}
    made = pl.DataFrame({**rows, "role": role, "generator": generator if role == "student" else None, **named})
    return made.cast({"score": pl.Float64, "generator": pl.String, "method": pl.String})


def drawn(rng: random.Random, n: int, p: float) -> list[float]:
    return [float(rng.random() < p) for _ in range(n)]


def study(n: int = 200, seed: int = 0) -> pl.DataFrame:
    """Items of two math benchmarks and one of code for two generators."""
    rng, parts = random.Random(seed), []
    for benchmark, low, high in (("gsm8k", 0.2, 0.8), ("math", 0.1, 0.4), ("mbpp", 0.3, 0.7)):
        parts.append(items(benchmark, drawn(rng, n, low), role="base"))
        parts.append(items(benchmark, drawn(rng, n, high), role="reference"))
        parts += [items(benchmark, drawn(rng, n, (low + high) / 2), generator=g) for g in ("G", "H")]
    return pl.concat(parts)


# --- known answers ---------------------------------------------------------------------------------------------------


def test_the_example_of_figure_3() -> None:
    # The figure prints 55.56; the formula gives 55.83 (facts, section 11).
    assert only(pgr(summary(19.84, 28.08, 34.60)), scope="benchmark")["pgr"] == pytest.approx(55.8266, abs=5e-5)


def test_the_known_answers(shared_data: Path) -> None:
    for case in json.loads((shared_data / "agorabench_paper" / "known_answers.json").read_text())["pgr"]:
        found = only(pgr(summary(case["base"], case["student"], case["reference"])), scope="benchmark")
        if "pgr" not in case:  # a negative gap: the formula gives +50 although the student got worse
            assert found["pgr"] == pytest.approx(50) and found["flags"] == ["negative_gap"]
        elif case["pgr"] is None:
            assert found["pgr"] is None and found["pgr_error"]["kind"] == "zero_gap"
        else:
            assert found["pgr"] == pytest.approx(case["pgr"], abs=5e-5) and found["flags"] == []


@given(st.floats(-1e3, 1e3), st.floats(0.01, 1e3), st.floats(-3, 3))
def test_a_student_that_went_so_far_recovered_so_much(base: float, gap: float, share: float) -> None:
    found = only(pgr(summary(base, base + share * gap, base + gap)), scope="benchmark")["pgr"]
    assert found == pytest.approx(100 * share, abs=1e-3)


# --- what is combined ------------------------------------------------------------------------------------------------

TWO = pl.concat([summary(20, 40, 60, "gsm8k"), summary(10, 20, 20, "math")])


def test_a_domain_is_the_mean_of_its_pgrs() -> None:
    found = only(pgr(TWO), scope="domain")
    assert (found["pgr"], found["combine"], found["gap"]) == (75.0, "mean_of_pgr", None)


def test_a_domain_may_be_the_pgr_of_the_mean_score() -> None:
    found = only(pgr(TWO, combine="pgr_of_mean"), scope="domain")
    assert found["pgr"] == pytest.approx(100 * (30 - 15) / (40 - 15))
    assert (found["base"], found["student"], found["reference"], found["gap"]) == (15, 30, 40, 25)


def test_a_method_is_the_mean_of_its_domains_and_all_is_the_mean_of_all_cells() -> None:
    code = summary(0, 10, 100, "mbpp")
    other = TWO.with_columns(method=pl.when(pl.col("role") == "student").then(pl.lit("instance_generation")))
    other = other.filter(pl.col("role") == "student").with_columns(score=pl.lit(20.0))
    other_code = code.filter(pl.col("role") == "student").with_columns(method=pl.lit("instance_generation"), score=50.0)
    found = pgr(pl.concat([TWO, code, other, other_code]))
    assert only(found, scope="method", method="response_generation")["pgr"] == pytest.approx((75 + 10) / 2)
    assert only(found, scope="method", method="instance_generation")["pgr"] == pytest.approx((50 + 50) / 2)
    assert only(found, scope="overall")["pgr"] == pytest.approx((75 + 10 + 50 + 50) / 4)


def test_generators_are_told_apart_by_what_is_named() -> None:
    one = TWO.with_columns(generator=pl.lit("G"), prompt=pl.lit("tuned"))
    two = TWO.filter(pl.col("role") == "student").with_columns(prompt=pl.lit("plain"), score=pl.lit(20.0))
    found = pgr(pl.concat([one, two]), by=("generator", "prompt"))
    overall = found.filter(scope="overall").select("prompt", "pgr").sort("prompt")
    assert overall.rows() == [("plain", 50.0), ("tuned", 75.0)]


def test_averages_of_domains_are_those_of_the_tables() -> None:
    table = pl.DataFrame({"generator": "G", "method": "m", "domain": ["a", "b", "c"], "pgr": [20.6, 73.6, 46.1]})
    assert average_pgr(table).filter(scope="method")["pgr"].round(2).to_list() == [46.77]


# --- what is missing is told -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["base", "student", "reference"])
def test_a_missing_score_is_a_row_with_a_reason(role: str) -> None:
    rows = pl.concat([TWO.filter(~((pl.col("role") == role) & (pl.col("benchmark") == "math")))])
    found = pgr(rows)
    part = only(found, scope="benchmark", benchmark="math")
    assert part["pgr"] is None
    assert part["pgr_error"] == {
        "kind": "missing_scores",
        "message": f"no graded score of {role} on math, response_generation",
    }
    assert only(found, scope="benchmark", benchmark="gsm8k")["pgr"] == 50


def test_a_domain_without_a_pgr_of_its_mean_names_the_benchmark() -> None:
    rows = TWO.filter(~((pl.col("role") == "student") & (pl.col("benchmark") == "gsm8k")))
    found = only(pgr(rows, combine="pgr_of_mean"), scope="domain")
    assert found["pgr_error"]["message"] == "no graded score of student on gsm8k, response_generation"


@pytest.mark.parametrize("combine", ["mean_of_pgr", "pgr_of_mean"])
def test_nothing_is_averaged_over_a_missing_part(combine: Any) -> None:
    found = pgr(TWO.filter(~((pl.col("role") == "student") & (pl.col("benchmark") == "math"))), combine=combine)
    for scope in ("domain", "method", "overall"):
        row = only(found, scope=scope)
        assert row["pgr"] is None and row["pgr_error"]["kind"] == "missing_scores"
        assert "student on math" in row["pgr_error"]["message"]


def test_a_generator_that_lacks_a_setting_of_the_others_has_no_average() -> None:
    both = pl.concat([TWO, summary(0, 10, 100, "mbpp")])
    other = TWO.filter(pl.col("role") == "student").with_columns(generator=pl.lit("H"))
    found = pgr(pl.concat([both, other]))
    assert only(found, scope="domain", generator="H", domain="math")["pgr"] == 75
    lacking = only(found, scope="overall", generator="H")
    assert lacking["pgr"] is None and "student on mbpp" in lacking["pgr_error"]["message"]
    assert only(found, scope="overall", generator="G")["pgr"] == pytest.approx((75 + 10) / 2)


def test_a_zero_gap_of_one_benchmark_leaves_the_pgr_of_the_mean_alone() -> None:
    rows = pl.concat([summary(20, 40, 60, "gsm8k"), summary(40, 41, 40, "math")])
    means = pgr(rows, combine="pgr_of_mean")
    assert only(means, scope="domain")["pgr"] == pytest.approx(100 * (40.5 - 30) / (50 - 30))
    assert only(means, scope="domain")["pgr_error"] is None
    assert only(pgr(rows), scope="domain")["pgr_error"]["kind"] == "zero_gap"


def test_a_score_that_could_not_be_graded_is_missing() -> None:
    found = only(pgr(summary(None, 28.0, 34.0)), scope="benchmark")
    assert found["pgr_error"]["message"].startswith("no graded score of base")


# --- flags -----------------------------------------------------------------------------------------------------------


def test_a_negative_gap_is_flagged_in_all_that_it_enters() -> None:
    found = pgr(pl.concat([summary(50, 45, 40, "gsm8k"), summary(10, 20, 20, "math")]))
    assert only(found, scope="benchmark", benchmark="gsm8k")["pgr"] == 50
    assert all(only(found, scope=scope)["flags"] == ["negative_gap"] for scope in ("domain", "method", "overall"))
    assert only(found, scope="benchmark", benchmark="math")["flags"] == []


@pytest.mark.parametrize(("se", "flags"), [(0.1, []), (1.0, ["unstable_gap"])])
def test_a_gap_within_its_noise_is_flagged(se: float, flags: list[str]) -> None:
    rows = summary(40, 42, 42).with_columns(se=pl.lit(se))
    assert only(pgr(rows), scope="benchmark")["flags"] == flags


def test_a_gap_of_means_within_its_noise_is_flagged() -> None:
    rows = pl.concat([summary(40, 41, 42, "gsm8k"), summary(30, 31, 32, "math")])
    told = [
        only(pgr(rows.with_columns(se=pl.lit(se)), combine="pgr_of_mean"), scope="domain")["flags"] for se in (0.5, 2.0)
    ]
    assert told == [[], ["unstable_gap"]]  # of the means, the noise is 1.96 * se * sqrt(2) / sqrt(2): 0.98 and 3.92


def test_a_model_with_few_graded_items_has_an_interval_of_what_there_is() -> None:
    rows = [items("math", [0.0] + [None] * 30, role="base"), items("math", [1.0] * 31, role="reference")]
    found = only(pgr(pl.concat([*rows, items("math", [0.5] * 31)]), resamples=200), scope="benchmark")
    assert (found["low"], found["pgr"], found["high"]) == (50, 50, 50)


def test_report_rows_have_a_standard_error_by_their_interval() -> None:
    ends = {"low": pl.col("score") - 1.96, "high": pl.col("score") + 1.96, "level": pl.lit(0.95)}
    told, known = summary(20, 30, 60).with_columns(**ends), summary(20, 30, 60).with_columns(se=pl.lit(1.0))
    (one, two) = (only(pgr(rows), scope="benchmark")["se"] for rows in (told, known))
    assert one == pytest.approx(two, rel=1e-4)


def test_a_gap_whose_interval_reaches_zero_is_flagged() -> None:
    rng = random.Random(1)
    wide = pl.concat([items("math", drawn(rng, 300, p), role=r) for r, p in (("base", 0.1), ("reference", 0.9))])
    near = pl.concat([items("gsm8k", drawn(rng, 300, 0.5), role=r) for r in ("base", "reference")])
    students = pl.concat([items(name, drawn(rng, 300, 0.5)) for name in ("math", "gsm8k")])
    found = pgr(pl.concat([wide, near, students]), resamples=300)
    assert "unstable_gap" in only(found, scope="benchmark", benchmark="gsm8k")["flags"]
    assert only(found, scope="benchmark", benchmark="math")["flags"] == []
    assert "unstable_gap" in only(found, scope="overall")["flags"]


def test_models_graded_on_different_items_are_flagged() -> None:
    rows = study()
    fewer = rows.filter(
        ~((pl.col("role") == "base") & (pl.col("benchmark") == "math") & (pl.col("item_id") == "i0003"))
    )
    assert only(pgr(rows, resamples=0), scope="domain", domain="math", generator="G")["flags"] == []
    found = pgr(fewer, resamples=0)
    assert only(found, scope="benchmark", benchmark="math", generator="G")["flags"] == ["unequal_items"]
    assert only(found, scope="benchmark", benchmark="math", generator="G")["n_base"] == 199
    assert only(found, scope="benchmark", benchmark="gsm8k", generator="G")["flags"] == []


# --- items -----------------------------------------------------------------------------------------------------------

SCORED = st.lists(
    st.tuples(*[st.none() | st.floats(0, 1)] * 3, st.floats(0.25, 4), st.integers(1, 3)), min_size=1, max_size=12
)


@given(SCORED)
def test_a_score_is_the_weighted_mean_over_graded_rows(drawn_items: list[tuple[Any, ...]]) -> None:
    rows = [
        {"role": role, "benchmark": "math", "item_id": f"{i}", "sample": k, "score": score, "weight": weight}
        for i, (*scores, weight, samples) in enumerate(drawn_items)
        for role, score in zip(("base", "student", "reference"), scores, strict=True)
        for k in range(samples)
    ]
    found = only(pgr(pl.DataFrame(rows, infer_schema_length=None), resamples=0), scope="benchmark")
    for role in ("base", "student", "reference"):
        graded = [r for r in rows if r["role"] == role and r["score"] is not None]
        total = sum(r["weight"] for r in graded)
        if graded:
            assert found[role] == pytest.approx(100 * sum(r["weight"] * r["score"] for r in graded) / total, abs=1e-9)
        else:
            assert found[role] is None


def test_the_standard_error_is_that_of_the_formula() -> None:
    found = only(pgr(study(), resamples=0), scope="benchmark", benchmark="gsm8k", generator="G")
    rows = study().filter(benchmark="gsm8k")
    se = {}
    for role in ("base", "student", "reference"):
        of_role = rows.filter(role=role)
        scores = of_role.filter(generator="G")["score"] if role == "student" else of_role["score"]
        se[role] = 100 * statistics.stdev(scores.to_list()) / math.sqrt(scores.len())
    g = found["pgr"] / 100
    expected = (
        100
        * math.sqrt(se["student"] ** 2 + (1 - g) ** 2 * se["base"] ** 2 + g**2 * se["reference"] ** 2)
        / found["gap"]
    )
    assert found["se"] == pytest.approx(expected)


@pytest.mark.slow
@pytest.mark.parametrize("combine", ["mean_of_pgr", "pgr_of_mean"])
def test_the_standard_error_is_the_spread_of_repeated_draws(combine: Any) -> None:
    # Scores are drawn from their distribution: the delta method must agree with what they then vary by.
    scores = {
        ("gsm8k", "base"): (20.0, 1.0),
        ("gsm8k", "reference"): (80.0, 0.8),
        ("math", "base"): (15.0, 0.7),
        ("math", "reference"): (35.0, 0.6),
        ("mbpp", "base"): (30.0, 2.0),
        ("mbpp", "reference"): (68.0, 1.5),
    }
    students = {(b, m): (0.5 * (scores[b, "base"][0] + scores[b, "reference"][0]) + k, 1.0)
                for b in ("gsm8k", "math", "mbpp") for k, m in ((0, "x"), (4, "y"))}  # fmt: skip

    def frame(rng: random.Random | None, generator: str) -> list[dict[str, Any]]:
        labelled = [(r, None, b, s) for (b, r), s in scores.items()] + [
            ("student", m, b, s) for (b, m), s in students.items()
        ]
        return [
            {"role": r, "method": m, "benchmark": f"{b}", "generator": generator, "se": sd,
             "score": mean if rng is None else rng.gauss(mean, sd)}
            for r, m, b, (mean, sd) in labelled
        ]  # fmt: skip

    def made(rng: random.Random | None) -> pl.DataFrame:
        return pgr(pl.DataFrame(frame(rng, "G"), infer_schema_length=None), combine=combine)

    rng, told = random.Random(5), made(None)
    spread = pl.DataFrame({str(run): made(rng)["pgr"] for run in range(150)}).transpose()
    assert told.height == spread.width == 13
    for se, values in zip(told["se"], spread, strict=True):
        assert se == pytest.approx(values.std(), rel=0.2)


def test_the_interval_is_paired_by_item() -> None:
    # A student that is right wherever the reference is: its PGR is 100 in every resample, however few the items.
    rng = random.Random(3)
    same = drawn(rng, 60, 0.6)
    rows = [items("math", drawn(rng, 60, 0.1), role="base"), items("math", same, role="reference"), items("math", same)]
    found = only(pgr(pl.concat(rows), resamples=200), scope="benchmark")
    assert (found["low"], found["pgr"], found["high"]) == pytest.approx((100, 100, 100))
    assert found["se"] > 10  # which takes them as independent


def test_the_interval_is_about_as_wide_as_the_standard_error_says() -> None:
    found = pgr(study(400), resamples=2_000)
    for row in found.iter_rows(named=True):
        assert row["high"] - row["low"] == pytest.approx(2 * 1.96 * row["se"], rel=0.15)
        assert row["low"] < row["pgr"] < row["high"]


@pytest.mark.slow
def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    truth, held, runs = {"gsm8k": 50.0}, 0, 150
    for run in range(runs):
        rng = random.Random(run)
        parts = [items("gsm8k", drawn(rng, 150, p), role=r) for r, p in (("base", 0.2), ("reference", 0.8))]
        found = only(pgr(pl.concat([*parts, items("gsm8k", drawn(rng, 150, 0.5))]), resamples=400), scope="benchmark")
        held += found["low"] <= truth["gsm8k"] <= found["high"]
    assert 0.88 <= held / runs <= 0.99


@settings(max_examples=10)
@given(st.randoms(use_true_random=False))
def test_the_order_of_rows_changes_nothing(rng: random.Random) -> None:
    rows, order = study(30), list(range(study(30).height))
    rng.shuffle(order)
    assert_frame_equal(pgr(rows[order], resamples=50), pgr(rows, resamples=50))


def test_an_interval_does_not_hang_on_the_other_generators() -> None:
    rows = study(40)
    alone = pgr(rows.filter(pl.col("generator").fill_null("G") == "G"), resamples=50)
    assert_frame_equal(alone, pgr(rows, resamples=50).filter(generator="G"))


def test_another_seed_draws_other_items() -> None:
    one, two = (pgr(study(40), resamples=50, seed=seed)["low"] for seed in (0, 1))
    assert (one != two).all()


def test_without_resamples_there_is_no_interval() -> None:
    found = pgr(study(40), resamples=0)
    assert found["low"].null_count() == found["high"].null_count() == found.height
    assert found["se"].null_count() == 0


# --- seeds of students -----------------------------------------------------------------------------------------------


def with_seeds(*students: list[float]) -> pl.DataFrame:
    rng = random.Random(8)
    parts = [items("math", drawn(rng, 100, p), role=r) for r, p in (("base", 0.1), ("reference", 0.9))]
    parts = [part.with_columns(train_seed=pl.lit(None, dtype=pl.Int64)) for part in parts]
    seeds = [items("math", s).with_columns(train_seed=pl.lit(k, dtype=pl.Int64)) for k, s in enumerate(students)]
    return pl.concat([*parts, *seeds])


def test_students_of_several_seeds_are_averaged_and_their_spread_is_told() -> None:
    few, many = [1.0] * 40 + [0.0] * 60, [1.0] * 60 + [0.0] * 40
    found = only(pgr(with_seeds(few, many), resamples=0), scope="benchmark")
    single = [only(pgr(with_seeds(each), resamples=0), scope="benchmark")["pgr"] for each in (few, many)]
    assert (found["student"], found["seeds"]) == (50, 2)
    assert found["pgr"] == pytest.approx(statistics.mean(single))
    assert found["sd_seeds"] == pytest.approx(statistics.stdev(single))


def test_seeds_that_differ_widen_the_interval() -> None:
    few, many = [1.0] * 20 + [0.0] * 80, [1.0] * 80 + [0.0] * 20
    half = [1.0] * 50 + [0.0] * 50
    apart, alike = (
        only(pgr(with_seeds(*students), resamples=400), scope="benchmark") for students in ((few, many), (half, half))
    )
    assert apart["high"] - apart["low"] > 2 * (alike["high"] - alike["low"])


def test_one_seed_has_no_spread() -> None:
    found = only(pgr(with_seeds([1.0] * 50 + [0.0] * 50), resamples=0), scope="benchmark")
    assert (found["seeds"], found["sd_seeds"]) == (1, None)


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        (TWO.with_columns(role=pl.lit("studnet")), "did you mean 'student'"),
        (TWO.with_columns(benchmark=pl.lit("my_bench")), "does not know the domain of 'my_bench'"),
        (pl.concat([TWO, TWO]), "Tell them apart by a label"),
        (pl.concat([TWO.with_columns(metric=pl.lit(m)) for m in ("win_rate", "lc_win_rate")]), "several metrics"),
        (TWO.drop("role"), "in the column 'role', which the frame does not have"),
        (summary(math.nan, 1.0, 2.0), "the score nan of 'math'"),
        (items("math", [2.0]), "it must be a number from 0 to 1"),
        (items("math", [float("nan")]), "it must be a number from 0 to 1"),
        (items("math", [0.5], weight=-1.0), "at least 0"),
        (items("math", [0.5]).with_columns(item_id=pl.lit(None, dtype=pl.String)), "without `item_id`"),
    ],
)
def test_rows_that_cannot_be_are_refused(rows: pl.DataFrame, told: str) -> None:
    with pytest.raises(FrameError, match=told):
        pgr(rows)


def test_a_benchmark_in_two_domains_is_refused() -> None:
    rows = TWO.with_columns(domain=pl.Series(["math", "code", "math"] * 2))
    with pytest.raises(FrameError, match="is in the domains 'code', 'math'"):
        pgr(rows)


def test_a_domain_may_be_said_by_the_caller_or_by_the_frame() -> None:
    rows = TWO.with_columns(benchmark=pl.lit("mine_") + pl.col("benchmark"))
    told = pgr(rows, domains={"mine_gsm8k": "sums", "mine_math": "sums"})
    assert only(told, scope="domain")["domain"] == "sums"
    assert_frame_equal(told, pgr(rows.with_columns(domain=pl.lit("sums"))))


@pytest.mark.parametrize(
    "given", [{"combine": "mean"}, {"by": []}, {"by": ["method"]}, {"resamples": -1}, {"level": 95}]
)
def test_wrong_parameters_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(BindError):
        pgr(TWO, **given)


def test_no_rows_give_no_rows_of_the_same_columns() -> None:
    for rows in (TWO, study(5)):
        assert pgr(rows.clear()).schema == pgr(rows).schema
        assert pgr(rows.clear()).height == 0


@pytest.mark.parametrize("name", [*BENCHMARKS, "alpaca_eval, unweighted"])
def test_every_benchmark_has_a_domain_by_the_name_in_its_rows(name: str) -> None:
    command, _, unweighted = name.partition(", ")
    make = BENCHMARKS[command]
    effects = {"judge_backend": scripted(lambda messages: "m"), "runner": lambda programs: programs}
    given = {effect: value for effect, value in effects.items() if effect in inspect.signature(make).parameters}
    benchmark = make(**given, **({"weighted": False} if unweighted else {}))
    assert {command, benchmark.name} <= set(DOMAINS)


def test_items_are_not_called_unequal_where_a_model_was_not_scored_at_all() -> None:
    rows = [
        {"role": role, "generator": "g", "benchmark": "gsm8k", "item_id": str(item), "score": 1.0}
        for role in ("student", "reference")
        for item in range(3)
    ]
    made = pgr(pl.DataFrame(rows), resamples=0)
    assert set(made["flags"].explode().drop_nulls()) == set()
    assert made["pgr_error"].struct.field("kind").unique().to_list() == ["missing_scores"]

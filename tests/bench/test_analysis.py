"""The analysis of the paper recomputed from its own tables, and the same functions on tables of one's own."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from agora_frames.bench.analysis import component_scores, principal_components, regression, within_correlations
from agora_frames.bench.paper import INTRINSIC, paper_settings, paper_table
from agora_frames.errors import BindError, FrameError

FEATURES = (*INTRINSIC, "problem_solving")


@pytest.fixture(scope="module")
def known(shared_data: Path) -> dict[str, Any]:
    return json.loads((shared_data / "agorabench_paper" / "known_answers.json").read_text())  # type: ignore[no-any-return]


def one(df: pl.DataFrame, **wanted: Any) -> dict[str, Any]:
    found = df.filter(**wanted)
    assert found.height == 1
    return found.row(0, named=True)


# --- figure 4: problem solving and PGR -------------------------------------------------------------------------------


def slopes(found: pl.DataFrame) -> dict[str, float]:
    return {each["name"]: each["value"] for each in found["coefficients"][0]}


def test_figure_4_coarse_is_reproduced(known: dict[str, Any]) -> None:
    answer = known["linear_regression_recomputed_from_tables"]["coarse_table3"]
    found = regression(paper_table(3), on=["problem_solving_avg"], target="agorabench_avg_pgr")
    assert one(found)["r2"] == pytest.approx(answer["r2"], abs=1e-6)
    assert one(found)["p"] == pytest.approx(answer["p"], abs=1e-6)
    assert slopes(found)["problem_solving_avg"] == pytest.approx(answer["slope"], abs=1e-6)
    assert slopes(found)["const"] == pytest.approx(answer["intercept"], abs=1e-6)
    assert round(one(found)["r2"], 3) == 0.245  # as printed


def test_figure_4_fine_is_reproduced(known: dict[str, Any]) -> None:
    answer = known["linear_regression_recomputed_from_tables"]["fine_54_domain_means"]
    found = regression(paper_settings(), on=["problem_solving"])
    assert one(found)["n"] == 54
    assert one(found)["r2"] == pytest.approx(answer["r2"], abs=1e-6)
    assert one(found)["p"] == pytest.approx(answer["p"], abs=1e-6)
    assert slopes(found)["problem_solving"] == pytest.approx(answer["slope"], abs=1e-6)
    assert slopes(found)["const"] == pytest.approx(answer["intercept"], abs=1e-6)
    assert round(one(found)["r2"], 3) == 0.097  # as printed; its p is 0.02177 there and 0.02191 here


# --- figures 5 and 6: components -------------------------------------------------------------------------------------


def test_the_shares_of_the_components_are_those_recomputed(known: dict[str, Any]) -> None:
    answer = known["pca_recomputed_from_table8_plus_domain_problem_solving"]
    found = principal_components(paper_settings(), features=FEATURES, components=5)
    shares = found.unique("component").sort("component")["share"]
    assert [round(100 * share, 1) for share in shares] == answer["explained_variance_ratio_percent_top5"]
    # The paper prints 39.2 30.4 11.9 7.0 4.9 for the same table.


def test_the_loadings_have_the_signs_of_figure_5(shared_data: Path) -> None:
    figures = json.loads((shared_data / "agorabench_paper" / "fig4_fig5_fig6_table4.json").read_text())
    names = dict(
        zip(
            figures["features"],
            (
                "instruction_difficulty_gpt4o_judge",
                "instruction_difficulty_prometheus2_8x7b_judge",
                "response_perplexity_llama31_8b",
                "response_quality_gpt4o_judge",
                "response_quality_prometheus2_8x7b_judge",
                "response_quality_skywork_reward",
                "instruction_diversity_cdist",
                "response_diversity_cdist",
                "problem_solving",
            ),
            strict=True,
        )
    )
    found = principal_components(paper_settings(), features=FEATURES, components=2)
    for component in (1, 2):
        printed = {names[n]: row[component - 1] for n, row in zip(names, figures["loadings_PC1_to_PC5"], strict=True)}
        ours = dict(found.filter(component=component).select("feature", "loading").iter_rows())
        turned = 1 if sum(printed[n] * ours[n] for n in printed) > 0 else -1
        large = [name for name, value in printed.items() if abs(value) > 0.2]
        assert all(printed[name] * ours[name] * turned > 0 for name in large)
        assert max(abs(printed[name] - turned * ours[name]) for name in printed) < 0.22


def test_pgr_on_five_components_has_the_r2_recomputed(known: dict[str, Any]) -> None:
    answer = known["pca_recomputed_from_table8_plus_domain_problem_solving"]
    scored = component_scores(paper_settings(), features=FEATURES, components=5)
    found = one(regression(scored, on=[f"pc{i}" for i in range(1, 6)]))
    assert found["r2"] == pytest.approx(answer["ols_r2_on_5_pcs"], abs=5e-5)
    assert found["p"] == pytest.approx(answer["ols_F_test_p"], abs=5e-6)
    assert (round(found["r2_adjusted"], 2), round(found["r2_leave_one_out"], 3)) == (0.27, 0.135)
    fitted = sum(c["value"] * scored[c["name"]] for c in found["coefficients"][1:])
    # The paper's "p < 0.001" comes out when the fitted score is taken as one regressor: five weights not counted.
    alone = one(regression(scored.with_columns(fitted=fitted), on=["fitted"]))
    assert alone["p"] == pytest.approx(answer["simple_regression_on_fitted_score_p"], rel=1e-3)


# --- beyond the paper (facts, section 12) ----------------------------------------------------------------------------


def test_the_setting_explains_more_than_the_generator() -> None:
    setting, generator = (one(regression(paper_settings(), on=[name])) for name in ("setting", "generator"))
    rounded = [round(setting[name], 3) for name in ("r2", "r2_adjusted", "r2_leave_one_out")]
    assert (rounded, setting["regressors"]) == ([0.551, 0.471, 0.354], 8)
    assert [round(generator[name], 3) for name in ("r2", "r2_adjusted")] == [0.108, 0.015]


def test_the_correlations_within_settings() -> None:
    found = within_correlations(paper_settings(), on=FEATURES)
    r = dict(found.select("feature", "r").iter_rows())
    assert round(r["response_quality_prometheus2_8x7b_judge"], 3) == 0.448
    assert round(r["response_quality_skywork_reward"], 3) == 0.340
    assert round(r["problem_solving"], 3) == 0.304
    assert round(r["response_quality_gpt4o_judge"], 3) == 0.235
    assert round(r["instruction_difficulty_gpt4o_judge"], 2) == -0.01
    assert round(r["response_perplexity_llama31_8b"], 2) == 0.06
    assert round(r["response_diversity_cdist"], 2) == -0.02
    assert round(r["instruction_diversity_cdist"], 2) == -0.23


def test_the_p_of_a_correlation_within_groups_counts_their_means() -> None:
    # With the nine means counted 44 degrees of freedom are left; with 52 it would be 0.0007, 0.0120 and 0.0256.
    found = within_correlations(paper_settings(), on=FEATURES)
    p = dict(found.select("feature", "p").iter_rows())
    assert p["response_quality_prometheus2_8x7b_judge"] == pytest.approx(0.0018, abs=5e-5)
    assert p["response_quality_skywork_reward"] == pytest.approx(0.0209, abs=5e-4)
    assert p["problem_solving"] == pytest.approx(0.040, abs=1e-3)


def test_the_rewards_of_gpt_4o_mini_look_swapped() -> None:
    name, mini = "response_quality_skywork_reward", pl.col("generator") == "GPT-4o-mini"
    other = pl.col("method").replace(
        {"instance_generation": "response_generation", "response_generation": "instance_generation"}
    )
    rows = paper_settings()
    swapped = rows.filter(mini).select(other, "domain", pl.col(name).alias("put_back"))
    back = pl.when(mini).then("put_back").otherwise(name).alias(name)
    mended = rows.join(swapped, on=["method", "domain"]).with_columns(back)
    assert round(one(within_correlations(mended, on=[name]))["r"], 3) == 0.457


# --- on a table of one's own -----------------------------------------------------------------------------------------


def table(n: int = 30, seed: int = 0) -> pl.DataFrame:
    rng = random.Random(seed)
    x, z = ([rng.gauss(0, 1) for _ in range(n)] for _ in range(2))
    y = [2 + 3 * a + rng.gauss(0, 0.1) for a in x]
    return pl.DataFrame({"pgr": y, "x": x, "z": z, "setting": [f"s{i % 3}" for i in range(n)]})


def test_leaving_one_out_is_what_it_says() -> None:
    rows = table(12).with_row_index("i")
    press = 0.0
    for i in range(rows.height):
        fit = {
            c["name"]: c["value"] for c in regression(rows.filter(pl.col("i") != i), on=["x", "z"])["coefficients"][0]
        }
        left = rows.row(i, named=True)
        press += (left["pgr"] - fit["const"] - fit["x"] * left["x"] - fit["z"] * left["z"]) ** 2
    total = ((rows["pgr"] - rows["pgr"].mean()) ** 2).sum()
    assert one(regression(rows, on=["x", "z"]))["r2_leave_one_out"] == pytest.approx(1 - press / total)


def test_a_regression_finds_the_coefficients() -> None:
    found = regression(table(), on=["x", "z"])
    assert slopes(found) == pytest.approx({"const": 2, "x": 3, "z": 0}, abs=0.1)


def test_all_components_together_hold_all_of_the_variance() -> None:
    found = principal_components(table(), features=["x", "z", "pgr"])
    assert found["cumulative"].max() == pytest.approx(1)
    assert found.height == 9


def test_scores_stand_beside_the_rows_in_their_order() -> None:
    rows = table()
    scored = component_scores(rows, features=["x", "z"], components=2)
    assert scored.drop("pc1", "pc2").equals(rows)
    # Standardised features have the variance 1 each, and a rotation keeps their sum.
    assert (scored["pc1"] ** 2).mean() + (scored["pc2"] ** 2).mean() == pytest.approx(2)


def test_a_feature_that_does_not_vary_within_groups_has_no_correlation() -> None:
    rows = table().with_columns(level=pl.col("setting").replace_strict({"s0": 0.1, "s1": 0.2, "s2": 0.7}))
    assert one(within_correlations(rows, on=["level"])) == {
        "feature": "level",
        "n": 30,
        "groups": 3,
        "r": None,
        "p": None,
    }


def test_a_row_that_stands_alone_in_its_category_leaves_no_leave_one_out() -> None:
    rows = table(6).with_columns(setting=pl.Series(["a", "a", "a", "b", "b", "c"]))
    found = one(regression(rows, on=["setting"]))
    assert found["r2"] is not None and found["r2_leave_one_out"] is None


@pytest.mark.parametrize(
    ("call", "error", "told"),
    [
        (lambda df: regression(df, on=[]), BindError, "must name what is to explain"),
        (lambda df: regression(df, on=["xx"]), FrameError, "did you mean 'x'"),
        (lambda df: regression(df.head(3), on=["x", "z"]), FrameError, "needs more rows than that, but has 3"),
        (lambda df: regression(df.with_columns(x=None), on=["x"]), FrameError, "finds nulls in 'x'"),
        (lambda df: principal_components(df.head(1), features=["x"]), FrameError, "at least two rows"),
        (lambda df: component_scores(df, features=["x"], components=2), BindError, "from 1 to 1"),
        (lambda df: within_correlations(df, on=["x"], groups="settings"), FrameError, "did you mean 'setting'"),
    ],
)
def test_what_cannot_be_done_is_refused(call: Any, error: type[Exception], told: str) -> None:
    with pytest.raises(error, match=told):
        call(table())

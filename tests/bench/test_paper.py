"""The paper's tables agree with each other to rounding, but for the misprints that are listed here."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

from agora_frames.bench.paper import DOMAINS, INTRINSIC, paper_settings, paper_table
from agora_frames.errors import BindError
from agora_frames.pgr import average_pgr

# Printed averages that do not follow from the printed parts: (where) -> (printed, recomputed). All but the last may
# come of parts that were rounded themselves (28.73 of parts printed to 0.1 may have been 28.78); 0.4022 cannot.
MISPRINTS_2 = {
    ("Claude-3.5-Sonnet", "response_generation"): (28.8, 28.73),
    ("Llama-3.1-8B", "response_generation"): (19.4, 19.47),
}
MISPRINTS_3 = {"GPT-4o": (29.5, 29.56)}
MISPRINTS_5 = {("GPT-4o-mini", "quality_enhancement", "json"): (3.8, 3.87)}
MISPRINTS_7 = {"GPT-4o": (80.9, 80.97)}
MISPRINTS_8 = {("instruction_diversity_cdist", "Llama-3.1-70B", "quality_enhancement"): (0.4022, 0.4002)}


def long(table: pl.DataFrame, *keys: str) -> pl.DataFrame:
    return table.unpivot(DOMAINS, index=list(keys), variable_name="domain", value_name="pgr")


def off(printed: pl.DataFrame, keys: list[str], digits: int) -> dict[object, tuple[float, float]]:
    """Where what is printed is not the average to its last digit; half of a digit may be rounded either way."""
    wrong = printed.filter((pl.col("printed") - pl.col("found")).abs() > 0.5 * 10**-digits + 1e-9)
    values = wrong.select("printed", pl.col("found").round(digits + 1)).rows()
    names = wrong.select(keys).rows()
    return {name if len(keys) > 1 else name[0]: value for name, value in zip(names, values, strict=True)}


@pytest.mark.parametrize(("number", "height"), [(1, 9), (2, 18), (3, 6), (5, 18), (7, 6), (8, 144)])
def test_the_tables_are_those_of_the_shared_data(number: int, height: int, shared_data: Path) -> None:
    (path,) = (shared_data / "agorabench_paper").glob(f"table{number}_*.csv")
    table = paper_table(number)
    assert table.height == height
    assert table.equals(pl.read_csv(path, schema=table.schema))


def test_no_value_is_missing() -> None:
    assert all(paper_table(number).null_count().sum_horizontal().item() == 0 for number in (1, 2, 3, 5, 7, 8))


def test_the_averages_of_table_2() -> None:
    table, keys = paper_table(2), ["generator", "method"]
    found = average_pgr(long(table, *keys)).filter(scope="method").rename({"pgr": "found"})
    joined = table.rename({"avg_published": "printed"}).join(found, on=keys)
    assert off(joined, keys, 1) == MISPRINTS_2
    assert joined.height == 18


def test_the_decimals_that_the_text_gives() -> None:
    found = average_pgr(long(paper_table(2), "generator", "method")).filter(scope="method")
    said = {
        ("GPT-4o", "instance_generation"): 46.75,
        ("Claude-3.5-Sonnet", "instance_generation"): 24.14,
        ("Llama-3.1-405B", "instance_generation"): 10.10,
        ("Claude-3.5-Sonnet", "quality_enhancement"): 17.89,
        ("GPT-4o", "quality_enhancement"): 6.69,
        ("GPT-4o-mini", "quality_enhancement"): 5.49,
    }
    for generator, method, _, value in found.iter_rows():
        # Made of parts that are rounded to 0.05, a mean of three is off by 0.05 at most.
        assert abs(said.get((generator, method), value) - value) <= 0.05 + 0.005


def test_the_averages_of_table_3_and_the_grand_means(shared_data: Path) -> None:
    overall = average_pgr(long(paper_table(2), "generator", "method")).filter(scope="overall")
    known = json.loads((shared_data / "agorabench_paper" / "known_answers.json").read_text())
    means = dict(overall.select("generator", pl.col("pgr").round(4)).iter_rows())
    assert means == pytest.approx(known["table2_grand_means_recomputed"], abs=1e-4)
    printed = paper_table(3).rename({"agorabench_avg_pgr": "printed"})
    assert off(printed.join(overall.rename({"pgr": "found"}), on="generator"), ["generator"], 1) == MISPRINTS_3


def test_the_averages_of_table_5(shared_data: Path) -> None:
    table, keys = paper_table(5), ["generator", "method", "metaprompt"]
    found = average_pgr(long(table, *keys), by=("generator", "metaprompt")).filter(scope="method")
    joined = table.rename({"avg_published": "printed"}).join(found.rename({"pgr": "found"}), on=keys)
    assert off(joined, keys, 1) == MISPRINTS_5
    known = json.loads((shared_data / "agorabench_paper" / "known_answers.json").read_text())["metaprompt_mean_avg"]
    means = dict(table.group_by("metaprompt").agg(pl.col("avg_published").mean()).iter_rows())
    assert means == pytest.approx({name: known[name] for name in means}, abs=5e-5)
    assert means["agorabench"] - means["json"] == pytest.approx(4.45, abs=5e-4)
    assert means["agorabench"] - means["unoptimized"] == pytest.approx(3.97, abs=5e-3)


def test_table_5_repeats_table_2() -> None:
    tuned = paper_table(5).filter(metaprompt="agorabench").drop("metaprompt")
    keys = ["generator", "method"]
    assert tuned.equals(tuned.select(keys).join(paper_table(2), on=keys, maintain_order="left"))


def test_the_averages_of_table_7_and_those_of_table_3() -> None:
    table = paper_table(7)
    scores = [name for name in table.columns if name not in ("model", "average_published")]
    found = table.select("model", pl.col("average_published").alias("printed"), found=pl.mean_horizontal(scores))
    assert off(found, ["model"], 1) == MISPRINTS_7
    assert paper_table(3)["problem_solving_avg"].to_list() == table["average_published"].to_list()


def test_the_averages_of_table_8() -> None:
    table, keys = paper_table(8), ["metric", "generator", "method"]
    found = table.select(*keys, pl.col("avg_published").alias("printed"), found=pl.mean_horizontal(DOMAINS))
    distances = pl.col("metric").str.ends_with("_cdist")
    assert off(found.filter(distances), keys, 4) == MISPRINTS_8
    # The others are printed with two digits, as are their parts: both are rounded.
    assert (found.filter(~distances)["printed"] - found.filter(~distances)["found"]).abs().max() < 0.01 + 1e-9


def test_table_1_names_the_nine_settings() -> None:
    assert paper_table(1).select("method", "domain").n_unique() == 9
    assert set(paper_table(1)["domain"]) == set(DOMAINS)


def test_the_settings_join_the_tables_row_by_row() -> None:
    rows = paper_settings()
    assert rows.height == 54
    assert rows.null_count().sum_horizontal().item() == 0
    row = rows.filter(generator="Llama-3.1-8B", method="quality_enhancement", domain="code").row(0, named=True)
    assert (row["pgr"], row["problem_solving"]) == (15.4, 69.0)
    assert row["response_perplexity_llama31_8b"] == 3.17
    assert rows.columns[-8:] == list(INTRINSIC)


def test_a_table_that_is_not_there_is_refused() -> None:
    with pytest.raises(BindError, match="there are the tables 1, 2, 3, 5, 7, 8"):
        paper_table(4)

"""The AgoraBench paper's tables as frames, and the one table of its analysis: six generators in nine settings."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from agora_frames.errors import BindError, listed

__all__ = ["DOMAINS", "INTRINSIC", "paper_settings", "paper_table"]

DOMAINS = ("math", "code", "instruction_following")

# The eight intrinsic metrics of table 8, in its order.
INTRINSIC = (
    "instruction_difficulty_gpt4o_judge",
    "instruction_difficulty_prometheus2_8x7b_judge",
    "response_perplexity_llama31_8b",
    "response_quality_gpt4o_judge",
    "response_quality_prometheus2_8x7b_judge",
    "response_quality_skywork_reward",
    "instruction_diversity_cdist",
    "response_diversity_cdist",
)

_TABLES = Path(__file__).parent / "paper_tables"
_PRINTED = {
    1: {"seed_size": pl.Int64},
    2: dict.fromkeys((*DOMAINS, "avg_published"), pl.Float64),
    3: dict.fromkeys(
        ("usd_per_1m_input_tokens", "usd_per_1m_output_tokens", "problem_solving_avg", "agorabench_avg_pgr"), pl.Float64
    ),
    5: dict.fromkeys((*DOMAINS, "avg_published"), pl.Float64),
    7: dict.fromkeys(
        ("gsm8k", "math", "mbpp", "humaneval", "alpacaeval2", "arena_hard", "average_published"), pl.Float64
    ),
    8: dict.fromkeys((*DOMAINS, "avg_published"), pl.Float64),
}
_BENCHMARKS = {
    "math": ("gsm8k", "math"),
    "code": ("mbpp", "humaneval"),
    "instruction_following": ("alpacaeval2", "arena_hard"),
}


def paper_table(number: int) -> pl.DataFrame:
    """A table of the paper as it was printed, misprints included: 1, 2, 3, 5, 7 or 8.

    Source: arXiv 2412.03679v2; what each table holds is in bench/paper_tables/README.md.
    Raises: BindError for another number.

    >>> paper_table(2).filter(generator="GPT-4o", method="instance_generation").row(0)
    ('GPT-4o', 'instance_generation', 20.6, 73.6, 46.1, 46.8)
    """
    if number not in _PRINTED:
        raise BindError(f"paper_table({number!r}): there are the tables {listed(_PRINTED)}.")
    return pl.read_csv(_TABLES / f"table{number}.csv", infer_schema=False).cast(_PRINTED[number])  # type: ignore[arg-type]


def paper_settings() -> pl.DataFrame:
    """A row for each generator, method and domain (54): its PGR, and what may explain it.

    Columns: `generator`, `method`, `domain`, `setting` (method and domain in one), `pgr` (table 2, percent),
    `problem_solving` (table 7: the generator's mean over the domain's two benchmarks, in points), and the metrics of
    `INTRINSIC` (table 8).

    >>> paper_settings().select("generator", "setting", "pgr", "problem_solving").row(0)
    ('GPT-4o', 'instance_generation/math', 20.6, 86.35)
    """
    key = ["generator", "method", "domain"]
    pgr = _by_domain(paper_table(2), "pgr", ["generator", "method"])
    means = [pl.mean_horizontal(names).alias(domain) for domain, names in _BENCHMARKS.items()]
    solving = _by_domain(
        paper_table(7).select(pl.col("model").alias("generator"), *means), "problem_solving", ["generator"]
    )
    metrics = _by_domain(paper_table(8), "value", ["metric", "generator", "method"])
    wide = metrics.pivot("metric", index=key, values="value").select(*key, *INTRINSIC)
    setting = pl.format("{}/{}", "method", "domain").alias("setting")
    joined = pgr.join(solving, on=["generator", "domain"], maintain_order="left").join(
        wide, on=key, maintain_order="left"
    )
    return joined.select(*key, setting, "pgr", "problem_solving", *INTRINSIC)


def _by_domain(table: pl.DataFrame, value: str, index: list[str]) -> pl.DataFrame:
    """A row for each domain, of a table that has a column for each."""
    return table.unpivot(DOMAINS, index=index, variable_name="domain", value_name=value)

"""AgoraBench response generation, in its three domains, and the seeds that ship."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

import agora_frames as af
from agora_frames.recipes.agorabench import METHODS, SETTINGS
from agora_frames.recipes.agorabench.domains import DOMAINS, DomainName
from agora_frames.recipes.agorabench.response_generation import response_generation, seeds

ANSWERS = {
    "math": "We add.\n[RESULT] 4 [/RESULT]\n",
    "code": "```python\ndef f():\n    return 4\n```",
    "general": "Four, I think.",
}
DOMAIN_NAMES: tuple[DomainName, ...] = ("math", "code", "general")


def test_the_table_names_the_nine_settings() -> None:
    assert len(SETTINGS) == 9
    assert {setting.method for setting in SETTINGS} == set(METHODS)


@pytest.mark.parametrize("domain", DOMAIN_NAMES)
def test_each_domain_ships_at_least_24_seeds_that_keep_its_own_rules(domain: DomainName) -> None:
    rows = seeds(domain=domain).pipe(af.validate, schema=DOMAINS[domain].schema)
    assert rows.height >= 24
    assert rows.filter(~pl.col("valid")).select("instruction", "failures").to_dicts() == []
    assert rows["instruction"].n_unique() == rows.height


@pytest.mark.parametrize("domain", DOMAIN_NAMES)
def test_good_answers_are_accepted_and_carry_model_and_parent(domain: DomainName) -> None:
    model = af.scripted(lambda messages: ANSWERS[domain], model="good")
    rows = seeds(domain=domain).pipe(response_generation(backend=model, domain=domain))
    assert rows["valid"].all()
    assert rows["response"].unique().to_list() == [ANSWERS[domain].strip()]
    assert rows["config"].unique().to_list() == ["good"]
    assert rows["parents"].to_list() == [[row_id] for row_id in rows["row_id"]]
    assert rows["seed_response"].equals(seeds(domain=domain)["response"].rename("seed_response"))


@pytest.mark.parametrize("domain", DOMAIN_NAMES)
def test_the_instruction_is_the_seeds_own_and_reaches_the_prompt_as_it_is(domain: DomainName) -> None:
    tricky = "Given INPUT: 3 4 and OUTPUT: 7, what is {{ x }} in <input>? [RESULT]"
    model = af.scripted(lambda messages: ANSWERS[domain])
    rows = pl.DataFrame({"instruction": [tricky]}).pipe(response_generation(backend=model, domain=domain))
    assert rows["instruction"].item() == tricky
    assert rows["prompt"].item()[-1]["content"] == tricky


@pytest.mark.parametrize("domain", DOMAIN_NAMES)
def test_shots_put_worked_examples_that_keep_the_rules_before_the_question(domain: DomainName) -> None:
    model = af.scripted(lambda messages: ANSWERS[domain])
    plain, shown = (
        response_generation(backend=model, domain=domain, shots=shots)(seeds(domain=domain).head(1))["prompt"].item()
        for shots in (False, True)
    )
    assert [shown[0], shown[-1]] == plain.to_list()
    examples = shown.to_list()[1:-1]
    assert [turn["role"] for turn in examples] == ["user", "assistant"] * (len(examples) // 2)
    asked, answered = ([turn["content"] for turn in examples[start::2]] for start in (0, 1))
    worked = pl.DataFrame({"instruction": asked, "response": answered})
    assert worked.height >= 2
    assert worked.pipe(af.validate, schema=DOMAINS[domain].schema)["valid"].all()


def test_a_prose_answer_is_rejected_by_the_rules_of_math_and_code() -> None:
    model = af.scripted(lambda messages: ANSWERS["general"])
    for domain, rule in (("math", "response: has_one_result"), ("code", "response: is_one_code_block")):
        rows = seeds(domain=domain).pipe(response_generation(backend=model, domain=domain))  # type: ignore[arg-type]
        assert rows.pipe(af.failure_counts)["reason"].to_list() == [rule]


def test_several_samples_make_several_rows_of_each_seed() -> None:
    model = af.scripted(lambda messages, sampling: f"{sampling['seed']}\n[RESULT] 4 [/RESULT]")
    rows = seeds().head(3).pipe(response_generation(backend=model, samples=4))
    assert rows.height == 12
    assert rows["response"].n_unique() == 12
    assert rows["parents"].list.first().n_unique() == 3


def test_the_seed_files_of_data_agora_go_through(shared_data: Path) -> None:
    for name, domain in (("magpie_math", "math"), ("magpie_code", "code"), ("magpie_general", "general")):
        file = shared_data / "agora_seeds" / f"{name}_seed_data_10000_subsampled.json"
        model = af.scripted(lambda messages, domain=domain: ANSWERS[domain])
        rows = af.read_frame(file).pipe(response_generation(backend=model, domain=domain))  # type: ignore[arg-type]
        assert rows.height == len(json.loads(file.read_text())) == 20
        assert rows["valid"].all()

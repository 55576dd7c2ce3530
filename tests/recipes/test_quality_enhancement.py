"""AgoraBench quality enhancement, and both methods that start from given rows until so many are accepted."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import agora_frames as af
from agora_frames.frames import outcome
from agora_frames.recipes.agorabench.domains import DomainName, seeds
from agora_frames.recipes.agorabench.quality_enhancement import quality_enhancement
from agora_frames.recipes.agorabench.response_generation import response_generation
from agora_frames.stage import Stage

DOMAIN_NAMES: tuple[DomainName, ...] = ("math", "code", "general")


def answer(domain: str, seed: int) -> str:
    return {
        "math": f"So it is.\n[RESULT] {seed} [/RESULT]",
        "code": f"```python\nx = {seed}\nassert x\n```",
        "general": f"It is {seed}.",
    }[domain]


IN_PARTS = {
    "math": lambda seed: {"solution": "So it is.", "result": str(seed)},
    "code": lambda seed: {"language": "python", "code": f"x = {seed}\nassert x"},
    "general": lambda seed: {"response": f"It is {seed}."},
}


def revised(messages: list[dict[str, str]], sampling: dict[str, Any]) -> str:
    prompt, seed = messages[-1]["content"], sampling["seed"]
    if seed % 4 == 0:
        return "No."
    domain = "math" if "[RESULT]" in prompt else "code" if "fenced code block" in prompt else "general"
    if "response_format" in sampling:
        return json.dumps({"instruction": f"Better {seed}?", **IN_PARTS[domain](seed)})
    return f"Better {seed}?\n\nRevised Answer: {answer(domain, seed)}"


@pytest.mark.parametrize("format", ["markers", "json"])
@pytest.mark.parametrize("domain", DOMAIN_NAMES)
def test_each_pair_is_revised_once_unless_rows_are_wanted(domain: DomainName, format: Any) -> None:
    given = seeds(domain=domain)
    done = quality_enhancement(backend=af.scripted(revised), domain=domain, format=format)(given)
    assert done.height == 30
    assert done["seed_instruction"].equals(given["instruction"].rename("seed_instruction"))
    assert done["seed_response"].equals(given["response"].rename("seed_response"))
    assert done["parents"].to_list() == [[name] for name in done["row_id"]]
    good = done.pipe(af.keep_valid)
    assert good.height > 15 and good["instruction"].str.starts_with("Better").all()


def test_the_prompt_shows_question_and_answer_as_they_are() -> None:
    tricky = {"instruction": "Given INPUT: 3 and <output1>?", "response": "{{ seven }} Revised Answer: 7"}
    done = quality_enhancement(backend=af.scripted(revised))(pl.DataFrame([tricky]))
    asked = done["prompt"][0][-1]["content"]
    assert f"Question: {tricky['instruction']}\n" in asked and f"Answer: {tricky['response']}\n" in asked


def test_a_seed_without_an_answer_keeps_its_row_and_the_reason() -> None:
    df = pl.DataFrame({"instruction": ["Why?", "How?"], "response": [None, "So."]})
    done = quality_enhancement(backend=af.scripted(lambda m: "W?\nRevised Answer: S."), domain="general")(df)
    assert done["prompt_error"].struct.field("kind").to_list() == ["null_value", None]


def both(domain: DomainName, rows: int, script: Any) -> list[Stage]:
    model = af.scripted(script)
    return [
        quality_enhancement(backend=model, domain=domain, rows=rows),
        response_generation(backend=model, domain=domain, rows=rows),
    ]


@pytest.mark.parametrize("domain", DOMAIN_NAMES)
def test_so_many_rows_as_are_wanted_are_made_of_fewer_seeds(domain: DomainName) -> None:
    def script(messages: list[dict[str, str]], sampling: dict[str, Any]) -> str:
        seed = sampling["seed"]
        if "Revise the question" in messages[-1]["content"]:
            return revised(messages, sampling)
        return answer(domain, seed) if seed % 4 else ""

    for stage in both(domain, 70, script):
        done = stage(seeds(domain=domain))
        counts = Counter(done.select(outcome(done)).to_series())
        assert counts["accepted"] == 70 and counts.total() == done.height
        good = done.pipe(af.keep_valid)
        times = Counter(good["parents"].list.first())
        assert set(times.values()) == {2, 3} and len(times) == 30
        assert good["row_id"].n_unique() == 70


def test_the_first_draw_at_a_seed_is_the_call_that_the_plain_recipe_makes() -> None:
    model = af.scripted(lambda m, s: answer("math", s["seed"]))
    plain = response_generation(backend=model)(seeds())
    wanted = response_generation(backend=model, rows=30)(seeds())
    keys = [df["completion_call"].struct.field("key").to_list() for df in (plain, wanted)]
    assert keys[0] == keys[1]


def test_a_response_is_never_read_out_of_the_prompt_and_json_is_taken_apart() -> None:
    said = json.dumps({"solution": "So.", "result": "4"})
    done = response_generation(backend=af.scripted(lambda m: said), format="json")(seeds().head(2))
    assert done["response"].to_list() == ["So.\n[RESULT] 4 [/RESULT]"] * 2
    assert done["instruction"].to_list() == seeds()["instruction"].to_list()[:2]


@pytest.mark.parametrize("said", ['{"solution": "So."}', '{"solution": "So.", "result": 4}', "So. 4"])
def test_json_that_lacks_a_part_is_unparsed(said: str) -> None:
    done = response_generation(backend=af.scripted(lambda m: said), format="json")(seeds().head(1))
    assert af.failure_counts(done)["reason"].to_list() == ["completion_parse: unparsed"]


def test_the_seed_files_of_data_agora_go_through(shared_data: Path) -> None:
    for name, domain in (("webinstruct_math", "math"), ("webinstruct_general", "general")):
        given = af.read_frame(shared_data / "agora_seeds" / f"{name}_seed_data_10000_subsampled.json")
        done = quality_enhancement(backend=af.scripted(revised), domain=domain, rows=25)(given)  # type: ignore[arg-type]
        assert done.pipe(af.keep_valid).height == 25

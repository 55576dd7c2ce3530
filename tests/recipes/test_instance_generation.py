"""AgoraBench instance generation: what is asked, what is accepted, and what a change asks again."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit

import agora_frames as af
from agora_frames.frames import outcome
from agora_frames.ledger import Ledger
from agora_frames.recipes.agorabench import SETTINGS
from agora_frames.recipes.agorabench.asking import chat_of
from agora_frames.recipes.agorabench.domains import DOMAINS, DomainName, seeds
from agora_frames.recipes.agorabench.instance_generation import instance_generation
from agora_frames.recipes.agorabench.lists import first_words, themes
from agora_frames.types import Backend

DOMAIN_NAMES: tuple[DomainName, ...] = ("math", "code", "general")
# A fence of each language that the themes of code name, with a line that is harmless in it.
TAGS = {
    "Python": "python",
    "Java": "java",
    "C++": "cpp",
    "C": "c",
    "JavaScript": "javascript",
    "C#": "csharp",
    "PHP": "php",
}


def in_parts(response: str) -> dict[str, str]:
    """A response as the keys of a JSON object have it."""
    if "[RESULT]" in response:
        solution, result = response.removesuffix(" [/RESULT]").split("\n[RESULT] ")
        return {"solution": solution, "result": result}
    if response.startswith("```"):
        language, code = response.removeprefix("```").removesuffix("\n```").split("\n", 1)
        return {"language": language, "code": code}
    return {"response": response}


def written(messages: list[dict[str, str]], sampling: dict[str, Any]) -> str:
    """A good instance of whatever the prompt asks for; one in five keeps to no form."""
    prompt, seed = messages[-1]["content"], sampling["seed"]
    if seed % 5 == 0:
        return "I would rather not."
    if "[RESULT]" in prompt:
        response = f"We add.\n[RESULT] {seed} [/RESULT]"
    elif "fenced code block" in prompt:
        (language,) = (tag for name, tag in TAGS.items() if f" a {name} Code." in prompt)
        response = f"```{language}\nx = {seed}\n```"
    else:
        response = f"Number {seed} is the answer."
    if "response_format" in sampling:
        return json.dumps({"instruction": f"Question {seed}?", **in_parts(response)})
    return f"Question {seed}?\nOUTPUT: {response}\n[END]"


def make(domain: DomainName, model: Backend | None = None, rows: int = 30, **options: Any) -> pl.DataFrame:
    stage = instance_generation(backend=model or af.scripted(written), domain=domain, rows=rows, **options)
    return stage(seeds(domain=domain))


@pytest.mark.parametrize("format", ["markers", "json"])
@pytest.mark.parametrize("domain", DOMAIN_NAMES)
def test_exactly_the_rows_that_are_wanted_are_accepted(domain: DomainName, format: str) -> None:
    done = make(domain, format=format)
    assert Counter(done.select(outcome(done)).to_series())["accepted"] == 30
    assert af.failure_counts(done)["reason"].to_list() == ["completion_parse: unparsed"]
    good = done.pipe(af.keep_valid)
    assert good["instruction"].n_unique() == 30
    assert good["config"].unique().to_list() == ["scripted"]
    assert done.columns[:6] == ["row_id", "instruction", "response", "config", "parents", "theme"]
    assert {"slot", "round", "attempt", "completion_call"} <= set(done.columns)


@pytest.mark.parametrize("domain", DOMAIN_NAMES)
def test_both_formats_make_the_same_instances(domain: DomainName) -> None:
    free, held = (make(domain, format=format).pipe(af.keep_valid) for format in ("markers", "json"))
    assert free.select("instruction", "response").equals(held.select("instruction", "response"))


@pytest.mark.parametrize("domain", DOMAIN_NAMES)
def test_a_prompt_shows_three_examples_and_asks_for_its_theme(domain: DomainName) -> None:
    done = make(domain)
    own = seeds(domain=domain).pipe(af.with_row_ids, columns="instruction")
    texts = {name: text for df in (own, done) for name, text in df.select("row_id", "instruction").iter_rows()}
    for prompt, theme, parents in done.select("prompt", "theme", "parents").iter_rows():
        assert [turn["role"] for turn in prompt] == ["system", "user"]
        asked = prompt[-1]["content"]
        assert theme in asked and theme in themes(domain)
        assert len(set(parents)) == 3
        assert all(f"INPUT: {texts[parent]}\nOUTPUT: " in asked for parent in parents)
        assert asked.count("\nOUTPUT: ") == 3 and asked.endswith("\nINPUT:")
        assert "much harder" in asked


def test_the_first_words_are_asked_for_in_the_general_domain_alone() -> None:
    done = make("general")
    assert all(
        f'begins with "{words}"' in prompt[-1]["content"]
        for prompt, words in done.select("prompt", "first_words").iter_rows()
    )
    assert "first_words" not in make("math").columns


def test_json_is_asked_for_in_words_and_by_a_schema() -> None:
    done = make("math", rows=3, format="json")
    sent = json.loads(done["completion_call"].struct.field("sampling")[0])
    assert list(sent["response_format"]["json_schema"]["schema"]["properties"]) == ["instruction", "solution", "result"]
    assert "stop" not in sent
    asked = done["prompt"].list.last().struct.field("content")
    assert (
        asked.str.contains('keys are "instruction".*"solution".*"result"').all()
        and not asked.str.contains("[END] when you").any()
    )
    plain = json.loads(make("math", rows=3)["completion_call"].struct.field("sampling")[0])
    assert plain["stop"] == ["[END]"] and "response_format" not in plain


@pytest.mark.parametrize(("pool", "kinds"), [("grow", "ssg"), ("seeds", "sss")])
def test_the_pool_makes_the_mix_of_examples(pool: str, kinds: str) -> None:
    done = make("math", rows=60, pool=pool).filter(pl.col("round") > 0)
    own = set(seeds().pipe(af.with_row_ids, columns="instruction")["row_id"])
    found = {"".join("s" if name in own else "g" for name in names) for names in done["parents"].to_list()}
    assert found == {kinds}


def test_the_upstream_pool_shows_one_seed_and_two_of_both_kinds() -> None:
    own = set(seeds().pipe(af.with_row_ids, columns="instruction")["row_id"])
    done = make("math", rows=200, pool="upstream").filter(pl.col("round") > 2)
    mixes = Counter("".join("s" if name in own else "g" for name in names) for names in done["parents"].to_list())
    assert {mix[0] for mix in mixes} == {"s"} and {"sgg", "sgs", "ssg"} <= mixes.keys()


def test_code_in_another_language_than_the_theme_is_turned_down() -> None:
    model = af.scripted(lambda m, s: f"Task {s['seed']}\nOUTPUT: ```python\nx = {s['seed']}\n```")
    done = make("code", model, rows=10, attempts=1, max_candidates=400)
    good = done.pipe(af.keep_valid)
    assert set(good["theme"]) <= {"Implementing a Python Code", "Fixing a Python Code"}
    assert good.height == 10


def test_a_theme_has_no_more_rows_than_its_quota() -> None:
    done = make("math", rows=70, theme_quota=2, max_candidates=2_000).pipe(af.keep_valid)
    assert set(Counter(done["theme"]).values()) == {2} and done["theme"].n_unique() == 35


# What a change asks again


def calls_of(model: Backend, tmp_path: Path, **options: Any) -> tuple[pl.DataFrame, int]:
    backend = af.remembered(model, ledger=Ledger(tmp_path / "ledger"))
    done = make("math", backend, rows=40, **options)
    backend.ledger.close()
    return done, backend.tally.calls


def test_the_same_run_again_makes_no_call_and_the_same_frame(tmp_path: Path) -> None:
    model = af.scripted(written)
    first, calls = calls_of(model, tmp_path)
    again, none = calls_of(model, tmp_path)
    assert calls == first.height and none == 0
    assert_frame_equal(first, again)


def test_tokens_are_counted_by_the_students_tokenizer_and_another_one_makes_no_call(tmp_path: Path) -> None:
    engine = Tokenizer(WordLevel({"?": 0}, unk_token="?"))
    engine.pre_tokenizer = WhitespaceSplit()
    engine.save(str(tmp_path / "words.json"))
    model = af.scripted(written)
    ours, _ = calls_of(model, tmp_path)
    theirs, calls = calls_of(model, tmp_path, tokenizer=str(tmp_path / "words.json"))
    assert calls == 0
    assert theirs["instruction"].equals(ours["instruction"])
    assert (theirs["n_tokens"] < ours["n_tokens"]).drop_nulls().all()


def test_other_rules_make_no_call_for_what_was_asked_already(tmp_path: Path) -> None:
    model = af.scripted(written)
    first, _ = calls_of(model, tmp_path)
    done, calls = calls_of(model, tmp_path, strictness="agorabench", token_limit=None)
    assert calls == 0
    assert done.select("slot", "attempt").equals(first.select("slot", "attempt"))


def test_a_theme_in_other_words_asks_again_only_where_it_stands_in_the_prompt(tmp_path: Path) -> None:
    model = af.remembered(af.scripted(written), ledger=Ledger(tmp_path / "ledger"))
    template = chat_of(af.template_file(DOMAINS["math"].prompt("instance_generation")))

    def run(theme: str) -> tuple[pl.DataFrame, int]:
        before = model.tally.calls
        values = [theme, *themes("math")[1:]]
        ask = af.recipe(
            af.sample_values(values=values, into="theme"),
            af.sample_demos(pool=seeds().pipe(af.with_row_ids), from_seeds=3, from_generated=0),
            af.stage()(lambda df: df.with_columns(feedback=pl.lit(None, dtype=pl.String), as_json=False))(),
            af.render_prompts(template=template),
            af.generate_column(backend=model),
            name="ask",
        )
        names = pl.DataFrame({"row_id": [f"r{i}" for i in range(200)]})
        return ask(names), model.tally.calls - before

    first, all_of = run(themes("math")[0])
    second, some = run("Algebra, and nothing but algebra")
    changed = (first["prompt"] != second["prompt"]).sum()
    assert (all_of, some) == (200, changed)
    assert 0 < changed == (first["theme"] == "Algebra").sum() < 20


# Lists and seeds


def test_the_lists_have_the_counts_of_the_paper_and_the_corrected_ones_no_duplicates() -> None:
    upstream = {domain: len(themes(domain, which="upstream")) for domain in DOMAIN_NAMES}
    assert upstream == {"math": 36, "code": 14, "general": 28} and len(first_words(which="upstream")) == 123
    for words in (*(themes(domain) for domain in DOMAIN_NAMES), first_words()):
        assert len(set(words)) == len(words) and all(word == word.strip() for word in words)
    assert (len(themes("math")), len(first_words())) == (35, 122)


def test_the_two_first_words_that_a_missing_comma_made_one_are_two() -> None:
    assert "As a Question: " in first_words(which="upstream")
    assert {"As a", "Question:"} <= set(first_words()) and "As a Question:" not in first_words()


def test_the_seed_files_of_data_agora_go_through(shared_data: Path) -> None:
    for domain in DOMAIN_NAMES:
        given = af.read_frame(shared_data / "agora_seeds" / f"{domain}_seed_data_subsampled.json")
        done = instance_generation(backend=af.scripted(written), domain=domain, rows=20)(given)
        assert done.pipe(af.keep_valid).height == 20


def test_the_table_of_settings_is_that_of_the_paper() -> None:
    assert sum(setting.seed_rows for setting in SETTINGS) == 14_856 + 874 + 503 + 60_000
    assert {(s.method, s.domain) for s in SETTINGS} == {
        (m, d) for m in ("instance_generation", "response_generation", "quality_enhancement") for d in DOMAIN_NAMES
    }

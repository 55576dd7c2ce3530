"""What a comparison says of each step, before anything is spent: called, computed again or reused, and why."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import agora_frames as af
from agora_frames.against import COMPARISON, compare, describe_steps, noting_inputs
from agora_frames.errors import ReadError, StorageError
from agora_frames.ledger import Ledger
from agora_frames.stage import Stage, stage
from agora_frames.store import Store, cached, store_entries
from agora_frames.types import Backend


@stage(rowwise=True)
def shout(df: pl.DataFrame, *, column: str, by: Callable[[str], str] = str.upper) -> pl.DataFrame:
    """The column, said louder."""
    return df.with_columns(pl.Series(column, [by(text) for text in df[column]]))


def quiet(df: pl.DataFrame) -> pl.DataFrame:
    return df


def say(backend: Backend, *, template: str = "Say {{ word }}.", max_tokens: int = 5, shouted: str = "word") -> Stage:
    return af.recipe(
        af.with_row_ids(columns=["word"]),
        shout(column=shouted),
        af.render_prompts(template=template),
        af.generate_column(max_tokens=max_tokens, backend=backend),
        shout(column="completion", by=twice),
        name="say",
    )


def twice(text: str | None) -> str:
    return (text or "") * 2


WORDS = pl.DataFrame({"word": ["one", "two", "three"]})


def model(folder: Path, name: str = "scripted") -> Backend:
    return af.remembered(af.scripted(lambda messages: "yes", model=name), ledger=Ledger(folder / "ledger"))


def run(stage: Stage, df: pl.DataFrame, *, store: Store | None = None) -> dict[str, Any]:
    """Runs the recipe; gives what its manifest says of the steps."""
    inputs: list[str | None] = []
    noting_inputs(cached(stage, store=store) if store else stage, inputs=inputs)(df)
    described = describe_steps(stage)
    steps = [{**step, "rows_in": 3, "input": input} for step, input in zip(described, inputs, strict=True)]
    told: dict[str, Any] = json.loads(json.dumps({"recipe": "say", "steps": steps}))
    return told


def told(frame: pl.DataFrame) -> list[tuple[str, str, str]]:
    return frame.select("step", "happens", "why").rows()


def test_what_has_not_changed_is_reused(tmp_path: Path) -> None:
    store, recipe = Store(tmp_path / "store"), say(model(tmp_path))
    before = run(recipe, WORDS, store=store)
    found = compare(recipe, df=WORDS, run=before, store=store)
    assert found.schema == COMPARISON
    assert found["step"].to_list() == ["with_row_ids", "shout", "render_prompts", "generate_column", "shout"]
    assert set(found["happens"]) == {"reused"}
    assert set(found["why"]) == {"as before"}
    assert found["rows"].to_list() == [3] * 5


def test_a_changed_template_is_named_and_what_follows_has_another_input(tmp_path: Path) -> None:
    store, backend = Store(tmp_path / "store"), model(tmp_path)
    before = run(say(backend), WORDS, store=store)
    found = compare(say(backend, template="Sing {{ word }}!"), df=WORDS, run=before, store=store)
    assert told(found)[1:] == [
        ("shout", "reused", "as before"),
        ("render_prompts", "computed again", "parameters changed: template"),
        ("generate_column", "calls", "input changed"),
        ("shout", "computed again", "input changed"),
    ]
    assert found.filter(happens="calls").select("to_ask", "known").row(0) == (3, 0)


def test_new_rows_are_the_only_ones_to_ask(tmp_path: Path) -> None:
    store, recipe = Store(tmp_path / "store"), say(model(tmp_path))
    before = run(recipe, WORDS, store=store)
    more = pl.concat([WORDS, pl.DataFrame({"word": ["four"]})])
    calls = compare(recipe, df=more, run=before, store=store).filter(happens="calls")
    assert calls.select("rows", "why", "to_ask", "known").rows() == [(4, "input changed", 1, 3)]


def test_the_expected_cost_of_the_calls_is_told(tmp_path: Path) -> None:
    def reply(messages: list[dict[str, str]]) -> dict[str, Any]:
        return {"text": "yes", "prompt_tokens": 9, "completion_tokens": 5}

    backend = af.remembered(af.scripted(reply), ledger=Ledger(tmp_path))
    many = pl.DataFrame({"word": [f"word {i}" for i in range(9)]})
    before = run(say(backend), many)
    row = compare(say(backend, max_tokens=6), df=many, run=before).filter(happens="calls").to_dicts()[0]
    assert (row["to_ask"], row["cost_usd_expected"], row["cost_usd_low"], row["cost_usd_high"]) == (9, 0.0, 0.0, 0.0)


def test_replies_that_failed_before_are_lacking(tmp_path: Path) -> None:
    backend = af.remembered(af.scripted(lambda messages: af.failing("timeout")), ledger=Ledger(tmp_path))
    before = run(say(backend), WORDS)
    row = compare(say(backend), df=WORDS, run=before).filter(happens="calls").to_dicts()[0]
    assert (row["why"], row["to_ask"]) == ("replies are lacking", 3)


def test_another_model_is_said_to_be_one(tmp_path: Path) -> None:
    before = run(say(model(tmp_path)), WORDS)
    found = compare(say(model(tmp_path, "larger")), df=WORDS, run=before)
    assert told(found)[3] == ("generate_column", "calls", "model changed: scripted at scripted to larger at scripted")


def test_changed_code_with_the_same_parameters_is_a_changed_source(tmp_path: Path) -> None:
    def made(sign: str) -> Stage:
        @stage()
        def sign_words(df: pl.DataFrame) -> pl.DataFrame:
            return df.with_columns(pl.col("word") + sign)

        return af.recipe(sign_words(), name="signed")

    assert told(compare(made("!"), df=WORDS, run=run(made("?"), WORDS))) == [
        ("sign_words", "computed again", "source changed")
    ]


def test_a_changed_function_is_a_changed_parameter() -> None:
    def parser(sign: str) -> Callable[[str], str]:
        return lambda text: text + sign

    def made(sign: str) -> Stage:
        return af.recipe(shout(column="word", by=parser(sign)), name="said")

    assert compare(made("!"), df=WORDS, run=run(made("?"), WORDS))["why"].item() == "parameters changed: by"


def test_what_the_store_has_is_reused_although_that_run_was_another(tmp_path: Path) -> None:
    store, backend = Store(tmp_path / "store"), model(tmp_path)
    before = run(say(backend), WORDS, store=store)
    run(say(backend, template="Sing {{ word }}!"), WORDS, store=store)
    found = compare(say(backend, template="Sing {{ word }}!"), df=WORDS, run=before, store=store)
    assert told(found)[2] == (
        "render_prompts",
        "reused",
        "parameters changed: template; but the store has it",
    )
    assert told(found)[3] == ("generate_column", "reused", "input changed; but the ledger has it")


def test_a_step_that_is_new_and_one_that_is_gone_are_told(tmp_path: Path) -> None:
    backend = model(tmp_path)
    before = run(say(backend), WORDS)
    now = af.recipe(af.with_row_ids(columns=["word"]), shout(column="word"), shout(column="word"), name="say")
    found = compare(now, df=WORDS, run=before)
    assert told(found) == [
        ("with_row_ids", "computed again", "no store was given"),
        ("shout", "computed again", "no store was given"),
        ("render_prompts", "nothing", "gone"),
        ("generate_column", "nothing", "gone"),
        ("shout", "computed again", "parameters changed: column, by; input changed"),
    ]
    found = compare(say(backend), df=WORDS, run=run(now, WORDS))
    assert ("generate_column", "reused", "new step; but the ledger has it") in told(found)


def test_an_emptied_store_is_the_reason(tmp_path: Path) -> None:
    recipe = say(model(tmp_path))
    before = run(recipe, WORDS, store=Store(tmp_path / "store"))
    found = compare(recipe, df=WORDS, run=before, store=Store(tmp_path / "empty"))
    assert told(found)[0] == ("with_row_ids", "computed again", "the store does not have it")


def test_a_plain_function_is_never_stored() -> None:
    recipe = af.recipe(quiet, name="quiet")
    assert told(compare(recipe, df=WORDS, run=run(recipe, WORDS))) == [
        ("quiet", "computed again", "a plain function is never stored")
    ]


def test_comparing_asks_nobody_and_writes_nothing(tmp_path: Path) -> None:
    store, backend = Store(tmp_path / "store"), model(tmp_path)
    before = run(say(backend), WORDS, store=store)
    files = sorted(tmp_path.rglob("*"))
    compare(say(backend, template="Sing {{ word }}!"), df=WORDS, run=before, store=store)
    assert sorted(tmp_path.rglob("*")) == files
    assert store_entries(store).height == 4


def test_the_manifest_may_be_a_file(tmp_path: Path) -> None:
    recipe = say(model(tmp_path))
    before = run(recipe, WORDS)
    (tmp_path / "run.manifest.json").write_text(json.dumps(before))
    assert compare(recipe, df=WORDS, run=tmp_path / "run.manifest.json").equals(compare(recipe, df=WORDS, run=before))


def test_a_manifest_without_the_content_of_its_steps_says_so() -> None:
    old = {"steps": [{"name": "with_row_ids", "rows_in": 3, "rows_out": 3, "seconds": 0.1}]}
    with pytest.raises(ReadError, match="an older agora_frames wrote it"):
        compare(af.with_row_ids(), df=WORDS, run=old)


@pytest.mark.parametrize("content", ["", "[]", '{"steps": 3}', '{"steps": ["a"]}', "{}", "\x00"])
def test_a_file_that_is_no_manifest_is_an_error(tmp_path: Path, content: str) -> None:
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(ReadError, match="agora run"):
        compare(af.with_row_ids(), df=WORDS, run=tmp_path / "x.json")


def test_a_manifest_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot be read"):
        compare(af.with_row_ids(), df=WORDS, run=tmp_path / "x.json")


# --- what is told of a step ------------------------------------------------------------------------------------------


def parameters(stage: Stage) -> dict[str, str]:
    found: dict[str, str] = describe_steps(stage)[0]["parameters"]
    return found


def test_a_step_tells_its_parameters_but_not_its_effects(tmp_path: Path) -> None:
    step = describe_steps(af.generate_column(max_tokens=5, backend=model(tmp_path)))[0]
    assert step["parameters"]["max_tokens"] == "5"
    assert not {"backend", "observer"} & step["parameters"].keys()
    assert step["model"] == "scripted at scripted"
    assert len(step["fingerprint"]) == 32


def test_what_looks_like_a_secret_is_hidden(tmp_path: Path) -> None:
    hidden = {"api_key": "sk-verysecret", "headers": {"Authorization": "Bearer verysecret"}, "hf_token": "verysecret"}
    described = describe_steps(af.generate_column(extra=hidden, max_tokens=5, backend=model(tmp_path)))
    assert "verysecret" not in json.dumps(described)
    assert described[0]["parameters"]["max_tokens"] == "5"


def test_a_long_value_is_cut_and_told_apart_all_the_same() -> None:
    one, other = (parameters(af.render_prompts(template="x" * 1000 + end))["template"] for end in "ab")
    assert len(one) < 220
    assert one != other


def test_a_function_is_told_the_same_in_each_process() -> None:
    text = parameters(shout(column="word", by=lambda text: text))["by"]
    assert "0x" not in text
    assert "#" in text


def test_what_has_no_fingerprint_has_none() -> None:
    step = describe_steps(shout(column="word", by=(text for text in "").send))[0]
    assert step["fingerprint"] is None


def test_describing_a_recipe_opens_the_recipes_inside_it() -> None:
    inner = af.recipe(af.with_row_ids(), name="inner")
    assert [step["name"] for step in describe_steps(af.recipe(inner, quiet, name="outer"))] == ["with_row_ids", "quiet"]


def test_inputs_are_noted_also_where_they_cannot_be_hashed() -> None:
    inputs: list[str | None] = []
    df = pl.DataFrame({"any": pl.Series([object()], dtype=pl.Object)})
    noting_inputs(af.recipe(quiet, name="quiet"), inputs=inputs)(df)
    assert inputs == [None]

"""`agora plan --against`: after a run, what would be called, computed again or reused now, told without calling."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agora_frames.cli import main

TESTS = Path(__file__).parent
MANIFEST = "made/x.manifest.json"
SCRIPTED = ["--backend", "scripted:fakes:math_answer"]
MATH = ["response_generation", "--domain", "math", "--limit", "6"]
# A recipe of the user's own, with a parameter before the call and one after it.
OWN = '''
import polars as pl
import agora_frames as af
from agora_frames.stage import Stage, stage
from agora_frames.types import Backend

@stage(rowwise=True)
def ended(df: pl.DataFrame, *, sign: str) -> pl.DataFrame:
    return df.with_columns(said=pl.col("completion") + sign)

def own(*, backend: Backend, template: str = "Say {{ word }}.", max_tokens: int = 9, sign: str = "!") -> Stage:
    """Words in, words out."""
    return af.recipe(
        af.with_row_ids(),
        af.render_prompts(template=template),
        af.generate_column(temperature=0.0, max_tokens=max_tokens, backend=backend),
        ended(sign=sign),
        name="own",
    )

def seeds() -> pl.DataFrame:
    return pl.DataFrame({"word": ["one", "two", "three"]})
'''
STEPS = ["with_row_ids", "render_prompts", "generate_column", "ended"]


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(TESTS))
    monkeypatch.setenv("COLUMNS", "250")
    Path("own.py").write_text(OWN)


def ran(*options: str, recipe: list[str] | None = None) -> None:
    assert main(["run", *(recipe or ["own.py"]), *SCRIPTED, "--output", "made/x.parquet", *options]) == 0


def planned(
    capsys: pytest.CaptureFixture[str], *options: str, recipe: list[str] | None = None, backend: list[str] | None = None
) -> dict[str, tuple[str, str, str, str]]:
    """Of each step: what happens, why, how many are to ask, and how many are known."""
    capsys.readouterr()
    plan = ["plan", *(recipe or ["own.py"]), *(backend or SCRIPTED), "--against", MANIFEST]
    assert main([*plan, *options]) == 0
    said = capsys.readouterr().out
    assert "Nothing was called." in said
    rows = [[cell.strip() for cell in row.strip("│").split("│")] for row in said.splitlines() if row.startswith("│")]
    return {row[0]: (row[2], row[3], row[4], row[5]) for row in rows}


def files() -> dict[str, bytes]:
    """All that the ledger, the store and the outputs hold."""
    kept = [path for folder in (".agora", "made") for path in Path(folder).rglob("*") if path.is_file()]
    return {str(path): path.read_bytes() for path in kept if path.suffix not in (".lock", ".keys")}


def test_what_has_not_changed_is_reused_and_there_is_nothing_to_ask(capsys: pytest.CaptureFixture[str]) -> None:
    ran()
    found = planned(capsys)
    assert list(found) == STEPS
    assert {(happens, why) for happens, why, _, _ in found.values()} == {("reused", "as before")}
    assert found["generate_column"][2:] == ("0", "3")


def test_a_recipe_of_the_library_is_reused_as_a_whole(capsys: pytest.CaptureFixture[str]) -> None:
    ran(recipe=MATH)
    found = planned(capsys, recipe=MATH)
    assert {happens for happens, *_ in found.values()} == {"reused"}
    assert found["generate_column"][2:] == ("0", "6")


def test_a_changed_parameter_of_the_call_calls_for_all(capsys: pytest.CaptureFixture[str]) -> None:
    ran()
    found = planned(capsys, "--max-tokens", "10")
    assert found["with_row_ids"][0] == found["render_prompts"][0] == "reused"
    assert found["generate_column"] == ("calls", "parameters changed: max_tokens", "3", "0")
    assert found["ended"][:2] == ("computed again", "input changed")


def test_a_changed_template_is_named_and_what_hangs_on_it_is_called(capsys: pytest.CaptureFixture[str]) -> None:
    ran()
    found = planned(capsys, "--template", "Sing {{ word }}.")
    assert found["with_row_ids"][0] == "reused"
    assert found["render_prompts"][:2] == ("computed again", "parameters changed: template")
    assert found["generate_column"] == ("calls", "input changed", "3", "0")


def test_a_change_after_the_call_calls_for_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    ran()
    found = planned(capsys, "--sign", "?")
    assert [found[step][0] for step in STEPS] == ["reused", "reused", "reused", "computed again"]
    assert found["ended"][1] == "parameters changed: sign"
    assert found["generate_column"][2:] == ("0", "3")


def test_more_rows_are_the_only_ones_to_ask(capsys: pytest.CaptureFixture[str]) -> None:
    ran("--limit", "2")
    assert planned(capsys)["generate_column"] == ("calls", "input changed", "1", "2")


def test_changed_source_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    ran()
    # Of another length: Python takes a source of the same second and size for the one that it compiled before.
    Path("own.py").write_text(OWN.replace('pl.col("completion") + sign', '(sign + pl.col("completion"))'))
    found = planned(capsys)
    assert [found[step][0] for step in STEPS] == ["reused", "reused", "reused", "computed again"]
    assert found["ended"][1] == "source changed"


def test_another_model_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    ran()
    happens, why, to_ask, known = planned(capsys, backend=["--backend", "scripted:fakes:echo"])["generate_column"]
    assert (happens, to_ask, known) == ("calls", "3", "0")
    assert why.startswith("model changed: fakes:math_answer@")
    assert " to fakes:echo@" in why


def test_without_the_store_all_is_computed_again_and_nothing_called(capsys: pytest.CaptureFixture[str]) -> None:
    ran()
    found = planned(capsys, "--store", "empty")
    assert found["generate_column"][2:] == ("0", "3")
    assert [found[step][0] for step in STEPS] == ["computed again", "computed again", "reused", "computed again"]
    assert found["with_row_ids"][1] == "the store does not have it"


def test_without_the_ledger_all_is_to_ask(capsys: pytest.CaptureFixture[str]) -> None:
    ran()
    assert planned(capsys, "--ledger", "empty")["generate_column"] == ("calls", "replies are lacking", "3", "0")


def test_nothing_is_called_and_nothing_written(capsys: pytest.CaptureFixture[str]) -> None:
    ran()
    before = files()
    planned(capsys, "--template", "Sing {{ word }}.")
    assert files() == before


def test_what_was_planned_is_what_a_run_then_asks(capsys: pytest.CaptureFixture[str]) -> None:
    ran()
    assert planned(capsys, "--max-tokens", "10")["generate_column"][2] == "3"
    ran("--max-tokens", "10")
    assert "3 calls made, 0 replies from the ledger" in capsys.readouterr().out
    assert {happens for happens, *_ in planned(capsys, "--max-tokens", "10").values()} == {"reused"}


# Manifests that are none


def refused(capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    before = files()
    assert main(["plan", "own.py", *SCRIPTED, "--against", MANIFEST]) == 1
    assert files() == before
    return capsys.readouterr().err


def test_an_old_manifest_is_a_clear_error(capsys: pytest.CaptureFixture[str]) -> None:
    ran()
    manifest = json.loads(Path(MANIFEST).read_text())
    for step in manifest["steps"]:
        del step["fingerprint"], step["parameters"], step["input"]
    Path(MANIFEST).write_text(json.dumps(manifest))
    said = refused(capsys)
    assert "ReadError" in said
    assert MANIFEST in said
    assert "an older agora_frames wrote it. Run that recipe once more" in said


def test_a_manifest_that_is_not_there_is_a_clear_error(capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(capsys)
    assert "StorageError" in said
    assert MANIFEST in said
    assert "See that it is there" in said


@pytest.mark.parametrize("content", ["", "no JSON", "[]", '{"steps": 1}'], ids=repr)
def test_a_file_that_is_no_manifest_is_a_clear_error(content: str, capsys: pytest.CaptureFixture[str]) -> None:
    ran()
    Path(MANIFEST).write_text(content)
    said = refused(capsys)
    assert "ReadError" in said
    assert "agora run" in said


def test_a_folder_in_its_place_is_a_clear_error(capsys: pytest.CaptureFixture[str]) -> None:
    Path(MANIFEST).mkdir(parents=True)
    assert "StorageError" in refused(capsys)

"""The command line: what it makes, what it says, and how it ends."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest
from servers import chat_server

import agora_frames as af
from agora_frames.cli import main

TESTS = Path(__file__).parent
DEMO = ["run", "response_generation", "--domain", "math", "--limit", "24"]
SCRIPTED = ["--backend", "scripted:fakes:math_answer"]


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(TESTS))
    monkeypatch.setenv("COLUMNS", "200")


def agora(
    *args: str, after_s: float = 0.0, after_replies: int | None = None, kill_with: int | None = None
) -> tuple[int, str]:
    """Runs the real command in a process of its own; gives its exit code and what it printed.

    kill_with: a signal, sent after so many seconds, or as soon as the ledger has so many replies more.
    """
    program = "import sys; from agora_frames.cli import main; sys.exit(main())"
    env = {**os.environ, "PYTHONPATH": str(TESTS)}
    with subprocess.Popen(
        [sys.executable, "-c", program, *args], env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as child:
        if kill_with is not None:
            time.sleep(after_s)
            enough = len(recorded()) + (after_replies or 0)
            while after_replies and len(recorded()) < enough and child.poll() is None:
                time.sleep(0.02)
            child.send_signal(kill_with)
        said, _ = child.communicate(timeout=300)
    return child.returncode, said


def recorded(ledger: str = ".agora/ledger") -> list[dict[str, object]]:
    """The whole lines of a ledger."""
    lines = (
        line for file in sorted(Path(ledger).glob("*.jsonl")) for line in file.read_text().splitlines(keepends=True)
    )
    return [json.loads(line) for line in lines if line.endswith("\n")]


def recipe_file(name: str, body: str) -> str:
    """A recipe of the user's own."""
    Path(f"{name}.py").write_text(
        "import agora_frames as af\nfrom agora_frames.stage import Stage\nfrom agora_frames.types import Backend\n\n"
        f"def {name}(*, backend: Backend) -> Stage:\n    return af.recipe({body}, name={name!r})\n"
    )
    return f"{name}.py"


def test_a_run_writes_the_dataset_the_other_rows_and_the_manifest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*DEMO, *SCRIPTED]) == 0
    dataset, others = pl.read_parquet("dataset.parquet"), pl.read_parquet("dataset.others.parquet")
    manifest = json.loads(Path("dataset.manifest.json").read_text())
    rows = manifest["rows"]
    assert rows["requested"] == 24 == rows["accepted"] + rows["rejected"] + rows["failed"]
    assert dataset.height == rows["accepted"] > 0
    assert others.height == rows["rejected"] + rows["failed"] > 0
    assert sum(reason["rows"] for reason in manifest["reasons"]) == others.height
    assert manifest["model"].startswith("fakes:math_answer@")
    assert manifest["calls"]["made"] == 24
    assert {"instruction", "response", "config", "parents", "row_id"} <= set(dataset.columns)
    said = capsys.readouterr().out
    assert "Why rows were not accepted" in said
    assert "Accepted" in said
    assert "agora recipes" in said


def test_a_second_run_makes_no_call_says_so_and_gives_the_same_dataset(capsys: pytest.CaptureFixture[str]) -> None:
    main([*DEMO, *SCRIPTED])
    first, calls = pl.read_parquet("dataset.parquet"), len(recorded())
    capsys.readouterr()
    assert main([*DEMO, *SCRIPTED]) == 0
    assert "No call was made, 24 replies from the ledger" in capsys.readouterr().out
    assert pl.read_parquet("dataset.parquet").equals(first)
    assert len(recorded()) == calls


def test_more_rows_call_for_the_new_rows_only() -> None:
    main([*DEMO, *SCRIPTED, "--limit", "10"])
    main([*DEMO, *SCRIPTED, "--limit", "24"])
    assert len(recorded()) == 24


def test_a_preview_shows_rows_and_writes_no_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*DEMO, *SCRIPTED, "--preview", "5"]) == 0
    assert "5 requested" in capsys.readouterr().out
    assert not list(Path().glob("dataset*"))


def test_plan_counts_calls_and_makes_none(capsys: pytest.CaptureFixture[str]) -> None:
    main([*DEMO, *SCRIPTED, "--limit", "10"])
    capsys.readouterr()
    assert main(["plan", *DEMO[1:], *SCRIPTED]) == 0
    said = [line.split() for line in capsys.readouterr().out.splitlines()]
    figures = {cells[1]: cells[3] for cells in said if len(cells) > 3 and cells[0] == "│"}
    assert (figures["rows"], figures["calls"], figures["known"], figures["to_ask"]) == ("24", "24", "10", "14")
    assert len(recorded()) == 10


def test_recipes_are_listed_with_a_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes"]) == 0
    said = capsys.readouterr().out
    assert "hello" in said
    assert "response_generation" in said
    assert "the model answers instructions that are given" in said


def test_the_ledger_tells_calls_and_failures_by_recipe_and_model(capsys: pytest.CaptureFixture[str]) -> None:
    main([*DEMO, *SCRIPTED])
    capsys.readouterr()
    assert main(["ledger"]) == 0
    said = capsys.readouterr().out
    assert "response_generation" in said
    assert "fakes:math_answer" in said
    assert "truncated" in said


def test_a_recipe_of_the_users_own_runs_from_its_file() -> None:
    pl.DataFrame({"word": ["yes", "no"]}).write_ndjson("words.jsonl")
    mine = recipe_file(
        "mine", "af.with_row_ids(), af.render_prompts(template='Say {{ word }}.'), af.generate_column(backend=backend)"
    )
    assert (
        main(["run", mine, "--input", "words.jsonl", "--backend", "scripted:fakes:echo", "--output", "said.jsonl"]) == 0
    )
    assert [json.loads(line)["completion"] for line in Path("said.jsonl").read_text().splitlines()] == [
        "Say yes.",
        "Say no.",
    ]


def test_offline_lists_what_the_ledger_lacks_and_calls_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    main([*DEMO, *SCRIPTED, "--limit", "10"])
    capsys.readouterr()
    assert main([*DEMO, *SCRIPTED, "--offline"]) == 1
    assert "lacks 14 of the replies" in capsys.readouterr().err
    assert main([*DEMO, *SCRIPTED, "--limit", "10", "--offline"]) == 0


def failed(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    """What is said of an error; the exit code must be 1, and there must be no traceback."""
    assert main([*args]) == 1
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return said


def test_an_empty_input_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    pl.DataFrame({"instruction": []}, schema={"instruction": pl.String}).write_parquet("empty.parquet")
    assert "has no rows" in failed(capsys, *DEMO, *SCRIPTED, "--input", "empty.parquet")


def test_a_missing_column_is_an_error_that_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    pl.DataFrame({"instructions": ["x"]}).write_parquet("in.parquet")
    said = failed(capsys, *DEMO, *SCRIPTED, "--input", "in.parquet")
    assert "'instruction'" in said
    assert "did you mean 'instructions'?" in said


def test_a_null_prompt_that_nothing_explains_is_an_error_before_anything_is_asked(
    capsys: pytest.CaptureFixture[str],
) -> None:
    pl.DataFrame({"prompt": ["a", None]}).write_parquet("in.parquet")
    mine = recipe_file("mine", "af.with_row_ids(), af.generate_column(backend=backend)")
    said = failed(capsys, "run", mine, "--input", "in.parquet", "--backend", "scripted:fakes:echo")
    assert "null prompt" in said
    assert "df.filter" in said
    assert not recorded()


def test_a_template_error_is_told_before_anything_is_asked(capsys: pytest.CaptureFixture[str]) -> None:
    pl.DataFrame({"word": ["a"]}).write_parquet("in.parquet")
    mine = recipe_file(
        "mine", "af.with_row_ids(), af.render_prompts(template='{{ word '), af.generate_column(backend=backend)"
    )
    said = failed(capsys, "run", mine, "--input", "in.parquet", "--backend", "scripted:fakes:echo")
    assert "the template is wrong in line 1" in said
    assert not recorded()


def test_an_unknown_model_is_an_error_that_lists_the_forms(capsys: pytest.CaptureFixture[str]) -> None:
    said = failed(capsys, *DEMO, "--backend", "opnai:gpt-4o")
    assert "did you mean 'openai'?" in said
    assert "llama:" in said
    assert "smollm2-135m" in failed(capsys, *DEMO, "--backend", "llama:smollm2")
    assert "no recipe 'helo'" in failed(capsys, "run", "helo")


def test_a_model_that_the_endpoint_does_not_have_is_an_error(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGORA_API_KEY", "secret")
    with chat_server() as server:
        assert "has no model 'huge'" in failed(capsys, *DEMO, "--backend", server.url, "--model", "huge")


def test_a_wrong_key_is_an_error_that_says_where_to_set_it_and_loses_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with chat_server() as server:
        http = ["--backend", server.url, "--model", "tiny"]
        monkeypatch.setenv("AGORA_API_KEY", "secret")
        assert main([*DEMO, *http, "--limit", "10"]) == 0
        monkeypatch.setenv("AGORA_API_KEY", "sk-wrong-and-never-shown")
        said = failed(capsys, *DEMO, *http)
        assert "refused the API key" in said
        assert "export AGORA_API_KEY" in said
        assert "sk-wrong-and-never-shown" not in said + json.dumps(recorded())
        monkeypatch.setenv("AGORA_API_KEY", "secret")
        assert main([*DEMO, *http]) == 0
        assert len([row for row in recorded() if row.get("error") is None]) == 24


def test_a_missing_key_is_an_error_that_says_how_to_set_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    assert "export OPENAI_API_KEY" in failed(capsys, *DEMO, "--backend", "openai:gpt-4o-mini")


def test_an_unusable_store_is_an_error_before_anything_is_asked(capsys: pytest.CaptureFixture[str]) -> None:
    Path(".agora").mkdir()
    Path(".agora/store").write_text("no folder")
    said = failed(capsys, *DEMO, *SCRIPTED)
    assert ".agora/store" in said
    assert "AGORA_STORE" in said
    assert not recorded()


def test_an_unusable_ledger_is_an_error_before_anything_is_asked(capsys: pytest.CaptureFixture[str]) -> None:
    Path(".agora").mkdir()
    Path(".agora/ledger").write_text("no folder")
    said = failed(capsys, *DEMO, *SCRIPTED)
    assert ".agora/ledger" in said
    assert "nothing was asked" in said
    assert "move it away" in said


def test_a_misspelt_option_of_the_backend_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert "did you mean 'delay_s'?" in failed(capsys, *DEMO, *SCRIPTED, "--backend-option", "delays=1")


def test_an_output_that_cannot_hold_the_rows_is_an_error_before_anything_is_asked(
    capsys: pytest.CaptureFixture[str],
) -> None:
    said = failed(capsys, *DEMO, *SCRIPTED, "--output", "dataset.csv")
    assert "write Parquet" in said
    assert not recorded()
    assert ".parquet" in failed(capsys, *DEMO, *SCRIPTED, "--output", "dataset.xlsx")


def test_debug_shows_the_traceback() -> None:
    code, said = agora(*DEMO, "--backend", "opnai:x", "--debug")
    assert code == 1
    assert "Traceback" in said


@pytest.mark.slow
def test_a_full_disk_stops_the_run_and_making_room_lets_it_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small tmpfs needs root")
    try:
        full = [*DEMO, "--backend", "scripted:fakes:long_text", "--ledger", str(disk / "ledger")]
        said = failed(capsys, *full)
        assert "make room, and run again" in said
        kept = len(recorded(str(disk / "ledger")))
        assert 0 < kept < 24
        subprocess.run(["mount", "-o", "remount,size=16m", str(disk)], check=True)
        assert main(full) == 0
        assert len(recorded(str(disk / "ledger"))) == 24
        assert f"{kept} replies from the ledger" in capsys.readouterr().out
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.slow
def test_ctrl_c_ends_with_130_and_the_command_that_goes_on() -> None:
    slow = [*DEMO, *SCRIPTED, "--backend-option", "delay_s=0.2"]
    code, said = agora(*slow, after_replies=3, kill_with=signal.SIGINT)
    assert code == 130, said
    assert "Traceback" not in said
    assert "run response_generation --domain math --limit 24" in said
    kept = len(recorded())
    assert 0 < kept < 24
    code, said = agora(*slow)
    assert code == 0
    assert f"{24 - kept} calls made, {kept} replies from the ledger" in said


@pytest.mark.slow
def test_the_demo_killed_at_20_random_instants_ends_in_the_very_same_dataset() -> None:
    main([*DEMO, *SCRIPTED, "--output", "whole.parquet", "--ledger", "other", "--store", "elsewhere"])
    instants = random.Random(20)
    slow = [*DEMO, *SCRIPTED, "--backend-option", "delay_s=0.05"]
    killed = 0
    while killed < 20:
        code, said = agora(*slow, after_s=instants.uniform(0.3, 1.6), kill_with=signal.SIGKILL)
        assert code in (0, -signal.SIGKILL), said
        killed += code != 0
        if code == 0:  # it had ended already: begin anew
            assert pl.read_parquet("dataset.parquet").equals(pl.read_parquet("whole.parquet"))
            shutil.rmtree(".agora")
    assert agora(*slow)[0] == 0
    assert pl.read_parquet("dataset.parquet").equals(pl.read_parquet("whole.parquet"))
    assert pl.read_parquet("dataset.others.parquet").equals(pl.read_parquet("whole.others.parquet"))
    keys = [row["key"] for row in recorded()]
    assert len(keys) == len(set(keys)) == 24


@pytest.mark.slow
def test_the_real_model_killed_and_resumed_keeps_every_recorded_reply_and_asks_none_again() -> None:
    pytest.importorskip("xllamacpp")
    real = ["run", "hello", "--max-tokens", "24"]
    for replies in (1, 2, 2):
        agora(*real, after_replies=replies, kill_with=signal.SIGKILL)
    before = {row["key"]: row["text"] for row in recorded()}
    code, said = agora(*real)
    assert code == 0, said
    keys = [row["key"] for row in recorded()]
    assert len(keys) == len(set(keys)) == 8
    rows = pl.concat([pl.read_parquet("dataset.parquet"), pl.read_parquet("dataset.others.parquet")])
    texts = dict(zip(rows["completion_call"].struct.field("key"), rows["completion"], strict=True))
    assert len(before) >= 5
    assert {key: texts[key] for key in before} == before


@pytest.mark.parametrize(
    "args",
    [
        [],
        ["frobnicate"],
        ["run"],
        ["run", "hello", "--limit", "many"],
        [*DEMO, "--domain", "maths"],
        ["run", "hello", "--nope"],
    ],
    ids=" ".join,
)
def test_words_that_the_command_does_not_know_are_an_error_like_all_others(
    args: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert "--help` shows what is possible" in failed(capsys, *args)


def test_an_output_that_cannot_be_written_is_an_error_before_anything_is_asked(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("file").write_text("no folder")
    for output, told in (("file/dataset.parquet", "'file/'"), (".", "'.'"), ("nosuch://x/dataset.parquet", "nosuch")):
        assert told in failed(capsys, *DEMO, *SCRIPTED, "--output", output)
    assert not recorded()


def test_a_dataset_folder_as_output_has_the_other_rows_and_the_manifest_beside_it() -> None:
    assert main([*DEMO, *SCRIPTED, "--output", "made/dataset/"]) == 0
    assert {path.name for path in Path("made").iterdir()} == {"dataset", "dataset_others", "dataset.manifest.json"}
    assert af.read_frame("made/dataset/").height + af.read_frame("made/dataset_others/").height == 24


def test_an_api_key_on_the_command_line_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    said = failed(capsys, *DEMO, "--backend", "openai:gpt-4o-mini", "--backend-option", "api_key=sk-secret")
    assert "does not belong on the command line" in said
    assert "sk-secret" not in said


def test_options_may_stand_before_the_recipe() -> None:
    assert main(["run", "--limit", "2", *SCRIPTED, "response_generation", "--domain", "general"]) == 0
    assert len(recorded()) == 2


def test_a_dataset_and_its_other_rows_may_be_run_again() -> None:
    main([*DEMO, *SCRIPTED])
    again = [*DEMO, *SCRIPTED, "--seed", "1", "--output", "again.parquet", "--input"]
    assert main([*again, "dataset.others.parquet"]) == 0
    assert main([*again, "dataset.parquet"]) == 0
    seeds = af.read_frame("again.parquet")["seed_response"]
    assert set(seeds) <= set(af.read_frame("dataset.parquet")["seed_response"])


def test_rows_that_a_recipe_leaves_out_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    pl.DataFrame({"word": ["yes", "no", "so"]}).write_ndjson("words.jsonl")
    render = "af.render_prompts(template='Say {{ word }}.')"
    mine = recipe_file("mine", f"af.with_row_ids(), keep_one(), {render}, af.generate_column(backend=backend)")
    text = Path(mine).read_text()
    stage = "@af.stage()\ndef keep_one(df):\n    return df.head(1)\n\n"
    Path(mine).write_text(text.replace("def mine", f"{stage}def mine"))
    run = ["run", mine, "--input", "words.jsonl", "--backend", "scripted:fakes:echo"]
    assert main(run) == 0
    said = capsys.readouterr().out
    assert "3 requested = 1 accepted + 0 rejected + 0 failed + 2 left out by the recipe" in said
    assert main(run) == 0
    assert "No call was made, 1 replies from the ledger" in capsys.readouterr().out


def test_a_stage_of_the_users_own_may_call_the_model() -> None:
    pl.DataFrame({"prompt": ["a"]}).write_ndjson("in.jsonl")
    mine = recipe_file("mine", "af.with_row_ids(), ask(backend=backend)")
    body = "def ask(df, *, backend):\n    return af.generate_column(df, backend=backend)\n"
    text = Path("mine.py").read_text().replace("\ndef mine", f"\n@af.stage(rowwise=True)\n{body}\ndef mine")
    Path("mine.py").write_text(text)
    assert main(["run", mine, "--input", "in.jsonl", "--backend", "scripted:fakes:echo"]) == 0
    assert af.read_frame("dataset.parquet")["completion"].to_list() == ["a"]


@pytest.mark.parametrize(
    ("body", "told"), [("None", "returned a NoneType"), ("1 / 0", "division by zero"), ("'stage'", "returned a str")]
)
def test_a_recipe_that_is_wrong_is_told_without_a_traceback(
    body: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pl.DataFrame({"prompt": ["a"]}).write_ndjson("in.jsonl")
    Path("mine.py").write_text(f"def mine(*, backend):\n    return {body}\n")
    assert told in failed(capsys, "run", "mine.py", "--input", "in.jsonl", *SCRIPTED)


def test_names_that_look_like_markup_are_shown_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*DEMO, *SCRIPTED, "--ledger", "x[/y]", "--output", "made/x[/z].parquet"]) == 0
    assert "x[/z].parquet" in capsys.readouterr().out
    assert main(["ledger", "--ledger", "x[/y]"]) == 0


def test_an_output_that_is_the_input_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    pl.DataFrame({"instruction": ["x"]}).write_parquet("in.parquet")
    said = failed(capsys, *DEMO, *SCRIPTED, "--input", "in.parquet", "--output", "./in.parquet")
    assert "is the input itself" in said


def test_empty_environment_variables_are_as_if_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGORA_LEDGER", "")
    monkeypatch.setenv("AGORA_STORE", "")
    assert main([*DEMO, *SCRIPTED, "--limit", "1"]) == 0
    assert len(recorded(".agora/ledger")) == 1
    assert Path(".agora/store").is_dir()


def test_a_plan_needs_no_key(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    priced = ["--backend", "openai:gpt-4o-mini", "--backend-option", "prices=(0.15, 0.60)"]
    assert main(["plan", *DEMO[1:], *priced]) == 0
    assert "cost_usd_at_most" in capsys.readouterr().out


@pytest.mark.slow
def test_ctrl_c_over_http_keeps_every_reply_that_the_server_gave() -> None:
    with chat_server(key="", latency_s=0.5) as server:
        http = ["--backend", server.url, "--model", "tiny", "--backend-option", "concurrency=4"]
        code, said = agora(*DEMO, *http, after_replies=5, kill_with=signal.SIGINT)
        assert code == 130, said
        assert len(recorded()) == sum(server.asked.values()) < 24
        assert agora(*DEMO, *http)[0] == 0
        assert sum(server.asked.values()) == 24


@pytest.mark.slow
def test_a_termination_ends_as_ctrl_c_does_with_143() -> None:
    slow = [*DEMO, *SCRIPTED, "--backend-option", "delay_s=0.2"]
    code, said = agora(*slow, after_replies=3, kill_with=signal.SIGTERM)
    assert code == 143, said
    assert "Traceback" not in said
    assert "Go on with:" in said
    assert "run response_generation --domain math --limit 24" in said
    kept = len(recorded())
    assert 0 < kept < 24


def test_what_a_termination_does_is_as_before_when_the_command_is_done() -> None:
    before = signal.getsignal(signal.SIGTERM)
    main([*DEMO, *SCRIPTED])
    assert signal.getsignal(signal.SIGTERM) is before


def test_passwords_in_addresses_are_neither_printed_nor_written(capsys: pytest.CaptureFixture[str]) -> None:
    af.write_frame(pl.DataFrame({"topic": ["sums"]}), "memory://user:PASSWORD@h/seeds.jsonl")
    address = "memory://user:PASSWORD@h/"
    code = main(
        ["run", "hello", *SCRIPTED, "--limit", "1", "--ledger", f"{address}ledger", "--input", f"{address}seeds.jsonl"]
    )
    said = capsys.readouterr()
    assert code == 0, said.err
    manifest = Path("dataset.manifest.json").read_text()
    assert "PASSWORD" not in said.out + said.err + manifest
    told = json.loads(manifest)
    assert told["ledger"] == "memory://h/ledger"
    assert told["input"]["from"] == "memory://h/seeds.jsonl"
    assert "memory://***@h/ledger" in told["command"]


# Runs in rounds


def test_a_run_of_so_many_rows_writes_them_and_says_what_they_took(capsys: pytest.CaptureFixture[str]) -> None:
    wanted = ["instance_generation", "--rows", "30", "--backend", "scripted:fakes:instance"]
    assert main(["run", *wanted, "--output", "made.parquet"]) == 0
    assert pl.read_parquet("made.parquet").height == 30
    said = capsys.readouterr().out
    assert "Yield by round" in said and "Yield by theme" in said and "missing" not in said
    manifest = json.loads(Path("made.manifest.json").read_text())
    assert manifest["shortfall"] is None
    (whole,) = [row for row in manifest["yield"] if row["by"] == "all"]
    assert whole["accepted"] == 30 and whole["asked"] == manifest["rows"]["requested"]
    assert main(["plan", *wanted]) == 0
    assert "30" in capsys.readouterr().out


def test_a_run_that_meets_a_limit_writes_what_there_is_and_ends_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    wanted = ["instance_generation", "--rows", "30", "--max-candidates", "10", "--backend", "scripted:fakes:instance"]
    assert main(["run", *wanted]) == 2
    assert pl.read_parquet("dataset.parquet").height == 10
    assert "20 of 30 rows are missing: max_candidates=10 was met." in capsys.readouterr().out


def test_seeds_is_another_name_of_input(capsys: pytest.CaptureFixture[str]) -> None:
    pl.DataFrame({"instruction": ["1?", "2?", "3?"], "response": ["1", "2", "3"]}).write_parquet("own.parquet")
    wanted = ["instance_generation", "--rows", "5", "--seeds", "own.parquet", "--backend", "scripted:fakes:instance"]
    assert main(["run", *wanted]) == 0
    assert "3 rows" in capsys.readouterr().out


def test_seeds_may_be_a_benchmarks_own_file_but_not_its_test_split(capsys: pytest.CaptureFixture[str]) -> None:
    wanted = ["instance_generation", "--rows", "5", "--backend", "scripted:fakes:instance", "--seeds"]
    pl.DataFrame({"question": ["1?", "2?", "3?"], "answer": ["1\n#### 1", "2\n#### 2", "3\n#### 3"]}).write_ndjson(
        "g.jsonl"
    )
    assert main(["run", *wanted, "g.jsonl"]) == 0
    assert "g.jsonl: read as gsm8k, as by `agora import`; 0 rows left out." in capsys.readouterr().out
    pl.DataFrame({"text": ["Add."], "code": ["1"], "task_id": [11], "test_list": [["assert 1"]]}).write_ndjson(
        "m.jsonl"
    )
    assert main(["run", *wanted, "m.jsonl"]) == 1
    assert "agora import m.jsonl --split train" in capsys.readouterr().err
    pl.DataFrame({"foo": ["1"]}).write_ndjson("other.jsonl")
    assert main(["run", *wanted, "other.jsonl"]) == 1
    assert "'instruction', which the frame does not have" in capsys.readouterr().err


def test_seeds_are_no_rows_that_a_run_in_rounds_was_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    pl.DataFrame({"instruction": [f"{n}?" for n in range(99)], "response": ["1"] * 99}).write_parquet("own.parquet")
    main(
        ["run", "instance_generation", "--rows", "5", "--seeds", "own.parquet", "--backend", "scripted:fakes:instance"]
    )
    rows = json.loads(Path("dataset.manifest.json").read_text())["rows"]
    assert rows["left_out"] == 0 and rows["accepted"] == 5
    assert rows["requested"] == rows["accepted"] + rows["rejected"] + rows["failed"] < 20
    assert "left out" not in capsys.readouterr().out


def test_a_preview_of_a_run_in_rounds_makes_so_few_rows_of_all_seeds(capsys: pytest.CaptureFixture[str]) -> None:
    main(["run", "instance_generation", "--preview", "2", "--backend", "scripted:fakes:instance"])
    assert "30 rows" in capsys.readouterr().out
    assert 2 <= len(recorded()) < 10 and not Path("dataset.parquet").exists()


def test_a_comparison_of_a_run_in_rounds_asks_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    wanted = ["instance_generation", "--backend", "scripted:fakes:instance"]
    main(["run", *wanted, "--rows", "30"])
    asked = len(recorded())
    assert main(["plan", *wanted, "--rows", "50", "--against", "dataset.manifest.json"]) == 0
    assert len(recorded()) == asked
    said = capsys.readouterr().out
    assert "parameters changed: rows" in said and "until_rows" in said

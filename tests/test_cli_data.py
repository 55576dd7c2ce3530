"""agora import, export and push: what they write, what they say, and what they never send or show."""

import json
import subprocess
import sys

import polars as pl
import pytest
from hubs import hub

from agora_frames.cli import main

GOOD = {"instruction": "Add 1.", "response": "2", "config": "gpt-4o"}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    return tmp_path


@pytest.fixture
def dataset(here):
    pl.DataFrame([{**GOOD, "parents": ["s1"]}]).write_parquet("math.parquet")
    manifest = {"recipe": "hello", "rows": {"requested": 2, "accepted": 1, "rejected": 1, "failed": 0, "left_out": 0}}
    (here / "math.manifest.json").write_text(json.dumps(manifest))
    return here


def said(capsys):
    captured = capsys.readouterr()
    return " ".join((captured.out + captured.err).split())


def test_import_writes_a_frame_and_tells_what_is_broken(here, capsys):
    (here / "cache.jsonl").write_text(json.dumps(GOOD) + "\n{bad\n" + json.dumps(GOOD) + '\n{"instr')
    assert main(["import", "cache.jsonl", "--output", "rows.parquet"]) == 0
    assert pl.read_parquet("rows.parquet").height == 2
    told = said(capsys)
    assert "2 problems in cache.jsonl" in told
    assert "2 rows of data_agora, 2 left out, 0 kept with a problem. Wrote rows.parquet" in told


def test_import_of_a_split_leaves_the_benchmark_out(here, capsys):
    rows = [{"text": "Add.", "code": "1", "task_id": n, "test_list": ["assert 1"]} for n in (5, 11, 601, 974)]
    (here / "mbpp.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert main(["import", "mbpp.jsonl"]) == 0
    assert "1 of the rows are MBPP's test split" in said(capsys)
    assert main(["import", "mbpp.jsonl", "--split", "train"]) == 0
    assert pl.read_parquet("seeds.parquet")["idx"].to_list() == ["601", "974"]
    assert main(["import", "mbpp.jsonl", "--split", "dev"]) == 1
    assert "no row is of the split 'dev'" in said(capsys)


@pytest.mark.parametrize(
    ("form", "file"),
    [
        ("json", "math.json"),
        ("jsonl", "math.jsonl"),
        ("messages", "math.messages.jsonl"),
        ("parquet", "math.export.parquet"),
        ("folder", "math_hub/README.md"),
    ],
)
def test_export_writes_beside_the_dataset(dataset, form, file):
    assert main(["export", "math.parquet", "--format", form]) == 0
    assert (dataset / file).is_file()


def test_the_card_of_a_folder_is_made_of_the_manifest_beside(dataset):
    licences = ["--licence", "mit", "--seed-licence", "gsm8k=MIT", "--title", "Sums"]
    assert main(["export", "math.parquet", "--format", "folder", "--output", "out", *licences]) == 0
    card = (dataset / "out" / "README.md").read_text()
    for part in ("# Sums", "| accepted | 1 (50.0% of those requested) |", "| gsm8k | MIT |", 'license: "mit"'):
        assert part in card


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["--format", "csv"], "invalid choice"),
        (["--format", "parquet", "--output", "math.parquet"], "is the dataset itself"),
        (["--format", "folder", "--manifest", "missing.json"], "does not exist"),
        (["--format", "folder", "--seed-licence", "MIT"], "must read NAME=LICENCE"),
    ],
)
def test_what_cannot_be_exported_is_told(dataset, capsys, given, told):
    assert main(["export", "math.parquet", *given]) == 1
    assert told in said(capsys)


def test_push_sends_nothing_unless_told_to(dataset, monkeypatch, capsys):
    main(["export", "math.parquet", "--format", "folder"])
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    with hub() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        assert main(["push", "math_hub", "me/data"]) == 0
        assert server.asked == []
    told = said(capsys)
    for part in ("2 files", "me/data (private if it is new)", "README.md", "Nothing was sent"):
        assert part in told


def test_push_sends_what_it_said(dataset, monkeypatch, capsys):
    main(["export", "math.parquet", "--format", "folder"])
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    with hub() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        assert main(["push", "math_hub", "me/data", "--upload", "--public"]) == 0
        assert set(server.committed) == {"README.md", "data/train-00000-of-00001.parquet"}
        assert server.created[0]["visibility"] == "public"
    told = said(capsys)
    assert f"Uploaded: {server.url}/datasets/me/data" in told
    assert "hf_right" not in told


def test_push_without_a_key_is_told(dataset, capsys):
    main(["export", "math.parquet", "--format", "folder"])
    assert main(["push", "math_hub", "me/data", "--upload"]) == 1
    assert "set HF_TOKEN" in said(capsys)


def test_push_with_a_refused_key_does_not_show_it(dataset):
    main(["export", "math.parquet", "--format", "folder"])
    with hub() as server:
        done = subprocess.run(
            [sys.executable, "-m", "agora_frames.cli", "push", "math_hub", "me/data", "--upload", "--debug"],
            env={
                "HF_TOKEN": "hf_wrong",
                "HF_ENDPOINT": server.url,
                "PYTHONPATH": ":".join(sys.path),
                "HOME": str(dataset),
            },
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode != 0
    assert "refused the key" in done.stderr
    assert "hf_wrong" not in done.stdout + done.stderr


@pytest.mark.parametrize("command", ["import", "export", "push"])
def test_each_command_has_help(command, capsys):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    assert command in capsys.readouterr().out

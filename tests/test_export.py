"""A dataset in others' forms: as data-agora wrote it, as trainers read it, and as the hub shows it."""

import json

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agora_frames.card import data_card
from agora_frames.errors import BindError, FrameError
from agora_frames.export import DATA_FILE, as_messages, export_dataset, instances
from agora_frames.frames import CALL, ERROR
from agora_frames.importing import import_instances
from agora_frames.io import read_frame

CALLS = [
    {"model": "small-1", "prompt_tokens": 10, "completion_tokens": 3, "cost_usd": 0.25, "key": "a" * 32},
    {"model": "small-1", "prompt_tokens": 12, "completion_tokens": 4, "cost_usd": None, "key": "b" * 32},
]
DATASET = pl.DataFrame(
    {
        "row_id": ["r1", "r2"],
        "instruction": ["Füge 1 hinzu.", "Name a sea."],
        "prompt": ["secret prompt", "x"],
        "response": ["2 | 3", "The Red Sea.\n"],
        "config": ["small-1", "small-1"],
        "parents": [["s1", "s2"], ["s1"]],
        "completion_error": pl.Series([None, None], dtype=ERROR),
        "completion_call": pl.Series(
            [{field.name: call.get(field.name) for field in CALL.fields} for call in CALLS], dtype=CALL
        ),
        "valid": [True, True],
        "failures": pl.Series([[], []], dtype=pl.List(pl.String)),
    }
)
MANIFEST = {
    "recipe": "instance_generation",
    "parameters": {"domain": "math", "seed": 0},
    "command": "agora run instance_generation --output /home/ann/private/math.parquet",
    "model": "small-1",
    "endpoint": "https://api.example.org/v1",
    "ledger": "/home/ann/.agora/ledger",
    "input": {"from": "/home/ann/seeds/gsm8k.jsonl", "rows": 7473, "hash": "0" * 32},
    "rows": {"requested": 4, "accepted": 2, "rejected": 1, "failed": 1, "left_out": 0},
    "reasons": [
        {"outcome": "rejected", "reason": "response: not_blank", "rows": 1},
        {"outcome": "failed", "reason": "completion: refused", "rows": 1},
    ],
    "replies": {
        "count": 4,
        "prompt_tokens": 4321,
        "completion_tokens": 987,
        "cost_usd": 1.25,
        "priced_by": ["genai-prices openai"],
    },
    "steps": [
        {"name": "render_prompts", "fingerprint": "f" * 32, "parameters": {"template": "'Write about {{ x }}.'"}}
    ],
    "dataset_hash": "d" * 32,
    "versions": {"agora_frames": "0.1.0", "polars": "2.1.0"},
}


# --- forms


def test_json_is_what_data_agora_writes(tmp_path):
    export_dataset(DATASET, tmp_path / "d.json", form="json")
    keys = ("instruction", "response", "config")
    expected = json.dumps([{key: row[key] for key in keys} for row in DATASET.to_dicts()], indent=4)
    assert (tmp_path / "d.json").read_text() == expected


def test_json_may_be_packed(tmp_path):
    export_dataset(DATASET, tmp_path / "d.json.gz", form="json")
    assert import_instances(tmp_path / "d.json.gz").rows["response"].to_list() == DATASET["response"].to_list()


def test_json_lines_hold_the_same_rows(tmp_path):
    export_dataset(DATASET, tmp_path / "d.jsonl", form="jsonl")
    assert read_frame(tmp_path / "d.jsonl").equals(DATASET.select("instruction", "response", "config"))


def test_parquet_keeps_where_rows_come_from_and_what_they_cost(tmp_path):
    export_dataset(DATASET, tmp_path / "d.parquet", form="parquet")
    done = pl.read_parquet(tmp_path / "d.parquet")
    lineage = ["row_id", "parents", "model", "prompt_tokens", "completion_tokens", "cost_usd"]
    assert done.columns == ["instruction", "response", "config", *lineage]
    assert done["cost_usd"].to_list() == [0.25, None]
    assert done["parents"].to_list() == [["s1", "s2"], ["s1"]]


def test_messages_are_chats_for_trainers(tmp_path):
    export_dataset(DATASET, tmp_path / "d.jsonl", form="messages", system="You are a helpful AI assistant.")
    first = json.loads((tmp_path / "d.jsonl").read_text().splitlines()[0])
    assert first == {
        "messages": [
            {"role": "system", "content": "You are a helpful AI assistant."},
            {"role": "user", "content": "Füge 1 hinzu."},
            {"role": "assistant", "content": "2 | 3"},
        ]
    }


def test_messages_of_no_rows_are_no_rows():
    assert as_messages(DATASET.clear()).schema == as_messages(DATASET).schema


@given(texts=st.lists(st.tuples(st.text(max_size=9), st.text(max_size=9)), max_size=6))
def test_what_is_exported_as_json_is_imported_as_it_was(texts, tmp_path_factory):
    file = tmp_path_factory.mktemp("there") / "d.json"
    frame = pl.DataFrame(texts, schema={"instruction": str, "response": str}, orient="row").with_columns(
        config=pl.lit("c")
    )
    for form in ("json", "jsonl") if texts else ():
        export_dataset(frame, file, form=form)
        assert import_instances(file).rows.select(frame.columns).equals(frame)


@pytest.mark.slow
def test_a_folder_is_opened_by_datasets(tmp_path):
    datasets = pytest.importorskip("datasets")
    files = export_dataset(DATASET, tmp_path / "hub", form="folder", manifest=MANIFEST, licence="apache-2.0")
    assert [file.removeprefix(f"{tmp_path}/hub/") for file in files] == ["README.md", DATA_FILE]
    loaded = datasets.load_dataset(str(tmp_path / "hub"), cache_dir=str(tmp_path / "cache"))
    assert list(loaded) == ["train"]
    assert loaded["train"]["response"][:] == DATASET["response"].to_list()
    assert loaded["train"][0]["parents"] == ["s1", "s2"]


# --- what a dataset must be


def test_rows_that_are_not_accepted_are_not_exported_unseen(tmp_path):
    rejected = DATASET.with_columns(valid=pl.Series([True, False]))
    with pytest.raises(FrameError, match=r"1 of 2 rows are not accepted.*keep_valid"):
        export_dataset(rejected, tmp_path / "d.json", form="json")
    assert not (tmp_path / "d.json").exists()


def test_a_null_is_told():
    with pytest.raises(FrameError, match="'response' have nulls"):
        instances(DATASET.with_columns(response=pl.lit(None, dtype=pl.String)))


def test_a_config_may_be_given_where_there_is_none():
    without = DATASET.drop("config")
    assert instances(without, config="mine")["config"].to_list() == ["mine", "mine"]
    with pytest.raises(FrameError, match="--config"):
        instances(without)


def test_a_form_that_there_is_not_is_told(tmp_path):
    with pytest.raises(BindError, match="'messages'"):
        export_dataset(DATASET, tmp_path / "x", form="csv")


# --- the card


def card(**options):
    return data_card(instances(DATASET, lineage=True), **options)


def metadata(text):
    yaml = pytest.importorskip("yaml")
    return yaml.safe_load(text.split("---\n")[1])


def test_the_metadata_are_yaml_that_the_hub_knows():
    found = metadata(card(licence="cc-by-4.0", title='A "quoted": title'))
    assert found["license"] == "cc-by-4.0"
    assert found["pretty_name"] == 'A "quoted": title'
    assert found["size_categories"] == ["n<1K"]
    assert found["configs"] == [
        {"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*.parquet"}]}
    ]


def test_a_licence_that_nobody_gave_is_other():
    assert metadata(card())["license"] == "other"


@pytest.mark.parametrize(
    "told",
    [
        "| accepted | 2 (50.0% of those requested) |",
        "| rejected | 1 |",
        "| failed | completion: refused | 1 |",
        "| US dollars | 1.2500 |",
        "| prompt tokens | 4,321 |",
        "| by the prices of | genai-prices openai |",
        "| recipe | instance_generation |",
        "| settings | domain = math, seed = 0 |",
        "| input | gsm8k.jsonl, 7473 rows |",
        "Write about {{ x }}.",
        "- 2 rows name their parents, 2 different ones.",
        "- 2 rows were written by `small-1`.",
        "| gsm8k | MIT |",
        "| small-1 | 2 |",
    ],
)
def test_the_card_says_counts_yield_cost_models_prompts_licences_and_lineage(told):
    assert told in card(manifest=MANIFEST, licence="apache-2.0", seed_licences={"gsm8k": "MIT"})


def test_the_card_shows_no_path_of_the_machine():
    text = card(manifest={**MANIFEST, "model": "/home/ann/models/small.gguf"})
    assert "/home" not in text
    assert "small.gguf" in text


def test_without_a_manifest_the_card_says_what_is_not_known():
    assert "Not known: there was no manifest" in card()
    unpriced = {**MANIFEST, "replies": {**MANIFEST["replies"], "cost_usd": None}}
    assert "| US dollars | unknown |" in card(manifest=unpriced)

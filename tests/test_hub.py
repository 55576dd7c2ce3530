"""The hub: what would be sent is what is sent, the key goes to it alone, and a model's file is of one commit."""

import hashlib

import polars as pl
import pytest
from hubs import COMMIT, hub

from agora_frames.errors import AuthenticationError, BindError, EndpointError, ReadError, StorageError
from agora_frames.export import DATA_FILE, export_dataset
from agora_frames.hub import hub_file, push_folder, upload_plan
from agora_frames.stages.tokens import Tokenizer, count_tokens
from agora_frames.tokenizer import load_tokenizer

DATASET = pl.DataFrame({"instruction": ["1 + 1?"], "response": ["2"], "config": ["model"]})


@pytest.fixture
def folder(tmp_path):
    export_dataset(DATASET, tmp_path / "hub", form="folder", licence="mit")
    return tmp_path / "hub"


@pytest.fixture
def server():
    with hub() as running:
        yield running


# --- what would be sent


def test_the_plan_names_each_file_with_its_size_and_hash(folder):
    data = (folder / DATA_FILE).read_bytes()
    assert upload_plan(folder)["file"].to_list() == ["README.md", DATA_FILE]
    assert upload_plan(folder).row(1) == (DATA_FILE, len(data), hashlib.sha256(data).hexdigest())


def test_hidden_files_and_links_are_not_sent(folder, tmp_path):
    (tmp_path / "secret").write_text("x")
    (folder / "link.txt").symlink_to(tmp_path / "secret")
    (folder / ".env").write_text("HF_TOKEN=x")
    (folder / ".agora").mkdir()
    (folder / ".agora" / "ledger.jsonl").write_text("{}")
    assert upload_plan(folder)["file"].to_list() == ["README.md", DATA_FILE]


def test_a_folder_without_a_card_or_data_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(StorageError, match=r"no README.md.*'notes.txt'"):
        upload_plan(tmp_path)
    (tmp_path / "README.md").write_text("x")
    with pytest.raises(StorageError, match="no data to upload"):
        upload_plan(tmp_path)


# --- what is sent


def test_what_is_committed_is_what_the_plan_said(folder, server):
    url = push_folder(folder, "me/data", token="hf_right", endpoint=server.url)
    assert url == f"{server.url}/datasets/me/data"
    assert server.committed == {name: (folder / name).read_bytes() for name in upload_plan(folder)["file"]}
    assert server.created[0]["visibility"] == "private"
    assert server.keys == {"Bearer hf_right"}


def test_it_is_public_only_when_said(folder, server):
    push_folder(folder, "me/data", token="hf_right", private=False, endpoint=server.url)
    assert server.created[0]["visibility"] == "public"


def test_a_refused_key_is_told_and_not_shown(folder, server):
    with pytest.raises(AuthenticationError, match="refused the key") as told:
        push_folder(folder, "me/data", token="hf_wrong", endpoint=server.url)
    assert "hf_wrong" not in str(told.value)
    assert server.committed == {}


def test_another_failure_is_told_without_the_key(folder, server):
    server.broken = True
    with pytest.raises(EndpointError, match="could not be uploaded") as told:
        push_folder(folder, "me/data", token="hf_right", endpoint=server.url)
    assert "hf_right" not in str(told.value)


def test_without_a_key_nothing_is_sent(folder, server):
    with pytest.raises(AuthenticationError, match="needs a key"):
        push_folder(folder, "me/data", token="", endpoint=server.url)
    assert server.asked == []


@pytest.mark.parametrize("name", ["data", "me/data/more", "me/da ta", "", "https://hub/me/data"])
def test_a_name_that_is_none_is_told_before_anything_is_sent(name, folder):
    with pytest.raises(BindError, match="owner/name"):
        push_folder(folder, name, token="x", endpoint="http://127.0.0.1:9")


# --- a model's tokenizer

MINIMAL = (
    '{"version":"1.0","added_tokens":[],"pre_tokenizer":{"type":"WhitespaceSplit"},'
    '"model":{"type":"WordLevel","vocab":{"[UNK]":0},"unk_token":"[UNK]"}}'
)


def test_a_tokenizer_comes_from_the_hub_at_one_commit(server, tmp_path):
    server.models[f"/lab/student/resolve/{COMMIT}/tokenizer.json"] = MINIMAL.encode()
    tokenizer = load_tokenizer(f"lab/student@{COMMIT}", endpoint=server.url, cache=tmp_path)
    assert tokenizer.json == MINIMAL
    frame = pl.DataFrame({"instruction": ["a b"], "response": ["c"]})
    assert count_tokens(frame, tokenizer=tokenizer, template=None)["n_tokens"].to_list() == [3]
    asked = len(server.asked)
    again = load_tokenizer("lab/student", revision=COMMIT, endpoint=server.url, cache=tmp_path)
    assert (again.fingerprint, len(server.asked)) == (tokenizer.fingerprint, asked)


@pytest.mark.parametrize("revision", ["main", "v1.0", COMMIT[:12]])
def test_a_revision_that_moves_is_refused(revision):
    with pytest.raises(BindError, match="is no commit"):
        hub_file("lab/student", "tokenizer.json", revision=revision)


def test_a_name_without_a_commit_is_refused():
    with pytest.raises(BindError, match="needs a commit"):
        load_tokenizer("lab/student")


def test_a_file_that_the_hub_does_not_have_is_told(server, tmp_path):
    with pytest.raises(StorageError, match="cannot be had"):
        load_tokenizer(f"lab/student@{COMMIT}", endpoint=server.url, cache=tmp_path)


def test_a_tokenizer_comes_from_a_file_or_its_folder(tmp_path):
    (tmp_path / "tokenizer.json").write_text(MINIMAL)
    of_file, of_folder = load_tokenizer(tmp_path / "tokenizer.json"), load_tokenizer(str(tmp_path))
    assert isinstance(of_file, Tokenizer)
    assert of_file.fingerprint == of_folder.fingerprint
    with pytest.raises(ReadError, match="no tokenizer file"):
        load_tokenizer(tmp_path / "missing.json")

"""Which model it is: the content of its folder, told from a part of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from agora_frames.backends.vllm_engine import vllm_engine
from agora_frames.backends.vllm_weights import digest_of, folder_of
from agora_frames.errors import BindError, UnknownModelError

LARGE = 33 << 20  # bytes: more than is read whole


def model(folder: Path, weights: bytes = b"w" * 100, config: str = "{}") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(config)
    (folder / "model.safetensors").write_bytes(weights)
    return folder


def test_a_copy_in_another_folder_is_the_same_model(tmp_path: Path) -> None:
    assert digest_of(model(tmp_path / "a")) == digest_of(model(tmp_path / "b"))


@pytest.mark.parametrize("change", ["weights", "config", "template", "renamed"])
def test_other_content_is_another_model(tmp_path: Path, change: str) -> None:
    folder = model(tmp_path / "a")
    before = digest_of(folder)
    if change == "weights":
        model(folder, weights=b"w" * 99 + b"v")
    elif change == "config":
        model(folder, config="{ }")
    elif change == "template":
        (folder / "chat_template.jinja").write_text("{{ messages }}")
    else:
        (folder / "model.safetensors").rename(folder / "model-1.safetensors")
    assert digest_of(folder) != before


@pytest.mark.parametrize("place", [0, LARGE // 2, LARGE - 1])
def test_a_large_file_is_known_by_its_pieces(tmp_path: Path, place: int) -> None:
    weights = bytearray(LARGE)
    before = digest_of(model(tmp_path / "a", bytes(weights)))
    # As training does, which leaves hardly a weight as it was.
    start = max(0, place - (1 << 20))
    weights[start : start + (2 << 20)] = b"x" * len(weights[start : start + (2 << 20)])
    assert digest_of(model(tmp_path / "a", bytes(weights))) != before
    assert digest_of(model(tmp_path / "a", bytes(LARGE + 1))) != before


def test_what_is_beside_a_model_and_says_nothing_does_not_count(tmp_path: Path) -> None:
    folder = model(tmp_path / "a")
    before = digest_of(folder)
    (folder / "README.md").write_text("About it.")
    (folder / ".cache").mkdir()
    assert digest_of(folder) == before


def test_a_name_is_looked_up_in_the_cache_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    cached = tmp_path / "models--org--tiny"
    snapshot = model(cached / "snapshots" / "abc123")
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("abc123")
    assert folder_of("org/tiny") == folder_of("org/tiny", revision="abc123") == snapshot
    assert vllm_engine("org/tiny").model == f"org/tiny@{digest_of(snapshot)}"
    with pytest.raises(UnknownModelError, match="at revision 'v2'"):
        folder_of("org/tiny", revision="v2")


def test_a_model_that_is_not_here_says_how_to_fetch_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UnknownModelError, match=r"no folder 'org/other'.*`hf download org/other`"):
        folder_of("org/other")


@pytest.mark.parametrize("path", ["/no/such", "./no", "~/no/such/model", "a/b/c", "no\0", ""])
def test_what_is_no_name_of_a_model_is_not_said_to_be_in_the_hub(path: str) -> None:
    with pytest.raises(UnknownModelError, match=r"^vllm: (?!.*hf download)"):
        folder_of(path)


def test_a_folder_without_a_model_is_none(tmp_path: Path) -> None:
    with pytest.raises(UnknownModelError, match=r"has no config\.json"):
        folder_of(str(tmp_path))


# What of a backend's settings is in its name


def test_settings_that_decide_the_answer_are_in_the_endpoint_and_others_are_not(tmp_path: Path) -> None:
    folder = model(tmp_path / "tiny")
    plain = vllm_engine(folder)
    assert plain.endpoint == "vllm max_model_len=auto dtype=auto"
    assert vllm_engine(folder, max_model_len=64, dtype="float32").endpoint == "vllm max_model_len=64 dtype=float32"
    assert "quantization=fp8" in vllm_engine(folder, engine_args={"quantization": "fp8"}).endpoint
    fast = vllm_engine(folder, tensor_parallel_size=4, n_threads=2, in_flight=9, engine_args={"max_num_seqs": 3})
    assert (fast.endpoint, fast.model) == (plain.endpoint, plain.model)


@pytest.mark.parametrize("option", ["max_model_len", "in_flight", "n_threads"])
def test_less_than_one_of_anything_is_refused(tmp_path: Path, option: str) -> None:
    with pytest.raises(BindError, match=f"{option}=0.*at least 1"):
        vllm_engine(model(tmp_path / "tiny"), **{option: 0})


def test_an_adapter_must_be_one(tmp_path: Path) -> None:
    with pytest.raises(BindError, match=r"no folder of a LoRA adapter \(adapter_config\.json\)"):
        vllm_engine(model(tmp_path / "tiny"), adapter=tmp_path)


def test_an_argument_that_an_option_makes_is_not_given_beside_it(tmp_path: Path) -> None:
    with pytest.raises(BindError, match="may not hold 'enable_lora'"):
        vllm_engine(model(tmp_path / "tiny"), engine_args={"enable_lora": True})


def test_a_model_that_sees_says_so(tmp_path: Path) -> None:
    assert "images" not in vllm_engine(model(tmp_path / "a")).can
    assert "images" in vllm_engine(model(tmp_path / "b", config='{"vision_config": {}}')).can

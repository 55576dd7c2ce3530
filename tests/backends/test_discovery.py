"""The name of the model at an address: found where there is one, and asked for where there is not."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from agora_frames.backends import connect
from agora_frames.backends.discovery import only_model
from agora_frames.errors import AuthenticationError, EndpointError, UnknownModelError


@contextmanager
def endpoint(content: object, *, status: int = 200, key: str = "", location: str = "") -> Iterator[str]:
    """A server that lists its models; `key` is the one that it wants, `location` where it says that they are."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            refused = bool(key) and self.headers["Authorization"] != f"Bearer {key}"
            found = self.path == "/v1/models"
            body = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(401 if refused else status if found else 404)
            if location:
                self.send_header("Location", location)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        server.shutdown()
        server.server_close()


def models(*names: str) -> dict[str, object]:
    return {"object": "list", "data": [{"id": name, "object": "model"} for name in names]}


def test_the_one_model_of_an_address_is_found(tmp_path: Path) -> None:
    with endpoint(models("tiny")) as url:
        model = connect(url, ledger=tmp_path, concurrency=3)
    assert (model.model, model.endpoint) == ("tiny", url)


def test_a_name_that_is_given_is_not_asked_for(tmp_path: Path) -> None:
    assert connect("http://127.0.0.1:9/v1", model="mine", ledger=tmp_path).model == "mine"


def test_several_models_are_listed() -> None:
    with endpoint(models("one", "two")) as url, pytest.raises(UnknownModelError) as raised:
        connect(url)
    assert (
        str(raised.value) == f"{url}/models lists several models: 'one', 'two'. Say which: connect('{url}', model='…')."
    )


def test_no_model_is_said_too() -> None:
    with endpoint(models()) as url, pytest.raises(UnknownModelError, match="lists no model"):
        connect(url)


@pytest.mark.parametrize("content", [b"<html>", b"", [1], {"data": 3}, {"data": [{}]}, {"models": []}], ids=str)
def test_what_is_no_list_of_models_says_how_to_name_it(content: object) -> None:
    with endpoint(content) as url, pytest.raises(UnknownModelError, match=r"no list of models.*model='…'"):
        connect(url)


@pytest.mark.parametrize("status", [404, 500])
def test_an_address_that_lists_nothing_says_how_to_name_it(status: int) -> None:
    with endpoint({}, status=status) as url, pytest.raises(UnknownModelError, match=rf"answered {status}.*model='…'"):
        connect(url)


def test_the_key_is_sent_and_a_wrong_one_is_told() -> None:
    with endpoint(models("tiny"), key="secret") as url:
        assert connect(url, api_key="secret").model == "tiny"
        with pytest.raises(AuthenticationError, match="AGORA_API_KEY") as raised:
            connect(url, api_key="wrong")
    assert "wrong" not in str(raised.value)


def test_nobody_at_the_address_is_an_endpoint_error() -> None:
    with endpoint(models("tiny")) as url:
        pass
    with pytest.raises(EndpointError, match="nobody answers at"):
        only_model(url)


def test_offline_nobody_is_asked() -> None:
    with pytest.raises(UnknownModelError, match=r"offline: connect\('http://127\.0\.0\.1:9/v1', model='…'\)"):
        connect("http://127.0.0.1:9/v1", offline=True)


def test_a_key_is_sent_to_its_own_address_and_not_to_where_that_sends_us() -> None:
    with endpoint(models("other"), key="secret") as elsewhere:  # which would answer to the key, and must not get it
        moved = f"{elsewhere}/models"
        with endpoint(b"", status=302, key="secret", location=moved) as url, pytest.raises(AuthenticationError):
            only_model(url, api_key="secret")

"""One request over real sockets, by each of the two clients: what comes back, and how it fails."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeAlias

import openai
import orjson
import pytest
from ledgers import child
from servers import chat_server

from agora_frames.backends.transport import Answer, Post, Unanswered, maker_of, poster, sdk_poster
from agora_frames.errors import BindError

BODY = orjson.dumps({"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "top_k": 3, "seed": 5})
OK = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 13\r\nX-Own: Mixed\r\n\r\n{"choices":5}'

# How one connection is answered, once its request was read.
Speak: TypeAlias = Callable[[socket.socket, bytes], None]
Client: TypeAlias = Callable[..., AbstractAsyncContextManager[Post]]


def by_pyreqwest(url: str, *, timeout_s: float = 5.0, api_key: str = "secret") -> AbstractAsyncContextManager[Post]:
    return poster(f"{url}/chat/completions", api_key=api_key, timeout_s=timeout_s)


def by_openai(url: str, *, timeout_s: float = 5.0, api_key: str = "secret") -> AbstractAsyncContextManager[Post]:
    return sdk_poster(maker_of(openai.AsyncOpenAI(base_url=url, api_key=api_key, timeout=timeout_s)))


both = pytest.mark.parametrize("client", [by_pyreqwest, by_openai])


class Heard:
    """A port where each connection is answered in the same way; `requests` keeps what was read."""

    def __init__(self, speak: Speak) -> None:
        self.speak = speak
        self.requests: list[bytes] = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/v1"

    def serve(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                connection, _ = self.listener.accept()
                threading.Thread(target=self.talk, args=[connection], daemon=True).start()

    def talk(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            self.requests.append(read_request(connection))
            self.speak(connection, self.requests[-1])


def read_request(connection: socket.socket) -> bytes:
    """Head and body of a request; what is no HTTP, as far as it comes at once."""
    heard = connection.recv(65536)
    while b"\r\n\r\n" not in heard and heard[:4] == b"POST":
        heard += connection.recv(65536)
    head, _, body = heard.partition(b"\r\n\r\n")
    sizes = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    while sizes and len(body) < int(sizes[0].split(b":")[1]):
        body += connection.recv(65536)
    return head + b"\r\n\r\n" + body


@contextlib.contextmanager
def port(speak: Speak) -> Iterator[Heard]:
    heard = Heard(speak)
    threading.Thread(target=heard.serve, daemon=True).start()
    try:
        yield heard
    finally:
        heard.listener.close()


def says(content: bytes) -> Speak:
    return lambda connection, request: connection.sendall(content)


def reset(connection: socket.socket, request: bytes) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def silence(connection: socket.socket, request: bytes) -> None:
    connection.settimeout(5.0)
    connection.recv(1)  # until the client goes away


def posted(client: Client, url: str, **options: Any) -> Answer:
    async def once() -> Answer:
        async with client(url, **options) as post:
            return await post(BODY)

    return asyncio.run(once())


def failure(client: Client, url: str, **options: Any) -> Unanswered:
    with pytest.raises(Unanswered) as caught:
        posted(client, url, **options)
    return caught.value


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# What comes back


@both
def test_an_answer_is_given_with_its_status_headers_and_content(client: Client) -> None:
    with port(says(OK)) as heard:
        answer = posted(client, heard.url)
    assert (answer.status, answer.content, answer.headers.get("x-own")) == (200, b'{"choices":5}', "Mixed")


@both
def test_what_is_sent_is_the_body_to_the_address_with_the_key(client: Client) -> None:
    with port(says(OK)) as heard:
        posted(client, heard.url)
    head, _, body = heard.requests[0].partition(b"\r\n\r\n")
    assert head.startswith(b"POST /v1/chat/completions HTTP/1.1\r\n")
    assert b"authorization: bearer secret" in head.lower()
    assert b"content-type: application/json" in head.lower()
    assert orjson.loads(body) == orjson.loads(BODY)


def test_the_body_goes_out_byte_by_byte_as_it_is_and_without_a_key_no_header_speaks_of_one() -> None:
    with port(says(OK)) as heard:
        posted(by_pyreqwest, heard.url, api_key="")
    head, _, body = heard.requests[0].partition(b"\r\n\r\n")
    assert b"authorization" not in head.lower()
    assert body == BODY


@both
@pytest.mark.parametrize("status", [204, 301, 400, 401, 404, 408, 409, 429, 500, 503])
def test_any_status_is_an_answer_and_is_asked_for_once(client: Client, status: int) -> None:
    content = b"" if status == 204 else b'{"detail":"no"}'
    size = b"" if status == 204 else b"Content-Length: 15\r\n"
    with port(
        says(b"HTTP/1.1 %d X\r\n%bRetry-After: 7\r\nConnection: close\r\n\r\n%b" % (status, size, content))
    ) as heard:
        answer = posted(client, heard.url)
    assert (answer.status, answer.content, answer.headers.get("retry-after")) == (status, content, "7")
    assert len(heard.requests) == 1


@both
def test_several_requests_go_over_one_client(client: Client) -> None:
    async def twice(url: str) -> list[int]:
        async with client(url) as post:
            return [(await post(BODY)).status for _ in range(3)]

    with chat_server() as chat:
        assert asyncio.run(twice(chat.url)) == [200, 200, 200]
        assert len(chat.server.connections) == 1


# Nothing was sent


@both
def test_where_nobody_listens_nothing_was_sent(client: Client) -> None:
    exc = failure(client, f"http://127.0.0.1:{free_port()}/v1")
    assert (exc.kind, exc.unsent) == ("connection", True)
    assert "refused" in str(exc).lower() or "failed" in str(exc).lower()


@both
def test_to_a_host_that_does_not_exist_nothing_was_sent(client: Client) -> None:
    exc = failure(client, "http://no-such-host.invalid/v1")
    assert (exc.kind, exc.unsent) == ("connection", True)


@both
def test_to_a_port_without_tls_nothing_was_sent(client: Client) -> None:
    with port(says(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")) as heard:
        exc = failure(client, heard.url.replace("http:", "https:"))
    assert (exc.kind, exc.unsent) == ("connection", True)
    assert str(exc)


# Something was sent, and may be billed


@both
@pytest.mark.parametrize(
    "speak",
    [
        reset,
        says(b""),
        says(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhalf"),
        says(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"),
        says(b"HTTP/1.1 200 OK\r\nContent-Le"),
        says(b"what?\r\n\r\n"),
    ],
    ids=["reset", "closed", "cut", "cut in chunks", "cut in the head", "no HTTP"],
)
def test_what_breaks_after_the_request_was_sent_may_have_been_billed(client: Client, speak: Speak) -> None:
    with port(speak) as heard:
        exc = failure(client, heard.url)
    assert (exc.kind, exc.unsent) == ("connection", False)
    assert str(exc)
    assert len(heard.requests) == 1


@both
@pytest.mark.parametrize(
    "begun", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhalf"], ids=["silent", "halting"]
)
def test_what_takes_too_long_may_have_been_billed(client: Client, begun: bytes) -> None:
    def speak(connection: socket.socket, request: bytes) -> None:
        connection.sendall(begun)
        silence(connection, request)

    with port(speak) as heard:
        exc = failure(client, heard.url, timeout_s=0.1)
    assert (exc.kind, exc.unsent) == ("timeout", False)
    assert "no answer within" in str(exc)


@both
def test_no_failure_tells_the_key(client: Client) -> None:
    for url in (f"http://127.0.0.1:{free_port()}/v1", "http://no-such-host.invalid/v1"):
        exc: BaseException | None = failure(client, url, api_key="sk-very-secret")
        while exc is not None:
            assert "sk-very-secret" not in f"{exc} {exc!r}"
            exc = exc.__cause__ or exc.__context__


# Proxies


@both
def test_the_environments_proxy_is_used(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_PROXY", "no_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    with port(says(OK)) as proxy:
        for name in ("HTTP_PROXY", "http_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        answer = posted(client, "http://model.invalid/v1")
    assert answer.status == 200
    assert proxy.requests[0].startswith(b"POST http://model.invalid/v1/chat/completions HTTP/1.1\r\n")


@both
def test_a_host_that_needs_no_proxy_is_asked_directly(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")
    with port(says(OK)) as heard:
        assert posted(client, heard.url).status == 200


# Threads


def test_runs_after_runs_on_threads_that_end_do_not_crash_the_process() -> None:
    code = """
    import sys
    import polars as pl
    from agora_frames.backends.openai_chat import openai_chat
    from agora_frames.stages.generate import generate_column

    names = [f"r{n}" for n in range(40)]
    df = pl.DataFrame({"row_id": names, "prompt": names})
    for _ in range(5):
        backend = openai_chat("tiny", base_url=sys.argv[1], api_key="secret")
        done = generate_column(df, backend=backend)
        assert done["completion"].to_list() == [name.upper() for name in names]
    """
    with chat_server() as chat:
        child(code, chat.url)
        assert chat.asked.total() == 200


def test_the_client_may_first_be_made_on_a_thread_that_ends() -> None:
    code = """
    import asyncio, sys, threading
    from agora_frames.backends.transport import poster

    async def ask():
        async with poster(sys.argv[1] + "/chat/completions", api_key="secret", timeout_s=5) as post:
            return [(await post(sys.argv[2].encode())).status for _ in range(20)]

    for _ in range(4):
        found = []
        thread = threading.Thread(target=lambda: found.extend(asyncio.run(ask())))
        thread.start()
        thread.join()
        assert found == [200] * 20
    """
    with chat_server() as chat:
        child(code, chat.url, BODY.decode())


def test_the_library_is_not_loaded_before_something_is_asked() -> None:
    child("import sys, agora_frames\nassert not any(name.startswith('pyreqwest') for name in sys.modules)")


# Clients of the user's own


def test_a_client_that_is_used_elsewhere_is_left_alone_and_used_by_us() -> None:
    with chat_server() as chat:
        client = openai.AsyncOpenAI(base_url=chat.url, api_key="secret")

        async def asked() -> int:
            messages: Any = [{"role": "user", "content": "hi"}]
            return len((await client.chat.completions.create(model="tiny", messages=messages)).choices)

        async def ours() -> int:
            async with sdk_poster(maker_of(client)) as post:
                return (await post(b'{"model":"tiny","messages":[{"role":"user","content":"x"}]}')).status

        with asyncio.Runner() as theirs:
            assert theirs.run(asked()) == 1
            assert [asyncio.run(ours()) for _ in range(2)] == [200, 200]
            assert theirs.run(asked()) == 1


def test_a_client_with_an_http_client_of_its_own_is_made_by_a_function() -> None:
    with chat_server() as chat:

        def made() -> openai.AsyncOpenAI:
            http = openai.DefaultAsyncHttpxClient(headers={"X-Own": "1"})
            return openai.AsyncOpenAI(base_url=chat.url, api_key="secret", http_client=http)

        with pytest.raises(BindError, match="client=lambda: AsyncOpenAI"):
            maker_of(made())

        async def ours() -> int:
            async with sdk_poster(maker_of(made)) as post:
                return (await post(b'{"model":"tiny","messages":[{"role":"user","content":"x"}]}')).status

        assert asyncio.run(ours()) == 200


@pytest.mark.parametrize("client", [openai.OpenAI(api_key="k"), 5, "sk-key", dict], ids=["sync", "int", "text", "type"])
def test_what_is_no_client_is_refused(client: Any) -> None:
    with pytest.raises(BindError, match="it was given a"):
        maker_of(client)

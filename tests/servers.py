"""A real OpenAI-compatible server on loopback: it counts what it is asked, and fails as it is told to."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

# What the server does with an attempt: "ok", an HTTP status, bytes or a dict to send as the body, or one of "reset",
# "cut", "not json", "no choice", "length", "refusal", "filter", "slow", "context", "quota", "too large", "tells key".
Fault = str | int | bytes | dict[str, Any]
Plan = Callable[[str, int], Fault]


class QuietServer(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.connections: list[socket.socket] = []

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        self.connections.append(connection)
        return connection, address

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that was killed, or a connection that was reset on purpose, is no news."""


class ChatServer:
    """Answers POST /v1/chat/completions; `plan(prompt, attempt)` says how, `asked` counts prompts.

    latency_s: seconds before each answer. slow_s: the same for "slow". admits: requests at once, the others get 429.
    retry_after: the header of that name beside each 429 and 5xx.
    """

    def __init__(
        self,
        plan: Plan | None = None,
        *,
        key: str = "secret",
        latency_s: float = 0.0,
        slow_s: float = 3.0,
        admits: int | None = None,
        retry_after: str | None = None,
        port: int = 0,
    ) -> None:
        self.plan = plan or (lambda prompt, attempt: "ok")
        self.key, self.latency_s, self.slow_s = key, latency_s, slow_s
        self.admits, self.retry_after = admits, retry_after
        self.asked: Counter[str] = Counter()
        self.bodies: list[dict[str, Any]] = []
        self.in_flight = self.most_in_flight = 0
        self.lock = threading.Lock()
        self.server = QuietServer(("127.0.0.1", port), self._handler())
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # head and body are two writes

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.answer(self, body)

            def log_message(self, *args: object) -> None:
                pass

        return Handler

    def answer(self, http: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        prompt = body["messages"][-1]["content"]
        with self.lock:
            attempt = self.asked[prompt]
            self.asked[prompt] += 1
            self.bodies.append(body)
            self.in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
            admitted = self.admits is None or self.in_flight <= self.admits
        try:
            if not admitted:
                return self._status(http, 429)
            time.sleep(self.latency_s)
            given = http.headers.get("Authorization", "").removeprefix("Bearer ")
            if given != self.key:
                return self._send(http, 401, {"error": {"message": f"Incorrect API key provided: {given}"}})
            if body["model"] != "tiny":
                return self._send(http, 404, {"error": {"message": f"The model {body['model']!r} does not exist"}})
            return self._misbehave(http, prompt, self.plan(prompt, attempt))
        finally:
            with self.lock:
                self.in_flight -= 1

    def _misbehave(self, http: BaseHTTPRequestHandler, prompt: str, fault: Fault) -> None:
        if fault == "reset":
            http.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
            http.connection.close()
            http.close_connection = True
        elif fault == "slow":
            time.sleep(self.slow_s)
            self._send(http, 200, completion(prompt))
        elif fault == "cut":
            content = json.dumps(completion(prompt)).encode()
            self._raw(http, 200, content[: len(content) // 2], announced=len(content))
            http.close_connection = True
        elif fault == "not json":
            self._raw(http, 200, b'{"choices": [{"mess')
        elif isinstance(fault, bytes):
            self._raw(http, 200, fault)
        elif isinstance(fault, dict):
            self._send(http, 200, fault)
        elif isinstance(fault, int):
            self._status(http, fault)
        elif fault == "tells key":
            self._send(http, 400, {"error": {"message": f"bad request with {http.headers['Authorization']}"}})
        elif fault == "too large":
            message = "Request too large for tiny on tokens per min (TPM): Limit 10, Requested 20."
            self._send(http, 429, {"error": {"message": message, "code": "rate_limit_exceeded"}})
        elif fault == "context":
            message = "This model's maximum context length is 8 tokens."
            self._send(http, 400, {"error": {"message": message, "code": "context_length_exceeded"}})
        elif fault == "quota":
            self._send(http, 429, {"error": {"message": "no credit", "code": "insufficient_quota"}})
        else:
            self._send(http, 200, completion(prompt, fault))

    def _status(self, http: BaseHTTPRequestHandler, status: int) -> None:
        headers = {} if self.retry_after is None else {"Retry-After": self.retry_after}
        self._send(http, status, {"error": {"message": f"status {status}"}}, headers)

    def _send(
        self, http: BaseHTTPRequestHandler, status: int, body: dict[str, Any], headers: dict[str, str] | None = None
    ) -> None:
        self._raw(http, status, json.dumps(body).encode(), headers=headers)

    def _raw(
        self,
        http: BaseHTTPRequestHandler,
        status: int,
        content: bytes,
        *,
        announced: int | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        http.send_response(status)
        http.send_header("Content-Type", "application/json")
        http.send_header("Content-Length", str(announced or len(content)))
        for name, value in (headers or {}).items():
            http.send_header(name, value)
        http.end_headers()
        http.wfile.write(content)

    def close(self) -> None:
        """Dies: nobody listens from now on, and open connections end. May be called twice."""
        self.server.shutdown()
        self.server.server_close()
        for connection in self.server.connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


def completion(prompt: str, fault: Fault = "ok") -> dict[str, Any]:
    """A chat completion that says the prompt back in capitals."""
    message: dict[str, Any] = {"role": "assistant", "content": prompt.upper()}
    finish = {"length": "length", "filter": "content_filter"}.get(str(fault), "stop")
    if fault == "refusal":
        message = {"role": "assistant", "content": None, "refusal": "I cannot help with that."}
    choices = [] if fault == "no choice" else [{"index": 0, "message": message, "finish_reason": finish}]
    usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
    return {"id": "x", "object": "chat.completion", "created": 0, "model": "tiny", "choices": choices, "usage": usage}


@contextlib.contextmanager
def chat_server(plan: Plan | None = None, **options: Any) -> Iterator[ChatServer]:
    chat = ChatServer(plan, **options)
    thread = threading.Thread(target=chat.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield chat
    finally:
        chat.close()

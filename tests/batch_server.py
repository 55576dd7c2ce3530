"""A real server of OpenAI's Files and Batches endpoints on loopback: it counts what it is paid for, and fails as told.

After the public API reference: https://platform.openai.com/docs/api-reference/batch and …/files.
"""

from __future__ import annotations

import contextlib
import email.parser
import email.policy
import json
import random
import socket
import threading
import urllib.parse
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from typing import Any, NamedTuple

from servers import QuietServer, completion

# What becomes of a request of a batch: "ok", "length", "refusal", an HTTP status (a line of the error file), "expire",
# "lost" (in no file), "broken" (half a line).
Plan = Callable[[str, int], str | int]
# What becomes of a call such as "POST /batches", by how many there were before: None, a status, "reset" (before it is
# done), "reset after" (it is done, and nobody told), a function that is called before it is done, or an `After`.
Faults = Callable[[str, int], Any]


class After(NamedTuple):
    """What is called when a call is done, and nobody told yet."""

    call: Callable[[], None]


STEPS = ("validating", "in_progress", "in_progress", "finalizing", "completed")


class BatchServer:
    """One model, `tiny`. A batch moves one step each time that it is looked at."""

    def __init__(
        self,
        plan: Plan | None = None,
        *,
        faults: Faults | None = None,
        refuse: Callable[[list[dict[str, Any]]], list[dict[str, Any]] | None] | None = None,
        most_queued: int | None = None,
        steps: tuple[str, ...] = STEPS,
        page: int = 2,
    ) -> None:
        self.plan = plan or (lambda prompt, attempt: "ok")
        self.faults = faults or (lambda call, before: None)
        self.refuse, self.most_queued, self.steps, self.page = refuse, most_queued, steps, page
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, dict[str, Any]] = {}
        self.calls: Counter[str] = Counter()
        # How often each prompt was part of a batch that was begun, and how often it was answered, and so paid for.
        self.begun: Counter[str] = Counter()
        self.paid: Counter[str] = Counter()
        self.most_at_once = 0
        self.numbers = 0
        self.lock = threading.RLock()
        self.server = QuietServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                outer.handle(self, "POST", self.rfile.read(int(self.headers.get("Content-Length") or 0)))

            def do_GET(self) -> None:
                outer.handle(self, "GET", b"")

            def do_DELETE(self) -> None:
                outer.handle(self, "DELETE", b"")

            def log_message(self, *args: object) -> None:
                pass

        return Handler

    def handle(self, http: BaseHTTPRequestHandler, method: str, body: bytes) -> None:
        url = urllib.parse.urlsplit(http.path)
        kind, *rest = url.path.removeprefix("/v1/").split("/")
        call = f"{method} /{'/'.join([kind, *('ID' if n == 0 else part for n, part in enumerate(rest))])}"
        with self.lock:
            before = self.calls[call]
            self.calls[call] += 1
        fault = self.faults(call, before)
        if callable(fault):
            fault()
        if fault == "reset":
            return self._reset(http)
        if isinstance(fault, int):
            return self._send(http, fault, {"error": {"message": f"status {fault}", "code": None}})
        if http.headers.get("Authorization") != "Bearer secret":
            return self._send(http, 401, {"error": {"message": "Incorrect API key provided"}})
        with self.lock:
            status, answer = self.answer(call, rest, dict(urllib.parse.parse_qsl(url.query)), http.headers, body)
        if isinstance(fault, After):
            fault.call()
        if fault == "reset after":
            return self._reset(http)
        return self._send(http, status, answer)

    def answer(self, call: str, rest: list[str], query: dict[str, str], headers: Any, body: bytes) -> tuple[int, Any]:
        name = rest[0] if rest else ""
        if name and name not in (self.files if "/files" in call else self.batches):
            return 404, {"error": {"message": f"No such object: {name}", "type": "invalid_request_error"}}
        match call:
            case "POST /files":
                return 200, self._file(_uploaded(headers, body))
            case "DELETE /files/ID":
                del self.files[name]
                return 200, {"id": name, "object": "file", "deleted": True}
            case "GET /files/ID/content":
                return 200, self.files[name]
            case "POST /batches":
                return self._create(json.loads(body))
            case "GET /batches":
                return 200, self._page(query)
            case "GET /batches/ID":
                return 200, self._move(self.batches[name])
            case "POST /batches/ID/cancel":
                self.batches[name]["status"] = "cancelling"
                self.batches[name]["steps"] = ["cancelling", "cancelled"]
                return 200, _shown(self.batches[name])
        return 404, {"error": {"message": f"no {call}"}}

    def _id(self, kind: str) -> str:
        self.numbers += 1
        return f"{kind}{self.numbers}"

    def _file(self, content: bytes) -> dict[str, Any]:
        file_id = self._id("file-")
        self.files[file_id] = content
        return {
            "id": file_id,
            "object": "file",
            "bytes": len(content),
            "created_at": 0,
            "filename": "x.jsonl",
            "purpose": "batch",
            "status": "processed",
        }

    def _create(self, asked: dict[str, Any]) -> tuple[int, Any]:
        assert asked["endpoint"] == "/v1/chat/completions"
        assert asked["completion_window"] == "24h"
        if asked["input_file_id"] not in self.files:
            return 400, {"error": {"message": f"No such File object: {asked['input_file_id']}", "code": None}}
        batch = {
            "id": self._id("batch_"),
            "object": "batch",
            "endpoint": asked["endpoint"],
            "created_at": self.numbers,
            "completion_window": "24h",
            "input_file_id": asked["input_file_id"],
            "metadata": asked["metadata"],
            "status": "validating",
            "output_file_id": None,
            "error_file_id": None,
            "errors": None,
            "request_counts": {"total": 0, "completed": 0, "failed": 0},
            "steps": list(self.steps),
        }
        self.batches[batch["id"]] = batch
        return 200, _shown(batch)

    def _page(self, query: dict[str, str]) -> dict[str, Any]:
        """The newest first, a few on each page whatever was asked."""
        every = [_shown(batch) for batch in reversed(self.batches.values())]
        if after := query.get("after"):
            every = every[[batch["id"] for batch in every].index(after) + 1 :]
        data = every[: self.page]
        first, last = (data[0]["id"], data[-1]["id"]) if data else (None, None)
        return {
            "object": "list",
            "data": data,
            "has_more": len(every) > self.page,
            "first_id": first,
            "last_id": last,
        }

    def _move(self, batch: dict[str, Any]) -> dict[str, Any]:
        """One step on."""
        if batch["steps"]:
            batch["status"] = batch["steps"].pop(0)
            if batch["status"] == "in_progress" and "lines" not in batch:
                self._begin(batch)
            elif batch["status"] == "in_progress":
                batch["request_counts"]["completed"] = len(batch["lines"]) // 2
            elif batch["status"] in ("completed", "expired", "cancelled"):
                self._end(batch)
        return _shown(batch)

    def _begin(self, batch: dict[str, Any]) -> None:
        content = self.files.get(batch["input_file_id"], b"")
        lines = [json.loads(line) for line in content.splitlines()]
        tokens = len(content) // 4
        others = sum(each.get("queued", 0) for each in self.batches.values() if each["status"] == "in_progress")
        errors = self.refuse(lines) if self.refuse else None
        names = [line["custom_id"] for line in lines]
        if not lines or len(set(names)) < len(names):
            errors = [{"code": "invalid_file", "message": "empty, missing, or with an id twice", "line": None}]
        elif self.most_queued is not None and others + tokens > self.most_queued:
            message = f"Enqueued token limit reached for tiny. Limit: {self.most_queued} enqueued tokens."
            errors = [{"code": "token_limit_exceeded", "message": message, "line": None}]
        if errors:
            batch |= {"status": "failed", "steps": [], "errors": {"object": "list", "data": errors}}
            return
        batch |= {"lines": lines, "queued": tokens}
        batch["request_counts"]["total"] = len(lines)
        self.begun.update(_prompt(line) for line in lines)
        self.most_at_once = max(self.most_at_once, others + tokens)

    def _end(self, batch: dict[str, Any]) -> None:
        output: list[bytes] = []
        errors: list[bytes] = []
        for line in batch.get("lines", ()):
            prompt, name = _prompt(line), line["custom_id"]
            fate = "expire" if batch["status"] == "cancelled" else self.plan(prompt, self.begun[prompt] - 1)
            shown = {"id": f"batch_req_{name}", "custom_id": name, "response": None, "error": None}
            if fate == "expire":
                batch["status"] = "expired" if batch["status"] == "completed" else batch["status"]
                code = f"batch_{batch['status']}"
                shown["error"] = {"code": code, "message": "This request could not be executed in time."}
                errors.append(json.dumps(shown).encode())
            elif isinstance(fate, int):
                body = {"error": {"message": f"status {fate}", "code": None}}
                shown["response"] = {"status_code": fate, "request_id": "r", "body": body}
                errors.append(json.dumps(shown).encode())
            elif fate != "lost":
                self.paid[prompt] += 1
                shown["response"] = {"status_code": 200, "request_id": "r", "body": completion(prompt, fate)}
                content = json.dumps(shown, ensure_ascii=False).encode()
                output.append(content[: len(content) // 2] if fate == "broken" else content)
        random.Random(7).shuffle(output)
        batch["request_counts"] |= {"completed": len(output), "failed": len(errors)}
        for of, lines in (("output_file_id", output), ("error_file_id", errors)):
            if lines:
                batch[of] = self._file(b"\n".join(lines) + b"\n")["id"]

    def _send(self, http: BaseHTTPRequestHandler, status: int, answer: Any) -> None:
        content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        http.send_response(status)
        http.send_header("Content-Type", "application/octet-stream" if content is answer else "application/json")
        http.send_header("Content-Length", str(len(content)))
        http.end_headers()
        http.wfile.write(content)

    def _reset(self, http: BaseHTTPRequestHandler) -> None:
        http.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        http.connection.close()
        http.close_connection = True


def _shown(batch: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in batch.items() if key not in ("steps", "lines", "queued")}


def _prompt(line: dict[str, Any]) -> str:
    assert (line["method"], line["url"], line["body"]["model"]) == ("POST", "/v1/chat/completions", "tiny")
    prompt: str = line["body"]["messages"][-1]["content"]
    return prompt


def _uploaded(headers: Any, body: bytes) -> bytes:
    """The file of a multipart form."""
    head = f"Content-Type: {headers['Content-Type']}\r\n\r\n".encode()
    form = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(head + body)
    parts = {part.get_param("name", header="content-disposition"): part for part in form.iter_parts()}
    assert parts["purpose"].get_payload(decode=True).strip() == b"batch"
    content: bytes = parts["file"].get_payload(decode=True)
    return content


@contextlib.contextmanager
def batch_server(plan: Plan | None = None, **options: Any) -> Iterator[BatchServer]:
    server = BatchServer(plan, **options)
    thread = threading.Thread(target=server.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.server.shutdown()
        server.server.server_close()

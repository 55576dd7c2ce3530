"""A real server on loopback that speaks what uploads to and downloads from a Hugging Face hub take, and keeps it.

All files come within the commit, as small ones do on the hub. Large ones go through Xet, a protocol
of its own, which is the affair of huggingface_hub and not spoken here.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMMIT = "c0ffee" + "0" * 34


class Hub:
    """What was asked, and what is there: models' files to give, data sets' files that were committed."""

    def __init__(self) -> None:
        self.url = ""
        self.asked: list[tuple[str, str]] = []
        self.keys: set[str | None] = set()
        self.created: list[dict[str, Any]] = []
        self.committed: dict[str, bytes] = {}
        self.models: dict[str, bytes] = {}
        self.accepts = "hf_right"
        self.broken = False

    def answer(self, method: str, path: str, key: str | None, body: bytes) -> tuple[int, Any, dict[str, str]]:
        self.asked.append((method, path))
        self.keys.add(key)
        if "/resolve/" in path:
            return self._file(path)
        if key != f"Bearer {self.accepts}":
            return 401, {"error": "Invalid credentials in Authorization header"}, {}
        if self.broken and "/commit/" in path:
            return 400, {"error": f"the disk is full, {key}"}, {}
        return self._upload(path, body)

    def _file(self, path: str) -> tuple[int, Any, dict[str, str]]:
        data = self.models.get(path)
        if data is None:
            return 404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound"}
        return 200, data, {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Repo-Commit": COMMIT}

    def _upload(self, path: str, body: bytes) -> tuple[int, Any, dict[str, str]]:
        if path == "/api/repos/create":
            self.created.append(json.loads(body))
            return 200, {"url": f"{self.url}/datasets/me/data"}, {}
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}, {}
        if "/preupload/" in path:
            files = [{"path": each["path"], "uploadMode": "regular"} for each in json.loads(body)["files"]]
            return 200, {"files": [{**each, "shouldIgnore": False} for each in files]}, {}
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                self.committed[value["path"]] = base64.b64decode(value["content"])
        return 200, {"commitOid": COMMIT, "commitUrl": f"{self.url}/datasets/me/data/commit/{COMMIT}"}, {}


@contextlib.contextmanager
def hub() -> Iterator[Hub]:
    state = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            status, answer, headers = state.answer(
                self.command, self.path, self.headers.get("Authorization"), self._body()
            )
            data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            self.send_response(status)
            for name, value in {
                "Content-Type": "application/json",
                "Content-Length": str(len(data)),
                **headers,
            }.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        do_POST = do_PUT = do_HEAD = do_GET

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        state.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield state
        server.shutdown()

"""An OpenAI-compatible chat server that is fast, counts everything, and fails on purpose.

    python benchmarks/server.py --port 0 --latency-ms 50 --faults 429=0.05,500=0.02

The first line it prints is its port. A request names its row by a marker such as `#123#` in its last message. Admission
and rate limits come first and are no attempt at the row; then `behaviour.py` says what happens, from (row, attempt)
alone. `GET /stats` tells what was counted, `POST /reset` forgets it. SIGTERM ends it, and with `--state FILE` the next
one started with the same file goes on counting where it stopped.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import re
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import uvloop
from behaviour import FAULTS, Behaviour, parse_faults
from counts import Bucket, Counts

_MARK = re.compile(r"#(\d+)#")
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_REASONS = {200: b"OK", 400: b"Bad Request", 404: b"Not Found", 429: b"Too Many Requests", 500: b"Server Error"}


@dataclass
class Office:
    """What all connections share: the behaviour, the limits and the counts."""

    loop: asyncio.AbstractEventLoop
    behaviour: Behaviour
    admit: int
    requests: Bucket | None
    tokens: Bucket | None
    retry_after_s: float
    counts: Counts = field(default_factory=Counts)
    in_flight: int = 0
    open: set[Connection] = field(default_factory=set)

    def limits(self) -> str:
        said = self.requests.headers("requests") if self.requests else ""
        return said + (self.tokens.headers("tokens") if self.tokens else "")

    def refusal(self, tokens: int) -> str | None:
        """The headers of the 429 that turns a request away at the door, or None when it may come in."""
        if self.admit and self.in_flight >= self.admit:
            return ""
        if not (self.requests or self.tokens):
            return None
        wants = [(self.requests, 1.0), (self.tokens, float(tokens))]
        wait_s = max((bucket.lacks_s(amount) for bucket, amount in wants if bucket), default=0.0)
        if wait_s > 0:
            return f"retry-after: {math.ceil(wait_s)}\r\nretry-after-ms: {math.ceil(wait_s * 1000)}\r\n{self.limits()}"
        for bucket, amount in wants:
            if bucket:
                bucket.left -= amount
        return None

    def stats(self) -> dict[str, Any]:
        counts = dict(vars(self.counts))
        by_row = {name: counts.pop(name) for name in ("attempts_by_row", "answers_by_row")}
        span_s = (counts["last_at"] or 0) - (counts["first_at"] or 0)
        return {
            **counts,
            "span_s": max(0.0, span_s),
            "in_flight": self.in_flight,
            "rows_answered": len(by_row["answers_by_row"]),
            "rows_answered_twice": sum(n > 1 for n in by_row["answers_by_row"].values()),
            "cpu_s": time.process_time(),
        }


class Connection(asyncio.Protocol):
    """One client's connection: a request at a time, kept alive."""

    def __init__(self, office: Office) -> None:
        self.office = office
        self.buffer = b""
        self.busy = self.counted = False
        self.timer: asyncio.TimerHandle | None = None
        self.transport: asyncio.Transport = None  # type: ignore[assignment]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        self.office.open.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.office.open.discard(self)
        if self.timer is not None:
            self.timer.cancel()
        if self.busy:
            self.office.counts.dropped += 1
            self._leave()

    def data_received(self, data: bytes) -> None:
        self.buffer = self.buffer + data if self.buffer else data
        end = self.buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        found = _LENGTH.search(self.buffer, 0, end)
        whole = end + 4 + (int(found[1]) if found else 0)
        if len(self.buffer) < whole:
            return
        line, body = self.buffer[: self.buffer.find(b"\r\n")], self.buffer[end + 4 : whole]
        self.buffer = self.buffer[whole:]
        if line.startswith(b"POST /v1/chat/completions"):
            self._chat(body)
        elif line.startswith(b"GET /stats"):
            self._send(200, orjson.dumps(self.office.stats(), option=orjson.OPT_NON_STR_KEYS))
        elif line.startswith(b"POST /reset"):
            self.office.counts = Counts()
            self._send(200, b"{}")
        else:
            self._send(404, b'{"error":{"message":"no such page"}}')

    def _chat(self, body: bytes) -> None:
        office, now = self.office, time.time()
        counts = office.counts
        try:
            asked = orjson.loads(body)
            content = asked["messages"][-1]["content"]
            row = int(_MARK.search(content)[1])  # type: ignore[index]
        except (ValueError, LookupError, TypeError):
            self._send(400, b'{"error":{"message":"no messages, or no marker such as #123# in the last"}}')
            return
        counts.requests += 1
        counts.first_at = counts.first_at or now
        counts.connections += not self.counted
        self.counted = True
        second = counts.second(now)
        second[0] += 1
        prompt_tokens = 1 + len(content) // 4
        used = office.behaviour.tokens(row, asked.get("max_tokens") or asked.get("max_completion_tokens"))
        if (headers := office.refusal(prompt_tokens + used)) is not None:
            counts.turned_away += 1
            self._refuse(headers, second)
            return
        attempt = counts.attempts_by_row[row]
        counts.attempts_by_row[row] += 1
        fault = office.behaviour.fault(row, attempt)
        if fault is not None:
            counts.faults[fault] += 1
            if fault in ("429", "429_bare"):
                self._refuse("" if fault == "429_bare" else self._asked_to_wait(), second)
                return
        self.busy = True
        office.in_flight += 1
        if office.in_flight > second[3]:
            second[3] = office.in_flight
            counts.max_in_flight = max(counts.max_in_flight, office.in_flight)
        if fault != "hang":
            wait_s = office.behaviour.latency_s(row, attempt)
            self.timer = office.loop.call_later(wait_s, self._finish, row, attempt, fault, prompt_tokens, used)

    def _asked_to_wait(self) -> str:
        return f"retry-after: {self.office.retry_after_s:g}\r\n"

    def _refuse(self, headers: str, second: list[int]) -> None:
        self.office.counts.refused += 1
        second[2] += 1
        self._send(429, b'{"error":{"message":"slow down","type":"requests","code":"rate_limit_exceeded"}}', headers)

    def _finish(self, row: int, attempt: int, fault: str | None, prompt_tokens: int, used: int) -> None:
        self.timer = None
        self._leave()
        if fault == "reset":
            self.transport.abort()
        elif fault == "500":
            self._send(500, b'{"error":{"message":"something broke","type":"server_error"}}')
        else:
            body = _completion(self.office.behaviour.text(row), row, attempt, fault, prompt_tokens, used)
            headers = self.office.limits()
            if fault == "malformed":
                self._send(200, body[: len(body) // 2], headers)
            else:
                self._send(200, body, headers)
                self._count_answer(row, prompt_tokens, used)

    def _count_answer(self, row: int, prompt_tokens: int, used: int) -> None:
        counts, now = self.office.counts, time.time()
        counts.answered += 1
        counts.answers_by_row[row] += 1
        counts.prompt_tokens += prompt_tokens
        counts.completion_tokens += used
        counts.last_at = now
        counts.second(now)[1] += 1

    def _leave(self) -> None:
        self.busy = False
        self.office.in_flight -= 1

    def _send(self, status: int, body: bytes, headers: str = "") -> None:
        head = b"HTTP/1.1 %d %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n%b\r\n"
        self.transport.write(head % (status, _REASONS[status], len(body), headers.encode()) + body)


def _completion(text: str, row: int, attempt: int, fault: str | None, prompt_tokens: int, used: int) -> bytes:
    finish = "stop"
    if fault == "truncated":
        text, finish = text[: len(text) // 2], "length"
    said = text.replace("\n", "\\n")
    return (
        f'{{"id":"chatcmpl-{row}-{attempt}","object":"chat.completion","created":1700000000,"model":"tiny",'
        f'"choices":[{{"index":0,"message":{{"role":"assistant","content":"{said}"}},"logprobs":null,'
        f'"finish_reason":"{finish}"}}],"usage":{{"prompt_tokens":{prompt_tokens},"completion_tokens":{used},'
        f'"total_tokens":{prompt_tokens + used}}}}}'
    ).encode()


async def _serve(office: Office, port: int, state: Path | None) -> None:
    loop, ended = office.loop, asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    listening = await loop.create_server(lambda: Connection(office), "127.0.0.1", port, backlog=4096)
    print(listening.sockets[0].getsockname()[1], flush=True)
    await ended.wait()
    listening.close()
    for connection in list(office.open):
        connection.transport.close()
    while office.open:
        await asyncio.sleep(0.005)
    if state is not None:
        state.write_bytes(orjson.dumps(vars(office.counts), option=orjson.OPT_NON_STR_KEYS))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=0, help="0: any that is free")
    parser.add_argument("--latency-ms", type=float, default=50.0)
    parser.add_argument("--sigma", type=float, default=0.0, help="over 0: lognormal, with --latency-ms as its median")
    parser.add_argument("--faults", type=parse_faults, default={}, help=f"KIND=RATE,… of {', '.join(FAULTS)}")
    parser.add_argument("--fault-attempts", type=int, default=1, help="how many attempts at a row can meet a fault")
    parser.add_argument("--retry-after-s", type=float, default=0.5, help="what the fault 429 asks to wait")
    parser.add_argument("--admit", type=int, default=0, help="answer 429 at once above so many in flight; 0: no limit")
    parser.add_argument("--rpm", type=float, default=0.0, help="requests a minute; 0: no limit")
    parser.add_argument("--tpm", type=float, default=0.0, help="prompt and completion tokens a minute; 0: no limit")
    parser.add_argument("--burst-s", type=float, default=1.0, help="seconds of --rpm, --tpm that may come at once")
    parser.add_argument("--reply-bytes", type=int, default=400)
    parser.add_argument("--vary-tokens", action="store_true", help="replies use 1 to max_tokens tokens, by row")
    parser.add_argument("--state", type=Path, help="read at the start if it is there, written at the end")
    return parser.parse_args()


def main() -> None:
    given = _arguments()
    behaviour = Behaviour(
        given.latency_ms, given.sigma, given.faults, given.fault_attempts, given.reply_bytes, given.vary_tokens
    )
    requests, tokens = (Bucket(limit, given.burst_s) if limit else None for limit in (given.rpm, given.tpm))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        office = Office(runner.get_loop(), behaviour, given.admit, requests, tokens, given.retry_after_s)
        if given.state is not None and given.state.exists():
            office.counts = Counts.loaded(given.state)
        runner.run(_serve(office, given.port, given.state))


if __name__ == "__main__":
    main()

"""The job by hand: a pool of workers over aiohttp, uvloop and orjson, and nothing that the job does not need."""

from __future__ import annotations

import asyncio
import os
import time
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import jinja2
import job
import orjson
import uvloop

_PAUSE_S = 0.5


async def ask(session: aiohttp.ClientSession, url: str, body: bytes) -> list[Any]:
    """Text and finish reason; whatever goes wrong is waited out and asked again."""
    headers = {"content-type": "application/json"}
    while True:
        wait_s = _PAUSE_S
        try:
            async with session.post(url, data=body, headers=headers) as answer:
                if answer.status == 200:
                    choice = orjson.loads(await answer.read())["choices"][0]
                    return [choice["message"]["content"], choice["finish_reason"]]
                wait_s = float(answer.headers.get("retry-after", _PAUSE_S))
        except (aiohttp.ClientError, TimeoutError, orjson.JSONDecodeError):
            pass
        await asyncio.sleep(wait_s)


async def ask_all(given: Namespace, prompts: list[str], replies: dict[int, list[Any]], log: int) -> None:
    """Each worker takes the next row when it is free, and logs its answer before it takes another."""
    waiting: Iterator[int] = iter([row for row in range(given.rows) if row not in replies])

    async def work(session: aiohttp.ClientSession) -> None:
        for row in waiting:
            messages = [{"role": "user", "content": prompts[row]}]
            asked = {"model": "tiny", "messages": messages, "temperature": 0.7, "max_tokens": given.max_tokens}
            said = await ask(session, given.url + "/chat/completions", orjson.dumps(asked))
            os.write(log, orjson.dumps([row, *said]) + b"\n")
            replies[row] = said

    connector = aiohttp.TCPConnector(limit=given.concurrency)
    timeout = aiohttp.ClientTimeout(total=given.timeout_s)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        await asyncio.gather(*(work(session) for _ in range(given.concurrency)))


def main() -> None:
    given = job.arguments()
    folder: Path = given.folder
    folder.mkdir(parents=True, exist_ok=True)
    template = jinja2.Environment(trim_blocks=True, lstrip_blocks=True).from_string(job.TEMPLATE)
    prompts = [template.render(row) for row in job.seeds(given.rows).iter_rows(named=True)]
    replies = job.known(folder / "answers.jsonl")
    log = os.open(folder / "answers.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    asked_at = time.time()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(ask_all(given, prompts, replies, log))
    job.written(replies, given.rows, given.out)
    job.report(asked_at)


if __name__ == "__main__":
    main()

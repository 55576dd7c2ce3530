"""The job as most people write it: AsyncOpenAI, a semaphore, gather, and a JSON line for each answer."""

from __future__ import annotations

import asyncio
import time

import jinja2
import job
import openai
import orjson


async def main() -> None:
    given = job.arguments()
    given.folder.mkdir(parents=True, exist_ok=True)
    template = jinja2.Environment(trim_blocks=True, lstrip_blocks=True).from_string(job.TEMPLATE)
    client = openai.AsyncOpenAI(base_url=given.url, api_key="none", max_retries=0, timeout=given.timeout_s)
    free = asyncio.Semaphore(given.concurrency)
    replies = job.known(given.folder / "answers.jsonl")
    asked_at = time.time()
    with (given.folder / "answers.jsonl").open("ab") as log:

        async def ask(seed: dict[str, object]) -> None:
            messages = [{"role": "user", "content": template.render(seed)}]
            while seed["row"] not in replies:
                async with free:
                    try:
                        answer = await client.chat.completions.create(
                            model="tiny", messages=messages, temperature=0.7, max_tokens=given.max_tokens
                        )
                        choice = answer.choices[0]
                        replies[seed["row"]] = [choice.message.content, choice.finish_reason]
                        log.write(orjson.dumps([seed["row"], *replies[seed["row"]]]) + b"\n")
                        log.flush()
                    except (openai.OpenAIError, ValueError):
                        await asyncio.sleep(0.5)

        await asyncio.gather(*map(ask, job.seeds(given.rows).iter_rows(named=True)))
    job.written(replies, given.rows, given.out)
    job.report(asked_at)


asyncio.run(main())

"""The job with agora_frames: seven stages, with the answers in a ledger."""

from __future__ import annotations

import time

import job

import agora_frames as af
from agora_frames.schemas import GeneralInstance


def main() -> None:
    given = job.arguments()
    # Without a number, the engine finds by itself how many the server takes.
    fixed = {"concurrency": given.concurrency} if given.concurrency else {}
    backend = af.connect(given.url, model="tiny", ledger=given.folder / "ledger", timeout_s=given.timeout_s, **fixed)
    rows = job.seeds(given.rows).pipe(af.with_row_ids, columns="row").pipe(af.render_prompts, template=job.TEMPLATE)
    asked_at = time.time()
    done = (
        rows.pipe(af.generate_column, temperature=0.7, max_tokens=given.max_tokens, backend=backend)
        .pipe(
            af.parse_column,
            column="completion",
            parser=af.split_on("INSTRUCTION:", "RESPONSE:", end="[END]"),
            into=["instruction", "response"],
        )
        .pipe(af.validate, schema=GeneralInstance)
        .pipe(af.with_outcome)
        .select("row", "instruction", "response", "outcome", "reason")
    )
    af.write_frame(done, given.out)
    job.report(asked_at)


if __name__ == "__main__":
    main()

"""Rounds over a real HTTP server that limits rates, cuts replies short and fails: every attempt is accounted for."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from servers import Fault, chat_server, completion

import agora_frames as af
from agora_frames.frames import outcome
from agora_frames.hashing import drawn
from agora_frames.ledger import Ledger
from agora_frames.recipes.agorabench.instance_generation import instance_generation, seeds


def answered(prompt: str, attempt: int) -> Fault:
    """One attempt in five is turned away for a while; of the others one in six is cut short, one in eight refused."""
    if drawn(5, "rate", prompt, attempt) == 0:
        return 429
    number, kind = drawn(10**9, "number", prompt, attempt), drawn(24, "kind", prompt, attempt)
    if kind < 4:
        body = completion("INPUT: What is", "length")
    elif kind < 7:
        body = completion("", "refusal")
    else:
        body = completion("")
        body["choices"][0]["message"]["content"] = (
            f"What is {number} + 1?\nOUTPUT: We add.\n[RESULT] {number + 1} [/RESULT]"
        )
    return body


def test_every_attempt_at_a_server_with_limits_and_cut_replies_is_accounted_for(tmp_path: Path) -> None:
    with chat_server(answered, retry_after="0.01", admits=8) as server:
        model = af.connect(server.url, model="tiny", api_key="secret", ledger=Ledger(tmp_path / "ledger"))
        done = instance_generation(backend=model, rows=60)(seeds())
        answers = sum(server.asked.values())
        again = instance_generation(backend=model, rows=60)(seeds())
        more = sum(server.asked.values()) - answers
    counts = Counter(done.select(outcome(done)).to_series())
    assert counts["accepted"] == 60 and counts["failed"] > 5
    assert counts.total() == done.height == af.yield_table(done)["asked"][0]
    kinds = Counter(row["reason"] for row in af.failure_counts(done).to_dicts())
    assert {"completion: truncated", "completion: refused"} <= kinds.keys()
    assert done.height <= answers, "an attempt has no call of its own"
    assert model.ledger.tally.calls >= done.height
    assert again.pipe(af.keep_valid)["instruction"].n_unique() == 60
    assert more <= counts["failed"], "what was answered was asked again"

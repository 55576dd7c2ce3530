"""OpenAI's Batch API, against a server of its endpoints that fails as it is told to."""

from __future__ import annotations

import logging
import os
import pickle
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from batch_server import After, BatchServer, batch_server

from agora_frames.backends import connect
from agora_frames.backends.chat import Stop
from agora_frames.backends.openai_batch import OpenAIBatch, openai_batch
from agora_frames.backends.openai_chat import openai_chat
from agora_frames.errors import (
    AuthenticationError,
    BackendError,
    BindError,
    EndpointError,
    OfflineError,
    StorageError,
    UnknownModelError,
)
from agora_frames.ledger import Ledger
from agora_frames.ledger.notes import notes_beside
from agora_frames.meter import Meter
from agora_frames.prices import batch_prices_of
from agora_frames.remembered import Remembered, remembered
from agora_frames.stages.generate import generate_column
from agora_frames.stages.requests import build_requests


class Waited:
    """A clock that goes as fast as it is asked; `then` is called at each pause."""

    def __init__(self, then: Any = None) -> None:
        self.pauses: list[float] = []
        self.then = then

    def __call__(self, stop: Stop, seconds: float) -> bool:
        self.pauses.append(seconds)
        if self.then is not None:
            self.then(len(self.pauses))
        return stop.is_set()


def backend(server: BatchServer, waited: Waited | None = None, **options: Any) -> OpenAIBatch:
    made = openai_batch("tiny", base_url=server.url, api_key="secret", **{"prices": (2, 4), **options})
    return replace(made, wait=waited or Waited())


def model(server: BatchServer, folder: Path, *, waited: Waited | None = None, **options: Any) -> Remembered:
    ceilings = {name: options.pop(name) for name in ("max_cost", "offline") if name in options}
    return remembered(backend(server, waited, **options), ledger=Ledger(folder), **ceilings)


def prompts(*texts: str) -> pl.DataFrame:
    return pl.DataFrame({"row_id": [f"r{text}" for text in texts], "prompt": texts})


def asked(n: int) -> pl.DataFrame:
    return prompts(*(f"p{i}" for i in range(n)))


def kinds(df: pl.DataFrame) -> list[str | None]:
    return df["completion_error"].struct.field("kind").to_list()


def notes(folder: Path) -> list[str]:
    return notes_beside(Ledger(folder).place, "batches").names()


def generated(df: pl.DataFrame, by: Remembered, **options: Any) -> pl.DataFrame:
    return generate_column(df, backend=by, max_tokens=5, **options)


# --- all is well -----------------------------------------------------------------------------------------------------


def test_each_row_gets_its_own_reply_in_whatever_order_the_files_have_them(tmp_path: Path) -> None:
    with batch_server() as server:
        done = generated(asked(9), model(server, tmp_path))
    assert done["completion"].to_list() == [f"P{i}" for i in range(9)]
    assert kinds(done) == [None] * 9
    assert server.calls["POST /batches"] == 1
    assert notes(tmp_path) == []


def test_a_reply_costs_half_and_says_so_and_its_latency_is_not_known(tmp_path: Path) -> None:
    with batch_server() as server:
        call = generated(asked(1), model(server, tmp_path))["completion_call"][0]
    assert call["cost_usd"] == pytest.approx((10 * 2 + 5 * 4) / 1e6 / 2)
    assert call["priced_by"] == "given (2, 4), times 0.5 (batch)"
    assert call["latency_s"] is None


@pytest.mark.parametrize(("discount", "share"), [(0.25, 0.75), (0, 1), (1, 0)])
def test_another_discount_may_be_given(tmp_path: Path, discount: float, share: float) -> None:
    with batch_server() as server:
        call = generated(asked(1), model(server, tmp_path, discount=discount))["completion_call"][0]
    assert call["cost_usd"] == pytest.approx(40 / 1e6 * share)


def test_the_prices_of_batches_that_are_published_go_before_a_discount() -> None:
    listed = batch_prices_of("https://api.openai.com/v1", "gpt-4o-mini", None, discount=0.9)
    assert listed is not None
    assert listed.cost(1_000_000, 1_000_000) == pytest.approx(0.375)
    assert listed.source.startswith("genai-prices") and listed.source.endswith("batch")


def test_what_a_batch_answered_is_known_to_whoever_asks_one_by_one(tmp_path: Path) -> None:
    with batch_server() as server:
        done = generated(asked(3), model(server, tmp_path))
        single = remembered(openai_chat("tiny", base_url=server.url, api_key="secret"), ledger=Ledger(tmp_path))
        again = generated(asked(3), single)
    assert again["completion"].to_list() == done["completion"].to_list()
    assert single.tally.calls == 0


def test_a_second_run_asks_nothing(tmp_path: Path) -> None:
    with batch_server() as server:
        generated(asked(3), model(server, tmp_path))
        calls = server.calls.total()
        generated(asked(3), model(server, tmp_path))
        assert server.calls.total() == calls


def test_offline_lists_what_is_missing(tmp_path: Path) -> None:
    with batch_server() as server:
        generated(asked(2), model(server, tmp_path))
        calls = server.calls.total()
        with pytest.raises(OfflineError, match="row_id rp2 sample 0"):
            generated(asked(3), model(server, tmp_path, offline=True))
        assert server.calls.total() == calls


# --- limits ----------------------------------------------------------------------------------------------------------


def test_a_batch_has_no_more_requests_than_it_may(tmp_path: Path) -> None:
    with batch_server() as server:
        generated(asked(7), model(server, tmp_path, max_requests=3))
        assert [len(batch["lines"]) for batch in server.batches.values()] == [3, 3, 1]


def test_a_batch_has_no_more_bytes_than_it_may(tmp_path: Path) -> None:
    with batch_server() as server:
        generated(prompts(*(c * 1000 for c in "abcde")), model(server, tmp_path, max_bytes=3000))
        inputs = [server.files[batch["input_file_id"]] for batch in server.batches.values()]
        assert len(inputs) == 3
        assert all(len(content) <= 3000 for content in inputs)


def test_a_request_larger_than_a_batch_fails_alone(tmp_path: Path) -> None:
    with batch_server() as server:
        done = generated(prompts("a", "b" * 5000, "c"), model(server, tmp_path, max_bytes=3000))
    assert kinds(done) == [None, "bad_request", None]


def test_no_more_tokens_wait_at_once_than_may(tmp_path: Path) -> None:
    with batch_server() as server:
        done = generated(prompts(*(c * 1000 for c in "abcdef")), model(server, tmp_path, max_queued_tokens=700))
        assert kinds(done) == [None] * 6
        assert len(server.batches) == 3
        assert server.most_at_once <= 700


def test_a_queue_that_is_full_is_waited_for_with_smaller_batches(tmp_path: Path) -> None:
    waited = Waited()
    with batch_server(most_queued=700) as server:
        done = generated(prompts(*(c * 1000 for c in "abcdef")), model(server, tmp_path, waited=waited))
        assert kinds(done) == [None] * 6
        assert set(server.paid.values()) == {1}
        assert 60.0 in waited.pauses


# --- failures --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("fate", "kind"), [("length", "truncated"), ("refusal", "refused"), (400, "bad_request")])
def test_what_one_request_comes_to_is_its_rows_alone(tmp_path: Path, fate: str | int, kind: str) -> None:
    with batch_server(lambda prompt, attempt: fate if prompt == "p1" else "ok") as server:
        done = generated(asked(3), model(server, tmp_path))
    assert kinds(done) == [None, kind, None]
    assert server.begun == {"p0": 1, "p1": 1, "p2": 1}


@pytest.mark.parametrize("fate", ["expire", 500, 429])
def test_what_another_batch_may_mend_is_asked_again(tmp_path: Path, fate: str | int) -> None:
    with batch_server(lambda prompt, attempt: fate if prompt == "p1" and attempt == 0 else "ok") as server:
        done = generated(asked(3), model(server, tmp_path))
    assert kinds(done) == [None] * 3
    assert server.begun == {"p0": 1, "p1": 2, "p2": 1}
    assert server.paid == {"p0": 1, "p1": 1, "p2": 1}
    assert sorted(Ledger(tmp_path).frame()["retried"].to_list()) == [False, False, False, True]


def test_it_is_asked_again_only_so_often(tmp_path: Path) -> None:
    with batch_server(lambda prompt, attempt: "expire" if prompt == "p1" else "ok") as server:
        by = model(server, tmp_path, tries=2)
        done = generated(asked(3), by)
        assert kinds(done) == [None, "expired", None]
        assert server.begun["p1"] == 2
        assert done["completion_call"][1]["cost_usd"] == 0
        generated(asked(3), by)  # a failure is no answer
        assert server.begun == {"p0": 1, "p1": 4, "p2": 1}


def test_a_batch_that_only_failed_has_only_a_file_of_errors(tmp_path: Path) -> None:
    with batch_server(lambda prompt, attempt: 400) as server:
        done = generated(asked(3), model(server, tmp_path))
    assert kinds(done) == ["bad_request"] * 3


@pytest.mark.parametrize("fate", ["lost", "broken"])
def test_a_request_without_a_whole_result_is_a_bad_reply_and_not_paid_for_again(tmp_path: Path, fate: str) -> None:
    with batch_server(lambda prompt, attempt: fate if prompt == "p1" else "ok") as server:
        done = generated(asked(3), model(server, tmp_path))
    assert kinds(done) == [None, "bad_reply", None]
    assert server.begun["p1"] == 1
    assert done["completion_call"][1]["cost_usd"] is None


def test_results_that_nobody_asked_for_and_results_told_twice_are_left_out(tmp_path: Path) -> None:
    with batch_server() as server:

        def spoil(pause: int) -> None:
            for name, content in list(server.files.items()):
                if b"response" in content and b"stranger" not in content:
                    server.files[name] = (
                        content + content.replace(b'"custom_id": "', b'"custom_id": "stranger') + content
                    )

        generated(asked(3), model(server, tmp_path, waited=Waited(spoil)))
    assert Ledger(tmp_path).frame().height == 3


def test_a_batch_that_somebody_cancels_gives_what_it_has_and_is_not_begun_again(tmp_path: Path) -> None:
    with batch_server() as server:

        def cancel(pause: int) -> None:
            for batch in server.batches.values():
                if batch["status"] == "in_progress":
                    batch["steps"] = ["cancelling", "cancelled"]

        done = generated(asked(2), model(server, tmp_path, waited=Waited(cancel)))
        assert kinds(done) == ["cancelled"] * 2
        assert len(server.batches) == 1


def test_a_line_that_the_provider_refuses_fails_alone_and_the_others_go_into_another_batch(tmp_path: Path) -> None:
    def refuse(lines: list[dict[str, Any]]) -> list[dict[str, Any]] | None:
        wrong = [n for n, line in enumerate(lines, 1) if line["body"]["messages"][-1]["content"] == "p1"]
        return [{"code": "invalid_request", "message": "bad line", "line": n} for n in wrong] or None

    with batch_server(refuse=refuse) as server:
        done = generated(asked(3), model(server, tmp_path))
    assert kinds(done) == [None, "bad_request", None]
    assert done["completion_error"][1]["message"] == "bad line"
    assert server.begun == {"p0": 1, "p2": 1}


@pytest.mark.parametrize(("code", "error"), [("model_not_found", UnknownModelError), ("billing", BackendError)])
def test_a_batch_that_is_refused_as_a_whole_stops_the_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, code: str, error: type[Exception]
) -> None:
    with batch_server(refuse=lambda lines: [{"code": code, "message": "No.", "line": None}]) as server:
        with pytest.raises(error, match=r"refused the batch batch_2: No\. Nothing was asked or charged"):
            generated(asked(2), model(server, tmp_path))
    assert notes(tmp_path) == []
    assert "goes on" not in caplog.text


# --- calls that fail -------------------------------------------------------------------------------------------------

CALLS = ("POST /files", "POST /batches", "GET /batches/ID", "GET /files/ID/content")


@pytest.mark.parametrize("fault", [429, 500, 503, "reset", "reset after"])
@pytest.mark.parametrize("call", CALLS)
def test_a_call_that_fails_is_made_again_and_no_batch_is_begun_twice(
    tmp_path: Path, call: str, fault: str | int
) -> None:
    with batch_server(faults=lambda made, before: fault if made == call and before < 2 else None) as server:
        done = generated(asked(3), model(server, tmp_path))
    assert kinds(done) == [None] * 3
    assert server.begun == {"p0": 1, "p1": 1, "p2": 1}
    assert notes(tmp_path) == []


def test_a_batch_of_which_nobody_was_told_is_found_on_whatever_page_it_is(tmp_path: Path) -> None:
    with batch_server(
        faults=lambda call, before: "reset after" if (call, before) == ("POST /batches", 0) else None
    ) as s:
        for n in range(5):
            s._create({**_BATCH, "input_file_id": s._file(b"{}")["id"], "metadata": {"agora": f"other {n}"}})
        s.batches = dict(sorted(s.batches.items(), reverse=True))
        generated(asked(2), model(s, tmp_path))
        assert s.calls["POST /batches"] == 1
        assert s.begun == {"p0": 1, "p1": 1}


_BATCH = {"endpoint": "/v1/chat/completions", "completion_window": "24h"}


def test_pauses_grow_while_nobody_answers_and_end_with_an_error_that_says_how_to_go_on(tmp_path: Path) -> None:
    waited = Waited()
    with batch_server(faults=lambda call, before: 503 if call == "GET /batches/ID" else None) as server:
        with pytest.raises(EndpointError, match="Batches that were submitted go on there"):
            generated(asked(2), model(server, tmp_path, waited=waited, outage_s=100))
    assert waited.pauses[:5] == [0.5, 1.0, 2.0, 4.0, 8.0]
    assert sum(waited.pauses) < 300
    assert len(notes(tmp_path)) == 1


def test_a_batch_is_looked_at_less_and_less_often_while_nothing_happens(tmp_path: Path) -> None:
    waited = Waited()
    with batch_server(steps=("in_progress", *["validating"] * 9, "completed")) as server:
        generated(asked(1), model(server, tmp_path, waited=waited, poll_s=4, longest_poll_s=20))
    assert waited.pauses == [4, 4, 6, 9, 13.5, 20, 20, 20, 20, 20]


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_stops_the_run_and_is_not_told(tmp_path: Path, status: int) -> None:
    with batch_server(faults=lambda call, before: status) as server:
        with pytest.raises(AuthenticationError) as told:
            generated(asked(1), model(server, tmp_path))
    assert "secret" not in str(told.value)
    assert notes(tmp_path) == []


# --- runs that ended too early ---------------------------------------------------------------------------------------


def interrupted(server: BatchServer, folder: Path, df: pl.DataFrame, at: int = 2, **options: Any) -> None:
    """A run that dies at a pause."""

    def die(pause: int) -> None:
        if pause == at:
            raise RuntimeError("died")

    with pytest.raises(RuntimeError, match="died"):
        generated(df, model(server, folder, waited=Waited(die), **options))


def test_a_run_that_was_interrupted_is_taken_up_with_the_same_batches(tmp_path: Path) -> None:
    with batch_server() as server:
        interrupted(server, tmp_path, asked(5), max_requests=2)
        assert len(notes(tmp_path)) == 3
        done = generated(asked(6), model(server, tmp_path))
        assert kinds(done) == [None] * 6
        assert server.begun == {f"p{i}": 1 for i in range(6)}
    assert notes(tmp_path) == []


def test_who_asks_for_a_part_of_a_batch_records_all_of_it(tmp_path: Path) -> None:
    with batch_server() as server:
        interrupted(server, tmp_path, asked(5))
        assert generated(asked(2), model(server, tmp_path))["completion"].to_list() == ["P0", "P1"]
        calls = server.calls.total()
        assert generated(asked(5), model(server, tmp_path))["completion"].to_list() == [f"P{i}" for i in range(5)]
        assert server.calls.total() == calls


def test_a_batch_of_other_rows_or_another_model_is_left_alone(tmp_path: Path) -> None:
    with batch_server() as server:
        interrupted(server, tmp_path, asked(3))
        generated(prompts("other"), model(server, tmp_path))
    assert len(notes(tmp_path)) == 1


def test_a_ledger_on_an_object_store_keeps_its_notes_there(tmp_path: Path) -> None:
    url = f"memory://batches{tmp_path}"
    with batch_server() as server:
        interrupted(server, url, asked(3))  # type: ignore[arg-type]
        generated(asked(3), model(server, url))  # type: ignore[arg-type]
        assert server.begun == {"p0": 1, "p1": 1, "p2": 1}
    assert notes(url) == []  # type: ignore[arg-type]


def test_an_interruption_in_the_middle_of_the_results_records_none_twice(tmp_path: Path) -> None:
    with batch_server() as server:
        interrupted(server, tmp_path, asked(6))
        name = notes(tmp_path)[0]
        noted = notes_beside(Ledger(tmp_path).place, "batches").read(name) or {}
        Ledger(tmp_path).write({"key": noted["keys"][2], "text": "P2", "cost_usd": 0.0})  # as far as it came
        generated(asked(6), model(server, tmp_path))
    assert Ledger(tmp_path).frame()["key"].is_duplicated().sum() == 0
    assert Ledger(tmp_path).frame().height == 6


def test_a_batch_that_another_key_does_not_know_is_not_submitted_again(tmp_path: Path) -> None:
    with batch_server() as server:
        interrupted(server, tmp_path, asked(3))
        server.batches.clear()  # as another project sees it
        with pytest.raises(EndpointError, match="Use the API key of the same project"):
            generated(asked(3), model(server, tmp_path))
        assert server.calls["POST /batches"] == 1


def unsure(server: BatchServer, folder: Path) -> None:
    """A run that ended before it knew whether its batch was made, which it was not."""
    server.faults = lambda call, before: "reset" if call == "POST /batches" else 503 if call == "GET /batches" else None
    with pytest.raises(EndpointError):
        generated(asked(3), model(server, folder, outage_s=1))
    server.faults = lambda call, before: None


def test_an_input_of_which_no_batch_was_made_is_deleted_before_another_is_submitted(tmp_path: Path) -> None:
    with batch_server() as server:
        unsure(server, tmp_path)
        (first,) = server.files
        generated(asked(3), model(server, tmp_path))
        assert first not in server.files
        assert server.begun == {"p0": 1, "p1": 1, "p2": 1}


def test_an_input_that_another_key_does_not_know_is_not_submitted_again(tmp_path: Path) -> None:
    with batch_server() as server:
        unsure(server, tmp_path)
        server.files.clear()
        with pytest.raises(EndpointError, match="knows no file"):
            generated(asked(3), model(server, tmp_path))
        assert server.begun.total() == 0


def test_results_that_the_provider_has_no_more_are_bad_replies(tmp_path: Path) -> None:
    with batch_server() as server:
        waited = Waited(lambda pause: [server.files.pop(n) for n, c in list(server.files.items()) if b"response" in c])
        interrupted(server, tmp_path, asked(2))
        for batch in server.batches.values():
            batch |= {"steps": [], "status": "completed", "output_file_id": "file-gone"}
        done = generated(asked(2), model(server, tmp_path, waited=waited))
    assert kinds(done) == ["bad_reply"] * 2


def test_ctrl_c_leaves_the_batch_running_and_says_how_to_go_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with batch_server() as server, caplog.at_level(logging.WARNING):
        by = backend(server)
        by = replace(by, wait=Stop.wait, poll_s=(30.0, 30.0))
        whole = remembered(by, ledger=Ledger(tmp_path))
        # A moment after the first look at the batch, when it waits for the next.
        later = threading.Timer(0.5, lambda: os.kill(os.getpid(), 2))
        server.faults = lambda call, before: later.start() if (call, before) == ("GET /batches/ID", 0) else None
        with pytest.raises(KeyboardInterrupt):
            generated(asked(3), whole)
        assert "batch_2 goes on" in caplog.text
        assert "nothing is submitted twice" in caplog.text.replace("\n", " ")
        assert kinds(generated(asked(3), model(server, tmp_path))) == [None] * 3
        assert server.begun == {"p0": 1, "p1": 1, "p2": 1}


# --- money -----------------------------------------------------------------------------------------------------------


def at_most() -> float:
    """What one of these requests can cost at most, as the budget sees it."""
    prices = batch_prices_of("", "", (2, 4), discount=0.5)
    assert prices is not None
    return prices.at_most(512 + 36 + 2 * len('{"max_tokens":5,"seed":1234567890}'), 5) or 0.0


def test_no_more_is_submitted_than_the_ceiling_lets_and_what_is_left_is_spent_later(tmp_path: Path) -> None:
    with batch_server() as server:
        by = model(server, tmp_path, max_cost=3.5 * at_most())
        done = generated(asked(9), by)
        sizes = [len(batch["lines"]) for batch in server.batches.values()]
    assert kinds(done) == [None] * 9  # a reply takes much less than is reserved for it
    assert sizes[0] == 3
    assert by.budget.reserved == {"cost_usd": 0.0}
    assert by.budget.spent["cost_usd"] == pytest.approx(9 * 20e-6)


def test_what_does_not_fit_under_the_ceiling_is_not_asked(tmp_path: Path) -> None:
    with batch_server() as server:
        done = generated(asked(3), model(server, tmp_path, max_cost=0.5 * at_most()))
        assert kinds(done) == ["over_budget"] * 3
        assert server.calls.total() == 0


def test_a_batch_of_an_earlier_run_is_under_the_ceiling_before_another_is_submitted(tmp_path: Path) -> None:
    with batch_server() as server:
        interrupted(server, tmp_path, asked(4))
        by = model(server, tmp_path, max_cost=2 * at_most())
        seen: list[int] = []
        by = replace(by, backend=replace(by.backend, wait=Waited(lambda pause: seen.append(len(server.batches)))))
        done = generated(asked(6), by)
        assert kinds(done) == [None] * 6
        assert seen[0] == 1  # nothing new beside it, as it may take more than there is
        assert by.budget.reserved == {"cost_usd": 0.0}


def test_after_an_interruption_nothing_stays_reserved(tmp_path: Path) -> None:
    with batch_server() as server:
        by = model(server, tmp_path, max_cost=1, waited=Waited(lambda pause: 1 / 0))
        with pytest.raises(ZeroDivisionError):
            generated(asked(4), by)
        assert by.budget.reserved == {"cost_usd": 0.0}


# --- what is seen, and what is wrong ---------------------------------------------------------------------------------


def test_progress_shows_how_far_a_batch_is(tmp_path: Path) -> None:
    seen: list[tuple[int | None, str | None]] = []
    with batch_server() as server:
        by = backend(server)
        meter = Meter("tiny", 8, remembered(by, ledger=Ledger(tmp_path)))

        def look(pause: int) -> None:
            reading = meter.read()
            seen.append((reading.in_flight, reading.held))

        meter.backend = whole = remembered(replace(by, wait=Waited(look)), ledger=Ledger(tmp_path))
        generated(asked(8), whole)
    assert seen[0] == (8, "batch_2 validating, 0 of 8 done")
    assert (4, "batch_2 in_progress, 4 of 8 done") in seen
    assert whole.status() is None


def test_without_a_ledger_nothing_is_asked() -> None:
    with batch_server() as server, pytest.raises(BindError, match="needs a ledger"):
        generate_column(asked(1), backend=backend(server))
    assert server.calls.total() == 0


def test_openai_itself_is_not_asked_without_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(AuthenticationError, match="export OPENAI_API_KEY"):
        generated(asked(1), remembered(openai_batch("gpt-4o-mini"), ledger=Ledger(tmp_path)))


@pytest.mark.parametrize(
    "options",
    [
        *({"max_requests": 0}, {"max_bytes": 1.5}, {"max_queued_tokens": True}, {"tries": 0}, {"poll_s": 0}),
        *({"discount": 2}, {"timeout_s": "1"}, {"base_url": "nowhere"}, {"base_url": "http://a:b@127.0.0.1"}),
    ],
    ids=str,
)
def test_a_wrong_option_is_an_error(options: dict[str, Any]) -> None:
    with pytest.raises(BindError):
        openai_batch("tiny", **options)


def test_it_has_a_name_travels_and_keeps_its_key_to_itself(tmp_path: Path) -> None:
    by = connect("openai-batch:gpt-4o-mini", api_key="secret", ledger=tmp_path)
    assert isinstance(by.backend, OpenAIBatch)
    assert "secret" not in repr(by)
    assert repr(pickle.loads(pickle.dumps(by))) == repr(by)


def test_what_another_process_has_recorded_since_the_look_up_is_not_asked(tmp_path: Path) -> None:
    """It may have ended the batch of a dead run, and removed its note, just before the notes are read here."""
    with batch_server() as server:
        by = model(server, tmp_path)
        requests = build_requests(asked(3), column="prompt", sampling={"max_tokens": 5}, seed=0, backend=by)
        Ledger(tmp_path).write({"key": requests["key"][1], "text": "theirs"})
        replies = pl.concat(by._ask(requests))  # which comes after the look-up
    assert sorted(replies["text"].to_list()) == ["P0", "P2", "theirs"]
    assert server.begun == {"p0": 1, "p2": 1}


def test_an_error_while_a_batch_is_looked_for_leaves_its_lock_free(tmp_path: Path) -> None:
    """A notebook keeps the last error, and with it all that its frames hold."""
    with batch_server(faults=lambda call, before: 403 if (call, before) == ("GET /batches/ID", 0) else None) as server:
        for _ in range(2):  # the first ends at the first look at its batch, the second while it takes that up
            with pytest.raises(AuthenticationError) as kept:
                generated(asked(3), model(server, tmp_path))
            server.faults = lambda call, before: 403 if (call, before) == ("GET /batches/ID", 1) else None
        server.faults = lambda call, before: None
        done = generated(asked(3), model(server, tmp_path, waited=Waited(_few)))
    assert kinds(done) == [None] * 3
    assert server.calls["POST /batches"] == 1
    assert kept.value is not None


def _few(pauses: int) -> None:
    assert pauses < 100, "it waits for a lock that nobody gives back"


def test_a_disk_that_is_full_after_a_submission_leaves_the_lock_free_and_the_batch_is_found(tmp_path: Path) -> None:
    folder, away = tmp_path / "batches", tmp_path / "away"

    def block() -> None:
        folder.rename(away)
        folder.write_text("")

    faults = {("POST /batches", 0): After(block)}
    with batch_server(faults=lambda call, before: faults.get((call, before))) as server:
        with pytest.raises(StorageError) as kept:
            generated(asked(3), model(server, tmp_path))
        folder.unlink()
        away.rename(folder)
        done = generated(asked(3), model(server, tmp_path, waited=Waited(_few)))
    assert kinds(done) == [None] * 3
    assert server.calls["POST /batches"] == 1
    assert kept.value is not None


@pytest.mark.parametrize("note", ["[]", "null", "{", '{"endpoint": "URL", "model": "tiny", "of": "tomorrow"}'])
def test_a_note_that_cannot_be_understood_is_an_error_before_anything_is_asked(tmp_path: Path, note: str) -> None:
    (tmp_path / "batches").mkdir()
    with batch_server() as server:
        (tmp_path / "batches" / "agora-1.json").write_text(note.replace("URL", server.url))
        with pytest.raises(StorageError, match=r"the note 'agora-1' in .* a batch that may be paid for"):
            generated(asked(2), model(server, tmp_path))
        assert server.calls == {}

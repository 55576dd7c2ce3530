"""A remembered backend: what was paid for is recorded before anybody sees it, and is never asked again."""

from __future__ import annotations

import contextlib
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import warnings
import weakref
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ledgers import Asked, Stub, child, keys, line, prompts, run, segment, segments
from polars.testing import assert_frame_equal
from servers import Fault, chat_server

from agora_frames.backends.chat import NO_DESK, failed, frame_of, rows_of
from agora_frames.backends.openai_chat import openai_chat
from agora_frames.backends.scripted import failing, scripted
from agora_frames.errors import AuthenticationError, OfflineError, StorageError
from agora_frames.frames import REQUESTS, SETTLED
from agora_frames.ledger import LEDGER, Ledger
from agora_frames.remembered import remembered
from agora_frames.stages.generate import generate_column
from agora_frames.stages.requests import build_requests
from agora_frames.types import Desk


def test_a_reply_is_recorded_before_it_is_passed_on(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    backend = remembered(scripted(Asked()), ledger=ledger)
    recorded: list[bool] = []
    told: list[pl.DataFrame] = []

    def spy(requests: pl.DataFrame) -> Iterator[pl.DataFrame]:
        for frame in backend(requests):
            on_disk = Ledger(tmp_path).frame()
            recorded.append(frame.join(on_disk, on="key", how="anti").is_empty())
            told.append(frame)
            yield frame

    generate_column(prompts(3), backend=Stub(spy))
    assert sum(frame.height for frame in told) == 3
    assert all(recorded)


def test_a_row_of_the_ledger_tells_what_was_asked_of_whom_for_which_row_and_when(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, recipe="mine", run="7")
    backend = remembered(scripted(Asked(), model="m"), ledger=ledger)
    done = generate_column(prompts(1), backend=backend, temperature=0.5, samples=2)
    frame = ledger.frame()
    assert frame.schema == LEDGER
    assert frame.select("endpoint", "model", "row_id", "sample", "recipe", "run", "text").rows() == [
        ("scripted", "m", "r0", 0, "mine", "7", "P0"),
        ("scripted", "m", "r0", 1, "mine", "7", "P0"),
    ]
    call = done["completion_call"].struct
    assert frame["sampling"].to_list() == call.field("sampling").to_list()
    assert frame["key"].to_list() == call.field("key").to_list()
    assert frame["at"].is_sorted()
    assert frame["at"].min() > 1.7e9  # type: ignore[operator]


def test_every_attempt_is_a_row_and_so_the_cost_of_a_run_is_a_query(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    attempts = [
        failing("bad_reply", cost_usd=0.25),
        failing("rate_limited", cost_usd=None),
        {"text": "A", "cost_usd": 0.5},
    ]
    run(ledger, {"p0": attempts, "p1": failing("truncated", text="B", cost_usd=1.0)}, prompts(2))
    frame = ledger.frame()
    assert frame["retried"].to_list() == [True, True, False, False]
    assert frame["cost_usd"].sum() == 1.75


def test_a_reply_to_a_request_that_was_never_made_is_recorded_too(tmp_path: Path) -> None:
    def strange(requests: pl.DataFrame) -> Iterator[pl.DataFrame]:
        yield frame_of([{"key": "unknown", "text": "paid"}])

    backend = remembered(Stub(strange), ledger=Ledger(tmp_path))
    generate_column(prompts(1), backend=backend)
    assert backend.ledger.frame().select("key", "text", "row_id").rows() == [("unknown", "paid", None)]


def test_no_folder_is_made_for_nothing(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger")
    assert ledger.frame().schema == LEDGER
    run(ledger, Asked(), prompts(0))
    assert not (tmp_path / "ledger").exists()


def test_folders_above_are_made(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "a" / "b")
    run(ledger, Asked(), prompts(1))
    assert ledger.frame().height == 1


def test_what_is_known_is_not_asked_again_and_the_frame_is_the_same(tmp_path: Path) -> None:
    script = Asked(p1=failing("refused", "no"), p2={"text": "x", "reasoning": "y", "cost_usd": 0.1 + 0.2})
    first = run(Ledger(tmp_path), script, prompts(4), temperature=1, samples=2)
    assert len(script.prompts) == 8
    assert_frame_equal(run(Ledger(tmp_path), script, prompts(4), temperature=1, samples=2), first)
    assert len(script.prompts) == 8


def test_only_what_is_missing_is_asked(tmp_path: Path) -> None:
    script = Asked()
    run(Ledger(tmp_path), script, prompts(2))
    run(Ledger(tmp_path), script, prompts(5))
    assert script.prompts == ["p0", "p1", "p2", "p3", "p4"]


@pytest.mark.parametrize("kind", SETTLED)
def test_a_failure_that_would_come_back_the_same_is_answered_from_the_ledger(tmp_path: Path, kind: str) -> None:
    script = Asked(p0=failing(kind, "why", text="half", finish_reason="x"))
    first = run(Ledger(tmp_path), script, prompts(1))
    assert_frame_equal(run(Ledger(tmp_path), script, prompts(1)), first)
    assert script.prompts == ["p0"]


@pytest.mark.parametrize(
    "kind", ["rate_limited", "timeout", "connection", "server_error", "bad_reply", "bad_request", "context_too_long"]
)
def test_a_failure_is_recorded_and_asked_again(tmp_path: Path, kind: str) -> None:
    script = Asked(p0=failing(kind))
    assert run(Ledger(tmp_path), script, prompts(1))["completion"].to_list() == [None]
    del script.said["p0"]
    assert run(Ledger(tmp_path), script, prompts(1))["completion"].to_list() == ["P0"]
    errors = Ledger(tmp_path).frame()["error"].to_list()
    assert errors == [{"kind": kind, "message": "as the script says"}, None]


def test_another_model_is_asked_for_itself(tmp_path: Path) -> None:
    ledger, script = Ledger(tmp_path), Asked()
    for model in ("one", "two"):
        generate_column(prompts(1), backend=remembered(scripted(script, model=model), ledger=ledger))
    assert script.prompts == ["p0", "p0"]


def test_a_ledger_of_20_000_replies_answers_a_run(tmp_path: Path) -> None:
    ledger, df = Ledger(tmp_path), prompts(20_000)

    def at_once(requests: pl.DataFrame) -> Iterator[pl.DataFrame]:
        for part in requests.iter_slices(5_000):
            yield frame_of([{"key": key, "text": f"{row_id}!"} for key, row_id in part.select("key", "row_id").rows()])

    def refuses(requests: pl.DataFrame) -> Iterator[pl.DataFrame]:
        raise AssertionError(f"asked for {requests.height} requests")

    first = generate_column(df, backend=remembered(Stub(at_once), ledger=ledger))
    again = generate_column(df.reverse(), backend=remembered(Stub(refuses), ledger=Ledger(tmp_path)))
    assert first["completion"].to_list() == [f"r{n}!" for n in range(20_000)]
    told = ["row_id", "completion", "completion_error"]  # reversed, Polars forgets the type of a list of nulls
    assert_frame_equal(again.select(told).reverse(), first.select(told))


FLOATS = st.none() | st.floats(allow_nan=False, allow_infinity=False)


@given(
    rows=st.lists(
        st.tuples(st.none() | st.text(), st.none() | st.text(), FLOATS, st.none() | st.integers(0, 2**62)), min_size=1
    )
)
@settings(max_examples=50, deadline=None)
def test_every_value_comes_back_as_it_was(rows: list[Any], tmp_path_factory: pytest.TempPathFactory) -> None:
    written = frame_of(
        [
            {"key": str(n), "text": text, "error": message and {"kind": "refused", "message": message}}
            | {"cost_usd": number, "latency_s": number, "prompt_tokens": count}
            for n, (text, message, number, count) in enumerate(rows)
        ]
    )
    ledger = Ledger(tmp_path_factory.mktemp("ledger"))
    asked = pl.DataFrame({"key": written["key"]}).with_columns(
        pl.lit(None, dtype=dtype).alias(name) for name, dtype in REQUESTS.items() if name != "key"
    )
    list(remembered(Stub(lambda requests: iter([written])), ledger=ledger)(asked))
    assert_frame_equal(Ledger(ledger.path).answers(written["key"]), written, check_exact=True)


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("a\x00b", "a\x00b"),
        ("\r\n\u2028\u2029\x85\x0b", "\r\n\u2028\u2029\x85\x0b"),
        ('{"key": "x"}\n{"key": "y"}\n', '{"key": "x"}\n{"key": "y"}\n'),
        ("🌍\ufeff\uffff", "🌍\ufeff\uffff"),
        ("half \ud83d of a pair", "half \ufffd of a pair"),
        ("\\ud83d \\u0000", "\\ud83d \\u0000"),
    ],
)
def test_odd_characters_in_a_reply_break_no_line(tmp_path: Path, said: str, kept: str) -> None:
    first = run(Ledger(tmp_path), Asked(p0=said), prompts(2))
    assert first["completion"].to_list() == [kept, "P1"]
    assert_frame_equal(run(Ledger(tmp_path), Asked(p0="asked again", p1="asked again"), prompts(2)), first)


def test_a_run_after_a_torn_one_begins_a_segment_of_its_own(tmp_path: Path) -> None:
    ledger = segment(tmp_path, line(key="a") + b'{"key": "torn')
    run(ledger, Asked(), prompts(1))
    assert len(segments(ledger)) == 2
    assert ledger.frame()["text"].to_list() == ["t", "P0"]


def test_several_processes_on_one_ledger_lose_and_tear_nothing(tmp_path: Path) -> None:
    code = """
        import sys
        import polars as pl
        from agora_frames.backends.scripted import scripted
        from agora_frames.ledger import Ledger
        from agora_frames.remembered import remembered
        from pathlib import Path
        from agora_frames.stages.generate import generate_column
        folder, who = Path(sys.argv[1]), sys.argv[2]
        backend = remembered(scripted(lambda messages: messages[-1]["content"] + "ä" * 3000), ledger=Ledger(folder))
        print("ready", flush=True)
        sys.stdin.readline()
        names = [f"{who}-{n}" for n in range(150)]
        generate_column(pl.DataFrame({"row_id": names, "prompt": names}), backend=backend)
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with contextlib.ExitStack() as stack:
        writers = [stack.enter_context(subprocess.Popen([*command, who], **pipes)) for who in "abc"]  # type: ignore[call-overload]
        for writer in writers:
            assert writer.stdout.readline() == "ready\n"
        for writer in writers:
            writer.stdin.write("go\n")
            writer.stdin.flush()
        assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        frame = Ledger(tmp_path).frame()
    assert set(frame["row_id"]) == {f"{who}-{n}" for who in "abc" for n in range(150)}
    assert frame.height == 450
    assert (frame["text"] == frame["row_id"] + "ä" * 3000).all()
    assert len(segments(Ledger(tmp_path))) == 3


def test_several_threads_on_one_ledger_lose_and_tear_nothing(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)

    def work(who: str) -> None:
        names = [f"{who}-{n}" for n in range(60)]
        run(ledger, Asked(), pl.DataFrame({"row_id": names, "prompt": names}))

    threads = [threading.Thread(target=work, args=(who,)) for who in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(keys(ledger)) == len(set(keys(ledger))) == 240
    assert set(ledger.frame()["row_id"]) == {f"{who}-{n}" for who in "abcd" for n in range(60)}


FILLS = """
    import sys
    from pathlib import Path
    import polars as pl
    from agora_frames.backends.scripted import scripted
    from agora_frames.errors import StorageError
    from agora_frames.ledger import Ledger
    from agora_frames.remembered import remembered
    from agora_frames.stages.generate import generate_column
    {prepare}
    ledger = Ledger(Path(sys.argv[1]))
    names = [f"r{{n}}" for n in range(100)]
    df = pl.DataFrame({{"row_id": names, "prompt": names}})
    asked = []
    def script(messages):
        asked.append(messages[-1]["content"])
        return asked[-1] * 1000
    try:
        generate_column(df, backend=remembered(scripted(script), ledger=ledger))
    except StorageError as exc:
        print(len(asked))
        print(exc)
"""


def told_of_a_full_disk(folder: Path, prepare: str, *, told: str, lost: int) -> None:
    """Runs into the limit, checks what was told, and that so many of the replies are not recorded."""
    count, message = child(FILLS.format(prepare=prepare), folder).stdout.splitlines()
    asked = int(count)
    assert 5 < asked < 100
    assert told in message
    assert "make room, and run again" in message
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        frame = Ledger(folder).frame()
    assert frame["row_id"].to_list() == [f"r{n}" for n in range(asked - lost)]
    assert (frame["text"] == pl.Series([f"r{n}" * 1000 for n in range(asked - lost)])).all()


def resumed(folder: Path) -> list[str]:
    """What the next run asks; it must complete the frame."""
    script = Asked()
    names = [f"r{n}" for n in range(100)]
    done = run(Ledger(folder), script, pl.DataFrame({"row_id": names, "prompt": names}))
    assert done["completion"].null_count() == 0
    return script.prompts


def test_a_segment_at_its_size_limit_stops_the_run_and_the_next_asks_only_the_rest(tmp_path: Path) -> None:
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))"
    told_of_a_full_disk(tmp_path, limit, told="could not be recorded", lost=1)
    recorded = Ledger(tmp_path).frame().height
    assert resumed(tmp_path) == [f"r{n}" for n in range(recorded, 100)]


def test_a_full_disk_stops_the_run_loses_nothing_and_the_next_asks_only_the_rest(tmp_path: Path) -> None:
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", tmp_path], check=False).returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        told_of_a_full_disk(tmp_path / "ledger", "pass", told="there is no more room", lost=0)
        recorded = Ledger(tmp_path / "ledger").frame().height
        subprocess.run(["mount", "-o", "remount,size=8m", tmp_path], check=True)
        assert resumed(tmp_path / "ledger") == [f"r{n}" for n in range(recorded, 100)]
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_a_file_in_the_place_of_the_folder_is_told_before_anything_is_asked(tmp_path: Path) -> None:
    (tmp_path / "ledger").write_text("not a folder")
    script = Asked()
    with pytest.raises(StorageError, match=r"ledger' cannot be read: Not a directory.*nothing was asked"):
        run(Ledger(tmp_path / "ledger"), script, prompts(1))
    assert script.prompts == []


def test_a_folder_that_cannot_be_made_is_told_before_anything_is_asked(tmp_path: Path) -> None:
    script = Asked()
    with pytest.raises(StorageError, match=r"cannot be written.*Nothing was asked.*AGORA_LEDGER"):
        run(Ledger(Path("/proc/agora/ledger")), script, prompts(1))
    assert script.prompts == []


def test_a_segment_that_is_a_folder_is_told_before_anything_is_asked(tmp_path: Path) -> None:
    (tmp_path / "20260101T000000-1-a.jsonl").mkdir()
    script = Asked()
    with pytest.raises(StorageError, match=r"segment .*-a\.jsonl' cannot be read: Is a directory.*nothing was asked"):
        run(Ledger(tmp_path), script, prompts(1))
    assert script.prompts == []


CLOSED = """
    import os, sys
    from pathlib import Path
    import polars as pl
    from agora_frames.backends.scripted import scripted
    from agora_frames.errors import StorageError
    from agora_frames.ledger import Ledger
    from agora_frames.remembered import remembered
    from agora_frames.stages.generate import generate_column
    def script(messages):
        raise AssertionError("asked")
    if os.geteuid() == 0:
        os.seteuid(65534)
    df = pl.DataFrame({"row_id": ["r"], "prompt": ["p"]})
    try:
        generate_column(df, backend=remembered(scripted(script), ledger=Ledger(Path(sys.argv[1]))))
    except StorageError as exc:
        print(exc)
"""


@pytest.mark.parametrize(
    ("closed", "mode", "told"),
    [
        ("ledger", 0o000, "ledger' cannot be read: Permission denied"),
        ("ledger", 0o500, "ledger' cannot be written: Permission denied"),
        ("ledger/20260101T000000-1-a.jsonl", 0o000, "-a.jsonl' cannot be read: Permission denied"),
    ],
    ids=["unreadable folder", "unwritable folder", "unreadable segment"],
)
def test_what_may_not_be_read_or_written_is_told_before_anything_is_asked(closed: str, mode: int, told: str) -> None:
    # Not in tmp_path: pytest closes the folders above it to the user that the child becomes.
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        segment(folder / "ledger", line(key="a"))
        if os.geteuid() == 0:
            for path in (folder / "ledger", *(folder / "ledger").iterdir()):
                os.chown(path, 65534, 65534)
        (folder / closed).chmod(mode)
        try:
            said = child(CLOSED, folder / "ledger").stdout
        finally:
            (folder / closed).chmod(0o755)
    assert told in said
    assert "othing was asked" in said


def test_offline_answers_what_is_known_and_lists_the_rest_without_asking(tmp_path: Path) -> None:
    script = Asked()
    run(Ledger(tmp_path), script, prompts(2))
    backend = remembered(scripted(script), ledger=Ledger(tmp_path), offline=True)
    assert generate_column(prompts(2), backend=backend)["completion"].to_list() == ["P0", "P1"]
    with pytest.raises(OfflineError, match=r"lacks 2 of the replies of scripted: 'row_id r2 sample 0', 'row_id r3"):
        generate_column(prompts(4), backend=backend)
    assert script.prompts == ["p0", "p1"]


def test_offline_writes_nothing(tmp_path: Path) -> None:
    backend = remembered(scripted(Asked()), ledger=Ledger(tmp_path / "ledger"), offline=True)
    with pytest.raises(OfflineError, match="Run again without offline"):
        generate_column(prompts(1), backend=backend)
    assert not (tmp_path / "ledger").exists()


def test_a_reader_that_stops_early_still_has_all_that_was_in_flight_recorded(tmp_path: Path) -> None:
    def plan(prompt: str, attempt: int) -> Fault:
        time.sleep(0 if prompt == "p0" else 0.3)
        return "ok"

    with chat_server(plan) as chat:
        model = openai_chat("tiny", base_url=chat.url, api_key="secret", concurrency=3)
        backend = remembered(model, ledger=Ledger(tmp_path))
        stream = backend(build_requests(prompts(30), column="prompt", sampling={}, seed=0, backend=backend))
        assert next(stream)["text"].to_list() == ["P0"]
        stream.close()  # type: ignore[attr-defined]
        assert {"P0", "P1", "P2"} <= set(backend.ledger.frame()["text"])
        assert backend.ledger.frame().height == chat.asked.total() < 6


def test_a_reader_that_stops_early_asks_nothing_more_of_a_backend_that_cannot_be_interrupted(tmp_path: Path) -> None:
    class Plain:
        """An iterator, not a generator."""

        def __init__(self, requests: pl.DataFrame) -> None:
            self.left = requests.iter_slices(1)
            self.asked = 0

        def __iter__(self) -> Iterator[pl.DataFrame]:
            return self

        def __next__(self) -> pl.DataFrame:
            self.asked += 1
            return frame_of([{"key": next(self.left)["key"][0], "text": "x"}])

    plain: list[Plain] = []
    backend = remembered(Stub(lambda requests: plain.append(Plain(requests)) or plain[0]), ledger=Ledger(tmp_path))  # type: ignore[func-returns-value]
    stream = backend(build_requests(prompts(5), column="prompt", sampling={}, seed=0, backend=backend))
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert plain[0].asked == backend.ledger.frame().height == 1


def test_a_stream_that_is_left_half_read_does_not_keep_the_process_from_ending(tmp_path: Path) -> None:
    with chat_server(lambda prompt, attempt: "ok" if prompt == "p0" else "slow", slow_s=30) as chat:
        child(
            """
            import sys
            from pathlib import Path
            import polars as pl
            from agora_frames.backends.openai_chat import openai_chat
            from agora_frames.ledger import Ledger
            from agora_frames.remembered import remembered
            from agora_frames.stages.requests import build_requests
            model = openai_chat("tiny", base_url=sys.argv[2], api_key="secret", concurrency=2)
            backend = remembered(model, ledger=Ledger(Path(sys.argv[1])))
            df = pl.DataFrame({"row_id": ["r0", "r1"], "prompt": ["p0", "p1"]})
            stream = backend(build_requests(df, column="prompt", sampling={}, seed=0, backend=backend))
            next(stream)
            """,
            tmp_path,
            chat.url,
        )
    assert Ledger(tmp_path).frame()["text"].to_list() == ["P0"]


def test_a_stage_that_fails_in_the_middle_still_has_all_that_was_in_flight_recorded(tmp_path: Path) -> None:
    def fails(df: pl.DataFrame) -> None:
        raise ValueError("enough")

    with chat_server(latency_s=0.1) as chat:
        model = openai_chat("tiny", base_url=chat.url, api_key="secret", concurrency=3)
        backend = remembered(model, ledger=Ledger(tmp_path))
        with pytest.raises(ValueError, match="enough"):
            generate_column(prompts(300), backend=backend, observer=fails)
        assert backend.ledger.frame().height == chat.asked.total() < 300


def test_a_ledger_and_a_remembered_backend_travel_to_another_process(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, recipe="mine", run="7")
    backend = remembered(scripted({"p0": "A"}), ledger=ledger, offline=True)
    ledger.open()
    again = pickle.loads(pickle.dumps(backend))
    assert (again.ledger, again.backend, again.offline) == (ledger, backend.backend, True)
    travelled = pickle.loads(pickle.dumps(ledger))
    assert travelled == ledger
    assert travelled.open().path != ledger.open().path


def test_the_ledger_shows_in_the_repr(tmp_path: Path) -> None:
    backend = remembered(scripted({"p0": "A"}), ledger=Ledger(tmp_path), offline=True)
    assert repr(backend) == f"remembered(scripted(dict, model='scripted'), ledger={str(tmp_path)!r}, offline=True)"


def test_no_api_key_is_found_in_a_ledger_a_frame_a_repr_or_an_error(tmp_path: Path) -> None:
    key = "sk-9f8e7d6c5b4a"

    def plan(prompt: str, attempt: int) -> Fault:
        first: dict[str, Fault] = {"p0": "tells key", "p1": 500, "p2": "reset", "p3": 429, "p4": "refusal"}
        return first.get(prompt, "ok") if attempt == 0 else "ok"

    said: list[str] = []
    with chat_server(plan, key=key) as chat:
        given = {"base_url": chat.url, "pause_s": 0.001}
        backend = remembered(openai_chat("tiny", api_key=key, **given), ledger=Ledger(tmp_path / "ledger"))  # type: ignore[arg-type]
        stage = generate_column(backend=backend)
        done = stage(prompts(6))
        wrong = remembered(openai_chat("tiny", api_key=key + "x", **given), ledger=backend.ledger)  # type: ignore[arg-type]
        with pytest.raises(AuthenticationError) as caught:
            generate_column(prompts(9), backend=wrong)
    assert done["completion_error"][0]["kind"] == "bad_request"
    done.write_ndjson(tmp_path / "frame.jsonl")
    said += [repr(backend), repr(stage), stage.fingerprint, str(caught.value), repr(wrong)]
    said += [path.read_text() for path in tmp_path.rglob("*.jsonl")]
    assert len(said) > 5
    assert all(key not in each for each in said)


def test_a_failed_reply_of_a_backend_is_kept_as_it_is(tmp_path: Path) -> None:
    def fails(requests: pl.DataFrame) -> Iterator[pl.DataFrame]:
        yield frame_of([failed(requests["key"][0], "timeout", "late", latency_s=2.5)])

    backend = remembered(Stub(fails), ledger=Ledger(tmp_path))
    generate_column(prompts(1), backend=backend)
    row = backend.ledger.frame().row(0, named=True)
    assert (row["error"], row["latency_s"], row["text"]) == ({"kind": "timeout", "message": "late"}, 2.5, None)


# Who asks for what

ASKS = """
    import os, sys
    import polars as pl
    from pathlib import Path
    import agora_frames as af
    from agora_frames.ledger import Ledger
    folder = Path(sys.argv[1])
    log = os.open(folder / "asked.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    def script(messages):
        prompt = messages[-1]["content"]
        os.write(log, f"{prompt}\\n".encode())
        return prompt.upper()
    backend = af.remembered(af.scripted(script, delay_s=0.002), ledger=Ledger(folder / "ledger"))
    names = [f"p{n}" for n in range(300)]
    print("ready", flush=True)
    sys.stdin.readline()
    done = af.generate_column(pl.DataFrame({"row_id": names, "prompt": names}), backend=backend)
    assert done["completion"].to_list() == [name.upper() for name in names]
"""


@contextlib.contextmanager
def asking(folder: Path, number: int) -> Iterator[list[subprocess.Popen[str]]]:
    """So many processes that want the same 300 replies, and wait for a line to begin."""
    command = [sys.executable, "-c", textwrap.dedent(ASKS), str(folder)]
    with contextlib.ExitStack() as stack:
        processes = [
            stack.enter_context(
                subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
                )
            )
            for _ in range(number)
        ]
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        yield processes


def go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


def asked(folder: Path) -> Counter[str]:
    log = folder / "asked.log"
    return Counter(log.read_text().split()) if log.exists() else Counter()


def ended(process: subprocess.Popen[str]) -> None:
    _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said


@pytest.mark.slow
def test_two_processes_that_want_the_same_at_once_ask_nothing_twice(tmp_path: Path) -> None:
    with asking(tmp_path, 2) as processes:
        for process in processes:
            go(process)
        for process in processes:
            ended(process)
    assert asked(tmp_path) == Counter(f"p{n}" for n in range(300))
    assert Ledger(tmp_path / "ledger").frame().height == 300


@pytest.mark.slow
def test_when_the_one_that_asks_is_killed_the_one_that_waits_takes_over(tmp_path: Path) -> None:
    with asking(tmp_path, 2) as (first, second):
        go(first)
        while asked(tmp_path).total() < 20:
            time.sleep(0.005)
        go(second)
        while asked(tmp_path).total() < 60:
            time.sleep(0.005)
        first.send_signal(signal.SIGKILL)
        ended(second)
    twice = {prompt: number for prompt, number in asked(tmp_path).items() if number > 1}
    assert set(asked(tmp_path)) == {f"p{n}" for n in range(300)}
    assert len(twice) <= 1  # what was in flight
    assert set(twice.values()) <= {2}


def test_a_stream_that_is_left_lying_does_not_stop_the_same_thread(tmp_path: Path) -> None:
    backend = remembered(scripted(Asked()), ledger=Ledger(tmp_path))
    stream = backend(build_requests(prompts(3), column="prompt", sampling={}, seed=0, backend=backend))
    next(stream)
    assert generate_column(prompts(3), backend=backend)["completion"].to_list() == ["P0", "P1", "P2"]
    stream.close()  # type: ignore[attr-defined]


def test_two_threads_that_want_the_same_at_once_ask_nothing_twice(tmp_path: Path) -> None:
    ledger, script = Ledger(tmp_path), Asked()
    backend = remembered(scripted(script, delay_s=0.002), ledger=ledger)
    done: list[pl.DataFrame] = []
    threads = [
        threading.Thread(target=lambda: done.append(generate_column(prompts(50), backend=backend))) for _ in "ab"
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(script.prompts) == sorted(f"p{n}" for n in range(50))
    assert_frame_equal(done[0], done[1])


KNOWN = """
    import os, sys
    import polars as pl
    from agora_frames.backends.scripted import scripted
    from agora_frames.ledger import Ledger
    from agora_frames.remembered import remembered
    from agora_frames.stages.generate import generate_column
    if os.geteuid() == 0:
        os.seteuid(65534)
    df = pl.DataFrame({"row_id": ["r0"], "prompt": ["p0"]})
    done = generate_column(df, backend=remembered(scripted({}), ledger=Ledger(sys.argv[1]), max_cost=1.0))
    print(done["completion"].to_list())
"""


def test_what_is_known_is_answered_from_a_folder_that_may_not_be_written() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        ledger = Ledger(folder / "ledger")
        run(ledger, Asked(), prompts(1))
        ledger.close()
        (folder / "ledger").chmod(0o555)
        try:
            assert child(KNOWN, folder / "ledger").stdout == "['P0']\n"
        finally:
            (folder / "ledger").chmod(0o755)


def priced(messages: list[dict[str, str]]) -> dict[str, Any]:
    return {"text": messages[-1]["content"], "cost_usd": 1.0, "prompt_tokens": 1, "completion_tokens": 1}


def limited(ledger: Ledger, max_cost: float) -> Any:
    # A request is reserved with one dollar, of its reply alone.
    backend = scripted(priced, prices=(0.0, 1e6))
    return remembered(backend, ledger=ledger, max_cost=max_cost)


def test_a_step_that_is_wholly_known_counts_under_the_ceiling_of_the_next(tmp_path: Path) -> None:
    first, second = prompts(6), pl.DataFrame({"row_id": [f"s{n}" for n in range(6)], "prompt": list("abcdef")})
    generate_column(first, backend=limited(Ledger(tmp_path), 9.0), max_tokens=1)
    resumed = limited(Ledger(tmp_path), 9.0)
    generate_column(first, backend=resumed, max_tokens=1)
    done = generate_column(second, backend=resumed, max_tokens=1)
    assert done["completion"].null_count() == 3
    assert Ledger(tmp_path).frame()["cost_usd"].sum() == 9.0


def test_what_another_spends_on_the_same_rows_while_it_is_waited_for_is_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    begun, goes_on = threading.Event(), threading.Event()

    def script(messages: list[dict[str, str]]) -> dict[str, Any]:
        begun.set()
        goes_on.wait(10)
        return priced(messages)

    one = remembered(scripted(script, prices=(0.0, 1e6)), ledger=Ledger(tmp_path), max_cost=5.0)
    other = limited(Ledger(tmp_path), 5.0)
    threads = [
        threading.Thread(target=generate_column, args=[prompts(8)], kwargs={"backend": backend, "max_tokens": 1})
        for backend in (one, other)
    ]
    threads[0].start()
    assert begun.wait(10)
    threads[1].start()
    until = time.monotonic() + 10
    while "waiting for it" not in caplog.text and time.monotonic() < until:
        time.sleep(0.01)
    goes_on.set()
    for thread in threads:
        thread.join(20)
    assert Ledger(tmp_path).frame()["cost_usd"].sum() == 5.0
    assert one.budget.spent == other.budget.spent == {"cost_usd": 5.0}


class LettingGo:
    """A backend that looks whether the requests that it lets go are anybody's still."""

    endpoint, model = "here", "letting-go"
    held: weakref.ref[pl.DataFrame]

    def __call__(self, requests: pl.DataFrame, /) -> Iterator[pl.DataFrame]:
        return self.answer(requests, desk=NO_DESK)

    def answer(self, requests: pl.DataFrame, *, desk: Desk) -> Iterator[pl.DataFrame]:
        self.held, rows = weakref.ref(requests), rows_of(requests)
        del requests
        for key, _, _ in rows:
            assert self.held() is None
            reply = {"key": key, "text": "yes"}
            desk.record(reply)
            yield frame_of([reply])


@pytest.mark.parametrize("known", [0, 2])
def test_nobody_but_the_backend_holds_the_requests_that_are_asked(tmp_path: Path, known: int) -> None:
    backend = remembered(LettingGo(), ledger=Ledger(tmp_path))
    if known:
        generate_column(prompts(known), backend=backend)
    assert generate_column(prompts(5), backend=backend)["completion"].to_list() == ["yes"] * 5


def test_two_apart_count_their_own_calls_and_the_ledger_counts_all(tmp_path: Path) -> None:
    backend = remembered(scripted(priced), ledger=Ledger(tmp_path))
    one, other = backend.apart(), backend.apart()
    generate_column(prompts(2), backend=one)
    generate_column(prompts(5), backend=other)
    assert (one.tally.calls, one.tally.known, one.tally.cost_usd) == (2, 0, 2.0)
    assert (other.tally.calls, other.tally.known, other.tally.cost_usd) == (3, 2, 3.0)
    assert (backend.ledger.tally.calls, backend.ledger.tally.known) == (5, 2)


def test_a_reply_that_could_not_be_recorded_counts_as_spent(tmp_path: Path) -> None:
    backend = limited(Ledger(tmp_path), 5.0)
    writer = backend.ledger.open()
    writer.failed = OSError(5, "Input/output error")  # as a disk says it when it is forced
    with pytest.raises(StorageError):
        generate_column(prompts(1), backend=backend, max_tokens=1)
    assert (backend.budget.spent, backend.budget.reserved) == ({"cost_usd": 1.0}, {"cost_usd": 0.0})


def test_after_the_folder_was_deleted_the_next_step_is_recorded_in_a_new_one(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger")
    backend = remembered(scripted(Asked()), ledger=ledger)
    generate_column(prompts(1), backend=backend)
    shutil.rmtree(tmp_path / "ledger")
    generate_column(prompts(2), backend=backend)
    assert Ledger(tmp_path / "ledger").frame()["text"].to_list() == ["P0", "P1"]

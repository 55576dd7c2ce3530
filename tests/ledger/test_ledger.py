"""The ledger: every attempt is on disk when it is recorded, and comes back whatever happened in between."""

from __future__ import annotations

import itertools
import pickle
import warnings
from pathlib import Path

import orjson
import polars as pl
import pytest
from ledgers import child, keys, line, segment, segments

from agora_frames.errors import AgoraError, OfflineError, StorageError
from agora_frames.frames import REPLIES
from agora_frames.ledger import LEDGER, SPENT, Ledger, reading


def test_a_good_attempt_that_was_tried_again_is_no_answer(tmp_path: Path) -> None:
    ledger = segment(tmp_path, line(key="k", text="half", retried=True) + line(key="k", text="whole"))
    assert ledger.answers(pl.Series(["k"]))["text"].to_list() == ["whole"]


def test_of_two_answers_the_first_is_kept_so_that_a_run_never_changes(tmp_path: Path) -> None:
    segment(tmp_path, line(key="k", text="later"), "20260102T000000-1-a.jsonl")
    ledger = segment(tmp_path, line(key="k", text="first") + line(key="k", text="second"))
    answers = ledger.answers(pl.Series(["k", "unknown"]))
    assert answers.schema == REPLIES
    assert answers["text"].to_list() == ["first"]


def test_wherever_a_segment_is_torn_all_whole_lines_are_read_and_nothing_is_said(tmp_path: Path) -> None:
    lines = [line(key=f"k{n}", text="ä\n" * n) for n in range(3)]
    content = b"".join(lines)
    ends = list(itertools.accumulate(map(len, lines)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for cut in range(0, len(content) + 1, 7):
            whole = sum(end <= cut for end in ends)
            assert keys(segment(tmp_path, content[:cut])) == [f"k{n}" for n in range(whole)]


def test_a_torn_segment_leaves_the_other_ones_whole(tmp_path: Path) -> None:
    segment(tmp_path, line(key="a") + line(key="lost")[:-9])
    ledger = segment(tmp_path, line(key="b"), "20260102T000000-2-b.jsonl")
    assert keys(ledger) == ["a", "b"]


BROKEN = {
    "torn": line(key="lost")[:30] + b"\n",
    "two in one": line(key="lost")[:30] + line(key="lost"),
    "binary": b"\x00\xff\xfe\x80\n",
    "zeros": b"\x00" * 512 + b"\n",
    "not utf-8": b'{"key": "lost", "text": "\xff"}\n',
    "no object": b"[1, 2]\n",
    "null": b"null\n",
    "html": b"<html>502 Bad Gateway</html>\n",
    "conflict": b"<<<<<<< HEAD\n",
    "an error that is a text": line(key="lost", error="boom"),
}


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN)
def test_a_broken_line_is_left_out_with_a_warning_that_names_the_file(tmp_path: Path, broken: bytes) -> None:
    before, after = (b"".join(line(key=f"{side}{n}") for n in range(5)) for side in "ab")
    ledger = segment(tmp_path, before + broken + after)
    with pytest.warns(UserWarning, match=r"20260101T000000-1-a\.jsonl' has 1 broken lines, which were skipped"):
        found = keys(ledger)
    assert found == [f"{side}{n}" for side in "ab" for n in range(5)]


def test_all_broken_lines_are_counted(tmp_path: Path) -> None:
    content = b"".join(b"broken\n" + line(key=str(n)) for n in range(40))
    with pytest.warns(UserWarning, match="has 40 broken lines"):
        assert keys(segment(tmp_path, content)) == [str(n) for n in range(40)]


@pytest.mark.parametrize("content", [b"", b"\n", b"\x00\xff", b"\x89PNG\r\n\x1a\n\x00\x00", b"garbage without an end"])
def test_a_file_that_holds_no_line_hurts_no_other(tmp_path: Path, content: bytes) -> None:
    segment(tmp_path, content)
    ledger = segment(tmp_path, line(key="a"), "20260102T000000-2-b.jsonl")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert keys(ledger) == ["a"]


def test_other_files_in_the_folder_are_left_alone(tmp_path: Path) -> None:
    ledger = segment(tmp_path, line(key="a"))
    (tmp_path / "notes.txt").write_text("mine")
    assert keys(ledger) == ["a"]


def test_a_line_from_before_a_field_existed_is_read(tmp_path: Path) -> None:
    old = {"key": "k", "text": "t", "retried": False}
    ledger = segment(tmp_path, orjson.dumps(old) + b"\n" + line(key="new"))
    assert ledger.frame().schema == LEDGER
    assert ledger.answers(pl.Series(["k", "new"]))["key"].to_list() == ["k", "new"]


def test_a_line_from_after_a_field_was_added_is_read(tmp_path: Path) -> None:
    new = line(key="k", logprobs=[{"token": "a"}], more={"x": 1}, error={"kind": "refused", "message": "m", "code": 7})
    ledger = segment(tmp_path, line(key="old") + new)
    assert ledger.frame().schema == LEDGER
    assert ledger.answers(pl.Series(["k"]))["error"].to_list() == [{"kind": "refused", "message": "m"}]


def test_a_thread_that_fails_to_write_takes_no_line_of_another_thread_with_it(tmp_path: Path) -> None:
    child(
        """
        import resource, sys, threading
        from pathlib import Path
        from agora_frames.errors import StorageError
        from agora_frames.ledger import Ledger
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
        own, begun, stop = Ledger(Path(sys.argv[1])).open(), threading.Event(), threading.Event()
        def fails():
            while not stop.is_set():
                try:
                    own.write(b"x" * 2_000_000)
                except StorageError:
                    begun.set()
        thread = threading.Thread(target=fails, daemon=True)
        thread.start()
        begun.wait()
        for n in range(3000):
            own.write(b'{"key": "%d"}\\n' % n)
        stop.set()
        thread.join()
        """,
        tmp_path,
    )
    assert keys(Ledger(tmp_path)) == [str(n) for n in range(3000)]


def test_a_forked_process_writes_a_segment_of_its_own(tmp_path: Path) -> None:
    child(
        """
        import os, sys
        from pathlib import Path
        from agora_frames.frames import REPLIES
        from agora_frames.ledger import LEDGER, Ledger
        ledger = Ledger(Path(sys.argv[1]))
        ledger.open().write(b'{"key": "parent", "retried": false}\\n')
        if os.fork() == 0:
            ledger.open().write(b'{"key": "child", "retried": false}\\n')
            os._exit(0)
        os.wait()
        ledger.open().write(b'{"key": "parent again", "retried": false}\\n')
        """,
        tmp_path,
    )
    ledger = Ledger(tmp_path)
    assert len(segments(ledger)) == 2
    assert sorted(filter(None, keys(ledger))) == ["child", "parent", "parent again"]


def test_after_a_full_disk_the_same_process_can_go_on_when_there_is_room(tmp_path: Path) -> None:
    out = child(
        """
        import resource, sys
        from pathlib import Path
        from agora_frames.errors import StorageError
        from agora_frames.ledger import Ledger
        ledger = Ledger(Path(sys.argv[1]))
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
        ledger.open().write(b'{"key": "a"}\\n')
        try:
            ledger.open().write(b'{"key": "lost", "text": "' + b"x" * 2000 + b'"}\\n')
        except StorageError:
            print("told")
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        ledger.open().write(b'{"key": "b"}\\n')
        """,
        tmp_path,
    ).stdout
    assert out == "told\n"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert keys(Ledger(tmp_path)) == ["a", "b"]


def test_errors_of_the_ledger_are_errors_of_the_house_and_of_the_system() -> None:
    assert issubclass(StorageError, AgoraError)
    assert issubclass(StorageError, OSError)
    assert issubclass(OfflineError, LookupError)


# Recording


def test_a_row_is_there_when_it_was_written_and_what_is_left_out_is_null(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, recipe="mine")
    ledger.write({"text": "t", "key": "k", "error": {"kind": "refused", "message": "no"}})
    row = Ledger(tmp_path).frame().row(0, named=True)
    assert {name: value for name, value in row.items() if value is not None} == {
        "key": "k",
        "text": "t",
        "error": {"kind": "refused", "message": "no"},
    }
    assert ledger.tally.attempts == 1


def test_half_a_surrogate_pair_loses_no_reply(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.write({"key": "k", "text": "half \ud83d", "tool_calls": [{"id": "\udc00", "name": "f", "arguments": "{}"}]})
    row = ledger.answers(pl.Series(["k"])).row(0, named=True)
    assert row["text"] == "half \ufffd"
    assert row["tool_calls"] == [{"id": "\ufffd", "name": "f", "arguments": "{}"}]


def test_a_value_that_is_no_json_is_recorded_as_its_text(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.write({"key": "k", "text": Path("a")})
    assert ledger.frame()["text"].to_list() == ["a"]


def test_an_attempt_without_retried_is_the_last_one(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.write({"key": "k", "text": "t"})
    assert ledger.answers(pl.Series(["k"]))["retried"].to_list() == [False]


def test_a_process_that_wrote_nothing_leaves_no_segment(tmp_path: Path) -> None:
    child("import sys; from agora_frames.ledger import Ledger; Ledger(sys.argv[1]).open()", tmp_path)
    assert segments(Ledger(tmp_path)) == []


def test_a_closed_ledger_begins_another_segment_when_it_is_written_again(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    for key in "ab":
        ledger.write({"key": key})
        ledger.close()
    assert len(segments(ledger)) == 2
    assert keys(ledger) == ["a", "b"]


# Looking up


def test_the_answer_that_was_recorded_first_is_kept_whatever_its_segment(tmp_path: Path) -> None:
    segment(tmp_path, line(key="k", text="later", at=2.0))
    ledger = segment(tmp_path, line(key="k", text="first", at=1.0), "20260102T000000-1-a.jsonl")
    assert ledger.answers(pl.Series(["k"]))["text"].to_list() == ["first"]


@pytest.mark.parametrize("key", ["k", 'a"b', "ä", "back\\slash", "new\nline", ""])
def test_a_key_of_any_characters_is_found(tmp_path: Path, key: str) -> None:
    ledger = segment(tmp_path, line(key="other") + line(key=key, text="mine") + line(key=key + "x"))
    assert ledger.answers(pl.Series([key]))["text"].to_list() == ["mine"]


def test_a_key_is_found_in_lines_that_another_program_wrote(tmp_path: Path) -> None:
    ledger = segment(
        tmp_path, b'{"retried": false, "text": "mine", "key": "k"}\n{ "key" : "\\u006b2", "text": "too"}\n'
    )
    assert sorted(ledger.answers(pl.Series(["k", "k2"]))["text"]) == ["mine", "too"]


def test_a_segment_of_many_blocks_is_read_whole(tmp_path: Path) -> None:
    lines = [line(key=str(n), text="x" * 1_000_000 + str(n)) for n in range(14)]
    ledger = segment(tmp_path, b"".join(lines) + b'{"key": "torn')
    assert keys(ledger) == [str(n) for n in range(14)]
    assert sorted(ledger.answers(pl.Series(["3", "13"]))["text"].str.tail(2)) == ["13", "x3"]


def test_spent_tells_every_attempt_at_the_keys(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.write({"key": "a", "error": {"kind": "timeout", "message": "late"}, "retried": True, "run": "1"})
    ledger.write({"key": "a", "prompt_tokens": 3, "completion_tokens": 4, "cost_usd": 0.5, "run": "2"})
    ledger.write({"key": "b", "prompt_tokens": 3})
    spent = ledger.spent(pl.Series(["a"]))
    assert spent.schema == SPENT
    assert spent.rows() == [("a", None, None, "timeout", True, "1"), ("a", 7, 0.5, None, False, "2")]


def test_the_state_is_equal_until_something_is_recorded(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    states = [ledger.state(), ledger.state()]
    for key in "ab":
        ledger.write({"key": key})
        states += [Ledger(tmp_path).state(), Ledger(tmp_path).state()]
    assert states[0] == states[1] != states[2] == states[3] != states[4] == states[5]


def test_a_scan_is_the_frame_read_when_it_is_collected(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    scan = ledger.scan()
    for n in range(10):
        ledger.write({"key": str(n), "cost_usd": n / 4})
    assert scan.collect().equals(ledger.frame())
    assert scan.filter(pl.col("cost_usd") > 2).select("key").collect()["key"].to_list() == ["9"]
    assert scan.head(3).collect()["key"].to_list() == ["0", "1", "2"]


@pytest.mark.parametrize("name", ["x.parquet", "20260101T000000-1-a.parquet"])
@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1" + b"x" * 100 + b"PAR1", b"garbage"])
def test_a_parquet_file_that_is_none_is_left_out_with_a_warning_that_names_it(
    tmp_path: Path, name: str, content: bytes
) -> None:
    ledger = segment(tmp_path, line(key="a"))
    (tmp_path / name).write_bytes(content)
    with pytest.warns(UserWarning, match=f"{name}' is damaged, and was skipped"):
        assert keys(ledger) == ["a"]
    with pytest.warns(UserWarning, match="was skipped"):
        assert ledger.answers(pl.Series(["a"])).height == 1


@pytest.mark.parametrize("at_once", [0, 32 << 20])
def test_damage_inside_a_parquet_file_is_told_whether_it_is_read_at_once_or_in_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(reading, "_AT_ONCE", at_once)
    ledger = segment(tmp_path, b"".join(line(key=str(n), text=str(n) * 1000) for n in range(500)))
    (name,) = ledger.compact()
    assert len(keys(ledger)) == 500
    content = bytearray((tmp_path / name).read_bytes())
    content[100 : len(content) // 2] = bytes(len(content) // 2 - 100)
    (tmp_path / name).write_bytes(content)
    segment(tmp_path, line(key="other"), "20260102T000000-1-a.jsonl")
    with pytest.warns(UserWarning, match=f"{name}' is damaged, and was skipped"):
        assert "other" in keys(ledger)


# Where it is


@pytest.mark.parametrize("given", ["", " ", ".", Path("s3://bucket/ledger")])
def test_what_is_no_place_is_told_at_once(given: str | Path) -> None:
    with pytest.raises(
        StorageError, match=r"is no folder\. Give the path of one, such as .agora/ledger, or an fsspec URL"
    ):
        Ledger(given)


def test_the_path_of_a_ledger_shows_no_secrets_and_it_travels_whole() -> None:
    ledger = Ledger("memory://user:secret@place/ledger", run="1")
    assert "secret" not in f"{ledger!r} {ledger.path}"
    assert pickle.loads(pickle.dumps(ledger)) == ledger


def test_a_url_of_a_local_file_is_a_path(tmp_path: Path) -> None:
    assert Ledger(f"file://{tmp_path}") == Ledger(tmp_path)


def test_a_relative_folder_stays_where_it_was_when_the_process_goes_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    ledger = Ledger(".agora/ledger")
    monkeypatch.chdir(tmp_path / "elsewhere")
    ledger.write({"key": "a"})
    assert keys(ledger) == keys(pickle.loads(pickle.dumps(ledger))) == keys(Ledger(tmp_path / ".agora/ledger")) == ["a"]
    assert not (tmp_path / "elsewhere" / ".agora").exists()
    assert str(ledger.path) == ".agora/ledger"
    assert pickle.loads(pickle.dumps(ledger)) == ledger

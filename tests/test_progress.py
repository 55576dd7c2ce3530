"""The live display: in a terminal, in a notebook and on a pipe, while calls go on, are held, end and are stopped."""

from __future__ import annotations

import fcntl
import io
import os
import pickle
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nbformat
import polars as pl
import pytest
from nbclient import NotebookClient
from rich.console import Console

import agora_frames as af
from agora_frames.backends.limits import Status
from agora_frames.errors import EndpointError
from agora_frames.meter import Reading
from agora_frames.progress import Progress, picture, progress
from agora_frames.types import BoundedObserver

GOING = Reading(
    "gpt-4o-mini",
    rows=5000,
    done=1234,
    states={"accepted": 1100, "rejected": 120, "failed": 14},
    elapsed_s=125,
    eta_s=370,
    replies=1300,
    requests_per_s=12.34,
    tokens_per_s=1234.5,
    in_flight=64,
    limit=64,
    cost="$0.0123",
    cost_at_end_usd=0.05,
    budget="$0.01 of $1.00 spent, $0.02 reserved",
)


def read(**changed: Any) -> Reading:
    return Reading(**{**vars(GOING), **changed})


def seen(reading: Reading, *, width: int) -> list[str]:
    """What stands on a terminal of that width."""
    console = Console(record=True, width=width, force_terminal=True, file=io.StringIO(), legacy_windows=False)
    console.print(picture(reading, console))
    return [line.rstrip() for line in console.export_text().splitlines()]


def prompts(rows: int) -> pl.DataFrame:
    return pl.DataFrame({"prompt": [str(n) for n in range(rows)]}).pipe(af.with_row_ids)


# --- what it looks like ----------------------------------------------------------------------------------------------


def test_in_80_columns_it_has_a_bar_and_three_lines_below() -> None:
    assert seen(GOING, width=80) == [
        "gpt-4o-mini ━━━━━━━━━━━━━━━━━ 1,234/5,000 rows 24%  2 min 05 s, ETA 6 min 10 s",
        "  1,100 accepted, 120 rejected, 14 failed · 12.3 requests/s, 1,234 tokens/s",
        "  64 in flight of at most 64 · cost $0.0123, about $0.0500 at the end",
        "  budget: $0.01 of $1.00 spent, $0.02 reserved",
    ]


def test_in_140_columns_it_has_a_longer_bar_and_fewer_lines() -> None:
    assert seen(GOING, width=140) == [
        "gpt-4o-mini ━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━ 1,234/5,000 rows 24%  2 min 05 s, ETA 6 min 10 s",
        "  1,100 accepted, 120 rejected, 14 failed · 12.3 requests/s, 1,234 tokens/s · 64 in flight of at most 64",
        "  cost $0.0123, about $0.0500 at the end · budget: $0.01 of $1.00 spent, $0.02 reserved",
    ]


@pytest.mark.parametrize("width", [80, 140])
def test_why_all_is_held_stands_on_a_line_of_its_own(width: int) -> None:
    held = read(held="rate limited, waits 12 min", in_flight=0, eta_s=None)
    assert seen(held, width=width)[-1] == "  held: rate limited, waits 12 min"
    assert "ETA –" in seen(held, width=width)[0]


@pytest.mark.parametrize("width", [80, 140])
def test_before_the_first_reply_it_says_that_it_waits(width: int) -> None:
    assert seen(Reading("tiny", 10), width=width)[1] == "  waiting for the first reply"


@pytest.mark.parametrize("width", [80, 140])
def test_what_is_done_says_how_long_it_took(width: int) -> None:
    [head, *_] = seen(read(done=5000, ended="done"), width=width)
    assert head.endswith("5,000/5,000 rows 100%  done in 2 min 05 s")


@pytest.mark.parametrize("width", [80, 140])
def test_what_was_interrupted_says_what_is_done_and_what_is_recorded(width: int) -> None:
    [head, *rest] = seen(read(ended="interrupted"), width=width)
    assert "1,234/5,000 rows 24%" in head + rest[0]
    assert "interrupted after 2 min 05 s" in head + rest[0]
    assert any("1,300 replies recorded" in line for line in rest)


@pytest.mark.parametrize("width", [20, 40, 60, 80, 140, 300])
@pytest.mark.parametrize("label", ["tiny", "a-very-long-name/of-a-model-that-somebody-trained-at-home"])
def test_no_line_is_longer_than_the_terminal(width: int, label: str) -> None:
    told = read(label=label, held="rate limited, " * 30, ended=None)
    assert max(map(len, seen(told, width=width))) <= width


def test_the_last_line_leaves_room_for_the_control_c_that_a_terminal_writes_there() -> None:
    assert max(map(len, seen(read(held="rate limited, " * 30), width=80))) == 78


def test_a_terminal_without_unicode_is_given_none() -> None:
    console = Console(width=80, force_terminal=True, file=io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    console.print(picture(read(eta_s=None, held="é"), console))
    console.file.flush()


# --- on a pipe -------------------------------------------------------------------------------------------------------


class Stub:
    """A backend that says yes, and does what a test wants before it does."""

    endpoint, model = "http://here/v1", "tiny"

    def __init__(self, before: Callable[[int], object] = lambda n: None) -> None:
        self.before, self.held = before, None

    def status(self) -> Status:
        return Status(limit=64, in_flight=0, held=self.held)

    def __call__(self, requests: pl.DataFrame, /) -> Iterator[pl.DataFrame]:
        for n, key in enumerate(requests["key"]):
            self.before(n)
            yield pl.DataFrame({"key": [key], "text": ["yes"]})


def piped(every_s: float = 30.0) -> tuple[Progress, io.StringIO]:
    file = io.StringIO()
    return Progress(console=Console(file=file), line_every_s=every_s), file


def test_on_a_pipe_a_short_run_has_one_line() -> None:
    observer, file = piped()
    prompts(3).pipe(af.generate_column, backend=Stub(), observer=observer)
    assert re.fullmatch(r"tiny: 3/3 rows 100%; 3 done, 0 failed; done in 0\.\d s\n", file.getvalue())


def until(met: Callable[[], object]) -> None:
    """Waits until it is so; at most 10 s."""
    begun = time.monotonic()
    while not met():
        assert time.monotonic() - begun < 10
        time.sleep(0.005)


def test_on_a_pipe_a_long_run_has_whole_lines_now_and_then_also_while_nothing_comes() -> None:
    observer, file = piped(every_s=0.01)
    prompts(1).pipe(
        af.generate_column, backend=Stub(lambda n: until(lambda: file.getvalue().count("\n") > 2)), observer=observer
    )
    lines = file.getvalue().splitlines()
    assert all(re.fullmatch(r"tiny: 0/1 rows 0%; waiting .*, ETA –", line) for line in lines[:-1])
    assert lines[-1].startswith("tiny: 1/1 rows 100%")


def test_on_a_pipe_a_run_that_is_held_says_why() -> None:
    observer, file = piped(every_s=0.01)
    backend = Stub()

    def hold(n: int) -> None:
        backend.held = "rate limited, waits 12 min"
        until(lambda: "held: rate limited, waits 12 min" in file.getvalue())

    backend.before = hold
    prompts(1).pipe(af.generate_column, backend=backend, observer=observer)


def stopped(error: BaseException) -> str:
    """What is said last of a run that ends so after two rows of three."""
    observer, file = piped()

    def stop(n: int) -> None:
        if n == 2:
            time.sleep(0.01)
            raise error

    with pytest.raises(type(error)):
        prompts(3).pipe(af.generate_column, backend=Stub(stop), observer=observer)
    return file.getvalue()


def test_a_run_that_raises_says_what_is_done_and_by_what_it_was_stopped() -> None:
    said = stopped(EndpointError("nobody there"))
    assert re.fullmatch(r"tiny: \d/3 rows \d+%; .*stopped by EndpointError after 0\.\d s\n", said)


def test_a_run_that_is_interrupted_says_so() -> None:
    assert "interrupted after" in stopped(KeyboardInterrupt())


def test_a_run_in_the_handling_of_an_error_is_done_all_the_same() -> None:
    observer, file = piped()
    try:
        raise KeyError("x")
    except KeyError:
        prompts(1).pipe(af.generate_column, backend=Stub(), observer=observer)
    assert "done in" in file.getvalue()


def test_a_reader_that_went_away_does_not_end_the_run() -> None:
    observer, file = piped()
    file.close()
    assert prompts(2).pipe(af.generate_column, backend=Stub(), observer=observer).height == 2


def test_no_thread_is_left_when_it_ends() -> None:
    before = threading.active_count()
    observer, _ = piped()
    prompts(2).pipe(af.generate_column, backend=Stub(), observer=observer)
    assert threading.active_count() == before


# --- as an observer --------------------------------------------------------------------------------------------------


def test_it_is_an_observer_that_knows_beginning_and_end() -> None:
    assert isinstance(progress(), BoundedObserver)


def test_its_label_is_the_one_that_was_given() -> None:
    observer, file = piped()
    observer.label = "drafts"
    prompts(1).pipe(af.generate_column, backend=Stub(), observer=observer)
    assert file.getvalue().startswith("drafts: 1/1")


def test_one_may_be_used_for_one_stage_after_the_other() -> None:
    observer, file = piped()
    for rows in (1, 2):
        prompts(rows).pipe(af.generate_column, backend=Stub(), observer=observer)
    assert [line[:13] for line in file.getvalue().splitlines()] == ["tiny: 1/1 row", "tiny: 2/2 row"]


def test_an_empty_frame_shows_nothing() -> None:
    observer, file = piped()
    prompts(1).clear().pipe(af.generate_column, backend=Stub(), observer=observer)
    assert file.getvalue() == ""


def test_a_stage_with_one_can_be_pickled_and_shown() -> None:
    stage = af.generate_column(backend=af.scripted({"0": "x"}), observer=progress())
    assert pickle.loads(pickle.dumps(stage)).params["observer"].label is None
    assert "observer=Progress(label=None)" in repr(stage)


# --- in a terminal ---------------------------------------------------------------------------------------------------


def screen(raw: str) -> list[str]:
    """What a terminal shows after all that was written to it: the few controls that rich uses, no more."""
    lines, row, column = [""], 0, 0
    for control, text in re.findall(r"(\x1b\[[0-9;?]*[a-zA-Z]|\r|\n)|([^\x1b\r\n]+)", raw):
        if control == "\r":
            column = 0
        elif control == "\n":
            row, lines = row + 1, [*lines, *([""] if row + 1 == len(lines) else [])]
        elif control == "\x1b[2K":
            lines[row] = ""
        elif match := re.fullmatch(r"\x1b\[(\d*)A", control):
            row = max(0, row - int(match[1] or 1))
        elif text:
            lines[row] = lines[row][:column].ljust(column) + text + lines[row][column + len(text) :]
            column += len(text)
    return [line.rstrip() for line in lines if line.strip()]


class Terminal:
    """A real one, of a pseudo-terminal, that is read all the time."""

    def __init__(self, *, width: int = 80) -> None:
        self.reads, self.writes = pty.openpty()
        fcntl.ioctl(self.writes, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
        self.raw = b""
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self) -> None:
        while True:
            try:
                self.raw += os.read(self.reads, 65536)
            except OSError:
                return

    def screen(self) -> list[str]:
        return screen(self.raw.decode(errors="replace"))

    def console(self) -> Console:
        return Console(file=os.fdopen(os.dup(self.writes), "w"), force_terminal=True, width=80)

    def close(self) -> None:
        os.close(self.writes)
        self.thread.join(timeout=5)
        os.close(self.reads)


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    made = Terminal()
    yield made
    made.close()


def test_a_terminal_shows_why_all_is_held_without_a_single_row_coming(terminal: Terminal) -> None:
    backend = Stub()

    def hold(n: int) -> None:
        for held in ("rate limited, waits 12 min", "rate limited, waits 11 min"):
            backend.held = held
            until(lambda said=held: terminal.screen()[-1:] == [f"  held: {said}"])

    backend.before = hold
    console = terminal.console()
    prompts(1).pipe(af.generate_column, backend=backend, observer=Progress(console=console))
    console.file.close()


def test_a_terminal_keeps_the_last_state_and_gives_the_cursor_back(terminal: Terminal) -> None:
    console = terminal.console()
    prompts(3).pipe(af.generate_column, backend=Stub(), observer=Progress(console=console))
    console.file.close()
    until(lambda: terminal.raw.endswith(b"\x1b[?25h"))
    [head, states] = terminal.screen()
    assert re.fullmatch(r"tiny ━+ 3/3 rows 100%  done in 0\.\d s", head)
    assert states.startswith("  3 done, 0 failed")


SCRIPT = """
import logging, sys, time
import polars as pl
import agora_frames as af
from agora_frames.progress import progress

{before}
def say(messages):
    if messages[-1]["content"] == "4":
        logging.getLogger("agora_frames.backends.chat").warning("interrupted: waiting")
        print("somebody prints")
    return "yes"

df = pl.DataFrame({{"prompt": [str(n) for n in range(int(sys.argv[1]))]}}).pipe(af.with_row_ids)
try:
    df.pipe(af.generate_column, backend=af.scripted(say, delay_s=0.1), observer=progress())
except KeyboardInterrupt:
    print("caught")
print("after")
"""


def run_in(terminal: Terminal, folder: Path, *, rows: int, before: str = "") -> subprocess.Popen[bytes]:
    (folder / "script.py").write_text(SCRIPT.format(before=before))
    own = {"stdin": terminal.writes, "stdout": terminal.writes, "stderr": terminal.writes}
    # Without what makes rich think that it is somewhere else, or that nobody is there.
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
    return subprocess.Popen(
        [sys.executable, "script.py", str(rows)],
        cwd=folder,
        env={**environment, "TERM": "xterm-256color"},
        start_new_session=True,
        **own,
    )


@pytest.mark.slow
@pytest.mark.parametrize("before", ["", "logging.basicConfig()"])
def test_what_is_logged_and_printed_stands_above_the_bar(terminal: Terminal, tmp_path: Path, before: str) -> None:
    assert run_in(terminal, tmp_path, rows=12, before=before).wait(timeout=60) == 0
    until(lambda: terminal.screen()[-1] == "after")
    said = terminal.screen()
    assert said[0].endswith("interrupted: waiting")
    assert said[1] == "somebody prints"
    assert re.fullmatch(r"scripted ━+ 12/12 rows 100%  done in \d\.\d s", said[2])
    assert said[3:] == ["  12 done, 0 failed", "after"]


@pytest.mark.slow
def test_ctrl_c_ends_the_bar_with_what_is_done(terminal: Terminal, tmp_path: Path) -> None:
    running = run_in(terminal, tmp_path, rows=1000)
    until(lambda: any("requests" in line or " done, " in line for line in terminal.screen()))
    running.send_signal(signal.SIGINT)
    assert running.wait(timeout=60) == 0
    until(lambda: terminal.screen()[-1] == "after")
    [head, states, *rest] = terminal.screen()[-4:]
    assert re.fullmatch(r"scripted ━+ \d+/1,000 rows \d+%  interrupted after \d+\.\d s", head)
    assert re.fullmatch(r"  \d+ done, 0 failed", states)
    assert rest == ["caught", "after"]
    assert b"\x1b[?25h" in terminal.raw


# --- in a notebook ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_in_a_notebook_it_is_one_output_that_is_updated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    told: list[SimpleNamespace] = []
    cell = nbformat.v4.new_code_cell(
        "import polars as pl\n"
        "import agora_frames as af\n"
        "from agora_frames.progress import progress\n"
        'df = pl.DataFrame({"prompt": ["a", "<b>"]}).pipe(af.with_row_ids)\n'
        'model = af.scripted(str, model="<tiny>", delay_s=0.8)\n'
        "_ = df.pipe(af.generate_column, backend=model, observer=progress())\n"
    )
    notebook = nbformat.v4.new_notebook(cells=[cell])
    client = NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}})
    process = client.process_message

    def listen(message: dict[str, Any], *args: Any) -> Any:
        told.append(SimpleNamespace(kind=message["msg_type"], data=message["content"].get("data", {})))
        return process(message, *args)

    client.process_message = listen  # type: ignore[method-assign]
    client.execute()
    [output] = notebook.cells[0].outputs
    assert output.data["text/plain"].startswith("<tiny>: 2/2 rows 100%; 2 done, 0 failed; done in 1.")
    assert '<progress value="2" max="2"' in output.data["text/html"]
    assert "<b>&lt;tiny&gt;</b>" in output.data["text/html"]
    assert [each.kind for each in told].count("display_data") == 1
    updates = [each.data["text/plain"] for each in told if each.kind == "update_display_data"]
    assert any("waiting for the first reply; 0." in said for said in updates)  # before any row came

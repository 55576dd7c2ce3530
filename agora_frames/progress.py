"""What a person sees of model calls while they go on: a live display in a terminal or a notebook, lines elsewhere."""

from __future__ import annotations

import builtins
import contextlib
import contextvars
import html
import logging
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any

import polars as pl

from agora_frames.frames import outcome
from agora_frames.meter import Meter, Reading, cut, facts, fitted, line, pace, times
from agora_frames.types import Backend

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

__all__ = ["Progress", "picture", "progress"]

_LINE_EVERY_S, _TICK_S = 30.0, 0.5
_LEAST_BAR, _LONGEST_BAR, _LONGEST_LABEL = 8, 40, 30
# The styles of rich for what a line says.
_STYLES = {
    r"\b[1-9][\d,]* (accepted|done)\b": "green",
    r"\b[1-9][\d,]* (rejected|left out)\b": "yellow",
    r"\b[1-9][\d,]* failed\b": "red",
    r"^  held: .*$": "bold yellow",
}


def progress(label: str | None = None) -> Progress:
    """A live display of a stage's calls, to be given as its observer; it costs the calls nothing.

    label: what stands before the bar; the model's name unless given.
    Shows rows done and failed, requests and tokens per second over the last 10 s, how many requests are in flight and
    why no more, the cost so far and at the end, the time so far and left. In a terminal (on stderr) and in a notebook
    it refreshes itself, also while nothing comes; elsewhere it is a line on stderr every 30 s, and one at the end.
    May be used for one stage after the other, not for two at the same time.

    >>> import agora_frames as af
    >>> df = pl.DataFrame({"prompt": ["one", "two"]}).pipe(af.with_row_ids)
    >>> df.pipe(af.generate_column, backend=af.scripted(str), observer=progress("counting")).height
    2
    """
    return Progress(label)


def _answered(finished: pl.DataFrame) -> dict[str, int]:
    failed = finished.select((outcome(finished) == "failed").sum()).item()
    return {"done": finished.height - failed, "failed": failed}


@dataclass(eq=False)
class Progress:
    """A `types.BoundedObserver` that shows what it is told; made by `progress`.

    states: how many of some finished rows are what, in the order in which it is shown. wanted: that state whose rows
    alone count as done, where so many of them are wanted, and not so many rows in all. console: where it is shown
    outside of a notebook; stderr unless given. line_every_s: seconds between the lines that a file or a pipe gets.
    """

    label: str | None = None
    states: Callable[[pl.DataFrame], Mapping[str, int]] = field(default=_answered, repr=False)
    wanted: str | None = field(default=None, kw_only=True, repr=False)
    console: Console | None = field(default=None, repr=False)
    line_every_s: float = field(default=_LINE_EVERY_S, repr=False)
    _meter: Meter | None = field(default=None, init=False, repr=False)
    _shown: contextlib.ExitStack = field(default_factory=contextlib.ExitStack, init=False, repr=False)

    def begin(self, rows: int, backend: Backend) -> None:
        """So many rows are going to be asked for; an empty frame shows nothing."""
        self._shown.close()
        self._meter = Meter(self.label or backend.model, rows, backend)
        if rows:
            self._shown.enter_context(self._screen(self._meter))

    def __call__(self, finished: pl.DataFrame) -> None:
        """These rows are finished."""
        if self._meter is not None:
            states = self.states(finished)
            self._meter.add(finished.height if self.wanted is None else states.get(self.wanted, 0), states)

    def end(self) -> None:
        """Nothing more comes: all rows are there, or there was an error or an interruption."""
        if self._meter is not None:
            self._meter.end(_how(self._meter))
            with contextlib.suppress(OSError, ValueError):  # a terminal that has gone away takes no rows with it
                self._shown.close()
        self._meter = None

    def _screen(self, meter: Meter) -> contextlib.AbstractContextManager[None]:
        if _in_notebook():
            return _shown_in_notebook(meter)
        from rich.console import Console

        console = self.console or Console(stderr=True)
        # Not is_terminal alone: FORCE_COLOR says that a file is one, where a live display would be rubbish.
        if console.is_interactive and console.file.isatty():
            return _shown_in_terminal(meter, console)
        return _told_in_lines(meter, console.file, self.line_every_s)


def _how(meter: Meter) -> str:
    """In what way it ended, told while the error that ended it is on its way."""
    error = sys.exception()
    if meter.done >= meter.rows or error is None:  # an error may also be one that the caller is handling meanwhile
        return "done" if meter.done >= meter.rows else "stopped"
    return "interrupted" if isinstance(error, KeyboardInterrupt) else f"stopped by {type(error).__name__}"


def _in_notebook() -> bool:
    """Whether this runs in a Jupyter kernel; IPython in a terminal is a terminal."""
    shell = getattr(builtins, "get_ipython", None)
    return shell is not None and getattr(shell(), "kernel", None) is not None


@contextlib.contextmanager
def _shown_in_terminal(meter: Meter, console: Console) -> Iterator[None]:
    from rich.live import Live

    live = Live(
        get_renderable=lambda: picture(meter.read(), console),
        console=console,
        redirect_stdout=sys.stdout.isatty(),
        redirect_stderr=sys.stderr.isatty(),
    )
    before = {id(stream): name for name, stream in (("stdout", sys.stdout), ("stderr", sys.stderr))}
    with live, _logged_above(before):
        yield


@contextlib.contextmanager
def _logged_above(before: Mapping[int, str]) -> Iterator[None]:
    """What is logged to the streams that were there before goes to those that are there now, which know of the bar."""
    loggers = [logging.getLogger(), *logging.getLogger().manager.loggerDict.values()]
    handlers = {handler for each in loggers if isinstance(each, logging.Logger) for handler in each.handlers}
    moved = [
        (handler, handler.stream)
        for handler in handlers
        if isinstance(handler, logging.StreamHandler) and id(handler.stream) in before
    ]
    for handler, stream in moved:
        handler.setStream(getattr(sys, before[id(stream)]))
    try:
        yield
    finally:
        for handler, stream in moved:
            handler.setStream(stream)


@contextlib.contextmanager
def _told_in_lines(meter: Meter, file: IO[str], every_s: float) -> Iterator[None]:
    said = meter.clock()

    def tell() -> None:
        # A reader that has gone away, or that cannot read this, is no reason to end a run.
        with contextlib.suppress(OSError, ValueError):
            file.write(line(meter.read()) + "\n")
            file.flush()

    def tick() -> None:
        nonlocal said
        meter.sample()
        if meter.clock() - said >= every_s:
            said = meter.clock()
            tell()

    with _repeated(tick, every_s=min(_TICK_S, every_s)):
        yield
    tell()


@contextlib.contextmanager
def _shown_in_notebook(meter: Meter) -> Iterator[None]:
    from IPython.display import display

    handle: Any = display(_bundle(meter.read()), raw=True, display_id=True)  # type: ignore[no-untyped-call]
    with _repeated(lambda: handle.update(_bundle(meter.read()), raw=True), every_s=_TICK_S):
        yield
    handle.update(_bundle(meter.read()), raw=True)


@contextlib.contextmanager
def _repeated(do: Callable[[], None], *, every_s: float) -> Iterator[None]:
    """Does it again and again on a thread of its own, so that it is done while nothing comes, too."""
    over = threading.Event()

    def run() -> None:
        while not over.wait(every_s):
            do()

    # In the context of the cell that began it, where Jupyter looks for the cell that an output is of.
    thread = threading.Thread(target=contextvars.copy_context().run, args=(run,), name="agora-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(timeout=5)


def picture(reading: Reading, console: Console) -> Text:
    """A bar with rows and times, and below it the rest; never wider than the terminal."""
    from rich.text import Text

    width = console.width - 2  # the terminal writes ^C behind the last line
    label, said = cut(reading.label, _LONGEST_LABEL), facts(reading)
    after = f"{pace(reading)}  {times(reading)}"
    if len(label) + len(after) + _LEAST_BAR + 2 > width:
        after, said = pace(reading), [times(reading), *said]
    room = min(_LONGEST_BAR, width - len(label) - len(after) - 2)
    below = fitted(said, width - 2) + ([cut(f"held: {reading.held}", width - 2)] if reading.held else [])
    lines = [Text(f"  {_written(each, console)}") for each in below]
    for pattern, style in _STYLES.items():
        for each in lines:
            each.highlight_regex(pattern, style)
    bar = _bar(reading, room, plain=console.options.ascii_only) if room >= _LEAST_BAR else Text()
    head = Text.assemble((_written(label, console), "bold"), " ", bar, " " if bar else "", _written(after, console))
    whole = Text("\n").join([head, *lines])
    whole.no_wrap, whole.overflow = True, "crop"
    return whole


def _bar(reading: Reading, width: int, *, plain: bool) -> Text:
    from rich.text import Text

    full = width * reading.done // reading.rows if reading.rows else width
    style = "bar.complete" if reading.ended is None else "bar.finished" if reading.ended == "done" else "red"
    done, left = ("#", "-") if plain else ("━", "━")
    return Text.assemble((done * full, style), (left * (width - full), "bar.back"))


def _written(text: str, console: Console) -> str:
    """The text, with ? for what the terminal has no sign for."""
    return text.encode(console.encoding, "replace").decode(console.encoding)


def _bundle(reading: Reading) -> dict[str, str]:
    """The same for a notebook, as HTML and as plain text."""
    held = [f"held: {reading.held}"] if reading.held else []
    rows = [*fitted(facts(reading), 110), *held]
    bar = f'<progress value="{reading.done}" max="{max(1, reading.rows)}" style="width: 20em"></progress>'
    head = f"<b>{html.escape(reading.label)}</b> {bar} {html.escape(f'{pace(reading)}  {times(reading)}')}"
    told = "".join(f"<br>{html.escape(each)}" for each in rows)
    return {"text/plain": line(reading), "text/html": f"<div>{head}<small>{told}</small></div>"}

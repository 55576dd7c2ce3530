"""A column written by a model: build the requests, take the replies as they come, join them by key."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

import polars as pl

from agora_frames.errors import BindError, FrameError
from agora_frames.frames import CALL, ERROR, REPLIES, as_replies
from agora_frames.stage import stage
from agora_frames.stages.parameters import check_abilities, parameters
from agora_frames.stages.requests import build_requests
from agora_frames.stages.structured import Shape, shape_of
from agora_frames.types import Backend, BoundedObserver, Observer

__all__ = ["generate_column"]

# Rows, their requests and the replies so far: the rows with their three columns.
_Finish: TypeAlias = Callable[[pl.DataFrame, pl.DataFrame, pl.DataFrame], pl.DataFrame]

_TOLD_EVERY_S = 0.25
_ROWS_AT_ONCE = 5_000
# Replies that come one by one are packed: a frame takes 40 KB, however few rows it has.
_FRAMES_AT_ONCE = 100


@stage(rowwise=True)
def generate_column(
    df: pl.DataFrame,
    *,
    column: str = "prompt",
    into: str = "completion",
    temperature: float | None = None,
    top_p: float | None = None,
    max_tokens: int | None = None,
    stop: str | Sequence[str] | None = None,
    response_format: Mapping[str, Any] | None = None,
    schema: Any = None,
    tools: Sequence[Mapping[str, Any]] | None = None,
    logprobs: int | None = None,
    extra: Mapping[str, Any] | None = None,
    images: str | None = None,
    samples: int = 1,
    seed: int | None = 0,
    backend: Backend,
    observer: Observer | None = None,
) -> pl.DataFrame:
    """Asks a model for each row, and keeps every row whatever comes back.

    Reads: `row_id`, `sample` if there is one, and `column`: String, or List(Struct{role, content}) for a chat, whose
    turns may also hold `images`, `tool_calls`, `tool_call_id` and `name`; and `images`, if named: addresses (String)
    or bytes (Binary) of images, one or a list for each row, shown with its last message.
    Adds: `into` (String: the reply; null when there is none), `{into}_error` (Struct{kind, message}; null when the
    reply is whole; a truncated reply has its text and an error), `{into}_call` (Struct, see `frames.CALL`: key,
    endpoint, model, sampling, reasoning, tool_calls, logprobs, finish_reason, tokens, cost_usd in US dollars and whose
    prices made it, latency_s in seconds; null where nothing was asked), and `sample` (Int64, 0 to samples-1) when
    samples > 1. With a schema also its fields, and `{into}_parse_error` (see `structured.shape_of`).
    Rows: the same, in the same order; each `samples` times in a row when samples > 1.
    temperature, top_p, max_tokens, stop, response_format, tools, extra (further parameters of the endpoint): sent as
    they are; None leaves the endpoint's own default. schema: the reply shall be a JSON object of these fields: a
    Pandera model, a pydantic model, or a JSON schema. logprobs: asks for the log probability of each token and of so
    many others in its place (0 to 20). seed: with row_id and sample it gives every draw its own seed; None sends none.
    backend: from `connect`. observer: called with finished rows, each once, while the rest is still being asked; see
    `progress`.
    The key of a call is its content: endpoint, model, messages and sampling; and, unless temperature is 0, the draw
    (seed, row_id, sample). At temperature 0 equal requests are one call. A row whose prompt is null because an
    earlier step failed is not asked (`no_prompt`).
    Raises: FrameError when a column is missing or would be written over, a draw would be asked twice, or a prompt is
    null for no reason; BindError when the backend cannot do it; BackendError when no request can be answered.
    """
    _check(backend, samples, seed, observer)
    backend = _counted_apart(backend) if isinstance(observer, BoundedObserver) else backend
    named = {"temperature": temperature, "top_p": top_p, "max_tokens": max_tokens, "stop": stop, "tools": tools}
    shape = _shape(schema, response_format)
    wanted = response_format if shape is None else shape.response_format
    sampling = parameters({**named, "response_format": wanted, "logprobs": logprobs}, extra)
    rows = _draws(df, samples)
    requests = build_requests(rows, column=column, images=images, sampling=sampling, seed=seed, backend=backend)
    check_abilities(backend, sampling, rows[column], images)
    if shape is not None:
        shape.check_room(rows, into, read=column)
    # The messages are as large as the prompts: who asks them holds them alone.
    stream, requests = backend(_once(requests)), requests.drop("messages")
    finished = partial(_finished, into=into, backend=backend, shape=shape)
    return _asked(rows, requests, stream, finished, backend, observer)


def _asked(
    rows: pl.DataFrame,
    requests: pl.DataFrame,
    stream: Iterator[pl.DataFrame],
    finished: _Finish,
    backend: Backend,
    observer: Observer | None,
) -> pl.DataFrame:
    """The rows with their replies."""
    teller = _Teller(observer, rows, requests, finished)
    with _begun(observer, rows.height, backend):
        done = finished(rows, requests, _drained(_heard(stream, teller, backend)))
        teller.end(done)
    return done


def _shape(schema: Any, response_format: object) -> Shape | None:
    if schema is not None and response_format is not None:
        raise BindError("generate_column() takes schema or response_format: give one, as a schema makes the other.")
    return None if schema is None else shape_of(schema)


def _counted_apart(backend: Backend) -> Backend:
    """The backend with books of its own for this call, if it keeps any: an observer sees what this call costs."""
    apart: Callable[[], Backend] | None = getattr(backend, "apart", None)
    return backend if apart is None else apart()


def _heard(stream: Iterator[pl.DataFrame], teller: _Teller, backend: Backend) -> list[pl.DataFrame]:
    """The replies, as the teller hears them; whatever ends that, the backend is told at once that nobody listens."""
    packed: list[pl.DataFrame] = []
    fresh: list[pl.DataFrame] = []
    try:
        for batch in stream:
            fresh.append(_last_attempts(as_replies(batch, backend)))
            teller.hear(fresh[-1])
            if len(fresh) == _FRAMES_AT_ONCE:
                small = sum(frame.height for frame in fresh) < _ROWS_AT_ONCE
                packed += [_drained(fresh)] if small else fresh
                fresh = []
    finally:
        if isinstance(stream, Generator):
            stream.close()
    return packed + fresh


def _check(backend: object, samples: object, seed: object, observer: object) -> None:
    if not isinstance(backend, Backend):
        raise BindError(
            f"generate_column(backend={backend!r}) is no backend: write backend=connect('openai:gpt-4o-mini')."
        )
    if not isinstance(samples, int) or isinstance(samples, bool) or samples < 1:
        raise BindError(f"generate_column(samples={samples!r}): it must be a whole number, at least 1.")
    if seed is not None and (not isinstance(seed, int) or isinstance(seed, bool)):
        raise BindError(f"generate_column(seed={seed!r}): it must be a whole number, or None to send none.")
    if observer is not None and not callable(observer):
        raise BindError(
            f"generate_column(observer={observer!r}): it is called with rows: write observer=af.progress()."
        )


class _Teller:
    """Tells an observer of finished rows, each once, while the rest is still being asked."""

    def __init__(
        self, observer: Observer | None, rows: pl.DataFrame, requests: pl.DataFrame, finished: _Finish
    ) -> None:
        self.observer, self.rows, self.requests, self.finished = observer, rows, requests, finished
        self.told = pl.repeat(False, rows.height, dtype=pl.Boolean, eager=True)
        self.fresh: list[pl.DataFrame] = []
        self.last = time.monotonic()

    def hear(self, replies: pl.DataFrame) -> None:
        """Replies have come: their rows are told now and then."""
        if self.observer is None:
            return
        self.fresh.append(replies)
        if time.monotonic() - self.last > _TOLD_EVERY_S:
            keys = pl.concat(self.fresh)["key"].implode()
            new = self.requests["key"].is_in(keys).fill_null(False) & ~self.told
            if new.any():
                self.observer(self.finished(self.rows.filter(new), self.requests.filter(new), _drained(self.fresh)))
            self.told, self.fresh, self.last = self.told | new, [], time.monotonic()

    def end(self, done: pl.DataFrame) -> None:
        """All rows are done."""
        if self.observer is not None and not self.told.all():
            self.observer(done.filter(~self.told))


@contextlib.contextmanager
def _begun(observer: Observer | None, rows: int, backend: Backend) -> Iterator[None]:
    """Tells the observer how many rows there will be, and when no more will come; if it wants to know."""
    if isinstance(observer, BoundedObserver):
        observer.begin(rows, backend)
    try:
        yield
    finally:
        if isinstance(observer, BoundedObserver):
            observer.end()


def _draws(df: pl.DataFrame, samples: int) -> pl.DataFrame:
    if samples == 1:
        return df
    if "sample" in df.columns:
        raise FrameError(
            "generate_column(samples=…) would number its samples in the column 'sample', which the frame has already. "
            "Ask for samples=1 (each row and sample is its own draw), or rename that column."
        )
    numbers = pl.lit(pl.Series("sample", range(samples), dtype=pl.Int64)).implode().alias("sample")
    return df.with_columns(numbers).explode("sample")


def _once(requests: pl.DataFrame) -> pl.DataFrame:
    """Each key once; the same frame where that is so already, as its parts can be let go one by one."""
    if not requests["key"].has_nulls() and requests["key"].n_unique() == requests.height:
        return requests
    return requests.filter(pl.col("key").is_not_null()).unique("key", keep="first", maintain_order=True)


def _last_attempts(replies: pl.DataFrame) -> pl.DataFrame:
    """Without those that are asked again; mostly that is all of them, which need not be copied."""
    return replies.filter(~replies["retried"]) if replies["retried"].any() else replies


def _drained(replies: list[pl.DataFrame]) -> pl.DataFrame:
    """All of them in one piece; the list is empty then, so that they are not there twice."""
    whole = pl.concat([REPLIES.to_frame(), *replies], rechunk=True)
    replies.clear()
    return whole


def _finished(
    rows: pl.DataFrame, requests: pl.DataFrame, replies: pl.DataFrame, into: str, backend: Backend, shape: Shape | None
) -> pl.DataFrame:
    """The rows with their three columns, and those of a shape."""
    places = replies.select("key").with_row_index("place").unique("key", keep="first")
    asked = requests.select("key", "sampling").join(places, on="key", how="left", maintain_order="left")
    parts = asked.iter_slices(_ROWS_AT_ONCE) if asked.height else [asked]
    columns = pl.concat([_columns(part, replies, into, backend) for part in parts])
    done = rows.with_columns(columns.get_columns())
    return done if shape is None else shape.parsed(done, into)


def _columns(asked: pl.DataFrame, replies: pl.DataFrame, into: str, backend: Backend) -> pl.DataFrame:
    """The three columns of some rows, of which `asked` says in which place of `replies` theirs are."""
    known = {"endpoint": pl.lit(backend.endpoint), "model": pl.lit(backend.model)}
    call = pl.struct([known.get(f.name, pl.col(f.name)).alias(f.name) for f in CALL.fields])
    answered = pl.col("place").is_not_null()
    return asked.with_columns(replies.drop("key")[asked["place"]]).select(
        pl.col("text").alias(into),
        pl.when(pl.col("key").is_null())
        .then(_error("no_prompt", "the prompt is null"))
        .when(~answered)
        .then(_error("bad_reply", "the backend ended without a reply to this request"))
        .otherwise("error")
        .alias(f"{into}_error"),
        pl.when(answered).then(call).cast(CALL).alias(f"{into}_call"),
    )


def _error(kind: str, message: str) -> pl.Expr:
    return pl.struct(kind=pl.lit(kind), message=pl.lit(message)).cast(ERROR)

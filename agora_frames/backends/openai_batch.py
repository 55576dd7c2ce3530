"""OpenAI's Batch API: the same requests for half the price, answered within a day."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, TypeVar

import orjson
import polars as pl

from agora_frames.backends.answers import raise_if_fatal, said
from agora_frames.backends.batch_provider import Batch, Unsure
from agora_frames.backends.batches import Batches, Limits, Open
from agora_frames.backends.chat import NO_DESK, Put, Stop, streamed
from agora_frames.backends.headers import asked_s
from agora_frames.backends.openai_chat import OPENAI_CAN, OPENAI_URL, body_of, checked_url, key_of
from agora_frames.backends.transport import Answer
from agora_frames.errors import AuthenticationError, BackendError, BindError, EndpointError, UnknownModelError
from agora_frames.ledger import Ledger
from agora_frames.ledger.notes import notes_beside
from agora_frames.prices import Prices, batch_prices_of
from agora_frames.types import Desk

__all__ = ["OpenAIBatch", "openai_batch"]

T = TypeVar("T")

# https://platform.openai.com/docs/guides/batch#rate-limits
_MOST_REQUESTS, _MOST_BYTES = 50_000, 200_000_000
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 60.0
# What reading an answer that is none comes to.
_NO_SENSE = (ValueError, TypeError, AttributeError)
_DOWNLOADS = 3  # of a file in which a line is broken


class _Status(NamedTuple):
    """What `progress` shows beside the rows: requests that wait, and what for."""

    in_flight: int
    held: str | None


@dataclass(frozen=True, repr=False)
class OpenAIBatch:
    """A backend that asks in batches; made by `openai_batch`."""

    model: str
    endpoint: str
    api_key: str = field(repr=False)
    limits: Limits
    poll_s: tuple[float, float]
    tries: int
    timeout_s: float
    outage_s: float
    prices: Prices | None
    wait: Callable[[Stop, float], bool] = Stop.wait
    _runs: list[dict[str, Open]] = field(default_factory=list)

    @property
    def can(self) -> frozenset[str] | None:
        return OPENAI_CAN if self.endpoint == OPENAI_URL else None

    def status(self) -> _Status | None:
        """How many requests of open batches wait, and how far each batch is; None where none is open."""
        opened = [(each.batch, len(each.note.keys)) for run in list(self._runs) for each in list(run.values())]
        if not opened:
            return None
        told = ", ".join(f"{batch.id} {batch.status}, {batch.done:,} of {count:,} done" for batch, count in opened)
        return _Status(sum(count - batch.done for batch, count in opened), told)

    def __call__(self, requests: pl.DataFrame, /) -> Iterator[pl.DataFrame]:
        return self.answer(requests, desk=NO_DESK)

    def answer(self, requests: pl.DataFrame, *, desk: Desk) -> Iterator[pl.DataFrame]:
        """See `types.DeskBackend`. Needs a desk with a ledger: what goes on for a day must be written down."""
        ledger = getattr(desk, "ledger", None)
        if not isinstance(ledger, Ledger):
            raise BindError(
                f"{self!r} needs a ledger, beside which it notes its batches, so that none is submitted twice. Write "
                f"connect('openai-batch:{self.model}'), or remembered({self!r}, ledger=Ledger(…))."
            )
        if requests.is_empty():
            return
        if not self.api_key and self.endpoint == OPENAI_URL:
            raise AuthenticationError(
                f"openai-batch:{self.model} needs an API key, and none was found. Set it in the environment, "
                "export OPENAI_API_KEY=…, or pass connect(…, api_key=…)."
            )

        def work(put: Put, stop: Stop) -> None:
            opened: dict[str, Open] = {}
            self._runs.append(opened)
            with _client(self) as client:
                Batches(
                    provider=_OpenAI(self, client, stop),
                    endpoint=self.endpoint,
                    model=self.model,
                    requests=requests,
                    desk=desk,
                    ledger=ledger,
                    notes=notes_beside(ledger.place, "batches"),
                    put=put,
                    stop=stop,
                    wait=self.wait,
                    pauses_s=self.poll_s,
                    body_of=partial(body_of, self.endpoint, self.model),
                    prices=self.prices,
                    limits=self.limits,
                    tries=self.tries,
                    opened=opened,
                ).run()  # which leaves nothing open
            self._runs[:] = [run for run in self._runs if run is not opened]

        yield from streamed(work)

    def __repr__(self) -> str:
        return f"openai_batch({self.model!r}, endpoint={self.endpoint!r})"


def openai_batch(
    model: str,
    *,
    base_url: str = OPENAI_URL,
    api_key: str | None = None,
    max_requests: int = _MOST_REQUESTS,
    max_bytes: int = _MOST_BYTES,
    max_queued_tokens: int | None = None,
    poll_s: float = 5.0,
    longest_poll_s: float = 60.0,
    tries: int = 3,
    timeout_s: float = 600.0,
    outage_s: float = 3600.0,
    prices: tuple[float, ...] | None = None,
    discount: float = 0.5,
) -> OpenAIBatch:
    """A backend that asks a model of OpenAI in batches: half the price, answered within 24 hours, mostly much sooner.

    Works behind a ledger only: use `connect`. What a batch is, is written beside the ledger before each step, so that a
    run which was killed or interrupted goes on where it was when the same is run again, and no batch is submitted
    twice. Ctrl-C leaves the batches running. The replies have the same keys as those of `openai:MODEL`: what one asked
    for, the other knows.
    api_key: by default the environment's OPENAI_API_KEY. max_requests, max_bytes: of one batch. max_queued_tokens: of
    all prompts that wait at once, as your account has it for this model (https://platform.openai.com/settings); what is
    over it waits for batches to end. poll_s, longest_poll_s: seconds between two looks, growing. tries: of a request
    that expired or met a server error, each in another batch. timeout_s: of one call. outage_s: seconds that a provider
    who does not answer is waited for.
    prices: the usual US dollars per million tokens, as `openai_chat` takes them. discount: the share of it that batches
    save, where genai-prices has no prices of batches for the model, or where prices are given.
    Raises: BindError for values of a wrong type; at the first request AuthenticationError without a key.

    >>> import agora_frames as af
    >>> af.connect("openai-batch:gpt-4o-mini", max_queued_tokens=2_000_000)
    remembered(openai_batch('gpt-4o-mini', endpoint='https://api.openai.com/v1'), ledger='.agora/ledger')
    """
    wholes = {"max_requests": max_requests, "max_bytes": max_bytes, "tries": tries}
    wholes |= {} if max_queued_tokens is None else {"max_queued_tokens": max_queued_tokens}
    for name, value in wholes.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise BindError(f"openai_batch({name}={value!r}): it must be a whole number, at least 1.")
    times = {"poll_s": poll_s, "longest_poll_s": longest_poll_s, "timeout_s": timeout_s, "outage_s": outage_s}
    for name, seconds in times.items():
        if not _is_number(seconds) or seconds <= 0:
            raise BindError(f"openai_batch({name}={seconds!r}): it must be a number of seconds, above 0.")
    if not _is_number(discount) or not 0 <= discount <= 1:
        raise BindError(f"openai_batch(discount={discount!r}): it must be a share, from 0 to 1.")
    if not isinstance(model, str) or not model:
        raise UnknownModelError(f"openai_batch({model!r}): give the model's name as a text.")
    endpoint = checked_url(base_url)
    return OpenAIBatch(
        model=model,
        endpoint=endpoint,
        api_key=key_of(endpoint, api_key),
        limits=Limits(max_requests, max_bytes, max_queued_tokens),
        poll_s=(poll_s, max(poll_s, longest_poll_s)),
        tries=tries,
        timeout_s=timeout_s,
        outage_s=outage_s,
        prices=batch_prices_of(endpoint, model, prices, discount=discount),
    )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _client(backend: OpenAIBatch) -> Any:
    import openai

    # Its own retries would submit a batch twice.
    key = backend.api_key or "none"
    return openai.OpenAI(api_key=key, base_url=backend.endpoint, timeout=backend.timeout_s, max_retries=0)


@dataclass(frozen=True)
class _OpenAI:
    """OpenAI as a `batches.Provider`."""

    of: OpenAIBatch
    client: Any
    stop: Stop

    def upload(self, name: str, lines: Sequence[bytes]) -> str:
        with tempfile.TemporaryFile() as file:
            file.writelines(lines)

            def send() -> str:
                file.seek(0)
                made: str = self.client.files.create(file=(name, file), purpose="batch").id
                return made

            return self._answered(send)

    def delete(self, file_id: str) -> bool:
        import openai

        try:
            self._answered(lambda: self.client.files.delete(file_id))
        except openai.NotFoundError:
            return False
        return True

    def submit(self, file_id: str, tag: str) -> Batch:
        import httpx2
        import openai

        def send() -> Batch:
            try:
                made = self.client.batches.create(
                    input_file_id=file_id,
                    endpoint="/v1/chat/completions",
                    completion_window="24h",
                    metadata={"agora": tag},
                )
                return _batch(made)
            except openai.APIStatusError as exc:
                if exc.status_code >= 500 or exc.status_code in (408, 409):
                    raise Unsure(str(exc)) from exc
                raise
            except (openai.APIError, httpx2.HTTPError, *_NO_SENSE) as exc:
                raise Unsure(str(exc)) from exc

        return self._answered(send)

    def find(self, tag: str) -> Batch | None:
        def search() -> Batch | None:
            every = self.client.batches.list(limit=100)  # of as many pages as there are
            return next((_batch(batch) for batch in every if (batch.metadata or {}).get("agora") == tag), None)

        return self._answered(search)

    def look(self, batch_id: str) -> Batch:
        import openai

        try:
            return self._answered(lambda: _batch(self.client.batches.retrieve(batch_id)))
        except openai.NotFoundError as exc:
            raise EndpointError(
                f"{self.of.endpoint} knows no batch {batch_id!r}, which an earlier run submitted. Nothing was asked. "
                "Use the API key of the same project; or, to give that batch up, delete its note in the folder "
                "'batches' beside the ledger, and run again."
            ) from exc

    def lines(self, file_id: str) -> Iterator[Mapping[str, Any]]:
        import openai

        for left in reversed(range(_DOWNLOADS)):
            with tempfile.TemporaryFile() as file:
                try:
                    self._answered(partial(self._download, file_id, file))
                except openai.NotFoundError:  # it was deleted, or is too old
                    return
                file.seek(0)
                if left and not all(map(_object, file)):
                    continue
                file.seek(0)
                yield from filter(None, map(_object, file))
                return

    def _download(self, file_id: str, file: Any) -> None:
        file.seek(0)
        file.truncate()
        with self.client.files.with_streaming_response.content(file_id) as response:
            for part in response.iter_bytes():
                file.write(part)

    def refused(self, batch: Batch) -> Exception:
        code, message, _ = batch.errors[0] if batch.errors else ("", "it gave no reason", None)
        told = f"{self.of.endpoint} refused the batch {batch.id}: {message.rstrip('.')}. Nothing was asked or charged."
        if code in ("model_not_found", "mismatched_model"):
            return UnknownModelError(f"{told} Check the model's name.")
        return BackendError(f"{told} Mend that, and run again.")

    def _answered(self, call: Callable[[], T]) -> T:
        """What a call gives; repeated while the provider is busy or away, with growing pauses.

        Raises what concerns all; openai's error for any other refusal; and EndpointError when it is away for too long.
        """
        import httpx2
        import openai

        waited_s, pause_s, why, asks_s = 0.0, _FIRST_PAUSE_S, Exception(), None
        while True:
            try:
                return call()
            except openai.APIStatusError as exc:
                answer = Answer(exc.status_code, exc.response.headers, exc.response.content)
                if answer.status != 404:
                    raise_if_fatal(
                        answer,
                        endpoint=self.of.endpoint,
                        model=self.of.model,
                        variable="OPENAI_API_KEY" if self.of.endpoint == OPENAI_URL else "AGORA_API_KEY",
                        hidden=self.of.api_key,
                    )
                told, why, asks_s = said(answer, self.of.api_key), exc, asked_s(answer.headers)
                if answer.status < 500 and answer.status not in (408, 409, 429):
                    if answer.status == 404:
                        raise
                    raise BackendError(f"{self.of.endpoint} refused: {told}. Mend that, and run again.") from exc
            except (openai.APIConnectionError, httpx2.HTTPError, *_NO_SENSE) as exc:
                told, why, asks_s = str(exc), exc, None
            if waited_s >= self.of.outage_s:
                raise EndpointError(
                    f"{self.of.endpoint} does not answer ({told}). Batches that were submitted go on there, and "
                    "nothing is lost: run the same again when it does."
                ) from why
            wait_s = max(pause_s, asks_s or 0.0)
            if self.of.wait(self.stop, wait_s):
                raise EndpointError(f"stopped while {self.of.endpoint} did not answer ({told})") from why
            waited_s, pause_s = waited_s + wait_s, min(2 * pause_s, _LONGEST_PAUSE_S)


def _batch(found: Any) -> Batch:
    counts, errors = found.request_counts, (found.errors and found.errors.data) or ()
    return Batch(
        id=found.id,
        status=found.status,
        done=counts.completed + counts.failed if counts else 0,
        files=tuple(file for file in (found.output_file_id, found.error_file_id) if file),
        errors=tuple((error.code or "", error.message or "", error.line) for error in errors),
    )


def _object(line: bytes) -> dict[str, Any] | None:
    """The JSON object in a line; None where there is none."""
    try:
        found = orjson.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None

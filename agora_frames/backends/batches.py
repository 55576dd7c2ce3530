"""Requests in batches that go on at a provider: submitted once, whatever dies meanwhile, and collected at their end."""

from __future__ import annotations

import contextlib
import logging
import secrets
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, NamedTuple, TypeAlias

import polars as pl

from agora_frames.backends.batch_provider import Batch, Provider, Unsure, free, read_result
from agora_frames.backends.chat import Put, Stop, failed, over_budget
from agora_frames.budget import most_tokens
from agora_frames.errors import EndpointError, StorageError
from agora_frames.ledger import Ledger
from agora_frames.ledger.notes import Notes
from agora_frames.prices import Prices
from agora_frames.types import Desk

__all__ = ["Batches", "Limits", "Note", "Open"]

_log = logging.getLogger(__name__)

# Failures for which nothing was charged, and that another batch may mend.
_AGAIN = ("expired", "rate_limited", "server_error", "timeout")
_ENDED = ("completed", "expired", "cancelled", "failed")
_MISSING = {
    "expired": ("expired", "the batch's time was over before this request was begun"),
    "cancelled": ("cancelled", "the batch was cancelled before this request was begun"),
}
_BYTES_PER_TOKEN = 4
_LOOKS_AT_LOCK_S = 1.0


class Limits(NamedTuple):
    """Of one batch: requests and bytes; and of all that wait at once: tokens of prompts (None: nobody knows)."""

    requests: int
    size: int
    queued_tokens: int | None


@dataclass(frozen=True)
class Note:
    """What is written down of a batch, before each step is taken.

    file_id: of the uploaded input; from then on a batch may have been made of it. batch_id: it was. giving_up: the
    input is being deleted, because no batch was found. tokens, cost_usd: what it can take at most. queued: tokens of
    its prompts, as estimated.
    """

    tag: str
    endpoint: str
    model: str
    keys: list[str]
    tokens: int | None
    cost_usd: float | None
    queued: int
    file_id: str | None = None
    batch_id: str | None = None
    giving_up: bool = False


@dataclass
class Open:
    """A batch that goes on.

    ours: submitted by this run, and reserved for key by key; else reserved for as a whole, if there was room. held: its
    lock.
    """

    note: Note
    batch: Batch
    ours: bool
    reserved: bool
    held: contextlib.ExitStack


# Place of the request, its key, its line; what it can take at most, of tokens and US dollars; tokens of its prompt.
_Line: TypeAlias = tuple[int, str, bytes, int | None, float | None, int]


@dataclass
class Batches:
    """One run of requests in batches.

    wait: waits so many seconds, or until it is stopped, and says whether it is. pauses_s: between two looks, the first
    and the longest. tries: of one request, at most. opened: the batches that go on, for whoever wants to look.
    """

    provider: Provider
    endpoint: str
    model: str
    requests: pl.DataFrame
    desk: Desk
    ledger: Ledger
    notes: Notes
    put: Put
    stop: Stop
    wait: Callable[[Stop, float], bool]
    pauses_s: tuple[float, float]
    body_of: Callable[[str, str], tuple[bytes, int | None]]
    prices: Prices | None
    limits: Limits
    tries: int
    opened: dict[str, Open]
    tried: dict[int, int] = field(default_factory=dict)
    todo: deque[int] = field(default_factory=deque)

    def run(self) -> None:
        """Until every request has its reply, or until it is stopped: then batches go on, and the next run has them."""
        self.requests = self.requests.select("key", "messages", "sampling")
        self.places = {key: place for place, key in enumerate(self.requests["key"])}
        pause_s, longest_s = self.pauses_s
        try:
            self._take_up()
            while not self.stop.is_set():
                self._submit()
                before = [(each.batch.status, each.batch.done) for each in self.opened.values()]
                if not self.opened and not self.todo:
                    return
                if self._collect():
                    continue
                moved = before != [(each.batch.status, each.batch.done) for each in self.opened.values()]
                pause_s = self.pauses_s[0] if moved else min(1.5 * pause_s, longest_s)
                self.wait(self.stop, pause_s)
        finally:
            self._leave()

    def _leave(self) -> None:
        """What goes on is no longer ours; said, so that nobody thinks it lost."""
        if self.opened:
            ids = ", ".join(each.batch.id for each in self.opened.values())
            _log.warning(
                "%s goes on at %s. Run the same again, with the ledger %s, and its replies are collected: nothing is "
                "submitted twice. Who does not want them cancels it there.",
                *(ids, self.endpoint, str(self.ledger.path)),
            )
        for each in self.opened.values():
            self._release(each)
            each.held.close()
        self.opened.clear()

    # --- what an earlier run has left -----------------------------------------------------------------------------

    def _take_up(self) -> None:
        """The batches that an earlier run left behind, as far as they hold what is asked for now."""
        taken: set[str] = set()
        for name in self.notes.names():
            note = self._noted(name)
            if note is None or not any(key in self.places for key in note.keys):
                continue
            with self._locked(name) as held:
                if (batch := self._found(name)) is None:
                    continue
                note = replace(self._noted(name) or note, batch_id=batch.id)
                self.notes.write(name, asdict(note))
                known = note.tokens is not None and note.cost_usd is not None
                reserved = self.desk.reserve(name, tokens=note.tokens, cost_usd=note.cost_usd) if known else None
                self.opened[name] = Open(note, batch, False, reserved is True, held.pop_all())
                taken.update(note.keys)
        # Another process may have ended a batch of some of these since they were looked up: it removes a note after its
        # replies are recorded, so where there is no note now, they are in the ledger.
        left = pl.Series([key for key in self.places if key not in taken], dtype=pl.String)
        for reply in self.ledger.answers(left).iter_rows(named=True):
            taken.add(reply["key"])
            self.put(reply)
        self.todo.extend(place for key, place in self.places.items() if key not in taken)

    def _locked(self, name: str) -> contextlib.ExitStack:
        """The lock of a note, when nobody else has it any more."""
        while True:
            held = contextlib.ExitStack()
            if held.enter_context(self.notes.held(name)) is not False:
                return held
            held.close()
            if self.wait(self.stop, _LOOKS_AT_LOCK_S):
                raise EndpointError("stopped while another process waits for the same batch")

    def _noted(self, name: str) -> Note | None:
        """A note of a batch for this model at this endpoint."""
        read = self.notes.read(name)
        if read is None or (read.get("endpoint"), read.get("model")) != (self.endpoint, self.model):
            return None
        try:
            return Note(**read)
        except TypeError as exc:
            raise StorageError(
                f"the note {name!r} in {self.notes.place.shown!r} is none that this version wrote ({exc}). Nothing was "
                "asked. It says of a batch that may be paid for: go on with the version that began it."
            ) from exc

    def _found(self, name: str) -> Batch | None:
        """The batch of a note; None, and no note any more, when there is none, and none can come."""
        note, batch = self._noted(name), None
        if note is None:
            return None
        if note.batch_id is not None:
            return self.provider.look(note.batch_id)
        if note.file_id is not None and (batch := self.provider.find(note.tag)) is None:
            # It was sent perhaps, and may be on its way still: without its file, no batch can be made of it.
            self.notes.write(note.tag, asdict(replace(note, giving_up=True)))
            if not self.provider.delete(note.file_id) and not note.giving_up:
                raise EndpointError(
                    f"{self.endpoint} knows no file {note.file_id!r}, of which an earlier run may have made a batch. "
                    "Nothing was submitted. Use the API key of the same project; or, if there is no such "
                    f"batch, delete the note {note.tag!r} in {self.notes.place.shown!r}, and run again."
                )
            batch = self.provider.find(note.tag)
        if batch is None:
            self.notes.remove(note.tag)
        return batch

    # --- submit ---------------------------------------------------------------------------------------------------

    def _submit(self) -> None:
        """As many batches as the limits and the budget let; none while an earlier one may take what is left."""
        if any(not each.ours and not each.reserved for each in self.opened.values()):
            return
        while self.todo and not self.stop.is_set() and (part := self._part()):
            self._send(part)

    def _part(self) -> list[_Line]:
        """The next requests that one batch can hold, reserved for."""
        part: list[_Line] = []
        size, queued = 0, sum(each.note.queued for each in self.opened.values())
        while self.todo and len(part) < self.limits.requests:
            line = self._line(self.todo[0])
            _, key, content, tokens, cost_usd, asked = line
            if len(content) > self.limits.size:
                self.todo.popleft()
                self._reply(failed(key, "bad_request", f"larger than a batch may be ({self.limits.size:,} bytes)"))
                continue
            full = self.limits.queued_tokens is not None and queued + asked > self.limits.queued_tokens
            if size + len(content) > self.limits.size or (full and (part or self.opened)):
                break
            leave = self.desk.reserve(key, tokens=tokens, cost_usd=cost_usd)
            if leave is False:
                break
            self.todo.popleft()
            if leave is None:
                self.put(over_budget(key))
                continue
            part.append(line)
            size, queued = size + len(content), queued + asked
        return part

    def _line(self, place: int) -> _Line:
        key, messages, sampling = self.requests.row(place)
        body, most = self.body_of(messages, sampling)
        asked, tokens = most_tokens(messages, most, sampling=sampling)
        cost_usd = self.prices.at_most(asked, most) if self.prices is not None else None
        content = b'{"custom_id":"%b","method":"POST","url":"/v1/chat/completions","body":%b}\n' % (key.encode(), body)
        return place, key, content, tokens, cost_usd, len(body) // _BYTES_PER_TOKEN

    def _send(self, part: list[_Line]) -> None:
        """One batch, each step written down before the next is taken."""
        places, keys, lines, tokens, costs, queued = zip(*part, strict=True)
        tag = f"agora-{datetime.now(UTC).strftime('%Y%m%dT%H%M%S%f')}-{secrets.token_hex(8)}"
        note = Note(tag, self.endpoint, self.model, list(keys), _sum(tokens), _sum(costs), sum(queued))
        held = contextlib.ExitStack()
        batch = None
        try:
            held.enter_context(self.notes.held(tag))
            self.notes.write(tag, asdict(note))
            note = replace(note, file_id=self.provider.upload(f"{tag}.jsonl", lines))
            self.notes.write(tag, asdict(note))
            try:
                batch = self.provider.submit(str(note.file_id), tag)
            except Unsure as exc:
                _log.warning("nobody knows whether a batch was made (%s): looking for it", exc)
                batch = self._found(tag)
            if batch is not None:
                note = replace(self._noted(tag) or note, batch_id=batch.id)
                self.notes.write(tag, asdict(note))
                self.opened[tag] = Open(note, batch, True, True, held)
        except Exception:
            if note.file_id is None:  # nothing can have been made of it
                self.notes.remove(tag)
            raise
        finally:
            if tag not in self.opened:
                for key in keys:
                    self.desk.release(key)
                held.close()
        if batch is None:
            self.todo.extendleft(reversed(places))
            self.wait(self.stop, self.pauses_s[0])

    # --- collect --------------------------------------------------------------------------------------------------

    def _collect(self) -> bool:
        """Looks at each batch, and takes what has ended; says whether any has."""
        ended = False
        for name, each in list(self.opened.items()):
            if self.stop.is_set():
                return ended
            each.batch = self.provider.look(each.batch.id)
            if each.batch.status not in _ENDED:
                continue
            if each.batch.status == "failed":
                self._refused(each)
            else:
                self._finished(each)
            self.ledger.flush()
            self.notes.remove(name)
            del self.opened[name]
            each.held.close()
            ended = True
        return ended

    def _finished(self, each: Open) -> None:
        """Every request of an ended batch gets what the files say of it, or that they say nothing."""
        left = set(each.note.keys)
        if not each.ours:  # an earlier run may have died in the middle of this
            left -= set(self.ledger.answers(pl.Series(each.note.keys, dtype=pl.String))["key"])
        for file_id in each.batch.files:
            for line in self.provider.lines(file_id):
                if (key := line.get("custom_id")) in left:
                    left.discard(key)
                    self._reply(read_result(key, line, self.prices))
        said = _MISSING.get(
            each.batch.status, ("bad_reply", f"{each.batch.id} ended without a result for this request")
        )
        for key in each.note.keys:
            if key in left:
                self._reply(failed(key, *said))
        self._release(each, settled=True)

    def _refused(self, each: Open) -> None:
        """A batch whose input was refused, with nothing done: what is wrong with a line, and what with all."""
        errors = {line: message for _, message, line in each.batch.errors if line is not None}
        full = any(code == "token_limit_exceeded" for code, _, _ in each.batch.errors)
        self._release(each)
        if not (errors or full or each.note.giving_up):
            self.notes.remove(each.note.tag)
            self.opened.pop(each.note.tag).held.close()
            raise self.provider.refused(each.batch)
        for number, key in enumerate(each.note.keys, start=1):
            if number in errors:
                self._reply(failed(key, "bad_request", errors[number], **free(self.prices)))
            elif (place := self.places.get(key)) is not None:
                self.todo.append(place)
        if full:
            _log.warning("%s: %s", each.batch.id, each.batch.errors[0][1])
            # Not more than waits already, or else half as much: others may fill the queue as well.
            others = sum(other.note.queued for other in self.opened.values() if other is not each)
            self.limits = self.limits._replace(queued_tokens=max(1, others, each.note.queued // 2))
            self.wait(self.stop, self.pauses_s[1])

    def _reply(self, reply: dict[str, Any]) -> None:
        """Records a reply; what another batch may mend is asked again."""
        place, kind = self.places.get(reply["key"]), reply.get("error", {}).get("kind")
        if place is not None and kind in _AGAIN:
            self.tried[place] = self.tried.get(place, 1) + 1
            reply["retried"] = self.tried[place] <= self.tries
        self.desk.record(reply)
        if reply.get("retried") and place is not None:
            self.todo.append(place)
        elif place is not None:
            self.put(reply)

    def _release(self, each: Open, *, settled: bool = False) -> None:
        """What is reserved for a batch is free; settled: its replies took the place of what was reserved for them."""
        if not each.ours:
            if each.reserved:
                self.desk.release(each.note.tag)
        elif not settled:
            for key in each.note.keys:
                self.desk.release(key)


def _sum(amounts: Sequence[Any]) -> Any:
    return None if None in amounts else sum(amounts)

"""A recipe against a former run of it: what will be asked, computed again or reused, and why, before it is."""

from __future__ import annotations

import os
import re
from ast import literal_eval
from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import SequenceMatcher
from typing import Any, TypeAlias

import orjson
import polars as pl

from agora_frames.compose import AnyStage, each_step, name_of, steps
from agora_frames.errors import FingerprintError, ReadError, StorageError
from agora_frames.fingerprint import fingerprint
from agora_frames.hashing import frame_hash, hash_bytes
from agora_frames.io import Url, located
from agora_frames.plan import run_planned, run_planned_rounds
from agora_frames.rounds import until_rows
from agora_frames.stage import EFFECTS, Stage
from agora_frames.store import Store, cached, store_entries
from agora_frames.types import Backend

__all__ = ["COMPARISON", "compare", "describe_steps", "noting_inputs"]

# One row for each step, in order. `rows`: that come out of it. `happens`: `calls` (a model is asked), `computed again`,
# `reused` (from the store or, where a model was asked, from the ledger) or, of a step that is gone, `nothing`. `why`:
# what changed since the former run. `to_ask`, `known`: of a step that asks a model, requests without and with a reply
# in the ledger; `cost_usd_expected` and its 90 % interval: of those to ask (see `plan.PLAN`).
COMPARISON = pl.Schema(
    {
        "step": pl.String(),
        "rows": pl.Int64(),
        "happens": pl.String(),
        "why": pl.String(),
        "to_ask": pl.Int64(),
        "known": pl.Int64(),
        "cost_usd_expected": pl.Float64(),
        "cost_usd_low": pl.Float64(),
        "cost_usd_high": pl.Float64(),
    }
)

# What is known of a step of a run: name, fingerprint, parameters, model, and the hash of its input.
_Described: TypeAlias = Mapping[str, Any]

_LONGEST_TEXT = 200
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
_SECRET = re.compile(
    r"""(?i)((?:api_?key|access_?key|password|passwd|secret|authorization|(?<![a-z])token)['"]?\s*[=:]\s*)"""
    r"""('[^']*'|"[^"]*")"""
)


def compare(
    stage: AnyStage, *, df: pl.DataFrame, run: Url | Mapping[str, Any], store: Store | None = None
) -> pl.DataFrame:
    """What a run of the recipe as it is now would do, step by step, against a former run: in the columns of COMPARISON.

    run: the manifest of the former run, or the file that it is in. store: where computed steps are kept; without it,
    they are all computed again.
    As in `plan`, the steps are run on `df`, and nobody is asked; nothing is written. Rows that lack a reply go on
    without one, so that what comes after a step that calls has another input than it will have.
    Raises: ReadError when it is no manifest, or one that does not tell the content of its steps; StorageError when
    it is not there.

    >>> import agora_frames as af
    >>> def say(template):
    ...     return af.recipe(af.with_row_ids(), af.render_prompts(template=template), name="say")
    >>> df, inputs = pl.DataFrame({"word": ["yes"]}), []
    >>> _ = noting_inputs(say("Say {{ word }}."), inputs=inputs)(df)
    >>> told = describe_steps(say("Say {{ word }}."))
    >>> run = {"steps": [{**step, "input": input} for step, input in zip(told, inputs)]}
    >>> compare(say("Sing {{ word }}!"), df=df, run=run).select("step", "why").rows()
    [('with_row_ids', 'no store was given'), ('render_prompts', 'parameters changed: template')]
    """
    stored = set(store_entries(store)["key"]) if store else set()
    each, rows = iter(steps(stage)), []
    read: dict[tuple[str, str, str], pl.DataFrame] = {}
    for before, after in _pairs(_steps_of(run), describe_steps(stage)):
        if after is None:
            rows.append({**(before or {}), "happens": "nothing", "why": "gone"})
            continue
        step, told = next(each), {**after, "input": _hash_of(df)}
        # The key of the store, as `cached` makes it.
        key = told["fingerprint"] and told["input"] and hash_bytes(told["fingerprint"].encode(), told["input"].encode())
        row: dict[str, Any] = {}
        if isinstance(step, Stage) and _asks(step):
            planned: list[dict[str, object]] = []
            run_step = run_planned_rounds if step.fn is until_rows.fn else run_planned
            df = run_step(df, stage=step, planned=planned, read=read)
            row |= planned[0]
        elif store and key in stored and isinstance(step, Stage) and not step.effects:
            df, row["found"] = cached(step, store=store)(df), True
        else:
            df = step(df)
        happens, why = _verdict(row, _changes(before, told), step, store)
        rows.append({**row, "name": told["name"], "rows": df.height, "happens": happens, "why": why})
    known = [{name: row.get(name) for name in COMPARISON} | {"step": row["name"]} for row in rows]
    return pl.DataFrame(known, schema=COMPARISON)


def _asks(step: Stage) -> bool:
    """Whether the step asks a model, by itself or round by round."""
    rounds = step.fn is until_rows.fn and "backend" in step.effects
    return rounds or isinstance(step.params.get("backend"), Backend)


def describe_steps(stage: AnyStage) -> list[dict[str, Any]]:
    """What each step is: its name, its fingerprint (null where it has none), parameters as short texts, the model.

    The parameters are without effects (backend, store, …), and what looks like a secret in them is hidden. A text that
    does not show the whole value ends in the first digits of its fingerprint.

    >>> import agora_frames as af
    >>> describe_steps(af.render_prompts(template="Say {{ word }}."))[0]["parameters"]["template"]
    "'Say {{ word }}.'"
    """
    return [_described(step) for step in steps(stage)]


def noting_inputs(stage: AnyStage, *, inputs: list[str | None]) -> Stage:
    """The same stage, that adds the hash of each step's input to `inputs`, in the order of the steps."""

    def wrap(step: AnyStage) -> Stage:
        rowwise = isinstance(step, Stage) and step.rowwise
        return Stage(name_of(step), run_noting, {"stage": step, "inputs": inputs}, rowwise=rowwise)

    return each_step(stage, wrap)


def run_noting(df: pl.DataFrame, *, stage: AnyStage, inputs: list[str | None]) -> pl.DataFrame:
    """Notes the hash of the frame, and runs the stage."""
    inputs.append(_hash_of(df))
    return stage(df)


def _hash_of(df: pl.DataFrame) -> str | None:
    """Of the content of a frame; None where it has values that cannot be hashed."""
    try:
        return frame_hash(df)
    except FingerprintError:
        return None


def _verdict(row: Mapping[str, Any], changes: list[str], step: AnyStage, store: Store | None) -> tuple[str, str]:
    """What happens to a step, and why."""
    changed = "; ".join(changes)
    if row.get("to_ask"):
        return "calls", changed or "replies are lacking"
    if "to_ask" in row or "found" in row:
        return (
            "reused",
            f"{changed}; but {'the ledger' if 'to_ask' in row else 'the store'} has it" if changed else "as before",
        )
    if changed:
        return "computed again", changed
    if not isinstance(step, Stage):
        return "computed again", "a plain function is never stored"
    if step.effects:
        return "computed again", f"what reaches outside ({', '.join(step.effects)}) is never stored"
    return "computed again", "no store was given" if store is None else "the store does not have it"


def _changes(before: _Described | None, now: _Described) -> list[str]:
    """What is other than it was, in words."""
    if before is None:
        return ["new step"]
    changes = []
    if before.get("model") != now.get("model"):
        changes.append(f"model changed: {before.get('model')} to {now.get('model')}")
    old, new = before["parameters"], now["parameters"]
    if names := [name for name in {**old, **new} if old.get(name) != new.get(name)]:
        changes.append(f"parameters changed: {', '.join(names)}")
    if not changes and before["fingerprint"] != now["fingerprint"]:
        changes.append("source changed")
    if before["input"] != now["input"] or now["input"] is None:
        changes.append("input changed")
    return changes


def _pairs(
    former: Sequence[_Described], now: Sequence[_Described]
) -> Iterator[tuple[_Described | None, _Described | None]]:
    """Each step with the one that it was: first those that are the same, then those of the same name between them."""
    for old, new in _aligned(former, now, lambda step: str((step["name"], step["fingerprint"], step["parameters"]))):
        for some, others in _aligned(old, new, lambda step: step["name"]):
            if len(some) == len(others) == 1 and some[0]["name"] == others[0]["name"]:
                yield some[0], others[0]
            else:
                yield from ((step, None) for step in some)
                yield from ((None, step) for step in others)


def _aligned(
    former: Sequence[_Described], now: Sequence[_Described], of: Callable[[_Described], str]
) -> Iterator[tuple[Sequence[_Described], Sequence[_Described]]]:
    """Both in pieces: one and one where they are equal in `of`, and what stands between those."""
    blocks = SequenceMatcher(None, [of(step) for step in former], [of(step) for step in now], autojunk=False)
    for tag, a, b, c, d in blocks.get_opcodes():
        if tag == "equal":
            yield from (([old], [new]) for old, new in zip(former[a:b], now[c:d], strict=True))
        else:
            yield former[a:b], now[c:d]


def _described(step: AnyStage) -> dict[str, Any]:
    try:
        own = fingerprint(step) if isinstance(step, Stage) else None
    except FingerprintError:
        own = None
    params = step.params if isinstance(step, Stage) else {}
    inner = steps(params["stage"]) if isinstance(step, Stage) and step.fn is until_rows.fn else ()
    held = [each.params for each in (step, *inner) if isinstance(each, Stage)]
    backend = next((found for each in held if (found := each.get("backend")) is not None), None)
    return {
        "name": name_of(step),
        "fingerprint": own,
        "parameters": {name: _text(name, value) for name, value in params.items() if name not in (*EFFECTS, "on_step")},
        "model": f"{backend.model} at {backend.endpoint}" if isinstance(backend, Backend) else None,
    }


def _text(name: str, value: object) -> str:
    given = _ADDRESS.sub("", repr(value))
    text = _SECRET.sub(r"\1'hidden'", f"{name}={given}")[len(name) + 1 :]
    if text != given or (len(text) <= _LONGEST_TEXT and _is_whole(text)):
        return text[:_LONGEST_TEXT]
    try:
        return f"{text[:_LONGEST_TEXT]}… #{fingerprint(value)[:8]}"
    except FingerprintError:
        return text[:_LONGEST_TEXT]


def _is_whole(text: str) -> bool:
    """Does the text say all that the value holds? It does when it is Python's own way of writing it."""
    try:
        literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return False
    return True


def _steps_of(run: Url | Mapping[str, Any]) -> list[_Described]:
    """The steps of a manifest, each with what tells its content."""
    shown = "the manifest" if isinstance(run, Mapping) else f"the manifest {os.fspath(run)!r}"
    told = run if isinstance(run, Mapping) else _read(os.fspath(run), shown)
    found = told.get("steps") if isinstance(told, Mapping) else None
    if not isinstance(found, list) or not all(isinstance(step, Mapping) and "name" in step for step in found):
        raise ReadError(f"{shown} has no steps: it is no manifest of a run. `agora run` writes one beside its dataset.")
    if not all({"fingerprint", "parameters", "input"} <= step.keys() for step in found):
        raise ReadError(
            f"{shown} does not say what its steps were made of (fingerprint, parameters, input): an older agora_frames "
            "wrote it. Run that recipe once more as it was, which costs nothing with its ledger, and compare with that."
        )
    return found


def _read(url: str, shown: str) -> object:
    try:
        fs, path = located(url)
        content = fs.cat_file(path)
    except StorageError:
        raise
    except Exception as exc:  # each kind of store raises errors of its own
        raise StorageError(f"{shown} cannot be read: {type(exc).__name__}: {exc}. See that it is there.") from exc
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError as exc:
        raise ReadError(
            f"{shown} is not JSON: {exc}. It is the file that `agora run` wrote beside its dataset."
        ) from exc

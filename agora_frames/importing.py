"""Data sets that others wrote, as instances: data-agora's files, and GSM8K, MATH, MBPP and CoNaLa as they come."""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Literal, TypeAlias, get_args

import polars as pl

from agora_frames.errors import BindError, ReadError, listed
from agora_frames.frames import paired
from agora_frames.io import Url, read_bytes
from agora_frames.stages.parsers import boxed

__all__ = ["IMPORTED", "Imported", "Source", "import_instances"]

Source: TypeAlias = Literal["data_agora", "gsm8k", "math", "mbpp", "conala"]

# `idx`: the row's number or name in its source. `split`: of the benchmark that it is from, where that is known.
# `metadata`: all else that the row held, as a JSON object.
IMPORTED = pl.Schema(
    {
        "instruction": pl.String(),
        "response": pl.String(),
        "config": pl.String(),
        "idx": pl.String(),
        "split": pl.String(),
        "metadata": pl.String(),
    }
)
_PROBLEMS = pl.Schema({"place": pl.Int64(), "what": pl.String(), "left_out": pl.Boolean()})

# By which keys a source is known; the first that fits.
_KEYS: dict[Source, tuple[str, ...]] = {
    "data_agora": ("instruction", "response"),
    "gsm8k": ("question", "answer"),
    "math": ("problem", "solution"),
    "conala": ("intent", "snippet"),
    "mbpp": ("task_id", "code", "test_list"),
}
# GSM8K's calculator notes: `<<48/2=24>>`.
_CALCULATOR = re.compile(r"<<[^<>]*>>")
# How a byte that is no UTF-8 is read.
_NOT_UTF8 = re.compile("[\udc80-\udcff]")
# The ids of MBPP's splits, as its paper has them: arXiv 2108.07732, section 2.1.
_MBPP_SPLITS = ((10, "prompt"), (510, "test"), (600, "validation"), (974, "train"))

Fields: TypeAlias = dict[str, Any]


@dataclass(frozen=True)
class Imported:
    """The rows, in the order of the file (see IMPORTED), and what was wrong with some of them.

    problems: `place` (Int64: the line, or the item's number, from 1), `what` (String), `left_out` (Boolean: whether
    the row could not be read at all).
    """

    rows: pl.DataFrame
    problems: pl.DataFrame
    source: Source


class _Odd(ValueError):
    """A row that is read, but not as it should be: what is odd, and the fields all the same."""

    def __init__(self, message: str, fields: Fields) -> None:
        super().__init__(message)
        self.fields = fields


def import_instances(url: Url, *, source: Source | None = None, config: str | None = None) -> Imported:
    """Reads a file of instances that something else wrote; what is broken in it is told, and costs that row alone.

    url: a path or any fsspec URL; JSON Lines or a JSON array, told apart by their content, also with `.gz`. A file
    whose writer was killed is read up to the break.
    source: unless given, it is known by the keys of the first rows: `data_agora` (instruction, response: its results,
    caches and seeds; metadata may be nested), `gsm8k` (question, answer), `math` (problem, solution), `mbpp` (text or
    prompt, code, test_list), `conala` (intent, snippet).
    config: what `config` says of rows that have none; unless given, the source's name, and data-agora's file's.
    Solutions of GSM8K and MATH end with `[RESULT] … [/RESULT]`, made of what follows `####` and of the last
    `\\boxed{…}`; GSM8K's calculator notes are taken out. MBPP's first test stands in the instruction, and its `split`
    goes by its id: 11 to 510 are the benchmark, and no seeds. CoNaLa's instruction is the rewritten intent where there
    is one. Code is fenced.
    Raises: ReadError when no row can be read, or of no known source; StorageError when there is no such file.

    >>> from agora_frames import write_frame
    >>> write_frame(pl.DataFrame({"question": ["6 * 7?"], "answer": ["6*7 = <<6*7=42>>42\\n#### 42"]}), "memory://g.jsonl")
    >>> print(import_instances("memory://g.jsonl").rows["response"][0])
    6*7 = 42
    [RESULT] 42 [/RESULT]
    """
    if source is not None and source not in get_args(Source):
        raise BindError(f"import_instances(source={source!r}): it must be one of {listed(get_args(Source))}, or None.")
    shown = str(url)
    text = _unpacked(read_bytes(shown), shown).decode("utf-8-sig", errors="surrogateescape")
    odd_bytes = _NOT_UTF8.search(text) is not None
    problems: list[tuple[int, str, bool]] = []
    items = list(_items(text, problems))
    known = source or _source_of(items, shown, problems)
    stem = PurePosixPath(shown.lower().removesuffix(".gz")).stem
    rows = []
    for place, item in items:
        if odd_bytes and _NOT_UTF8.search(json.dumps(item, ensure_ascii=False)):
            problems.append((place, "it holds bytes that are not UTF-8; they stand as �", False))
        try:
            try:
                fields = _READERS[known](item)
            except _Odd as odd:
                problems.append((place, str(odd), False))
                fields = odd.fields
            rows.append(_row(item, fields, config or (stem if known == "data_agora" else known)))
        except ValueError as wrong:
            problems.append((place, str(wrong), True))
    frame = pl.DataFrame([paired(row) for row in rows], schema=IMPORTED)
    return Imported(frame, pl.DataFrame(sorted(problems), schema=_PROBLEMS, orient="row"), known)


def _unpacked(data: bytes, shown: str) -> bytes:
    try:
        return gzip.decompress(data) if shown.lower().endswith(".gz") else data
    except (OSError, EOFError, zlib.error) as exc:
        raise ReadError(f"{shown!r} cannot be unpacked: {exc}. Fetch it again, or unpack what there is of it.") from exc


def _items(text: str, problems: list[tuple[int, str, bool]]) -> Iterator[tuple[int, Fields]]:
    """The objects of an array or of lines, with their places; what is none is a problem."""
    found = _of_array(text, problems) if text.lstrip().startswith("[") else _of_lines(text, problems)
    for place, value in found:
        if isinstance(value, dict):
            yield place, value
        else:
            problems.append((place, f"this is a {type(value).__name__}, not an object", True))


def _of_lines(text: str, problems: list[tuple[int, str, bool]]) -> Iterator[tuple[int, Any]]:
    lines = text.split("\n")
    for place, line in enumerate(lines, 1):
        try:
            if line.strip():
                yield place, json.loads(line)
        except (json.JSONDecodeError, RecursionError) as exc:
            torn = "the last line is torn, its writer was cut off" if place == len(lines) else "the line is broken"
            problems.append((place, f"{torn}: {_why(exc)}. It begins: {line[:60]!r}", True))


def _of_array(text: str, problems: list[tuple[int, str, bool]]) -> Iterator[tuple[int, Any]]:
    decoder, at, place = json.JSONDecoder(), text.index("[") + 1, 0
    while True:
        at = _skipped(text, at, "," if place else "")
        if text[at : at + 1] == "]":
            return
        place += 1
        try:
            value, at = decoder.raw_decode(text, at)
        except (json.JSONDecodeError, RecursionError) as exc:
            after = "its writer was cut off" if at >= len(text) or "}" not in text[at:] else "what comes after is lost"
            problems.append((place, f"the array breaks off here, {after}: {_why(exc)}", True))
            return
        yield place, value


def _skipped(text: str, at: int, mark: str) -> int:
    """Where the next value begins: after white space and, once, the mark."""
    while at < len(text) and (text[at].isspace() or (mark and text[at] == mark)):
        mark = "" if text[at] == mark else mark
        at += 1
    return at


def _why(error: Exception) -> str:
    return f"{error.msg} at character {error.colno}" if isinstance(error, json.JSONDecodeError) else "nested too deeply"


def _source_of(items: list[tuple[int, Fields]], shown: str, problems: list[tuple[int, str, bool]]) -> Source:
    for _, item in items:
        for source, keys in _KEYS.items():
            if set(keys) <= item.keys():
                return source
    if not items:
        first = f" The first problem, at {problems[0][0]}: {problems[0][1]}." if problems else " It is empty."
        raise ReadError(f"{shown!r} holds no row that can be read.{first}")
    known = "; ".join(f"{source} has {listed(keys)}" for source, keys in _KEYS.items())
    raise ReadError(f"{shown!r} is of no known source: its rows have {listed(items[0][1])}. Known: {known}.")


def _row(item: Fields, fields: Fields, config: str) -> Fields:
    used = fields.pop("used")
    rest = {key: value for key, value in item.items() if key not in used and value is not None}
    if list(rest) == ["metadata"] and isinstance(rest["metadata"], dict):
        rest = rest["metadata"]
    idx = fields.get("idx")
    return {
        **dict.fromkeys(IMPORTED),
        **fields,
        "config": fields.get("config") or config,
        "idx": None if idx is None else str(idx),
        "metadata": json.dumps(rest, ensure_ascii=False) if rest else None,
    }


def _text(item: Mapping[str, Any], key: str, *, may_lack: bool = False) -> str:
    value = item.get(key)
    if isinstance(value, str):
        return value
    if value is None and may_lack:
        return ""
    raise ValueError(f"{key!r} is {'missing' if value is None else f'a {type(value).__name__}, not a text'}")


def _from_data_agora(item: Fields) -> Fields:
    idx = "idx" if "idx" in item else "index"
    response = None if item.get("response") is None else _text(item, "response")
    config = _text(item, "config", may_lack=True)
    used = ("instruction", "response", "config", idx)
    instruction = _text(item, "instruction")
    return {"instruction": instruction, "response": response, "config": config, "idx": item.get(idx), "used": used}


def _from_gsm8k(item: Fields) -> Fields:
    steps, mark, result = _text(item, "answer").rpartition("####")
    fields = {"instruction": _text(item, "question"), "used": ("question", "answer")}
    solution = _CALCULATOR.sub("", steps if mark else result).strip()
    if not mark or not result.strip():
        raise _Odd("there is no result after '####'", {**fields, "response": solution})
    return {**fields, "response": f"{solution}\n[RESULT] {result.strip()} [/RESULT]"}


def _from_math(item: Fields) -> Fields:
    solution = _text(item, "solution")
    idx = item.get("unique_id")
    fields = {"instruction": _text(item, "problem"), "idx": idx, "used": ("problem", "solution", "unique_id")}
    try:
        result = boxed()(solution)
    except ValueError as exc:
        raise _Odd(f"there is no result: {exc}", {**fields, "response": solution}) from exc
    return {**fields, "response": f"{solution.strip()}\n[RESULT] {result} [/RESULT]"}


def _from_mbpp(item: Fields) -> Fields:
    task = "text" if "text" in item else "prompt"
    tests, number = item.get("test_list") or [], item.get("task_id")
    first = f"\n{tests[0]}" if tests and isinstance(tests[0], str) else ""
    split = next((name for last, name in _MBPP_SPLITS if isinstance(number, int) and number <= last), None)
    return {
        "instruction": _text(item, task).strip() + first,
        "response": _fenced(_text(item, "code")),
        "idx": number,
        "split": split,
        "used": (task, "code", "task_id"),
    }


def _from_conala(item: Fields) -> Fields:
    rewritten = item.get("rewritten_intent")
    instruction = _text(item, "rewritten_intent") if rewritten else _text(item, "intent")
    used = ("rewritten_intent" if rewritten else "intent", "snippet", "question_id")
    return {
        "instruction": instruction.strip(),
        "response": _fenced(_text(item, "snippet")),
        "idx": item.get("question_id"),
        "used": used,
    }


def _fenced(code: str) -> str:
    lines = code.replace("\r\n", "\n").replace("\r", "\n").strip("\n").rstrip()
    return f"```python\n{lines}\n```"


_READERS: dict[Source, Callable[[Fields], Fields]] = {
    "data_agora": _from_data_agora,
    "gsm8k": _from_gsm8k,
    "math": _from_math,
    "mbpp": _from_mbpp,
    "conala": _from_conala,
}

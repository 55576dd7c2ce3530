"""Equal content gives equal hashes wherever it is hashed, and whatever changes a result changes the hash."""

from __future__ import annotations

import abc
import contextlib
import dataclasses
import datetime
import decimal
import enum
import fractions
import functools
import importlib
import json
import logging
import operator
import os
import pickle
import random
import re
import socket
import subprocess
import sys
import textwrap
import threading
import types
import typing
import uuid
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import pandera.polars as pa
import polars as pl
import polars.selectors as cs
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polars.testing.parametric import dataframes

from agora_frames.errors import FingerprintError
from agora_frames.fingerprint import fingerprint
from agora_frames.hashing import frame_hash, hash_bytes, row_hashes, seed_of
from agora_frames.stage import Stage, StageFunction, stage

# --- frames ----------------------------------------------------------------------------------------------------------

NAN = float("nan")
DAY = datetime.date(2026, 11, 22)
NOON = datetime.datetime(2026, 11, 22, 12, 0, 0, 1)

FRAME = pl.DataFrame(
    {
        "text": ["naïve 🙂\n\"q\", 'x'", "", None],
        "float": [0.1, NAN, None],
        "single": pl.Series([0.1, float("inf"), None], dtype=pl.Float32),
        "whole": pl.Series([2**64 - 1, 0, None], dtype=pl.UInt64),
        "yes": [True, False, None],
        "day": [DAY, None, DAY],
        "at": pl.Series([NOON, None, NOON]).dt.replace_time_zone("Europe/Berlin"),
        "took": [datetime.timedelta(microseconds=1), None, datetime.timedelta(days=1)],
        "price": pl.Series([decimal.Decimal("1.10"), None, decimal.Decimal("0.00")], dtype=pl.Decimal(10, 2)),
        "bytes": [b"\x00\xff", b"", None],
        "kind": pl.Series(["a", "b", None], dtype=pl.Enum(["a", "b"])),
        "category": pl.Series(["a", "b", None], dtype=pl.Categorical()),
        "list": [[NAN, None, 1.0], [], None],
        "struct": [{"a": [DAY], "b": {"c": 0.5}}, {"a": None, "b": None}, None],
        "pair": pl.Series([[1.0, 2.0], [3.0, None], None], dtype=pl.Array(pl.Float64(), 2)),
        "nothing": [None, None, None],
    }
)
# Frozen: if these change, every stored result is lost, and row ids are other ones. A new Polars is not worth that.
FRAME_HASH = "f75974689538e1091a905eff48889eee"
ROW_HASHES = [
    "2041c15cc1c4aa72df165cd22b18e2d2",
    "9ecd4c6725df0d37606f1011e1dab4d6",
    "1c725214e63228d827e434bfcdbc3f7b",
]


def test_the_hash_of_a_frame_is_what_it_was_in_earlier_versions() -> None:
    assert frame_hash(FRAME) == FRAME_HASH


def test_the_hashes_of_rows_are_what_they_were_in_earlier_versions() -> None:
    assert row_hashes(FRAME).to_list() == ROW_HASHES


def test_the_hash_of_bytes_is_what_it_was_in_earlier_versions() -> None:
    assert hash_bytes(b"a", b"", b"bc") == "2792b0b1a1cdf86bec26bc7a88503943"


def test_a_seed_is_what_it_was_in_earlier_versions() -> None:
    assert seed_of(0, "row", 1) == 1669884554


@pytest.mark.parametrize(
    "rebuilt",
    [
        lambda df, path: pl.concat([df.head(1), df.slice(1)]),
        lambda df, path: pl.concat([df, df]).slice(3, 3),
        lambda df, path: pl.concat([df.head(2), df.tail(1)], rechunk=True),
        lambda df, path: pl.DataFrame(df.to_dict(as_series=False), schema=df.schema),
        lambda df, path: pl.DataFrame(df.rows(), schema=df.schema, orient="row"),
        lambda df, path: df.write_parquet(path) or pl.read_parquet(path),
        lambda df, path: pickle.loads(pickle.dumps(df)),
        lambda df, path: df.filter(pl.lit(True)).clone(),
        lambda df, path: df.select(reversed(df.columns)).select(df.columns),
    ],
    ids=["chunks", "slice", "rechunk", "columns", "rows", "parquet", "pickle", "filter", "select"],
)
def test_how_a_frame_was_built_does_not_count(
    rebuilt: Callable[[pl.DataFrame, Path], pl.DataFrame], tmp_path: Path
) -> None:
    again = rebuilt(FRAME, tmp_path / "frame.parquet")
    assert (frame_hash(again), row_hashes(again).to_list()) == (frame_hash(FRAME), row_hashes(FRAME).to_list())


def series(*values: Any, dtype: pl.DataType | None = None, name: str = "x") -> pl.DataFrame:
    return pl.Series(name, values, dtype=dtype, strict=False).to_frame()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (series("a"), series("b")),
        (series("a"), series("a", name="y")),
        (series("a"), series("a", "a")),
        (series("a", "b"), series("b", "a")),
        (series(1, dtype=pl.Int64()), series(1, dtype=pl.Int32())),
        (series(1), series(1.0)),
        (series("1"), series(1)),
        (series(True), series("true")),
        (series(NAN), series(None, dtype=pl.Float64())),
        (series(NAN), series("NaN")),
        (series(None, dtype=pl.Null()), series(None, dtype=pl.String())),
        (series(None, dtype=pl.String()), series("null")),
        (series(None, dtype=pl.String()), series("")),
        (series(0.0), series(-0.0)),
        (series(0.1), series(0.1 + 2**-55)),
        (series(b"\xff"), series("ff")),
        (series(b"\xff"), series(b"\x00\xff")),
        (series([]), series(None, dtype=pl.List(pl.Null()))),
        (series([None]), series([], dtype=pl.List(pl.Null()))),
        (series([[1], [2]]), series([[1, 2], []])),
        (series([NAN]), series([None], dtype=pl.List(pl.Float64()))),
        (series({"a": None}), series(None, dtype=pl.Struct({"a": pl.Null()}))),
        (series({"a": 1, "b": 2}), series({"b": 2, "a": 1})),
        (series({"a": 1}), series('{"a":1}')),
        (series({"a": {"b": 1}}), series({"a": {"b": 2}})),
        (series(DAY), series(NOON)),
        (series(NOON, dtype=pl.Datetime("us")), series(NOON, dtype=pl.Datetime("ns"))),
        (series(NOON, dtype=pl.Datetime("us")), series(NOON, dtype=pl.Datetime("us", "UTC"))),
        (series("a", dtype=pl.Enum(["a", "b"])), series("a", dtype=pl.Enum(["b", "a"]))),
        (series("a", dtype=pl.Enum(["a"])), series("a", dtype=pl.Categorical())),
        (series("1.0", dtype=pl.Decimal(10, 1)), series("1.0", dtype=pl.Decimal(10, 2))),
        (pl.DataFrame({"a": [1], "b": [2]}), pl.DataFrame({"b": [2], "a": [1]})),
        (pl.DataFrame({"a": ["b"]}), pl.DataFrame({'a":"b': ["x"]})),
        (pl.DataFrame(), pl.DataFrame(height=1)),
        (pl.DataFrame(schema={"a": pl.Int64}), pl.DataFrame(schema={"a": pl.Int32})),
    ],
    ids=str,
)
def test_frames_that_differ_in_anything_have_different_hashes(one: pl.DataFrame, other: pl.DataFrame) -> None:
    assert frame_hash(one) != frame_hash(other)


SCALARS = [pl.Int8, pl.UInt64, pl.Float32, pl.Float64, pl.String, pl.Boolean, pl.Date, pl.Time, pl.Duration, pl.Null]
FRAMES = dataframes(max_cols=3, max_size=6, allowed_dtypes=[*SCALARS, pl.Datetime, pl.Enum, pl.List, pl.Struct])


@given(FRAMES)
def test_a_frame_made_anew_from_its_values_has_the_same_hash(df: pl.DataFrame) -> None:
    again = pl.DataFrame(df.to_dict(as_series=False), schema=df.schema, strict=False)
    assert frame_hash(again) == frame_hash(df)


def test_what_a_null_hides_does_not_count() -> None:
    shown = pl.DataFrame({"x": [[], [[DAY]], [], None, []]}, schema={"x": pl.List(pl.List(pl.Date()))})
    hiding = shown.with_columns(x=pl.Series([[], [[DAY]], [], [[DAY]], []], dtype=shown.schema["x"]))
    hiding = hiding.with_columns(pl.when(shown["x"].is_not_null()).then("x"))
    assert frame_hash(pl.concat([hiding[:2], hiding[2:]])) == frame_hash(shown)


def test_a_column_whose_values_cannot_be_read_is_an_error_that_names_it() -> None:
    with pytest.raises(FingerprintError, match=r"the column 'x' holds Object values.*Drop it"):
        frame_hash(pl.DataFrame({"x": [object()]}, schema={"x": pl.Object}))


def test_binary_values_inside_of_lists_are_an_error_rather_than_lost() -> None:
    with pytest.raises(FingerprintError, match=r"the column 'x'.*base64"):
        frame_hash(pl.DataFrame({"x": [[b"a"]]}))


def test_the_order_of_columns_does_not_change_the_hashes_of_rows() -> None:
    assert row_hashes(FRAME.select(reversed(FRAME.columns))).to_list() == row_hashes(FRAME).to_list()


def test_equal_rows_have_equal_hashes_and_others_have_not() -> None:
    first, second, third = row_hashes(pl.DataFrame({"a": ["x\ny", "x", "x\ny"], "b": [1, 1, 1]})).to_list()
    assert first == third != second


def test_names_of_columns_count_in_the_hashes_of_rows() -> None:
    assert row_hashes(pl.DataFrame({"a": [1]})).to_list() != row_hashes(pl.DataFrame({"b": [1]})).to_list()


@given(FRAMES, st.randoms())
def test_a_row_hashes_the_same_whatever_rows_stand_around_it(df: pl.DataFrame, rng: random.Random) -> None:
    order = rng.sample(range(df.height), df.height)
    assert row_hashes(df[order]).to_list() == [row_hashes(df).to_list()[i] for i in order]


def test_rows_without_columns_are_all_equal() -> None:
    assert len(row_hashes(pl.DataFrame(height=3))) == 3
    assert len(set(row_hashes(pl.DataFrame(height=3)))) == 1


def test_the_borders_of_parts_count() -> None:
    assert len({hash_bytes(b"ab", b"c"), hash_bytes(b"a", b"bc"), hash_bytes(b"abc"), hash_bytes(b"abc", b"")}) == 4


@given(st.lists(st.one_of(st.text(), st.integers())))
def test_a_seed_fits_into_31_bits(parts: list[str | int]) -> None:
    assert 0 <= seed_of(*parts) < 2**31


# --- values: the same in any process ---------------------------------------------------------------------------------

LEVEL = pl.Enum(["low", "high"])
log = "the name of an attribute that `logs` uses, too"


def lower(text: str) -> str:
    return text.lower()


def recursive(n: int) -> int:
    return recursive(n - 1) if n else 0


def even(n: int) -> bool:
    return n == 0 or odd(n - 1)


def odd(n: int) -> bool:
    return n != 0 and even(n - 1)


def with_set_constants(text: str) -> bool:
    return text in {"one", "two", "three", "four"} or text in {("five", frozenset({"six", "seven"})), 8, None}


def logs(x: Any) -> Any:
    class Inner:
        held = x

        def lowered(self) -> str:
            return lower(self.held)

    return x.log(Inner)


def with_local_import(text: str) -> Any:
    import json.decoder as decoder

    import absent_package  # type: ignore[import-not-found]

    return decoder, absent_package


def made(prefix: str) -> Callable[[str], str]:
    def inner(text: str) -> str:
        return prefix + lower(text) + inner.__name__

    return inner


def twice(function: Callable[[str], str]) -> Callable[[str], str]:
    @functools.wraps(function)
    def doubled(text: str) -> str:
        return function(text) * 2

    return doubled


@twice
def decorated(text: str) -> str:
    return lower(text)


@contextlib.contextmanager
def managed() -> Iterator[None]:
    yield lower("X")  # type: ignore[misc]


@functools.singledispatch
def dispatched(value: Any) -> str:
    return lower(value)


@dispatched.register
def _(value: int) -> str:
    return lower(str(value))


class Shape(abc.ABC):
    @abc.abstractmethod
    def area(self) -> float: ...


class Square(Shape):
    side: float = 1.0

    def area(self) -> float:
        return super().area() or self.side**2  # type: ignore[safe-super]

    @property
    def name(self) -> str:
        return lower("SQUARE")

    @staticmethod
    def sides() -> int:
        return 4

    @classmethod
    def unit(cls) -> Square:
        return cls()


class Named(typing.Protocol):
    def name(self) -> str: ...


class Colour(enum.Enum):
    RED = "r"
    BLUE = frozenset({"b", "bl", "blue", "bleu"})

    def lowered(self) -> str:
        return lower(self.name)


class Tone(enum.StrEnum):
    LIGHT = "light"


class Right(enum.Flag):
    READ = 1
    WRITE = 2


@dataclasses.dataclass(frozen=True)
class Settings:
    name: str = "x"
    tags: frozenset[str] = frozenset({"a", "b", "c", "d"})
    more: dict[str, int] = dataclasses.field(default_factory=dict)

    def lowered(self) -> str:
        return lower(self.name)


@dataclasses.dataclass(frozen=True, slots=True)
class Slotted:
    name: str = "x"


class Point(NamedTuple):
    x: int
    y: int = 0


Pair = namedtuple("Pair", "left right")


class Question(pa.DataFrameModel):
    text: str = pa.Field(str_length={"min_value": 1})
    n: int = pa.Field(ge=0, nullable=True)

    @pa.check("text")
    def lowered(cls, data: pa.PolarsData) -> pl.LazyFrame:
        return data.lazyframe.select(pl.col(data.key).str.contains(lower("A")))

    @pa.dataframe_check
    def positive(cls, data: pa.PolarsData) -> pl.LazyFrame:  # type: ignore[misc]
        return data.lazyframe.select(pl.col("n") > 0)

    class Config:
        strict = "filter"


class HardQuestion(Question):
    hint: str


class Answer(pydantic.BaseModel):
    text: str = pydantic.Field("x", min_length=1)
    parts: list[Answer] | None = None

    @pydantic.field_validator("text")
    @classmethod
    def lowered(cls, value: str) -> str:
        return lower(value)


class Endpoint:
    """A backend, as far as it is one."""

    def __init__(self, model: str, endpoint: str = "https://api.example.com/v1", key: object = None) -> None:
        self.model, self.endpoint, self.lock = model, endpoint, threading.Lock()

    def __call__(self, requests: pl.DataFrame, /) -> Iterator[pl.DataFrame]:
        yield requests


class WithFingerprint:
    def __init__(self, fingerprint: str) -> None:
        self.fingerprint, self.lock = fingerprint, threading.Lock()


@stage(rowwise=True)
def lowered(df: pl.DataFrame, *, column: str = "text") -> pl.DataFrame:
    return df.with_columns(pl.col(column).map_elements(lower, return_dtype=pl.String))


@stage()
def lowered_again(df: pl.DataFrame, *, times: int = 1) -> pl.DataFrame:
    return lowered_again(lowered(df), times=times - 1) if times else df.pipe(LOWERED)


LOWERED = lowered(column="text")


def runs_a_stage(df: pl.DataFrame) -> pl.DataFrame:
    return lowered(df, column="text")


def by_repr(*values: object) -> dict[str, Any]:
    return {repr(value): value for value in values}


# Values of all kinds; each is another one, and each must count the same in any process.
VALUES: dict[str, Any] = {
    **by_repr(None, ..., True, 1, 1.0, 1 + 0j, "1", b"1", "", b"", 0, -1, 2**100, NAN, 0.0, -0.0, "None"),
    **by_repr((), [], {}, ("a", "b"), ("ab",), ("a", ("b",)), (("a",), "b"), ["a", "b"], [[1], 2], [1, [2]]),
    **by_repr({"a": 1}, [("a", 1)], (("a", 1),), {"a": 1, "b": 2}, {"b": 2, "a": 1}, {1: "a"}, {"1": "a"}),
    **by_repr([1, 2, 3], [1, 3, 2], [[], []], [[[]]], [None], [{}], [()], ["end"], [[], "end"]),
    **by_repr({"b"}, frozenset({"b"}), [{1}, 2], [{1, 2}], {"b": None}),
    **by_repr(bytearray(b"1"), range(3), range(1, 3), slice(3), slice(None, 3, 1), NotImplemented),
    "sets as keys": {frozenset({"x", "y", "z"}): 1, frozenset({"v", "w"}): 2},
    "mixed set": {1, "one", None, (1, "x"), frozenset({"a", "b", "c"}), 2.5},
    "large set": {f"word {i}" for i in range(50)},
    "set of functions": {lower, even, len},
    "ordered dict": OrderedDict(a=1),
    "default dict of lists": defaultdict(list),
    "default dict of ints": defaultdict(int),
    "counter": Counter("aab"),
    "deque": deque([1, 2]),
    "day": DAY,
    "noon": NOON,
    "noon in Berlin": NOON.replace(tzinfo=ZoneInfo("Europe/Berlin")),
    "noon in UTC": NOON.replace(tzinfo=datetime.UTC),
    "time": NOON.time(),
    "time difference": datetime.timedelta(1),
    "decimal 1.0": decimal.Decimal("1.0"),
    "decimal 1.00": decimal.Decimal("1.00"),
    "fraction": fractions.Fraction(1, 3),
    "uuid": uuid.UUID(int=1),
    "path": Path("a/b"),
    "regex": re.compile("a"),
    "regex with flags": re.compile("a", re.IGNORECASE),
    "long regex": re.compile("x" * 300),
    "longer regex": re.compile("x" * 301),
    "Int64": pl.Int64(),
    "Enum": LEVEL,
    "Struct": pl.Struct({"a": pl.Int64()}),
    "Schema": pl.Schema({"a": pl.Int64(), "b": pl.String()}),
    "Schema in another order": pl.Schema({"b": pl.String(), "a": pl.Int64()}),
    "frame": FRAME,
    "series": FRAME["text"],
    "expression": pl.col("a").is_in(["x", "y"]) & (pl.col("b") > 1),
    "another expression": pl.col("a").is_in(["x", "y"]) & (pl.col("b") > 2),
    "selector": cs.numeric(),
    "builtin function": len,
    "bound builtin method": ", ".join,
    "another bound builtin method": "; ".join,
    "method of a type": str.upper,
    "another method of a type": str.lower,
    "function of the standard library": os.path.join,
    "class of the standard library": decimal.Decimal,
    "function of Polars": pl.concat,
    "class of Polars": pl.Int64,
    "column maker of Polars": pl.col,
    "module": json,
    "another module": re,
    "item getter": operator.itemgetter(1),
    "logger": logging.getLogger("agora"),
    "random generator": random.Random(1),
    "another random generator": random.Random(2),
    "function": lower,
    "recursive function": recursive,
    "functions that call each other": even,
    "the other of the two": odd,
    "lambda": lambda text: lower(text),
    "another lambda": lambda text: lower(lower(text)),
    "function with set constants": with_set_constants,
    "function with an inner class": logs,
    "function with local imports": with_local_import,
    "closure": made("a"),
    "another closure": made("b"),
    "partial": functools.partial(lower, "X"),
    "partial by name": functools.partial(lower, text="X"),
    "decorated": decorated,
    "context manager": managed,
    "single dispatch": dispatched,
    "bound method": Settings("y").lowered,
    "bound method of another": Settings("z").lowered,
    "abstract class": Shape,
    "class": Square,
    "instance": Square(),
    "protocol": Named,
    "enum": Colour,
    "member": Colour.RED,
    "another member": Colour.BLUE,
    "member of a string enum": Tone.LIGHT,
    "flag": Right.READ,
    "combined flag": Right.READ | Right.WRITE,
    "dataclass": Settings,
    "instance of a dataclass": Settings(),
    "another instance of a dataclass": Settings(more={"a": 1}),
    "dataclass with slots": Slotted,
    "instance of a dataclass with slots": Slotted(),
    "named tuple class": Point,
    "named tuple": Point(1, 2),
    "old named tuple": Pair(1, 2),
    "schema": Question,
    "schema that inherits": HardQuestion,
    "pydantic model": Answer,
    "instance of a pydantic model": Answer(text="y"),
    "backend": Endpoint("m"),
    "backend with another model": Endpoint("m2"),
    "backend at another endpoint": Endpoint("m", "https://other.example.com/v1"),
    "object with a fingerprint": WithFingerprint("a"),
    "object with another fingerprint": WithFingerprint("b"),
    "unbound stage": lowered,
    "bound stage": LOWERED,
    "stage with another parameter": lowered(column="other"),
    "stage that reaches itself": lowered_again,
    "function that runs a stage": runs_a_stage,
    "generic alias": list[int],
    "union": int | None,
    "literal": typing.Literal["a"],
}
# What pickle cannot carry into another process, though it counts the same there.
NOT_CARRIED = {"backend", "backend with another model", "backend at another endpoint"}
NOT_CARRIED |= {"object with a fingerprint", "object with another fingerprint", "single dispatch"}


def prints() -> dict[str, str]:
    return {name: fingerprint(value) for name, value in VALUES.items()}


@pytest.fixture(scope="module")
def told_elsewhere() -> tuple[dict[str, str], dict[str, str]]:
    """The prints of VALUES where this file is `__main__`; and where its values were sent to from there, pickled."""
    env = {**os.environ, "PYTHONHASHSEED": "4711"}
    told = subprocess.run([sys.executable, __file__], stdout=subprocess.PIPE, check=True, env=env).stdout
    own, carried = pickle.loads(told)
    receive = """
        import json, pickle, sys
        from agora_frames.fingerprint import fingerprint
        carried = pickle.load(sys.stdin.buffer)
        print(json.dumps({name: fingerprint(pickle.loads(value).params["value"]) for name, value in carried.items()}))
    """
    env["PYTHONHASHSEED"] = "1147"
    run = [sys.executable, "-c", textwrap.dedent(receive)]
    return own, json.loads(subprocess.run(run, input=carried, stdout=subprocess.PIPE, check=True, env=env).stdout)


def carrier(value: object) -> bytes:
    """The value as a parameter of a stage, pickled."""
    return pickle.dumps(Stage("carrier", runs_a_stage, {"value": value}))


def tell() -> None:
    carried = {name: carrier(value) for name, value in VALUES.items() if name not in NOT_CARRIED}
    sys.stdout.buffer.write(pickle.dumps((prints(), pickle.dumps(carried))))


def test_values_count_the_same_in_another_process(told_elsewhere: tuple[dict[str, str], dict[str, str]]) -> None:
    here, there = prints(), told_elsewhere[0]
    assert [name for name in VALUES if here[name] != there[name]] == []


def test_values_count_the_same_where_they_were_sent_to(told_elsewhere: tuple[dict[str, str], dict[str, str]]) -> None:
    here, there = prints(), told_elsewhere[1]
    assert [name for name in VALUES if name not in NOT_CARRIED and here[name] != there[name]] == []


def test_values_that_differ_have_different_fingerprints() -> None:
    names: dict[str, str] = {}
    twins = [(names[found], name) for name, found in prints().items() if names.setdefault(found, name) != name]
    assert twins == []


def test_the_fingerprints_of_plain_values_are_what_they_were_in_earlier_versions() -> None:
    plain = {"text": "a", "number": 1, "list": [1.5, None, {"a", "b"}], "frame": FRAME}
    assert fingerprint(plain) == "a76f03729a5fad251da4417a92006bd4"


def test_an_equal_value_made_anew_counts_the_same() -> None:
    made_anew = [[1, {"a": (1.5, None)}], {"x", "y"}, Settings(), made("a"), re.compile("a"), pl.col("a") + 1]
    again = [[1, {"a": (1.5, None)}], {"y", "x"}, Settings(), made("a"), re.compile("a"), pl.col("a") + 1]
    assert fingerprint(made_anew) == fingerprint(again)


def test_a_value_that_stands_twice_counts_like_two_equal_values() -> None:
    one = [1]
    assert fingerprint((one, one)) == fingerprint(([1], [1]))


def test_a_function_whose_closure_is_still_empty_can_be_fingerprinted() -> None:
    def early(x: int) -> object:
        return late(x)

    before = fingerprint(early)

    def late(x: int) -> int:
        return x

    assert fingerprint(early) != before


def test_which_of_two_functions_stands_again_counts() -> None:
    def first(x: int) -> int:
        return x + 1

    def second(x: int) -> int:
        return x + 2

    second.__name__ = "first"
    assert fingerprint((first, second, first)) != fingerprint((first, second, second))


def test_a_value_that_holds_itself_can_be_fingerprinted() -> None:
    one: list[Any] = [1]
    one.append(one)
    other: list[Any] = [2]
    other.append(other)
    assert fingerprint(one) != fingerprint(other)


@given(st.recursive(st.none() | st.integers(0, 2) | st.text("ab", max_size=2), lambda x: st.lists(x, max_size=3)))
def test_nested_lists_count_like_their_text(value: Any) -> None:
    as_text = json.dumps(value)
    assert fingerprint(value) == fingerprint(json.loads(as_text))
    assert (fingerprint(value) == fingerprint([])) == (as_text == "[]")


def test_numpy_arrays_count_by_type_shape_and_values() -> None:
    np = pytest.importorskip("numpy")
    grid = np.arange(6).reshape(2, 3)
    assert fingerprint(grid) == fingerprint(np.asfortranarray(grid)) == fingerprint(np.repeat(grid, 2, axis=0)[::2])
    others = [grid.T, grid.ravel(), grid.astype("int32"), grid.astype(object), grid + 1]
    assert len({fingerprint(each) for each in (grid, *others)}) == 6


# --- values: what has no content -------------------------------------------------------------------------------------


def test_what_cannot_be_read_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    file = (tmp_path / "file").open("w")
    connection = socket.socket()
    strange: list[Any] = [
        file,
        connection,
        threading.Lock(),
        threading.Event(),
        (i for i in [1]),
        memoryview(b""),
        sys.stdout,
    ]
    for value in strange:
        with pytest.raises(FingerprintError, match=r"a value of type .* cannot be fingerprinted: .*Pass plain values"):
            fingerprint([{"deep": value}])
    file.close()
    connection.close()


def test_a_lazy_frame_is_an_error_that_says_to_collect_it() -> None:
    with pytest.raises(FingerprintError, match=re.escape("lf.collect()")):
        fingerprint(FRAME.lazy())


def test_an_expression_with_a_python_function_is_an_error_because_its_code_cannot_be_read() -> None:
    with pytest.raises(FingerprintError, match="an expression that calls a Python function cannot be fingerprinted"):
        fingerprint(pl.col("a").map_batches(lambda s: s, return_dtype=pl.String))


def test_the_error_says_which_name_in_which_function_it_is() -> None:
    f = defined(
        "import threading\nlock = threading.Lock()\ndef g(x):\n    with lock:\n        return x\ndef f(x): return g(x)"
    )
    with pytest.raises(FingerprintError) as error:
        fingerprint(f)
    assert error.value.__notes__ == ["It is 'lock' in g().", "It is 'g' in f()."]


# --- code: what changes a fingerprint --------------------------------------------------------------------------------


def defined(source: str, name: str = "f") -> Any:
    """What a notebook cell with that source defines under the name."""
    cell: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(textwrap.dedent(source), "<cell>", "exec"), cell)
    return cell[name]


CHANGES: dict[str, tuple[str, str, str]] = {
    "the body": ("def f(x): return x + {}", "1", "2"),
    "the type of a constant": ("def f(x): return x + {}", "1", "1.0"),
    "the sign of a zero": ("def f(x): return x * {}", "0.0", "-0.0"),
    "an operator": ("def f(x): return x {} 1", "+", "-"),
    "a comparison": ("def f(x): return x {} 1", "<", "<="),
    "is and is not": ("def f(x): return x {} None", "is", "is not"),
    "a name of a method": ("def f(x): return x.{}()", "lower", "upper"),
    "a name of a builtin": ("def f(x): return {}(x)", "min", "max"),
    "a default": ("def f(x, y={}): return x", "1", "2"),
    "a default by name": ("def f(x, *, y={}): return x", "1", "2"),
    "a parameter that becomes keyword-only": ("def f(x, {} y=1): return x", "", "*,"),
    "a parameter that becomes positional-only": ("def f(x, y{}): return x", "", ", /"),
    "names of parameters": ("def f({}): return 1", "a, b", "b, a"),
    "where a try begins": ("def f(x):\n{}\n  except E: return 0", "  try:\n   a()\n   b()", "  a()\n  try:\n   b()"),
    "where a try on one line begins": ("def f(x):\n{} b()\n  except E: return 0", "  try: a();", "  a()\n  try:"),
    "a constant in a set": ("def f(x): return x in {{'a', {}}}", "'b'", "'c'"),
    "a constant in an inner function": ("def f(x): return [i + {} for i in x]", "1", "2"),
    "a lambda inside": ("def f(x): return (lambda y: y + {})(x)", "1", "2"),
    "a class inside": ("def f(x):\n class A:\n  a = {}\n return A", "1", "2"),
    "a closure": ("def g(y):\n def f(x): return x + y\n return f\nf = g({})", "1", "2"),
    "a function in a closure": ("def g(h):\n def f(x): return h(x)\n return f\nf = g(lambda x: x + {})", "1", "2"),
    "a global": ("A = {}\ndef f(x): return x + A", "1", "2"),
    "a global in a list": ("A = [1, {{'b': {}}}]\ndef f(x): return x + A", "1", "2"),
    "a global that is a set": ("A = {}\ndef f(x): return x in A", "{'a', 'b'}", "{'a', 'c'}"),
    "a global read inside": ("A = {}\ndef f(x): return [i + A for i in x]", "1", "2"),
    "a builtin that is shadowed": ("{}\ndef f(x): return len(x)", "", "def len(x): return 0"),
    "a helper": ("def g(x): return x + {}\ndef f(x): return g(x)", "1", "2"),
    "a helper that is shadowed": ("def g(x): return 1\n{}\ndef f(x): return g(x)", "", "def g(x): return 2"),
    "a helper's helper": ("def h(x): return x + {}\ndef g(x): return h(x)\ndef f(x): return g(x)", "1", "2"),
    "a helper by another name": ("def g(x): return x + {}\nh = g\ndef f(x): return h(x)", "1", "2"),
    "a helper in a table": ("def g(x): return x + {}\nA = {{'g': g}}\ndef f(x): return A['g'](x)", "1", "2"),
    "a helper in a default": ("def g(x): return x + {}\ndef f(x, g=g): return g(x)", "1", "2"),
    "a helper that calls back": ("def g(x): return f(x) + {}\ndef f(x): return g(x)", "1", "2"),
    "what a recursion does": ("def f(x): return f(x - 1) + {}", "1", "2"),
    "an attribute of the function": ("def f(x): return f.a\nf.a = {}", "1", "2"),
    "what partial binds": ("from functools import partial\ndef g(x, y): return x\nf = partial(g, {})", "1", "2"),
    "what partial wraps": ("from functools import partial\ndef g(x, y): return {}\nf = partial(g, 1)", "x", "y"),
    "what wraps wraps": (
        "import functools\ndef g(h):\n @functools.wraps(h)\n def k(x): return h(x)\n return k\n"
        "@g\ndef f(x): return x + {}",
        "1",
        "2",
    ),
    "the wrapper": (
        "import functools\ndef g(h):\n @functools.wraps(h)\n def k(x): return h(x) + {}\n return k\n"
        "@g\ndef f(x): return x",
        "1",
        "2",
    ),
    "what lru_cache wraps": ("import functools\n@functools.lru_cache\ndef f(x): return x + {}", "1", "2"),
    "whether lru_cache tells types apart": (
        "import functools\n@functools.lru_cache(typed={})\ndef f(x): return x",
        "1",
        "0",
    ),
    "what a helper under lru_cache does": (
        "import functools\n@functools.cache\ndef g(x): return x + {}\ndef f(x): return g(x)",
        "1",
        "2",
    ),
    "what contextmanager wraps": (
        "import contextlib\n@contextlib.contextmanager\ndef g(): yield {}\ndef f(x):\n with g() as y: return y",
        "1",
        "2",
    ),
    "what singledispatch finds": (
        "import functools\n@functools.singledispatch\ndef f(x): return x\n@f.register\ndef _(x: int): return x + {}",
        "1",
        "2",
    ),
    "a method": ("class f:\n def g(self): return {}", "1", "2"),
    "a class attribute": ("class f:\n a = {}", "1", "2"),
    "an annotation that is no type": ("class f:\n a: 'some {} words'", "short", "long"),
    "an annotation of a class": ("class f:\n a: {}", "int", "str"),
    "a base class": ("class A:\n def g(self): return {}\nclass f(A): pass", "1", "2"),
    "a metaclass": ("class A(type):\n def g(self): return {}\nclass f(metaclass=A): pass", "1", "2"),
    "a property": ("class f:\n @property\n def g(self): return {}", "1", "2"),
    "a setter": ("class f:\n @property\n def g(self): return 1\n @g.setter\n def g(self, x): {}", "1", "a()"),
    "a cached property": ("import functools\nclass f:\n @functools.cached_property\n def g(self): return {}", "1", "2"),
    "a static method": ("class f:\n @staticmethod\n def g(): return {}", "1", "2"),
    "a class method": ("class f:\n @classmethod\n def g(cls): return {}", "1", "2"),
    "what a method's helper does": ("def g(x): return {}\nclass f:\n def h(self): return g(1)", "1", "2"),
    "a class that a function makes": ("class A:\n def g(self): return {}\ndef f(x): return A().g()", "1", "2"),
    "an instance's class": ("class A:\n def g(self): return {}\nf = A()", "1", "2"),
    "an instance's state": ("class A: pass\nf = A()\nf.a = {}", "1", "2"),
    "an instance's slot": ("class A: __slots__ = ('a',)\nf = A()\nf.a = {}", "1", "2"),
    "a bound method's instance": ("class A:\n def g(self): return self.a\nA.a = {}\nf = A().g", "1", "2"),
    "a subclass of str": ("class A(str):\n def __repr__(self): return 'A'\nf = A({!r})", "x", "y"),
    "a subclass of int": ("class A(int):\n def __repr__(self): return 'A'\nf = A({})", "1", "2"),
    "a subclass of dict": ("class A(dict):\n def g(self): return {}\nf = A(a=1)", "1", "2"),
    "a subclass of set": ("class A(set):\n def g(self): return {}\nf = A('ab')", "1", "2"),
    "an attribute of a set": ("class A(set): pass\nf = A('ab')\nf.a = {}", "1", "2"),
    "a value of an enum": ("import enum\nclass A(enum.Enum): B = {}\nf = A.B", "1", "2"),
    "a method of an enum": ("import enum\nclass A(enum.Enum):\n B = 1\n def g(self): return {}\nf = A.B", "1", "2"),
    "the names of a named tuple": ("from collections import namedtuple\nf = namedtuple('A', {!r})(1, 2)", "a b", "a c"),
    "a default of a dataclass": ("import dataclasses\n@dataclasses.dataclass\nclass f:\n a: int = {}", "1", "2"),
    "a field of a made dataclass": ("import dataclasses\nf = dataclasses.make_dataclass('A', [{!r}])", "a", "b"),
    "a field of a pydantic model": (
        "import pydantic\nclass f(pydantic.BaseModel):\n a: int = pydantic.Field(1, ge={})",
        "0",
        "1",
    ),
    "a validator of a pydantic model": (
        "import pydantic\nclass f(pydantic.BaseModel):\n a: int = 1\n @pydantic.field_validator('a')\n"
        " def g(cls, v): return v + {}",
        "0",
        "1",
    ),
    "the mode of a pydantic validator": (
        "import pydantic\nclass f(pydantic.BaseModel):\n a: int = 1\n @pydantic.field_validator('a', mode='{}')\n"
        " def g(cls, v): return v",
        "before",
        "after",
    ),
    "a bound in a schema": (
        "import pandera.polars as pa\nclass f(pa.DataFrameModel):\n a: int = pa.Field(ge={})",
        "0",
        "1",
    ),
    "whether a column may be null": (
        "import pandera.polars as pa\nclass f(pa.DataFrameModel):\n a: int = pa.Field(nullable={})",
        "True",
        "False",
    ),
    "a type in a schema": ("import pandera.polars as pa\nclass f(pa.DataFrameModel):\n a: {}", "int", "str"),
    "a type that a schema names as text": (
        "from __future__ import annotations\nimport polars as pl, pandera.polars as pa, sys, types\n"
        "sys.modules['questions'] = m = types.ModuleType('questions')\n__name__ = 'questions'\n"
        "m.Level = pl.Enum(['a', '{}'])\nclass f(pa.DataFrameModel):\n a: Level",
        "b",
        "c",
    ),
    "a check in a schema": (
        "import pandera.polars as pa\nclass f(pa.DataFrameModel):\n a: int\n @pa.check('a')\n"
        " def g(cls, data): return data.lazyframe > {}",
        "0",
        "1",
    ),
    "the column of a check": (
        "import pandera.polars as pa\nclass f(pa.DataFrameModel):\n a: int\n b: int\n @pa.check('{}')\n"
        " def g(cls, data): return data.lazyframe > 0",
        "a",
        "b",
    ),
    "the Config of a schema": (
        "import pandera.polars as pa\nclass f(pa.DataFrameModel):\n a: int\n class Config: strict = {}",
        "True",
        "False",
    ),
    "a check that a schema's column was given": (
        "import pandera.polars as pa\nf = pa.DataFrameSchema({{'a': pa.Column(int, pa.Check(lambda d: d > {}))}})",
        "0",
        "1",
    ),
    "a stage's body": ("from agora_frames import stage\n@stage()\ndef f(df): return df.head({})", "1", "2"),
    "a stage's version": ("from agora_frames import stage\n@stage(version={})\ndef f(df): return df", "1", "2"),
    "a default of a stage": (
        "from agora_frames import stage\n@stage()\ndef g(df, *, n={}): return df.head(n)\nf = g()",
        "1",
        "2",
    ),
    "a stage that a helper runs": (
        "from agora_frames import stage\n@stage()\ndef g(df): return df.head({})\ndef f(df): return g(df)",
        "1",
        "2",
    ),
    "a stage that a stage runs": (
        "from agora_frames import stage\n@stage()\ndef g(df): return df.head({})\n"
        "@stage()\ndef f(df): return df.pipe(g)",
        "1",
        "2",
    ),
    "a bound stage that a stage runs": (
        "from agora_frames import stage\n@stage()\ndef g(df, *, n): return df.head(n)\nh = g(n={})\n"
        "@stage()\ndef f(df): return df.pipe(h)",
        "1",
        "2",
    ),
    "a stage that runs itself": (
        "from agora_frames import stage\n@stage()\ndef f(df, *, n=1): return f(df, n=n - {}) if n else df",
        "1",
        "2",
    ),
    "a step of a recipe": (
        "from agora_frames import recipe, stage\n@stage()\ndef g(df, *, n): return df.head(n)\n"
        "f = recipe(g(n=9), g(n={}), name='r')",
        "1",
        "2",
    ),
    "a plain function in a recipe": (
        "from agora_frames import recipe\nf = recipe(lambda df: df.head({}), name='r')",
        "1",
        "2",
    ),
    "the order of a recipe": (
        "from agora_frames import recipe\na, b = (lambda df: df.head(1)), (lambda df: df.tail(1))\n"
        "f = recipe({}, name='r')",
        "a, b",
        "b, a",
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_it_changes_with(name: str) -> None:
    source, before, after = CHANGES[name]
    assert fingerprint(defined(source.format(before))) != fingerprint(defined(source.format(after)))


# --- code: what does not change a fingerprint ------------------------------------------------------------------------

PLAIN = "A = 1\ndef g(x): return x + A\ndef f(x, *, y=1):\n  z = g(x)\n  return [z, 'text', None, y]"
SAME: dict[str, tuple[str, str]] = {
    "being defined again": (PLAIN, PLAIN),
    "the line": (PLAIN, "\n\n\n" + PLAIN),
    "comments": (PLAIN, "# why\n" + PLAIN.replace("\n  return", "  # what\n\n  # and why\n  return")),
    "a docstring": (PLAIN, PLAIN.replace("\n  z", "\n  'What it does.'\n  z")),
    "another docstring": ("def f():\n 'One.'\n return 1", "def f():\n '''Two.\n Three.\n '''\n return 1"),
    "a docstring of a class": ("class f:\n def g(self): 'One.'", "class f:\n 'Two.'\n def g(self): 'Three.'"),
    "annotations of a function": ("def f(x): return x", "def f(x: int) -> int: return x"),
    "a global that is not reached": (PLAIN, "B = open\n" + PLAIN),
    "a global with the name of an attribute": ("def f(x): return x.log", "log = 1\ndef f(x): return x.log"),
    "a function that is not reached": (PLAIN, PLAIN + "\ndef h(x): return g(x)"),
    "the order of definitions": ("def g(): return 1\ndef f(): return g()", "def f(): return g()\ndef g(): return 1"),
    "the order of members": ("class f:\n a = 1\n def g(self): 1", "class f:\n def g(self): 1\n a = 1"),
    "how a constant is written": ("def f(x): return x in {'a', 1000}", 'def f(x): return x in {1_000, "a"}'),
    "the process that `__main__` was spawned in": (PLAIN, "__name__ = '__mp_main__'\n" + PLAIN),
    "the module": (PLAIN, "__name__ = 'some.module'\n" + PLAIN),
    "having no module": (PLAIN, "del __name__\n" + PLAIN),
}


@pytest.mark.parametrize("name", SAME)
def test_it_does_not_change_with(name: str) -> None:
    before, after = SAME[name]
    assert fingerprint(defined(before)) == fingerprint(defined(after))


def test_it_does_not_change_when_a_schema_is_used() -> None:
    source = "import pandera.polars as pa\nclass f(pa.DataFrameModel):\n a: int = pa.Field(ge=0, lt=9)"
    schema = defined(source)
    before = fingerprint(schema)
    schema.validate(pl.DataFrame({"a": [1]}))
    assert fingerprint(schema) == before == fingerprint(defined(source))


def test_it_does_not_change_when_a_class_is_looked_at() -> None:
    value = defined("class f:\n def __init__(self): self.a = 1")
    before = fingerprint(value)
    assert value.__annotations__ == {}  # Python makes the dict when it is asked for
    pickle.dumps(object.__reduce_ex__(value(), 4)[2])  # and copyreg leaves a list of slots
    assert fingerprint(value) == before


def test_it_does_not_change_when_a_cached_property_is_read() -> None:
    value = defined("import functools\nclass A:\n @functools.cached_property\n def g(self): return 1\nf = A()")
    before = fingerprint(value)
    assert value.g == 1
    assert fingerprint(value) == before


def test_it_does_not_change_when_cached_and_dispatched_functions_are_called() -> None:
    functions = [
        defined("import functools\n@functools.lru_cache\ndef f(x): return x"),
        defined("import functools\n@functools.singledispatch\ndef f(x): return x\nf.register(int, lambda x: x)"),
        defined("def f(x): return [y for y in range(x)]"),
    ]
    before = fingerprint(functions)
    for function in functions * 100:
        function(3)
    assert fingerprint(functions) == before


def test_it_does_not_change_when_an_object_is_copied() -> None:
    assert fingerprint(pickle.loads(pickle.dumps(Settings(more={"a": 1})))) == fingerprint(Settings(more={"a": 1}))


# --- code: modules and packages --------------------------------------------------------------------------------------


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Any]:
    """Writes a module of the user's own and imports it anew."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def write(name: str, source: str) -> Any:
        path = tmp_path / (name.replace(".", "/") + ".py")
        path.parent.mkdir(exist_ok=True)
        path.write_text(source)
        for part in (name.rpartition(".")[0], name):
            monkeypatch.delitem(sys.modules, part, raising=False)
        importlib.invalidate_caches()
        return importlib.import_module(name)

    return write


@pytest.mark.parametrize(
    "source",
    [
        "import helpers\ndef f(x): return helpers.clean(x)",
        "import helpers as h\ndef f(x): return [h.clean(i) for i in x]",
        "from helpers import clean\ndef f(x): return clean(x)",
        "def f(x):\n import helpers\n return helpers.clean(x)",
        "def f(x):\n "
        + "\n ".join(f"n{i} = {i}.5, m{i}" for i in range(300))
        + "\n import helpers\n return helpers.clean(x)",
        "def f(x):\n import helpers as h\n return h.clean(x)",
        "def f(x):\n from helpers import clean\n return clean(x)",
        "def f(x):\n from helpers import clean as c\n return c(x)",
        "def f(x):\n def g():\n  from helpers import clean\n  return clean\n return g()(x)",
        "def g():\n import helpers\n def f(x): return helpers.clean(x)\n return f\nf = g()",
        "import helpers\nclass f:\n def g(self, x): return helpers.clean(x)",
        "import helpers\nf = helpers",
        "import helpers\nf = {'module': helpers}",
    ],
)
def test_it_changes_with_a_function_in_another_own_module(source: str, module: Callable[[str, str], Any]) -> None:
    helper = "import json\ndef clean(x): return fold(x)\ndef fold(x): return x + {}"
    prints = set()
    for number in (1, 2):
        module("helpers", helper.format(number))
        prints.add(fingerprint(defined(source)))
    assert len(prints) == 2


def test_it_changes_with_a_function_that_has_the_name_of_its_module(module: Callable[[str, str], Any]) -> None:
    prints = set()
    for number in (1, 2):
        module("clean", f"def clean(x): return x + {number}")
        prints.add(fingerprint(defined("import clean\ndef f(x): return clean.clean(x)")))
    assert len(prints) == 2


def test_it_changes_with_a_module_in_an_own_package(module: Callable[[str, str], Any]) -> None:
    prints = set()
    for number in (1, 2):
        module("package.helpers", f"def clean(x): return x + {number}")
        prints.add(fingerprint(defined("import package.helpers\ndef f(x): return package.helpers.clean(x)")))
    assert len(prints) == 2


def test_it_changes_with_a_relative_import_inside_of_a_function(module: Callable[[str, str], Any]) -> None:
    prints = set()
    for number in (1, 2):
        module("package.helpers", f"def clean(x): return x + {number}")
        main = module("package.main", "def f(x):\n from .helpers import clean\n return clean(x)")
        module("package.helpers", f"def clean(x): return x + {number}")
        prints.add(fingerprint(main.f))
    assert len(prints) == 2


def test_it_does_not_change_with_a_function_that_is_not_reached_there(module: Callable[[str, str], Any]) -> None:
    prints = set()
    for number in (1, 2):
        module("helpers", f"def clean(x): return x\ndef other(x): return {number}")
        prints.add(fingerprint(defined("import helpers\ndef f(x): return helpers.clean(x)")))
    assert len(prints) == 1


def test_it_does_not_change_by_being_run_first(module: Callable[[str, str], Any]) -> None:
    module("helpers", "def clean(x): return x")
    del sys.modules["helpers"]
    f = defined("def f(x):\n from helpers import clean\n return clean(x)")
    before = fingerprint(f)
    f(1)
    assert fingerprint(f) == before


def test_modules_that_import_each_other_can_be_fingerprinted(module: Callable[[str, str], Any]) -> None:
    module("one", "import sys\ndef f(x): return two.g(x)\n")
    two = module("two", "import one\none.two = sys = __import__('sys').modules['two']\ndef g(x): return one.f(x) + 1")
    assert fingerprint(two.g) != fingerprint(two.one.f)


CLEANER = "def clean(x): return x + {}\ndef make(y):\n return lambda x: x + y\n"
USERS = {
    "a function": "from cleaner import clean as f",
    "a caller": "import cleaner\ndef f(x): return cleaner.clean(x)",
    "an importer": "def f(x):\n import cleaner\n return cleaner.clean(x)",
    "what its factory made": "from cleaner import make\nf = make(1)",
    "what its factory made otherwise": "from cleaner import make\nf = make(2)",
}


@pytest.fixture(scope="module")
def with_package(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, int], dict[str, str]]:
    """The fingerprints of USERS where a package of that version and content is installed."""

    @functools.cache
    def run(version: str, number: int) -> dict[str, str]:
        site = tmp_path_factory.mktemp("environment") / "site-packages"
        (site / f"cleaner-{version}.dist-info").mkdir(parents=True)
        (site / f"cleaner-{version}.dist-info" / "METADATA").write_text(f"Name: cleaner\nVersion: {version}\n")
        (site / "cleaner.py").write_text(CLEANER.format(number))
        code = """
            import json, sys
            from agora_frames.fingerprint import fingerprint
            def print_of(source):
                cell = {"__name__": "__main__"}
                exec(source, cell)
                return fingerprint(cell["f"])
            users = json.loads(sys.argv[1])
            assert "cleaner" not in sys.modules
            prints = {"before the import": print_of(users["an importer"])}
            print(json.dumps(prints | {name: print_of(source) for name, source in users.items()}))
        """
        command = [sys.executable, "-c", textwrap.dedent(code), json.dumps(USERS)]
        env = {**os.environ, "PYTHONPATH": str(site), "PYTHONDONTWRITEBYTECODE": "1"}
        told = subprocess.run(command, stdout=subprocess.PIPE, check=True, env=env).stdout
        return typing.cast("dict[str, str]", json.loads(told))

    return run


@pytest.mark.parametrize("user", USERS)
def test_an_installed_package_counts_by_its_version(user: str, with_package: Callable[..., dict[str, str]]) -> None:
    assert with_package("1.0", 1)[user] != with_package("2.0", 1)[user]


@pytest.mark.parametrize("user", USERS)
def test_the_code_of_an_installed_package_does_not_count(
    user: str, with_package: Callable[..., dict[str, str]]
) -> None:
    assert with_package("1.0", 1)[user] == with_package("1.0", 2)[user]


def test_what_an_installed_factory_was_given_counts(with_package: Callable[..., dict[str, str]]) -> None:
    prints = with_package("1.0", 1)
    assert prints["what its factory made"] != prints["what its factory made otherwise"]


def test_whether_an_installed_package_is_imported_yet_does_not_count(
    with_package: Callable[..., dict[str, str]],
) -> None:
    prints = with_package("1.0", 1)
    assert prints["before the import"] == prints["an importer"]


# --- backends, stages and objects that say themselves what counts ----------------------------------------------------


def test_a_backend_counts_by_endpoint_and_model_alone() -> None:
    assert fingerprint(Endpoint("m", key="one")) == fingerprint(Endpoint("m", key="other"))


def test_something_with_an_endpoint_and_a_model_that_is_no_backend_counts_wholly() -> None:
    @dataclasses.dataclass
    class Options:
        endpoint: str
        model: str
        temperature: float

    assert fingerprint(Options("e", "m", 0.1)) != fingerprint(Options("e", "m", 0.2))


def test_where_endpoint_ends_and_model_begins_counts() -> None:
    assert fingerprint(Endpoint("b c", "a")) != fingerprint(Endpoint("c", "a b"))


def test_an_object_counts_by_its_own_fingerprint_alone() -> None:
    assert fingerprint(WithFingerprint("a")) == fingerprint(WithFingerprint("a"))


def test_a_class_may_say_what_of_its_objects_counts() -> None:
    class Counted:
        def __init__(self, what: int, what_else: int) -> None:
            self.what, self.what_else = what, what_else

        def __fingerprint__(self) -> tuple[int]:
            return (self.what,)

    assert fingerprint(Counted(1, 1)) == fingerprint(Counted(1, 2)) != fingerprint(Counted(2, 1))


def test_the_fingerprint_of_a_stage_does_not_say_who_watches_it() -> None:
    @stage()
    def watched(df: pl.DataFrame, *, observer: Any = None) -> pl.DataFrame:
        return df

    assert watched().fingerprint == watched(observer=print).fingerprint


def test_the_version_and_the_name_of_a_stage_count() -> None:
    def same(df: pl.DataFrame) -> pl.DataFrame:
        return df

    one = StageFunction(same, 1, False)
    two = StageFunction(same, 2, False)
    same.__name__ = "other"
    other = StageFunction(same, 1, False)
    assert len({one().fingerprint, two().fingerprint, other().fingerprint}) == 3


def test_a_stage_counts_the_same_whatever_stands_before_it() -> None:
    def shout(text: str) -> str:
        return text.upper()

    @stage()
    def shouted(df: pl.DataFrame) -> pl.DataFrame:
        return df.with_columns(text=pl.Series([shout(text) for text in df["text"]]))

    copy = pickle.loads(pickle.dumps(shouted()))  # of the helper, too
    assert copy.fn is not shouted.fn
    assert fingerprint([shout, shouted()]) == fingerprint([shout, copy])


def test_types_that_are_written_in_c_count_by_name_and_version() -> None:
    kinds = [types.FunctionType, types.ModuleType, types.GetSetDescriptorType, type(None), dict]
    assert len({fingerprint(kind) for kind in kinds}) == len(kinds)
    assert fingerprint(types.FunctionType | type) == fingerprint(types.FunctionType | type)


if __name__ == "__main__":
    tell()

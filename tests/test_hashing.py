"""Hashes outlive a process, a machine and a version of Polars: row_ids and cache keys are made of them."""

from __future__ import annotations

import datetime as dt
import json
import os
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from agora_frames.errors import FingerprintError
from agora_frames.hashing import frame_hash, hash_bytes, row_hashes, seed_of

DAYS = [dt.datetime(2026, 11, 22, 1, 2, 3, 4000), None, dt.datetime(1960, 1, 1)]

# One column of each type, with the values that a text form may lose.
FRAME = pl.DataFrame(
    {
        "array": pl.Series([[1, 2], [None, 3], None], dtype=pl.Array(pl.Int16, 2)),
        "binary": pl.Series([b"\x00\xff", b"", None], dtype=pl.Binary),
        "boolean": pl.Series([True, False, None], dtype=pl.Boolean),
        "categorical": pl.Series(["b", "a", None], dtype=pl.Categorical),
        "date": pl.Series([dt.date(2026, 11, 22), dt.date(1, 1, 1), None], dtype=pl.Date),
        "datetime_ms": pl.Series(DAYS, dtype=pl.Datetime("ms")),
        "datetime_ns": pl.Series(DAYS, dtype=pl.Datetime("ns", "Europe/Berlin")),
        "datetime_us": pl.Series(DAYS, dtype=pl.Datetime("us", "UTC")),
        "decimal": pl.Series([Decimal("1.50"), Decimal("-0.01"), None], dtype=pl.Decimal(10, 2)),
        "duration": pl.Series([dt.timedelta(1, 0, 3), None, dt.timedelta(-1)], dtype=pl.Duration("us")),
        "enum": pl.Series(["x", "y", None], dtype=pl.Enum(["y", "x"])),
        "float_16": pl.Series([0.5, float("nan"), None], dtype=pl.Float16),
        "float_32": pl.Series([0.1, float("-inf"), None], dtype=pl.Float32),
        "float_64": pl.Series([0.1, -0.0, float("nan")], dtype=pl.Float64),
        "float_64_far": pl.Series([1e300, 5e-324, 1e16], dtype=pl.Float64),
        "int_8": pl.Series([-128, 127, None], dtype=pl.Int8),
        "int_16": pl.Series([-(2**15), 2**15 - 1, None], dtype=pl.Int16),
        "int_32": pl.Series([-(2**31), 2**31 - 1, None], dtype=pl.Int32),
        "int_64": pl.Series([-(2**63), 2**63 - 1, None], dtype=pl.Int64),
        "int_128": pl.Series([-(2**127), 2**127 - 1, None], dtype=pl.Int128),
        "list": pl.Series([[1.5, None], [], None], dtype=pl.List(pl.Float64)),
        "list_of_dates": pl.Series([[dt.date(2026, 1, 1)], [None], None], dtype=pl.List(pl.Date)),
        "null": pl.Series([None, None, None], dtype=pl.Null),
        "string": pl.Series(['é "q" \\ \n \x00 \x7f \u2028 😀 /', "", None], dtype=pl.String),
        "struct": pl.Series(
            [{"a": 1.0, "b": ["x"]}, {"a": None, "b": None}, None],
            dtype=pl.Struct({"a": pl.Float64, "b": pl.List(pl.String)}),
        ),
        "time": pl.Series([dt.time(23, 59, 59, 999_999), dt.time(0), None], dtype=pl.Time),
        "uint_8": pl.Series([0, 255, None], dtype=pl.UInt8),
        "uint_16": pl.Series([0, 2**16 - 1, None], dtype=pl.UInt16),
        "uint_32": pl.Series([0, 2**32 - 1, None], dtype=pl.UInt32),
        "uint_64": pl.Series([0, 2**64 - 1, None], dtype=pl.UInt64),
        "uint_128": pl.Series([0, 2**128 - 1, None], dtype=pl.UInt128),
    }
)


def hashes() -> dict[str, Any]:
    """Everything that must never change, of this frame."""
    return {
        **{name: frame_hash(FRAME.select(name)) for name in FRAME.columns},
        "the whole frame": frame_hash(FRAME),
        "its rows": row_hashes(FRAME).to_list(),
        "no rows": frame_hash(FRAME.clear()),
        "no columns": [frame_hash(pl.DataFrame()), *row_hashes(pl.DataFrame(height=1))],
    }


# Were these to change, every row would get another name and every call another key: all would be paid for again.
GOLDEN: dict[str, Any] = {
    "array": "eb5ebaae52763177fdb389e3b2e18829",
    "binary": "80a84026d2f17c731aa1d237b79c2b76",
    "boolean": "f98a2952d0d650f6f20890e664f99df8",
    "categorical": "e38d22d0d22b7c7005355f18c2f303d9",
    "date": "637732fb89fd060019e417543cae8341",
    "datetime_ms": "51a7109901ef25f892fcca0cc1c9b0fc",
    "datetime_ns": "bb95deea06af55ee8d6a50282b96d846",
    "datetime_us": "672b4320c75287f7eff8e4e60192847f",
    "decimal": "c49be2fda183a49be6f5a31da0ea820b",
    "duration": "eff81ae8636a85e5567958a3b597d3d5",
    "enum": "b68713418e44e8557e00e038b3a6d030",
    "float_16": "f39b0fc19b964168bf155914d1726a69",
    "float_32": "2543f4da556e6c08b85f259b65e209ee",
    "float_64": "576974548a85965f98f2ef38934fbba5",
    "float_64_far": "f9b4e97160a9f79f744ad6744dbd8fc5",
    "int_8": "fb63b39a4f92499554138d516c3a210a",
    "int_16": "5e6b9ed3662efade35ed1f03d1360491",
    "int_32": "88d610ac2fa00086b57a14120fb69b82",
    "int_64": "9095b5ab9dc6c5aae786ec02bbf4841e",
    "int_128": "d3b5d3a371095a75d4dd977f0cbb7338",
    "list": "0d7f78f822a6d72d101e4626462aa16d",
    "list_of_dates": "ee8b20a02df3038943e039b04aa48d71",
    "null": "d12846507cfed5bd11a08f3f984b8bf5",
    "string": "92e9aed70d5795cd1bf6af2917c4b27c",
    "struct": "ff8b0f890bfe959498ee4cbd25b489a7",
    "time": "46eb2036e4ff1a9b60a85489dfeab849",
    "uint_8": "502b70c6851fd47793207e36984c1c9b",
    "uint_16": "d77c6ca39f19da503afe0b73e3a6a958",
    "uint_32": "7ac510dba1f80209909b64683d9b547b",
    "uint_64": "60c2e671f9cdd707a840d78c48730aba",
    "uint_128": "88c4247a2b5df5114cd9662c0a477d0d",
    "the whole frame": "94811774d13c8053b1f362c8d80e5ed9",
    "its rows": [
        "08d5ca54ec5d517813e8d9cfdfdae7ea",
        "588f07607c204c8557d51032a3fd6dae",
        "47a5caaab90a16ea5f943d898afba9a6",
    ],
    "no rows": "049c6988227303afe6215d7fe46b99d2",
    "no columns": [
        "fb3019ba8ee7d165ab18a4e93ce06bd0",
        "19aae81a9fc6b75c6d333529e3c47542",
    ],
}


@pytest.mark.parametrize("name", GOLDEN)
def test_a_hash_is_what_it_has_always_been(name: str) -> None:
    assert hashes()[name] == GOLDEN[name]


def leaves(kind: type) -> set[str]:
    """The types of a tree of classes that are no kind of others."""
    below: list[type] = [each for each in kind.__subclasses__() if each.__module__.startswith("polars.")]
    return {name for each in below for name in leaves(each)} or {kind.__name__}


def test_every_type_of_polars_is_in_the_frame_or_cannot_be_hashed() -> None:
    in_frame = {type(dtype).__name__ for dtype in FRAME.dtypes}
    assert leaves(pl.DataType) - in_frame <= {"Extension", "Map", "Object", "Unknown"}


@pytest.mark.slow
def test_hashes_are_the_same_in_another_version_of_polars() -> None:
    folder = os.environ.get("AGORA_OTHER_POLARS")
    if not folder:
        pytest.skip("AGORA_OTHER_POLARS names no folder with another Polars (pip install --target FOLDER polars==…)")
    code = "import json, polars, test_hashing; print(json.dumps([polars.__file__, test_hashing.hashes()]))"
    places = [folder, str(Path(__file__).parent), str(Path(__file__).parents[1])]
    told = subprocess.run(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(places)},
    ).stdout
    file, found = json.loads(told)
    assert Path(file).is_relative_to(Path(folder).resolve())
    assert found == GOLDEN


# --- what counts, and what does not


def test_the_order_of_columns_counts_for_a_frame_and_not_for_a_row() -> None:
    df = pl.DataFrame({"a": [1, 2], "b": ["x", "y"]})
    assert frame_hash(df) != frame_hash(df.select("b", "a"))
    assert row_hashes(df).equals(row_hashes(df.select("b", "a")))


def test_a_type_counts_for_a_frame() -> None:
    df = pl.DataFrame({"a": [1]})
    assert frame_hash(df) != frame_hash(df.cast(pl.Int8)) != frame_hash(df.cast(pl.String))


def test_chunks_and_slices_do_not_count() -> None:
    whole = pl.concat([FRAME, FRAME])
    parts = pl.concat([FRAME[1:], FRAME[:1]], rechunk=False)
    assert frame_hash(whole) == frame_hash(pl.concat([FRAME, FRAME], rechunk=False))
    assert row_hashes(parts).to_list() == [*row_hashes(FRAME)[1:], row_hashes(FRAME)[0]]
    assert frame_hash(whole[3:]) == frame_hash(FRAME)


def test_values_that_json_would_take_for_one_are_kept_apart() -> None:
    values = [0.0, -0.0, float("nan"), float("inf"), float("-inf"), None, 1e-320]
    assert len(set(row_hashes(pl.DataFrame({"x": pl.Series(values, dtype=pl.Float64)})))) == len(values)


def test_a_row_of_a_long_frame_has_the_hash_that_it_has_alone() -> None:
    df = pl.DataFrame({"n": range(4_001)})
    assert row_hashes(df)[1_998:2_002].to_list() == [row_hashes(df[i])[0] for i in range(1_998, 2_002)]
    assert len(row_hashes(df)) == 4_001


def test_a_line_break_in_a_text_begins_no_new_row() -> None:
    assert len(row_hashes(pl.DataFrame({"x": ['a\n{"x":"b"}', "\r", "\u2028"]}))) == 3


def test_a_frame_without_columns_has_rows_all_alike() -> None:
    assert len(set(row_hashes(pl.DataFrame(height=3)))) == 1


def test_a_type_whose_values_cannot_be_read_is_refused_with_its_column() -> None:
    with pytest.raises(FingerprintError, match="'x' holds Object"):
        frame_hash(pl.DataFrame({"x": pl.Series([object()], dtype=pl.Object)}))


def test_the_borders_of_parts_count() -> None:
    assert hash_bytes(b"ab", b"c") != hash_bytes(b"a", b"bc") != hash_bytes(b"abc")


def test_seeds_are_what_they_have_always_been() -> None:
    assert (seed_of("a", 1), seed_of(), seed_of(0, "row", 2)) == (84117821, 1531430068, 529437870)

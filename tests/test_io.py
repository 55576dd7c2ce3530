import csv
import gzip
import io
import json
import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from uuid import uuid4

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal
from polars.testing.parametric import dataframes

from agora_frames.errors import FrameError, ReadError, StorageError
from agora_frames.io import read_frame, write_bytes_atomically, write_frame

FRAME = pl.DataFrame({"question": ["1 + 1?", "naïve 🙂\n\"q\", 'x'", None], "n": [1, None, 3]})


@pytest.fixture(params=["local", "file", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A folder of one's own, on each kind of file system."""
    return {"local": str(tmp_path), "file": f"file://{tmp_path}", "memory": f"memory://{uuid4().hex}"}[request.param]


@pytest.fixture
def put(tmp_path: Path) -> Callable[[str, bytes | str], Path]:
    """Writes a file with that content and gives its path."""

    def write(name: str, content: bytes | str) -> Path:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


def said(error: type[Exception], call: Callable[[], object]) -> str:
    with pytest.raises(error) as raised:
        call()
    return str(raised.value)


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.suffix == ".tmp")


# Formats


@pytest.mark.parametrize(
    "name", ["a.parquet", "a.jsonl", "a.ndjson", "a.json", "a.csv", "a.jsonl.gz", "a.csv.gz", "set"]
)
def test_what_is_written_is_read_back_in_every_format_and_place(place: str, name: str) -> None:
    write_frame(FRAME, f"{place}/made/on/the/way/{name}")
    assert_frame_equal(read_frame(f"{place}/made/on/the/way/{name}"), FRAME)


def test_a_path_object_does_as_well(tmp_path: Path) -> None:
    write_frame(FRAME, tmp_path / "a.parquet")
    assert_frame_equal(read_frame(tmp_path / "a.parquet"), FRAME)


def test_a_given_format_goes_before_the_suffix(place: str) -> None:
    write_frame(FRAME, f"{place}/a.txt", format="jsonl")
    assert_frame_equal(read_frame(f"{place}/a.txt", format="jsonl"), FRAME)


def test_a_suffix_in_capitals_counts(put: Callable[..., Path]) -> None:
    assert read_frame(put("A.JSONL", '{"a": 1}')).to_dicts() == [{"a": 1}]


def test_gzip_writes_the_same_bytes_each_time(tmp_path: Path) -> None:
    write_frame(FRAME, tmp_path / "a.jsonl.gz")
    first = (tmp_path / "a.jsonl.gz").read_bytes()
    write_frame(FRAME, tmp_path / "a.jsonl.gz")
    assert (tmp_path / "a.jsonl.gz").read_bytes() == first
    assert gzip.decompress(first)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(dataframes(excluded_dtypes=[pl.Object], max_cols=3, max_size=5, allow_null=True))
def test_parquet_gives_back_any_frame(df: pl.DataFrame) -> None:
    write_frame(df, "memory://any.parquet")
    assert_frame_equal(read_frame("memory://any.parquet"), df)


JSON_VALUES = st.one_of(
    st.just(st.none()),
    st.just(st.booleans() | st.none()),
    st.just(st.integers(-(2**63), 2**63 - 1) | st.none()),
    st.just(st.floats(allow_nan=False, allow_infinity=False) | st.none()),
    st.just(st.text(st.characters(exclude_categories=["Cs"])) | st.none()),
    st.just(st.lists(st.integers(-9, 9), max_size=3) | st.none()),
    st.just(st.lists(st.fixed_dictionaries({"role": st.text("ab"), "n": st.integers(0, 9) | st.none()}), max_size=2)),
)


@st.composite
def json_rows(draw: st.DrawFn) -> list[dict[str, object]]:
    """Objects whose columns have one kind of value each, some of them missing here and there."""
    kinds = draw(st.dictionaries(st.text("abé.", min_size=1, max_size=3), JSON_VALUES, min_size=1, max_size=4))
    return draw(st.lists(st.fixed_dictionaries({}, optional=kinds), min_size=1, max_size=6))


@pytest.mark.parametrize("as_text", [lambda rows: "\n".join(map(json.dumps, rows)), json.dumps], ids=["jsonl", "json"])
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(rows=json_rows())
def test_json_is_read_as_python_reads_it(as_text: Callable[[object], str], rows: list[dict[str, object]]) -> None:
    url = f"memory://any.{'json' if as_text is json.dumps else 'jsonl'}"
    write_bytes_atomically(url, as_text(rows).encode())
    df = read_frame(url)
    assert df.width == len({name for row in rows for name in row})
    assert df.to_dicts() == [{name: row.get(name) for name in df.columns} for row in rows] or df.width == 0


# Inference over all rows


def test_a_key_first_seen_in_the_last_of_many_lines_is_a_column(put: Callable[..., Path]) -> None:
    path = put("a.jsonl", '{"a": 1}\n' * 200_000 + '{"a": 2, "late": {"x": [1]}}\n')
    df = read_frame(path)
    assert df.height == 200_001
    assert df.row(-1, named=True) == {"a": 2, "late": {"x": [1]}}


@pytest.mark.parametrize("first, last", [("1", 1.5), ("null", [1.5]), ("null", {"x": "y"}), ("[]", ["x"]), ("1", "x")])
@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_a_type_that_shows_late_is_the_type_of_the_column(
    put: Callable[..., Path], name: str, first: str, last: object
) -> None:
    rows = [f'{{"a": {first}}}'] * 5_000 + [json.dumps({"a": last})]
    df = read_frame(put(name, "\n".join(rows) if name == "a.jsonl" else f"[{','.join(rows)}]"))
    assert df["a"].to_list()[-1] == last
    assert df.height == 5_001


def test_a_text_late_in_a_csv_column_of_numbers_makes_it_text(put: Callable[..., Path]) -> None:
    df = read_frame(put("a.csv", "a,b\n" + "1,2\n" * 5_000 + "x,2.5\n"))
    assert df.row(-1) == ("x", 2.5)
    assert df.row(0) == ("1", 2.0)


def test_numbers_beyond_64_bits_are_kept(put: Callable[..., Path]) -> None:
    assert read_frame(put("a.json", '[{"a": 123456789012345678901234567890}]')).item() == 123456789012345678901234567890


def test_blank_lines_carriage_returns_and_a_byte_order_mark_do_no_harm(put: Callable[..., Path]) -> None:
    path = put("a.jsonl", b'\xef\xbb\xbf{"a": 1}\r\n\r\n{"a": 2}\n  \n')
    assert read_frame(path)["a"].to_list() == [1, 2]


def test_escaped_emoji_are_read(put: Callable[..., Path]) -> None:
    assert read_frame(put("a.jsonl", '{"a": "\\ud83d\\ude42"}\n')).item() == "🙂"


# Malformed content


@pytest.mark.parametrize(
    "line",
    [
        '{"a": ',
        '{"a": NaN}',
        '{"a": 1},',
        "3",
        "null",
        '[{"a": 1}]',
        '{"a": "\\ud800"}',
        '{"a": 1}{"a": 2}',
        "oops " * 99,
    ],
)
def test_a_malformed_line_is_named_and_quoted(put: Callable[..., Path], line: str) -> None:
    path = put("bad.jsonl", f'{{"a": 1}}\n\n{line}\n{{"a": 4}}\n')
    message = said(ReadError, lambda: read_frame(path))
    assert "bad.jsonl', line 3:" in message
    assert repr(line[:80]) in message
    assert "sed 3d" in message


def test_bytes_that_are_no_utf_8_are_a_malformed_line(put: Callable[..., Path]) -> None:
    message = said(ReadError, lambda: read_frame(put("a.jsonl", b'{"a": "x"}\n{"a": "\xff"}\n')))
    assert "line 2: str is not valid UTF-8" in message


def test_a_last_line_without_its_end_is_said_to_be_torn(put: Callable[..., Path]) -> None:
    message = said(ReadError, lambda: read_frame(put("a.jsonl", '{"a": 1}\n{"a": "hal')))
    assert "line 2" in message
    assert "torn" in message
    assert "head -n -1" in message


def test_the_remedy_for_a_torn_line_works(put: Callable[..., Path], tmp_path: Path) -> None:
    put("a.jsonl", '{"a": 1}\n{"a": "hal')
    subprocess.run("head -n -1 a.jsonl > whole.jsonl", shell=True, cwd=tmp_path, check=True)
    assert read_frame(tmp_path / "whole.jsonl").to_dicts() == [{"a": 1}]


@pytest.mark.parametrize("text", ['[{"a": 1},\n {"a": 2}]', '{\n "a": 1\n}'])
def test_json_over_several_lines_named_jsonl_is_told_apart(put: Callable[..., Path], text: str) -> None:
    assert "format='json'" in said(ReadError, lambda: read_frame(put("a.jsonl", text)))


def test_one_object_per_line_named_json_is_told_apart(put: Callable[..., Path]) -> None:
    path = put("a.json", '{"a": 1}\n{"a": 2}\n')
    assert "format='jsonl'" in said(ReadError, lambda: read_frame(path))
    assert read_frame(path, format="jsonl").height == 2


@pytest.mark.parametrize("text, found", [('{"a": 1}', "an object"), ("3", "a number"), ('"x"', "a text")])
def test_a_json_file_that_is_no_array_says_what_it_is(put: Callable[..., Path], text: str, found: str) -> None:
    assert f"is no array of objects, but {found}" in said(ReadError, lambda: read_frame(put("a.json", text)))


def test_an_array_of_something_else_names_the_item(put: Callable[..., Path]) -> None:
    assert "item 2: null, not an object" in said(ReadError, lambda: read_frame(put("a.json", '[{"a": 1}, null]')))


def test_a_malformed_array_names_the_line(put: Callable[..., Path]) -> None:
    message = said(ReadError, lambda: read_frame(put("a.json", '[{"a": 1},\n{"a": }]')))
    assert "a.json', line 2: Expecting value, at character 7. It begins: '{\"a\": }]'" in message


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_values_that_cannot_have_one_type_are_shown_where_they_part(put: Callable[..., Path], name: str) -> None:
    rows = ['{"a": [{"x": 1}], "t": "x"}', "{}", '{"a": [{"x": true}], "t": 1}']
    text = "\n".join(rows) if name == "a.jsonl" else f"[{','.join(rows)}]"
    message = said(ReadError, lambda: read_frame(put(name, text)))
    assert "'a[].x' is a number in " in message
    assert "1, true or false in " in message
    assert " 3. A column has one type" in message


def test_an_empty_array_is_a_frame_without_columns(put: Callable[..., Path]) -> None:
    assert read_frame(put("a.json", "[]")).shape == (0, 0)


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl", "a.json", "a.csv", "a.jsonl.gz"])
def test_an_empty_file_is_an_error_that_says_so(put: Callable[..., Path], name: str) -> None:
    content = gzip.compress(b"\n", mtime=0) if name.endswith(".gz") else b"\n"
    assert "is empty" in said(ReadError, lambda: read_frame(put(name, content)))


@pytest.mark.parametrize("content", [b"garbage", None])
def test_garbage_and_half_a_parquet_file_are_told(put: Callable[..., Path], content: bytes | None) -> None:
    buffer = io.BytesIO()
    FRAME.write_parquet(buffer)
    half = buffer.getvalue()[: len(buffer.getvalue()) // 2]
    message = said(ReadError, lambda: read_frame(put("a.parquet", content or half)))
    assert "a.parquet' cannot be read as parquet" in message


@pytest.mark.parametrize("content", [b'{"a": 1}\n', gzip.compress(b'{"a": 1}\n' * 999, mtime=0)[:-9]])
def test_what_is_no_whole_gzip_file_is_told(put: Callable[..., Path], content: bytes) -> None:
    assert "a.jsonl.gz' cannot be read" in said(ReadError, lambda: read_frame(put("a.jsonl.gz", content)))


@pytest.mark.parametrize(
    "text, line, begin",
    [
        ('a,b\n"1\n2",3\n1,2,3\n', 4, "1,2,3"),
        ('a,b\n1,2\n1,"never closed\n1,2\n1,2\n', 3, '1,"never closed'),
    ],
)
def test_a_malformed_csv_record_is_named_and_quoted(put: Callable[..., Path], text: str, line: int, begin: str) -> None:
    message = said(ReadError, lambda: read_frame(put("a.csv", text)))
    assert f"a.csv', line {line}:" in message
    assert f"It begins: {begin!r}" in message


def test_a_csv_in_another_encoding_is_told(put: Callable[..., Path]) -> None:
    assert "utf-8" in said(ReadError, lambda: read_frame(put("a.csv", "a\né\n".encode("latin1"))))


# Places


@pytest.mark.parametrize("call", [read_frame, lambda url: write_frame(FRAME, url)], ids=["read", "write"])
@pytest.mark.parametrize("name", ["a.txt", "a.json.bz2", "llama-3.1-70b"])
def test_an_unknown_suffix_lists_the_possible_ones(call: Callable[[str], object], name: str, place: str) -> None:
    message = said((ReadError, StorageError), lambda: call(f"{place}/{name}"))
    assert ".parquet, .jsonl, .ndjson, .json and .csv" in message
    assert "format= one of 'parquet', 'jsonl', 'json', 'csv', 'datasets'" in message


def test_an_unknown_format_lists_the_possible_ones(tmp_path: Path) -> None:
    assert "'excel'" in said(ReadError, lambda: read_frame(tmp_path / "a.csv", format="excel"))  # type: ignore[arg-type]


def test_a_missing_file_names_what_is_near(place: str) -> None:
    write_frame(FRAME, f"{place}/seeds.jsonl")
    message = said(StorageError, lambda: read_frame(f"{place}/seedz.jsonl"))
    assert "seedz.jsonl' does not exist; did you mean 'seeds.jsonl'?" in message


def test_a_missing_folder_names_what_is_near(put: Callable[..., Path], tmp_path: Path) -> None:
    put("train", "")
    message = said(StorageError, lambda: read_frame(tmp_path / "trian" / "a.jsonl"))
    assert "there is no folder" in message
    assert "did you mean 'train'?" in message


@pytest.mark.parametrize("url", ["nosuchplace://x/a.csv", "s3nope://x/a.csv"])
def test_an_unknown_protocol_is_told(url: str) -> None:
    assert "cannot be reached: Protocol not known" in said(StorageError, lambda: read_frame(url))


def test_a_folder_in_the_place_of_a_file_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "a.csv").mkdir()
    assert "Is a directory" in said(StorageError, lambda: read_frame(tmp_path / "a.csv"))


def test_a_frame_that_is_still_lazy_is_refused(tmp_path: Path) -> None:
    assert "lf.collect()" in said(FrameError, lambda: write_frame(FRAME.lazy(), tmp_path / "a.csv"))  # type: ignore[arg-type]


# What a format cannot hold


def test_nested_columns_are_refused_in_csv_by_name_with_a_remedy(tmp_path: Path) -> None:
    df = pl.DataFrame({"ok": [1], "list": [[1]], "struct": [{"x": 1}], "wait": [timedelta(1)]})
    message = said(FrameError, lambda: write_frame(df, tmp_path / "a.csv"))
    assert "the columns 'list' (List(Int64)), 'struct' (Struct({'x': Int64})), 'wait'" in message
    assert "Parquet" in message
    assert "JSONL" in message
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_bytes_are_refused_in_json_wherever_they_are(tmp_path: Path, name: str) -> None:
    df = pl.DataFrame({"deep": [[{"x": b"\xff"}]]})
    assert "'deep'" in said(FrameError, lambda: write_frame(df, tmp_path / name))


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl", "a.json", "a.csv", "set"])
def test_python_objects_are_refused_everywhere(tmp_path: Path, name: str) -> None:
    df = pl.DataFrame({"o": [object()]}, schema={"o": pl.Object})
    assert "'o' (Object)" in said(FrameError, lambda: write_frame(df, tmp_path / name))
    assert not list(tmp_path.iterdir())


def test_what_polars_refuses_to_write_is_told(tmp_path: Path) -> None:
    df = pl.DataFrame({"s": [{}]}, schema={"s": pl.Struct({})})
    assert "no child field" in said(FrameError, lambda: write_frame(df, tmp_path / "a.parquet"))


@pytest.mark.parametrize("name", ["a.csv", "set"])
def test_rows_without_columns_are_refused_where_they_would_vanish(tmp_path: Path, name: str) -> None:
    assert "3 rows without a column" in said(FrameError, lambda: write_frame(pl.DataFrame(height=3), tmp_path / name))


# Atomic writing


def test_a_write_leaves_nothing_but_the_file(tmp_path: Path) -> None:
    write_frame(FRAME, tmp_path / "deep" / "a.jsonl")
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["a.jsonl"]


def test_the_file_behind_a_link_is_written_and_the_link_stays(put: Callable[..., Path], tmp_path: Path) -> None:
    real = put("real.jsonl", "")
    (tmp_path / "link.jsonl").symlink_to(real)
    write_frame(FRAME, tmp_path / "link.jsonl")
    assert (tmp_path / "link.jsonl").is_symlink()
    assert_frame_equal(read_frame(real), FRAME)


def test_a_private_file_stays_private(put: Callable[..., Path]) -> None:
    path = put("a.jsonl", "")
    path.chmod(0o600)
    write_frame(FRAME, path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_new_file_has_the_usual_rights(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        write_frame(FRAME, tmp_path / "a.jsonl")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.jsonl").stat().st_mode) == 0o644


def test_a_file_where_a_folder_should_be_is_a_storage_error(put: Callable[..., Path], tmp_path: Path) -> None:
    put("file", "x")
    message = said(StorageError, lambda: write_frame(FRAME, tmp_path / "file" / "a.csv"))
    assert "cannot be written: File exists" in message
    assert "Free space, or give a place that you may write to" in message


def test_a_folder_in_the_place_of_the_file_is_a_storage_error_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.csv").mkdir()
    assert "cannot be written" in said(StorageError, lambda: write_frame(FRAME, tmp_path / "a.csv"))
    assert leftovers(tmp_path) == []


FULL_DISK = """
import resource, signal, sys
import polars as pl
from agora_frames.errors import StorageError
from agora_frames.io import write_frame

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # so that writing too much fails, as on a full disk
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
try:
    write_frame(pl.DataFrame({"n": range(100_000)}), sys.argv[1])
except StorageError as error:
    print(error)
"""


@pytest.mark.parametrize("name", ["a.jsonl", "set"])
def test_a_full_disk_is_a_storage_error_and_the_old_file_survives(tmp_path: Path, name: str) -> None:
    write_frame(FRAME, tmp_path / name)
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path / name)], capture_output=True, text=True, check=True
    )
    assert "cannot be written: File too large" in done.stdout
    assert "Free space" in done.stdout
    assert_frame_equal(read_frame(tmp_path / name), FRAME)
    assert leftovers(tmp_path) == []


REWRITING = """
import sys
import polars as pl
from agora_frames.io import write_frame

turn = 0
while True:
    turn += 1
    write_frame(pl.DataFrame({"turn": [turn] * 20_000}), sys.argv[1])
    print(turn, flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet", "set"])
def test_a_reader_beside_a_writer_that_is_killed_always_finds_one_whole_frame(tmp_path: Path, name: str) -> None:
    seen = []
    patience = time.monotonic() + 20
    with subprocess.Popen([sys.executable, "-c", REWRITING, str(tmp_path / name)], stdout=subprocess.PIPE) as child:
        try:
            assert child.stdout is not None
            child.stdout.readline()
            while len(set(seen)) < 20 and time.monotonic() < patience:
                df = read_frame(tmp_path / name)
                assert (df.height, df["turn"].n_unique()) == (20_000, 1)
                seen.append(df["turn"][0])
        finally:
            child.kill()
    assert read_frame(tmp_path / name)["turn"].n_unique() == 1
    assert len(set(seen)) == 20
    assert seen == sorted(seen)


# Hugging Face data sets

TYPES = pl.DataFrame(
    {
        "text": ["x", None],
        "chat": [[{"role": "user", "content": "hi"}], None],
        "n": [1, None],
        "x": [0.5, None],
        "yes": [True, None],
        "day": [date(2024, 1, 2), None],
        "at": [datetime(2024, 1, 2, 3), None],
        "wait": [timedelta(seconds=1), None],
        "bytes": [b"\xff", None],
        "money": [Decimal("1.20"), None],
        "nothing": [None, None],
        "kind": pl.Series(["a", None], dtype=pl.Enum(["a", "b"])),
        "pair": pl.Series([[1, 2], None], dtype=pl.Array(pl.Int8, 2)),
    }
)


def test_a_set_keeps_the_types_that_datasets_knows(place: str) -> None:
    write_frame(TYPES, f"{place}/set")
    assert_frame_equal(read_frame(f"{place}/set/"), TYPES)


def test_integers_of_128_bits_are_refused_in_a_set(tmp_path: Path) -> None:
    df = pl.DataFrame({"big": [1]}, schema={"big": pl.Int128})
    assert "'big' (Int128)" in said(FrameError, lambda: write_frame(df, tmp_path / "set"))


def test_a_folder_that_is_no_set_says_what_it_has(put: Callable[..., Path], tmp_path: Path) -> None:
    put("dataset_dict.json", '{"splits": ["train"]}')
    message = said(StorageError, lambda: read_frame(f"{tmp_path}/"))
    assert "state.json' does not exist." in message
    assert "has: 'dataset_dict.json'" in message
    assert "each split by itself" in message


@pytest.mark.parametrize("state", ["", "{}", '{"_data_files": []}', '{"_data_files": [{"filename": "state.json"}]}'])
def test_a_set_that_is_not_whole_is_told(put: Callable[..., Path], tmp_path: Path, state: str) -> None:
    put("state.json", state)
    assert "is no whole data set" in said(ReadError, lambda: read_frame(f"{tmp_path}/"))


def test_a_set_that_lacks_a_shard_names_it(tmp_path: Path) -> None:
    write_frame(FRAME, tmp_path / "set")
    (tmp_path / "set" / "data-00000-of-00001.arrow").unlink()
    assert "data-00000-of-00001.arrow' does not exist" in said(StorageError, lambda: read_frame(tmp_path / "set"))


@pytest.mark.parametrize("df", [FRAME, TYPES, FRAME.clear()], ids=["rows", "types", "no rows"])
def test_datasets_opens_what_is_written_and_its_copy_is_read_back(tmp_path: Path, df: pl.DataFrame) -> None:
    datasets = pytest.importorskip("datasets")
    write_frame(df, tmp_path / "set")
    opened = datasets.load_from_disk(str(tmp_path / "set"))
    assert opened.num_rows == df.height
    assert opened.column_names == df.columns
    assert opened.to_list() == df.to_dicts()
    opened.save_to_disk(str(tmp_path / "copy"), num_shards=max(1, df.height))
    assert_frame_equal(read_frame(tmp_path / "copy"), df.cast({pl.Enum: pl.String}))


def test_features_of_datasets_are_read_as_the_values_they_are(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"grid": datasets.Array2D((1, 2), "int32"), "label": datasets.ClassLabel(names=["no", "yes"])}
    )
    made = datasets.Dataset.from_dict({"grid": [[[1, 2]]], "label": [1]}, features=features)
    made.save_to_disk(str(tmp_path / "set"))
    assert read_frame(tmp_path / "set").to_dicts() == [{"grid": [[1, 2]], "label": 1}]


def test_a_set_of_several_shards_written_over_opens_as_the_new_one(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_dict({"a": ["x", "y", "z"]}).save_to_disk(str(tmp_path / "set"), num_shards=3)
    write_frame(FRAME, tmp_path / "set")
    assert datasets.load_from_disk(str(tmp_path / "set")).to_list() == FRAME.to_dicts()
    assert_frame_equal(read_frame(tmp_path / "set"), FRAME)


# CSV


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.text(st.characters(exclude_categories=["Cs"])), st.integers(-9, 9)), min_size=1))
def test_csv_is_read_as_python_reads_it(rows: list[tuple[str, int]]) -> None:
    df = pl.DataFrame({"text": [f"t{text}" for text, _ in rows], "n": [n for _, n in rows]})
    write_frame(df, "memory://any.csv")
    assert_frame_equal(read_frame("memory://any.csv"), df)
    buffer = io.StringIO()
    csv.writer(buffer).writerows([df.columns, *df.rows()])
    write_bytes_atomically("memory://python.csv", buffer.getvalue().encode())
    assert_frame_equal(read_frame("memory://python.csv"), df)

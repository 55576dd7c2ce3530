import json
import pickle
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import uuid4

import fsspec
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from polars.testing import assert_frame_equal
from polars.testing.parametric import dataframes

from agora_frames.compose import recipe, steps, traced
from agora_frames.errors import BindError, FingerprintError, StorageError
from agora_frames.hashing import hash_bytes
from agora_frames.io import read_frame
from agora_frames.stage import Stage, stage
from agora_frames.store import ENTRIES, Store, cached, store_entries

NUMBERS = pl.DataFrame({"n": [1, 2, 3]})


@stage(rowwise=True, version=3)
def times(df: pl.DataFrame, *, log: str, by: int = 2) -> pl.DataFrame:
    with Path(log).open("a") as file:
        file.write(f"times {by}\n")
    return df.with_columns(pl.col("n") * by)


@stage()
def as_it_is(df: pl.DataFrame) -> pl.DataFrame:
    return df


@stage()
def ask(df: pl.DataFrame, *, backend: object) -> pl.DataFrame:
    return df


@pytest.fixture(params=["local", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """A store of one's own, on each kind of file system."""
    return Store({"local": tmp_path / "store", "memory": f"memory://{uuid4().hex}"}[request.param])


@pytest.fixture
def local(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def log(tmp_path: Path) -> str:
    (tmp_path / "log").touch()
    return str(tmp_path / "log")


@pytest.fixture(autouse=True)
def _warnings_are_errors() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def computed(log: str) -> list[str]:
    return Path(log).read_text().splitlines()


def files(store: Store, suffix: str) -> list[Path]:
    return sorted(path for path in Path(store.url).rglob("*") if path.suffix == suffix)


# What is computed, and what is read


def test_the_second_call_is_read(store: Store, log: str) -> None:
    step = cached(times(log=log), store=store)
    assert_frame_equal(step(NUMBERS), pl.DataFrame({"n": [2, 4, 6]}))
    assert_frame_equal(step(NUMBERS), pl.DataFrame({"n": [2, 4, 6]}))
    assert computed(log) == ["times 2"]


def test_nothing_is_stored_without_it(local: Store, log: str) -> None:
    cached(times(log=log), store=local)
    times(log=log)(NUMBERS)
    assert not Path(local.url).exists()


@pytest.mark.parametrize(
    "other",
    [
        NUMBERS.reverse(),
        NUMBERS.cast(pl.Int32),
        NUMBERS.head(2),
        NUMBERS.with_columns(more=1),
        NUMBERS.with_columns(more=1).select("more", "n"),
    ],
    ids=["order", "type", "rows", "columns", "order of columns"],
)
def test_another_frame_is_computed(local: Store, log: str, other: pl.DataFrame) -> None:
    step = cached(times(log=log), store=local)
    step(NUMBERS)
    assert_frame_equal(step(other), other.with_columns(pl.col("n") * 2))
    assert len(computed(log)) == 2


def test_the_same_content_in_other_chunks_is_read(local: Store, log: str) -> None:
    step = cached(times(log=log), store=local)
    step(NUMBERS)
    step(pl.concat([NUMBERS[:1], NUMBERS[1:]], rechunk=False))
    assert len(computed(log)) == 1


def test_other_parameters_are_computed(local: Store, log: str) -> None:
    for by in (2, 3, 2, 3):
        assert cached(times(log=log, by=by), store=local)(NUMBERS)["n"].to_list() == [by, 2 * by, 3 * by]
    assert computed(log) == ["times 2", "times 3"]


def test_other_code_under_the_same_name_is_computed(local: Store) -> None:
    def made(more: int) -> Stage:
        @stage()
        def add(df: pl.DataFrame) -> pl.DataFrame:
            return df.with_columns(pl.col("n") + more)

        return add()

    assert cached(made(1), store=local)(NUMBERS)["n"][0] == 2
    assert cached(made(2), store=local)(NUMBERS)["n"][0] == 3


def test_another_version_is_computed(local: Store) -> None:
    def made(version: int) -> Stage:
        @stage(version=version)
        def same(df: pl.DataFrame) -> pl.DataFrame:
            return df

        return same()

    for version in (1, 2, 1):
        cached(made(version), store=local)(NUMBERS)
    assert store_entries(local).height == 2


AGAIN = """
import sys
import polars as pl
from agora_frames.stage import stage
from agora_frames.store import Store, cached

@stage()
def tell(df: pl.DataFrame) -> pl.DataFrame:
    print("computed")
    return df

cached(tell(), store=Store(sys.argv[1]))(pl.DataFrame({"n": [1]}))
"""


def test_another_process_reads_what_this_one_stored(tmp_path: Path) -> None:
    (tmp_path / "again.py").write_text(AGAIN)
    run = [sys.executable, str(tmp_path / "again.py"), str(tmp_path / "store")]
    told = [subprocess.run(run, capture_output=True, text=True, check=True).stdout for _ in range(2)]
    assert told == ["computed\n", ""]


# What a stage becomes


def test_a_cached_stage_keeps_name_version_and_rowwise(local: Store, log: str) -> None:
    step = cached(times(log=log), store=local)
    assert (step.name, step.version, step.rowwise) == ("times", 3, True)


def test_its_repr_shows_the_stage_and_the_place(log: str) -> None:
    step = cached(times(log="log"), store=Store("memory://here"))
    assert repr(step) == "times(stage=times(log='log'), store=Store(url='memory://here'))"


def test_its_fingerprint_tells_stages_apart_but_not_places(local: Store) -> None:
    here, there = cached(as_it_is(), store=local), cached(as_it_is(), store=Store("memory://there"))
    assert here.fingerprint == there.fingerprint
    assert here.fingerprint != cached(times(log=""), store=local).fingerprint


def test_it_pickles(local: Store, log: str) -> None:
    step = pickle.loads(pickle.dumps(cached(times(log=log), store=local)))
    step(NUMBERS)
    cached(times(log=log), store=local)(NUMBERS)
    assert len(computed(log)) == 1


def test_of_a_recipe_every_step_is_cached(local: Store, log: str) -> None:
    inner = recipe(times(log=log, by=2), times(log=log, by=3), name="inner")
    whole = cached(recipe(inner, times(log=log, by=5), name="whole"), store=local)
    assert whole.name == "whole"
    assert [whole(NUMBERS)["n"][0] for _ in range(2)] == [30, 30]
    assert computed(log) == ["times 2", "times 3", "times 5"]


def test_changing_the_last_step_leaves_those_before_it(local: Store, log: str) -> None:
    for last in (3, 5):
        cached(recipe(times(log=log), times(log=log, by=last), name="r"), store=local)(NUMBERS)
    assert computed(log) == ["times 2", "times 3", "times 5"]


# Effects and wrappers


def test_a_step_with_effects_is_left_as_it_is(local: Store) -> None:
    asked = ask(backend="a model")
    assert cached(asked, store=local) is asked
    assert steps(cached(recipe(as_it_is(), asked, name="r"), store=local))[1] is asked


def test_a_step_that_holds_effects_is_left_as_it_is(local: Store) -> None:
    told = traced(ask(backend="a model"), on_step=[].append)
    assert cached(told, store=local) is told


def test_caching_twice_is_caching_once(local: Store) -> None:
    once = cached(as_it_is(), store=local)
    assert cached(once, store=Store("memory://other")) is once


@pytest.mark.parametrize("order", ["cached(traced)", "traced(cached)"])
def test_a_trace_tells_of_steps_that_are_read_too(local: Store, log: str, order: str) -> None:
    told: list[Any] = []
    if order == "cached(traced)":
        step = cached(traced(times(log=log), on_step=told.append), store=local)
    else:
        step = traced(cached(times(log=log), store=local), on_step=told.append)
    for _ in range(2):
        step(NUMBERS)
    assert [each["name"] for each in told] == ["times", "times"]
    assert len(computed(log)) == 1


def test_tracing_changes_no_key(local: Store, log: str) -> None:
    cached(times(log=log), store=local)(NUMBERS)
    cached(traced(times(log=log), on_step=print), store=local)
    traced(cached(times(log=log), store=local), on_step=lambda _: None)(NUMBERS)
    cached(traced(times(log=log), on_step=lambda _: None), store=local)(NUMBERS)
    assert len(computed(log)) == 1


# What cannot be cached


@pytest.mark.parametrize("step", [lambda df: df, recipe(lambda df: df, name="r"), traced(lambda df: df, on_step=print)])
def test_a_plain_function_is_refused(local: Store, step: Callable[[pl.DataFrame], pl.DataFrame]) -> None:
    with pytest.raises(BindError, match=r"<lambda>, a function, but keeps .* a stage with @stage"):
        cached(step, store=local)


def test_a_stage_that_is_not_bound_is_refused(local: Store) -> None:
    with pytest.raises(BindError, match=r"cached.. was given as_it_is, a StageFunction.* bind a stage by calling it"):
        cached(as_it_is, store=local)


def test_a_parameter_without_content_is_refused_by_name(local: Store) -> None:
    @stage()
    def wait(df: pl.DataFrame, *, until: object) -> pl.DataFrame:
        return df

    with pytest.raises(FingerprintError, match=r"wait.. cannot be cached, because of its parameter 'until'.*lock"):
        cached(recipe(wait(until=threading.Lock()), name="r"), store=local)


def test_code_that_reaches_what_has_no_content_is_refused(local: Store) -> None:
    lock = threading.Lock()

    @stage()
    def wait(df: pl.DataFrame) -> pl.DataFrame:
        with lock:
            return df

    with pytest.raises(FingerprintError, match=r"wait.. cannot be cached, because of its code"):
        cached(wait(), store=local)


def test_a_frame_without_content_is_refused(local: Store) -> None:
    df = pl.DataFrame({"o": [object()]}, schema={"o": pl.Object})
    with pytest.raises(FingerprintError, match="'o'"):
        cached(as_it_is(), store=local)(df)


def test_a_store_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BindError, match=r"write store=Store\(…\)"):
        cached(as_it_is(), store=str(tmp_path))  # type: ignore[arg-type]


def test_a_store_at_no_place_is_refused_at_once() -> None:
    with pytest.raises(StorageError, match="Protocol not known"):
        cached(as_it_is(), store=Store("nosuchplace://store"))


# What lies on the disk


def test_an_entry_is_a_parquet_file_and_a_json_file_that_tells_of_it(local: Store, log: str) -> None:
    cached(times(log=log), store=local)(NUMBERS)
    (parquet,), (told,) = files(local, ".parquet"), files(local, ".json")
    assert parquet.with_suffix("") == told.with_suffix("")
    assert parquet.parent == Path(local.url) / "times"
    about = json.loads(told.read_text())
    assert about["stage"] == "times"
    assert about["parameters"] == {"log": repr(log), "by": "2"}
    assert about["rows"] == 3
    assert set(about["versions"]) == {"agora_frames", "polars", "python"}
    assert len(about["input"]) == 32
    assert about["digest"] == hash_bytes(parquet.read_bytes())
    assert len(files(local, ".tmp")) == 0


@pytest.mark.parametrize("name", ["../../out", "a/b", "<lambda>", "über", "x" * 300, ".."])
def test_the_name_of_a_stage_never_leads_out_of_the_store(local: Store, name: str) -> None:
    step = cached(Stage(name, as_it_is.fn), store=local)
    step(NUMBERS)
    step(NUMBERS)
    assert [path.parent.parent for path in files(local, ".json")] == [Path(local.url)]
    assert store_entries(local)["stage"].to_list() == [name]


def test_a_trailing_slash_is_the_same_place(tmp_path: Path, log: str) -> None:
    cached(times(log=log), store=Store(f"{tmp_path}/s"))(NUMBERS)
    cached(times(log=log), store=Store(f"{tmp_path}/s/"))(NUMBERS)
    assert len(computed(log)) == 1


def test_the_root_of_a_file_system_can_be_a_store(log: str) -> None:
    fsspec.filesystem("memory").store.clear()  # other tests have left files of their own there
    cached(times(log=log), store=Store("memory://"))(NUMBERS)
    assert not Path("memory:").exists()
    assert "times" in store_entries(Store("memory://"))["stage"]


# Damage

DAMAGE: dict[str, Callable[[Path, Path], object]] = {
    "parquet cut off": lambda parquet, _: parquet.write_bytes(parquet.read_bytes()[:-9]),
    "parquet with one bit turned": lambda parquet, _: parquet.write_bytes(
        parquet.read_bytes()[:20] + bytes([parquet.read_bytes()[20] ^ 1]) + parquet.read_bytes()[21:]
    ),
    "parquet of another frame": lambda parquet, _: pl.DataFrame({"n": [9]}).write_parquet(parquet),
    "parquet empty": lambda parquet, _: parquet.write_bytes(b""),
    "parquet gone": lambda parquet, _: parquet.unlink(),
    "json cut off": lambda _, told: told.write_bytes(told.read_bytes()[:-9]),
    "json empty": lambda _, told: told.write_bytes(b""),
    "json garbage": lambda _, told: told.write_bytes(b"\xff\x00"),
    "json of another kind": lambda _, told: told.write_bytes(b"[]"),
    "json without the digest": lambda _, told: told.write_bytes(b"{}"),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_entry_is_warned_of_computed_again_and_healed(
    local: Store, log: str, damage: Callable[[Path, Path], object]
) -> None:
    step = cached(times(log=log), store=local)
    step(NUMBERS)
    (parquet,), (told,) = files(local, ".parquet"), files(local, ".json")
    damage(parquet, told)
    with pytest.warns(UserWarning, match="computed again") as warned:
        assert_frame_equal(step(NUMBERS), pl.DataFrame({"n": [2, 4, 6]}))
    assert [str(parquet) in str(each.message) for each in warned] == [True]
    assert_frame_equal(step(NUMBERS), pl.DataFrame({"n": [2, 4, 6]}))
    assert len(computed(log)) == 2


@pytest.mark.parametrize("suffix", [".parquet", ".json"])
def test_an_entry_that_cannot_be_read_is_never_fatal(local: Store, log: str, suffix: str) -> None:
    step = cached(times(log=log), store=local)
    step(NUMBERS)
    (path,) = files(local, suffix)
    path.unlink()
    path.mkdir()
    with pytest.warns(UserWarning) as warned:
        assert_frame_equal(step(NUMBERS), pl.DataFrame({"n": [2, 4, 6]}))
    assert "cannot be read" in str(warned[0].message)
    assert "was not stored" in str(warned[1].message)
    assert str(path) in str(warned[1].message)


def test_parquet_without_its_json_is_no_entry(local: Store, log: str) -> None:
    step = cached(times(log=log), store=local)
    step(NUMBERS)
    files(local, ".json")[0].unlink()
    files(local, ".parquet")[0].write_bytes(b"half")
    assert_frame_equal(step(NUMBERS), pl.DataFrame({"n": [2, 4, 6]}))
    assert_frame_equal(step(NUMBERS), pl.DataFrame({"n": [2, 4, 6]}))
    assert len(computed(log)) == 2


def test_the_store_may_be_deleted_at_any_time(local: Store, log: str) -> None:
    step = cached(times(log=log), store=local)
    step(NUMBERS)
    for path in files(local, ".json") + files(local, ".parquet"):
        path.unlink()
    Path(local.url, "times").rmdir()
    step(NUMBERS)
    assert len(computed(log)) == 2


def test_a_store_that_cannot_be_written_warns_once_per_call(tmp_path: Path, log: str) -> None:
    (tmp_path / "store").write_text("a file where the folder should be")
    step = cached(times(log=log), store=Store(tmp_path / "store"))
    for _ in range(2):
        with pytest.warns(
            UserWarning, match=r"result of times.. was not stored.*(File exists|Not a directory)"
        ) as warned:
            assert_frame_equal(step(NUMBERS), pl.DataFrame({"n": [2, 4, 6]}))
        assert len(warned) == 1


FULL_DISK = """
import resource, signal, sys, warnings
import polars as pl
from agora_frames.stage import stage
from agora_frames.store import Store, cached

@stage()
def spread(df: pl.DataFrame) -> pl.DataFrame:
    return pl.select(n=pl.int_range(100_000).hash())

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # so that writing too much fails, as on a full disk
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), int(sys.argv[2])))
with warnings.catch_warnings(record=True) as warned:
    warnings.simplefilter("always")
    print(cached(spread(), store=Store(sys.argv[1]))(pl.DataFrame()).height)
print(*[each.message for each in warned], sep="\\n")
"""


def test_a_full_disk_warns_and_the_result_is_returned(tmp_path: Path) -> None:
    (tmp_path / "full.py").write_text(FULL_DISK)
    run = [sys.executable, str(tmp_path / "full.py"), str(tmp_path / "store"), "10000"]
    height, *warned = subprocess.run(run, capture_output=True, text=True, check=True).stdout.splitlines()
    assert height == "100000"
    assert len(warned) == 1
    assert "the result of spread() was not stored" in warned[0]
    assert "File too large" in warned[0]
    assert [path.name for path in (tmp_path / "store").rglob("*")] == ["spread"]


# The same frame comes back

EXACT = pl.DataFrame(
    {
        "category": pl.Series(["b", None, "a"], dtype=pl.Categorical),
        "enum": pl.Series(["y", None, "x"], dtype=pl.Enum(["x", "y"])),
        "list": [[1], None, []],
        "chat": [[{"role": "user", "kind": None}], None, []],
        "struct": [{"x": 1, "y": [None]}, None, {"x": None, "y": None}],
        "null": [None, None, None],
        "nulls": pl.Series([[None], None, []], dtype=pl.List(pl.Null)),
        "money": [Decimal("1.20"), None, Decimal(-3)],
        "at": pl.Series([0, None, 1]).cast(pl.Datetime("ns", "Europe/Berlin")),
        "wait": pl.Series([timedelta(1), None, timedelta(0)], dtype=pl.Duration("ms")),
        "bytes": [b"\xff\x00", None, b""],
        "pairs": pl.Series([[[1, 2]], None, [[3, 4]]], dtype=pl.Array(pl.UInt8, (1, 2))),
        "float": [float("nan"), -0.0, float("inf")],
        "big": pl.Series([2**100, None, -(2**100)], dtype=pl.Int128),
    }
)


@pytest.mark.parametrize(
    "df",
    [EXACT, EXACT.clear(), pl.DataFrame(), pl.DataFrame(height=3), pl.DataFrame({"": [1], "a.b/c\n": [2]})],
    ids=["types", "no rows", "nothing", "no columns", "odd names"],
)
def test_what_is_read_is_what_was_computed(store: Store, df: pl.DataFrame) -> None:
    step = cached(as_it_is(), store=store)
    computed, read = step(df), step(df)
    assert computed is df
    assert read is not df
    assert read.shape == df.shape
    assert_frame_equal(read, df, check_exact=True)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(dataframes(excluded_dtypes=[pl.Object, pl.Binary, pl.Extension], max_cols=4, max_size=6, allow_null=True))
def test_any_frame_is_read_as_it_was_computed(df: pl.DataFrame) -> None:
    place = Store(f"memory://{uuid4().hex}")
    step = cached(as_it_is(), store=place)
    step(df)
    assert store_entries(place).height == 1
    assert_frame_equal(step(df), df, check_exact=True)


@stage()
def empty_structs(df: pl.DataFrame) -> pl.DataFrame:
    return df.with_columns(pl.lit({}, dtype=pl.Struct({})).alias("s"))


class Weight(pl.BaseExtension):
    def __init__(self) -> None:
        super().__init__("weight", pl.Int64(), None)

    @classmethod
    def ext_from_params(cls, name: str, storage: pl.DataType, metadata: str | None) -> "Weight":
        return cls()


@stage()
def weighed(df: pl.DataFrame) -> pl.DataFrame:
    made = df.with_columns(pl.col("n").ext.to(Weight()))
    pl.register_extension_type("weight", Weight)  # known only now, so that what is read is of another class
    return made


@stage()
def nested_bytes(df: pl.DataFrame) -> pl.DataFrame:
    return pl.DataFrame({"b": [[b"\xff"], None]})


def test_a_result_that_parquet_cannot_hold_is_not_stored_but_returned(local: Store) -> None:
    with pytest.warns(UserWarning, match="result of empty_structs.. was not stored: Parquet cannot hold it"):
        assert cached(empty_structs(), store=local)(NUMBERS).width == 2
    assert store_entries(local).height == 0


def test_a_result_that_parquet_gives_back_otherwise_is_not_stored_but_returned(local: Store) -> None:
    try:
        with pytest.warns(UserWarning, match="Parquet gives it back as something else"):
            assert cached(weighed(), store=local)(NUMBERS)["n"].ext.storage().to_list() == [1, 2, 3]
    finally:
        pl.unregister_extension_type("weight")
    assert store_entries(local).height == 0


def test_a_result_that_cannot_be_hashed_is_stored_all_the_same(local: Store) -> None:
    step = cached(nested_bytes(), store=local)
    assert_frame_equal(step(NUMBERS), step(NUMBERS))


# Entries


def test_entries_tell_what_is_stored(store: Store, log: str) -> None:
    before = datetime.now(UTC)
    cached(recipe(times(log=log), as_it_is(), name="r"), store=store)(NUMBERS)
    entries = store_entries(store)
    assert entries.schema == ENTRIES
    assert entries["stage"].to_list() == ["times", "as_it_is"]
    assert entries["rows"].to_list() == [3, 3]
    assert entries["created_at"].is_between(before, datetime.now(UTC)).all()
    assert (entries["seconds"] < 5).all()
    assert (entries["bytes"] > 0).all()


def test_the_key_of_an_entry_is_the_name_of_its_files(local: Store) -> None:
    cached(as_it_is(), store=local)(NUMBERS)
    (row,) = store_entries(local).rows(named=True)
    path = Path(local.url, row["stage"], f"{row['key']}.parquet")
    assert path.stat().st_size == row["bytes"]
    assert_frame_equal(read_frame(path), NUMBERS)


def test_a_store_not_yet_made_has_no_entries(store: Store) -> None:
    assert store_entries(store).schema == ENTRIES
    assert store_entries(store).height == 0


@pytest.mark.parametrize("content", ["{", "[]", '{"created_at": "2026-01-01T00:00:00+00:00", "rows": "many"}'])
def test_an_entry_that_cannot_be_read_is_left_out_with_a_warning(local: Store, log: str, content: str) -> None:
    cached(recipe(times(log=log), as_it_is(), name="r"), store=local)(NUMBERS)
    (broken, _) = files(local, ".json")
    broken.write_text(content)
    with pytest.warns(UserWarning, match=str(broken)):
        assert store_entries(local).height == 1


# Several processes at once, and killed ones

WRITER = """
import itertools, sys, warnings
import polars as pl
from agora_frames.stage import stage
from agora_frames.store import Store, cached

@stage()
def spread(df: pl.DataFrame, *, turn: int, rows: int) -> pl.DataFrame:
    print("computed")
    n = pl.int_range(rows)
    return pl.select(n=n.hash(turn), kind=(n % 7).cast(pl.String).cast(pl.Categorical), text=pl.lit("x" * turn))

if __name__ == "__main__":
    warnings.simplefilter("error")
    store, rows, turns = Store(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    df = pl.DataFrame({"seed": [1]})
    print("ready", flush=True)
    sys.stdin.readline()
    for turn in range(turns):
        step = spread(turn=turn, rows=rows)
        found, expected = cached(step, store=store)(df), step(df)
        assert found.schema == expected.schema and found.equals(expected), turn
    print("done", flush=True)
"""


@pytest.fixture
def writer(tmp_path: Path, local: Store) -> Iterator[Callable[[int, int], subprocess.Popen[str]]]:
    """Starts a process that computes, stores and reads so many turns of so many rows, once it is told to go."""
    (tmp_path / "writer.py").write_text(WRITER)
    children = []

    def start(rows: int, turns: int) -> subprocess.Popen[str]:
        run = [sys.executable, str(tmp_path / "writer.py"), str(local.url), str(rows), str(turns)]
        pipe = subprocess.PIPE
        children.append(subprocess.Popen(run, stdin=pipe, stdout=pipe, stderr=pipe, text=True))
        return children[-1]

    yield start
    for child in children:
        child.kill()
        child.communicate()


def go(child: subprocess.Popen[str]) -> None:
    assert child.stdin is not None
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    child.stdin.write("go\n")
    child.stdin.flush()


def whole_entries(store: Store) -> int:
    """How many entries say that they are complete; fails if one of them is not."""
    told = files(store, ".json")
    for path in told:
        assert json.loads(path.read_bytes())["digest"] == hash_bytes(path.with_suffix(".parquet").read_bytes())
    return len(told)


@pytest.mark.slow
def test_processes_that_write_the_same_keys_do_no_harm_to_each_other_or_to_a_reader(
    local: Store, writer: Callable[[int, int], subprocess.Popen[str]]
) -> None:
    children = [writer(2_000, 100) for _ in range(3)]
    for child in children:
        go(child)
    while any(child.poll() is None for child in children):
        whole_entries(local)
    told = [child.communicate() for child in children]
    assert [(out.splitlines()[-1], error) for out, error in told] == [("done", "")] * 3
    assert whole_entries(local) == 100
    assert files(local, ".tmp") == []
    # Each process computed each result once to compare; more than once in all for the store means they collided.
    assert sum(out.count("computed") for out, _ in told) - 3 * 100 > 100


@pytest.mark.slow
def test_a_writer_killed_at_any_instant_leaves_what_the_next_run_reads_right_or_computes_again(
    local: Store, writer: Callable[[int, int], subprocess.Popen[str]]
) -> None:
    torn = 0
    for kill in range(6):
        child = writer(300_000, 10_000)
        go(child)
        before = {path.name for path in Path(local.url).rglob("*")}
        awaited = (".tmp", ".parquet", ".json")[kill % 3]
        patience = time.monotonic() + 20
        while not {path.name for path in files(local, awaited)} - before:
            assert child.poll() is None, child.communicate()[1]
            assert time.monotonic() < patience, f"no {awaited} file appears"
        time.sleep(0.004 * (kill // 3))
        child.send_signal(signal.SIGKILL)
        # Each run goes through the turns of those before it: an assertion, or a warning, would have ended it.
        assert (child.wait(), child.communicate()[1]) == (-signal.SIGKILL, "")
        torn += len(files(local, ".parquet")) - whole_entries(local)
    last = writer(300_000, len(files(local, ".json")))
    go(last)
    told, error = last.communicate()
    assert (told.splitlines()[-1], error) == ("done", "")
    assert torn + len(files(local, ".tmp")) > 0  # some kills did fall into a write

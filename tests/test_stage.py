"""A stage runs, pipes and binds alike, says what was wrong with a call, and travels to another process."""

from __future__ import annotations

import dataclasses
import inspect
import os
import pickle
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import polars as pl
import pytest
from polars.testing import assert_frame_equal

import agora_frames as af
from agora_frames.errors import BindError, FrameError
from agora_frames.stage import Stage, stage

DF = pl.DataFrame({"text": ["one", "three", None], "n": [1, 2, 3]})


@stage(rowwise=True, version=3)
def add_length(df: pl.DataFrame, *, column: str, into: str = "n_chars") -> pl.DataFrame:
    """Adds the number of characters."""
    return df.with_columns(pl.col(column).str.len_chars().alias(into))


@stage()
def apply(
    df: pl.DataFrame, *, function: Callable[[str], Any], backend: Any = None, observer: Any = None
) -> pl.DataFrame:
    return df.with_columns(pl.Series("applied", [function(text or "") for text in df["text"]]))


@stage()
def first(df: pl.DataFrame) -> pl.DataFrame:
    return df.head(1)


def suffix(text: str) -> str:
    return text[-1:]


# --- running, piping, binding ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "run",
    [
        lambda df: add_length(df, column="text"),
        lambda df: df.pipe(add_length, column="text"),
        lambda df: add_length(column="text")(df),
        lambda df: df.pipe(add_length(column="text")),
        lambda df: add_length(into="n_chars", column="text")(df),
    ],
    ids=["call", "pipe", "bind", "pipe bound", "other order"],
)
def test_all_ways_of_running_a_stage_agree(run: Callable[[pl.DataFrame], pl.DataFrame]) -> None:
    assert_frame_equal(run(DF), DF.with_columns(n_chars=pl.Series([3, 5, None], dtype=pl.UInt32)))


def test_a_stage_without_parameters_runs_and_binds() -> None:
    assert_frame_equal(first(DF), first()(DF))


def test_binding_keeps_all_parameters_with_their_defaults() -> None:
    bound = add_length(column="text")
    assert (bound.name, bound.params, bound.version, bound.rowwise) == (
        "add_length",
        {"column": "text", "into": "n_chars"},
        3,
        True,
    )


def test_a_default_that_is_written_out_makes_the_same_stage() -> None:
    assert add_length(column="text").fingerprint == add_length(into="n_chars", column="text").fingerprint


def test_another_parameter_makes_another_stage() -> None:
    assert add_length(column="text").fingerprint != add_length(column="n").fingerprint


def test_a_bound_stage_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        add_length(column="text").name = "other"  # type: ignore[misc]


def test_a_stage_that_is_kept_in_a_class_is_no_method() -> None:
    class Tools:
        length = add_length
        bound = add_length(column="text")

    assert_frame_equal(Tools().length(DF, column="text"), Tools().bound(DF))


def test_a_stage_looks_like_its_function() -> None:
    assert add_length.__name__ == "add_length"  # type: ignore[attr-defined]
    assert add_length.__doc__ == "Adds the number of characters."
    assert add_length.__module__ == __name__
    assert list(inspect.signature(add_length).parameters) == ["df", "column", "into"]


def test_the_repr_of_a_bound_stage_is_its_call() -> None:
    bound = add_length(column="it's", into="n")
    assert repr(bound) == """add_length(column="it's", into='n')"""
    assert eval(repr(bound)).fingerprint == bound.fingerprint


def test_the_repr_of_a_bound_stage_leaves_defaults_out() -> None:
    assert repr(add_length(column="text")) == "add_length(column='text')"
    assert repr(first()) == "first()"


def test_the_repr_of_a_stage_of_any_callable_can_be_shown() -> None:
    assert repr(Stage("shout", max)) == "shout()"


def test_the_repr_of_an_unbound_stage_says_what_it_takes() -> None:
    assert re.fullmatch(r"<stage add_length\(df: .*, \*, column: .*, into: .* = 'n_chars'\) -> .*>", repr(add_length))


# --- wrong calls -----------------------------------------------------------------------------------------------------


# Without their types: type checkers report each of these calls (tests/typing/usage_bad.py).
LENGTH: Any = add_length
FIRST: Any = first
RENDER: Any = af.render_prompts


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: RENDER(templat="x"),
            "render_prompts() has no parameter 'templat'; did you mean 'template'? "
            "It has: 'template', 'system', 'into'.",
        ),
        (
            lambda: LENGTH(DF, colum="text"),
            "add_length() has no parameter 'colum'; did you mean 'column'? It has: 'column', 'into'.",
        ),
        (
            lambda: LENGTH(column="text", backend=1),
            "add_length() has no parameter 'backend'. It has: 'column', 'into'.",
        ),
        (lambda: FIRST(n=1), "first() has no parameter 'n'. It has: none but the frame."),
        (
            lambda: LENGTH(),
            "add_length() needs 'column': give it by name, add_length(column=…).",
        ),
        (
            lambda: LENGTH(DF, into="n"),
            "add_length() needs 'column': give it by name, add_length(column=…).",
        ),
        (
            lambda: LENGTH(DF, "text"),
            "add_length() takes the frame first and all else by name, but 2 positional values were given. "
            "Its parameters: 'column', 'into'.",
        ),
        (
            lambda: FIRST(DF, 1),
            "first() takes the frame first and all else by name, but 2 positional values were given. "
            "Its parameters: none but the frame.",
        ),
    ],
)
def test_a_wrong_call_is_told_with_what_would_be_right(call: Callable[[], object], message: str) -> None:
    with pytest.raises(BindError) as error:
        call()
    assert str(error.value) == message


def test_a_wrong_call_is_a_type_error_too() -> None:
    with pytest.raises(TypeError):
        LENGTH(colum="text")


TO_FRAME = "A stage goes from a Polars DataFrame to a Polars DataFrame (pl.from_pandas turns a pandas one into it)."
COLLECT = "Collect it first: lf.collect()."


@pytest.mark.parametrize(
    ("given", "remedy"),
    [(DF.lazy(), COLLECT), (None, TO_FRAME), ({"text": ["a"]}, TO_FRAME), (DF["text"], TO_FRAME), ("text", TO_FRAME)],
    ids=lambda value: type(value).__name__,
)
def test_what_is_no_frame_is_told_with_what_would_make_it_one(given: Any, remedy: str) -> None:
    message = f"add_length() was given a {type(given).__name__}. {remedy}"
    runs: list[Callable[[], object]] = [
        lambda: add_length(given, column="text"),
        lambda: add_length(column="text")(given),
    ]
    for run in runs:
        with pytest.raises(FrameError) as error:
            run()
        assert str(error.value) == message


def test_a_pandas_frame_is_told_how_to_turn_it_into_a_polars_frame() -> None:
    pandas: Any = pytest.importorskip("pandas")
    with pytest.raises(FrameError, match=re.escape("was given a DataFrame. A stage goes from a Polars DataFrame")):
        first(pandas.DataFrame({"text": ["a"]}))


@pytest.mark.parametrize(("result", "remedy"), [(None, TO_FRAME), (DF.lazy(), COLLECT)], ids=["None", "LazyFrame"])
def test_a_function_that_returns_no_frame_is_told_by_its_name(result: Any, remedy: str) -> None:
    @stage()
    def forgets(df: pl.DataFrame) -> pl.DataFrame:
        return result  # type: ignore[no-any-return]

    with pytest.raises(FrameError) as error:
        forgets(DF)
    assert str(error.value) == f"forgets() returned a {type(result).__name__}. {remedy}"


def no_parameters() -> pl.DataFrame:
    return DF


def frame_by_name(*, df: pl.DataFrame) -> pl.DataFrame:
    return df


def frames(*dfs: pl.DataFrame) -> pl.DataFrame:
    return dfs[0]


def by_position(df: pl.DataFrame, column: str, *, into: str) -> pl.DataFrame:
    return df


def anything(df: pl.DataFrame, **more: object) -> pl.DataFrame:
    return df


FRAME_FIRST = "() cannot be a stage: its first parameter must be the frame."
BY_NAME = " must be keyword-only (put a `*` after the frame), so that the whole call can be read, stored and compared."


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (no_parameters, "no_parameters" + FRAME_FIRST),
        (frame_by_name, "frame_by_name" + FRAME_FIRST),
        (frames, "frames" + FRAME_FIRST),
        (by_position, "by_position() cannot be a stage: 'column'" + BY_NAME),
        (anything, "anything() cannot be a stage: 'more'" + BY_NAME),
    ],
)
def test_a_function_that_cannot_be_a_stage_is_told_when_it_is_defined(function: Any, message: str) -> None:
    with pytest.raises(BindError) as error:
        stage()(function)
    assert str(error.value) == message


# --- effects ---------------------------------------------------------------------------------------------------------


def test_a_stage_that_touches_nothing_has_no_effects() -> None:
    assert apply(function=len).effects == ()


def test_effects_are_the_parameters_that_reach_outside() -> None:
    assert apply(function=len, backend=af.scripted({}), observer=print).effects == ("backend", "observer")


def test_effects_inside_of_a_recipe_are_told() -> None:
    inner = af.recipe(apply(function=len, backend=af.scripted({})), name="inner")
    assert af.traced(af.recipe(inner, name="outer"), on_step=print).effects == ("backend",)


def test_a_parameter_that_is_named_like_a_recipe_s_own_is_no_effect() -> None:
    @stage()
    def play(df: pl.DataFrame, *, stages: int = 3) -> pl.DataFrame:
        return df

    assert play().effects == ()


# --- travelling ------------------------------------------------------------------------------------------------------

TRAVELLERS: dict[str, Stage] = {
    "by name": add_length(column="text"),
    "with a function": apply(function=suffix),
    "with a builtin": apply(function=len),
    "with a lambda": apply(function=lambda text: text * 2),
    "with a frame": af.replace_rows(rows=pl.DataFrame({"row_id": ["a"]})),
    "with a parser": af.parse_column(column="text", parser=af.between("a", "b"), into="part"),
    "a recipe": af.recipe(add_length(column="text"), first(), name="both"),
}


@pytest.mark.parametrize("name", TRAVELLERS)
@pytest.mark.parametrize("pickled", [pickle.dumps, cloudpickle.dumps])
def test_a_stage_pickles(name: str, pickled: Callable[[object], bytes]) -> None:
    bound = TRAVELLERS[name]
    again = pickle.loads(pickled(bound))
    assert isinstance(again, Stage)
    assert (again.fingerprint, again.version, again.rowwise) == (bound.fingerprint, bound.version, bound.rowwise)


def test_a_pickled_stage_runs() -> None:
    again = pickle.loads(pickle.dumps(apply(function=lambda text: text * 2)))
    assert again(DF)["applied"].to_list() == ["oneone", "threethree", ""]


def test_a_stage_that_can_be_imported_travels_by_name() -> None:
    assert pickle.loads(pickle.dumps(add_length(column="text"))).fn is add_length.fn
    assert b"len_chars" not in pickle.dumps(add_length(column="text"))


def test_an_unbound_stage_that_can_be_imported_is_found_again() -> None:
    assert pickle.loads(pickle.dumps(add_length)) is add_length


def test_a_stage_that_was_defined_inside_of_a_function_travels_by_value() -> None:
    word = "closed over"

    @stage(version=2, rowwise=True)
    def inner(df: pl.DataFrame, *, n: int = 1) -> pl.DataFrame:
        """What it does."""
        return df.head(n).with_columns(word=pl.lit(word))

    again = pickle.loads(pickle.dumps(inner))
    assert_frame_equal(again(DF), inner(DF))
    assert (again.__doc__, again.version, again.rowwise, repr(again)) == ("What it does.", 2, True, repr(inner))
    assert again().fingerprint == inner().fingerprint
    with pytest.raises(BindError, match=re.escape("inner() has no parameter 'm'. It has: 'n'.")):
        again(m=1)


def test_a_stage_whose_name_means_another_one_now_travels_by_value() -> None:
    def add_length(df: pl.DataFrame) -> pl.DataFrame:
        return df.tail(1)

    add_length.__qualname__ = "add_length"
    assert pickle.loads(pickle.dumps(stage()(add_length)))(DF)["n"].to_list() == [3]


def elsewhere(code: str, *arguments: object, main: Path | None = None) -> bytes:
    """What that code prints in another process, which can import this file."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path]), "PYTHONHASHSEED": "99"}
    command = [sys.executable, *([str(main)] if main else ["-c", textwrap.dedent(code)])]
    return subprocess.run([*command, *map(str, arguments)], stdout=subprocess.PIPE, check=True, env=env).stdout


def test_stages_have_the_same_fingerprint_in_a_spawned_process(tmp_path: Path) -> None:
    (tmp_path / "stages").write_bytes(pickle.dumps(TRAVELLERS))
    told = elsewhere(
        """
        import pathlib, pickle, sys
        stages = pickle.loads(pathlib.Path(sys.argv[1]).read_bytes())
        print(*(bound.fingerprint for bound in stages.values()))
        """,
        tmp_path / "stages",
    )
    assert told.decode().split() == [bound.fingerprint for bound in TRAVELLERS.values()]


NOTEBOOK = """
import pickle, sys
import pandera.polars as pa
import polars as pl
import agora_frames as af

PUNCTUATION = {".", "!", "?", ",", ";"}

def ends_well(text):
    return text[-1:] in PUNCTUATION

class Sentence(pa.DataFrameModel):
    text: str = pa.Field(str_length={"max_value": 9})

    @pa.check("text")
    def ends(cls, data):
        return data.lazyframe.select(pl.col(data.key).str.contains("[.!?]$"))

@af.stage(rowwise=True)
def flag(df, *, test=ends_well, into="ends_well"):
    return df.with_columns(pl.Series(into, [test(text) for text in df["text"]], dtype=pl.Boolean))

@af.stage()
def halve(df, *, until=1):
    return halve(df.head(df.height // 2), until=until) if df.height > until else df.pipe(FLAGGED)

FLAGGED = flag()
RECIPE = af.recipe(flag(), lambda df: df.with_columns(n=1), af.validate(schema=Sentence), halve(until=2), name="check")

if __name__ == "__main__":
    sys.stdout.buffer.write(pickle.dumps((RECIPE, RECIPE.fingerprint, halve)))
"""


@pytest.fixture(scope="module")
def from_main(tmp_path_factory: pytest.TempPathFactory) -> tuple[Stage, str, Any]:
    """A recipe that was written in another process's `__main__`, its fingerprint there, and one of its stages."""
    script = tmp_path_factory.mktemp("notebook") / "notebook.py"
    script.write_text(NOTEBOOK)
    return pickle.loads(elsewhere("", main=script))  # type: ignore[no-any-return]


SENTENCES = pl.DataFrame({"text": ["Yes.", "no", "A long one.", "No!"]})


def test_a_recipe_that_was_written_in_main_runs_in_another_process(from_main: tuple[Stage, str, Any]) -> None:
    done = from_main[0](SENTENCES)
    assert done["ends_well"].to_list() == [True, False]
    assert done["n"].to_list() == [1, 1]


def test_a_recipe_that_was_written_in_main_has_the_same_fingerprint_here(from_main: tuple[Stage, str, Any]) -> None:
    assert from_main[0].fingerprint == from_main[1]


def test_a_schema_that_was_written_in_main_keeps_its_checks(from_main: tuple[Stage, str, Any]) -> None:
    validate = from_main[0].params["stages"][2]
    assert validate(SENTENCES)["valid"].to_list() == [True, False, False, True]


def test_a_stage_of_main_that_reaches_itself_travels(from_main: tuple[Stage, str, Any]) -> None:
    assert from_main[2](SENTENCES, until=3)["text"].to_list() == ["Yes.", "no"]


def test_a_stage_whose_module_is_not_there_is_told_by_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone.py").write_text("import agora_frames as af\n@af.stage()\ndef f(df): return df\n")
    monkeypatch.syspath_prepend(tmp_path)
    pickled = pickle.dumps(__import__("gone").f())
    monkeypatch.delitem(sys.modules, "gone")
    (tmp_path / "gone.py").unlink()
    with pytest.raises(ModuleNotFoundError, match="gone"):
        pickle.loads(pickled)

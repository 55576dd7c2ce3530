"""Replies of a wanted shape, in typed columns beside their text; and what is wrong with those that are not."""

from __future__ import annotations

import datetime
import json
import pickle
from typing import Any

import pandera.polars as pa
import polars as pl
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st
from servers import chat_server

from agora_frames.backends.openai_chat import openai_chat
from agora_frames.backends.scripted import failing, scripted
from agora_frames.errors import BindError, FrameError
from agora_frames.frames import ERROR
from agora_frames.stages.generate import generate_column
from agora_frames.stages.rows import keep_valid, with_outcome
from agora_frames.stages.structured import shape_of
from agora_frames.stages.validate import validate

PERSON: dict[str, Any] = {
    "title": "A person!",
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


class Person(pydantic.BaseModel):
    name: str
    age: int = pydantic.Field(ge=0)

    @pydantic.field_validator("name")
    @classmethod
    def begins_with_a_capital(cls, name: str) -> str:
        if not name[:1].isupper():
            raise ValueError("no capital")
        return name.strip()


class PersonRow(pa.DataFrameModel):
    name: str
    age: pl.UInt8 = pa.Field(ge=0)
    mood: str = pa.Field(nullable=True, isin=["good", "bad"])

    @pa.check("name")
    @classmethod
    def begins_with_a_capital(cls, data: pa.PolarsData) -> pl.LazyFrame:
        return data.lazyframe.select(pl.col(data.key).str.contains(r"^\p{Lu}"))


def prompts(*texts: str | None) -> pl.DataFrame:
    return pl.DataFrame({"row_id": [f"r{n}" for n in range(len(texts))], "prompt": texts})


def replied(*replies: Any, schema: Any = PERSON, **options: Any) -> pl.DataFrame:
    """The rows of a model that gives these replies, one after the other."""
    left = iter(replies)
    backend = scripted(lambda messages: next(left))
    return generate_column(prompts(*map(str, range(len(replies)))), schema=schema, backend=backend, **options)


def why(df: pl.DataFrame, column: str = "completion_parse_error") -> list[str | None]:
    return df[column].struct.field("message").to_list()


def test_each_field_is_a_column_of_its_type_and_the_text_stays() -> None:
    done = replied('{"name": "Ada", "age": 36}')
    assert done.schema["age"] == pl.Int64
    assert done.select("completion", "name", "age").row(0) == ('{"name": "Ada", "age": 36}', "Ada", 36)
    assert why(done) == [None]


def test_the_columns_come_in_the_order_of_the_schema_after_the_call() -> None:
    done = replied('{"age": 36, "name": "Ada"}', into="person")
    assert done.columns[2:] == ["person", "person_error", "person_call", "name", "age", "person_parse_error"]


def test_the_model_is_asked_for_the_schema_and_its_name_is_one_that_endpoints_take() -> None:
    seen: list[Any] = []
    backend = scripted(lambda messages, sampling: seen.append(sampling["response_format"]) or "{}")
    generate_column(prompts("a"), schema=PERSON, backend=backend)
    assert seen == [{"type": "json_schema", "json_schema": {"name": "A_person_", "schema": PERSON, "strict": True}}]


@pytest.mark.parametrize(
    ("reply", "told"),
    [
        ("I would rather not.", "there is no JSON object"),
        ('{"name": "Ada", "age": 3', "there is no whole JSON object: Expecting ',' delimiter at character 24"),
        ('{"name": "Ada"}', "the JSON object has no 'age'"),
        ('{"name": "Ada", "age": "36"}', "age: '36' is not of type 'integer'"),
        ('{"name": "Ada", "age": null}', "age: None is not of type 'integer'"),
        ('{"name": "Ada", "age": -1}', "age: -1 is less than the minimum of 0"),
        ('{"name": "Ada", "age": 1, "x": 1}', "$: Additional properties are not allowed ('x' was unexpected)"),
        ('{"name": "\\ud800", "age": 1}', None),
        ('{"name": "Ada", "age": 1e30}', None),
    ],
)
def test_a_reply_that_breaks_the_schema_is_unparsed_and_its_text_stays(reply: str, told: str | None) -> None:
    done = replied(reply)
    assert done.select("completion", "name", "age").row(0) == (reply, None, None)
    assert done["completion_parse_error"][0]["kind"] == "unparsed"
    assert why(done) == [told] if told else all(why(done))
    assert done["completion_error"].to_list() == [None]
    assert with_outcome(done)["outcome"].to_list() == ["rejected"]


def test_a_refused_and_a_truncated_reply_keep_their_own_reasons() -> None:
    cut = failing("truncated", text='{"name": "A', finish_reason="length")
    done = replied(failing("refused", "no"), cut)
    assert done["completion"].to_list() == [None, '{"name": "A']
    assert done["completion_error"].struct.field("kind").to_list() == ["refused", "truncated"]
    assert with_outcome(done)["reason"].to_list() == ["completion: refused", "completion: truncated"]
    assert why(done) == [None, "there is no whole JSON object: Unterminated string starting at at character 9"]


def test_a_row_without_a_prompt_has_its_columns_too() -> None:
    df = prompts("a", None).with_columns(
        pl.Series("prompt_error", [None, {"kind": "null_value", "message": "why"}], dtype=ERROR)
    )
    backend = scripted(lambda messages: '{"name": "Ada", "age": 1}')
    done = generate_column(df, schema=PERSON, backend=backend)
    assert done["name"].to_list() == ["Ada", None]
    assert why(done) == [None, None]


def test_an_empty_frame_gets_the_same_columns() -> None:
    backend = scripted(lambda messages: "{}")
    empty = generate_column(prompts("a").clear(), schema=PersonRow, backend=backend)
    assert empty.schema == generate_column(prompts("a"), schema=PersonRow, backend=backend).schema
    assert empty.schema["age"] == pl.UInt8


def test_what_stands_around_the_object_is_no_hindrance() -> None:
    done = replied('Sure: {"x": 1}\n```json\n{"name": "Ada", "age": 1}\n```')
    assert done["name"].to_list() == ["Ada"]


def test_a_field_that_is_not_required_may_be_missing() -> None:
    done = replied('{"name": "Ada"}', schema={**PERSON, "required": ["name"]})
    assert done.select("name", "age").row(0) == ("Ada", None)


def test_what_a_broken_object_held_is_no_reply_where_nothing_is_required() -> None:
    inner = {"type": "object", "properties": {"name": {"type": "string"}}}
    loose = {"type": "object", "properties": {"inner": inner, "name": {"type": "string"}}}
    assert replied('{"inner": {"name": "Ada"}, "name": "B', schema=loose)["name"].to_list() == [None]


# --- Pandera ---------------------------------------------------------------------------------------------------------


def test_a_pandera_model_gives_its_own_types_and_nulls_where_it_allows_them() -> None:
    done = replied('{"name": "Ada", "age": 36, "mood": null}', schema=PersonRow)
    assert done.schema["age"] == pl.UInt8
    assert done.select("name", "age", "mood").row(0) == ("Ada", 36, None)


def test_what_json_schema_cannot_say_is_left_to_validate() -> None:
    texts = ['{"name": "Ada", "age": 1, "mood": "bad"}', '{"name": "ada", "age": 1, "mood": null}', "no"]
    done = validate(replied(*texts, schema=PersonRow), schema=PersonRow)
    assert done["name"].to_list() == ["Ada", "ada", None]
    assert done["failures"].to_list() == [[], ["name: begins_with_a_capital"], []]
    assert keep_valid(done)["name"].to_list() == ["Ada"]


class Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(strict=True)
    born: datetime.date
    marks: tuple[int, ...]


def test_a_strict_pydantic_model_judges_json_as_json() -> None:
    done = replied('{"born": "1815-12-10", "marks": [1, 2]}', '{"born": 5, "marks": []}', schema=Strict)
    assert done["born"].to_list() == ["1815-12-10", None]
    assert done["marks"].to_list() == [[1, 2], None]
    assert "born" in done["completion_parse_error"][1]["message"]


def test_further_fields_are_left_out_wherever_the_schema_is_open() -> None:
    point = {"type": "object", "properties": {"x": {"type": "integer"}}}
    schema = {"type": "object", "properties": {"at": point, "way": {"type": "array", "items": point}}}
    done = replied('{"at": {"x": 1, "y": 2}, "way": [{"z": 3}, {"x": 4}], "more": 5}', schema=schema)
    assert done.select("at", "way").row(0) == ({"x": 1}, [{"x": None}, {"x": 4}])
    assert done["completion_parse_error"].is_null().all()


def test_a_column_that_a_pandera_model_does_without_may_be_missing() -> None:
    schema = pa.DataFrameSchema({"a": pa.Column(pl.Int64), "b": pa.Column(pl.Int64, required=False)})
    done = replied('{"a": 1}', '{"b": 1}', '{"a": 1, "b": "no"}', schema=schema)
    assert done["a"].to_list() == [1, None, None]
    assert shape_of(schema).schema["required"] == ["a", "b"]  # which are all asked for


def test_a_reference_out_of_the_schema_is_an_error_before_anything_is_asked() -> None:
    elsewhere = {"type": "object", "properties": {"a": {"type": "string", "not": {"$ref": "https://else.where/a"}}}}
    with pytest.raises(BindError, match=r"refers to 'https://else\.where/a', which it does not hold"):
        shape_of(elsewhere)


def test_a_schema_that_holds_itself_is_said_to_be_recursive() -> None:
    with pytest.raises(BindError, match="recursive at '#'"):
        shape_of({"type": "object", "properties": {"child": {"$ref": "#"}}})


@pytest.mark.parametrize("age", [-1, 256])
def test_a_number_that_the_column_cannot_hold_is_no_reply(age: int) -> None:
    done = replied(json.dumps({"name": "Ada", "age": age, "mood": None}), schema=PersonRow)
    assert done["age"].to_list() == [None]
    assert "age" in (why(done)[0] or "")


@pytest.mark.parametrize("number", ["NaN", "1e400"])
def test_a_number_that_is_not_finite_is_no_reply(number: str) -> None:
    schema = {"type": "object", "properties": {"share": {"type": "number"}}}
    done = replied(f'{{"share": {number}}}', schema=schema)
    assert done["share"].to_list() == [None]
    assert "no finite number" in (why(done)[0] or "")


def test_a_pandera_schema_is_as_good_as_a_model() -> None:
    assert shape_of(PersonRow.to_schema()).response_format == shape_of(PersonRow).response_format


# --- pydantic --------------------------------------------------------------------------------------------------------


def test_a_pydantic_model_judges_and_mends_its_replies_itself() -> None:
    done = replied('{"name": "Ada ", "age": 36}', '{"name": "ada", "age": 36}', schema=Person)
    assert done["name"].to_list() == ["Ada", None]
    assert why(done) == [None, "name: Value error, no capital"]


class Mood(pydantic.BaseModel):
    mood: str = "good"


def test_a_field_with_a_default_is_asked_for_and_its_default_stands_in_where_it_is_missing() -> None:
    assert shape_of(Mood).schema["required"] == ["mood"]
    assert replied("{}", '{"mood": "bad"}', "none", schema=Mood)["mood"].to_list() == ["good", "bad", None]


# --- what is told before anything is asked ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "schema",
    [
        "person",
        {"type": "array", "items": {"type": "string"}},
        {"type": "object"},
        {"type": "object", "properties": {"a": {"type": "strin"}}},
        {"type": "object", "properties": {"a": {"type": "object"}}},
        pydantic.BaseModel,
        int,
    ],
    ids=str,
)
def test_a_schema_that_cannot_be_columns_is_an_error(schema: Any) -> None:
    with pytest.raises(BindError):
        replied("never asked", schema=schema)


def test_a_schema_and_a_response_format_are_one_too_many() -> None:
    with pytest.raises(BindError, match="give one"):
        replied("never asked", response_format={"type": "json_object"})


@pytest.mark.parametrize(
    "field", ["row_id", "prompt", "reply", "reply_error", "reply_call", "reply_parse_error", "own"]
)
def test_a_field_that_would_be_written_over_a_column_is_an_error_before_anything_is_asked(field: str) -> None:
    asked: list[Any] = []
    df = prompts("a").with_columns(own=pl.lit(1))
    schema = {"type": "object", "properties": {field: {"type": "string"}}}
    with pytest.raises(FrameError, match=f"'{field}' would be written over. Nothing was asked"):
        generate_column(df, schema=schema, into="reply", backend=scripted(lambda m: asked.append(m) or "{}"))
    assert asked == []


def test_a_field_may_not_take_the_number_of_a_sample() -> None:
    schema = {"type": "object", "properties": {"sample": {"type": "string"}}}
    with pytest.raises(FrameError, match="'sample' would be written over"):
        generate_column(prompts("a"), schema=schema, samples=2, backend=scripted(lambda m: "{}"))


def test_rows_that_failed_may_be_asked_again_in_the_same_columns() -> None:
    first = replied("no", '{"name": "Eve", "age": 1}')
    again = generate_column(first, schema=PERSON, backend=scripted(lambda m: '{"name": "Ada", "age": 2}'))
    assert again.columns == first.columns
    assert again["name"].to_list() == ["Ada", "Ada"]
    assert why(again) == [None, None]


def test_an_observer_sees_rows_with_their_fields() -> None:
    seen: list[pl.DataFrame] = []
    done = replied('{"name": "Ada", "age": 2}', "no", observer=seen.append)
    assert [frame.schema for frame in seen] == [done.schema] * len(seen)
    assert pl.concat(seen).sort("row_id").equals(done)


def test_a_stage_with_a_schema_travels() -> None:
    stage = generate_column(schema=PersonRow, backend=scripted(str))
    assert pickle.loads(pickle.dumps(stage)).fingerprint == stage.fingerprint
    assert stage.fingerprint != generate_column(schema=Person, backend=scripted(str)).fingerprint


# --- over the wire ---------------------------------------------------------------------------------------------------


def test_an_openai_compatible_server_is_sent_the_schema_as_its_response_format() -> None:
    with chat_server() as server:
        model = openai_chat("tiny", base_url=server.url, api_key="secret")
        done = generate_column(prompts('{"name": "ada", "age": 36}'), schema=PERSON, backend=model)
    assert server.bodies[0]["response_format"] == shape_of(PERSON).response_format
    assert list(server.bodies[0]["response_format"]["json_schema"]["schema"]["properties"]) == ["name", "age"]
    assert why(done) == ["the JSON object has no 'name', 'age'"]  # it says everything in capitals


@pytest.mark.parametrize(("fault", "kind"), [("refusal", "refused"), ("length", "truncated")])
def test_a_refusal_and_a_reply_cut_short_come_as_such(fault: str, kind: str) -> None:
    with chat_server(lambda prompt, attempt: fault) as server:
        model = openai_chat("tiny", base_url=server.url, api_key="secret")
        done = generate_column(prompts('{"NAME":'), schema=PERSON, backend=model)
    assert done["completion_error"][0]["kind"] == kind
    assert done["name"].to_list() == [None]


# --- whatever is said ------------------------------------------------------------------------------------------------

VALUES = {
    "text": st.text(st.characters(exclude_categories=["Cs"])),
    "whole": st.integers(-(2**63), 2**63 - 1),
    "part": st.floats(allow_nan=False, allow_infinity=False) | st.integers(-100, 100),
    "yes": st.booleans(),
    "maybe": st.none() | st.text("ab"),
    "list": st.lists(st.integers(0, 9)),
    "inner": st.fixed_dictionaries({"a": st.lists(st.text("xy"))}),
}
ALL = pa.DataFrameSchema(
    {
        "text": pa.Column(pl.String),
        "whole": pa.Column(pl.Int64),
        "part": pa.Column(pl.Float64),
        "yes": pa.Column(pl.Boolean),
        "maybe": pa.Column(pl.String, nullable=True),
        "list": pa.Column(pl.List(pl.Int64)),
        "inner": pa.Column(pl.Struct({"a": pl.List(pl.String)})),
    }
)


@given(said=st.lists(st.fixed_dictionaries(VALUES), min_size=1, max_size=4), indent=st.none() | st.integers(0, 3))
def test_every_value_that_fits_comes_back_as_it_was_said(said: list[dict[str, Any]], indent: int | None) -> None:
    done = replied(*(json.dumps(each, indent=indent) for each in said), schema=ALL)
    assert why(done) == [None] * len(said)
    assert done.select(*VALUES).to_dicts() == said


@given(text=st.text() | st.from_regex(r"\{[{}\[\]\":,a-z0-9 ]*\}"))
def test_whatever_a_model_says_its_row_stays(text: str) -> None:
    text = text.encode("utf-8", "replace").decode()
    done = replied(text)
    assert done["completion"].to_list() == [text]
    assert (done["name"].is_null() == done["completion_parse_error"].is_not_null()).all()

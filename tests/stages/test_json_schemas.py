"""Schemas of Pandera and pydantic as JSON Schema, and JSON Schema as types of Polars."""

from __future__ import annotations

import enum
from typing import Any, Literal

import pandera.polars as pa
import polars as pl
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema.validators import Draft202012Validator

from agora_frames.errors import BindError
from agora_frames.stages.json_schemas import closed, dtype_of, is_strict, of_pandera


def of_column(dtype: Any, *checks: pa.Check, **options: Any) -> dict[str, Any]:
    """What a column of that type becomes."""
    schema, _ = of_pandera(pa.DataFrameSchema({"x": pa.Column(dtype, list(checks), **options)}))
    found: dict[str, Any] = schema["properties"]["x"]
    return found


@pytest.mark.parametrize(
    ("dtype", "node"),
    [
        (pl.String, {"type": "string"}),
        (pl.Int64, {"type": "integer"}),
        (pl.UInt8, {"type": "integer", "minimum": 0, "maximum": 255}),
        (pl.UInt64, {"type": "integer", "minimum": 0}),
        (pl.Float32, {"type": "number"}),
        (pl.Boolean, {"type": "boolean"}),
        (pl.Enum(["a", "b"]), {"type": "string", "enum": ["a", "b"]}),
        (pl.List(pl.String), {"type": "array", "items": {"type": "string"}}),
        (pl.Array(pl.Int64, 2), {"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 2}),
        (
            pl.Struct({"a": pl.Int64}),
            {
                "type": "object",
                "properties": {"a": {"type": "integer"}},
                "required": ["a"],
                "additionalProperties": False,
            },
        ),
    ],
    ids=str,
)
def test_each_type_of_polars_that_json_has_is_asked_for(dtype: Any, node: dict[str, Any]) -> None:
    assert of_column(dtype) == node


@pytest.mark.parametrize("dtype", [pl.Date, pl.Binary, pl.List(pl.Duration), pl.Decimal(10, 2)], ids=str)
def test_a_type_that_json_does_not_have_is_an_error(dtype: Any) -> None:
    with pytest.raises(BindError, match=r"wants 'x' as .*, which JSON does not have"):
        of_column(dtype)


@pytest.mark.parametrize(
    ("dtype", "check", "said"),
    [
        (pl.String, pa.Check.isin(["a", "b"]), {"enum": ["a", "b"]}),
        (pl.Int64, pa.Check.eq(3), {"const": 3}),
        (pl.Int64, pa.Check.ge(3), {"minimum": 3}),
        (pl.Int64, pa.Check.le(3), {"maximum": 3}),
        (pl.Float64, pa.Check.gt(3), {"exclusiveMinimum": 3}),
        (pl.Float64, pa.Check.lt(3), {"exclusiveMaximum": 3}),
        (pl.Int64, pa.Check.in_range(1, 3), {"minimum": 1, "maximum": 3}),
        (pl.Int64, pa.Check.in_range(1, 3, include_max=False), {"minimum": 1, "exclusiveMaximum": 3}),
        (pl.String, pa.Check.str_length(1, 5), {"minLength": 1, "maxLength": 5}),
        (pl.String, pa.Check.str_length(max_value=5), {"maxLength": 5}),
        (pl.String, pa.Check.str_matches(r"^a+$"), {"pattern": "^a+$"}),
        (pl.String, pa.Check.str_matches(r"a|[|]\|$"), {}),
        (pl.String, pa.Check.str_matches(r"(a|b)[|$]\|$"), {"pattern": r"^(a|b)[|$]\|$"}),
        (pl.String, pa.Check.str_matches(r"^a+"), {}),
        (pl.String, pa.Check.str_matches(r"^a\$"), {}),
        (pl.String, pa.Check.str_matches(r"(?i)a$"), {}),
        (pl.String, pa.Check.str_startswith("a"), {}),
        (pl.String, pa.Check(lambda data: data.lazyframe.select(pl.col(data.key) != "")), {}),
    ],
    ids=str,
)
def test_a_check_is_said_where_json_schema_has_words_for_it(dtype: Any, check: pa.Check, said: dict[str, Any]) -> None:
    assert of_column(dtype, check) == of_column(dtype) | said


def test_of_two_bounds_the_narrower_is_said() -> None:
    found = of_column(pl.UInt8, pa.Check.ge(-5), pa.Check.le(7), pa.Check.le(9))
    assert found == {"type": "integer", "minimum": 0, "maximum": 7}


def test_of_two_sets_what_both_have_is_said() -> None:
    assert of_column(pl.Enum(["a", "b", "c"]), pa.Check.isin(["c", "a", "z"]))["enum"] == ["a", "c"]


def test_a_column_that_may_be_null_may_be_null() -> None:
    assert of_column(pl.Int64, nullable=True) == {"anyOf": [{"type": "integer"}, {"type": "null"}]}


def test_a_description_is_told_to_the_model() -> None:
    assert of_column(pl.String, description="The capital.")["description"] == "The capital."


def test_columns_by_a_pattern_of_names_are_an_error() -> None:
    with pytest.raises(BindError, match=r"says no name and type for its column .a\.\*."):
        of_pandera(pa.DataFrameSchema({"a.*": pa.Column(pl.String, regex=True)}))


NAMED = st.dictionaries(st.sampled_from("abcd"), st.deferred(lambda: DTYPES), min_size=1, max_size=3)
DTYPES: st.SearchStrategy[Any] = st.one_of(
    st.sampled_from([pl.String(), pl.Int64(), pl.Float64(), pl.Boolean()]),
    st.deferred(lambda: DTYPES).map(pl.List),
    NAMED.map(pl.Struct),
)


@given(columns=NAMED, nullable=st.booleans())
def test_there_and_back_again_a_type_is_the_same(columns: dict[str, Any], nullable: bool) -> None:
    rules = pa.DataFrameSchema({name: pa.Column(dtype, nullable=nullable) for name, dtype in columns.items()})
    schema, dtypes = of_pandera(rules)
    Draft202012Validator.check_schema(schema)
    assert is_strict(schema)
    assert dtypes == columns
    assert {name: dtype_of(node, schema, name) for name, node in schema["properties"].items()} == columns


class Colour(enum.StrEnum):
    RED = "red"
    BLUE = "blue"


class Inner(pydantic.BaseModel):
    title: str = "none"
    default: float | None = None


class Outer(pydantic.BaseModel):
    """What is wanted."""

    colour: Colour = Colour.RED
    kind: Literal["a", "b"]
    count: int = pydantic.Field(ge=0, description="How many.")
    inner: Inner
    several: list[Inner] = []
    maybe: Inner | None = None


def test_a_pydantic_model_is_closed_whole_and_without_references() -> None:
    inner = {
        "type": "object",
        "properties": {"title": {"type": "string"}, "default": {"anyOf": [{"type": "number"}, {"type": "null"}]}},
        "required": ["title", "default"],
        "additionalProperties": False,
    }
    found = closed(Outer.model_json_schema())
    assert is_strict(found)
    assert found["properties"] == {
        "colour": {"type": "string", "enum": ["red", "blue"]},
        "kind": {"type": "string", "enum": ["a", "b"]},
        "count": {"type": "integer", "minimum": 0, "description": "How many."},
        "inner": inner,
        "several": {"type": "array", "items": inner},
        "maybe": {"anyOf": [inner, {"type": "null"}]},
    }
    assert found["required"] == list(found["properties"])


def test_the_fields_of_a_pydantic_model_have_types() -> None:
    schema, inner = Outer.model_json_schema(), pl.Struct({"title": pl.String, "default": pl.Float64})
    found = {name: dtype_of(node, schema, name) for name, node in schema["properties"].items()}
    assert found == {
        "colour": pl.String,
        "kind": pl.String,
        "count": pl.Int64,
        "inner": inner,
        "several": pl.List(inner),
        "maybe": inner,
    }


class Tree(pydantic.BaseModel):
    branches: list[Tree]


def test_a_recursive_schema_has_no_column() -> None:
    with pytest.raises(BindError, match="recursive at '#/\\$defs/Tree'"):
        closed(Tree.model_json_schema())


@pytest.mark.parametrize(
    ("node", "dtype"),
    [
        ({"enum": ["a", None]}, pl.String),
        ({"const": 3}, pl.Int64),
        ({"enum": [1, 2.5]}, pl.Float64),
        ({"type": ["integer", "null"]}, pl.Int64),
        ({"anyOf": [{"type": "integer"}, {"type": "number"}]}, pl.Float64),
        ({"allOf": [{"type": "string"}]}, pl.String),
        ({"type": "array", "items": {"type": ["boolean", "null"]}}, pl.List(pl.Boolean)),
    ],
    ids=str,
)
def test_a_part_of_a_json_schema_has_a_type(node: dict[str, Any], dtype: Any) -> None:
    assert dtype_of(node, node, "x") == dtype


@pytest.mark.parametrize(
    "node",
    [
        {},
        True,
        {"type": "array"},
        {"type": "object"},
        {"type": "object", "additionalProperties": {"type": "integer"}},
        {"type": ["integer", "string"]},
        {"enum": [1, "a"]},
        {"type": "null"},
        {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]},
    ],
    ids=str,
)
def test_what_no_column_can_hold_is_an_error_that_names_the_field(node: Any) -> None:
    with pytest.raises(BindError, match=r"of 'x\[\]', and no column has such a type"):
        dtype_of({"type": "array", "items": node}, {}, "x")


@pytest.mark.parametrize("address", ["#/$defs/b", "https://example.org/a.json", "other.json"])
def test_a_reference_to_what_is_not_there_is_an_error(address: str) -> None:
    with pytest.raises(BindError, match="which it does not hold"):
        dtype_of({"$ref": address}, {"$defs": {"a": {"type": "string"}}}, "x")


STRICT: dict[str, Any] = {
    "type": "object",
    "properties": {"a": {"type": "array", "items": {"type": "string"}}},
    "required": ["a"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("schema", "strict"),
    [
        (STRICT, True),
        ({**STRICT, "additionalProperties": True}, False),
        ({**STRICT, "required": []}, False),
        ({**STRICT, "properties": {"a": {"oneOf": [{"type": "string"}]}}}, False),
        ({**STRICT, "properties": {"a": {"type": "array", "items": {**STRICT, "required": []}}}}, False),
        ({**STRICT, "properties": {"a": {"$ref": "#/$defs/b"}}, "$defs": {"b": STRICT}}, True),
        ({**STRICT, "properties": {"a": {"$ref": "#/$defs/b"}}, "$defs": {"b": {"type": "object"}}}, False),
        ({**STRICT, "properties": {"a": {"anyOf": [STRICT, {"type": "null"}]}}}, True),
        ({**STRICT, "minProperties": 1}, False),
    ],
    ids=str,
)
def test_strict_mode_takes_closed_objects_of_required_fields(schema: dict[str, Any], strict: bool) -> None:
    assert is_strict(schema) is strict


def test_the_values_of_a_set_come_in_an_order_that_is_the_same_in_every_process() -> None:
    """They are in the key of a call: in another order, everything would be asked, and paid for, again."""
    names = {f"name {n}" for n in range(20)}
    assert of_column(pl.String, pa.Check.isin(names))["enum"] == sorted(names)
    assert of_column(pl.Int64, pa.Check.isin([3, 1, 2]))["enum"] == [3, 1, 2]

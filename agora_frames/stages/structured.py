"""Structured output: a model is told what JSON is wanted, and that stands in typed columns beside its text."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from agora_frames.errors import BindError, FrameError, listed
from agora_frames.stages.json_schemas import Node, check_references, closed, dtype_of, is_strict, of_pandera
from agora_frames.stages.parse import parse_column
from agora_frames.stages.parsers import check_numbers, objects_in

__all__ = ["Shape", "shape_of"]

# So much of what a schema says of a value goes into a row's reason.
_LONGEST_SAID = 300


@dataclass(frozen=True, repr=False)
class Shape:
    """What a reply must be: an object of these fields; made by `shape_of`.

    schema: as it is sent. required: the fields without which an object is none of these. judged: gives the fields of
    an object, or raises a ValueError that says what is wrong.
    """

    name: str
    schema: Node
    required: Sequence[str]
    columns: Mapping[str, pl.DataType]
    judged: Callable[[dict[str, Any]], Mapping[str, Any]]

    @property
    def response_format(self) -> dict[str, Any]:
        """In the form of OpenAI's chat completions, which vLLM's server and llama.cpp take as well."""
        wanted = {"name": self.name, "schema": self.schema, "strict": is_strict(self.schema)}
        return {"type": "json_schema", "json_schema": wanted}

    def __call__(self, text: str) -> dict[str, Any]:
        """A `types.Parser`: the fields of the first object that has all required ones."""
        why = "there is no JSON object"
        for found, broken in objects_in(text):
            if not broken and all(name in found for name in self.required):
                check_numbers(found)
                values = self.judged(found)
                return {name: _kept(values.get(name), dtype) for name, dtype in self.columns.items()}
            missing = listed([name for name in self.required if name not in found])
            why = broken or f"the JSON object has no {missing}"
        raise ValueError(why)

    def check_room(self, df: pl.DataFrame, into: str, *, read: str) -> None:
        """Raises FrameError when a field would be written over a column that is not from an earlier reply."""
        own = [into, f"{into}_error", f"{into}_call", f"{into}_parse_error"]
        anew = own[-1] in df.columns and self.columns.keys() <= set(df.columns)
        never = [*own, read, "row_id", "sample"]
        if clash := [name for name in self.columns if name in never or (name in df.columns and not anew)]:
            raise FrameError(
                f"generate_column(schema=…) adds a column for each field, but {listed(clash)} would be written over. "
                "Nothing was asked. Rename these columns, or fields; a schema is of the reply alone, not of the frame."
            )

    def parsed(self, df: pl.DataFrame, into: str) -> pl.DataFrame:
        """The frame with the fields of the texts in `into`, and `{into}_parse_error`."""
        whole, error = f"{into}: all fields", f"{into}_parse_error"
        dtypes = {whole: pl.Struct(dict(self.columns))}
        done = parse_column(df.drop(error, strict=False), column=into, parser=self, into=dtypes)
        fields = [done[whole].struct.field(name) for name in self.columns]
        return df.drop(error, strict=False).with_columns(*fields, done[error])


def shape_of(schema: Any) -> Shape:
    """The shape that a Pandera model or schema, a pydantic model, or a JSON schema asks for.

    `generate_column` adds a column for each field, null where the reply is not what was asked for, and
    `{into}_parse_error` (ERROR, kind `unparsed`, with what is wrong; null where `{into}_error` says why there is no
    reply). The text stays. Texts, numbers, Booleans, enums (String), arrays (List) and objects (Struct) have columns.
    A Pandera model: the columns are of its types; what its checks say is asked for and judged as far as JSON Schema has
    words for it; for the rest let `validate(schema=…)` follow. A pydantic model judges its replies itself. A JSON
    schema is sent as it is, as `strict` if it is closed and requires all of its fields.
    Raises: BindError for anything else, for a schema that is none, and for one whose fields have no Polars types.

    >>> import agora_frames as af
    >>> person = {"type": "object", "properties": {"name": {"type": "string"}, "age": {"type": "integer"}}}
    >>> model = af.scripted(lambda messages: 'Here: {"name": "Ada", "age": 36}')
    >>> df = pl.DataFrame({"prompt": ["Invent a person."]}).pipe(af.with_row_ids)
    >>> df.pipe(af.generate_column, schema=person, backend=model).select("completion", "name", "age").row(0)
    ('Here: {"name": "Ada", "age": 36}', 'Ada', 36)
    """
    # Neither Pandera nor pydantic need be imported to see that something is of theirs.
    rules = schema.to_schema() if hasattr(schema, "to_schema") else schema
    if hasattr(rules, "columns") and hasattr(rules, "checks"):
        made, dtypes = of_pandera(rules)
        # All are asked for; those that the model does without may be missing.
        required = [name for name, column in rules.columns.items() if column.required]
        judged = _by_schema({**made, "required": required})
        return Shape(_named(rules.name), _checked(made), required, dtypes, judged)
    if isinstance(schema, type) and hasattr(schema, "model_json_schema"):
        try:
            told = schema.model_json_schema()
            made = closed(told)
        except BindError:
            raise
        except Exception as exc:
            raise BindError(f"{schema.__name__} has no JSON schema: {exc}") from exc
        required = told.get("required", ())  # the rest has defaults
        return Shape(_named(schema.__name__), _checked(made), required, _columns(made), _by_pydantic(schema))
    if isinstance(schema, Mapping):
        required, judged = _checked(schema).get("required", ()), _by_schema(schema)
        return Shape(_named(schema.get("title")), schema, required, _columns(schema), judged)
    raise BindError(
        f"generate_column(schema={schema!r:.200}): give a Pandera model, a pydantic model, or a JSON schema, such as "
        "{'type': 'object', 'properties': {'answer': {'type': 'integer'}}, 'required': ['answer'], "
        "'additionalProperties': False}."
    )


def _named(name: object) -> str:
    """A name as OpenAI wants it."""
    return re.sub(r"[^a-zA-Z0-9_-]", "_", str(name or "reply"))[:64]


def _checked(schema: Node) -> Node:
    from jsonschema.exceptions import SchemaError
    from jsonschema.validators import Draft202012Validator, validator_for

    if schema.get("type") != "object" or not isinstance(schema.get("properties"), Mapping) or not schema["properties"]:
        raise BindError(f"the schema must be of an object with `properties`; it is {dict(schema)!r:.200}.")
    try:
        validator_for(schema, default=Draft202012Validator).check_schema(dict(schema))
    except SchemaError as exc:
        raise BindError(f"the schema is no JSON schema: {exc.message} at {exc.json_path}.") from exc
    check_references(schema)
    return schema


def _columns(schema: Node) -> dict[str, pl.DataType]:
    return {name: dtype_of(node, schema, name) for name, node in schema["properties"].items()}


def _by_schema(schema: Node) -> Callable[[dict[str, Any]], Mapping[str, Any]]:
    from jsonschema.validators import Draft202012Validator, validator_for
    from referencing import Registry

    # With a registry of its own, so that no reference is looked up on the network.
    judge = validator_for(schema, default=Draft202012Validator)(schema, registry=Registry())

    def judged(found: dict[str, Any]) -> dict[str, Any]:
        if error := next(judge.iter_errors(found), None):
            raise ValueError(_cut(f"{error.json_path.removeprefix('$.')}: {error.message}"))
        return found

    return judged


def _by_pydantic(model: Any) -> Callable[[dict[str, Any]], Mapping[str, Any]]:
    def judged(found: dict[str, Any]) -> dict[str, Any]:
        try:
            # As JSON, in which a strict model takes a text for a date, and an array for a tuple.
            made: dict[str, Any] = model.model_validate_json(json.dumps(found)).model_dump(mode="json", by_alias=True)
        except ValueError as exc:
            told: Any = exc  # pydantic's own ValidationError has a list of what is wrong
            first = told.errors()[0] if hasattr(told, "errors") else {"loc": (), "msg": str(exc)}
            raise ValueError(_cut(f"{'.'.join(map(str, first['loc']))}: {first['msg']}")) from exc
        return {**found, **made}  # a field may be given under another name than it is told

    return judged


def _kept(value: Any, dtype: Any) -> Any:
    """A value without what its column has no place for: the further fields of objects that are not closed."""
    if isinstance(dtype, pl.Struct) and isinstance(value, Mapping):
        return {name: _kept(value.get(name), inner) for name, inner in dict(dtype).items()}
    if isinstance(dtype, pl.List | pl.Array) and isinstance(value, list):
        return [_kept(each, dtype.inner) for each in value]
    return value


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST_SAID else f"{text[:_LONGEST_SAID]}…"

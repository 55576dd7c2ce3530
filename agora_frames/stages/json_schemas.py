"""Schemas from one world into another: of Pandera or pydantic into JSON Schema, and of that into types of Polars."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Set
from typing import Any, TypeAlias

import polars as pl

from agora_frames.errors import BindError

__all__ = ["Node", "check_references", "closed", "dtype_of", "is_strict", "of_pandera"]

# A JSON schema, or a part of one.
Node: TypeAlias = Mapping[str, Any]

_TYPES: dict[str, pl.DataType] = {
    "string": pl.String(),
    "integer": pl.Int64(),
    "number": pl.Float64(),
    "boolean": pl.Boolean(),
}
# What OpenAI's strict mode refuses: https://platform.openai.com/docs/guides/structured-outputs#supported-schemas
_NOT_STRICT = ("allOf", "oneOf", "not", "if", "then", "else", "dependentRequired", "dependentSchemas")
_OPEN_OBJECT = ("patternProperties", "propertyNames", "unevaluatedProperties", "minProperties", "maxProperties")
# What is said of a value, beside its type, by the name of Pandera's check.
_CHECKS: dict[str, Any] = {
    "isin": lambda s: {"enum": _ordered(s["allowed_values"])},
    "equal_to": lambda s: {"const": s["value"]},
    "greater_than": lambda s: {"exclusiveMinimum": s["min_value"]},
    "greater_than_or_equal_to": lambda s: {"minimum": s["min_value"]},
    "less_than": lambda s: {"exclusiveMaximum": s["max_value"]},
    "less_than_or_equal_to": lambda s: {"maximum": s["max_value"]},
    "in_range": lambda s: {
        "minimum" if s["include_min"] else "exclusiveMinimum": s["min_value"],
        "maximum" if s["include_max"] else "exclusiveMaximum": s["max_value"],
    },
    "str_length": lambda s: _lengths(s),
    "str_matches": lambda s: _pattern(s["pattern"]),
}


def of_pandera(rules: Any) -> tuple[dict[str, Any], dict[str, pl.DataType]]:
    """The JSON schema of a row that keeps the rules of a `DataFrameSchema`, and the types of its columns.

    The checks that JSON Schema can say are in it: `isin`, `eq`, `gt`, `ge`, `lt`, `le`, `in_range`, `str_length`, and
    `str_matches` of a pattern that ends with `$`. All others are left to `validate`.
    Raises: BindError for a column without a type, or of one that JSON does not have.
    """
    nodes, dtypes = {}, {}
    for name, column in rules.columns.items():
        if column.regex or column.dtype is None:
            raise BindError(f"the schema says no name and type for its column {name!r}: a reply needs both.")
        dtypes[name] = _made(column.dtype.type)
        node = _of_dtype(dtypes[name], name)
        for check in column.checks:
            said = _CHECKS.get(check.name, lambda _: {})(check.statistics or {})
            # Of two that say the same thing (a type's bounds and `ge`), the narrower.
            node |= {key: _narrower(key, node.get(key), value) for key, value in said.items()}
        described = {"description": column.description} if column.description else {}
        nodes[name] = described | ({"anyOf": [node, {"type": "null"}]} if column.nullable else node)
    return _object(nodes), dtypes


def _object(nodes: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": dict(nodes), "required": list(nodes), "additionalProperties": False}


def _of_dtype(dtype: pl.DataType, name: str) -> dict[str, Any]:
    if isinstance(dtype, pl.Enum):
        return {"type": "string", "enum": dtype.categories.to_list()}
    if isinstance(dtype, pl.String | pl.Categorical):
        return {"type": "string"}
    if isinstance(dtype, pl.Boolean):
        return {"type": "boolean"}
    if dtype.is_integer():
        least, most = (pl.select(each).item() for each in (dtype.min(), dtype.max()))  # type: ignore[attr-defined]
        bounds = {"minimum": least, "maximum": most}
        return {"type": "integer", **{key: bound for key, bound in bounds.items() if -(2**53) < bound < 2**53}}
    if dtype.is_float():
        return {"type": "number"}
    if isinstance(dtype, pl.List):
        return {"type": "array", "items": _of_dtype(_made(dtype.inner), name)}
    if isinstance(dtype, pl.Array):
        items = _of_dtype(_made(dtype.inner), name)
        return {"type": "array", "items": items, "minItems": dtype.size, "maxItems": dtype.size}
    if isinstance(dtype, pl.Struct):
        return _object({field.name: _of_dtype(_made(field.dtype), f"{name}.{field.name}") for field in dtype.fields})
    raise BindError(
        f"the schema wants {name!r} as {dtype}, which JSON does not have. Possible: texts, numbers, Booleans, "
        "and lists and structs of these. Ask for a text, and cast it in a stage after."
    )


def _made(dtype: Any) -> pl.DataType:
    made: pl.DataType = dtype() if isinstance(dtype, type) else dtype
    return made


def _narrower(key: str, one: Any, other: Any) -> Any:
    if one is None:
        return other
    if key == "enum":
        return [value for value in one if value in other]
    if key in ("minimum", "exclusiveMinimum", "minLength"):
        return max(one, other)
    return min(one, other) if key in ("maximum", "exclusiveMaximum", "maxLength") else other


def _ordered(values: Any) -> list[Any]:
    """As they were given; those of a set, whose order is another in each process, in one that stays: it is in keys."""
    return sorted(values, key=lambda each: (type(each).__name__, each)) if isinstance(values, Set) else list(values)


def _lengths(said: Mapping[str, Any]) -> dict[str, int]:
    exact = said.get("exact_value")
    least, most = (exact, exact) if exact is not None else (said.get("min_value"), said.get("max_value"))
    return {key: value for key, value in {"minLength": least, "maxLength": most}.items() if value is not None}


def _pattern(given: Any) -> dict[str, str]:
    """A pattern that says what the whole text is: engines that write by a pattern take no other."""
    pattern = getattr(given, "pattern", given)
    plain = re.sub(r"\\.|\[\^?\]?[^\]]*\]", "", pattern)
    while (inner := re.sub(r"\([^()]*\)", "", plain)) != plain:
        plain = inner
    whole = plain.endswith("$") and "|" not in plain and "(?" not in re.sub(r"\(\?:", "(", pattern)
    return {"pattern": pattern if pattern.startswith("^") else f"^{pattern}"} if whole else {}


def closed(root: Node) -> dict[str, Any]:
    """The same schema in the form that every server takes: no references, every object with just its fields, all asked.

    For schemas made from a class, whose defaults are for its users and not for a model.
    """

    def made(node: Any, within: tuple[str, ...]) -> Any:
        if isinstance(node, list):
            return [made(each, within) for each in node]
        if not isinstance(node, Mapping):
            return node
        if "$ref" in node:
            rest = {key: value for key, value in node.items() if key != "$ref"}
            return made({**_referred(root, node["$ref"], within), **rest}, (*within, node["$ref"]))
        plain = {key: value for key, value in node.items() if key not in ("$defs", "default", "title")}
        kept = {key: made(value, within) for key, value in plain.items() if key not in ("properties", "enum", "const")}
        kept |= {key: plain[key] for key in ("enum", "const") if key in plain}
        if "properties" in node:
            kept |= _object({name: made(each, within) for name, each in node["properties"].items()})
        return kept

    whole: dict[str, Any] = made(root, ())
    return whole


def _referred(root: Node, address: str, within: tuple[str, ...]) -> Node:
    """The part of a schema that a reference names."""
    if address == "#" or address in within:
        raise BindError(f"the schema is recursive at {address!r}: a column has no such type. Give it a fixed depth.")
    found: Any = root
    if address.startswith("#/"):
        for step in address[2:].split("/"):
            found = found.get(step.replace("~1", "/").replace("~0", "~")) if isinstance(found, Mapping) else None
    if not address.startswith("#/") or not isinstance(found, Mapping):
        raise BindError(f"the schema refers to {address!r}, which it does not hold: define it in `$defs`.")
    return found


def check_references(root: Node) -> None:
    """Raises BindError where a part of the schema, of whatever use, refers to what the schema does not hold."""
    for node in _nodes(root):
        if isinstance(address := node.get("$ref"), str):
            _referred(root, address, ())


def is_strict(root: Node) -> bool:
    """Whether OpenAI's strict mode takes it: closed objects, all of whose fields are required, and plain keywords."""
    return all(
        not any(key in node for key in (*_NOT_STRICT, *_OPEN_OBJECT))
        and (
            not ("properties" in node or node.get("type") == "object")
            or (
                node.get("additionalProperties") is False
                and set(node.get("required", ())) == set(node.get("properties", ()))
            )
        )
        for node in _nodes(root)
    )


def _nodes(node: Any) -> Iterator[Node]:
    """Each part of a schema that is a schema itself."""
    if not isinstance(node, Mapping):
        return
    yield node
    for key in ("properties", "$defs", "definitions"):
        for each in (node.get(key) or {}).values():
            yield from _nodes(each)
    for key in ("items", "additionalProperties", *_NOT_STRICT):
        yield from _nodes(node.get(key))
    for key in ("anyOf", "oneOf", "allOf", "prefixItems"):
        for each in node.get(key) or ():
            yield from _nodes(each)


def dtype_of(node: Any, root: Node, path: str, within: tuple[str, ...] = ()) -> pl.DataType:
    """The type of a column that keeps the values of a part of a schema; null may be among the values of each.

    Raises: BindError where there is no such type: for objects of any fields, and for values of several types.
    """
    if not isinstance(node, Mapping):
        raise _untyped(path, node)
    if "$ref" in node:
        return dtype_of(_referred(root, node["$ref"], within), root, path, (*within, node["$ref"]))
    several = node.get("anyOf") or node.get("oneOf") or node.get("allOf")
    kinds = node["type"] if isinstance(node.get("type"), list) else None
    if several is None and kinds is not None:
        several = [{**node, "type": kind} for kind in kinds]
    if several is not None:
        return _of_several([dtype_of(each, root, path, within) for each in several if not _is_null(each)], path, node)
    kind, values = node.get("type"), node.get("enum", [node["const"]] if "const" in node else None)
    if kind is None and values is not None:
        return _of_several([_of_value(value, path, node) for value in values if value is not None], path, node)
    if kind in _TYPES:
        return _TYPES[kind]
    if kind == "array" and "items" in node:
        return pl.List(dtype_of(node["items"], root, f"{path}[]", within))
    if node.get("properties") and kind in ("object", None):
        inner = node["properties"].items()
        return pl.Struct({name: dtype_of(each, root, f"{path}.{name}", within) for name, each in inner})
    raise _untyped(path, node)


def _is_null(node: Any) -> bool:
    return isinstance(node, Mapping) and (node.get("type") == "null" or node.get("const", ...) is None)


def _of_several(dtypes: list[pl.DataType], path: str, node: Node) -> pl.DataType:
    found = set(dtypes)
    if found == {pl.Int64(), pl.Float64()}:
        return pl.Float64()
    if len(found) != 1:
        raise _untyped(path, node)
    return found.pop()


def _of_value(value: object, path: str, node: Node) -> pl.DataType:
    names = {str: "string", bool: "boolean", int: "integer", float: "number"}
    if type(value) not in names:
        raise _untyped(path, node)
    return _TYPES[names[type(value)]]


def _untyped(path: str, node: object) -> BindError:
    return BindError(
        f"the schema says {node!r:.200} of {path!r}, and no column has such a type. Possible: string, integer, number, "
        "boolean, enum, array with `items`, object with `properties`, and null beside one of these. For anything else, "
        "send it as response_format={'type': 'json_schema', …}, and cut out what you need with parse_column."
    )

"""Any value under a hash: of a parameter, and of the code a stage reaches.

Equal values give equal hashes in any process. What has no content that can be read raises FingerprintError; nothing is
ever guessed from an address or a repr.
"""

from __future__ import annotations

import copyreg
import dis
import enum
import functools
import importlib.util
import re
import sys
import sysconfig
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, TypeAlias

import polars as pl

from agora_frames.errors import FingerprintError
from agora_frames.hashing import frame_hash, hash_bytes
from agora_frames.types import Backend

__all__ = ["fingerprint"]

# What is being read now, and all code that was read: by id, in order. Held, so that no id comes to mean another.
_Seen: TypeAlias = dict[int, object]

_PLAIN = (type(None), type(...), bool, int, float, complex, str, bytes)
_CODE = types.FunctionType | types.ModuleType | type
_SLOTS = types.GetSetDescriptorType | types.MemberDescriptorType
_HEAP_TYPE = 1 << 9  # the flag of a class that is not written in C
_LOADS = ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS")

# Members of a class that say where it stands, or that were derived from the others.
_NOT_CONTENT = re.compile(
    "__(annotations|annotations_cache|config|dict|doc|firstlineno|module|signature|slotnames|static_attributes|weakref)__"
    "|__pydantic_(core_schema|parent_namespace|serializer|validator)__|_abc_impl|_value2member_map_"
)
# Names of a module that say where it stands.
_PLACE = {"__builtins__", "__doc__", "__file__", "__loader__", "__name__", "__package__", "__path__", "__spec__"}

# The content of objects that pickle does not carry, or with more than it: the layout of the memory, an address, what
# was called before, what pandera's backends enter on first use.
_CONTENT: dict[str, Callable[[Any], tuple[object, ...]]] = {
    "builtins.classmethod": lambda v: (v.__func__, _without(vars(v), functools.WRAPPER_ASSIGNMENTS)),
    "builtins.method": lambda v: (v.__func__, v.__self__),
    "builtins.property": lambda v: (v.fget, v.fset, v.fdel),
    "builtins.staticmethod": lambda v: (v.__func__, _without(vars(v), functools.WRAPPER_ASSIGNMENTS)),
    "functools._lru_cache_wrapper": lambda v: (v.__wrapped__, v.cache_parameters()),
    "functools.cached_property": lambda v: (v.func,),
    "numpy.ndarray": lambda v: (str(v.dtype), v.shape, v.tolist() if v.dtype.hasobject else hash_bytes(v.tobytes())),
    "pandera.api.function_dispatch.Dispatcher": lambda v: (
        v.__name__,
        [function for function in vars(v)["_function_registry"].values() if not _known(function)],
    ),
    "pydantic._internal._decorators.Decorator": lambda v: (v.cls_var_name, v.func, v.info),
    "typing.ForwardRef": lambda v: (v.__forward_arg__,),
    "weakref.WeakKeyDictionary": lambda v: (),
}


def fingerprint(value: object) -> str:
    """32 hex digits of any value that a stage may be given, code included.

    Functions and classes of the user's own files count by what they do (byte code, constants, defaults,
    closures, and all of the user's own code that they reach), not by where they stand; what installed packages
    define counts by name and version. Objects count by what pickle would keep of them, backends by endpoint and
    model; an object with a `fingerprint` of its own (a string) counts by that, and one whose class has a method
    `__fingerprint__` by what that returns.

    Raises: FingerprintError for a value whose content cannot be read (an open file, a lock, a generator).
    """
    return _hash(value, {})


def _hash(value: object, seen: _Seen) -> str:
    return hash_bytes(*(part.encode() for part in _parts(value, seen)))


def _parts(value: Any, seen: _Seen) -> Iterator[str]:
    """The value as a stream of strings that differs whenever the value does."""
    kind = type(value)
    if kind in _PLAIN:  # and not a class of the user's that inherits from one: its repr may say anything
        yield f"{kind.__name__} {value!r}"
    elif id(value) in seen:
        yield f"again {list(seen).index(id(value))}"
    elif hook := getattr(kind, "__fingerprint__", None):
        # Hashed by itself, so that it counts the same whatever was read before; but it may stand in its own content.
        around = {i: outer for i, outer in seen.items() if hasattr(type(outer), "__fingerprint__")}
        yield f"{kind.__qualname__} {_hash(hook(value), {**around, id(value): value})}"
    elif isinstance(own := getattr(value, "fingerprint", None), str):
        yield f"{kind.__qualname__} {own}"
    elif isinstance(value, _CODE):
        seen[id(value)] = value
        yield kind.__name__
        yield from _of_code(value, seen)
    else:
        seen[id(value)] = value
        yield from _of_data(value, seen)
        del seen[id(value)]


def _of_data(value: Any, seen: _Seen) -> Iterator[str]:
    kind = type(value)
    if kind in (dict, types.MappingProxyType, list, tuple):
        yield kind.__name__
        for member in value.items() if isinstance(value, Mapping) else value:
            yield from _parts(member, seen)
        yield "end"
    elif kind in (set, frozenset):  # their order is another in each process
        yield from (kind.__name__, *sorted(_hash(member, dict(seen)) for member in value), "end")
    elif isinstance(value, pl.DataFrame | pl.Series | pl.Expr | pl.LazyFrame | pl.DataType):
        yield f"{kind.__name__} {_of_polars(value)}"
    elif isinstance(value, Backend) and isinstance(value.endpoint, str) and isinstance(value.model, str):
        yield from ("backend", value.endpoint, value.model)
    else:
        yield "object"
        yield from _parts(_content(value), seen)


def _of_polars(value: Any) -> str:
    if isinstance(value, pl.DataType):
        return repr(value)
    if isinstance(value, pl.DataFrame | pl.Series):
        return frame_hash(pl.DataFrame(value))
    if isinstance(value, pl.LazyFrame):
        raise FingerprintError(
            "a LazyFrame cannot be fingerprinted: what it will read is not known yet. Collect it first: lf.collect()."
        )
    written: bytes = value.meta.serialize()
    if b"PLPYFN" in written:  # Polars' mark of a pickled function, which says nothing of the code it reaches
        raise FingerprintError(
            f"an expression that calls a Python function cannot be fingerprinted: {value}. "
            "Give the function as a parameter of its own, and write the expression in the stage."
        )
    return hash_bytes(written)


def _content(value: Any) -> tuple[object, ...]:
    """What makes the value: its kind, and what it holds."""
    kind = type(value)
    if isinstance(value, set | frozenset):
        return kind, frozenset(value), getattr(value, "__dict__", None)
    if isinstance(value, enum.Enum):
        return kind, value.name, value._value_
    if content := _CONTENT.get(f"{kind.__module__}.{kind.__qualname__}"):
        return kind, *content(value)
    try:
        reduced: Any = copyreg.dispatch_table.get(kind, lambda v: v.__reduce_ex__(4))(value)  # type: ignore[no-untyped-call]
    except Exception as exc:
        raise FingerprintError(
            f"a value of type {kind.__module__}.{kind.__qualname__} cannot be fingerprinted: "
            "its content cannot be read. Pass plain values, frames, functions or frozen dataclasses, "
            "or give its class a `fingerprint` attribute (a string that changes when its effect does)."
        ) from exc
    if isinstance(reduced, str):  # what pickle finds by its name
        module = sys.modules.get(getattr(value, "__module__", None) or "")
        return kind.__name__, reduced, module and _known(module)
    make, args, state, members, items = (*reduced, None, None, None)[:5]
    if isinstance(state, dict):  # without what cached properties have left there
        cached = [name for name in state if isinstance(getattr(kind, name, None), functools.cached_property)]
        state = _without(state, cached) or None
    return make, args, state, list(members or ()), list(items or ())


def _without(values: Mapping[str, object], names: Sequence[str]) -> dict[str, object]:
    return {name: value for name, value in values.items() if name not in names}


def _of_code(value: Any, seen: _Seen) -> Iterator[str]:
    if known := _known(value):
        yield known
    elif isinstance(value, types.FunctionType):
        yield from _of_function(value, seen)
    elif isinstance(value, type):
        yield from _of_class(value, seen)
    else:  # a module of the user's own, by itself: all that it holds
        yield from _members(value, set(vars(value)), seen)


def _of_class(cls: type, seen: _Seen) -> Iterator[str]:
    yield cls.__name__
    annotations = vars(cls).get("__annotations__") or {}
    yield from _parts((type(cls), cls.__bases__, annotations), seen)
    for name, member in sorted(vars(cls).items()):
        if not _NOT_CONTENT.fullmatch(name) and not isinstance(member, _SLOTS):
            yield name
            yield from _parts(member, seen)
    yield "end"
    # Annotations that are still text are read when a schema is used: what of the user's own do they name?
    if "__pydantic_fields__" in vars(cls):  # which have been read
        return
    names = {name for text in annotations.values() if isinstance(text, str) for name in re.findall(r"[^\W\d]\w*", text)}
    namespace = vars(sys.modules[cls.__module__]) if cls.__module__ in sys.modules else {}
    for name in sorted(names & namespace.keys() - _PLACE):
        if not isinstance(namespace[name], _CODE) or not _known(namespace[name]):
            yield name
            yield from _parts(namespace[name], seen)


def _of_function(function: types.FunctionType, seen: _Seen) -> Iterator[str]:
    code = function.__code__
    steps = list(_steps(code))
    names = {step.argval for step in steps if step.opcode in dis.hasname}
    cells = zip(code.co_freevars, function.__closure__ or (), strict=True)
    bound = {name: cell.cell_contents for name, cell in cells if cell != types.CellType()}  # which would be empty
    yield function.__name__
    if _in_packages(code.co_filename):  # what a decorator or a factory of an installed package has made
        yield f"{code.co_qualname} {_version(str(function.__globals__.get('__name__')))}"
    else:
        yield from _of_steps(code, steps, seen)
        loaded = {step.argval for step in steps if step.opname in _LOADS} - _PLACE
        bound |= {name: function.__globals__[name] for name in loaded & function.__globals__.keys()}
        bound |= dict(_imports(steps, function.__globals__))
    yield from _parts((function.__defaults__, function.__kwdefaults__, vars(function)), seen)
    for name in sorted(bound):
        yield name
        try:
            yield from _reached(bound[name], names, seen)
        except FingerprintError as exc:
            exc.add_note(f"It is {name!r} in {function.__qualname__}().")
            raise
    yield "end"


def _reached(value: object, names: set[str], seen: _Seen) -> Iterator[str]:
    """The value; of a module of the user's own, those members that the code names too."""
    if not isinstance(value, types.ModuleType) or id(value) in seen or _known(value):
        yield from _parts(value, seen)
    else:
        seen[id(value)] = value
        yield from _members(value, names, seen)
        del seen[id(value)]


def _members(module: types.ModuleType, names: set[str], seen: _Seen) -> Iterator[str]:
    for name in sorted((names & vars(module).keys()) - _PLACE):
        yield name
        yield from _reached(vars(module)[name], names, seen)
    yield "end"


def _steps(code: types.CodeType) -> Iterator[dis.Instruction]:
    """The instructions; those of an inner function follow the one that makes it."""
    for step in dis.get_instructions(code):
        if step.opname != "EXTENDED_ARG":
            yield step
        if isinstance(step.argval, types.CodeType):
            yield from _steps(step.argval)


def _of_steps(code: types.CodeType, steps: list[dis.Instruction], seen: _Seen) -> Iterator[str]:
    """What the code does: neither where it stands, nor how its constants are laid out, nor its docstring."""
    yield _shape(code)
    for step in steps:
        yield step.opname
        if isinstance(step.argval, types.CodeType):
            yield _shape(step.argval)
        elif step.opcode in dis.hasconst:
            yield from _parts(step.argval, seen)
        else:
            yield repr(step.argval)


def _shape(code: types.CodeType) -> str:
    counts = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags)
    return f"{counts} {code.co_varnames} {code.co_freevars} {code.co_exceptiontable!r}"


def _imports(steps: list[dis.Instruction], namespace: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    """What import statements in a function bring; of an installed package, its version."""
    for level, members, step in zip(steps, steps[1:], steps[2:], strict=False):
        if step.opname == "IMPORT_NAME":
            try:
                name = importlib.util.resolve_name("." * level.argval + step.argval, namespace.get("__package__"))
                top = name.partition(".")[0]
                place = sys.modules.get(top) or importlib.util.find_spec(top)
                own = place is not None and not _is_installed(place)
                yield f"import {name}", __import__(name, fromlist=members.argval or ()) if own else _version(top)
            except ImportError:
                yield f"import {step.argval}", "missing"


def _known(value: Any) -> str | None:
    """Name and version of what an installed package defines; None for anything else."""
    if isinstance(value, types.ModuleType):
        return f"{value.__name__} {_version(value.__name__)}" if _is_installed(value) else None
    module: Any = sys.modules.get(value.__module__ or "")
    try:
        found = functools.reduce(getattr, value.__qualname__.split("."), module)
    except AttributeError:
        found = None
    if isinstance(value, type) and not value.__flags__ & _HEAP_TYPE:  # `types.FunctionType` has no name of its own
        found = value
    if found is value and _is_installed(module):
        return f"{value.__module__}.{value.__qualname__} {_version(value.__module__)}"
    return None


def _is_installed(module: Any) -> bool:
    """Is this module, or the spec of one, Python's or an installed package's, rather than the user's own?"""
    if getattr(module, "__name__", None) in ("__main__", "__mp_main__"):
        return False
    spec = getattr(module, "__spec__", None) or module
    file = getattr(module, "__file__", None) or getattr(spec, "origin", None)
    places = [file] if file else getattr(spec, "submodule_search_locations", None) or ()
    return file in ("built-in", "frozen") or any(_in_packages(place) for place in places)


@functools.cache
def _in_packages(file: str) -> bool:
    if file.startswith("<"):
        return file.startswith("<frozen ")
    if not {"site-packages", "dist-packages"}.isdisjoint(Path(file).parts):
        return True
    library = (Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib", "purelib", "platlib"))
    return any(Path(file).resolve().is_relative_to(place) for place in library)


@functools.cache
def _version(module: str) -> str:
    """The version of the distribution that brings the module (of all, where several share a name), or Python's."""
    top = module.partition(".")[0]
    if top in sys.stdlib_module_names:
        return f"python {sys.version_info.major}.{sys.version_info.minor}"
    try:
        return metadata.version(top)
    except metadata.PackageNotFoundError:
        bring_it = sorted(set(metadata.packages_distributions().get(top, ())))
        of_module = str(getattr(sys.modules.get(top), "__version__", "unversioned"))
        return " ".join(f"{name} {metadata.version(name)}" for name in bring_it) or of_module

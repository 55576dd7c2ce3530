"""A stage is a function from a DataFrame to a DataFrame; `@stage` lets it be run, piped or bound."""

from __future__ import annotations

import copyreg
import functools
import importlib
import inspect
import io
import pickle
import sys
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Concatenate, Generic, ParamSpec, overload

import cloudpickle  # type: ignore[import-untyped]
import polars as pl

from agora_frames.errors import BindError, FrameError, did_you_mean, listed
from agora_frames.fingerprint import fingerprint

__all__ = ["EFFECTS", "Stage", "StageFunction", "stage"]

P = ParamSpec("P")
Function = Callable[..., pl.DataFrame]

# Parameters that reach outside of the frame. A stage without one is deterministic and touches nothing.
EFFECTS = ("backend", "embedder", "scorer", "runner", "store", "ledger", "observer")
# Parameters that are told what happens, and change nothing in the frame.
_WATCHERS = ("observer", "on_step")
_BY_POSITION = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


@dataclass(frozen=True, eq=False, repr=False)
class Stage:
    """A function with all but its frame given: call it with a frame, or `df.pipe` it.

    name: what it is called in plans, stores and logs. fn: the plain function. params: every parameter,
    defaults included. version: raised by the author when the same parameters come to mean something else.
    rowwise: the result for some rows does not depend on the other rows, nor on their order.
    """

    name: str
    fn: Function
    params: Mapping[str, Any] = field(default_factory=dict)
    version: int = 1
    rowwise: bool = False

    def __call__(self, df: pl.DataFrame, /) -> pl.DataFrame:
        return checked(self.fn(checked(df, self.name, "was given"), **self.params), self.name, "returned")

    @property
    def fingerprint(self) -> str:
        """32 hex digits of name, version, parameters and the user's own code that the stage reaches."""
        return fingerprint(self)

    def __fingerprint__(self) -> tuple[object, ...]:
        params = {name: value for name, value in self.params.items() if name not in _WATCHERS}
        return self.name, self.version, params, self.fn

    @property
    def effects(self) -> tuple[str, ...]:
        """The parameters through which this stage, or one inside it, reaches outside of the frame."""
        own = [name for name in EFFECTS if self.params.get(name) is not None]
        held = self.params.get("stages", self.params.get("stage"))
        inner = [each for each in (held if isinstance(held, tuple) else (held,)) if isinstance(each, Stage)]
        return (*own, *(name for each in inner for name in each.effects))

    def __repr__(self) -> str:
        signature = inspect.signature(self.fn).parameters if self.params else {}
        defaults = {name: repr(p.default) for name, p in signature.items()}
        given = {name: repr(value) for name, value in self.params.items()}
        shown = [f"{name}={value}" for name, value in given.items() if value != defaults.get(name)]
        return f"{self.name}({', '.join(shown)})"

    def __reduce__(self) -> tuple[Any, ...]:
        return pickle.loads, (_dumped(self),)


class StageFunction(Generic[P]):
    """What `@stage` makes of a function: with a frame first it runs, without one it binds a Stage."""

    def __init__(self, fn: Callable[Concatenate[pl.DataFrame, P], pl.DataFrame], version: int, rowwise: bool) -> None:
        functools.update_wrapper(self, fn)
        self.fn: Function = fn
        self.version = version
        self.rowwise = rowwise
        self.name: str = fn.__name__
        self._parameters = _keyword_parameters(fn)

    @overload
    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> Stage: ...
    @overload
    def __call__(self, df: pl.DataFrame, /, *args: P.args, **kwargs: P.kwargs) -> pl.DataFrame: ...
    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        if len(args) > 1:
            raise BindError(
                f"{self.name}() takes the frame first and all else by name, but {len(args)} positional "
                f"values were given. Its parameters: {listed(self._parameters) or 'none but the frame'}."
            )
        bound = Stage(self.name, self.fn, self._bind(kwargs), self.version, self.rowwise)
        return bound(args[0]) if args else bound

    def _bind(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        for name in kwargs:
            if name not in self._parameters:
                raise BindError(
                    f"{self.name}() has no parameter {name!r}{did_you_mean(name, self._parameters) or '.'} "
                    f"It has: {listed(self._parameters) or 'none but the frame'}."
                )
        params = {name: kwargs.get(name, p.default) for name, p in self._parameters.items()}
        missing = [name for name, value in params.items() if value is inspect.Parameter.empty]
        if missing:
            raise BindError(f"{self.name}() needs {listed(missing)}: give it by name, {self.name}({missing[0]}=…).")
        return params

    def __get__(self, instance: object, owner: type | None = None) -> StageFunction[P]:
        return self  # a stage kept in a class is no method of it

    def __repr__(self) -> str:
        return f"<stage {self.name}{inspect.signature(self.fn)}>"

    def __fingerprint__(self) -> tuple[object, ...]:
        return self.name, self.version, self.fn

    def __reduce__(self) -> tuple[Any, ...]:
        return pickle.loads, (_dumped(self),)


def stage(
    *, rowwise: bool = False, version: int = 1
) -> Callable[[Callable[Concatenate[pl.DataFrame, P], pl.DataFrame]], StageFunction[P]]:
    """Makes a stage of a function `(df, *, …) -> DataFrame`: the frame first, all else by name.

    rowwise: promise that the result for a row depends on that row alone, so that
    `concat(f(a), f(b)) == f(concat(a, b))` for any split; it may then be run in parts.
    version: raise it when the same parameters come to mean something else.

    >>> @stage(rowwise=True)
    ... def add_length(df: pl.DataFrame, *, column: str, into: str = "n_chars") -> pl.DataFrame:
    ...     return df.with_columns(pl.col(column).str.len_chars().alias(into))
    >>> df = pl.DataFrame({"text": ["one", "three"]})
    >>> add_length(df, column="text")["n_chars"].to_list()        # runs
    [3, 5]
    >>> df.pipe(add_length, column="text").width                  # runs, notebook style
    2
    >>> add_length(column="text")                                 # binds
    add_length(column='text')
    """

    def decorate(fn: Callable[Concatenate[pl.DataFrame, P], pl.DataFrame]) -> StageFunction[P]:
        return StageFunction(fn, version, rowwise)

    return decorate


def checked(df: object, name: str, did: str) -> pl.DataFrame:
    """The value itself, if it is a DataFrame; `did` says in the error how it came."""
    if isinstance(df, pl.DataFrame):
        return df
    remedy = (
        "Collect it first: lf.collect()."
        if isinstance(df, pl.LazyFrame)
        else "A stage goes from a Polars DataFrame to a Polars DataFrame (pl.from_pandas turns a pandas one into it)."
    )
    raise FrameError(f"{name}() {did} a {type(df).__name__}. {remedy}")


def _keyword_parameters(fn: Function) -> dict[str, inspect.Parameter]:
    parameters = list(inspect.signature(fn).parameters.values())
    if not parameters or parameters[0].kind not in _BY_POSITION:
        raise BindError(f"{fn.__name__}() cannot be a stage: its first parameter must be the frame.")
    rest = parameters[1:]
    if loose := [p.name for p in rest if p.kind is not p.KEYWORD_ONLY]:
        raise BindError(
            f"{fn.__name__}() cannot be a stage: {listed(loose)} must be keyword-only "
            "(put a `*` after the frame), so that the whole call can be read, stored and compared."
        )
    return {p.name: p for p in rest}


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """How stages travel: by module and name; by value when written in `__main__`, a notebook or a function.

    One stream holds a stage with all that it reaches, so that stages may reach each other, and themselves.
    """

    def reducer_override(self, obj: Any) -> Any:
        made = _importable(obj) if isinstance(obj, types.FunctionType) else None
        if isinstance(made, StageFunction) and made.fn is obj:
            return getattr, (made, "fn")
        if isinstance(obj, StageFunction) and _importable(obj.fn) is obj:
            return _imported, (obj.fn.__module__, obj.fn.__qualname__)
        if isinstance(obj, Stage | StageFunction):
            return copyreg.__newobj__, (type(obj),), vars(obj)  # type: ignore[attr-defined]
        if isinstance(obj, classmethod | staticmethod):  # with what pandera sets on it: a schema keeps its checks
            return type(obj), (obj.__func__,), vars(obj)
        return super().reducer_override(obj)


def _dumped(stage: object) -> bytes:
    buffer = io.BytesIO()
    _Pickler(buffer).dump(stage)
    return buffer.getvalue()


def _imported(module: str, name: str) -> Any:
    return functools.reduce(getattr, name.split("."), importlib.import_module(module))


def _importable(obj: Any) -> object:
    """What another process will find under the name of `obj`; None when it finds nothing."""
    if obj.__module__ in (None, "__main__", "__mp_main__"):
        return None
    try:
        return functools.reduce(getattr, obj.__qualname__.split("."), sys.modules.get(obj.__module__))
    except AttributeError:
        return None

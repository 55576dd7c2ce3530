"""The one tree of errors; each says what was found, what was possible, and what to do.

    AgoraError
    ├── BindError          (TypeError)       a stage was given a parameter it does not have, or lacks one
    ├── FingerprintError   (TypeError)       a value has no content that can be hashed
    ├── FrameError         (ValueError)      a frame lacks a column, or has it in another type
    ├── TemplateError      (ValueError)      a template is wrong, or asks for what the frame does not have
    ├── InvalidRowsError   (ValueError)      rows break a schema and `on_invalid="raise"` was asked
    ├── ReadError          (ValueError)      a file is malformed
    ├── RecipeError        (ValueError)      a recipe cannot be found, or is not one
    ├── SandboxError       (RuntimeError)    code cannot be run, or not as safely as was asked
    ├── StorageError       (OSError)         a ledger, store or file cannot be written or read
    └── BackendError       (RuntimeError)    no request can be answered
        ├── MissingExtraError    (ImportError)      a package or its weights are not installed
        ├── AuthenticationError  (PermissionError)  the key is missing or was refused
        ├── UnknownModelError    (LookupError)      there is no such model
        ├── EndpointError        (ConnectionError)  nobody answers at that address
        └── OfflineError         (LookupError)      the network is forbidden and the ledger lacks calls

An error that concerns one row is never raised: it is written into that row (see `frames.ERROR`).
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

__all__ = [
    "AgoraError",
    "AuthenticationError",
    "BackendError",
    "BindError",
    "EndpointError",
    "FingerprintError",
    "FrameError",
    "InvalidRowsError",
    "MissingExtraError",
    "OfflineError",
    "ReadError",
    "RecipeError",
    "SandboxError",
    "StorageError",
    "TemplateError",
    "UnknownModelError",
    "did_you_mean",
    "listed",
]


class AgoraError(Exception):
    """The root of all errors that agora_frames raises on purpose."""


class BindError(AgoraError, TypeError):
    """A stage was given a parameter it does not have, or lacks one it needs."""


class FingerprintError(AgoraError, TypeError):
    """A value has no content that can be hashed, so nothing may be cached under it."""


class FrameError(AgoraError, ValueError):
    """A frame lacks a column that a stage reads, or has it in another type."""


class TemplateError(AgoraError, ValueError):
    """A template does not compile, or asks for a variable the frame does not have."""


class InvalidRowsError(AgoraError, ValueError):
    """Rows break the schema, and `validate(on_invalid="raise")` was asked."""


class ReadError(AgoraError, ValueError):
    """A file is malformed; the message names the line."""


class RecipeError(AgoraError, ValueError):
    """A recipe cannot be found, or the file is not a recipe."""


class SandboxError(AgoraError, RuntimeError):
    """Code cannot be run on this machine, or not as safely as was asked."""


class StorageError(AgoraError, OSError):
    """A ledger, a store or a file cannot be written or read."""


class BackendError(AgoraError, RuntimeError):
    """No request of this run can be answered."""


class MissingExtraError(BackendError, ImportError):
    """A package of an extra, or the weights of a model, are not installed."""


class AuthenticationError(BackendError, PermissionError):
    """The API key is missing or was refused."""


class UnknownModelError(BackendError, LookupError):
    """The endpoint has no such model, or no backend has that name."""


class EndpointError(BackendError, ConnectionError):
    """Nobody answers at that address."""


class OfflineError(BackendError, LookupError):
    """The network is forbidden, and the ledger lacks some of the replies."""


def did_you_mean(name: str, possible: Iterable[str]) -> str:
    """`; did you mean 'x'?` when something near `name` is possible, else an empty string."""
    near = get_close_matches(name, list(possible), n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else ""


def listed(names: Iterable[object], *, most: int = 12) -> str:
    """Names quoted and joined for a message; `…` stands for what is over `most`."""
    quoted = [repr(name) for name in names]
    return ", ".join(quoted[:most]) + (f", … ({len(quoted)} in all)" if len(quoted) > most else "")

"""A student's tokenizer by its name: of a file, or of a model on the Hugging Face hub at one commit."""

from __future__ import annotations

from pathlib import Path

from agora_frames.errors import BindError
from agora_frames.hub import hub_file
from agora_frames.stages.tokens import Tokenizer, tokenizer_file

__all__ = ["load_tokenizer"]


def load_tokenizer(
    name: str | Path, *, revision: str | None = None, endpoint: str | None = None, cache: str | Path | None = None
) -> Tokenizer:
    """The tokenizer of a `tokenizer.json`, for `count_tokens(tokenizer=…)`.

    name: a path of the file or of the folder that it is in, or a model's name on the hub, `owner/name`; with
    `@` and the commit, or with `revision`. endpoint, cache: another address of a hub, and another folder than
    `huggingface_hub` keeps files in.
    Raises: BindError for a name on the hub without its commit; ReadError and StorageError when it cannot be had.
    """
    path = Path(name)
    if path.is_dir():
        return tokenizer_file(path / "tokenizer.json")
    if path.is_file() or path.suffix == ".json":
        return tokenizer_file(path)
    repo, _, commit = str(name).partition("@")
    if not (revision := revision or commit):
        raise BindError(
            f"there is no file {str(name)!r}; and if it is a model's name on the hub, it needs a commit, "
            f"{repo}@ and 40 hex digits, so that it stays the same."
        )
    return tokenizer_file(hub_file(repo, "tokenizer.json", revision=revision, endpoint=endpoint, cache=cache))

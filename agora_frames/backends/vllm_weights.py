"""Which model it is: a name and the content of its folder, told without reading a hundred gigabytes."""

from __future__ import annotations

import os
import re
from pathlib import Path

import xxhash

from agora_frames.errors import UnknownModelError

__all__ = ["digest_of", "folder_of"]

_WHOLE = 32 << 20  # bytes: files up to this size are read whole
_SAMPLES, _SAMPLE = 64, 64 << 10  # of larger ones so many pieces of so many bytes
_HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
# What lies beside a model and has no say in what it answers.
_IGNORED = {".md", ".png", ".jpg", ".pdf", ".lock"}


def folder_of(name: str, *, revision: str | None = None) -> Path:
    """The folder of a model: `name` itself, or its snapshot in the cache of the Hugging Face hub.

    Nothing is downloaded. Raises: UnknownModelError when there is no such folder, or it holds no model.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise UnknownModelError(f"vllm: the folder {name!r} has no config.json, so it is no model of transformers.")
        return path
    cached = _hub() / f"models--{name.replace('/', '--')}"
    commit = cached / "refs" / (revision or "main")
    snapshot = cached / "snapshots" / (commit.read_text().strip() if commit.is_file() else revision or "main")
    if (snapshot / "config.json").is_file():
        return snapshot
    if not _HUB_NAME.fullmatch(name):
        raise UnknownModelError(
            f"vllm: there is no folder {name!r}. Give the path of a folder with config.json and weights, or the name "
            "of a model in the cache of the hub, such as 'ORG/NAME'."
        )
    raise UnknownModelError(
        f"vllm: there is no folder {name!r}, and the cache {str(_hub())!r} has no model of that name"
        f"{f' at revision {revision!r}' if revision else ''}. Nothing is downloaded by itself: give the path of a "
        f"folder with config.json and weights, or fetch it first with `hf download {name}`."
    )


def _hub() -> Path:
    """Where huggingface_hub keeps what it downloaded."""
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "huggingface"
    return Path(os.environ.get("HF_HUB_CACHE") or Path(home) / "hub").expanduser()


def digest_of(folder: Path) -> str:
    """16 hex digits of the content of a model's folder, or of an adapter's.

    Small files (configuration, tokenizer, chat template) count whole. Of each file of weights its size and 64 pieces
    of 64 KiB count, spread evenly from its head, which lists the tensors, to its end: 4 MiB instead of gigabytes.
    Training changes nearly every weight, so it changes the pieces; an edit by hand of a few bytes between them is not
    seen.
    """
    digest = xxhash.xxh3_64()
    for path in sorted(folder.iterdir()):
        if not path.is_file() or path.suffix in _IGNORED or path.name.startswith("."):
            continue
        size = path.stat().st_size
        digest.update(f"{path.name}\0{size}\0".encode())
        with path.open("rb") as file:
            if size <= _WHOLE:
                digest.update(file.read())
                continue
            for n in range(_SAMPLES):
                file.seek((size - _SAMPLE) * n // (_SAMPLES - 1))
                digest.update(file.read(_SAMPLE))
    return digest.hexdigest()

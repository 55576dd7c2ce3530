"""A text file that a user named: its content, or an error that says what is there."""

from __future__ import annotations

from pathlib import Path

from agora_frames.errors import AgoraError, did_you_mean, listed

__all__ = ["file_text"]


def file_text(path: Path, *, what: str, error: type[AgoraError]) -> str:
    """The whole file, as UTF-8. what: it is meant to be, for messages, such as `template`.

    Raises: `error` when there is no such file, with the nearest one that is there, or when it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as exc:
        there = sorted(p.name for p in path.parent.glob("*")) if path.parent.is_dir() else []
        near = did_you_mean(path.name, there) or "."
        raise error(f"there is no {what} file {str(path)!r}{near} In its folder: {listed(there)}.") from exc
    except (OSError, UnicodeDecodeError) as exc:
        raise error(f"the {what} file {str(path)!r} cannot be read: {exc}") from exc

"""Where the files of a ledger lie: in a local folder, or under a prefix on an object store."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol
from uuid import uuid4

from agora_frames.errors import StorageError
from agora_frames.formats import why
from agora_frames.io import located

__all__ = ["File", "Folder", "Place", "Prefix", "place_of", "without_secrets"]

# So much is fetched from an object store at once.
_BATCH_FILES, _BATCH_BYTES = 32, 32 << 20


class File(NamedTuple):
    """A file of a ledger: its name, and its size in bytes."""

    name: str
    size: int


class Place(Protocol):
    """A flat set of files that are read whole, replaced whole, and named so that the oldest comes first."""

    @property
    def shown(self) -> str:
        """Its name for people, without secrets."""
        ...

    def files(self) -> list[File]:
        """All files, by name; none where there is no such place. Raises: StorageError when it cannot be read."""
        ...

    def opened(self, files: Sequence[File]) -> Iterator[tuple[str, BinaryIO]]:
        """Each file, open. Raises: FileNotFoundError when one is gone, StorageError when it cannot be read."""
        ...

    def whole(self, name: str) -> str | bytes:
        """The path of a file on this machine, or its content. Raises as `opened` does."""
        ...

    def temporary(self) -> Path:
        """The name of a local file, not there yet, for `put`."""
        ...

    def put(self, name: str, temporary: Path) -> None:
        """The temporary file becomes the file of that name, durably and at once."""
        ...

    def remove(self, name: str) -> None:
        """Deletes a file, if it is still there."""
        ...


@dataclass(frozen=True)
class Folder:
    """A local folder."""

    path: Path

    @property
    def shown(self) -> str:
        return str(self.path)

    def files(self) -> list[File]:
        found = []
        try:
            with os.scandir(self.path) as entries:
                for entry in entries:
                    with contextlib.suppress(FileNotFoundError):  # gone between the two calls
                        found.append(File(entry.name, entry.stat().st_size))
        except FileNotFoundError:
            return []
        except OSError as exc:
            raise _unreadable("folder", str(self.path), exc) from exc
        return sorted(found)

    def opened(self, files: Sequence[File]) -> Iterator[tuple[str, BinaryIO]]:
        for file in files:
            try:
                with (self.path / file.name).open("rb") as content:
                    yield file.name, content
            except FileNotFoundError:
                raise
            except OSError as exc:
                raise _unreadable("segment", str(self.path / file.name), exc) from exc

    def whole(self, name: str) -> str:
        for _ in self.opened([File(name, 0)]):
            pass
        return str(self.path / name)

    def temporary(self) -> Path:
        return self.path / f".{uuid4().hex}.tmp"

    def put(self, name: str, temporary: Path) -> None:
        for path in (temporary, self.path):  # the content, and after the renaming the folder
            if path == self.path:
                temporary.replace(self.path / name)
            file = os.open(path, os.O_RDONLY)
            try:
                os.fsync(file)
            finally:
                os.close(file)

    def remove(self, name: str) -> None:
        (self.path / name).unlink(missing_ok=True)


@dataclass(frozen=True)
class Prefix:
    """A prefix on an object store, by fsspec."""

    fs: Any
    root: str
    shown: str

    def files(self) -> list[File]:
        try:
            self.fs.invalidate_cache()  # another process may have written since
            found = self.fs.ls(self.root, detail=True)
        except FileNotFoundError:
            return []
        except Exception as exc:  # each kind of store raises errors of its own
            raise _unreadable("prefix", self.shown, exc) from exc
        files = (File(each["name"].rpartition("/")[2], each["size"] or 0) for each in found if each["type"] == "file")
        return sorted(file for file in files if file.name)

    def opened(self, files: Sequence[File]) -> Iterator[tuple[str, BinaryIO]]:
        for batch in _batches(files):
            paths = [self._at(file.name) for file in batch]
            try:
                got = self.fs.cat(paths, on_error="return")
            except Exception as exc:
                raise _unreadable("prefix", self.shown, exc) from exc
            for path in paths:
                yield path.rpartition("/")[2], BytesIO(self._checked(got.get(path, FileNotFoundError(path)), path))

    def _checked(self, got: bytes | Exception, path: str) -> bytes:
        if isinstance(got, FileNotFoundError):
            raise got
        if isinstance(got, Exception):
            raise _unreadable("segment", f"{self.shown}/{path.rpartition('/')[2]}", got) from got
        return got

    def whole(self, name: str) -> bytes:
        content: bytes
        _, file = next(self.opened([File(name, 0)]))
        content = file.read()
        return content

    def temporary(self) -> Path:
        return Path(tempfile.gettempdir()) / f"agora-{uuid4().hex}.tmp"

    def put(self, name: str, temporary: Path) -> None:
        self.fs.put_file(str(temporary), self._at(name))
        temporary.unlink()

    def write(self, name: str, content: bytes) -> None:
        """One put: the whole object, or none."""
        self.fs.pipe_file(self._at(name), content)

    def remove(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self.fs.rm_file(self._at(name))

    def _at(self, name: str) -> str:
        return f"{self.root}/{name}"


def place_of(url: str) -> Folder | Prefix:
    """The place that a path (from the working directory of now on) or an fsspec URL names; nothing is read yet.

    Raises: StorageError when it names none.
    """
    if not url.strip() or url == "." or (":/" in url and "://" not in url and not Path(url).exists()):
        raise StorageError(
            f"the ledger {url!r} is no folder. Give the path of one, such as .agora/ledger, or an fsspec URL as a "
            "text, such as s3://bucket/ledger."
        )
    if "://" not in url:
        return Folder(Path(url).expanduser().absolute())
    if url.startswith("file://"):
        return Folder(Path(url.removeprefix("file://")).absolute())
    fs, root = located(url)
    return Prefix(fs, root.rstrip("/"), without_secrets(url).rstrip("/"))


def without_secrets(url: str) -> str:
    """The URL without a user and password (`ftp://name:word@host/…`), and without a query; a path as it is."""
    if "://" not in url:
        return url
    scheme, _, rest = url.partition("?")[0].rpartition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"


def _batches(files: Sequence[File]) -> Iterator[list[File]]:
    batch: list[File] = []
    for file in files:
        if batch and (len(batch) == _BATCH_FILES or sum(each.size for each in batch) + file.size > _BATCH_BYTES):
            yield batch
            batch = []
        batch.append(file)
    if batch:
        yield batch


def _unreadable(what: str, name: str, exc: Exception) -> StorageError:
    said = exc.strerror if isinstance(exc, OSError) and exc.strerror else why(exc)
    return StorageError(
        f"the ledger {what} {name!r} cannot be read: {said}. It may hold replies that were paid for, "
        "so nothing was asked. Mend its permissions, or move it away."
    )

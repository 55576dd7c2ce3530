"""The Hugging Face hub: a file of a model at one commit, and a folder uploaded as a data set."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import polars as pl

from agora_frames.errors import AuthenticationError, BindError, EndpointError, StorageError, listed

__all__ = ["UPLOAD", "check_repo", "hub_file", "push_folder", "upload_plan"]

# What an upload would send.
UPLOAD = pl.Schema({"file": pl.String(), "bytes": pl.Int64(), "sha256": pl.String()})

_COMMIT = re.compile(r"[0-9a-f]{40}")
_REPO = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)


def hub_file(
    repo: str, file: str, *, revision: str, endpoint: str | None = None, cache: str | Path | None = None
) -> Path:
    """A file of a model on the hub, downloaded once and kept in a folder: `cache`, or that of `huggingface_hub`.

    revision: the commit's 40 hex digits. A branch moves, and what is made by it could not be made again.
    endpoint: another address of a hub. The key of a gated model is taken from HF_TOKEN, by `huggingface_hub` itself.
    Raises: BindError when the revision is no commit; StorageError when the file cannot be had.
    """
    if not _COMMIT.fullmatch(revision):
        raise BindError(
            f"the revision {revision!r} of {repo!r} is no commit: give its 40 hex digits, which stand on the model's "
            "page under 'Files', so that it stays the same."
        )
    import huggingface_hub

    try:
        found = huggingface_hub.hf_hub_download(repo, file, revision=revision, endpoint=endpoint, cache_dir=cache)
    except Exception as exc:  # errors of the hub, of HTTP and of the disk
        raise StorageError(
            f"{file!r} of {repo!r} at {revision} cannot be had: {_first_line(exc)}. See that the name is right, that "
            "the hub can be reached, and, of a gated model, that HF_TOKEN is set; or give the path of a file."
        ) from exc
    return Path(str(found))


def upload_plan(folder: str | Path) -> pl.DataFrame:
    """What `push_folder` would send of a folder: each file, its size and its hash; nothing is sent.

    Hidden files and links are left out. Raises: StorageError when it is no data set's folder (see
    `export_dataset(form="folder")`).
    """
    folder = Path(folder)
    if not (folder / "README.md").is_file():
        there = sorted(path.name for path in folder.glob("*")) if folder.is_dir() else []
        raise StorageError(
            f"{str(folder)!r} is no folder of a data set: it has no README.md, its data card. It has: "
            f"{listed(there) or 'nothing'}. Make one with `agora export DATASET --format folder`."
        )
    files = [path for path in sorted(folder.rglob("*")) if _is_sent(path, folder)]
    if not any(path.suffix == ".parquet" for path in files):
        raise StorageError(f"{str(folder)!r} has a data card, but no .parquet file: there is no data to upload.")
    rows = [
        (path.relative_to(folder).as_posix(), len(data), hashlib.sha256(data).hexdigest())
        for path in files
        for data in (path.read_bytes(),)
    ]
    return pl.DataFrame(rows, schema=UPLOAD, orient="row")


def push_folder(
    folder: str | Path,
    repo: str,
    *,
    token: str,
    private: bool = True,
    message: str = "Upload a dataset made with agora_frames",
    endpoint: str | None = None,
) -> str:
    """Uploads a folder as a data set, in one commit; gives its address.

    repo: `owner/name`; made when there is none, private unless said otherwise. What is there already and not in the
    folder stays. token: with the right to write; it goes nowhere but to the endpoint.
    Raises: BindError for a name that is none; AuthenticationError when the key is refused; EndpointError for all else.
    """
    check_repo(repo)
    if not token:
        raise AuthenticationError("uploading needs a key that may write: token=…, such as os.environ['HF_TOKEN'].")
    planned = upload_plan(folder)["file"].to_list()
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError

    api = huggingface_hub.HfApi(endpoint=endpoint, token=token)
    sent = [huggingface_hub.CommitOperationAdd(name, Path(folder) / name) for name in planned]
    try:
        api.create_repo(repo, repo_type="dataset", private=private, exist_ok=True)
        done = api.create_commit(repo, sent, commit_message=message, repo_type="dataset")
    except Exception as exc:
        said = _first_line(exc).replace(token, "***")
        status = exc.response.status_code if isinstance(exc, HfHubHTTPError) and exc.response is not None else None
        if status in (401, 403):
            raise AuthenticationError(
                f"the hub refused the key for {repo!r}: {said}. Give HF_TOKEN one that may write there."
            ) from None
        # Without the cause: its request holds the key.
        raise EndpointError(f"{repo!r} could not be uploaded: {said}. Nothing was committed.") from None
    return str(done.repo_url)


def check_repo(repo: str) -> None:
    """Raises: BindError when `repo` does not read owner/name."""
    if not _REPO.fullmatch(repo):
        raise BindError(f"the data set {repo!r} must read owner/name, such as my-lab/agora-math.")


def _is_sent(path: Path, folder: Path) -> bool:
    hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
    return path.is_file() and not path.is_symlink() and not hidden


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).strip().split("\n")[0].rstrip(".")

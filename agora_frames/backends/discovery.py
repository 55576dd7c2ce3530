"""The name of the model that an OpenAI-compatible endpoint has, where there is just one."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from typing import Any

from agora_frames.errors import AuthenticationError, EndpointError, UnknownModelError, listed

__all__ = ["only_model"]

_WITHIN_S = 30.0


def only_model(endpoint: str, *, api_key: str = "", variable: str = "AGORA_API_KEY") -> str:
    """The one model that `{endpoint}/models` lists.

    Raises: UnknownModelError when it lists none or several, or nothing that can be read; EndpointError when nobody
    answers; AuthenticationError when the key is refused (the environment's `variable`).
    """
    names = _names(endpoint, api_key, variable)
    if len(names) == 1:
        return names[0]
    found = f"several models: {listed(names, most=50)}" if names else "no model"
    raise UnknownModelError(f"{endpoint}/models lists {found}. Say which: connect({endpoint!r}, model='…').")


def _names(endpoint: str, api_key: str, variable: str) -> list[str]:
    asked = urllib.request.Request(f"{endpoint}/models")
    if api_key:  # for this address alone, wherever it sends us
        asked.add_unredirected_header("Authorization", f"Bearer {api_key}")
    try:
        with urllib.request.urlopen(asked, timeout=_WITHIN_S) as answer:
            content = answer.read()
    except urllib.error.HTTPError as exc:
        if exc.code in (401, 403):
            raise AuthenticationError(
                f"{endpoint} refused the API key ({exc.code}). Set a valid key, export {variable}=…."
            ) from exc
        raise UnknownModelError(
            f"{endpoint}/models answered {exc.code}, so the model's name is not known. "
            f"Give it: connect({endpoint!r}, model='…')."
        ) from exc
    except (OSError, http.client.HTTPException) as exc:
        raise EndpointError(
            f"nobody answers at {endpoint} ({getattr(exc, 'reason', None) or exc}). Is the server running, and the "
            "address right?"
        ) from exc
    try:
        told: Any = json.loads(content)["data"]
        return [str(each["id"]) for each in told]
    except (ValueError, KeyError, TypeError) as exc:
        raise UnknownModelError(
            f"{endpoint}/models answered what is no list of models. Is this the address of an OpenAI-compatible API, "
            f"which mostly ends in /v1? Or give the name: connect({endpoint!r}, model='…')."
        ) from exc

"""The options by which a command is told of its model, its ledger and its limits; and the backend that they mean."""

from __future__ import annotations

import argparse
from ast import literal_eval
from collections.abc import Iterable
from typing import Any

from agora_frames.backends import connect
from agora_frames.errors import BindError
from agora_frames.ledger import Ledger
from agora_frames.remembered import Remembered

__all__ = ["add_backend_options", "add_limit_options", "connected", "named_values"]


def add_backend_options(group: argparse._ActionsContainer) -> None:
    """Which model."""
    add = group.add_argument
    add("--backend", default="llama:smollm2-135m", help="the model: see `connect` (%(default)s)")
    add("--model", help="its name, when --backend is a URL")
    add(
        "--backend-option", action="append", default=[], metavar="NAME=VALUE", help="such as concurrency=64; repeatable"
    )


def add_limit_options(group: argparse._ActionsContainer) -> None:
    """How much may be asked."""
    add = group.add_argument
    add("--max-cost", type=float, metavar="DOLLARS", help="ask nothing that could make the calls cost more than this")
    add("--max-tokens-total", type=int, metavar="TOKENS", help="the same in tokens of prompts and replies together")
    add("--offline", action="store_true", help="call nothing: use the ledger, and list the replies it lacks")


def connected(args: argparse.Namespace, *, recipe: str, run: str | None) -> Remembered:
    """The backend that the options mean, with its ledger.

    Raises: BindError when an option does not read NAME=VALUE, or holds an API key.
    """
    options = {} if args.model is None else {"model": args.model}
    for name, value in named_values("--backend-option", args.backend_option, such_as="concurrency=64"):
        if name == "api_key":
            raise BindError(
                "an API key does not belong on the command line, where others see it. Set it in the environment: "
                "OPENAI_API_KEY for OpenAI, AGORA_API_KEY for other endpoints."
            )
        options[name] = value
    ledger = Ledger(args.ledger, recipe=recipe, run=run)
    limits = {"max_cost": args.max_cost, "max_tokens_total": args.max_tokens_total}
    return connect(args.backend, ledger=ledger, offline=args.offline, **limits, **options)


def named_values(option: str, given: Iterable[str], *, such_as: str, as_text: bool = False) -> list[tuple[str, Any]]:
    """What stands in NAME=VALUE, with the value as Python reads it, or else as a text; `-` in a name is `_`.

    as_text: the value is the text that it is.

    >>> named_values("--option", ["subset=full", "wrong=()", "top-p=0.5"], such_as="a=1")
    [('subset', 'full'), ('wrong', ()), ('top_p', 0.5)]
    """
    pairs = []
    for each in given:
        name, equals, value = each.partition("=")
        if not equals or not name.strip():
            raise BindError(f"{option} {each!r} must read NAME=VALUE, such as {such_as}.")
        pairs.append((name.strip().replace("-", "_"), value if as_text else _value(value)))
    return pairs


def _value(text: str) -> Any:
    try:
        return literal_eval(text)
    except (ValueError, SyntaxError):
        return text

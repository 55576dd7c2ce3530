"""What a judge of two answers may say, and what it is worth: how far the second is preferred, and with which weight.

Each gives three values: `label` (what was said), `share` (0: the answer shown first is better, 1: the one shown second,
0.5: neither), `weight` (how much it counts).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, runtime_checkable

from agora_frames.errors import BindError, listed

__all__ = ["TokenParser", "Verdict", "first_token", "one_word", "verdict_label"]

Verdict: TypeAlias = tuple[str, float, float]

# What a judge may say between double brackets, and what it means; a strong verdict counts three times.
# Source: lmarena/arena-hard-auto, show_result.py and config/judge_config.yaml (arena-hard-v0.1).
_LABELS: dict[str, tuple[float, float]] = {
    "A>>B": (0.0, 3.0),
    "A>B": (0.0, 1.0),
    "A=B": (0.5, 1.0),
    "B>A": (1.0, 1.0),
    "B>>A": (1.0, 3.0),
}


@runtime_checkable
class TokenParser(Protocol):
    """A parser that reads the probabilities of a reply's tokens, and not its text."""

    def of_tokens(self, tokens: Sequence[Mapping[str, Any]]) -> Verdict:
        """The verdict of a reply with these tokens (see `frames.LOGPROBS`); a ValueError says why there is none."""
        ...


@dataclass(frozen=True, repr=False)
class _VerdictLabel:
    strong: float

    def __call__(self, text: str) -> Verdict:
        found = sorted(set(_labels(text)))
        if len(found) != 1:
            raise ValueError(f"{_wanted()}, found {listed(found) or 'none'}")
        if found[0] not in _LABELS:
            raise ValueError(f"{_wanted()}, and {found[0]!r} is none of them")
        share, weight = _LABELS[found[0]]
        return found[0], share, self.strong if weight > 1 else weight

    def is_silent(self, text: str) -> bool:
        """Whether a text says nothing yet: only then is the judge asked to finish."""
        return not _labels(text)

    @property
    def fingerprint(self) -> str:
        return f"{self!r} v1"

    def __repr__(self) -> str:
        return f"verdict_label(strong={self.strong})"


def verdict_label(*, strong: float = 3.0) -> _VerdictLabel:
    """The one label among `[[A>>B]]`, `[[A>B]]`, `[[A=B]]`, `[[B>A]]`, `[[B>>A]]` in a text; it may stand there twice.

    strong: the weight of a verdict with `>>`; all others weigh 1.
    Unparsed: no label, several different ones, or one that is none of the five (`[[A<B]]`, `[[A]]`).
    Source: the rule of Arena-Hard v0.1, lmarena/arena-hard-auto, gen_judgment.py, at 01109e9.

    >>> verdict_label()("Both are right, but B says why. My final verdict is: [[B>>A]]")
    ('B>>A', 1.0, 3.0)
    """
    if not isinstance(strong, int | float) or not 0 < strong < math.inf:
        raise BindError(f"verdict_label(strong={strong!r}): it must be a weight above 0.")
    return _VerdictLabel(float(strong))


@dataclass(frozen=True, repr=False)
class _FirstToken:
    first: str
    second: str
    least: float

    def of_tokens(self, tokens: Sequence[Mapping[str, Any]]) -> Verdict:
        if not tokens:
            raise ValueError("the reply has no token")
        said = tokens[0]
        likeliest = {said["token"]: said["logprob"]} | {t["token"]: t["logprob"] for t in said["top"] or ()}
        first, second = (_or_never(likeliest.get(token)) for token in (self.first, self.second))
        if first == second == -math.inf:
            raise ValueError(f"neither {self.first!r} nor {self.second!r} is among {listed(likeliest)}")
        if (known := math.exp(min(first, 0)) + math.exp(min(second, 0))) < self.least:
            raise ValueError(
                f"{self.first!r} and {self.second!r} have {known:.2g} of the probability together, which is less than "
                f"{self.least}: the reply begins with {said['token']!r}"
            )
        return said["token"], _share(second - first), 1.0

    @property
    def fingerprint(self) -> str:
        return f"{self!r} v1"

    def __call__(self, text: str) -> Verdict:
        raise ValueError(f"{self!r} reads the probabilities of tokens, not a text")

    def __repr__(self) -> str:
        return f"first_token({self.first!r}, {self.second!r}, least={self.least})"


def first_token(first: str, second: str, *, least: float = 0.1) -> _FirstToken:
    """How the probability of a reply's first token is shared between two tokens that name the answers.

    share: e^s / (e^f + e^s), of the log probabilities of the two. A token that is not among those that the endpoint
    told counts as impossible. Needs `logprobs` in the judge's sampling.
    least: the probability that the two must have together. A model that means to say something else still has some for
    each letter, and its ratio says nothing of the answers; 0 is the official rule, which takes any.
    Unread: neither of the two was told, or both are too unlikely.
    Source: AlpacaEval 2.0, tatsu-lab/alpaca_eval at cd543a1, completion_parsers.py (`logprob_parser`).

    >>> token = {"token": "M", "logprob": -0.1, "top": [{"token": "m", "logprob": -3.1}]}
    >>> label, share, weight = first_token("m", "M").of_tokens([token])
    >>> (label, round(share, 4), weight)
    ('M', 0.9526, 1.0)
    """
    if not isinstance(least, int | float) or not 0 <= least <= 1:
        raise BindError(f"first_token(least={least!r}): it must be a probability, 0 to 1.")
    return _FirstToken(*_two(first, second, "first_token"), float(least))


@dataclass(frozen=True, repr=False)
class _OneWord:
    first: str
    second: str

    def __call__(self, text: str) -> Verdict:
        said = text.strip()
        if said not in (self.first, self.second):
            raise ValueError(f"wanted {self.first!r} or {self.second!r} alone, found {said!r:.40}")
        return said, float(said == self.second), 1.0

    @property
    def fingerprint(self) -> str:
        return f"{self!r} v1"

    def __repr__(self) -> str:
        return f"one_word({self.first!r}, {self.second!r})"


def one_word(first: str, second: str) -> _OneWord:
    """Which of two words the whole reply is, white space around it aside: all or nothing.

    >>> one_word("m", "M")(" M\\n")
    ('M', 1.0, 1.0)
    """
    return _OneWord(*_two(first, second, "one_word"))


def _labels(text: str) -> list[str]:
    """Source of the pattern: lmarena/arena-hard-auto, config/judge_config.yaml."""
    return re.findall(r"\[\[([AB<>=]+)\]\]", text)


def _wanted() -> str:
    return f"wanted one verdict of {', '.join(f'[[{label}]]' for label in _LABELS)}"


def _share(difference: float) -> float:
    """1 / (1 + e^-difference), without overflow."""
    small = math.exp(-abs(difference))
    return 1 / (1 + small) if difference >= 0 else small / (1 + small)


def _or_never(logprob: float | None) -> float:
    return -math.inf if logprob is None else logprob


def _two(first: object, second: object, parser: str) -> tuple[str, str]:
    if not (isinstance(first, str) and isinstance(second, str) and first and second and first != second):
        raise BindError(f"{parser}({first!r}, {second!r}): it needs two different texts, one for each answer.")
    return first, second

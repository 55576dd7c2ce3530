"""Parsers that cut a number out of a text, in one plain form, so that equal numbers are equal texts."""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass

from agora_frames.errors import BindError

__all__ = ["last_number", "number_after"]

# A sign counts where no operand stands before it (`10-5` ends with 5), also before or after a currency (`-$5`).
_SIGN = r"(?P<sign>(?:(?<![\w)\]}])[-−+] ?)?)(?:\\?[$€£¥] ?(?P<inner>[-−]?))?"
# Thousands in groups of three, or digits alone; a fraction that may lack its whole part; a power of ten.
_DIGITS = r"(?P<digits>(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|(?<![\w.])\.\d+)"
_NUMBER = rf"{_SIGN}{_DIGITS}(?:[eE](?P<power>[-+]?\d{{1,2}})(?![\w.]))?"
# What may stand between a marker and its number: white space, emphasis, TeX's way into a formula.
_LEAD = r"[\s*_=:`({\[]*(?:\\[(\[])?\$?\s*"
# TeX writes thousands as 1{,}000 and 1\,000; both stand for the comma here.
_TEX_COMMA = re.compile(r"(?<=\d)(?:\{,\}|\\,|\\!,)(?=\d{3})")
_LONGEST = 100
_TAIL = 10_000


@dataclass(frozen=True, repr=False)
class _LastNumber:
    def __call__(self, text: str) -> str:
        if (found := _last(_NUMBER, text)) is None:
            raise ValueError("there is no number in the text")
        return _plain(found)

    def __repr__(self) -> str:
        return "last_number()"


@dataclass(frozen=True, repr=False)
class _NumberAfter:
    markers: tuple[str, ...]

    def __call__(self, text: str) -> str:
        markers = "|".join(map(re.escape, self.markers))
        if (found := _last(rf"(?:{markers}){_LEAD}{_NUMBER}", text)) is None:
            raise ValueError(f"no number comes right after {' or '.join(map(repr, self.markers))}")
        return _plain(found)

    def __repr__(self) -> str:
        return f"number_after({', '.join(map(repr, self.markers))})"


def last_number() -> _LastNumber:
    """The last number in the text, whatever stands around it: `1,234.50 dollars`, `-$5`, `25%`, `1{,}000`.

    It comes in plain form: no commas, no plus, no zeros in front or at the end of a fraction; `1.5e3` is `1500`.
    Unparsed: there is none, or it is longer than 100 digits.

    >>> last_number()("They paid $1,250.00 in all.")
    '1250'
    """
    return _LastNumber()


def number_after(*markers: str) -> _NumberAfter:
    """The number right after the last of the markers that one follows, in the plain form of `last_number`.

    Only white space, emphasis, a currency or TeX's `$` may stand between them.
    Unparsed: no marker is followed by a number.

    >>> number_after("####")("48 / 2 = 24, so #### 72 clips of 80")
    '72'
    """
    if not markers or not all(isinstance(marker, str) and marker.strip() for marker in markers):
        raise BindError(f"number_after() needs texts to look for, such as '####', and was given {markers!r}.")
    return _NumberAfter(tuple(marker.strip() for marker in markers))


def _last(pattern: str, text: str) -> re.Match[str] | None:
    """The last match, looked for at the end of the text before it is in all of it."""
    for tail in (text[-_TAIL:], text):
        matches = re.finditer(pattern, _TEX_COMMA.sub(",", tail), re.ASCII)
        found = next(iter(deque(matches, maxlen=1)), None)
        # What begins at the very start of the tail may be the end of something longer.
        if found is not None and (found.start() > 2 * _LONGEST or len(tail) == len(text)):
            return found
    return None


def _plain(found: re.Match[str]) -> str:
    digits, power = found["digits"].replace(",", ""), int(found["power"] or 0)
    whole, _, fraction = digits.partition(".")
    if len(digits) > _LONGEST:
        raise ValueError(f"the number {digits[:20]}… has {len(digits)} digits, and no answer is that long")
    if power > 0:
        fraction = fraction.ljust(power, "0")
        whole, fraction = whole + fraction[:power], fraction[power:]
    elif power < 0:
        whole = whole.rjust(-power, "0")
        whole, fraction = whole[:power], whole[power:] + fraction
    whole, fraction = whole.lstrip("0") or "0", fraction.rstrip("0")
    value = f"{whole}.{fraction}" if fraction else whole
    negative = any(sign in ("-", "−") for sign in (found["sign"].strip(), found["inner"]))
    return f"-{value}" if negative and value != "0" else value

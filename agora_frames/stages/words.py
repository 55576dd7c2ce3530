"""Texts as sequences of words: what duplicates and overlaps are looked for in."""

from __future__ import annotations

import re
import unicodedata

__all__ = ["normalised", "shingles", "words"]

_WORD = re.compile(r"\w+")
_WORD_OR_SIGN = re.compile(r"\w+|[^\w\s]")


def normalised(text: str) -> str:
    """The same for texts that differ in upper and lower case, white space or the form of Unicode alone.

    >>> normalised(" Two\\n words ") == normalised("two WORDS")
    True
    """
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def words(text: str) -> list[str]:
    """The words and numbers of a text, in order; case, signs and white space do not count."""
    return _WORD.findall(normalised(text))


def shingles(text: str, n: int) -> set[str]:
    """The runs of `n` words or signs of a text; of a shorter text, itself.

    Signs count: in mathematics and code they are the difference.

    >>> sorted(shingles("a + b - c", 3))
    ['+ b -', 'a + b', 'b - c']
    """
    parts = _WORD_OR_SIGN.findall(normalised(text))
    return {" ".join(parts[i : i + n]) for i in range(max(1, len(parts) - n + 1))}

"""The themes and first words that instances are drawn for, from the files beside this one."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import polars as pl

__all__ = ["ListName", "first_words", "themes"]

_HERE = Path(__file__).parent

ListName = Literal["corrected", "upstream"]


def themes(domain: str, *, which: ListName = "corrected") -> tuple[str, ...]:
    """The themes of a domain. which: `upstream` is the list as data-agora has it, for replication; see the README."""
    listed = pl.read_csv(_HERE / "themes.csv").filter(pl.col("domain") == domain)
    return tuple(listed.filter(pl.col("list").is_in(["both", which]))["theme"])


def first_words(*, which: ListName = "corrected") -> tuple[str, ...]:
    """The words that a general instruction may begin with; without blanks at their end, but for `upstream`."""
    listed = pl.read_csv(_HERE / "first_words.csv")
    words = listed.filter(pl.col("list").is_in(["both", which]))["first_words"]
    return tuple(words if which == "upstream" else words.str.strip_chars_end())

"""Checks say of each row whether it keeps a rule: functions of column names that give a Boolean expression.

Null in, null out: what is not there breaks no rule (that it must be there, a schema says by `nullable`).
In a Pandera model: `@pa.check("response")` over `data.lazyframe.select(ends_with_result(data.key))`.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Collection, Sequence

import polars as pl

from agora_frames.stages.parsers import LINE_START, WHITE, fenced_blocks, tagged

__all__ = [
    "LANGUAGES",
    "LEFTOVERS",
    "balanced_fences",
    "compiles_as_python",
    "differs",
    "ends_with_result",
    "has_one_result",
    "is_one_code_block",
    "no_leftover_markers",
    "not_blank",
    "tag_matches_theme",
    "untagged_code_compiles",
]

# What the prompts and parsers of the AgoraBench recipes use as markers and stop phrase, in their spelling.
LEFTOVERS = ("INPUT:", "OUTPUT:", "Revised Question:", "Revised Answer:", "[END]")

# Languages as a theme names them ("Fixing a C++ Code"), each with the tags that its code blocks may have.
LANGUAGES = {
    "Python": ("python", "py", "python3"),
    "Java": ("java",),
    "C++": ("c++", "cpp", "cc", "cxx", "hpp"),
    "C": ("c", "h"),
    "JavaScript": ("javascript", "js", "jsx", "mjs", "node"),
    "C#": ("c#", "csharp", "cs"),
    "PHP": ("php",),
    "TypeScript": ("typescript", "ts", "tsx"),
    "Rust": ("rust", "rs"),
    "Ruby": ("ruby", "rb"),
    "SQL": ("sql", "mysql", "postgresql", "sqlite"),
}


def not_blank(column: str) -> pl.Expr:
    """Something other than white space is there.

    >>> pl.DataFrame({"text": ["one", " \\n", None]}).select(not_blank("text"))["text"].to_list()
    [True, False, None]
    """
    return _stripped(column) != ""


def differs(a: str, b: str) -> pl.Expr:
    """The two texts are not the same, upper and lower case and surrounding white space aside."""
    return _stripped(a).str.to_lowercase() != _stripped(b).str.to_lowercase()


def has_one_result(column: str) -> pl.Expr:
    """There is one `[RESULT]`, one `[/RESULT]` after it, and something in between."""
    (result,) = tagged("RESULT").expressions(pl.col(column))
    return pl.when(pl.col(column).is_not_null()).then(result.is_not_null()).alias(column)


def ends_with_result(column: str) -> pl.Expr:
    """Nothing but white space follows the last `[/RESULT]`."""
    return _stripped(column).str.ends_with("[/RESULT]")


def balanced_fences(column: str) -> pl.Expr:
    """An even number of lines begin with three backticks; none is even."""
    return (_fences(pl.col(column)) % 2 == 0).alias(column)


def is_one_code_block(column: str) -> pl.Expr:
    """The text is one fenced code block, not empty, with nothing but white space around it.

    A fence is what `parsers.fenced_blocks` takes for one, so backticks within the code do no harm.

    >>> df = pl.DataFrame({"code": ["```python\\nprint('Output:', 1)\\n```\\n", "Here:\\n```\\n1\\n```", "``````"]})
    >>> df.select(is_one_code_block("code"))["code"].to_list()
    [True, False, False]
    """
    text = _stripped(column)
    opens = text.str.contains(r"\A```[^`\n]*\n")
    empty = text.str.contains(r"\A```[^\n]*\n[\s\x1c-\x1f]*```\z")
    return opens & ~empty & text.str.ends_with("\n```") & (_fences(text) == 2)


def compiles_as_python(column: str) -> pl.Expr:
    """Each code block with the tag `python`, `py` or `python3` is Python; a text without such a block passes.

    The code is compiled, never run. A text whose fences do not pair up passes too: that is for `balanced_fences`.

    >>> df = pl.DataFrame({"code": ["```python\\nprint(1)\\n```", "```py\\nprint 1\\n```", "```sql\\nselect\\n```"]})
    >>> df.select(compiles_as_python("code"))["code"].to_list()
    [True, False, True]
    """
    return pl.col(column).map_elements(_compiles, return_dtype=pl.Boolean)


def tag_matches_theme(column: str, theme: str) -> pl.Expr:
    """The tag of the first code block is of a language that the theme names.

    A block without a tag passes (see `untagged_code_compiles`), and so does a text without a block, a theme that is
    null, and one that names none of `LANGUAGES`.

    >>> df = pl.DataFrame({"code": ["```cpp\\n1\\n```", "```c\\n1\\n```"], "theme": "Fixing a C++ Code"})
    >>> df.select(tag_matches_theme("code", "theme"))["code"].to_list()
    [True, False]
    """
    tag = pl.col(column).str.extract(r"(?m)^```([^`\n]*)$").str.strip_chars(WHITE).str.to_lowercase()
    named = {language: _names(theme, language) for language in LANGUAGES}
    fits = pl.any_horizontal(named[language] & tag.is_in(tags) for language, tags in LANGUAGES.items())
    free = tag.is_null() | (tag == "") | ~pl.any_horizontal(named.values())
    return pl.when(pl.col(column).is_not_null()).then(free | fits).alias(column)


def untagged_code_compiles(column: str, theme: str) -> pl.Expr:
    """Code blocks without a tag are Python, where the theme names Python and no other language.

    Compiled, never run; what `compiles_as_python` lets pass passes here too.
    """
    others = pl.any_horizontal(_names(theme, language) for language in LANGUAGES if language != "Python")
    untagged = pl.col(column).map_elements(lambda text: _compiles(text, {""}), return_dtype=pl.Boolean)
    passes = pl.when(pl.col(column).is_not_null()).then(True)
    return pl.when(_names(theme, "Python") & ~others).then(untagged).otherwise(passes).alias(column)


def no_leftover_markers(column: str, markers: Sequence[str] = LEFTOVERS) -> pl.Expr:
    """No line begins with a marker of the prompt, whether decorated as `split_on` allows or not.

    A marker within a line (`print("OUTPUT:", x)`) or in another spelling (`Input:`, `<input>`) is content.

    >>> df = pl.DataFrame({"text": ["print('OUTPUT:', x)", "An answer.\\n**INPUT:** the next", "Done.\\n[END]"]})
    >>> df.select(no_leftover_markers("text"))["text"].to_list()
    [True, False, False]
    """
    pattern = rf"{LINE_START}\*{{0,3}}(?:{'|'.join(map(re.escape, markers))})"
    return ~pl.concat_str(pl.lit("\n"), pl.col(column)).str.contains(pattern).alias(column)


def _stripped(column: str) -> pl.Expr:
    return pl.col(column).str.strip_chars(WHITE)


def _fences(text: pl.Expr) -> pl.Expr:
    return pl.concat_str(pl.lit("\n"), text).str.count_matches("\n```", literal=True)


def _names(theme: str, language: str) -> pl.Expr:
    """Whether the theme names the language, as a word of its own: "C" is not in "C++"; false where it is null."""
    words = pl.concat_str(pl.lit(" "), pl.col(theme), pl.lit(" "))
    return words.str.contains(rf"[^\w+#]{re.escape(language)}[^\w+#]").fill_null(False)


def _compiles(text: str, tags: Collection[str] = LANGUAGES["Python"]) -> bool:
    try:
        codes = [code for tag, code in fenced_blocks(text) if tag in tags]
    except ValueError:
        return True
    try:
        # Python warns of `"\d"` and the like; that is the author's affair.
        with warnings.catch_warnings(action="ignore"):
            for code in codes:
                compile(code, "<code>", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True

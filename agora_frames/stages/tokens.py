"""How many tokens an instance has, in the tokenizer and chat template of the student that will learn from it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from agora_frames.errors import BindError, ReadError, TemplateError, did_you_mean, listed
from agora_frames.frames import require
from agora_frames.hashing import hash_bytes
from agora_frames.stage import stage
from agora_frames.stages.files import file_text
from agora_frames.stages.sandbox import environment

__all__ = ["CHAT_TEMPLATES", "Tokenizer", "count_tokens", "tokenizer_file"]

# Made by train/tokenizer.py. When it changes, so does what the stage gives: raise the stage's version.
_SHIPPED = Path(__file__).with_name("tokenizer.json")
# So few that the prompts in memory stay small; how many does not change a count.
_ROWS_AT_ONCE = 2_000
_ROLES = ("user", "assistant")

# How a chat becomes the text that a student is trained on.
# llama3: the prompt format of the Llama 3 model card; the student of AgoraBench, arXiv 2412.03679v2, appendix A.
# chatml: what Qwen, SmolLM2 and others use.
CHAT_TEMPLATES = {
    "llama3": (
        "<|begin_of_text|>{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
        "{{ m.content }}<|eot_id|>{% endfor %}"
    ),
    "chatml": "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}",
}


@dataclass(frozen=True)
class Tokenizer:
    """A tokenizer by its content: what a `tokenizer.json` holds, so it is the same wherever it is read.

    name: what it is called in messages. json: the content of the file.
    """

    name: str
    json: str = field(repr=False)

    @property
    def fingerprint(self) -> str:
        """32 hex digits of the content; the name does not count."""
        return hash_bytes(self.json.encode())

    def count(self, texts: Sequence[str]) -> list[int]:
        """The number of tokens of each text; nothing is put in front or at the end, nothing is cut off."""
        encoded = _engine(self.json).encode_batch_fast(texts, add_special_tokens=False)
        return [len(each.ids) for each in encoded]


@stage(rowwise=True)
def count_tokens(
    df: pl.DataFrame,
    *,
    columns: str | Sequence[str] = ("instruction", "response"),
    tokenizer: Tokenizer | None = None,
    template: str | None = "llama3",
    system: str | None = "You are a helpful AI assistant.",
    into: str = "n_tokens",
) -> pl.DataFrame:
    """Counts the tokens of each row as its student would see it, chat template included.

    Reads: `columns` (String), which become the turns of a chat: the user's, the assistant's, the user's, …
    Adds: `into` (Int64, tokens; null where one of the texts is null).
    Rows: the same, in the same order.
    tokenizer: of the student: `tokenizer_file(path)`, or `agora_frames.tokenizer.load_tokenizer(name, revision=…)`.
    Unless given, the small one that ships with agora_frames (6,144 byte pairs, trained on English, arithmetic and
    Python): it needs no network. Against SmolLM2's of 49,152 it counts 0.94 to 1.14 times as many tokens in mathematics
    and code, and 1.25 to 1.6 times as many in other English: near the limit, give the student's own.
    template: a name in CHAT_TEMPLATES, or a Jinja2 template of `messages` such as a model's own `chat_template`
    (`bos_token` and `eos_token` are empty there; write them out if they count); None: the texts alone, one by one.
    system: what a system message in front says; None: there is none. Without a template it is not used.
    Raises: FrameError when a column is missing or is not String; BindError when `columns` names none;
    TemplateError when the template is wrong or cannot be filled.

    >>> df = pl.DataFrame({"instruction": ["1 + 1?"], "response": ["It is 2."]})
    >>> count_tokens(df, template=None)["n_tokens"].to_list()
    [10]
    >>> count_tokens(df)["n_tokens"][0] > 20
    True
    """
    names = [columns] if isinstance(columns, str) else list(columns)
    if not names:
        raise BindError("count_tokens() counts the tokens of `columns`, which names none.")
    require(df, *names, stage="count_tokens", dtype=pl.String())
    counting = tokenizer or tokenizer_file(_SHIPPED)
    fill = None if template is None else _filler(template, system, turns=len(names))
    there = df.select(pl.all_horizontal(pl.col(names).is_not_null())).to_series()
    rows = df.filter(there).select(names)
    counts = [n for part in rows.iter_slices(_ROWS_AT_ONCE) for n in _counted(part, counting, fill)]
    known = pl.DataFrame({"row": there.arg_true(), into: pl.Series(counts, dtype=pl.Int64)})
    every = pl.select(pl.int_range(df.height, dtype=pl.UInt32).alias("row"))
    return df.with_columns(every.join(known, on="row", how="left", maintain_order="left")[into])


def tokenizer_file(path: str | Path) -> Tokenizer:
    """The tokenizer in a `tokenizer.json`, the file of Hugging Face's `tokenizers`; read now, not later.

    Raises: ReadError when there is no such file, or it holds no tokenizer.
    """
    path = Path(path)
    text = file_text(path, what="tokenizer", error=ReadError)
    try:
        _engine(text)
    except Exception as exc:  # `tokenizers` raises plain exceptions
        raise ReadError(
            f"{str(path)!r} holds no tokenizer: {exc}. Give the `tokenizer.json` that is beside a model's weights."
        ) from exc
    return Tokenizer(path.stem if path == _SHIPPED else str(path), text)


@functools.lru_cache(maxsize=4)
def _engine(json: str) -> Any:
    """Made once: one of 128,000 tokens takes half a second."""
    import tokenizers

    engine = tokenizers.Tokenizer.from_str(json)
    engine.no_truncation()
    engine.no_padding()
    return engine


def _counted(rows: pl.DataFrame, tokenizer: Tokenizer, fill: Callable[[Sequence[str]], str] | None) -> Iterator[int]:
    if fill is not None:
        yield from tokenizer.count([fill(texts) for texts in rows.iter_rows()])
    else:
        yield from map(sum, zip(*(tokenizer.count(column.to_list()) for column in rows), strict=True))


def _filler(template: str, system: str | None, turns: int) -> Callable[[Sequence[str]], str]:
    """A chat of the texts of one row, as one text."""
    if template not in CHAT_TEMPLATES and "{" not in template:
        raise TemplateError(
            f"count_tokens(template={template!r}): there is no chat template of that name"
            f"{did_you_mean(template, CHAT_TEMPLATES) or '.'} There are: {listed(CHAT_TEMPLATES)}; or give the text of "
            "one that uses `messages`."
        )
    env = environment()
    env.globals |= {"bos_token": "", "eos_token": "", "raise_exception": _raise}
    before = [] if system is None else [{"role": "system", "content": system}]
    try:
        compiled = env.from_string(CHAT_TEMPLATES.get(template, template))
    except Exception as exc:  # what jinja2 raises
        raise TemplateError(f"the chat template is wrong: {exc}") from exc

    def fill(texts: Sequence[str]) -> str:
        messages: list[Mapping[str, str]] = [
            *before,
            *({"role": _ROLES[i % 2], "content": text} for i, text in enumerate(texts)),
        ]
        try:
            return compiled.render(messages=messages, add_generation_prompt=False)
        except Exception as exc:  # a template can fail in any way, and then does so in every row
            raise TemplateError(f"the chat template cannot be filled: {type(exc).__name__}: {exc}") from exc

    if "\x1cprobe" not in fill(["\x1cprobe"] * turns):
        raise TemplateError(f"the chat template {template!r:.80} does not use the content of `messages`.")
    return fill


def _raise(message: str) -> None:
    raise ValueError(message)

"""count_tokens: as many as the tokenizer and the chat template make, whatever the texts hold."""

import json
import pickle
import runpy
import sys
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Engine
from tokenizers import models, pre_tokenizers

from agora_frames.errors import BindError, FrameError, ReadError, TemplateError
from agora_frames.stages import tokens
from agora_frames.stages.tokens import CHAT_TEMPLATES, Tokenizer, count_tokens, tokenizer_file

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "agora_frames" / "stages" / "tokenizer.json"


def frame(*rows):
    return pl.DataFrame(list(rows), schema={"instruction": pl.String, "response": pl.String}, orient="row")


@pytest.fixture
def words(tmp_path):
    """A tokenizer with a token for each word and none for white space."""
    engine = Engine(models.WordLevel({"[UNK]": 0, "one": 1}, unk_token="[UNK]"))
    engine.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    engine.save(str(tmp_path / "tokenizer.json"))
    return tokenizer_file(tmp_path / "tokenizer.json")


# --- counts


def test_without_a_template_the_texts_are_counted_one_by_one(words):
    assert count_tokens(frame(("a b", "c"), ("", "d")), tokenizer=words, template=None)["n_tokens"].to_list() == [3, 1]


def test_a_template_counts_with_its_turns(words):
    template = "{% for m in messages %}{{ m.role }} : {{ m.content }} end {% endfor %}"
    done = count_tokens(frame(("a b", "c")), tokenizer=words, template=template, system="s t u")
    assert done["n_tokens"].to_list() == [3 * 3 + 3 + 2 + 1]


def test_without_a_system_message_there_is_none(words):
    template = "{% for m in messages %}{{ m.content }} {% endfor %}"
    assert count_tokens(frame(("a", "b")), tokenizer=words, template=template, system=None)["n_tokens"][0] == 2


def test_a_row_with_a_null_has_no_count(words):
    done = count_tokens(frame((None, "c"), ("a", None), ("a", "b")), tokenizer=words, template=None)
    assert done["n_tokens"].to_list() == [None, None, 2]
    assert done.schema["n_tokens"] == pl.Int64


@pytest.mark.parametrize("name", CHAT_TEMPLATES)
def test_the_shipped_tokenizer_has_the_marks_of_the_templates(name):
    alone = count_tokens(frame(("a", "b")), template=None)["n_tokens"][0]
    marks = count_tokens(frame(("a", "b")), template=name, system=None)["n_tokens"][0] - alone
    assert marks <= 14  # a few for each turn: no mark falls apart into its characters


def test_the_llama_format_is_that_of_the_model_card():
    wanted = (
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nQ<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nA<|eot_id|>"
    )
    (expected,) = tokenizer_file(SHIPPED).count([wanted])
    assert count_tokens(frame(("Q", "A")), system=None)["n_tokens"].to_list() == [expected]


@given(texts=st.lists(st.text(max_size=30), max_size=8))
def test_the_shipped_tokenizer_knows_every_text_and_loses_nothing(texts):
    engine = Engine.from_file(str(SHIPPED))
    assert tokenizer_file(SHIPPED).count(texts) == [len(engine.encode(t, add_special_tokens=False).ids) for t in texts]
    for text in texts:
        assert engine.decode(engine.encode(text).ids, skip_special_tokens=False) == text


@given(texts=st.lists(st.text(alphabet="ab c<|eot_id|>{}\n", max_size=20), min_size=1, max_size=6))
def test_what_looks_like_a_template_in_a_text_is_text(texts):
    rows = frame(*((text, text) for text in texts))
    rendered = [f"<|im_start|>user\n{t}<|im_end|>\n<|im_start|>assistant\n{t}<|im_end|>\n" for t in texts]
    expected = tokenizer_file(SHIPPED).count(rendered)
    assert count_tokens(rows, template="chatml", system=None)["n_tokens"].to_list() == expected


def test_a_tokenizer_that_cuts_texts_short_does_not_do_so_here(tmp_path):
    engine = Engine(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    engine.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    engine.enable_truncation(2)
    engine.enable_padding(length=9, pad_token="[UNK]")
    engine.save(str(tmp_path / "cutting.json"))
    done = count_tokens(frame(("a b c d", "e")), tokenizer=tokenizer_file(tmp_path / "cutting.json"), template=None)
    assert done["n_tokens"].to_list() == [5]


# --- the tokenizer as a value


def test_a_tokenizer_is_its_content(words):
    twin = Tokenizer("another name", words.json)
    assert twin.fingerprint == words.fingerprint != tokenizer_file(SHIPPED).fingerprint
    assert count_tokens(tokenizer=twin).fingerprint == count_tokens(tokenizer=words).fingerprint
    assert pickle.loads(pickle.dumps(words)) == words
    assert words.json not in repr(words)


def test_the_shipped_file_is_small():
    assert SHIPPED.stat().st_size < 200_000


@pytest.mark.slow
def test_the_shipped_file_is_what_the_script_builds(shared_data, monkeypatch, capsys):
    if sys.version_info[:3] != (3, 11, 7):
        pytest.skip("its corpus is the standard library of Python 3.11.7")
    monkeypatch.setattr(sys, "argv", ["tokenizer.py", str(shared_data), "--check"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / "train" / "tokenizer.py"), run_name="__main__")
    assert (ended.value.code, "as built" in capsys.readouterr().out) == (False, True)


# --- errors


def test_a_file_that_is_not_there_is_told_with_what_is(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ReadError, match=r"did you mean 'tokenizer\.json'"):
        tokenizer_file(tmp_path / "tokeniser.json")


def test_a_file_that_is_no_tokenizer_is_told(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"hidden_size": 8}))
    with pytest.raises(ReadError, match="holds no tokenizer"):
        tokenizer_file(tmp_path / "config.json")


@pytest.mark.parametrize(
    ("template", "told"),
    [
        ("llama", "did you mean 'llama3'"),
        ("{% for m in %}", "is wrong"),
        ("{{ messages[0].content }}{{ tools }}", "cannot be filled"),
        ("{{ raise_exception('no system here') }}", "no system here"),
        ("{{ 1 }}", "does not use the content"),
    ],
)
def test_a_wrong_template_is_told_before_any_row(template, told):
    with pytest.raises(TemplateError, match=told):
        count_tokens(frame(), template=template)


def test_columns_must_be_there_and_be_texts():
    with pytest.raises(FrameError, match="did you mean 'response'"):
        count_tokens(frame(), columns=("instruction", "respons"))
    with pytest.raises(FrameError, match="as String"):
        count_tokens(pl.DataFrame({"n": [1]}), columns="n")
    with pytest.raises(BindError, match="names none"):
        count_tokens(frame(), columns=())


def test_the_module_holds_no_path_that_is_not_there():
    assert tokens._SHIPPED == SHIPPED

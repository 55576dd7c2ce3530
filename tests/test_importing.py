"""import_instances: others' files become instances; what is broken is told, and costs its own row alone."""

import gzip
import json

import polars as pl
import pytest

from agora_frames.errors import BindError, ReadError, StorageError
from agora_frames.importing import IMPORTED, import_instances
from agora_frames.schemas import Seed, schema_for
from agora_frames.stages.validate import validate

GOOD = {"instruction": "a", "response": "b", "config": "gpt-4o", "index": 3}


def given_lines(tmp_path, *lines, name="cache.jsonl"):
    (tmp_path / name).write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return import_instances(tmp_path / name)


def first(tmp_path, item):
    done = given_lines(tmp_path, item)
    assert done.problems.height == 0
    return done.rows.row(0, named=True)


# --- data-agora


def test_a_cache_line_is_an_instance(tmp_path):
    row = first(tmp_path, GOOD)
    assert row == {**dict.fromkeys(IMPORTED), "instruction": "a", "response": "b", "config": "gpt-4o", "idx": "3"}


def test_a_result_file_is_read_whole(tmp_path):
    (tmp_path / "results.json").write_text(json.dumps([GOOD, {**GOOD, "instruction": "c"}], indent=4))
    assert import_instances(tmp_path / "results.json").rows["instruction"].to_list() == ["a", "c"]


def test_nested_metadata_become_json(tmp_path):
    nested = {"model": "gpt-4o", "examples": [{"instruction": "x", "metadata": {"examples": []}}]}
    assert json.loads(first(tmp_path, {**GOOD, "metadata": nested})["metadata"]) == nested


def test_other_keys_are_kept(tmp_path):
    assert json.loads(first(tmp_path, {**GOOD, "theme": "primes", "metadata": {"a": 1}})["metadata"]) == {
        "theme": "primes",
        "metadata": {"a": 1},
    }


def test_a_torn_last_line_is_told_and_left_out(tmp_path):
    done = given_lines(tmp_path, GOOD, GOOD, '{"instruction": "c", "resp')
    assert done.rows.height == 2
    assert done.problems.select("place", "left_out").rows() == [(3, True)]
    assert "its writer was cut off" in done.problems["what"][0]


def test_broken_lines_in_the_middle_are_told_by_their_numbers(tmp_path):
    done = given_lines(tmp_path, GOOD, "{broken", "", '"text"', GOOD, "[1", GOOD, "")
    assert done.rows.height == 3
    assert done.problems["place"].to_list() == [2, 4, 6]
    assert done.problems["left_out"].all()
    assert "begins: '{broken'" in done.problems["what"][0]
    assert "not an object" in done.problems["what"][1]


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_an_array_whose_writer_was_cut_off_is_read_up_to_the_break(tmp_path, cut):
    text = json.dumps([GOOD, GOOD, GOOD], indent=4)
    (tmp_path / "torn.json").write_text(text[:-cut])
    done = import_instances(tmp_path / "torn.json")
    assert done.rows.height in (2, 3)
    assert done.problems["what"].str.contains("breaks off").to_list() == [True]


def test_a_value_of_the_wrong_kind_is_told_and_costs_its_row(tmp_path):
    done = given_lines(tmp_path, GOOD, {**GOOD, "instruction": 3}, {**GOOD, "response": ["b"]}, {"response": "b"})
    assert done.rows.height == 1
    assert done.problems["what"].to_list() == [
        "'instruction' is a int, not a text",
        "'response' is a list, not a text",
        "'instruction' is missing",
    ]


def test_a_response_may_be_null(tmp_path):
    assert first(tmp_path, {**GOOD, "response": None})["response"] is None


def test_rows_without_a_config_have_the_files_name_or_what_is_given(tmp_path):
    bare = {"instruction": "a", "response": "b"}
    assert first(tmp_path, bare)["config"] == "cache"
    assert import_instances(tmp_path / "cache.jsonl", config="mine").rows["config"].to_list() == ["mine"]


def test_files_may_be_packed_and_begin_with_a_mark(tmp_path):
    (tmp_path / "x.jsonl.gz").write_bytes(gzip.compress(b"\xef\xbb\xbf" + json.dumps(GOOD).encode()))
    assert import_instances(tmp_path / "x.jsonl.gz").rows.height == 1


def test_bytes_that_are_not_utf8_are_told(tmp_path):
    line = json.dumps(GOOD).encode()
    (tmp_path / "x.jsonl").write_bytes(line + b"\n" + line.replace(b'"b"', b'"caf\xe9"'))
    done = import_instances(tmp_path / "x.jsonl")
    assert done.rows["response"].to_list() == ["b", "caf\ufffd"]
    assert done.problems.rows() == [(2, "it holds bytes that are not UTF-8; they stand as \ufffd", False)]


def test_a_packed_file_that_is_cut_off_is_told(tmp_path):
    (tmp_path / "x.jsonl.gz").write_bytes(gzip.compress(json.dumps(GOOD).encode())[:-9])
    with pytest.raises(ReadError, match="cannot be unpacked"):
        import_instances(tmp_path / "x.jsonl.gz")


def test_half_a_surrogate_pair_is_mended(tmp_path):
    assert first(tmp_path, '{"instruction": "a\\ud83d", "response": "b"}')["instruction"] == "a\ufffd"


# --- native forms


def test_gsm8k_solutions_end_with_their_result(tmp_path):
    row = first(tmp_path, {"question": "6 * 180?", "answer": "It is 6*180=<<6*180=1080>>1,080.\n#### 1,080"})
    assert row["response"] == "It is 6*180=1,080.\n[RESULT] 1,080 [/RESULT]"
    assert (row["instruction"], row["config"]) == ("6 * 180?", "gsm8k")


def test_math_solutions_end_with_what_is_in_their_last_box(tmp_path):
    item = {"problem": "P", "solution": r"\boxed{1}, so \boxed{\frac{1}{2}}.", "level": 2, "unique_id": "u/1"}
    row = first(tmp_path, item)
    assert row["response"].endswith("\n[RESULT] \\frac{1}{2} [/RESULT]")
    assert (row["idx"], json.loads(row["metadata"])) == ("u/1", {"level": 2})


@pytest.mark.parametrize(
    "item",
    [
        {"question": "q", "answer": "no mark"},
        {"question": "q", "answer": "x ####"},
        {"problem": "q", "solution": "no box"},
    ],
)
def test_a_solution_without_a_result_is_kept_and_told(tmp_path, item):
    done = given_lines(tmp_path, item)
    assert done.rows.height == 1
    assert "[RESULT]" not in done.rows["response"][0]
    assert done.problems["left_out"].to_list() == [False]


@pytest.mark.parametrize(
    ("number", "split"), [(1, "prompt"), (11, "test"), (510, "test"), (511, "validation"), (601, "train")]
)
def test_mbpp_rows_say_their_split(tmp_path, number, split):
    item = {
        "text": "Add.",
        "code": "def f():\r\n\treturn 1\r\n",
        "task_id": number,
        "test_list": ["assert f() == 1", "x"],
    }
    row = first(tmp_path, item)
    assert row["split"] == split
    assert row["instruction"] == "Add.\nassert f() == 1"
    assert row["response"] == "```python\ndef f():\n\treturn 1\n```"


def test_conala_prefers_the_rewritten_intent(tmp_path):
    item = {"intent": "how?", "rewritten_intent": "sort `x`", "snippet": "x.sort()", "question_id": 7}
    assert first(tmp_path, item)["instruction"] == "sort `x`"
    assert first(tmp_path, {**item, "rewritten_intent": None})["instruction"] == "how?"


# --- real files

FILES = [
    ("gsm8k/train.jsonl", "gsm8k", "math", 7473, 7473),
    ("math/math500_rows_000-249.jsonl", "math", "math", 250, 250),
    ("mbpp/mbpp.jsonl", "mbpp", "code", 974, 974),
    ("mbpp/sanitized-mbpp.json", "mbpp", "code", 427, 427),
    ("conala/conala-train.json", "conala", "code", 2378, 2358),  # 20 are Python 2, or no whole statements
]


@pytest.mark.parametrize(("file", "source", "domain", "rows", "valid"), FILES)
def test_real_files_become_valid_instances(shared_data, file, source, domain, rows, valid):
    done = import_instances(shared_data / file)
    assert (done.source, done.rows.height, done.problems.height) == (source, rows, 0)
    assert validate(done.rows, schema=schema_for(domain))["valid"].sum() == valid


def test_mbpp_has_374_rows_to_train_on(shared_data):
    assert import_instances(shared_data / "mbpp" / "mbpp.jsonl").rows.filter(split="train").height == 374


def test_every_seed_file_of_data_agora_is_read(shared_data):
    files = sorted((shared_data / "agora_seeds").glob("*.json"))
    assert len(files) == 8
    for file in files:
        done = import_instances(file)
        assert (done.rows.height, done.problems.height, done.source) == (20, 0, "data_agora")
        assert validate(done.rows, schema=Seed)["valid"].all()
        assert done.rows["instruction"].to_list() == [item["instruction"] for item in json.loads(file.read_text())]


# --- errors


def test_a_file_of_no_known_source_is_told_with_what_is_known(tmp_path):
    with pytest.raises(ReadError, match=r"'task', 'canonical_solution'.*gsm8k has 'question', 'answer'"):
        given_lines(tmp_path, {"task": "a", "canonical_solution": "b"})


@pytest.mark.parametrize("content", ["", "\n\n", "[]", "{", "not json\n"])
def test_a_file_without_a_row_is_told(tmp_path, content):
    with pytest.raises(ReadError, match="no row that can be read"):
        given_lines(tmp_path, content)


def test_a_file_that_is_not_there_is_told(tmp_path):
    (tmp_path / "seeds.json").write_text("[]")
    with pytest.raises(StorageError, match=r"did you mean 'seeds\.json'"):
        import_instances(tmp_path / "seed.json")


def test_a_source_that_there_is_not_is_told(tmp_path):
    with pytest.raises(BindError, match="'conala'"):
        import_instances(tmp_path / "x.json", source="lima")


def test_a_source_that_is_given_is_believed(tmp_path):
    (tmp_path / "x.jsonl").write_text(json.dumps({"question": "q", "answer": "#### 1"}))
    done = import_instances(tmp_path / "x.jsonl", source="conala")
    assert done.rows.schema == pl.Schema(IMPORTED)
    assert done.problems["what"].to_list() == ["'intent' is missing"]

"""Schemas of seeds and instances: good data pass, garbage does not; D3 and D6 of data-agora both ways."""

import json
import os
from pathlib import Path

import polars as pl
import pytest

from agora_frames.schemas import CodeInstance, GeneralInstance, Instance, MathInstance, Seed
from agora_frames.stages.validate import validate

SHARED = Path(os.environ.get("AGORA_SHARED_DATA") or Path(__file__).parents[2] / "../shared/data")
SCHEMAS = [Seed, Instance, MathInstance, CodeInstance, GeneralInstance]


def failures(schema, instruction, response):
    frame = pl.DataFrame(
        {"instruction": [instruction], "response": [response]}, schema={"instruction": pl.String, "response": pl.String}
    )
    return validate(frame, schema=schema)["failures"][0].to_list()


@pytest.mark.parametrize(
    ("schema", "response"),
    [
        (GeneralInstance, "An answer."),
        (GeneralInstance, "Please provide the code"),
        (GeneralInstance, 'Use <input> and print("Output:", x).\nInput: 3'),
        (MathInstance, "It is 6 + 36.\n[RESULT] 42 [/RESULT]\n"),
        (CodeInstance, '```python\nprint("Output:", x)\n```\n'),
        (CodeInstance, "```html\n<input>\n```"),
        (Seed, None),
    ],
)
def test_good_data_pass(schema, response):
    assert failures(schema, "Do it.", response) == []


@pytest.mark.parametrize("schema", [Instance, GeneralInstance, MathInstance, CodeInstance])
def test_two_empty_texts_never_pass(schema):
    assert {"instruction: not_blank", "response: not_blank"} <= set(failures(schema, "", ""))


@pytest.mark.parametrize("schema", [Instance, GeneralInstance, MathInstance, CodeInstance])
def test_a_response_that_repeats_the_instruction_never_passes(schema):
    assert failures(schema, "The whole text.", " the whole text.\n")[-1] == "response_differs_from_instruction"


@pytest.mark.parametrize("schema", [Instance, GeneralInstance, MathInstance, CodeInstance])
def test_a_response_that_is_null_never_passes(schema):
    assert failures(schema, "Do it.", None) == ["response: not_nullable"]


def test_markers_of_the_prompt_may_not_be_left_in_either_text():
    assert failures(Instance, "q\n[END]", "INPUT: b") == [
        "instruction: no_leftover_markers",
        "response: no_leftover_markers",
    ]


@pytest.mark.parametrize(
    ("response", "broken"),
    [
        ("42", ["response: has_one_result", "response: ends_with_result"]),
        ("[RESULT][/RESULT]", ["response: has_one_result"]),
        ("[RESULT] 42 [/RESULT] I hope", ["response: ends_with_result"]),
    ],
)
def test_math_ends_with_its_one_result(response, broken):
    assert failures(MathInstance, "6 * 7?", response) == broken


@pytest.mark.parametrize(
    ("response", "broken"),
    [
        ("Please provide the code", ["response: is_one_code_block"]),
        ("``````", ["response: is_one_code_block"]),
        ("```python\nprint 1\n```", ["response: compiles_as_python"]),
    ],
)
def test_code_is_one_block_and_compiles(response, broken):
    assert failures(CodeInstance, "Print 1.", response) == broken


def test_a_seed_needs_no_response_column():
    assert validate(pl.DataFrame({"instruction": ["q", " "]}), schema=Seed)["failures"].to_list() == [
        [],
        ["instruction: not_blank"],
    ]


def test_a_seed_may_have_a_response_column_of_nothing_but_nulls():
    assert validate(pl.DataFrame({"instruction": ["q"], "response": [None]}), schema=Seed)["valid"].all()


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: schema.__name__)
def test_every_schema_says_its_rules(schema):
    rules = schema.to_schema()
    names = {check.name for part in (rules, *rules.columns.values()) for check in part.checks}
    said = " ".join(each.__doc__ for each in schema.mro() if each.__module__ == schema.__module__)
    assert [name for name in names if f"`{name}`" not in said] == []


# How many of the 20 real seeds of each file keep the rules of each domain (recomputed from the files).
KNOWN = [
    ("code_seed_data", 20, 0, 20),
    ("general_seed_data", 20, 0, 0),
    ("math_seed_data", 20, 20, 0),
    ("magpie_code_seed_data_10000", 20, 0, 0),
    ("magpie_general_seed_data_10000", 20, 0, 0),
    ("magpie_math_seed_data_10000", 20, 0, 0),
    ("webinstruct_general_seed_data_10000", 20, 0, 0),
    ("webinstruct_math_seed_data_10000", 20, 0, 0),
]


@pytest.mark.parametrize(("name", "general", "math", "code"), KNOWN)
def test_real_seeds_keep_the_rules_of_their_own_domain(name, general, math, code):
    file = SHARED / "agora_seeds" / f"{name}_subsampled.json"
    if not file.exists():
        pytest.skip(f"no AgoraBench seeds at {SHARED}; set AGORA_SHARED_DATA")
    seeds = pl.DataFrame(json.loads(file.read_text())).select("instruction", "response")
    valid = [validate(seeds, schema=s)["valid"].sum() for s in (Seed, GeneralInstance, MathInstance, CodeInstance)]
    assert valid == [20, general, math, code]

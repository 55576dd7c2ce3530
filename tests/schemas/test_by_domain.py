"""schema_for: the corrected rules and AgoraBench's own; D3 and D6 of data-agora both ways."""

import pickle

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agora_frames.errors import BindError, FrameError
from agora_frames.schemas import CodeInstance, GeneralInstance, MathInstance, schema_for
from agora_frames.schemas.by_domain import TALK
from agora_frames.stages.validate import validate

DOMAINS = ["math", "code", "general"]
TEXTS = {"instruction": pl.String, "response": pl.String}


def failures(domain, response, instruction="Do it.", **options):
    frame = pl.DataFrame({"instruction": [instruction], "response": [response]}, schema=TEXTS)
    return validate(frame, schema=schema_for(domain, **options))["failures"][0].to_list()


def themed(response, theme):
    frame = pl.DataFrame({"instruction": ["Do it."], "response": [response], "theme": [theme]}, {**TEXTS, "theme": str})
    return validate(frame, schema=schema_for("code", themes=True))["failures"][0].to_list()


# --- what only the corrected rules get right

REJECTED_BY_AGORABENCH_ALONE = [
    ("code", '```python\nprint("Output:", x)\n```', "holds_no_prompt_word"),
    ("code", '```python\nx = input("Input: ")\n```', "holds_no_prompt_word"),
    ("code", "```html\n<input>\n```", "holds_no_prompt_word"),
    ("general", "The form has one <input> and one <output> element.", "holds_no_prompt_word"),
    ("general", "The task is in two parts. Input: two numbers.", "holds_no_prompt_word"),
    ("math", "It is 42.\n[RESULT] 42 [/RESULT]\n", "ends_with_the_tag"),
    ("math", "It is 42.\n[RESULT] 42 [/RESULT] ", "ends_with_the_tag"),
    ("code", "```python\nprint(1)\n```\n", "begins_and_ends_with_a_fence"),
    ("code", '```python\nprint(1)  # "```"\n```', "fences_are_even"),
]


@pytest.mark.parametrize(("domain", "response", "rule"), REJECTED_BY_AGORABENCH_ALONE)
def test_good_data_that_agorabench_rejects_are_accepted(domain, response, rule):
    assert failures(domain, response) == []
    assert f"response: {rule}" in failures(domain, response, strictness="agorabench")


ACCEPTED_BY_AGORABENCH_ALONE = [
    ("general", "Do it.", "", ["response: not_blank"]),
    ("general", "", "", ["instruction: not_blank", "response: not_blank", "response_differs_from_instruction"]),
    ("general", "No marker, all of it.", "No marker, all of it.", ["response_differs_from_instruction"]),
    ("general", "", "Something.", ["instruction: not_blank"]),
    ("math", "Do it.", "[RESULT][/RESULT]", ["response: has_one_result"]),
    ("math", "Do it.", "[RESULT] \n [/RESULT]", ["response: has_one_result"]),
    ("code", "Do it.", "``````", ["response: is_one_code_block"]),
    ("code", "Do it.", "```python\n```", ["response: is_one_code_block"]),
    ("code", "Do it.", "```\n1\n```\nand then\n```\n2\n```", ["response: is_one_code_block"]),
    ("code", "Do it.", "```python\nprint 1\n```", ["response: compiles_as_python"]),
]


@pytest.mark.parametrize(("domain", "instruction", "response", "rules"), ACCEPTED_BY_AGORABENCH_ALONE)
def test_garbage_that_agorabench_accepts_is_rejected(domain, instruction, response, rules):
    assert failures(domain, response, instruction, strictness="agorabench") == []
    assert failures(domain, response, instruction) == rules


REJECTED_BY_BOTH = [
    ("math", "42", "has_one_result", "has_each_result_tag_once"),
    ("math", "[RESULT] 1 [/RESULT] [RESULT] 2 [/RESULT]", "has_one_result", "has_each_result_tag_once"),
    ("math", "[RESULT] 1 [/RESULT] I hope it helps", "ends_with_result", "ends_with_the_tag"),
    ("code", "Here it is:\n```python\nprint(1)\n```", "is_one_code_block", "begins_and_ends_with_a_fence"),
    ("code", "Please provide the code", "is_one_code_block", "begins_and_ends_with_a_fence"),
    ("code", "```\n1\n```\nThis function adds.\n```\n2\n```", "is_one_code_block", "no_talk_outside_code"),
    ("general", "An answer.\nINPUT: the next", "no_leftover_markers", "holds_no_prompt_word"),
    ("general", "An answer. Fine.\n[END]", "no_leftover_markers", "holds_no_prompt_word"),
]


@pytest.mark.parametrize(("domain", "response", "corrected", "agorabench"), REJECTED_BY_BOTH)
def test_what_both_reject_is_told_by_the_rule_of_each(domain, response, corrected, agorabench):
    assert f"response: {corrected}" in failures(domain, response)
    assert f"response: {agorabench}" in failures(domain, response, strictness="agorabench")


@pytest.mark.parametrize("strictness", ["corrected", "agorabench"])
@pytest.mark.parametrize(
    ("domain", "response"),
    [
        ("general", "Yes."),
        ("math", "6 + 36 [RESULT] 42 [/RESULT]"),
        ("code", "```python\nprint(1)\n```"),
        ("code", "```cpp\nint main() {}\n```"),
    ],
)
def test_plain_good_data_pass_both(domain, response, strictness):
    assert failures(domain, response, strictness=strictness) == []


@pytest.mark.parametrize("strictness", ["corrected", "agorabench"])
@pytest.mark.parametrize("domain", DOMAINS)
def test_a_null_never_passes(domain, strictness):
    assert failures(domain, None, strictness=strictness) == ["response: not_nullable"]


@pytest.mark.parametrize(
    ("method", "word", "other"),
    [
        ("instance_generation", "Output:", "Revised Answer:"),
        ("response_generation", "Input:", "Revised Question:"),
        ("quality_enhancement", "revised question:", "output:"),
    ],
)
def test_agorabench_forbids_the_triggers_of_the_method_alone(method, word, other):
    assert failures("general", f"So: {word}", strictness="agorabench", method=method) != []
    assert failures("general", f"So: {other}", strictness="agorabench", method=method) == []


def test_agorabench_forbids_the_first_word_where_it_has_one():
    text = "Take <first_word>."
    assert failures("general", text, strictness="agorabench") != []
    assert failures("math", f"{text} [RESULT] 1 [/RESULT]", strictness="agorabench") == []


# --- the same by hand: what validators.py decides, as a function of one response


def decides(domain, response):
    low = response.lower()
    words = ["<input@>", "<output@>", "<input>", "<output>", "input:", "output:", "[end]", "<input_theme>"]
    good = not any(word in low for word in words) and not (domain == "general" and "<first_word>" in low)
    if domain == "math":
        good &= response.count("[RESULT]") == 1 == response.count("[/RESULT]") and response.endswith("[/RESULT]")
    if domain == "code":
        outside = "".join(response.split("```")[::2]).lower()
        good &= response.count("```") % 2 == 0 and not any(word in outside for word in TALK)
        good &= response.startswith("```") and response.endswith("```")
    return good


PIECES = st.sampled_from(
    [
        *("```", "`", "\n", "[RESULT]", "[/RESULT]", " 4 ", "x", "İ", "<Input>", "OUTPUT:", "[eNd]", "<first_word>"),
        *("Test ", "cases", "test cases", "Explanation"),
    ]
)


@pytest.mark.parametrize("domain", DOMAINS)
@given(responses=st.lists(st.lists(PIECES, max_size=7).map("".join), min_size=1, max_size=20))
def test_agorabench_decides_as_its_validators_do(domain, responses):
    frame = pl.DataFrame({"instruction": ["Do it."] * len(responses), "response": responses}, schema=TEXTS)
    found = validate(frame, schema=schema_for(domain, strictness="agorabench"))["valid"].to_list()
    assert found == [decides(domain, response) for response in responses]


@pytest.mark.parametrize(
    ("domain", "model"), [("math", MathInstance), ("code", CodeInstance), ("general", GeneralInstance)]
)
@given(responses=st.lists(st.lists(PIECES, max_size=7).map("".join), max_size=10))
def test_corrected_decides_as_the_models_do(domain, model, responses):
    frame = pl.DataFrame({"instruction": ["x"] * len(responses), "response": responses}, schema=TEXTS)
    found, by_model = (validate(frame, schema=schema)["failures"] for schema in (schema_for(domain), model))
    assert found.list.sort().to_list() == by_model.list.sort().to_list()


# --- tokens


@pytest.mark.parametrize("strictness", ["corrected", "agorabench"])
def test_a_row_longer_than_the_limit_is_told(strictness):
    frame = pl.DataFrame({"instruction": ["a"] * 3, "response": ["b"] * 3, "n_tokens": [4096, 4097, None]})
    done = validate(frame, schema=schema_for("general", strictness=strictness, max_tokens=4096))
    assert done["failures"].to_list() == [[], ["n_tokens: less_than_or_equal_to(4096)"], []]


def test_the_limit_needs_the_count():
    frame = pl.DataFrame({"instruction": ["a"], "response": ["b"]})
    with pytest.raises(FrameError, match="no column 'n_tokens'"):
        validate(frame, schema=schema_for("general", max_tokens=4096))


# --- themes


@pytest.mark.parametrize(
    ("tag", "theme"),
    [
        ("python", "Implementing a Python Code"),
        ("Py", "Fixing a Python Code"),
        ("cpp", "Fixing a C++ Code"),
        ("c++", "Implementing a C++ Code"),
        ("c", "Implementing a C Code"),
        ("csharp", "Fixing a C# Code"),
        ("cs", "Implementing a C# Code"),
        ("js", "Fixing a JavaScript Code"),
        ("java", "Implementing a Java Code"),
        ("php", "Fixing a PHP Code"),
        ("java", "Translate Python to Java"),
        ("cobol", "Algorithms"),
        ("cobol", None),
        ("", "Fixing a C Code"),
    ],
)
def test_a_tag_of_the_themes_language_passes(tag, theme):
    assert themed(f"```{tag}\n1\n```", theme) == []


@pytest.mark.parametrize(
    ("tag", "theme"),
    [
        ("c", "Fixing a C++ Code"),
        ("cpp", "Fixing a C Code"),
        ("c", "Implementing a C# Code"),
        ("java", "Implementing a JavaScript Code"),
        ("javascript", "Implementing a Java Code"),
        ("python", "Fixing a PHP Code"),
        ("cobol", "Implementing a Python Code"),
    ],
)
def test_a_tag_of_another_language_does_not(tag, theme):
    assert themed(f"```{tag}\n1\n```", theme) == ["tag_matches_theme"]


def test_code_without_a_tag_must_compile_where_the_theme_is_python():
    assert themed("```\nprint 1\n```", "Fixing a Python Code") == ["untagged_code_compiles"]
    assert themed("```\nprint(1)\n```", "Fixing a Python Code") == []
    assert themed("```\nprint 1\n```", "Fixing a PHP Code") == []


@pytest.mark.parametrize("domain", ["math", "general"])
def test_other_domains_have_no_language_to_check(domain):
    frame = pl.DataFrame({"instruction": ["q"], "response": ["[RESULT] 1 [/RESULT]"], "theme": ["Python"]})
    assert validate(frame, schema=schema_for(domain, themes=True))["valid"].all()


def test_themes_need_their_column():
    with pytest.raises(FrameError, match="no column 'theme'"):
        validate(pl.DataFrame({"instruction": ["a"], "response": ["b"]}), schema=schema_for("code", themes=True))


# --- as a value


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("strictness", ["corrected", "agorabench"])
def test_a_stage_with_it_pickles_and_keeps_its_fingerprint_after_use(domain, strictness):
    bound = validate(schema=schema_for(domain, strictness=strictness, max_tokens=5, themes=True))
    before = bound.fingerprint
    frame = pl.DataFrame({"instruction": ["a"], "response": ["b"], "n_tokens": [9], "theme": ["c"]})
    done = bound(frame)
    assert bound.fingerprint == before == pickle.loads(pickle.dumps(bound)).fingerprint
    assert pickle.loads(pickle.dumps(bound))(frame).equals(done)


def test_another_limit_is_another_stage():
    stages = [validate(schema=schema_for("general", max_tokens=n)) for n in (None, 10, 11)]
    assert len({stage.fingerprint for stage in stages}) == 3


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"domain": "maths"}, "did you mean 'math'"),
        ({"domain": "math", "strictness": "strict"}, "Possible: 'corrected', 'agorabench'"),
        ({"domain": "math", "method": "enhancement"}, "quality_enhancement"),
        ({"domain": "math", "max_tokens": 0}, "at least 1"),
        ({"domain": "math", "max_tokens": True}, "at least 1"),
    ],
)
def test_what_there_is_not_is_told(options, told):
    with pytest.raises(BindError, match=told):
        schema_for(**options)

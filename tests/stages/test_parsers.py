"""Parsers: what each cuts out, and what each calls unparsed."""

import json
import pickle

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agora_frames.errors import BindError
from agora_frames.fingerprint import fingerprint
from agora_frames.stages.parsers import WHITE, between, boxed, code_block, fenced_blocks, json_object, split_on, tagged

IN_OUT = split_on("INPUT:", "OUTPUT:")

EVERY_PARSER = [
    split_on("INPUT:", "OUTPUT:"),
    split_on("INPUT:", "OUTPUT:", end="[END]"),
    split_on("OUTPUT:", start_given=True),
    between("<a>", "</a>"),
    tagged("RESULT"),
    code_block(),
    code_block("python"),
    boxed(),
    json_object("instruction", "response"),
]


def unparsed(parser, text):
    with pytest.raises(ValueError) as caught:
        parser(text)
    return str(caught.value)


# --- split_on


def test_split_on_gives_what_follows_each_marker():
    assert IN_OUT("INPUT: What is 1 + 1?\nOUTPUT: 2\n") == ("What is 1 + 1?", "2")


def test_what_stands_before_the_first_marker_is_left_out():
    assert IN_OUT("Sure, here it is.\n\nINPUT: q\nOUTPUT: a") == ("q", "a")


@pytest.mark.parametrize("text", ["", " \n", "No markers at all.", "INPUT: only", "OUTPUT: only"])
def test_missing_markers_are_unparsed_never_a_copy_of_the_text(text):
    assert "no line begins with" in unparsed(IN_OUT, text)


def test_markers_inside_a_line_are_content():
    text = "INPUT: Given INPUT: 3 4 and OUTPUT: 7, what is done?\nOUTPUT: The OUTPUT: is a sum."
    assert IN_OUT(text) == ("Given INPUT: 3 4 and OUTPUT: 7, what is done?", "The OUTPUT: is a sum.")


def test_markers_in_another_spelling_are_content():
    text = "INPUT: Read it.\nInput: 3 4\nOutput: 7\nOUTPUT: ok"
    assert IN_OUT(text) == ("Read it.\nInput: 3 4\nOutput: 7", "ok")


@pytest.mark.parametrize(
    "text",
    [
        "**INPUT:** q\n**OUTPUT:** a",
        "### INPUT: q\n### OUTPUT: a",
        "## **INPUT:**\nq\n## **OUTPUT:**\na",
        "   INPUT: q\n  OUTPUT: a",
        "INPUT:\r\nq\r\nOUTPUT:\r\na\r\n",
    ],
)
def test_markdown_may_decorate_a_marker(text):
    assert IN_OUT(text) == ("q", "a")


@pytest.mark.parametrize("line", ["# OUTPUT: a comment", "    OUTPUT: indented", "> OUTPUT: quoted", "**OUTPUT: open"])
def test_what_is_no_decoration_makes_no_marker(line):
    assert IN_OUT(f"INPUT: q\n{line}\nOUTPUT: a") == (f"q\n{line}", "a")


def test_markers_may_be_headings_themselves():
    assert split_on("### Input:", "**Output**")("### Input:\nq\n**Output** a") == ("q", "a")


def test_a_marker_may_begin_like_another():
    assert split_on("Step 1", "Step 10")("Step 1 a\nStep 10 b") == ("a", "b")


def test_a_second_example_is_ambiguous():
    reason = unparsed(IN_OUT, "INPUT: q\nOUTPUT: a\n\nINPUT: another\nOUTPUT: one")
    assert reason == "2 lines begin with 'INPUT:': it is ambiguous which is meant"


def test_markers_in_another_order_are_unparsed():
    assert "another order" in unparsed(IN_OUT, "OUTPUT: a\nINPUT: q")


@pytest.mark.parametrize("text", ["INPUT:\nOUTPUT: a", "INPUT: q\nOUTPUT:", "INPUT: q\nOUTPUT: \n "])
def test_an_empty_field_is_unparsed(text):
    assert "nothing comes after" in unparsed(IN_OUT, text)


def test_the_end_phrase_and_all_after_it_are_cut_off():
    parser = split_on("INPUT:", "OUTPUT:", end="[END]")
    assert parser("INPUT: q\nOUTPUT: a [END]\nINPUT: another\nOUTPUT: one") == ("q", "a")


def test_the_end_phrase_need_not_be_there():
    assert split_on("INPUT:", "OUTPUT:", end="[END]")("INPUT: q\nOUTPUT: a") == ("q", "a")


def test_a_marker_after_the_end_phrase_is_missing():
    assert "'OUTPUT:'" in unparsed(split_on("INPUT:", "OUTPUT:", end="[END]"), "INPUT: q [END]\nOUTPUT: a")


def test_a_given_start_makes_the_text_begin_with_the_first_field():
    assert split_on("INPUT:", "OUTPUT:", start_given=True)(" q\nOUTPUT: a") == ("q", "a")


def test_a_given_start_may_be_said_again():
    assert split_on("INPUT:", "OUTPUT:", start_given=True)("\nINPUT: q\nOUTPUT: a") == ("q", "a")


def test_a_given_start_that_comes_later_is_a_second_example():
    reason = unparsed(split_on("INPUT:", "OUTPUT:", start_given=True), "q\nOUTPUT: a\nINPUT: r")
    assert reason.startswith("2 lines begin with 'INPUT:'")


def test_one_given_marker_takes_the_whole_text():
    assert split_on("OUTPUT:", start_given=True)(" The whole. ") == "The whole."


def test_one_marker_gives_one_value():
    assert split_on("Answer:")("Because.\nAnswer: 42") == "42"


def test_white_space_around_a_marker_is_not_part_of_it():
    assert split_on("INPUT: ", "OUTPUT: ") == IN_OUT


@pytest.mark.parametrize("markers", [(), ("",), (" ",), ("A:", "A:"), (1,)])
def test_split_on_refuses_what_it_cannot_look_for(markers):
    with pytest.raises(BindError):
        split_on(*markers)


# --- between, tagged


def test_tagged_gives_what_stands_inside():
    assert tagged("RESULT")("So it is 42.\n[RESULT] 42 [/RESULT]\n") == "42"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("nothing", "found 0 and 0"),
        ("[RESULT] 42", "found 1 and 0"),
        ("[RESULT] 1 [/RESULT] [RESULT] 2 [/RESULT]", "found 2 and 2"),
        ("[/RESULT] 42 [RESULT]", "comes before"),
        ("[RESULT][/RESULT]", "nothing stands between"),
        ("[RESULT] \n [/RESULT]", "nothing stands between"),
        ("[result] 42 [/result]", "found 0 and 0"),
    ],
)
def test_anything_but_one_pair_with_something_inside_is_unparsed(text, reason):
    assert reason in unparsed(tagged("RESULT"), text)


def test_between_takes_any_two_markers():
    assert between("<answer>", "</answer>")("<answer>\n42\n</answer>") == "42"


@pytest.mark.parametrize("markers", [("", "x"), ("x", " "), ("$$", "$$")])
def test_between_refuses_what_it_cannot_look_for(markers):
    with pytest.raises(BindError):
        between(*markers)


# --- code_block


def test_code_block_gives_the_code_without_fences_or_prose():
    assert code_block()("Here:\n```python\nprint(1)\n```\nIt prints.") == "print(1)"


@pytest.mark.parametrize("tag", ["python", "Python", "PYTHON "])
def test_the_tag_is_compared_in_either_case(tag):
    assert code_block("pYthon")(f"```{tag}\nprint(1)\n```") == "print(1)"


def test_blocks_of_another_language_are_not_counted():
    assert code_block("python")("```sh\nls\n```\n```python\nprint(1)\n```") == "print(1)"


def test_the_indentation_of_the_first_line_is_kept():
    assert code_block()("```\n\n    return 1\n    # end\n\n```") == "    return 1\n    # end"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "found 0"),
        ("print(1)", "found 0"),
        ("```py\n1\n```\n```py\n2\n```", "found 2"),
        ("```python\nprint(1)", "do not pair up"),
        ("```python\n1\n```python\n2\n```\n```", "do not pair up"),
        ("``````", "do not pair up"),
        ("```a`\n1\n```", "do not pair up"),
        ("````\n1\n````", "do not pair up"),
        ("```\n```", "empty"),
        ("```\n \n```", "empty"),
        ("It is `x` and ```y```.", "found 0"),
    ],
)
def test_anything_but_one_whole_block_is_unparsed(text, reason):
    assert reason in unparsed(code_block(), text)


def test_another_language_alone_is_unparsed_and_named():
    assert "'sh'" in unparsed(code_block("python"), "```sh\nls\n```")


def test_backticks_inside_a_line_do_not_close_a_block():
    assert code_block()("```python\ns = '```'\n    ```\n```") == "s = '```'\n    ```"


def test_fenced_blocks_come_in_order():
    assert fenced_blocks("```A\n1\n```\nand\n```\n2\n```") == [("a", "1"), ("", "2")]


# --- boxed


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (r"\boxed{42}", "42"),
        (r"First \boxed{1}, then \boxed{ 2 }.", "2"),
        (r"$\boxed{\frac{1}{\sqrt{2}}}$ is it.", r"\frac{1}{\sqrt{2}}"),
        (r"\boxed{\left\{1, 2\right\}}", r"\left\{1, 2\right\}"),
        (r"\boxed{(0, 1\}}", r"(0, 1\}"),
        (r"\boxed {5}", "5"),
    ],
)
def test_boxed_gives_the_last_one_to_its_own_brace(text, value):
    assert boxed()(text) == value


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("42", "no \\boxed"),
        (r"\boxed{}", "empty"),
        (r"\boxed{1} and \boxed{2", "not closed"),
        (r"\boxed 5", "no \\boxed"),
    ],
)
def test_a_box_that_is_missing_empty_or_open_is_unparsed(text, reason):
    assert reason in unparsed(boxed(), text)


# --- json_object

PAIR = json_object("instruction", "response")
GOOD = '{"instruction": "What is {}?", "response": "An empty } set."}'


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        f"```json\n{GOOD}\n```",
        f"Sure, {{x}} it is: {GOOD} Hope that helps :}}",
        f'{{"data": {GOOD}}}',
        f'{{"note": "not this"}} {GOOD}',
        f'Not {{"instruction": }} but {GOOD}',
        f"[{GOOD}]",
    ],
)
def test_whatever_stands_around_the_object_is_no_hindrance(text):
    assert PAIR(text) == ("What is {}?", "An empty } set.")


def test_plain_line_breaks_in_strings_are_tolerated():
    assert json_object("a")('{"a": "one\ntwo"}') == "one\ntwo"


def test_values_keep_their_json_types():
    assert json_object("n", "of", "no")('{"n": 1, "of": [1, 2.5], "no": null}') == (1, [1, 2.5], None)


@pytest.mark.parametrize("number", ["NaN", "-Infinity", "1e400", "[1, [NaN]]", '[{"b": 1e400}]'])
def test_a_number_that_is_not_finite_is_none(number):
    with pytest.raises(ValueError, match=r"'[ab]' holds (nan|-?inf), which is no finite number"):
        json_object("a")(f'{{"a": {number}}}')
    assert json_object("c")(f'{{"a": {number}, "c": 1}}') == 1


def test_texts_are_stripped_and_may_be_empty():
    assert json_object("a", "b")('{"a": " x ", "b": ""}') == ("x", "")


def test_the_first_object_with_the_keys_is_taken():
    assert json_object("a")('{"a": 1} {"a": 2}') == 1


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no JSON object"),
        ("just text", "no JSON object"),
        ('{"instruction": "q"}', "no key 'response'"),
        ('{"instruction": "q", "respons": "a"}', "did you mean 'respons'"),
        ('{"instruction": "q", "response": "a', "no whole JSON object"),
        ("{'instruction': 'q', 'response': 'a'}", "no whole JSON object"),
        ('{"a": ' * 100_000, "too deep"),
    ],
)
def test_no_whole_object_with_all_keys_is_unparsed(text, reason):
    assert reason in unparsed(PAIR, text)


def test_an_object_inside_a_broken_one_is_no_answer():
    broken = '{"instruction": "Parse {"instruction": "a", "response": "b"}", "response": "c"}'
    assert "no whole JSON object" in unparsed(PAIR, broken)


def test_json_object_needs_keys():
    with pytest.raises(BindError):
        json_object()


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(st.text(), st.text()), st.text(alphabet="ab`{ \n"))
def test_json_that_was_written_is_read_again(others, around):
    text = around + json.dumps({**others, "instruction": "q", "response": "a {"}) + around
    assert PAIR(text) == ("q", "a {")


# --- every parser


@pytest.mark.parametrize("parser", EVERY_PARSER, ids=repr)
def test_a_repr_is_the_call(parser):
    assert eval(repr(parser)) == parser


@pytest.mark.parametrize("parser", EVERY_PARSER, ids=repr)
def test_a_parser_pickles(parser):
    assert pickle.loads(pickle.dumps(parser)) == parser


def test_fingerprints_tell_parsers_apart():
    assert len({fingerprint(parser) for parser in EVERY_PARSER}) == len(EVERY_PARSER)


def test_a_fingerprint_stays_when_the_parser_is_used():
    before = fingerprint(IN_OUT)
    IN_OUT("INPUT: q\nOUTPUT: a")
    assert fingerprint(split_on("INPUT:", "OUTPUT:")) == fingerprint(IN_OUT) == before


@pytest.mark.parametrize("parser", EVERY_PARSER, ids=repr)
@settings(max_examples=50, deadline=None)
@given(text=st.text())
def test_any_text_is_parsed_or_unparsed_and_what_is_given_is_stripped(parser, text):
    try:
        value = parser(text)
    except ValueError as exc:
        assert str(exc)
    else:
        values = value if isinstance(value, tuple) else (value,)
        assert all(v and v == v.rstrip() and v in text for v in values)


def test_white_is_what_python_strips():
    assert set(WHITE) == {c for c in map(chr, range(0x11_0000)) if c.isspace()}


PIECES = [
    "INPUT:",
    "OUTPUT:",
    "[END]",
    "[RESULT]",
    "[/RESULT]",
    "a",
    "aa",
    "é",
    "**",
    "## ",
    "#",
    "   ",
    "\n",
    "\r",
    "\x1c",
    "　",
]
TEXTS = st.lists(st.sampled_from(PIECES), max_size=14).map("".join) | st.text()
TEXT = pl.String()
WITH_COLUMNS = [
    split_on("INPUT:", "OUTPUT:"),
    split_on("INPUT:", "OUTPUT:", end="[END]"),
    split_on("INPUT:", "OUTPUT:", start_given=True),
    split_on("OUTPUT:", end="a", start_given=True),
    split_on("PUT:", "OUTPUT:"),
    split_on("a", "aa", "*"),
    split_on("## a", "**a**"),
    split_on("a", "## a"),
    split_on("a", "é", "aa"),
    tagged("RESULT"),
    between("a", "aa"),
    between("aa", "é"),
]


def in_columns(parser, texts, dtypes):
    """What the parser finds in all texts at once, text by text."""
    found = parser.columns(pl.Series(texts, dtype=pl.String), dtypes)
    assert [len(column) for column in found] == [len(texts)] * len(dtypes)
    return list(zip(*found, strict=True))


def number_of_values(parser):
    return len(getattr(parser, "markers", "1"))


@pytest.mark.parametrize("parser", WITH_COLUMNS, ids=repr)
@settings(max_examples=50, deadline=None)
@given(texts=st.lists(TEXTS, min_size=1, max_size=20))
def test_columns_give_what_a_call_gives_or_null(parser, texts):
    for text, values in zip(texts, in_columns(parser, texts, [TEXT] * number_of_values(parser)), strict=True):
        if None not in values:
            assert parser(text) == (values if len(values) > 1 else values[0])


@pytest.mark.parametrize("parser", [*WITH_COLUMNS, json_object("a")], ids=repr)
def test_columns_of_no_texts_and_of_null_texts(parser):
    dtypes = [TEXT] * number_of_values(parser)
    assert in_columns(parser, [], dtypes) == []
    assert in_columns(parser, [None, ""], dtypes) == [(None,) * len(dtypes)] * 2


@settings(max_examples=50, deadline=None)
@given(text=TEXTS)
def test_the_columns_of_tagged_settle_every_text(text):
    parser = tagged("RESULT")
    ((found,),) = in_columns(parser, [text], [TEXT])
    if found is None:
        unparsed(parser, text)


@pytest.mark.parametrize("parser", [*WITH_COLUMNS[:4], tagged("RESULT")], ids=repr)
def test_the_columns_settle_a_plain_text(parser):
    text = "INPUT: q é\nOUTPUT: b\n[RESULT] 1 [/RESULT] [END] and on"
    if getattr(parser, "start_given", False):
        text = text.removeprefix("INPUT:") if parser.markers[0] == "INPUT:" else "b"
    ((*values,),) = in_columns(parser, [text], [TEXT] * number_of_values(parser))
    assert None not in values


# --- json_object in columns


@pytest.mark.parametrize("text", ['{"a": "x", "b": 7}', ' {"b":7 , "a":" x"}\n', '```json\n{"a": "x",\n"b": 7\n}\n```'])
def test_one_plain_object_is_settled_in_columns(text):
    assert in_columns(json_object("a", "b"), [text], [TEXT, pl.Int8()]) == [("x", 7)]


@pytest.mark.parametrize(
    "text",
    [
        '{"a": "x", "a": "y"}',  # of which Python takes the last
        '{"a": "\\ud83d"}',
        '{"\\u0061": "x", "b": {"a": "y"}}',
        '{"a": 5}',
        '{"a": true}',
        '{"a": ["x"]}',
        '{"a": null}',
        '{"b": {"a": "x"}}',
        '{"b": "x"}',
        '{"a": "x"',
        '{"a": "x"} {"b": 1}',
        '{"a": "x", "b": ' + "[" * 5_000 + "]" * 5_000 + "}",  # in which Polars would die
    ],
)
def test_what_polars_might_read_otherwise_is_left_to_the_call(text):
    assert in_columns(json_object("a"), [text], [TEXT]) == [(None,)]


@pytest.mark.parametrize("number", ["-0", "1.0", "1e3", "9" * 19, '"5"', "true", "01"])
def test_a_number_that_python_might_take_for_another_type_is_left_to_the_call(number):
    assert in_columns(json_object("n"), [f'{{"n": {number}}}'], [pl.Int64()]) == [(None,)]


@pytest.mark.parametrize("parser", [json_object('a"b'), json_object("é"), json_object("a/b")], ids=repr)
def test_keys_that_json_can_write_in_several_ways_are_left_to_the_call(parser):
    assert parser.columns(pl.Series(["{}"]), [TEXT]) is None


@pytest.mark.parametrize("dtype", [pl.Boolean(), pl.Float32(), pl.Decimal(10, 2), pl.List(pl.String)])
def test_types_that_polars_would_bend_a_value_into_are_left_to_the_call(dtype):
    assert json_object("a").columns(pl.Series(['{"a": 1}']), [dtype]) is None


def test_a_broken_object_is_the_only_one_that_is_left():
    texts = [f'{{"n": {i}}}' for i in range(100)]
    texts[40] = '{"n": 40, oh}'
    assert in_columns(json_object("n"), texts, [pl.Int64()]) == [(None if i == 40 else i,) for i in range(100)]

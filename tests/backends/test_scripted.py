"""The public fake: it says what its script says, and nothing that a real backend could not say."""

from __future__ import annotations

import functools
import pickle
import time
from typing import Any

import polars as pl
import pytest

from agora_frames.backends.scripted import failing, scripted
from agora_frames.errors import BindError, EndpointError
from agora_frames.frames import REPLIES
from agora_frames.stages.generate import build_requests, generate_column


def replies(script: Any, *prompts: str, **sampling: Any) -> pl.DataFrame:
    """All that a script says to these prompts."""
    backend = scripted(script)
    df = pl.DataFrame({"row_id": [str(n) for n in range(len(prompts))], "prompt": prompts})
    return pl.concat(backend(build_requests(df, column="prompt", sampling=sampling, seed=0, backend=backend)))


def of_two(messages: list[dict[str, str]], sampling: dict[str, Any]) -> str:
    return f"{messages[-1]['content']} at {sampling['temperature']}"


class Parrot:
    def __call__(self, messages: list[dict[str, str]]) -> str:
        return messages[-1]["content"]


def test_a_function_is_given_the_messages() -> None:
    assert replies(lambda messages: messages[-1]["content"].upper(), "a", "b")["text"].to_list() == ["A", "B"]


def test_a_function_of_two_values_is_given_the_sampling_too() -> None:
    assert replies(of_two, "a", temperature=0.5)["text"].to_list() == ["a at 0.5"]


def test_an_object_that_can_be_called_is_a_script() -> None:
    assert replies(Parrot(), "a")["text"].to_list() == ["a"]


def test_a_type_written_in_c_is_a_script() -> None:
    assert replies(str, "a")["text"].to_list() == ["[{'content': 'a', 'role': 'user'}]"]


def test_a_partial_function_is_a_script() -> None:
    assert replies(functools.partial(of_two, sampling={"temperature": 9}), "a")["text"].to_list() == ["a at 9"]


def test_a_table_answers_by_the_last_message() -> None:
    assert replies({"a": "A", "b": failing("refused", "no")}, "b", "a")["text"].to_list() == [None, "A"]


def test_a_prompt_that_is_not_in_the_table_is_a_bad_request_that_quotes_it() -> None:
    error = replies({"a": "A"}, "b")["error"][0]
    assert error == {"kind": "bad_request", "message": "the script has no reply to 'b'"}


def test_a_text_is_a_whole_reply_that_cost_nothing() -> None:
    row = replies({"a": "A"}, "a").row(0, named=True)
    assert (row["finish_reason"], row["cost_usd"], row["error"], row["retried"]) == ("stop", 0.0, None, False)


def test_every_field_of_a_reply_can_be_said() -> None:
    said = {
        "text": "t",
        "reasoning": "r",
        "finish_reason": "length",
        "prompt_tokens": 1,
        "completion_tokens": 2,
        "cost_usd": 0.5,
        "latency_s": 3.0,
        "error": {"kind": "truncated", "message": "m"},
        "retried": False,
    }
    df = replies({"a": said}, "a")
    assert df.schema == REPLIES
    assert df.drop("key").row(0, named=True) == {**dict.fromkeys(df.columns[1:]), **said}


def test_a_field_that_no_reply_has_is_refused() -> None:
    with pytest.raises(BindError, match=r"may not hold \['txt'\]"):
        replies({"a": {"txt": "A"}}, "a")


def test_a_list_is_one_reply_for_each_attempt_of_which_all_but_the_last_were_retried() -> None:
    df = replies({"a": [failing("timeout"), failing("rate_limited"), "A"]}, "a")
    assert df["retried"].to_list() == [True, True, False]
    assert df["text"].to_list() == [None, None, "A"]
    assert df["key"].n_unique() == 1


@pytest.mark.parametrize("said", [None, 5, [], [None], ["A", 5]], ids=str)
def test_a_script_that_says_something_else_is_told_what_it_may_say(said: Any) -> None:
    with pytest.raises(BindError, match="to 'a'; it may say a text"):
        replies(lambda messages: said, "a")


def test_an_error_that_the_script_says_is_raised_after_the_replies_before_it() -> None:
    seen: list[str] = []
    backend = scripted({"a": "A", "b": EndpointError("dead")})
    df = pl.DataFrame({"row_id": ["0", "1"], "prompt": ["a", "b"]})
    with pytest.raises(EndpointError, match="dead"):
        for frame in backend(build_requests(df, column="prompt", sampling={}, seed=0, backend=backend)):
            seen += frame["text"].to_list()
    assert seen == ["A"]


def test_a_delay_is_waited_before_each_reply() -> None:
    df = pl.DataFrame({"row_id": ["0", "1"], "prompt": ["a", "b"]})
    begun = time.monotonic()
    generate_column(df, backend=scripted({"a": "A", "b": "B"}, delay_s=0.05))
    assert time.monotonic() - begun >= 0.1


def test_its_name_stands_in_its_repr_and_in_the_call() -> None:
    backend = scripted(of_two, model="m")
    done = generate_column(pl.DataFrame({"row_id": ["0"], "prompt": ["a"]}), backend=backend, temperature=0)
    assert repr(backend) == "scripted(of_two, model='m')"
    assert done["completion_call"].struct.field("model").to_list() == ["m"]


def test_it_travels_to_another_process() -> None:
    assert pickle.loads(pickle.dumps(scripted({"a": "A"}))) == scripted({"a": "A"})


class Desk:
    """A desk that says in turn what it was told to, and notes what is let go of."""

    def __init__(self, *leaves: bool | None) -> None:
        self.leaves, self.tokens = list(leaves), list[int | None]()
        self.released: list[str] = []

    def reserve(self, key: str, *, tokens: int | None, cost_usd: float | None) -> bool | None:
        self.tokens.append(tokens)
        return self.leaves.pop(0)

    def release(self, key: str) -> None:
        self.released.append(key)

    def record(self, reply: Any) -> None:
        pass


def at_a_desk(script: Any, desk: Desk, **sampling: Any) -> pl.DataFrame:
    backend = scripted(script)
    df = pl.DataFrame({"row_id": ["a"], "prompt": ["a"]})
    requests = build_requests(df, column="prompt", sampling=sampling, seed=0, backend=backend)
    return pl.concat(backend.answer(requests, desk=desk))


def test_a_budget_that_has_no_room_just_now_is_waited_for() -> None:
    assert at_a_desk({"a": "A"}, Desk(False, False, True))["text"].to_list() == ["A"]


def test_a_budget_that_will_never_have_room_leaves_the_row_over_budget() -> None:
    done = at_a_desk({"a": "A"}, Desk(False, None))
    assert done["error"].struct.field("kind").to_list() == ["over_budget"]


def test_a_script_that_raises_lets_go_of_what_was_reserved() -> None:
    desk = Desk(True)
    with pytest.raises(EndpointError):
        at_a_desk({"a": EndpointError("gone")}, desk)
    assert len(desk.released) == 1


def test_the_larger_limit_of_tokens_is_reserved() -> None:
    one, both = Desk(True), Desk(True)
    at_a_desk({"a": "A"}, one, max_tokens=1000)
    at_a_desk({"a": "A"}, both, max_tokens=1, max_completion_tokens=1000)
    assert one.tokens[0] is not None
    assert both.tokens[0] is not None
    assert both.tokens[0] >= one.tokens[0]

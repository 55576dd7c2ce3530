"""The embedded vLLM with a real engine on the processor: what it answers, and what becomes of what goes wrong."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import polars as pl
import psutil
import pytest
import tiny_model

from agora_frames.backends import connect
from agora_frames.backends.vllm_engine import VllmEngine, vllm_engine
from agora_frames.errors import BackendError, BindError
from agora_frames.ledger import Ledger
from agora_frames.remembered import remembered
from agora_frames.stages.generate import generate_column

pytestmark = [pytest.mark.vllm, pytest.mark.slow]

TESTS = Path(__file__).parents[1]
SOME = pl.DataFrame({"row_id": ["a", "b", "c"], "prompt": ["Say hello.", "Name a colour.", "What is 2 + 2?"]})
SCHEMA = {
    "type": "object",
    "properties": {"sure": {"type": "boolean"}, "n": {"type": "integer", "minimum": 0, "maximum": 9}},
    "required": ["sure", "n"],
    "additionalProperties": False,
}


def prompts(rows: int) -> pl.DataFrame:
    """Rows of distinct prompts."""
    return pl.DataFrame({"row_id": [f"r{n}" for n in range(rows)], "prompt": [f"Count to {n}." for n in range(rows)]})


def kinds(df: pl.DataFrame) -> list[str | None]:
    return df["completion_error"].struct.field("kind").to_list()


def calls(df: pl.DataFrame, field: str) -> list[Any]:
    return df["completion_call"].struct.field(field).to_list()


# What it answers


def test_every_row_gets_a_reply_with_its_tokens(vllm_tiny: VllmEngine) -> None:
    done = generate_column(SOME, backend=vllm_tiny, max_tokens=4, temperature=0)
    assert all(done["completion"])
    assert kinds(done) == ["truncated"] * 3
    assert calls(done, "completion_tokens") == [4] * 3
    assert all(asked > 10 for asked in calls(done, "prompt_tokens"))
    assert calls(done, "cost_usd") == [0.0] * 3
    assert all(seconds > 0 for seconds in calls(done, "latency_s"))
    assert calls(done, "model")[0].startswith("tiny@")
    assert calls(done, "endpoint")[0].startswith("vllm max_model_len=512 dtype=float32")


def test_a_draw_is_the_same_alone_and_among_others_in_any_order(vllm_tiny: VllmEngine) -> None:
    stage = generate_column(backend=vllm_tiny, max_tokens=12, temperature=1.0, samples=2)
    df = prompts(40)
    whole = stage(df)
    alone = pl.concat([stage(df[n]) for n in (39, 0, 17)])
    expected = whole.filter(pl.col("row_id").is_in(["r0", "r17", "r39"])).sort("row_id", "sample")
    assert alone.sort("row_id", "sample")["completion"].to_list() == expected["completion"].to_list()
    assert whole["completion"].n_unique() > 70


def test_another_seed_gives_another_text(vllm_tiny: VllmEngine) -> None:
    texts = {
        generate_column(SOME[:1], backend=vllm_tiny, max_tokens=12, temperature=1, seed=n)["completion"][0]
        for n in range(3)
    }
    assert len(texts) == 3


@pytest.mark.parametrize(
    "extra",
    [{"top_k": 1}, {"top_k": 1, "min_p": 0.5}, {"min_p": 1.0}, {"top_k": 1, "presence_penalty": 0.0}],
    ids=str,
)
def test_a_draw_among_one_token_is_greedy(vllm_tiny: VllmEngine, extra: dict[str, Any]) -> None:
    greedy = generate_column(SOME, backend=vllm_tiny, max_tokens=8, temperature=0)
    drawn = generate_column(SOME, backend=vllm_tiny, max_tokens=8, temperature=1, extra=extra)
    assert drawn["completion"].to_list() == greedy["completion"].to_list()


def test_a_penalty_changes_the_text(vllm_tiny: VllmEngine) -> None:
    plain = generate_column(prompts(20), backend=vllm_tiny, max_tokens=30, temperature=0)
    other = generate_column(
        prompts(20), backend=vllm_tiny, max_tokens=30, temperature=0, extra={"repetition_penalty": 1.8}
    )
    assert plain["completion"].to_list() != other["completion"].to_list()


def test_a_reply_ends_before_its_stop_text(vllm_tiny: VllmEngine) -> None:
    whole = generate_column(SOME, backend=vllm_tiny, max_tokens=20, temperature=0)
    stop = whole["completion"][0][3:5]
    cut = generate_column(SOME[:1], backend=vllm_tiny, max_tokens=20, temperature=0, stop=stop)
    assert cut["completion"][0] == whole["completion"][0].partition(stop)[0]
    assert (kinds(cut), calls(cut, "finish_reason")) == ([None], ["stop"])


def test_logprobs_tell_each_token_and_the_likeliest_in_its_place(vllm_tiny: VllmEngine) -> None:
    done = generate_column(SOME, backend=vllm_tiny, max_tokens=5, temperature=0, logprobs=3)
    for tokens in calls(done, "logprobs"):
        assert len(tokens) == 5
        for each in tokens:
            assert each["logprob"] == each["top"][0]["logprob"] < 0  # greedy: the likeliest is the one
            assert each["top"] == sorted(each["top"], key=lambda t: -t["logprob"])
            assert len(each["top"]) == 3


def test_logprobs_of_the_prompt_are_told_for_all_but_its_first_token(vllm_tiny: VllmEngine) -> None:
    done = generate_column(SOME, backend=vllm_tiny, max_tokens=1, temperature=0, extra={"prompt_logprobs": 0})
    for tokens, count, prompt in zip(
        calls(done, "prompt_logprobs"), calls(done, "prompt_tokens"), SOME["prompt"], strict=True
    ):
        assert len(tokens) == count
        assert tokens[0]["logprob"] is None
        assert all(each["logprob"] <= 0 for each in tokens[1:])
        assert prompt in "".join(each["token"] or "" for each in tokens)


def test_a_reply_under_a_json_schema_parses_and_fits(vllm_tiny: VllmEngine) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA}}
    done = generate_column(prompts(12), backend=vllm_tiny, max_tokens=40, temperature=1, response_format=form)
    assert kinds(done) == [None] * 12
    answers = [json.loads(text) for text in done["completion"]]
    assert all(a.keys() == {"sure", "n"} and isinstance(a["sure"], bool) and a["n"] in range(10) for a in answers)


def test_a_schema_gives_typed_columns(vllm_tiny: VllmEngine) -> None:
    done = generate_column(prompts(6), backend=vllm_tiny, max_tokens=40, temperature=1, schema=SCHEMA)
    assert (done.schema["sure"], done.schema["n"]) == (pl.Boolean(), pl.Int64())
    assert done["n"].is_between(0, 9).all()
    assert done["completion_parse_error"].is_null().all()


def test_tools_are_refused_before_anything_is_asked(vllm_tiny: VllmEngine) -> None:
    with pytest.raises(BindError, match="tools"):
        generate_column(SOME, backend=vllm_tiny, tools=[{"type": "function", "function": {"name": "f"}}])


@pytest.mark.parametrize(
    ("form", "fits"),
    [({"choice": ["red", "green"]}, r"^(red|green)$"), ({"regex": "[0-9]{3}-[ab]+!"}, r"^\d{3}-[ab]+!$")],
    ids=["choice", "regex"],
)
def test_a_reply_is_one_of_a_choice_or_fits_a_regex(vllm_tiny: VllmEngine, form: dict[str, Any], fits: str) -> None:
    done = generate_column(
        prompts(8), backend=vllm_tiny, max_tokens=60, temperature=1, extra={"structured_outputs": form}
    )
    whole = done.filter(pl.col("completion_error").is_null())["completion"]
    assert whole.len() >= 4
    assert whole.str.contains(fits).all()


def test_the_thoughts_of_a_model_are_split_off(vllm_tiny: VllmEngine) -> None:
    forced = {"structured_outputs": {"regex": "<think>[a-z]{3}</think>[0-9]{2}"}}
    done = generate_column(SOME, backend=vllm_tiny, max_tokens=60, temperature=1, extra=forced)
    assert kinds(done) == [None] * 3
    assert all(len(text) == 2 and text.isdigit() for text in done["completion"])
    assert all(len(thought) == 3 and thought.isalpha() for thought in calls(done, "reasoning"))


def test_a_chat_continues_its_last_message_when_told_to(vllm_tiny: VllmEngine) -> None:
    chat = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "The answer is"}]
    df = pl.DataFrame({"row_id": ["a"], "prompt": [chat]})
    done = generate_column(
        df, backend=vllm_tiny, max_tokens=1, extra={"continue_final_message": True, "prompt_logprobs": 0}
    )
    said = "".join(each["token"] or "" for each in calls(done, "prompt_logprobs")[0])
    assert said.endswith("<|im_start|>assistant\nThe answer is")


# One row's failure is that row's


def test_a_prompt_longer_than_the_context_fails_its_own_row_only(vllm_tiny: VllmEngine) -> None:
    long = SOME.with_columns(prompt=pl.when(pl.col("row_id") == "b").then(pl.lit("word " * 900)).otherwise("prompt"))
    done = generate_column(long, backend=vllm_tiny, max_tokens=2, temperature=0)
    assert kinds(done) == ["truncated", "context_too_long", "truncated"]
    assert "512 tokens" in done["completion_error"][1]["message"]


def test_a_reply_that_reaches_the_end_of_the_context_is_truncated(vllm_tiny: VllmEngine) -> None:
    done = generate_column(SOME[:1], backend=vllm_tiny, temperature=1, extra={"ignore_eos": True})
    assert kinds(done) == ["truncated"]
    assert calls(done, "prompt_tokens")[0] + calls(done, "completion_tokens")[0] == 512


@pytest.mark.parametrize(
    "wrong",
    [
        {"extra": {"top_k": -7}},
        {"extra": {"min_p": 3.0}},
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "nonsense"}}}},
        {"extra": {"structured_outputs": {"regex": "("}}},
        {"extra": {"logit_bias": {"many": 1}}},
        {"extra": {"prompt_logprobs": 400}},
    ],
    ids=str,
)
def test_what_vllm_refuses_is_a_bad_request_in_its_row(vllm_tiny: VllmEngine, wrong: dict[str, Any]) -> None:
    done = generate_column(SOME[:1], backend=vllm_tiny, max_tokens=2, temperature=1, **wrong)
    assert kinds(done) == ["bad_request"]
    assert kinds(generate_column(SOME[:1], backend=vllm_tiny, max_tokens=2)) == ["truncated"]


def test_prompts_longer_than_a_step_do_not_end_the_engine(vllm_tiny: VllmEngine) -> None:
    """A seed of its own and a prompt cut into chunks end vLLM 0.32 on a processor."""
    df = prompts(300).with_columns(prompt=pl.col("prompt") + " and on" * 80)
    done = generate_column(df, backend=vllm_tiny, max_tokens=2, temperature=1)
    assert set(kinds(done)) <= {None, "truncated"}


# What is in the engine


def test_a_frame_is_asked_a_bounded_number_at_a_time(vllm_tiny: VllmEngine) -> None:
    few = sharing(vllm_tiny, in_flight=3)
    desk = Counting()
    replies = pl.concat(few.answer(asked(prompts(60), few), desk=desk))
    assert replies.height == desk.recorded == 60
    assert desk.most == 3


def test_equal_beginnings_are_computed_once(tiny: Path, vllm_tiny: VllmEngine) -> None:
    shared = [f"Book {n}: " + "long ago and far away " * 18 for n in range(8)]
    df = pl.DataFrame({"prompt": [f"{text}? {n}" for n in range(6) for text in shared]}).with_row_index("row_id")
    done = generate_column(df.cast({"row_id": pl.String}), backend=vllm_tiny, max_tokens=1, temperature=0)
    # Of the 6 prompts with the same beginning, the first computes it, and it is in the cache for the others.
    saved = sum(calls(done, "cached_tokens")) / sum(calls(done, "prompt_tokens"))
    assert saved > 0.4


def test_two_frames_may_be_asked_at_the_same_time(vllm_tiny: VllmEngine) -> None:
    stage = generate_column(backend=vllm_tiny, max_tokens=10, temperature=1)
    df = prompts(60)
    expected = stage(df)["completion"].to_list()
    found: dict[int, list[str]] = {}

    def run(n: int) -> None:
        found[n] = stage(df[30 * n : 30 * (n + 1)])["completion"].to_list()

    threads = [threading.Thread(target=run, args=(n,)) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found[0] + found[1] == expected


def test_ten_thousand_rows_pass_through_in_flat_memory(vllm_tiny: VllmEngine, tmp_path: Path) -> None:
    # All of as many tokens: vLLM keeps what it makes for each new number of tokens that a step has.
    df = prompts(10_000).with_columns(
        prompt="Count to " + pl.int_range(10_000).cast(pl.String).str.zfill(5).str.split("").list.join("~")
    )
    held: list[int] = []

    def observer(finished: pl.DataFrame) -> None:
        held.append(resident(vllm_tiny.engine.pid))

    done = generate_column(
        df, backend=remembered(vllm_tiny, ledger=Ledger(tmp_path)), max_tokens=2, temperature=1, observer=observer
    )
    assert set(kinds(done)) <= {None, "truncated"}
    assert len(held) > 8
    # Well before the half, all pages of the cache of keys and values have been touched.
    assert held[-1] - held[len(held) // 2] < 32 << 20


# Its end, and its next life


def test_an_engine_that_is_killed_is_begun_again_and_only_what_was_in_it_is_asked_again(
    vllm_tiny: VllmEngine, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"max_tokens": 40, "temperature": 1, "extra": {"ignore_eos": True}}
    undisturbed = generate_column(prompts(800), backend=vllm_tiny, **settings)
    killed: list[int] = []

    def observer(finished: pl.DataFrame) -> None:
        if not killed:
            assert vllm_tiny.engine.pid
            killed.append(vllm_tiny.engine.pid)
            os.kill(killed[0], signal.SIGKILL)

    model = remembered(vllm_tiny, ledger=Ledger(tmp_path))
    done = generate_column(prompts(800), backend=model, observer=observer, **settings)
    assert vllm_tiny.engine.pid not in (None, *killed)
    assert set(kinds(done)) == {"truncated"}
    assert done["completion"].to_list() == undisturbed["completion"].to_list()
    ledger = Ledger(tmp_path).frame()
    assert ledger.height == ledger["key"].n_unique() == 800  # what was recorded before is asked by neither life


def lethal(monkeypatch: pytest.MonkeyPatch, backend: VllmEngine, *poison: bytes) -> list[bytes]:
    """The engine is killed whenever it is sent one of these texts; gives what it is sent."""
    send = backend.engine.send
    seen: list[bytes] = []

    def sent(lines: bytes, life: int) -> None:
        seen.append(lines)
        if any(text in lines for text in poison):
            assert backend.engine.pid
            os.kill(backend.engine.pid, signal.SIGKILL)
        send(lines, life)

    monkeypatch.setattr(backend.engine, "send", sent)
    return seen


def sharing(of: VllmEngine, **options: Any) -> VllmEngine:
    """A backend with other options and the same process."""
    other = vllm_engine(of.folder, **tiny_model.SETTINGS, **options)
    object.__setattr__(other, "engine", of.engine)
    return other


def test_requests_that_kill_the_engine_fail_alone(
    vllm_tiny: VllmEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lethal(monkeypatch, vllm_tiny, b"Count to 13.", b"Count to 14.")
    model = remembered(sharing(vllm_tiny, in_flight=8, restarts=2), ledger=Ledger(tmp_path))
    done = generate_column(prompts(40), backend=model, max_tokens=4, temperature=1)
    failed = done.filter(pl.col("completion_error").struct.field("kind") == "server_error")
    assert failed["row_id"].to_list() == ["r13", "r14"]
    assert "also when nothing else was" in failed["completion_error"][0]["message"]
    assert done["completion"].null_count() == 2
    assert Ledger(tmp_path).frame()["key"].n_unique() == 40
    monkeypatch.undo()
    assert set(kinds(generate_column(prompts(40), backend=model, max_tokens=4, temperature=1))) <= {None, "truncated"}


def test_a_request_that_shares_the_engine_with_one_that_kills_it_is_not_blamed(
    vllm_tiny: VllmEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = lethal(monkeypatch, vllm_tiny, b"Count to 13.")
    slow: dict[str, Any] = {"max_tokens": 400, "extra": {"ignore_eos": True}}
    with ThreadPoolExecutor(1) as pool:
        innocent = pool.submit(generate_column, prompts(1), backend=sharing(vllm_tiny, restarts=9), **slow)
        while not any(b"Count to 0." in lines for lines in seen):
            time.sleep(0.01)
        with contextlib.suppress(BackendError):  # or it fails alone, where the other is still to come again
            generate_column(prompts(14)[13:], backend=sharing(vllm_tiny, restarts=1), max_tokens=4)
        assert kinds(innocent.result()) == ["truncated"]


def test_an_engine_that_dies_of_everything_ends_the_run(vllm_tiny: VllmEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    lethal(monkeypatch, vllm_tiny, b"Count to")
    with pytest.raises(BackendError, match="died 2 times without a reply"):
        generate_column(prompts(8), backend=sharing(vllm_tiny, restarts=1), max_tokens=4, temperature=1)


def test_the_process_that_vllm_computes_in_is_missed_when_it_is_killed_and_gone_when_the_engine_is_closed(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "1")  # as on a GPU
    backend = vllm_engine(tiny, **tiny_model.SETTINGS)
    killed: list[int | None] = []

    def observer(finished: pl.DataFrame) -> None:
        if not killed:
            (core,) = (p for p in psutil.Process(backend.engine.pid).children() if "EngineCore" in p.name())
            killed.append(backend.engine.pid)
            core.kill()

    model = remembered(backend, ledger=Ledger(tmp_path))
    done = generate_column(
        prompts(400), backend=model, observer=observer, max_tokens=40, temperature=1, extra={"ignore_eos": True}
    )
    assert set(kinds(done)) == {"truncated"}
    assert Ledger(tmp_path).frame()["key"].n_unique() == 400
    leader = backend.engine.pid
    assert leader not in (None, *killed)
    group = [leader, *(p.pid for p in psutil.Process(leader).children(recursive=True))]
    assert len(group) > 1
    backend.close()
    assert not any(alive(pid) for pid in group if pid)


def test_an_adapter_changes_what_is_said_and_the_key_that_it_is_kept_under(
    tiny: Path, vllm_tiny: VllmEngine, tmp_path: Path
) -> None:
    adapted = vllm_engine(tiny, **tiny_model.SETTINGS, adapter=tiny_model.build_adapter(tiny, tmp_path / "poet"))
    plain, changed = (generate_column(SOME, backend=b, max_tokens=8, temperature=0) for b in (vllm_tiny, adapted))
    assert plain["completion"].to_list() != changed["completion"].to_list()
    assert set(calls(plain, "key")).isdisjoint(calls(changed, "key"))
    assert "+poet@" in adapted.model
    # And nobody holds it any more:
    pid = adapted.engine.pid
    assert pid is not None
    del adapted
    gc.collect()
    assert not alive(pid)


def test_what_cannot_be_loaded_is_an_error_with_the_last_words_of_vllm(tmp_path: Path, tiny: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "nonsense"}')
    with pytest.raises(BackendError, match=r"(?s)could not be started.*nonsense.*What it said last:\n."):
        generate_column(SOME, backend=vllm_engine(tmp_path))


RUN = """
import sys
import polars as pl
import tiny_model
from agora_frames.backends import connect
from agora_frames.stages.generate import generate_column
model = connect("vllm:" + sys.argv[1], ledger=sys.argv[2], in_flight=8, **tiny_model.SETTINGS)
df = pl.DataFrame({"row_id": [f"r{n}" for n in range(200)], "prompt": [f"Count to {n}." for n in range(200)]})
def told(finished):
    print(model.backend.engine.pid, flush=True)
done = generate_column(df, backend=model, max_tokens=60, temperature=1, extra={"ignore_eos": True}, observer=told)
"""


def disturbed(tiny: Path, folder: Path, number: signal.Signals) -> pl.DataFrame:
    """The ledger of a program, without a guard of `__main__`, that got a signal when its first rows were done."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path])}
    command = [sys.executable, "-c", RUN, str(tiny), str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as run:
        assert run.stdout is not None
        said = run.stdout.readline()
        run.send_signal(number)
        _, errors = run.communicate(timeout=120)
    assert said, errors
    assert run.returncode == -number
    assert gone(int(said), within_s=15), "the engine outlived the program"
    return Ledger(folder).frame()


def test_a_program_that_is_killed_or_interrupted_takes_its_engine_with_it_and_is_resumed_where_it_was(
    tiny: Path, vllm_tiny: VllmEngine, tmp_path: Path
) -> None:
    killed = disturbed(tiny, tmp_path, signal.SIGKILL)
    interrupted = disturbed(tiny, tmp_path, signal.SIGINT)
    assert 0 < killed.height < interrupted.height < 200
    model = remembered(vllm_tiny, ledger=Ledger(tmp_path))
    done = generate_column(prompts(200), backend=model, max_tokens=60, temperature=1, extra={"ignore_eos": True})
    ledger = Ledger(tmp_path).frame()
    assert ledger.height == ledger["key"].n_unique() == 200  # nothing that was recorded was asked again
    assert set(kinds(done)) == {"truncated"}
    assert ledger.join(interrupted.select("key", "at"), on=["key", "at"]).height == interrupted.height


# --- helpers ---------------------------------------------------------------------------------------------------------


class Counting:
    """A desk that counts what is at the engine."""

    def __init__(self) -> None:
        self.now = self.most = self.recorded = 0

    def reserve(self, key: str, *, tokens: int | None, cost_usd: float | None) -> bool:
        self.now += 1
        self.most = max(self.most, self.now)
        return True

    def release(self, key: str) -> None:
        self.now -= 1

    def record(self, reply: Any) -> None:
        self.now -= 1
        self.recorded += 1


def asked(df: pl.DataFrame, backend: VllmEngine) -> pl.DataFrame:
    """The requests that a stage would make of the rows."""
    from agora_frames.stages.requests import build_requests

    sampling = {"max_tokens": 8, "temperature": 1.0}
    return build_requests(df, column="prompt", sampling=sampling, seed=0, backend=backend)


def resident(pid: int | None) -> int:
    """Bytes that a process holds in memory."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def alive(pid: int) -> bool:
    """Whether a process runs: one that has ended, and that nobody has asked about, does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def gone(pid: int, *, within_s: float) -> bool:
    until = time.monotonic() + within_s
    while alive(pid) and time.monotonic() < until:
        time.sleep(0.05)
    return not alive(pid)


# On a GPU

ON_GPU: dict[str, Any] = {"max_model_len": 512, "gpu_memory_utilization": 0.3}


@pytest.mark.gpu
def test_on_a_gpu_replies_come_and_a_seed_gives_the_same_text(tiny: Path) -> None:
    backend = vllm_engine(tiny, **ON_GPU)  # compiled, and with CUDA graphs, which takes a minute
    stage = generate_column(backend=backend, max_tokens=16, temperature=1, samples=2)
    first, again = stage(prompts(50)), stage(prompts(50))
    backend.close()
    assert set(kinds(first)) <= {None, "truncated"}
    assert first["completion"].to_list() == again["completion"].to_list()


@pytest.mark.gpu
def test_on_a_gpu_an_engine_of_several_processes_leaves_none_behind(tiny: Path) -> None:
    backend = vllm_engine(tiny, **ON_GPU, engine_args={"enforce_eager": True})
    generate_column(SOME, backend=backend, max_tokens=4)
    leader = backend.engine.pid
    assert leader is not None
    group = [leader, *(p.pid for p in psutil.Process(leader).children(recursive=True))]
    assert len(group) > 1
    backend.close()
    assert not any(alive(pid) for pid in group)


@pytest.mark.gpu
def test_on_a_gpu_the_memory_is_free_after_the_end(tiny: Path) -> None:
    import torch

    before = torch.cuda.mem_get_info()[0]
    backend = vllm_engine(tiny, **ON_GPU, engine_args={"enforce_eager": True})
    generate_column(SOME, backend=backend, max_tokens=4)
    assert torch.cuda.mem_get_info()[0] < before
    backend.close()
    assert torch.cuda.mem_get_info()[0] > before - (1 << 28)


def test_it_refuses_what_it_does_not_know_before_anything_is_started(tiny: Path) -> None:
    cold = vllm_engine(tiny)
    with pytest.raises(BindError, match="no parameter 'topk'; did you mean 'top_k'"):
        generate_column(SOME, backend=cold, extra={"topk": 4})
    assert cold.engine.pid is None


def test_it_travels_to_another_process_without_its_engine(vllm_tiny: VllmEngine) -> None:
    travelled = pickle.loads(pickle.dumps(vllm_tiny))
    assert (travelled.model, travelled.endpoint, repr(travelled)) == (
        vllm_tiny.model,
        vllm_tiny.endpoint,
        repr(vllm_tiny),
    )
    assert travelled.engine.pid is None


def test_connect_knows_it(tiny: Path, tmp_path: Path) -> None:
    model = connect(f"vllm:{tiny}", ledger=tmp_path, dtype="float32", max_model_len=64)
    assert repr(model).startswith("remembered(vllm_engine('tiny', max_model_len=64, dtype='float32')")

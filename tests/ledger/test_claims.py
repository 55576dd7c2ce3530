"""Claims: of all who want a key at once, one gets it; what the dead held is free."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import polars as pl
import pytest
from ledgers import child

from agora_frames.ledger import Ledger
from agora_frames.ledger.claims import claimed


def series(*keys: str) -> pl.Series:
    return pl.Series("key", keys, dtype=pl.String)


def test_what_nobody_holds_is_mine_in_the_order_in_which_it_was_wanted(tmp_path: Path) -> None:
    with claimed(tmp_path, series("b", "a", "c")) as claim:
        assert claim.mine.to_list() == ["b", "a", "c"]


def test_what_another_holds_is_not_mine(tmp_path: Path) -> None:
    with claimed(tmp_path, series("a", "b")), claimed(tmp_path, series("b", "c"), who="x") as other:
        assert other.mine.to_list() == ["c"]


def test_what_was_let_go_of_is_free_and_leaves_no_file(tmp_path: Path) -> None:
    with claimed(tmp_path, series("a")):
        pass
    assert list(tmp_path.glob("*.keys")) == []
    with claimed(tmp_path, series("a")) as again:
        assert again.mine.to_list() == ["a"]


def test_a_claim_ends_also_when_what_is_done_with_it_fails(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="wrong"), claimed(tmp_path, series("a")):
        raise ValueError("wrong")
    with claimed(tmp_path, series("a")) as again:
        assert again.mine.to_list() == ["a"]


def test_no_wait_for_those_who_hold_nothing_that_is_wanted(tmp_path: Path) -> None:
    with claimed(tmp_path, series("x")), claimed(tmp_path, series("a"), who="x") as mine:
        mine.wait()


def test_a_wait_ends_when_the_holder_lets_go(tmp_path: Path) -> None:
    with claimed(tmp_path, series("a")):
        with claimed(tmp_path, series("a", "b"), who="x") as other:
            pass
        waiting = threading.Thread(target=other.wait)
        waiting.start()
        waiting.join(0.05)
        assert waiting.is_alive()
    waiting.join(5)
    assert not waiting.is_alive()


HOLDS = """
    import sys, time
    import polars as pl
    from pathlib import Path
    from agora_frames.ledger.claims import claimed
    with claimed(Path(sys.argv[1]), pl.Series("key", ["a"])) as claim:
        print("holds", flush=True)
        sys.stdin.readline()
"""


def holder(folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", textwrap.dedent(HOLDS), str(folder)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "holds\n"
    return process


def test_a_wait_ends_when_the_holder_is_killed_and_what_it_held_is_free(tmp_path: Path) -> None:
    with holder(tmp_path) as process:
        with claimed(tmp_path, series("a")) as claim:
            assert claim.mine.to_list() == []
        process.kill()
        claim.wait()
    with claimed(tmp_path, series("a")) as claim:
        assert claim.mine.to_list() == ["a"]
        assert len(list(tmp_path.glob("*.keys"))) == 1


def test_a_wait_can_be_interrupted(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    # A suite that was begun in the background, with `&`, ignores what a Ctrl-C sends.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    with claimed(tmp_path, series("a")):
        with claimed(tmp_path, series("a"), who="x") as other:
            pass
        interrupts = threading.Timer(0.05, os.kill, [os.getpid(), signal.SIGINT])
        interrupts.start()
        with pytest.raises(KeyboardInterrupt):
            other.wait()


def test_many_threads_that_want_the_same_get_each_key_once(tmp_path: Path) -> None:
    wanted = series(*map(str, range(50)))
    got: list[str] = []

    def work() -> None:
        with claimed(tmp_path, wanted) as claim:
            got.extend(claim.mine)
            together.wait()

    together = threading.Barrier(8)
    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(got) == sorted(wanted)


def test_a_thread_does_not_wait_for_itself(tmp_path: Path) -> None:
    with claimed(tmp_path, series("a")), claimed(tmp_path, series("a")) as again:
        assert again.mine.to_list() == ["a"]
        again.wait()


def test_on_an_object_store_everybody_gets_all() -> None:
    ledger = Ledger("memory://claims/ledger")
    with ledger.claim(series("a")) as one, ledger.claim(series("a")) as other:
        assert one.mine.to_list() == other.mine.to_list() == ["a"]
        other.wait()


def test_a_claim_of_50_000_keys_is_one_file(tmp_path: Path) -> None:
    keys = pl.Series("key", [f"{n:032x}" for n in range(50_000)])
    with claimed(tmp_path, keys), claimed(tmp_path, keys, who="x") as other:
        assert other.mine.is_empty()


def test_two_processes_of_the_same_host_name_and_pid_are_two_holders(tmp_path: Path) -> None:
    # Two containers of one name, where each process is the first, differ in nothing but this.
    with holder(tmp_path) as process:
        (claim,) = tmp_path.glob("*.keys")
        theirs = claim.name.partition("-")[0]
        with claimed(tmp_path, series("x")):
            (mine,) = (path.name.partition("-")[0] for path in tmp_path.glob("*.keys") if path != claim)
        process.kill()
    said, own = theirs.split("_"), mine.split("_")
    assert len(said[-2]) == len(own[-2]) == 16
    assert said[-2] != own[-2]


def test_the_threads_of_a_process_and_its_claims_one_after_the_other_have_the_same_token(tmp_path: Path) -> None:
    names = []
    for _ in range(2):
        with claimed(tmp_path, series("a")):
            names += [path.name.partition("-")[0] for path in tmp_path.glob("*.keys")]
    assert names[0] == names[1]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_has_a_token_of_its_own() -> None:
    # Not a whole claim: the threads of Polars do not survive a fork.
    child(
        """
        import os
        from agora_frames.ledger.claims import _process
        mine, told = _process(os.getpid()), os.pipe()
        if not os.fork():
            os.write(told[1], _process(os.getpid()).encode())
            os._exit(0)
        theirs = os.read(told[0], 100).decode()
        assert theirs.split()[1] != mine.split()[1]
        assert mine == _process(os.getpid())
        """
    )

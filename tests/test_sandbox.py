"""Untrusted code has no say in its verdict, and leaves nothing behind."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agora_frames.errors import BindError, FrameError
from agora_frames.fingerprint import fingerprint
from agora_frames.frames import OUTCOMES
from agora_frames.sandbox import isolation, run_python, sandbox
from agora_frames.sandboxed.examiner import free_names

ISOLATED = isolation()[0]
MODES = [
    pytest.param(True, id="namespaces", marks=pytest.mark.skipif(not ISOLATED, reason="no namespaces here")),
    pytest.param(False, id="limits"),
]
IN_BOTH = pytest.mark.parametrize("isolated", MODES)
TESTS = "assert double(2) == 4\nassert double(-7) == -14"
GOOD = "def double(x): return 2 * x\n"


def run(code: str, tests: str = TESTS, *, isolated: bool = ISOLATED, **limits: Any) -> dict[str, Any]:
    limits = {
        "timeout_s": 20,
        "wall_s": 30,
        "memory_mb": 256,
        "isolated": isolated,
        "allow_unsafe_code": True,
        **limits,
    }
    return run_python(pl.DataFrame({"code": [code], "tests": [tests]}), **limits).row(0, named=True)


# --- what is asked of it ---------------------------------------------------------------------------------------------


@IN_BOTH
def test_right_code_passes_and_wrong_code_fails(isolated: bool) -> None:
    assert run(GOOD, isolated=isolated)["status"] == "passed"
    assert run("def double(x): return x + 2", isolated=isolated) | {"seconds": 0} == {
        "status": "failed",
        "message": "at 'assert double(-7) == -14'",
        "output": "",
        "seconds": 0,
    }


@IN_BOTH
def test_outcomes_come_in_the_order_of_the_programs(isolated: bool) -> None:
    slow = "import time; time.sleep(0.5)\n" + GOOD
    codes = [slow, GOOD, "def double(x): return 0", None, "def double(x: return", slow, "import os; os._exit(3)", GOOD]
    done = sandbox(allow_unsafe_code=True, isolated=isolated, workers=3)(
        pl.DataFrame({"code": codes, "tests": [TESTS] * 8})
    )
    assert done.schema == OUTCOMES
    assert done["status"].to_list() == ["passed", "passed", "failed", "no_code", "error", "passed", "exited", "passed"]


def test_no_programs_give_no_outcomes() -> None:
    done = run_python(pl.DataFrame(schema={"code": pl.String}), allow_unsafe_code=True)
    assert done.schema == OUTCOMES
    assert done.height == 0


def test_code_without_tests_has_only_to_run() -> None:
    programs = pl.DataFrame({"code": ["print('hello')", "1 / 0"]})
    done = run_python(programs, allow_unsafe_code=True)
    assert done["status"].to_list() == ["passed", "error"]
    assert done["output"].to_list() == ["hello\n", ""]
    assert done["message"][1] == "the code raised ZeroDivisionError: division by zero"


def test_it_must_be_allowed() -> None:
    with pytest.raises(BindError, match="allow_unsafe_code=True"):
        sandbox()
    with pytest.raises(BindError, match="allow_unsafe_code=True"):
        run_python(pl.DataFrame({"code": ["pass"]}))


@pytest.mark.parametrize("wrong", [{"timeout_s": 0}, {"memory_mb": 1.5}, {"workers": -1}, {"processes": True}])
def test_numbers_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(BindError, match=next(iter(wrong))):
        sandbox(allow_unsafe_code=True, **wrong)


def test_a_frame_without_code_is_refused() -> None:
    with pytest.raises(FrameError, match="'code'"):
        run_python(pl.DataFrame({"cod": ["pass"]}), allow_unsafe_code=True)


def test_it_says_what_is_not_protected(caplog: pytest.LogCaptureFixture) -> None:
    there, why = isolation()
    assert "ot protected" in why
    with caplog.at_level(logging.WARNING):
        sandbox(allow_unsafe_code=True)
    assert bool(caplog.records) is not there


def test_it_counts_by_its_limits_and_not_by_how_many_work() -> None:
    one, two, other = (
        fingerprint(sandbox(allow_unsafe_code=True, **given))
        for given in ({"workers": 1}, {"workers": 2}, {"file_mb": 1})
    )
    assert one == two != other


# --- tests and code in two processes ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        *("None", "True", "-3", "10**40", "0.1", "float('inf')", "1 + 2j", "'é\\ud800'", "b'\\x00'", "bytearray(b'a')"),
        *("[1, [2, (3,)]]", "{'a': {1, 2}}", "frozenset({1})", "range(3)", "collections.Counter('aab')"),
        *("collections.OrderedDict(a=1)", "collections.deque([1], maxlen=2)", "collections.defaultdict(int, a=1)"),
        *("fractions.Fraction(1, 3)", "decimal.Decimal('0.10')", "datetime.datetime(2020, 1, 2)"),
    ],
)
def test_plain_data_arrives_as_it_is(value: str) -> None:
    modules = "import collections, datetime, decimal, fractions\n"
    tests = f"{modules}x = {value}\ny = f()\nassert (x, type(x)) == (y, type(y))\nassert same(x)"
    done = run(f"{modules}def f(): return {value}\ndef same(x): return (x, type(x)) == (f(), type(f()))", tests)
    assert (done["status"], done["message"]) == ("passed", "")


@pytest.mark.parametrize(
    ("code", "tests"),
    [
        ("import enum\nclass C(enum.IntEnum):\n  A = 1\ndef f(): return C.A", "assert f() == 1"),
        (
            "from collections import namedtuple\nP = namedtuple('P', 'x y')\ndef f(): return P(1, 2)",
            "assert f() == (1, 2)",
        ),
        ("class S(str): pass\ndef f(): return [S('a')]", "assert f() == ['a']"),
        ("def f():\n  yield from (1, 2)", "assert list(f()) == [1, 2]"),
        ("def f(): return map(str, [1])", "assert [x for x in f()] == ['1']"),
        (
            "class N:\n  def __init__(self, x): self.x = x\ndef f(n): return n.x + n.y",
            "n = N(1)\nn.y = 4\nassert f(n) == 5",
        ),
        ("def f(x):\n  if x < 0: raise ValueError('no')", "try:\n  f(-1)\n  assert False\nexcept ValueError: pass"),
        ("def f(x):\n  class E(KeyError): pass\n  raise E(1)", "try:\n  f(-1)\n  assert False\nexcept KeyError: pass"),
        ("def f(n): return lambda x: x + n", "assert f(2)(3) == 5"),
        (
            "import dataclasses\n@dataclasses.dataclass\nclass D:\n  x: int = 3\ndef f(): return D()",
            "assert f().x == 3",
        ),
        ("seen = []\ndef f(x):\n  seen.append(x)\n  return len(seen)", "assert f(1) == 1\nassert f(1) == 2"),
        ("def f(*, a, b=2): return a + b", "assert f(a=1) == 3"),
        ("LIMIT = 3", "assert LIMIT == 3"),
    ],
)
def test_tests_see_what_they_would_in_one_process(code: str, tests: str) -> None:
    done = run(code, tests)
    assert (done["status"], done["message"]) == ("passed", "")


def test_names_of_pythons_own_are_not_taken_from_the_code() -> None:
    code = "def abs(x): return 0\ndef all(x): return True\ndef double(x): return 1"
    assert run(code, "assert abs(double(2) - 4) < 1e-6")["status"] == "failed"
    programs = pl.DataFrame({"code": ["def sum(x): return 7"], "tests": ["assert sum([1]) == 7"], "names": [["sum"]]})
    assert run_python(programs, allow_unsafe_code=True)["status"].to_list() == ["passed"]


def test_a_name_that_the_code_lacks_is_an_error_that_says_so() -> None:
    assert run("x = 1") | {"seconds": 0, "output": ""} == {
        "status": "error",
        "message": "the tests raised NameError: name 'double' is not defined at 'assert double(2) == 4'",
        "output": "",
        "seconds": 0,
    }


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("assert f(1) == g", ["f", "g"]),
        ("import f\nassert f(1)", []),
        ("def check(f):\n  assert f(h(1))\ncheck(c)", ["c", "h"]),
        ("x = [f(y) for y in z]", ["z", "f"]),
        ("def t():\n  f = 1\n  return f\nassert f(t())", ["f"]),
    ],
)
def test_free_names_are_those_that_the_tests_take_from_the_code(source: str, names: list[str]) -> None:
    assert sorted(free_names(source)) == sorted(names)


DATA = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
    | st.binary(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.tuples(inner, inner) | st.dictionaries(st.text(max_size=4), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(values=st.lists(DATA, min_size=1, max_size=20))
@settings(max_examples=10)
def test_any_data_goes_there_and_back(values: list[Any]) -> None:
    tests = "\n".join(f"assert repr(f({value!r})) == {repr(value)!r}" for value in values)
    done = run("def f(x): return x", tests)
    assert (done["status"], done["message"]) == ("passed", "")


def test_the_same_program_does_the_same_again() -> None:
    code = "import random\ndef f(): return [random.random(), list({'a', 'b', 'c', 'd'}), hash('x')]\nprint(f())"
    done = run_python(pl.DataFrame({"code": [code] * 6}), allow_unsafe_code=True, workers=3)
    assert done["output"].n_unique() == 1


# --- code that wants to pass without being right ---------------------------------------------------------------------

FORGERIES = {
    "exits with 0": "import sys; sys.exit(0)",
    "exits hard": "import os; os._exit(0)",
    "exits when called": "import sys\ndef double(x): sys.exit(0)",
    "exits hard when called": "import os\ndef double(x): os._exit(0)",
    "kills itself": "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
    "prints the verdict": 'print(\'["passed", ""]\', flush=True)\nimport os; os._exit(0)',
    "writes the verdict to every file": (
        'import os\nfor f in range(99):\n  try: os.write(f, b\'["passed", ""]\')\n  except OSError: pass\nos._exit(0)'
    ),
    "answers with what is equal to all": "class A:\n  def __eq__(self, other): return True\ndef double(x): return A()",
    "answers with a number that is equal to all": (
        "class A(int):\n  def __eq__(self, other): return True\n  __hash__ = int.__hash__\ndef double(x): return A(1)"
    ),
    "patches builtins": (
        "import builtins\nbuiltins.AssertionError = Exception\nbuiltins.isinstance = lambda *a: True\n"
        "builtins.compile = builtins.exec = lambda *a: None\ndef double(x): return 1"
    ),
    "brings its own checker": "def check(f): pass\ndef double(x): return 1",
    "patches the tests in memory": (
        "import gc\nfor o in gc.get_objects():\n  if isinstance(o, dict) and 'tests' in o: o['tests'] = ''\n"
        "def double(x): return 1"
    ),
    "patches the frames": (
        "import sys\nf = sys._getframe()\nwhile f:\n  f.f_locals.update(tests='', names=[])\n  f = f.f_back\n"
        "def double(x): return 1"
    ),
    "patches the examiner": (
        "import sys\nfor name, module in list(sys.modules.items()):\n"
        "  if 'examiner' in name: module.examine = lambda *a: ('passed', '')\ndef double(x): return 1"
    ),
    "closes all files": "import os\nos.closerange(0, 256)\ndef double(x): return 1",
    "sends a pickle of its own": (
        "import os, pickle, struct\nclass E:\n  def __reduce__(self): return exec, ('import os; os._exit(0)',)\n"
        "m = pickle.dumps((None, E()))\nos.write(3, struct.pack('>Q', len(m)) + m)\ndef double(x): return 1"
    ),
    "redefines equality of a type that may come": (
        "import os, pickle, struct\n"
        "m = b'\\x80\\x02cfractions\\nFraction\\n}(X\\x06\\x00\\x00\\x00__eq__cbuiltins\\nint\\nu\\x86b.'\n"
        "os.write(3, struct.pack('>Q', len(m)) + m)\ndef double(x): return 1"
    ),
    "raises what the tests might catch": "def double(x): raise AssertionError",
    "ends a loop of the tests": "def double(x): raise StopIteration",
    "raises what is no Exception": "def double(x): raise GeneratorExit",
    "raises something without a text": (
        "class E(BaseException):\n  def __str__(self): raise self\ndef double(x): raise E"
    ),
    "never answers": "import os\ndef double(x): os.close(3)",
    "answers twice": (
        "import os, pickle, struct\nm = pickle.dumps((None, 4))\n"
        "def double(x):\n  os.write(3, struct.pack('>Q', len(m)) + m)\n  return 4"
    ),
    "lies about the length": "import os, struct\ndef double(x): os.write(3, struct.pack('>Q', 2**63))",
    "kills its parent": "import os, signal\nos.kill(os.getppid(), signal.SIGKILL)\ndef double(x): return 1",
    "kills all it can": "import os, signal\nos.kill(-1, signal.SIGKILL)\ndef double(x): return 1",
    "looks for its examiner": (
        "import os\nfor p in range(1, 50):\n  try:\n    with open(f'/proc/{p}/mem', 'r+b') as f: f.write(b'x')\n"
        "  except OSError: pass\ndef double(x): return 1"
    ),
}


@IN_BOTH
@pytest.mark.parametrize("name", FORGERIES)
def test_code_does_not_pass_without_being_right(name: str, isolated: bool) -> None:
    if "all it can" in name and not isolated:
        pytest.skip("without namespaces it would end what this user runs on the machine")
    tests = f"{TESTS}\nassert all(map(double, [1, 2]))" if "loop" not in name else "assert all(map(double, [1, 2]))"
    assert run(FORGERIES[name], tests, isolated=isolated)["status"] not in ("passed", "no_code", "lost")


@IN_BOTH
def test_code_that_ends_what_watches_it_is_wrong_and_not_left_out(isolated: bool) -> None:
    target = "-1" if isolated else "os.getppid()"
    code = f"import os, signal\nos.kill({target}, signal.SIGKILL)\ndef double(x): return 1"
    programs = pl.DataFrame({"code": [code, GOOD, code], "tests": [TESTS] * 3})
    done = run_python(programs, allow_unsafe_code=True, isolated=isolated, workers=1)
    assert done["status"].to_list()[1] == "passed"
    assert set(done["status"]) <= {"exited", "failed", "error", "passed"}


@IN_BOTH
def test_code_that_stops_its_group_stops_itself_alone(isolated: bool) -> None:
    code = "import os, signal\nos.kill(0, signal.SIGSTOP)"
    # So much is still being read when the code stops all that it can.
    programs = pl.DataFrame({"code": [code, GOOD], "tests": ["#" * 50_000_000, TESTS]})
    done = run_python(programs, allow_unsafe_code=True, isolated=isolated, workers=1, wall_s=2.0)
    assert done["status"].to_list() == ["timeout", "passed"]


@pytest.mark.skipif(
    os.getuid() != 0 or all(folder.stat().st_mode & 1 for folder in Path(os.__file__).resolve().parents),
    reason="anybody may read Python here, or this is not root",
)
def test_a_python_that_code_may_not_read_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    sandbox(allow_unsafe_code=True, isolated=False)
    assert "who may not enter '/" in caplog.text
    caplog.clear()
    if ISOLATED:
        sandbox(allow_unsafe_code=True)
        assert not caplog.text


def test_nothing_of_the_tests_is_in_the_memory_of_the_code() -> None:
    tests = "assert double(2) == 4, 'SECRET' + '_OF_THE_TESTS'\n" + "# EXPECTED_HERE\n" * 100
    code = """
import ctypes, gc, re, sys
def double(x):
    low = min(id(o) for o in gc.get_objects()) & ~0xffff
    found = 0
    for o in gc.get_objects():
        try:
            text = ctypes.string_at(id(o), 4096)
        except Exception:
            continue
        found += len(re.findall(b"EXPECTED[_]HERE", text))  # a pattern that does not find itself in the memory
    print("found", found)
    return 5
"""
    programs = pl.DataFrame({"code": [GOOD, code], "tests": [tests] * 2})
    done = run_python(programs, allow_unsafe_code=True, workers=1)
    assert done["status"].to_list() == ["passed", "failed"]
    assert done["output"][1] == "found 0\n"


# --- code that wants to do harm --------------------------------------------------------------------------------------

HOSTILE = {
    "fork bomb": ("import os\nwhile True:\n  try: os.fork()\n  except OSError: pass", {"timeout"}),
    "thread bomb": (
        "import threading, time\nwhile True:\n  threading.Thread(target=time.sleep, args=(9,)).start()",
        {"error", "timeout", "memory"},
    ),
    "memory bomb": ("x = []\nwhile True: x.append(' ' * 10**7)", {"memory"}),
    "memory bomb of many": (
        "import os, time\nfor _ in range(8): os.fork()\nx = b'x' * (150 << 20)\ntime.sleep(60)",
        {"memory", "timeout", "error"},
    ),
    "infinite loop": ("while True: pass", {"timeout"}),
    "infinite sleep": ("import time; time.sleep(1000)", {"timeout"}),
    "ignores SIGTERM and what limits send": (
        "import signal\nfor s in range(1, 65):\n  try: signal.signal(s, signal.SIG_IGN)\n  except Exception: pass\n"
        "while True: pass",
        {"timeout", "exited"},
    ),
    "deep recursion": ("import sys\nsys.setrecursionlimit(10**9)\ndef f(n): return f([n])\nf(1)", {"exited", "memory"}),
    "recursion": ("def f(): return f()\nf()", {"error"}),
    "1 GB printed": ("for _ in range(1024): print('x' * 2**20)", {"output"}),
    "1 GB printed hard": ("import os\nfor _ in range(1024): os.write(2, b'x' * 2**20)", {"output"}),
    "huge file": ("with open('f', 'wb') as f:\n  for _ in range(1024): f.write(b'x' * 2**20)", {"error"}),
    "many files": ("for i in range(10**6): open(f'{i}', 'w').write('x' * 4096)", {"error", "timeout"}),
    "crash": ("import ctypes; ctypes.string_at(0)", {"exited"}),
    "huge number": ("def double(x): return 10 ** (10 ** 9)", {"timeout", "memory", "error"}),
    "huge answer": ("def double(x): return [0] * 10**8", {"memory", "timeout", "error", "exited"}),
    "syntax error": ("def double(x: return", {"error"}),
    "null byte": ("x = '\0'", {"error"}),
    "half a character told": ("raise ValueError(chr(0xD800))", {"error"}),
    "half a character printed": ("print(chr(0xD800)); 1 / 0", {"error"}),
}


@IN_BOTH
@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.slow
def test_hostile_code_fails_and_the_next_program_is_none_the_worse(name: str, isolated: bool) -> None:
    code, expected = HOSTILE[name]
    code = f"import os; print(os.getcwd(), flush=True)\n{code}"
    programs = pl.DataFrame({"code": [code, GOOD], "tests": [TESTS] * 2})
    limits = {"timeout_s": 4, "wall_s": 8, "memory_mb": 256, "processes": 8, "workers": 1, "allow_unsafe_code": True}
    done = run_python(programs, isolated=isolated, **limits)
    assert done["status"][0] in expected, done.row(0)
    assert done["status"][1] == "passed", done.row(1)
    assert len(done["output"][0]) <= 64 << 10
    folder = done["output"][0].partition("\n")[0]  # none, where the code is no Python
    assert isolated or not folder or not Path(folder).exists()


def test_the_environment_is_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    done = run("import os; print(sorted(os.environ))", "")
    assert "OPENAI_API_KEY" not in done["output"]
    assert "PYTHONPATH" not in done["output"]


@pytest.fixture
def listener() -> Iterator[tuple[socket.socket, list[str]]]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        came: list[str] = []

        def accept() -> None:
            while True:
                try:
                    server.accept()
                except OSError:
                    return
                came.append("somebody")

        threading.Thread(target=accept, daemon=True).start()
        yield server, came


@pytest.mark.skipif(not ISOLATED, reason="no namespaces here")
def test_there_is_no_network(listener: tuple[socket.socket, list[str]]) -> None:
    server, came = listener
    done = run(f"import socket\nsocket.create_connection(('127.0.0.1', {server.getsockname()[1]}))", "")
    assert done["status"] == "error"
    assert "unreachable" in done["message"]
    assert came == []


@pytest.mark.skipif(not ISOLATED, reason="no namespaces here")
def test_files_of_the_machine_are_neither_seen_nor_written(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    code = f"""
import os
told = []
for path in ({str(tmp_path / "secret")!r}, "/etc/passwd", "/proc/1/environ", "/home", "/var", "/sys"):
    told.append(os.path.exists(path))
for path in ("/x", "/usr/lib/x", "/tmp/../x", os.__file__):
    try:
        open(path, "a")
        told.append(path)
    except OSError:
        told.append(False)
os.symlink("/", "root")
told.append(os.path.exists("root/etc"))
print(any(told), sorted(os.listdir("/")))
open("here", "w").write("fine")
"""
    done = run(code, "")
    assert (done["status"], done["message"]) == ("passed", "")
    assert done["output"].startswith("False ['dev', ")
    assert (tmp_path / "secret").read_text() == "secret"


@IN_BOTH
def test_each_program_begins_in_an_empty_folder(isolated: bool) -> None:
    code = (
        "import os\nprint(os.listdir('.'))\nos.makedirs('a/b')\nopen('a/f', 'w').write('x')\nos.symlink('/', 'a/root')"
    )
    done = run_python(pl.DataFrame({"code": [code] * 3}), allow_unsafe_code=True, workers=1, isolated=isolated)
    assert done["output"].to_list() == ["[]\n"] * 3


@IN_BOTH
def test_daemons_end_with_their_program(isolated: bool) -> None:
    mark = f"agora-daemon-{os.getpid()}-{time.monotonic_ns()}"
    code = f"""
import os, time
if not os.fork():
    os.setsid()
    if not os.fork():
        import ctypes
        ctypes.CDLL(None).prctl(15, b"{mark[-12:]}")
        for fd in range(3): os.close(fd)
        time.sleep(1000)
    os._exit(0)
time.sleep(0.2)
"""
    assert run(code, "", isolated=isolated)["status"] == "passed"
    assert mark[-12:] not in names_of_processes()


def names_of_processes() -> set[str]:
    names = set()
    for path in Path("/proc").glob("[0-9]*/comm"):
        try:
            names.add(path.read_text().strip())
        except OSError:
            continue
    return names


@pytest.mark.skipif(not ISOLATED, reason="no namespaces here")
def test_no_privilege_is_left_or_can_be_won() -> None:
    code = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
print(os.getuid() != 0, libc.unshare(0x10000000), libc.mount(b"tmpfs", b"/work", b"tmpfs", 0, None), libc.setuid(0))
"""
    assert run(code, "")["output"] == "True -1 -1 -1\n"


@pytest.mark.skipif(not ISOLATED, reason="no namespaces here")
def test_shared_memory_does_not_outlive_its_program() -> None:
    code = """
import ctypes
libc = ctypes.CDLL(None)
print(libc.shmget(4711, 4096, 0o600) >= 0)
print(libc.shmget(4711, 4096, 0o600 | 0o1000) >= 0)
"""
    done = run_python(pl.DataFrame({"code": [code] * 2}), allow_unsafe_code=True, workers=1)
    assert done["output"].to_list() == ["False\nTrue\n"] * 2


@pytest.mark.skipif(not ISOLATED, reason="no namespaces here")
def test_packages_in_a_given_folder_can_be_imported(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "helper_of_ours.py").write_text("answer = 42")
    tests = "assert answer() == 42"
    code = "import helper_of_ours\ndef answer(): return helper_of_ours.answer"
    assert run(code, tests, paths=[tmp_path])["status"] == "passed"
    assert run(code, tests)["status"] == "error"

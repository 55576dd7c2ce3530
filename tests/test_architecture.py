"""The house holds: who may import whom, who owns which library, and what no module does."""

from __future__ import annotations

import ast
import socket
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest
import pytest_socket

import agora_frames

ROOT = Path(__file__).parents[1]

# A module may import from the lines above it, and in its own line what stands before it. 4a and 4b do not know each
# other; inside of 4a and of 4b, modules may import each other. (DESIGN, "Layers")
LAYERS = {
    "1": ("errors", "types", "frames"),
    "2": ("hashing", "fingerprint"),
    "3": ("stage", "compose", "book", "rounds"),
    "4a": ("stages", "stages.*", "metrics", "metrics.*", "pgr"),
    "4b": (
        *("formats", "io", "store", "prices", "budget", "ledger", "ledger.*", "remembered", "sandboxed", "sandboxed.*"),
        *("sandbox", "scale", "backends", "backends.*", "plan", "against", "card", "export", "hub"),
    ),
    "5": ("schemas.*", "schemas", "bench.*", "bench", "report", "tokenizer", "importing"),
    "6": ("recipes.*", "recipes"),
    "7": ("discover", "meter", "progress", "display", "run", "cli_*", "cli", "__init__"),
}

# Which modules may import a library; what is not listed, no module may.
OWNERS = {
    "polars": ("*",),
    "cloudpickle": ("stage", "scale"),
    "datasets": ("bench", "bench.*"),
    "fsspec": ("io", "store", "ledger", "ledger.*"),
    "genai_prices": ("prices",),
    "httpx2": ("backends.transport", "backends.openai_batch"),
    "huggingface_hub": ("hub",),
    "IPython": ("progress",),
    "jsonschema": ("stages.structured",),
    "referencing": ("stages.structured",),
    "jinja2": ("stages.prompt", "stages.plain", "stages.sandbox", "metrics.*"),
    "math_verify": ("bench.*",),
    "openai": ("backends.transport", "backends.openai_batch", "backends.embedders"),
    "orjson": (
        *("stages.requests", "metrics.*", "formats", "io", "store", "ledger", "ledger.*", "scale", "sandbox"),
        *("plan", "against", "backends.*", "bench.*", "report", "run", "stages.parameters"),
    ),
    "pandera": ("stages.validate", "schemas.*"),
    "pyreqwest": ("backends.transport",),
    "ray": ("scale",),
    "rensa": ("stages.dedup",),
    "rich": ("progress", "display", "run", "cli_*", "cli"),
    "sklearn": ("metrics.*", "bench.*"),
    "sentence_transformers": ("backends.embedders",),
    "statsmodels": ("bench.*", "report"),
    "tokenizers": ("stages.tokens",),
    "torch": ("metrics.*", "backends.vllm_worker"),
    "transformers": ("metrics.*", "backends.vllm_worker"),
    "uvloop": ("backends.openai_chat",),
    "vllm": ("backends.vllm_worker", "backends.vllm_server"),
    "xllamacpp": ("backends.llama_cpp",),
    "xxhash": ("hashing", "backends.llama_cpp", "backends.vllm_weights"),
    # of the standard library
    "multiprocessing": ("sandbox", "scale"),
    "pickle": ("stage", "sandboxed.*"),
    "socket": ("backends.*", "sandboxed.*"),
    "subprocess": ("sandbox", "backends.*", "bench.math_runner"),
}
HEAVY = (
    "genai_prices",
    "httpx2",
    "huggingface_hub",
    "IPython",
    "jsonschema",
    "openai",
    "pandera",
    "pyreqwest",
    "ray",
    "rensa",
    "rich",
    "tokenizers",
    "sentence_transformers",
    "sklearn",
    "statsmodels",
    "torch",
    "transformers",
    "vllm",
    "xllamacpp",
)
READS_ENVIRONMENT = ("backends", "backends.*", "cli", "cli_data")
MAY_INHERIT = ("errors", "schemas.*")  # errors make one tree; a schema has the columns of another, and more

# Calls that read or write something, when a module makes them while it is imported.
IO_CALLS = {
    *("connect", "exists", "get", "glob", "is_dir", "is_file", "iterdir", "mkdir", "open", "Popen", "print"),
    *("read_bytes", "read_csv", "read_frame", "read_json", "read_ndjson", "read_parquet", "read_text", "rglob", "run"),
    *("scan_csv", "scan_ndjson", "scan_parquet", "stat", "system", "template_file", "urlopen", "write_bytes"),
    *("write_frame", "write_text"),
}
LONGEST_FUNCTION, LONGEST_MODULE = 60, 400


def modules() -> dict[str, Path]:
    """Each module of the package by its name without `agora_frames.`; `recipes` and `schemas` stand at the top."""
    found = {}
    for folder, names in ((ROOT / "agora_frames", ""), (ROOT / "recipes", "recipes."), (ROOT / "schemas", "schemas.")):
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            if not (names == "" and parts[0] in ("recipes", "schemas")):
                found[(names + ".".join(parts)).removesuffix(".__init__")] = path
    return found


def line_of(module: str) -> tuple[str, int] | None:
    """The layer of a module, and its place in the line."""
    for layer, names in LAYERS.items():
        for place, name in enumerate(names):
            if fnmatch(module, name):
                return layer, place
    return None


def may_import(module: str, other: str) -> bool:
    here, there = line_of(module), line_of(other)
    if here is None or there is None or here[0] == there[0]:
        return here is not None and there is not None and (here[0] in ("4a", "4b") or here[1] >= there[1])
    return there[0][0] < here[0][0]


def imports(tree: ast.AST) -> Iterator[tuple[ast.stmt, str]]:
    """Each import statement with the full names that it brings: `a.b` for `import a.b` and `from a import b`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = "." * node.level + (node.module or "")
            yield from ((node, f"{start}.{alias.name}") for alias in node.names)


def own_module(name: str, known: set[str]) -> str:
    """The module that a full name is of: `stages.rows` for `agora_frames.stages.rows.keep_valid`."""
    parts = name.split(".")[1:]
    while parts and ".".join(parts) not in known:
        parts.pop()
    return ".".join(parts) or "__init__"


def violations(module: str, source: str, known: set[str]) -> list[str]:
    """What the house does not allow in a module with that source."""
    tree = ast.parse(source)
    found = [] if line_of(module) else [f"{module} is in no layer"]
    found += import_violations(module, tree, known)
    found += construct_violations(module, tree)
    found += [
        f"line {node.lineno}: {name} at import time" for node, name in import_time_calls(tree) if name in IO_CALLS
    ]
    if source.count("\n") > LONGEST_MODULE:
        found.append(f"{source.count(chr(10))} lines are more than {LONGEST_MODULE}")
    return found


def import_violations(module: str, tree: ast.Module, known: set[str]) -> Iterator[str]:
    in_functions = {
        id(node)
        for f in ast.walk(tree)
        if isinstance(f, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for node in ast.walk(f)
    }
    for node, name in imports(tree):
        library = name.partition(".")[0]
        if name.startswith("."):
            yield f"line {node.lineno}: relative import {name}"
        elif library == "agora_frames":
            other = own_module(name, known)
            if id(node) in in_functions:
                yield f"line {node.lineno}: own import inside a function: {name}"
            if not may_import(module, other):
                yield f"line {node.lineno}: {module} (layer {line_of(module)}) imports {other} (layer {line_of(other)})"
        elif library not in OWNERS and library in sys.stdlib_module_names:
            continue
        elif not any(fnmatch(module, owner) for owner in OWNERS.get(library, ())):
            yield f"line {node.lineno}: {library} is not {module}'s to import"


def construct_violations(module: str, tree: ast.Module) -> Iterator[str]:
    own_names = {name.rpartition(".")[2] for _, name in imports(tree) if name.startswith("agora_frames.")}
    own_names |= {node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Global):
            yield f"line {node.lineno}: global {', '.join(node.names)}"
        if isinstance(node, ast.Name | ast.Attribute | ast.alias):
            name = (
                node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else node.name
            )
            if name in ("ContextVar", "mock") or name.startswith("unittest.mock"):
                yield f"line {node.lineno}: {name}"
            if name in ("environ", "getenv") and not any(fnmatch(module, reader) for reader in READS_ENVIRONMENT):
                yield f"line {node.lineno}: the environment is read"
        if isinstance(node, ast.ClassDef) and not any(fnmatch(module, heir) for heir in MAY_INHERIT):
            bases = [ast.unparse(base).partition("[")[0].rpartition(".")[2] for base in node.bases]
            yield from (f"line {node.lineno}: {node.name} inherits from our own {b}" for b in bases if b in own_names)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or 0) - node.lineno + 1
            if length > LONGEST_FUNCTION:
                yield f"line {node.lineno}: {node.name}() has {length} lines"


def import_time_calls(tree: ast.Module) -> Iterator[tuple[ast.expr, str]]:
    """The calls made while a module is imported: not those inside of functions, but those in their defaults."""
    waiting: list[ast.AST] = [node for node in tree.body if not _is_main(node)]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            waiting += [*node.decorator_list, *node.args.defaults, *filter(None, node.args.kw_defaults)]
        elif not isinstance(node, ast.Lambda):
            waiting += ast.iter_child_nodes(node)
        if isinstance(node, ast.Call):
            yield node, ast.unparse(node.func).rpartition(".")[2]


def _is_main(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and "__name__" in ast.unparse(node.test)


MODULES = modules()
BY_MODULE = pytest.mark.parametrize("module", MODULES)


@BY_MODULE
def test_a_module_keeps_the_rules_of_the_house(module: str) -> None:
    assert violations(module, MODULES[module].read_text(), set(MODULES)) == []


def test_the_package_is_found() -> None:
    assert {"errors", "stages.rows", "backends.scripted", "recipes.hello", "schemas.instances"} <= MODULES.keys()


def all_of(tree: ast.Module) -> list[str] | None:
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return ast.literal_eval(node.value)  # type: ignore[no-any-return]
    return None


def as_ruff_sorts(name: str) -> tuple[bool, bool, str]:
    """CONSTANTS, then Classes, then functions."""
    return not name.isupper(), not name[0].isupper(), name


@BY_MODULE
def test_all_is_sorted_and_tells_every_name_once(module: str) -> None:
    told = all_of(ast.parse(MODULES[module].read_text()))
    assert told is None or told == sorted(set(told), key=as_ruff_sorts)


@pytest.mark.parametrize("name", [name for name in MODULES if not name.startswith(("recipes", "schemas", "cli"))])
def test_a_module_that_offers_something_says_what(name: str) -> None:
    tree = ast.parse(MODULES[name].read_text())
    offers = [n.name for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef) and n.name[0] != "_"]
    assert not offers or all_of(tree)


def test_the_public_names_are_there() -> None:
    assert [name for name in agora_frames.__all__ if not hasattr(agora_frames, name)] == []


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = "import sys, agora_frames; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=True, text=True).stdout.split()
    assert [name for name in HEAVY if name in loaded] == []


def test_no_test_patches_what_it_tests() -> None:
    patching = [
        path.name
        for path in (ROOT / "tests").rglob("*.py")
        for _, name in imports(ast.parse(path.read_text()))
        if name.startswith(("unittest.mock", "mock.", "pytest_mock"))
    ]
    assert patching == []


def test_tests_reach_no_other_host() -> None:
    with pytest.raises(pytest_socket.SocketConnectBlockedError), pytest.warns(UserWarning, match="tried to use socket"):
        socket.create_connection(("192.0.2.1", 80), timeout=0.1)


# --- the tests are tested --------------------------------------------------------------------------------------------

KNOWN = {
    "errors",
    "frames",
    "fingerprint",
    "stage",
    "compose",
    "stages",
    "stages.rows",
    "stages.parse",
    "io",
    "ledger",
    "backends.chat",
    "schemas",
    "schemas.seeds",
    "recipes.hello",
    "cli",
}


def reported(module: str, source: str) -> list[str]:
    return violations(module, source, KNOWN)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("errors", "from agora_frames.frames import require"),
        ("frames", "from agora_frames.fingerprint import fingerprint"),
        ("stage", "from agora_frames.compose import recipe"),
        ("stage", "from agora_frames.stages import rows"),
        ("stage", "import agora_frames.stages.rows"),
        ("stage", "from agora_frames import cli"),
        ("stages.rows", "import agora_frames"),
        ("stages.rows", "from agora_frames import Stage"),
        ("stages.rows", "from agora_frames.io import read_frame"),
        ("io", "from agora_frames.stages.rows import keep_valid"),
        ("backends.chat", "from agora_frames.stages.parse import parse_column"),
        ("ledger", "from agora_frames.schemas import Seed"),
        ("compose", "from agora_frames.schemas.seeds import Seed"),
        ("compose", "from agora_frames.recipes.hello import hello"),
        ("schemas.seeds", "from agora_frames.recipes.hello import hello"),
        ("compose", "if TYPE_CHECKING:\n    from agora_frames.schemas import Seed"),
    ],
)
def test_an_import_upwards_or_sideways_is_reported(module: str, source: str) -> None:
    assert len(reported(module, source)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("frames", "from agora_frames.errors import FrameError"),
        ("compose", "from agora_frames.stage import Stage"),
        ("stages.parse", "from agora_frames.stages.rows import keep_valid"),
        ("stages.parse", "from agora_frames.stages import rows"),
        ("ledger", "from agora_frames.io import read_frame"),
        ("io", "from agora_frames.ledger import Ledger"),
        ("recipes.hello", "from agora_frames.schemas import Seed\nfrom agora_frames.io import read_frame"),
        ("cli", "from agora_frames.recipes import hello"),
        ("stages.rows", "import re, math\nimport polars as pl\nfrom collections.abc import Sequence"),
    ],
)
def test_an_import_downwards_is_not_reported(module: str, source: str) -> None:
    assert reported(module, source) == []


@pytest.mark.parametrize(
    ("module", "source", "told"),
    [
        ("compose", "def f():\n    from agora_frames.stage import Stage", "line 2: own import inside a function"),
        (
            "compose",
            "class A:\n    def f(self):\n        import agora_frames.stage",
            "line 3: own import inside a function",
        ),
        ("stages.rows", "from .parse import parse_column", "line 1: relative import .parse.parse_column"),
        ("stages.rows", "import pandera.polars as pa", "line 1: pandera is not stages.rows's to import"),
        ("stages.rows", "def f():\n    import openai", "line 2: openai is not stages.rows's to import"),
        ("stages.rows", "import requests", "line 1: requests is not stages.rows's to import"),
        ("stages.rows", "from subprocess import run", "line 1: subprocess is not stages.rows's to import"),
        ("io", "from xllamacpp import Server", "line 1: xllamacpp is not io's to import"),
        ("ledger", "import rich.table", "line 1: rich is not ledger's to import"),
        ("ledger", "import pickle", "line 1: pickle is not ledger's to import"),
        ("nowhere", "", "nowhere is in no layer"),
        ("io", "def f():\n    global a\n    a = 1", "line 2: global a"),
        ("io", "from contextvars import ContextVar", "line 1: ContextVar"),
        ("io", "import contextvars\nrun = contextvars.ContextVar('run')", "line 2: ContextVar"),
        ("io", "from unittest import mock", "line 1: mock"),
        ("io", "import os\na = os.environ['A']", "line 2: the environment is read"),
        ("io", "import os\ndef f():\n    return os.getenv('A')", "line 3: the environment is read"),
        ("stages.rows", "from os import environ", "line 1: the environment is read"),
        ("io", "class A: pass\nclass B(A): pass", "line 2: B inherits from our own A"),
        (
            "io",
            "from agora_frames.stage import Stage\nclass B(Stage[int]): pass",
            "line 2: B inherits from our own Stage",
        ),
        ("io", "from pathlib import Path\nA = Path('a').read_text()", "line 2: read_text at import time"),
        ("io", "def f(a=open('a')): pass", "line 1: open at import time"),
        ("io", "class A:\n    b = [print(i) for i in range(3)]", "line 2: print at import time"),
        ("recipes.hello", "T = template_file('a.jinja')", "line 1: template_file at import time"),
        ("io", "def f():\n" + "    a = 1\n" * 60, "line 1: f() has 61 lines"),
        ("io", "\n" * 401, "401 lines are more than 400"),
    ],
)
def test_what_a_module_may_not_do_is_reported(module: str, source: str, told: str) -> None:
    (found,) = reported(module, source)
    assert found.startswith(told)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("errors", "class A(Exception): pass\nclass B(A): pass"),
        ("io", "import enum\nclass A(enum.Enum): pass"),
        ("io", "def f():\n    return open('a')"),
        ("io", "f = lambda: open('a')"),
        ("io", "if __name__ == '__main__':\n    print('a')"),
        ("cli", "import os\ndef f():\n    return os.environ.get('AGORA_STORE')"),
        ("backends.chat", "def f():\n    import subprocess"),
        ("stages.validate", "def f():\n    import pandera.polars as pa"),
        ("io", "def f():\n" + "    a = 1\n" * 59),
    ],
)
def test_what_a_module_may_do_is_not_reported(module: str, source: str) -> None:
    assert reported(module, source) == []

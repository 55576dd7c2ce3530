"""All nine settings of AgoraBench, end to end: with a scripted model at 10,000 rows each, and with the embedded one.

    python benchmarks/nine.py                    # both; the embedded model takes most of the time
    python benchmarks/nine.py --only scripted --rows 10000
    python benchmarks/nine.py --only real --rows 8

Each setting runs in a process of its own, on a ledger of its own. Scripted: one reply in five keeps to no form, one in
fifty is cut short, one in 200 says what another one said; seconds are with those of the script. Real: how many of
`--tries` replies in free form are accepted, and then so many rows as are wanted, in JSON where those are too few.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
METHODS = ("instance_generation", "response_generation", "quality_enhancement")
DOMAINS = ("math", "code", "general")
_FREE_FORM_ENOUGH = 0.2
_PASSED_ON = ("tries", "most", "temperature", "rows")
_LANGUAGES = {"Python": "python", "Java": "java", "C++": "cpp", "C": "c", "JavaScript": "javascript"}
_LANGUAGES |= {"C#": "csharp", "PHP": "php"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=["scripted", "real"])
    parser.add_argument("--rows", type=int, help="accepted rows of each setting (10,000 scripted, 8 real)")
    parser.add_argument("--tries", type=int, default=12, help="replies in free form of the embedded model")
    parser.add_argument("--most", type=int, default=40, help="candidates of the embedded model, two attempts at each")
    parser.add_argument("--temperature", type=float, default=0.7, help="of the embedded model")
    parser.add_argument("--methods", nargs="*", default=METHODS)
    parser.add_argument("--domains", nargs="*", default=DOMAINS)
    parser.add_argument("--output", type=Path, default=HERE / "results" / "nine.json")
    parser.add_argument("--one", nargs=3, metavar=("KIND", "METHOD", "DOMAIN"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        kind, method, domain = args.one
        print(json.dumps({"scripted": scripted, "real": real}[kind](method, domain, args)))
        return
    told = json.loads(args.output.read_text()) if args.output.exists() else {}
    for kind in ("scripted", "real"):
        if args.only in (None, kind):
            for method in args.methods:
                for domain in args.domains:
                    told.setdefault(kind, {})[f"{method} {domain}"] = found = apart(kind, method, domain, args)
                    print(kind, method, domain, json.dumps(found), flush=True)
                    args.output.write_text(json.dumps(told, indent=1))
    args.output.with_suffix(".md").write_text(tables(told))


def apart(kind: str, method: str, domain: str, args: argparse.Namespace) -> dict[str, Any]:
    """One setting in a process of its own."""
    options = [f"--{name}={value}" for name in _PASSED_ON if (value := getattr(args, name)) is not None]
    command = [sys.executable, str(Path(__file__)), "--one", kind, method, domain, *options]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def scripted(method: str, domain: str, args: argparse.Namespace) -> dict[str, Any]:
    import agora_frames as af

    rows = args.rows or 10_000
    with tempfile.TemporaryDirectory() as folder:
        model = af.remembered(af.scripted(script(method, domain)), ledger=af.Ledger(folder))
        begun, cpu = time.perf_counter(), time.process_time()
        done = made(method, domain, model, rows)
        wall, cpu = time.perf_counter() - begun, time.process_time() - cpu
        model.ledger.close()
    kept = af.keep_valid(done)
    return {
        "wanted": rows,
        "accepted": kept.height,
        "exact": kept.height == rows and kept.select("instruction", "response").n_unique() == rows,
        "asked": done.height,
        "reasons": dict(af.failure_counts(done).select("reason", "rows").iter_rows()),
        "wall_s": round(wall, 1),
        "cpu_s": round(cpu, 1),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def made(method: str, domain: str, model: Any, rows: int, **options: Any) -> Any:
    """What the recipe makes of the seeds that ship."""
    from agora_frames.recipes.agorabench.instance_generation import instance_generation, seeds
    from agora_frames.recipes.agorabench.quality_enhancement import quality_enhancement
    from agora_frames.recipes.agorabench.response_generation import response_generation

    recipes = {each.__name__: each for each in (instance_generation, response_generation, quality_enhancement)}
    make: Callable[..., Any] = recipes[method]
    return make(backend=model, domain=domain, rows=rows, **options)(seeds(domain=domain))  # type: ignore[arg-type]


def script(method: str, domain: str) -> Callable[..., Any]:
    """What the scripted model says: about 150 tokens."""
    marker = {"instance_generation": "OUTPUT:", "quality_enhancement": "Revised Answer:"}.get(method)

    def said(messages: list[dict[str, str]], sampling: dict[str, Any]) -> Any:
        seed = sampling["seed"]
        if seed % 5 == 0:
            return "I am not sure what is wanted here."
        used = {"prompt_tokens": 900, "completion_tokens": 150}
        if seed % 50 == 1:
            return {"text": "What is", "error": {"kind": "truncated", "message": "cut"}, **used}
        number = seed if seed % 199 else seed % 50
        steps = " ".join(f"Step {i} takes {number + i} and adds {i}." for i in range(12))
        response = {
            "math": f"{steps}\n[RESULT] {number} [/RESULT]",
            "code": f"```{_tag(messages[-1]['content'])}\n{code(number)}\n```",
            "general": f"{steps} So it is {number}.",
        }[domain]
        text = response if marker is None else f"How is {number} found? {steps}\n{marker} {response}\n[END]"
        return {"text": text, "finish_reason": "stop", **used}

    return said


def _tag(prompt: str) -> str:
    """The language of the theme that a prompt names; Python where it names none."""
    theme = prompt.rpartition("and of no other: ")[2]
    return next((tag for name, tag in _LANGUAGES.items() if f" a {name} Code." in theme), "python")


def code(number: int) -> str:
    return f"x = {number}\n" + "\n".join(f"y{i} = x + {i}" for i in range(12))


def real(method: str, domain: str, args: argparse.Namespace) -> dict[str, Any]:
    import agora_frames as af

    rows = args.rows or 8
    options: dict[str, Any] = {"temperature": args.temperature, "max_tokens": 220}
    if method == "response_generation":
        options["shots"] = True
    with tempfile.TemporaryDirectory() as folder:
        model = af.connect("llama:smollm2-135m", ledger=folder)
        begun = time.perf_counter()
        free = made(method, domain, model, 1_000, attempts=1, max_candidates=args.tries, **options)
        share = af.keep_valid(free).height / free.height
        form = "markers" if share >= _FREE_FORM_ENOUGH else "json"
        if form == "json":
            options.pop("shots", None)
        done = made(method, domain, model, rows, attempts=2, max_candidates=args.most, format=form, **options)
        wall = time.perf_counter() - begun
        model.ledger.close()
    return {
        "wanted": rows,
        "accepted": af.keep_valid(done).height,
        "free_form": f"{af.keep_valid(free).height} of {free.height}",
        "free_form_reasons": dict(af.failure_counts(free).select("reason", "rows").iter_rows()),
        "format": form,
        "temperature": args.temperature,
        "asked": done.height,
        "reasons": dict(af.failure_counts(done).select("reason", "rows").iter_rows()),
        "wall_s": round(wall, 1),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def tables(told: dict[str, Any]) -> str:
    """The results as Markdown."""
    lines = ["# The nine settings", ""]
    columns = {
        "scripted": ("wanted", "accepted", "exact", "asked", "wall_s", "cpu_s", "peak_mb"),
        "real": ("wanted", "accepted", "format", "temperature", "asked", "free_form", "wall_s", "peak_mb"),
    }
    for kind, names in columns.items():
        if kind in told:
            lines += [f"## {kind}", "", f"| setting | {' | '.join(names)} |", "|---|" + "---|" * len(names)]
            lines += [
                f"| {setting} | {' | '.join(str(row[n]) for n in names)} |" for setting, row in told[kind].items()
            ]
            lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    main()

"""The command `agora serve`: vLLM's server for a model, until it is interrupted."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from rich.console import Console

from agora_frames.backends.vllm_server import serving

__all__ = ["add_serve_command"]


def add_serve_command(sub: argparse.ArgumentParser) -> None:
    """Gives the sub-command its options."""
    sub.add_argument("model", help="a folder in the form of transformers, or a name in the cache of the hub")
    sub.add_argument("--port", type=int, default=8000, help="of 127.0.0.1; 0 takes a free one (%(default)s)")
    sub.add_argument("--name", help="what the model is called (the name of its folder)")
    sub.add_argument("--log", type=Path, help="the file for what the server says (a temporary one)")
    sub.add_argument("--starts-within", type=float, default=1800.0, metavar="SECONDS", help="(%(default)g)")
    sub.add_argument(
        "--server-option",
        action="append",
        default=[],
        metavar="NAME[=VALUE]",
        help="of `vllm serve`, such as dtype=bfloat16 or enforce-eager; repeatable",
    )
    sub.set_defaults(command=_serve)


def _serve(args: argparse.Namespace) -> None:
    out = Console(highlight=False, markup=False, soft_wrap=True)
    with tempfile.TemporaryDirectory(prefix="agora-serve-") as folder:
        log = args.log or Path(folder) / "server.log"
        out.print(f"Starting vLLM for {args.model}: this takes from half a minute on; log {log}")
        with serving(
            args.model,
            port=args.port,
            name=args.name,
            options=[part for given in args.server_option for part in _option(given)],
            log=log,
            starts_within_s=args.starts_within,
        ) as served:
            out.print("Ready. In another terminal or a notebook:")
            out.print(f"    model = af.connect({served.url!r})")
            out.print(f"    agora run hello --backend {served.url}")
            out.print("Ctrl-C stops the server.")
            served.wait()  # until the KeyboardInterrupt of Ctrl-C, or of the SIGTERM that `main` makes one


def _option(given: str) -> list[str]:
    """`max_model_len=512` as vLLM's command line has it."""
    name, equals, value = given.partition("=")
    flag = f"--{name.lstrip('-').replace('_', '-')}"
    return [flag, value] if equals else [flag]

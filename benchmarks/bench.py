"""What all measures share: how much to do, a folder to do it in, and rounds in which the clients take turns."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness import Client, Ran, Server, checked

__all__ = ["Bench", "Task", "lost_and_doubled"]


@dataclass(frozen=True)
class Task:
    """A client, and what it is to do; concurrency 0 is the client's own choice."""

    client: str
    rows: int
    concurrency: int


@dataclass
class Bench:
    """rounds: how often each thing is done; what takes long is done less often. quick: a tenth of the rows."""

    folder: Path
    rounds: int
    quick: bool
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def rows(self, full: int) -> int:
        return max(100, full // 10) if self.quick else full

    def fresh(self) -> Path:
        """A folder that nobody has used."""
        return self.folder / str(next(self._numbers))

    def client(self, task: Task, server: Server, folder: Path | None = None, **options: object) -> Client:
        server.reset()
        where = folder or self.fresh()
        return Client(task.client, server, rows=task.rows, concurrency=task.concurrency, folder=where, **options)

    def once(self, task: Task, server: Server, folder: Path | None = None, **options: object) -> Ran:
        """Runs it to its end. Raises RuntimeError when it fails."""
        ran = self.client(task, server, folder, **options).finish()
        if ran.status:
            raise RuntimeError(f"{task.client} ended with {ran.status}: {ran.words}")
        return ran

    def turns(self, server: Server, tasks: Sequence[Task], **options: object) -> dict[Task, list[Ran]]:
        """Every round runs each task once, so that a slow hour of the machine is slow for all."""
        ran: dict[Task, list[Ran]] = {task: [] for task in tasks}
        for _ in range(self.rounds):
            for task in tasks:
                ran[task].append(self.once(task, server, **options))
        return ran


def lost_and_doubled(out: Path, rows: int) -> tuple[str, dict[str, Any]]:
    """Rows lost, doubled and holding another's reply, as a text that reads 0, 0, 0 when all is well."""
    told = checked(out, rows)
    return f"{told['lost']}, {told['doubled']}, {told['wrong']}", told

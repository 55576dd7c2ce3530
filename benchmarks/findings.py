"""What a measure found, against its mark; and the table of all of them."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

__all__ = ["Finding", "at_least", "at_most", "equal", "keep", "median", "table"]

_PACKAGES = ("agora-frames", "polars", "pandera", "pandas", "aiohttp", "uvloop", "openai")


@dataclass(frozen=True)
class Finding:
    """measure: what, on what. mark: what was demanded. found: what came out. kept: whether it is good enough."""

    measure: str
    mark: str
    found: str
    kept: bool
    numbers: dict[str, Any] = field(default_factory=dict)


def median(values: Iterable[float]) -> float:
    return statistics.median(values)


def at_least(measure: str, mark: float, found: float, *, unit: str = "", beside: str = "", **numbers: Any) -> Finding:
    said = f"{found:.3g}{unit}" + (f" ({beside})" if beside else "")
    return Finding(measure, f"≥ {mark:g}{unit}", said, found >= mark, {"value": found, **numbers})


def at_most(measure: str, mark: float, found: float, *, unit: str = "", beside: str = "", **numbers: Any) -> Finding:
    said = f"{found:.3g}{unit}" + (f" ({beside})" if beside else "")
    return Finding(measure, f"≤ {mark:g}{unit}", said, found <= mark, {"value": found, **numbers})


def equal(measure: str, mark: object, found: object, *, beside: str = "", **numbers: Any) -> Finding:
    said = f"{found}" + (f" ({beside})" if beside else "")
    return Finding(measure, f"{mark}", said, found == mark, {"value": found, **numbers})


def table(named: dict[str, Any]) -> str:
    """A Markdown table of what `keep` keeps."""
    lines = ["| measure | mark | found | kept |", "|---|---|---|---|"]
    for entry in named.values():
        for found in entry["findings"]:
            cells = (found["measure"], found["mark"], found["found"], "yes" if found["kept"] else "**no**")
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def keep(folder: Path, name: str, findings: Sequence[Finding], *, order: Sequence[str], rounds: int) -> dict[str, Any]:
    """Puts the findings of a measure into `calls.json` and `calls.md`, in the place of its last ones."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "calls.json"
    kept: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    kept[name] = {
        "measured": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "rounds": rounds,
        "machine": f"{os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}",
        "load": [round(load, 2) for load in os.getloadavg()],
        "versions": {package: _version(package) for package in _PACKAGES},
        "findings": [asdict(found) for found in findings],
    }
    kept = {known: kept[known] for known in order if known in kept}
    file.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n")
    (folder / "calls.md").write_text(table(kept))
    return kept

"""What a benchmark needs beyond the package's own dependencies is asked for by the command that installs it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import polars as pl
import pytest

import agora_frames as af
from agora_frames.bench.analysis import principal_components, regression
from agora_frames.bench.gsm8k import gsm8k
from agora_frames.bench.hendrycks_math import grade_math
from agora_frames.bench.length_control import fit_plain
from agora_frames.bench.math_runner import math_runner
from agora_frames.errors import MissingExtraError

NUMBERS = pl.DataFrame({"a": [1.0, 2, 3, 4], "b": [2.0, 1, 4, 3], "c": [1.0, 0, 1, 0]})
FEATURES = NUMBERS.select(share="c", length="a", difficulty="b", model="a")
ANSWERS = pl.DataFrame({"answer": ["1/2"], "reference": ["0.5"]})


@pytest.mark.parametrize(
    ("package", "use"),
    [
        ("sklearn", lambda: principal_components(NUMBERS, features=["a", "b"])),
        ("sklearn", lambda: af.judge_drift(NUMBERS.cast(pl.Int64), column="a", again="b")),
        ("statsmodels", lambda: regression(NUMBERS, on=["a"], target="b")),
        ("statsmodels", lambda: fit_plain(FEATURES)),
        ("math_verify", lambda: grade_math(ANSWERS, runner=math_runner())),
        ("datasets", lambda: gsm8k().load(None)),
    ],
)
def test_what_is_not_installed_is_asked_for(
    package: str, use: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in {package, *(name for name in sys.modules if name.startswith(f"{package}."))}:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtraError, match=r"pip install 'agora-frames\[bench\]'"):
        use()

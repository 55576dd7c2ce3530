"""What a stage would ask, before it is asked: everything is rendered for real, nothing is called."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import orjson
import polars as pl

from agora_frames.backends.chat import failed, frame_of
from agora_frames.compose import AnyStage, each_step, name_of
from agora_frames.frames import REPLIES
from agora_frames.ledger import Remembered
from agora_frames.stage import Stage
from agora_frames.types import Backend

__all__ = ["PLAN", "plan"]

# One row for each step that calls a model. `rows`: that reach it. `calls`: different requests among them. `known`:
# answered by the ledger. `to_ask`: the rest. `prompt_tokens_estimated`: of the rest, at 4 bytes of UTF-8 to a token.
# `completion_tokens_at_most` and `cost_usd_at_most`: null where no max_tokens or no price is known.
PLAN = pl.Schema(
    {
        "step": pl.String(),
        "model": pl.String(),
        "rows": pl.Int64(),
        "calls": pl.Int64(),
        "known": pl.Int64(),
        "to_ask": pl.Int64(),
        "prompt_tokens_estimated": pl.Int64(),
        "completion_tokens_at_most": pl.Int64(),
        "cost_usd_at_most": pl.Float64(),
    }
)
_BYTES_PER_TOKEN = 4


def plan(stage: AnyStage, *, df: pl.DataFrame) -> pl.DataFrame:
    """One row for each step that calls a model, in the columns of `PLAN`.

    The stage is run on `df` with backends that ask nothing: replies that the ledger has are used, so that later steps
    can be planned for these rows; rows without a reply end at the step that would have asked (`not_asked`).

    >>> import agora_frames as af
    >>> model = af.connect("scripted:builtins:str", ledger="no-such-ledger")
    >>> say = af.recipe(
    ...     af.with_row_ids(),
    ...     af.render_prompts(template="Say {{ word }}."),
    ...     af.generate_column(backend=model, max_tokens=5),
    ...     name="say",
    ... )
    >>> af.plan(say, df=pl.DataFrame({"word": ["yes", "no"]})).select("rows", "known", "to_ask").rows()
    [(2, 0, 2)]
    """
    planned: list[dict[str, object]] = []

    def wrap(step: AnyStage) -> Stage:
        if isinstance(step, Stage) and "backend" in step.effects:
            return replace(step, fn=run_planned, params={"stage": step, "planned": planned})
        return step if isinstance(step, Stage) else Stage(name_of(step), step)

    each_step(stage, wrap)(df)
    return pl.DataFrame(planned, schema=PLAN)


def run_planned(df: pl.DataFrame, *, stage: Stage, planned: list[dict[str, object]]) -> pl.DataFrame:
    """Runs the stage with a backend that asks nothing, and notes what it would have asked."""
    asking_nothing = _Planned(stage.params["backend"])
    done = replace(stage, params={**stage.params, "backend": asking_nothing})(df)
    planned.append({"step": stage.name, "rows": done.height, **asking_nothing.noted})
    return done


@dataclass(frozen=True)
class _Planned:
    """A backend that answers from its ledger alone; the rest is `not_asked`."""

    backend: Backend
    noted: dict[str, object] = field(default_factory=dict)

    @property
    def endpoint(self) -> str:
        return self.backend.endpoint

    @property
    def model(self) -> str:
        return self.backend.model

    def __call__(self, requests: pl.DataFrame, /) -> Iterator[pl.DataFrame]:
        ledger = self.backend.ledger if isinstance(self.backend, Remembered) else None
        known = ledger.answers(requests["key"]) if ledger else REPLIES.to_frame()
        missing = requests.join(known, on="key", how="anti", maintain_order="left")
        self.noted.update(self._notes(missing), calls=requests.height, known=known.height)
        yield known
        yield frame_of([failed(key, "not_asked", "only planned") for key in missing["key"]])

    def _notes(self, missing: pl.DataFrame) -> dict[str, object]:
        content = pl.col("messages").list.eval(pl.element().struct.field("content").str.len_bytes()).list.sum()
        asked = missing.select(content.sum()).item() // _BYTES_PER_TOKEN if missing.height else 0
        limits = [orjson.loads(sampling).get("max_tokens") for sampling in missing["sampling"]]
        written = None if None in limits else sum(limits)
        prices = getattr(getattr(self.backend, "backend", self.backend), "prices", None)
        cost = None
        if prices is not None and (written is not None or prices[1] == 0):
            cost = (asked * prices[0] + (written or 0) * prices[1]) / 1_000_000
        return {
            "model": self.model,
            "to_ask": missing.height,
            "prompt_tokens_estimated": asked,
            "completion_tokens_at_most": written,
            "cost_usd_at_most": cost,
        }

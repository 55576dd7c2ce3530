"""Arena-Hard v0.1: 500 hard prompts of users; a judge compares each answer with the baseline's, once on each side.

Source: Li et al. 2024, arXiv 2406.11939; https://github.com/lmarena/arena-hard-auto (Apache-2.0) at 196f6b8 and, for
the rules of v0.1, at 01109e9 (gen_judgment.py, config/judge_config.yaml). The judge's prompt and the demonstrations are
our own, so scores compare with each other, and not with the published board. Decoding: AgoraBench, arXiv
2412.03679v2, table 6. Style control is not offered: it needs the judgments of all models of a board at once, and none
are at hand by which it could be checked.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import polars as pl

from agora_frames.bench.benchmark import DECODING, PROMPTS, Benchmark, Source, load_rows
from agora_frames.bench.pairwise import chat_prompts, check_baseline, score_verdicts
from agora_frames.compose import recipe
from agora_frames.errors import FrameError, ReadError, StorageError, listed
from agora_frames.frames import ITEM_SCORES, require
from agora_frames.io import located
from agora_frames.metrics.judge import Judge, judge_fingerprint
from agora_frames.metrics.pairs import judge_again, judge_pairs
from agora_frames.metrics.scores import summarise
from agora_frames.metrics.verdicts import verdict_label
from agora_frames.stage import stage
from agora_frames.stages.prompt import template_file
from agora_frames.types import Backend

__all__ = ["BASELINE", "SOURCE", "arena_hard", "arena_judge", "load_arena_hard", "scores_of_games"]

_ROOT = "https://raw.githubusercontent.com/lmarena/arena-hard-auto/{revision}/data/arena-hard-v0.1"
_REVISION = "196f6b826783b3da7310e361a805fa36f0be83f3"
SOURCE = Source(f"{_ROOT}/question.jsonl", _REVISION)
BASELINE = Source(f"{_ROOT}/model_answer/gpt-4-0314.jsonl", _REVISION)

_OF_A_GAME = ("sample", "score", "score_error", "weight")


def arena_judge(*, strong: float = 3.0) -> Judge:
    """The judge: it answers the prompt itself, compares, and ends with one of five verdicts.

    strong: the weight of `>>`. A reply without a verdict is asked for one in a second turn, and no more.
    """
    return Judge(
        "arena_hard",
        template_file(PROMPTS / "arena_judge.jinja"),
        verdict_label(strong=strong),
        sampling={"temperature": 0.0, "max_tokens": 4096},
        follow_up="Go on with your judgment, and finish it with one of the five verdict labels.",
    )


def arena_hard(*, judge: Judge | None = None, judge_backend: Backend) -> Benchmark:
    """Arena-Hard v0.1 by score against the baseline's answers: 100 * (W + T / 2) / (W + L + T), strong verdicts thrice.

    Each item gives two rows: `sample` 0, in which the baseline is A, and 1, in which it is B; with several samples of a
    model, twice as many. A row's score is 1 for a win, 0.5 for a tie and 0 for a loss, and its weight is the verdict's,
    so that the weighted mean over all rows is that formula; the interval is of a bootstrap over items.
    judge: None for `arena_judge()`. judge_backend: the model that judges.
    An answer that is not there because the model refused, or had nothing to say, has lost both games. A game whose
    verdict cannot be read has no score and is left out, as by the official rule.
    """
    judge = judge or arena_judge()
    played: dict[str, Any] = {"judge": judge, "first": "baseline", "second": "completion", "backend": judge_backend}
    games = [judge_pairs(**played, order="both", equal_is_tie=False)]
    if judge.follow_up is not None:
        games.append(judge_again(**played))
    return Benchmark(
        name="arena_hard",
        source=SOURCE,
        load=load_arena_hard,
        prompts=chat_prompts(),
        decoding=DECODING,
        grade=recipe(*games, score_verdicts(), name="grade_arena_hard"),
        metrics={"score": summarise(pooled=True)},
        judge=judge_fingerprint(judge, backend=judge_backend),
    )


def load_arena_hard(given: str | Path | None = None, *, answers: str | Path | None = None) -> pl.DataFrame:
    """The items: `item_id` (the official uid), `cluster`, `instruction`, `baseline`, `baseline_model`.

    given: the questions' file in the official form (`uid`, `prompt`; or, as it was before 2025, `question_id`,
    `turns`), or a folder with it, `question.jsonl`. answers: the file of the baseline's answers in the official form;
    None for that of gpt-4-0314: in the folder, if one is given (in `model_answer`, or in any file whose name says so),
    or from the source.
    Raises: FrameError when a question has no answer, or the file is not of that form.
    """
    questions, found = _files(given)
    asked = load_rows(SOURCE, questions)
    uid = _named(asked, ("uid", "question_id"), questions)
    prompt = pl.col("prompt") if "prompt" in asked.columns else _turn(asked, "turns", questions)
    cluster = pl.col("cluster") if "cluster" in asked.columns else pl.lit(None, dtype=pl.String)
    items = asked.select(
        pl.col(uid).cast(pl.String).alias("item_id"), cluster.alias("cluster"), prompt.alias("instruction")
    )
    given_answers = answers if answers is not None else found
    if given_answers is None and given is not None:
        raise FrameError(
            f"load_arena_hard({str(given)!r}) has the questions, and not what the baseline answered. "
            "Give its file, answers=…, or a folder that has it beside the questions, model_answer/gpt-4-0314.jsonl."
        )
    source = BASELINE.dataset.format(revision=BASELINE.revision)
    baseline = _answers(source if given_answers is None else given_answers)
    return check_baseline(items.join(baseline, on="item_id", how="left", maintain_order="left"), "arena_hard")


@stage()
def scores_of_games(df: pl.DataFrame, *, benchmark: str = "arena_hard", strong: float = 3.0) -> pl.DataFrame:
    """Item scores of judgments that Arena-Hard itself has written: two rows for each, one for each game.

    Reads: `uid` or `question_id`, `games` (List(Struct{score})): in the first game the baseline is A, in the second B.
    Adds: `benchmark`, `item_id` (String), `sample` (0, 1), `score`, `score_error` (ERROR: `judge_unparsed` where a game
    has no verdict, or none of the five), `weight`; see `frames.ITEM_SCORES`. `games` is left out.
    Rows: each twice, one after the other. strong: the weight of `>>`.
    """
    uid = _named(df, ("uid", "question_id"), "the frame")
    require(df, "games", stage="scores_of_games")
    read = verdict_label(strong=strong)
    rows: list[dict[str, Any]] = []
    lost = {"kind": "judge_unparsed", "message": "the game has no verdict of the five"}
    for games in df["games"].to_list():
        for sample in (0, 1):
            label = (games[sample] or {}).get("score") if games and len(games) > sample else None
            try:
                _, share, weight = read(f"[[{label}]]")
                rows.append({"sample": sample, "score": abs(sample - share), "score_error": None, "weight": weight})
            except ValueError:
                rows.append({"sample": sample, "score": None, "score_error": lost, "weight": 1.0})
    scored = pl.DataFrame(rows, schema={name: ITEM_SCORES[name] for name in _OF_A_GAME})
    names = [pl.lit(benchmark).alias("benchmark"), pl.col(uid).cast(pl.String).alias("item_id")]
    places = pl.select(pl.int_range(2 * df.height) // 2).to_series()
    return df.drop("games").with_columns(names)[places].with_columns(scored.get_columns())


def _files(given: str | Path | None) -> tuple[str | Path | None, str | Path | None]:
    """The file of the questions, and that of the baseline's answers, if it stands in the same folder."""
    if given is None or not Path(given).is_dir():
        return given, None
    questions = Path(given) / "question.jsonl"
    if not questions.exists():
        there = sorted(path.name for path in Path(given).iterdir())
        raise FrameError(f"the folder {str(given)!r} has no file 'question.jsonl'; it has: {listed(there)}.")
    answers = sorted(Path(given).rglob("*gpt-4-0314.jsonl"))
    return questions, answers[0] if answers else None


def _named(df: pl.DataFrame, possible: tuple[str, ...], where: object) -> str:
    for name in possible:
        if name in df.columns:
            return name
    raise FrameError(f"{where} has none of the columns {listed(possible)}; it has: {listed(df.columns)}.")


def _turn(df: pl.DataFrame, column: str, where: object) -> pl.Expr:
    """The content of the first turn, as the files of 2024 have it."""
    if column not in df.columns:
        raise FrameError(f"{where} has neither 'prompt' nor {column!r}; it has: {listed(df.columns)}.")
    return pl.col(column).list.first().struct.field("content")


def _answers(where: str | Path) -> pl.DataFrame:
    """The baseline's answers, read line by line: the content of a message is a text in one, and a dict in the next."""
    fs, path = located(where)
    try:
        lines = [orjson.loads(line) for line in fs.cat_file(path).splitlines() if line.strip()]
        rows = [
            (str(row.get("uid") or row["question_id"]), _answer(row), row.get("model") or row.get("model_id"))
            for row in lines
        ]
    except (KeyError, TypeError, AttributeError, IndexError, orjson.JSONDecodeError) as exc:
        raise ReadError(
            f"{str(where)!r} is no file of answers in Arena-Hard's form: {type(exc).__name__}: {exc}. Each line is an "
            "object with `uid`, `model` and `messages`, or with `question_id`, `model_id` and `choices`."
        ) from exc
    except Exception as exc:  # each kind of store raises errors of its own
        raise StorageError(f"{str(where)!r} cannot be read: {type(exc).__name__}: {exc}. Is it there?") from exc
    schema = {"item_id": pl.String, "baseline": pl.String, "baseline_model": pl.String}
    return pl.DataFrame(rows, schema=schema, orient="row").unique("item_id", keep="last", maintain_order=True)


def _answer(row: dict[str, Any]) -> str | None:
    """The last message; or, as the files of 2024 have it, the first turn of the first choice."""
    turn: dict[str, Any] = row["choices"][0]["turns"][0] if "choices" in row else row["messages"][-1]
    said: Any = turn["content"]
    text: str | None = said["answer"] if isinstance(said, dict) else said
    return text

r"""MATH: problems of school competitions, each with an answer in the last `\boxed{}` of its solution.

Source: Hendrycks et al. 2021, arXiv 2103.03874; data https://github.com/hendrycks/math (MIT), on the hub as
EleutherAI/hendrycks_math (its 5,000 of the test split). MATH-500: the 500 of these that Lightman et al. 2023,
arXiv 2305.20050, kept for testing, on the hub as HuggingFaceH4/MATH-500. Decoding: AgoraBench, arXiv 2412.03679v2,
table 6. The prompts and demonstrations are our own.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeAlias

import orjson
import polars as pl

from agora_frames.bench.benchmark import MATH_DECODING, PROMPTS, UNREAD, Benchmark, Prompt, Source, load_rows
from agora_frames.bench.math_runner import MathRunner, math_runner
from agora_frames.compose import recipe
from agora_frames.errors import BindError, FrameError
from agora_frames.frames import errors, require
from agora_frames.stage import stage
from agora_frames.stages.grade import grade_equal
from agora_frames.stages.parse import parse_column
from agora_frames.stages.prompt import template_file

__all__ = ["UNDECIDED", "Equality", "grade_math", "hendrycks_math", "load_math", "math_answer"]

Equality: TypeAlias = Literal["math_verify", "exact"]

_SUBJECTS = (
    *("algebra", "counting_and_probability", "geometry", "intermediate_algebra"),
    *("number_theory", "prealgebra", "precalculus"),
)
SOURCES = {
    "full": Source("EleutherAI/hendrycks_math", "21a5633873b6a120296cce3e2df9d5550074f4a3", configs=_SUBJECTS),
    "500": Source("HuggingFaceH4/MATH-500", "6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be"),
}

# The kind of error of an answer that could not be compared: it took too long, or its process died of it.
UNDECIDED = "undecided"

# Where an answer may begin: `\boxed{`, `\fbox{`, `\boxed 5` (the data have a few), or AgoraBench's own marker.
_BEGINS = re.compile(r"\\(?:boxed|fbox)\s*(?P<brace>\{)|\\(?:boxed|fbox)\s+(?P<bare>[^\s${}\\]+)|(?P<tag>\[RESULT\])")
# What is no brace: a backslash with what it escapes.
_BRACES = re.compile(r"\\.|[{}]", re.DOTALL)
_MATH = re.compile(r"\$\$(.*)\$\$|\$(.*)\$|\\\((.*)\\\)|\\\[(.*)\\\]", re.DOTALL)


def hendrycks_math(
    *,
    subset: Literal["full", "500"] = "500",
    equality: Equality = "math_verify",
    runner: MathRunner | None = None,
    wrong: tuple[str, ...] = (*UNREAD, UNDECIDED),
) -> Benchmark:
    r"""MATH by accuracy: the answer is in the last `\boxed{}` of a reply, or in its last [RESULT] … [/RESULT].

    subset: all 5,000 problems of the test split, or the 500 of MATH-500. equality: `math_verify` compares what the
    answers mean (it needs the extra `bench`); `exact` compares them letter by letter.
    runner: of `math_verify`; None is `math_runner()`, in which a comparison may take 10 s.
    wrong: the kinds of errors for which a reply counts as wrong: by default, replies that are there and have no answer,
    and answers that could not be compared (`undecided`). A reply that never came leaves its item without a score.
    `few` shows four worked problems as one text that the reply goes on with; a base model must be served with a chat
    template that passes the text on as it is.
    """
    if subset not in SOURCES or equality not in ("math_verify", "exact"):
        raise BindError(
            f"hendrycks_math(subset={subset!r}, equality={equality!r}): the subset is 'full' or '500', and the "
            "equality 'math_verify' or 'exact'."
        )
    compare = grade_equal() if equality == "exact" else grade_math(runner=runner or math_runner())
    return Benchmark(
        name="math" if subset == "full" else "math_500",
        source=SOURCES[subset],
        load=partial(load_math, subset=subset),
        prompts={
            "zero": Prompt(template_file(PROMPTS / "math_zero.jinja")),
            "few": Prompt(template_file(PROMPTS / "math_few.jinja"), stop=("\nProblem:",)),
        },
        decoding=MATH_DECODING,
        grade=recipe(
            parse_column(column="completion", parser=math_answer(), into="answer"),
            compare,
            name=f"grade_math_{equality}",
        ),
        wrong=wrong,
    )


def load_math(given: str | Path | None = None, *, subset: Literal["full", "500"] = "500") -> pl.DataFrame:
    r"""The items: `item_id`, `problem`, `solution`, `reference`, `subject`, `level` (1 to 5, or null).

    given: a file with `problem` and `solution` (and `answer`; without it the reference is in the last `\boxed{}` of the
    solution), the folder of the official release (a file for each problem), or None for the source of the subset.
    Raises: FrameError when a row has no reference.
    """
    source = SOURCES[subset]
    rows = _official(given) if given is not None and _is_official(given) else load_rows(source, given)
    require(rows, "problem", "solution", stage="load_math")
    subject = next((pl.col(name) for name in ("subject", "type") if name in rows.columns), pl.lit(None))
    level = pl.col("level").cast(pl.String).str.extract(r"(\d)") if "level" in rows.columns else pl.lit(None)
    place = pl.int_range(pl.len()).cast(pl.String)
    items = rows.select(
        (pl.col("unique_id") if "unique_id" in rows.columns else place).alias("item_id"),
        "problem",
        "solution",
        subject.cast(pl.String).alias("subject"),
        level.cast(pl.Int64).alias("level"),
        *(["answer"] if "answer" in rows.columns else []),
    )
    if "answer" in items.columns:
        items = items.rename({"answer": "reference"})
    else:
        items = items.pipe(parse_column, column="solution", parser=math_answer(), into="reference")
        items = items.drop("solution_parse_error")
    if (lacking := items.filter(pl.col("reference").is_null())).height:
        raise FrameError(
            f"{given or source.dataset} has {lacking.height} rows without an answer, the first is item_id "
            f"{lacking['item_id'][0]!r}: {lacking['solution'][0]!r:.200}. Is it MATH?"
        )
    return items.select("item_id", "problem", "solution", "reference", "subject", "level")


@stage(rowwise=True)
def grade_math(
    df: pl.DataFrame, *, answer: str = "answer", reference: str = "reference", runner: MathRunner
) -> pl.DataFrame:
    """An answer is right when it means the same as the reference.

    Reads: `answer`, `reference` (String). Adds: `score` (Float64: 1 or 0; null where either is null or the comparison
    came to no end), `score_error` (ERROR, kind `undecided`; null elsewhere).
    Rows: the same, in the same order.
    runner: from `math_runner`; what it cannot compare in its time and memory is undecided. Equal texts are never asked.
    Raises: MissingExtraError when math-verify is not installed.
    """
    require(df, answer, reference, stage="grade_math", dtype=pl.String())
    pairs = list(zip(df[reference].to_list(), df[answer].to_list(), strict=True))
    verdicts = runner(pair for pair in pairs if None not in pair)
    told: list[Any] = [verdicts.get(pair) for pair in pairs]
    scores = [float(verdict) if isinstance(verdict, bool) else None for verdict in told]
    reasons = [verdict if isinstance(verdict, str) else None for verdict in told]
    undecided = errors([reason and UNDECIDED for reason in reasons], reasons, "score_error")
    return df.with_columns(pl.Series("score", scores, dtype=pl.Float64), undecided)


@dataclass(frozen=True, repr=False)
class _MathAnswer:
    def __call__(self, text: str) -> str:
        last = None
        for found in _BEGINS.finditer(text):
            last = found
        if last is None:
            raise ValueError(r"there is no \boxed{} and no [RESULT]")
        if last["bare"]:
            return last["bare"].rstrip(".,;")
        answer = _tagged(text[last.end() :]) if last["tag"] else _braced(text, last.end())
        if not answer:
            raise ValueError(f"the last {last[0]} is empty")
        return answer

    def __repr__(self) -> str:
        return "math_answer()"


def math_answer() -> _MathAnswer:
    r"""The answer in the last `\boxed{…}` or `\fbox{…}`, to its own closing brace, or in the last [RESULT] … [/RESULT].

    Whichever comes last counts, so of one inside of the other it is the inner. A [RESULT] may lack its end; its answer
    is then the rest of the line, and `$…$`, `\(…\)` and a full stop around it are no part of it.
    Unparsed: there is none, or the last is empty or not closed (the reply was cut off).

    >>> math_answer()(r"So \boxed{1}; no, \boxed{\frac{1}{2}}.")
    '\\frac{1}{2}'
    >>> math_answer()("[RESULT] $x = 3$. [/RESULT]")
    'x = 3'
    """
    return _MathAnswer()


def _braced(text: str, begin: int) -> str:
    depth = 1
    for found in _BRACES.finditer(text, begin):
        depth += {"{": 1, "}": -1}.get(found[0], 0)
        if not depth:
            return text[begin : found.start()].strip()
    raise ValueError(r"the last \boxed{ is not closed")


def _tagged(rest: str) -> str:
    inside, end, _ = rest.partition("[/RESULT]")
    answer = (inside if end else inside.strip().partition("\n")[0]).strip().rstrip(".").strip()
    found = _MATH.fullmatch(answer)
    return next(filter(None, found.groups()), "").strip() if found else answer


def _is_official(given: str | Path) -> bool:
    """Whether it is a folder of folders, one for each subject, with a JSON object in each file."""
    return any((Path(given) / subject).is_dir() for subject in _SUBJECTS)


def _official(given: str | Path) -> pl.DataFrame:
    files = sorted(Path(given).glob("*/*.json"), key=lambda file: (file.parent.name, len(file.stem), file.stem))
    rows = [{"unique_id": f"{file.parent.name}/{file.name}", **orjson.loads(file.read_bytes())} for file in files]
    return pl.DataFrame(rows, infer_schema_length=None)

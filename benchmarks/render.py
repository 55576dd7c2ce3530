"""How fast `render_prompts` fills a template of 6 variables for 100,000 rows.

    python benchmarks/render.py            # 5 runs, median
    python benchmarks/render.py 1000000 3  # rows, runs

Prints seconds and rows per second. One thread; nothing is asked of a model.
"""

from __future__ import annotations

import statistics
import sys
import time

import polars as pl

from agora_frames.stages.prompt import render_prompts

TEMPLATE = """\
You are {{ persona }}. Write a {{ difficulty }} question on {{ topic }} for {{ audience }}.
{% if hint %}
Hint: {{ hint }}
{% endif %}
Here is one on the same topic:
<example>
{{ example }}
</example>
"""


def frame(rows: int) -> pl.DataFrame:
    n = pl.int_range(rows, eager=True).cast(pl.String)
    return pl.DataFrame({"n": n}).select(
        persona=pl.format("teacher {}", "n"),
        difficulty=pl.lit("hard"),
        topic=pl.format("topic {}", "n"),
        audience=pl.lit("undergraduates"),
        hint=pl.when(pl.int_range(pl.len()) % 2 == 0).then(pl.format("think of {}", "n")),
        example=pl.format("Let $x = {}$. What is $x^2 + x + 1$? Show each step, and then the result alone.", "n"),
    )


def seconds(df: pl.DataFrame) -> float:
    begun = time.perf_counter()
    done = render_prompts(df, template=TEMPLATE)
    took = time.perf_counter() - begun
    assert done["prompt_error"].null_count() == df.height
    return took


if __name__ == "__main__":
    rows, runs = (int(given) for given in (sys.argv[1:] + ["100000", "5"][len(sys.argv) - 1 :]))
    df = frame(rows)
    took = statistics.median(seconds(df) for _ in range(runs))
    print(f"{rows:,} rows, 6 variables, median of {runs}: {took:.2f} s, {rows / took:,.0f} rows/s")

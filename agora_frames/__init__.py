"""Make and judge synthetic training data with language models.

A stage is a function from a DataFrame to a DataFrame. Everything else binds one, chains some, wraps one, or answers
its questions.
"""

from agora_frames.against import compare
from agora_frames.backends import connect
from agora_frames.backends.embedders import embedder
from agora_frames.backends.llama_cpp import llama_cpp
from agora_frames.backends.openai_batch import openai_batch
from agora_frames.backends.openai_chat import openai_chat
from agora_frames.backends.scripted import failing, scripted
from agora_frames.backends.vllm_engine import vllm_engine
from agora_frames.bench.benchmark import evaluate, evaluation, report
from agora_frames.compose import recipe, steps, traced
from agora_frames.errors import AgoraError
from agora_frames.export import as_messages, export_dataset
from agora_frames.hub import push_folder
from agora_frames.importing import import_instances
from agora_frames.io import read_frame, write_frame
from agora_frames.ledger import Ledger
from agora_frames.ledger.accounts import accounts
from agora_frames.metrics.agreement import judge_counts, judge_drift, swap_consistency
from agora_frames.metrics.diversity import cosine_diversity, embed_column, vocabulary_diversity
from agora_frames.metrics.intrinsic import intrinsic, intrinsic_rows
from agora_frames.metrics.judge import judge_column
from agora_frames.metrics.pairs import judge_pairs
from agora_frames.metrics.perplexity import add_nll, perplexities
from agora_frames.metrics.reward import reward_column, reward_model
from agora_frames.metrics.scores import item_scores, summarise
from agora_frames.pgr import average_pgr, pgr
from agora_frames.plan import plan
from agora_frames.progress import progress
from agora_frames.remembered import remembered
from agora_frames.rounds import shortfall, until_rows
from agora_frames.sandbox import run_python, sandbox
from agora_frames.stage import Stage, stage
from agora_frames.stages.clean import clean_texts
from agora_frames.stages.code import extract_code, grade_code
from agora_frames.stages.conversation import extend_chat
from agora_frames.stages.decontaminate import decontaminate
from agora_frames.stages.dedup import mark_duplicates
from agora_frames.stages.generate import generate_column
from agora_frames.stages.parse import parse_column
from agora_frames.stages.parsers import between, boxed, code_block, json_object, split_on, tagged
from agora_frames.stages.prompt import render_prompts, template_file
from agora_frames.stages.rows import (
    failure_counts,
    keep_valid,
    reject_where,
    replace_rows,
    with_outcome,
    with_row_ids,
)
from agora_frames.stages.sample import sample_demos, sample_values
from agora_frames.stages.tokens import count_tokens, tokenizer_file
from agora_frames.stages.validate import validate
from agora_frames.stages.yields import yield_table
from agora_frames.store import Store, cached
from agora_frames.tokenizer import load_tokenizer

__all__ = [
    "AgoraError",
    "Ledger",
    "Stage",
    "Store",
    "accounts",
    "add_nll",
    "as_messages",
    "average_pgr",
    "between",
    "boxed",
    "cached",
    "clean_texts",
    "code_block",
    "compare",
    "connect",
    "cosine_diversity",
    "count_tokens",
    "decontaminate",
    "embed_column",
    "embedder",
    "evaluate",
    "evaluation",
    "export_dataset",
    "extend_chat",
    "extract_code",
    "failing",
    "failure_counts",
    "generate_column",
    "grade_code",
    "import_instances",
    "intrinsic",
    "intrinsic_rows",
    "item_scores",
    "json_object",
    "judge_column",
    "judge_counts",
    "judge_drift",
    "judge_pairs",
    "keep_valid",
    "llama_cpp",
    "load_tokenizer",
    "mark_duplicates",
    "openai_batch",
    "openai_chat",
    "parse_column",
    "perplexities",
    "pgr",
    "plan",
    "progress",
    "push_folder",
    "read_frame",
    "recipe",
    "reject_where",
    "remembered",
    "render_prompts",
    "replace_rows",
    "report",
    "reward_column",
    "reward_model",
    "run_python",
    "sample_demos",
    "sample_values",
    "sandbox",
    "scripted",
    "shortfall",
    "split_on",
    "stage",
    "steps",
    "summarise",
    "swap_consistency",
    "tagged",
    "template_file",
    "tokenizer_file",
    "traced",
    "until_rows",
    "validate",
    "vllm_engine",
    "vocabulary_diversity",
    "with_outcome",
    "with_row_ids",
    "write_frame",
    "yield_table",
]

__version__ = "0.1.0"

"""Make and judge synthetic training data with language models.

A stage is a function from a DataFrame to a DataFrame. Everything else binds one, chains some, wraps one, or answers
its questions.
"""

from agora_frames.against import compare
from agora_frames.backends import connect
from agora_frames.backends.llama_cpp import llama_cpp
from agora_frames.backends.openai_batch import openai_batch
from agora_frames.backends.openai_chat import openai_chat
from agora_frames.backends.scripted import failing, scripted
from agora_frames.backends.vllm_engine import vllm_engine
from agora_frames.compose import recipe, steps, traced
from agora_frames.errors import AgoraError
from agora_frames.io import read_frame, write_frame
from agora_frames.ledger import Ledger
from agora_frames.ledger.accounts import accounts
from agora_frames.metrics.perplexity import add_nll, perplexities
from agora_frames.plan import plan
from agora_frames.progress import progress
from agora_frames.remembered import remembered
from agora_frames.stage import Stage, stage
from agora_frames.stages.conversation import extend_chat
from agora_frames.stages.generate import generate_column
from agora_frames.stages.parse import parse_column
from agora_frames.stages.parsers import between, boxed, code_block, json_object, split_on, tagged
from agora_frames.stages.prompt import render_prompts, template_file
from agora_frames.stages.rows import failure_counts, keep_valid, replace_rows, with_outcome, with_row_ids
from agora_frames.stages.validate import validate
from agora_frames.store import Store, cached

__all__ = [
    "AgoraError",
    "Ledger",
    "Stage",
    "Store",
    "accounts",
    "add_nll",
    "between",
    "boxed",
    "cached",
    "code_block",
    "compare",
    "connect",
    "extend_chat",
    "failing",
    "failure_counts",
    "generate_column",
    "json_object",
    "keep_valid",
    "llama_cpp",
    "openai_batch",
    "openai_chat",
    "parse_column",
    "perplexities",
    "plan",
    "progress",
    "read_frame",
    "recipe",
    "remembered",
    "render_prompts",
    "replace_rows",
    "scripted",
    "split_on",
    "stage",
    "steps",
    "tagged",
    "template_file",
    "traced",
    "validate",
    "vllm_engine",
    "with_outcome",
    "with_row_ids",
    "write_frame",
]

__version__ = "0.1.0"

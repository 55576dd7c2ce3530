"""A Llama of 115,008 random weights with a tokenizer and a chat template, built in seconds: `python tiny_model.py DIR`.

It says nothing sensible, and the same whoever runs it. The heads have 32 dimensions, the fewest that vLLM's attention
takes on a processor.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

SPECIAL = ["<|pad|>", "<|bos|>", "<|eos|>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# What the engine of the tests is started with, and the same for the server. Compact JSON, as a random model would
# fill the blanks of a form with blanks without end.
FORMS = {"backend": "xgrammar", "disable_any_whitespace": True}
# So small that all its pages are soon touched: what a process grows by after that is something else.
CACHE = 1 << 25
SETTINGS: dict[str, Any] = {
    "dtype": "float32",
    "max_model_len": 512,
    "kv_cache_memory_bytes": CACHE,
    "n_threads": 1,
    "engine_args": {"enforce_eager": True, "structured_outputs_config": FORMS},
}
OPTIONS = [
    *("dtype=float32", "max-model-len=512", f"kv_cache_memory_bytes={CACHE}", "enforce-eager"),
    f"structured-outputs-config={json.dumps(FORMS)}",
]


def build(folder: Path, *, hidden: int = 64, layers: int = 2) -> Path:
    """Writes the model, and gives its folder. hidden: its width, a multiple of 32."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = _tokenizer()
    numbers = {name: tokenizer.convert_tokens_to_ids(token) for name, token in zip("pbe", SPECIAL, strict=False)}
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 32,
        num_key_value_heads=hidden // 32,
        vocab_size=512,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        pad_token_id=numbers["p"],
        bos_token_id=numbers["b"],
        eos_token_id=numbers["e"],
        initializer_range=0.3 * (64 / hidden) ** 0.5,  # far from even, so that the likeliest token leads clearly
    )
    LlamaForCausalLM(config).to(torch.float32).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _tokenizer() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=512, special_tokens=SPECIAL, initial_alphabet=alphabet)
    raw.train_from_iterator([Path(json.__file__).read_text(), __doc__ or ""], trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token=SPECIAL[0], bos_token=SPECIAL[1], eos_token=SPECIAL[2]
    )
    fast.chat_template = TEMPLATE
    return fast


def build_adapter(model: Path, folder: Path) -> Path:
    """Writes a LoRA adapter of rank 4 that changes what the model says."""
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(1)
    weights = {}
    for layer in range(2):
        name = f"base_model.model.model.layers.{layer}.self_attn.v_proj"
        weights[f"{name}.lora_A.weight"] = torch.randn(4, 64)
        weights[f"{name}.lora_B.weight"] = torch.randn(64, 4)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / "adapter_model.safetensors")
    about = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": str(model),
        "r": 4,
        "lora_alpha": 8,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": ["v_proj"],
    }
    (folder / "adapter_config.json").write_text(json.dumps(about))
    return folder


if __name__ == "__main__":
    build(Path(sys.argv[1]), **{name: int(value) for name, value in (arg.split("=") for arg in sys.argv[2:])})

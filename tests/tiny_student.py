"""Makes tiny random students in the HF form, offline and in a fraction of a second: the real trainer's real input.

A tiny student has a byte-level BPE tokenizer with a ChatML template, so that every text has tokens, and random weights
of a real architecture, so that loading, training, generating and exporting run the code a user's student runs.
"""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false, reportUnknownLambdaType=false, reportMissingTypeStubs=false

import importlib
import json
import os
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# Kernels compiled with g++ cost half a minute when the cache is cold; both are read when mlx and huggingface_hub load.
os.environ.setdefault("MLX_DISABLE_COMPILE", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

PAD, END_OF_TEXT, TURN_START, TURN_END = SPECIAL_TOKENS = ("<|pad|>", "<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "gemma2": "Gemma2ForCausalLM",
    "gemma3_text": "Gemma3ForCausalLM",
}
_WORDS = [
    *(
        "the",
        "a",
        "user",
        "asks",
        "assistant",
        "system",
        "answers",
        "reverse",
        "word",
        "letters",
        "please",
        "think",
        "step",
    ),
    *(
        "by",
        "thinking",
        "answer",
        "is",
        "sum",
        "of",
        "digits",
        "plus",
        "equals",
        "number",
        "good",
        "bad",
        "great",
        "awful",
    ),
    *("ticket", "billing", "refund", "positive", "negative"),
]


def make_tiny(
    out_dir: Path,
    arch: str = "llama",
    *,
    hidden: int = 64,
    layers: int = 2,
    heads: int = 4,
    kv_heads: int = 2,
    vocab: int = 384,
    dtype: str = "float32",
    seed: int = 0,
    quantize_bits: int | None = None,
    extra_tokens: tuple[str, ...] = (),
    corpus: Sequence[str] = (),
) -> Path:
    """Write a student with random weights to ``out_dir`` and return ``out_dir``.

    Args:
        out_dir: Created when it is missing.
        arch: One of llama, mistral, qwen2, qwen3, gemma2, gemma3_text.
        hidden: Width; a multiple of ``heads``, and of 64 (the group size) when quantized.
        layers: Number of blocks.
        heads: Attention heads.
        kv_heads: Key and value heads.
        vocab: Tokens, at least 260 (the bytes and the special tokens); 384 gives 124 merges.
        dtype: Name of the weights' mlx type.
        seed: Of the weights and of the tokenizer's corpus.
        quantize_bits: Affine quantization with MLX, or None.
        extra_tokens: Further whole tokens, such as ``("<think>", "</think>")``.
        corpus: Texts the tokens are learnt from, in place of made-up ones.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    size = _write_tokenizer(out_dir, vocab, corpus or _corpus(seed), extra_tokens)
    config = _config(arch, size, hidden, layers, heads, kv_heads, dtype)
    _write_weights(out_dir, config, seed, dtype, quantize_bits)
    generation = {"eos_token_id": config["eos_token_id"], "pad_token_id": config["pad_token_id"]}
    (out_dir / "generation_config.json").write_text(json.dumps(generation))
    return out_dir


def _write_tokenizer(out_dir: Path, vocab: int, corpus: Sequence[str], extra_tokens: tuple[str, ...]) -> int:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab - len(extra_tokens),
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    tokenizer.add_tokens(list(extra_tokens))
    tokenizer.save(str(out_dir / "tokenizer.json"))
    tokenizer_config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": TURN_END,
        "pad_token": PAD,
        "model_max_length": 2048,
        "clean_up_tokenization_spaces": False,
    }
    (out_dir / "tokenizer_config.json").write_text(json.dumps(tokenizer_config, indent=1))
    (out_dir / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    return tokenizer.get_vocab_size()


def _corpus(seed: int) -> list[str]:
    choose = random.Random(seed)
    return [
        " ".join(choose.choices(_WORDS, k=choose.randint(4, 14))) + f" {choose.randint(0, 999)}." for _ in range(400)
    ]


def _config(arch: str, vocab: int, hidden: int, layers: int, heads: int, kv_heads: int, dtype: str) -> dict[str, Any]:
    config: dict[str, Any] = {
        "model_type": arch,
        "architectures": [_ARCHITECTURES[arch]],
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "intermediate_size": hidden * 2,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": hidden // heads,
        "rms_norm_eps": 1e-5,
        "vocab_size": vocab,
        "rope_theta": 10000.0,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": True,
        "hidden_act": "silu",
        "eos_token_id": SPECIAL_TOKENS.index(TURN_END),
        "pad_token_id": SPECIAL_TOKENS.index(PAD),
        "torch_dtype": dtype,
    }
    if arch.startswith("gemma"):
        config |= {"hidden_act": "gelu_pytorch_tanh", "query_pre_attn_scalar": hidden // heads, "sliding_window": 512}
    if arch == "gemma2":
        config |= {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}
    if arch == "gemma3_text":
        config |= {"sliding_window_pattern": 2, "rope_local_base_freq": 10000.0, "rope_theta": 1e6}
    return config


def _write_weights(out_dir: Path, config: dict[str, Any], seed: int, dtype: str, quantize_bits: int | None) -> None:
    import mlx.core as mx
    from mlx import nn
    from mlx.utils import tree_flatten, tree_map

    module = importlib.import_module(f"mlx_lm.models.{config['model_type'].replace('mistral', 'llama')}")
    mx.random.seed(seed)
    model = module.Model(module.ModelArgs.from_dict(config))
    model.update(tree_map(lambda weight: weight.astype(getattr(mx, dtype)), model.parameters()))
    if quantize_bits is not None:
        nn.quantize(model, group_size=64, bits=quantize_bits)
        config["quantization"] = config["quantization_config"] = {
            "group_size": 64,
            "bits": quantize_bits,
            "mode": "affine",
        }
    mx.save_safetensors(str(out_dir / "model.safetensors"), dict(tree_flatten(model.parameters())), {"format": "pt"})
    (out_dir / "config.json").write_text(json.dumps(config, indent=1))

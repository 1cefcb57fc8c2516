"""Tiny random students of every family and tokenizer kind the GGUF export knows.

Norms and biases are random too: at their usual one and zero a forgotten shift or bias would not show.
"""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

import importlib
import json
from pathlib import Path
from typing import Any, cast

from tests.tiny_student import CHAT_TEMPLATE, make_tiny

LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
QWEN35 = QWEN2.replace(r"?\p{L}+", r"?[\p{L}\p{M}]+").replace(r"[^\s\p{L}\p{N}]+", r"[^\s\p{L}\p{M}\p{N}]+")
TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_SUFFIX = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
O200K = TEKKEN.replace(r"\p{M}]+|", rf"\p{{M}}]+{_SUFFIX}|").replace(
    r"\p{M}]*|\p{N}", rf"\p{{M}}]*{_SUFFIX}|\p{{N}}{{1,3}}"
)

_FACTORS = [1.0 + index / 8 for index in range(8)]
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "llama3": {
        "rope_theta": 500000.0,
        "tie_word_embeddings": False,
        "attention_bias": True,
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 128,
        },
    },
    "mistral": {"head_dim": 32, "tie_word_embeddings": False},
    "qwen2": {},
    "qwen2_yarn": {
        "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512},
    },
    "qwen3": {"head_dim": 32},
    "gemma2": {
        "head_dim": 16,
        "query_pre_attn_scalar": 16,
        "attn_logit_softcapping": 5.0,
        "final_logit_softcapping": 3.0,
        "sliding_window": 512,
    },
    "gemma3_text": {
        "head_dim": 16,
        "query_pre_attn_scalar": 16,
        "sliding_window": 512,
        "sliding_window_pattern": 2,
        "rope_local_base_freq": 10000.0,
        "rope_theta": 1e6,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0},
    },
    "gemma3": {"vocab_size": 384},
    "phi3": {
        "tie_word_embeddings": False,
        "original_max_position_embeddings": 256,
        "rope_scaling": {"type": "longrope", "long_factor": _FACTORS, "short_factor": [1.0] * 8},
    },
    "granite": {
        "attention_multiplier": 0.2,
        "embedding_multiplier": 3.0,
        "residual_multiplier": 0.4,
        "logits_scaling": 2.0,
        "attention_bias": False,
        "mlp_bias": False,
    },
    "smollm3": {"num_hidden_layers": 4},
    "qwen3_moe": {
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "moe_intermediate_size": 32,
        "norm_topk_prob": True,
    },
    "qwen3_5": {
        "num_hidden_layers": 4,
        "head_dim": 32,
        "linear_num_value_heads": 4,
        "linear_num_key_heads": 2,
        "linear_key_head_dim": 16,
        "linear_value_head_dim": 16,
        "linear_conv_kernel_dim": 4,
        "rope_parameters": {
            "type": "default",
            "mrope_section": [2, 1, 1],
            "rope_theta": 100000.0,
            "partial_rotary_factor": 0.25,
        },
    },
}
_MODEL_TYPES = {"llama3": "llama", "qwen2_yarn": "qwen2"}


def make_family(out_dir: Path, family: str, *, dtype: str = "float32", **changes: Any) -> Path:
    """Write a random student of one of ``FAMILIES``; ``changes`` go into its config."""
    make_tiny(out_dir, "llama")
    config: dict[str, Any] = json.loads((out_dir / "config.json").read_bytes())
    config |= {"model_type": _MODEL_TYPES.get(family, family)} | FAMILIES[family] | changes
    if family == "gemma3":  # the text model inside one that also sees pictures
        config = {**config, "text_config": config | FAMILIES["gemma3_text"] | {"model_type": "gemma3_text"} | changes}
    write_random_weights(out_dir, config, dtype)
    return out_dir


def write_random_weights(out_dir: Path, config: dict[str, Any], dtype: str = "float32") -> None:
    """Replace the weights and the config of a student folder."""
    import mlx.core as mx
    from mlx.utils import tree_flatten, tree_map

    module = importlib.import_module(f"mlx_lm.models.{config['model_type'].replace('mistral', 'llama')}")
    mx.random.seed(7)
    model = module.Model(module.ModelArgs.from_dict(config))
    if config["model_type"] in ("gemma3_text", "gemma3"):
        getattr(model, "language_model", model).sanitize({})  # without a separate output matrix it is tied

    def shaken(weight: mx.array) -> mx.array:
        shaken = weight + 0.3 * mx.random.normal(weight.shape) if weight.ndim == 1 else weight * 2
        return shaken.astype(getattr(mx, dtype))

    model.update(tree_map(shaken, model.parameters()))
    mx.save_safetensors(str(out_dir / "model.safetensors"), dict(tree_flatten(model.parameters())), {"format": "mlx"})
    (out_dir / "config.json").write_text(json.dumps(config, indent=1))


def split_by(out_dir: Path, pattern: str, *, ignore_merges: bool = False, normalizer: str | None = None) -> None:
    """Make a student's byte-level tokenizer split text by a pattern, as its big relatives do."""
    spec = _read_tokenizer(out_dir)
    spec["pre_tokenizer"] = {
        "type": "Sequence",
        "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False},
            {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
        ],
    }
    spec["model"]["ignore_merges"] = ignore_merges
    spec["normalizer"] = {"type": normalizer} if normalizer else None
    _write_tokenizer(out_dir, spec)


def split_digits(out_dir: Path) -> None:
    """Make a student's byte-level tokenizer split off every digit."""
    spec = _read_tokenizer(out_dir)
    spec["pre_tokenizer"] = {
        "type": "Sequence",
        "pretokenizers": [{"type": "Digits", "individual_digits": True}, spec["pre_tokenizer"]],
    }
    _write_tokenizer(out_dir, spec)


def without_merges(out_dir: Path) -> None:
    """Make a student's tokenizer spell every text byte by byte."""
    spec = _read_tokenizer(out_dir)
    spec["model"]["merges"] = []
    _write_tokenizer(out_dir, spec)


def use_sentencepiece_like(out_dir: Path, like: str, *, rstrip: bool = False) -> None:
    """Give a student a byte-fallback tokenizer with a BOS.

    Args:
        out_dir: The student.
        like: Whose: "llama-2" puts a space before every piece of text, "llama-2-new" says the same otherwise,
            "mistral" puts one before the first piece only, "gemma" none.
        rstrip: Special tokens swallow the space after them, as Phi-3's do.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    fallback = [f"<0x{byte:02X}>" for byte in range(256)]
    special = ["<unk>", "<s>", "</s>", "<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    replace = normalizers.Replace(" ", "▁")
    tokenizer.normalizer = replace
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")  # for training only: words, as usual
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    corpus = ["the user asks and the assistant answers step by step", "ticket billing refund 0123456789 .,:<>\n"] * 4
    trainer = trainers.BpeTrainer(vocab_size=384, special_tokens=[*special, *fallback], show_progress=False)
    tokenizer.train_from_iterator(corpus, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    prepend = normalizers.Sequence([normalizers.Prepend("▁"), replace])
    tokenizer.normalizer = {"llama-2": prepend, "gemma": replace}.get(like)
    spec = json.loads(tokenizer.to_str())
    scheme = {"llama-2-new": "always", "mistral": "first"}.get(like)
    metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": False}
    spaces = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
    spec["pre_tokenizer"] = metaspace if scheme else {"gemma": spaces}.get(like)
    spec["added_tokens"] = [
        token | {"rstrip": rstrip and token["content"].startswith("<|im")}
        for token in spec["added_tokens"]
        if token["content"] in special
    ]
    _write_tokenizer(out_dir, spec)
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "<|im_end|>",
        "unk_token": "<unk>",
        "clean_up_tokenization_spaces": False,
    }
    (out_dir / "tokenizer_config.json").write_text(json.dumps(settings))
    (out_dir / "chat_template.jinja").write_text("{{ bos_token }}" + CHAT_TEMPLATE)
    config = json.loads((out_dir / "config.json").read_bytes())
    config |= {"vocab_size": len(spec["model"]["vocab"]), "eos_token_id": 5, "pad_token_id": 3, "bos_token_id": 1}
    (out_dir / "generation_config.json").write_text(json.dumps({"eos_token_id": 5}))
    write_random_weights(out_dir, config)


def _read_tokenizer(out_dir: Path) -> dict[str, Any]:
    return json.loads((out_dir / "tokenizer.json").read_bytes())


def _write_tokenizer(out_dir: Path, spec: dict[str, Any]) -> None:
    (out_dir / "tokenizer.json").write_text(json.dumps(spec))


def random_adapter(student_dir: Path, adapter_dir: Path, kind: str = "lora") -> Path:
    """Write an adapter that changes what a student says, without training one."""
    import mlx.core as mx
    from mlx.utils import tree_flatten
    from mlx_lm.tuner.utils import linear_to_lora_layers
    from mlx_lm.utils import load_model

    adapter_dir.mkdir(parents=True, exist_ok=True)
    parameters = {"rank": 4, "scale": 2.0, "dropout": 0.0}
    model: Any = load_model(student_dir)[0]
    model.freeze()
    if kind == "full":
        model.layers[-1].unfreeze()
    else:
        linear_to_lora_layers(model, -1, parameters, use_dora=kind == "dora")
    mx.random.seed(11)
    trained: dict[str, mx.array] = {}
    for name, weight in cast("list[tuple[str, mx.array]]", tree_flatten(model.trainable_parameters())):
        trained[name] = weight * 1.2 if name.endswith(".m") else weight + 0.1 * mx.random.normal(weight.shape)
    mx.save_safetensors(str(adapter_dir / "adapters.safetensors"), trained)
    config = {"fine_tune_type": kind, "num_layers": -1, "lora_parameters": parameters}
    (adapter_dir / "adapter_config.json").write_text(json.dumps(config))
    return adapter_dir

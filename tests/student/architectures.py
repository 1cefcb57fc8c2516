"""Tiny random models of the architectures MLX-LM has code for: one made-up configuration for all, and what some need besides."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false, reportMissingTypeStubs=false

import dataclasses
import importlib
import pkgutil
import typing
from typing import Any

import mlx.core as mx
import mlx_lm.models
from mlx import nn

_WIDTH, _LAYERS = 64, 4
_BOTH = ["sliding_attention", "full_attention"] * 2
_ALL: dict[str, Any] = {
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "dim", "model_dim"), _WIDTH),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers"), _LAYERS),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads"), 4),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads"), 2),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len"), 512),
    **dict.fromkeys(
        ("rms_norm_eps", "norm_eps", "layer_norm_eps", "layer_norm_epsilon", "layernorm_epsilon"),
        1e-5,
    ),
    **dict.fromkeys(("rope_theta", "rope_local_base_freq"), 10000.0),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "num_experts_per_token", "moe_topk", "top_k"), 2),
    **dict.fromkeys(("kv_lora_rank", "q_lora_rank", "v_head_dim", "head_dim", "query_pre_attn_scalar"), 16),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "mamba_d_head"), 32),
    **dict.fromkeys(("qk_rope_head_dim", "qk_nope_head_dim", "rotary_dim", "state_size"), 8),
    **dict.fromkeys(("linear_num_value_heads", "linear_conv_kernel_dim", "conv_kernel", "mamba_d_conv"), 4),
    **dict.fromkeys(("mamba_num_heads", "mamba_n_heads", "time_step_rank"), 4),
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim", "mamba_d_state", "mamba_head_dim"), 16),
    **dict.fromkeys(("linear_num_key_heads", "full_attention_interval", "sliding_window_pattern"), 2),
    **dict.fromkeys(("expand", "mamba_expand"), 2),
    **dict.fromkeys(("n_shared_experts", "n_group", "topk_group", "first_k_dense_replace", "moe_layer_freq"), 1),
    **dict.fromkeys(("decoder_sparse_step", "n_groups", "mamba_n_groups"), 1),
    **dict.fromkeys(("routed_scaling_factor", "logit_scale"), 1.0),
    **dict.fromkeys(("attention_bias", "mlp_bias", "use_bias", "layer_norm_bias", "use_qk_norm"), False),
    **dict.fromkeys(("tie_word_embeddings", "norm_topk_prob", "use_conv_bias", "multi_query"), True),
    **dict.fromkeys(("parallel_residual", "use_parallel_residual"), True),
    "vocab_size": 256,
    "intermediate_size": 128,
    "ssm_state_size": 16,
    "sliding_window": 64,
    "mlp_only_layers": [],
    "num_nextn_predict_layers": 0,
    "partial_rotary_factor": 0.5,
    "rotary_pct": 0.25,
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
    "attention_multiplier": 0.2,
    "embedding_multiplier": 3.0,
    "residual_multiplier": 0.4,
    "logits_scaling": 2.0,
    "hidden_act": "silu",
    "scoring_func": "sigmoid",
    "activation_function": "gelu_new",
    "layer_types": ["full_attention"] * _LAYERS,
}
_ROPE = {"rope_theta": 10000.0, "type": "default", "rope_type": "default", "llama_4_scaling_beta": 0.1}
_YARN = {"type": "yarn", "factor": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0, "original_max_position_embeddings": 512}
_SOME: dict[str, dict[str, Any]] = {
    "exaone4": {"sliding_window_pattern": "LLLG"},
    "gpt_oss": {"layer_types": _BOTH},
    "olmo3": {"layer_types": _BOTH},
    "granitemoehybrid": {"layer_types": ["attention", "mamba"] * 2},
    "jamba": {"layers_block_type": ["attention", "mamba"] * 2},
    "hunyuan": {"rope_scaling": {"alpha": 1000.0, "factor": 1.0, "type": "dynamic"}},
    "deepseek_v2": {"rope_scaling": _YARN},
    "minicpm3": {
        "rope_scaling": {"type": "longrope", "original_max_position_embeddings": 512, "long_factor": [1.0] * 4, "short_factor": [1.0] * 4}
    },
    "glm_moe_dsa": {"topk_method": "noaux_tc"},
    "mamba2": {"time_step_limit": [0.0, 100.0], "num_heads": 8, "head_dim": 16},
    "lfm2": {"full_attn_idxs": [1, 3], "block_dim": 64, "conv_L_cache": 3},
    "lfm2_moe": {"full_attn_idxs": [1, 3], "conv_L_cache": 3},
    "nemotron_h": {"hybrid_override_pattern": ["M", "*", "-", "M"]},
    "longcat_flash": {"mla_scale_q_lora": True, "mla_scale_kv_lora": True},
    "longcat_flash_ngram": {"mla_scale_q_lora": True, "mla_scale_kv_lora": True},
    "plamo": {"n_shared_head": 2},
    "recurrent_gemma": {"block_types": ["recurrent", "attention"]},
    "ministral3": {"rope_parameters": {**_YARN, **_ROPE}},
    "mistral4": {"rope_parameters": {**_YARN, **_ROPE}},
    "falcon_h1": {"mamba_d_ssm": 128},
    "dbrx": {
        "ffn_config": {"ffn_hidden_size": 128, "moe_num_experts": 4, "moe_top_k": 2},
        "attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 10000.0},
    },
    "qwen": {"kv_channels": 16, "intermediate_size": 128},
    "kimi_linear": {
        "linear_attn_config": {"full_attn_layers": [2, 4], "kda_layers": [1, 3], "num_heads": 4, "head_dim": 16, "short_conv_kernel_size": 4}
    },
    "baichuan_m1": {"sliding_window_layers": [1, 3], "num_swa_attention_heads": 4, "num_swa_key_value_heads": 2, "conv_window": 2, "tie_word_embeddings": False},
    "exaone_moe": {"is_moe_layer": [False, True, True, True], "layer_types": _BOTH},
    "llama4_text": {"no_rope_layers": [1, 1, 1, 0]},
    "mellum": {"rope_parameters": {"full_attention": _ROPE, "sliding_attention": _ROPE}},
    "spark2_5": {"hidden_act": "gelu", "rope_parameters": {"full_attention": _ROPE}},
    "mimo_v2_flash": {"moe_layer_freq": [0, 1, 1, 1], "hybrid_layer_pattern": [0, 1, 0, 1], "topk_method": "noaux_tc"},
    "openelm": {"num_query_heads": [4] * 4, "num_kv_heads": [2] * 4, "ffn_multipliers": [2.0] * 4},
}  # fmt: skip
_SOME["longcat_flash"]["zero_expert_type"] = _SOME["longcat_flash_ngram"]["zero_expert_type"] = "identity"
_SOME["glm_moe_dsa"] |= {"rope_parameters": _ROPE, "index_head_dim": 16}
_SOME["llama4"] = {
    "attention_chunk_size": 64,
    "interleave_moe_layer_step": 1,
    "intermediate_size_mlp": 64,
    "rope_scaling": None,
    "num_experts_per_tok": 1,
}
_SOME["granitemoehybrid"]["shared_intermediate_size"] = 32
_AROUND = {
    "gemma3": "gemma3_text",
    "kimi_k25": "deepseek_v3",
    "kimi_vl": "deepseek_v3",
    "lfm2-vl": "lfm2",
    "llama4": "llama4_text",
    "mistral3": "llama",
    "pixtral": "llama",
    "qwen2_vl": "qwen2",
    "qwen3_vl": "qwen3",
    "qwen3_vl_moe": "qwen3_moe",
}
"""Models that also see pictures, and the one of text inside."""


def architectures() -> list[str]:
    """The modules of MLX-LM that hold one, by name."""
    return [module.name for module in pkgutil.iter_modules(mlx_lm.models.__path__)]


def make_architecture(name: str) -> nn.Module | None:
    """A tiny random model; None where the module holds no architecture."""
    module = importlib.import_module(f"mlx_lm.models.{name}")
    if not hasattr(module, "Model") or not hasattr(module, "ModelArgs"):
        return None
    config = {**_needed(module), **_ALL, **_SOME.get(name, {}), "model_type": name}
    if inside := _AROUND.get(name):
        text = importlib.import_module(f"mlx_lm.models.{inside}")
        own = {**_SOME.get(inside, {}), **_SOME.get(name, {})}
        config["text_config"] = {**_needed(text), **_ALL, **own, "model_type": inside}
    mx.random.seed(0)
    return module.Model(module.ModelArgs.from_dict(config))


def _needed(module: Any) -> dict[str, Any]:
    """Values for the fields without a default that nobody here has thought of, by their types."""
    kinds = typing.get_type_hints(module.ModelArgs)
    values: dict[Any, Any] = {
        int: 4,
        float: 1.0,
        bool: False,
        str: "silu",
        dict: dict(_ALL),
        dict[str, Any]: dict(_ALL),
    }
    return {
        field.name: values.get(kinds[field.name])
        for field in dataclasses.fields(module.ModelArgs)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    }

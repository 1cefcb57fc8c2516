"""What llama.cpp must know of each model family: its keys, its tensor names, and where its layout differs from MLX's.

A family is a few lines here and is proved by its logits: its GGUF file must answer as the fused model does. A family
that is not listed is refused, since a wrong layout gives a file that loads and talks nonsense.
"""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false, reportUnknownLambdaType=false, reportMissingTypeStubs=false

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import gguf
import mlx.core as mx
from gguf import MODEL_ARCH, GGUFWriter
from mlx import nn
from mlx.utils import tree_flatten

from nanodistill_mcp.student.gguf_rope import describe_rope, refused, rope_tensors

Args = Any
"""The ``ModelArgs`` of a family in mlx_lm: the config with defaults filled in, as the model was built from it."""

Config = dict[str, Any]
Renamed = Iterator[tuple[str, mx.array]]


def _as_it_is(name: str, weight: mx.array, _: Args) -> Renamed:
    yield name, weight


def _no_keys(_writer: GGUFWriter, _args: Args, _config: Config) -> None:
    pass


def _nothing_missing(_: Args) -> str:
    return ""


@dataclass(frozen=True)
class Family:
    """How one ``model_type`` is written."""

    arch: MODEL_ARCH
    layout: Callable[[str, mx.array, Args], Renamed] = _as_it_is
    """Yields a parameter under the Hugging Face name gguf knows, arranged as llama.cpp expects."""
    keys: Callable[[GGUFWriter, Args, Config], None] = _no_keys
    """Writes what only this family has."""
    missing: Callable[[Args], str] = _nothing_missing
    """Says what of this student llama.cpp cannot express; empty when nothing."""


def family_of(model_type: str) -> Family:
    """Look a family up.

    Raises:
        ExportError: It is not one that is known to convert rightly.
    """
    family = FAMILIES.get(model_type)
    if family is None:
        raise refused(f"This student's model family is not one of {', '.join(FAMILIES)}: no GGUF file was written.")
    return family


def args_of(model: Any) -> Args:
    """The arguments the text model was built from."""
    return model.language_model.args if hasattr(model, "language_model") else model.args


def describe(writer: GGUFWriter, model: Any, family: Family, config: Config) -> None:
    """Write the keys of the architecture.

    Raises:
        ExportError: The student uses something llama.cpp cannot express.
    """
    args = args_of(model)
    if missing := family.missing(args):
        raise refused(f"llama.cpp cannot express this student: {missing}.")
    head_dim = getattr(args, "head_dim", None) or args.hidden_size // args.num_attention_heads
    writer.add_vocab_size(args.vocab_size)
    writer.add_context_length(context_length(args))
    writer.add_embedding_length(args.hidden_size)
    writer.add_block_count(args.num_hidden_layers)
    writer.add_feed_forward_length(args.intermediate_size)
    writer.add_head_count(args.num_attention_heads)
    writer.add_head_count_kv(args.num_key_value_heads)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_layer_norm_rms_eps(args.rms_norm_eps)
    describe_rope(writer, _rope_of(model), args)
    family.keys(writer, args, config)


def context_length(args: Args) -> int:
    """Tokens the student can see."""
    return getattr(args, "max_position_embeddings", None) or 4096


def tensors(model: Any, family: Family) -> dict[str, mx.array]:
    """Every tensor of the file by its GGUF name, lazy, in llama.cpp's layout.

    Raises:
        ExportError: A parameter has no place in this architecture.
    """
    args = args_of(model)
    names = gguf.get_tensor_name_map(family.arch, args.num_hidden_layers)
    found = rope_tensors(family.arch, _rope_of(model), getattr(args, "rope_theta", 0.0))
    for mlx_name, parameter in cast("list[tuple[str, mx.array]]", tree_flatten(model.parameters())):
        for hf_name, weight in family.layout(mlx_name, parameter, args):
            name = names.get_name(hf_name, try_suffixes=(".weight", ".bias"))
            if name is None:
                raise refused("The student has weights that its family does not have in llama.cpp.")
            found[name] = weight
    return found


def adapter_tensors(model: Any, family: Family, adapter: dict[str, mx.array]) -> dict[str, mx.array]:
    """The two matrices of each adapted module by their GGUF names, in llama.cpp's layout.

    Rows of a module's weight are rows of its B, columns are columns of its A: each takes the part of the layout that
    moves it.

    Raises:
        ExportError: A module has no place in this architecture.
    """
    args = args_of(model)
    names = gguf.get_tensor_name_map(family.arch, args.num_hidden_layers)
    found: dict[str, mx.array] = {}
    for module in sorted(name.removesuffix(".lora_a") for name in adapter if name.endswith(".lora_a")):
        a, b = adapter[f"{module}.lora_a"], adapter[f"{module}.lora_b"]
        if a.ndim == 2:  # noqa: PLR2004 - a stack of experts already lies as llama.cpp has it
            a, b = a.T, b.T
        ((hf_name, arranged),) = family.layout(f"{module}.weight", a if _moves_columns(module) else b, args)
        name = names.get_name(hf_name, try_suffixes=(".weight",))
        if name is None:
            raise refused("The student has weights that its family does not have in llama.cpp.")
        found[f"{name}.lora_a"], found[f"{name}.lora_b"] = (arranged, b) if _moves_columns(module) else (a, arranged)
    return found


def _moves_columns(module: str) -> bool:
    return module.endswith(".linear_attn.out_proj")


def _rope_of(model: Any) -> nn.Module:
    """The rotation that the keys describe: in a model that mixes several, the one of its global layers."""
    ropes = [layer.self_attn.rope for layer in model.layers if "self_attn" in layer and "rope" in layer.self_attn]
    positions = [rope for rope in ropes if hasattr(rope, "dims") or hasattr(rope, "dim")]
    if not positions:
        raise refused("The student has no rotary positions.")
    pattern = getattr(args_of(model), "sliding_window_pattern", None)
    return positions[pattern - 1] if pattern and len(positions) >= pattern else positions[0]


# llama, mistral, granite, smollm3: llama.cpp rotates neighbouring pairs where MLX rotates halves.


def _pairs_beside_each_other(name: str, weight: mx.array, args: Args) -> Renamed:
    heads = {"q_proj": args.num_attention_heads, "k_proj": args.num_key_value_heads}.get(name.split(".")[-2])
    yield name, weight if heads is None else _halves_to_pairs(weight, heads)


def _halves_to_pairs(weight: mx.array, heads: int) -> mx.array:
    rows, *columns = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, *columns).swapaxes(1, 2).reshape(weight.shape)


def _llama_missing(args: Args) -> str:
    return "it mixes sliding and full attention" if "sliding_attention" in args.layer_types else ""


def _granite_keys(writer: GGUFWriter, args: Args, _: Config) -> None:
    writer.add_attention_scale(args.attention_multiplier)
    writer.add_embedding_scale(args.embedding_multiplier)
    writer.add_residual_scale(args.residual_multiplier)
    writer.add_logit_scale(args.logits_scaling)


def _smollm3_missing(args: Args) -> str:
    every_fourth = [int((layer + 1) % 4 != 0) for layer in range(args.num_hidden_layers)]
    return _llama_missing(args) or ("" if args.no_rope_layers == every_fourth else "its pattern of unrotated layers")


# gemma: llama.cpp multiplies by the stored norm where MLX multiplies by one plus it.


def _one_plus_norms(name: str, weight: mx.array, _: Args) -> Renamed:
    yield name, weight.astype(mx.float32) + 1 if name.endswith("norm.weight") else weight


def _gemma3_layout(name: str, weight: mx.array, args: Args) -> Renamed:
    yield from _one_plus_norms(name.removeprefix("language_model."), weight, args)


def _gemma_missing(layers_of_the_largest: int) -> Callable[[Args], str]:
    def missing(args: Args) -> str:
        largest = args.num_hidden_layers == layers_of_the_largest
        assumed = args.hidden_size / args.num_attention_heads if largest else args.head_dim
        return "" if args.query_pre_attn_scalar == assumed else "its scale of the attention scores"

    return missing


def _gemma2_keys(writer: GGUFWriter, args: Args, config: Config) -> None:
    writer.add_attn_logit_softcapping(args.attn_logit_softcapping)
    writer.add_final_logit_softcapping(args.final_logit_softcapping)
    writer.add_sliding_window(config.get("sliding_window") or 4096)


def _gemma3_keys(writer: GGUFWriter, args: Args, _: Config) -> None:
    writer.add_sliding_window(args.sliding_window)
    writer.add_sliding_window_pattern(args.sliding_window_pattern)
    writer.add_rope_freq_base_swa(args.rope_local_base_freq)


# qwen3_moe


def _experts(name: str, weight: mx.array, _: Args) -> Renamed:
    yield name.replace(".switch_mlp.", ".experts."), weight


def _qwen3_moe_keys(writer: GGUFWriter, args: Args, _: Config) -> None:
    writer.add_expert_count(args.num_experts)
    writer.add_expert_used_count(args.num_experts_per_tok)
    writer.add_expert_feed_forward_length(args.moe_intermediate_size)


def _qwen3_moe_missing(args: Args) -> str:
    every_layer = not args.mlp_only_layers and args.decoder_sparse_step == 1
    return "" if every_layer and args.norm_topk_prob else "its arrangement of experts"


# qwen3_5: gated delta layers between full attention; MLX has already shifted the norms.


def _delta_layout(name: str, weight: mx.array, args: Args) -> Renamed:
    name = name.removeprefix("language_model.")
    layer, _, part = name.rpartition(".linear_attn.")
    if not layer:
        yield name, weight
        return
    keys = 2 * args.linear_num_key_heads * args.linear_key_head_dim
    match part:
        case "A_log":
            yield name, -mx.exp(_tiled(weight.astype(mx.float32), args))
        case "dt_bias":
            yield f"{layer}.linear_attn.dt_proj.bias", _tiled(weight, args)
        case "conv1d.weight":
            channels = weight.reshape(weight.shape[0], -1)
            yield name, mx.concatenate([channels[:keys], _tiled(channels[keys:], args)])
        case "in_proj_qkv.weight":
            yield name, mx.concatenate([weight[:keys], _tiled(weight[keys:], args)])
        case "in_proj_z.weight" | "in_proj_a.weight" | "in_proj_b.weight":
            yield name, _tiled(weight, args)
        case "out_proj.weight":
            yield name, _tiled(weight.T, args).T
        case _:
            yield name, weight


def _tiled(rows: mx.array, args: Args) -> mx.array:
    """Reorder rows by value head: MLX keeps the heads of one key head together, llama.cpp counts key heads first."""
    shape = (args.linear_num_key_heads, args.linear_num_value_heads // args.linear_num_key_heads, -1, *rows.shape[1:])
    return rows.reshape(shape).swapaxes(0, 1).reshape(rows.shape)


def _qwen35_keys(writer: GGUFWriter, args: Args, _: Config) -> None:
    writer.add_ssm_conv_kernel(args.linear_conv_kernel_dim)
    writer.add_ssm_state_size(args.linear_key_head_dim)
    writer.add_ssm_group_count(args.linear_num_key_heads)
    writer.add_ssm_time_step_rank(args.linear_num_value_heads)
    writer.add_ssm_inner_size(args.linear_value_head_dim * args.linear_num_value_heads)
    writer.add_full_attention_interval(args.full_attention_interval)
    sections = (args.rope_parameters or {}).get("mrope_section") or [11, 11, 10]
    writer.add_rope_dimension_sections([*sections, 0][:4])


def _qwen35_missing(args: Args) -> str:
    return "it has experts" if args.num_experts else ""


FAMILIES: dict[str, Family] = {
    "llama": Family(MODEL_ARCH.LLAMA, _pairs_beside_each_other, missing=_llama_missing),
    "mistral": Family(MODEL_ARCH.LLAMA, _pairs_beside_each_other, missing=_llama_missing),
    "qwen2": Family(MODEL_ARCH.QWEN2),
    "qwen3": Family(MODEL_ARCH.QWEN3),
    "qwen3_moe": Family(MODEL_ARCH.QWEN3MOE, _experts, _qwen3_moe_keys, _qwen3_moe_missing),
    "qwen3_5": Family(MODEL_ARCH.QWEN35, _delta_layout, _qwen35_keys, _qwen35_missing),
    "gemma2": Family(MODEL_ARCH.GEMMA2, _one_plus_norms, _gemma2_keys, _gemma_missing(46)),
    "gemma3_text": Family(MODEL_ARCH.GEMMA3, _one_plus_norms, _gemma3_keys, _gemma_missing(62)),
    "gemma3": Family(MODEL_ARCH.GEMMA3, _gemma3_layout, _gemma3_keys, _gemma_missing(62)),
    "phi3": Family(MODEL_ARCH.PHI3),
    "granite": Family(MODEL_ARCH.GRANITE, _pairs_beside_each_other, _granite_keys),
    "smollm3": Family(MODEL_ARCH.SMOLLM3, _pairs_beside_each_other, missing=_smollm3_missing),
}

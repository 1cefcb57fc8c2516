"""Rotary positions as GGUF keys and tensors, read from the module that rotates, not from the config's many spellings."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false, reportUnknownLambdaType=false, reportMissingTypeStubs=false

from typing import Any

import gguf
import mlx.core as mx
from mlx import nn
from mlx_lm.models.rope_utils import Llama3RoPE, SuScaledRoPE, YarnRoPE

from nanodistill_mcp.errors import ExportError

MANUAL_ROUTE = (
    "The fused model is complete and runs in mlx_lm and LM Studio as it is. For GGUF, try llama.cpp's "
    "convert_hf_to_gguf.py on its folder and compare some answers with the fused model's before relying on it."
)


def refused(what: str) -> ExportError:
    """A student this writer cannot express, with the manual route."""
    return ExportError(what, next_step=MANUAL_ROUTE)


def rope_tensors(arch: gguf.MODEL_ARCH, rope: nn.Module, theta: float) -> dict[str, mx.array]:
    """Per-frequency factors, for the scalings that llama.cpp reads as tensors.

    Args:
        arch: What the file is written as.
        rope: The module that rotates queries and keys, of the kind whose frequencies the keys describe.
        theta: The base frequency the factors are relative to.

    Raises:
        ExportError: This architecture has no place for them in llama.cpp.
    """
    match rope:
        case Llama3RoPE() if arch == gguf.MODEL_ARCH.LLAMA:
            return {"rope_freqs.weight": _factors(rope, rope.dims, theta)}
        case SuScaledRoPE() if arch == gguf.MODEL_ARCH.PHI3:
            # llama.cpp would take the short factors below the original context; MLX takes the long ones at any length.
            factors = _factors(rope, rope.dim, theta)
            return {"rope_factors_long.weight": factors, "rope_factors_short.weight": factors}
        case Llama3RoPE() | SuScaledRoPE():
            raise refused("The student scales its rotary positions in a way its family does not have in llama.cpp.")
        case _:
            return {}


def _factors(rope: Any, dims: int, theta: float) -> mx.array:
    plain = theta ** (mx.arange(0, dims, 2, dtype=mx.float32) / dims)
    return rope._freqs.astype(mx.float32) / plain  # noqa: SLF001 - the wavelengths are kept nowhere else


def describe_rope(writer: gguf.GGUFWriter, rope: Any, args: Any) -> None:
    """Write the keys: dimensions, base frequency and scaling.

    Raises:
        ExportError: A scaling llama.cpp does not have.
    """
    writer.add_rope_dimension_count(rope.dim if isinstance(rope, SuScaledRoPE) else rope.dims)
    writer.add_rope_freq_base(args.rope_theta)
    if getattr(rope, "traditional", False):
        raise refused("The student rotates neighbouring values, which llama.cpp does not do for its family.")
    scaling = getattr(args, "rope_scaling", None) or {}
    match rope:
        case nn.RoPE():
            if rope.scale != 1.0:
                writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
                writer.add_rope_scaling_factor(1 / rope.scale)
        case Llama3RoPE():
            pass  # the factors are a tensor
        case SuScaledRoPE():
            writer.add_rope_scaling_type(gguf.RopeScalingType.LONGROPE)
            writer.add_rope_scaling_orig_ctx_len(rope.original_max_position_embeddings)
            scale = rope._scale  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - computed from three config values
            writer.add_rope_scaling_attn_factors(scale)
        case YarnRoPE() if not {"mscale", "mscale_all_dim"} & set(scaling):
            writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
            writer.add_rope_scaling_factor(scaling["factor"])
            writer.add_rope_scaling_orig_ctx_len(scaling.get("original_max_position_embeddings", 4096))
            writer.add_rope_scaling_yarn_beta_fast(scaling.get("beta_fast", 32))
            writer.add_rope_scaling_yarn_beta_slow(scaling.get("beta_slow", 1))
        case _:
            raise refused("The student scales its rotary positions in a way llama.cpp does not have.")

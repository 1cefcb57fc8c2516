"""Float rows to GGUF blocks, and which type each tensor of a file gets.

llama.cpp's own quantizer does the work: ``ggml_quantize_chunk`` is a plain C function in the extension that xllamacpp
installs, called through ctypes and checked once against gguf's decoder. Where it is missing or fails that check, numpy
takes over (K-quants from ``kquants``, the rest from gguf); the result says which of the two wrote a file. The mix of
types in the ``_M`` and ``_S`` quantizations follows llama.cpp's rules (MIT licence, llama-quant.cpp).
"""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false, reportUnknownLambdaType=false, reportMissingTypeStubs=false

import ctypes
import importlib.util
import os
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type

from nanodistill_mcp.student import kquants
from nanodistill_mcp.student.gguf_quantizations import Quantization
from nanodistill_mcp.student.kquants import Bytes, Floats

_BASE_TYPES = {
    "F16": Type.F16,
    "BF16": Type.BF16,
    "Q8_0": Type.Q8_0,
    "Q6_K": Type.Q6_K,
    "Q5_K_M": Type.Q5_K,
    "Q4_K_M": Type.Q4_K,
    "Q4_K_S": Type.Q4_K,
    "Q4_0": Type.Q4_0,
}
_NARROW_ROWS = {Type.Q4_K: Type.Q5_0, Type.Q5_K: Type.Q5_1, Type.Q6_K: Type.Q8_0}
"""What stands in for a type of 256-weight blocks when a row is not a multiple of 256."""

_ROOT_MEAN_SQUARE_LIMITS = {
    Type.Q4_0: 0.12,
    Type.Q5_0: 0.06,
    Type.Q5_1: 0.06,
    Type.Q8_0: 0.01,
    Type.Q4_K: 0.10,
    Type.Q5_K: 0.05,
    Type.Q6_K: 0.03,
}
"""Error on standard normal weights; a broken call gives 1 or more. Sound ones: .089 .044 .041 .005 .070 .035 .017."""

_VALUES_Q4_K_S = 4
_PLAIN_TYPES = (Type.F32, Type.F16, Type.BF16)
_NUMPY_K_QUANTS: dict[Type, Callable[[Floats], Bytes]] = {
    Type.Q4_K: kquants.q4_k,
    Type.Q5_K: kquants.q5_k,
    Type.Q6_K: kquants.q6_k,
}


class Quantizer:
    """Turns float32 rows into the blocks of one GGUF type."""

    def __init__(self, kind: Literal["ggml", "numpy"] | None = None) -> None:
        """Choose an implementation.

        Args:
            kind: Insist on one; None takes ggml when it passes its check, else numpy.

        Raises:
            RuntimeError: ggml was insisted on and cannot be used here.
        """
        self._chunk = None if kind == "numpy" else _ggml_quantize_chunk()
        if self._chunk is not None and not passes_self_test(self):
            self._chunk = None
        if kind == "ggml" and self._chunk is None:
            raise RuntimeError("llama.cpp's quantizer is not usable here")
        self.kind: Literal["ggml", "numpy"] = "numpy" if self._chunk is None else "ggml"

    def encode(self, rows: Floats, to: Type) -> Bytes:
        """Encode rows: (n, columns) float32, contiguous, to (n, bytes of a row)."""
        if to in _PLAIN_TYPES or self._chunk is None:
            encode = _NUMPY_K_QUANTS.get(to)
            blocks = encode(rows) if encode else gguf.quantize(rows, to)
            return np.ascontiguousarray(blocks).view(np.uint8).reshape(len(rows), -1)
        return self._encode_with_ggml(rows, to, self._chunk)

    def _encode_with_ggml(self, rows: Floats, to: Type, chunk: Callable[..., int]) -> Bytes:
        out = np.empty((len(rows), row_bytes(rows.shape[1], to)), np.uint8)
        share = -(-len(rows) // (os.cpu_count() or 1))

        def part(start: int) -> int:
            some = rows[start : start + share]
            here = out[start : start + share]
            return chunk(int(to), some.ctypes.data, here.ctypes.data, 0, len(some), rows.shape[1], None)

        with ThreadPoolExecutor() as pool:  # ctypes lets go of the interpreter lock during the call
            written = sum(pool.map(part, range(0, len(rows), share)))
        if written != out.nbytes:
            raise RuntimeError(f"ggml wrote {written} bytes where {out.nbytes} belong")
        return out


def row_bytes(columns: int, of: Type) -> int:
    """Bytes of one row; ``columns`` must be a multiple of the type's block."""
    block, size = gguf.GGML_QUANT_SIZES[of]
    return columns // block * size


def passes_self_test(quantizer: Quantizer) -> bool:
    """Encode normal noise in every type that can occur and compare what gguf decodes with what went in."""
    noise = np.random.default_rng(0).standard_normal((8, 512), np.float32)
    return all(
        float(np.sqrt(np.mean((gguf.dequantize(quantizer.encode(noise, kind), kind) - noise) ** 2))) < limit
        for kind, limit in _ROOT_MEAN_SQUARE_LIMITS.items()
    )


def _ggml_quantize_chunk() -> Callable[..., int] | None:
    """``ggml_quantize_chunk(type, src, dst, first weight, rows, columns, importance) -> bytes``, if it is installed."""
    found = importlib.util.find_spec("xllamacpp")
    if found is None or found.origin is None:
        return None
    for library_path in sorted(Path(found.origin).parent.glob("xllamacpp*.so")):
        try:
            function = ctypes.CDLL(str(library_path)).ggml_quantize_chunk
        except (OSError, AttributeError):  # a library that does not load here, or hides the symbol
            continue
        function.restype = ctypes.c_size_t
        pointer, count = ctypes.c_void_p, ctypes.c_int64
        function.argtypes = [ctypes.c_int, pointer, pointer, count, count, count, pointer]
        return function
    return None


def tensor_types(shapes: dict[str, tuple[int, ...]], quantization: Quantization) -> dict[str, Type]:
    """Choose each tensor's type.

    Args:
        shapes: Row-major shapes by GGUF name, blocks in order.
        quantization: What the file as a whole is.
    """
    tied = "output.weight" not in shapes
    finer = _finer(shapes, quantization)
    base = _BASE_TYPES[quantization.name]
    return {
        name: _tensor_type(name, shape, finer.get(name, base), tied=tied, base=base) for name, shape in shapes.items()
    }


def _tensor_type(name: str, shape: tuple[int, ...], wanted: Type, *, tied: bool, base: Type) -> Type:
    small = len(shape) == 1 or not name.endswith(".weight") or "_norm." in name
    if small or "ffn_gate_inp" in name or "ssm_conv1d" in name:
        return Type.F32
    if base in _PLAIN_TYPES:
        return base
    is_output = name == "output.weight" or (tied and name == "token_embd.weight")
    if is_output and base != Type.Q8_0:
        wanted = Type.Q6_K
    if shape[-1] % gguf.GGML_QUANT_SIZES[wanted][0]:
        wanted = _NARROW_ROWS.get(wanted, Type.F16)
    return Type.F16 if shape[-1] % gguf.GGML_QUANT_SIZES[wanted][0] else wanted


def _finer(shapes: dict[str, tuple[int, ...]], quantization: Quantization) -> dict[str, Type]:
    """Values and down projections that get more bits than the rest.

    In the ``_M`` mixes those of the first eighth, the last eighth and every third layer between; in Q4_K_S the values of
    the first four layers and the down projections of the first eighth.
    """
    chosen: dict[str, Type] = {}
    for pattern in (r"blk\.\d+\.attn_(v|qkv)\.weight", r"blk\.\d+\.ffn_down(_exps)?\.weight"):
        names = [name for name in shapes if re.fullmatch(pattern, name)]
        eighth, last = len(names) // 8, 7 * len(names) // 8
        if quantization.name == "Q4_K_S":
            first = _VALUES_Q4_K_S if "attn" in pattern else eighth
            chosen.update(dict.fromkeys(names[:first], Type.Q5_K))
        elif quantization.name.endswith("_M"):
            some = (n for i, n in enumerate(names) if i < eighth or i >= last or (i - eighth) % 3 == 2)  # noqa: PLR2004
            chosen.update(dict.fromkeys(some, Type.Q6_K))
    return chosen

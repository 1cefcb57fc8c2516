"""Write a student as one GGUF file: fuse, describe, then stream tensor after tensor from the fused model.

Only one tensor is in memory beside the file being written, and nothing is loaded by torch or written in between. The
upstream converter is not used: on what MLX saves it gives broken files for several families without saying so.
"""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false, reportUnknownLambdaType=false, reportMissingTypeStubs=false

import os
import shutil
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import mlx.core as mx
import mlx_lm
import numpy as np
from gguf import GGMLQuantizationType as Type
from mlx.utils import tree_map

from nanodistill_mcp.errors import ExportError
from nanodistill_mcp.runs.faults import fault
from nanodistill_mcp.runs.files import append_line, fsync_dir, full_fsync, read_json, sha256_of
from nanodistill_mcp.student.chat import ChatForm
from nanodistill_mcp.student.export_requests import ExportRequest, ExportResult
from nanodistill_mcp.student.fuse import fuse
from nanodistill_mcp.student.gguf_architectures import args_of, context_length, describe, family_of, tensors
from nanodistill_mcp.student.gguf_quantizations import Quantization, quantization_named
from nanodistill_mcp.student.gguf_tokenizer import GgufTokenizer, gguf_tokenizer
from nanodistill_mcp.student.quantize import Bytes, Floats, Quantizer, row_bytes, tensor_types

_WEIGHTS_AT_ONCE = 1 << 25
"""Float32 weights decoded at a time: 128 MiB of a large embedding, not all of it."""

_PROGRESS_INTERVAL_S = 0.5

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Written:
    """What a GGUF file turned out to be."""

    architecture: str
    types: Counter[str]
    quantizer: Quantizer
    tokenizer: GgufTokenizer
    context_length: int
    keeps_system: bool
    """The chat template has a place for a system message."""


def export(request: ExportRequest) -> ExportResult:
    """Fuse the adapter, then write the GGUF file; each appears whole or not at all.

    Raises:
        UserInputError: The quantization is not one that is offered.
        ExportError: The student cannot be fused, or cannot be written as GGUF; the text says what to do instead.
    """
    started = time.monotonic()
    quantization = quantization_named(request.quantization)
    fuse(request.student, request.adapter_dir, request.fused_dir)
    reported_at = 0.0

    def report(done: int, total: int) -> None:
        nonlocal reported_at
        if done == total or time.monotonic() - reported_at >= _PROGRESS_INTERVAL_S:
            append_line(request.metrics_path, {"event": "tensors", "done": done, "total": total})
            reported_at = time.monotonic()

    written = write_gguf(request.fused_dir, request.gguf_path, quantization, progress=report)
    return ExportResult(
        gguf_bytes=request.gguf_path.stat().st_size,
        gguf_sha256=sha256_of(request.gguf_path),
        architecture=written.architecture,
        quantization=quantization.name,
        tensor_types=dict(written.types),
        quantizer=written.quantizer.kind,
        stop_texts=written.tokenizer.stop_texts,
        context_length=written.context_length,
        keeps_system=written.keeps_system,
        elapsed_s=round(time.monotonic() - started, 3),
    )


def write_gguf(
    fused_dir: Path,
    gguf_path: Path,
    quantization: Quantization,
    *,
    quantizer: Quantizer | None = None,
    progress: Progress = lambda _done, _total: None,
) -> Written:
    """Write an unquantized MLX model folder as a GGUF file, under a temporary name until it is complete.

    Raises:
        ExportError: An unknown family, tokenizer or positional scaling; weights that are not finite or do not fit the
            type; a full disk.
    """
    config: dict[str, Any] = read_json(fused_dir / "config.json") or {}
    family = family_of(config.get("model_type", ""))
    model, wrapper = mlx_lm.load(str(fused_dir), lazy=True)[:2]
    args = args_of(model)
    tokenizer = gguf_tokenizer(wrapper, args.vocab_size)
    weights = tensors(model, family)
    shapes = {name: tuple(weight.shape) for name, weight in weights.items()}
    types = tensor_types(shapes, quantization)
    quantizer = quantizer or Quantizer()
    unfinished_path = gguf_path.with_name(f".{gguf_path.name}.tmp")
    unfinished_path.unlink(missing_ok=True)  # what a killed export left
    fault("gguf.open")
    writer = gguf.GGUFWriter(unfinished_path, gguf.MODEL_ARCH_NAMES[family.arch])
    writer.add_type("model")
    writer.add_name(tokenizer.model_name)
    writer.add_file_type(quantization.file_type)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    describe(writer, model, family, config)
    tokenizer.write(writer)
    context = context_length(args)
    model.update(tree_map(lambda _: mx.array(0), model.parameters()))  # so that a written tensor's memory is free
    try:
        _check_room(gguf_path.parent, sum(_nbytes(shape, types[name]) for name, shape in shapes.items()))
        _stream(writer, weights, types, quantizer, progress)
        with unfinished_path.open("rb") as stream:
            fault("gguf.fsync")
            full_fsync(stream.fileno())
        unfinished_path.chmod(0o600)
        fault("gguf.rename")
        os.replace(unfinished_path, gguf_path)
        fault("gguf.fsync_dir")
        fsync_dir(gguf_path.parent)
        fault("gguf.done")
    finally:
        unfinished_path.unlink(missing_ok=True)
    return Written(
        architecture=gguf.MODEL_ARCH_NAMES[family.arch],
        types=Counter(kind.name for kind in types.values()),
        quantizer=quantizer,
        tokenizer=tokenizer,
        context_length=context,
        keeps_system=ChatForm(wrapper).keeps_system,
    )


def _check_room(directory: Path, needed_bytes: int) -> None:
    free = shutil.disk_usage(directory).free
    if free < needed_bytes * 1.05:
        raise ExportError(
            f"The GGUF file needs {needed_bytes / 1e9:.1f} GB and the disk has {free / 1e9:.1f} GB free.",
            next_step="Free some space, or choose a smaller quantization, and call export_gguf again.",
        )


def _nbytes(shape: tuple[int, ...], kind: Type) -> int:
    return int(np.prod(shape[:-1], dtype=np.int64)) * row_bytes(shape[-1], kind)


def _stream(
    writer: gguf.GGUFWriter,
    weights: dict[str, mx.array],
    types: dict[str, Type],
    quantizer: Quantizer,
    progress: Progress,
) -> None:
    for name, weight in weights.items():
        kind = types[name]
        row_shape = gguf.quant_shape_to_byte_shape(weight.shape, kind)
        writer.add_tensor_info(name, row_shape, np.dtype(np.uint8), _nbytes(tuple(weight.shape), kind), raw_dtype=kind)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        total = len(weights)
        for done, name in enumerate(list(weights), 1):
            fault("gguf.write")
            writer.write_tensor_data(_encoded(name, weights.pop(name), types[name], quantizer))
            progress(done, total)
    finally:
        writer.close()


def _encoded(name: str, weight: mx.array, kind: Type, quantizer: Quantizer) -> Bytes:
    """One tensor's bytes, decoded to float32 some rows at a time."""
    columns = weight.shape[-1]
    rows = weight.reshape(-1, columns)
    out = np.empty((rows.shape[0], row_bytes(columns, kind)), np.uint8)
    step = max(1, _WEIGHTS_AT_ONCE // columns)
    for start in range(0, rows.shape[0], step):
        block: Floats = np.ascontiguousarray(np.array(rows[start : start + step].astype(mx.float32)))
        _check_range(name, block, kind)
        out[start : start + step] = quantizer.encode(block, kind)
    return out


def _check_range(name: str, block: Floats, kind: Type) -> None:
    largest = float(np.abs(block).max(initial=0.0))
    if not np.isfinite(largest):
        raise ExportError(
            f"The tensor {name} of the trained student holds values that are not numbers.",
            next_step="Train again with a lower learning_rate, then call export_gguf.",
        )
    if kind == Type.F16 and largest > float(np.finfo(np.float16).max):
        raise ExportError(
            f"The tensor {name} holds values beyond what F16 can store.",
            next_step="Call export_gguf with quantization BF16 or Q8_0.",
        )

"""Merge an adapter into its base: a plain model folder that mlx_lm, LM Studio and the GGUF writer read.

Always unquantized. Quantizing the merged weights again, as ``mlx_lm fuse`` does on a 4-bit base, can disturb a model
more than its fine-tuning changed it.
"""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false, reportUnknownLambdaType=false, reportMissingTypeStubs=false

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import mlx.core as mx
from mlx import nn
from mlx.utils import tree_flatten, tree_map
from mlx_lm.utils import load_adapters, load_model

from nanodistill_mcp.errors import ExportError
from nanodistill_mcp.runs.faults import fault
from nanodistill_mcp.runs.files import fsync_dir, full_fsync, write_json
from nanodistill_mcp.student.models import resolve

_COPIED = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
    "LICENSE*",
    "NOTICE*",
    "USE_POLICY*",
)
"""From the base, byte for byte: what transformers saves of a tokenizer it has loaded is not always what it loaded."""

_QUANTIZATION_KEYS = ("quantization", "quantization_config")
_SHARD_BYTES = 1 << 30


def fuse(student: str, adapter_dir: Path, fused_dir: Path) -> None:
    """Write the base with its adapter merged in, unquantized, in the form MLX-LM and Hugging Face tools read.

    ``config.json`` leaves first and comes back last, so that the folder loads whole or not at all. Other entries of the
    folder, such as ``adapters/``, stay.

    Args:
        student: The base: a folder, or the id of a hub model that is already in the local cache.
        adapter_dir: Holds adapters.safetensors and adapter_config.json.
        fused_dir: Created when missing; an earlier fused model in it is replaced.

    Raises:
        UserInputError: The base is not on this machine any more.
        ExportError: Base and adapter do not belong together, or the disk is full.
    """
    base_dir = resolve(student)
    model = _load(base_dir, adapter_dir)
    config = json.loads((base_dir / "config.json").read_bytes())
    weights = dict(_plain_weights(model))
    fused_dir.mkdir(parents=True, exist_ok=True)
    for abandoned in fused_dir.glob(".writing-*"):
        shutil.rmtree(abandoned)
    _check_room(fused_dir, sum(weight.nbytes for weight in weights.values()))
    model.update(tree_map(lambda _: mx.array(0), model.parameters()))  # so that a written shard's memory is free
    with tempfile.TemporaryDirectory(prefix=".writing-", dir=fused_dir) as name:
        new_dir = Path(name)
        write_weights(weights, new_dir)
        for path in model_files(base_dir):
            shutil.copyfile(path, new_dir / path.name)
        write_json(new_dir / "config.json", _without_quantization(config))
        _replace(fused_dir, new_dir)


def _load(base_dir: Path, adapter_dir: Path) -> nn.Module:
    try:
        model, _ = load_model(base_dir, lazy=True)
        return load_adapters(model, str(adapter_dir))
    except (OSError, ValueError, KeyError, RuntimeError, AttributeError) as error:
        raise ExportError(
            "The trained adapter and its base could not be loaded together.",
            next_step="Check that the base is the one the run was trained on, or call train with restart=true.",
        ) from error


def _plain_weights(model: nn.Module) -> Iterator[tuple[str, mx.array]]:
    """Yield every parameter merged and dequantized, under the name it has in the unquantized base."""
    inside_adapters: tuple[str, ...] = ()
    for name, module in model.named_modules():
        if inside_adapters and name.startswith(inside_adapters):
            continue
        if hasattr(module, "fuse"):
            inside_adapters += (f"{name}.",)
            inner = module["linear"] if "linear" in module else module["embedding"]
            dtype = _own_weights(inner)["weight"].dtype
            merged = cast("list[tuple[str, mx.array]]", tree_flatten(module.fuse(dequantize=True).parameters()))
            for key, weight in merged:
                yield f"{name}.{key}", weight.astype(dtype)  # DoRA's magnitudes are float32 and would widen the layer
        else:
            yield from ((f"{name}.{key}" if name else key, weight) for key, weight in _own_weights(module).items())


def _own_weights(module: Any) -> dict[str, mx.array]:
    own = {key: value for key, value in module.items() if isinstance(value, mx.array) and not key.startswith("_")}
    if "scales" in own:
        scales, biases = own.pop("scales"), own.pop("biases", None)
        own["weight"] = mx.dequantize(
            own["weight"], scales, biases, group_size=module.group_size, bits=module.bits, mode=module.mode
        )
    return own


def _check_room(directory: Path, needed_bytes: int) -> None:
    free = shutil.disk_usage(directory).free
    if free < needed_bytes * 1.05:
        raise ExportError(
            f"The fused model needs {needed_bytes / 1e9:.1f} GB and the disk has {free / 1e9:.1f} GB free.",
            next_step="Free some space and call export_gguf again.",
        )


def write_weights(weights: dict[str, mx.array], directory: Path) -> None:
    """Write weights as safetensors files of about a gigabyte, taking each from ``weights`` as it is written."""
    shards: list[list[str]] = [[]]
    room = _SHARD_BYTES
    for name, weight in weights.items():
        if shards[-1] and weight.nbytes > room:
            shards.append([])
            room = _SHARD_BYTES
        shards[-1].append(name)
        room -= weight.nbytes
    total = sum(weight.nbytes for weight in weights.values())
    index: dict[str, str] = {}
    for number, names in enumerate(shards, 1):
        file = "model.safetensors" if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        shard = {name: weights.pop(name) for name in names}
        fault("fuse.write")
        mx.save_safetensors(str(directory / file), shard, metadata={"format": "mlx"})
        del shard
        index.update(dict.fromkeys(names, file))
    if len(shards) > 1:
        write_json(directory / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": index})


def model_files(base_dir: Path) -> list[Path]:
    """What belongs to a model beside its weights and its config: tokenizer, chat template, licence."""
    return [path for pattern in _COPIED for path in sorted(base_dir.glob(pattern)) if path.is_file()]


def _without_quantization(config: dict[str, Any]) -> dict[str, Any]:
    plain = {key: value for key, value in config.items() if key not in _QUANTIZATION_KEYS}
    if isinstance(plain.get("text_config"), dict):
        plain["text_config"] = _without_quantization(plain["text_config"])
    return plain


def _replace(fused_dir: Path, new_dir: Path) -> None:
    for path in new_dir.iterdir():
        fault("fuse.fsync")
        with path.open("rb") as stream:
            full_fsync(stream.fileno())
    fault("fuse.unlink")
    (fused_dir / "config.json").unlink(missing_ok=True)
    for stale in (*fused_dir.glob("model*.safetensors"), fused_dir / "model.safetensors.index.json"):
        stale.unlink(missing_ok=True)
    for path in sorted(new_dir.iterdir(), key=lambda path: path.name == "config.json"):
        path.chmod(0o600)
        fault("fuse.rename")
        os.replace(path, fused_dir / path.name)
    fault("fuse.fsync_dir")
    fsync_dir(fused_dir)
    fault("fuse.done")

"""Write a trained student in further forms: as a smaller MLX model, and its adapter alone for other programs.

Nothing here trains or rounds anew what need not be: the models come from the unquantized fused weights, the adapters
are the trained numbers under other names.
"""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false, reportUnknownLambdaType=false, reportMissingTypeStubs=false

import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import gguf
import mlx.core as mx
import numpy as np
from mlx import nn
from mlx.utils import tree_flatten, tree_map, tree_map_with_path
from mlx_lm.utils import load_model, quantize_model

from nanodistill_mcp.errors import ExportError
from nanodistill_mcp.runs.files import append_line, fsync_dir, full_fsync, read_json, write_json
from nanodistill_mcp.student.adapters import ADAPTER_CONFIG_FILE, ADAPTER_FILE
from nanodistill_mcp.student.export_requests import FormsRequest, FormsResult
from nanodistill_mcp.student.fuse import model_files, write_weights
from nanodistill_mcp.student.gguf_architectures import FAMILIES, adapter_tensors, family_of

_BITS, _GROUP = 4, 64


class _NotInThisFormError(Exception):
    """A student has no such form; the text says why."""


@dataclass(frozen=True)
class _Adapter:
    """What was trained: MLX-LM's two files."""

    config: dict[str, Any]
    weights: dict[str, mx.array]

    @property
    def kind(self) -> str:
        return self.config.get("fine_tune_type", "lora")

    @property
    def rank(self) -> int:
        return self.config["lora_parameters"]["rank"]

    @property
    def alpha(self) -> float:
        """MLX-LM's scale is absolute; everybody else divides theirs by the rank."""
        return self.config["lora_parameters"]["scale"] * self.rank

    @property
    def modules(self) -> list[str]:
        return sorted(name.removesuffix(".lora_a") for name in self.weights if name.endswith(".lora_a"))


def write_forms(request: FormsRequest) -> FormsResult:
    """Write each form into a folder of its own; each appears whole or not at all.

    Raises:
        ExportError: The disk is full, or the trained student cannot be read.
    """
    written: dict[str, str] = {}
    left_out: dict[str, str] = {}
    request.out_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    for done, form in enumerate(request.forms):
        try:
            written[form] = str(_write(form, request))
        except _NotInThisFormError as error:
            left_out[form] = str(error)
        append_line(request.metrics_path, {"event": "forms", "done": done + 1, "total": len(request.forms)})
    return FormsResult(written=written, left_out=left_out)


def _write(form: str, request: FormsRequest) -> Path:
    match form:
        case "mlx_bf16":
            model, config = load_model(request.fused_dir, lazy=True)
            if _floating(model) == {mx.bfloat16}:
                return request.fused_dir
            return _into(request, "mlx-bf16", lambda folder: _save(_as_bfloat16(model), config, request, folder))
        case "mlx_4bit":
            model, config = load_model(request.fused_dir, lazy=True)
            model, config = quantize_model(model, config, _GROUP, _BITS)
            return _into(request, "mlx-4bit", lambda folder: _save(model, config, request, folder))
        case "peft":
            adapter = _read_adapter(request.adapter_dir)
            return _into(request, "peft", lambda folder: _write_peft(adapter, request, folder))
        case "gguf_lora":
            adapter = _read_adapter(request.adapter_dir)
            return _into(request, "gguf-lora", lambda folder: _write_gguf_lora(adapter, request, folder))
        case _:
            raise ValueError(form)


def _into(request: FormsRequest, name: str, fill: Callable[[Path], None]) -> Path:
    """Fill a folder beside the place and put it there when it is complete, over an earlier one."""
    target = request.out_dir / name
    for abandoned in request.out_dir.glob(f".{name}-*"):
        shutil.rmtree(abandoned)
    with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=request.out_dir) as temporary:
        folder = Path(temporary) / name
        folder.mkdir(mode=0o700)
        try:
            fill(folder)
        except OSError as error:
            raise ExportError(
                "The disk is full, so a further form of the student could not be written.",
                next_step="Free some space and call export_gguf again with the same arguments.",
            ) from error
        for path in folder.iterdir():
            path.chmod(0o600)
            with path.open("rb") as stream:
                full_fsync(stream.fileno())
        if target.exists():
            os.rename(target, Path(temporary) / "earlier")
        os.rename(folder, target)
        fsync_dir(request.out_dir)
    return target


def _floating(model: nn.Module) -> set[mx.Dtype]:
    weights = cast("list[tuple[str, mx.array]]", tree_flatten(model.parameters()))
    return {weight.dtype for _, weight in weights if mx.issubdtype(weight.dtype, mx.floating)}


def _as_bfloat16(model: nn.Module) -> nn.Module:
    may_be_cast: Callable[[str], bool] = getattr(model, "cast_predicate", lambda _: True)

    def cast_to(name: str, weight: mx.array) -> mx.array:
        wanted = mx.issubdtype(weight.dtype, mx.floating) and may_be_cast(name)
        return weight.astype(mx.bfloat16) if wanted else weight

    model.update(tree_map_with_path(cast_to, model.parameters()))
    return model


def _save(model: nn.Module, config: dict[str, Any], request: FormsRequest, folder: Path) -> None:
    weights = dict(cast("list[tuple[str, mx.array]]", tree_flatten(model.parameters())))
    model.update(tree_map(lambda _: mx.array(0), model.parameters()))  # so that a written shard's memory is free
    write_weights(weights, folder)
    for path in model_files(request.fused_dir):
        shutil.copyfile(path, folder / path.name)
    own: dict[str, Any] = read_json(request.fused_dir / "config.json") or {}
    quantization = {key: config[key] for key in ("quantization",) if key in config}
    write_json(folder / "config.json", own | quantization | {f"{key}_config": q for key, q in quantization.items()})


def _read_adapter(adapter_dir: Path) -> _Adapter:
    config = read_json(adapter_dir / ADAPTER_CONFIG_FILE) or {}
    adapter = _Adapter(config, cast("dict[str, mx.array]", mx.load(str(adapter_dir / ADAPTER_FILE))))
    if adapter.kind == "full":
        raise _NotInThisFormError("The student was trained in full: there is no adapter, only the fused model.")
    return adapter


# PEFT: lora_A is (rank, in) and lora_B (out, rank), named as in Hugging Face's model.


def _write_peft(adapter: _Adapter, request: FormsRequest, folder: Path) -> None:
    model_type = (read_json(request.fused_dir / "config.json") or {}).get("model_type")
    if model_type not in FAMILIES:
        raise _NotInThisFormError(
            "It is not known whether this family's modules are named alike in Hugging Face's form."
        )
    if any(weight.ndim != 2 for name, weight in adapter.weights.items() if name.endswith(".lora_a")):  # noqa: PLR2004
        raise _NotInThisFormError("Adapters of experts have no form that PEFT reads.")
    weights: dict[str, mx.array] = {}
    modules = {module: _hugging_face_name(module, model_type) for module in adapter.modules}
    for module, name in modules.items():
        prefix = f"base_model.model.{name}"
        weights[f"{prefix}.lora_A.weight"] = mx.contiguous(adapter.weights[f"{module}.lora_a"].T)
        weights[f"{prefix}.lora_B.weight"] = mx.contiguous(adapter.weights[f"{module}.lora_b"].T)
        if adapter.kind == "dora":
            weights[f"{prefix}.lora_magnitude_vector"] = adapter.weights[f"{module}.m"]
    mx.save_safetensors(str(folder / "adapter_model.safetensors"), weights, metadata={"format": "pt"})
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": request.base_name,
        "r": adapter.rank,
        "lora_alpha": adapter.alpha,
        "lora_dropout": adapter.config["lora_parameters"].get("dropout", 0.0),
        "target_modules": list(modules.values()),
        "use_dora": adapter.kind == "dora",
        "use_rslora": False,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "modules_to_save": None,
    }
    write_json(folder / "adapter_config.json", config)


def _hugging_face_name(module: str, model_type: str) -> str:
    """The name in the class that AutoModelForCausalLM chooses: Gemma 3's is the one that also sees pictures."""
    text_only = module.removeprefix("language_model.")
    return text_only.replace("model.", "model.language_model.", 1) if model_type == "gemma3" else text_only


# GGUF: the same two matrices under llama.cpp's names, with its order of rows and columns.


def _write_gguf_lora(adapter: _Adapter, request: FormsRequest, folder: Path) -> None:
    if adapter.kind == "dora":
        raise _NotInThisFormError("llama.cpp has no DoRA adapters; the fused GGUF file holds the same student.")
    model, config = load_model(request.fused_dir, lazy=True)
    family = family_of(config.get("model_type", ""))
    writer = gguf.GGUFWriter(folder / "adapter.gguf", gguf.MODEL_ARCH_NAMES[family.arch])
    writer.add_type("adapter")
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, adapter.alpha)
    for name, weight in adapter_tensors(model, family, adapter.weights).items():
        writer.add_tensor(name, np.ascontiguousarray(np.array(weight.astype(mx.float32))))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

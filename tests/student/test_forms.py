"""Further forms of a trained student: each is the same student, as the program it is for would read it."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false, reportMissingTypeStubs=false

import importlib
import json
import os
from pathlib import Path
from typing import Any, cast

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.utils import load_model, load_tokenizer

from nanodistill_mcp.errors import UserInputError
from nanodistill_mcp.student.chat import ChatForm
from nanodistill_mcp.student.export_requests import FormsRequest, FormsResult
from nanodistill_mcp.student.form_names import FORMS, forms_named
from nanodistill_mcp.student.forms import write_forms
from nanodistill_mcp.student.fuse import fuse
from nanodistill_mcp.student.gguf import write_gguf
from nanodistill_mcp.student.gguf_quantizations import QUANTIZATIONS
from nanodistill_mcp.student.llama_cpp import LlamaCpp
from nanodistill_mcp.student.parity import Reference, answered, compare_logits
from tests.student.gguf_bench import PROMPTS
from tests.student.gguf_students import FAMILIES, make_family, random_adapter
from tests.tiny_student import make_tiny


def _forms(root: Path, base: Path, *forms: str, kind: str = "lora") -> FormsResult:
    """Fuse a student with a random adapter and write forms of it."""
    adapter = random_adapter(base, root / "model" / "adapters", kind)
    fuse(str(base), adapter, root / "model")
    return write_forms(_request(root, *forms))


def _request(root: Path, *forms: str) -> FormsRequest:
    return FormsRequest(
        base_name="org/base",
        adapter_dir=root / "model" / "adapters",
        fused_dir=root / "model",
        out_dir=root / "exports",
        forms=list(forms),
        metrics_path=root / "metrics.jsonl",
        result_path=root / "result.json",
    )


def _weights(path: Path) -> dict[str, np.ndarray]:
    loaded = cast("dict[str, mx.array]", mx.load(str(path)))
    return {name: np.array(weight.astype(mx.float32)) for name, weight in loaded.items()}


def _plain(base: Path) -> dict[str, np.ndarray]:
    """The base's own weights, dequantized."""
    module: Any
    plain: dict[str, np.ndarray] = {}
    for name, module in load_model(base)[0].named_modules():
        if "weight" in module and "scales" in module:
            weight = mx.dequantize(module.weight, module.scales, module.biases, module.group_size, module.bits)
            plain[f"{name}.weight"] = np.array(weight.astype(mx.float32))
        elif "weight" in module:
            plain[f"{name}.weight"] = np.array(module.weight.astype(mx.float32))
    return plain


@pytest.mark.parametrize("kind", ["lora", "dora"])
@pytest.mark.parametrize("bits", [None, 4])
def test_a_peft_adapter_adds_up_to_the_fused_weights(tmp_path: Path, kind: str, bits: int | None) -> None:
    """W + alpha/r · B·A in NumPy, as PEFT computes it: a transposed matrix or another scale would show in every weight."""
    base = make_tiny(tmp_path / "base", "qwen3", quantize_bits=bits)

    result = _forms(tmp_path, base, "peft", kind=kind)

    folder = Path(result.written["peft"])
    config = json.loads((folder / "adapter_config.json").read_bytes())
    adapter = _weights(folder / "adapter_model.safetensors")
    before, fused = _plain(base), _weights(tmp_path / "model" / "model.safetensors")
    assert (config["peft_type"], config["use_dora"]) == ("LORA", kind == "dora")
    assert config["base_model_name_or_path"] == "org/base"
    assert len(config["target_modules"]) == 2 * 7
    assert len(adapter) == len(config["target_modules"]) * (3 if kind == "dora" else 2)
    for module in config["target_modules"]:
        a, b = (adapter[f"base_model.model.{module}.lora_{letter}.weight"] for letter in "AB")
        assert a.shape[0] == b.shape[1] == config["r"]
        merged = before[f"{module}.weight"] + config["lora_alpha"] / config["r"] * (b @ a)
        if kind == "dora":
            magnitude = adapter[f"base_model.model.{module}.lora_magnitude_vector"]
            merged *= (magnitude / np.linalg.norm(merged, axis=1))[:, None]
        assert np.allclose(merged, fused[f"{module}.weight"], atol=1e-5)
        assert not np.allclose(before[f"{module}.weight"], fused[f"{module}.weight"], atol=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_gguf_adapter_over_the_base_answers_as_the_fused_model(
    tmp_path: Path, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loaded in llama.cpp beside the base's own GGUF file: the order of rows and columns has to be llama.cpp's."""
    base = make_family(tmp_path / "base", family)
    result = _forms(tmp_path, base, "gguf_lora")
    write_gguf(base, tmp_path / "base.gguf", QUANTIZATIONS["F16"])
    xllamacpp: Any = importlib.import_module("xllamacpp")
    parameters: Any = xllamacpp.CommonParams()
    adapter: Any = xllamacpp.CommonAdapterLoraInfo()
    adapter.path, adapter.scale = str(Path(result.written["gguf_lora"]) / "adapter.gguf"), 1.0
    parameters.lora_adapters = [adapter]
    monkeypatch.setattr(xllamacpp, "CommonParams", lambda: parameters)  # pyright: ignore[reportUnknownLambdaType]

    chat = ChatForm(load_tokenizer(tmp_path / "model"))
    prompts = [chat.prompt_ids(messages) for messages in PROMPTS]
    with LlamaCpp(tmp_path / "base.gguf", context_tokens=512) as llama:
        cases = answered(llama, prompts)
        adapted = compare_logits(llama, Reference(load_model(tmp_path / "model", lazy=True)[0]), cases)
        untrained = compare_logits(llama, Reference(load_model(base, lazy=True)[0]), cases)

    assert adapted.top1_agreement == 1.0
    assert adapted.mean_kl is not None
    assert untrained.mean_kl is not None
    assert adapted.mean_kl < 1e-3
    assert untrained.mean_kl > 10 * adapted.mean_kl, "the adapter changes what the base says"


def _log_probabilities(folder: Path) -> np.ndarray:
    logits = load_model(folder)[0](mx.array([[5, 77, 300, 12, 12, 260, 4]])).astype(mx.float32)
    return np.array(logits - mx.logsumexp(logits, axis=-1, keepdims=True))


def _divergence(of: Path, against: Path) -> float:
    ours, theirs = _log_probabilities(of), _log_probabilities(against)
    return float(np.mean(np.sum(np.exp(ours) * (ours - theirs), axis=-1)))


@pytest.mark.parametrize("bits", [None, 4])
def test_an_mlx_model_in_four_bits_is_made_from_the_fused_weights(tmp_path: Path, bits: int | None) -> None:
    """Also on a base that was in four bits: its merged weights are rounded once, and what was trained is still there."""
    base = make_tiny(tmp_path / "base", "qwen3", hidden=128, quantize_bits=bits)

    folder = Path(_forms(tmp_path, base, "mlx_4bit").written["mlx_4bit"])

    names = set(cast("dict[str, mx.array]", mx.load(str(folder / "model.safetensors"))))
    assert "model.layers.0.mlp.up_proj.scales" in names
    assert json.loads((folder / "config.json").read_bytes())["quantization"]["bits"] == 4
    assert (folder / "tokenizer.json").read_bytes() == (base / "tokenizer.json").read_bytes()
    rounding = _divergence(tmp_path / "model", folder)
    assert rounding < 0.05
    assert rounding < _divergence(tmp_path / "model", base) / 2


def test_an_mlx_model_in_bfloat16_is_the_fused_one_when_that_is_in_it(tmp_path: Path) -> None:
    """A second copy of the same gigabytes helps nobody."""
    wide = _forms(tmp_path / "wide", make_family(tmp_path / "float32", "qwen3"), "mlx_bf16").written["mlx_bf16"]
    same = _forms(tmp_path / "same", make_family(tmp_path / "half", "llama", dtype="bfloat16"), "mlx_bf16")

    weights = cast("dict[str, mx.array]", mx.load(str(Path(wide) / "model.safetensors")))
    assert {weight.dtype for weight in weights.values()} == {mx.bfloat16}
    assert _divergence(tmp_path / "wide" / "model", Path(wide)) < 1e-2
    assert same.written["mlx_bf16"] == str(tmp_path / "same" / "model")


@pytest.mark.parametrize(
    ("family", "kind", "form", "why"),
    [
        ("llama", "dora", "gguf_lora", "no DoRA adapters"),
        ("llama", "full", "gguf_lora", "trained in full"),
        ("llama", "full", "peft", "trained in full"),
        ("qwen3_moe", "lora", "peft", "experts"),
    ],
)
def test_a_form_a_student_cannot_have_is_left_out_with_the_reason(
    tmp_path: Path, family: str, kind: str, form: str, why: str
) -> None:
    """The others are written all the same: asking for too much must not cost what can be had."""
    result = _forms(tmp_path, make_family(tmp_path / "base", family), form, "mlx_bf16", kind=kind)

    assert why in result.left_out[form]
    assert list(result.written) == ["mlx_bf16"]
    assert os.listdir(tmp_path / "exports") == ["mlx-bf16"]


def test_writing_a_form_again_replaces_it_and_a_killed_attempt_leaves_nothing(tmp_path: Path, student: Path) -> None:
    """A folder with a form's name is whole, and of the newest training."""
    _forms(tmp_path, student, "peft")
    stale = tmp_path / "exports" / "peft" / "stale"
    stale.write_bytes(b"of an earlier export")
    (tmp_path / "exports" / ".peft-killed").mkdir()

    write_forms(_request(tmp_path, "peft"))

    assert os.listdir(tmp_path / "exports") == ["peft"]
    assert sorted(os.listdir(tmp_path / "exports" / "peft")) == ["adapter_config.json", "adapter_model.safetensors"]


def test_a_form_that_is_not_offered_is_answered_with_those_that_are() -> None:
    """The reply is enough to choose from; case and order do not matter."""
    assert forms_named(["PEFT ", "mlx_4bit", "peft"]) == ["mlx_4bit", "peft"]
    with pytest.raises(UserInputError) as refused:
        forms_named(["peft", "awq"])
    assert all(name in refused.value.next_step for name in FORMS)

"""The fused model: what a student with its adapter says, in one folder that MLX-LM loads."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

import json
import os
from pathlib import Path
from typing import cast

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.utils import load_adapters, load_model

from nanodistill_mcp.errors import ExportError, UserInputError
from nanodistill_mcp.student.fuse import fuse
from tests.student.gguf_students import make_family, random_adapter
from tests.tiny_student import make_tiny

TOKENS = mx.array([[5, 77, 300, 12, 12, 260, 4]])


def _log_probabilities(student_dir: Path, adapter_dir: Path | None = None) -> np.ndarray:
    model = load_model(student_dir)[0]
    if adapter_dir is not None:
        model = load_adapters(model, str(adapter_dir))
        model.eval()
    logits = model(TOKENS).astype(mx.float32)
    return np.array(logits - mx.logsumexp(logits, axis=-1, keepdims=True))


def _divergence(of: np.ndarray, against: np.ndarray) -> float:
    return float(np.mean(np.sum(np.exp(of) * (of - against), axis=-1)))


@pytest.mark.parametrize("kind", ["lora", "dora", "full"])
@pytest.mark.parametrize("bits", [None, 4])
def test_a_fused_model_says_what_the_student_says_with_its_adapter(tmp_path: Path, kind: str, bits: int | None) -> None:
    """Every kind of adapter, on a plain and on a 4-bit base, which is dequantized and not quantized again."""
    if kind == "full" and bits:
        pytest.skip("quantized weights are not trained in full")
    base = make_tiny(tmp_path / "base", "qwen3", quantize_bits=bits)
    adapter = random_adapter(base, tmp_path / "adapter", kind)

    fuse(str(base), adapter, tmp_path / "fused")

    fused = _log_probabilities(tmp_path / "fused")
    assert _divergence(_log_probabilities(base, adapter), fused) < 1e-6
    assert _divergence(_log_probabilities(base), fused) > 1e-3
    assert "quantization" not in json.loads((tmp_path / "fused" / "config.json").read_bytes())


def test_a_bfloat16_student_stays_bfloat16_when_a_dora_adapter_is_fused(tmp_path: Path) -> None:
    """DoRA's magnitudes are float32; a fused layer that took their type would double the file and slow the model."""
    base = make_family(tmp_path / "base", "llama", dtype="bfloat16")

    fuse(str(base), random_adapter(base, tmp_path / "adapter", "dora"), tmp_path / "fused")

    weights = cast("dict[str, mx.array]", mx.load(str(tmp_path / "fused" / "model.safetensors")))
    assert {weight.dtype for weight in weights.values()} == {mx.bfloat16}


def test_fusing_again_replaces_the_model_and_leaves_the_adapters_alone(tmp_path: Path, student: Path) -> None:
    """The adapter itself lives in the fused folder; a stale shard of an earlier model must not be loaded with the new."""
    fused = tmp_path / "model"
    adapter = random_adapter(student, fused / "adapters")
    (fused / "model-00002-of-00002.safetensors").write_bytes(b"stale")
    (fused / ".writing-abandoned").mkdir()

    fuse(str(student), adapter, fused)
    fuse(str(student), adapter, fused)

    assert sorted(os.listdir(fused)) == [
        "adapters",
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert sorted(os.listdir(fused / "adapters")) == ["adapter_config.json", "adapters.safetensors"]
    assert (fused / "tokenizer.json").read_bytes() == (student / "tokenizer.json").read_bytes()


def test_a_large_model_is_written_in_shards_with_an_index(
    tmp_path: Path, student: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shard bounds the memory that writing takes; tools find the weights through the index."""
    monkeypatch.setattr("nanodistill_mcp.student.fuse._SHARD_BYTES", 100_000)
    adapter = random_adapter(student, tmp_path / "adapter")

    fuse(str(student), adapter, tmp_path / "fused")

    index = json.loads((tmp_path / "fused" / "model.safetensors.index.json").read_bytes())
    shards = sorted(path.name for path in (tmp_path / "fused").glob("model-*.safetensors"))
    assert len(shards) > 1
    assert sorted(set(index["weight_map"].values())) == shards
    assert _divergence(_log_probabilities(student, adapter), _log_probabilities(tmp_path / "fused")) < 1e-6


def test_an_adapter_of_another_student_is_refused_and_nothing_is_written(tmp_path: Path, student: Path) -> None:
    """Weights that do not belong together could only fuse into nonsense."""
    other = make_tiny(tmp_path / "other", "llama", hidden=32)
    adapter = random_adapter(other, tmp_path / "adapter")

    with pytest.raises(ExportError, match="could not be loaded together"):
        fuse(str(student), adapter, tmp_path / "fused")

    assert not (tmp_path / "fused" / "config.json").exists()


def test_a_base_that_is_gone_is_named_as_what_is_missing(tmp_path: Path, student: Path) -> None:
    """The adapter outlives a deleted base; the error must not blame the adapter."""
    with pytest.raises(UserInputError, match="no folder at the student's path"):
        fuse(str(tmp_path / "gone"), random_adapter(student, tmp_path / "adapter"), tmp_path / "fused")

"""Exports of every family, proved in llama.cpp against the fused MLX model; and what must be refused."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

import json
import os
import stat
from pathlib import Path
from typing import Any, cast

import gguf
import pytest
from gguf import MODEL_ARCH
from mlx_lm.utils import load_tokenizer

from nanodistill_mcp.errors import ExportError, UserInputError
from nanodistill_mcp.runs.files import read_lines, sha256_of
from nanodistill_mcp.student import gguf_architectures
from nanodistill_mcp.student.export_requests import VerifyResult
from nanodistill_mcp.student.gguf import export, write_gguf
from nanodistill_mcp.student.gguf_architectures import Family
from nanodistill_mcp.student.gguf_outlook import why_no_gguf
from nanodistill_mcp.student.gguf_quantizations import QUANTIZATIONS
from nanodistill_mcp.student.quantize import Quantizer
from nanodistill_mcp.student.verify import verify
from tests.student.gguf_bench import export_request, verify_request
from tests.student.gguf_students import FAMILIES, make_family, random_adapter, write_random_weights
from tests.tiny_student import make_tiny


def _export_and_verify(root: Path, student: Path, quantization: str, kind: str = "lora") -> VerifyResult:
    adapter = random_adapter(student, root / "model" / "adapters", kind)
    export(export_request(root, student, adapter, quantization))
    return verify(verify_request(root, student=str(student), adapter_dir=adapter))


def _write(root: Path, student: Path, quantization: str = "F16", **further: Any) -> None:
    """Write a student as it is: its folder is already what fusing leaves."""
    (root / "model").symlink_to(student)
    write_gguf(student, root / "model.gguf", QUANTIZATIONS[quantization], **further)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_student_of_every_family_answers_in_llama_cpp_as_it_does_in_mlx(tmp_path: Path, family: str) -> None:
    """In F16 only rounding may differ: any mistake in a layout, a key or the tokenizer shows as orders of magnitude more."""
    student = make_family(tmp_path / "base", family)
    assert why_no_gguf(json.loads((student / "config.json").read_bytes()), load_tokenizer(student)) == ""

    result = _export_and_verify(tmp_path, student, "F16")

    assert result.loads
    assert result.prompt_ids_equal
    assert result.top1_agreement == 1.0
    assert result.mean_kl is not None
    assert result.mean_kl < 3e-4  # qwen3_5 comes to 1e-4, the others to 1e-5; with F32 weights all come to 1e-6
    assert result.positions_compared >= 12
    assert result.layout_proven_by == "F16"
    assert result.fused_top1_agreement == 1.0
    assert result.fused_kl is not None
    assert result.trained_kl is not None
    assert result.fused_kl < 1e-5
    assert result.trained_kl > 100 * result.fused_kl


@pytest.mark.slow
@pytest.mark.parametrize("quantization", [name for name in QUANTIZATIONS if name != "F16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_survives_every_quantization(tmp_path: Path, family: str, quantization: str) -> None:
    """The whole matrix: 256 wide, so that rows fill the blocks of the K-quants."""
    student = make_family(tmp_path / "base", family, hidden_size=256, intermediate_size=512, **_wide(family))

    result = _export_and_verify(tmp_path, student, quantization)

    assert result.layout_proven_by in (quantization, "F16")
    assert result.prompt_ids_equal


def _wide(family: str) -> dict[str, Any]:
    if family == "phi3":
        factors = [1.0 + index / 32 for index in range(32)]
        scaling = {"type": "longrope", "long_factor": factors, "short_factor": [1.0] * 32}
        return {"rope_scaling": scaling}
    return {"head_dim": 64, "query_pre_attn_scalar": 64} if family.startswith("gemma") else {"head_dim": 64}


@pytest.mark.parametrize(
    ("quantization", "types"),
    [
        ("BF16", {"BF16", "F32"}),
        ("Q8_0", {"Q8_0", "F32"}),
        ("Q6_K", {"Q6_K", "F32"}),
        ("Q5_K_M", {"Q5_K", "Q6_K", "F32"}),
        ("Q4_K_M", {"Q4_K", "Q6_K", "F32"}),
        ("Q4_K_S", {"Q4_K", "Q5_K", "Q6_K", "F32"}),
        ("Q4_0", {"Q4_0", "Q6_K", "F32"}),
    ],
)
def test_each_quantization_stores_what_it_is_named_for(tmp_path: Path, quantization: str, types: set[str]) -> None:
    """And the result says so, with the layout proved even where four bits are too coarse to tell by themselves."""
    student = make_tiny(tmp_path / "base", "qwen3", hidden=256, layers=4)
    request = export_request(tmp_path, student, random_adapter(student, tmp_path / "adapter"), quantization)

    result = export(request)
    verified = verify(verify_request(tmp_path))

    assert set(result.tensor_types) == types
    assert result.quantizer == "ggml"
    assert result.architecture == "qwen3"
    assert result.gguf_bytes == request.gguf_path.stat().st_size
    assert result.gguf_sha256 == sha256_of(request.gguf_path)
    assert result.stop_texts == ["<|im_end|>"]
    assert result.context_length == 2048
    assert verified.layout_proven_by in (quantization, "F16")
    assert verified.mean_kl is not None
    assert verified.mean_kl < 0.3


def test_an_export_tells_how_far_it_is_and_leaves_nothing_behind(tmp_path: Path, student: Path) -> None:
    """A large student takes minutes, and what is half written must never look finished."""
    request = export_request(tmp_path, student, random_adapter(student, tmp_path / "model" / "adapters"), "Q4_K_M")

    (tmp_path / ".model.gguf.tmp").write_bytes(b"of an export that was killed")
    result = export(request)

    total = sum(result.tensor_types.values())
    assert list(read_lines(request.metrics_path))[-1] == {"event": "tensors", "done": total, "total": total}
    assert sorted(os.listdir(tmp_path)) == ["metrics.jsonl", "model", "model.gguf"]
    assert stat.S_IMODE(request.gguf_path.stat().st_mode) == 0o600


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_a_student_trained_on_a_4_bit_base_is_exported_from_dequantized_weights(tmp_path: Path, kind: str) -> None:
    """The usual student on a small machine; quantizing its merged weights in MLX again would undo part of the training."""
    student = make_tiny(tmp_path / "base", "gemma3_text", quantize_bits=4)

    result = _export_and_verify(tmp_path, student, "F16", kind)

    assert result.top1_agreement == 1.0
    assert result.layout_proven_by == "F16"
    assert result.fused_kl is not None
    assert result.fused_kl < 1e-5


@pytest.mark.parametrize(
    ("quantization", "types"),
    [
        ("Q8_0", {"Q8_0"}),
        ("Q6_K", {"Q6_K"}),
        ("Q5_K_M", {"Q5_K", "Q6_K"}),
        ("Q4_K_M", {"Q4_K", "Q6_K"}),
        ("Q4_K_S", {"Q4_K", "Q5_K"}),
        ("Q4_0", {"Q4_0"}),
    ],
)
def test_the_numpy_quantizer_writes_a_file_llama_cpp_reads_rightly(
    tmp_path: Path, quantization: str, types: set[str]
) -> None:
    """The fallback is a whole way of its own, down to the bytes of a block."""
    student = make_tiny(tmp_path / "base", "llama", hidden=256)

    _write(tmp_path, student, quantization, quantizer=Quantizer("numpy"))
    result = verify(verify_request(tmp_path))

    assert result.layout_proven_by == quantization
    assert {tensor.tensor_type.name for tensor in gguf.GGUFReader(tmp_path / "model.gguf").tensors} >= types


def test_a_bfloat16_student_is_compared_beyond_its_own_rounding(tmp_path: Path) -> None:
    """MLX's bfloat16 arithmetic is coarser than the file; it is not what the file is judged by."""
    _write(tmp_path, make_family(tmp_path / "base", "llama", dtype="bfloat16"))

    result = verify(verify_request(tmp_path))

    assert result.mean_kl is not None
    assert result.mean_kl < 1e-4


def test_a_wrong_layout_is_found_in_f16(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mistake that looks like success: the file loads and writes fluent nonsense."""
    monkeypatch.setitem(gguf_architectures.FAMILIES, "llama", Family(MODEL_ARCH.LLAMA))
    _write(tmp_path, make_family(tmp_path / "base", "llama"))

    with pytest.raises(ExportError, match="the conversion is wrong"):
        verify(verify_request(tmp_path))


def test_a_wrong_layout_is_told_from_the_rounding_of_four_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Q4_0 alone explains a large difference; the same student in F16 does not."""
    monkeypatch.setitem(gguf_architectures.FAMILIES, "llama", Family(MODEL_ARCH.LLAMA))
    _write(tmp_path, make_family(tmp_path / "base", "llama"), "Q4_0")

    with pytest.raises(ExportError, match="the conversion is wrong"):
        verify(verify_request(tmp_path))

    assert sorted(os.listdir(tmp_path)) == ["base", "metrics.jsonl", "model", "model.gguf", "prompts.jsonl"]


@pytest.mark.parametrize(
    ("family", "changes", "what"),
    [
        ("smollm3", {"no_rope_layers": [1, 0, 1, 0]}, "unrotated layers"),
        ("gemma2", {"query_pre_attn_scalar": 20}, "attention scores"),
        ("qwen3_moe", {"norm_topk_prob": False}, "experts"),
        ("llama", {"layer_types": ["full_attention", "sliding_attention"], "sliding_window": 64}, "sliding"),
        ("llama", {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "rotary positions"),
        ("llama", {"rope_traditional": True}, "neighbouring"),
        ("granite", FAMILIES["llama3"] | {"attention_bias": False}, "rotary positions"),
    ],
)
def test_what_llama_cpp_cannot_express_is_refused_by_name(
    tmp_path: Path, family: str, changes: dict[str, Any], what: str
) -> None:
    """Each of these would otherwise give a file that loads and answers wrongly."""
    student = make_family(tmp_path / "base", family, **changes)

    with pytest.raises(ExportError, match=what) as refused:
        write_gguf(student, tmp_path / "model.gguf", QUANTIZATIONS["F16"])

    assert "runs in mlx_lm and LM Studio as it is" in refused.value.next_step
    assert (
        why_no_gguf(json.loads((student / "config.json").read_bytes()), load_tokenizer(student)) == refused.value.what
    )
    assert not list(tmp_path.glob("*.gguf*"))


def test_an_unknown_family_is_refused_but_its_fused_model_is_there(tmp_path: Path) -> None:
    """The trained student is not lost: it runs in MLX, and the way to try llama.cpp's converter is told."""
    olmo = make_tiny(tmp_path / "base", "llama")
    config = json.loads((olmo / "config.json").read_bytes()) | {"model_type": "olmo2", "attention_bias": False}
    write_random_weights(olmo, config)
    request = export_request(tmp_path, olmo, random_adapter(olmo, tmp_path / "adapter"))

    with pytest.raises(ExportError, match=r"not one of llama, mistral, qwen2") as refused:
        export(request)

    assert "convert_hf_to_gguf.py" in refused.value.next_step
    assert (request.fused_dir / "config.json").exists()
    assert not request.gguf_path.exists()


def test_an_unknown_quantization_is_refused_before_anything_is_done(tmp_path: Path, student: Path) -> None:
    """Fusing a large student takes minutes; a misspelt name must not."""
    request = export_request(tmp_path, student, tmp_path / "adapter", "Q3_K_S")

    with pytest.raises(UserInputError, match="Q4_K_M"):
        export(request)

    assert not request.fused_dir.exists()


@pytest.mark.parametrize(("value", "what"), [(float("nan"), "not numbers"), (1e6, "beyond what F16 can store")])
def test_weights_that_cannot_be_stored_are_named(tmp_path: Path, value: float, what: str) -> None:
    """Training that ran away, or values F16 turns into infinity: both would load and answer nothing."""
    import mlx.core as mx

    student = make_tiny(tmp_path / "base", "llama")
    weights = cast("dict[str, mx.array]", mx.load(str(student / "model.safetensors")))
    weights["model.layers.1.mlp.up_proj.weight"][3, 5] = value
    mx.save_safetensors(str(student / "model.safetensors"), weights)

    with pytest.raises(ExportError, match=what) as refused:
        write_gguf(student, tmp_path / "model.gguf", QUANTIZATIONS["F16"])

    assert "blk.1.ffn_up.weight" in refused.value.what
    assert not list(tmp_path.glob("*model.gguf*")), "the unfinished file is gone"


def test_a_failed_export_leaves_the_file_of_an_earlier_one(tmp_path: Path, student: Path) -> None:
    """The name appears, or changes, only when the new file is whole."""
    gguf_path = tmp_path / "model.gguf"
    write_gguf(student, gguf_path, QUANTIZATIONS["F16"])
    before = gguf_path.read_bytes()

    def interrupt(done: int, _: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_gguf(student, gguf_path, QUANTIZATIONS["Q8_0"], progress=interrupt)

    assert gguf_path.read_bytes() == before
    assert os.listdir(tmp_path) == ["model.gguf"]

"""Requests to write a trained student as files for others, and to hold such a file against what it was written from."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from nanodistill_mcp.student.requests import Record


class ExportRequest(Record):
    """Fuse the adapter into unquantized weights and write a GGUF file from them, in one pass."""

    kind: Literal["export"] = "export"
    student: str
    adapter_dir: Path
    fused_dir: Path = Field(description="Receives the fused model in MLX/HF form; its adapters/ folder is left alone.")
    gguf_path: Path
    quantization: str
    metrics_path: Path
    result_path: Path


class ExportResult(Record):
    """What was written. ``tensor_types`` counts tensors by GGUF type."""

    gguf_bytes: int
    gguf_sha256: str
    architecture: str
    quantization: str
    tensor_types: dict[str, int]
    quantizer: Literal["ggml", "numpy"]
    stop_texts: list[str]
    context_length: int
    keeps_system: bool = Field(default=True, description="The chat template has a place for a system message.")
    elapsed_s: float


class FormsRequest(Record):
    """Write a fused student and its adapter in further forms, each in a folder below ``out_dir``."""

    kind: Literal["forms"] = "forms"
    base_name: str = Field(description="The base as others know it; named in the files, not read.")
    adapter_dir: Path
    fused_dir: Path
    out_dir: Path
    forms: list[str]
    metrics_path: Path
    result_path: Path


class FormsResult(Record):
    """Where each form lies, and why others could not be written."""

    written: dict[str, str]
    left_out: dict[str, str]


class VerifyRequest(Record):
    """Load a GGUF file in llama.cpp, hold it against the fused model and the adapter, and answer prompts with it.

    Runs in a process of its own: a bad file can abort llama.cpp.
    """

    kind: Literal["verify"] = "verify"
    gguf_path: Path
    fused_dir: Path
    student: str = Field(default="", description="The base; with the adapter it is what was trained.")
    adapter_dir: Path | None = Field(default=None, description="None: the fused model itself is all there is.")
    prompts_path: Path
    output_path: Path
    metrics_path: Path
    result_path: Path
    max_tokens: int = Field(ge=1)
    parity_prompts: int = Field(default=3, ge=0, description="Prompts whose next-token distributions are compared.")


class VerifyResult(Record):
    """The parity of a GGUF file with the fused model it was written from."""

    loads: bool = Field(description="False only when llama.cpp is not usable here; a file it refuses is an error.")
    runtime: str
    strings_checked: int
    strings_equal: int
    prompt_ids_equal: bool
    positions_compared: int
    top1_agreement: float | None
    mean_kl: float | None = Field(description="KL(fused ‖ GGUF) in nats, mean over the compared positions.")
    fused_kl: float | None = Field(default=None, description="KL(adapter ‖ fused) in nats: what fusing changed.")
    fused_top1_agreement: float | None = None
    trained_kl: float | None = Field(default=None, description="KL(adapter ‖ base) in nats: what training changed.")
    layout_proven_by: str = Field(
        default="",
        description="The quantization whose distributions matched the fused model within rounding: the file's own, or "
        "F16 from a temporary file when the file's is too coarse to tell; empty when nothing was compared.",
    )
    stops_by_itself: bool
    warnings: list[str] = Field(default=[])

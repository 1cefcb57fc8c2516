"""What the GGUF tests share: exports with small values, and prompts to compare."""

from pathlib import Path
from typing import Any

from nanodistill_mcp.student.answer_requests import AskGgufRequest
from nanodistill_mcp.student.export_requests import ExportRequest, VerifyRequest
from tests.student.bench import write_jsonl

PROMPTS = [
    [{"role": "system", "content": "Sort the ticket."}, {"role": "user", "content": "my card was charged twice"}],
    [{"role": "user", "content": "<thinking>\nthe user asks for 42 good words\n"}],
    [
        {"role": "user", "content": "please reverse the word"},
        {"role": "assistant", "content": "drow"},
        {"role": "user", "content": "think step by step: 17 plus 4 equals"},
    ],
]


def export_request(root: Path, student: Path, adapter: Path, quantization: str = "F16") -> ExportRequest:
    """A request to export into ``root``."""
    return ExportRequest(
        student=str(student),
        adapter_dir=adapter,
        fused_dir=root / "model",
        gguf_path=root / "model.gguf",
        quantization=quantization,
        metrics_path=root / "metrics.jsonl",
        result_path=root / "result.json",
    )


def verify_request(root: Path, **changes: Any) -> VerifyRequest:
    """A request to hold what was exported into ``root`` against its fused model."""
    rows = [{"id": f"prompt-{number}", "messages": messages} for number, messages in enumerate(PROMPTS)]
    values: dict[str, Any] = {
        "gguf_path": root / "model.gguf",
        "fused_dir": root / "model",
        "prompts_path": write_jsonl(root / "prompts.jsonl", rows),
        "output_path": root / "answers.jsonl",
        "metrics_path": root / "metrics.jsonl",
        "result_path": root / "verified.json",
        "max_tokens": 12,
    }
    return VerifyRequest(**values | changes)


def ask_request(root: Path, **changes: Any) -> AskGgufRequest:
    """A request to answer the same prompts with what was exported into ``root``."""
    verifying = verify_request(root)
    values: dict[str, Any] = {
        "gguf_path": verifying.gguf_path,
        "prompts_path": verifying.prompts_path,
        "output_path": verifying.output_path,
        "metrics_path": verifying.metrics_path,
        "result_path": verifying.result_path,
        "max_tokens": 12,
    }
    return AskGgufRequest(**values | changes)

"""What each quantization costs each family: top-1 agreement, KL and size of the GGUF file against the fused MLX model.

A tiny student of every family (2 layers, 256 wide, its norms and biases random) is trained on a small task until it answers
it, since a random model's flat distribution says nothing about rounding. Each file is then written and checked exactly as
export_gguf does it, in llama.cpp on this machine's CPU.

    python bench/export.py [--families NAME ...] [--quantizations NAME ...] [--write]

--write puts the table into docs/export.md. Exit code 1 when a 16-bit file does not choose as the fused model does.
"""

import argparse
import os
import re
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from nanodistill_mcp.student import blas  # noqa: E402 - the path and the threads come first

blas.prepare()

from nanodistill_mcp.errors import ExportError  # noqa: E402
from nanodistill_mcp.runs.files import read_lines  # noqa: E402
from nanodistill_mcp.student.answer_requests import GenerateRequest, Variant  # noqa: E402
from nanodistill_mcp.student.export_requests import VerifyRequest  # noqa: E402
from nanodistill_mcp.student.fuse import fuse  # noqa: E402
from nanodistill_mcp.student.generate import generate  # noqa: E402
from nanodistill_mcp.student.gguf import write_gguf  # noqa: E402
from nanodistill_mcp.student.gguf_quantizations import QUANTIZATIONS  # noqa: E402
from nanodistill_mcp.student.lora import train  # noqa: E402
from nanodistill_mcp.student.verify import verify  # noqa: E402
from tests.student.bench import conversation, training, write_jsonl  # noqa: E402
from tests.student.gguf_students import make_family  # noqa: E402

FAMILIES = (
    *("llama", "mistral", "qwen2", "qwen3", "qwen3_moe", "qwen3_5"),
    *("gemma2", "gemma3_text", "gemma3", "phi3", "granite", "smollm3"),
)
ASKED = 24
RATE = 1e-3
MARK = re.compile(r"(<!-- bench/export\.py -->\n).*?(<!-- end -->)", re.DOTALL)


@dataclass(frozen=True)
class Cell:
    """One file of one student."""

    top1: float
    kl: float
    megabytes: float
    same: int
    """Of ASKED prompts, those answered word for word as in MLX."""

    def text(self) -> str:
        return f"{self.top1:.2f} · {self.kl:.0e} · {self.megabytes:.2f} MB · {self.same}/{ASKED}".replace(
            "e-0", "e-"
        ).replace("0e+00", "0")


def shape(family: str) -> dict[str, Any]:
    """Rows that fill the blocks of the K-quants."""
    wide: dict[str, Any] = {"hidden_size": 256, "intermediate_size": 512, "head_dim": 64}
    if family.startswith("gemma"):
        wide["query_pre_attn_scalar"] = 64
    if family == "phi3":
        factors = [1.0 + index / 32 for index in range(32)]
        wide["rope_scaling"] = {"type": "longrope", "long_factor": factors, "short_factor": [1.0] * 32}
    return wide


def trained(root: Path, family: str, iterations: int) -> tuple[Path, float]:
    """A fused student that answers the task, and its last loss."""
    base = make_family(root / "base", family, **shape(family))
    request = training(
        root,
        base,
        train=40,
        valid=0,
        iters=iterations,
        batch_size=8,
        fine_tune_type="full",
        learning_rate=RATE,
        lr_schedule="cosine",
        warmup_updates=10,
    )
    write_jsonl(request.dataset_dir / "train.jsonl", [conversation(number) for number in range(40)])
    result = train(request)
    fuse(str(base), request.adapter_dir, root / "model")
    return root / "model", result.final_train_loss or 0.0


def answers_in_mlx(root: Path, prompts_path: Path) -> dict[str, str]:
    """What the fused model says."""
    output_path = root / "mlx.jsonl"
    request = GenerateRequest(
        student=str(root / "model"),
        variants=[Variant(name="fused")],
        prompts_path=prompts_path,
        output_path=output_path,
        metrics_path=root / "metrics.jsonl",
        result_path=root / "generated.json",
        max_tokens=32,
    )
    generate(request)
    return {row["id"]: row["text"] for row in read_lines(output_path)}


def cell(root: Path, quantization: str, prompts_path: Path, said: dict[str, str]) -> Cell | None:
    """Write one file and check it; None when the check refuses it."""
    gguf_path, output_path = root / f"{quantization}.gguf", root / f"{quantization}.jsonl"
    write_gguf(root / "model", gguf_path, QUANTIZATIONS[quantization])
    request = VerifyRequest(
        gguf_path=gguf_path,
        fused_dir=root / "model",
        prompts_path=prompts_path,
        output_path=output_path,
        metrics_path=root / "metrics.jsonl",
        result_path=root / "verified.json",
        max_tokens=32,
        parity_prompts=8,
    )
    try:
        found = verify(request)
    except ExportError as error:
        print(f"  {quantization}: {error.what}", file=sys.stderr)
        return None
    same = sum(said[row["id"]] == row["text"] for row in read_lines(output_path))
    size = gguf_path.stat().st_size / 1e6
    gguf_path.unlink()
    return Cell(found.top1_agreement or 0.0, found.mean_kl or 0.0, size, same)


def table(cells: dict[str, dict[str, Cell | None]], quantizations: list[str]) -> str:
    """A row for each family, a column for each quantization."""
    lines = [f"| family | {' | '.join(quantizations)} |", f"|---|{'---|' * len(quantizations)}"]
    for family, row in cells.items():
        shown = [found.text() if (found := row[quantization]) else "refused" for quantization in quantizations]
        lines.append(f"| {family} | {' | '.join(shown)} |")
    return "\n".join(lines)


def main() -> int:
    """Measure, print, and write where that was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    parser.add_argument("--quantizations", nargs="+", choices=list(QUANTIZATIONS), default=list(QUANTIZATIONS))
    parser.add_argument("--iterations", type=int, default=100)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    cells: dict[str, dict[str, Cell | None]] = {}
    for family in options.families:
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as name:
            root = Path(name)
            _, loss = trained(root, family, options.iterations)
            rows = [{"id": str(n), "messages": conversation(n)["messages"][:-1]} for n in range(ASKED)]
            prompts_path = write_jsonl(root / "prompts.jsonl", rows)
            said = answers_in_mlx(root, prompts_path)
            cells[family] = {q: cell(root, q, prompts_path, said) for q in options.quantizations}
        print(f"{family}: loss {loss:.3f}, {time.monotonic() - began:.0f} s", file=sys.stderr)
        print(table({family: cells[family]}, options.quantizations).splitlines()[-1], file=sys.stderr, flush=True)
    shown = table(cells, options.quantizations)
    print(shown)
    if options.write:
        page = ROOT / "docs" / "export.md"
        page.write_text(MARK.sub(rf"\1\n{shown}\n\n\2", page.read_text(encoding="utf-8")), encoding="utf-8")
    sixteen = [found for row in cells.values() for q, found in row.items() if q in ("F16", "BF16")]
    return 0 if all(found is not None and found.top1 == 1.0 for found in sixteen) else 1


if __name__ == "__main__":
    sys.exit(main())

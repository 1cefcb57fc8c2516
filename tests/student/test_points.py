"""A student process that dies, or cannot write, at each named point of a training and of an export: the next one ends alike."""

import os
import random
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from nanodistill_mcp.runs.files import read_json, sha256_of
from nanodistill_mcp.student.child import StudentRequest
from nanodistill_mcp.student.export_requests import ExportRequest
from nanodistill_mcp.student.requests import TrainRequest
from tests.student.bench import carry_out, training

pytestmark = [pytest.mark.crash, pytest.mark.fault, pytest.mark.slow, pytest.mark.timeout(7200)]

_MOST = int(os.environ.get("CRASH_POINTS", "3"))
"""How often a point is struck, spread over its passages."""


def _train(root: Path, student: Path) -> TrainRequest:
    return training(root, student, iters=8, steps_per_checkpoint=2, steps_per_eval=4)


def _export(root: Path, student: Path, adapter_dir: Path) -> ExportRequest:
    return ExportRequest(
        student=str(student),
        adapter_dir=adapter_dir,
        fused_dir=root / "fused",
        gguf_path=root / "model.gguf",
        quantization="Q8_0",
        metrics_path=root / "metrics.jsonl",
        result_path=root / "result.json",
    )


def _products(root: Path) -> dict[str, str]:
    files = [
        path for path in root.rglob("*") if path.suffix in (".safetensors", ".gguf") and "checkpoints" not in path.parts
    ]
    return {str(path.relative_to(root)): sha256_of(path) for path in files}


@pytest.mark.parametrize("stage", ["train", "export"])
def test_a_student_process_struck_at_any_named_point_is_made_up_for_by_the_next(
    tmp_path: Path, student: Path, stage: str, record_property: Callable[[str, object], None]
) -> None:
    """Killed there, or refused by a full disk: no file of another make, nothing half written under its own name."""
    seed = int(os.environ.get("CRASH_SEED", random.randrange(10**6)))
    print(f"repeat with CRASH_SEED={seed}")
    draw = random.Random(seed)
    trained = _train(tmp_path / "trained", student)
    assert carry_out(trained)[0] == 0

    def request(root: Path) -> StudentRequest:
        root.mkdir()
        return _train(root, student) if stage == "train" else _export(root, student, trained.adapter_dir)

    points = tmp_path / "points"
    assert carry_out(request(tmp_path / "undisturbed"), NANODISTILL_FAULT=f"record:{points}")[0] == 0
    expected = _products(tmp_path / "undisturbed")
    assert expected
    died, said = 0, Counter[str]()
    for name, count in sorted(Counter(points.read_text().split()).items()):
        for nth in sorted(draw.sample(range(1, count + 1), min(count, _MOST))):
            what = "kill" if name.endswith(".done") else draw.choice(("kill", "kill", "ENOSPC", "EIO"))
            plan = f"{name}:{nth}:{what}"
            asked = request(tmp_path / "struck")
            code, result = carry_out(asked, NANODISTILL_FAULT=plan)
            if what == "kill":
                assert code == -9, plan
                died += 1
            elif code == 1:
                said[result["what"]] += 1
            else:
                assert code in (0, 70), plan  # not in the way of anything, or the result itself could not be written
            for path in (tmp_path / "struck").rglob("*.json"):
                assert path.name.startswith(".") or isinstance(read_json(path), dict), (plan, path)
            code, result = carry_out(asked)
            assert code == 0, (plan, result)
            assert _products(tmp_path / "struck") == expected, plan
            shutil.rmtree(tmp_path / "struck")
    told = "; ".join(f"{count} times {words}" for words, count in said.most_common())
    record_property(
        "measured",
        f"{stage}: {died} deaths and {said.total()} refused writes: the same files to the bit; {told} [CRASH_SEED={seed}]",
    )

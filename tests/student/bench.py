"""A workbench: requests with small values, training data, and student processes to carry requests out."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from nanodistill_mcp.runs.files import read_json, read_lines, write_json
from nanodistill_mcp.student.child import StudentRequest
from nanodistill_mcp.student.requests import Recipe, TrainRequest

_PROJECT = Path(__file__).parents[2]
_ENTRY = "import sys; sys.path.insert(0, sys.argv.pop(1)); from nanodistill_mcp.student.child import main; main()"
_PATIENCE_S = 60.0


def recipe(**changes: Any) -> Recipe:
    """A recipe that learns fast and does everything often."""
    values: dict[str, Any] = {
        "iters": 20,
        "batch_size": 4,
        "grad_accumulation_steps": 1,
        "learning_rate": 5e-3,
        "lr_schedule": "constant",
        "warmup_updates": 0,
        "final_lr_ratio": 0.1,
        "optimizer": "adam",
        "weight_decay": 0.0,
        "lora_rank": 4,
        "lora_scale": 10.0,
        "lora_dropout": 0.0,
        "lora_keys": None,
        "num_layers": -1,
        "max_seq_length": 128,
        "grad_checkpoint": False,
        "steps_per_eval": 10,
        "steps_per_checkpoint": 10,
        "patience": 0,
        "seed": 7,
    }
    return Recipe(**values | changes)


def conversation(number: int, words: int = 1) -> dict[str, Any]:
    """A training row whose answer follows from its question."""
    answer = f"<thinking>\n{number} {'is ' * words}a number\n</thinking>\n{'even' if number % 2 == 0 else 'odd'}"
    return {
        "messages": [
            {"role": "system", "content": "Is the ticket even or odd?"},
            {"role": "user", "content": f"ticket {number}"},
            {"role": "assistant", "content": answer},
        ]
    }


def write_jsonl(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """Write rows, one to a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def training(root: Path, student: Path, *, train: int = 20, valid: int = 5, **changes: Any) -> TrainRequest:
    """A request to train, with its dataset written below ``root``."""
    write_jsonl(root / "dataset" / "train.jsonl", [conversation(number, number % 9) for number in range(train)])
    if valid:
        write_jsonl(root / "dataset" / "valid.jsonl", [conversation(number) for number in range(train, train + valid)])
    return TrainRequest(
        student=str(student),
        dataset_dir=root / "dataset",
        checkpoints_dir=root / "checkpoints",
        adapter_dir=root / "adapters",
        metrics_path=root / "metrics.jsonl",
        control_path=root / "control.json",
        result_path=root / "result.json",
        recipe=recipe(**changes),
    )


def events(request: TrainRequest, kind: str) -> list[dict[str, Any]]:
    """The events of one kind, oldest first."""
    return [line for line in read_lines(request.metrics_path, appended=True) if line["event"] == kind]


def start(request: StudentRequest, **environment: str) -> subprocess.Popen[bytes]:
    """Start a student process for a request. Its output goes to a log beside the result."""
    request_path = request.result_path.with_name("request.json")
    write_json(request_path, request.model_dump(mode="json"))
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "OPENBLAS_NUM_THREADS") if name in os.environ}
    with request.result_path.with_name("log.txt").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-I", "-c", _ENTRY, str(_PROJECT), str(request_path)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**kept, "HF_HUB_OFFLINE": "1", **environment},
        )


def carry_out(request: StudentRequest, **environment: str) -> tuple[int, Any]:
    """Carry a request out in a process; answers with the exit code and the result, None when there is none."""
    with start(request, **environment) as process:
        code = process.wait(_PATIENCE_S)
    return code, read_json(request.result_path)


def wait_until(is_so: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    """Wait for a condition while the process lives."""
    deadline = time.monotonic() + _PATIENCE_S
    while not is_so():
        assert time.monotonic() < deadline, "waited too long"
        assert process.poll() is None, "the process has ended"
        time.sleep(0.002)

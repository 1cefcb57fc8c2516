"""What training costs over the library it stands on. The teacher's answers have a bench of their own: bench/teacher.py.

Ours and the bare library run in alternation on the same work, and are compared round by round, because a machine's load
drifts.

The demo's rows and student, the same LoRA recipe: our student process, which reports every iteration, against
``mlx_lm.lora`` on the command line, both with the same BLAS on one thread and a checkpoint every 100 iterations. Counted:
rows per second of CPU time from the 10th iteration on, which other jobs on the machine hardly move (tokens would flatter
MLX-LM, which counts a padding token with every row). On Linux a third line shows ``mlx_lm.lora`` as it is installed.

    python bench/pipeline.py [training] [--rounds 5]
"""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingTypeStubs=false, reportPrivateImportUsage=false

import argparse
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from nanodistill_mcp.demo import task
from nanodistill_mcp.demo.student import student_path
from nanodistill_mcp.pipeline.dataset import prompt_messages
from nanodistill_mcp.runs.files import write_json, write_lines
from nanodistill_mcp.student.requests import Recipe, TrainRequest

ITERATIONS = 200
ROWS = 300
FIRST_COUNTED = 10
LOOK_S = 0.005

Seen = tuple[float, int]
"""CPU seconds a trainer had used when it reported an iteration, and the iteration."""
ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}

RECIPE = Recipe(
    iters=ITERATIONS,
    batch_size=8,
    grad_accumulation_steps=1,
    learning_rate=1e-3,
    lr_schedule="constant",
    warmup_updates=0,
    final_lr_ratio=1.0,
    optimizer="adam",
    weight_decay=0.0,
    lora_rank=16,
    lora_scale=20.0,
    lora_dropout=0.0,
    lora_keys=None,
    num_layers=-1,
    max_seq_length=512,
    grad_checkpoint=False,
    steps_per_eval=ITERATIONS,
    steps_per_checkpoint=100,
    patience=0,
    seed=0,
)


def main() -> int:
    """Run the rounds and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", nargs="?", choices=["training"], default="training")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each (default 5)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        _table("trained rows per CPU second", _training_rates(Path(folder), arguments.rounds))
    return 0


def _table(unit: str, rates: dict[str, list[float]]) -> None:
    """Print the best of each, all rounds, and the median over the rounds of how ours compares."""
    ours = next(iter(rates.values()))
    print(f"\n{unit}: best of the rounds (all rounds)")
    for name, found in rates.items():
        print(f"  {name:<30}{max(found):>6.0f}  ({', '.join(f'{rate:.0f}' for rate in found)})", end="")
        ratios = [mine / theirs for mine, theirs in zip(ours, found, strict=False)]
        print("" if found is ours else f"   ours is {statistics.median(ratios):.2f} times this", flush=True)


# Training


def _training_rates(folder: Path, rounds: int) -> dict[str, list[float]]:
    dataset = folder / "dataset"
    dataset.mkdir()
    rng = random.Random(0)
    write_lines(dataset / "train.jsonl", [_row(rng) for _ in range(ROWS)])
    write_lines(dataset / "valid.jsonl", [_row(rng) for _ in range(20)])
    rates: dict[str, list[float]] = {"nanodistill-mcp's student": [], "bare mlx_lm.lora, same BLAS": []}
    for number in range(rounds):
        rates["nanodistill-mcp's student"].append(_train_ours(dataset, folder / f"ours-{number}"))
        bare = _train_bare(dataset, folder / f"bare-{number}", ITERATIONS, _same_blas())
        rates["bare mlx_lm.lora, same BLAS"].append(bare)
    if _same_blas():
        as_installed = _train_bare(dataset, folder / "as-installed", ITERATIONS // 4, {})
        rates["bare mlx_lm.lora, as installed"] = [as_installed]
    return rates


def _row(rng: random.Random) -> dict[str, Any]:
    message = task.write_message(rng, rng.choice(task.QUEUES)).text
    solution, queue = task.solve(message)
    answer = {"role": "assistant", "content": f"<thinking>\n{solution}\n</thinking>\n{queue}"}
    return {"messages": [*prompt_messages(task.INSTRUCTION, message), answer]}


def _same_blas() -> dict[str, str]:
    """What our student does for itself on Linux without a GPU, as far as the environment can do it."""
    if sys.platform != "linux":
        return {}
    return {"LD_PRELOAD": "libopenblas.so.0", "MLX_DISABLE_COMPILE": "1"}


def _train_ours(dataset: Path, folder: Path) -> float:
    request = TrainRequest(
        student=str(student_path()),
        dataset_dir=dataset,
        checkpoints_dir=folder / "checkpoints",
        adapter_dir=folder / "adapters",
        metrics_path=folder / "metrics.jsonl",
        control_path=folder / "control.json",
        result_path=folder / "result.json",
        recipe=RECIPE,
    )
    folder.mkdir()
    (folder / "checkpoints").mkdir()
    write_json(folder / "request.json", request.model_dump(mode="json"))
    entry = "from nanodistill_mcp.student.child import main; main()"
    seen: list[Seen] = []
    with (folder / "log.txt").open("wb") as log:
        command = [sys.executable, "-c", entry, str(folder / "request.json")]
        with subprocess.Popen(command, env={**os.environ, **ONE_THREAD}, stdout=log, stderr=log) as child:
            _follow(child, request.metrics_path, seen)
    assert child.returncode == 0, (folder / "log.txt").read_text()
    return _rate(seen)


def _follow(child: subprocess.Popen[Any], metrics_path: Path, seen: list[Seen]) -> None:
    """Note when each iteration was reported, reading no more than what is new."""
    while not metrics_path.exists():
        assert child.poll() is None
        time.sleep(LOOK_S)
    with metrics_path.open(encoding="utf-8") as metrics:
        while child.poll() is None:
            for line in metrics:
                event = json.loads(line)
                if event["event"] == "step":
                    seen.append((_cpu_s(child), event["iteration"]))
            time.sleep(LOOK_S)


def _cpu_s(child: subprocess.Popen[Any]) -> float:
    """What the kernel says the child took so far, user and system."""
    used = psutil.Process(child.pid).cpu_times()
    return used.user + used.system


def _rate(seen: list[Seen]) -> float:
    """Rows per CPU second, from the first iteration that counts to the last one before the closing validation."""
    counted = [point for point in seen if FIRST_COUNTED <= point[1] <= seen[-1][1] - FIRST_COUNTED]
    (before_s, first), (after_s, last) = counted[0], counted[-1]
    return (last - first) * RECIPE.batch_size / (after_s - before_s)


_REPORT = re.compile(r"\s*(\d+)\s+[\d.]+ .\s+[\d,]+\s+[\d.]+[kM]?\s*$")


def _train_bare(dataset: Path, folder: Path, iterations: int, environment: dict[str, str]) -> float:
    folder.mkdir()
    config = {"rank": RECIPE.lora_rank, "scale": RECIPE.lora_scale, "dropout": RECIPE.lora_dropout}
    write_json(folder / "config.yaml", {"lora_parameters": config})
    command = [sys.executable, "-u", "-m", "mlx_lm", "lora", "--train", "--mask-prompt", "--num-layers", "-1"]
    command += ["--model", str(student_path()), "--data", str(dataset), "-c", str(folder / "config.yaml")]
    command += ["--adapter-path", str(folder / "adapters"), "--max-seq-length", str(RECIPE.max_seq_length)]
    command += ["--iters", str(iterations), "--batch-size", str(RECIPE.batch_size), "--save-every", "100"]
    command += ["--learning-rate", str(RECIPE.learning_rate), "--steps-per-eval", str(10 * iterations)]
    seen: list[Seen] = []
    output: list[str] = []
    with subprocess.Popen(
        command,
        env={**os.environ, **ONE_THREAD, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as child:
        assert child.stdout is not None
        for line in child.stdout:
            output.append(re.sub(r"\x1b\[[\d;]*m", "", line))
            if found := _REPORT.match(output[-1]):
                seen.append((_cpu_s(child), int(found[1])))
    assert child.returncode == 0, "".join(output)
    return _rate(seen)


if __name__ == "__main__":
    sys.exit(main())

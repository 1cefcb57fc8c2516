"""What training costs beside the library it stands on: the same rows, student and LoRA recipe, in alternating processes.

Ours, unpacked and packed, against ``mlx_lm.lora`` on the command line, all with the same BLAS on one thread and a checkpoint
every 100 iterations. Counted are tokens of answers, the ones the loss is of, per second of CPU time from the 10th iteration
on, which other jobs on the machine hardly move; and the most memory the process held. Rounds are compared one by one,
because a machine's load drifts. On Linux a last line shows ``mlx_lm.lora`` as it is installed, with the slower BLAS.

    python bench/training.py [--rounds 3] [--rows demo|short|mixed] [--student FOLDER]

``demo`` rows are much of one length, up to 90 tokens. ``short`` ones are of log-normal length, as questions and answers are, up to
some 90 tokens too; ``mixed`` ones have worked solutions of log-normal length, up to some 450.
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
from mlx_lm.utils import load

from nanodistill_mcp.demo import task
from nanodistill_mcp.demo.student import student_path
from nanodistill_mcp.pipeline.dataset import prompt_messages
from nanodistill_mcp.runs.files import write_json, write_lines
from nanodistill_mcp.student.chat import ChatForm
from nanodistill_mcp.student.requests import Recipe, TrainRequest

ITERATIONS = 200
ROWS = 300
FIRST_COUNTED = 10
LOOK_S = 0.005

Seen = tuple[float, int]
"""CPU seconds a trainer had used when it reported an iteration, and the iteration."""
Measured = tuple[float, int]
"""Rows a CPU second, and the most bytes held."""
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
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each (default 3)")
    parser.add_argument("--rows", choices=["demo", "short", "mixed"], default="demo")
    parser.add_argument("--student", type=Path, default=student_path(), help="default: the demo's")
    parser.add_argument("--iterations", type=int, default=ITERATIONS)
    arguments = parser.parse_args()
    student, iterations = arguments.student, arguments.iterations
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "dataset").mkdir()
        rng = random.Random(0)
        rows = [_row(rng, arguments.rows) for _ in range(ROWS)]
        write_lines(folder / "dataset" / "train.jsonl", rows)
        write_lines(folder / "dataset" / "valid.jsonl", [_row(rng, arguments.rows) for _ in range(20)])
        answer_tokens, longest = _lengths(student, rows)
        print(f"{ROWS} rows of up to {longest} tokens, {answer_tokens:.0f} of them the answer on average")
        recipe = RECIPE.model_copy(update={"iters": iterations, "steps_per_eval": iterations})
        measured: dict[str, list[Measured]] = {}
        for number in range(arguments.rounds):
            for name, packing in (("ours, packed", True), ("ours, unpacked", False)):
                asked = recipe.model_copy(update={"packing": packing})
                found = _train_ours(student, folder / "dataset", folder / f"{name}-{number}", asked)
                measured.setdefault(name, []).append(found)
            bare = _train_bare(student, folder / "dataset", folder / f"bare-{number}", iterations, _same_blas())
            measured.setdefault("bare mlx_lm.lora, same BLAS", []).append(bare)
        if _same_blas():
            slow = _train_bare(student, folder / "dataset", folder / "as-installed", iterations // 4, {})
            measured["bare mlx_lm.lora, as installed"] = [slow]
    _table(measured, answer_tokens)
    return 0


def _table(measured: dict[str, list[Measured]], answer_tokens: float) -> None:
    """Print the medians, and the median over the rounds of how each compares with the bare library."""
    bare = measured["bare mlx_lm.lora, same BLAS"]
    print("\n| | answer tokens per CPU second | against bare | peak memory |\n|---|---|---|---|")
    for name, found in measured.items():
        rate = statistics.median(rate for rate, _ in found) * answer_tokens
        ratio = statistics.median(mine[0] / theirs[0] for mine, theirs in zip(found, bare, strict=False))
        memory_mb = max(peak for _, peak in found) / 1e6
        print(f"| {name} | {rate:,.0f} | {ratio:.2f} | {memory_mb:.0f} MB |")


def _row(rng: random.Random, kind: str) -> dict[str, Any]:
    message = task.write_message(rng, rng.choice(task.QUEUES)).text
    solution, queue = task.solve(message)
    if kind == "short":
        asked, told = (max(2, min(24, round(rng.lognormvariate(2.0, 0.7)))) for _ in range(2))
        question, answer = " ".join(message.split()[:asked]), " ".join(solution.split()[:told])
        return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}
    if kind == "mixed":  # log-normal, as worked solutions are; the student is one token to a character or so
        solution = (solution + " ") * max(1, round(rng.lognormvariate(-0.2, 0.9)))
    answer = {"role": "assistant", "content": f"<thinking>\n{solution}\n</thinking>\n{queue}"}
    return {"messages": [*prompt_messages(task.INSTRUCTION, message), answer]}


def _lengths(student: Path, rows: list[dict[str, Any]]) -> tuple[float, int]:
    """Mean tokens of an answer, and tokens of the longest row."""
    chat = ChatForm(load(str(student))[1])
    found = [chat.row(row["messages"]) for row in rows]
    answers = statistics.fmean(len(row.tokens) - row.target_start for row in found)
    return answers, max(len(row.tokens) for row in found)


def _same_blas() -> dict[str, str]:
    """What our student does for itself on Linux without a GPU, as far as the environment can do it."""
    if sys.platform != "linux":
        return {}
    return {"LD_PRELOAD": "libopenblas.so.0", "MLX_DISABLE_COMPILE": "1"}


def _train_ours(student: Path, dataset: Path, folder: Path, recipe: Recipe) -> Measured:
    request = TrainRequest(
        student=str(student),
        dataset_dir=dataset,
        checkpoints_dir=folder / "checkpoints",
        adapter_dir=folder / "adapters",
        metrics_path=folder / "metrics.jsonl",
        control_path=folder / "control.json",
        result_path=folder / "result.json",
        recipe=recipe,
    )
    folder.mkdir()
    (folder / "checkpoints").mkdir()
    write_json(folder / "request.json", request.model_dump(mode="json"))
    entry = "from nanodistill_mcp.student.child import main; main()"
    seen: list[Seen] = []
    with (folder / "log.txt").open("wb") as log:
        command = [sys.executable, "-c", entry, str(folder / "request.json")]
        with subprocess.Popen(command, env={**os.environ, **ONE_THREAD}, stdout=log, stderr=log) as child:
            peak = _follow(child, request.metrics_path, seen)
    assert child.returncode == 0, (folder / "log.txt").read_text()
    return _rate(seen), peak


def _follow(child: subprocess.Popen[Any], metrics_path: Path, seen: list[Seen]) -> int:
    """Note when each iteration was reported, reading no more than what is new; the most bytes the child held."""
    peak = 0
    while not metrics_path.exists():
        assert child.poll() is None
        time.sleep(LOOK_S)
    with metrics_path.open(encoding="utf-8") as metrics:
        while child.poll() is None:
            for line in metrics:
                event = json.loads(line)
                if event["event"] == "step":
                    seen.append((_cpu_s(child), event["iteration"]))
                    peak = max(peak, psutil.Process(child.pid).memory_info().rss)
            time.sleep(LOOK_S)
    return peak


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


def _train_bare(student: Path, dataset: Path, folder: Path, iterations: int, environment: dict[str, str]) -> Measured:
    folder.mkdir()
    config = {"rank": RECIPE.lora_rank, "scale": RECIPE.lora_scale, "dropout": RECIPE.lora_dropout}
    write_json(folder / "config.yaml", {"lora_parameters": config})
    command = [sys.executable, "-u", "-m", "mlx_lm", "lora", "--train", "--mask-prompt", "--num-layers", "-1"]
    command += ["--model", str(student), "--data", str(dataset), "-c", str(folder / "config.yaml")]
    command += ["--adapter-path", str(folder / "adapters"), "--max-seq-length", str(RECIPE.max_seq_length)]
    command += ["--iters", str(iterations), "--batch-size", str(RECIPE.batch_size), "--save-every", "100"]
    command += ["--learning-rate", str(RECIPE.learning_rate), "--steps-per-eval", str(10 * iterations)]
    seen: list[Seen] = []
    output: list[str] = []
    peak = 0
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
                peak = max(peak, psutil.Process(child.pid).memory_info().rss)
    assert child.returncode == 0, "".join(output)
    return _rate(seen), peak


if __name__ == "__main__":
    sys.exit(main())

"""What a local teacher is worth, and what it would do without its guards: students of the demo's kind, trained for real.

The answers' wording varies, as a paid teacher's does: each row is one draw, and a teacher's probabilities are all draws at once.
"""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false, reportMissingTypeStubs=false, reportUnknownLambdaType=false

import random
import shutil
import statistics
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten
from mlx_lm.utils import load

from nanodistill_mcp.demo import task
from nanodistill_mcp.demo.student import student_path
from nanodistill_mcp.pipeline.dataset import prompt_messages
from nanodistill_mcp.pipeline.distilling import MOST_ALPHA
from nanodistill_mcp.runs.files import read_lines, write_lines
from nanodistill_mcp.student import distill
from nanodistill_mcp.student.answer_requests import GenerateRequest, Variant
from nanodistill_mcp.student.generate import generate
from nanodistill_mcp.student.lora import train
from nanodistill_mcp.student.requests import Distilling, TrainRequest, TrainResult
from tests.student.bench import events, training

pytestmark = pytest.mark.slow

_WORDS = ("please", "thanks", "surely", "maybe", "sorry", "certainly")
_VALID, _ASKED = 100, 20


def rows(count: int, name: str) -> list[dict[str, Any]]:
    """Messages with the queue they belong to after two words, which are drawn anew each time, by the queue."""
    drawn = random.Random(name)
    made: list[dict[str, Any]] = []
    for _ in range(count):
        message = task.write_message(drawn, drawn.choice(task.QUEUES)).text
        queue = task.solve(message)[1]
        weights = [1] * len(_WORDS)
        weights[task.QUEUES.index(queue) % len(_WORDS)] = 6
        weights[(task.QUEUES.index(queue) + 2) % len(_WORDS)] = 3
        answer = " ".join([*drawn.choices(_WORDS, weights, k=2), queue])
        made.append(
            {"messages": [*prompt_messages(task.INSTRUCTION, message), {"role": "assistant", "content": answer}]}
        )
    return made


def taught(root: Path, count: int, name: str, **changes: Any) -> tuple[TrainRequest, TrainResult]:
    """Train the demo's student on some rows; what stays the same is the validation set, and how."""
    values: dict[str, Any] = {
        "lora_rank": 8,
        "lora_scale": 2.0,
        "lr_schedule": "cosine",
        "warmup_updates": 2,
        **changes,
    }
    request = training(root, student_path(), **values)
    write_lines(request.dataset_dir / "train.jsonl", rows(count, name))
    write_lines(request.dataset_dir / "valid.jsonl", rows(_VALID, "validation"))
    return request, train(request)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's student, all of it trained on 1,500 rows: it has seen what the students have not."""
    root = tmp_path_factory.mktemp("teacher")
    changes: dict[str, Any] = {"fine_tune_type": "full", "batch_size": 8, "learning_rate": 2e-3, "warmup_updates": 5}
    request, _ = taught(root, 1500, "teacher", iters=150, steps_per_eval=50, steps_per_checkpoint=50, **changes)
    model = load(str(student_path()), adapter_path=str(request.adapter_dir))[0]
    folder = shutil.copytree(student_path(), root / "model")
    mx.save_safetensors(str(folder / "model.safetensors"), dict(tree_flatten(model.parameters())), {"format": "pt"})
    return folder


def test_a_student_with_a_local_teacher_beats_one_without_at_equal_steps(tmp_path: Path, teacher: Path) -> None:
    """Same rows, batches, rates and steps, three seeds; the loss is the answers' own on rows neither has seen."""
    how = Distilling(local_teacher=str(teacher), alpha=0.5, temperature=2.0, top_k=64)
    changes: dict[str, Any] = {"iters": 100, "learning_rate": 3e-3, "steps_per_eval": 25, "steps_per_checkpoint": 25}
    gains: list[float] = []
    print("\n| seed | answers alone: best, last | with a teacher: best, last |\n| --- | --- | --- |")
    for seed in range(3):
        told: list[tuple[float, float]] = []
        for distilling in (None, how):
            root = tmp_path / f"{seed}-{distilling is not None}"
            request, result = taught(root, 24, f"student {seed}", seed=seed, distilling=distilling, **changes)
            assert result.iterations == 100
            assert result.best_valid_loss is not None
            told.append((result.best_valid_loss, events(request, "valid")[-1]["valid_loss"]))
        print(f"| {seed} | {told[0][0]:.3f}, {told[0][1]:.3f} | {told[1][0]:.3f}, {told[1][1]:.3f} |")
        assert told[1][0] < told[0][0]
        assert told[1][1] < told[0][1]
        gains.append(told[0][0] - told[1][0])
    assert statistics.fmean(gains) > 0.1


def answers(request: TrainRequest) -> list[str]:
    """What a student writes to messages of the validation set."""
    asked = [{"id": str(n), "messages": row["messages"][:-1]} for n, row in enumerate(rows(_ASKED, "validation"))]
    root = request.result_path.parent
    write_lines(root / "prompts.jsonl", asked)
    variants = [Variant(name="student", adapter_dir=request.adapter_dir)]
    paths: dict[str, Any] = {
        name: root / f"{name}.jsonl" for name in ("prompts_path", "output_path", "metrics_path", "result_path")
    } | {"prompts_path": root / "prompts.jsonl"}
    generate(GenerateRequest(student=str(student_path()), variants=variants, max_tokens=40, **paths))
    return [row["text"] for row in read_lines(paths["output_path"])]


def test_at_alpha_one_a_student_collapses_without_the_guards_and_not_with_them(
    tmp_path: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two tokens kept and nothing but the teacher: others report students that write the same word on and on, or nothing."""
    own = distill._outcomes  # pyright: ignore[reportPrivateUsage] - the guard itself, taken away for the control
    print(
        "\n| kept tokens compared | alpha | training loss | validation loss | answers in the answers' words | two of them |"
    )
    print("| --- | --- | --- | --- | --- | --- |")
    losses: list[float] = []
    sound: list[int] = []
    for guards, alpha in (("with each other alone", 1.0), ("and the rest", 1.0), ("and the rest", MOST_ALPHA)):
        kept_only = guards == "with each other alone"
        monkeypatch.setattr(distill, "_outcomes", (lambda p, t, **_: own(p, t, whole=True)) if kept_only else own)
        how = Distilling(local_teacher=str(teacher), alpha=alpha, temperature=1.0, top_k=2)
        root = tmp_path / f"{kept_only}-{alpha}"
        changes: dict[str, Any] = {"iters": 60, "learning_rate": 5e-3, "steps_per_eval": 60, "steps_per_checkpoint": 60}
        request, result = taught(root, 60, "student 1", seed=1, distilling=how, **changes)
        written = answers(request)
        losses.append(result.best_valid_loss or 0.0)
        sound.append(sum(bool(text.strip()) and set(text.split()) <= {*_WORDS, *task.QUEUES} for text in written))
        shown = " · ".join(f"`{text.strip()[:40]}`" for text in written[:2])
        loss = f"{result.first_train_loss:.2f} to {result.final_train_loss:.2f}"
        print(f"| {guards} | {alpha:g} | {loss} | {losses[-1]:.2f} | {sound[-1]} of {_ASKED} | {shown} |")
    assert sound[0] < _ASKED / 4
    assert sound[2] > _ASKED / 2
    assert losses[2] < losses[1] < losses[0] / 2

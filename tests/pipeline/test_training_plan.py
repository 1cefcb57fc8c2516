"""What a plan predicts, and when it is still the plan."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from nanodistill_mcp.demo import task
from nanodistill_mcp.demo.student import student_path
from nanodistill_mcp.jobs.supervise import carry_out
from nanodistill_mcp.pipeline.dataset import build_dataset
from nanodistill_mcp.pipeline.recipe import resolve
from nanodistill_mcp.pipeline.stages import STAGES
from nanodistill_mcp.pipeline.training_plan import is_planned, planned, predicted_hours, stored_plan, training_options
from nanodistill_mcp.runs.files import write_json
from nanodistill_mcp.runs.options import Options
from nanodistill_mcp.runs.records import Exit
from nanodistill_mcp.runs.store import Run, RunStore
from nanodistill_mcp.student.requests import ProbeResult, Recipe
from tests.runs.made import SEEDS, begin_job, manifest, put_demo_examples


def _recipe() -> Recipe:
    return resolve("recommended", Options(), rows=1200, layers=28)[0]


def _probed(**changes: float) -> ProbeResult:
    values = {
        "step_s": 10.0,
        "step_tokens": 4000,
        "short_step_s": 2.0,
        "short_step_tokens": 400,
        "mean_tokens": 1000.0,
        "valid_tokens": 0,
    }
    return ProbeResult.model_validate(
        {"rung": 0, "attempts": [], "memory_limit_gb": 8, "device": "GPU", "weights_gb": 2, **values, **changes}
    )


def test_the_hours_follow_the_rows_there_are_and_not_the_longest_one() -> None:
    """A batch of the longest rows is what memory is measured on; most batches are shorter."""
    recipe = _recipe()
    hours = predicted_hours(recipe, _probed(), has_validation=False)
    by_hand = (5 + recipe.iters * (2 + (1000 - 400) * 8 / 3600)) / 3600
    assert hours.low == pytest.approx(0.8 * by_hand, rel=0.01)
    assert hours.high == pytest.approx(1.5 * by_hand, rel=0.01)
    assert hours.high < predicted_hours(recipe, _probed(mean_tokens=4000), has_validation=False).high


def test_evaluations_take_their_time_too() -> None:
    """A large validation set is read eleven times."""
    recipe = _recipe()
    without = predicted_hours(recipe, _probed(), has_validation=False)
    assert predicted_hours(recipe, _probed(valid_tokens=50_000), has_validation=True).low > without.low


@pytest.mark.parametrize(
    "changes",
    [
        {"short_step_tokens": 4000},  # all rows of one length
        {"short_step_s": 11.0},  # the machine was busy in between
        {"short_step_s": 0.0},
        {"short_step_s": 0.1, "short_step_tokens": 3990},
    ],
)
def test_odd_measurements_give_no_odd_prediction(changes: dict[str, float]) -> None:
    """Two steps on a busy machine are a small sample."""
    recipe = _recipe()
    hours = predicted_hours(recipe, _probed(**changes), has_validation=False)
    assert 0 < hours.low < hours.high
    assert hours.high <= 1.5 * (5 + recipe.iters * 10.0) / 3600 + 0.001


def test_options_of_this_training_lie_over_the_runs_own() -> None:
    """Also where two options are one: the newer strength of the adapter holds."""
    spec = manifest(options={"lora_alpha": 32, "lora_rank": 16, "batch_size": 2}).spec
    options, notes = training_options(spec, {"lora_scale": 3.0, "lr": 1e-4})
    assert (options.lora_alpha, options.lora_scale, options.lora_rank, options.batch_size) == (None, 3.0, 16, 2)
    assert notes == {"learning_rate": "given as lr"}
    assert training_options(spec, {})[0].lora_alpha == 32


DIES_ON = """
import json, os, signal, sys
request = json.load(open(sys.argv[-1]))
rungs = json.loads(sys.argv[1])
if request["kind"] == "probe" and request["first"] in rungs:
    with open(request["metrics_path"], "a") as metrics:
        print(json.dumps({"event": "rung", "rung": request["first"]}), file=metrics)
    os.kill(os.getpid(), signal.SIGKILL)
sys.argv[1:] = [sys.argv[-1]]
from nanodistill_mcp.student.child import main
main()
"""
"""A student process that the kernel ends on some rungs, as it does when memory runs out."""


async def _planned(home: Path, dies_on: list[int], **options: Any) -> tuple[Run, Exit]:
    """Carry out plan_training in this process, with a student process that dies on rungs."""
    spec = manifest(student=str(student_path()), options=options)
    run, _ = RunStore(home).create(spec, SEEDS)
    put_demo_examples(run)
    job = begin_job(run, "plan_training", training_lock_path=str(home / "training.lock"), student=str(student_path()))
    root = str(Path(__file__).parents[2])
    job.student_command = [
        sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {root!r}){DIES_ON}", json.dumps(dies_on)
    ]  # fmt: skip
    ended = await carry_out(job, STAGES["plan_training"])
    assert ended is not None
    return run, ended


async def test_a_probe_that_is_killed_goes_on_below_and_the_plan_says_where(home: Path) -> None:
    """The kernel's way to say "too much" is not an error of the student's: the next rung gets a process of its own."""
    run, ended = await _planned(home, [0, 1], batch_size=4)
    assert ended.outcome == "done", ended.what
    plan = stored_plan(run)
    assert plan is not None
    assert [(attempt.rung, attempt.fits) for attempt in plan.tried] == [(0, False), (1, False), (2, True)]
    assert (plan.recipe.batch_size, plan.recipe.grad_accumulation_steps) == (1, 8)
    assert plan.changes["batch_size"].endswith("1 rows at once, 8 such batches to an update: 8 rows as before")
    assert plan.rows.proved == len(task.seeds())
    assert plan.warnings == ["There are no validation rows: the last checkpoint is taken, not the best."]
    assert is_planned(run, Options(batch_size=4), str(student_path()))
    assert not is_planned(run, Options(batch_size=4, lora_rank=3), str(student_path()))
    assert not is_planned(run, Options(batch_size=4), "another/student")
    with_more = Options(batch_size=4, max_memory_gb=9, cpu_capacity_percent=50)
    assert not is_planned(run, with_more, str(student_path()))
    again = await _begun_training_is_planned_as(run, home, with_more)
    assert again == plan.recipe, "whoever raises the budget wants it to go on, not another recipe without a checkpoint"
    os.utime(run.paths.traces_amplified, ns=(1, 1))
    assert not is_planned(run, Options(batch_size=4), str(student_path()))


async def _begun_training_is_planned_as(run: Run, home: Path, options: Options) -> Recipe:
    """The recipe of a training of which there is a checkpoint already, once it is asked for with other options."""
    build_dataset(run, 0.1)
    run.paths.checkpoints.mkdir(exist_ok=True)
    write_json(run.paths.checkpoints / "0000010.json", {})
    job = begin_job(run, "train", training_lock_path=str(home / "training.lock"), student=str(student_path()))
    job.student_command = ["/nowhere"]  # nothing is measured or probed again
    return (await planned(job, run.paths.dataset, options, {})).recipe


async def test_a_probe_that_is_killed_on_every_rung_names_a_smaller_student(home: Path) -> None:
    """And the job has failed in words, not crashed."""
    # Else the default limit, a share of this machine's memory, is what bounds a training where little else runs.
    run, ended = await _planned(home, list(range(20)), batch_size=1, max_memory_gb=1000, memory_hard_limit_gb=1000)
    assert (ended.outcome, ended.error_kind) == ("failed", "training")
    assert "every try ran out of memory" in ended.what
    assert "smaller student" in ended.next_step
    assert "GB are kept for the system, and 0.5 GB are for the process itself" in ended.what
    assert ended.next_step.startswith("Close other programs and call train again, lower options.max_seq_length")
    assert stored_plan(run) is None


async def test_rows_that_are_too_long_are_counted_and_the_rest_is_planned(home: Path) -> None:
    """None is cut; all of them together are an error before anything is tried."""
    run, ended = await _planned(home, [], max_seq_length=42)
    assert ended.outcome == "done", ended.what
    plan = stored_plan(run)
    assert plan is not None
    assert 0 < plan.rows.too_long < plan.rows.train
    assert plan.recipe.max_seq_length <= 42
    assert any("are longer than 42 tokens and dropped" in told for told in plan.warnings)
    _, ended = await _planned(home / "other", [], max_seq_length=16)
    assert f"None of the {plan.rows.train} training rows fits into max_seq_length=16" in ended.what

"""A real training under the guard: paused, unloaded, killed and started again, it ends as if nothing had happened."""

import json
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from nanodistill_mcp.errors import StudentDiedError
from nanodistill_mcp.jobs.guard import Limits, Sample
from nanodistill_mcp.jobs.launch import steer
from nanodistill_mcp.jobs.supervise import Job, carry_out
from nanodistill_mcp.pipeline.guarded import train_guarded
from nanodistill_mcp.pipeline.status import stage_status
from nanodistill_mcp.runs.files import read_lines
from nanodistill_mcp.runs.records import Control, Exit, State
from nanodistill_mcp.runs.store import Run
from nanodistill_mcp.server.next_steps import next_step
from nanodistill_mcp.server.words import in_words
from nanodistill_mcp.student.requests import TrainRequest
from tests.runs.made import begin_job, make_run
from tests.student.bench import carry_out as carry_out_in_process
from tests.student.bench import training
from tests.tiny_student import make_tiny

LIMITS = Limits(total_gb=16, max_memory_gb=8, memory_hard_limit_gb=10, cpu_capacity_percent=80)
WELL = Sample(at_s=0, available_gb=9, own_gb=4)
WAIT_S = 100.0
CHANGES: dict[str, Any] = {
    "iters": 60, "train": 11, "steps_per_checkpoint": 4, "steps_per_eval": 20, "grad_accumulation_steps": 2,
    "optimizer": "adamw", "lr_schedule": "cosine", "warmup_updates": 3, "lora_dropout": 0.1,
}  # fmt: skip
"""All that a resume has to bring back: dropout, accumulation, a schedule, an optimizer with moments, and packing."""


@dataclass(frozen=True)
class Straight:
    """A training that nobody disturbed."""

    student: Path
    result: dict[str, Any]
    lines: list[dict[str, Any]]


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Straight:
    """What every other training of these tests has to come to."""
    folder = tmp_path_factory.mktemp("straight")
    request = training(folder, make_tiny(folder / "student"), **CHANGES)
    code, result = carry_out_in_process(request)
    assert code == 0
    lines = list(read_lines(request.metrics_path))
    assert lines[0]["packed"], lines[0]["unpacked_because"]
    return Straight(folder / "student", result, lines)


def _is_step(line: dict[str, Any]) -> bool:
    return line["event"] == "step"


class Weather:
    """A machine that is as the test says, on which a second passes between two looks."""

    every_s = 0.02

    def __init__(self) -> None:
        self.is_now = WELL
        self._at_s = 0.0

    def sample(self, trainer: int | None) -> Sample:
        self._at_s += 1
        if trainer is not None:
            return replace(self.is_now, at_s=self._at_s)
        free_gb = self.is_now.available_gb + (self.is_now.own_gb or 0)
        return replace(self.is_now, at_s=self._at_s, own_gb=None, available_gb=free_gb)


class Scene:
    """A job in this process, whose stage is a training of a tiny student in processes of its own."""

    def __init__(self, home: Path, request: TrainRequest) -> None:
        self.run: Run = make_run(home)
        self.job = begin_job(self.run, "train")
        self.paths = self.job.paths
        self.weather = self.job.sampler = Weather()
        files = {"metrics_path": self.paths.metrics, "control_path": self.paths.control, "guard_path": self.paths.guard}
        self.request = request.model_copy(update=files)
        self.result: dict[str, Any] = {}

    async def play(self, *acts: Callable[["Scene"], Awaitable[None]]) -> Exit:
        """Train, while one act after the other does something to the machine."""

        async def stage(job: Job) -> dict[str, Any]:
            result, gave_way = await train_guarded(job, self.request, LIMITS, lambda _: None)
            self.result = {**result.model_dump(), "gave_way": gave_way}
            return {}

        ended: Exit | None = None
        async with anyio.create_task_group() as tasks:

            async def all_acts() -> None:
                for act in acts:
                    await act(self)

            tasks.start_soon(all_acts)
            with anyio.fail_after(WAIT_S):
                ended = await carry_out(self.job, stage)
            tasks.cancel_scope.cancel()
        assert ended is not None
        return ended

    def lines(self, kind: str) -> list[dict[str, Any]]:
        return [line for line in read_lines(self.paths.metrics, appended=True) if line["event"] == kind]

    def decided(self) -> list[str]:
        return [line["action"] for line in read_lines(self.paths.events, appended=True) if line["event"] == "guard"]

    async def steps(self, more: int) -> None:
        """Wait until training has made so many further steps."""
        target = self.count + more
        await self.until(lambda: self.count >= target)

    @property
    def count(self) -> int:
        return len(self.lines("step")) if self.paths.metrics.exists() else 0

    async def until(self, is_so: Callable[[], bool]) -> None:
        with anyio.fail_after(WAIT_S):
            while not is_so():
                await anyio.sleep(0.03)


async def _others_are_busy(scene: Scene) -> None:
    """The user is told why it rests, and until when; it saved what it had."""
    await scene.steps(3)
    scene.weather.is_now = replace(WELL, others_percent=97.0)
    await scene.until(lambda: bool(scene.lines("paused")))
    await scene.until(lambda: stage_status(scene.run, "train").state is State.PAUSED)
    status = stage_status(scene.run, "train")
    assert status.message == "Paused: other programs use 97 % of the processors; goes on within 300 s"
    step = next_step(scene.run, status)
    assert step is not None
    assert step.tool == "get_status", "nobody has to do anything"
    scene.weather.is_now = WELL
    await scene.until(lambda: bool(scene.lines("resumed")))


async def _others_need_the_memory(scene: Scene) -> None:
    """The process is gone, and its memory with it; later it comes back."""
    await scene.steps(3)
    scene.weather.is_now = replace(WELL, available_gb=0.5)
    await scene.until(lambda: scene.job.student_pid is None)
    assert stage_status(scene.run, "train").state is not State.FAILED
    await scene.until(lambda: stage_status(scene.run, "train").message.startswith("Unloaded: only 0.5 GB"))
    scene.weather.is_now = WELL


async def _it_grows_past_its_hard_limit(scene: Scene) -> None:
    """Ended at once, and begun again from a checkpoint of before."""
    await scene.until(lambda: scene.job.student_pid is not None)
    await scene.steps(3)
    scene.weather.is_now = replace(WELL, own_gb=11)
    await scene.until(lambda: "kill" in scene.decided())
    scene.weather.is_now = replace(
        WELL, own_gb=None, available_gb=13
    )  # the guard may see it gone before its worker does
    await scene.until(lambda: scene.decided()[-1] == "reload")
    scene.weather.is_now = WELL


async def test_a_training_that_gave_way_in_every_way_ends_with_the_adapter_of_one_that_was_left_alone(
    home: Path, tmp_path: Path, straight: Straight
) -> None:
    """Who was polite must not be worse off; every decision is a line with its number and its threshold."""
    scene = Scene(home, training(tmp_path, straight.student, **CHANGES))

    ended = await scene.play(_others_are_busy, _others_need_the_memory, _it_grows_past_its_hard_limit)

    assert ended.outcome == "done", ended.what
    assert scene.decided() == ["pause", "resume", "unload", "reload", "kill", "reload"]
    for name in ("adapter_sha256", "best_iteration", "best_valid_loss", "final_train_loss", "trained_tokens"):
        assert scene.result[name] == straight.result[name], name
    assert {name: scene.result["gave_way"][name] for name in ("pauses", "unloads", "kills", "restarts")} == {
        "pauses": 1,
        "unloads": 1,
        "kills": 1,
        "restarts": 1,
    }
    told = in_words("train", scene.result)
    assert "It rested 2 times, " in told
    assert told.endswith("because other programs needed the machine. Its process died, and was started again once.")
    numbers = {
        line["action"]: (line["value"], line["threshold"])
        for line in read_lines(scene.paths.events, appended=True)
        if line["event"] == "guard"
    }
    assert numbers["pause"] == (97.0, 80)
    assert numbers["unload"] == (0.5, 1.0)
    assert numbers["kill"] == (11, 10)
    (restarted,) = [line for line in read_lines(scene.paths.events, appended=True) if line["event"] == "restarted"]
    assert restarted["after"].startswith("Training held 11 GB, above memory_hard_limit_gb=10")


DIES = """
import json, os, signal, sys
request = json.load(open(sys.argv[1]))
with open(request["metrics_path"], "a") as metrics:
    print(json.dumps({"event": "step", "iteration": 7}), file=metrics)
os.kill(os.getpid(), getattr(signal, sys.argv[0]))
"""


@pytest.mark.parametrize(("by", "times"), [("SIGKILL", 3), ("SIGTERM", 1)])
async def test_a_training_that_dies_is_started_again_twice_and_then_says_so(
    home: Path, tmp_path: Path, by: str, times: int
) -> None:
    """What kills it may be the training. What somebody asked to end is not started again."""
    scene = Scene(home, training(tmp_path, tmp_path / "none"))
    scene.job.student_command = [sys.executable, "-I", "-c", f"import sys; sys.argv[0] = {by!r}{DIES}"]

    ended = await scene.play()

    assert (ended.outcome, ended.error_kind) == ("failed", StudentDiedError.kind)
    assert len(scene.lines("step")) == times
    if times > 1:
        assert ended.what.startswith(
            "Training died 3 times, the last time at iteration 7; it was started again 2 times"
        )
        assert "ended by SIGKILL" in ended.what
        assert "Call train to go on from its last checkpoint" in ended.next_step


async def test_a_training_killed_at_step_8_makes_the_steps_9_to_20_that_it_would_have_made(
    home: Path, tmp_path: Path, straight: Straight, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With dropout, accumulation, a schedule and packing: weights, optimizer, data order and random state come back.

    It dies right after the line of its step 8, and its worker starts it again.
    """
    of_step_8 = next(
        number for number, line in enumerate(straight.lines, 1) if _is_step(line) and line["iteration"] == 8
    )
    scene = Scene(home, training(tmp_path, straight.student, **CHANGES))
    monkeypatch.setenv("NANODISTILL_FAULT", f"append.done:{of_step_8}:kill")

    async def the_next_one_lives(scene: Scene) -> None:
        await scene.until(lambda: scene.count >= 8)
        monkeypatch.delenv("NANODISTILL_FAULT")

    ended = await scene.play(the_next_one_lives)

    assert ended.outcome == "done", ended.what
    steps = [(line["iteration"], line["train_loss"], line["learning_rate"]) for line in scene.lines("step")]
    assert [step[0] for step in steps[:9]] == [1, 2, 3, 4, 5, 6, 7, 8, 5], "it went on from the checkpoint of step 4"
    after = {step[0]: step[1:] for step in steps[8:]}
    undisturbed = {
        line["iteration"]: (line["train_loss"], line["learning_rate"]) for line in straight.lines if _is_step(line)
    }
    assert {step: after[step] for step in range(9, 21)} == {step: undisturbed[step] for step in range(9, 21)}
    assert after == {step: undisturbed[step] for step in range(5, 61)}
    assert scene.result["adapter_sha256"] == straight.result["adapter_sha256"]
    assert (scene.result["resumed_from"], scene.result["gave_way"]) == (4, {"restarts": 1})


@pytest.mark.slow
async def test_a_training_over_its_budget_is_stopped_with_a_checkpoint_and_names_the_options(
    home: Path, tmp_path: Path
) -> None:
    """Its cache is emptied first. A user who raises the budget goes on from there."""
    student = make_tiny(tmp_path / "student")
    scene = Scene(home, training(tmp_path, student, iters=100_000, steps_per_eval=50_000))

    async def grows(scene: Scene) -> None:
        await scene.steps(3)
        scene.weather.is_now = replace(WELL, own_gb=9)

    ended = await scene.play(grows)

    assert ended.outcome == "failed"
    assert scene.decided() == ["clear_cache", "stop_memory_budget"]
    assert scene.lines("cache_emptied")
    assert ended.what.startswith("Training held 9 GB, more than max_memory_gb=8, also with its cache emptied.")
    assert "options.max_memory_gb" in ended.next_step
    assert "gradient_checkpointing" in ended.next_step
    result = json.loads(scene.request.result_path.read_text())
    assert result["stopped"] == "unloaded"
    assert (scene.request.checkpoints_dir / f"{result['iterations']:07d}.json").exists()


@pytest.mark.slow
async def test_a_user_who_stops_an_unloaded_training_gets_what_it_learnt_at_once(home: Path, tmp_path: Path) -> None:
    """Nobody has to wait for memory to be done with it."""
    scene = Scene(home, training(tmp_path, make_tiny(tmp_path / "student"), iters=100_000, steps_per_eval=50_000))

    async def unloaded_then_stopped(scene: Scene) -> None:
        await scene.steps(3)
        scene.weather.is_now = replace(WELL, available_gb=0.5)
        await scene.until(lambda: "unload" in scene.decided() and scene.job.student_pid is None)
        steer(scene.paths, Control(want="stop"))

    ended = await scene.play(unloaded_then_stopped)

    assert ended.outcome == "done"
    assert scene.result["stopped"] == "stopped"
    assert (scene.request.adapter_dir / "adapters.safetensors").exists()

"""A training through all the processes it takes: unloaded for others and started again, killed or dead and started again."""

from collections.abc import Callable, Sequence
from typing import Any

from nanodistill_mcp.errors import StudentDiedError, TrainingError
from nanodistill_mcp.jobs.guard import Limits
from nanodistill_mcp.jobs.guarding import Guarding, guarding
from nanodistill_mcp.jobs.supervise import Job
from nanodistill_mcp.student.requests import TrainRequest, TrainResult

RESTARTS = 2
"""A training that dies is started again on its own so often, and no more: what kills it may be the training."""
_ASKED_FOR = (-1, -2, -3, -15)
"""Ended by SIGHUP, SIGINT, SIGQUIT or SIGTERM: somebody wanted that."""


async def train_guarded(
    job: Job,
    request: TrainRequest,
    limits: Limits,
    on_metric: Callable[[dict[str, Any]], None],
    command: Sequence[str] = (),
) -> tuple[TrainResult, dict[str, Any]]:
    """Train to the end, from checkpoint to checkpoint.

    Returns:
        The result of the last process, and how training gave way on the way there.

    Raises:
        TrainingError: It needs more memory than it may take, or died too often.
        NanodistillError: What the training itself refused.
    """
    deaths: list[str] = []
    iteration = 0
    async with guarding(job, limits) as guard:

        def heard(line: dict[str, Any]) -> None:
            nonlocal iteration
            if line.get("event") == "step":
                guard.steps += 1
                iteration = line["iteration"]
            on_metric(line)

        while True:
            try:
                result = await job.run_student(request, TrainResult, on_metric=heard, command=command)
            except StudentDiedError as error:
                deaths.append(_killed_by(guard) or error.what)
                if error.exit_code >= 0 or error.exit_code in _ASKED_FOR:
                    raise
                if len(deaths) > RESTARTS:
                    raise _gave_up(deaths, iteration, limits) from error
                job.event("restarted", after=deaths[-1], restart=len(deaths), at_most=RESTARTS, iteration=iteration)
                guard.died()
            else:
                if result.stopped != "unloaded":
                    restarts = {"restarts": len(deaths)} if deaths else {}
                    return result, {**guard.given_way, **restarts}
                if guard.last is not None and guard.last.action == "stop_memory_budget":
                    raise _over_budget(guard, limits, result)
            await guard.memory()
            job.note(f"going on from its checkpoint{_after(deaths)}")


def _killed_by(guard: Guarding) -> str:
    """The guard's own words, when it was the guard."""
    return guard.last.told if guard.last is not None and guard.last.action == "kill" else ""


def _after(deaths: list[str]) -> str:
    return f" (started again {len(deaths)} of {RESTARTS} times). {deaths[-1]}" if deaths else ""


def _over_budget(guard: Guarding, limits: Limits, result: TrainResult) -> TrainingError:
    held = guard.last.value if guard.last is not None else 0.0
    return TrainingError(
        f"Training held {held:.3g} GB, more than max_memory_gb={limits.max_memory_gb:g}, also with its cache emptied. "
        f"It was stopped at iteration {result.iterations}, and its checkpoint is kept.",
        next_step="Call train with a higher options.max_memory_gb to go on from there; or with restart=true and a smaller "
        "batch_size or max_seq_length, or gradient_checkpointing=true, to begin anew with less.",
    )


def _gave_up(deaths: list[str], iteration: int, limits: Limits) -> StudentDiedError:
    return StudentDiedError(
        f"Training died {len(deaths)} times, the last time at iteration {iteration}; it was started again {RESTARTS} times "
        f"on its own, which is as often as that is done. {deaths[-1]}",
        next_step="Call train to go on from its last checkpoint. If it ran out of memory, close other programs, or begin anew "
        f"with restart=true and a smaller batch_size or max_seq_length, or gradient_checkpointing=true; "
        f"options.memory_hard_limit_gb is {limits.memory_hard_limit_gb:g}. read_artifact(artifact='log.txt') has its own words.",
    )

"""A training's numbers, told to an experiment tracker that the operator installed: MLflow, Weights & Biases or trackio.

Numbers and settings alone leave the machine, never a row. A tracker is told from the run's own files, by a process of its own: one
that is slow, or fails, costs a training nothing, and can be told again.
"""
# pyright: reportMissingImports=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingTypeStubs=false

import hashlib
import importlib.util
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import Any, Protocol

from nanodistill_mcp.errors import ConfigurationError
from nanodistill_mcp.pipeline.report.pictured import losses_of
from nanodistill_mcp.runs.files import read_lines, read_object, write_json
from nanodistill_mcp.runs.paths import JobPaths
from nanodistill_mcp.runs.store import Run
from nanodistill_mcp.settings import TrackerName

PROJECT = "nanodistill"
OWN_VARIABLES = ("MLFLOW_", "WANDB_", "TRACKIO_")
"""What the variables of the trackers begin with; a tracker's process is handed these and no key of a teacher."""

_METRICS = ("train_loss", "valid_loss", "learning_rate", "tokens_per_second", "trained_tokens", "peak_memory_gb")


class Tracker(Protocol):
    """One run of one tracker's own kind."""

    def log(self, metrics: dict[str, float], step: int) -> None:
        """Tell the numbers of a step."""
        ...

    def end(self) -> None:
        """Close it; what was told is then with the tracker."""
        ...


class _MLflow:
    def __init__(self, token: str, name: str, settings: Mapping[str, Any]) -> None:
        import mlflow  # noqa: PLC0415 - the operator's own package, as the other two
        from mlflow.entities import Param  # noqa: PLC0415

        self._client = mlflow.MlflowClient()
        known = self._client.get_experiment_by_name(PROJECT)
        experiment = known.experiment_id if known else self._client.create_experiment(PROJECT)
        found = self._client.search_runs([experiment], f"tags.nanodistill_id = '{token}'")
        run = found[0] if found else self._client.create_run(experiment, run_name=name, tags={"nanodistill_id": token})
        self._id = run.info.run_id
        if not found:
            self._client.log_batch(self._id, params=[Param(key, str(value)[:500]) for key, value in settings.items()])

    def log(self, metrics: dict[str, float], step: int) -> None:
        for key, value in metrics.items():
            self._client.log_metric(self._id, key, value, step=step)

    def end(self) -> None:
        self._client.set_terminated(self._id)


class _WandB:
    def __init__(self, token: str, name: str, settings: Mapping[str, Any]) -> None:
        import wandb  # noqa: PLC0415

        self._run = wandb.init(
            project=PROJECT, id=token, name=name, config=dict(settings), resume="allow", save_code=False
        )

    def log(self, metrics: dict[str, float], step: int) -> None:
        self._run.log(metrics, step=step)

    def end(self) -> None:
        self._run.finish()


class _Trackio:
    def __init__(self, token: str, name: str, settings: Mapping[str, Any]) -> None:
        import trackio  # noqa: PLC0415

        self._run = trackio.init(
            project=PROJECT, name=f"{name}-{token[-6:]}", config=dict(settings), resume="allow", embed=False,
            auto_log_gpu=False, auto_log_cpu=False,
        )  # fmt: skip

    def log(self, metrics: dict[str, float], step: int) -> None:
        self._run.log(metrics, step=step)

    def end(self) -> None:
        self._run.finish()


_TRACKERS = {"mlflow": _MLflow, "wandb": _WandB, "trackio": _Trackio}


def check_installed(tracker: TrackerName) -> None:
    """Is the tracker's package there?

    Raises:
        ConfigurationError: It is not.
    """
    if importlib.util.find_spec(tracker) is None:
        raise ConfigurationError(
            f"The tracker {tracker} is not installed.",
            next_step=f"Install it where this program is: {sys.executable} -m pip install {tracker}.",
        )


class Told:
    """What a tracker knows of a run's training, and what it is told next.

    Raises:
        ConfigurationError: The tracker is not installed, or refused.
    """

    def __init__(self, run: Run, tracker: TrackerName) -> None:
        check_installed(tracker)
        self._run, self._name = run, tracker
        self._path = (
            run.paths.root / f"told-{tracker}.json"
        )  # one each: they are written by processes that know nothing of each other
        self._tracker: Tracker | None = None

    @cached_property
    def _token(self) -> str:
        """The training's id at the tracker: one that began anew is another one, one that went on is the same."""
        begun = [job.root.name for job in _trainings(self._run) if _first_step(job) == 1]
        digest = hashlib.sha256(f"{self._run.manifest.created_at} {begun[-1:]}".encode()).hexdigest()
        return f"{self._run.run_id}-{digest[:12]}"

    def tell_new(self) -> int:
        """Tell what is new since the last time, also since that of another process; answers with the number of lines."""
        lines, _ = losses_of(self._run)
        known = self._known()
        sent: dict[str, int] = known.get("sent", {})
        new = [line for line in lines if line["iteration"] > sent.get(line["event"], -1)]
        if not new:
            return 0
        with self._open() as tracker:
            for line in new:
                metrics = {name: float(line[name]) for name in _METRICS if name in line}
                tracker.log(metrics, int(line["iteration"]))
        sent = sent | {line["event"]: line["iteration"] for line in new}
        write_json(self._path, {**known, "token": self._token, "sent": sent})
        return len(new)

    def end(self) -> None:
        """Tell the scores where they are new, and close."""
        known, found = self._known(), _scores(self._run)
        is_new = bool(found) and found != known.get("scores")
        if self._tracker is None and not is_new:
            return
        with self._open() as tracker:
            if is_new:
                tracker.log(found, int((read_object(self._run.paths.training) or {}).get("iterations", 0)) + 1)
            tracker.end()
        write_json(self._path, {**known, "token": self._token, "scores": found})

    def _known(self) -> dict[str, Any]:
        """What it was told of this training."""
        known = read_object(self._path) or {}
        return known if known.get("token") == self._token else {}

    @contextmanager
    def _open(self) -> Generator[Tracker]:
        try:
            self._tracker = self._tracker or _TRACKERS[self._name](self._token, self._run.run_id, _settings(self._run))
            yield self._tracker
        except Exception as error:  # whatever a package of the operator's raises is its refusal
            raise _refused(self._name) from error


def has_begun(run: Run) -> bool:
    """Did the newest training take a step?"""
    jobs = _trainings(run)
    return bool(jobs) and _first_step(jobs[-1]) is not None


def _trainings(run: Run) -> list[JobPaths]:
    return [job for job in run.paths.job_list() if job.stage == "train"]


def _first_step(job: JobPaths) -> int | None:
    lines = read_lines(job.metrics, appended=True)
    return next((line["iteration"] for line in lines if line.get("event") == "step"), None)


def _settings(run: Run) -> dict[str, Any]:
    plan = read_object(run.paths.training) or read_object(run.paths.training_plan) or {}
    recipe: dict[str, Any] = {name: value for name, value in plan.get("recipe", {}).items() if value is not None}
    return {"student": run.manifest.spec.student, "teacher": run.manifest.spec.teacher, "run_id": run.run_id, **recipe}


def _scores(run: Run) -> dict[str, float]:
    evaluation = read_object(run.paths.root / "evaluation.json") or {}
    sets = {name: part for name in ("held_out", "synthetic") if isinstance(part := evaluation.get(name), dict)}
    return {
        f"{name}/{model}_accuracy": float(part[model]["accuracy"])
        for name, part in sets.items()
        for model in ("base", "student", "teacher")
        if isinstance(part.get(model), dict) and part[model].get("accuracy") is not None
    }


def _refused(tracker: str) -> ConfigurationError:
    return ConfigurationError(
        f"The tracker {tracker} did not take what it was told.",
        next_step=f"Its own words are above, or in tracker.log of the job's folder. Once it works: nanodistill-mcp track RUN --to {tracker}.",
    )

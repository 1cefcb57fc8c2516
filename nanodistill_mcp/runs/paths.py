"""Where everything lies: the data directory, run ids, and the names of a run's files."""

import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from nanodistill_mcp.errors import UserInputError

RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
_RESERVED = {"con", "prn", "aux", "nul", *(f"{kind}{digit}" for kind in ("com", "lpt") for digit in range(1, 10))}


def data_home() -> Path:
    """The one data directory of this user. ``NANODISTILL_HOME`` overrides.

    On macOS ``XDG_*`` is not looked at: a client that passes it and one that does not would see two stores.
    """
    if override := os.environ.get("NANODISTILL_HOME"):
        return Path(override).expanduser().absolute()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "nanodistill"
    import platformdirs  # noqa: PLC0415 - not needed everywhere, and a client waits for the start

    return platformdirs.user_data_path("nanodistill", appauthor=False)


def run_id_of(name: str) -> str:
    """Check a run's name, which is its id.

    Raises:
        UserInputError: The name is not one; says what is accepted.
    """
    if (
        RUN_ID.match(name)
        and not name.endswith(".")
        and ".." not in name
        and name.split(".", maxsplit=1)[0].lower() not in _RESERVED
    ):
        return name
    raise UserInputError(
        "That is not a usable run name.",
        next_step="Give 1 to 64 characters of A-Z a-z 0-9 . _ -, starting with a letter or digit, for example 'tickets-1'.",
    )


@dataclass(frozen=True)
class JobPaths:
    """The files of one job: ``jobs/NNN-stage``."""

    root: Path

    @property
    def request(self) -> Path:
        return self.root / "request.json"

    @property
    def worker(self) -> Path:
        return self.root / "worker.json"

    @property
    def events(self) -> Path:
        return self.root / "events.jsonl"

    @property
    def metrics(self) -> Path:
        return self.root / "metrics.jsonl"

    @property
    def heartbeat(self) -> Path:
        return self.root / "heartbeat.json"

    @property
    def control(self) -> Path:
        return self.root / "control.json"

    @property
    def guard(self) -> Path:
        """What the guard of the machine's memory wants of a trainer."""
        return self.root / "guard.json"

    @property
    def log(self) -> Path:
        return self.root / "log.txt"

    @property
    def exit(self) -> Path:
        return self.root / "exit.json"

    @property
    def number(self) -> int:
        return int(self.root.name.split("-")[0])

    @property
    def stage(self) -> str:
        return self.root.name.split("-", 1)[1]


@dataclass(frozen=True)
class RunPaths:
    """The files of one run folder."""

    root: Path

    @property
    def run_id(self) -> str:
        return self.root.name

    @property
    def manifest(self) -> Path:
        return self.root / "run.json"

    @property
    def budget(self) -> Path:
        """The run's caps, once they were changed."""
        return self.root / "budget.json"

    @property
    def tags(self) -> Path:
        """The words the user finds the run by; absent when there are none."""
        return self.root / "tags.json"

    @property
    def seeds(self) -> Path:
        return self.root / "seeds.jsonl"

    @property
    def inputs(self) -> Path:
        """Real inputs for the teacher to answer; absent when none were given."""
        return self.root / "inputs.jsonl"

    @property
    def imported(self) -> Path:
        """Where the rows of a run are from that was made of published data, and what was left out of it."""
        return self.root / "imported.json"

    @property
    def set_aside(self) -> Path:
        """Which rows of the given files could not be used, and why, without their content; absent when all could."""
        return self.root / "set_aside.jsonl"

    @property
    def prompts(self) -> Path:
        """The prompts that replace the package's in this run, by template."""
        return self.root / "prompts"

    @property
    def calls(self) -> Path:
        return self.root / "calls.jsonl"

    @property
    def traces_cot(self) -> Path:
        return self.root / "traces_cot.jsonl"

    @property
    def policy(self) -> Path:
        return self.root / "policy.json"

    @property
    def traces_amplified(self) -> Path:
        return self.root / "traces_amplified.jsonl"

    @property
    def revisions(self) -> Path:
        """What the user dropped, edited and approved, call by call."""
        return self.root / "revisions.jsonl"

    @property
    def policies(self) -> Path:
        """Every version of the policy."""
        return self.root / "policies"

    @property
    def rejected(self) -> Path:
        return self.root / "rejected.jsonl"

    @property
    def dataset(self) -> Path:
        return self.root / "dataset"

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    @property
    def teaching(self) -> Path:
        """What a local teacher held likely at each token of the training rows; made again when it is gone."""
        return self.root / "teaching"

    @property
    def model(self) -> Path:
        return self.root / "model"

    @property
    def adapters(self) -> Path:
        return self.root / "model" / "adapters"

    @property
    def training_plan(self) -> Path:
        """What training will do and take, as it was found out beforehand."""
        return self.root / "training_plan.json"

    @property
    def training(self) -> Path:
        """How the adapter was trained; written last by the train stage."""
        return self.root / "training.json"

    @property
    def evaluation(self) -> Path:
        return self.root / "evaluation.json"

    @property
    def test_rows(self) -> Path:
        """Further held-out examples, brought after the run was made; absent when none were."""
        return self.root / "test_rows.jsonl"

    @property
    def answered(self) -> Path:
        """What base, student and GGUF file answered so far, by what they were asked."""
        return self.root / "answered"

    @property
    def answers(self) -> Path:
        """Every answer given in an evaluation, row by row."""
        return self.root / "answers.jsonl"

    @property
    def report(self) -> Path:
        """What the run came to, for people."""
        return self.root / "report.md"

    @property
    def loss_picture(self) -> Path:
        return self.root / "loss.png"

    @property
    def scorecard(self) -> Path:
        return self.root / "scorecard.png"

    @property
    def model_card(self) -> Path:
        return self.root / "model" / "README.md"

    @property
    def gguf(self) -> Path:
        return self.root / "model.gguf"

    @property
    def modelfile(self) -> Path:
        return self.root / "Modelfile"

    @property
    def export(self) -> Path:
        return self.root / "export.json"

    @property
    def exports(self) -> Path:
        """The student in the further forms that were asked for."""
        return self.root / "exports"

    @property
    def comparison(self) -> Path:
        return self.root / "comparison.json"

    @property
    def host(self) -> Path:
        """The questions to the calling agent, when it is the teacher."""
        return self.root / "host"

    @property
    def parent(self) -> Path:
        """What a refined run has of the run it goes on from."""
        return self.root / "parent"

    @property
    def archive(self) -> Path:
        return self.root / "archive"

    @property
    def worker_lock(self) -> Path:
        """Held by the run's worker until its exit record is written, or until it dies."""
        return self.root / "worker.lock"

    @property
    def trainer_lock(self) -> Path:
        """Held by every process a worker starts, even after the worker was killed."""
        return self.root / "trainer.lock"

    @property
    def jobs(self) -> Path:
        return self.root / "jobs"

    def job_list(self) -> list[JobPaths]:
        """The run's jobs, oldest first."""
        if not self.jobs.is_dir():
            return []
        names = sorted(entry for entry in os.listdir(self.jobs) if re.match(r"\d{3,}-[a-z_]+\Z", entry))
        return sorted((JobPaths(self.jobs / name) for name in names), key=lambda job: job.number)

"""The questions a run puts to the agent that is its teacher, as files any server of this user can hand out and answer.

``<id>.task.<job>.json`` is a question, ``<id>.lease.json`` says that an agent works on it, ``<id>.answer.json`` is what it
said. Whoever leases, answers or closes one holds the folder's lock for that moment: no two agents are given the same
question, and of two answers to it the first stands. An answer outlives the worker that asked; the next one finds it.
"""

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from nanodistill_mcp.runs.files import write_json
from nanodistill_mcp.runs.records import ProcessIdentity
from nanodistill_mcp.runs.store import read_record

LEASE_S = 600.0
"""How long a question stays with the agent it was given to."""

_CLOCK_MOVES_S = 5.0
"""By so much a clock is put right all the time."""


IsAlive = Callable[[ProcessIdentity], bool]
"""Does the server that gave a question to its agent still run? Its chat ended with it."""


class Question(BaseModel):
    """One question to the teacher. Its id is the id of its call in the journal."""

    model_config = ConfigDict(extra="ignore", defer_build=True)

    id: str
    template: str
    answer_shape: str
    answer_schema: dict[str, Any]
    system: str
    user: str
    asked_at: str

    @property
    def chars(self) -> int:
        """How much there is to read in it that no other question shares."""
        return len(self.user)


class Given(BaseModel):
    """What an agent answered: an object of the asked shape, or why it gives none."""

    model_config = ConfigDict(extra="ignore", defer_build=True)

    answer: dict[str, Any] = {}
    declined: str = ""


@dataclass(frozen=True)
class Open:
    """How many of a job's questions have no answer yet."""

    free: int = 0
    leased: int = 0
    lease_expires_s: float = 0.0
    """Seconds until the first of the leases ends."""

    @property
    def total(self) -> int:
        return self.free + self.leased


@dataclass
class _Listing:
    """The folder's names, sorted out."""

    tasks: dict[str, str] = field(default_factory=dict[str, str])
    """The job that asked each question last."""
    leases: dict[str, float] = field(default_factory=dict[str, float])
    answers: set[str] = field(default_factory=set[str])

    def unanswered(self, job: str) -> list[str]:
        return [name for name, asker in self.tasks.items() if asker == job and name not in self.answers]


@dataclass(frozen=True)
class Questions:
    """The folder ``host`` of one run."""

    folder: Path

    def ask(self, question: Question, job: str) -> None:
        """Put a question out, or out again under the job that asks now. Not flushed: a worker that starts again asks again."""
        self.folder.mkdir(mode=0o700, exist_ok=True)
        before = self._listing().tasks.get(question.id)
        write_json(self._task(question.id, job), question.model_dump(), durable=False)
        if before is not None and before != job:
            self._task(question.id, before).unlink(missing_ok=True)

    def answered(self) -> set[str]:
        """The questions that have an answer which no worker took yet."""
        return self._listing().answers

    def given(self, question_id: str) -> Given | None:
        """The answer to a question, if there is one."""
        return read_record(self._file(question_id, "answer"), Given)

    def close(self, question_id: str) -> None:
        """Remove a question with its answer, which by now stands in the journal."""
        with self._alone():
            if (job := self._listing().tasks.get(question_id)) is not None:
                self._task(question_id, job).unlink(missing_ok=True)
            for kind in ("lease", "answer"):
                self._file(question_id, kind).unlink(missing_ok=True)

    def open_for(self, job: str, is_alive: IsAlive) -> Open:
        """How many questions of a job wait for an answer, and how many of them are leased."""
        found = self._listing()
        unanswered = found.unanswered(job)
        leased = [found.leases[name] for name in unanswered if self._is_leased(name, found, is_alive)]
        left_s = max(0.0, LEASE_S - (time.time() - min(leased))) if leased else 0.0
        return Open(len(unanswered) - len(leased), len(leased), left_s)

    def find(self, question_id: str) -> Question | None:
        """A question that is open, or answered and not yet taken."""
        job = self._listing().tasks.get(question_id)
        return read_record(self._task(question_id, job), Question) if job is not None else None

    def lease(self, job: str, most: int, most_chars: int, holder: ProcessIdentity, is_alive: IsAlive) -> list[Question]:
        """Give questions to an agent, oldest first: the same text never twice at once, and never more than fits.

        Args:
            job: The job whose questions are wanted.
            most: How many, at most.
            most_chars: How much text, at most; a single longer question is still given.
            holder: The server that gives them: a lease ends with it, because its chat has ended too.
            is_alive: Whether the server of an earlier lease still runs.
        """
        if not self.folder.is_dir():
            return []
        with self._alone():
            found = self._listing()
            free = [name for name in found.unanswered(job) if not self._is_leased(name, found, is_alive)]
            questions = [q for name in free if (q := read_record(self._task(name, job), Question)) is not None]
            taken: list[Question] = []
            for question in sorted(questions, key=lambda q: q.asked_at):
                full = taken and sum(q.chars for q in taken) + question.chars > most_chars
                if len(taken) == most or full:
                    break
                if any((q.system, q.user) == (question.system, question.user) for q in taken):
                    continue  # a second sample of one question: it is to be worked out afresh, not copied
                taken.append(question)
            for question in taken:
                write_json(self._file(question.id, "lease"), holder.model_dump(), durable=False)
            return taken

    def give(self, question_id: str, given: Given) -> Literal["taken", "answered", "gone"]:
        """Answer a question. On disk when this returns; the first answer stands."""
        with self._alone():
            found = self._listing()
            if question_id in found.answers:
                return "answered"
            if question_id not in found.tasks:
                return "gone"
            write_json(self._file(question_id, "answer"), given.model_dump())
            return "taken"

    def _is_leased(self, name: str, found: _Listing, is_alive: IsAlive) -> bool:
        # A lease from the future is of before the clock was put back: nobody can say how old it is.
        if name not in found.leases or not -_CLOCK_MOVES_S <= time.time() - found.leases[name] < LEASE_S:
            return False
        holder = read_record(self._file(name, "lease"), ProcessIdentity)
        return holder is not None and is_alive(holder)

    def _listing(self) -> _Listing:
        found = _Listing()
        with contextlib.suppress(FileNotFoundError), os.scandir(self.folder) as entries:
            for entry in entries:
                match entry.name.split("."):
                    case [name, "task", job, "json"]:
                        found.tasks[name] = job
                    case [name, "lease", "json"]:
                        with contextlib.suppress(FileNotFoundError):  # closed since
                            found.leases[name] = entry.stat(follow_symlinks=False).st_mtime
                    case [name, "answer", "json"]:
                        found.answers.add(name)
                    case _:
                        pass  # a temporary file
        return found

    def _task(self, question_id: str, job: str) -> Path:
        return self.folder / f"{question_id}.task.{job}.json"

    def _file(self, question_id: str, kind: str) -> Path:
        return self.folder / f"{question_id}.{kind}.json"

    @contextlib.contextmanager
    def _alone(self) -> Generator[None, None, None]:
        fd = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

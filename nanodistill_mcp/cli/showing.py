"""Runs for a person: the list, one run, and what a job writes while it works."""

import contextlib
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
from rich.console import Console
from rich.table import Table

from nanodistill_mcp.errors import UserInputError
from nanodistill_mcp.jobs.launch import Alive, Finished, observe
from nanodistill_mcp.runs.files import read_lines
from nanodistill_mcp.runs.paths import JobPaths
from nanodistill_mcp.runs.records import Heartbeat
from nanodistill_mcp.runs.store import Run, RunStore, now, read_record
from nanodistill_mcp.server.app import App, status_reply
from nanodistill_mcp.server.artifacts import clean
from nanodistill_mcp.server.listing import runs_in_text, runs_reply
from nanodistill_mcp.server.replies import NextStep, RunLine, StatusReply
from nanodistill_mcp.server.stages import Action, control
from nanodistill_mcp.settings import load_settings

_ALL = 1_000_000
_LOOK_S = 0.5
_LOG_CHARS = 200_000


def show_runs(home: Path, *, tag: str, as_json: bool) -> int:
    """Every run: a table on a terminal, the text an agent gets where it is piped, or JSON."""
    reply = runs_reply(App(load_settings(home), RunStore(home)), tag=tag, limit=_ALL)
    if as_json:
        print(reply.model_dump_json(indent=2))
    elif sys.stdout.isatty() and reply.runs:
        Console().print(_table(reply))
    elif reply.runs:
        print(runs_in_text(reply).rsplit("\n", 1)[0].strip())  # without the call an agent would make next
    else:
        print(f"There are no runs in {reply.folder}.\nBegin with: nanodistill-mcp demo")
    return 0


def _table(reply: StatusReply) -> Table:
    table = Table("Run", "Stage", "Base", "Student", "Decision", "Cost", "Took", "Student model", title=reply.folder)
    for line in reply.runs:
        table.add_row(*(clean(cell) for cell in _cells(line)))
    return table


def _cells(line: RunLine) -> list[str]:
    if line.damaged:
        return [line.run_id, f"damaged: {line.damaged}"]
    shares = {name: f"{share:.0%}" for name, share in line.accuracy.items()}
    return [
        line.run_id,
        f"{line.stage} {line.state}",
        shares.get("base", ""),
        shares.get("student", ""),
        line.decision,
        f"${line.cost_usd:.2f}",
        f"{line.elapsed_s:.0f} s",
        line.student,
    ]


def show_run(home: Path, run_id: str, *, as_json: bool) -> int:
    """One run at a glance, or all of it as JSON."""
    store = RunStore(home)
    reply = status_reply(store.open(run_id), detail=True)
    if as_json:
        print(reply.model_dump_json(indent=2))
    elif sys.stdout.isatty():
        Console().print("\n".join(_glance(reply)), markup=False, soft_wrap=True)
    else:
        print("\n".join(_glance(reply)))
    return 0


def show_board(home: Path, run_id: str) -> int:
    """One run in a browser, live, until Ctrl-C. The address is a secret, so it is printed and nowhere else."""
    from nanodistill_mcp.server.board_web import serve_board
    from nanodistill_mcp.server.build import build_server

    def tell(address: str) -> None:
        print(
            f"{run_id} is shown at {address}\nWhoever has this address can steer the run. Ctrl-C ends it.", flush=True
        )

    with contextlib.suppress(KeyboardInterrupt):
        anyio.run(serve_board, build_server(load_settings(home)), run_id, tell)
    return 0


def _glance(reply: StatusReply) -> Iterator[str]:
    yield f"{reply.run_id} in {reply.folder}"
    for line in reply.stages:
        count = f" {line.done} of {line.total}" if line.total and line.state not in ("done", "new") else ""
        yield f"  {line.stage:<15} {line.state}{count}  {clean(line.message)}".rstrip()
    for stage in ("synthesize_cot", "evaluate"):
        verdict = reply.detail.get(stage, {}).get("verdict", "")
        if verdict:
            yield f"\n{clean(str(verdict))}"
    if reply.spend:
        spend = reply.spend
        yield f"\nTeacher: ${spend.cost_usd:.2f} of ${spend.budget_usd:g} in {spend.calls} calls."
    yield f"Files: {', '.join(artifact.name for artifact in reply.artifacts if '/' not in artifact.name)}"
    yield f"Next: {call_in_words(reply.next_step)}"


def call_in_words(step: NextStep) -> str:
    """A tool's call, as a person can tell it to an agent."""
    arguments = ", ".join(f"{name}={value!r}" for name, value in step.arguments.items())
    return clean(f"{step.tool}({arguments}) - {step.why}")


def show_logs(home: Path, run_id: str, *, stage: str, follow: bool, as_json: bool = False) -> int:
    """What the newest job wrote, and with ``follow`` what it writes until it ends.

    As JSON each line is an object with ``at``, ``run_id``, ``job``, ``stage`` and ``kind``: an ``event`` with its fields, a line
    of the ``log``, a ``progress``, and last the ``end``.

    Returns:
        0, or 1 when the job that was followed did not end well.

    Raises:
        UserInputError: The run has no such job.
    """
    run = RunStore(home).open(run_id)
    job = _newest_job(run, stage)
    if not as_json:
        print(f"{job.root.name} in {job.root}", flush=True)
    reader = _Reader(job)
    while True:
        state = observe(run, job)  # before the last look at its files: what it wrote before it ended is then there
        for entry in reader.new_entries():
            print(_as_object(run, job, entry) if as_json else clean(_as_line(entry)), flush=True)
        if not isinstance(state, Alive) or not follow:
            break
        time.sleep(_LOOK_S)
    if as_json:
        outcome = (
            state.exit.outcome
            if isinstance(state, Finished)
            else "running"
            if isinstance(state, Alive)
            else "interrupted"
        )
        print(_as_object(run, job, {"kind": "end", "outcome": outcome}), flush=True)
        return int(follow and outcome != "done")
    match state:
        case Finished(exit=ended) if ended.what:
            print(clean(f"{ended.outcome}: {ended.what} {ended.next_step}"))
            return int(follow)
        case Finished(exit=ended):
            print(f"{ended.outcome} after {ended.elapsed_s:.0f} s")
            return int(follow and ended.outcome != "done")
        case Alive():
            print(f"It goes on: nanodistill-mcp logs -f {run_id}")
            return 0
        case _:
            print(f"interrupted: its worker is gone. What it finished is kept: nanodistill-mcp show {run_id}")
            return int(follow)


def control_run(home: Path, run_id: str, action: Action) -> int:
    """Pause, resume, stop or cancel the run's job, as control_job does."""
    found = anyio.run(control, RunStore(home).open(run_id), action)
    print(f"{action}: {found.stage} is {found.state}.")
    return 0


def _newest_job(run: Run, stage: str) -> JobPaths:
    jobs = [job for job in run.paths.job_list() if not stage or job.stage == stage]
    if not jobs:
        told = ", ".join(dict.fromkeys(job.stage for job in run.paths.job_list())) or "none so far"
        raise UserInputError(
            f"Run {run.run_id!r} has no job{f' of {stage[:40]!r}' if stage else ''}.",
            next_step=f"Stages that ran: {told}.",
        )
    return jobs[-1]


@dataclass
class _Reader:
    """What a job wrote since the last look: its events, its log, and where it is."""

    job: JobPaths
    events: int = 0
    log_chars: int = 0
    last_message: str = ""

    def new_entries(self) -> Iterator[dict[str, Any]]:
        events = list(read_lines(self.job.events, appended=True))
        yield from ({"kind": "event", **event} for event in events[self.events :])
        self.events = len(events)
        text = self.job.log.read_text(encoding="utf-8", errors="replace") if self.job.log.exists() else ""
        fresh = text[self.log_chars :] if self.log_chars else text[-_LOG_CHARS:]
        complete = fresh[: fresh.rfind("\n") + 1]
        self.log_chars = len(text) - (len(fresh) - len(complete))
        yield from ({"kind": "log", "message": line} for line in complete.splitlines())
        beat = read_record(self.job.heartbeat, Heartbeat)
        message = f"{beat.done} of {beat.total}  {beat.message}" if beat and beat.total else ""
        if message and message != self.last_message:
            yield {"kind": "progress", **(beat.model_dump() if beat else {})}
        self.last_message = message


def _as_line(entry: dict[str, Any]) -> str:
    match entry["kind"]:
        case "event":
            told = "  ".join(f"{name}: {value}" for name, value in entry.items() if name not in ("at", "event", "kind"))
            return f"{str(entry.get('at', ''))[11:19]} {entry.get('event', '')}  {told}".rstrip()
        case "progress":
            return f"         {entry['done']} of {entry['total']}  {entry['message']}"
        case _:
            return f"         | {entry['message']}"


def _as_object(run: Run, job: JobPaths, entry: dict[str, Any]) -> str:
    about = {"at": entry.get("at") or now(), "run_id": run.run_id, "job": job.root.name, "stage": job.stage}
    return clean(json.dumps({**about, **entry}, ensure_ascii=False))

"""The paid stages of a small run, struck at named points: what a death or a failing disk leaves, and what comes of it."""

import json
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from nanodistill_mcp.demo import teacher
from nanodistill_mcp.demo.wire import Says, WireRequest
from nanodistill_mcp.runs.files import read_json, read_lines
from nanodistill_mcp.runs.journal import JournalReading, in_doubt, read_journal
from nanodistill_mcp.runs.paths import RunPaths
from tests.conftest import ScriptedTeacher

CONCURRENCY = 3
SPEC: dict[str, Any] = {"augment_factor": 2, "options": {"teacher_concurrency": CONCURRENCY}}
STAGES: list[tuple[str, dict[str, Any]]] = [
    ("synthesize_cot", {}),
    ("extract_policy", {}),
    ("amplify", {"target_size": 12}),
]
PRODUCTS = ("seeds.jsonl", "traces_cot.jsonl", "policy.json", "traces_amplified.jsonl", "rejected.jsonl")

_PROJECT = Path(__file__).parents[2]


def shape_of(request: WireRequest) -> str:
    """The shape of the answer that is asked for, also where two faults in a row had it asked for in plain words."""
    if request.schema_name:
        return request.schema_name
    return (
        "NewInputs" if "<cells-" in request.user else "WorkedSolution" if "<input-" in request.user else "PolicyDraft"
    )


@dataclass
class Forks:
    """A process that carries stages out in forks of itself."""

    folder: Path
    teacher: ScriptedTeacher
    _process: subprocess.Popen[bytes] = field(init=False)

    def __enter__(self) -> Self:
        self.teacher.script = lambda asked: Says(teacher.answer(asked.system, asked.user, shape_of(asked)))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.crash.fork_program"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=_PROJECT,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"ready\n"
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(timeout=30)
        self._process.stdout.close()

    def run(self, home: Path, plan: str = "") -> tuple[int, dict[str, Any]]:
        """All paid stages, in one fork with a plan; its exit code, and how the last stage it came to ended."""
        result = self.folder / "result.json"
        result.unlink(missing_ok=True)
        order = {
            "home": str(home),
            "url": self.teacher.url,
            "spec": SPEC,
            "stages": STAGES,
            "plan": plan,
            "log": str(self.folder / "log.txt"),
            "result": str(result),
        }
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        self._process.stdin.flush()
        code = int(self._process.stdout.readline())
        return code, read_json(result) or {}

    def points(self) -> Counter[str]:
        """Every point that an undisturbed run passes, with how often; that run lies in ``undisturbed``."""
        passed = self.folder / "points"
        code, ended = self.run(self.folder / "undisturbed", f"record:{passed}")
        assert (code, ended["outcome"]) == (0, "done"), ended
        return Counter(passed.read_text().split())


@dataclass
class Struck:
    """What strikes came to, over all trials."""

    trials: int = 0
    not_reached: int = 0
    points: set[str] = field(default_factory=set[str])
    asked_again: int = 0
    most_asked_again: int = 0
    said: Counter[str] = field(default_factory=Counter[str])

    def line(self, what: str) -> str:
        """The figures of the promise."""
        told = "; ".join(f"{count} times {words}" for words, count in self.said.most_common())
        return (
            f"{self.trials} {what} at {len(self.points)} points ({self.not_reached} not reached again): 0 answers lost, 0 "
            f"files unreadable, all files as in an undisturbed run, {self.asked_again} questions asked twice, at most "
            f"{self.most_asked_again} after one (limit {CONCURRENCY}){f'; {told}' if told else ''}"
        )


def strike(forks: Forks, plan: str, struck: Struck) -> None:
    """Carry the run out with a plan, look at what that left, go on without it, and hold the end against an undisturbed run."""
    home = forks.folder / "struck"
    shutil.rmtree(home, ignore_errors=True)
    asked_before = len(forks.teacher.asked)
    code, ended = forks.run(home, plan)
    kills = plan.endswith("kill")
    assert code in ((-9, 0) if kills else (0,)), f"{plan}: {code}\n{(forks.folder / 'log.txt').read_text()[-3000:]}"
    struck.not_reached += kills and code == 0
    paths = RunPaths(home / "runs" / "paid")
    before = everything_reads(paths, plan)
    if not kills:
        struck.said[_told(ended, plan)] += 1

    code, ended = forks.run(home)
    assert (code, ended["outcome"]) == (0, "done"), f"{plan}: the run did not go on: {code} {ended} {_failures(paths)}"
    undisturbed = forks.folder / "undisturbed" / "runs" / "paid"
    for product in PRODUCTS:
        ours, theirs = (folder / product for folder in (paths.root, undisturbed))
        assert ours.read_bytes() == theirs.read_bytes(), f"{plan}: {product} differs"
    after = everything_reads(paths, plan).records
    assert after[: len(before.records)] == before.records, f"{plan}: an answer was lost"
    answered = {record["call_id"] for record in before.records if record["kind"] == "answer"}
    again = [record["call_id"] for record in after[len(before.records) :] if record["kind"] == "intent"]
    assert not answered & set(again), f"{plan}: an answer that was kept was asked for again"
    assert len(in_doubt(after)) <= CONCURRENCY, f"{plan}: more calls in doubt than were in flight"
    asked = [json.dumps(each.body, sort_keys=True) for each in forks.teacher.asked[asked_before:]]
    asked_again = len(asked) - len(set(asked))
    assert asked_again <= CONCURRENCY, f"{plan}: {asked_again} questions were paid twice"
    struck.trials += 1
    struck.points.add(plan.split(":", maxsplit=1)[0])
    struck.asked_again += asked_again
    struck.most_asked_again = max(struck.most_asked_again, asked_again)


def everything_reads(paths: RunPaths, plan: str) -> JournalReading:
    """Every file of the run is whole under its own name; only the lines that are appended may be torn, at their end."""
    if not paths.root.exists():
        return JournalReading()
    for path in paths.root.rglob("*"):
        if path.name.startswith(".") or not path.is_file():
            continue
        if path.suffix == ".json":
            assert isinstance(read_json(path), dict), f"{plan}: {path.name}"
        elif path.suffix == ".jsonl" and path != paths.calls:
            appended = path.is_relative_to(paths.jobs) or path.is_relative_to(paths.answered)
            rows = list(read_lines(path, appended=appended))
            assert rows or path == paths.rejected or path.stat().st_size == 0, f"{plan}: {path.name}"
    reading = read_journal(paths.calls)
    assert reading.damaged_lines == 0, plan
    return reading


def _failures(paths: RunPaths) -> list[dict[str, Any]]:
    """What the journal says of calls that failed."""
    return [record for record in read_journal(paths.calls).records if record["kind"] == "error"]


def _told(ended: dict[str, Any], plan: str) -> str:
    """What the user reads of it: our words, and the way on."""
    match ended["outcome"]:
        case "failed":
            assert ended["next_step"], (plan, ended)
            return ended["what"]
        case "died":
            return f"(no exit record: {ended['what']} {ended['errno']})"
        case outcome:
            return f"({outcome})"

"""Ten thousand runs, and a run of a hundred thousand examples: what looking at them takes, in a process of its own."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nanodistill_mcp.runs.files import write_json
from nanodistill_mcp.runs.journal import encode
from nanodistill_mcp.runs.store import Run
from tests.runs.made import make_run

pytestmark = [pytest.mark.crash, pytest.mark.slow, pytest.mark.timeout(1800)]

RUNS = int(os.environ.get("CRASH_RUNS", "10000"))
ROWS = int(os.environ.get("CRASH_ROWS", "100000"))
_PROJECT = Path(__file__).parents[2]


def _measured(home: Path, run: Run, *looks: str) -> dict[str, list[float]]:
    """Seconds and peak megabytes of each look, each in the same process, one after the other."""
    ended = subprocess.run(
        [sys.executable, "-m", "tests.crash.size_program", str(home), run.run_id, *looks],
        cwd=_PROJECT, capture_output=True, text=True, check=True, timeout=900,
    )  # fmt: skip
    return json.loads(ended.stdout)


def _told(measured: dict[str, list[float]]) -> str:
    return ", ".join(f"{name} {seconds:.3f} s ({megabytes:.0f} MB)" for name, (seconds, megabytes) in measured.items())


def test_a_page_of_ten_thousand_runs_is_there_at_once(
    home: Path, record_property: Callable[[str, object], None]
) -> None:
    """Only what is shown is read; of the others, their names and times."""
    run = make_run(home, "run-0")
    manifest: dict[str, Any] = json.loads(run.paths.manifest.read_bytes())
    write_json(run.paths.tags, {"tags": ["rare"]})
    for number in range(1, RUNS):
        folder = home / "runs" / f"run-{number}"
        shutil.copytree(run.paths.root, folder)
        (folder / "tags.json").unlink()
        (folder / "run.json").write_text(json.dumps({**manifest, "run_id": folder.name}))
    measured = _measured(home, run, "first page", "last page", "a tag", "status")
    record_property("measured", f"{RUNS} runs: {_told(measured)}")
    assert max(seconds for name, (seconds, _) in measured.items() if name != "a tag") <= 5
    assert measured["status"][1] <= 200


def test_a_run_of_a_hundred_thousand_examples_is_looked_at_and_taken_up_again(
    home: Path, record_property: Callable[[str, object], None]
) -> None:
    """A tail is read from the end, a page without keeping the rest; a resume reads the journal once."""
    run = make_run(home)
    text = "a sentence of about fifty characters, more or less. " * 10
    with run.paths.traces_amplified.open("wb") as rows:
        for number in range(ROWS):
            row = {"id": f"g{number:06d}", "input": text, "thinking": text, "output": "x", "confidence": 1.0}
            further = {"origin": "synthetic", "parents": [], "call_ids": [f"c{number}"]}
            rows.write(json.dumps({**row, **further}).encode() + b"\n")
    with run.paths.calls.open("wb") as calls:
        for number in range(ROWS):
            key = {"call_id": f"c{number}", "attempt": 1, "at": "2026-11-21T00:00:00+00:00"}
            intent = {"stage": "amplify", "model": "m", "max_usd": 1.0, "max_tokens": 100}
            calls.write(encode({"kind": "intent", **key, **intent}))
            used = {"input_tokens": 10, "output_tokens": 5, "cost_usd": 0.01}
            calls.write(encode({"kind": "answer", **key, "text": text, "finish_reason": "stop", **used}))
    tail = _measured(home, run, "tail", "a page in the middle")
    resumed = _measured(home, run, "resume")
    status = _measured(home, run, "status", "status again")
    record_property("measured", f"{ROWS} examples and calls: {_told(tail)}; {_told(resumed)}; {_told(status)}")
    assert tail["tail"][0] <= 1
    assert status["status"][1] <= 200
    assert status["status again"][0] <= 0.5
    assert tail["a page in the middle"][1] <= 200
    assert resumed["resume"][0] <= 60

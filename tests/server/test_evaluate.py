"""The proof: never asked twice, on the user's own rows, and honest about what was seen."""

import json
import os
import signal
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import pytest

from nanodistill_mcp.demo import task
from nanodistill_mcp.runs.files import count_lines
from tests.conftest import KEY, WAIT_S, Agent, Bench, Demo

KILLED_AT = (1, 100, 240)
"""Answers there are when the worker or the student dies: at the base's, and at the student's."""


@pytest.mark.crash
@pytest.mark.slow
async def test_an_evaluation_killed_at_any_moment_goes_on_and_asks_nothing_twice(bench: Bench, demo: Demo) -> None:
    """On a large student a row takes seconds, and a lid is closed at any of them."""
    run_id = bench.adopt(demo)
    folder = bench.run_folder(run_id)
    before = _evaluation(folder)
    async with bench.connect() as agent:
        await agent.call("evaluate", run_id=run_id, restart=True, wait_s=0)
        for number, rows in enumerate(KILLED_AT):
            await _kill(folder, rows, worker=number % 2 == 0)
            await _until_idle(agent, run_id)
            await agent.call("evaluate", run_id=run_id, wait_s=0)
        reply = await agent.finish(run_id, "evaluate")
        assert reply["state"] == "done", reply["message"]
    (answered,) = (folder / "answered").glob("[0-9a-f]*.jsonl")  # the GGUF file's answers lie beside them
    asked = Counter((row["variant"], row["id"]) for row in _rows(answered))
    assert set(asked.values()) == {1}
    assert len(asked) == 2 * (60 + 30 + 50)
    after = _evaluation(folder)
    assert _without_times(after) == _without_times(before)


@pytest.mark.slow
async def test_rows_brought_later_are_proved_on_and_what_was_trained_on_is_left_out(bench: Bench, demo: Demo) -> None:
    """A user who is told 'too few' brings more rows to the same student; copies of its training rows prove nothing."""
    run_id = bench.adopt(demo)
    folder = bench.run_folder(run_id)
    trained = [row["input"] for row in bench.rows(run_id, "traces_amplified.jsonl") if row["origin"] == "synthetic"]
    held_out = [row for row in bench.rows(run_id, "seeds.jsonl") if row["split"] == "held_out"]
    tested = {row["id"] for row in bench.rows(run_id, "dataset/test.jsonl")}
    kept_apart = [row["input"] for row in bench.rows(run_id, "traces_amplified.jsonl") if row["id"] in tested]
    trained = [text for text in trained if text not in kept_apart]
    fresh = [(f"Message {n}: my {thing} is broken", "returns") for n, thing in enumerate(("vase", "sofa", "clock"))]
    rows = [*fresh, (trained[0], "billing"), (trained[1] + "!", "billing"), (held_out[0]["input"], "other")]
    path = bench.home.parent / "mine.jsonl"
    path.write_text("".join(json.dumps({"input": i, "output": o}) + "\n" for i, o in rows), encoding="utf-8")
    (answered,) = (folder / "answered").glob("[0-9a-f]*.jsonl")  # the GGUF file's answers lie beside them
    had = count_lines(answered)
    _allow_key(folder)

    async with bench.connect() as agent:
        reply = await agent.call("evaluate", run_id=run_id, test_path=str(path), teacher_rows=2, wait_s=0)
        assert reply["state"] == "running"
        told = await agent.refused("evaluate", run_id=run_id, test_path=str(path))
        assert "still running" in told
        reply = await agent.finish(run_id, "evaluate", teacher_rows=2)
        assert reply["state"] == "done", reply["message"]
        again = await agent.call("evaluate", run_id=run_id, test_path=str(path), teacher_rows=2, wait_s=0)
        assert again["state"] == "done"

    evaluation = _evaluation(folder)
    assert evaluation["held_out"]["student"]["rows"] == 63
    assert evaluation["held_out"]["teacher"]["rows"] == 62
    assert evaluation["seen_rows_left_out"] == 2
    assert count_lines(answered) - had == 2 * len(fresh)
    assert len(bench.teacher.asked) == 2


async def test_a_test_file_is_checked_before_anything_runs(bench: Bench, demo: Demo) -> None:
    """A row without its answer proves nothing, and a file outside the allowed folders is not read."""
    run_id = bench.adopt(demo)
    path = bench.home.parent / "mine.jsonl"
    path.write_text("".join(json.dumps({"input": f"text {n}"}) + "\n" for n in range(4)), encoding="utf-8")
    async with bench.connect() as agent:
        assert "Example 1 has an empty output" in await agent.refused("evaluate", run_id=run_id, test_path=str(path))
        assert "outside" in await agent.refused("evaluate", run_id=run_id, test_path="/etc/hostname")
    assert not (bench.run_folder(run_id) / "test_rows.jsonl").exists()


def test_the_demo_is_proved_on_both_sets_and_asked_what_it_forgot(demo: Demo) -> None:
    """The whole of an evaluation, as a reader of the file finds it."""
    found = _evaluation(demo.run_folder)
    assert list(found)[:3] == ["checker", "held_out", "synthetic"]
    assert found["general"]["rows"] == 50
    assert "cannot be told" in found["general"]["verdict"]
    for model in ("base", "student"):
        assert found["held_out"][model]["seconds_per_answer"] > 0
    rows = _rows(demo.run_folder / "answers.jsonl")
    assert all(set(row["teacher"]) == {"thinking", "answer", "correct"} for row in rows if row["set"] == "held_out")
    assert all(row["cell"]["topic"] for row in rows if row["set"] == "synthetic")
    assert {row["expected"] for row in rows} <= {row["output"] for row in task.seeds()}


@pytest.mark.slow
async def test_a_failed_second_look_leaves_the_first_and_says_so(bench: Bench, demo: Demo) -> None:
    """Else an agent that asked for more reads the old numbers as the new ones."""
    run_id = bench.adopt(demo)
    path = bench.home.parent / "mine.jsonl"
    rows = [{"input": f"The {thing} is broken", "output": "returns"} for thing in ("vase", "sofa", "clock")]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    async with bench.connect() as agent:
        await agent.call("evaluate", run_id=run_id, test_path=str(path), teacher_rows=2, wait_s=0)
        await _until_idle(agent, run_id)  # this run was made without the key
        status = await agent.call("get_status", run_id=run_id)
    line = next(line for line in status["stages"] if line["stage"] == "evaluate")
    assert line["state"] == "done"
    assert "the newest attempt failed. The key for the teacher is not set" in line["message"]


def _allow_key(folder: Path) -> None:
    """Let the run's worker have the test teacher's key, which the demo's teacher needs none of."""
    path = folder / "run.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**manifest, "key_variables": [KEY]}), encoding="utf-8")


async def _kill(folder: Path, rows: int, *, worker: bool) -> None:
    """Kill the newest job's worker, else its student, once so many rows are there. An earlier end is no failure here."""
    with anyio.fail_after(WAIT_S):
        while True:
            files = list((folder / "answered").glob("[0-9a-f]*.jsonl"))
            job = max((folder / "jobs").iterdir())
            if (job / "exit.json").exists():
                return
            if files and count_lines(files[0]) >= rows and (job / "worker.json").exists():
                record = json.loads((job / "worker.json").read_text(encoding="utf-8"))
                victim = record["worker"] if worker else record["trainer"]
                if victim is not None:
                    with suppress(ProcessLookupError):
                        os.kill(victim["pid"], signal.SIGKILL)
                    return
            await anyio.sleep(0.01)


async def _until_idle(agent: Agent, run_id: str) -> None:
    with anyio.fail_after(WAIT_S):
        while (await agent.call("get_status", run_id=run_id))["running"]:
            await anyio.sleep(0.05)


def _evaluation(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _without_times(found: Any) -> Any:
    if isinstance(found, dict):
        return {
            key: _without_times(value)
            for key, value in found.items()  # pyright: ignore[reportUnknownVariableType]
            if key not in ("seconds_per_answer", "tokens_per_second")
        }
    return [_without_times(each) for each in found] if isinstance(found, list) else found  # pyright: ignore[reportUnknownVariableType]

"""A model of this machine as the teacher: asked and journalled as any other, at no price, and gone with the job."""

from pathlib import Path
from typing import Any

import anyio
import psutil
import pytest

from nanodistill_mcp.demo import task
from nanodistill_mcp.demo.student import student_path
from nanodistill_mcp.errors import UserInputError
from nanodistill_mcp.jobs import memory
from nanodistill_mcp.jobs.supervise import Job
from nanodistill_mcp.pipeline.local_teacher import within_reach
from nanodistill_mcp.pipeline.plan import check_endpoint
from nanodistill_mcp.runs.journal import read_journal
from nanodistill_mcp.runs.records import WorkerRecord
from nanodistill_mcp.runs.store import read_record
from nanodistill_mcp.settings import TeacherEndpoint, load_settings
from nanodistill_mcp.teacher.preflight import mlx_facts
from tests.conftest import Bench, Demo, ScriptedTeacher
from tests.pipeline.paid_run import PaidRun
from tests.serving.conftest import gone

ROWS = [(row["input"], row["output"]) for row in task.seeds()[:2]]


def _endpoint(model: Path) -> dict[str, Any]:
    return {"name": f"mlx/{model}", "model": f"mlx/{model}", "usd_per_mtok": [0, 0]}


@pytest.mark.slow
async def test_a_model_of_this_machine_answers_the_teachers_questions(
    home: Path, script: ScriptedTeacher, demo: Demo
) -> None:
    """A tiny student is a bad teacher: what matters is that its answers come, are judged, and nobody else is asked."""
    run = PaidRun(home, script, rows=ROWS, spec={"options": {"temperature": 0.0}})
    ended = await run.stage("synthesize_cot", endpoint=_endpoint(demo.run_folder / "model"))
    records = read_journal(run.run.paths.calls).records
    answers = [record for record in records if record["kind"] == "answer"]
    verdicts = [record for record in records if record["kind"] == "verdict"]
    assert len(answers) == len(verdicts) >= len(ROWS)
    assert all(record["output_tokens"] > 0 for record in answers)
    assert {record["form"] for record in records if record["kind"] == "intent"} <= {"md_json", "text"}
    found = ended.summary.get("ceiling", {}).get("decision") or ended.what
    assert found in (
        "stop",
        "The teacher solved none of the examples: every answer was refused, cut off or unreadable.",
    )
    assert script.asked == []
    assert not _models_kept()
    assert str(demo.run_folder) not in run.run.paths.calls.read_text("utf-8")


def test_a_local_teacher_is_held_to_the_rules_for_students_and_fetches_nothing(tmp_path: Path) -> None:
    """An agent may name it: what this server may not read is no teacher either, under a configured name neither."""
    big = {"model": "mlx/org/big", "usd_per_mtok": [3, 15]}
    settings = load_settings(tmp_path, {"teachers": {"big": big}, "allowed_students": ["org"]}, env={})
    assert check_endpoint(settings, "mlx/org/name").usd_per_mtok == (0.0, 0.0)
    found = check_endpoint(settings, "big")
    assert (found.name, found.mlx_model, found.usd_per_mtok) == ("big", "org/big", (0.0, 0.0))
    for refused in ("mlx/other/name", f"mlx/{tmp_path}", "mlx/~/models", "mlx/../x"):
        with pytest.raises(UserInputError, match="teacher"):
            check_endpoint(settings, refused)
    with pytest.raises(UserInputError, match=r"not on this machine: 2\.0 GB of it are missing"):
        mlx_facts(found, bytes_on_disk=10, bytes_missing=2_000_000_000)


async def test_a_stage_that_asks_nothing_loads_no_teacher_and_calls_it_by_its_name_alone(
    home: Path, script: ScriptedTeacher, random_student: Path
) -> None:
    """Loading takes minutes and gigabytes; and a journal that goes along with a run says nothing of this machine's folders."""
    found: list[TeacherEndpoint] = []

    async def look(job: Job) -> dict[str, Any]:
        async with within_reach(job, TeacherEndpoint.model_validate(_endpoint(random_student))) as endpoint:
            found.append(endpoint)
            assert not _models_kept()
        return {}

    ended = await PaidRun(home, script, rows=ROWS).carry_out("synthesize_cot", look)
    assert ended.outcome == "done"
    assert found[0].model == f"openai/mlx/{random_student.name}"


def _models_kept() -> list[psutil.Process]:
    every = psutil.Process().children(recursive=True)
    return [process for process in every if "student.keep" in " ".join(process.cmdline())]


@pytest.mark.slow
async def test_a_teacher_that_the_machine_cannot_hold_is_not_loaded(
    home: Path, script: ScriptedTeacher, random_student: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Swapped memory makes a machine useless for hours; the words say how much is needed and what to do."""
    run = PaidRun(home, script, rows=ROWS)
    monkeypatch.setattr(memory, "spare_gb", lambda: 0.5001)
    ended = await run.stage("synthesize_cot", endpoint=_endpoint(random_student))
    assert ended.outcome == "failed"
    assert ended.what.startswith("This model needs 0.0")
    assert ended.what.endswith("and 0.0001 GB can be spared.")
    assert "smaller" in ended.next_step


@pytest.mark.slow
@pytest.mark.crash
async def test_a_run_with_a_local_teacher_costs_nothing_and_its_model_dies_with_the_worker(
    bench: Bench, demo: Demo
) -> None:
    """From create_run on: no key, no price, no address; a worker that is killed leaves no model in memory."""
    model = demo.run_folder / "model"
    bench.configure(allowed_paths=[str(bench.home.parent), str(student_path()), str(demo.run_folder)])
    async with bench.connect() as agent:
        told = await agent.refused("create_run", name="x", instruction="i", seed=task.seeds(), teacher="mlx//etc")
        assert told.startswith("That teacher's folder is outside")
        made = await agent.create(teacher=f"mlx/{model}")
        assert "this machine" in made["teacher"]
        assert made["plan"]["cost_usd"]["high"] == 0
        assert any("answers on this machine" in warning for warning in made["plan"]["warnings"])
        await agent.call("synthesize_cot", run_id="tickets", wait_s=0)
        await agent.until("tickets", "synthesize_cot", lambda line: line["state"] == "running")
        jobs = bench.run_folder("tickets") / "jobs"
        worker = read_record(jobs / "001-synthesize_cot" / "worker.json", WorkerRecord)
        assert worker is not None
        process = psutil.Process(worker.worker.pid)
        with anyio.fail_after(90):
            while not (kept := [each for each in process.children() if "student.keep" in " ".join(each.cmdline())]):
                await anyio.sleep(0.02)
        process.kill()
        assert gone(kept[0].pid)
        reply = await agent.finish("tickets", "synthesize_cot")
        assert reply["state"] == "done"
        assert reply["spend"]["cost_usd"] == 0
    assert bench.teacher.asked == []
    assert bench.rows("tickets", "calls.jsonl")

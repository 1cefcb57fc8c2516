"""The examples are run and read as a user would."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from nanodistill_mcp.demo import task
from nanodistill_mcp.demo.student import student_path
from nanodistill_mcp.pipeline.inference import infer_checker
from nanodistill_mcp.pipeline.seeds import check_table, seed_table, split
from nanodistill_mcp.runs.files import write_lines
from tests.conftest import SHORT, STAGES, Bench

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
TRIAGE = EXAMPLES / "support_triage"


@pytest.mark.slow
def test_a_script_that_only_follows_next_step_gets_from_examples_to_a_gguf_file(bench: Bench, tmp_path: Path) -> None:
    """What an agent is told at each step is enough; nothing in the script knows the order of the stages."""
    seeds, instruction = tmp_path / "seeds.jsonl", tmp_path / "instruction.md"
    write_lines(seeds, task.seeds())
    instruction.write_text(task.INSTRUCTION, encoding="utf-8")
    command = [sys.executable, str(TRIAGE / "drive.py"), "--name", "tickets", "--teacher", "local"]
    command += ["--seeds", str(seeds), "--instruction", str(instruction), "--student", str(student_path())]
    command += ["--augment-factor", "4", "--options", json.dumps(SHORT)]
    first = _run(command, bench)
    assert first.returncode == 0, first.stderr
    called = [line.split("(")[0].removeprefix("-> ") for line in first.stdout.splitlines() if line.startswith("-> ")]
    assert [name for name in called if name != "get_status"] == ["create_run", *STAGES]
    assert "Done for $" in first.stdout
    assert (bench.run_folder("tickets") / "model.gguf").is_file()
    asked = len(bench.teacher.asked)
    again = _run(command, bench)
    assert again.returncode == 0, again.stderr
    assert len(bench.teacher.asked) == asked


def test_a_failure_ends_the_script_with_what_to_do(bench: Bench) -> None:
    """A script that went on after a refusal would loop; one that hid it would help nobody."""
    command = [sys.executable, str(TRIAGE / "drive.py"), "--teacher", "openai/some-model"]
    refused = _run(command, bench)
    assert refused.returncode == 1
    assert "OPENAI_API_KEY" in refused.stderr
    assert "Nothing was spent" in refused.stderr


def test_the_tickets_are_accepted_and_every_queue_stays_among_those_learnt() -> None:
    """Held-out tickets are chosen by their text: a queue whose tickets were all held out could not be learnt."""
    lines = (TRIAGE / "seeds.jsonl").read_text(encoding="utf-8").splitlines()
    seeds = split(check_table(seed_table([json.loads(line) for line in lines], "", [])), None, 0)
    learnt = [seed.output for seed in seeds if seed.split == "train"]
    assert len(seeds) == 10
    assert infer_checker(learnt) == ("choice", sorted({seed.output for seed in seeds}))


def _run(command: list[str], bench: Bench) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=EXAMPLES.parent, env=bench.env, check=False, capture_output=True, text=True, timeout=200
    )

"""What goes in, through the real server: raw inputs, labels by the teacher, forms of the target, prompts of one's own."""

import hashlib
import subprocess
import sys
from pathlib import Path

from nanodistill_mcp.demo import task
from nanodistill_mcp.demo.student import student_path
from tests.conftest import Bench


async def test_tags_of_its_own_are_refused_for_a_student_that_has_none(bench: Bench) -> None:
    """Said before anything is paid: it would have to learn two new words with every row."""
    async with bench.connect() as agent:
        told = await agent.refused(
            "create_run",
            name="r",
            instruction="Sort.",
            seed=[{"input": f"message {number}", "output": "a"} for number in range(6)],
            teacher="local",
            student=str(student_path()),
            options={"thinking_format": "native"},
        )
        assert told == (
            "thinking_format='native' needs a student with thinking tags of its own, and this one has none. "
            "Leave thinking_format out, or give one of: xml, markdown, json, plain."
        )
        assert (await agent.call("get_status"))["runs"] == []


async def test_what_the_examples_hang_on_is_not_changed_when_training(bench: Bench) -> None:
    """Taken without effect it would be believed."""
    async with bench.connect() as agent:
        await agent.create()
        told = await agent.refused("train", run_id="tickets", options={"thinking_format": "plain", "lora_rank": 4})
    assert told.startswith("thinking_format: settled when the run was created")


COT = "Solve `input` of `task` under `policy`, as in `examples`, in French. Give `solution`, then `answer`."


async def test_a_prompt_of_one_s_own_asks_in_new_runs_and_a_run_keeps_the_one_it_was_made_with(
    bench: Bench, tmp_path: Path
) -> None:
    """The file may change at any time; the examples of one run must all come from one wording."""
    prompt = tmp_path / "solve.md"
    prompt.write_text(COT, encoding="utf-8")
    bench.configure(prompts={"cot": str(prompt)})
    async with bench.connect() as agent:
        await agent.create()
        prompt.write_text(COT + " Hurry.", encoding="utf-8")
        assert (await agent.finish("tickets", "synthesize_cot"))["state"] == "done"
        page = await agent.call("read_artifact", run_id="tickets", artifact="prompts/solve.md")
    assert page["text"] == COT
    assert {request.system for request in bench.teacher.asked} == {COT}
    intents = [row for row in bench.rows("tickets", "calls.jsonl") if row["kind"] == "intent"]
    assert {row["prompt_sha"] for row in intents} == {hashlib.sha256(COT.encode()).hexdigest()[:12]}


async def test_a_prompt_that_became_unusable_since_the_start_makes_no_run(bench: Bench, tmp_path: Path) -> None:
    """A wrong prompt must not be met when it was paid for a hundred times."""
    prompt = tmp_path / "solve.md"
    prompt.write_text(COT, encoding="utf-8")
    bench.configure(prompts={"cot": str(prompt)})
    async with bench.connect() as agent:
        prompt.write_text("Just do it.", encoding="utf-8")
        told = await agent.refused("create_run", name="r", instruction="Sort.", seed=task.seeds(), teacher="local")
    assert told.startswith(
        "The prompt 'cot' is not accepted: it does not name `task`, `policy`, `input`, `solution`, `answer`."
    )
    assert not (bench.home / "runs" / "r").exists()


def test_a_server_does_not_start_with_a_prompt_that_is_not_accepted(bench: Bench, tmp_path: Path) -> None:
    """As with any other value of the configuration; the message says which."""
    prompt = tmp_path / "solve.md"
    prompt.write_text(COT + " Say how sure you are in `confidence`.", encoding="utf-8")
    bench.configure(prompts={"cot": str(prompt)})
    command = [sys.executable, "-m", "nanodistill_mcp", "serve"]
    ended = subprocess.run(
        command, env=bench.env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 2
    assert "it names `confidence`, which it neither gets nor gives" in ended.stderr
    bench.configure(prompts={"essay": str(prompt)})
    ended = subprocess.run(
        command, env=bench.env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 2
    assert "prompts.essay" in ended.stderr

"""What goes in, through the real server: raw inputs, labels by the teacher, forms of the target, prompts of one's own."""

import hashlib
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from nanodistill_mcp.demo import task
from nanodistill_mcp.demo.student import student_path
from nanodistill_mcp.demo.wire import Says, WireReply, WireRequest
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


@pytest.mark.slow
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
        "The prompt 'cot' is not accepted: it does not name `task`, `policy`, `examples`, `input`, `solution`, `answer`."
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


RAW = [{"input": row["input"]} for row in task.seeds()]


async def test_raw_inputs_become_a_dataset_of_the_teachers_answers(bench: Bench) -> None:
    """Most people have messages and no answers; a person's rows beside them, in test_path, are the proof."""
    async with bench.connect() as agent:
        reply = await agent.create(seed=RAW)
        assert (reply["plan"]["held_out"], reply["plan"]["train_seeds"]) == (0, 10)
        assert any("only be held against the teacher's own answers" in told for told in reply["plan"]["warnings"])
        reply = await agent.finish("tickets", "synthesize_cot")
        assert (reply["result"]["labelled"], reply["result"]["set_aside"]) == (10, 0)
        assert reply["result"]["ceiling"]["decision"] == "look"
        await agent.finish("tickets", "extract_policy")
        assert (await agent.finish("tickets", "amplify"))["state"] == "done"
    truth = {row["input"]: row["output"] for row in task.seeds()}
    for trace in bench.rows("tickets", "traces_cot.jsonl"):
        assert (trace["output"], trace["labelled_by"]) == (task.solve(trace["input"])[1], "teacher")
        assert (trace["agrees"], trace["confidence"], len(trace["call_ids"])) == (True, 1.0, 2)
    accepted = bench.rows("tickets", "traces_amplified.jsonl")
    assert {row["input"]: row["output"] for row in accepted if row["origin"] == "seed"} == truth
    assert {row["checks"]["labelled_by"] for row in accepted if row["origin"] == "seed"} == {"teacher"}


@pytest.mark.slow
async def test_an_input_that_the_teacher_answers_in_two_ways_is_set_aside_and_shown(bench: Bench) -> None:
    """An answer the teacher does not stand by must not be taught."""
    wavering, seen = RAW[0]["input"], Counter[str]()

    def waver(request: WireRequest) -> WireReply | None:
        if request.schema_name != "WorkedSolution" or wavering not in request.user:
            return None
        seen["asked"] += 1
        return Says({"solution": "Hm.", "answer": ["billing", "login"][seen["asked"] % 2]})

    bench.teacher.script = waver
    async with bench.connect() as agent:
        await agent.create(seed=[*RAW[:4], *task.seeds()[4:]], options={"held_out_split": 0})
        reply = await agent.finish("tickets", "synthesize_cot")
        assert (reply["result"]["labelled"], reply["result"]["set_aside"]) == (3, 1)
        assert "it answered 3 that had no output; 1 are set aside, answered in two ways" in reply["message"]
        await agent.finish("tickets", "extract_policy")
        await agent.finish("tickets", "amplify")
    (trace,) = [row for row in bench.rows("tickets", "traces_cot.jsonl") if row["input"] == wavering]
    assert (trace["output"], trace["agrees"], trace["confidence"]) == ("", False, 0.5)
    (rejected,) = [row for row in bench.rows("tickets", "rejected.jsonl") if row["input"] == wavering]
    assert rejected["reason"] == "disagreement"
    assert {rejected["output"], rejected["other_output"]} == {"billing", "login"}


@pytest.mark.slow
async def test_the_teachers_answers_keep_the_schema(bench: Bench) -> None:
    """A label in another form would teach another form."""
    async with bench.connect() as agent:
        await agent.create(seed=RAW, response_schema={"enum": ["billing", "delivery", "login", "returns", "technical"]})
        reply = await agent.finish("tickets", "synthesize_cot")
    outputs = {trace["output"] for trace in bench.rows("tickets", "traces_cot.jsonl")}
    assert "account" in {row["output"] for row in task.seeds()}
    assert "account" not in outputs
    assert reply["result"]["set_aside"] == sum(row["output"] == "account" for row in task.seeds())


@pytest.mark.slow
async def test_a_file_of_real_inputs_is_answered_instead_of_writing_any(bench: Bench, tmp_path: Path) -> None:
    """Five hundred tickets need no synthetic text; copies of seeds and of the test are left out as always."""
    texts = [row["input"] for row in task.held_out()[:20]]
    (tmp_path / "in.txt").write_text("\n".join([*texts, texts[0], task.seeds()[0]["input"]]), encoding="utf-8")
    async with bench.connect() as agent:
        reply = await agent.create(options={"inputs_path": str(tmp_path / "in.txt"), "inputs_only": True})
        assert reply["plan"]["target_examples"] == 8 + 21
        (tmp_path / "in.txt").unlink()  # it was read once, and the run keeps what it held
        await agent.finish("tickets", "synthesize_cot")
        await agent.finish("tickets", "extract_policy")
        reply = await agent.finish("tickets", "amplify")
    assert reply["result"]["synthetic"] == 0
    assert "NewInputs" not in {request.schema_name for request in bench.teacher.asked}
    labelled = [row for row in bench.rows("tickets", "traces_amplified.jsonl") if row["origin"] == "labelled"]
    copies = {row["input"]: row["reason"] for row in bench.rows("tickets", "rejected.jsonl") if row["id"][0] == "i"}
    assert copies[task.seeds()[0]["input"]] in ("seed_copy", "held_out")
    assert set(copies.values()) <= {"seed_copy", "held_out", "near_duplicate"}
    assert {row["input"] for row in labelled} == set(texts) - set(copies)
    assert len(labelled) == reply["result"]["labelled"] >= 15
    assert all(row["output"] == task.solve(row["input"])[1] for row in labelled)
    assert all(len(row["call_ids"]) >= 2 and row["checks"]["agreeing"] == 2 for row in labelled)


@pytest.mark.slow
async def test_real_inputs_come_before_written_ones_and_count_towards_the_target(bench: Bench, tmp_path: Path) -> None:
    """What really came in is better than what a teacher makes up, and is used first."""
    texts = [row["input"] for row in task.held_out()[:10]]
    (tmp_path / "in.json").write_text(
        json.dumps([{"input": text, "output": "old"} for text in texts]), encoding="utf-8"
    )
    async with bench.connect() as agent:
        await agent.create(options={"inputs_path": str(tmp_path / "in.json")})
        await agent.finish("tickets", "synthesize_cot")
        await agent.finish("tickets", "extract_policy")
        reply = await agent.finish("tickets", "amplify")
    assert reply["result"]["accepted"] == reply["result"]["target"] == 32
    origins = [row["origin"] for row in bench.rows("tickets", "traces_amplified.jsonl")]
    assert origins == sorted(origins, key=("seed", "labelled", "synthetic").index)
    assert origins.count("labelled") >= 8


async def test_relabelling_replaces_the_outputs_the_teacher_twice_sees_otherwise(bench: Bench) -> None:
    """Old labels are often wrong; what was given stays beside, and a held-out answer is never touched."""
    outputs = [row["output"] for row in task.seeds()]
    given = {row["input"]: output for row, output in zip(task.seeds(), outputs[3:] + outputs[:3], strict=True)}
    async with bench.connect() as agent:
        await agent.create(
            seed=[{"input": text, "output": output} for text, output in given.items()], options={"relabel": True}
        )
        reply = await agent.finish("tickets", "synthesize_cot")
    traces = bench.rows("tickets", "traces_cot.jsonl")
    changed = [trace for trace in traces if trace["given_output"]]
    assert reply["result"]["relabelled"] == len(changed) > 0
    assert all(trace["given_output"] == given[trace["input"]] != trace["output"] for trace in changed)
    for trace in traces:
        right = task.solve(trace["input"])[1]
        assert trace["output"] == (given[trace["input"]] if trace["split"] == "held_out" else right)

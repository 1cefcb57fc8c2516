"""What the teacher's stages accept, set aside and report, with a teacher that errs, lies and repeats itself."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from nanodistill_mcp.demo import task
from nanodistill_mcp.demo import teacher as demo_teacher
from nanodistill_mcp.demo.wire import Refuses, Says, WireReply, WireRequest
from tests.conftest import ScriptedTeacher
from tests.pipeline.paid_run import PaidRun

_BLOCK = re.compile(r"<([a-z-]+)-[0-9a-f]{6}>\n(.*?)\n</", re.DOTALL)


def blocks(request: WireRequest) -> dict[str, str]:
    """What stands in a question's blocks."""
    return dict(_BLOCK.findall(request.user))


@pytest.fixture
def paid(home: Path, script: ScriptedTeacher) -> PaidRun:
    """A run of the demo's task."""
    return PaidRun(home, script)


async def test_a_seed_the_teacher_gets_wrong_is_taught_with_a_solution_towards_its_own_answer(
    home: Path, script: ScriptedTeacher
) -> None:
    """The user's answer counts. What the teacher thought, and what it holds against the answer, stays beside it."""
    rows = [(row["input"], row["output"]) for row in task.seeds()]
    wrong = next(output for _, output in rows if output != rows[0][1])
    paid = PaidRun(home, script, rows=[(rows[0][0], wrong), *rows[1:]], held_out_share=0)

    found = await paid.summary("synthesize_cot")
    trace = next(row for row in paid.written(paid.run.paths.traces_cot) if row["input"] == rows[0][0])

    assert (trace["agrees"], trace["derived"], trace["confidence"]) == (False, True, 0.0)
    assert wrong in trace["thinking"]
    assert rows[0][1] in trace["teacher_thinking"]
    assert rows[0][1] in trace["objection"]
    assert (found["ceiling"]["agree"], found["ceiling"]["decision"]) == (9, "proceed")
    (row,) = found["ceiling"]["disagreements"]
    assert (row["given"], row["teacher"]) == (wrong, rows[0][1])
    blind = [request for request in script.asked if request.schema_name == "WorkedSolution"]
    assert all(set(blocks(request)) == {"task", "input"} for request in blind)

    await paid.summary("extract_policy")
    await paid.summary("amplify", target_size=10)
    kept = {example["id"]: example for example in paid.written(paid.run.paths.traces_amplified)}
    assert kept[trace["id"]]["output"] == wrong
    assert kept[trace["id"]]["checks"] == {"derived": True}


async def test_the_teacher_is_asked_with_the_sampling_that_was_chosen(home: Path, script: ScriptedTeacher) -> None:
    """Each question, and nothing is sent that nobody chose; the samples of one question differ in their seed."""
    options = {"temperature": 0.3, "litellm": {"top_p": 0.9, "presence_penalty": 0.5, "seed": 7}}
    paid = PaidRun(home, script, spec={"options": options})
    await paid.summary("synthesize_cot")
    for request in script.asked:
        sent = {name: request.body.get(name) for name in ("temperature", "top_p", "presence_penalty", "top_k", "stop")}
        assert sent == {"temperature": 0.3, "top_p": 0.9, "presence_penalty": 0.5, "top_k": None, "stop": None}
        assert request.body["seed"] >= 7


async def test_a_teacher_that_cannot_do_the_task_as_described_says_stop(home: Path, script: ScriptedTeacher) -> None:
    """Before money is spent on hundreds of examples that would all be wrong."""
    rows = [(row["input"], row["output"]) for row in task.seeds()]
    shifted = [output for _, output in (*rows[1:], rows[0])]
    paid = PaidRun(home, script, rows=[(text, output) for (text, _), output in zip(rows, shifted, strict=True)])

    found = await paid.summary("synthesize_cot")

    assert found["ceiling"]["decision"] == "stop"
    assert "do not pay for more yet" in found["ceiling"]["why"]
    assert len(found["ceiling"]["disagreements"]) == found["ceiling"]["solved"] - found["ceiling"]["agree"] > 5


async def test_a_row_is_kept_only_when_its_independent_solutions_agree(paid: PaidRun) -> None:
    """One solution proves nothing. The second one is made from other examples, and the row goes when it differs."""
    doubtful: set[str] = set()

    def script(request: WireRequest) -> WireReply | None:
        shown = blocks(request)
        if request.schema_name != "WorkedSolution" or "examples" not in shown or len(shown["input"]) % 3:
            return None
        doubtful.add(shown["input"])
        right = task.solve(shown["input"])[1]
        return Says({"solution": "Or not.", "answer": next(queue for queue in task.QUEUES if queue != right)})

    await paid.summary("synthesize_cot")
    await paid.summary("extract_policy")
    paid.teacher.script = script
    found = await paid.summary("amplify", target_size=40)

    accepted = paid.written(paid.run.paths.traces_amplified)
    set_aside = [row for row in paid.written(paid.run.paths.rejected) if row["reason"] == "disagreement"]
    assert found["accepted"] == len(accepted) == 40
    assert len(set_aside) >= 5
    assert {row["input"] for row in set_aside} <= doubtful
    assert not {row["input"] for row in accepted} & doubtful
    assert all(row["output"] != row["other_output"] for row in set_aside)
    for row in accepted:
        if row["origin"] == "synthetic":
            assert row["checks"] == {"checker": "choice", "solutions": 2, "agreeing": 2}
            assert len(row["call_ids"]) == 3
            assert row["cost_usd"] > 0
            assert row["policy_version"] == 1
            assert row["cell"]["answer"] == row["output"]
    steps = found["yield_by_filter"]
    assert [line["in"] for line in steps[1:]] == [line["out"] for line in steps[:-1]]
    assert steps[0]["in"] - steps[-1]["out"] == len(paid.written(paid.run.paths.rejected))
    assert steps[-1]["out"] == found["synthetic"]


async def test_a_teacher_that_repeats_itself_is_stopped_and_told_so(paid: PaidRun) -> None:
    """Copies cost as much as news."""
    await paid.summary("synthesize_cot")
    await paid.summary("extract_policy")
    seed = next(seed.input for seed in paid.run.seeds() if seed.split == "train")

    def script(request: WireRequest) -> WireReply | None:
        if request.schema_name != "NewInputs":
            return None
        return Says({"inputs": [seed, "Where is my parcel now?", "where is my PARCEL now", "Where is my parcel, now"]})

    paid.teacher.script = script
    found = await paid.summary("amplify", target_size=200)

    assert found["stopped_by"] == "novelty"
    assert found["missing"] > 150
    assert {"seed_copy", "duplicate", "near_duplicate"} == found["rejected"].keys()
    assert paid.asked_for("NewInputs") <= 32


async def test_a_direct_run_asks_for_answers_alone_and_teaches_no_reasoning(
    home: Path, script: ScriptedTeacher
) -> None:
    """A student of short answers needs no worked solutions, and nobody should pay for them."""
    paid = PaidRun(home, script, spec={"reasoning": "direct"})

    await paid.summary("synthesize_cot")
    await paid.summary("extract_policy")
    await paid.summary("amplify", target_size=20)

    rows = paid.written(paid.run.paths.traces_amplified)
    assert len(rows) == 20
    assert not any(row["thinking"] for row in rows)
    assert paid.asked_for("DirectAnswer") > 20
    assert paid.asked_for("WorkedSolution") == 0


async def test_free_text_is_compared_by_the_teacher_under_a_rubric(home: Path, script: ScriptedTeacher) -> None:
    """Two good summaries never agree word for word; two that state different facts must not count as one."""
    rows = [(f"Report {n}: the pump failed and was replaced.", f"In report {n} the pump that failed was replaced by a new one.") for n in range(8)]  # fmt: skip
    paid = PaidRun(home, script, rows=rows, spec={"instruction": "Summarize the report."}, held_out_share=0)
    made = {"inputs": [f"Notice {n}: the valve number {n} leaked and was closed." for n in range(8)]}

    def reply(request: WireRequest) -> WireReply | None:
        shown = blocks(request)
        match request.schema_name:
            case "WorkedSolution":
                words = "was shut after it leaked" if "examples" in shown else "leaked, so it was closed"
                wrong = "Notice 3" in shown["input"] and "examples" in shown
                answer = (
                    "Nothing happened to the valve." if wrong else f"{shown['input'][:9]} says that the valve {words}."
                )
                return Says({"solution": "Read it.", "answer": answer})
            case "Comparison":
                same = "Nothing happened" not in shown["first"] + shown["second"]
                return Says({"reason": "The facts.", "same": same})
            case "PolicyDraft":
                draft = demo_teacher.answer(request.system, request.user, "PolicyDraft")
                return Says({**draft, "checker": "judge", "choices": [], "rubric": "The same facts."})
            case "NewInputs":
                return Says(made)
            case _:
                return None

    paid.teacher.script = reply
    first = await paid.summary("synthesize_cot")
    await paid.summary("extract_policy")
    await paid.summary("amplify", target_size=15)

    assert first["checker"] == "judge"
    accepted = {row["input"]: row for row in paid.written(paid.run.paths.traces_amplified)}
    set_aside = [row["input"] for row in paid.written(paid.run.paths.rejected) if row["reason"] == "disagreement"]
    assert made["inputs"][3] in set_aside
    assert made["inputs"][1] in accepted
    assert len(accepted[made["inputs"][1]]["call_ids"]) == 4, "the judge's call is part of a row's lineage"


async def test_answers_keep_the_response_schema_and_lose_their_empty_fields(
    home: Path, script: ScriptedTeacher
) -> None:
    """A student trained on one broken answer in fifty writes one in fifty broken."""
    schema = {
        "type": "object",
        "properties": {"queue": {"enum": list(task.QUEUES)}, "note": {"type": "string"}},
        "required": ["queue"],
        "additionalProperties": False,
    }
    rows = [(row["input"], json.dumps({"queue": row["output"]})) for row in task.seeds()]
    paid = PaidRun(home, script, rows=rows, spec={"response_schema": schema})

    def reply(request: WireRequest) -> WireReply | None:
        shown = blocks(request)
        if request.schema_name == "PolicyDraft":
            draft: dict[str, Any] = demo_teacher.answer(request.system, request.user, "PolicyDraft")
            return Says({**draft, "checker": "json", "choices": []})
        if request.schema_name != "WorkedSolution":
            return None
        assert '"queue"' in shown["task"], "the teacher is told the schema"
        solution, queue = task.solve(shown["input"])
        broken = {"mood": "good"} if len(shown["input"]) % 4 == 0 and "policy" in shown else {}
        return Says({"solution": solution, "answer": json.dumps({"queue": queue, "note": "", **broken})})

    paid.teacher.script = reply
    await paid.summary("synthesize_cot")
    await paid.summary("extract_policy")
    found = await paid.summary("amplify", target_size=25)

    outputs = [json.loads(row["output"]) for row in paid.written(paid.run.paths.traces_amplified)]
    assert len(outputs) == 25
    assert all(output.keys() == {"queue"} for output in outputs)
    assert found["rejected"]["schema"] >= 1


async def test_a_declined_candidate_is_set_aside_with_the_reason_and_the_others_go_on(paid: PaidRun) -> None:
    """One input a teacher will not touch must not end the stage."""
    await paid.summary("synthesize_cot")
    await paid.summary("extract_policy")
    paid.teacher.script = lambda request: (
        Refuses() if request.schema_name == "WorkedSolution" and len(blocks(request)["input"]) % 5 == 0 else None
    )
    found = await paid.summary("amplify", target_size=25)

    assert found["accepted"] == 25
    assert found["rejected"]["refused"] >= 1
    assert all(
        len(row["input"]) % 5 == 0 for row in paid.written(paid.run.paths.rejected) if row["reason"] == "refused"
    )


async def test_test_rows_that_were_brought_since_keep_new_examples_out_too(paid: PaidRun) -> None:
    """A child is proved on them, and what a student learnt proves nothing."""
    await paid.summary("synthesize_cot")
    await paid.summary("extract_policy")
    await paid.summary("amplify", target_size=14)
    made = next(row for row in paid.written(paid.run.paths.traces_amplified) if row["origin"] == "synthetic")
    row = {"id": "e00001", "input": made["input"], "output": made["output"]}
    paid.run.paths.test_rows.write_text(json.dumps(row) + "\n", encoding="utf-8")

    await paid.summary("amplify", target_size=15)

    assert made["input"] not in [row["input"] for row in paid.written(paid.run.paths.traces_amplified)]
    rejected = {row["input"]: row["reason"] for row in paid.written(paid.run.paths.rejected)}
    assert rejected[made["input"]] == "held_out"

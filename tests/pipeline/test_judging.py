"""A judge is asked within the budget, once a question, and asked whether it agrees with itself."""

from pathlib import Path
from typing import Any

from nanodistill_mcp.demo import task
from nanodistill_mcp.demo.wire import Says, WireReply, WireRequest
from nanodistill_mcp.jobs.supervise import Job
from nanodistill_mcp.pipeline.checking import Checking
from nanodistill_mcp.pipeline.judging import judge_agreement, right_ids
from tests.conftest import ScriptedTeacher
from tests.pipeline.paid_run import PaidRun

ROWS = [
    (f"h{n}", f"What is item {n}?", f"It is the {word} one.") for n, word in enumerate(("red", "blue", "old", "new"))
]
GIVEN = {"h0": "It is the red one.", "h1": "The blue one, it is.", "h2": "It is very old.", "h3": ""}
JUDGE = Checking(task.INSTRUCTION, "judge", rubric="Same thing meant.")


async def test_what_is_equal_or_empty_is_not_paid_for_and_the_rest_is_asked_once(
    home: Path, script: ScriptedTeacher
) -> None:
    """A judge is the only checker that costs money in an evaluation; killed in the middle, it is not paid again."""
    paid = PaidRun(home, script)
    script.script = _biased
    found = await _judged(paid)
    again = await _judged(paid)

    assert found["right"] == again["right"] == ["h0", "h1"]
    assert paid.asked_for("Comparison") == 4  # h1 and h2, and both once more with the answers swapped
    assert found["judge_agreement"] == {"asked_again": 2, "same_verdict": 1}


async def _judged(paid: PaidRun) -> dict[str, Any]:
    async def work(job: Job) -> dict[str, Any]:
        right = await right_ids(job, JUDGE, ROWS, GIVEN)
        return {"right": sorted(right), **await judge_agreement(job, JUDGE, ROWS, GIVEN, right)}

    ended = await paid.carry_out("evaluate", work)
    assert ended.outcome == "done", ended.what
    return ended.summary


def _biased(request: WireRequest) -> WireReply:
    """A judge with a bias: what it reads second is right if it speaks of blue, or begins with 'It is the'."""
    second = request.user.partition("<second-")[2]
    same = "blue" in second or "It is the" in second
    return Says({"reason": "So it seems.", "same": same})

"""Which answers are right: by the run's checker, or where only a judge can tell, by asking the teacher."""

import hashlib
from collections.abc import Mapping
from functools import partial
from typing import Any

from nanodistill_mcp.jobs.supervise import Job
from nanodistill_mcp.pipeline.checking import Checking
from nanodistill_mcp.pipeline.teaching import all_done, teacher_of
from nanodistill_mcp.pipeline.test_sets import Rows

_SWAPPED = 20


async def right_ids(job: Job, checking: Checking, rows: Rows, given: Mapping[str, str]) -> set[str]:
    """The rows that were answered rightly. With the checker ``judge`` the teacher compares, within the run's budget."""
    if checking.checker != "judge":
        return {i for i, _, expected in rows if checking.agree(expected, given.get(i, ""))}
    right: set[str] = set()

    async with teacher_of(job) as teacher:

        async def one(row_id: str, text: str, expected: str) -> None:
            same, _ = await checking.same(teacher, text, expected, given.get(row_id, ""))
            if same:
                right.add(row_id)

        await all_done(partial(one, *row) for row in rows)
    return right


async def judge_agreement(
    job: Job, checking: Checking, rows: Rows, given: Mapping[str, str], right: set[str]
) -> dict[str, Any]:
    """How far the judge can be trusted: how often it says the same when it reads the two answers the other way round.

    Source: L. Zheng et al., "Judging LLM-as-a-judge with MT-Bench and Chatbot Arena" (2023), position bias. Up to twenty rows
    that it had to judge are asked once more; empty where it judged none.
    """
    judged = [row for row in rows if given.get(row[0], "").strip() and not checking.agree(row[2], given[row[0]])]
    if checking.checker != "judge" or not judged:
        return {}
    chosen = sorted(judged, key=lambda row: hashlib.sha256(row[1].encode()).digest())[:_SWAPPED]
    kept: set[str] = set()

    async with teacher_of(job) as teacher:

        async def one(row_id: str, text: str, expected: str) -> None:
            same, _ = await checking.same(teacher, text, given[row_id], expected)
            if same == (row_id in right):
                kept.add(row_id)

        await all_done(partial(one, *row) for row in chosen)
    return {"judge_agreement": {"asked_again": len(chosen), "same_verdict": len(kept)}}

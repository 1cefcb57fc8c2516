"""The tools by which the calling agent is the teacher."""

from typing import Annotated, Any

from anyio import to_thread
from pydantic import Field

from nanodistill_mcp.server import host
from nanodistill_mcp.server.arguments import Ctx, RunId, app_of
from nanodistill_mcp.server.replies import SubmitReply, TasksReply


async def next_teacher_tasks(
    run_id: RunId,
    ctx: Ctx,
    n: Annotated[int, Field(description="Tasks wanted at most.", ge=1, le=host.MAX_TASKS)] = 5,
    wait_s: Annotated[int, Field(description="Seconds to wait for a task.", ge=0, le=45)] = 20,
) -> TasksReply:
    """Take the next questions of a run with teacher="host", for you to answer as its teacher; free, no key.

    They are yours for ten minutes, and several agents may work side by side: none gets another's. Needs a stage that asks,
    such as synthesize_cot; next: submit_teacher_answers.
    """
    return await host.hand_out(app_of(ctx).store.open(run_id), n, wait_s)


async def submit_teacher_answers(
    run_id: RunId,
    answers: Annotated[
        list[dict[str, Any]],
        Field(
            description="One item a task: {task_id, answer: {the fields of its answer_schema}}, or {task_id, decline: why}.",
            min_length=1,
            max_length=host.MAX_ANSWERS,
        ),
    ],
    ctx: Ctx,
) -> SubmitReply:
    """Hand in answers to tasks of next_teacher_tasks; each is checked against its schema and kept on disk at once.

    A rejected answer is named with the field to correct, and its task stays open. The first answer to a task stands. Next:
    next_teacher_tasks, until the stage is done.
    """
    return await to_thread.run_sync(host.take_in, app_of(ctx).store.open(run_id), answers)  # each answer is flushed

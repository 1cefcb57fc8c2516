"""Long stages as tasks, for clients that keep them: the extension io.modelcontextprotocol/tasks over the run's jobs.

A task is a job of a run under another name, and nothing is stored for it: its id says which job, and how it is follows from
the run folder. So any server answers for it, also one that started after the task, and it is there as long as its run.
"""

import hashlib
import hmac
from collections.abc import Sequence
from typing import Any, assert_never

from mcp import MCPError
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.extension import Extension, MethodBinding
from mcp.server.mcpserver import require_client_extension
from mcp.types import INTERNAL_ERROR, INVALID_PARAMS, CallToolRequestParams, CallToolResult, RequestParams
from pydantic import ConfigDict, Field

from nanodistill_mcp.errors import NanodistillError
from nanodistill_mcp.jobs.launch import Alive, Finished, Lost, active_job, observe, steer
from nanodistill_mcp.pipeline import status as states
from nanodistill_mcp.runs.paths import JobPaths
from nanodistill_mcp.runs.records import PIPELINE, Control, JobRequest, Stage
from nanodistill_mcp.runs.store import Run, RunStore, read_record
from nanodistill_mcp.server.app import stage_reply
from nanodistill_mcp.server.door import shown
from nanodistill_mcp.server.pictures import with_picture

LONG: frozenset[str] = frozenset((*PIPELINE, "compare_models"))
"""The tools that carry out a stage."""

_VERSIONS = frozenset({"2026-07-28"})
_SOON_S = 3
_POLL_MS = 5000


class TaskParams(RequestParams):
    """Which task; ``inputResponses`` are taken and not used, because no task of ours asks for input."""

    model_config = ConfigDict(defer_build=True)

    task_id: str = Field(alias="taskId", max_length=200)
    input_responses: dict[str, Any] = Field(alias="inputResponses", default={})


class Tasks(Extension):
    """Answers a stage's call with a task when the work outlasts it. Other clients see nothing of it."""

    identifier = "io.modelcontextprotocol/tasks"

    def __init__(self, store: RunStore) -> None:
        self._store = store

    def methods(self) -> Sequence[MethodBinding]:
        """What a client asks of a task."""
        return [
            MethodBinding("tasks/get", TaskParams, self._get, _VERSIONS),
            MethodBinding("tasks/update", TaskParams, self._update, _VERSIONS),
            MethodBinding("tasks/cancel", TaskParams, self._cancel, _VERSIONS),
        ]

    async def intercept_tool_call(
        self, params: CallToolRequestParams, ctx: ServerRequestContext[Any, Any], call_next: CallNext
    ) -> HandlerResult:
        """Wait for a moment instead of ``wait_s``'s default: the client is told of the end anyway."""
        if params.name not in LONG or not self._is_declared(ctx):
            return await call_next(ctx)
        params.arguments = {"wait_s": _SOON_S, **(params.arguments or {})}
        answer = await call_next(ctx)
        job = self._outlasting(answer)
        return answer if job is None else {"resultType": "task", **_working(*job)}

    def _is_declared(self, ctx: ServerRequestContext[Any, Any]) -> bool:
        declared = ctx.session.client_capabilities
        return (
            ctx.protocol_version in _VERSIONS
            and declared is not None
            and declared.extensions is not None
            and self.identifier in declared.extensions
        )

    def _outlasting(self, answer: HandlerResult) -> tuple[Run, JobPaths] | None:
        """The job an answer was given before the end of; None when it ended, or waits for the calling agent."""
        if not isinstance(answer, CallToolResult) or answer.is_error or answer.structured_content is None:
            return None
        told = answer.structured_content
        if told["state"] not in ("queued", "running", "paused") or told["next_step"]["tool"] == "next_teacher_tasks":
            return None
        run = self._store.open(told["run_id"])
        job = active_job(run)
        return (run, job) if job is not None and job.stage == told["stage"] else None

    async def _get(self, ctx: ServerRequestContext[Any, Any], params: TaskParams) -> HandlerResult:
        run, job = self._find(ctx, params)
        try:
            return shown({"resultType": "complete", **_told(run, job)})
        except NanodistillError as error:
            failed = {"status": "failed", "error": {"code": INTERNAL_ERROR, "message": str(error)}}
            return {"resultType": "complete", **_facts(run, job, ""), **failed}

    async def _update(self, ctx: ServerRequestContext[Any, Any], params: TaskParams) -> HandlerResult:
        self._find(ctx, params)
        return {"resultType": "complete"}

    async def _cancel(self, ctx: ServerRequestContext[Any, Any], params: TaskParams) -> HandlerResult:
        """Ask the job to end, as control_job does: within seconds, and what it finished is kept."""
        run, job = self._find(ctx, params)
        if isinstance(observe(run, job), Alive):
            steer(job, Control(want="cancel"))
        return {"resultType": "complete"}

    def _find(self, ctx: ServerRequestContext[Any, Any], params: TaskParams) -> tuple[Run, JobPaths]:
        require_client_extension(ctx, self.identifier)
        run_id, job_name, _ = [*params.task_id.rsplit(".", 2), "", ""][:3]
        try:
            run = self._store.open(run_id)
            job = next(job for job in run.paths.job_list() if job.root.name == job_name)
            if hmac.compare_digest(task_id(run, job).encode(), params.task_id.encode()):
                return run, job
        except (NanodistillError, StopIteration):
            pass  # answered like an id that was never given out
        raise MCPError(
            code=INVALID_PARAMS,
            message="There is no such task: its run was deleted, or the id was never given out. Call get_status().",
        )


def task_id(run: Run, job: JobPaths) -> str:
    """A job as a task. The run's id stands in it, because of a task an agent is shown the id alone."""
    request = read_record(job.request, JobRequest)
    nonce = request.nonce if request else ""
    token = hashlib.sha256(f"task {job.root.name} {nonce}".encode()).hexdigest()[:32]
    return f"{run.run_id}.{job.root.name}.{token}"


def _told(run: Run, job: JobPaths) -> dict[str, Any]:
    match observe(run, job):
        case Alive():
            return _working(run, job)
        case Finished(exit=ended) if ended.outcome == "cancelled":
            kept = "Cancelled; what was finished is kept, and calling the stage again continues it."
            return {**_facts(run, job, ended.ended_at), "status": "cancelled", "statusMessage": kept}
        case Finished() | Lost() as end:
            reply = stage_reply(run, _stage(job))
            result = with_picture(run, reply).model_dump(by_alias=True, mode="json", exclude_none=True)
            at = end.exit.ended_at if isinstance(end, Finished) else ""
            return {**_facts(run, job, at), "status": "completed", "statusMessage": reply.message, "result": result}
        case _ as never:
            assert_never(never)


def _working(run: Run, job: JobPaths) -> dict[str, Any]:
    found = states.stage_status(run, _stage(job))
    facts = _facts(run, job, found.heartbeat_at)
    return {
        **facts,
        "status": "working",
        "statusMessage": f"{found.stage}: {found.message}",
        "pollIntervalMs": _POLL_MS,
    }


def _facts(run: Run, job: JobPaths, updated_at: str) -> dict[str, Any]:
    request = read_record(job.request, JobRequest)
    created_at = request.requested_at if request else ""
    return {
        "taskId": task_id(run, job),
        "createdAt": created_at,
        "lastUpdatedAt": updated_at or created_at,
        "ttlMs": None,  # as long as the run
    }


def _stage(job: JobPaths) -> Stage:
    return job.stage  # pyright: ignore[reportReturnType] - job folders are named by a stage

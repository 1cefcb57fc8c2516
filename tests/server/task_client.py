"""A client that keeps tasks, as the extension's own clients do: what the tests of tasks speak with."""

from typing import Any, Literal

import anyio
from mcp import Client
from mcp.client.extension import ClaimContext, ClientExtension, ResultClaim
from mcp.types import CallToolResult, Request, RequestParams, Result
from pydantic import ConfigDict, Field

from tests.conftest import WAIT_S


class TaskClaim(Result):
    """What a call is answered with instead of its result."""

    result_type: Literal["task"] = Field(alias="resultType", default="task")
    task_id: str = Field(alias="taskId")
    status: str
    status_message: str = Field(alias="statusMessage")
    created_at: str = Field(alias="createdAt")
    ttl_ms: int | None = Field(alias="ttlMs")
    poll_interval_ms: int = Field(alias="pollIntervalMs")


class TaskIdParams(RequestParams):
    """Which task."""

    task_id: str = Field(alias="taskId")


class TaskRequest(Request[TaskIdParams, str]):
    """Any of the three requests."""

    method: str
    params: TaskIdParams


class TaskState(Result):
    """How a task is."""

    model_config = ConfigDict(extra="allow")
    status: str = ""
    status_message: str = Field(alias="statusMessage", default="")
    result: dict[str, Any] | None = None
    error: dict[str, Any] | None = None


class KeepsTasks(ClientExtension):
    """Declares the extension, and follows no task by itself."""

    identifier = "io.modelcontextprotocol/tasks"

    def claims(self) -> list[ResultClaim[TaskClaim]]:
        return [ResultClaim(result_type="task", model=TaskClaim, resolve=self._resolve)]

    async def _resolve(self, claim: TaskClaim, ctx: ClaimContext) -> CallToolResult:
        raise NotImplementedError


async def ask(client: Client, method: str, task_id: str) -> TaskState:
    """One of tasks/get, tasks/update and tasks/cancel."""
    return await client.session.send_request(
        TaskRequest(method=method, params=TaskIdParams(taskId=task_id)),  # pyright: ignore[reportArgumentType]
        TaskState,
    )


async def start(client: Client, tool: str, **arguments: Any) -> TaskClaim:
    """A call that must be answered with a task."""
    answer = await client.session.call_tool(tool, arguments, allow_claimed=True)
    assert isinstance(answer, TaskClaim), answer
    return answer


async def ended(client: Client, task_id: str) -> TaskState:
    """The task, once it ended."""
    with anyio.fail_after(WAIT_S):
        while (state := await ask(client, "tasks/get", task_id)).status == "working":
            await anyio.sleep(0.1)
    return state

"""A model of this machine as the teacher: a process that keeps it, spoken to over this machine's own loopback, in this job alone."""

import os
import secrets
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio

from nanodistill_mcp.errors import NanodistillError
from nanodistill_mcp.jobs.supervise import Job
from nanodistill_mcp.pipeline import thinking
from nanodistill_mcp.pipeline.distilling import shown
from nanodistill_mcp.pipeline.limits import spare_for_a_model_gb
from nanodistill_mcp.serving.app import Served
from nanodistill_mcp.serving.listening import bound
from nanodistill_mcp.serving.model import Model
from nanodistill_mcp.serving.serve import serve
from nanodistill_mcp.settings import MLX_TEACHER, ModelOverrides, TeacherEndpoint
from nanodistill_mcp.student.plain import thinks_unasked
from nanodistill_mcp.student.questions import KeepLoaded

_KEY = "NANODISTILL_LOCAL_TEACHER"
AT_ONCE = 4
"""Questions it answers side by side, at most: fewer where memory is short."""

_CONTEXT_TOKENS = 16_384
_ANSWER_TOKENS = 2048
_TEMPERATURE = 0.7
"""Answers to one question have to differ, or that they agree says nothing."""

_TIMEOUT_S = 1800.0


@asynccontextmanager
async def within_reach(job: Job, endpoint: TeacherEndpoint) -> AsyncGenerator[TeacherEndpoint]:
    """The endpoint as it can be called; a model of this machine is loaded with the first question, until the block ends.

    A stage that finds all its answers in the journal loads none.

    Raises:
        MachineError: There is not enough memory for it.
        NanodistillError: It cannot be loaded, or its process dies again and again.
    """
    if not endpoint.is_mlx:
        yield endpoint
        return
    keep = KeepLoaded(
        student=endpoint.mlx_model,
        context_tokens=_CONTEXT_TOKENS,
        parallel=AT_ONCE,
        memory_gb=spare_for_a_model_gb(),
        takes_fewer=True,
        is_one_asker=True,
    )
    name = MLX_TEACHER + shown(endpoint.mlx_model)
    model = Model(keep, job.paths.log, when_wanted=lambda: job.note("loading the teacher"))
    served = Served(
        name=name,
        prepared=list,
        parted=thinking.part_own,
        max_tokens=_ANSWER_TOKENS,
        temperature=_TEMPERATURE,
    )
    token, ended = secrets.token_urlsafe(32), anyio.Event()
    failure: Exception | None = None
    with bound("127.0.0.1", 0) as listening:
        port: int = listening.getsockname()[1]

        async def keep_serving(scope: anyio.CancelScope) -> None:
            nonlocal failure
            try:
                await serve(model, served, listening, ended, token=token)
            except NanodistillError as error:
                failure = error
                scope.cancel()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(keep_serving, tasks.cancel_scope)
            os.environ[_KEY] = token
            try:
                yield _called(endpoint, name, port)
            except Exception as error:  # noqa: BLE001 - raised below as itself, not in a group
                failure = error
            finally:
                del os.environ[_KEY]
                ended.set()
    if failure is not None:
        raise failure


def _called(endpoint: TeacherEndpoint, name: str, port: int) -> TeacherEndpoint:
    """As a server of OpenAI's format without JSON schemas and tools: asked for its answers in words."""
    thinks = thinks_unasked(_folder(endpoint.mlx_model))
    known = {"answers_by_schema": False, "calls_tools": False, "thinks_unasked": thinks}
    return endpoint.model_copy(
        update={
            "model": f"openai/{name}",
            "api_base": f"http://127.0.0.1:{port}/v1",
            "api_key_env": _KEY,
            "timeout_s": max(endpoint.timeout_s, _TIMEOUT_S),
            "overrides": ModelOverrides.model_validate({**endpoint.overrides.model_dump(exclude_unset=True), **known}),
        }
    )


def _folder(model: str) -> Path | None:
    if model.startswith("/"):
        return Path(model)
    from nanodistill_mcp.student.hub import cached  # noqa: PLC0415 - a library of the hub's, for this alone

    return cached(model)

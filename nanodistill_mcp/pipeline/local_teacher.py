"""A model of this machine as the teacher: a process that keeps it, spoken to over this machine's own loopback, in this job alone."""

import os
import secrets
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio

from nanodistill_mcp.errors import NanodistillError
from nanodistill_mcp.jobs.supervise import Job
from nanodistill_mcp.pipeline import thinking
from nanodistill_mcp.pipeline.limits import spare_for_a_model_gb
from nanodistill_mcp.serving.app import Served
from nanodistill_mcp.serving.listening import bound
from nanodistill_mcp.serving.model import Model
from nanodistill_mcp.serving.serve import serve
from nanodistill_mcp.settings import ModelOverrides, TeacherEndpoint
from nanodistill_mcp.student.questions import KeepLoaded, Loaded

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
    """The endpoint as it can be called; a model of this machine is loaded for as long as the block runs.

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
    model = Model(keep, job.paths.log)
    served = Served(
        name=endpoint.mlx_model,
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
            job.note("loading the teacher")
            await model.ready.wait()
            os.environ[_KEY] = token
            try:
                yield _called(endpoint, model.loaded, port)
            except Exception as error:  # noqa: BLE001 - raised below as itself, not in a group
                failure = error
            finally:
                del os.environ[_KEY]
                ended.set()
    if failure is not None:
        raise failure


def _called(endpoint: TeacherEndpoint, loaded: Loaded | None, port: int) -> TeacherEndpoint:
    """As a server of OpenAI's format without JSON schemas and tools: asked for its answers in words."""
    known = {"answers_by_schema": False, "calls_tools": False, "thinks_unasked": bool(loaded and loaded.thinks)}
    return endpoint.model_copy(
        update={
            "model": f"openai/{endpoint.mlx_model}",
            "api_base": f"http://127.0.0.1:{port}/v1",
            "api_key_env": _KEY,
            "timeout_s": max(endpoint.timeout_s, _TIMEOUT_S),
            "overrides": ModelOverrides.model_validate({**endpoint.overrides.model_dump(exclude_unset=True), **known}),
        }
    )

"""Checks that need a library the server never imports: made in two short processes, side by side, before a run exists."""

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import anyio

from nanodistill_mcp.errors import ConfigurationError, NanodistillError
from nanodistill_mcp.jobs import processes
from nanodistill_mcp.jobs.supervise import rebuild_error
from nanodistill_mcp.runs.files import read_object, write_json
from nanodistill_mcp.server.recall import Question, Recall, files_of
from nanodistill_mcp.settings import TeacherEndpoint
from nanodistill_mcp.student.requests import DeviceFacts, DeviceRequest, InspectRequest, StudentFacts
from nanodistill_mcp.teacher.preflight import Looked, TeacherFacts, host_facts, mlx_facts, teacher_facts

_TIMEOUT_S = 40.0


async def inspect_both(
    endpoint: TeacherEndpoint,
    student: str,
    texts: dict[str, list[str]],
    check_teacher: Callable[[TeacherFacts], None],
    local_teacher: str = "",
    *,
    recall: Recall,
) -> tuple[TeacherFacts, StudentFacts]:
    """What can be known of teacher and student without spending anything.

    Args:
        endpoint: The teacher.
        student: The student.
        texts: What will be sent and answered, by name: its tokens are counted.
        check_teacher: Raises when this teacher cannot be used as it is configured.
        local_teacher: A model whose probabilities the student is to learn, if there is one.
        recall: What earlier checks said.

    Raises:
        NanodistillError: One of them is not usable, or both; says why and what to do.
    """
    teachers: list[TeacherFacts] = []
    students: list[StudentFacts] = []
    failures: dict[str, NanodistillError] = {}

    async def look_at_teacher() -> None:
        try:
            facts = await inspect_teacher(endpoint, texts, recall)
            check_teacher(facts)
            teachers.append(facts)
        except NanodistillError as error:  # raised below, when the other check has ended too
            failures["teacher"] = error

    async def look_at_student() -> None:
        try:
            students.append(await inspect_student(student, local_teacher, recall))
        except NanodistillError as error:
            failures["student"] = error

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(look_at_teacher)
        tasks.start_soon(look_at_student)
    told = [failures[what] for what in ("teacher", "student") if what in failures]
    if len(told) > 1:
        raise type(told[0])(f"{told[0]} Also: {told[1].what}", next_step=told[1].next_step)
    if told:
        raise told[0]
    return teachers[0], students[0]


async def inspect_teacher(
    endpoint: TeacherEndpoint, texts: dict[str, list[str]] | None = None, recall: Recall | None = None
) -> TeacherFacts:
    """What is known of a teacher: provider, keys, price, and the tokens of texts. No call is made."""
    if endpoint.is_host:
        return host_facts()
    if endpoint.is_mlx:
        facts = await inspect_student(endpoint.mlx_model, recall=recall)
        return mlx_facts(endpoint, bytes_on_disk=facts.bytes_on_disk, bytes_missing=facts.bytes_to_download)
    wanted = {"model": endpoint.model, "texts": texts or {}}
    question = Question({"check": "teacher", **wanted}, ("litellm",))
    found = await _result("teacher", "teacher.preflight", wanted, question, recall)
    return teacher_facts(endpoint, Looked.model_validate(found))


async def inspect_student(student: str, local_teacher: str = "", recall: Recall | None = None) -> StudentFacts:
    """What the student's folder or the hub says of it, a local teacher's tokenizer held against its own. No weights are loaded."""
    wanted = InspectRequest(student=student, local_teacher=local_teacher, result_path=Path()).model_dump(mode="json")
    folders = [name for name in (student, local_teacher) if name]
    files = {name: files_of(Path(name)) for name in folders if Path(name).is_absolute()}
    question = Question({"check": "student", **wanted, "files": files}, ("mlx-lm", "transformers"))
    told_by_files = len(files) == len(folders) and None not in files.values()  # the hub may say otherwise tomorrow
    found = await _result("student", "student.child", wanted, question, recall if told_by_files else None)
    return StudentFacts.model_validate(found)


async def inspect_device() -> DeviceFacts:
    """Where MLX computes on this machine, proved by two steps."""
    wanted = DeviceRequest(result_path=Path()).model_dump(mode="json")
    return DeviceFacts.model_validate(await _asked("device", "student.child", wanted))


async def _result(
    what: str, module: str, wanted: dict[str, Any], question: Question, recall: Recall | None
) -> dict[str, Any]:
    """What a check said before, else what it says now."""
    if recall is None:
        return await _asked(what, module, wanted)
    if (found := recall.answer(question)) is None:
        found = await _asked(what, module, wanted)
        recall.keep(question, found)
    return found


async def _asked(what: str, module: str, wanted: dict[str, Any]) -> dict[str, Any]:
    """What one of our modules answers in a process of its own, which gets no key and no address."""
    with tempfile.TemporaryDirectory(prefix="nanodistill-") as folder:
        asked, told = Path(folder) / "asked.json", Path(folder) / "told.json"
        write_json(asked, {**wanted, "result_path": str(told)}, durable=False)
        code = await anyio.to_thread.run_sync(
            partial(processes.run_briefly, module, str(asked), env=processes.environment(), timeout_s=_TIMEOUT_S)
        )
        result = read_object(told)
    if result is None:
        ended = "did not answer in time" if code == processes.TIMED_OUT else f"ended with code {code}"
        raise ConfigurationError(
            f"The check of the {what} {ended}.",
            next_step="Call the tool again; if it repeats, run 'nanodistill-mcp doctor' in a terminal.",
        )
    if result.get("failed"):
        raise rebuild_error(result)
    return result

"""All runs with what matters of each, a page at a time: as data, and as a table that is read at a glance."""

from collections.abc import Iterator
from typing import Any

from nanodistill_mcp.errors import DamagedRunError
from nanodistill_mcp.pipeline import status as states
from nanodistill_mcp.pipeline.status import StageStatus
from nanodistill_mcp.runs.files import read_object
from nanodistill_mcp.runs.records import Exit, State
from nanodistill_mcp.runs.store import Run, read_record, saying_what_is_damaged
from nanodistill_mcp.runs.texts import clean
from nanodistill_mcp.server.app import App
from nanodistill_mcp.server.next_steps import current_stage
from nanodistill_mcp.server.replies import NextStep, RunLine, StatusReply

PAGE = 20
_MODELS = ("base", "student", "teacher")


def runs_reply(app: App, *, tag: str = "", offset: int = 0, limit: int = PAGE) -> StatusReply:
    """A page of the runs, those last changed first. A damaged one is a line that says so, never a failed list."""
    names = [run.run_id for run in app.store.all() if _has_tag(run, tag)] if tag else app.store.names()
    lines = [_line(app.store.named(name)) for name in names[offset : offset + limit]]
    end = offset + len(lines)
    left = end if lines and end < len(names) else -1
    if left >= 0:
        further = {"offset": left, **({"tag": tag} if tag else {})}
        step = NextStep(tool="get_status", arguments=further, why=f"{len(names) - end} further runs are older.")
    elif lines:
        step = NextStep(tool="get_status", arguments={"run_id": lines[0].run_id}, why="See this run in full.")
    elif tag or offset:
        step = NextStep(tool="get_status", arguments={}, why="No run is listed here; this lists all.")
    else:
        step = NextStep(
            tool="create_run",
            arguments={
                "name": "my-first-model",
                "instruction": "What the model is to do.",
                "seed": [{"input": "...", "output": "..."}],
            },
            why="There are no runs yet. Ten examples are a good start.",
        )
    return StatusReply(
        run_id="",
        folder=str(app.store.runs_dir),
        runs=lines,
        runs_in_all=len(names),
        next_offset=left,
        next_step=step,
    )


def _has_tag(run: Run, tag: str) -> bool:
    try:
        return tag.casefold() in (theirs.casefold() for theirs in run.tags())
    except DamagedRunError:
        return False


def _line(run: Run) -> RunLine:
    try:
        with saying_what_is_damaged(run.run_id):
            return _readable_line(run)
    except DamagedRunError as error:
        return RunLine(run_id=run.run_id, damaged=error.what)


def _readable_line(run: Run) -> RunLine:
    manifest, stages = run.manifest, states.pipeline_status(run)
    where, spend = _where(run, stages), states.spend(run, stages)
    return RunLine(
        run_id=run.run_id,
        stage=where.stage,
        state=where.state,
        **_scores(run),
        cost_usd=round(spend.usd, 4),
        tokens=spend.input_tokens + spend.output_tokens,
        created_at=manifest.created_at,
        elapsed_s=round(sum(ended.elapsed_s for ended in _ends(run)), 1),
        parent=manifest.cloned_from or manifest.refined_from,
        tags=run.tags(),
        student=manifest.spec.student.rstrip("/").rsplit("/", 1)[-1]
        if manifest.spec.student.startswith(("/", "~"))
        else manifest.spec.student,
        teacher=manifest.spec.teacher,
        gguf_bytes=run.paths.gguf.stat().st_size if run.paths.gguf.exists() else 0,
    )


def _where(run: Run, stages: list[StageStatus]) -> StageStatus:
    current = current_stage(run, stages)
    if current.state is not State.NEW:
        return current
    return next((found for found in reversed(stages) if found.state is State.DONE), current)


def _scores(run: Run) -> dict[str, Any]:
    """What the newest evaluation found, and the GGUF file's score on the same rows."""
    evaluation = read_object(run.paths.evaluation) or {}
    asked = next((name for name in ("held_out", "synthetic") if name in evaluation), "")
    if not asked:
        return {}
    part: dict[str, Any] = evaluation[asked]
    accuracy = {name: part[name]["accuracy"] for name in _MODELS if name in part}
    of_file: dict[str, Any] = (read_object(run.paths.export) or {}).get("accuracy") or {}
    if of_file.get("set") == asked:
        accuracy["gguf"] = of_file["accuracy"]
    return {
        "accuracy": accuracy,
        "interval_95": part["student"]["interval_95"],
        "rows": part["student"]["rows"],
        "asked": asked,
        "decision": evaluation.get("decision", ""),
    }


def _ends(run: Run) -> Iterator[Exit]:
    for job in run.paths.job_list():
        if ended := read_record(job.exit, Exit):
            yield ended


_COLUMNS = (
    *("run", "stage", "student 95%", "base", "teacher", "gguf", "decision", "cost", "tokens", "created", "took"),
    *("parent", "tags", "student model", "teacher model", "model.gguf"),
)


def runs_in_text(reply: StatusReply) -> str:
    """The list as a table, with what the reply says beside its runs."""
    step = reply.next_step
    told = f"{reply.runs_in_all} runs in {reply.folder}"
    if reply.runs and len(reply.runs) < reply.runs_in_all:
        told += f", {len(reply.runs)} of them here"
    lines = [f"{told}."]
    if reply.runs:
        lines += ["", _row(_COLUMNS), _row(["---"] * len(_COLUMNS)), *map(_told, reply.runs), ""]
    arguments = ", ".join(f"{name}={value!r}" for name, value in step.arguments.items())
    return "\n".join([*lines, f"Next: {step.tool}({arguments}) - {step.why}"])


def _told(line: RunLine) -> str:
    if line.damaged:
        return _row([line.run_id, f"damaged: {line.damaged}"] + [""] * (len(_COLUMNS) - 2))
    shares = {name: f"{share:.1%}" for name, share in line.accuracy.items()}
    student = ""
    if "student" in shares and line.interval_95:
        low, high = line.interval_95
        student = f"{shares['student']} ({low:.1%}-{high:.1%}, {line.rows} {line.asked})"
    return _row(
        [
            line.run_id,
            f"{line.stage} {line.state}",
            student,
            *(shares.get(name, "") for name in ("base", "teacher", "gguf")),
            line.decision,
            f"${line.cost_usd:.4g}",
            str(line.tokens),
            line.created_at[:16],
            f"{line.elapsed_s:.0f} s",
            line.parent,
            " ".join(line.tags),
            line.student,
            line.teacher,
            f"{line.gguf_bytes / 1e6:.4g} MB" if line.gguf_bytes else "",
        ]
    )


def _row(cells: list[str] | tuple[str, ...]) -> str:
    plain = (clean(cell).replace("|", "/").replace("\n", " ") for cell in cells)
    return f"| {' | '.join(plain)} |"

"""What training will do and take, found out beforehand: every row measured, every option resolved, two real steps taken.

A plan is written to ``training_plan.json``. ``train`` carries out the plan that is there when it is of the same options, rows
and student, and makes one first when there is none: so what was shown and what is done cannot differ.
"""

import statistics
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from nanodistill_mcp.errors import StudentDiedError, TrainingError
from nanodistill_mcp.jobs import memory
from nanodistill_mcp.jobs.guard import Limits
from nanodistill_mcp.jobs.supervise import Job
from nanodistill_mcp.pipeline import recipe
from nanodistill_mcp.pipeline.distilling import by_option, kept_bytes
from nanodistill_mcp.pipeline.ladder import Rung, fitted_length, ladder
from nanodistill_mcp.pipeline.limits import LIMITS, PROCESS_GB, limits_of
from nanodistill_mcp.pipeline.revisions import revisions_of
from nanodistill_mcp.runs.files import read_object, write_json
from nanodistill_mcp.runs.options import Options, set_options
from nanodistill_mcp.runs.records import Range, RunSpec
from nanodistill_mcp.runs.store import Run, now
from nanodistill_mcp.runs.translations import translate
from nanodistill_mcp.student.requests import (
    EXIT_OVER_MEMORY,
    Attempt,
    Measured,
    MeasureRequest,
    ProbeRequest,
    ProbeResult,
    Recipe,
)

_SCHEMA = 1
_EVALUATION_SHARE = 0.4
"""Time of a token that is only read, against one that is trained on."""
_START_S = 5.0
_LOW, _HIGH = 0.8, 1.5
_CHECKPOINTS = 5
"""On disk at once: the newest three, the best, and the one that is being written."""
_SMALLER = (
    ("mlx-community/Qwen3-4B-Instruct-2507-4bit", 4_000_000_000),
    ("mlx-community/Llama-3.2-1B-Instruct-4bit", 1_200_000_000),
    ("mlx-community/Qwen3-0.6B-4bit", 600_000_000),
)


class Rows(BaseModel):
    """What the student makes of the rows. None is cut: those that do not fit are left out."""

    model_config = ConfigDict(extra="ignore", defer_build=True)

    train: int
    valid: int
    too_long: int = Field(description="Training rows longer than the sequence length.")
    valid_too_long: int = 0
    quoting: int = Field(description="Rows that hold the end token in mid-answer.")
    proved: int = Field(
        description="Rows whose learnt part, read back, was the answer and its end token, character by character."
    )
    longest_tokens: int
    median_tokens: int
    answer_tokens: int = Field(description="Mean of what is learnt in a row.")


class TrainingPlan(BaseModel):
    """``training_plan.json``."""

    model_config = ConfigDict(extra="ignore", defer_build=True)  # the server imports it at its start

    schema_version: int = _SCHEMA
    made_at: str
    preset: str
    options: dict[str, Any] = Field(description="What the caller set, for the run and for this training.")
    student: str
    examples_mtime_ns: int
    revisions: int
    dataset: dict[str, str] = Field(description="SHA-256 of the training and the validation rows.")
    recipe: Recipe
    resolved: list[dict[str, Any]] = Field(description="Every option: its value, and why.")
    reasons: dict[str, str]
    changes: dict[str, str] = Field(default={}, description="What was given up to fit into memory, by option.")
    rows: Rows
    student_kind: str
    updates: int
    device: str
    peak_memory_gb: float
    teacher_peak_memory_gb: float | None = Field(
        default=None, description="Of the local teacher, which reads the rows alone, before the student is loaded."
    )
    memory_limit_gb: float
    tried: list[Attempt]
    seconds_per_step: float = Field(description="A batch of the longest rows.")
    hours: Range = Field(description="Without early stopping, which may end it sooner.")
    disk_gb: float
    free_disk_gb: float
    gradient_norms: list[float]
    warnings: list[str] = []


def stored_plan(run: Run) -> TrainingPlan | None:
    """The plan that was made last; None when there is none that this version understands."""
    value = read_object(run.paths.training_plan)
    return TrainingPlan.model_validate(value) if value and value.get("schema_version") == _SCHEMA else None


def is_planned(run: Run, options: Options, student: str) -> bool:
    """Is there a plan for these very options, this student and the examples as they are?"""
    plan = stored_plan(run)
    return (
        plan is not None
        and _is_asked(plan, run, options, student)
        and _examples(run)
        == (
            plan.examples_mtime_ns,
            plan.revisions,
        )
    )


async def planned(job: Job, dataset_dir: Path, options: Options, notes: dict[str, str]) -> TrainingPlan:
    """The plan for a dataset: the one that was shown before, or a new one.

    Raises:
        TrainingError: The student does not fit into memory, or the rows would teach something else.
        UserInputError: The student is not usable, or cannot be trained.
    """
    student = str(job.arguments["student"])
    found = stored_plan(job.run)
    if found is not None and found.dataset == _hashes(dataset_dir):
        if _is_asked(found, job.run, options, student):
            job.event("planned", made_at=found.made_at)
            return found
        # With more memory another rung may fit, but that would be another training than the one whose checkpoints are there.
        if any(job.run.paths.checkpoints.glob("*.json")) and _is_asked(
            found, job.run, options, student, but_for=LIMITS
        ):
            job.event("planned", made_at=found.made_at, reason="it has begun: only its limits change")
            return found
    plan = await make_training_plan(job, dataset_dir, options, notes)
    write_json(job.run.paths.training_plan, plan.model_dump(mode="json"))
    return plan


async def make_training_plan(job: Job, dataset_dir: Path, options: Options, notes: dict[str, str]) -> TrainingPlan:
    """Measure the rows, resolve the options, and walk down the ladder until two steps fit."""
    run, student = job.run, str(job.arguments["student"])
    preset = run.manifest.spec.preset
    measured = await _measured(job, dataset_dir, options)
    wanted, reasons, rows = _resolved(preset, options, measured)
    rungs = ladder(wanted, [row.tokens for row in measured.train], measured.facts.layers)
    limits, why_limits = limits_of(preset, options, memory.total_gb())
    spare_gb = memory.spare_gb()
    limit = int(1e9 * (min(limits.max_memory_gb, spare_gb) - PROCESS_GB))
    job.progress(0, 0, "two real steps on the longest batch")
    result = await _probe(
        job,
        ProbeRequest(
            student=student,
            dataset_dir=dataset_dir,
            recipes=[rung.recipe for rung in rungs],
            memory_limit_bytes=max(1, limit),
            is_wanted_limit=options.max_memory_gb is not None,
            metrics_path=job.paths.root / "probe.jsonl",
            result_path=job.paths.root / "probe.json",
        ),
    )
    if result.rung is None:
        raise _does_not_fit(result, measured, rungs, _bound(limits, spare_gb))
    rung = rungs[result.rung]
    reasons = {**notes, **why_limits, **reasons}
    if result.unpacked_because and rung.recipe.packing:
        reasons["packing"] = f"not done: {result.unpacked_because}"
    rows = rows.model_copy(update={"too_long": rung.rows_too_long})
    learnt = sum(row.learnt for row in measured.train if row.tokens <= rung.recipe.max_seq_length)
    kept = kept_bytes(rung.recipe, learnt)
    disk_gb = (_CHECKPOINTS * result.checkpoint_bytes + 4 * result.trainable_parameters + kept) / 1e9
    return TrainingPlan(
        made_at=now(),
        preset=preset,
        options=set_options(options),
        student=student,
        examples_mtime_ns=_examples(run)[0],
        revisions=_examples(run)[1],
        dataset=_hashes(dataset_dir),
        recipe=rung.recipe,
        resolved=recipe.explained(
            preset,
            options,
            {**rung.recipe.model_dump(), **by_option(rung.recipe), **asdict(limits)},
            {**reasons, **_why_given_up(rung, result)},
        ),
        reasons=reasons,
        changes=_why_given_up(rung, result),
        rows=rows,
        student_kind=measured.facts.kind,
        updates=rung.recipe.iters // rung.recipe.grad_accumulation_steps,
        device=result.device,
        peak_memory_gb=max(result.peak_memory_gb, result.teacher_peak_memory_gb),
        teacher_peak_memory_gb=result.teacher_peak_memory_gb or None,
        memory_limit_gb=round(result.memory_limit_gb, 4),
        tried=result.attempts,
        seconds_per_step=round(result.step_s, 3),
        hours=predicted_hours(rung.recipe, result, has_validation=rows.valid > rows.valid_too_long),
        disk_gb=round(disk_gb, 4),
        free_disk_gb=round(memory.free_disk_bytes(run.paths.root) / 1e9, 2),
        gradient_norms=result.gradient_norms,
        warnings=_warnings(rows, rung, result, measured, disk_gb, run),
    )


async def _measured(job: Job, dataset_dir: Path, options: Options) -> Measured:
    job.progress(0, 0, "measuring the rows in the student's own form")
    request = MeasureRequest(
        student=str(job.arguments["student"]),
        local_teacher=local_teacher_of(job, options),
        dataset_dir=dataset_dir,
        result_path=job.paths.root / "measured.json",
    )
    return await job.run_student(request, Measured)


def predicted_hours(chosen: Recipe, result: ProbeResult, *, has_validation: bool) -> Range:
    """Low and high estimate: a step takes a fixed time and more by the token, as the longest and the shortest batch say."""
    tokens = result.step_tokens - result.short_step_tokens
    per_token_s = max(0.0, (result.step_s - result.short_step_s) / tokens) if tokens > 0 else 0.0
    if per_token_s * result.step_tokens > result.step_s or not per_token_s:
        per_token_s = result.step_s / result.step_tokens
    fixed_s = max(0.0, result.step_s - per_token_s * result.step_tokens)
    training_s = chosen.iters * (fixed_s + per_token_s * result.mean_tokens)
    evaluations = chosen.iters // chosen.steps_per_eval + 1 if has_validation else 0
    reading_s = _EVALUATION_SHARE * per_token_s * evaluations * result.valid_tokens
    expected = (_START_S + result.teacher_s + training_s + reading_s) / 3600
    return Range(low=round(_LOW * expected, 4), high=round(_HIGH * expected, 4))


def training_options(spec: RunSpec, further: dict[str, Any]) -> tuple[Options, dict[str, str]]:
    """The run's options with those given to train over them, and what was translated."""
    given, notes = translate(further)
    own = dict(spec.options)
    if "lora_alpha" in given or "lora_scale" in given:  # the newer one holds
        own = {name: value for name, value in own.items() if name not in ("lora_alpha", "lora_scale")}
    return Options.model_validate({**own, **given}), notes


def local_teacher_of(job: Job, options: Options) -> str:
    """The local teacher as the server that started the job found it allowed; empty when there is none."""
    if not options.local_teacher:
        return ""
    if not (allowed := job.arguments.get("local_teacher")):
        raise TrainingError("Nobody checked the local teacher of these options.", next_step="Call train again.")
    return str(allowed)


def _resolved(preset: str, options: Options, measured: Measured) -> tuple[Recipe, dict[str, str], Rows]:
    """The recipe that is wanted, with the sequence length fitted to the rows."""
    facts, lengths = measured.facts, [row.tokens for row in measured.train]
    most = recipe.preset_options(preset, options).max_seq_length or 0
    readers = [each for each in (facts, measured.local_teacher) if each is not None]
    readable = min(most, *(each.max_position_embeddings for each in readers))
    fitting = sum(length <= readable for length in lengths)
    if not fitting:
        if not lengths:
            raise TrainingError("There are no training rows.", next_step="Run amplify first, then train again.")
        raise TrainingError(
            f"None of the {len(lengths)} training rows fits into max_seq_length={most} tokens.",
            next_step=f"Train again with options.max_seq_length of up to {max(lengths)}, or with shorter examples.",
        )
    wanted, reasons = recipe.resolve(
        preset, options, rows=fitting, layers=facts.layers, student=facts, local_teacher=measured.local_teacher
    )
    length = fitted_length(lengths, readable)
    if length != most:
        longest = max(each for each in lengths if each <= length)
        reasons["max_seq_length"] = f"instead of {most}: the longest row that fits has {longest} tokens"
    rows = Rows(
        train=len(lengths),
        valid=len(measured.valid),
        too_long=len(lengths) - fitting,
        valid_too_long=sum(row.tokens > length for row in measured.valid),
        quoting=measured.quoting_rows,
        proved=len(lengths) + len(measured.valid) + measured.quoting_rows,
        longest_tokens=max(lengths),
        median_tokens=int(statistics.median(lengths)),
        answer_tokens=round(statistics.fmean(row.learnt for row in measured.train)),
    )
    return wanted.model_copy(update={"max_seq_length": length}), reasons, rows


async def _probe(job: Job, request: ProbeRequest) -> ProbeResult:
    """Probe; a process that died on a rung goes on below it, in another one."""
    died: list[Attempt] = []
    limit_gb, count = request.memory_limit_bytes / 1e9, len(request.recipes)
    while request.first < count:
        tried = -1

        def note(line: dict[str, Any]) -> None:
            nonlocal tried
            match line.get("event"):
                case "rung":
                    tried = line["rung"]
                    job.note(f"two real steps on the longest batch, recipe {tried + 1} of {count}")
                case "teacher":
                    job.note("the local teacher reads the longest row")
                case "download":
                    job.note(f"downloading the student, {line['bytes'] / 1e9:.1f} GB")
                case _:
                    pass

        try:
            result = await job.run_student(request, ProbeResult, on_metric=note)
        except StudentDiedError as error:
            if tried < 0 or (error.exit_code >= 0 and error.exit_code != EXIT_OVER_MEMORY):
                raise
            job.event("does_not_fit", rung=tried, exit_code=error.exit_code)
            died += [Attempt(rung=rung, fits=False, peak_memory_gb=None) for rung in range(request.first, tried + 1)]
            request = request.model_copy(update={"first": tried + 1})
            continue
        return result.model_copy(update={"attempts": [*died, *result.attempts]})
    return ProbeResult(rung=None, attempts=died, memory_limit_gb=limit_gb, device="", weights_gb=0.0)


def _why_given_up(rung: Rung, result: ProbeResult) -> dict[str, str]:
    return {name: f"to fit into {result.memory_limit_gb:.3g} GB: {how}" for name, how in rung.changes.items()}


def _bound(limits: Limits, spare_gb: float) -> tuple[str, str]:
    """What bounds the memory of a training, and what to do about it."""
    if limits.max_memory_gb <= spare_gb:
        return f"options.max_memory_gb={limits.max_memory_gb:g}", "Raise options.max_memory_gb"
    kept = f"{spare_gb + limits.reserve_gb:.3g} GB are free, and {limits.reserve_gb:.3g} GB are kept for the system"
    return kept, "Close other programs and call train again"


def _does_not_fit(result: ProbeResult, measured: Measured, rungs: list[Rung], bound: tuple[str, str]) -> TrainingError:
    known = [attempt.peak_memory_gb for attempt in result.attempts if attempt.peak_memory_gb is not None]
    if not result.attempts:
        what = f"The student's weights alone take {result.weights_gb:.3g} GB"
    elif known:
        what = f"None of {len(rungs)} recipes fits, down to {', '.join(rungs[-1].changes)}: the least took {min(known):.3g} GB"
    else:
        what = f"None of {len(rungs)} recipes fits, down to {', '.join(rungs[-1].changes)}: every try ran out of memory"
    smaller = [name for name, parameters in _SMALLER if parameters < measured.facts.parameters]
    other = f"clone_run(student={smaller[0]!r})" if smaller else "clone_run with a smaller student"
    why, remedy = bound
    left_gb = max(0.0, result.memory_limit_gb)
    return TrainingError(
        f"{what}; {left_gb:.3g} GB can be spared: {why}, and {PROCESS_GB:g} GB are for the process itself.",
        next_step=f"{remedy}, lower options.max_seq_length (longer rows are dropped), or take a smaller student: {other}. "
        "A smaller batch_size, gradient_checkpointing and fewer lora_layers were tried.",
    )


def _warnings(rows: Rows, rung: Rung, result: ProbeResult, measured: Measured, disk_gb: float, run: Run) -> list[str]:
    told = list(measured.facts.warnings)
    if rows.too_long:
        told.append(
            f"{rows.too_long} of {rows.train} training rows are longer than {rung.recipe.max_seq_length} tokens and dropped."
        )
    if rows.quoting:
        told.append(f"{rows.quoting} rows hold the student's end token in mid-answer and are left out.")
    if not rows.valid - rows.valid_too_long:
        told.append("There are no validation rows: the last checkpoint is taken, not the best.")
    if result.tensors_without_gradient:
        told.append(
            f"{result.tensors_without_gradient} of {result.trained_tensors} trained tensors got no gradient in the probe."
        )
    if measured.facts.kind != "dense":
        told.append(f"The student is a {measured.facts.kind} model; its gradients were checked on real steps.")
    if disk_gb * 1e9 > memory.free_disk_bytes(run.paths.root):
        told.append(f"Checkpoints take {disk_gb:.3g} GB, more than the disk has free.")
    return told


def _is_asked(plan: TrainingPlan, run: Run, options: Options, student: str, *, but_for: tuple[str, ...] = ()) -> bool:
    def compared(given: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in given.items() if name not in but_for}

    asked = (run.manifest.spec.preset, compared(set_options(options)), student)
    return (plan.preset, compared(plan.options), plan.student) == asked


def _examples(run: Run) -> tuple[int, int]:
    written = run.paths.traces_amplified
    return written.stat().st_mtime_ns if written.exists() else 0, revisions_of(run).moved


def _hashes(dataset_dir: Path) -> dict[str, str]:
    files = (read_object(dataset_dir / "manifest.json") or {}).get("files", {})
    return {name: files[name]["sha256"] for name in ("train", "valid") if name in files}

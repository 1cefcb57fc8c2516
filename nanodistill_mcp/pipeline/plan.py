"""Before anything is spent: check all that can be checked."""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from nanodistill_mcp import __version__
from nanodistill_mcp.errors import ConfigurationError, UserInputError, refused_values
from nanodistill_mcp.pipeline import recipe, spending
from nanodistill_mcp.pipeline.distilling import check_distilling
from nanodistill_mcp.pipeline.response_schemas import check_schema
from nanodistill_mcp.pipeline.seeds import (
    check_inputs,
    check_table,
    digest,
    inputs_table,
    seed_table,
    split,
    table_of_tests,
)
from nanodistill_mcp.pipeline.shapes import settled_instruction
from nanodistill_mcp.pipeline.tables import counted
from nanodistill_mcp.pipeline.thinking import FORMATS
from nanodistill_mcp.runs.options import FIXED_AT_CREATION, Options, set_options
from nanodistill_mcp.runs.paths import run_id_of
from nanodistill_mcp.runs.records import Plan, Reasoning, RunManifest, RunSpec, Seed
from nanodistill_mcp.runs.store import now
from nanodistill_mcp.runs.tags import check_tags
from nanodistill_mcp.runs.translations import translate
from nanodistill_mcp.settings import HOST_TEACHER, MLX_TEACHER, BudgetSettings, Settings, TeacherEndpoint
from nanodistill_mcp.student.requests import StudentFacts, without_commit
from nanodistill_mcp.teacher.preflight import TeacherFacts

CEILING_ROWS = 100
"""Held-out examples the teacher solves, at most: its ceiling needs no more."""

EXAMPLES_PER_CALL = 8

Examples = tuple[list[Seed], list[str]]
"""The user's examples with their sides, and the raw inputs beside them."""


@dataclass(frozen=True)
class Request:
    """What create_run was asked for, checked as far as needs no other process."""

    run_id: str
    spec: RunSpec
    options: Options
    seeds: list[Seed]
    endpoint: TeacherEndpoint
    student: str
    inputs: list[str]
    wordings: dict[str, str]
    translated: dict[str, str] = field(default_factory=dict[str, str])
    tags: list[str] = field(default_factory=list[str])
    set_aside: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    """Rows of the given files that could not be used: which, and why."""
    local_teacher: str = ""
    instruction_of_the_examples: bool = False
    """Whether nobody gave an instruction, and it is the one the examples carry."""


@dataclass(frozen=True)
class _Given:
    """What a caller gave as examples, read and checked."""

    instruction: str
    examples: Examples
    set_aside: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])


def check_request(
    settings: Settings,
    *,
    name: str,
    instruction: str,
    seed: list[dict[str, Any]],
    seed_path: str,
    teacher: str,
    student: str,
    augment_factor: int,
    reasoning: Reasoning,
    response_schema: dict[str, Any],
    preset: str,
    options: dict[str, Any],
    budget_usd: float,
    kept: Examples | None = None,
) -> Request:
    """Check every argument of create_run; a clone keeps the examples of another run instead of giving any.

    Raises:
        UserInputError: Names the first argument that is not accepted and says what is.
    """
    run_id = run_id_of(name)
    if kept is None and bool(seed) == bool(seed_path):
        raise UserInputError(
            "Give the examples once.", next_step="Pass either seed (a list of {input, output}) or seed_path (a file)."
        )
    chosen, translated = read_options(options)
    tags = check_tags(chosen.tags or [])
    recipe.preset_options(preset, chosen)
    check_distilling(chosen)
    if chosen.inputs_only and not chosen.inputs_path:
        raise UserInputError(
            "inputs_only needs inputs_path: a file of the inputs to train on.",
            next_step="Give options.inputs_path too, or leave inputs_only out.",
        )
    given = (
        _Given(instruction.strip(), kept) if kept else _given_examples(settings, chosen, instruction, seed, seed_path)
    )
    if not given.instruction:
        raise UserInputError(
            "The instruction is empty.", next_step="Say in a sentence or two what the student is to do with an input."
        )
    seeds, inputs = given.examples
    check_schema(response_schema, seeds)
    spending.check_ceilings(spending.budget_of_spec(budget_usd, chosen), settings.budget)
    endpoint = check_endpoint(settings, teacher or settings.default_teacher)
    spec = RunSpec(
        instruction=given.instruction,
        teacher=endpoint.name,
        student=student or settings.default_student,
        augment_factor=augment_factor,
        reasoning=reasoning,
        response_schema=response_schema,
        preset=preset,
        options=set_options(chosen),
        budget_usd=budget_usd,
        seeds_sha256=digest(seeds, inputs),
    )
    return Request(
        run_id,
        spec,
        chosen,
        seeds,
        endpoint,
        check_student(spec.student, settings),
        inputs,
        _wordings(settings),
        translated,
        tags,
        given.set_aside,
        check_student(chosen.local_teacher, settings, "local teacher") if chosen.local_teacher else "",
        instruction_of_the_examples=kept is None and not instruction.strip(),
    )


def _wordings(settings: Settings) -> dict[str, str]:
    if not settings.prompts:
        return {}
    from nanodistill_mcp.teacher.wording import read_wordings  # noqa: PLC0415 - builds the shapes of all answers

    return read_wordings(settings.prompts)


def _given_examples(
    settings: Settings, chosen: Options, instruction: str, seed: list[dict[str, Any]], seed_path: str
) -> _Given:
    allowed, sets_aside = settings.readable_dirs(), chosen.malformed == "set_aside"
    tables = [seed_table(seed, seed_path, allowed, sets_aside=sets_aside)]
    instruction = settled_instruction(tables[0].rows, instruction)
    rows = check_table(tables[0], instruction)
    tests, inputs = None, list[str]()
    if chosen.test_path:
        tables.append(table_of_tests(chosen.test_path, allowed, sets_aside=sets_aside))
        tests = check_table(tables[-1], instruction, labelled=True)
    if chosen.inputs_path:
        tables.append(inputs_table(chosen.inputs_path, allowed, sets_aside=sets_aside))
        inputs = check_inputs(tables[-1], instruction)
    if chosen.held_out is not None and chosen.held_out_split is not None:
        raise UserInputError(
            "held_out and held_out_split both say what is held out.",
            next_step="Give held_out to name the examples, or held_out_split for the share to draw.",
        )
    seeds = split(rows, chosen.held_out_split, chosen.seed or 0, tests=tests, numbers=chosen.held_out)
    return _Given(instruction, (seeds, inputs), [each for table in tables for each in table.aside])


def drawn_to_hold_out(
    settings: Settings, instruction: str, seed: list[dict[str, Any]], seed_path: str, options: dict[str, Any]
) -> list[Seed]:
    """The examples create_run would hold out by lot, which nobody named.

    Raises:
        UserInputError: The examples or the options are not accepted.
    """
    chosen = check_options(options)
    if chosen.held_out is not None or chosen.test_path:
        return []
    seeds, _ = _given_examples(settings, chosen, instruction, seed, seed_path).examples
    return [each for each in seeds if each.split == "held_out"]


def check_options(options: dict[str, Any]) -> Options:
    """Check the options a caller set, under our names or other tools'.

    Raises:
        UserInputError: One is unknown or out of range.
    """
    return read_options(options)[0]


def read_options(options: dict[str, Any]) -> tuple[Options, dict[str, str]]:
    """Options as the caller named them, under our names, and what was translated.

    Raises:
        UserInputError: One is unknown or out of range.
    """
    translated, notes = translate(options)
    try:
        return Options.model_validate(translated), notes
    except ValidationError as error:
        raise UserInputError(
            f"The options are not accepted: {refused_values(error)}.",
            next_step=f"Options: {', '.join(Options.model_fields)}.",
        ) from None


def check_training_options(options: dict[str, Any]) -> None:
    """Check the options given to train.

    Raises:
        UserInputError: One is unknown, out of range, or settled since the run was created.
    """
    check_options(options)
    if settled := [name for name in FIXED_AT_CREATION if name in options]:
        raise UserInputError(
            f"{', '.join(settled)}: settled when the run was created, because its examples or its test hang on it.",
            next_step="Leave it out here, or create another run with it.",
        )


def check_endpoint(settings: Settings, teacher: str) -> TeacherEndpoint:
    """The endpoint behind a teacher's name; a model on this machine is held to the rules for students.

    Raises:
        UserInputError: It is no teacher, or a model this server may not read.
    """
    endpoint = settings.endpoint(teacher)
    if not endpoint.is_mlx:
        return endpoint
    return endpoint.model_copy(update={"model": MLX_TEACHER + check_student(endpoint.mlx_model, settings, "teacher")})


def check_student(student: str, settings: Settings, what: str = "student") -> str:
    """A hub id as it is, or a local folder that this server may read, as its real path.

    Args:
        student: As the caller names it.
        settings: Say what is allowed.
        what: What it is to be: a local teacher is named, and allowed, as a student is.

    Raises:
        UserInputError: The folder lies outside the allowed directories, or the id is not among the allowed students.
    """
    if not student.startswith(("/", "~", ".")):
        allowed = settings.allowed_students
        if allowed and student not in allowed and student.split("/", 1)[0] not in allowed:
            raise UserInputError(
                f"That {what} is not among those this server may use.",
                next_step=f"Give one of these, or of these organisations: {', '.join(allowed)}; or add it to allowed_students in the server's configuration.",
            )
        return student
    folder = Path(student).expanduser()
    if not folder.is_absolute():
        raise UserInputError(
            f"A {what}'s folder must be an absolute path.",
            next_step="Give the full path, or a hub id such as org/name.",
        )
    real = folder.resolve()
    roots = settings.readable_dirs()
    if not any(real.is_relative_to(root) for root in roots):
        raise UserInputError(
            f"That {what}'s folder is outside the directories this server may read ({', '.join(map(str, roots)) or 'none are configured'}).",
            next_step="Add the directory to allowed_paths in the server's configuration, or give a hub id such as org/name.",
        )
    return str(real)


def check_teacher(facts: TeacherFacts, endpoint: TeacherEndpoint, options: Options, ceilings: BudgetSettings) -> None:
    """Refuse a teacher whose key is missing or whose price cannot be capped.

    Raises:
        ConfigurationError: Says which variable is missing, and where it goes.
    """
    if facts.missing_keys and facts.key_check == "required":
        name = " or ".join(facts.missing_keys) if not endpoint.api_key_env else endpoint.api_key_env
        raise ConfigurationError(
            f"The teacher {endpoint.name!r} needs a key and {name} is not set for this server.",
            next_step=f"Add {name} under env of this server's entry in the client's configuration (clients do not pass the shell's environment), "
            f"restart the client, then call create_run again; or, without any key, be the teacher yourself: teacher='{HOST_TEACHER}'. Nothing was spent.",
        )
    caps = (options.max_calls, options.max_total_tokens, ceilings.calls_per_run, ceilings.tokens_per_run)
    capped = any(cap is not None for cap in caps)
    if not facts.price_known and not facts.local and not capped:
        raise UserInputError(
            f"The price of the teacher {endpoint.name!r} is not known, so a budget in dollars cannot hold.",
            next_step="Set options.max_calls or options.max_total_tokens, or give usd_per_mtok for it in the server's configuration.",
        )


def make_manifest(request: Request, teacher: TeacherFacts, student: StudentFacts, estimated: Plan) -> RunManifest:
    """The run's manifest.

    Raises:
        UserInputError: The student has no thinking tags of its own, and they were asked for.
    """
    if request.options.thinking_format == "native" and not student.thinks_natively:
        raise UserInputError(
            "thinking_format='native' needs a student with thinking tags of its own, and this one has none.",
            next_step=f"Leave thinking_format out, or give one of: {', '.join(form for form in FORMATS if form != 'native')}.",
        )
    estimated.warnings += unsent_options(request, teacher)
    if request.endpoint.is_host:
        calls, tokens = estimated.teacher_calls, estimated.teacher_tokens
        estimated.warnings.append(
            f"{calls.low:.0f} to {calls.high:.0f} questions are for you to answer, {tokens.low / 1000:.0f} to "
            f"{tokens.high / 1000:.0f} thousand tokens to read and write; a smaller augment_factor asks fewer."
        )
    return RunManifest(
        run_id=request.run_id,
        created_at=now(),
        package_version=__version__,
        spec=request.spec,
        plan=estimated,
        teacher_model=request.endpoint.model,
        teacher_host=teacher.host,
        usd_per_mtok=teacher.usd_per_mtok,
        key_variables=teacher.key_variables,
        student_thinks_natively=student.thinks_natively,
        student_revision=student.revision,
        prompts={template: hashlib.sha256(text.encode()).hexdigest() for template, text in request.wordings.items()},
    )


def unsent_options(request: Request, teacher: TeacherFacts) -> list[str]:
    """Which of the run's options the teacher does not take."""
    temperature = recipe.preset_options(request.spec.preset, request.options).temperature
    if temperature is None or "temperature" not in teacher.not_taken:
        return []
    return [f"temperature: not sent, because '{teacher.model}' takes none."]


def target_of(request: Request) -> int:
    """How many training examples a run is to have."""
    train = sum(seed.split == "train" for seed in request.seeds)
    return train + len(request.inputs) if request.options.inputs_only else train * request.spec.augment_factor


def input_warnings(request: Request) -> list[str]:
    """What the user should know of the examples, the inputs and the models before anything is paid."""
    told: list[str] = []
    if request.endpoint.is_mlx and without_commit(request.endpoint.mlx_model) == without_commit(request.student):
        told.append(
            "Teacher and student are the same model: the student can learn to answer in one form, and nothing that it does not know. "
            "Take a larger teacher."
        )
    unanswered = sum(not seed.labelled for seed in request.seeds)
    if unanswered:
        told.append(
            f"{unanswered} of {len(request.seeds)} examples have no output: the teacher answers each twice, and those on which "
            "it disagrees with itself are set aside. Look at traces_cot.jsonl before going on."
        )
    if request.instruction_of_the_examples:
        told.append("The instruction is the one that the examples carry: read it in run.json before anything is paid.")
    if request.set_aside:
        told.append(
            f"{len(request.set_aside)} rows were set aside ({counted(request.set_aside)}): set_aside.jsonl says which."
        )
    room = target_of(request) - sum(seed.split == "train" for seed in request.seeds)
    if len(request.inputs) > room:
        told.append(
            f"{len(request.inputs) - room} of {len(request.inputs)} inputs are beyond the target of {target_of(request)} examples: "
            "raise augment_factor, or set options.inputs_only, to have them answered too."
        )
    if not any(seed.split == "held_out" for seed in request.seeds):
        told.append(
            "No example has an output, so nothing is held out: the student can only be held against the teacher's own answers. "
            "Give options.test_path with answers of a person to prove it."
            if unanswered == len(request.seeds)
            else "Nothing is held out: with five examples that have an output, or options.test_path, the student can be proved on "
            "examples it never saw."
        )
    return told


def task_text(instruction: str, choices: list[str], schema: dict[str, Any] | None = None) -> str:
    """The instruction as the teacher reads it; a fixed list of answers is named, and a schema, which give no answer away."""
    if choices:
        return f"{instruction}\n\nAnswer with exactly one of: {', '.join(choices)}"
    if schema:
        return (
            f"{instruction}\n\nThe answer is JSON that keeps this JSON Schema: {json.dumps(schema, ensure_ascii=False)}"
        )
    return instruction

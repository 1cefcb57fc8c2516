"""The records a run folder is made of. A record that was ever released stays readable: unknown keys are kept or ignored."""

from enum import StrEnum
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

SCHEMA_VERSION = 1

Stage = Literal[
    "synthesize_cot", "extract_policy", "amplify", "train", "evaluate", "export_gguf", "compare_models", "plan_training"
]
Reasoning = Literal["cot", "direct", "mixed"]
ThinkingFormat = Literal["xml", "markdown", "json", "plain", "native"]
Checker = Literal["exact", "normalized", "numeric", "choice", "json", "regex", "rouge_l", "judge"]
ModelName = Literal["base", "student", "gguf", "teacher"]

PIPELINE: tuple[Stage, ...] = ("synthesize_cot", "extract_policy", "amplify", "train", "evaluate", "export_gguf")
"""The stages that make a model, in order. compare_models and plan_training stand beside them."""

AskedMode = Literal["trained", "direct", "reasoning"]
"""How compare_models asks: as each model was made, for the answer alone, or with reasoning."""

MAX_PROMPTS = 100
"""How many inputs compare_models answers."""


class State(StrEnum):
    """The state of a stage. Nothing stores it: it is derived from what is on disk and from the locks."""

    NEW = "new"
    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"

    @property
    def active(self) -> bool:
        """A worker holds the run's lock for it."""
        return self in (State.QUEUED, State.RUNNING, State.PAUSED)


class _Record(BaseModel):
    model_config = ConfigDict(extra="ignore", defer_build=True)  # a server that was just started needs none of them


class Seed(_Record):
    """One of the user's own examples. Held-out seeds are never shown to the teacher with their answer."""

    id: str
    input: str
    output: str = Field(description="The given answer; empty when the teacher is to give it.")
    split: Literal["train", "held_out"]
    labelled: bool = Field(default=True, description="Whether an answer was given.")


class RunSpec(_Record):
    """What was asked for. Two calls with an equal spec are the same run."""

    instruction: str
    teacher: str
    student: str
    augment_factor: int
    reasoning: Reasoning
    response_schema: dict[str, Any]
    preset: str
    options: dict[str, Any] = Field(description="Only what the caller set; the preset fills in the rest.")
    budget_usd: float
    seeds_sha256: str


class Range(_Record):
    """A low and a high estimate."""

    low: float
    high: float


class StageEstimate(_Record):
    """What one stage will take of the teacher."""

    calls: Range
    input_tokens: Range
    output_tokens: Range
    cost_usd: Range | None = Field(description="None when the teacher's price is unknown.")

    @property
    def tokens(self) -> Range:
        """Input and output together."""
        return Range(
            low=self.input_tokens.low + self.output_tokens.low, high=self.input_tokens.high + self.output_tokens.high
        )


class Plan(_Record):
    """What the run will take, estimated before anything is spent."""

    train_seeds: int
    held_out: int
    target_examples: int
    teacher_calls: Range
    teacher_tokens: Range
    cost_usd: Range | None = Field(description="None when the teacher's price is unknown.")
    train_updates: int
    disk_gb: float
    by_stage: dict[str, StageEstimate] = Field(default={}, description="The stages that pay the teacher.")
    teacher_minutes: Range | None = None
    training_minutes: Range | None = Field(
        default=None, description="Rough: from the student's size and the kind of machine."
    )
    assumptions: list[str] = Field(default=[], description="What the numbers rest on, one sentence each.")
    warnings: list[str] = []


class RunManifest(_Record):
    """``run.json``: written once, when the run is created."""

    schema_version: int = SCHEMA_VERSION
    run_id: str
    created_at: str
    package_version: str
    spec: RunSpec
    plan: Plan
    teacher_model: str
    teacher_host: str = ""
    usd_per_mtok: tuple[float, float] | None = Field(description="Prices per million input and output tokens.")
    key_variables: list[str] = Field(description="Environment variables the teacher's worker may be given.")
    student_thinks_natively: bool = False
    student_revision: str = Field(
        default="",
        pattern=r"^([0-9a-f]{40})?$",
        description="The commit of a student from the hub: what was checked is trained.",
    )
    cloned_from: str = ""
    refined_from: str = ""
    generation: int = Field(default=0, description="How often the run was refined, counted from its first ancestor.")
    bundle_sha256: str = Field(default="", description="Of the manifest of the bundle the run was imported from.")
    prompts: dict[str, str] = Field(
        default={}, description="SHA-256 of each prompt that replaces the package's, by template."
    )


class Trace(_Record):
    """A seed solved by the teacher without seeing its answer."""

    id: str
    input: str
    thinking: str
    output: str = Field(description="What the student is taught: the given output, or the teacher's where it labels.")
    teacher_output: str
    other_output: str = Field(default="", description="Another answer the teacher gave, when it labels and disagrees.")
    given_output: str = Field(default="", description="The given output that the teacher's answer replaced.")
    labelled_by: Literal["user", "teacher"] = Field(default="user", description="Whose answer ``output`` is.")
    teacher_thinking: str = Field(
        default="", description="The teacher's own solution, where ``thinking`` is a derived one."
    )
    agrees: bool = Field(description="The teacher's answer equals the given one under the run's checker.")
    derived: bool = Field(
        default=False, description="``thinking`` was written towards the given answer, which was shown."
    )
    objection: str = Field(
        default="", description="What the teacher holds against the given answer, when it was shown."
    )
    confidence: float = Field(description="Measured: the share of the teacher's solutions that agree.")
    split: Literal["train", "held_out"]
    call_ids: list[str]


class TaskPolicy(_Record):
    """What the task demands, in ten fields, and how two answers are compared."""

    task_description: str
    input_format: str
    output_format: str
    reasoning_style: str
    key_constraints: list[str]
    difficulty_level: str
    reasoning_patterns: list[str]
    examples_summary: str
    input_length_range: tuple[int, int]
    output_length_range: tuple[int, int]
    checker: Checker
    choices: list[str] = []
    pattern: str = Field(default="", description="What an answer matches as a whole, when the checker is ``regex``.")
    rubric: str = Field(default="", description="What makes two answers the same, when the checker is ``judge``.")
    tolerance: float = Field(
        default=0.0, ge=0, lt=1, description="Share by which two numbers may differ, when the checker is ``numeric``."
    )
    rouge_l_from: float = Field(
        default=0.5,
        gt=0,
        le=1,
        description="ROUGE-L from which two texts are the same, when the checker is ``rouge_l``.",
    )
    answer_schema: dict[str, Any] = Field(
        default={}, description="A JSON Schema answers keep, when the checker is ``json``."
    )
    topics: list[str] = Field(default=[], description="What inputs are about: new ones are spread over them.")
    personas: list[str] = Field(default=[], description="Who writes inputs: new ones are spread over them.")
    version: int = 1
    source: Literal["teacher", "feedback", "user"] = "teacher"
    restored_from: int = Field(default=-1, description="The earlier version this one repeats; -1 when it repeats none.")


class Example(_Record):
    """A training example with its lineage."""

    id: str
    input: str
    thinking: str
    output: str
    confidence: float
    origin: Literal["seed", "synthetic", "labelled"] = Field(
        description="Given, written by the teacher, or a real input that the teacher answered."
    )
    parents: list[str] = Field(description="Ids of the seeds shown when it was made, or the seed it is.")
    call_ids: list[str]
    policy_version: int = Field(default=0, description="The policy it was made under; 0 for a seed.")
    cell: dict[str, str] = Field(
        default={}, description="What was asked of it: topic, difficulty, length, persona, answer."
    )
    checks: dict[str, Any] = Field(default={}, description="What it passed: the checker, solutions made and agreeing.")
    cost_usd: float = Field(
        default=0.0, description="Its own solutions, and its share of the call that made its input."
    )


class EffectiveExample(Example):
    """An example as it is trained on: as amplify wrote it, or as the user left it."""

    edited: bool = False
    approved: bool = False
    revisions: list[int] = Field(default=[], description="The calls of revise_examples that touched it, by number.")


class RowChange(_Record):
    """One row in a call of revise_examples. The key outlives the id, which another policy gives to another row."""

    action: Literal["drop", "edit", "approve"]
    key: str = Field(description="A hash of the row's input as amplify wrote it.")
    row: Example = Field(description="The whole row after this change; when dropped, as it was.")
    fields: list[str] = Field(default=[], description="What an edit replaced.")
    beside: list[str] = Field(default=[], description="Keys of the near copies that stood beside it and stay.")


class Revision(_Record):
    """One call of revise_examples: all its changes, or none."""

    kind: Literal["revision"] = "revision"
    number: int
    at: str
    moves_data: bool = Field(description="Whether what is trained on differs since.")
    changes: list[RowChange]


class Rejected(_Record):
    """What was not accepted, and why."""

    id: str
    input: str
    output: str = ""
    other_output: str = ""
    reason: Literal[
        "duplicate",
        "seed_copy",
        "near_duplicate",
        "held_out",
        "disagreement",
        "refused",
        "truncated",
        "filtered",
        "empty",
        "wrong_language",
        "invalid",
        "context",
        "not_a_choice",
        "unfit",
        "schema",
        "unfinished",
        "surplus",
        "too_long",
        "dropped",
    ]
    call_ids: list[str] = []
    parents: list[str] = []
    cell: dict[str, str] = {}
    policy_version: int = 0
    cost_usd: float = 0.0


class Spend(_Record):
    """What a journal says was paid."""

    usd: float = 0.0
    input_tokens: int = 0
    output_tokens: int = 0
    calls: int = 0
    failed_calls: int = 0
    in_doubt_calls: int = 0
    in_doubt_usd: float = 0.0
    in_doubt_tokens: int = Field(
        default=0, description="Of calls in flight when a worker died, or failed but perhaps billed."
    )

    @property
    def tokens(self) -> int:
        """All tokens that count against a cap."""
        return self.input_tokens + self.output_tokens + self.in_doubt_tokens


class Paid(_Record):
    """What was paid as of the end of a job, so that a list of runs need not read their journals."""

    journal_bytes: int = Field(
        description="How long the journal was: a journal only grows, so an equal one says the same."
    )
    spend: Spend


class RunTags(_Record):
    """``tags.json``: the user's own words to find a run by. No part of what was asked for."""

    tags: list[str] = []


class RunBudget(_Record):
    """``budget.json``: what the run may spend in all, once it was changed; before that its spec says so."""

    usd: float
    max_calls: int | None = None
    max_total_tokens: int | None = None
    changed_at: str = ""
    earlier: list[dict[str, Any]] = Field(default=[], description="The budgets before, oldest first.")


class JobRequest(_Record):
    """``request.json``: what a worker was started to do."""

    schema_version: int = SCHEMA_VERSION
    stage: Stage
    nonce: str
    requested_at: str
    arguments: dict[str, Any] = {}


class ProcessIdentity(_Record):
    """Enough to know a process again: a pid alone is reused."""

    pid: int
    start_ticks: float
    boot_id: str


class WorkerRecord(_Record):
    """``worker.json``: who does the job. Written before anything heavy is imported."""

    nonce: str
    started_at: str
    worker: ProcessIdentity
    trainer: ProcessIdentity | None = None


class Heartbeat(_Record):
    """``heartbeat.json``: how far a living job is. Never the proof that it lives; that is the lock."""

    at: str
    phase: Literal["queued", "running", "paused"] = "running"
    held: str = Field(default="", description="Why it rests although nobody paused it, in words.")
    done: int = 0
    total: int = 0
    message: str = ""
    live: dict[str, Any] = Field(default={}, description="The newest numbers, such as train_loss.")


class Control(_Record):
    """``control.json``: what is wanted of the job. Cancel is sticky. Stop ends a training early and keeps what it learnt."""

    want: Literal["run", "pause", "stop", "cancel"]


class Exit(_Record):
    """``exit.json``: how the job ended. Written last."""

    outcome: Literal["done", "failed", "cancelled"]
    ended_at: str
    elapsed_s: float
    error_kind: str = ""
    what: str = ""
    next_step: str = ""
    summary: dict[str, Any] = {}
    files: dict[str, str] = {}
    """The SHA-256 of what it wrote, by name, where the next stages build on it."""
    paid: Paid | None = None

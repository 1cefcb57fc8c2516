"""Requests to look at a student and to train it, and what comes back: one request file, one result file, events as lines.

A student process reads its request, appends events to ``metrics_path`` while it works and writes ``result_path`` last,
atomically. A result that is missing means the process died; the log says how, the exit code says by what.
"""

import re
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

_AT_COMMIT = re.compile(r"@[0-9a-f]{40}\Z")

Message = dict[str, str]
"""``{"role": "system" | "user" | "assistant", "content": text}``, the chat form MLX-LM reads."""


class Record(BaseModel):
    """What goes between a worker and a student process."""

    # defer_build: the server imports all of these at its start and uses few
    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)


class InspectRequest(Record):
    """Is this student there, safe and loadable? Loads the tokenizer, never the weights."""

    kind: Literal["inspect"] = "inspect"
    student: str
    local_teacher: str = Field(default="", description="A model whose tokenizer has to be the student's; empty: none.")
    result_path: Path


def without_commit(student: str) -> str:
    """A student as people name it: the id of one that is pinned to a commit of the hub, any other as it is."""
    return _AT_COMMIT.sub("", student)


class StudentFacts(Record):
    """What is known of a student before training it."""

    student: str
    student_path: Path | None = Field(description="The folder that holds it; None while it is only on the hub.")
    model_type: str
    parameters: int
    revision: str = Field(default="", description="The hub's commit that was looked at; empty for a folder.")
    bytes_on_disk: int
    bytes_to_download: int = 0
    layers: int
    hidden_size: int | None = Field(
        default=None, description="Width of its blocks; None when config.json does not say."
    )
    kind: Literal["dense", "mixture of experts", "hybrid"] = Field(
        default="dense", description="Hybrid: not every block attends; a few of its layers have a state instead."
    )
    quantized_bits: int | None = None
    max_position_embeddings: int
    has_chat_template: bool
    thinks_natively: bool = Field(description="Its tokenizer has single tokens for <think> and </think>.")
    licence: str = ""
    warnings: list[str] = []


OptimizerName = Literal["adam", "adamw", "muon", "sgd", "adafactor"]


class DeviceRequest(Record):
    """What is there to train with on this machine? Two steps of a model of a few thousand weights, nothing else."""

    kind: Literal["device"] = "device"
    result_path: Path


class DeviceFacts(Record):
    """Where MLX computes here, with what, and which llama.cpp there is."""

    device: str = Field(description="In words.")
    blas: str | None
    mlx: str
    mlx_lm: str
    elapsed_s: float = Field(description="What the two steps took.")
    learns: bool = Field(description="The loss is a number, and fell.")
    memory_gb: float = Field(description="What a GPU may use; 0 on a CPU, which uses the machine's.")
    llama_cpp: str = Field(description="Its version; empty when it cannot be loaded.")


class Distilling(Record):
    """How a local teacher takes part: ``alpha · T² · KL(teacher ‖ student) + (1 - alpha) · CE`` at every learnt token."""

    local_teacher: str = Field(description="As a student is named; one of the hub at a commit.")
    local_teacher_bits: Literal[4, 8] | None = Field(
        default=None, description="Bits its weights are quantized to after loading."
    )
    alpha: float = Field(gt=0, le=1, description="The teacher's share of the loss.")
    temperature: float = Field(gt=0, description="T: above 1, what the teacher thinks less likely counts for more.")
    top_k: int = Field(ge=1, description="Tokens kept of each of its distributions; the rest is one further outcome.")


class Recipe(Record):
    """Every training option, resolved: nothing is left to a default of the trainer."""

    fine_tune_type: Literal["lora", "dora", "full"] = "lora"
    iters: int = Field(ge=1, description="Batches; an optimizer update every grad_accumulation_steps of them.")
    batch_size: int = Field(ge=1)
    grad_accumulation_steps: int = Field(ge=1)
    learning_rate: float = Field(gt=0)
    lr_schedule: Literal["constant", "cosine", "linear"]
    warmup_updates: int = Field(ge=0)
    final_lr_ratio: float = Field(ge=0, le=1)
    mlx_schedule: dict[str, Any] | None = Field(
        default=None,
        description="MLX-LM's own ``lr_schedule``, in place of learning_rate, lr_schedule and warmup_updates.",
    )
    optimizer: OptimizerName
    weight_decay: float = Field(ge=0)
    optimizer_config: dict[str, Any] = Field(
        default={}, description="Further arguments of MLX's optimizer, by its own names."
    )
    lora_rank: int = Field(ge=1)
    lora_scale: float = Field(gt=0, description="Absolute, as MLX-LM reads it: the update is scale × B·A.")
    lora_dropout: float = Field(ge=0, lt=1)
    lora_keys: list[str] | None = Field(description="Block-relative module names; None means every linear layer.")
    num_layers: int = Field(description="Trained blocks counted from the last; -1 means all.")
    max_seq_length: int = Field(ge=8)
    mask_prompt: bool = True
    grad_checkpoint: bool
    packing: bool = Field(
        default=True, description="Short rows of a batch share a sequence, where the student allows it."
    )
    steps_per_eval: int = Field(ge=1)
    steps_per_checkpoint: int = Field(ge=1)
    patience: int = Field(ge=0, description="Evaluations without a better validation loss before it stops; 0 is never.")
    validation_rows: int = Field(
        default=256,
        ge=1,
        description="Rows measured at an evaluation, evenly spaced, at most: more cost time and tell nothing more.",
    )
    clear_cache_threshold: int | None = Field(
        default=None, ge=0, description="Bytes of MLX's cache above which it is emptied; None leaves it to the device."
    )
    distilling: Distilling | None = Field(default=None, description="None: the student learns from the answers alone.")
    seed: int


class MeasureRequest(Record):
    """Tokenize every row of a dataset in the student's own chat form. Loads the tokenizer, never the weights."""

    kind: Literal["measure"] = "measure"
    student: str
    local_teacher: str = Field(default="", description="A model whose tokenizer has to be the student's; empty: none.")
    dataset_dir: Path
    result_path: Path


class MeasuredRow(Record):
    """A row as the student reads it."""

    tokens: int
    learnt: int = Field(description="Tokens the loss counts: the answer and the token that ends it.")


class Measured(Record):
    """A student, and what it makes of a dataset. Each row was proved to teach its answer and the end of it, nothing else."""

    facts: StudentFacts
    local_teacher: StudentFacts | None = None
    train: list[MeasuredRow]
    valid: list[MeasuredRow]
    quoting_rows: int = Field(
        description="Rows that hold the end token in mid-answer, left out: they teach to stop there."
    )


class ProbeRequest(Record):
    """Take two real training steps on the longest batch, by the first recipe of a ladder that the machine can carry.

    Runs in a process of its own, because running out of memory can end it. It appends ``{"event": "rung", "rung": n}``
    before it tries a rung, so that the worker knows on which it died.
    """

    kind: Literal["probe"] = "probe"
    student: str
    dataset_dir: Path
    recipes: list[Recipe] = Field(description="The ladder, from what is wanted to what takes least.")
    first: int = Field(default=0, ge=0, description="The rung to begin with.")
    memory_limit_bytes: int = Field(gt=0, description="What the machine can spare.")
    is_wanted_limit: bool = Field(default=False, description="The caller set the limit: the device's own is not asked.")
    metrics_path: Path
    result_path: Path


EXIT_OVER_MEMORY = 75
"""The exit code of a probe that ran out of memory, or was about to."""


class Attempt(Record):
    """One rung of the ladder, tried."""

    rung: int
    fits: bool
    peak_memory_gb: float | None = Field(description="None when the process died on it.")


class ProbeResult(Record):
    """What two steps took. ``rung`` is the recipe that fits; None when none of those tried does."""

    rung: int | None
    attempts: list[Attempt]
    memory_limit_gb: float
    device: str
    weights_gb: float
    peak_memory_gb: float = 0.0
    step_s: float = Field(default=0.0, description="Of a batch of the longest rows, once everything is warm.")
    step_tokens: int = Field(default=0, description="Tokens of that batch, padding included.")
    short_step_s: float = Field(default=0.0, description="Of a batch of the shortest rows.")
    short_step_tokens: int = 0
    mean_tokens: float = Field(default=0.0, description="Tokens of a batch, padding included, over the first epochs.")
    valid_tokens: int = Field(default=0, description="Tokens of one evaluation, padding included.")
    trainable_parameters: int = 0
    checkpoint_bytes: int = 0
    losses: list[float] = []
    gradient_norms: list[float] = Field(default=[], description="Of each update of the probe.")
    tensors_without_gradient: int = 0
    trained_tensors: int = 0
    unpacked_because: str = Field(default="", description="Why rows do not share sequences; empty when they do.")
    teacher_peak_memory_gb: float = Field(default=0.0, description="Of the local teacher, alone, on the longest row.")
    teacher_s: float = Field(default=0.0, description="What the local teacher will take to read all training rows.")


class TrainRequest(Record):
    """Train an adapter. Resumes from the newest verified checkpoint when there is one."""

    kind: Literal["train"] = "train"
    student: str
    dataset_dir: Path = Field(description="train.jsonl and valid.jsonl in the chat form.")
    checkpoints_dir: Path
    teaching_dir: Path | None = Field(
        default=None, description="Keeps what a local teacher said of the rows; None: beside the checkpoints."
    )
    adapter_dir: Path = Field(
        description="Receives adapters.safetensors and adapter_config.json when training is done."
    )
    metrics_path: Path
    control_path: Path = Field(description='Atomically replaced by the caller: {"want": "run" | "pause" | "cancel"}.')
    guard_path: Path | None = Field(
        default=None,
        description='The same by the guard of the machine\'s memory: {"want": "run" | "pause" | "unload", "clears": number}.',
    )
    memory_limit_bytes: int | None = Field(
        default=None, gt=0, description="What MLX is to keep to, its cache included."
    )
    result_path: Path
    recipe: Recipe
    ranks: int = Field(default=1, ge=1, description="Processes that train together, each started with this request.")
    start_from: Path | None = Field(
        default=None, description="An adapter of the same shape from which training goes on; None begins anew."
    )


class Taught(Record):
    """What a local teacher said of the training rows."""

    local_teacher: str
    alpha: float
    temperature: float
    top_k: int
    covered: float = Field(description="Mean probability that the kept tokens have together, to the teacher.")
    teacher_loss: float = Field(description="The teacher's own cross-entropy of the answers, in nats per token.")
    tokens: int
    rows: int
    rows_read: int = Field(description="Rows it was asked about by this process; the others were kept from before.")


class TrainResult(Record):
    """How training ended. ``best_iteration`` is the checkpoint the adapter was taken from."""

    stopped: Literal["finished", "early", "stopped", "diverged", "unloaded", "cancelled"]
    why: str = Field(default="", description="What went wrong, when it diverged.")
    device: str = Field(default="", description="Where it was trained, and why there.")
    student_path: Path | None = Field(default=None, description="The folder the student was loaded from.")
    iterations: int
    best_iteration: int
    first_train_loss: float | None = Field(description="Of the first batch, before any update.")
    final_train_loss: float | None = Field(description="Mean over the last iterations.")
    best_valid_loss: float | None
    trained_tokens: int
    trainable_parameters: int
    peak_memory_gb: float
    elapsed_s: float
    rows_trained: int
    rows_dropped: int = Field(description="Rows longer than max_seq_length, or quoting the end token: never cut.")
    resumed_from: int = 0
    taught: Taught | None = Field(default=None, description="Of a student that was also taught by a local teacher.")
    adapter_sha256: str = Field(description="Empty when it was cancelled: no adapter is written then.")


class Failed(Record):
    """An anticipated failure of a student process, in our own words."""

    failed: Literal[True] = True
    kind: str
    what: str
    next_step: str

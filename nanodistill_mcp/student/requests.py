"""What a worker asks of a student process, and what it answers: one request file, one result file, events as lines.

A student process reads its request, appends events to ``metrics_path`` while it works and writes ``result_path`` last,
atomically. A result that is missing means the process died; the log says how, the exit code says by what.
"""

import re
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Message = dict[str, str]

_AT_COMMIT = re.compile(r"@[0-9a-f]{40}\Z")
"""``{"role": "system" | "user" | "assistant", "content": text}``, the chat form MLX-LM reads."""


class _Record(BaseModel):
    # defer_build: the server imports all of them at its start and uses few
    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)


class InspectRequest(_Record):
    """Is this student there, safe and loadable? Loads the tokenizer, never the weights."""

    kind: Literal["inspect"] = "inspect"
    student: str
    local_teacher: str = Field(default="", description="A model whose tokenizer has to be the student's; empty: none.")
    result_path: Path


def without_commit(student: str) -> str:
    """A student as people name it: the id of one that is pinned to a commit of the hub, any other as it is."""
    return _AT_COMMIT.sub("", student)


class StudentFacts(_Record):
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


class DeviceRequest(_Record):
    """What is there to train with on this machine? Two steps of a model of a few thousand weights, nothing else."""

    kind: Literal["device"] = "device"
    result_path: Path


class DeviceFacts(_Record):
    """Where MLX computes here, with what, and which llama.cpp there is."""

    device: str = Field(description="In words.")
    blas: str | None
    mlx: str
    mlx_lm: str
    elapsed_s: float = Field(description="What the two steps took.")
    learns: bool = Field(description="The loss is a number, and fell.")
    memory_gb: float = Field(description="What a GPU may use; 0 on a CPU, which uses the machine's.")
    llama_cpp: str = Field(description="Its version; empty when it cannot be loaded.")


class Distilling(_Record):
    """How a local teacher takes part: ``alpha · T² · KL(teacher ‖ student) + (1 - alpha) · CE`` at every learnt token."""

    local_teacher: str = Field(description="As a student is named; one of the hub at a commit.")
    local_teacher_bits: Literal[4, 8] | None = Field(
        default=None, description="Bits its weights are quantized to after loading."
    )
    alpha: float = Field(gt=0, le=1, description="The teacher's share of the loss.")
    temperature: float = Field(gt=0, description="T: above 1, what the teacher thinks less likely counts for more.")
    top_k: int = Field(ge=1, description="Tokens kept of each of its distributions; the rest is one further outcome.")


class Recipe(_Record):
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


class MeasureRequest(_Record):
    """Tokenize every row of a dataset in the student's own chat form. Loads the tokenizer, never the weights."""

    kind: Literal["measure"] = "measure"
    student: str
    local_teacher: str = Field(default="", description="A model whose tokenizer has to be the student's; empty: none.")
    dataset_dir: Path
    result_path: Path


class MeasuredRow(_Record):
    """A row as the student reads it."""

    tokens: int
    learnt: int = Field(description="Tokens the loss counts: the answer and the token that ends it.")


class Measured(_Record):
    """A student, and what it makes of a dataset. Each row was proved to teach its answer and the end of it, nothing else."""

    facts: StudentFacts
    local_teacher: StudentFacts | None = None
    train: list[MeasuredRow]
    valid: list[MeasuredRow]
    quoting_rows: int = Field(
        description="Rows that hold the end token in mid-answer, left out: they teach to stop there."
    )


class ProbeRequest(_Record):
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


class Attempt(_Record):
    """One rung of the ladder, tried."""

    rung: int
    fits: bool
    peak_memory_gb: float | None = Field(description="None when the process died on it.")


class ProbeResult(_Record):
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


class TrainRequest(_Record):
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


class Taught(_Record):
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


class TrainResult(_Record):
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


class Variant(_Record):
    """One model to ask: the base, or the base with an adapter."""

    name: str
    adapter_dir: Path | None = None


class GenerateRequest(_Record):
    """Answer prompts with one or more variants of a student, greedily and in batches. Rows already answered are kept."""

    kind: Literal["generate"] = "generate"
    student: str
    variants: list[Variant]
    prompts_path: Path = Field(
        description='JSONL of {"id": str, "messages": [Message]}, and "max_tokens" where a prompt has a limit of its own.'
    )
    output_path: Path = Field(description="JSONL of Generated rows, appended batch by batch, in any order.")
    metrics_path: Path
    result_path: Path
    max_tokens: int = Field(ge=1)
    batch_size: int = Field(default=16, ge=1)


class Generated(_Record):
    """One answer. ``text`` is what the model wrote after the prompt, special tokens left out."""

    id: str
    variant: str
    text: str
    prompt_tokens: int
    completion_tokens: int
    elapsed_s: float = Field(description="This row's share of its batch.")
    finish_reason: Literal["stop", "length"]


class ExportRequest(_Record):
    """Fuse the adapter into unquantized weights and write a GGUF file from them, in one pass."""

    kind: Literal["export"] = "export"
    student: str
    adapter_dir: Path
    fused_dir: Path = Field(description="Receives the fused model in MLX/HF form; its adapters/ folder is left alone.")
    gguf_path: Path
    quantization: str
    metrics_path: Path
    result_path: Path


class ExportResult(_Record):
    """What was written. ``tensor_types`` counts tensors by GGUF type."""

    gguf_bytes: int
    gguf_sha256: str
    architecture: str
    quantization: str
    tensor_types: dict[str, int]
    quantizer: Literal["ggml", "numpy"]
    stop_texts: list[str]
    context_length: int
    keeps_system: bool = Field(default=True, description="The chat template has a place for a system message.")
    elapsed_s: float


class FormsRequest(_Record):
    """Write a fused student and its adapter in further forms, each in a folder below ``out_dir``."""

    kind: Literal["forms"] = "forms"
    base_name: str = Field(description="The base as others know it; named in the files, not read.")
    adapter_dir: Path
    fused_dir: Path
    out_dir: Path
    forms: list[str]
    metrics_path: Path
    result_path: Path


class FormsResult(_Record):
    """Where each form lies, and why others could not be written."""

    written: dict[str, str]
    left_out: dict[str, str]


class VerifyRequest(_Record):
    """Load a GGUF file in llama.cpp, hold it against the fused model and the adapter, and answer prompts with it.

    Runs in a process of its own: a bad file can abort llama.cpp.
    """

    kind: Literal["verify"] = "verify"
    gguf_path: Path
    fused_dir: Path
    student: str = Field(default="", description="The base; with the adapter it is what was trained.")
    adapter_dir: Path | None = Field(default=None, description="None: the fused model itself is all there is.")
    prompts_path: Path
    output_path: Path
    metrics_path: Path
    result_path: Path
    max_tokens: int = Field(ge=1)
    parity_prompts: int = Field(default=3, ge=0, description="Prompts whose next-token distributions are compared.")


class VerifyResult(_Record):
    """The parity of a GGUF file with the fused model it was written from."""

    loads: bool = Field(description="False only when llama.cpp is not usable here; a file it refuses is an error.")
    runtime: str
    strings_checked: int
    strings_equal: int
    prompt_ids_equal: bool
    positions_compared: int
    top1_agreement: float | None
    mean_kl: float | None = Field(description="KL(fused ‖ GGUF) in nats, mean over the compared positions.")
    fused_kl: float | None = Field(default=None, description="KL(adapter ‖ fused) in nats: what fusing changed.")
    fused_top1_agreement: float | None = None
    trained_kl: float | None = Field(default=None, description="KL(adapter ‖ base) in nats: what training changed.")
    layout_proven_by: str = Field(
        default="",
        description="The quantization whose distributions matched the fused model within rounding: the file's own, or "
        "F16 from a temporary file when the file's is too coarse to tell; empty when nothing was compared.",
    )
    stops_by_itself: bool
    warnings: list[str] = []


class AskGgufRequest(_Record):
    """Answer prompts with a GGUF file in llama.cpp. ``variant`` names it in the rows."""

    kind: Literal["ask_gguf"] = "ask_gguf"
    gguf_path: Path
    variant: str = "gguf"
    prompts_path: Path
    output_path: Path
    metrics_path: Path
    result_path: Path
    max_tokens: int = Field(ge=1)


class Done(_Record):
    """The result of a request that has nothing more to say than that it was carried out."""

    rows: int = 0


class Failed(_Record):
    """An anticipated failure of a student process, in our own words."""

    failed: Literal[True] = True
    kind: str
    what: str
    next_step: str


StudentRequest = (
    InspectRequest
    | MeasureRequest
    | ProbeRequest
    | TrainRequest
    | GenerateRequest
    | ExportRequest
    | FormsRequest
    | VerifyRequest
    | AskGgufRequest
    | DeviceRequest
)

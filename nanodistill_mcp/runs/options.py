"""Every option of a run, with its range and its meaning. The table in the documentation is made from this model."""

from typing import Annotated, Any, Literal, Self, cast

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from nanodistill_mcp.runs.records import ThinkingFormat

Share = Annotated[float, Field(ge=0, le=0.9)]


class Options(BaseModel):
    """What a caller may set. An option left out is resolved from the preset, the data and the machine."""

    # defer_build: built when a run is made, not when a client starts the server
    model_config = ConfigDict(extra="forbid", defer_build=True)

    # The data
    test_path: str | None = Field(
        default=None, description="A file of further held-out examples, of any size, never trained on."
    )
    inputs_path: str | None = Field(
        default=None,
        description="A file of real inputs (.txt one a line, .json, .jsonl, .csv) that amplify answers before it writes any.",
    )
    inputs_only: bool | None = Field(
        default=None, description="Train on the seeds and the inputs of inputs_path alone; write no new ones."
    )
    relabel: bool | None = Field(
        default=None,
        description="Replace the seeds' outputs by the teacher's where its solutions agree with each other.",
    )
    malformed: Literal["refuse", "set_aside"] | None = Field(
        default=None,
        description="What becomes of rows of the given files that cannot be used: the first one refuses the file (default), or up to half of them are counted, named in set_aside.jsonl, and left out.",
    )
    held_out_split: Share | None = Field(
        default=None, description="Share of the seeds kept aside as held-out; default 0.2, at least 2 of 5 or more."
    )
    held_out: list[int] | None = Field(
        default=None,
        max_length=10_000,
        description="Numbers of the examples to hold out, counted from 1 without repetitions, in place of drawn ones.",
    )
    val_split: Share | None = Field(
        default=None, description="Share of the training examples used as the validation set."
    )

    tags: list[str] | None = Field(
        default=None,
        max_length=10,
        description="Words to find the run by in the list; no part of what it is, and changed by control_job(action='tag').",
    )

    # What the student learns to write
    cot_share: Annotated[float, Field(ge=0, le=1)] | None = Field(
        default=None,
        description="With reasoning='mixed': share of the examples taught with their reasoning; default 0.5.",
    )
    thinking_format: ThinkingFormat | None = Field(
        default=None,
        description="How reasoning and answer stand in the student's text; default native where it has such tags, else xml.",
    )

    # The teacher
    teacher_concurrency: int | None = Field(
        default=None,
        ge=1,
        le=128,
        description="Calls in flight at most, 32 by default; it starts with 4 and finds what the provider takes.",
    )
    teacher_max_tokens: int | None = Field(
        default=None, ge=16, le=64000, description="Output tokens of one call at most."
    )
    temperature: float | None = Field(default=None, ge=0, le=2, description="Sent only to models that accept it.")
    litellm: dict[str, Any] | None = Field(
        default=None,
        description="How the teacher writes, by LiteLLM's names: top_p, top_k, seed, presence_penalty, frequency_penalty, stop, reasoning_effort.",
    )
    max_calls: int | None = Field(
        default=None, ge=1, description="A cap on calls; needed when the teacher's price is unknown."
    )
    max_total_tokens: int | None = Field(
        default=None, ge=1000, description="A cap on tokens; needed when the price is unknown."
    )
    examples_per_call: int | None = Field(default=None, ge=1, le=20, description="New inputs asked for in one call.")
    solutions_per_example: int | None = Field(
        default=None, ge=1, le=8, description="Independent solutions of a new input that all have to agree; default 2."
    )

    # The student
    fine_tune_type: Literal["lora", "dora", "full"] | None = Field(default=None, description="What is trained.")
    num_train_epochs: float | None = Field(default=None, gt=0, le=100, description="Passes over the training examples.")
    batch_size: int | None = Field(default=None, ge=1, le=256, description="Rows in one batch.")
    gradient_accumulation_steps: int | None = Field(default=None, ge=1, le=256, description="Batches in one update.")
    learning_rate: float | None = Field(default=None, gt=0, le=1, description="Peak learning rate.")
    lr_schedule: Literal["constant", "cosine", "linear"] | None = Field(default=None, description="After the warmup.")
    warmup_ratio: float | None = Field(default=None, ge=0, le=0.5, description="Share of the updates spent warming up.")
    warmup_steps: int | None = Field(
        default=None,
        ge=0,
        le=1_000_000,
        description="Updates spent warming up; given, it takes the place of warmup_ratio.",
    )
    optimizer: Literal["adam", "adamw", "muon", "sgd", "adafactor"] | None = Field(
        default=None, description="The optimizer."
    )
    weight_decay: float | None = Field(default=None, ge=0, le=1, description="Weight decay; not for adam.")
    lora_rank: int | None = Field(default=None, ge=1, le=512, description="Rank of the adapter.")
    lora_scale: float | None = Field(
        default=None, gt=0, le=100, description="MLX-LM's absolute scale (alpha ÷ rank elsewhere)."
    )
    lora_alpha: float | None = Field(
        default=None, gt=0, le=10_000, description="PEFT's and Unsloth's alpha: lora_scale is it ÷ lora_rank."
    )
    lora_dropout: float | None = Field(default=None, ge=0, lt=1, description="Dropout inside the adapter.")
    lora_layers: int | None = Field(default=None, ge=-1, description="Trained blocks counted from the last; -1 is all.")
    lora_keys: list[str] | None = Field(
        default=None, description="Block-relative module names; left out, or 'auto', all linear layers of the student."
    )
    max_seq_length: int | None = Field(
        default=None, ge=16, le=131072, description="Longer rows are dropped with a count, never cut."
    )
    gradient_checkpointing: bool | None = Field(default=None, description="Less memory for more time.")
    packing: bool | None = Field(
        default=None,
        description="Short rows of a batch share a sequence, each seeing itself alone: the same losses, faster; default true.",
    )
    early_stopping_patience: int | None = Field(
        default=None, ge=0, le=100, description="Evaluations without a gain; 0 never stops early."
    )
    local_teacher: Annotated[str, Field(min_length=1, max_length=4096)] | None = Field(
        default=None,
        description="A larger model on this machine or the hub, named as a student is and with the student's tokenizer: the "
        "student also learns its probabilities.",
    )
    local_teacher_bits: Literal[4, 8] | None = Field(
        default=None, description="Quantize the local teacher after loading: less memory."
    )
    distill_alpha: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="With local_teacher: its share of the loss, default 0.5 and 0.9 at most; the rest is the answers' own.",
    )
    distill_temperature: float | None = Field(
        default=None,
        ge=0.1,
        le=20,
        description="With local_teacher: T; above 1 its less likely tokens count for more. Default 2.",
    )
    distill_top_k: int | None = Field(
        default=None,
        ge=1,
        le=4096,
        description="With local_teacher: its most likely tokens that are kept, all others together being one more; default 64.",
    )
    max_memory_gb: float | None = Field(
        default=None,
        gt=0,
        le=4096,
        description="Memory training may take, its own process included; above it, it gives its cache back, else stops. "
        "Left out, nine tenths of the machine's.",
    )
    memory_hard_limit_gb: float | None = Field(
        default=None,
        gt=0,
        le=4096,
        description="Memory at which training is ended at once, to go on from its last checkpoint, twice at most; "
        "left out, 95 % of the machine's.",
    )
    cpu_capacity_percent: float | None = Field(
        default=None,
        ge=10,
        le=100,
        description="Training pauses while other programs use more of the processors or the memory, for 300 s at most; "
        "0.8 is 80, and 100 is never.",
    )
    mlx_lm: dict[str, Any] | None = Field(
        default=None, description="MLX-LM's own options by their true names (see training.md); no paths, no hub."
    )
    seed: int | None = Field(
        default=None, ge=0, le=2**31 - 1, description="Of the split, the data order and the adapter's start."
    )
    max_new_tokens: int | None = Field(
        default=None, ge=1, le=32768, description="Tokens of one of the student's answers at most."
    )

    @model_validator(mode="before")
    @classmethod
    def _of_older_runs(cls, value: Any) -> Any:
        if not isinstance(value, dict) or "memory_limit_gb" not in value:
            return cast("Any", value)
        given = cast("dict[str, Any]", value)
        return {("max_memory_gb" if name == "memory_limit_gb" else name): each for name, each in given.items()}

    @field_validator("cpu_capacity_percent", mode="before")
    @classmethod
    def _share_in_percent(cls, value: Any) -> Any:
        is_share = isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= 1
        return 100 * value if is_share else value

    @model_validator(mode="after")
    def _hard_is_not_below_max(self) -> Self:
        most, hard = self.max_memory_gb, self.memory_hard_limit_gb
        if most is not None and hard is not None and hard < most:
            raise ValueError("memory_hard_limit_gb must be at least max_memory_gb")
        return self


FIXED_AT_CREATION = (
    "test_path",
    "inputs_path",
    "inputs_only",
    "relabel",
    "held_out_split",
    "held_out",
    "malformed",
    "cot_share",
    "thinking_format",
    "tags",
)
"""Options that train does not take: what they say was done, or is told to everyone who reads the student's texts."""


TRAINING_OPTIONS = (
    *(
        "fine_tune_type",
        "num_train_epochs",
        "batch_size",
        "gradient_accumulation_steps",
        "learning_rate",
        "lr_schedule",
    ),
    *(
        "warmup_ratio",
        "warmup_steps",
        "optimizer",
        "weight_decay",
        "lora_rank",
        "lora_scale",
        "lora_alpha",
        "lora_dropout",
    ),
    *(
        "lora_layers",
        "lora_keys",
        "max_seq_length",
        "gradient_checkpointing",
        "packing",
        "early_stopping_patience",
        "val_split",
    ),
    *("local_teacher", "local_teacher_bits", "distill_alpha", "distill_temperature", "distill_top_k"),
    *("max_memory_gb", "memory_hard_limit_gb", "cpu_capacity_percent", "seed"),
)
"""Options that decide how a student is trained."""


def set_options(options: Options) -> dict[str, Any]:
    """Only what the caller set, as plain values. Tags are no part of it: a run is the same under any."""
    return options.model_dump(exclude_none=True, exclude={"tags"})

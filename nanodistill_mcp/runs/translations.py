"""Options under the names other tools give them: PEFT's and Unsloth's, LiteLLM's, and all of MLX-LM's own under ``mlx_lm``.

What means the same is renamed; what means something else is computed and told, such as PEFT's alpha, which MLX-LM's absolute
scale is not. What would read or write elsewhere, or send something, is refused with what to do instead.
"""

import math
import re
from collections.abc import Mapping
from typing import Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from nanodistill_mcp.errors import UserInputError, refused_values
from nanodistill_mcp.runs.options import TRAINING_OPTIONS
from nanodistill_mcp.runs.sampling import LITELLM, translate_litellm

MLX_LM = ("mlx_lm", "mlx_lm_kwargs")

_TEACHERS = ("teacher_model_path", "teacher_model_name_or_path")
_RENAMED = {
    **dict.fromkeys(("r", "lora_r", "rank"), "lora_rank"),
    **dict.fromkeys(("lr",), "learning_rate"),
    **dict.fromkeys(("epochs", "num_epochs"), "num_train_epochs"),
    **dict.fromkeys(("per_device_train_batch_size",), "batch_size"),
    **dict.fromkeys(("grad_accumulation_steps",), "gradient_accumulation_steps"),
    **dict.fromkeys(("grad_checkpoint", "use_gradient_checkpointing"), "gradient_checkpointing"),
    **dict.fromkeys(("num_layers",), "lora_layers"),
    **dict.fromkeys(("lr_scheduler_type",), "lr_schedule"),
    **dict.fromkeys(("random_state",), "seed"),
    **dict.fromkeys(("optim",), "optimizer"),
    **dict.fromkeys(("target_modules",), "lora_keys"),
    **dict.fromkeys(("memory_limit_gb",), "max_memory_gb"),
    **dict.fromkeys(_TEACHERS, "local_teacher"),
    **dict.fromkeys(("kd_alpha", "kd_ratio", "distillation_alpha"), "distill_alpha"),
    **dict.fromkeys(("kd_temperature", "distillation_temperature"), "distill_temperature"),
    **dict.fromkeys(("kd_top_k", "top_logits_num"), "distill_top_k"),
}
_IN_DISTILLATION = {
    "teacher": "local_teacher",
    **dict.fromkeys(("alpha", "kd_ratio"), "distill_alpha"),
    "temperature": "distill_temperature",
    **dict.fromkeys(("top_k", "top_logits_num"), "distill_top_k"),
}
_IN_LORA_PARAMETERS = {
    "rank": "lora_rank",
    "scale": "lora_scale",
    "dropout": "lora_dropout",
    "keys": "lora_keys",
    "alpha": "lora_alpha",
}
_ELSEWHERE = {
    **dict.fromkeys(("model",), "the run's own student is trained: create_run(student=...) or clone_run(student=...)"),
    **dict.fromkeys(
        ("data", "hf_dataset", "prompt_feature", "completion_feature", "chat_feature", "text_feature"),
        "the run's own examples are trained on: amplify makes them, revise_examples changes them",
    ),
    **dict.fromkeys(
        ("adapter_path", "resume_adapter_file"),
        "adapter and checkpoints stay in the run's folder, and train goes on from them by itself",
    ),
    **dict.fromkeys(("train", "test", "test_batches"), "train trains, and evaluate tests on held-out examples"),
    **dict.fromkeys(("config",), "give its keys here, in options.mlx_lm"),
    **dict.fromkeys(
        ("report_to", "project_name"),
        "nothing is sent anywhere: read_artifact(artifact='metrics.jsonl') has every step",
    ),
    **dict.fromkeys(("trust_remote_code",), "code from a model's folder is never run"),
}
_MODULES = {
    **{f"{name}_proj": f"self_attn.{name}_proj" for name in ("q", "k", "v", "o")},
    **{f"{name}_proj": f"mlp.{name}_proj" for name in ("gate", "up", "down")},
}
_ARGUMENTS = {
    "adam": ("betas", "eps", "bias_correction"),
    "adamw": ("betas", "eps", "bias_correction", "weight_decay"),
    "muon": ("momentum", "weight_decay", "nesterov", "ns_steps"),
    "sgd": ("momentum", "weight_decay", "dampening", "nesterov"),
    "adafactor": (
        *(
            "eps",
            "clip_threshold",
            "decay_rate",
            "beta_1",
            "weight_decay",
            "scale_parameter",
            "relative_step",
            "warmup_init",
        ),
    ),
}
_SCHEDULES = {"cosine_decay": (2, 3), "exponential_decay": (2, 2), "linear_schedule": (3, 3), "step_decay": (3, 3)}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)B?\Z", re.IGNORECASE)
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


class MlxSchedule(BaseModel):
    """MLX-LM's ``lr_schedule``: a schedule of MLX by its name, with its arguments, in updates."""

    model_config = ConfigDict(extra="forbid", defer_build=True)

    name: Literal["cosine_decay", "exponential_decay", "linear_schedule", "step_decay"]
    arguments: list[float] = Field(min_length=2, max_length=3)
    warmup: int = Field(default=0, ge=0)
    warmup_init: float = Field(default=0.0, ge=0)

    @field_validator("arguments")
    @classmethod
    def _first_is_a_rate(cls, value: list[float]) -> list[float]:
        if not 0 < value[0] <= 1:
            raise ValueError("the first argument is the peak learning rate, above 0 and at most 1")
        return value


class MlxLm(BaseModel):
    """What MLX-LM's trainer takes and no option of ours covers, by MLX-LM's own names."""

    model_config = ConfigDict(extra="forbid", defer_build=True)

    iters: int | None = Field(default=None, ge=1, le=10_000_000)
    val_batches: int | None = Field(default=None, ge=-1)
    steps_per_report: int | None = Field(default=None, ge=1)
    steps_per_eval: int | None = Field(default=None, ge=1)
    save_every: int | None = Field(default=None, ge=1)
    clear_cache_threshold: int | None = Field(default=None, ge=0)
    mask_prompt: bool | None = None
    optimizer_config: dict[str, dict[str, float | bool | list[float] | None]] | None = None
    lr_schedule: MlxSchedule | None = None

    @field_validator("clear_cache_threshold", mode="before")
    @classmethod
    def _in_bytes(cls, value: Any) -> Any:
        found = _SIZE.match(value.strip()) if isinstance(value, str) else None
        return int(float(found[1]) * _UNITS[found[2].upper()]) if found else value

    @field_validator("optimizer_config")
    @classmethod
    def _known_arguments(cls, value: dict[str, dict[str, Any]] | None) -> dict[str, dict[str, Any]] | None:
        for name, arguments in (value or {}).items():
            if name not in _ARGUMENTS or set(arguments) - set(_ARGUMENTS[name]):
                raise ValueError("; ".join(f"{each}: {', '.join(known)}" for each, known in _ARGUMENTS.items()))
        return value

    @field_validator("lr_schedule")
    @classmethod
    def _as_many_arguments(cls, value: MlxSchedule | None) -> MlxSchedule | None:
        if value and not _SCHEDULES[value.name][0] <= len(value.arguments) <= _SCHEDULES[value.name][1]:
            raise ValueError(f"{value.name} takes {_SCHEDULES[value.name][0]} arguments")
        return value


def translate(given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Options as the caller named them, under our names.

    Returns:
        The options, not yet checked for their ranges, and for each that was renamed or computed how.

    Raises:
        UserInputError: A name of another tool that has no meaning here, two names of one option with two values, or
            something in ``mlx_lm`` that is refused.
    """
    told = _Translated()
    for name, value in given.items():
        if name in MLX_LM:
            _translate_mlx(value, told)
        elif name in LITELLM:
            translate_litellm(value, told.put)
        elif name == "distillation":
            _translate_distillation(value, told)
        elif name == "alpha" and given.keys() & {"local_teacher", *_TEACHERS}:  # without one it may be anybody's alpha
            told.put("distill_alpha", value, name)
        else:
            _translate_one(name, value, name, told)
    if told.by_root:
        _divide_by_root(told)
    return told.options, told.notes


def _divide_by_root(told: "_Translated") -> None:
    alpha, rank = told.options.pop("lora_alpha", None), told.options.get("lora_rank")
    if not isinstance(alpha, int | float) or not isinstance(rank, int) or rank < 1:
        raise UserInputError(
            "options.use_rslora needs a rank and an alpha.", next_step="Give lora_rank and lora_alpha beside it."
        )
    told.put("lora_scale", alpha / math.sqrt(rank), "use_rslora", f"rsLoRA: alpha {alpha:g} ÷ √{rank}")


class _Translated:
    """What was understood so far."""

    def __init__(self) -> None:
        self.options: dict[str, Any] = {}
        self.notes: dict[str, str] = {}
        self._from: dict[str, str] = {}
        self.by_root = False
        """rsLoRA (Kalajdzievski 2023, arXiv 2312.03732): alpha is divided by the rank's square root."""

    def put(self, name: str, value: Any, source: str, note: str = "") -> None:
        if name in self.options and self.options[name] != value:
            raise UserInputError(
                f"options.{self._from[name]} and options.{source} are the same option with two values.",
                next_step=f"Give options.{name} once.",
            )
        self.options[name], self._from[name] = value, source
        if note or source != name:
            self.notes[name] = note or f"given as {source}"


def _translate_one(name: str, value: Any, source: str, told: _Translated) -> None:
    match name, value:
        case "use_dora", bool():
            if value:
                told.put("fine_tune_type", "dora", source)
        case "use_rslora", bool():
            told.by_root = value
        case "bias", "none":
            told.notes["bias"] = "none is what is always done: no bias is trained"
        case (("gradient_checkpointing" | "use_gradient_checkpointing"), "unsloth"):
            told.put("gradient_checkpointing", True, source, "'unsloth' is plain gradient checkpointing here")  # noqa: FBT003
        case (("optim" | "optimizer"), str()) if value.startswith("adamw"):
            told.put(
                "optimizer", "adamw", source, "" if value == "adamw" else "the 8-bit and fused variants are for CUDA"
            )
        case (("target_modules" | "lora_keys"), ("auto" | "all-linear" | "all" | ["auto"])):
            told.notes["lora_keys"] = "all linear layers, as by default"
        case (("target_modules" | "lora_keys"), list()):
            names = cast("list[Any]", value)
            mapped = [_MODULES.get(each, each) if isinstance(each, str) else each for each in names]
            note = "as in a Llama block: MLX-LM names modules from the block on" if mapped != names else ""
            told.put("lora_keys", mapped, source, note)
        case _:
            told.put(_RENAMED.get(name, name), value, source)


def _translate_mlx(given: Any, told: _Translated) -> None:
    if not isinstance(given, dict):
        raise UserInputError("options.mlx_lm is not an object.", next_step=f"Give names and values. {_mlx_names()}")
    left: dict[str, Any] = {}
    for key, value in cast("dict[Any, Any]", given).items():
        name = str(key).lstrip("-").replace("-", "_")
        source = f"mlx_lm.{name}"
        if name in _ELSEWHERE:
            raise UserInputError(f"options.{source} is not taken: {_ELSEWHERE[name]}.", next_step=_mlx_names())
        if name == "lora_parameters" and isinstance(value, dict):
            _translate_lora_parameters(cast("dict[Any, Any]", value), told)
        elif name in MlxLm.model_fields and not (name == "lr_schedule" and isinstance(value, str)):
            left[name] = value
        elif name in TRAINING_OPTIONS or name in _RENAMED or name in ("use_dora", "use_rslora", "bias"):
            _translate_one(name, value, source, told)
        else:
            shown = f"options.mlx_lm.{name}" if re.fullmatch(r"\w{1,40}", name) else "A name in options.mlx_lm"
            raise UserInputError(f"{shown} is no option of MLX-LM's trainer.", next_step=_mlx_names())
    if left:
        told.put("mlx_lm", _checked(left), "mlx_lm")


def _translate_lora_parameters(given: dict[Any, Any], told: _Translated) -> None:
    for name, value in given.items():
        if name not in _IN_LORA_PARAMETERS:
            raise UserInputError(
                "options.mlx_lm.lora_parameters has a name that MLX-LM does not know.",
                next_step="It takes rank, scale, dropout and keys; and alpha, which is divided by the rank.",
            )
        _translate_one(_IN_LORA_PARAMETERS[name], value, f"mlx_lm.lora_parameters.{name}", told)


def _translate_distillation(given: Any, told: _Translated) -> None:
    """NLM's and others' section of that name. Its temperature is the loss's, where ``temperature`` elsewhere is a teacher's."""
    if not isinstance(given, dict) or given.keys() - _IN_DISTILLATION.keys():
        raise UserInputError(
            "options.distillation has something that is not taken.",
            next_step=f"It takes an object of {', '.join(_IN_DISTILLATION)}: the local teacher and how it takes part.",
        )
    for name, value in cast("dict[str, Any]", given).items():
        told.put(_IN_DISTILLATION[name], value, f"distillation.{name}")


def _checked(left: dict[str, Any]) -> dict[str, Any]:
    try:
        return MlxLm.model_validate(left).model_dump(exclude_none=True)
    except ValidationError as error:
        told = refused_values(error, under="mlx_lm")
        raise UserInputError(f"The options are not accepted: {told}.", next_step=_mlx_names()) from None


def _mlx_names() -> str:
    own = ("fine_tune_type", "optimizer", "num_layers", "batch_size", "learning_rate", "grad_accumulation_steps")
    names = (*own, "max_seq_length", "grad_checkpoint", "seed", "lora_parameters", *MlxLm.model_fields)
    return f"options.mlx_lm takes: {', '.join(names)}."

"""How a student is trained: every option resolved from what the caller set, the preset, the data and the student."""

import math
from typing import Any, TypeVar

from nanodistill_mcp.errors import UserInputError
from nanodistill_mcp.runs.options import Options
from nanodistill_mcp.student.requests import Recipe

_RECOMMENDED: dict[str, Any] = {
    "num_train_epochs": 3.0,
    "batch_size": 4,
    "gradient_accumulation_steps": 2,
    "learning_rate": 1e-4,
    "lr_schedule": "cosine",
    "warmup_ratio": 0.06,
    "optimizer": "adamw",
    "weight_decay": 0.01,
    "lora_rank": 16,
    "lora_scale": 2.0,
    "lora_dropout": 0.0,
    "lora_layers": -1,
    "max_seq_length": 2048,
    "gradient_checkpointing": False,
    "early_stopping_patience": 3,
    "val_split": 0.1,
    "temperature": None,
}

PRESETS: dict[str, dict[str, Any]] = {
    "recommended": {},
    # The defaults of the library this project is named after, exactly; its scale is MLX-LM's own default.
    "nanodistill": {
        "learning_rate": 1e-5,
        "lora_rank": 8,
        "lora_scale": 20.0,
        "lora_layers": 4,
        "num_train_epochs": 1.0,
        "batch_size": 1,
        "gradient_accumulation_steps": 1,
        "max_seq_length": 256,
        "val_split": 0.2,
        "temperature": 0.7,
        "lr_schedule": "constant",
        "warmup_ratio": 0.0,
        "optimizer": "adam",
        "weight_decay": 0.0,
        "early_stopping_patience": 0,
    },
    "minimal": {
        "num_train_epochs": 1.0,
        "batch_size": 1,
        "gradient_accumulation_steps": 4,
        "lora_rank": 8,
        "max_seq_length": 512,
    },
    "low_memory": {
        "batch_size": 1,
        "gradient_accumulation_steps": 8,
        "lora_rank": 8,
        "lora_layers": 8,
        "max_seq_length": 512,
        "gradient_checkpointing": True,
    },
    "high_performance": {"batch_size": 8, "gradient_accumulation_steps": 1, "lora_rank": 32, "max_seq_length": 4096},
    "quick": {"num_train_epochs": 1.0, "lora_rank": 8, "early_stopping_patience": 0},
    "production": {
        "num_train_epochs": 4.0,
        "lora_rank": 32,
        "lora_dropout": 0.05,
        "early_stopping_patience": 4,
        "max_seq_length": 4096,
    },
    "exploration": {"num_train_epochs": 2.0, "learning_rate": 2e-4, "early_stopping_patience": 2},
}

_V = TypeVar("_V")

_FEWEST_UPDATES, _MOST_UPDATES = 100, 600
_EVALUATIONS = 10
_HOT = 1e-3


def preset_options(preset: str, options: Options) -> Options:
    """What the caller set, over the preset, over the recommended values.

    Raises:
        UserInputError: There is no such preset.
    """
    if preset not in PRESETS:
        raise UserInputError("That is not a preset.", next_step=f"Presets: {', '.join(PRESETS)}.")
    return Options.model_validate({**_RECOMMENDED, **PRESETS[preset], **options.model_dump(exclude_none=True)})


def resolve(preset: str, options: Options, *, rows: int, layers: int) -> tuple[Recipe, dict[str, str]]:
    """Resolve every training option.

    Args:
        preset: The preset's name.
        options: What the caller set.
        rows: Training rows.
        layers: Blocks of the student.

    Returns:
        The recipe, and the reason for each value that is not simply the preset's.
    """
    reasons: dict[str, str] = {}
    o = preset_options(preset, options)
    batch_size = min(_given(o.batch_size), rows)
    if batch_size < _given(o.batch_size):
        reasons["batch_size"] = f"lowered to the {rows} rows there are"
    accumulation = max(1, min(_given(o.gradient_accumulation_steps), math.ceil(rows / batch_size)))
    batches = max(1, math.ceil(_given(o.num_train_epochs) * rows / batch_size))
    updates = math.ceil(batches / accumulation)
    if preset == "recommended" and options.num_train_epochs is None:
        clamped = min(max(updates, _FEWEST_UPDATES), _MOST_UPDATES)
        if clamped != updates:
            reasons["num_train_epochs"] = (
                f"{clamped * accumulation * batch_size / rows:.1f} passes instead of {o.num_train_epochs:g}, "
                f"for {clamped} updates: fewer than {_FEWEST_UPDATES} undertrain, more than {_MOST_UPDATES} overfit"
            )
            updates = clamped
    iters = updates * accumulation
    num_layers = _given(o.lora_layers)
    if num_layers > layers or num_layers == 0:
        reasons["lora_layers"] = f"the student has {layers} blocks: all are trained"
        num_layers = -1
    if _given(o.learning_rate) * _given(o.lora_scale) > _HOT and o.fine_tune_type != "full":
        reasons["learning_rate"] = "learning_rate × lora_scale is above 0.001, which is hot for a large student"
    steps_per_eval = max(1, iters // _EVALUATIONS)
    recipe = Recipe(
        fine_tune_type=o.fine_tune_type or "lora",
        iters=iters,
        batch_size=batch_size,
        grad_accumulation_steps=accumulation,
        learning_rate=_given(o.learning_rate),
        lr_schedule=_given(o.lr_schedule),
        warmup_updates=math.floor(_given(o.warmup_ratio) * updates),
        final_lr_ratio=0.1,
        optimizer=_given(o.optimizer),
        weight_decay=_given(o.weight_decay),
        lora_rank=_given(o.lora_rank),
        lora_scale=_given(o.lora_scale),
        lora_dropout=_given(o.lora_dropout),
        lora_keys=o.lora_keys,
        num_layers=num_layers,
        max_seq_length=_given(o.max_seq_length),
        grad_checkpoint=_given(o.gradient_checkpointing),
        packing=o.packing is not False,
        steps_per_eval=steps_per_eval,
        steps_per_checkpoint=steps_per_eval,
        patience=_given(o.early_stopping_patience),
        seed=o.seed or 0,
    )
    return recipe, reasons


def _given(value: _V | None) -> _V:
    if value is None:
        raise AssertionError
    return value

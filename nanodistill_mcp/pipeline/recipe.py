"""How a student is trained: every option resolved from what the caller set, the preset, the data and the student."""

import math
from typing import Any, TypeVar

from nanodistill_mcp.errors import UserInputError
from nanodistill_mcp.pipeline.distilling import distilling_of
from nanodistill_mcp.runs.options import TRAINING_OPTIONS, Options
from nanodistill_mcp.runs.translations import MlxLm
from nanodistill_mcp.student.requests import Recipe, StudentFacts

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
    "cpu_capacity_percent": 100.0,
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
        "cpu_capacity_percent": 80.0,
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
_WIDTH_OF_RATE = 2560
"""The width of blocks the recommended learning rate is for: a student of 4 billion parameters."""
_RATE_BY_WIDTH = 0.78
"""Exponent by which the rate falls with the width, from Tinker's fit over Llama students (its ``get_lr``)."""
_LOWEST_RATE, _HIGHEST_RATE = 5e-5, 2e-3
_FULL_RATE = 0.1
"""Full training wants about a tenth of LoRA's rate (Schulman et al. 2025, "LoRA Without Regret")."""
_MANY_PARAMETERS = 6_000_000_000
_LAYERS_OF_LARGE = 16


def preset_options(preset: str, options: Options) -> Options:
    """What the caller set, over the preset, over the recommended values.

    Raises:
        UserInputError: There is no such preset.
    """
    if preset not in PRESETS:
        raise UserInputError("That is not a preset.", next_step=f"Presets: {', '.join(PRESETS)}.")
    return Options.model_validate({**_RECOMMENDED, **PRESETS[preset], **options.model_dump(exclude_none=True)})


def resolve(
    preset: str,
    options: Options,
    *,
    rows: int,
    layers: int,
    student: StudentFacts | None = None,
    local_teacher: StudentFacts | None = None,
) -> tuple[Recipe, dict[str, str]]:
    """Resolve every training option.

    Args:
        preset: The preset's name.
        options: What the caller set.
        rows: Training rows.
        layers: Blocks of the student.
        student: What is known of it, when it is known.
        local_teacher: The same of the local teacher.

    Returns:
        The recipe, and the reason for each value that is not simply the preset's.

    Raises:
        UserInputError: Two options say two things of the adapter's scale, or the local teacher cannot take part so.
    """
    reasons: dict[str, str] = {}
    o = _fitted(preset, options, student, reasons)
    mlx = MlxLm.model_validate(o.mlx_lm or {})
    batch_size, accumulation, updates = _amounts(preset, options, o, mlx, rows, reasons)
    iters = updates * accumulation
    num_layers = _given(o.lora_layers)
    if num_layers > layers or num_layers == 0:
        reasons["lora_layers"] = f"the student has {layers} blocks: all are trained"
        num_layers = -1
    steps = max(1, iters // _EVALUATIONS)
    recipe = Recipe(
        fine_tune_type=o.fine_tune_type or "lora",
        iters=iters,
        batch_size=batch_size,
        grad_accumulation_steps=accumulation,
        learning_rate=_given(o.learning_rate),
        lr_schedule=_given(o.lr_schedule),
        warmup_updates=_warmup(o, updates, reasons),
        final_lr_ratio=0.1,
        mlx_schedule=mlx.lr_schedule.model_dump() if mlx.lr_schedule else None,
        optimizer=_given(o.optimizer),
        optimizer_config=(mlx.optimizer_config or {}).get(_given(o.optimizer), {}),
        weight_decay=_given(o.weight_decay),
        lora_rank=_given(o.lora_rank),
        lora_scale=_given(o.lora_scale),
        lora_dropout=_given(o.lora_dropout),
        lora_keys=o.lora_keys,
        num_layers=num_layers,
        max_seq_length=_given(o.max_seq_length),
        mask_prompt=mlx.mask_prompt is not False,
        grad_checkpoint=_given(o.gradient_checkpointing),
        packing=o.packing is not False,
        steps_per_eval=mlx.steps_per_eval or steps,
        steps_per_checkpoint=mlx.save_every or mlx.steps_per_eval or steps,
        patience=_given(o.early_stopping_patience),
        validation_rows=_validation_rows(mlx, batch_size),
        clear_cache_threshold=mlx.clear_cache_threshold,
        distilling=distilling_of(o, local_teacher, reasons),
        seed=o.seed or 0,
    )
    _explain_mlx(mlx, recipe, options, reasons)
    return recipe, reasons


def _amounts(
    preset: str, options: Options, o: Options, mlx: MlxLm, rows: int, reasons: dict[str, str]
) -> tuple[int, int, int]:
    """Rows of a batch, batches of an update, and updates; ``o`` are the options with the preset's under them."""
    batch_size = min(_given(o.batch_size), rows)
    if batch_size < _given(o.batch_size):
        reasons["batch_size"] = f"lowered to the {rows} rows there are"
    accumulation = max(1, min(_given(o.gradient_accumulation_steps), math.ceil(rows / batch_size)))
    if accumulation < _given(o.gradient_accumulation_steps):
        reasons["gradient_accumulation_steps"] = f"lowered to {accumulation}: no update needs all {rows} rows twice"
    batches = max(1, math.ceil(_given(o.num_train_epochs) * rows / batch_size))
    updates = math.ceil(batches / accumulation)
    if mlx.iters is not None:
        updates = max(1, mlx.iters // accumulation)
        reasons["num_train_epochs"] = f"{updates * accumulation * batch_size / rows:.1f} passes: mlx_lm.iters decides"
    elif preset == "recommended" and options.num_train_epochs is None:
        clamped = min(max(updates, _FEWEST_UPDATES), _MOST_UPDATES)
        if clamped != updates:
            reasons["num_train_epochs"] = (
                f"{clamped * accumulation * batch_size / rows:.1f} passes instead of {o.num_train_epochs:g}, "
                f"for {clamped} updates: fewer than {_FEWEST_UPDATES} undertrain, more than {_MOST_UPDATES} overfit"
            )
            updates = clamped
    return batch_size, accumulation, updates


def explained(
    preset: str, options: Options, carried_out: dict[str, Any], reasons: dict[str, str]
) -> list[dict[str, Any]]:
    """Every training option with its value and where that comes from, for the user to read.

    Args:
        preset: The preset's name.
        options: What the caller set.
        carried_out: The recipe as it will be carried out, and what else was resolved.
        reasons: By option, for the values that were fitted.
    """
    chosen = preset_options(preset, options).model_dump()
    told: list[dict[str, Any]] = []
    for name in (*TRAINING_OPTIONS, "mlx_lm"):
        value = carried_out.get(_RECIPE_NAMES.get(name, name), chosen[name])
        given = getattr(options, name) is not None
        if value is None and not given and name not in _NONE_MEANS:
            continue
        origin = "set by you" if given else _origin(preset, name)
        shown = _NONE_MEANS[name] if value is None else value
        told.append({"option": name, "value": shown, "why": "; ".join(filter(None, (origin, reasons.get(name))))})
    return told


def _origin(preset: str, name: str) -> str:
    if name in PRESETS[preset]:
        return f"the preset {preset}"
    return _WHY.get(name, "recommended")


_RECIPE_NAMES = {
    "gradient_accumulation_steps": "grad_accumulation_steps",
    "lora_layers": "num_layers",
    "gradient_checkpointing": "grad_checkpoint",
    "early_stopping_patience": "patience",
    "warmup_steps": "warmup_updates",
}
_NONE_MEANS = {
    "lora_keys": "all linear layers",
    "max_memory_gb": "nine tenths of the machine's",
    "memory_hard_limit_gb": "95 % of the machine's",
}
_WHY = {
    "fine_tune_type": "recommended: LoRA learns small tasks as well as full training",
    "learning_rate": "recommended, for the student's width",
    "lr_schedule": "recommended: half a cosine down to a tenth",
    "lora_rank": "recommended: small data hardly asks for more",
    "lora_scale": "recommended: what PEFT calls alpha = 2 × rank; MLX-LM's own default is 20",
    "lora_keys": "recommended: attention alone learns less",
    "lora_layers": "recommended: all blocks",
    "batch_size": "recommended: eight rows to an update, with the accumulation",
    "gradient_accumulation_steps": "recommended: eight rows to an update, with the batch",
    "max_seq_length": "recommended",
    "packing": "recommended: the same losses in less time",
    "early_stopping_patience": "recommended: the best checkpoint is kept, and three evaluations without a better one end it",
    "val_split": "recommended: a tenth, from other calls or seeds than the rest",
    "warmup_steps": "updates, from the share",
    "distill_alpha": "recommended: as much from the teacher as from the answers",
    "distill_temperature": "recommended: Hinton et al. took 2 to 4 for small students",
    "distill_top_k": "recommended: most of the probability for little disk",
    "max_memory_gb": "from the machine",
    "memory_hard_limit_gb": "from the machine",
    "seed": "0 unless you set it",
}


def _fitted(preset: str, options: Options, student: StudentFacts | None, reasons: dict[str, str]) -> Options:
    """The chosen options, those that hang on the student or on each other worked out."""
    o = preset_options(preset, options)
    changed: dict[str, Any] = {}
    if o.lora_alpha is not None:
        if options.lora_scale is not None:
            raise UserInputError(
                "options.lora_alpha and options.lora_scale both say how strong the adapter is.",
                next_step="Give one of them: lora_scale is lora_alpha ÷ lora_rank.",
            )
        changed["lora_scale"] = o.lora_alpha / _given(o.lora_rank)
        reasons["lora_scale"] = (
            f"lora_alpha {o.lora_alpha:g} ÷ lora_rank {o.lora_rank}: MLX-LM multiplies by the scale itself, where PEFT divides by the rank"
        )
    is_ours = options.learning_rate is None and "learning_rate" not in PRESETS[preset]
    if is_ours:
        rate, why = _rate(o, student)
        changed["learning_rate"] = rate
        reasons |= {"learning_rate": why} if why else {}
    if options.lora_layers is None and preset == "recommended" and student is not None:
        large = student.kind != "dense" or student.parameters > _MANY_PARAMETERS
        if large and student.layers > _LAYERS_OF_LARGE and o.fine_tune_type != "full":
            changed["lora_layers"] = _LAYERS_OF_LARGE
            reasons["lora_layers"] = f"the last {_LAYERS_OF_LARGE} of {student.layers}: the student is " + (
                f"{student.parameters / 1e9:.0f} billion parameters large" if student.kind == "dense" else student.kind
            )
    o = o.model_copy(update=changed)
    product = _given(o.learning_rate) * _given(o.lora_scale)
    if product > _HOT * _by_width(student) and o.fine_tune_type != "full":
        hot = f"learning_rate × lora_scale is {product:.2g}, above {_HOT * _by_width(student):.2g}, which is hot for this student"
        reasons["learning_rate"] = "; ".join(filter(None, (reasons.get("learning_rate"), hot)))
    if o.optimizer == "adam" and options.weight_decay:
        reasons["weight_decay"] = "adam takes none; optimizer='adamw' does"
    return o


def _rate(o: Options, student: StudentFacts | None) -> tuple[float, str]:
    """The recommended learning rate, higher for a narrow student, and why."""
    rate, why = _given(o.learning_rate), ""
    if student is not None and student.hidden_size:
        by_width = rate * _by_width(student)
        rate = float(f"{min(max(by_width, _LOWEST_RATE), _HIGHEST_RATE):.2g}")
        why = f"for blocks {student.hidden_size} wide: narrow students take, and need, more"
    if o.fine_tune_type == "full":
        rate *= _FULL_RATE
        why = "; ".join(filter(None, (why, "a tenth of LoRA's, because all weights are trained")))
    return rate, why


def _by_width(student: StudentFacts | None) -> float:
    """How many times the learning rate of a student of the usual width this one takes."""
    width = student.hidden_size if student is not None else None
    return (_WIDTH_OF_RATE / width) ** _RATE_BY_WIDTH if width else 1.0


def _warmup(o: Options, updates: int, reasons: dict[str, str]) -> int:
    if o.warmup_steps is None:
        return math.floor(_given(o.warmup_ratio) * updates)
    if o.warmup_steps >= updates:
        reasons["warmup_steps"] = f"half of the {updates} updates: with {o.warmup_steps} it would never end"
        return updates // 2
    return o.warmup_steps


def _validation_rows(mlx: MlxLm, batch_size: int) -> int:
    if mlx.val_batches is None:
        return _VALIDATION_ROWS
    return _ALL_ROWS if mlx.val_batches <= 0 else mlx.val_batches * batch_size


_VALIDATION_ROWS = 256
_ALL_ROWS = 10**9


def _explain_mlx(mlx: MlxLm, recipe: Recipe, options: Options, reasons: dict[str, str]) -> None:
    notes: list[str] = []
    if recipe.mlx_schedule:
        notes.append("lr_schedule takes the place of learning_rate, lr_schedule and warmup_ratio")
        peak = recipe.mlx_schedule["arguments"][0]
        if peak * recipe.lora_scale > _HOT and recipe.fine_tune_type != "full":
            notes.append(f"its peak {peak:g} × lora_scale is above 0.001, which is hot for a large student")
    if mlx.steps_per_report:
        notes.append("steps_per_report changes nothing: every step is reported")
    if mlx.mask_prompt is False:
        notes.append("mask_prompt=false also teaches the student to write the questions")
    unused = sorted(set(mlx.optimizer_config or {}) - {recipe.optimizer})
    if unused:
        notes.append(f"optimizer_config for {', '.join(unused)} is not used: the optimizer is {recipe.optimizer}")
    if notes and options.mlx_lm:
        reasons["mlx_lm"] = "; ".join(notes)


def _given(value: _V | None) -> _V:
    if value is None:
        raise AssertionError
    return value

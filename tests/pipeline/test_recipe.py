"""How options become a recipe."""

import math
from typing import Any

import pytest

from nanodistill_mcp.errors import UserInputError
from nanodistill_mcp.pipeline.recipe import PRESETS, explained, preset_options, resolve
from nanodistill_mcp.runs.options import TRAINING_OPTIONS, Options
from nanodistill_mcp.student.requests import Recipe, StudentFacts

_UNSET = Options.model_validate({})


def _resolve(
    preset: str = "recommended", rows: int = 300, layers: int = 28, **options: Any
) -> tuple[Recipe, dict[str, str]]:
    return resolve(preset, Options(**options), rows=rows, layers=layers)


def test_the_nanodistill_preset_gives_that_librarys_defaults_exactly() -> None:
    """Who comes from it finds the same training; its absolute scale is the one MLX-LM had by default."""
    recipe, reasons = _resolve("nanodistill", rows=37)
    assert recipe == Recipe(
        fine_tune_type="lora",
        iters=37,
        batch_size=1,
        grad_accumulation_steps=1,
        learning_rate=1e-5,
        lr_schedule="constant",
        warmup_updates=0,
        final_lr_ratio=0.1,
        optimizer="adam",
        weight_decay=0.0,
        lora_rank=8,
        lora_scale=20.0,
        lora_dropout=0.0,
        lora_keys=None,
        num_layers=4,
        max_seq_length=256,
        grad_checkpoint=False,
        steps_per_eval=3,
        steps_per_checkpoint=3,
        patience=0,
        seed=0,
    )
    assert reasons == {}
    data = preset_options("nanodistill", _UNSET)
    assert (data.val_split, data.temperature) == (0.2, 0.7)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("rows", [1, 2, 3, 7, 50, 999, 10_000])
def test_every_preset_resolves_for_every_number_of_rows(preset: str, rows: int) -> None:
    """A recipe that asks for more rows than there are, or for no update, fails hours later in the trainer."""
    recipe, _ = _resolve(preset, rows)
    assert 1 <= recipe.batch_size <= rows
    assert recipe.grad_accumulation_steps * recipe.batch_size < rows + recipe.batch_size
    assert recipe.iters % recipe.grad_accumulation_steps == 0
    updates = recipe.iters // recipe.grad_accumulation_steps
    assert 0 <= recipe.warmup_updates < updates
    assert 1 <= recipe.steps_per_eval == recipe.steps_per_checkpoint <= recipe.iters
    assert recipe.iters // recipe.steps_per_eval <= 19


@pytest.mark.parametrize("preset", [name for name in PRESETS if name != "recommended"])
@pytest.mark.parametrize("rows", [10, 333, 5000])
def test_a_named_preset_trains_the_passes_it_says(preset: str, rows: int) -> None:
    """Only the recommended one fits the passes to the data."""
    wanted = preset_options(preset, _UNSET).num_train_epochs
    assert wanted is not None
    recipe, _ = _resolve(preset, rows)
    passes = recipe.iters * recipe.batch_size / rows
    assert wanted <= passes < wanted + (recipe.grad_accumulation_steps + 1) * recipe.batch_size / rows


@pytest.mark.parametrize("rows", [3, 40, 300, 5000, 10_000])
def test_the_recommended_number_of_updates_stays_where_students_learn(rows: int) -> None:
    """Fewer than 100 undertrain, more than 600 overfit; what was changed is said with its reason."""
    recipe, reasons = _resolve(rows=rows)
    updates = recipe.iters // recipe.grad_accumulation_steps
    plain = math.ceil(math.ceil(3 * rows / recipe.batch_size) / recipe.grad_accumulation_steps)
    assert updates == min(max(plain, 100), 600)
    assert ("num_train_epochs" in reasons) is (updates != plain)


def test_a_clamp_is_told_in_words_and_numbers() -> None:
    """The plan repeats them to the user."""
    recipe, reasons = _resolve(rows=3, lora_layers=99)
    assert recipe.iters == 100
    assert reasons == {
        "batch_size": "lowered to the 3 rows there are",
        "gradient_accumulation_steps": "lowered to 1: no update needs all 3 rows twice",
        "num_train_epochs": "100.0 passes instead of 3, for 100 updates: fewer than 100 undertrain, more than 600 overfit",
        "lora_layers": "the student has 28 blocks: all are trained",
    }
    assert recipe.num_layers == -1


def test_passes_that_the_caller_set_are_never_changed() -> None:
    """The user knows why."""
    recipe, reasons = _resolve(rows=10_000, num_train_epochs=10)
    assert recipe.iters == 25_000
    assert "num_train_epochs" not in reasons
    recipe, reasons = _resolve(rows=10, num_train_epochs=1)
    assert recipe.iters * recipe.batch_size >= 10
    assert recipe.iters < 100
    assert "num_train_epochs" not in reasons


@pytest.mark.parametrize(("asked", "given"), [(-1, -1), (1, 1), (28, 28), (29, -1), (0, -1)])
def test_no_more_blocks_are_trained_than_there_are(asked: int, given: int) -> None:
    """MLX-LM would take any number without a word."""
    recipe, reasons = _resolve(lora_layers=asked)
    assert recipe.num_layers == given
    assert ("lora_layers" in reasons) is (asked != given)


@pytest.mark.parametrize(
    ("options", "warned"),
    [
        ({}, False),
        ({"learning_rate": 1e-3}, True),
        ({"lora_scale": 20.0}, True),
        ({"learning_rate": 1e-5, "lora_scale": 20.0}, False),
        ({"learning_rate": 1e-3, "fine_tune_type": "full"}, False),
    ],
)
def test_a_step_that_is_hot_is_pointed_out(options: dict[str, Any], warned: bool) -> None:
    """The scale is absolute, so it multiplies the learning rate; other tools' values are far too large here."""
    assert ("learning_rate" in _resolve(**options)[1]) is warned


@pytest.mark.parametrize("preset", PRESETS)
def test_what_the_caller_set_wins_over_every_preset(preset: str) -> None:
    """Also a zero."""
    options: dict[str, Any] = {
        "learning_rate": 3e-6,
        "lora_rank": 5,
        "lora_dropout": 0.0,
        "early_stopping_patience": 0,
        "warmup_ratio": 0.0,
        "val_split": 0.0,
        "gradient_checkpointing": False,
        "max_seq_length": 99,
        "seed": 7,
        "lora_keys": ["self_attn.q_proj"],
    }
    recipe, _ = _resolve(preset, **options)
    assert (recipe.learning_rate, recipe.lora_rank, recipe.lora_dropout, recipe.patience) == (3e-6, 5, 0.0, 0)
    assert (recipe.warmup_updates, recipe.grad_checkpoint, recipe.max_seq_length) == (0, False, 99)
    assert (recipe.seed, recipe.lora_keys) == (7, ["self_attn.q_proj"])
    assert preset_options(preset, Options(**options)).val_split == 0.0


def test_a_preset_there_is_not_is_answered_with_those_there_are() -> None:
    """The agent picks one at once."""
    with pytest.raises(UserInputError) as caught:
        preset_options("best", _UNSET)
    assert str(caught.value) == (
        "That is not a preset. Presets: recommended, nanodistill, minimal, low_memory, high_performance, quick, "
        "production, exploration."
    )


def test_every_preset_only_sets_options_there_are_and_values_in_their_range() -> None:
    """A typo in a preset would be refused only when a user picks it."""
    for preset, values in PRESETS.items():
        assert Options.model_validate(values).model_dump(exclude_none=True) == values, preset


def _student(**facts: Any) -> StudentFacts:
    values: dict[str, Any] = {
        "student": "org/name",
        "student_path": None,
        "model_type": "qwen3",
        "parameters": 4_000_000_000,
        "bytes_on_disk": 0,
        "layers": 36,
        "hidden_size": 2560,
        "max_position_embeddings": 4096,
        "has_chat_template": True,
        "thinks_natively": False,
    }
    return StudentFacts(**values | facts)


def _for(student: StudentFacts, preset: str = "recommended", **options: Any) -> tuple[Recipe, dict[str, str]]:
    return resolve(preset, Options(**options), rows=300, layers=student.layers, student=student)


@pytest.mark.parametrize(
    ("width", "rate"),
    [(2560, 1e-4), (4096, 6.9e-5), (8192, 5e-5), (1024, 2e-4), (64, 1.8e-3), (16, 2e-3), (None, 1e-4)],
)
def test_the_recommended_rate_fits_the_students_width(width: int | None, rate: float) -> None:
    """Narrow students need more; for those people use it stays between 5e-5 and 2e-4."""
    recipe, reasons = _for(_student(hidden_size=width))
    assert recipe.learning_rate == rate
    assert ("learning_rate" in reasons) is (width is not None)
    assert "hot" not in reasons.get("learning_rate", "")
    assert _for(_student(hidden_size=width), learning_rate=3e-5)[0].learning_rate == 3e-5
    assert _for(_student(hidden_size=width), "nanodistill")[0].learning_rate == 1e-5
    assert _for(_student(hidden_size=width), fine_tune_type="full")[0].learning_rate == pytest.approx(rate / 10)


def test_the_recommended_recipe_is_the_one_the_field_agrees_on() -> None:
    """All linear layers at rank 16, the scale written out, eight rows to an update, a cosine after a warmup, the best kept."""
    recipe, _ = _for(_student())
    assert (recipe.lora_keys, recipe.num_layers, recipe.lora_rank, recipe.lora_scale) == (None, -1, 16, 2.0)
    assert recipe.batch_size * recipe.grad_accumulation_steps == 8
    updates = recipe.iters // recipe.grad_accumulation_steps
    assert (recipe.lr_schedule, recipe.warmup_updates, updates) == ("cosine", 6, 113)
    assert (recipe.patience, recipe.mask_prompt, recipe.optimizer) == (3, True, "adamw")


@pytest.mark.parametrize(
    ("facts", "blocks", "said"),
    [
        ({"parameters": 8_000_000_000}, 16, "8 billion parameters"),
        ({"kind": "hybrid"}, 16, "hybrid"),
        ({"kind": "mixture of experts"}, 16, "mixture of experts"),
        ({"kind": "hybrid", "layers": 12}, -1, ""),
        ({}, -1, ""),
    ],
)
def test_of_large_hybrid_and_expert_students_the_last_blocks_are_trained(
    facts: dict[str, Any], blocks: int, said: str
) -> None:
    """A backward pass through all of them is what Metal gives up on."""
    recipe, reasons = _for(_student(**facts))
    assert recipe.num_layers == blocks
    assert said in reasons.get("lora_layers", "")
    assert _for(_student(**facts), lora_layers=-1)[0].num_layers == -1


def test_a_recipe_of_peft_is_translated_and_the_translation_told() -> None:
    """PEFT multiplies by alpha ÷ rank; MLX-LM by the scale itself, so alpha taken for it would be sixteen times too strong."""
    recipe, reasons = _for(_student(), lora_rank=16, lora_alpha=32, learning_rate=2e-4)
    assert recipe.lora_scale == 2.0
    assert reasons["lora_scale"].startswith("lora_alpha 32 ÷ lora_rank 16")
    assert "learning_rate" not in reasons
    _, reasons = _for(_student(), lora_scale=32.0, learning_rate=2e-4)
    assert "0.0064, above 0.001, which is hot" in reasons["learning_rate"]
    with pytest.raises(UserInputError, match="both say how strong"):
        _for(_student(), lora_scale=2.0, lora_alpha=32)


def test_mlx_lms_own_options_reach_the_recipe() -> None:
    """All of them that decide anything."""
    mlx = {
        "iters": 41,
        "val_batches": 3,
        "steps_per_report": 5,
        "steps_per_eval": 7,
        "save_every": 9,
        "clear_cache_threshold": 0,
        "mask_prompt": False,
        "optimizer_config": {"adamw": {"betas": [0.8, 0.9]}, "muon": {}},
        "lr_schedule": {"name": "step_decay", "arguments": [1e-3, 0.5, 10.0], "warmup": 2},
    }
    recipe, reasons = _for(_student(), mlx_lm=mlx)
    assert (recipe.iters, recipe.steps_per_eval, recipe.steps_per_checkpoint) == (40, 7, 9)
    assert (recipe.validation_rows, recipe.clear_cache_threshold, recipe.mask_prompt) == (12, 0, False)
    assert recipe.optimizer_config == {"betas": [0.8, 0.9]}
    assert recipe.mlx_schedule is not None
    assert recipe.mlx_schedule["name"] == "step_decay"
    for said in (
        "every step is reported",
        "optimizer_config for muon is not used",
        "hot",
        "takes the place of learning_rate",
    ):
        assert said in reasons["mlx_lm"], said
    assert "mlx_lm.iters decides" in reasons["num_train_epochs"]


@pytest.mark.parametrize(("steps", "updates"), [(0, 0), (5, 5), (10_000, 56)])
def test_warmup_can_be_given_in_updates(steps: int, updates: int) -> None:
    """One longer than the training would never reach the rate."""
    recipe, reasons = _for(_student(), warmup_steps=steps)
    assert recipe.warmup_updates == updates
    assert ("warmup_steps" in reasons) is (steps == 10_000)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_option_is_told_with_where_its_value_comes_from(preset: str) -> None:
    """The user decides on this list."""
    options = Options(lora_rank=4, lora_alpha=8, optimizer="muon")
    recipe, reasons = resolve(preset, options, rows=3, layers=36, student=_student())
    told = {line["option"]: line for line in explained(preset, options, recipe.model_dump(), reasons)}
    of_a_local_teacher = {name for name in TRAINING_OPTIONS if name.startswith(("local_teacher", "distill_"))}
    assert set(told) >= set(TRAINING_OPTIONS) - {"fine_tune_type", "warmup_ratio"} - of_a_local_teacher
    assert all(line["why"] for line in told.values())
    assert told["lora_rank"] == {"option": "lora_rank", "value": 4, "why": "set by you"}
    assert told["lora_scale"]["value"] == 2.0
    assert told["batch_size"]["value"] == recipe.batch_size
    assert told["max_seq_length"]["value"] == recipe.max_seq_length
    if "lora_layers" in PRESETS[preset]:
        assert told["lora_layers"]["why"].startswith(f"the preset {preset}")

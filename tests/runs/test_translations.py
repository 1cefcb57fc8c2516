"""Options under the names of other tools: what means the same is taken, what means something else is computed and told."""

import re
from typing import Any

import pytest

from nanodistill_mcp.errors import UserInputError
from nanodistill_mcp.runs.options import Options
from nanodistill_mcp.runs.translations import translate


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ({"r": 16, "lr": 2e-4}, {"lora_rank": 16, "learning_rate": 2e-4}),
        ({"lora_r": 8, "use_dora": True}, {"lora_rank": 8, "fine_tune_type": "dora"}),
        ({"use_dora": False, "epochs": 2}, {"num_train_epochs": 2}),
        (
            {"use_gradient_checkpointing": "unsloth", "random_state": 3407},
            {"gradient_checkpointing": True, "seed": 3407},
        ),
        ({"optim": "adamw_8bit", "lr_scheduler_type": "linear"}, {"optimizer": "adamw", "lr_schedule": "linear"}),
        ({"target_modules": ["q_proj", "up_proj"]}, {"lora_keys": ["self_attn.q_proj", "mlp.up_proj"]}),
        ({"target_modules": "all-linear", "bias": "none"}, {}),
        ({"lora_keys": "auto"}, {}),
        ({"mlx_lm": {"lora_parameters": {"keys": ["auto"]}}}, {}),
        ({"use_rslora": True, "r": 16, "lora_alpha": 8}, {"lora_rank": 16, "lora_scale": 2.0}),
        ({"mlx_lm": {"num_layers": 4, "grad-checkpoint": True}}, {"lora_layers": 4, "gradient_checkpointing": True}),
        (
            {"mlx_lm_kwargs": {"lora_parameters": {"rank": 4, "scale": 10, "dropout": 0.1, "keys": ["mlp.up_proj"]}}},
            {"lora_rank": 4, "lora_scale": 10, "lora_dropout": 0.1, "lora_keys": ["mlp.up_proj"]},
        ),
        ({"mlx_lm": {"clear_cache_threshold": "1.5GB"}}, {"mlx_lm": {"clear_cache_threshold": 1_500_000_000}}),
        (
            {"litellm_kwargs": {"temperature": 0.3, "max_tokens": 900, "top_p": 0.9, "stop": ["END"]}},
            {"temperature": 0.3, "teacher_max_tokens": 900, "litellm": {"top_p": 0.9, "stop": ["END"]}},
        ),
        ({"litellm": {"seed": 7, "reasoning_effort": "high"}}, {"litellm": {"seed": 7, "reasoning_effort": "high"}}),
    ],
)
def test_names_of_other_tools_are_taken_for_what_they_mean(given: dict[str, Any], meant: dict[str, Any]) -> None:
    """People bring recipes from PEFT, Unsloth and MLX-LM; an option that is refused or, worse, ignored costs them a training."""
    options, notes = translate(given)
    assert options == meant
    Options.model_validate(options)
    assert not set(notes) - {*meant, "lora_keys", "bias"}


@pytest.mark.parametrize(
    "name",
    [
        *("lora_dropout", "warmup_steps", "weight_decay", "gradient_checkpointing", "use_dora", "seed", "lora_layers"),
        *("batch_size", "num_train_epochs", "max_seq_length"),
    ],
)
@pytest.mark.parametrize("place", ["options", "mlx_lm_kwargs"])
def test_the_names_that_mlx_lm_itself_refuses_are_accepted_in_both_places(name: str, place: str) -> None:
    """Guides tell people to write them there, and the library ends with "unrecognized arguments"."""
    value = True if name in ("use_dora", "gradient_checkpointing") else 16 if name == "max_seq_length" else 0.5
    value = 1 if name in ("seed", "lora_layers", "batch_size", "warmup_steps") else value
    options, _ = translate({name: value} if place == "options" else {place: {name: value}})
    assert Options.model_validate(options).model_dump(exclude_none=True) == options
    assert len(options) == 1


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"mlx_lm": {"model": "x"}}, "options.mlx_lm.model is not taken: the run's own student is trained"),
        ({"mlx_lm": {"adapter_path": "/etc"}}, "adapter and checkpoints stay in the run's folder"),
        ({"mlx_lm": {"--resume-adapter-file": "/x"}}, "stay in the run's folder"),
        ({"mlx_lm": {"trust_remote_code": True}}, "code from a model's folder is never run"),
        ({"mlx_lm": {"report_to": "wandb"}}, "nothing is sent anywhere"),
        ({"mlx_lm": {"data": "wikisql"}}, "the run's own examples are trained on"),
        ({"mlx_lm": {"learning": 1}}, "options.mlx_lm.learning is no option of MLX-LM's trainer"),
        ({"mlx_lm": {"iter": 1}}, "is no option"),
        ({"mlx_lm": {"iters": 0}}, "mlx_lm.iters: Input should be greater than or equal to 1"),
        ({"mlx_lm": {"lr_schedule": {"name": "eval", "arguments": [1e-4, 1]}}}, "mlx_lm.lr_schedule.name"),
        ({"mlx_lm": {"lr_schedule": {"name": "step_decay", "arguments": [1e-4, 1]}}}, "step_decay takes 3 arguments"),
        (
            {"mlx_lm": {"optimizer_config": {"adam": {"weight_decay": 1}}}},
            "adamw: betas, eps, bias_correction, weight_decay",
        ),
        ({"mlx_lm": {"lora_parameters": {"r": 1}}}, "It takes rank, scale, dropout and keys"),
        ({"mlx_lm": 3}, "options.mlx_lm is not an object"),
        ({"litellm": {"api_base": "http://x"}}, "endpoints are set under teachers in the server's configuration"),
        ({"litellm": {"api_key": "x"}}, "options.litellm.api_key is not taken"),
        ({"litellm": {"extra_headers": {}}}, "options.litellm.extra_headers is nothing a caller sets"),
        ({"litellm": {"num_retries": 9}}, "what fails is asked again within the budget"),
        ({"litellm": {"top_p": 2}}, "litellm.top_p: Input should be less than or equal to 1"),
        ({"litellm": {"a b": 2}}, "A name in options.litellm is nothing a caller sets"),
        ({"litellm": "top_p"}, "options.litellm is not an object"),
        ({"temperature": 0.1, "litellm": {"temperature": 0.2}}, "the same option with two values"),
        ({"r": 8, "lora_rank": 16}, "options.r and options.lora_rank are the same option with two values"),
        ({"learning_rate": 1e-4, "mlx_lm": {"learning_rate": 1e-5}}, "the same option with two values"),
        ({"use_rslora": True, "lora_alpha": 16}, "use_rslora needs a rank and an alpha"),
    ],
)
def test_what_has_no_meaning_here_is_refused_with_what_has(given: dict[str, Any], said: str) -> None:
    """Paths, the hub and reports are not an agent's to set; an abbreviation could mean two things tomorrow."""
    with pytest.raises(UserInputError) as caught:
        translate(given)
    assert said in str(caught.value)
    assert re.search(r"mlx_lm|litellm takes:|Give ", str(caught.value))


def test_what_was_translated_is_not_translated_again() -> None:
    """A run stores its options under our names, and train reads them back."""
    given = {
        "r": 8,
        "lora_alpha": 16,
        "mlx_lm": {"iters": 5, "lr_schedule": {"name": "cosine_decay", "arguments": [1e-4, 9]}},
    }
    options, _ = translate(given)
    assert translate(options) == (options, {})
    assert options["lora_alpha"] == 16

"""LoRA finds its targets by itself in every architecture MLX-LM has code for, as far as a tiny one can be made up."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingTypeStubs=false, reportArgumentType=false

import math

import mlx.core as mx
import pytest
from mlx.nn.utils import value_and_grad
from mlx.utils import tree_flatten
from mlx_lm.tuner.trainer import default_loss

from nanodistill_mcp.errors import UserInputError
from nanodistill_mcp.student.adapters import attach_adapter, lora_targets, trained
from tests.student.architectures import architectures, make_architecture
from tests.student.bench import recipe

NOT_MADE = {
    "gemma3n": "its configuration wants ten values that hang together",
    "gemma4": "MLX ends the process with a tiny one",
    "gemma4_text": "blocks that share their keys do not come out even in four blocks",
    "kimi_k3": "its configuration is one of several models",
    "minimax_m3_vl": "its configuration is one of several models",
    "muse_spark": "its configuration wants values that hang together",
    "nemotron-nas": "each of its blocks is configured on its own",
    "olmo": "it needs a package of its own, which MLX-LM does not bring along",
    "phi3small": "MLX now and then ends the process with a tiny one",
    "prism_hadamard_qwen35": "its weights come in a packed form only",
}
"""Of these no tiny one could be made up, so nothing is known."""

NOT_TRAINED = {
    "afm7": "its forward pass asks for a cache that training has not",
    "deepseek_v41": "MLX has no gradient of one of its operations",
    "recurrent_gemma": "its class cannot be frozen",
    "rwkv7": "its gradients are no numbers with random weights",
    "talkie": "its gradients are zero with random weights: its blocks begin as nothing",
}
"""Made, and not trainable as they are; the two real steps before a training would refuse such a student."""


def learns(name: str) -> int | None:
    """How many targets ``auto`` finds in an architecture, proved by a gradient; None where the module holds none."""
    model = make_architecture(name)
    if model is None:
        return None
    targets = lora_targets(model)
    attach_adapter(model, recipe(lora_rank=2))
    assert {target for target in targets if any(f".{target}.lora_a" in each for each in trained(model))} == set(targets)
    _, gradients = value_and_grad(model, default_loss)(model, mx.array([[1, 2, 3, 4, 5, 6, 7, 8]]), mx.array([[1, 7]]))
    size = float(mx.array([mx.square(each).sum() for _, each in tree_flatten(gradients)]).sum())
    assert math.isfinite(size)
    assert size > 0
    return len(targets)


@pytest.mark.parametrize("name", ["gpt2", "deepseek_v3", "mamba", "qwen3_next"])
def test_auto_finds_the_targets_of_architectures_that_name_them_otherwise(name: str) -> None:
    """Nobody knows by heart that one calls them attn.c_attn, and another mixer.in_proj."""
    assert learns(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", architectures())
def test_auto_finds_the_targets_of_every_architecture(name: str) -> None:
    """A gradient passes through what it found, in each that can be made tiny; what cannot is listed with its reason."""
    if name in NOT_MADE | NOT_TRAINED or name == "bitnet":
        pytest.skip((NOT_MADE | NOT_TRAINED).get(name, "carries no LoRA"))
    learns(name)


def test_a_student_that_can_carry_no_lora_is_refused_with_what_can_be_done() -> None:
    """BitNet's layers of three values have no LoRA form in MLX-LM."""
    with pytest.raises(UserInputError, match="can carry LoRA") as refused:
        learns("bitnet")
    assert "fine_tune_type='full'" in refused.value.next_step

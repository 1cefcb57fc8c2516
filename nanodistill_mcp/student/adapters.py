"""What is trained: the parameters a recipe makes trainable, and the files MLX-LM loads them from."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false, reportMissingTypeStubs=false

import re
from pathlib import Path
from typing import Any, cast

import mlx.core as mx
from mlx import nn
from mlx.utils import tree_flatten
from mlx_lm.models.switch_layers import QuantizedSwitchLinear, SwitchLinear
from mlx_lm.tuner.utils import linear_to_lora_layers

from nanodistill_mcp.errors import UserInputError
from nanodistill_mcp.runs.faults import fault
from nanodistill_mcp.runs.files import sha256_of, write_json
from nanodistill_mcp.student.checkpoints import save_tensors
from nanodistill_mcp.student.requests import Recipe

ADAPTER_FILE = "adapters.safetensors"
ADAPTER_CONFIG_FILE = "adapter_config.json"
_TARGETS = (
    *(nn.Linear, nn.QuantizedLinear, nn.Embedding, nn.QuantizedEmbedding),
    *(SwitchLinear, QuantizedSwitchLinear),
)
_NAME = re.compile(r"[\w.]{1,80}")
_SHOWN = 300


def blocks(model: nn.Module) -> list[nn.Module]:
    """A model's blocks, first to last."""
    return cast("list[nn.Module]", model.layers)


def trained(model: nn.Module) -> dict[str, mx.array]:
    """The parameters that are trained, by name."""
    return dict(cast("list[tuple[str, mx.array]]", tree_flatten(model.trainable_parameters())))


def attach_adapter(model: nn.Module, recipe: Recipe) -> None:
    """Freeze a model and make the recipe's parameters trainable. Seeds MLX's random state.

    LoRA as in Hu et al. 2021 (arXiv 2106.09685), DoRA as in Liu et al. 2024 (arXiv 2402.09353), as MLX-LM implements them.

    Raises:
        UserInputError: The recipe does not fit this student.
    """
    mx.random.seed(recipe.seed)
    model.freeze()
    bits = next((module.bits for _, module in model.named_modules() if hasattr(module, "bits")), None)
    if recipe.fine_tune_type == "full":
        if bits is not None:
            raise UserInputError(
                f"This student is quantized to {bits} bits, and quantized weights cannot be trained in full.",
                next_step="Use options.fine_tune_type='lora', or an unquantized student.",
            )
        for layer in blocks(model)[-max(recipe.num_layers, 0) :]:
            layer.unfreeze()
        return
    if recipe.fine_tune_type == "dora" and bits is not None and 32 % bits:
        raise UserInputError(
            f"DoRA does not work on a student quantized to {bits} bits.",
            next_step="Use options.fine_tune_type='lora', or a student of 4 or 8 bits.",
        )
    targets = lora_targets(model)
    known = {*targets, *(name for name, module in model.named_modules() if _is_target(module))}  # lm_head, for one
    if wrong := [key for key in recipe.lora_keys or () if key not in known]:
        shown = ", ".join(repr(key) for key in wrong if _NAME.fullmatch(key))[:_SHOWN]
        raise UserInputError(
            f"options.lora_keys names what is no module of this student that LoRA is put on{f': {shown}' if shown else ''}.",
            next_step=f"Its modules: {', '.join(targets)}. Or lora_keys='auto', which is all of them.",
        )
    linear_to_lora_layers(model, recipe.num_layers, _lora_parameters(recipe), use_dora=recipe.fine_tune_type == "dora")
    if not targets and not recipe.lora_keys:
        raise UserInputError(
            "None of this student's modules can carry LoRA: MLX-LM has no form of it for their kind.",
            next_step="Choose another student with clone_run(student=...), or options.fine_tune_type='full'.",
        )
    if not trained(model):
        raise UserInputError(
            "The blocks that are trained have none of the modules that options.lora_keys names.",
            next_step=f"Raise options.lora_layers, or choose others of its modules: {', '.join(targets)}.",
        )


def lora_targets(model: nn.Module) -> list[str]:
    """The modules LoRA can be put on, named from the block on: all of them are meant by ``auto``, whatever the architecture."""
    found: dict[str, None] = {}
    for block in blocks(model):
        found |= dict.fromkeys(name for name, module in block.named_modules() if _is_target(module))
    return sorted(found)


def _is_target(module: nn.Module) -> bool:
    return hasattr(module, "to_lora") or isinstance(module, _TARGETS)


def load_into(model: nn.Module, adapter_dir: Path) -> None:
    """Put an earlier adapter's weights into the trainable parameters of a model.

    Raises:
        UserInputError: It was trained by another recipe: its parameters are not the model's trainable ones.
    """
    weights = cast("dict[str, mx.array]", mx.load(str(adapter_dir / ADAPTER_FILE)))
    shapes = {name: weight.shape for name, weight in trained(model).items()}
    if {name: weight.shape for name, weight in weights.items()} != shapes:
        raise UserInputError(
            "The adapter to go on from was trained with another fine_tune_type, lora_rank, lora_layers or lora_keys.",
            next_step="Leave these options as the parent run had them.",
        )
    model.load_weights(list(weights.items()), strict=False)


def write_adapter(adapter_dir: Path, recipe: Recipe, student: str, weights: dict[str, mx.array]) -> str:
    """Write trained weights where ``mlx_lm.load(adapter_path=...)`` finds them; answers with their SHA-256.

    The weights are written last, and an earlier adapter's are deleted first: they never lie beside another's configuration.

    Raises:
        TrainingError: The disk is full.
    """
    adapter_dir.mkdir(parents=True, exist_ok=True)
    adapter_path = adapter_dir / ADAPTER_FILE
    for stale in (adapter_path, *adapter_dir.glob(f".{ADAPTER_FILE}.*")):
        stale.unlink(missing_ok=True)
    fault("adapter.emptied.done")
    configuration = {
        "fine_tune_type": recipe.fine_tune_type,
        "num_layers": recipe.num_layers,
        "lora_parameters": _lora_parameters(recipe),
        "model": student,
    }
    write_json(adapter_dir / ADAPTER_CONFIG_FILE, configuration)
    save_tensors(adapter_path, weights)
    return sha256_of(adapter_path)


def _lora_parameters(recipe: Recipe) -> dict[str, Any]:
    parameters = {"rank": recipe.lora_rank, "scale": recipe.lora_scale, "dropout": recipe.lora_dropout}
    return parameters if recipe.lora_keys is None else {**parameters, "keys": recipe.lora_keys}

"""Whether a student can be exported to GGUF, told before anybody pays for its training. Reads no weights."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingTypeStubs=false

from typing import Any

import gguf
from mlx_lm.utils import _get_classes  # pyright: ignore[reportPrivateUsage] - builds a model as load_model does

from nanodistill_mcp.errors import ExportError
from nanodistill_mcp.student.gguf_architectures import args_of, describe, family_of, tensors
from nanodistill_mcp.student.gguf_tokenizer import gguf_tokenizer


def why_no_gguf(config: dict[str, Any], tokenizer: Any) -> str:
    """Say what of a student the GGUF writer would refuse; empty when nothing, or when that cannot be told.

    The model is built without weights (MLX makes none before they are used), described and laid out as in an export.

    Args:
        config: The content of its config.json.
        tokenizer: As ``mlx_lm.load`` gives it.
    """
    try:
        family = family_of(config.get("model_type", ""))
        model_class, args_class = _get_classes(config)
        model = model_class(args_class.from_dict(config))
        describe(gguf.GGUFWriter(None, gguf.MODEL_ARCH_NAMES[family.arch]), model, family, config)
        tensors(model, family)
        gguf_tokenizer(tokenizer, args_of(model).vocab_size)
    except ExportError as error:
        return error.what
    except (KeyError, TypeError, ValueError, AttributeError):  # a config that does not load is another check's to name
        return ""
    return ""

"""The forms a student can be had in beside its GGUF file. Light: whoever offers or describes one may import it."""

from collections.abc import Sequence

from nanodistill_mcp.errors import UserInputError

FORMS: dict[str, str] = {
    "mlx_bf16": "the fused model in bfloat16, for mlx_lm and LM Studio",
    "mlx_4bit": "the fused model in MLX's 4 bits, made from the unquantized weights",
    "peft": "the adapter as PEFT, vLLM and Unsloth read it",
    "gguf_lora": "the adapter alone as GGUF, for a base that llama.cpp already has",
    "bundle": "the whole run in one .tar.gz, to keep or to import elsewhere",
    "lm_studio": "the GGUF file in LM Studio's folder layout",
}
"""Name of each form, and what it is for."""


def forms_named(names: Sequence[str]) -> list[str]:
    """Check names of forms, without regard to case; each once, in the order they are made.

    Raises:
        UserInputError: There is none of a name; the text lists those there are.
    """
    wanted = {name.strip().lower() for name in names}
    if unknown := len(wanted - FORMS.keys()):
        raise UserInputError(
            f"{unknown} of the further forms asked for are not offered.",
            next_step=f"also takes any of: {', '.join(f'{name} ({use})' for name, use in FORMS.items())}.",
        )
    return [name for name in FORMS if name in wanted]

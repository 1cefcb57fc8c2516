"""The quantizations a GGUF export offers. Light: whoever plans or describes an export may import it."""

from dataclasses import dataclass

from nanodistill_mcp.errors import UserInputError


@dataclass(frozen=True)
class Quantization:
    """One way to store the weights."""

    name: str
    bits_per_weight: float
    """Mean over a large model's file, scales included; small students come out larger."""
    file_type: int
    """llama.cpp's number for it (``general.file_type``)."""


QUANTIZATIONS: dict[str, Quantization] = {
    quantization.name: quantization
    for quantization in (
        Quantization("F16", 16.0, 1),
        Quantization("BF16", 16.0, 32),
        Quantization("Q8_0", 8.5, 7),
        Quantization("Q6_K", 6.6, 18),
        Quantization("Q5_K_M", 5.7, 17),
        Quantization("Q4_K_M", 4.9, 15),
        Quantization("Q4_K_S", 4.7, 14),
        Quantization("Q4_0", 4.6, 2),
    )
}
DEFAULT_QUANTIZATION = "Q4_K_M"


def larger_than(name: str) -> str:
    """The quantization with the next more bits; empty when there is none."""
    bits = QUANTIZATIONS[name].bits_per_weight
    larger = [quantization for quantization in QUANTIZATIONS.values() if quantization.bits_per_weight > bits]
    return min(larger, key=lambda quantization: quantization.bits_per_weight).name if larger else ""


def quantization_named(name: str) -> Quantization:
    """Look a quantization up, without regard to case.

    Raises:
        UserInputError: There is none of that name; the text lists those there are.
    """
    found = QUANTIZATIONS.get(name.strip().upper())
    if found is None:
        raise UserInputError(
            "That quantization is not offered.",
            next_step=f"Choose one of {', '.join(QUANTIZATIONS)}; {DEFAULT_QUANTIZATION} suits most students.",
        )
    return found

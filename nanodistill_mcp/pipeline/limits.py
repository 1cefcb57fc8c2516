"""What a training may take of a machine: from the options, the preset, and the memory there is."""

from nanodistill_mcp.jobs import memory
from nanodistill_mcp.jobs.guard import FULL, Limits
from nanodistill_mcp.pipeline.recipe import preset_options
from nanodistill_mcp.runs.options import Options

LIMITS = ("max_memory_gb", "memory_hard_limit_gb", "cpu_capacity_percent", "memory_limit_gb")
"""The options that say what training may take and nothing of what it learns; the last by its older name."""
PROCESS_GB = 0.5
"""Of max_memory_gb, what Python and the libraries take beside the student; the probe measures what MLX takes."""
_MAX_SHARE, _HARD_SHARE = 0.9, 0.95
_CAPPED_GB = {"nanodistill": 12.0}
"""The seed systems' defaults are capped; whoever bought more memory expects it to be used."""


def spare_for_a_model_gb() -> float:
    """Memory that a model may take which is loaded now, beside the process that holds it."""
    return max(0.0, memory.spare_gb() - PROCESS_GB)


def limits_of(preset: str, options: Options, total_gb: float) -> tuple[Limits, dict[str, str]]:
    """The limits, and the reason for each that the caller did not set.

    Args:
        preset: The preset's name.
        options: What the caller set.
        total_gb: The machine's memory.
    """
    cap_gb = _CAPPED_GB.get(preset, total_gb)
    capped = f", and {cap_gb:g} GB at most" if cap_gb < total_gb else ""
    reasons: dict[str, str] = {}
    most_gb, hard_gb = options.max_memory_gb, options.memory_hard_limit_gb
    if most_gb is None:
        most_gb = min(_MAX_SHARE * total_gb, cap_gb, hard_gb or total_gb)
        reasons["max_memory_gb"] = f"nine tenths of the machine's {total_gb:.3g} GB{capped}"
    if hard_gb is None:
        hard_gb = max(min(_HARD_SHARE * total_gb, cap_gb), most_gb)
        reasons["memory_hard_limit_gb"] = (
            f"95 % of the machine's {total_gb:.3g} GB{capped}, and not below max_memory_gb"
        )
    capacity = preset_options(preset, options).cpu_capacity_percent or FULL
    if capacity == FULL:
        reasons["cpu_capacity_percent"] = "training has a low priority, and never pauses for others' work"
    return Limits(total_gb, round(most_gb, 2), round(hard_gb, 2), capacity), reasons

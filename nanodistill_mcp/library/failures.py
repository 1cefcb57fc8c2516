"""How a call of the library fails: by who can fix it, under the names NanoDistill gave these errors."""

from nanodistill_mcp.errors import (
    BudgetError,
    ConfigurationError,
    DamagedRunError,
    DayBudgetError,
    ExportError,
    MachineError,
    NanodistillError,
    RunStateError,
    TeacherError,
    TrainingError,
    UserInputError,
)
from nanodistill_mcp.pipeline.status import COSTS

NanoDistillError = NanodistillError
"""Whatever is anticipated; each has ``what`` happened and the ``next_step``."""


class TeacherAPIError(TeacherError):
    """The teacher's provider stopped a stage: a refused key, no credit, an unknown model, an outage."""


class AmplificationError(NanodistillError):
    """New examples could not be made; those that were made are kept."""

    kind = "amplification"


_BY_KIND: dict[str, type[NanodistillError]] = {
    each.kind: each
    for each in (
        *(UserInputError, ConfigurationError, RunStateError, TeacherAPIError, BudgetError, DayBudgetError),
        *(TrainingError, ExportError, DamagedRunError, MachineError),
    )
}
_BY_STAGE: dict[str, type[NanodistillError]] = {
    "synthesize_cot": TeacherAPIError,
    "extract_policy": TeacherAPIError,
    "amplify": AmplificationError,
    "train": TrainingError,
    "export_gguf": ExportError,
}


def failure(stage: str, kind: str, what: str, next_step: str) -> NanodistillError:
    """The error for how a stage ended: by what its record calls the matter, else by the stage."""
    if kind == ConfigurationError.kind and stage in COSTS:  # a key that was refused
        return TeacherAPIError(what, next_step=next_step)
    made = _BY_KIND.get(kind) or _BY_STAGE.get(stage, NanodistillError)
    return made(what, next_step=next_step)

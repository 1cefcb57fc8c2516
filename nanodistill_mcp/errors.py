"""Failures someone can act on, classed by who can fix them.

Each says what happened and what to do next. Only these reach the agent as text: the words of a teacher, a file or a
library are data and never become part of an error. Keep them picklable: a worker records them in ``exit.json``.
"""

import errno

from pydantic import ValidationError


class NanodistillError(Exception):
    """An anticipated failure: what happened, then what to do next."""

    kind = "error"

    def __init__(self, what: str, *, next_step: str) -> None:
        super().__init__(what, next_step)
        self.what = what
        self.next_step = next_step

    def __str__(self) -> str:
        return f"{self.what} {self.next_step}"

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.what, self.next_step)


def _rebuild(cls: type[NanodistillError], what: str, next_step: str) -> NanodistillError:
    error = cls.__new__(cls)
    NanodistillError.__init__(error, what, next_step=next_step)
    return error


class UserInputError(NanodistillError):
    """The caller can fix it: an argument, a seed file, a name."""

    kind = "input"


class ConfigurationError(NanodistillError):
    """The person who configured the server can fix it: a key, an endpoint, an allowed directory."""

    kind = "configuration"


class RunStateError(NanodistillError):
    """The call does not fit the run's present state: a stage is missing, another job runs, the run is newer."""

    kind = "state"


class TeacherError(NanodistillError):
    """The teacher's provider stopped the stage: a refused key, no credit, an unknown model, an outage."""

    kind = "teacher"


class BudgetError(NanodistillError):
    """The next call does not fit under the run's cap; everything paid for is kept."""

    kind = "budget"


class DayBudgetError(BudgetError):
    """The next call does not fit under what all runs of the user may spend in a day."""

    kind = "budget_day"


class TrainingError(NanodistillError):
    """Training could not start or could not go on: memory, data that do not fit, a loss that is not a number."""

    kind = "training"


class StudentDiedError(TrainingError):
    """A student process ended without a result: killed, out of memory, or crashed in a library."""

    exit_code: int = 0
    """How it ended, as ``Popen.returncode`` says it; known only in the process that watched it."""


class ExportError(NanodistillError):
    """The student could not be written in the asked form, or what was written answers differently."""

    kind = "export"


class DamagedRunError(NanodistillError):
    """A file of the run folder is not what it should be."""

    kind = "damaged"


class MachineError(NanodistillError):
    """The machine did not do what it was asked: its disk is full, a right is missing, too many files are open."""

    kind = "machine"


def machine_error(error: OSError) -> MachineError | None:
    """What the system refused, in our words; None for what is no matter of the machine's own."""
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT | errno.EFBIG:
            what, remedy = "The disk is full", "Free some space"
        case errno.EACCES | errno.EPERM | errno.EROFS:
            what, remedy = "This user may not write where the run lies", "Give this user the right to write there"
        case errno.EMFILE | errno.ENFILE:
            what, remedy = (
                "The system allows no more open files",
                "Close other programs, or raise the limit (ulimit -n)",
            )
        case errno.EIO:
            what, remedy = "The disk did not read or write what it was asked to (EIO)", "Check the disk"
        case errno.ENOMEM | errno.EAGAIN:
            what, remedy = "The system has no memory or no process to spare", "Close other programs"
        case _:
            return None
    return MachineError(
        f"{what}; what was done before is kept.",
        next_step=f"{remedy}, then repeat the call: it goes on where this stopped.",
    )


def refused_values(error: ValidationError, *, under: str = "") -> str:
    """Which values are not accepted and by what rule, in one line. What was given is not in it.

    Args:
        error: What checking them raised.
        under: The name of what holds them, where that is not in the error.
    """
    above = [under] if under else []
    found = error.errors(include_input=False, include_url=False)
    return "; ".join(f"{'.'.join(map(str, [*above, *each['loc']]))}: {each['msg']}" for each in found)

"""Distillation from a local teacher's probabilities: its options, and what is refused or held back before anything is loaded."""

from pathlib import Path
from typing import Any

from nanodistill_mcp.errors import UserInputError
from nanodistill_mcp.runs.options import Options
from nanodistill_mcp.student.requests import Distilling, Recipe, StudentFacts, without_commit

MOST_ALPHA = 0.9
"""The share of the loss that is the teacher's, at most. At 1 the answers themselves would teach nothing: where the teacher kept
few tokens, or hardly expects an answer's end, the student would come to write endless repetitions."""

ALPHA, TEMPERATURE, TOP_K = 0.5, 2.0, 64

_NEEDS_TEACHER = ("local_teacher_bits", "distill_alpha", "distill_temperature", "distill_top_k")


def check_distilling(options: Options) -> None:
    """Refuse options of a distillation where there is nobody to distil from.

    Raises:
        UserInputError: Names them.
    """
    given = [name for name in _NEEDS_TEACHER if getattr(options, name) is not None]
    if given and not options.local_teacher:
        raise UserInputError(
            f"options.{given[0]} says how a local teacher takes part, and there is none.",
            next_step="Give options.local_teacher too: a folder or a hub id, as for a student, of a larger model with the "
            f"student's tokenizer. Or leave {', '.join(given)} out.",
        )


def distilling_of(options: Options, teacher: StudentFacts | None, reasons: dict[str, str]) -> Distilling | None:
    """How the local teacher takes part, resolved; None where there is none.

    Args:
        options: What the caller set.
        teacher: What is known of it, when it is known.
        reasons: By option; what was held back is added.

    Raises:
        UserInputError: It makes no sense, or not with this teacher.
    """
    check_distilling(options)
    if not options.local_teacher:
        return None
    named = options.local_teacher
    if teacher is not None:
        named = f"{without_commit(teacher.student)}@{teacher.revision}" if teacher.revision else teacher.student
        if teacher.quantized_bits and options.local_teacher_bits:
            raise UserInputError(
                f"The local teacher is quantized to {teacher.quantized_bits} bits already.",
                next_step="Leave options.local_teacher_bits out, or name the teacher's unquantized form.",
            )
    alpha = ALPHA if options.distill_alpha is None else options.distill_alpha
    if alpha > MOST_ALPHA:
        reasons["distill_alpha"] = (
            f"{MOST_ALPHA:g} instead of {alpha:g}: a tenth of the loss stays the answers' own, which keeps the student from "
            "collapsing into repetitions"
        )
        alpha = MOST_ALPHA
    return Distilling(
        local_teacher=named,
        local_teacher_bits=options.local_teacher_bits,
        alpha=alpha,
        temperature=options.distill_temperature or TEMPERATURE,
        top_k=options.distill_top_k or TOP_K,
    )


def by_option(recipe: Recipe) -> dict[str, Any]:
    """A recipe's distillation under the names of the options; the teacher without its folder, for reports that are passed on."""
    how = recipe.distilling
    if how is None:
        return {}
    return {
        "local_teacher": shown(how.local_teacher),
        "local_teacher_bits": how.local_teacher_bits,
        "distill_alpha": how.alpha,
        "distill_temperature": how.temperature,
        "distill_top_k": how.top_k,
    }


def shown(local_teacher: str) -> str:
    """A local teacher's name for others: the folder's own, or the hub's id with its commit."""
    return Path(local_teacher).name if local_teacher.startswith("/") else local_teacher


def kept_bytes(recipe: Recipe, learnt_tokens: int) -> int:
    """What is kept of the teacher on disk: of each token learnt k tokens with their probabilities, 8 bytes each."""
    return learnt_tokens * (8 * recipe.distilling.top_k + 4) if recipe.distilling else 0


def in_words(taught: dict[str, Any]) -> str:
    """How a student was taught by a local teacher, from ``training.json``, without the folder it lies in."""
    return (
        f"Besides the answers it learnt the probabilities of a local teacher, {shown(without_commit(taught['local_teacher']))} (alpha {taught['alpha']:g}, temperature "
        f"{taught['temperature']:g}, top {taught['top_k']} tokens with {100 * taught['covered']:.1f} % of the probability; the "
        f"teacher's own loss on these answers is {taught['teacher_loss']:.3f})."
    )

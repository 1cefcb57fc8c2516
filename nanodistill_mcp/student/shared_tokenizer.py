"""Whether two models have one tokenizer: the probabilities of one are of use to the other only then."""

from collections.abc import Sequence
from typing import Any

from nanodistill_mcp.errors import UserInputError


def check_same_tokenizer(student: Any, teacher: Any, texts: Sequence[str] = ()) -> None:
    """Refuse a teacher whose tokens are not the student's.

    Args:
        student: The student's tokenizer.
        teacher: The teacher's.
        texts: Texts that both have to cut alike.

    Raises:
        UserInputError: Says what differs.
    """
    ours, theirs = student.get_vocab(), teacher.get_vocab()
    if ours != theirs:
        different = sum(theirs.get(token) != number for token, number in ours.items())
        raise _other_tokenizer(
            f"{different:,} of the student's {len(ours):,} tokens are not the same among its {len(theirs):,}"
        )
    for text in texts:
        if student.encode(text, add_special_tokens=False) != teacher.encode(text, add_special_tokens=False):
            raise _other_tokenizer("their tokens are the same, but they cut the run's texts into different ones")


def _other_tokenizer(why: str) -> UserInputError:
    return UserInputError(
        f"The local teacher has another tokenizer than the student: {why}.",
        next_step="Give a larger model of the student's own family as options.local_teacher, for example Qwen3-4B for "
        "Qwen3-0.6B; or leave local_teacher out to learn from the answers alone.",
    )

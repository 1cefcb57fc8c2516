"""Examples as other programs write them, recognised by their exact columns and brought into {input, output}.

=========================================  =====================================================
columns                                    who writes them
=========================================  =====================================================
instruction, input, output                 Alpaca, EasyDistill, LLaMA-Factory; input may be left out
prompt, completion                         NLM, TRL; as texts or as lists of messages
messages                                   OpenAI: a system message or none, a question, its answer
=========================================  =====================================================

Anything else stays as it is, and is refused where rows are checked: a file may not be what its name says.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from nanodistill_mcp.errors import UserInputError
from nanodistill_mcp.pipeline.tables import plain_text

UNDERSTOOD = "{instruction, input, output}, {prompt, completion} and {messages} are understood as they are."

MAX_INSTRUCTION_CHARS = 20_000
"""Of a run, whoever gives it."""

_ROLES = (["user"], ["user", "assistant"])


@dataclass(frozen=True)
class _Told:
    """A row with an instruction of its own, which may be empty."""

    instruction: str
    input: str
    output: Any


def plain_rows(rows: Sequence[Any], instruction: str) -> list[Any]:
    """The rows as {input, output}, where they are of a known shape.

    An instruction of a row's own is left out where it is the run's; another one is put before the input, with an empty
    line between, or is the input where there is none.

    Args:
        rows: As they were given.
        instruction: The run's.
    """
    return [_plain(row, _one_line(instruction)) for row in rows]


def common_instruction(rows: Sequence[Any]) -> str:
    """The instruction that all rows carry beside their inputs; empty where there is none, or more than one."""
    told = [each for row in rows if (each := _told(row))]
    texts = {_one_line(each.instruction): each.instruction for each in told}
    if len(texts) != 1 or len(told) <= 1 or any(_is_plain(row) for row in rows):
        return ""
    return next(iter(texts.values()))


def settled_instruction(rows: Sequence[Any], given: str) -> str:
    """The run's instruction: the given one, or the one that the examples all carry.

    Raises:
        UserInputError: Both are there and they differ.
    """
    theirs = common_instruction(rows)
    if theirs and given.strip() and _one_line(theirs) != _one_line(given):
        raise UserInputError(
            "The examples all carry one instruction, and it is not the one that was given.",
            next_step='Leave instruction empty ("") to take theirs, or take the column out of the examples to use yours.',
        )
    if len(theirs) > MAX_INSTRUCTION_CHARS:
        raise UserInputError(
            f"The examples carry an instruction of {len(theirs)} characters; at most {MAX_INSTRUCTION_CHARS} are accepted.",
            next_step="Shorten it, or take the column out of the examples and give instruction.",
        )
    return given.strip() or theirs


def _plain(row: Any, instruction: str) -> Any:
    told = _told(row)
    if told is None:
        return row
    own = "" if _one_line(told.instruction) == instruction else told.instruction
    return {"input": "\n\n".join(part for part in (own, told.input) if part), "output": told.output}


def _told(row: Any) -> _Told | None:
    """What a row of a known shape says; None of any other."""
    if not isinstance(row, dict):
        return None
    fields = cast("dict[str, Any]", row)
    keys = set(fields)
    if "instruction" in keys and keys <= {"instruction", "input", "output"}:
        return _Told(plain_text(fields["instruction"]), plain_text(fields.get("input")), fields.get("output"))
    if keys == {"prompt", "completion"}:
        prompt, completion = fields["prompt"], fields["completion"]
        if isinstance(prompt, list) and isinstance(completion, list):
            return _of_messages([*cast("list[Any]", prompt), *cast("list[Any]", completion)])
        return _Told("", prompt, completion) if isinstance(prompt, str) and isinstance(completion, str) else None
    if keys == {"messages"} and isinstance(fields["messages"], list):
        return _of_messages(cast("list[Any]", fields["messages"]))
    return None


def _of_messages(messages: list[Any]) -> _Told | None:
    """One question, its answer where there is one, and what a system message said before."""
    told: list[tuple[str, str]] = []
    for message in messages:
        fields = cast("dict[str, Any]", message) if isinstance(message, dict) else {}
        if set(fields) != {"role", "content"} or not isinstance(fields["content"], str):
            return None
        told.append((str(fields["role"]), fields["content"]))
    system = told.pop(0)[1] if told and told[0][0] in ("system", "developer") else ""
    if [role for role, _ in told] not in _ROLES:
        return None
    return _Told(plain_text(system), plain_text(told[0][1]), told[1][1] if len(told) > 1 else None)


def _is_plain(row: Any) -> bool:
    return isinstance(row, dict) and "input" in row and "instruction" not in row


def _one_line(text: str) -> str:
    return " ".join(text.split())

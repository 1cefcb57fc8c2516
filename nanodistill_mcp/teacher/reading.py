"""What a teacher's completion says: its text, what it cost, and whether an answer of the asked shape can be read from it."""

import re
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ValidationError

from nanodistill_mcp.runs.secrets import without_keys
from nanodistill_mcp.teacher.fitting import fit, list_field
from nanodistill_mcp.teacher.language import in_another_script
from nanodistill_mcp.teacher.loose_json import values_in
from nanodistill_mcp.teacher.text_formats import begins_with_label, read_text, without_thinking

Fault = Literal["invalid", "refused", "truncated", "filtered", "empty", "wrong_language"]
Verdict = Literal["valid"] | Fault

REWORDED: tuple[Verdict, ...] = ("refused", "truncated", "filtered", "empty", "wrong_language")
"""Verdicts after which the same words, asked again, would be paid for and end the same way."""

REPAIRED = "read leniently"
"""Noted with a valid verdict whose text was not the JSON that was asked for."""

_ENDINGS: dict[str, Fault] = {"refusal": "refused", "content_filter": "filtered", "length": "truncated"}

_DECLINES = re.compile(
    r"\s*(?:i['\u2019]?m sorry|(?:i am |i['\u2019]?m )?sorry,|i (?:can['\u2019]?t|cannot|won['\u2019]t|will not)\b"
    r"|i(?:['\u2019]m| am) (?:unable|not able)\b|as an ai\b)",
    re.IGNORECASE,
)
"""How a reply begins that declines in words alone, without its provider marking it."""

_A = TypeVar("_A", bound=BaseModel)


@dataclass(frozen=True)
class Completion:
    """A completion as received."""

    text: str
    finish_reason: str
    """LiteLLM's, with "refusal" where the model declined: providers mark that in three ways."""
    input_tokens: int
    output_tokens: int
    cached_tokens: int
    usd: float | None
    """LiteLLM's price of it; None or 0 when LiteLLM does not know the model."""

    def __post_init__(self) -> None:
        # A proxy may repeat a request's headers in its answer, which goes into the journal and from there everywhere.
        object.__setattr__(self, "text", without_keys(self.text))


def read_completion(response: Any) -> Completion:
    """Read a response without judging its text. A tool call's arguments are its text."""
    choice = response.choices[0] if response.choices else None
    message = getattr(choice, "message", None)
    calls = getattr(message, "tool_calls", None)
    text = str(calls[0].function.arguments if calls else getattr(message, "content", None) or "")
    ending = str(getattr(choice, "finish_reason", "") or "")
    declined = _is_refusal(message, ending)
    usage = getattr(response, "usage", None)
    details = getattr(usage, "prompt_tokens_details", None)
    return Completion(
        text=text,
        finish_reason="refusal" if declined else ending,
        input_tokens=int(getattr(usage, "prompt_tokens", 0) or 0),
        output_tokens=int(getattr(usage, "completion_tokens", 0) or 0),
        cached_tokens=int(getattr(details, "cached_tokens", 0) or 0),
        usd=response._hidden_params.get("response_cost"),  # noqa: SLF001 - where LiteLLM documents it
    )


def judge(answer_type: type[_A], text: str, finish_reason: str, asked: str = "") -> tuple[Verdict, _A | None, str]:
    """Judge an answer as it stands in the journal.

    Args:
        answer_type: The shape it should have.
        text: The answer.
        finish_reason: Why the model stopped.
        asked: The question's material; without it the answer's language is not judged.

    Returns:
        The verdict, the answer when it is valid, and in our own words why it is not.
    """
    ending = _ENDINGS.get(finish_reason)
    if ending == "truncated" and (whole := parse(answer_type, text, cut=True)[0]) is not None:
        text, ending = whole.model_dump_json(), None  # the items before the cut are paid for and whole
    if ending:
        return ending, None, ""
    if not text.strip():
        return "empty", None, ""
    value, why = parse(answer_type, text)
    if value is None:
        return ("refused" if _DECLINES.match(text) else "invalid"), None, why
    if asked and in_another_script(value, asked):
        return "wrong_language", None, ""
    return "valid", value, why


def parse(answer_type: type[_A], text: str, *, cut: bool = False) -> tuple[_A | None, str]:
    """Read an answer from a text: as the JSON it should be, else as any of the forms models write instead.

    Args:
        answer_type: The shape it should have.
        text: What the model wrote.
        cut: The text ends before the model was done. Then only whole items of a list are an answer.

    Returns:
        The answer and, in our own words, what was wrong with the text; None when no answer can be read from it.
    """
    try:
        return answer_type.model_validate_json(text), ""
    except ValidationError as error:
        why = _told(error)
    if cut and list_field(answer_type) is None:
        return None, why
    text = without_thinking(text)
    readings = [lambda: fit(answer_type, values_in(text)), lambda: read_text(answer_type, text, cut=cut)]
    if begins_with_label(answer_type, text):
        readings.reverse()
    value = next((value for read in readings if (value := read()) is not None), None)
    return value, (why if value is None else REPAIRED)


def _is_refusal(message: Any, ending: str) -> bool:
    notes: dict[str, Any] = getattr(message, "provider_specific_fields", None) or {}
    if ending == "content_filter" and "thinking_blocks" in notes:
        return True  # Anthropic has no filter, and LiteLLM before 1.107 gives its models' refusals as one
    return bool(getattr(message, "refusal", None) or notes.get("refusal") or notes.get("stop_reason") == "refusal")


def _told(error: ValidationError) -> str:
    """Field and rule of the first errors; never the text that broke the rule."""
    found = error.errors(include_input=False, include_url=False, include_context=False)[:3]
    return "; ".join(f"{'.'.join(map(str, each['loc'])) or 'answer'}: {each['type']}" for each in found)

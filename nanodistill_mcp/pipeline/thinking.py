"""How reasoning and answer stand together in a student's text: one form in training, the same one when a text is parted again.

Whatever the two texts hold, the joined text parts into exactly them, white space at the ends aside: where the reasoning holds
the mark that would end it, the mark gets a backslash, which parting takes away again. An answer is never changed. It stands
alone when it has no reasoning and cannot be mistaken for a text that has; else it gets an empty one.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast, get_args

from nanodistill_mcp.errors import UserInputError
from nanodistill_mcp.runs.records import AskedMode, ModelName, RunManifest, RunSpec, ThinkingFormat

FORMATS: tuple[ThinkingFormat, ...] = get_args(ThinkingFormat)


@dataclass(frozen=True)
class _Marks:
    """What opens the reasoning and what ends it; ``end`` takes the backslashes that make it part of the text as group 1."""

    opening: re.Pattern[str]
    end: re.Pattern[str]
    form: str


def _tags(name: str) -> _Marks:
    return _Marks(
        re.compile(rf"<{name}>"), re.compile(rf"<(\\*)/{name}[ \t]*>"), f"<{name}>\n{{thinking}}\n</{name}>\n{{output}}"
    )


_LINES = re.IGNORECASE | re.MULTILINE
_HEADING = r"[ \t]{0,3}#{1,6}[ \t]*(?:\*\*)?(?:%s)(?:\*\*)?:?(?:\*\*)?[ \t]*\r?$"
_LABEL = r"[ \t]{0,3}(?:\*\*)?(?:%s)(?:\*\*)?:(?:\*\*)?[ \t]*"
_REASONING, _ANSWER = r"reasoning|thinking", r"(?:final[ \t]+)?answer"

_MARKS: dict[ThinkingFormat, _Marks] = {
    "xml": _tags("thinking"),
    "native": _tags("think"),
    "markdown": _Marks(
        re.compile("^" + _HEADING % _REASONING, _LINES),
        re.compile(r"^(\\*)" + _HEADING % _ANSWER, _LINES),
        "### Reasoning\n{thinking}\n\n### Answer\n{output}",
    ),
    "plain": _Marks(
        re.compile("^" + _LABEL % _REASONING, _LINES),
        re.compile(r"^(\\*)" + _LABEL % _ANSWER, _LINES),
        "Reasoning: {thinking}\n\nAnswer: {output}",
    ),
}
_OBJECT = re.compile(r'\{\s*"(?:thinking|output)"\s*:')
_TEXT = r'"((?:[^"\\]|\\u[0-9a-fA-F]{4}|\\[^u])*)'
_CUT_OBJECT = re.compile(rf'\{{\s*"thinking"\s*:\s*{_TEXT}(?:"\s*,\s*"output"\s*:\s*{_TEXT})?', re.DOTALL)

_SHOWN: dict[ThinkingFormat, str] = {
    "xml": "<thinking>reasoning</thinking>, then the answer",
    "native": "<think>reasoning</think>, then the answer",
    "markdown": "the reasoning below '### Reasoning', the answer below '### Answer'",
    "plain": "the reasoning after 'Reasoning:', the answer after 'Answer:'",
    "json": 'one JSON object, {"thinking": reasoning, "output": answer}',
}


def format_of(manifest: RunManifest) -> ThinkingFormat:
    """The run's format: the one that was asked for, else the student's own tags where it has them, else xml."""
    chosen = manifest.spec.options.get("thinking_format")
    if chosen in FORMATS:
        return chosen
    return "native" if manifest.student_thinks_natively else "xml"


def described(form: ThinkingFormat) -> str:
    """In words, where reasoning and answer stand in a student's text."""
    return _SHOWN[form]


def opening(form: ThinkingFormat, *, with_reasoning: bool) -> str:
    """How a text begins that has reasoning; or, with an empty one, a text that has none."""
    if form == "json":
        return '{"thinking": "' if with_reasoning else '{"thinking": "", "output": "'
    text = _MARKS[form].form
    begun = text.partition("{thinking}")[0] if with_reasoning else text.format(thinking="", output="")
    return begun.rstrip(" ")  # a space at the end would be a token of its own, which no text of the form has


def check_mode(spec: RunSpec, mode: AskedMode, models: Sequence[ModelName]) -> None:
    """Refuse to ask for what was never taught.

    Raises:
        UserInputError: Reasoning is wanted of a student that was taught answers alone.
    """
    if mode == "reasoning" and spec.reasoning == "direct" and {"student", "gguf"} & set(models):
        raise UserInputError(
            "This student was taught answers alone, so it has no reasoning to show.",
            next_step="Give mode='trained', or models=['base', 'teacher'].",
        )


def join(thinking: str, output: str, form: ThinkingFormat) -> str:
    """What a student is taught to write; the answer alone when there is no reasoning."""
    if not thinking and part(output, form) == ("", output.strip()):
        return output
    if form == "json":
        return json.dumps({"thinking": thinking, "output": output}, ensure_ascii=False)
    marks = _MARKS[form]
    kept = marks.end.sub(lambda end: _with_backslashes(end, 1), thinking)
    return marks.form.format(thinking=kept, output=output)


def part(text: str, form: ThinkingFormat) -> tuple[str, str]:
    """Part a student's text into its reasoning and its answer.

    A text that is not quite in the form is read as far as it goes: reasoning that never ends has no answer yet, and the tags
    of a student that thinks by itself are taken out of any form.
    """
    found = _parted(text, form, at_start=True)
    if found:
        return found
    thought, rest = _without_tags(text, "think")
    found = _parted(rest, form, at_start=True) or _parted(rest, form, at_start=False)
    thinking, output = found or ("", rest.strip())
    return "\n".join(each for each in (thought, thinking) if each), output


def part_own(text: str) -> tuple[str, str]:
    """Part the text of a model that was taught no form into the reasoning in tags of its own and the rest."""
    thought, rest = _without_tags(text, "think")
    return thought, rest.strip()


def _parted(text: str, form: ThinkingFormat, *, at_start: bool) -> tuple[str, str] | None:
    match form:
        case "json":
            return _parted_object(text, at_start=at_start)
        case "xml" | "native" if not at_start:
            thinking, rest = _without_tags(text, "thinking")  # the other tags are out already
            return (thinking, rest.strip()) if rest is not text else None
        case _:
            return _parted_by_marks(text, _MARKS[form], at_start=at_start)


def _parted_by_marks(text: str, marks: _Marks, *, at_start: bool) -> tuple[str, str] | None:
    first = len(text) - len(text.lstrip())
    opening = marks.opening.match(text, first) if at_start else marks.opening.search(text)
    end = next((end for end in marks.end.finditer(text, opening.end() if opening else 0) if not end[1]), None)
    if opening is None and (at_start or end is None):
        return None
    body = text[opening.end() if opening else 0 : end.start() if end else len(text)]
    return _unescaped(body.strip(), marks), text[end.end() :].strip() if end else ""


def _without_tags(text: str, name: str) -> tuple[str, str]:
    """A text's tagged reasoning and the text around it; the very text when it has none."""
    marks = _tags(name)
    opening = marks.opening.search(text)
    ends = [end for end in marks.end.finditer(text) if not end[1]]
    if ends and (opening is None or ends[0].start() < opening.start()):  # a chat template opened it in the prompt
        return _unescaped(text[: ends[0].start()].strip(), marks), text[ends[0].end() :]
    if opening is None:
        return "", text
    end = next((end for end in ends if end.start() >= opening.end()), None)
    if end is None:
        return _unescaped(text[opening.end() :].strip(), marks), ""
    return _unescaped(text[opening.end() : end.start()].strip(), marks), text[: opening.start()] + text[end.end() :]


def _parted_object(text: str, *, at_start: bool) -> tuple[str, str] | None:
    first = _OBJECT.search(text)
    if first is None or (at_start and text[: first.start()].strip()):
        return None
    try:
        value, _ = json.JSONDecoder(strict=False).raw_decode(text, first.start())
    except (ValueError, RecursionError):
        value = None
    if isinstance(value, dict):
        fields = cast("dict[str, object]", value)
        return (_as_text(fields["thinking"]), _as_text(fields["output"])) if fields.keys() == _KEYS else None
    cut = _CUT_OBJECT.match(text, first.start())
    return (_decoded(cut[1]), _decoded(cut[2] or "")) if cut else None


_KEYS = {"thinking", "output"}


def _as_text(value: object) -> str:
    text = "" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace").strip()


def _decoded(inside: str) -> str:
    try:
        return _as_text(json.loads(f'"{inside}"', strict=False))
    except ValueError:  # an escape that JSON does not have
        return inside.strip()


def _unescaped(text: str, marks: _Marks) -> str:
    return marks.end.sub(lambda end: _with_backslashes(end, -1) if end[1] else end[0], text)


def _with_backslashes(end: re.Match[str], more: int) -> str:
    at, backslashes = end.start(1) - end.start(), len(end[1])
    return end[0][:at] + "\\" * (backslashes + more) + end[0][at + backslashes :]

"""What a student forgot while it learnt: fifty short general questions that the package carries, asked of base and student.

The questions are our own, without a system message, and so easy that a small chat model answers most. They are no
benchmark: they only show whether the student still answers anything but its task.
"""

import json
import re
from functools import cache
from importlib import resources
from typing import Any

from nanodistill_mcp.pipeline import thinking
from nanodistill_mcp.pipeline.answers import normalize
from nanodistill_mcp.pipeline.asking import BASE, STUDENT, Given, Question
from nanodistill_mcp.pipeline.scoring import compared, score
from nanodistill_mcp.pipeline.statistics import SIGNIFICANT_BELOW
from nanodistill_mcp.runs.records import RunManifest, ThinkingFormat

_TOKENS = 32
_TOKENS_OF_A_THINKER = 512
_KNEW_NOTHING = 0.1


def general_questions(manifest: RunManifest) -> list[Question]:
    """The questions, as this student is asked them."""
    tokens = _TOKENS_OF_A_THINKER if manifest.student_thinks_natively else _TOKENS
    return [Question([{"role": "user", "content": question}], tokens) for question, _ in _fixture()]


def forgetting(manifest: RunManifest, given: Given) -> dict[str, Any]:
    """Base against student on the general questions, with what it means in words."""
    form: ThinkingFormat = "native" if manifest.student_thinks_natively else thinking.format_of(manifest)
    questions = general_questions(manifest)
    rows = [(str(number), text, accepted[0]) for number, (text, accepted) in enumerate(_fixture())]
    right = {
        model: {
            str(number)
            for number, (question, (_, accepted)) in enumerate(zip(questions, _fixture(), strict=True))
            if question.key in given[model] and _is_right(given[model][question.key].text, accepted, form)
        }
        for model in (BASE, STUDENT)
    }
    against = compared(right, BASE, [i for i, _, _ in rows])
    base, student = score(rows, right[BASE]), score(rows, right[STUDENT])
    forgot = against["p_value"] < SIGNIFICANT_BELOW and against["difference"] < 0
    return {
        "rows": len(rows),
        BASE: base,
        STUDENT: student,
        "student_against_base": against,
        "forgot": forgot,
        "verdict": _words(base, student, forgot=forgot),
    }


def _words(base: dict[str, Any], student: dict[str, Any], *, forgot: bool) -> str:
    numbers = f"base {base['correct']}, student {student['correct']} of {base['rows']} general questions"
    if forgot:
        return f"It has forgotten other things it could do ({numbers}): use it for this task alone."
    if base["accuracy"] < _KNEW_NOTHING:
        return f"Whether it forgot anything cannot be told, because its base knows too little ({numbers})."
    return f"No forgetting can be shown ({numbers})."


def _is_right(text: str, accepted: list[str], form: ThinkingFormat) -> bool:
    """Does the answer hold one of the accepted ones as words of its own, within its first sentence or line?"""
    _, answer = thinking.part(text, form)
    first = normalize(re.split(r"\n|(?<=[.!?])\s", answer.strip(), maxsplit=1)[0])
    return any(re.search(rf"(?<!\w){re.escape(normalize(each))}(?!\w)", first) for each in accepted)


@cache
def _fixture() -> tuple[tuple[str, list[str]], ...]:
    text = resources.files("nanodistill_mcp.pipeline").joinpath("general.jsonl").read_text("utf-8")
    rows = [json.loads(line) for line in text.splitlines()]
    return tuple((str(row["question"]), list(row["accept"])) for row in rows)

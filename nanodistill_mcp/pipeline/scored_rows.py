"""Rows of published distillation data: a question, one or several worked answers, and what a judge said of each.

=================  ==============================================================================================
DistilQwen_100k    {instruction, output}
OmniThought        {question, reasoning: [{thought, solution, full_response, teacher, thought_correctness_verify,
                   Reasoning_Verbosity: {level, judge}, Cognitive_Difficulty: {level, judge}}]}
EasyDistill 2      {instruction, response, reasoning_verbosity, cognitive_difficulty, logical_correctness}
NanoDistill        {input, thinking, output}
chats              {messages}, {prompt, completion}
=================  ==============================================================================================

The fields are looked for by name, whatever else a row holds: a person names the file. Levels go from 0 to 9.
"""

import re
from dataclasses import dataclass
from typing import Any, cast

from nanodistill_mcp.pipeline.shapes import plain_rows
from nanodistill_mcp.pipeline.tables import plain_text

_QUESTION = ("question", "problem", "instruction", "prompt", "input", "query")
_THINKING = ("thinking", "thought", "reasoning", "reasoning_content")
_OUTPUT = ("solution", "output", "response", "completion", "answer", "cot", "full_response")
_VERBOSITY = ("Reasoning_Verbosity", "reasoning_verbosity", "rv_score", "rv")
_DIFFICULTY = ("Cognitive_Difficulty", "cognitive_difficulty", "cd_score", "cd")
_CORRECT = ("thought_correctness_verify", "logical_correctness", "correctness")
_WRONG = (False, "false", "incorrect", "wrong", "no", "0")

_TAGGED = (
    re.compile(r"\A\s*<think(?:ing)?>(?P<thinking>.*?)</think(?:ing)?>(?P<output>.*)\Z", re.DOTALL),
    re.compile(
        r"\A\s*<\|begin_of_thought\|>(?P<thinking>.*?)<\|end_of_thought\|>\s*"
        r"<\|begin_of_solution\|>(?P<output>.*?)(?:<\|end_of_solution\|>\s*)?\Z",
        re.DOTALL,
    ),
)


@dataclass(frozen=True)
class Answer:
    """A worked answer, with its levels; None where nobody judged it."""

    thinking: str
    output: str
    verbosity: float | None
    difficulty: float | None
    is_wrong: bool
    teacher: str


@dataclass(frozen=True)
class ScoredRow:
    """A question with its answers, in the order of the file."""

    question: str
    answers: list[Answer]


def level(value: float) -> float:
    """A level of 0 to 9. Above 0 and below 1 it is a share, as the EasyDistill app writes it: 0.6 is 6."""
    return 10 * value if 0 < value < 1 else value


def scored_row(row: Any) -> ScoredRow | None:
    """A row's question and answers; None where it has not both."""
    if not isinstance(row, dict):
        return None
    fields = {**cast("dict[str, Any]", row)}
    question = _question(fields)
    records: Any = fields.get("reasoning")
    if isinstance(records, list):
        several = [cast("dict[str, Any]", each) for each in cast("list[Any]", records) if isinstance(each, dict)]
        answers = [answer for each in several if (answer := _answer(each))]
    else:
        answers = [answer] if (answer := _answer(fields)) else []
    return ScoredRow(question, answers) if question and answers else None


def _question(fields: dict[str, Any]) -> str:
    [plain] = plain_rows([fields], "")
    if plain is not fields:  # of one of the shapes that seeds have, too
        fields["output"] = fields.get("output") or plain["output"]
        return plain_text(plain["input"])
    return _first(fields, _QUESTION)


def _answer(fields: dict[str, Any]) -> Answer | None:
    thinking, output = _first(fields, _THINKING), _first(fields, _OUTPUT)
    for pattern in _TAGGED:
        if found := pattern.match(output):
            thinking, output = thinking or found["thinking"].strip(), found["output"].strip()
    if not output:
        return None
    judged = next((fields[name] for name in _CORRECT if name in fields), None)
    word = judged.strip().lower() if isinstance(judged, str) else judged
    return Answer(
        thinking,
        output,
        _level_of(fields, _VERBOSITY),
        _level_of(fields, _DIFFICULTY),
        is_wrong=word is not None and word in _WRONG,
        teacher=_first(fields, ("teacher", "model")),
    )


def _first(fields: dict[str, Any], names: tuple[str, ...]) -> str:
    values = (fields.get(name) for name in names)
    return next((text for value in values if isinstance(value, str | int | float) and (text := plain_text(value))), "")


def _level_of(fields: dict[str, Any], names: tuple[str, ...]) -> float | None:
    value: Any = next((fields[name] for name in names if name in fields), None)
    if isinstance(value, dict):
        value = cast("dict[str, Any]", value).get("level")
    try:
        return None if value is None or isinstance(value, bool) else level(float(value))
    except (TypeError, ValueError):
        return None

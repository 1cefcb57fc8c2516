"""The shapes a teacher answers in. Flat, because some providers break nested references in a schema."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class _AnswerShape(BaseModel):
    # defer_build: the server imports them at its start to describe them in an estimate
    model_config = ConfigDict(extra="ignore", str_strip_whitespace=True, defer_build=True)


class WorkedSolution(_AnswerShape):
    """A worked solution of one input. The answer comes after the work, so that it can follow from it."""

    solution: str = Field(
        min_length=1, description="The worked solution: short, concrete steps that lead to the answer."
    )
    answer: str = Field(min_length=1, description="The final answer alone, in exactly the form the task asks for.")


class DirectAnswer(_AnswerShape):
    """The answer to one input, without any work shown."""

    answer: str = Field(min_length=1, description="The answer alone, in exactly the form the task asks for.")


class Derivation(_AnswerShape):
    """A worked solution that leads to an answer that was given, and what speaks against that answer."""

    objection: str = Field(default="", description="Why the given answer cannot be right; empty when it can.")
    solution: str = Field(min_length=1, description="The worked solution: short, concrete steps to the given answer.")
    answer: str = Field(min_length=1, description="The given answer, word for word.")


class Comparison(_AnswerShape):
    """Whether two answers are the same under a rubric."""

    reason: str = Field(description="What decides, in one sentence.")
    same: bool = Field(description="Whether the rubric takes the two answers for the same.")


class PolicyDraft(_AnswerShape):
    """The task's policy in ten fields, and a proposal for how answers are to be compared."""

    task_description: str = Field(min_length=1, description="What the task is, in two or three sentences.")
    input_format: str = Field(min_length=1, description="What an input looks like.")
    output_format: str = Field(min_length=1, description="What an answer looks like, exactly.")
    reasoning_style: str = Field(min_length=1, description="How a good worked solution reads.")
    key_constraints: list[str] = Field(description="Rules every example must keep.")
    difficulty_level: Literal["easy", "medium", "hard", "mixed"] = Field(description="How hard the examples are.")
    reasoning_patterns: list[str] = Field(description="The kinds of step the solutions use.")
    examples_summary: str = Field(min_length=1, description="What the examples cover, and what they leave out.")
    input_length_range: list[int] = Field(description="Shortest and longest input, in characters.")
    output_length_range: list[int] = Field(description="Shortest and longest answer, in characters.")
    topics: list[str] = Field(default=[], description="Six to twelve topics that inputs of this task are about.")
    personas: list[str] = Field(default=[], description="Three to six kinds of people who write such inputs.")
    checker: Literal["exact", "normalized", "numeric", "choice", "json", "judge"] = Field(
        description="How two answers are compared: choice when answers come from a short fixed list."
    )
    choices: list[str] = Field(default=[], description="The fixed list of answers, when checker is choice.")
    rubric: str = Field(default="", description="What makes two answers the same, when checker is judge.")


class NewInputs(_AnswerShape):
    """New inputs of the task, in the order of the cells that asked for them."""

    inputs: list[str]

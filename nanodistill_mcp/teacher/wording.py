"""The wording of a question: the package's own template, or a file that the server's owner wrote in its place.

A template talks about the blocks it is sent and the fields it is to answer with by naming them in backticks. One that leaves a
name out would let the teacher guess, one that names something else asks for what nobody reads: both are refused.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel

from nanodistill_mcp.errors import ConfigurationError, DamagedRunError
from nanodistill_mcp.settings import PromptName
from nanodistill_mcp.teacher import answers
from nanodistill_mcp.teacher.prompts import Prompt, Template

MAX_CHARS = 50_000

_NAME = re.compile(r"`([A-Za-z][A-Za-z0-9_-]{0,60})`")
_HOW = "docs/configuration.md lists what each prompt names; the package's own are in nanodistill_mcp/teacher/templates."


@dataclass(frozen=True)
class Question:
    """What a template has to name: the blocks of the question, and the fields of its answer."""

    template: Template
    blocks: tuple[str, ...]
    answer: type[BaseModel]
    keys: tuple[str, ...] = ()
    """What it may name beside: keys of the JSON objects inside the blocks."""

    @property
    def required(self) -> tuple[str, ...]:
        """The names that have to be there, in the order of the question."""
        return tuple(dict.fromkeys((*self.blocks, *self.answer.model_fields)))

    @property
    def accepted(self) -> set[str]:
        """All names that may be there: the values of a field that has fixed ones, too."""
        values = {str(value) for field in self.answer.model_fields.values() for value in _values(field.annotation)}
        return {*self.required, *self.keys, *values}


_ROW = ("input", "thinking", "output")
_CELL = ("topic", "difficulty", "length", "persona", "answer")

QUESTIONS: dict[PromptName, Question] = {
    "cot": Question("solve", ("task", "policy", "examples", "input"), answers.WorkedSolution, _ROW),
    "direct": Question("answer", ("task", "policy", "examples", "input"), answers.DirectAnswer, _ROW),
    "derive": Question("derive", ("task", "input", "answer"), answers.Derivation),
    "policy": Question("policy", ("task", "examples", "feedback", "current-policy"), answers.PolicyDraft, _ROW),
    "synthetic": Question(
        "generate", ("task", "policy", "examples", "avoid", "overused", "cells"), answers.NewInputs, (*_ROW, *_CELL)
    ),
    "judge": Question("judge", ("task", "rubric", "input", "first", "second"), answers.Comparison),
}
"""The prompts under the names that the configuration uses."""


def check_wording(name: PromptName, text: str) -> None:
    """Check that a prompt names all it has to, and nothing else.

    Raises:
        ConfigurationError: Lists what is missing and what is unknown.
    """
    question = QUESTIONS[name]
    if not text.strip() or len(text) > MAX_CHARS or "\0" in text:
        raise ConfigurationError(
            f"The file of the prompt {name!r} holds no text, or more than {MAX_CHARS} characters.",
            next_step=f"Correct the file that prompts.{name} names. {_HOW}",
        )
    named = dict.fromkeys(_NAME.findall(text))
    missing = [wanted for wanted in question.required if wanted not in named]
    unknown = [found for found in named if found not in question.accepted]
    told = [
        *([f"it does not name {_listed(missing)}"] if missing else []),
        *([f"it names {_listed(unknown)}, which it neither gets nor gives"] if unknown else []),
    ]
    if told:
        raise ConfigurationError(
            f"The prompt {name!r} is not accepted: {' and '.join(told)}.",
            next_step=f"Name blocks and fields in backticks, each at least once, in the file that prompts.{name} names. {_HOW}",
        )


def read_wordings(paths: Mapping[PromptName, Path]) -> dict[str, str]:
    """Read and check the prompts that the configuration names.

    Raises:
        ConfigurationError: A file cannot be read, or is not accepted.
    """
    return {QUESTIONS[name].template: _read(name, path) for name, path in paths.items()}


def sha_of(text: str) -> str:
    """The SHA-256 of a wording."""
    return hashlib.sha256(text.encode()).hexdigest()


def stored_wordings(folder: Path, sha256: Mapping[str, str]) -> dict[str, str]:
    """The wordings a run was made with, by template.

    Args:
        folder: Where the run keeps them.
        sha256: What its manifest says of them.

    Raises:
        DamagedRunError: One is missing, or is not what the run was made with.
    """
    found: dict[str, str] = {}
    for template, wanted in sha256.items():
        try:
            found[template] = (folder / f"{template}.md").read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            found[template] = ""
        if sha_of(found[template]) != wanted:
            raise DamagedRunError(
                f"prompts/{template}.md of this run is not what the run was made with.",
                next_step="Restore the file from a copy, or create another run with the prompts of now.",
            )
    return found


def worded(prompt: Prompt, wordings: Mapping[str, str]) -> Prompt:
    """The same question in the wording that replaces the package's, if there is one."""
    own = wordings.get(prompt.template)
    return replace(prompt, system=own.strip()) if own else prompt


def _read(name: PromptName, path: Path) -> str:
    text = _text_of(path)
    if text is None:
        raise ConfigurationError(
            f"The file of the prompt {name!r} cannot be read as UTF-8 text.",
            next_step=f"Correct prompts.{name} in the server's configuration; give an absolute path.",
        )
    check_wording(name, text)
    return text


def _text_of(path: Path) -> str | None:
    try:
        whole = path.expanduser()
        if not whole.is_absolute():  # it would be another file for each folder a client starts the server in
            return None
        with whole.open(encoding="utf-8-sig") as stream:
            return stream.read(MAX_CHARS + 1)
    except (OSError, RuntimeError, ValueError):
        return None


def _listed(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names[:20])


def _values(annotation: Any) -> tuple[Any, ...]:
    """The fixed values of a field, and the fields of the objects in a list."""
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    inner = [part for part in get_args(annotation) if isinstance(part, type) and issubclass(part, BaseModel)]
    return tuple(name for model in inner for name in model.model_fields)

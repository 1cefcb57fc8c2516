"""What the teacher is asked: a template as the system message, the material as tagged blocks in the user message.

A block's tag carries six hex digits of its content's hash, so that no content can close its own block and pose as another.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from typing import Literal

Template = Literal["solve", "answer", "derive", "policy", "generate", "judge"]


@dataclass(frozen=True)
class Prompt:
    """One question to the teacher. ``template`` names the text that ``system`` is."""

    template: Template
    system: str
    user: str

    @property
    def sha(self) -> str:
        """Which wording of the template asked: the start of its SHA-256."""
        return hashlib.sha256(self.system.encode(errors="replace")).hexdigest()[:12]


def solve(
    instruction: str, input_text: str, policy_json: str = "", examples: Sequence[Mapping[str, str]] = ()
) -> Prompt:
    """Ask for a worked solution of one input; answered by WorkedSolution.

    Args:
        instruction: The run's instruction.
        input_text: The input to solve.
        policy_json: The current policy, once there is one.
        examples: Rows of ``{"input", "thinking", "output"}`` to solve alike.
    """
    return _prompt("solve", _about_one_input(instruction, input_text, policy_json, examples))


def answer(
    instruction: str, input_text: str, policy_json: str = "", examples: Sequence[Mapping[str, str]] = ()
) -> Prompt:
    """Ask for the answer alone; answered by DirectAnswer. The arguments are those of ``solve``."""
    return _prompt("answer", _about_one_input(instruction, input_text, policy_json, examples))


def derive(instruction: str, input_text: str, given: str) -> Prompt:
    """Ask for a worked solution that leads to a given answer; answered by Derivation."""
    return _prompt("derive", [("task", instruction), ("input", input_text), ("answer", given)])


def judge(instruction: str, rubric: str, input_text: str, first: str, second: str) -> Prompt:
    """Ask whether two answers are the same under a rubric; answered by Comparison."""
    blocks = [("task", instruction), ("rubric", rubric), ("input", input_text), ("first", first), ("second", second)]
    return _prompt("judge", blocks)


def extract_policy(
    instruction: str, examples: Sequence[Mapping[str, str]], feedback: str = "", current_policy_json: str = ""
) -> Prompt:
    """Ask for the policy of a task; answered by PolicyDraft.

    Args:
        instruction: The run's instruction.
        examples: Rows of ``{"input", "thinking", "output"}``.
        feedback: What the run's owner wants changed in the current policy.
        current_policy_json: The policy the feedback is about.
    """
    optional = [("feedback", feedback or None), ("current-policy", current_policy_json or None)]
    return _prompt("policy", [("task", instruction), ("examples", _lines(examples)), *optional])


def generate(
    instruction: str,
    policy_json: str,
    examples: Sequence[Mapping[str, str]],
    cells: Sequence[Mapping[str, str]],
    avoid: Sequence[str] = (),
    overused: Sequence[str] = (),
) -> Prompt:
    """Ask for new inputs, one for each cell; answered by NewInputs.

    Args:
        instruction: The run's instruction.
        policy_json: The current policy.
        examples: Rows of ``{"input", "output"}`` that show form and level.
        cells: What each input is to be like: topic, difficulty, length, persona, answer.
        avoid: Inputs that exist already and should not come again.
        overused: Openings that too many inputs share.
    """
    shown = [("task", instruction), ("policy", policy_json), ("examples", _lines(examples))]
    kept_off = [("avoid", _lines(avoid) or None), ("overused", _lines(overused) or None)]
    return _prompt("generate", [*shown, *kept_off, ("cells", _lines(cells))])


def _about_one_input(
    instruction: str, input_text: str, policy_json: str, examples: Sequence[Mapping[str, str]]
) -> list[tuple[str, str | None]]:
    shown = [("policy", policy_json or None), ("examples", _lines(examples) or None)]
    return [("task", instruction), *shown, ("input", input_text)]


def reworded(prompt: Prompt, verdict: str) -> Prompt:
    """The same question, with a paragraph on what was wrong with the last reply to it; unchanged when nothing was."""
    return replace(prompt, system=f"{prompt.system}\n\n{_rewordings()[verdict]}") if verdict else prompt


def in_text(prompt: Prompt, form: str) -> Prompt:
    """The same question, answered as plain text in a form that is shown."""
    return replace(prompt, system=f"{prompt.system}\n\n{_template('text_form').replace('{form}', form)}")


@cache
def _rewordings() -> dict[str, str]:
    parts = ("\n" + _template("reword")).split("\n# ")[1:]
    return {name: words.strip() for name, _, words in (part.partition("\n") for part in parts)}


def _prompt(template: Template, blocks: Sequence[tuple[str, str | None]]) -> Prompt:
    user = "\n\n".join(_block(tag, content) for tag, content in blocks if content is not None)
    return Prompt(template=template, system=_template(template), user=user)


@cache
def _template(name: Template | Literal["reword", "text_form"]) -> str:
    return (
        resources.files("nanodistill_mcp.teacher")
        .joinpath("templates", f"{name}.md")
        .read_text(encoding="utf-8")
        .strip()
    )


def _block(tag: str, content: str) -> str:
    mark = content
    while True:
        suffix = hashlib.sha256(mark.encode(errors="replace")).hexdigest()[:6]
        if (
            f"</{tag}-{suffix}>" not in content
        ):  # six digits can be searched for, so the promise is checked, not assumed
            return f"<{tag}-{suffix}>\n{content}\n</{tag}-{suffix}>"
        mark = suffix + mark


def _lines(rows: Iterable[object]) -> str:
    return "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)

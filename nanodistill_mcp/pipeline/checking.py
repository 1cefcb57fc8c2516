"""A run's rule for answers: the form they must have, and when two of them are the same."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from nanodistill_mcp.pipeline import answers, inference, plan
from nanodistill_mcp.pipeline.response_schemas import schema_check
from nanodistill_mcp.runs.records import Checker, Seed, Trace
from nanodistill_mcp.runs.store import Run, read_records

if TYPE_CHECKING:  # the server checks forms too, and asks nobody
    from nanodistill_mcp.teacher.client import Teacher

Fault = Literal["", "not_a_choice", "schema", "unfit"]

DEFAULT_RUBRIC = (
    "Two answers are the same when someone who acts on them would do the same: they state the same facts, figures and "
    "conclusions. Wording, order, length and tone do not matter."
)
_JUDGE_TOKENS = 512


@dataclass(frozen=True)
class Checking:
    """How a run's answers are judged."""

    instruction: str
    checker: Checker
    choices: list[str] = field(default_factory=list[str])
    pattern: str = ""
    rubric: str = ""
    tolerance: float = 0.0
    rouge_l_from: float = answers.ROUGE_L_FROM
    schema: dict[str, Any] = field(default_factory=dict[str, Any])
    keeps_schema: Callable[[str], bool] = lambda _: True

    @property
    def task(self) -> str:
        """The instruction as the teacher reads it."""
        return plan.task_text(self.instruction, self.choices, self.schema)

    def fault(self, output: str) -> Fault:
        """What is wrong with the form of an answer, if anything."""
        if not answers.fits(self.checker, self.choices, output, self.pattern):
            return "not_a_choice" if self.checker == "choice" else "unfit"
        return "" if self.keeps_schema(output) else "schema"

    def canonical(self, output: str) -> str:
        """An answer as it is taught: a choice spelled as in the list, JSON without empty fields."""
        match self.checker:
            case "choice":
                wanted = answers.normalize(output)
                return next((choice for choice in self.choices if answers.normalize(choice) == wanted), output.strip())
            case "json":
                return answers.tidy(output, self.schema)
            case "exact" | "normalized" | "numeric" | "regex" | "rouge_l" | "judge":
                return output.strip()

    def agree(self, expected: str, given: str) -> bool:
        """Are two answers the same, as far as can be told without asking anyone?"""
        return answers.agree(self.checker, expected, given, tolerance=self.tolerance, rouge_l_from=self.rouge_l_from)

    async def same(self, teacher: "Teacher", text: str, expected: str, given: str) -> tuple[bool, list[str]]:
        """Are two answers to an input the same? With the checker ``judge`` the teacher is asked, unless they are equal.

        Returns:
            Whether they are, and the calls that were made for it.
        """
        if self.agree(expected, given):
            return True, []
        if self.checker != "judge" or not given.strip():
            return False, []
        from nanodistill_mcp.teacher import prompts  # noqa: PLC0415
        from nanodistill_mcp.teacher.answers import Comparison  # noqa: PLC0415
        from nanodistill_mcp.teacher.calls import RowDeclined  # noqa: PLC0415

        rubric = self.rubric or DEFAULT_RUBRIC
        prompt = prompts.judge(self.instruction, rubric, text, expected, given)
        try:
            verdict = await teacher.ask(prompt, Comparison, max_tokens=_JUDGE_TOKENS)
        except RowDeclined as declined:
            return False, [declined.call_id]
        return verdict.value.same, [verdict.call_id]


def checking_of(run: Run) -> Checking:
    """The run's rule: its policy's, or before there is one, what the given outputs show."""
    spec, policy = run.manifest.spec, run.policy()
    if policy is None:
        traces = read_records(run.paths.traces_cot, Trace)
        answered = [trace.output for trace in traces if trace.labelled_by == "teacher" and trace.output]
        return from_seeds(spec.instruction, run.seeds(), spec.response_schema, answered)
    schema = spec.response_schema or policy.answer_schema
    return Checking(
        instruction=spec.instruction,
        checker=policy.checker,
        choices=policy.choices if policy.checker == "choice" else [],
        pattern=policy.pattern,
        rubric=policy.rubric,
        tolerance=policy.tolerance,
        rouge_l_from=policy.rouge_l_from,
        schema=schema,
        keeps_schema=schema_check(schema),
    )


def from_seeds(
    instruction: str, seeds: list[Seed], response_schema: dict[str, Any], answered: Sequence[str] = ()
) -> Checking:
    """The rule that the given outputs show.

    All of them take part, the held-out ones too: which answers there are is part of the task, and no input is given away.

    Args:
        instruction: The run's instruction.
        seeds: All seeds.
        response_schema: The run's schema, if it has one.
        answered: The teacher's answers to seeds. They show the rule when no output was given, and further choices.
    """
    outputs = [seed.output for seed in seeds if seed.labelled] or list(answered)
    checker, choices = inference.infer_checker(outputs) if outputs else ("normalized", [])
    if checker == "choice":  # an answer that nobody gave yet may be the teacher's to give
        choices = inference.with_further(choices, answered)
    schema = response_schema or (inference.infer_schema(outputs) if checker == "json" else {})
    return Checking(
        instruction=instruction,
        checker=checker,
        choices=choices,
        pattern=inference.infer_pattern(outputs) if checker == "regex" else "",
        schema=schema,
        keeps_schema=schema_check(schema),
    )


def policy_fields(checking: Checking) -> dict[str, Any]:
    """The rule as fields of a policy."""
    return {
        "checker": checking.checker,
        "choices": checking.choices,
        "pattern": checking.pattern,
        "rubric": (checking.rubric or DEFAULT_RUBRIC) if checking.checker == "judge" else "",
        "answer_schema": checking.schema if checking.checker == "json" else {},
    }

"""What amplify has accepted and rejected so far, each with its lineage; and what keeps a candidate out."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from nanodistill_mcp.pipeline.answers import normalize
from nanodistill_mcp.pipeline.checking import Checking
from nanodistill_mcp.pipeline.grid import Cell
from nanodistill_mcp.pipeline.quality import Diversity, HeldOut, NearDuplicates
from nanodistill_mcp.pipeline.revisions import Revisions
from nanodistill_mcp.pipeline.teaching import Solved
from nanodistill_mcp.runs.records import Example, Rejected, TaskPolicy, Trace

FILTERS: dict[str, tuple[str, ...]] = {
    "copies": ("duplicate", "seed_copy", "near_duplicate"),
    "held_out": ("held_out",),
    "teacher": ("refused", "truncated", "filtered", "empty", "invalid", "context", "wrong_language"),
    "form": ("not_a_choice", "unfit", "schema"),
    "agreement": ("disagreement",),
    "revisions": ("dropped",),
    "cap": ("unfinished",),
    "target": ("surplus",),
}
"""The filters in the order a candidate meets them, with the reasons each gives."""


@dataclass
class Candidate:
    """A new input on its way, and what was paid for it."""

    id: str
    input: str
    parents: list[str]
    cell: Cell
    call_ids: list[str]
    cost_usd: float
    origin: Literal["synthetic", "labelled"] = "synthetic"

    def paid(self, solved: Solved, judged: list[str] | None = None) -> None:
        """Count a solution of it."""
        self.call_ids += [solved.call_id, *(judged or [])]
        self.cost_usd += solved.cost_usd


@dataclass
class Pool:
    """What was accepted and rejected so far."""

    policy: TaskPolicy
    checking: Checking
    held_out: HeldOut
    revisions: Revisions
    known: NearDuplicates = field(default_factory=NearDuplicates)
    diversity: Diversity = field(default_factory=Diversity)
    examples: list[Example] = field(default_factory=list[Example])
    rejected: list[Rejected] = field(default_factory=list[Rejected])
    seeds: set[str] = field(default_factory=set[str])
    """The seeds' inputs, normalized, of those set aside too."""

    def take_seed(self, trace: Trace) -> None:
        """Accept a seed whose solution leads to its answer; set the others aside, where no copy of them comes back."""
        self.seeds.add(normalize(trace.input))
        if trace.agrees or trace.derived:
            self._add(
                Example(
                    id=trace.id,
                    input=trace.input,
                    thinking=trace.thinking,
                    output=trace.output,
                    confidence=trace.confidence,
                    origin="seed",
                    parents=[trace.id],
                    call_ids=trace.call_ids,
                    checks={
                        **({"derived": True} if trace.derived else {}),
                        **({"labelled_by": "teacher"} if trace.labelled_by == "teacher" else {}),
                    },
                )
            )
            return
        self.rejected.append(
            Rejected(
                id=trace.id,
                input=trace.input,
                output=trace.output or trace.teacher_output,
                other_output=trace.teacher_output if trace.output else trace.other_output,
                reason=(self.checking.fault(trace.teacher_output) if not trace.output else "") or "disagreement",
                call_ids=trace.call_ids,
                parents=[trace.id],
            )
        )

    def take_over(self, examples: Iterable[Example]) -> None:
        """Accept what the run's parent had accepted."""
        for example in examples:
            self._add(example)

    def screen(self, candidate: Candidate) -> bool:
        """Keep a candidate out before it is solved, with the reason.

        Its answer is not known yet: a near copy is kept out here only when it was asked to have the same answer.
        """
        text, intended = candidate.input, candidate.cell.get("answer", "")
        reason = ""
        if not text.strip():
            reason = "empty"
        elif normalize(text) in self.seeds:
            reason = "seed_copy"
        elif self.known.is_exact(text):
            reason = "duplicate"
        elif self.held_out.contaminates(text):
            reason = "held_out"
        elif intended and self.known.is_near(text, intended):
            reason = "near_duplicate"
        elif barred := self.revisions.bars(text, intended):
            reason = barred
        if reason:
            self.reject(candidate, reason, output=intended)
        return not reason

    def accept(self, candidate: Candidate, solution: Solved, output: str, checks: dict[str, Any]) -> None:
        """Take a verified candidate in."""
        self._add(
            Example(
                id=candidate.id,
                input=candidate.input,
                thinking=solution.solution,
                output=output,
                confidence=1.0 if checks["solutions"] > 1 else 0.5,
                origin=candidate.origin,
                parents=candidate.parents,
                call_ids=candidate.call_ids,
                policy_version=self.policy.version,
                cell=candidate.cell,
                checks=checks,
                cost_usd=round(candidate.cost_usd, 8),
            )
        )

    def reject(self, candidate: Candidate, reason: Any, *, output: str = "", other: str = "") -> None:
        """Set a candidate aside."""
        self.rejected.append(
            Rejected(
                id=candidate.id,
                input=candidate.input,
                output=output,
                other_output=other,
                reason=reason,
                call_ids=candidate.call_ids,
                parents=candidate.parents,
                cell=candidate.cell,
                policy_version=self.policy.version,
                cost_usd=round(candidate.cost_usd, 8),
            )
        )

    def cut(self, size: int) -> None:
        """Set aside what was accepted beyond the target: it is verified and paid for, and a higher target takes it in."""
        shared = Rejected.model_fields.keys() & Example.model_fields.keys()
        self.rejected += [
            Rejected.model_validate({**example.model_dump(include=set(shared)), "reason": "surplus"})
            for example in self.examples[size:]
        ]
        del self.examples[size:]

    def synthetic(self) -> list[Example]:
        """The accepted examples that are not seeds."""
        return [example for example in self.examples if example.origin != "seed"]

    def yields(self) -> list[dict[str, Any]]:
        """What each filter let through of the generated candidates, in the order they meet them."""
        seeds = {rejected.id for rejected in self.rejected if rejected.parents == [rejected.id]}
        reasons = Counter(rejected.reason for rejected in self.rejected if rejected.id not in seeds)
        left = reasons.total() + len(self.synthetic())
        table: list[dict[str, Any]] = []
        for name, kept_out in FILTERS.items():
            dropped = sum(reasons[reason] for reason in kept_out)
            table.append({"filter": name, "in": left, "out": left - dropped})
            left -= dropped
        return table

    def _add(self, example: Example) -> None:
        self.examples.append(example)
        self.known.add(example.input, example.output)
        if example.origin != "seed":
            self.diversity.add(example.input)

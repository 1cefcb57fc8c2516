"""What a refined run has of its parent: ``parent/``, written once when the run is made, so that it outlives the parent."""

import math
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from nanodistill_mcp.pipeline.grid import Cell, cell
from nanodistill_mcp.runs.files import read_json, read_lines, read_object
from nanodistill_mcp.runs.records import Example, TaskPolicy
from nanodistill_mcp.runs.store import Run, read_records

_GOLDEN = (math.sqrt(5) - 1) / 2
BATCHES_APART = 10_000
"""Generated batches of a child are numbered from here on, of its own child from twice that: no id and no question comes twice."""


class Focus(BaseModel):
    """One group of the parent's failures, as new examples are asked for it."""

    model_config = ConfigDict(extra="ignore", defer_build=True)

    cell: Cell
    weight: float
    because: str


@dataclass(frozen=True)
class Inherited:
    """The parent's part of a refined run."""

    folder: Path

    @property
    def examples(self) -> list[Example]:
        """What the parent's amplify wrote, without the seeds."""
        return [each for each in read_records(self.folder / "examples.jsonl", Example) if each.origin != "seed"]

    @property
    def folds(self) -> dict[str, str]:
        """On which side of the parent's dataset each example was, by its id: what it was tested on is never trained on."""
        return read_object(self.folder / "folds.json") or {}

    @property
    def answers(self) -> list[dict[str, Any]]:
        """What base, student and teacher answered in the parent's evaluation."""
        return list(read_lines(self.folder / "answers.jsonl"))

    @property
    def focus(self) -> list[Focus]:
        """Where the parent failed; empty when its failures showed no pattern."""
        found: list[Any] = read_json(self.folder / "focus.json") or []
        return [Focus.model_validate(each) for each in found]

    @property
    def adapter_dir(self) -> Path:
        """The parent's best checkpoint, from which training goes on."""
        return self.folder / "adapters"

    @property
    def training(self) -> dict[str, Any]:
        """How the parent was trained."""
        return read_object(self.folder / "training.json") or {}


def inherited(run: Run) -> Inherited | None:
    """What this run has of its parent; None when it was not refined from one."""
    return Inherited(run.paths.parent) if run.manifest.refined_from else None


def focused(policy: TaskPolicy, number: int, focus: list[Focus]) -> Cell:
    """The cell of the ``number``-th input of a refined run: the grid's, with what the student failed at in place of its turn.

    Which group's turn it is follows the golden ratio: whatever their number, the turns are close to the groups' weights.
    """
    usual = cell(policy, number)
    if not focus:
        return usual
    at = (number * _GOLDEN) % 1.0 * sum(each.weight for each in focus)
    ends = accumulate(each.weight for each in focus)
    chosen = next((each for each, end in zip(focus, ends, strict=True) if at < end), focus[-1])
    return {**usual, **chosen.cell}

"""Artifacts that are no files: what the run's files say together, made when it is asked for."""

import re

from nanodistill_mcp.errors import UserInputError
from nanodistill_mcp.pipeline.compare_runs import compare_runs
from nanodistill_mcp.pipeline.lineage import lineage
from nanodistill_mcp.pipeline.policy_versions import compare_versions
from nanodistill_mcp.pipeline.revisions import effective_examples
from nanodistill_mcp.runs.files import json_bytes
from nanodistill_mcp.runs.store import Run, RunStore
from nanodistill_mcp.server.board import DATA, board_data

EXAMPLES = "examples.jsonl"
LINEAGE = "lineage/"
COMPARE_RUNS = "compare/"
_COMPARE = "policies/compare/"
_PAIR = re.compile(r"(\d{1,6})\.\.(\d{1,6})\Z")


def view(run: Run, name: str) -> bytes | None:
    """The content of an artifact that is no file; None when the name is not one of those.

    Raises:
        UserInputError: It names a row, a run or a version there is not.
    """
    if name == EXAMPLES and run.paths.traces_amplified.exists():
        return b"".join(json_bytes(row.model_dump()) + b"\n" for row in effective_examples(run))
    if name == DATA:
        return board_data(run) + b"\n"
    if name.startswith(LINEAGE):
        return json_bytes(lineage(run, name.removeprefix(LINEAGE)), indent=1) + b"\n"
    if name.startswith(COMPARE_RUNS):
        other = RunStore(run.paths.root.parents[1]).open(name.removeprefix(COMPARE_RUNS))
        return json_bytes(compare_runs(run, other), indent=1) + b"\n"
    if name.startswith(_COMPARE):
        pair = _PAIR.match(name.removeprefix(_COMPARE))
        if pair is None:
            raise UserInputError(
                "Two versions of the policy are named by their numbers.", next_step=f"For example: {_COMPARE}1..2."
            )
        return json_bytes(compare_versions(run, int(pair[1]), int(pair[2])), indent=1) + b"\n"
    return None

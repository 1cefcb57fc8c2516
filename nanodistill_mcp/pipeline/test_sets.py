"""What a student is proved on: the user's held-out examples and test rows, and apart from them the synthetic test split."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanodistill_mcp.pipeline.quality import NearDuplicates
from nanodistill_mcp.pipeline.revisions import effective_examples
from nanodistill_mcp.pipeline.seeds import read_rows
from nanodistill_mcp.runs.files import read_lines, sha256_of, write_lines
from nanodistill_mcp.runs.store import Run

Rows = list[tuple[str, str, str]]
"""(id, input, expected output)."""


@dataclass(frozen=True)
class Sets:
    """The rows by set, ``held_out`` and ``synthetic``, in this order; a set without rows is left out."""

    by_name: dict[str, Rows]
    seen: int
    """Test rows that are left out, because the student was trained on them or on near copies of them."""

    @property
    def rows(self) -> Rows:
        """Those of all sets."""
        return [row for rows in self.by_name.values() for row in rows]


def test_sets(run: Run) -> Sets:
    """The sets of a run. Test rows that were brought after its training are held against what was trained on."""
    held_out = [(seed.id, seed.input, seed.output) for seed in run.seeds() if seed.split == "held_out"]
    examples = effective_examples(run)
    by_id = {example.id: example for example in examples}
    tested = [row["id"] for row in read_lines(run.paths.dataset / "test.jsonl")]
    kept_apart = set(tested)
    brought = [(row["id"], row["input"], row["output"]) for row in read_lines(run.paths.test_rows)]
    fresh = _unseen(brought, (each.input for each in examples if each.id not in kept_apart)) if brought else []
    known = {text for _, text, _ in held_out}
    fresh = [row for row in fresh if row[1] not in known]
    synthetic = [
        (i, by_id[i].input, by_id[i].output)
        for i in tested
        if i in by_id  # dropped by the user since
    ]
    sets = {"held_out": held_out + fresh, "synthetic": synthetic}
    seen = len([row for row in brought if row[1] not in known]) - len(fresh)
    return Sets({name: rows for name, rows in sets.items() if rows}, seen)


def take_test_rows(run: Run, path_text: str, allowed: list[Path]) -> None:
    """Keep a file of test rows with the run, in place of those brought before; an equal file changes nothing.

    Raises:
        UserInputError: It is not readable as such a file; names the first row that is not accepted.
    """
    rows = read_rows(path_text, allowed, labelled=True, instruction=run.manifest.spec.instruction)
    kept = [
        {"id": f"e{number:05d}", "input": source, "output": output} for number, (source, output) in enumerate(rows, 1)
    ]
    if kept != list(read_lines(run.paths.test_rows)):
        run.check_writable()
        write_lines(run.paths.test_rows, kept)


def held_out_inputs(run: Run) -> list[str]:
    """What nothing that is trained on may give away: the held-out seeds, and test rows that were brought since."""
    held_out = [seed.input for seed in run.seeds() if seed.split == "held_out"]
    return held_out + [str(row["input"]) for row in read_lines(run.paths.test_rows)]


def asked_for(run: Run, teacher_rows: int) -> dict[str, Any]:
    """What an evaluation is asked for; one that was asked for the same has nothing new to find."""
    brought = sha256_of(run.paths.test_rows) if run.paths.test_rows.exists() else ""
    return {"test_rows_sha256": brought, "teacher_rows": teacher_rows}


def _unseen(rows: Rows, trained_on: Iterable[str]) -> Rows:
    known = NearDuplicates()
    for text in trained_on:
        known.add(text, "")
    return [row for row in rows if not known.is_exact(row[1]) and not known.near(row[1])]

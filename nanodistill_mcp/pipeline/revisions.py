"""The examples as the user left them: what amplify wrote, with every row that was dropped, edited or approved since.

``traces_amplified.jsonl`` stays as amplify wrote it and ``revisions.jsonl`` says what the user changed, so that doing a stage
again undoes nothing: a change belongs to the text of an input, not to a place in a file. Whatever reads the examples to use
them reads them through here.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from pydantic import ValidationError

from nanodistill_mcp.errors import DamagedRunError
from nanodistill_mcp.pipeline.answers import normalize
from nanodistill_mcp.pipeline.quality import NearDuplicates
from nanodistill_mcp.runs.files import count_lines, read_object
from nanodistill_mcp.runs.journal import JournalReading, Record, read_journal
from nanodistill_mcp.runs.records import EffectiveExample, Example, Revision, RowChange
from nanodistill_mcp.runs.store import Run, read_records


def key_of(text: str) -> str:
    """What a row is known by: its input, hashed. Ids come again with other content when a stage is done again."""
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()[:16]


@dataclass
class RowState:
    """What the user made of one row."""

    row: Example
    dropped: bool = False
    edited: bool = False
    approved: bool = False
    numbers: list[int] = field(default_factory=list[int])
    beside: set[str] = field(default_factory=set[str])

    @property
    def pinned(self) -> bool:
        """The row is in, whatever amplify writes."""
        return not self.dropped and (self.edited or self.approved)

    def shown(self) -> EffectiveExample:
        """The row as it is trained on."""
        marks = {"edited": self.edited, "approved": self.approved, "revisions": self.numbers}
        return EffectiveExample.model_validate({**self.row.model_dump(), **marks})


class Revisions:
    """All the user's changes to the rows of a run, in the order they were made."""

    def __init__(self, revisions: Iterable[Revision] = ()) -> None:
        self.all = list(revisions)
        self.number = 0
        """Of the newest call of revise_examples; 0 when there was none."""
        self.moved = 0
        """Of the newest one that changed what is trained on."""
        self.states: dict[str, RowState] = {}
        for revision in self.all:
            self._take(revision)
        self._index, self._indexed = NearDuplicates(), list[RowState]()
        for state in self.states.values():
            if state.dropped or state.pinned:
                self._index.add(state.row.input, state.row.output)
                self._indexed.append(state)

    def _take(self, revision: Revision) -> None:
        self.number = revision.number
        self.moved = revision.number if revision.moves_data else self.moved
        for change in revision.changes:
            state = self.states.setdefault(change.key, RowState(change.row))
            state.row = change.row
            state.beside.update(change.beside)
            if revision.number not in state.numbers:
                state.numbers.append(revision.number)
            match change.action:
                case "drop":
                    state.dropped = True
                case "edit":
                    state.edited = True
                case "approve":
                    state.dropped, state.approved = False, True

    def plus(self, changes: list[RowChange]) -> "Revisions":
        """These revisions and one more, which is not on disk yet."""
        return Revisions([*self.all, Revision(number=self.number + 1, at="", moves_data=False, changes=changes)])

    def bars(self, text: str, output: str = "") -> Literal["", "dropped", "near_duplicate"]:
        """Why a new example must not come in beside what the user did; empty when it may.

        A row that the user dropped stays out, and so does every near copy of it that did not stand beside it then. A row that
        the user edited or approved is in already; its near copies with the same output (with any, when none is given) are not
        needed. Rows the user touched are never barred themselves, so that amplify, done again, asks what it asked before.
        """
        key = key_of(text)
        if not self.states or key in self.states:
            return ""
        for index in self._index.near(text):
            state = self._indexed[index]
            same = not output or normalize(output) == normalize(state.row.output)
            if key not in state.beside and (state.dropped or same):
                return "dropped" if state.dropped else "near_duplicate"
        return ""

    def effective(self, written: Iterable[Example]) -> list[EffectiveExample]:
        """What amplify wrote, as the user left it. Rows that were edited or approved are there even when it no longer wrote them."""
        return [row for _, row in self.keyed(written)]

    def keyed(self, written: Iterable[Example]) -> list[tuple[str, EffectiveExample]]:
        """The effective rows, each with its key."""
        rows: list[tuple[str, EffectiveExample]] = []
        met: set[str] = set()
        for example in written:
            key = key_of(example.input)
            met.add(key)
            if state := self.states.get(key):
                if not state.dropped:
                    shown = state.shown() if state.pinned else _as_written(example)
                    rows.append((key, shown.model_copy(update={"id": example.id})))
            elif example.origin == "seed" or self.bars(example.input) != "dropped":
                rows.append((key, _as_written(example)))
        taken = {row.id for _, row in rows}
        for key, state in self.states.items():
            if key not in met and state.pinned:
                row = state.shown()
                if row.id in taken:  # given to another row since
                    row = row.model_copy(update={"id": f"{row.id}.{key[:8]}"})
                rows.append((key, row))
        return rows

    def needed(self, written: list[Example], target: int) -> int:
        """How many of the written rows, in their order, leave as many effective ones as wanted; more than there are when some are missing.

        The first ``target`` rows are made as if nothing had been revised, so that amplify, done again, finds its questions
        in the journal; what the user dropped is made up for after them.
        """
        count = target
        if self.states:
            while count <= len(written) and (short := target - len(self.effective(written[:count]))) > 0:
                count += short
        return count

    def counts(self) -> dict[str, int]:
        """How many rows are in which state."""
        states = self.states.values()
        return {
            "dropped": sum(state.dropped for state in states),
            "edited": sum(state.edited and not state.dropped for state in states),
            "approved": sum(state.approved and not state.dropped for state in states),
        }


def revisions_of(run: Run) -> Revisions:
    """The run's revisions.

    Raises:
        DamagedRunError: A line of them cannot be read: what the user decided must not be lost unseen.
    """
    return revisions_in(read_journal(run.paths.revisions))


def revisions_in(reading: JournalReading) -> Revisions:
    """The revisions that a reading of ``revisions.jsonl`` holds."""
    if reading.damaged_lines:
        raise _damaged()
    return Revisions(_revision(record) for record in reading.records)


def effective_examples(run: Run) -> list[EffectiveExample]:
    """The examples that are trained on."""
    return revisions_of(run).effective(read_records(run.paths.traces_amplified, Example))


def count_examples(run: Run) -> int:
    """How many examples are trained on."""
    if not run.paths.revisions.exists():
        return count_lines(run.paths.traces_amplified)
    return len(effective_examples(run))


def moved_since_dataset(run: Run) -> bool:
    """Did the user change rows after the dataset was built of them?"""
    if not run.paths.revisions.exists():
        return False
    built = (read_object(run.paths.dataset / "manifest.json") or {}).get("revisions", 0)
    return revisions_of(run).moved != built


def _as_written(example: Example) -> EffectiveExample:
    return EffectiveExample.model_validate(example.model_dump())


def _revision(record: Record) -> Revision:
    try:
        return Revision.model_validate(record)
    except ValidationError:
        raise _damaged() from None


def _damaged() -> DamagedRunError:
    return DamagedRunError(
        "A line of this run's revisions.jsonl cannot be read, so what was dropped and edited is not known.",
        next_step="Restore the file from a copy, or remove that line by hand to go on without it.",
    )

"""Published distillation data taken over as a run: filtered by its levels, mixed by difficulty, cleaned as amplify cleans its own.

The rows are what a teacher of somebody else's answered. Nothing is paid for them, and nothing was verified here: they stand as they
are, some of them held out, and the run begins where training does.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nanodistill_mcp.errors import UserInputError
from nanodistill_mcp.pipeline.adopt import MAX_EXAMPLES, Adopted, policy_of
from nanodistill_mcp.pipeline.quality import HeldOut, NearDuplicates
from nanodistill_mcp.pipeline.scored_rows import Answer, ScoredRow, scored_row
from nanodistill_mcp.pipeline.seeds import MAX_CHARS, MIN_ROWS
from nanodistill_mcp.runs.files import write_json
from nanodistill_mcp.runs.paths import RunPaths
from nanodistill_mcp.runs.records import Example, Seed, Trace

"""Edges of the levels of difficulty, as EasyDistill 2 mixes them: each bin from its first edge up to the next one."""

_SEEDS = 10
_MOST_PER_SEED = 1000
_SPARE_SHARE = 1.25
"""So many more rows of a bin are read than it may have: a fifth of all may be held out."""

Range = tuple[float, float]


@dataclass(frozen=True)
class Wanted:
    """Which rows are taken."""

    verbosity: Range | None = None
    difficulty: Range | None = None
    bins: tuple[float, ...] = ()
    """Edges; empty asks for no mixing, and takes rows whose difficulty nobody judged, too."""
    per_bin: tuple[int, ...] = ()
    """Rows of each bin at most; empty is no cap."""
    limit: int = MAX_EXAMPLES
    held_out: int = 100

    def bin_of(self, answer: Answer) -> int | None:
        """The bin of an answer; None where it is in none."""
        if answer.difficulty is None:
            return None
        above = [number for number, edge in enumerate(self.bins[:-1]) if answer.difficulty >= edge]
        inside = answer.difficulty < self.bins[-1] or answer.difficulty == self.bins[-1] != math.inf
        return above[-1] if above and inside else None


@dataclass
class Chosen:
    """A row that was taken."""

    question: str
    answer: Answer
    bin: int | None


@dataclass
class Selection:
    """What was taken of the rows, and why others were not."""

    chosen: list[Chosen] = field(default_factory=list[Chosen])
    left_out: Counter[str] = field(default_factory=Counter[str])


@dataclass(frozen=True)
class Imported(Adopted):
    """A run of such rows."""

    facts: dict[str, Any] = field(default_factory=dict[str, Any])

    def write(self, paths: RunPaths) -> None:
        """Put it into a new run's folder; where it is from first."""
        write_json(paths.imported, self.facts)
        super().write(paths)


def shares(per_bin: str, bins: tuple[float, ...], limit: int) -> tuple[int, ...]:
    """Caps of the bins: one number for all, a number each, or a share of all each, as in ``20%,30%,50%``.

    Raises:
        UserInputError: It is none of these.
    """
    if not per_bin:
        return ()
    parts = [part.strip() for part in per_bin.split(",")]
    try:
        are_shares = all(part.endswith("%") for part in parts)
        caps = [float(part.rstrip("%")) / 100 * limit if are_shares else int(part) for part in parts]
    except ValueError:
        caps = []
    caps = caps * (len(bins) - 1) if len(caps) == 1 else caps
    if len(caps) != len(bins) - 1 or any(not 0 <= cap <= MAX_EXAMPLES for cap in caps):
        raise UserInputError(
            "per-bin is neither a number, nor one a bin, nor a share a bin.",
            next_step=f"There are {len(bins) - 1} bins: give 100, or 50,100,200, or 20%,30%,50%.",
        )
    return tuple(round(cap) for cap in caps)


def select(rows: Iterable[Any], wanted: Wanted) -> Selection:
    """Take rows in their order until there are enough: of each question the first answer that passes.

    Exact repetitions and near copies with the same answer are left out, as amplify leaves them out.
    """
    found, known = Selection(), NearDuplicates()
    taken: Counter[int | None] = Counter()
    caps = [math.ceil(cap * _SPARE_SHARE) + 1 for cap in wanted.per_bin] if wanted.held_out else list(wanted.per_bin)
    enough = sum(caps) if caps else wanted.limit + wanted.held_out
    for row in rows:
        read = scored_row(row)
        if read is None:
            found.left_out["without a question and an answer"] += 1
            continue
        answer, why = _first_that_passes(read, wanted)
        if answer is None:
            found.left_out[why] += 1
            continue
        place = wanted.bin_of(answer) if wanted.bins else None
        if known.is_exact(read.question):
            found.left_out["an input that was there before"] += 1
        elif caps and place is not None and taken[place] >= caps[place]:
            found.left_out["beyond its bin's share"] += 1
        elif known.is_near(read.question, answer.output):
            found.left_out["a near copy of another"] += 1
        else:
            known.add(read.question, answer.output)
            taken[place] += 1
            found.chosen.append(Chosen(read.question, answer, place))
        if len(found.chosen) >= enough:
            break
    return found


def import_rows(found: Selection, wanted: Wanted, instruction: str, source: dict[str, Any]) -> Imported:
    """Make a run's files of what was selected: some held out, what resembles those left out, the rest to train on.

    Raises:
        UserInputError: Too few rows are left.
    """
    held_out, rest = _apart(found, wanted)
    if len(rest) < MIN_ROWS:
        raise UserInputError(
            f"Only {len(rest)} rows are left to train on ({_told(found.left_out)}).",
            next_step="Widen the ranges, or name more data.",
        )
    own = rest[: max(_SEEDS, math.ceil(len(rest) / _MOST_PER_SEED))]
    seeds = [
        Seed(id=f"s{i:04d}", input=each.question, output=each.answer.output, split="train")
        for i, each in enumerate(own, 1)
    ]
    seeds += [
        Seed(id=f"t{i:05d}", input=each.question, output=each.answer.output, split="held_out")
        for i, each in enumerate(held_out, 1)
    ]
    traces = [
        Trace(
            id=f"s{i:04d}",
            input=each.question,
            thinking=each.answer.thinking,
            output=each.answer.output,
            teacher_output=each.answer.output,
            agrees=True,
            confidence=1.0,
            split="train",
            call_ids=[],
        )
        for i, each in enumerate(own, 1)
    ]
    examples = [_example(f"s{i:04d}", each, is_seed=True) for i, each in enumerate(own, 1)]
    examples += [_example(f"i{i:06d}", each, is_seed=False) for i, each in enumerate(rest[len(own) :], 1)]
    bins = Counter(each.bin for each in rest)
    facts = {
        **source,
        "rows": len(rest),
        "held_out": len(held_out),
        "by_bin": {
            _bin_name(wanted, number): bins[number] for number in sorted(bins, key=lambda n: -1 if n is None else n)
        },
        "left_out": dict(found.left_out.most_common()),
        "teachers": dict(Counter(each.answer.teacher or "not said" for each in rest).most_common(20)),
    }
    policy = policy_of(
        instruction, examples, f"{len(examples)} examples of published data, judged by whoever made them."
    )
    return Imported(seeds, traces, examples, policy, dict(found.left_out), facts)


def _apart(found: Selection, wanted: Wanted) -> tuple[list[Chosen], list[Chosen]]:
    """The held-out rows, drawn by a hash of their text, and the others that give none of them away, within their caps."""
    by_hash = sorted(found.chosen, key=lambda each: hashlib.sha256(f"held out\0{each.question}".encode()).digest())
    count = min(wanted.held_out, len(found.chosen) // 5)
    held_out = by_hash[:count]
    kept_apart = {each.question for each in held_out}
    gives_away = HeldOut(kept_apart).contaminates
    rest: list[Chosen] = []
    taken: Counter[int | None] = Counter()
    for each in found.chosen:
        if each.question in kept_apart:
            continue
        if gives_away(each.question):
            found.left_out["like a held-out one"] += 1
        elif len(rest) >= wanted.limit:
            found.left_out["beyond the limit"] += 1
        elif wanted.per_bin and each.bin is not None and taken[each.bin] >= wanted.per_bin[each.bin]:
            found.left_out["beyond its bin's share"] += 1
        else:
            taken[each.bin] += 1
            rest.append(each)
    return held_out, rest


def _first_that_passes(row: ScoredRow, wanted: Wanted) -> tuple[Answer | None, str]:
    why = ""
    for answer in row.answers:
        why = _fault(row.question, answer, wanted)
        if not why:
            return answer, ""
    return None, why


def _fault(question: str, answer: Answer, wanted: Wanted) -> str:
    """Why an answer is not taken; empty when it is."""
    if answer.is_wrong:
        return "judged wrong"
    if max(len(question), len(answer.thinking), len(answer.output)) > MAX_CHARS:
        return f"longer than {MAX_CHARS:,} characters"
    for told, span in ((answer.verbosity, wanted.verbosity), (answer.difficulty, wanted.difficulty)):
        if span and told is None:
            return "without the levels that were asked for"
        if span and told is not None and not span[0] <= told <= span[1]:
            return "outside the levels that were asked for"
    if wanted.bins and wanted.bin_of(answer) is None:
        return "in no bin of difficulty"
    return ""


def _example(row_id: str, each: Chosen, *, is_seed: bool) -> Example:
    answer = each.answer
    levels = {"rv": answer.verbosity, "cd": answer.difficulty, "cd_bin": each.bin, "teacher": answer.teacher or None}
    return Example(
        id=row_id,
        input=each.question,
        thinking=answer.thinking,
        output=answer.output,
        confidence=1.0,
        origin="seed" if is_seed else "labelled",
        parents=[row_id] if is_seed else [],
        call_ids=[],
        policy_version=0 if is_seed else 1,
        checks={"imported": True, **{name: value for name, value in levels.items() if value is not None}},
    )


def _bin_name(wanted: Wanted, number: int | None) -> str:
    return "all" if number is None else f"{wanted.bins[number]:g} to {wanted.bins[number + 1]:g}"


def _told(left_out: Counter[str]) -> str:
    return ", ".join(f"{count} {why}" for why, count in left_out.most_common()) or "there were no others"


def source_of(path: Path, dataset: str = "", revision: str = "", file: str = "") -> dict[str, Any]:
    """Where the rows are from, as the run keeps it: of a local file its name alone."""
    if dataset:
        return {"dataset": dataset, "revision": revision, "file": file}
    return {"file": path.name}

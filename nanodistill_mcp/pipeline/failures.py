"""Where a student fails: its wrong answers grouped by what the policy varies, and by what is wrong with them."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nanodistill_mcp.pipeline import answers
from nanodistill_mcp.pipeline.checking import Checking
from nanodistill_mcp.pipeline.quality import NearDuplicates
from nanodistill_mcp.pipeline.scoring import Said
from nanodistill_mcp.pipeline.test_sets import Rows
from nanodistill_mcp.runs.records import Example

SHOWN = 5
"""Examples shown of the failures, in all and of each group."""

_MOST_GROUPS = 12
_FEWEST_WRONG = 2
_LIKELY_CHANCE = 0.2
"""From this probability on a group is left out: one in five groups would look so uneven if failures fell anywhere."""
_NEIGHBOURS = 5
_ASSIGNED = ("topic", "difficulty", "persona")
"""Dimensions a row without a cell takes from the training examples that are most like it."""
_CHARS = 300


@dataclass
class _Group:
    rows: set[str] = field(default_factory=set[str])
    wrong: list[str] = field(default_factory=list[str])


def shown(rows: Rows, said: Mapping[str, Said], ids: Iterable[str]) -> list[dict[str, str]]:
    """The first failures, as a person reads them."""
    by_id = {i: (text, expected) for i, text, expected in rows}
    return [
        {
            "id": i,
            "input": by_id[i][0][:_CHARS],
            "expected": by_id[i][1][:_CHARS],
            "answer": said[i].answer[:_CHARS],
        }
        for i, _ in zip(ids, range(SHOWN), strict=False)
    ]


def failure_groups(
    checking: Checking,
    rows: Rows,
    said: Mapping[str, Said],
    right: set[str],
    cells: Mapping[str, Mapping[str, str]],
) -> list[dict[str, Any]]:
    """Groups of rows in which the student is wrong more often than elsewhere, those with most failures beyond their share first.

    Each has its dimension and value, how many of its rows are wrong, the probability of that many or more if the same
    number of failures fell on rows at random (one-sided hypergeometric test, as for gene sets: Rivals et al. 2007), and
    examples. With many groups tried some look uneven by chance; the probability is not corrected for that. Groups that say
    what is wrong with an answer have none, because being wrong is what puts a row there.

    Args:
        checking: The run's rule.
        rows: The rows of one set.
        said: The student's answers.
        right: Ids of the rows it has right.
        cells: What is known of each row: topic, difficulty, length, persona.
    """
    wrong = {i for i, _, _ in rows if i not in right}
    groups: dict[tuple[str, str], _Group] = defaultdict(_Group)
    for i, text, expected in rows:
        for dimension, value in _of_row(checking, text, expected, cells.get(i, {})):
            groups[dimension, value].rows.add(i)
            if i in wrong:
                groups[dimension, value].wrong.append(i)
    _add_faults(groups, checking, rows, said, wrong)
    told: list[dict[str, Any]] = []
    overall = len(wrong) / len(rows)
    for (dimension, value), group in groups.items():
        share = len(group.wrong) / len(group.rows)
        if len(group.wrong) < _FEWEST_WRONG or (share <= overall and dimension not in _OF_WRONG_ROWS):
            continue
        of_wrong_rows = dimension in _OF_WRONG_ROWS
        chance = None if of_wrong_rows else _chance(len(rows), len(wrong), len(group.rows), len(group.wrong))
        if chance is not None and chance >= _LIKELY_CHANCE:
            continue
        told.append(
            {
                "dimension": dimension,
                "value": value,
                "rows": len(group.rows),
                "wrong": len(group.wrong),
                "share": round(share, 4),
                "p_value": None if chance is None else round(chance, 6),
                "examples": shown(rows, said, group.wrong),
            }
        )

    def beyond_its_share(group: dict[str, Any]) -> float:
        return group["wrong"] - (0.0 if group["p_value"] is None else overall * group["rows"])

    return sorted(told, key=beyond_its_share, reverse=True)[:_MOST_GROUPS]


def cells_of(rows: Rows, examples: Sequence[Example]) -> dict[str, dict[str, str]]:
    """What each row is like: its own cell where it was generated for one, else what its nearest examples were asked to be."""
    own = {example.id: example.cell for example in examples if example.cell}
    made = [example for example in examples if example.cell]
    known = NearDuplicates()
    for example in made:
        known.add(example.input, "")
    found: dict[str, dict[str, str]] = {}
    for i, text, _ in rows:
        if i in own:
            found[i] = {name: own[i][name] for name in _ASSIGNED if name in own[i]}
            continue
        near = [made[index].cell for index, _ in known.nearest(text, _NEIGHBOURS)]
        votes = {name: Counter(cell[name] for cell in near if name in cell) for name in _ASSIGNED}
        found[i] = {name: count.most_common(1)[0][0] for name, count in votes.items() if count}
    return found


_OF_WRONG_ROWS = ("mistaken for", "form", "field")
"""Dimensions that say what is wrong: a row is in one of their groups because it is wrong."""


def _of_row(checking: Checking, text: str, expected: str, cell: Mapping[str, str]) -> list[tuple[str, str]]:
    dimensions = [(name, cell[name]) for name in _ASSIGNED if name in cell]
    if checking.checker == "choice":
        dimensions.append(("answer", checking.canonical(expected)))
    return [*dimensions, ("length", _length(text))]


def _length(text: str) -> str:
    """Input length in powers of four, which parts short messages from paragraphs and pages."""
    upper = 4 ** max(2, math.ceil(math.log(max(len(text), 1), 4)))
    return f"{upper // 4 + 1} to {upper} characters" if upper > 4**2 else f"up to {upper} characters"


def _add_faults(
    groups: dict[tuple[str, str], _Group], checking: Checking, rows: Rows, said: Mapping[str, Said], wrong: set[str]
) -> None:
    expecting: dict[str, set[str]] = defaultdict(set)
    for i, _, expected in rows:
        expecting[checking.canonical(expected)].add(i)
    everything = {i for i, _, _ in rows}
    for i, _, expected in rows:
        if i not in wrong:
            continue
        answer = said[i].answer
        if not said[i].finished:
            _put(groups, ("form", "not finished"), i, everything)
        elif checking.fault(answer):
            _put(groups, ("form", "not an answer of the task's form"), i, everything)
        elif checking.checker == "choice":
            wanted = checking.canonical(expected)
            _put(groups, ("mistaken for", f"{wanted} → {checking.canonical(answer)}"), i, expecting[wanted])
        elif checking.checker == "json":
            for name, is_right in answers.fields_right(expected, answer).items():
                if not is_right:
                    _put(groups, ("field", name), i, everything)


def _put(groups: dict[tuple[str, str], _Group], name: tuple[str, str], row: str, among: set[str]) -> None:
    groups[name].rows |= among
    groups[name].wrong.append(row)


def _chance(rows: int, wrong: int, group: int, wrong_in_group: int) -> float:
    ways = math.comb(rows, group)
    most = min(group, wrong)
    return sum(math.comb(wrong, k) * math.comb(rows - wrong, group - k) for k in range(wrong_in_group, most + 1)) / ways

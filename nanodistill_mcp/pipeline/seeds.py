"""The user's examples: read from a list or a file, checked row by row, split into training and held-out.

An example without an output is one the teacher is to answer; it is never held out, because the proof needs a person's answer.
A row's content never appears in an error: the file may not be what its name says.
"""

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any, Literal

from nanodistill_mcp.errors import UserInputError
from nanodistill_mcp.pipeline.shapes import UNDERSTOOD, plain_rows
from nanodistill_mcp.pipeline.tables import Kind, RowError, Table, plain_text, read_table
from nanodistill_mcp.runs.records import Seed

MAX_ROWS = 10_000
MIN_ROWS = 3
MAX_CHARS = 50_000
_FEWEST_TO_HOLD_OUT = 5

_FORMS = "a JSON array of objects, JSONL (one object a line) or CSV with a header line."
_SHAPE = f"Give {MIN_ROWS} or more rows with the columns input and output, the output left out where the teacher is to answer: {_FORMS}"
_SEED = Kind("seed", _SHAPE, "Pass the examples as the argument seed.")
_TEST = Kind(
    "test",
    f"Give {MIN_ROWS} or more rows with the columns input and output, both filled: {_FORMS}",
    "Leave test_path out to hold out some of the seeds instead.",
)
_INPUTS = Kind(
    "inputs",
    f"Give one input a line in a .txt file, or rows with a column input: {_FORMS}",
    "Or leave inputs_path out: amplify then writes new inputs itself.",
    lines=True,
)

Row = tuple[str, str]


def seed_table(seed: list[dict[str, Any]], path_text: str, allowed: list[Path], *, sets_aside: bool = False) -> Table:
    """The seeds as they were given: a list, or else a file that the caller named.

    Raises:
        UserInputError: The file may not be read, or not in an accepted form.
    """
    if not seed:
        return read_table(path_text, allowed, _SEED, sets_aside=sets_aside)
    return Table(_SEED, sets_aside, list(seed), list(range(1, len(seed) + 1)))


def table_of_tests(path_text: str, allowed: list[Path], *, sets_aside: bool = False) -> Table:
    """The rows of a test file.

    Raises:
        UserInputError: It may not be read, or not in an accepted form.
    """
    return read_table(path_text, allowed, _TEST, sets_aside=sets_aside)


def inputs_table(path_text: str, allowed: list[Path], *, sets_aside: bool = False) -> Table:
    """The rows of a file of inputs.

    Raises:
        UserInputError: It may not be read, or not in an accepted form.
    """
    return read_table(path_text, allowed, _INPUTS, sets_aside=sets_aside)


def read_rows(path_text: str, allowed: list[Path], *, labelled: bool = False, instruction: str = "") -> list[Row]:
    """Read a seed file that the caller named.

    Args:
        path_text: An absolute path, or one that starts with ``~``.
        allowed: The directories files may be read from.
        labelled: Whether every row needs an output, as in a test file.
        instruction: The run's, which rows may repeat.

    Raises:
        UserInputError: It is outside them, not a plain file, too large, or not in an accepted form.
    """
    table = read_table(path_text, allowed, _TEST if labelled else _SEED)
    return check_table(table, instruction, labelled=labelled)


def check_inputs(table: Table, instruction: str = "") -> list[str]:
    """The inputs of a table of them, each once.

    Raises:
        UserInputError: Names the first row that is not accepted, or says that too few are.
    """
    _check_count(table.rows, _INPUTS)
    inputs: dict[str, None] = {}
    good = len(table.rows)
    for number, row in enumerate(plain_rows(table.rows, instruction), 1):
        try:
            inputs[_checked(_input_of(number, row), f"Row {number} of the inputs file", "input")] = None
        except RowError as error:
            table.set_aside(table.places[number - 1], error)
            good -= 1
    table.check_most_are_good(good)
    return list(inputs)


def check_table(table: Table, instruction: str = "", *, labelled: bool = False) -> list[Row]:
    """The rows of a table of examples, each input once; the shapes of other programs are understood.

    Args:
        table: The examples as they were given.
        instruction: The run's, which rows may repeat.
        labelled: Whether every row needs an output.

    Raises:
        UserInputError: Names the first row that is not accepted, and why, or says that too few are.
    """
    _check_count(table.rows, _SEED)
    checked: dict[str, str] = {}
    good = len(table.rows)
    for number, row in enumerate(plain_rows(table.rows, instruction), 1):
        try:
            source, output = _check_row(number, row, labelled=labelled)
            if output and checked.get(source) and checked[source] != output:
                raise _another_output(number)
        except RowError as error:
            table.set_aside(table.places[number - 1], error)
            good -= 1
            continue
        checked[source] = checked.get(source) or output
    table.check_most_are_good(good)
    if len(checked) < MIN_ROWS:
        found = "There is one distinct example" if len(checked) == 1 else f"There are {len(checked)} distinct examples"
        raise UserInputError(f"{found}; at least {MIN_ROWS} are needed, ten or more are better.", next_step=_SHAPE)
    return list(checked.items())


def split(
    rows: list[Row],
    share: float | None,
    seed: int,
    *,
    tests: list[Row] | None = None,
    numbers: list[int] | None = None,
) -> list[Seed]:
    """Give every row an id and a side. The order of the rows does not matter; their text and the seed do.

    Only rows with an output are held out.

    Args:
        rows: The examples.
        share: Share to hold out of those with an output; None is a fifth, at least two of five or more, and nothing when
            there are test rows.
        seed: Varies the choice.
        tests: Further rows that are all held out. A training row with the same input is left out.
        numbers: The rows to hold out, counted from 1, in place of drawn ones.

    Raises:
        UserInputError: The test rows leave too little to learn from, or a number cannot be held out.
    """
    chosen = None if numbers is None else _by_number(rows, numbers)
    held_inputs = {source for source, _ in tests or []}
    learnable = [row for row in rows if row[0] not in held_inputs]
    if len(learnable) < MIN_ROWS - 1:
        raise UserInputError(
            "Nearly all examples are also in the test file, so nothing is left to learn from.",
            next_step="Give examples that differ from the test file's.",
        )
    if chosen is None:
        labelled = [row for row in learnable if row[1]]
        if share is None:
            count = 0 if tests or len(labelled) < _FEWEST_TO_HOLD_OUT else max(2, round(0.2 * len(labelled)))
        else:
            count = min(round(share * len(labelled)), len(learnable) - 2)
        by_hash = sorted(labelled, key=lambda row: hashlib.sha256(f"{seed}\0{row[0]}".encode()).digest())
        chosen = set(_spare(by_hash)[:count])
    seeds = [_seed(f"s{i:04d}", row, "held_out" if row[0] in chosen else "train") for i, row in enumerate(learnable, 1)]
    return seeds + [_seed(f"t{i:05d}", row, "held_out") for i, row in enumerate(tests or [], 1)]


def _by_number(rows: list[Row], numbers: list[int]) -> set[str]:
    """The inputs of the rows with these numbers."""
    answered = [number for number, (_, output) in enumerate(rows, 1) if output]
    if wrong := sorted(set(numbers) - set(answered)):
        raise UserInputError(
            f"held_out names {', '.join(map(str, wrong[:10]))}, which is no example with an output.",
            next_step=f"Give numbers from 1 to {len(rows)}, counted without repetitions, of examples that have an output.",
        )
    if len(rows) - len(set(numbers)) < MIN_ROWS - 1:
        raise UserInputError(
            f"held_out leaves fewer than {MIN_ROWS - 1} of {len(rows)} examples to learn from.",
            next_step="Name fewer, or give more examples.",
        )
    return {rows[number - 1][0] for number in numbers}


def _spare(rows: list[Row]) -> list[str]:
    """Inputs in the order they may be held out: first those whose output others have too, so that each stays learnable."""
    left = Counter(output for _, output in rows)
    first: list[str] = []
    last: list[str] = []
    for source, output in rows:
        left[output] -= 1
        (first if left[output] else last).append(source)
    return first + last


def digest(seeds: list[Seed], inputs: list[str] | None = None) -> str:
    """The SHA-256 over all examples with their sides, and over the inputs to answer."""
    rows: list[object] = [[s.input, s.output, s.split] for s in seeds]
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in [*rows, *(inputs or [])])
    return hashlib.sha256(lines.encode()).hexdigest()


def _seed(seed_id: str, row: Row, side: Literal["train", "held_out"]) -> Seed:
    return Seed(id=seed_id, input=row[0], output=row[1], split=side, labelled=bool(row[1]))


def _check_count(rows: list[Any], kind: Kind) -> None:
    if not rows:
        raise UserInputError("There are no examples.", next_step=kind.shape)
    if len(rows) > MAX_ROWS:
        raise UserInputError(
            f"There are {len(rows)} examples; at most {MAX_ROWS} are accepted.", next_step="Give a sample of them."
        )


def _check_row(number: int, row: Any, *, labelled: bool) -> Row:
    if not isinstance(row, dict):
        what = f"Example {number} is not an object with input and output."
        raise RowError(what, next_step=_SHAPE, reason="not an object")
    keys: set[object] = set(row)  # pyright: ignore[reportUnknownArgumentType]
    if keys == {"messages"}:
        raise RowError(
            f"The messages of example {number} are not one question and its answer.",
            next_step="Give a system message or none, one user message and one assistant message, each of role and text alone.",
            reason="of messages that are not one question and its answer",
        )
    if "input" not in keys or not keys <= {"input", "output"}:
        raise RowError(
            f"Example {number} has {len(keys)} columns that are not exactly input and output.",
            next_step=f"Rename the columns to input and output and remove the others. {_SHAPE} {UNDERSTOOD}",
            reason="with other columns",
        )
    source = _checked(plain_text(row["input"]), f"Example {number}", "input")
    output = plain_text(row.get("output"))  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]
    return source, _checked(output, f"Example {number}", "output") if output or labelled else ""


def _input_of(number: int, row: Any) -> str:
    if isinstance(row, dict) and "input" in row:
        return plain_text(row["input"])  # pyright: ignore[reportUnknownArgumentType]
    if not isinstance(row, str):
        raise RowError(
            f"Row {number} of the inputs file has no input.", next_step=_INPUTS.shape, reason="without an input"
        )
    return plain_text(row)


def _another_output(number: int) -> RowError:
    return RowError(
        f"Example {number} repeats an earlier input with another output.",
        next_step="Keep the right one of the two, then call again.",
        reason="of an earlier input with another output",
    )


def _checked(value: str, where: str, column: str) -> str:
    if not value:
        what = f"{where} has an empty {column}."
        raise RowError(what, next_step="Fill it in or remove the example.", reason=f"with an empty {column}")
    if len(value) > MAX_CHARS:
        raise RowError(
            f"{where} has an {column} of {len(value)} characters; at most {MAX_CHARS} are accepted.",
            next_step="Shorten it.",
            reason="too long",
        )
    return value

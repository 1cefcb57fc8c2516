"""The user's examples: read from a list or a file, checked row by row, split into training and held-out.

A row's content never appears in an error: the file may not be what its name says.
"""

import csv
import errno
import hashlib
import io
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any, Literal

from nanodistill_mcp.errors import UserInputError
from nanodistill_mcp.runs.files import open_beneath
from nanodistill_mcp.runs.records import Seed

MAX_FILE_BYTES = 10_000_000
MAX_ROWS = 10_000
MIN_ROWS = 3
MAX_CHARS = 50_000
_FEWEST_TO_HOLD_OUT = 5

_SHAPE = f"Give {MIN_ROWS} or more rows with exactly the columns input and output: a JSON array of objects, JSONL (one object a line) or CSV with a header line."

Row = tuple[str, str]


def read_rows(path_text: str, allowed: list[Path]) -> list[Row]:
    """Read a seed file that the caller named.

    Args:
        path_text: An absolute path, or one that starts with ``~``.
        allowed: The directories files may be read from.

    Raises:
        UserInputError: It is outside them, not a plain file, too large, or not in an accepted form.
    """
    data = _read_allowed(path_text, allowed)
    if b"\0" in data[:4096]:
        raise UserInputError("The seed file is binary, not text.", next_step=_SHAPE)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserInputError(
            f"The seed file is not UTF-8 text (byte {error.start}).", next_step=f"Save it as UTF-8. {_SHAPE}"
        ) from None
    if not text.strip():
        raise UserInputError("The seed file is empty.", next_step=_SHAPE)
    match Path(path_text).suffix.lower():
        case ".json":
            return check_rows(_parse_json(text))
        case ".jsonl" | ".ndjson":
            return check_rows(_parse_lines(text))
        case ".csv":
            return check_rows(_parse_csv(text))
        case _:
            raise UserInputError("The seed file's name does not end in .json, .jsonl or .csv.", next_step=_SHAPE)


def check_rows(rows: list[Any]) -> list[Row]:
    """Check that every row is exactly an input and an output, and leave out exact repetitions.

    Raises:
        UserInputError: Names the first row that is not accepted, and why.
    """
    if not rows:
        raise UserInputError("There are no examples.", next_step=_SHAPE)
    if len(rows) > MAX_ROWS:
        raise UserInputError(
            f"There are {len(rows)} examples; at most {MAX_ROWS} are accepted.", next_step="Give a sample of them."
        )
    checked: dict[str, str] = {}
    for number, row in enumerate(rows, 1):
        source, output = _check_row(number, row)
        if checked.setdefault(source, output) != output:
            raise UserInputError(
                f"Example {number} repeats an earlier input with another output.",
                next_step="Keep the right one of the two, then call again.",
            )
    if len(checked) < MIN_ROWS:
        found = "There is one distinct example" if len(checked) == 1 else f"There are {len(checked)} distinct examples"
        raise UserInputError(f"{found}; at least {MIN_ROWS} are needed, ten or more are better.", next_step=_SHAPE)
    return list(checked.items())


def split(rows: list[Row], share: float | None, seed: int, *, tests: list[Row] | None = None) -> list[Seed]:
    """Give every row an id and a side. The order of the rows does not matter; their text and the seed do.

    Args:
        rows: The examples.
        share: Share to hold out; None is a fifth, at least two of five or more, and nothing when there are test rows.
        seed: Varies the choice.
        tests: Further rows that are all held out. A training row with the same input is left out.
    """
    held_inputs = {source for source, _ in tests or []}
    learnable = [row for row in rows if row[0] not in held_inputs]
    if len(learnable) < MIN_ROWS - 1:
        raise UserInputError(
            "Nearly all examples are also in the test file, so nothing is left to learn from.",
            next_step="Give examples that differ from the test file's.",
        )
    if share is None:
        count = 0 if tests or len(learnable) < _FEWEST_TO_HOLD_OUT else max(2, round(0.2 * len(learnable)))
    else:
        count = min(round(share * len(learnable)), len(learnable) - 2)
    by_hash = sorted(learnable, key=lambda row: hashlib.sha256(f"{seed}\0{row[0]}".encode()).digest())
    chosen = set(_spare(by_hash)[:count])
    seeds = [_seed(f"s{i:04d}", row, "held_out" if row[0] in chosen else "train") for i, row in enumerate(learnable, 1)]
    return seeds + [_seed(f"t{i:05d}", row, "held_out") for i, row in enumerate(tests or [], 1)]


def _spare(rows: list[Row]) -> list[str]:
    """Inputs in the order they may be held out: first those whose output others have too, so that each stays learnable."""
    left = Counter(output for _, output in rows)
    first: list[str] = []
    last: list[str] = []
    for source, output in rows:
        left[output] -= 1
        (first if left[output] else last).append(source)
    return first + last


def digest(seeds: list[Seed]) -> str:
    """The SHA-256 over all examples and their sides."""
    lines = "".join(json.dumps([s.input, s.output, s.split], ensure_ascii=False) + "\n" for s in seeds)
    return hashlib.sha256(lines.encode()).hexdigest()


def _seed(seed_id: str, row: Row, side: Literal["train", "held_out"]) -> Seed:
    return Seed(id=seed_id, input=row[0], output=row[1], split=side)


def _check_row(number: int, row: Any) -> Row:
    if not isinstance(row, dict):
        raise UserInputError(f"Example {number} is not an object with input and output.", next_step=_SHAPE)
    keys: set[object] = set(row)  # pyright: ignore[reportUnknownArgumentType]
    if keys != {"input", "output"}:
        raise UserInputError(
            f"Example {number} has {len(keys)} columns that are not exactly input and output.",
            next_step=f"Rename the columns to input and output and remove the others. {_SHAPE}",
        )
    values = [plain_text(row["input"]), plain_text(row["output"])]
    for column, value in zip(("input", "output"), values, strict=True):
        if not value:
            raise UserInputError(
                f"Example {number} has an empty {column}.", next_step="Fill it in or remove the example."
            )
        if len(value) > MAX_CHARS:
            raise UserInputError(
                f"Example {number} has an {column} of {len(value)} characters; at most {MAX_CHARS} are accepted.",
                next_step="Shorten it.",
            )
    return values[0], values[1]


def plain_text(value: Any) -> str:
    """A value as text that every file and tokenizer takes; anything but text becomes JSON."""
    if value is None:
        return ""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    # A text that another program cut inside an emoji holds half a surrogate pair, which no file and no tokenizer takes.
    whole = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return whole.replace("\0", "").strip()


def _parse_json(text: str) -> list[Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        line = f" (line {error.lineno})" if isinstance(error, json.JSONDecodeError) else ""
        raise UserInputError(f"The seed file is not JSON{line}.", next_step=_SHAPE) from None
    if not isinstance(value, list):
        raise UserInputError("The seed file's JSON is not an array of examples.", next_step=_SHAPE)
    return value  # pyright: ignore[reportUnknownVariableType]


def _parse_lines(text: str) -> list[Any]:
    rows: list[Any] = []
    for number, line in enumerate(text.split("\n"), 1):  # splitlines() would also split at U+2028 inside a string
        if not line.strip():
            continue
        try:
            rows.append(json.loads(line))
        except (ValueError, RecursionError):
            raise UserInputError(f"Line {number} of the seed file is not JSON.", next_step=_SHAPE) from None
    return rows


def _parse_csv(text: str) -> list[Any]:
    try:
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        header = [name.strip().lower() for name in reader.fieldnames or ()]
        if len(set(header)) < len(header):
            raise UserInputError("The CSV file's header names a column twice.", next_step=_SHAPE)
        return [
            {(key or "").strip().lower() if isinstance(key, str) else "(more)": value for key, value in row.items()}
            for row in reader
        ]
    except csv.Error:
        raise UserInputError("The seed file is not CSV.", next_step=_SHAPE) from None


def _read_allowed(path_text: str, allowed: list[Path]) -> bytes:
    try:
        wanted = Path(path_text).expanduser()
        os.fsencode(wanted)
    except (RuntimeError, UnicodeEncodeError):  # the home of a user there is not; half a surrogate pair
        wanted = Path()
    if not wanted.is_absolute() or "\0" in path_text:
        raise UserInputError(
            "A seed path must be absolute.", next_step="Give the full path, or pass the examples as the argument seed."
        )
    # Resolving only finds the directory to start from; the walk below it follows no link.
    parent = Path(os.path.realpath(wanted.parent)) / wanted.name
    for root in allowed:
        if parent.is_relative_to(root):
            return _read_beneath(root, str(parent.relative_to(root)))
    listing = ", ".join(str(root) for root in allowed) or "none are configured"
    raise UserInputError(
        f"That file is outside the directories this server may read ({listing}).",
        next_step="Pass the examples as the argument seed, or add the directory to allowed_paths in the server's configuration.",
    )


def _read_beneath(root: Path, relative: str) -> bytes:
    try:
        fd = open_beneath(root, relative)
    except FileNotFoundError:
        raise UserInputError(
            "There is no such seed file.", next_step="Check the path, or pass the examples as the argument seed."
        ) from None
    except PermissionError:
        raise UserInputError(
            "The seed file may not be read by this user.", next_step="Pass the examples as the argument seed."
        ) from None
    except OSError as error:
        raise UserInputError(
            f"The seed file cannot be opened ({errno.errorcode.get(error.errno or 0, 'error')}).",
            next_step="Pass the examples as the argument seed.",
        ) from None
    with os.fdopen(fd, "rb") as stream:
        data = stream.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise UserInputError(
            f"The seed file is larger than {MAX_FILE_BYTES // 1_000_000} MB.", next_step="Give a sample of it."
        )
    return data

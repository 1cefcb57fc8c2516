"""A file that a caller named, read as rows: JSON, JSONL, CSV or one text a line, from an allowed directory and nowhere else.

A row's content never appears in an error: the file may not be what its name says.
"""

import csv
import errno
import io
import json
import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from nanodistill_mcp.errors import UserInputError
from nanodistill_mcp.runs.files import open_beneath
from nanodistill_mcp.runs.secrets import line_with_key

MAX_FILE_BYTES = 10_000_000


@dataclass(frozen=True)
class Kind:
    """What a file is for, in the words of its refusals."""

    name: str
    shape: str
    instead: str
    """What to do when the file cannot be read."""
    lines: bool = False
    """Whether a .txt file, one text a line, is accepted too."""

    @property
    def endings(self) -> str:
        """The file names that are accepted."""
        return ".txt, .json, .jsonl or .csv" if self.lines else ".json, .jsonl or .csv"


class RowError(UserInputError):
    """A row that is not accepted, with the reason under which such rows are counted."""

    def __init__(self, what: str, *, next_step: str, reason: str) -> None:
        super().__init__(what, next_step=next_step)
        self.reason = reason


@dataclass
class Table:
    """Rows as they were given, with where each stands, and what was set aside of them: where and why, never what."""

    kind: Kind
    sets_aside: bool
    """Whether rows that are not accepted are set aside; else the first one refuses all."""
    rows: list[Any] = field(default_factory=list[Any])
    places: list[int] = field(default_factory=list[int])
    """Where each stands, by ``unit``."""
    unit: Literal["line", "row"] = "row"
    aside: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])

    def add(self, row: Any, place: int) -> None:
        """Take a row that could be read."""
        self.rows.append(row)
        self.places.append(place)

    def set_aside(self, place: int, fault: RowError) -> None:
        """Count a row that is not accepted, or refuse all for it.

        Raises:
            RowError: Nothing is to be set aside.
        """
        if not self.sets_aside:
            raise fault
        self.aside.append({"file": self.kind.name, self.unit: place, "reason": fault.reason})

    def check_most_are_good(self, good: int) -> None:
        """Refuse a table of which more than half was set aside: it is not what its name says.

        Args:
            good: How many rows were accepted.

        Raises:
            UserInputError: It is one.
        """
        if len(self.aside) > good:
            raise UserInputError(
                f"Of the {self.kind.name} file's {len(self.aside) + good} rows, {len(self.aside)} cannot be used "
                f"({counted(self.aside)}); at most half may be set aside.",
                next_step=self.kind.shape,
            )


def counted(aside: list[dict[str, Any]]) -> str:
    """How many rows were set aside for which reasons, in words."""
    reasons = Counter(str(each["reason"]) for each in aside)
    return ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())


def read_table(path_text: str, allowed: list[Path], kind: Kind, *, sets_aside: bool = False) -> Table:
    """Read a file that the caller named, as it stands: its rows are not checked.

    Args:
        path_text: An absolute path, or one that starts with ``~``.
        allowed: The directories files may be read from.
        kind: What the file is for.
        sets_aside: Whether lines that cannot be read are set aside.

    Raises:
        UserInputError: It is outside them, not a plain file, too large, or not in an accepted form.
    """
    data = _read_allowed(path_text, allowed, kind)
    if b"\0" in data[:4096]:
        raise UserInputError(f"The {kind.name} file is binary, not text.", next_step=kind.shape)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserInputError(
            f"The {kind.name} file is not UTF-8 text (byte {error.start}).",
            next_step=f"Save it as UTF-8. {kind.shape}",
        ) from None
    if not text.strip():
        raise UserInputError(f"The {kind.name} file is empty.", next_step=kind.shape)
    if line := line_with_key(text):
        raise UserInputError(
            f"Line {line} of the {kind.name} file looks like a key or a password, and its rows go to the teacher.",
            next_step="Take it out of the file, and change it if it is a real one. Examples that are meant to hold such lines can be "
            "passed as the argument seed.",
        )
    table = Table(kind, sets_aside)
    _parse(text, Path(path_text).suffix.lower(), table)
    return table


def _parse(text: str, suffix: str, table: Table) -> None:
    kind = table.kind
    match suffix:
        case ".json":
            _parse_json(text, table)
        case ".jsonl" | ".ndjson":
            _parse_lines(text, table)
        case ".csv":
            _parse_csv(text, table)
        case ".txt" if kind.lines:
            table.unit = "line"
            for number, line in enumerate(text.split("\n"), 1):
                if line.strip():
                    table.add(line, number)
        case _:
            raise UserInputError(f"The {kind.name} file's name does not end in {kind.endings}.", next_step=kind.shape)


def _parse_json(text: str, table: Table) -> None:
    kind = table.kind
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        line = f" (line {error.lineno})" if isinstance(error, json.JSONDecodeError) else ""
        raise UserInputError(f"The {kind.name} file is not JSON{line}.", next_step=kind.shape) from None
    if not isinstance(value, list):
        raise UserInputError(f"The {kind.name} file's JSON is not an array of examples.", next_step=kind.shape)
    for number, row in enumerate(value, 1):  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
        table.add(row, number)


def _parse_lines(text: str, table: Table) -> None:
    kind = table.kind
    table.unit = "line"
    for number, line in enumerate(text.split("\n"), 1):  # splitlines() would also split at U+2028 inside a string
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            what = f"Line {number} of the {kind.name} file is not JSON."
            table.set_aside(number, RowError(what, next_step=kind.shape, reason="not JSON"))
            continue
        table.add(row, number)


def _parse_csv(text: str, table: Table) -> None:
    kind = table.kind
    try:
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        header = [name.strip().lower() for name in reader.fieldnames or ()]
        if len(set(header)) < len(header):
            raise UserInputError("The CSV file's header names a column twice.", next_step=kind.shape)
        rows = [
            {(key or "").strip().lower() if isinstance(key, str) else "(more)": value for key, value in row.items()}
            for row in reader
        ]
    except csv.Error:
        raise UserInputError(f"The {kind.name} file is not CSV.", next_step=kind.shape) from None
    for number, row in enumerate(rows, 1):
        if None in row.values():  # most often a line end inside a text without quotes
            fault = RowError(
                f"Row {number} of the {kind.name} file has fewer columns than its header.",
                next_step="Put texts that hold line ends or commas into double quotes.",
                reason="with fewer columns than the header",
            )
            table.set_aside(number, fault)
            continue
        table.add(row, number)


def plain_text(value: Any) -> str:
    """A value as text that every file and tokenizer takes; anything but text becomes JSON."""
    if value is None:
        return ""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    # A text that another program cut inside an emoji holds half a surrogate pair, which no file and no tokenizer takes.
    whole = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return whole.replace("\0", "").strip()


def _read_allowed(path_text: str, allowed: list[Path], kind: Kind) -> bytes:
    try:
        wanted = Path(path_text).expanduser()
        os.fsencode(wanted)
    except (RuntimeError, UnicodeEncodeError):  # the home of a user there is not; half a surrogate pair
        wanted = Path()
    if not wanted.is_absolute() or "\0" in path_text:
        raise UserInputError(
            f"The path of the {kind.name} file must be absolute.", next_step=f"Give the full path. {kind.instead}"
        )
    # Resolving only finds the directory to start from; the walk below it follows no link.
    parent = Path(os.path.realpath(wanted.parent)) / wanted.name
    for root in allowed:
        if parent.is_relative_to(root):
            return _read_beneath(root, str(parent.relative_to(root)), kind)
    listing = ", ".join(str(root) for root in allowed) or "none are configured"
    raise UserInputError(
        f"That file is outside the directories this server may read ({listing}).",
        next_step=f"{kind.instead} Or add the directory to allowed_paths in the server's configuration.",
    )


def _read_beneath(root: Path, relative: str, kind: Kind) -> bytes:
    try:
        fd = open_beneath(root, relative)
    except FileNotFoundError:
        raise UserInputError(
            f"There is no such {kind.name} file.", next_step=f"Check the path. {kind.instead}"
        ) from None
    except PermissionError:
        raise UserInputError(f"The {kind.name} file may not be read by this user.", next_step=kind.instead) from None
    except OSError as error:
        raise UserInputError(
            f"The {kind.name} file cannot be opened ({errno.errorcode.get(error.errno or 0, 'error')}).",
            next_step=kind.instead,
        ) from None
    with os.fdopen(fd, "rb") as stream:
        data = stream.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise UserInputError(
            f"The {kind.name} file is larger than {MAX_FILE_BYTES // 1_000_000} MB.", next_step="Give a sample of it."
        )
    return data

"""A file that a caller named, read as rows: JSON, JSONL, CSV or one text a line, from an allowed directory and nowhere else.

A row's content never appears in an error: the file may not be what its name says.
"""

import csv
import errno
import io
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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


def read_table(path_text: str, allowed: list[Path], kind: Kind) -> list[Any]:
    """Read a file that the caller named, as it stands: its rows are not checked.

    Args:
        path_text: An absolute path, or one that starts with ``~``.
        allowed: The directories files may be read from.
        kind: What the file is for.

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
    match Path(path_text).suffix.lower():
        case ".json":
            return _parse_json(text, kind)
        case ".jsonl" | ".ndjson":
            return _parse_lines(text, kind)
        case ".csv":
            return _parse_csv(text, kind)
        case ".txt" if kind.lines:
            return [line for line in text.split("\n") if line.strip()]
        case _:
            raise UserInputError(f"The {kind.name} file's name does not end in {kind.endings}.", next_step=kind.shape)


def _parse_json(text: str, kind: Kind) -> list[Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        line = f" (line {error.lineno})" if isinstance(error, json.JSONDecodeError) else ""
        raise UserInputError(f"The {kind.name} file is not JSON{line}.", next_step=kind.shape) from None
    if not isinstance(value, list):
        raise UserInputError(f"The {kind.name} file's JSON is not an array of examples.", next_step=kind.shape)
    return value  # pyright: ignore[reportUnknownVariableType]


def _parse_lines(text: str, kind: Kind) -> list[Any]:
    rows: list[Any] = []
    for number, line in enumerate(text.split("\n"), 1):  # splitlines() would also split at U+2028 inside a string
        if not line.strip():
            continue
        try:
            rows.append(json.loads(line))
        except (ValueError, RecursionError):
            raise UserInputError(f"Line {number} of the {kind.name} file is not JSON.", next_step=kind.shape) from None
    return rows


def _parse_csv(text: str, kind: Kind) -> list[Any]:
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
            raise UserInputError(
                f"Row {number} of the {kind.name} file has fewer columns than its header.",
                next_step="Put texts that hold line ends or commas into double quotes.",
            )
    return rows


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

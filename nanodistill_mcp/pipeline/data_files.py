"""Files of any size that a person named on the command line, row by row: JSONL, JSON, CSV, and Parquet where pyarrow is installed."""

import csv
import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nanodistill_mcp.errors import UserInputError

ENDINGS = (".jsonl", ".ndjson", ".json", ".csv", ".parquet")
MAX_JSON_BYTES = 500_000_000
_MAX_LINE_BYTES = 50_000_000
_ROWS_AT_ONCE = 64
_CONVERT = "Or convert it to JSONL: a JSON object a line."


def data_rows(path: Path) -> Iterator[Any]:
    """The rows of a file; None for a line that is not JSON. All but a JSON array are read as they are asked for.

    Raises:
        UserInputError: It is not there, or not in one of the accepted forms.
    """
    if not path.is_file():
        raise UserInputError("There is no such file.", next_step=f"Name one that ends in {', '.join(ENDINGS)}.")
    match path.suffix.lower():
        case ".jsonl" | ".ndjson":
            return _lines(path)
        case ".json":
            return iter(_array(path))
        case ".csv":
            return _table(path)
        case ".parquet":
            return _parquet(path)
        case _:
            raise UserInputError(f"The file's name ends in none of {', '.join(ENDINGS)}.", next_step=_CONVERT)


def _lines(path: Path) -> Iterator[Any]:
    with path.open("rb") as stream:
        while line := stream.readline(_MAX_LINE_BYTES):
            if line.strip():
                yield _parsed(line)


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line.removeprefix(b"\xef\xbb\xbf"))
    except (ValueError, RecursionError):
        return None


def _array(path: Path) -> list[Any]:
    if path.stat().st_size > MAX_JSON_BYTES:
        raise UserInputError(
            f"A JSON array of more than {MAX_JSON_BYTES // 1_000_000} MB is not read as a whole.", next_step=_CONVERT
        )
    value = _parsed(path.read_bytes())
    if not isinstance(value, list):
        raise UserInputError("The file is not a JSON array of rows.", next_step=_CONVERT)
    return value  # pyright: ignore[reportUnknownVariableType]


def _table(path: Path) -> Iterator[Any]:
    try:
        with path.open(encoding="utf-8-sig", errors="replace", newline="") as stream:
            yield from csv.DictReader(stream)
    except csv.Error:
        raise UserInputError("The file is not CSV.", next_step=_CONVERT) from None


def _parquet(path: Path) -> Iterator[Any]:
    try:
        parquet: Any = importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise UserInputError(
            "Parquet is read by pyarrow, which is not installed beside this program.",
            next_step=f"Install it into the same environment (pip install pyarrow). {_CONVERT}",
        ) from None
    with path.open("rb") as stream:
        if stream.read(4) != b"PAR1":
            raise UserInputError("The file is not Parquet.", next_step=_CONVERT)
    for batch in parquet.ParquetFile(path).iter_batches(batch_size=_ROWS_AT_ONCE):
        yield from batch.to_pylist()

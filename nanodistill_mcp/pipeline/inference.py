"""What form answers have, inferred from the given ones: the checker that fits them, its choices, pattern or schema."""

import re
from collections.abc import Sequence
from itertools import groupby
from typing import Any, cast

from nanodistill_mcp.pipeline.answers import NUMBER, normalize, parse_json
from nanodistill_mcp.runs.records import Checker

_CHOICE_CHARS = 60
_FEWEST_FOR_CHOICES = 4
_CODE_CHARS = 40
_FEWEST_FOR_A_PATTERN = 3
_FREE_TEXT_WORDS = 8


def infer_checker(outputs: list[str]) -> tuple[Checker, list[str]]:
    """The checker that fits a set of given outputs, and the choices when it is ``choice``."""
    if all(re.fullmatch(rf"\W{{0,3}}({NUMBER.pattern})\s?\W{{0,3}}", output.strip()) for output in outputs):
        return "numeric", []
    if all(isinstance(parse_json(output), dict | list) for output in outputs):
        return "json", []
    choices = sorted({output.strip() for output in outputs})
    if (
        len(outputs) >= _FEWEST_FOR_CHOICES
        and len(choices) <= 0.75 * len(outputs)
        and all(len(choice) <= _CHOICE_CHARS for choice in choices)
    ):
        return "choice", choices
    if infer_pattern(outputs):
        return "regex", []
    return ("judge" if any(len(output.split()) > _FREE_TEXT_WORDS for output in outputs) else "normalized"), []


def with_further(choices: list[str], answered: Sequence[str]) -> list[str]:
    """The choices with those among further answers that are not yet in the list."""
    known = {normalize(choice): choice for choice in [*reversed(answered), *choices] if len(choice) <= _CHOICE_CHARS}
    return sorted(known.values())


def infer_pattern(outputs: list[str]) -> str:
    r"""The pattern that codes share, such as ``[A-Z]{2}\-\d{4}`` of order numbers; empty when they share none.

    A code is short, without spaces, holds a digit, and has the same kinds of characters in the same order as the others.
    """
    codes = [output.strip() for output in outputs]
    if len(codes) < _FEWEST_FOR_A_PATTERN or any(
        len(code) > _CODE_CHARS or re.search(r"\s", code) or not re.search(r"\d", code) for code in codes
    ):
        return ""
    shapes = [[(kind, len(list(run))) for kind, run in groupby(code, _kind)] for code in codes]
    if len({tuple(kind for kind, _ in shape) for shape in shapes}) != 1:
        return ""
    parts: list[str] = []
    for runs in zip(*shapes, strict=True):
        shortest, longest = min(count for _, count in runs), max(count for _, count in runs)
        times = f"{{{shortest}}}" if shortest == longest else f"{{{shortest},{longest}}}"
        parts.append(runs[0][0] + ("" if times == "{1}" else times))
    return "".join(parts)


def infer_schema(outputs: list[str]) -> dict[str, Any]:
    """The JSON Schema that given JSON objects share: their common keys with the types seen; empty for other values."""
    values = [parse_json(output) for output in outputs]
    if not values or not all(isinstance(value, dict) for value in values):
        return {}
    rows = cast("list[dict[str, Any]]", values)
    names = list(dict.fromkeys(name for row in rows for name in row))
    types = {name: sorted({_json_type(row[name]) for row in rows if name in row}) for name in names}
    return {
        "type": "object",
        "properties": {name: {"type": kinds[0] if len(kinds) == 1 else kinds} for name, kinds in types.items()},
        "required": [name for name in names if all(name in row for row in rows)],
        "additionalProperties": False,
    }


def _kind(character: str) -> str:
    if character.isdecimal():
        return r"\d"
    if character.isalpha():
        return "[A-Z]" if "A" <= character <= "Z" else "[a-z]" if "a" <= character <= "z" else r"\p{L}"
    return re.escape(character)


def _json_type(value: object) -> str:
    match value:
        case bool():
            return "boolean"
        case None:
            return "null"
        case int() | float():
            return "number"
        case str():
            return "string"
        case list():
            return "array"
        case _:
            return "object"

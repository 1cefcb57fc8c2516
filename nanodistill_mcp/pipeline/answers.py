"""When are two answers the same? One place decides, for agreement, verification and evaluation alike."""

import json
import math
import re
import unicodedata
from decimal import Decimal

from nanodistill_mcp.runs.records import Checker

_NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:[eE][-+]?\d+)?|[-+]?\.\d+")
_CHOICE_CHARS = 60
_FEWEST_FOR_CHOICES = 4


def agree(checker: Checker, expected: str, given: str) -> bool:
    """Is the given answer the expected one under this checker?

    ``exact`` compares stripped text; ``normalized`` also ignores case, repeated spaces, and quotes or punctuation at the
    ends; ``choice`` is ``normalized`` for answers from a fixed list; ``numeric`` compares the only (else the last) number
    with a relative tolerance of 1e-6; ``json`` compares parsed values, numbers by value.
    """
    match checker:
        case "exact":
            return expected.strip() == given.strip()
        case "normalized" | "choice":
            return normalize(expected) == normalize(given)
        case "numeric":
            left, right = number_in(expected), number_in(given)
            return left is not None and right is not None and math.isclose(left, right, rel_tol=1e-6, abs_tol=1e-9)
        case "json":
            parsed = _json(given)
            return parsed is not _NOT_JSON and parsed == _json(expected)


def normalize(text: str) -> str:
    """Case, width, repeated spaces, and quotes or punctuation around an answer do not make it another one."""
    folded = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return folded.strip(" .!?,;:'\"`*_()[]") or folded  # where punctuation is the answer, it counts


def number_in(text: str) -> float | None:
    """The last number in a text, thousands separators left out; None when there is none."""
    found = _NUMBER.findall(text)
    return float(found[-1].replace(",", "")) if found else None


def infer_checker(outputs: list[str]) -> tuple[Checker, list[str]]:
    """The checker that fits a set of given outputs, and the choices when it is ``choice``."""
    if all(re.fullmatch(rf"\W{{0,3}}({_NUMBER.pattern})\s?\W{{0,3}}", output.strip()) for output in outputs):
        return "numeric", []
    if all(isinstance(_json(output), dict | list) for output in outputs):
        return "json", []
    choices = sorted({output.strip() for output in outputs})
    if (
        len(outputs) >= _FEWEST_FOR_CHOICES
        and len(choices) <= 0.75 * len(outputs)
        and all(len(choice) <= _CHOICE_CHARS for choice in choices)
    ):
        return "choice", choices
    return "normalized", []


def fits(checker: Checker, choices: list[str], output: str) -> bool:
    """Has an answer the form this checker can judge?"""
    match checker:
        case "numeric":
            return number_in(output) is not None
        case "json":
            return _json(output) is not _NOT_JSON
        case "choice":
            return not choices or normalize(output) in {normalize(choice) for choice in choices}
        case "exact" | "normalized":
            return bool(output.strip())


_NOT_JSON = object()


def _json(text: str) -> object:
    body = text.strip()
    if fence := re.fullmatch(r"```(?:json)?\s*(.*?)\s*```", body, re.DOTALL):
        body = fence[1]
    try:
        return json.loads(body, parse_int=_json_number, parse_float=_json_number)
    except (ValueError, ArithmeticError, RecursionError):
        return _NOT_JSON


def _json_number(digits: str) -> tuple[str, Decimal]:
    """A number that equals no truth value, as it would in Python, and of which no digit is lost."""
    return "number", Decimal(digits)

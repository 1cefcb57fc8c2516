"""When are two answers the same? One place decides, for agreement, verification and evaluation alike."""

import json
import math
import re
import unicodedata
from decimal import Decimal
from typing import Any, cast

from nanodistill_mcp.runs.records import Checker

NUMBER = re.compile(
    r"[-+]?\d{1,3}(?:\.\d{3})+,\d+"  # 1.234,5
    r"|[-+]?\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d+)?"  # 1,234.5
    r"|[-+]?\d+,\d+"  # 3,5
    r"|[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?|[-+]?\.\d+"
)
_THOUSANDS = re.compile(r"[-+]?\d{1,3}(?:,\d{3})+(?:\.\d+)?")
_PATTERN_TIMEOUT_S = 1.0
_WORDS = re.compile(r"\w+")

ROUGE_L_FROM = 0.5


def agree(
    checker: Checker, expected: str, given: str, *, tolerance: float = 0.0, rouge_l_from: float = ROUGE_L_FROM
) -> bool:
    """Is the given answer the expected one under this checker?

    ``exact`` compares stripped text; ``normalized`` also ignores case, repeated spaces, and quotes or punctuation at the
    ends; ``choice`` is ``normalized`` for answers from a fixed list; ``numeric`` compares the only (else the last) number
    with a relative tolerance, of 1e-6 at least; ``json`` compares parsed values, numbers by value; ``regex`` is ``exact``
    for answers of one pattern; ``rouge_l`` asks for a ROUGE-L of ``rouge_l_from``. ``judge`` is ``normalized`` here: what
    differs in its words, only the teacher can compare.
    """
    match checker:
        case "exact" | "regex":
            return expected.strip() == given.strip()
        case "normalized" | "choice" | "judge":
            return normalize(expected) == normalize(given)
        case "numeric":
            left, right = number_in(expected), number_in(given)
            if left is None or right is None:
                return False
            return math.isclose(left, right, rel_tol=1e-6, abs_tol=1e-9) or abs(right - left) <= tolerance * abs(left)
        case "rouge_l":
            return rouge_l(expected, given) >= rouge_l_from
        case "json":
            parsed = _json(given)
            return parsed is not NOT_JSON and parsed == _json(expected)


def rouge_l(expected: str, given: str) -> float:
    """How much of two texts is the same words in the same order, from 0 to 1; case and punctuation aside.

    Source: C.-Y. Lin, "ROUGE: a package for automatic evaluation of summaries" (2004), the F-measure with equal weights.
    """
    ours, theirs = (_WORDS.findall(normalize(text)) for text in (expected, given))
    if not ours or not theirs:
        return float(ours == theirs)
    row = [0] * (len(theirs) + 1)
    for word in ours:
        diagonal = 0
        for at, other in enumerate(theirs, 1):
            diagonal, row[at] = row[at], diagonal + 1 if word == other else max(row[at], row[at - 1])
    return 2 * row[-1] / (len(ours) + len(theirs))


def fields_right(expected: str, given: str) -> dict[str, bool]:
    """Of a JSON object, which fields the answer has right; inner objects' fields by dotted names. Empty for other values."""
    wanted, found = _fields(_json(expected)), _fields(_json(given))
    return {name: name in found and found[name] == value for name, value in wanted.items()}


def _fields(value: object, prefix: str = "") -> dict[str, object]:
    if not isinstance(value, dict):
        return {}
    fields: dict[str, object] = {}
    for name, item in cast("dict[str, object]", value).items():
        inner = _fields(item, f"{prefix}{name}.")
        fields |= inner or {prefix + name: item}
    return fields


def normalize(text: str) -> str:
    """Case, width, repeated spaces, and quotes or punctuation around an answer do not make it another one."""
    folded = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return folded.strip(" .!?,;:'\"`*_()[]") or folded  # where punctuation is the answer, it counts


def number_in(text: str) -> float | None:
    """The last number in a text; None when there is none. A comma before three digits parts thousands, any other is decimal."""
    found = NUMBER.findall(text)
    if not found:
        return None
    last: str = found[-1]
    if _THOUSANDS.fullmatch(last):
        return float(last.replace(",", ""))
    return float(last.replace(".", "").replace(",", ".") if "," in last else last)


def fits(checker: Checker, choices: list[str], output: str, pattern: str = "") -> bool:
    """Has an answer the form this checker can judge?"""
    match checker:
        case "numeric":
            return number_in(output) is not None
        case "json":
            return _json(output) is not NOT_JSON
        case "choice":
            return not choices or normalize(output) in {normalize(choice) for choice in choices}
        case "regex":
            return matches(pattern, output)
        case "exact" | "normalized" | "rouge_l" | "judge":
            return bool(output.strip())


def is_pattern(pattern: str) -> bool:
    """Is a text a regular expression?"""
    import regex  # noqa: PLC0415 - only for runs that have a pattern

    try:
        regex.compile(pattern)
    except regex.error:
        return False
    return True


def matches(pattern: str, output: str) -> bool:
    """Does an answer match a pattern as a whole? One that takes more than a second is taken not to."""
    import regex  # noqa: PLC0415 - only for runs that have a pattern; Python's own has no timeout

    try:
        return not pattern or regex.fullmatch(pattern, output.strip(), timeout=_PATTERN_TIMEOUT_S) is not None
    except TimeoutError:
        return False


def tidy(output: str, schema: dict[str, Any]) -> str:
    """A JSON answer without the empty fields its schema does not require; any other answer as it is."""
    value = parse_json(output)
    if not isinstance(value, dict | list):
        return output.strip()
    return json.dumps(_without_empty(value, schema), ensure_ascii=False)


NOT_JSON = object()


def _json(text: str) -> object:
    body = text.strip()
    if fence := re.fullmatch(r"```(?:json)?\s*(.*?)\s*```", body, re.DOTALL):
        body = fence[1]
    try:
        return json.loads(body, parse_int=_json_number, parse_float=_json_number)
    except (ValueError, ArithmeticError, RecursionError):
        return NOT_JSON


def _json_number(digits: str) -> tuple[str, Decimal]:
    """A number that equals no truth value, as it would in Python, and of which no digit is lost."""
    return "number", Decimal(digits)


def parse_json(text: str) -> object:
    """The JSON value of an answer, alone or in a code fence; ``NOT_JSON`` when it is none."""
    body = text.strip()
    if fence := re.fullmatch(r"```(?:json)?\s*(.*?)\s*```", body, re.DOTALL):
        body = fence[1]
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return NOT_JSON


def _without_empty(value: Any, schema: Any) -> Any:
    rules: dict[str, Any] = cast("dict[str, Any]", schema) if isinstance(schema, dict) else {}
    if isinstance(value, list):
        return [_without_empty(item, rules.get("items")) for item in cast("list[Any]", value)]
    if not isinstance(value, dict):
        return value
    required, inner = rules.get("required", []), rules.get("properties", {})
    members = {name: _without_empty(item, inner.get(name)) for name, item in cast("dict[str, Any]", value).items()}
    return {name: item for name, item in members.items() if name in required or item not in (None, "", [], {})}

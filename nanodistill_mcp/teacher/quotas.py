"""What a provider's response headers say is left of its rate limits.

Two families are read: ``x-ratelimit-remaining-requests`` (OpenAI and those who copy it) and
``anthropic-ratelimit-requests-remaining``. Headers are somebody else's text: what cannot be read is left out, and no reset
is believed to be further away than a minute, the longest window that requests are counted over while a stage waits.
"""

import math
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

LONGEST_RESET_S = 60.0

_PREFIX = "llm_provider-"
_OPENAI = re.compile(r"x-ratelimit-(?P<part>remaining|reset)-(?P<what>[a-z-]{1,40})")
_ANTHROPIC = re.compile(r"anthropic-ratelimit-(?P<what>[a-z-]{1,40})-(?P<part>remaining|reset)")
_SPAN = re.compile(r"(?:(\d{1,4})h)?(?:(\d{1,4})m(?!s))?(?:(\d{1,6}(?:\.\d{1,9})?)s)?(?:(\d{1,9}(?:\.\d{1,9})?)ms)?")
_EPOCH_S = 1e9
"""A plain number this large is a date, not a span."""
_EPOCH_MS = 1e12


@dataclass(frozen=True)
class Quota:
    """What is left of one limit, and when it is whole again."""

    unit: Literal["requests", "tokens"]
    remaining: float
    reset_s: float


def quotas_of(headers: Mapping[str, Any]) -> dict[str, Quota]:
    """Read the limits that a response speaks of, by name. One without a reset says nothing about when to go on."""
    found: defaultdict[str, dict[str, str]] = defaultdict(dict)
    for name, value in headers.items():
        plain = name.lower().removeprefix(_PREFIX)
        if "ratelimit" not in plain:
            continue
        if read := _OPENAI.fullmatch(plain) or _ANTHROPIC.fullmatch(plain):
            found[f"{plain[:1]} {read['what']}"][read["part"]] = str(value)
    quotas: dict[str, Quota] = {}
    for name, parts in found.items():
        remaining, reset_s = _number(parts.get("remaining", "")), _reset_s(parts.get("reset", ""))
        if remaining is not None and reset_s is not None:
            unit = "tokens" if "token" in name else "requests"
            quotas[name] = Quota(unit, remaining, min(reset_s, LONGEST_RESET_S))
    return quotas


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0 else None


def _reset_s(text: str) -> float | None:
    """Seconds until a reset, written as a span ("6m0s", "250ms", "1.5"), as seconds since 1970, or as a date."""
    now = datetime.now(UTC)
    if (value := _number(text)) is not None:
        if value >= _EPOCH_S:
            return max(0.0, (value / 1000 if value >= _EPOCH_MS else value) - now.timestamp())
        return value
    if text and (span := _SPAN.fullmatch(text)):
        hours, minutes, seconds, milliseconds = (float(part or 0) for part in span.groups())
        return hours * 3600 + minutes * 60 + seconds + milliseconds / 1000
    try:
        date = datetime.fromisoformat(text)
    except ValueError:
        return None
    return max(0.0, (date - now).total_seconds()) if date.tzinfo else None

"""Text that others wrote, put into Markdown as what it is: it opens no fence, makes no link and is no HTML."""

import re
import textwrap

from nanodistill_mcp.runs.texts import clean

_WRAPPED_AT = 100
_MARKS = re.compile(r"([\\`*_{}\[\]<>#|!~&$@^])")
_LINKS = re.compile(r"(?i)(:)(?=//)|(?<=www)(\.)")


def prose(text: object, limit: int = 1_000) -> str:
    """One line of words among ours: every character of it is shown and none is obeyed."""
    return _LINKS.sub(r"\\\g<0>", _MARKS.sub(r"\\\1", one_line(text, limit)))


def code(text: object, limit: int = 200) -> str:
    """A short value or name."""
    words = one_line(text, limit)
    ticks = "`" * (_longest_run(words) + 1)
    pad = " " if words.startswith("`") or words.endswith("`") else ""
    return f"{ticks}{pad}{words}{pad}{ticks}" if words else "(empty)"


def cell(text: object, limit: int = 200) -> str:
    """A value in a table: a code span in which a bar ends no column."""
    return code(text, limit).replace("|", "\\|")


def block(text: str, limit: int = 1_500) -> list[str]:
    """A longer text in a fence that is longer than any in it, wrapped so that a page shows it whole."""
    shown = clean(_cut(text.strip(), limit))
    lines = [
        part
        for line in shown.splitlines() or [""]
        for part in textwrap.wrap(line, _WRAPPED_AT, break_on_hyphens=False) or [""]
    ]
    fence = "`" * max(3, _longest_run(shown) + 1)
    return [f"{fence}text", *lines, fence]


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    """A table of cells that are Markdown already."""
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]


def one_line(text: object, limit: int = 1_000) -> str:
    """A text without hidden characters and line breaks, and cut where it is long."""
    return _cut(" ".join(clean(str(text)).split()), limit)


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[:limit].rstrip()} …"


def _longest_run(text: str) -> int:
    return max(map(len, re.findall("`+", text)), default=0)

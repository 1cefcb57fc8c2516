"""Tags: the user's own words to find a run by, kept beside what was asked for and not in it."""

import re
import unicodedata
from collections.abc import Sequence

from nanodistill_mcp.errors import UserInputError
from nanodistill_mcp.runs.files import write_json
from nanodistill_mcp.runs.paths import RunPaths
from nanodistill_mcp.runs.records import RunTags

MOST_TAGS = 10
_TAG = re.compile(r"\w[\w.:-]{0,31}\Z")


def check_tags(wanted: Sequence[str]) -> list[str]:
    """Check tags; each once, without regard to case, in the order given.

    Raises:
        UserInputError: One is not accepted, or there are too many; says what is.
    """
    tags = [unicodedata.normalize("NFC", tag.strip()) for tag in wanted]
    if len(tags) > MOST_TAGS or not all(map(_TAG.match, tags)):
        raise UserInputError(
            "The tags are not accepted.",
            next_step=f"Give at most {MOST_TAGS}, each of 1 to 32 letters, digits, '_', '.', ':' or '-', such as 'baseline' or 'v2'.",
        )
    first: dict[str, str] = {}
    for tag in tags:
        first.setdefault(tag.casefold(), tag)
    return list(first.values())


def write_tags(paths: RunPaths, tags: list[str]) -> None:
    """Put a run's tags in place of those it had."""
    write_json(paths.tags, RunTags(tags=tags).model_dump())

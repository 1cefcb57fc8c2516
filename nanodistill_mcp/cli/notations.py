"""What clients read of their configuration files: the notations, and what stands in a text of each."""

import json
import re
import tomllib
from typing import Any, Literal, cast

Notation = Literal["json", "jsonc", "toml", "yaml"]
Entry = dict[str, Any]

GAP = re.compile(r"(?:[ \t\r\n]+|//[^\n]*|/\*.*?\*/)*", re.DOTALL)
"""What JSON with comments allows between any two of its parts."""


class NotEditableError(Exception):
    """The text cannot be changed without touching something else. Its words are ours and name nothing of the file."""


def parse(notation: Notation, text: str) -> Entry:
    """What a client reads from the text; an empty one is an empty configuration.

    Raises:
        NotEditableError: It is not in this notation, or not a mapping.
    """
    value: Any = {}
    try:
        match notation:
            case "json":
                value = json.loads(text) if text.strip() else {}
            case "jsonc":
                value = json.loads(_without_comments(text)) if GAP.fullmatch(text) is None else {}
            case "toml":
                value = tomllib.loads(text)
            case "yaml":
                import yaml

                try:
                    value = yaml.safe_load(text) or {}
                except yaml.YAMLError as error:
                    raise ValueError from error
    except (ValueError, RecursionError):
        named = {"json": "plain JSON", "jsonc": "JSON with comments", "toml": "TOML", "yaml": "YAML"}[notation]
        raise NotEditableError(f"it is not {named}") from None
    if not isinstance(value, dict):
        raise NotEditableError("it is not a mapping of names to values")
    return cast("Entry", value)


def newline(text: str) -> str:
    """How the text ends its lines."""
    return "\r\n" if "\r\n" in text else "\n"


def _without_comments(text: str) -> str:
    tokens = re.compile(r'("(?:[^"\\]|\\.)*")|//[^\n]*|/\*.*?\*/', re.DOTALL)
    bare = tokens.sub(lambda found: found[1] or " ", text)
    return re.sub(r'("(?:[^"\\]|\\.)*")|,(?=\s*[}\]])', lambda found: found[1] or "", bare)

"""Messages that cannot pass for what a chat template writes around them."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

MARK = "\N{REPLACEMENT CHARACTER}"
"""Also what half of a character decodes to."""


def opened(prompt: str) -> str:
    """The thinking tag that some templates write at the end of the prompt; empty where there is none."""
    return "<think>" if prompt.rstrip().endswith("<think>") else ""


def special_texts(folder: Path) -> list[str]:
    """The texts a tokenizer takes for tokens of its own, such as the end of a turn: in a message they would forge one."""
    special = {str(token["content"]) for token in _added(folder) if token.get("special")}
    return sorted(special - {""}, key=len, reverse=True)


def thinks_unasked(folder: Path | None) -> bool:
    """Whether a model's tokenizer has tokens for thinking aloud, which such a model does before each answer."""
    return folder is not None and {"<think>", "</think>"} <= {str(token["content"]) for token in _added(folder)}


def _added(folder: Path) -> list[dict[str, Any]]:
    """Whole tokens of a tokenizer; none where its file cannot be read."""
    try:
        return json.loads((folder / "tokenizer.json").read_text("utf-8")).get("added_tokens", [])
    except (OSError, ValueError):
        return []


def without(texts: list[str]) -> Callable[[str], str]:
    """Puts a mark in the place of each of these texts: taken out, what stands around one could become another."""
    found = re.compile("|".join(map(re.escape, texts))) if texts else None
    return lambda text: found.sub(MARK, text) if found else text

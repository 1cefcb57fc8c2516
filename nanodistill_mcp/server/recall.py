"""What short checks found out, kept in the data directory: the same question, libraries and files have the same answer.

Only so that the user does not wait for LiteLLM and MLX to be imported once more. Whoever relies on an answer checks again: a
worker looks at the student's files before it loads them, and the first call proves the teacher.
"""

import contextlib
import hashlib
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from nanodistill_mcp import __version__
from nanodistill_mcp.errors import DamagedRunError
from nanodistill_mcp.runs.files import json_bytes, read_object, write_json

_MOST = 100


def files_of(folder: Path) -> list[tuple[str, int, int]] | None:
    """Names, sizes and times of the files of a folder, which change with what is in them; None when it is no folder."""
    try:
        found = [(each.name, each.stat()) for each in folder.iterdir()]
    except OSError:
        return None
    return sorted((name, status.st_size, status.st_mtime_ns) for name, status in found)


@dataclass(frozen=True)
class Question:
    """A check and all that its answer hangs on.

    Args:
        asked: What is asked.
        libraries: The packages that answer; another version may answer otherwise.
    """

    asked: dict[str, Any]
    libraries: tuple[str, ...]

    @property
    def key(self) -> str:
        """The name its answer is kept under."""
        versions = {name: version(name) for name in self.libraries}
        return hashlib.sha256(json_bytes([__version__, versions, self.asked])).hexdigest()[:32]


@dataclass(frozen=True)
class Recall:
    """The answers kept in one folder, the newest hundred. None of them is worth an error."""

    folder: Path

    def answer(self, question: Question) -> dict[str, Any] | None:
        """What the check said; None when it was not made."""
        try:
            return read_object(self._path(question))
        except (DamagedRunError, OSError):
            return None

    def keep(self, question: Question, answer: dict[str, Any]) -> None:
        """Keep what a check said."""
        with contextlib.suppress(OSError):
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_json(self._path(question), answer, durable=False)
            kept = sorted(self.folder.glob("*.json"), key=lambda each: each.stat().st_mtime_ns)
            for each in kept[:-_MOST]:
                each.unlink(missing_ok=True)

    def _path(self, question: Question) -> Path:
        return self.folder / f"{question.key}.json"

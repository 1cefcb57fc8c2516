"""What is wanted of a running student process: go on, pause, or stop. Read between steps, never in the middle.

Two may want something: the user, and the guard that watches over the machine's memory. The stronger wish holds.
"""

import signal
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Literal

from nanodistill_mcp.runs.files import read_json

Want = Literal["run", "pause", "unload", "stop", "cancel"]

_POLL_S = 0.1
_WANTS: tuple[Want, ...] = ("run", "pause", "unload", "stop", "cancel")
"""Each overrules the ones before it. The guard may pause, and unload: end the process at a checkpoint, to be started again."""


class Control:
    """Three ways to be told: SIGTERM, which means cancel, the user's file, and the guard's; both are replaced atomically."""

    def __init__(
        self,
        path: Path | None = None,
        told_by_all: Callable[[int], list[int]] = lambda own: [own],
        guard_path: Path | None = None,
    ) -> None:
        """Make one.

        Args:
            path: The user's file.
            guard_path: The guard's file.
            told_by_all: Exchanges a number with the other ranks of a training, which all stop when one is to.
        """
        self._path, self._guard_path, self._told_by_all = path, guard_path, told_by_all
        self._terminated = False
        self._cleared = 0

    @property
    def want(self) -> Want:
        """What is wanted now. A file that is missing, or says nothing known, means run."""
        return _WANTS[max(self._told_by_all(_WANTS.index(self._own)))]

    @property
    def _own(self) -> Want:
        if self._terminated:
            return "cancel"
        users, guards = _told(self._path).get("want"), _told(self._guard_path).get("want")
        wishes = [
            users if users in ("pause", "stop", "cancel") else "run",
            guards if guards in ("pause", "unload") else "run",
        ]
        return _WANTS[max(map(_WANTS.index, wishes))]

    @property
    def wants_cache_emptied(self) -> bool:
        """Has the guard asked for MLX's cache since the last look?"""
        asked = _told(self._guard_path).get("clears", 0)
        before, self._cleared = self._cleared, asked
        return asked > before

    def wait_while_paused(self) -> float:
        """Return once "pause" is no longer wanted; answers with the seconds that took."""
        began = time.monotonic()
        while self.want == "pause":
            time.sleep(_POLL_S)
        return time.monotonic() - began

    @contextmanager
    def listening(self) -> Generator[None]:
        """Take SIGTERM as a wish while the block runs. Outside it, SIGTERM ends the process at once."""

        def terminate(_signal: int, _frame: FrameType | None) -> None:
            self._terminated = True

        before = signal.signal(signal.SIGTERM, terminate)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)


def _told(path: Path | None) -> dict[str, Any]:
    return (read_json(path) if path else None) or {}

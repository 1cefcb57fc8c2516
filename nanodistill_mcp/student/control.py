"""What the caller wants of a running student process: go on, pause, or stop. Read between steps, never in the middle."""

import signal
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Literal

from nanodistill_mcp.runs.files import read_json

Want = Literal["run", "pause", "stop", "cancel"]

_POLL_S = 0.1
_WANTS: tuple[Want, ...] = ("run", "pause", "stop", "cancel")
"""Each overrules the ones before it."""


class Control:
    """Two ways to be told: SIGTERM, which means cancel, and a file that the caller replaces atomically."""

    def __init__(self, path: Path | None = None, told_by_all: Callable[[int], list[int]] = lambda own: [own]) -> None:
        """Make one.

        Args:
            path: The file.
            told_by_all: Exchanges a number with the other ranks of a training, which all stop when one is to.
        """
        self._path, self._told_by_all = path, told_by_all
        self._terminated = False

    @property
    def want(self) -> Want:
        """What is wanted now. A file that is missing, or says nothing known, means run."""
        return _WANTS[max(self._told_by_all(_WANTS.index(self._own)))]

    @property
    def _own(self) -> Want:
        if self._terminated:
            return "cancel"
        if self._path is None or (value := read_json(self._path)) is None:
            return "run"
        want = value.get("want")
        return want if want in ("pause", "stop", "cancel") else "run"

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

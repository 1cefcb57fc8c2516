"""The entry of a process that keeps a student loaded and answers questions, until its standard input ends.

Whoever started it holds the other end of that pipe: when that process dies, of whatever, this one ends at once, also in the
middle of a computation. Its own standard output carries the answers alone; what libraries print goes to standard error.
"""

import os
import sys
import traceback
from queue import Empty, SimpleQueue
from threading import Thread
from typing import IO, Protocol

from pydantic import BaseModel, ValidationError

from nanodistill_mcp.errors import NanodistillError, machine_error
from nanodistill_mcp.student.child import EXIT_CRASHED, EXIT_FAILED, prepare
from nanodistill_mcp.student.questions import ASKED, Ask, Drop, KeepLoaded, Loaded, NotLoaded, Told

_MOST_LINE_BYTES = 1 << 24


class Engine(Protocol):
    """A loaded model that is asked step by step, so that a question can be dropped between two."""

    loaded: Loaded

    def begin(self, ask: Ask) -> list[Told]:
        """Take a question in."""
        ...

    def drop(self, ask_id: int) -> list[Told]:
        """Leave a question, where it is still being answered."""
        ...

    def step(self) -> list[Told]:
        """Write a little more of each answer; what there is to tell."""
        ...

    @property
    def is_busy(self) -> bool:
        """Is there an answer to write on?"""
        ...


def main() -> None:
    """Load what the first line asks for, then answer."""
    if os.getpgrp() != os.getpid():
        os.setpgid(0, 0)
    told = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    os.dup2(2, 1)
    code = _keep(sys.stdin.buffer, told)
    sys.stderr.flush()
    os._exit(code)  # the thread that waits for lines would hold an orderly end up


def _keep(asked: IO[bytes], told: IO[str]) -> int:
    try:
        request = KeepLoaded.model_validate_json(asked.readline(_MOST_LINE_BYTES))
        lines: SimpleQueue[Ask | Drop] = SimpleQueue()
        Thread(target=_read, args=(asked, lines), daemon=True).start()
        try:
            prepare()
            engine = _load(request)
        except NanodistillError as error:
            return _not_loaded(told, error)
        except OSError as error:
            if (known := machine_error(error)) is None:
                raise
            return _not_loaded(told, known)
        _tell(told, [engine.loaded])
        while True:
            _tell(told, _taken_in(engine, lines))
            _tell(told, engine.step())
    except Exception:  # noqa: BLE001 - the boundary of the process: whoever asks sees that it ended
        traceback.print_exc()
        return EXIT_CRASHED


def _load(request: KeepLoaded) -> Engine:
    if request.gguf_path:
        from nanodistill_mcp.student.keep_gguf import GgufEngine

        return GgufEngine(request.gguf_path, request)
    from nanodistill_mcp.student.keep_mlx import MlxEngine

    return MlxEngine(request)


def _read(asked: IO[bytes], lines: "SimpleQueue[Ask | Drop]") -> None:
    """Hand lines on; when there will be none any more, end the process, whatever it is doing."""
    try:
        while line := asked.readline(_MOST_LINE_BYTES):
            lines.put(ASKED.validate_json(line))
    except (ValidationError, OSError):
        traceback.print_exc()
        os._exit(EXIT_CRASHED)
    os._exit(0)


def _taken_in(engine: Engine, lines: "SimpleQueue[Ask | Drop]") -> list[Told]:
    """Take in what was asked and dropped since; waits for a line when there is nothing else to do."""
    told: list[Told] = []
    while True:
        try:
            line = lines.get(block=not engine.is_busy and not told)
        except Empty:
            return told
        match line:
            case Ask():
                told += engine.begin(line)
            case Drop():
                told += engine.drop(line.id)


def _tell(told: IO[str], lines: list[Told]) -> None:
    for line in lines:
        told.write(line.model_dump_json() + "\n")


def _not_loaded(told: IO[str], error: NanodistillError) -> int:
    traceback.print_exc()
    line: BaseModel = NotLoaded(error=error.kind, what=error.what, next_step=error.next_step)
    told.write(line.model_dump_json() + "\n")
    return EXIT_FAILED

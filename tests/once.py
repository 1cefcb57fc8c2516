"""What the test processes of one session make once for all of them."""

import fcntl
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

_LOOK_S = 0.1


def shared_by_all(factory: pytest.TempPathFactory) -> Path:
    """The folder of this session that its processes share."""
    own = factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


def once(
    factory: pytest.TempPathFactory, name: str, make: Callable[[Path], dict[str, Any]], *, within_s: float
) -> dict[str, Any]:
    """What ``make`` answered to the first process that asked, given a new folder of this session.

    The others wait, and fail with the reason when it failed. When a process died over it, the next one makes it anew.

    Raises:
        TimeoutError: It was not there in time.
    """
    shared = shared_by_all(factory)
    told = shared / f"{name}.json"
    lock = os.open(shared / f"{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        _wait_for(lock, name, within_s)
        if not told.exists():
            try:
                answer = make(factory.mktemp(name))
            except BaseException as error:  # also a test's timeout, which is no Exception
                _write(told, {"failed": repr(error)})
                raise
            _write(told, answer)
    finally:
        os.close(lock)
    found: dict[str, Any] = json.loads(told.read_text(encoding="utf-8"))
    if "failed" in found:
        pytest.fail(f"{name}, which the tests share, could not be made: {found['failed']}")
    return found


def _wait_for(lock: int, name: str, within_s: float) -> None:
    deadline = time.monotonic() + within_s
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                msg = f"{name}, which the tests share, was not made by another process within {within_s:g} s"
                raise TimeoutError(msg) from None
            time.sleep(_LOOK_S)
        else:
            return


def _write(path: Path, answer: dict[str, Any]) -> None:
    draft = path.with_suffix(".tmp")
    draft.write_text(json.dumps(answer), encoding="utf-8")
    os.replace(draft, path)

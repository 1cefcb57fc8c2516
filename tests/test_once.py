"""What is shared by the test processes is made once, and a failure over it is a failure and not a wait."""

import fcntl
from pathlib import Path
from typing import Any

import pytest

from tests.once import once


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is made here is of this process: the same names mean other things in the others."""
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)


def test_the_second_who_asks_gets_what_the_first_made(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The demo takes a minute; three processes would take three."""
    made: list[Path] = []

    def make(folder: Path) -> dict[str, Any]:
        made.append(folder)
        return {"folder": str(folder)}

    first, second = (once(tmp_path_factory, "test-once", make, within_s=1) for _ in range(2))
    assert first == second == {"folder": str(made[0])}
    assert len(made) == 1


def test_what_failed_once_fails_everywhere_with_the_reason(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Three processes that each run into the same timeout would take three times as long to say so."""

    def make(_: Path) -> dict[str, Any]:
        raise RuntimeError("the teacher fell ill")

    with pytest.raises(RuntimeError, match="fell ill"):
        once(tmp_path_factory, "test-failed", make, within_s=1)
    with pytest.raises(pytest.fail.Exception, match=r"could not be made: RuntimeError.*fell ill"):
        once(tmp_path_factory, "test-failed", lambda _: {}, within_s=1)


def test_waiting_for_another_process_has_an_end(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A process that hangs over the shared thing must not hang the others."""
    with (tmp_path_factory.getbasetemp() / "test-held.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(TimeoutError, match=r"not made by another process within 0\.2 s"):
            once(tmp_path_factory, "test-held", lambda _: {}, within_s=0.2)
    assert once(tmp_path_factory, "test-held", lambda _: {"made": True}, within_s=1) == {"made": True}

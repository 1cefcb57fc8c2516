"""Kernel locks and who a process is: what everything about a job is derived from."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from nanodistill_mcp.jobs.locks import is_held, is_same_file, open_lock, try_lock
from nanodistill_mcp.jobs.processes import TIMED_OUT, environment, identity, is_same, run_briefly

_HOLDS = """
import fcntl, os, signal, sys
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
fcntl.flock(fd, fcntl.LOCK_EX)
print("held", flush=True)
signal.pause()
"""


def _holder(path: Path) -> subprocess.Popen[bytes]:
    child = subprocess.Popen([sys.executable, "-I", "-S", "-c", _HOLDS, path], stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdout.readline() == b"held\n"
    return child


def test_a_lock_is_free_once_its_holder_was_killed_also_when_it_was_stopped(tmp_path: Path) -> None:
    """The kernel releases it; no timeout is involved."""
    path = tmp_path / "worker.lock"
    assert not is_held(path)
    with _holder(path) as child:
        assert is_held(path)
        child.send_signal(signal.SIGSTOP)
        assert is_held(path)
        child.kill()
        child.wait(timeout=20)
        assert not is_held(path)


def test_a_zombie_holds_nothing(tmp_path: Path) -> None:
    """A pid check would say that it lives."""
    path = tmp_path / "worker.lock"
    with _holder(path) as child:
        os.kill(child.pid, signal.SIGKILL)
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert psutil.pid_exists(child.pid)
        assert not is_held(path)
        assert not is_same(identity(child.pid))


def test_two_that_probe_do_not_take_each_other_for_the_holder(tmp_path: Path) -> None:
    """Every server looks; looking must not be seen."""
    path = tmp_path / "worker.lock"
    os.close(open_lock(path))
    program = (
        "import sys\nfrom pathlib import Path\nfrom nanodistill_mcp.jobs.locks import is_held\n"
        "print(sum(is_held(Path(sys.argv[1])) for _ in range(5000)))"
    )
    probers = [subprocess.Popen([sys.executable, "-I", "-c", program, path], stdout=subprocess.PIPE) for _ in range(2)]
    assert [prober.communicate(timeout=60)[0] for prober in probers] == [b"0\n", b"0\n"]


def test_a_lock_stays_with_the_description_when_our_copy_is_closed(tmp_path: Path) -> None:
    """That is the hand-over: the launcher closes its copy, and the worker's still holds."""
    path = tmp_path / "worker.lock"
    fd = open_lock(path)
    assert try_lock(fd)
    assert try_lock(fd)
    handed = os.dup(fd)
    os.close(fd)
    assert is_held(path)
    os.close(handed)
    assert not is_held(path)


def test_a_lock_file_that_was_replaced_is_noticed(tmp_path: Path) -> None:
    """A lock on a file that no longer lies there protects nothing."""
    path = tmp_path / "worker.lock"
    fd = open_lock(path)
    assert is_same_file(fd, path)
    path.unlink()
    os.close(open_lock(path))
    assert not is_same_file(fd, path)
    os.close(fd)


def test_a_lock_is_not_opened_through_a_link(tmp_path: Path) -> None:
    """Locking another program's file would stop that program."""
    (tmp_path / "theirs").touch()
    (tmp_path / "worker.lock").symlink_to(tmp_path / "theirs")
    for opens in (open_lock, is_held):
        with pytest.raises(OSError, match=r"symbolic|Too many levels"):
            opens(tmp_path / "worker.lock")


def test_a_process_is_known_by_more_than_its_pid() -> None:
    """Pids are reused, and a boot starts them again."""
    known = identity(os.getpid())
    assert is_same(known)
    assert not is_same(known.model_copy(update={"start_ticks": known.start_ticks + 100}))
    assert not is_same(known.model_copy(update={"boot_id": "another"}))
    assert not is_same(known.model_copy(update={"pid": 2**22 + 1}))


def test_a_process_that_runs_past_its_time_is_ended(tmp_path: Path) -> None:
    """create_run checks a student in a process; one that hangs must not hold the reply. A request that is a fifo does."""
    os.mkfifo(tmp_path / "request.json")
    before = psutil.Process().children()
    assert run_briefly("student.child", str(tmp_path / "request.json"), env=environment(), timeout_s=1) == TIMED_OUT
    assert psutil.Process().children() == before


def test_a_process_that_cannot_start_says_so_by_its_code() -> None:
    """A broken installation."""
    assert run_briefly("no_such_module", env=environment(), timeout_s=30) == 1

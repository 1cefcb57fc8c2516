"""Processes: who one is, and how its whole tree is stopped."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from nanodistill_mcp.runs import faults
from nanodistill_mcp.runs.records import ProcessIdentity

PACKAGE_ENTRY = (
    # Third-party reapers kill processes without a parent whose command line names the protocol this server speaks, so
    # the package's name must not stand here in one piece.
    "import importlib, sys; importlib.import_module('nanodistill_' + 'm' + 'cp.' + sys.argv.pop(1)).main()"
)

TIMED_OUT = -9

STUDENT_ENVIRONMENT = {"HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false", "GGML_NO_BACKTRACE": "1"}
"""What a process that holds a student gets besides."""

_KEPT = (
    *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR"),
    *(
        "SSL_CERT_FILE",
        "SSL_CERT_DIR",
        "REQUESTS_CA_BUNDLE",
        "LD_LIBRARY_PATH",
        "HF_HOME",
        "HF_HUB_CACHE",
        "HF_HUB_OFFLINE",
    ),
    *("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NANODISTILL_HOME", "NANODISTILL_DEVICE", faults.VARIABLE),
)


def environment(also: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a process of ours: an allow-list of this one's, and what the caller adds.

    Keys are added only for a worker that calls the teacher; endpoints and proxies never come from here.
    """
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    return {**kept, "PYTHONUNBUFFERED": "1", "PYTHONUTF8": "1", **(also or {})}


def command(module: str, *arguments: str) -> list[str]:
    """The command line that runs ``main()`` of one of this package's modules in an isolated interpreter."""
    return [sys.executable, "-I", "-c", PACKAGE_ENTRY, module, *arguments]


def boot_id() -> str:
    """Changes with every boot, so that a pid from before one is never taken for ours."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        found = subprocess.run(
            ["/usr/sbin/sysctl", "-n", "kern.bootsessionuuid"], capture_output=True, text=True, check=False
        )
        return found.stdout.strip() or "unknown"


def identity(pid: int) -> ProcessIdentity:
    """What makes this process itself, for as long as the machine is up."""
    return ProcessIdentity(pid=pid, start_ticks=_start(pid), boot_id=boot_id())


def is_same(known: ProcessIdentity) -> bool:
    """Is the process with this pid still the one that was recorded, and not a zombie?"""
    if known.boot_id != boot_id():
        return False
    import psutil  # noqa: PLC0415 - only where a job was started, and a client waits for the start

    try:
        alive = psutil.Process(known.pid).status() != psutil.STATUS_ZOMBIE
        return alive and abs(_start(known.pid) - known.start_ticks) <= _TOLERANCE
    except (psutil.NoSuchProcess, psutil.AccessDenied, FileNotFoundError, ProcessLookupError):
        return False


_TOLERANCE = 0.0 if sys.platform == "linux" else 2.0


def _start(pid: int) -> float:
    # psutil derives Linux start times from the wall clock, which can be stepped; the kernel's ticks are not.
    if sys.platform == "linux":
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return float(fields[19])
    import psutil  # noqa: PLC0415 - as above

    return psutil.Process(pid).create_time()


def signal_group(pid: int, number: signal.Signals) -> None:
    """Signal a process group. The caller has checked the leader's identity, or is its parent."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)
        if number == signal.SIGTERM:
            os.killpg(pid, signal.SIGCONT)  # a stopped process does not see SIGTERM


def renice_group(pid: int, nice: int) -> None:
    """Let other programs before a process group, from now on: a priority can only be lowered."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PGRP, pid, nice)


def start_detached(command_line: Sequence[str], *, log: Path, env: dict[str, str], keep_fd: int) -> None:
    """Start a process so that no client's shutdown reaches it.

    Its own session escapes group kills, the double fork (parent pid 1) escapes those that walk the process tree, and
    nothing of the caller's standard streams is inherited.

    Args:
        command_line: A program with its absolute path, and its arguments. The program is shown as ``./<its name>``,
            because an interpreter that an installer put into a folder with this package's name would carry that name
            into the command line. So the process starts in the program's own folder.
        log: Receives its standard output and error.
        env: Its whole environment.
        keep_fd: The one descriptor it inherits; a lock that must not be let go in between.
    """
    fork_then_exec = """if True:
        import os, sys
        if os.fork(): os._exit(0)
        folder, name = os.path.split(sys.argv[1])
        os.chdir(folder)
        os.execv(sys.argv[1], ["./" + name, *sys.argv[2:]])
    """
    log_fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
    try:
        middle = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", fork_then_exec, *command_line],
            stdin=subprocess.DEVNULL,
            stdout=log_fd,
            stderr=log_fd,
            env=env,
            pass_fds=(keep_fd,),
            start_new_session=True,
        )
        middle.wait(timeout=30)  # it only forks; reaping it leaves no zombie
    finally:
        os.close(log_fd)


def run_briefly(module: str, *arguments: str, env: dict[str, str], timeout_s: float) -> int:
    """Run one of our modules to its end, its output discarded. The exit code, or TIMED_OUT."""
    child = subprocess.Popen(
        command(module, *arguments),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=env,
        start_new_session=True,
    )
    try:
        return child.wait(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        signal_group(child.pid, signal.SIGKILL)
        child.wait()
        return TIMED_OUT

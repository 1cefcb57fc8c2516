"""What the guard judges by, measured: a training's own memory, what is left for others, and what others do.

A process's memory is what it costs the machine: shared pages by their share on Linux; on a Mac the footprint that Activity
Monitor shows and the kernel judges by, which counts what a GPU holds, as no other number does. The Mac's side follows the
system's headers and was not yet seen on one.
"""

import ctypes
import re
import subprocess
import sys
import time
from pathlib import Path

import psutil

from nanodistill_mcp.jobs.guard import FULL, Pressure, Sample
from nanodistill_mcp.jobs.memory import of_container, total_gb

_GB = 1e9
_PRESSED_PERCENT = 10.0
"""Share of the last ten seconds in which some process, or every one, waited for memory, from which Linux counts as pressed."""
_CHANGE = 0.1
"""Of what a process holds, from which its pages are looked at again."""
_SCARCE = 0.25
"""Share of the memory below which what is left counts as little."""
_STALLED = re.compile(r"^(some|full) avg10=([\d.]+)", re.MULTILINE)
_MAC_PRESSURE: dict[int, Pressure] = {1: "normal", 2: "warn", 4: "critical"}
_RUSAGE_INFO_V4, _RUSAGE_BYTES = 4, 1024
_FOOTPRINT_AT = 16 + 7 * 8
"""After the 16 bytes of an id, the eighth number of 8 bytes: ``ri_phys_footprint`` of ``rusage_info_v4``."""
_VM_STAT = re.compile(r"^(Pages free|File-backed pages|Pages purgeable):\s+(\d+)\.", re.MULTILINE)
_PAGE = re.compile(r"page size of (\d+) bytes")
_VM_STAT_TIMEOUT_S = 2.0


class MachineSampler:
    """Looks at this machine."""

    every_s = 1.0

    def __init__(self) -> None:
        self._before = _busy(None)
        self._known: dict[int, tuple[int, int]] = {}

    def sample(self, trainer: int | None) -> Sample:
        """One look; others' share of the processors is since the last one.

        Raises:
            psutil.Error: The system does not tell.
        """
        tree = _tree(trainer)
        system_s, idle_s, own_s = _busy(tree)
        before_s, before_idle_s, before_own_s = self._before
        self._before = system_s, idle_s, own_s
        left_gb = available_gb()
        return Sample(
            at_s=time.monotonic(),
            available_gb=left_gb,
            own_gb=sum(map(self._footprint, tree)) / _GB if tree else None,
            others_percent=others_percent(system_s - before_s, idle_s - before_idle_s, own_s - before_own_s),
            pressure=pressure(is_scarce=left_gb < _SCARCE * total_gb()),
        )

    def _footprint(self, process: psutil.Process) -> int:
        """What the process costs. Linux looks at each of its pages for that, so in between only the change of all it holds counts."""
        try:
            held = process.memory_info().rss
        except psutil.Error:
            return 0
        held_before, cost_before = self._known.get(process.pid, (0, 0))
        if sys.platform == "darwin" or abs(held - held_before) > _CHANGE * held_before:
            held_before, cost_before = held, footprint_bytes(process.pid)
            self._known[process.pid] = held_before, cost_before
        return max(0, cost_before + held - held_before)


def others_percent(busy_s: float, idle_s: float, own_s: float) -> float:
    """Others' share of all processors, from the seconds these were busy and idle, and those that training used."""
    if busy_s + idle_s <= 0:
        return 0.0
    # What a tree used that has just ended is gone from the count, so its difference can be negative.
    return round(FULL * max(0.0, busy_s - max(0.0, own_s)) / (busy_s + idle_s), 1)


def available_gb() -> float:
    """Memory that can be taken without anything being written out to the disk."""
    if sys.platform == "darwin" and (found := free_of_vm_stat(_vm_stat())) is not None:
        return found / _GB
    available, found = psutil.virtual_memory().available, of_container()
    return (min(available, found[1]) if found else available) / _GB


def free_of_vm_stat(told: str) -> int | None:
    """Bytes that a Mac can hand out, in the words of ``vm_stat``: free, and copies of what lies on the disk; None when it tells no such thing."""
    page, counts = _PAGE.search(told), dict[str, str](_VM_STAT.findall(told))
    return int(page[1]) * sum(map(int, counts.values())) if page and "Pages free" in counts else None


def footprint_bytes(pid: int) -> int:
    """Memory that a process costs the machine; 0 when it has ended."""
    if sys.platform == "darwin":
        return _mac_footprint(pid)
    return pss_bytes(pid)


def pss_bytes(pid: int) -> int:
    """Linux: its pages, shared ones by their share; where that may not be read, all it holds."""
    try:
        told = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
        return 1024 * int(next(line for line in told.splitlines() if line.startswith("Pss:")).split()[1])
    except (OSError, StopIteration, ValueError):
        try:
            return psutil.Process(pid).memory_info().rss
        except psutil.Error:
            return 0


def footprint_of_rusage(buffer: bytes) -> int:
    """``ri_phys_footprint`` of what ``proc_pid_rusage`` filled in."""
    return int.from_bytes(buffer[_FOOTPRINT_AT : _FOOTPRINT_AT + 8], "little")


def pressure(*, is_scarce: bool) -> Pressure:
    """What the kernel says of memory. Linux counts who waits for it under a limit of his own, so only scarcity makes it count."""
    if sys.platform == "darwin":
        return _MAC_PRESSURE.get(_mac_number("kern.memorystatus_vm_pressure_level"), "unknown")
    if not is_scarce:
        return "unknown"
    try:
        return pressure_of_stalls(Path("/proc/pressure/memory").read_text(encoding="ascii"))
    except OSError:  # a kernel that was built without it, or a container that hides it
        return "unknown"


def pressure_of_stalls(told: str) -> Pressure:
    """Linux's pressure stall information as a level; it never says that all is well, only that nobody waited."""
    waited = {kind: float(percent) for kind, percent in _STALLED.findall(told)}
    if waited.get("full", 0.0) >= _PRESSED_PERCENT:
        return "critical"
    return "warn" if waited.get("some", 0.0) >= _PRESSED_PERCENT else "unknown"


def _tree(pid: int | None) -> list[psutil.Process]:
    """A process and its descendants; none when it has ended, a zombie included."""
    if pid is None:
        return []
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return []
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _busy(tree: list[psutil.Process] | None) -> tuple[float, float, float]:
    """Seconds that all processors were busy and were not, and that this tree was."""
    times = psutil.cpu_times()
    idle_s = times.idle + getattr(times, "iowait", 0.0)
    counted = (name for name in ("user", "nice", "system", "irq", "softirq", "steal"))
    busy_s = sum(getattr(times, name, 0.0) for name in counted)
    own_s = 0.0
    for process in tree or ():
        try:
            used = process.cpu_times()
        except psutil.Error:
            continue
        own_s += used.user + used.system
    return busy_s, idle_s, own_s


def _vm_stat() -> str:
    try:
        told = subprocess.run(
            ["/usr/bin/vm_stat"], capture_output=True, text=True, timeout=_VM_STAT_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return told.stdout


def _mac_footprint(pid: int) -> int:
    buffer = ctypes.create_string_buffer(_RUSAGE_BYTES)
    if ctypes.CDLL("/usr/lib/libSystem.dylib").proc_pid_rusage(pid, _RUSAGE_INFO_V4, buffer) != 0:
        return 0
    return footprint_of_rusage(buffer.raw)


def _mac_number(name: str) -> int:
    value, size = ctypes.c_int(0), ctypes.c_size_t(ctypes.sizeof(ctypes.c_int))
    library = ctypes.CDLL("/usr/lib/libSystem.dylib")
    failed = library.sysctlbyname(name.encode(), ctypes.byref(value), ctypes.byref(size), None, 0)
    return 0 if failed else value.value

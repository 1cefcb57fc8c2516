"""What the guard is told is what the system says, in the system's own words."""

import os
import struct
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from nanodistill_mcp.jobs import measuring
from nanodistill_mcp.jobs.guard import Pressure
from nanodistill_mcp.jobs.measuring import MachineSampler
from nanodistill_mcp.jobs.memory import of_container, total_gb

# As Apple's manual shows it, and as machines of 16 KiB pages print it.
_VM_STAT = """Mach Virtual Memory Statistics: (page size of 16384 bytes)
Pages free:                               10000.
Pages active:                            180000.
Pages inactive:                          170000.
Pages speculative:                         5000.
Pages throttled:                              0.
Pages wired down:                        120000.
Pages purgeable:                           2000.
"Translation faults":                1234567890.
File-backed pages:                        90000.
Anonymous pages:                         265000.
Pages occupied by compressor:             40000.
"""


@pytest.mark.skipif(sys.platform != "linux", reason="as the Linux kernel counts")
def test_memory_is_counted_for_the_whole_tree_and_shared_pages_once() -> None:
    """A trainer's children cost the machine too; the libraries they share with everybody cost it nothing more."""
    with subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE) as child:
        here, alone = MachineSampler().sample(os.getpid()), measuring.footprint_bytes(os.getpid()) / 1e9
        assert here.own_gb is not None
        assert alone < here.own_gb < alone + psutil.Process(child.pid).memory_info().rss / 1e9 + 0.01
        memory = psutil.Process().memory_full_info()
        assert memory.uss <= measuring.footprint_bytes(os.getpid()) * 1.05
        assert measuring.footprint_bytes(os.getpid()) <= memory.rss * 1.05
    assert measuring.footprint_bytes(child.pid) == 0
    assert MachineSampler().sample(child.pid).own_gb is None


@pytest.mark.skipif(sys.platform != "linux", reason="as the Linux kernel counts")
def test_a_small_change_is_followed_without_looking_at_every_page_again() -> None:
    """The look at the pages of 3 GB takes 60 ms of processor time, and there is one look a second."""
    program = "held = []\nwhile size := int(input()):\n held.append(b'x' * size)\n print(flush=True)"
    sampler, found = MachineSampler(), list[float]()
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        for size in (100_000_000, 5_000_000):
            child.stdin.write(b"%d\n" % size)
            child.stdin.flush()
            child.stdout.readline()
            found.append(sampler.sample(child.pid).own_gb or 0.0)
        child.stdin.write(b"0\n")
    assert found[1] - found[0] == pytest.approx(0.005, abs=0.001)
    assert 0.1 < found[0] < 0.12


def test_a_zombie_holds_nothing() -> None:
    """A trainer that was killed is there until its worker looks."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert MachineSampler().sample(child.pid).own_gb is None
    child.wait()


@pytest.mark.parametrize(
    ("busy_s", "idle_s", "own_s", "percent"),
    [(2, 0, 0, 100), (2, 2, 1, 25), (1, 1, 1.5, 0), (1, 1, -30, 50), (0, 0, 0, 0)],
)
def test_what_training_uses_is_not_taken_for_others_work(
    busy_s: float, idle_s: float, own_s: float, percent: float
) -> None:
    """Training that counts itself pauses for itself. What it used is gone from the count when it has ended."""
    assert measuring.others_percent(busy_s, idle_s, own_s) == percent


@pytest.mark.parametrize(
    ("told", "level"),
    [
        ("some avg10=0.00 avg60=0.00 avg300=0.00 total=0\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n", "unknown"),
        ("some avg10=12.50 avg60=3.00 avg300=1.00 total=9\nfull avg10=4.00 avg60=1.00 avg300=0.50 total=5\n", "warn"),
        ("some avg10=40.00 avg60=9.00 avg300=2.00 total=9\nfull avg10=22.10 avg60=4.00 avg300=1.00 total=5\n", "critical"),
        ("", "unknown"),
    ],
)  # fmt: skip
def test_linux_says_how_long_programs_waited_for_memory(told: str, level: Pressure) -> None:
    """It cannot say that there is enough; only available memory does."""
    assert measuring.pressure_of_stalls(told) == level


def test_a_mac_can_hand_out_what_is_free_and_what_lies_on_the_disk_too() -> None:
    """Inactive pages of programs are no free memory, and copies of files are, active or not."""
    assert measuring.free_of_vm_stat(_VM_STAT) == (10000 + 2000 + 90000) * 16384
    assert measuring.free_of_vm_stat("vm_stat: failed") is None


def test_a_macs_footprint_is_the_eighth_number_after_the_id() -> None:
    """The order of ``rusage_info_v4`` in the system's headers: user, system, two wakeups, pageins, wired, resident, footprint."""
    filled = struct.pack("<16s10Q", b"id", 1, 2, 3, 4, 5, 6, 7, 8_000_000_000, 9, 10)
    assert measuring.footprint_of_rusage(filled) == 8_000_000_000


def test_in_a_container_its_own_limit_is_the_machines_memory(tmp_path: Path) -> None:
    """Whoever plans with the host's memory is ended by the kernel at the container's."""
    for name, content in (("memory.max", "4000000000\n"), ("memory.current", "3000000000\n")):
        (tmp_path / name).write_text(content)
    assert of_container(tmp_path) is None, "it does not say what of it could be given back"
    (tmp_path / "memory.stat").write_text("anon 1500000000\ninactive_file 1200000000\nactive_file 300000000\n")
    assert of_container(tmp_path) == (4_000_000_000, 2_200_000_000)
    (tmp_path / "memory.max").write_text("max\n")
    assert of_container(tmp_path) is None


def test_this_machine_is_measured() -> None:
    """Whatever system the tests run on."""
    sample = MachineSampler().sample(None)
    assert sample.own_gb is None
    assert 0 < sample.available_gb < total_gb()
    assert sample.pressure in ("unknown", "normal", "warn", "critical")

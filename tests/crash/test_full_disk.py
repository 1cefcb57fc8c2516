"""A file system that really is full: four megabytes, where this test may mount them."""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nanodistill_mcp.pipeline.status import pipeline_status
from nanodistill_mcp.runs.paths import RunPaths
from nanodistill_mcp.runs.records import State
from nanodistill_mcp.runs.store import Run
from tests.conftest import ScriptedTeacher
from tests.crash.points import PRODUCTS, Forks, everything_reads

pytestmark = [pytest.mark.fault, pytest.mark.slow]


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with four megabytes."""
    folder = tmp_path / "small"
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)], check=False, capture_output=True
    )
    if made.returncode:
        pytest.skip("only root may mount a file system")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_run_on_a_full_file_system_keeps_what_it_has_and_goes_on_after_space_was_made(
    tmp_path: Path, script: ScriptedTeacher, small: Path, record_property: Callable[[str, object], None]
) -> None:
    """Filled to the last byte at eight moments: nothing half written, our words, and the same end."""
    told: list[str] = []
    with Forks(tmp_path, script) as forks:
        forks.points()
        for room_kb in (0, 4, 8, 16, 24, 40, 60, 90):
            home, ballast = small / f"home-{room_kb}", small / "ballast"
            home.mkdir(mode=0o700)
            _fill(ballast, leaving_kb=room_kb)
            _, ended = forks.run(home)
            paths = RunPaths(home / "runs" / "paid")
            before = everything_reads(paths, f"{room_kb} kB left")
            told.append(ended["what"] if ended["outcome"] == "failed" else _interrupted(Run(paths)))
            assert "disk is full" in told[-1], (room_kb, told[-1])
            ballast.unlink()
            code, ended = forks.run(home)
            assert (code, ended["outcome"]) == (0, "done"), ended
            after = everything_reads(paths, "after space was made")
            assert after.records[: len(before.records)] == before.records
            for product in PRODUCTS:
                ours, theirs = paths.root / product, tmp_path / "undisturbed" / "runs" / "paid" / product
                assert ours.read_bytes() == theirs.read_bytes(), (room_kb, product)
    record_property(
        "measured",
        f"{len(told)} times a full disk of 4 MB: 0 records lost, 0 files half written, each time told that it is full, and the "
        "same files as in an undisturbed run once there was space",
    )


def _interrupted(run: Run) -> str:
    """What the agent reads of a stage whose worker could not even write how it ended."""
    found = (
        [each for each in pipeline_status(run) if each.state is State.INTERRUPTED] if run.paths.root.exists() else []
    )
    return found[0].message if found else "(the disk is full already for what starts a job)"


def _fill(ballast: Path, *, leaving_kb: int) -> None:
    """Take all the room there is, and give some back."""
    with ballast.open("wb", buffering=0) as stream:
        try:
            while stream.write(b"\0" * 4096):
                pass
        except OSError:
            pass
    os.truncate(ballast, max(0, ballast.stat().st_size - leaving_kb * 1024))

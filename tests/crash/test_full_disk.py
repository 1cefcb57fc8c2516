"""A file system that really is full: four megabytes, where this test may mount them."""

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nanodistill_mcp.demo import teacher
from nanodistill_mcp.demo.wire import Says, WireRequest
from nanodistill_mcp.pipeline.status import pipeline_status
from nanodistill_mcp.runs.paths import RunPaths
from nanodistill_mcp.runs.records import State
from nanodistill_mcp.runs.store import Run
from tests.conftest import ScriptedTeacher
from tests.crash.points import CONCURRENCY, PRODUCTS, Forks, everything_reads, shape_of

_KEPT_KB = CONCURRENCY * 64
"""What a worker keeps for the answers it waits for."""

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
    """Filled up at eleven moments, four of them before anything may be asked: nothing half written, our words, and the same end."""
    told: list[str] = []
    with Forks(tmp_path, script) as forks:
        forks.points()
        for room_kb in (0, 4, 8, 16, *(_KEPT_KB + more_kb for more_kb in (0, 8, 16, 24, 40, 60, 90))):
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


def test_answers_that_are_on_their_way_when_the_disk_fills_up_are_all_written_down(
    tmp_path: Path, script: ScriptedTeacher, small: Path, record_property: Callable[[str, object], None]
) -> None:
    """They are paid for. The disk is filled to its last byte while the teacher still thinks, at five moments."""
    moments = (3, 5, 8, 11, 14)
    with Forks(tmp_path, script) as forks:
        for moment in moments:
            home, ballast = small / f"home-{moment}", small / "ballast"
            home.mkdir(mode=0o700)
            begun = len(script.asked)

            def answers(asked: WireRequest, begun: int = begun, moment: int = moment, ballast: Path = ballast) -> Says:
                if len(script.asked) - begun == moment:
                    _fill(ballast, leaving_kb=0)
                return Says(teacher.answer(asked.system, asked.user, shape_of(asked)), delay_s=0.3)

            script.script = answers
            _, ended = forks.run(home)
            asked = len(script.asked) - begun
            records = everything_reads(RunPaths(home / "runs" / "paid"), f"filled at {moment}").records
            answered = [record for record in records if record["kind"] == "answer"]
            assert len(answered) == asked, (moment, ended)
            assert "disk is full" in ended["what"], ended
            ballast.unlink()
            assert forks.run(home)[1]["outcome"] == "done"
            bodies = [json.dumps(each.body, sort_keys=True) for each in script.asked[begun:]]
            assert len(bodies) == len(set(bodies)), moment
    record_property(
        "measured",
        f"{len(moments)} times a disk filled to its last byte with calls in flight: every one of their answers written down, "
        "told that it is full, 0 questions asked twice afterwards",
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

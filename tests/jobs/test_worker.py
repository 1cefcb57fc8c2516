"""The package's own worker, as an installer puts it on a user's machine."""

import os
import sys
import sysconfig
import venv
from pathlib import Path

import anyio
import pytest

import nanodistill_mcp
from nanodistill_mcp.jobs.locks import open_lock, try_lock
from nanodistill_mcp.pipeline.status import stage_status
from nanodistill_mcp.runs.records import State
from tests.jobs.scenes import cancel, ended, until, worker_of
from tests.runs.made import make_run

_LAUNCHES = """
import sys
from pathlib import Path
import anyio
from nanodistill_mcp.jobs import launch
from nanodistill_mcp.runs.paths import RunPaths
from nanodistill_mcp.runs.store import Run
root, lock_path = map(Path, sys.argv[1:])
arguments = {"training_lock_path": str(lock_path), "student": "/models/tiny"}
anyio.run(launch.start, Run(RunPaths(root)), "train", arguments, {"DESK_KEY": "sk-handed-over"})
"""


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """An interpreter where a tool installer puts it: in a folder with the package's name."""
    folder = tmp_path / "tools" / "nanodistill-mcp"
    venv.EnvBuilder(symlinks=True, with_pip=False).create(folder)
    [packages] = folder.glob("lib/python*/site-packages")
    ours = (sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), Path(nanodistill_mcp.__file__).parent.parent)
    (packages / "ours.pth").write_text("\n".join(map(str, ours)))
    return folder / "bin" / "python"


@pytest.mark.skipif(sys.platform != "linux", reason="the command line is read from /proc")
async def test_a_worker_does_not_show_the_protocols_name_or_a_key_in_its_command_line(
    home: Path, installed: Path
) -> None:
    """Cleaners end processes without a parent whose command line names the protocol: a worker is one by design.

    The stage is a real one, held in its queue by the machine's training lock.
    """
    run = make_run(home)
    lock_path = home / "training.lock"
    lock = open_lock(lock_path)
    assert try_lock(lock)
    with anyio.fail_after(60):
        await anyio.run_process([installed, "-I", "-c", _LAUNCHES, run.paths.root, lock_path])
    [job] = run.paths.job_list()
    await until(lambda: stage_status(run, "train").state is State.QUEUED)
    worker = worker_of(job)
    line = " ".join(worker.cmdline())
    assert line.startswith("./python -I -c ")
    assert "mcp" not in line.replace(str(home), "").lower()
    assert "sk-handed-over" not in line
    assert worker.environ()["DESK_KEY"] == "sk-handed-over"
    assert worker.cwd() == str(run.paths.root)
    cancel(job)
    assert (await ended(run, job)).outcome == "cancelled"
    assert stage_status(run, "train").state is State.CANCELLED
    os.close(lock)

"""``clean`` frees what nobody needs, says so first, and touches nothing that lives."""

import os
import time
from pathlib import Path

import pytest

from nanodistill_mcp.jobs.locks import open_lock, try_lock
from nanodistill_mcp.runs.store import RunStore
from tests.cli.person import types
from tests.runs.made import make_run

HOURS_AGO_S = 7200


@pytest.fixture
def full(home: Path) -> Path:
    """A data directory with something of every kind."""
    store = RunStore(home)
    store.trash(make_run(home, "old"))
    run = make_run(home, "trained")
    for folder in (run.paths.archive / "20260101T000000-train", run.paths.checkpoints, run.paths.adapters):
        folder.mkdir(parents=True)
        (folder / "weights.safetensors").write_bytes(b"x" * 300_000)
    run.paths.training.write_text("{}", encoding="utf-8")
    for path in (home / "runs" / ".draft.0000.tmp", run.paths.root / "model.gguf.tmp"):
        path.write_bytes(b"half")
        then_s = time.time() - HOURS_AGO_S
        os.utime(path, (then_s, then_s))
    (run.paths.root / "now.tmp").write_bytes(b"being written")
    return home


def test_nothing_is_removed_before_it_was_named(full: Path) -> None:
    """What is gone is gone: the first call only tells."""
    before = sorted(full.rglob("*"))
    told = types(full, "clean")
    assert told.returncode == 0, told.stderr
    assert "trash: " in told.stdout
    assert "0.3 MB  runs/trained/archive/20260101T000000-train" in told.stdout
    assert "0.3 MB  runs/trained/checkpoints" in told.stdout
    assert "runs/trained/model.gguf.tmp" in told.stdout
    assert "runs/.draft.0000.tmp" in told.stdout
    assert "now.tmp" not in told.stdout
    assert "for good: nanodistill-mcp clean --yes" in told.stdout
    assert sorted(full.rglob("*")) == before


def test_with_yes_it_is_freed_and_what_is_needed_stays(full: Path) -> None:
    """The adapter is the training; its checkpoints were the way there."""
    told = types(full, "clean", "--yes")
    assert "Freed 0.6 MB." in told.stdout
    run = full / "runs" / "trained"
    assert sorted(path.name for path in run.rglob("*") if path.suffix in (".tmp", ".safetensors")) == [
        "now.tmp",
        "weights.safetensors",
    ]
    assert (run / "model" / "adapters" / "weights.safetensors").exists()
    assert list((full / "trash").iterdir()) == []
    assert "nothing to free" in types(full, "clean").stdout


def test_only_the_kind_that_was_named_goes(full: Path) -> None:
    """Checkpoints are large; the trash may be wanted back."""
    assert "clean --only checkpoints --yes" in types(full, "clean", "--only", "checkpoints").stdout
    types(full, "clean", "--only", "checkpoints", "--yes")
    assert not (full / "runs" / "trained" / "checkpoints").exists()
    assert len(list((full / "trash").iterdir())) == 1


def test_a_run_with_a_living_job_is_left_alone(full: Path) -> None:
    """Its checkpoints are what it goes on from."""
    lock = open_lock(full / "runs" / "trained" / "worker.lock")
    assert try_lock(lock)
    told = types(full, "clean", "--yes")
    os.close(lock)
    assert "runs/trained" not in told.stdout
    assert (full / "runs" / "trained" / "checkpoints" / "weights.safetensors").exists()

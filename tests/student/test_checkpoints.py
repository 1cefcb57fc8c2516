"""A checkpoint is whole or absent, and a damaged one is as good as absent."""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false, reportUnknownLambdaType=false, reportMissingTypeStubs=false

import json
import os
from pathlib import Path

import mlx.core as mx
import pytest

from nanodistill_mcp.errors import TrainingError
from nanodistill_mcp.student import checkpoints


def _save(directory: Path, *iterations: int, best: int | None = None) -> None:
    for iteration in iterations:
        tensors = {"weights.a": mx.full((16,), iteration), "random": mx.array([1, iteration])}
        checkpoints.save(directory, iteration, tensors, {"at": iteration}, best)


def test_the_newest_three_and_the_best_are_kept(tmp_path: Path) -> None:
    """Disk is bounded; the adapter comes from the best, a resume from the newest."""
    _save(tmp_path, 1, 2, 3, 4, 5, best=2)

    assert sorted(os.listdir(tmp_path)) == sorted(
        f"{iteration:07d}.{kind}" for iteration in (2, 3, 4, 5) for kind in ("json", "safetensors")
    )
    newest = checkpoints.newest_verified(tmp_path)
    assert newest is not None
    assert (newest.iteration, newest.state) == (5, {"at": 5})
    assert newest.tensors("weights.")["a"].tolist() == [5] * 16


@pytest.mark.parametrize(
    "damage", ["cut", "flip", "gone", "manifest cut", "manifest gone", "manifest of another", "newer"]
)
def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path, damage: str) -> None:
    """Resuming from the highest number, even half written, is a bug others shipped."""
    _save(tmp_path, 1, 2)
    tensors, manifest = tmp_path / "0000002.safetensors", tmp_path / "0000002.json"
    match damage:
        case "cut":
            os.truncate(tensors, tensors.stat().st_size - 1)
        case "flip":
            data = bytearray(tensors.read_bytes())
            data[-5] ^= 1
            tensors.write_bytes(data)
        case "gone":
            tensors.unlink()
        case "manifest cut":
            os.truncate(manifest, 20)
        case "manifest gone":
            manifest.unlink()
        case "manifest of another":
            manifest.write_bytes((tmp_path / "0000001.json").read_bytes())
        case _:
            manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "schema": 99}))

    newest = checkpoints.newest_verified(tmp_path)

    assert newest is not None
    assert newest.iteration == 1


def test_a_checkpoint_cut_anywhere_is_passed_over_and_so_is_one_that_has_another_content(tmp_path: Path) -> None:
    """A manifest cut at every byte; tensors cut in the length, the names, the numbers and at each of their ends."""
    _save(tmp_path, 1, 2)
    tensors, manifest = tmp_path / "0000002.safetensors", tmp_path / "0000002.json"
    whole_tensors, whole_manifest = tensors.read_bytes(), manifest.read_bytes()
    names_end = 8 + int.from_bytes(whole_tensors[:8], "little")
    end = len(whole_tensors)
    cuts = {0, 1, 7, 8, 9, names_end - 1, names_end, names_end + 1, (names_end + end) // 2, end - 1}
    other = (tmp_path / "0000001.safetensors").read_bytes()
    assert len(other) == end
    contents = [*(whole_tensors[:cut] for cut in cuts), other, bytes(end), whole_tensors + b"\0"]

    found: list[int] = []
    for content in contents:
        tensors.write_bytes(content)
        found += [kept.iteration for kept in checkpoints.every_verified(tmp_path)]
    tensors.write_bytes(whole_tensors)
    closed = whole_manifest.rindex(b"}")
    for cut in range(closed + 1):
        manifest.write_bytes(whole_manifest[:cut])
        found += [kept.iteration for kept in checkpoints.every_verified(tmp_path)]
    assert set(found) == {1}
    assert len(found) == len(contents) + closed + 1

    manifest.write_bytes(whole_manifest)
    assert [kept.iteration for kept in checkpoints.every_verified(tmp_path)] == [2, 1]


def test_there_is_no_checkpoint_where_none_was_written(tmp_path: Path) -> None:
    """A first run."""
    assert checkpoints.newest_verified(tmp_path / "none") is None
    assert checkpoints.verified(tmp_path, 3) is None


def test_what_a_death_left_behind_is_swept_and_checkpoints_are_not(tmp_path: Path) -> None:
    """Temporary files are as large as checkpoints."""
    _save(tmp_path, 1)
    (tmp_path / ".0000002.safetensors.77.ab.tmp.safetensors").write_bytes(b"part")
    (tmp_path / "0000003.safetensors").write_bytes(b"no manifest")

    checkpoints.sweep(tmp_path)

    assert sorted(os.listdir(tmp_path)) == ["0000001.json", "0000001.safetensors"]


def test_a_checkpoint_of_the_same_iteration_is_replaced(tmp_path: Path) -> None:
    """An evaluation that a cancel interrupted is made up for after the resume, and saved again."""
    _save(tmp_path, 1)
    checkpoints.save(tmp_path, 1, {"weights.a": mx.zeros(4)}, {"at": 10}, None)

    newest = checkpoints.newest_verified(tmp_path)
    assert newest is not None
    assert newest.state == {"at": 10}


def test_a_full_disk_is_an_error_and_leaves_the_older_checkpoints_as_they_are(tmp_path: Path) -> None:
    """Resource limits stand in for the disk: a file may not grow past a hundred kilobytes."""
    import resource
    import signal

    _save(tmp_path, 1)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(TrainingError, match="disk may be full"):
            checkpoints.save(tmp_path, 2, {"weights.a": mx.zeros(100_000)}, {}, None)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)

    assert sorted(os.listdir(tmp_path)) == ["0000001.json", "0000001.safetensors"]
    assert checkpoints.newest_verified(tmp_path) is not None

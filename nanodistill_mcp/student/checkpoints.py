"""Checkpoints that can be trusted: whole or absent, verified by hash before use, the newest three and the best.

A checkpoint is ``NNNNNNN.safetensors`` (trained weights, optimizer state, random state) and ``NNNNNNN.json`` (its manifest
with the hash, the size and the progress), written last and deleted first: without a manifest there is no checkpoint.
"""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false, reportMissingTypeStubs=false

import os
import re
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx

from nanodistill_mcp.errors import DamagedRunError, TrainingError
from nanodistill_mcp.runs.faults import fault
from nanodistill_mcp.runs.files import fsync_dir, full_fsync, read_json, sha256_of, write_json

KEPT = 3
_MANIFEST = re.compile(r"(\d{7,})\.json\Z")
_SCHEMA = 1


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose content is what was written."""

    iteration: int
    tensors_path: Path
    state: dict[str, Any]
    """The caller's own record of the moment, as JSON."""

    def tensors(self, prefix: str) -> dict[str, mx.array]:
        """Load the tensors whose names begin so, by the rest of their names."""
        tensors = mx.load(str(self.tensors_path))
        assert isinstance(tensors, dict)  # noqa: S101 - mx.load's other results are for other formats
        return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def save(
    directory: Path, iteration: int, tensors: Mapping[str, mx.array], state: dict[str, Any], best: int | None
) -> None:
    """Write a checkpoint durably, then delete those that are neither among the newest nor the best.

    Args:
        directory: Created when it is missing.
        iteration: Names the checkpoint; one of that name is replaced.
        tensors: By name.
        state: A JSON object given back by :func:`newest_verified`.
        best: Iteration of the checkpoint to keep whatever its age.

    Raises:
        TrainingError: The disk is full.
    """
    directory.mkdir(parents=True, exist_ok=True)
    manifest_path = directory / f"{iteration:07d}.json"
    fault("checkpoint.unlink")
    manifest_path.unlink(missing_ok=True)
    tensors_path = directory / f"{iteration:07d}.safetensors"
    save_tensors(tensors_path, tensors)
    manifest = {
        "schema": _SCHEMA,
        "iteration": iteration,
        "bytes": tensors_path.stat().st_size,
        "sha256": sha256_of(tensors_path),
        "state": state,
    }
    write_json(manifest_path, manifest)
    for old in _iterations(directory)[KEPT:]:
        if old != best:
            fault("checkpoint.forget")
            (directory / f"{old:07d}.json").unlink(missing_ok=True)
            fault("checkpoint.delete")
            (directory / f"{old:07d}.safetensors").unlink(missing_ok=True)


def newest_verified(directory: Path) -> Checkpoint | None:
    """The newest checkpoint that is undamaged; None when there is none."""
    return next(every_verified(directory), None)


def every_verified(directory: Path) -> Iterator[Checkpoint]:
    """The undamaged checkpoints, newest first."""
    found = (verified(directory, iteration) for iteration in _iterations(directory))
    return (checkpoint for checkpoint in found if checkpoint is not None)


def verified(directory: Path, iteration: int) -> Checkpoint | None:
    """The checkpoint of this iteration; None when it is missing, damaged, or of another version."""
    tensors_path = directory / f"{iteration:07d}.safetensors"
    try:
        manifest = read_json(directory / f"{iteration:07d}.json")
    except DamagedRunError:
        return None
    if not isinstance(manifest, dict) or manifest.get("schema") != _SCHEMA or manifest.get("iteration") != iteration:
        return None
    if not tensors_path.is_file() or tensors_path.stat().st_size != manifest.get("bytes"):
        return None
    state = manifest.get("state")
    if sha256_of(tensors_path) != manifest.get("sha256") or not isinstance(state, dict):
        return None
    return Checkpoint(iteration, tensors_path, state)


def sweep(directory: Path) -> None:
    """Delete what deaths left behind: temporary files, and tensors without a manifest. For the only writer, at its start."""
    if not directory.is_dir():
        return
    manifests = {f"{iteration:07d}.safetensors" for iteration in _iterations(directory)}
    for entry in directory.iterdir():
        unfinished = entry.name.startswith(".") and ".tmp" in entry.name
        orphaned = entry.suffix == ".safetensors" and entry.name not in manifests
        if unfinished or orphaned:
            entry.unlink(missing_ok=True)


def save_tensors(path: Path, tensors: Mapping[str, mx.array]) -> None:
    """Replace a safetensors file atomically and durably. MLX writes in place: a death in mid-save leaves an empty file.

    Raises:
        TrainingError: The disk is full.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp.safetensors")
    try:
        fault("tensors.write")
        mx.save_safetensors(str(temporary), dict(tensors), {"format": "mlx"})
        fd = os.open(temporary, os.O_RDWR)
        try:
            fault("tensors.fsync")
            full_fsync(fd)
        finally:
            os.close(fd)
        fault("tensors.rename")
        os.replace(temporary, path)
    except (RuntimeError, OSError) as error:
        temporary.unlink(missing_ok=True)
        raise TrainingError(
            f"{path.name} could not be written; the disk may be full.",
            next_step="Free some disk space and train again: it goes on from the last checkpoint.",
        ) from error
    fault("tensors.fsync_dir")
    fsync_dir(path.parent)
    fault("tensors.done")


def _iterations(directory: Path) -> list[int]:
    """Iterations that have a manifest, newest first."""
    if not directory.is_dir():
        return []
    matches = (_MANIFEST.match(name) for name in os.listdir(directory))
    return sorted((int(match[1]) for match in matches if match), reverse=True)

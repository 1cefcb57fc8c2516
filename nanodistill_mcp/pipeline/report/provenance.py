"""Which base a student was trained from, as its folder tells: its name, its licence, its weights."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanodistill_mcp.errors import NanodistillError
from nanodistill_mcp.pipeline.report.markdown import one_line
from nanodistill_mcp.runs.files import sha256_of
from nanodistill_mcp.student.folder import StudentFolder

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[\w.-]{1,96}\Z")
_REVISION = re.compile(r"[0-9a-f]{40}\Z")
_LICENCE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
_HASHED_BYTES = 1 << 30
"""More is not read for a checksum: minutes on a slow disk, for what a revision says as well."""


@dataclass(frozen=True)
class Base:
    """The student before its training."""

    name: str
    """Its hub id, or the name of its folder: where that lies is nobody's business."""
    on_hub: bool
    licence: str = ""
    """The short name its model card or config.json gives, such as apache-2.0."""
    licence_file: str = ""
    """The first line of its LICENSE file, when that is all there is."""
    revision: str = ""
    weights: tuple[tuple[str, str], ...] = ()
    """Name and SHA-256 of each file of weights."""


def base_of(student: str, training: dict[str, Any] | None) -> Base:
    """What is known of a run's base."""
    on_hub = _HUB_ID.match(student) is not None
    name = student if on_hub else Path(student).name
    told = (training or {}).get("student_path") or ("" if on_hub else student)
    try:
        return _in_folder(name, on_hub, Path(told)) if told else Base(name, on_hub)
    except (OSError, NanodistillError):  # moved or changed since: the run's own files say the rest
        return Base(name, on_hub)


def _in_folder(name: str, on_hub: bool, path: Path) -> Base:  # noqa: FBT001 - as the field
    folder = StudentFolder(path)
    revision = path.name if path.parent.name == "snapshots" and _REVISION.match(path.name) else ""
    licence = folder.licence or _licence_in(folder)
    return Base(name, on_hub, licence, "" if licence else _first_line(path), revision, _weights(folder))


def _licence_in(folder: StudentFolder) -> str:
    named = folder.config.get("license")
    return named if isinstance(named, str) and _LICENCE_NAME.match(named) else ""


def _first_line(path: Path) -> str:
    for file in sorted(path.glob("LICEN[CS]E*")):
        with file.open("rb") as stream:
            lines = stream.read(4096).decode(errors="replace").splitlines()
        if words := next((line.strip() for line in lines if line.strip()), ""):
            return one_line(words, 100)
    return ""


def _weights(folder: StudentFolder) -> tuple[tuple[str, str], ...]:
    paths = folder.weight_paths
    if sum(path.stat().st_size for path in paths) > _HASHED_BYTES:
        return ()
    return tuple((path.name, sha256_of(path)) for path in paths)

"""Bytes on disk that are whole or absent: atomic files, appended lines, and reading without following links."""

import errno
import fcntl
import hashlib
import json
import os
import secrets
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from nanodistill_mcp.errors import DamagedRunError, UserInputError
from nanodistill_mcp.runs.faults import fault

_NO_FOLLOW = os.O_NOFOLLOW | os.O_CLOEXEC


def full_fsync(fd: int) -> None:
    """Push a file to the medium. macOS's fsync stops at the drive's cache; F_FULLFSYNC does not."""
    if sys.platform == "darwin":
        try:
            fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
        except OSError as error:  # not every file system offers it
            if error.errno not in (errno.ENOTSUP, errno.EINVAL, errno.ENOTTY):
                raise
        else:
            return
    os.fsync(fd)


def fsync_dir(directory: Path) -> None:
    """Make a rename or a new name in this directory durable."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_atomic(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Replace a file so that a reader sees the old content or the new, never a part.

    Args:
        path: The file. Its directory must exist; the temporary file lies beside it.
        data: The whole new content.
        durable: Flush file and directory before returning. Leave out for what may be lost with the power.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    fault("atomic.open")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_FOLLOW, 0o600)
    try:
        try:
            view = memoryview(data)
            fault("atomic.write")
            while view:
                view = view[os.write(fd, view) :]
            if durable:
                fault("atomic.fsync")
                full_fsync(fd)
        finally:
            os.close(fd)
        fault("atomic.rename")
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if durable:
        fault("atomic.fsync_dir")
        fsync_dir(path.parent)
    fault("atomic.done")


def json_bytes(value: object, *, indent: int | None = None, separators: tuple[str, str] | None = None) -> bytes:
    """A value as UTF-8 JSON. Half a surrogate pair, which a cut text can hold, is escaped instead of refused."""

    def dump(*, ensure_ascii: bool) -> bytes:
        text = json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, default=str)
        return text.encode()

    try:
        return dump(ensure_ascii=False)
    except UnicodeEncodeError:
        return dump(ensure_ascii=True)


def write_json(path: Path, value: object, *, durable: bool = True) -> None:
    """Write one JSON value atomically, readable by people."""
    write_atomic(path, json_bytes(value, indent=1) + b"\n", durable=durable)


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write a whole JSONL file atomically: it exists only when it is complete."""
    write_atomic(path, b"".join(json_bytes(row) + b"\n" for row in rows))


def open_plain(path: Path) -> IO[bytes]:
    """Open a file of a run for reading: never a link, and never something that would make the reader wait.

    Raises:
        FileNotFoundError: There is no such file.
        DamagedRunError: It is not a plain file, or may not be read.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | _NO_FOLLOW)
    except FileNotFoundError:
        raise
    except OSError as error:
        why = errno.errorcode.get(error.errno or 0, "error")
        raise DamagedRunError(
            f"{path.name} of this run cannot be opened ({why}).",
            next_step="Make it a plain file that this user may read, or restore it from a copy.",
        ) from None
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise DamagedRunError(f"{path.name} of this run is not a plain file.", next_step="Restore it from a copy.")
    return os.fdopen(fd, "rb")


def read_json(path: Path) -> Any | None:
    """Read a JSON file; None when there is none.

    Raises:
        DamagedRunError: The file is there and is not JSON.
    """
    try:
        with open_plain(path) as stream:
            data = stream.read()
    except FileNotFoundError:
        return None
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise DamagedRunError(
            f"{path.name} of this run is not readable JSON.",
            next_step="Restore the file from a copy, or delete_run and create the run again.",
        ) from None


def read_object(path: Path) -> dict[str, Any] | None:
    """Read a JSON object; None when there is no file.

    Raises:
        DamagedRunError: The file is there and is not a JSON object.
    """
    value = read_json(path)
    if value is not None and not isinstance(value, dict):
        raise DamagedRunError(
            f"{path.name} of this run is not a JSON object.", next_step="Restore the file from a copy."
        )
    return value  # pyright: ignore[reportUnknownVariableType]


def append_line(path: Path, value: dict[str, Any]) -> None:
    """Append one JSON line with a single write. Not flushed: a completed write survives the death of the process."""
    line = json_bytes(value) + b"\n"
    fault("append.open")
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | _NO_FOLLOW, 0o600)
    try:
        fault("append.write")
        if os.write(fd, line) != len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    finally:
        os.close(fd)
    fault("append.done")


def read_lines(path: Path, *, appended: bool = False) -> Iterator[dict[str, Any]]:
    """Yield the JSON objects of a JSONL file; nothing when there is none.

    Args:
        path: The file.
        appended: It is written line by line: a last line that is torn (no newline, or not JSON) is what a death in
            mid-append leaves, and is left out. In a file that is only ever written whole it is damage.

    Raises:
        DamagedRunError: A line is not a JSON object.
    """
    try:
        stream = open_plain(path)
    except FileNotFoundError:
        return
    with stream:
        damaged_at = 0
        for number, line in enumerate(stream, 1):
            if damaged_at:
                break
            try:
                value = json.loads(line) if line.endswith(b"\n") else None
            except (ValueError, RecursionError):
                value = None
            if isinstance(value, dict):
                yield value  # pyright: ignore[reportUnknownVariableType]
            else:
                damaged_at = number
        else:
            damaged_at = 0 if appended else damaged_at  # only the last line can be
        if damaged_at:
            raise DamagedRunError(
                f"Line {damaged_at} of {path.name} is not a JSON object.",
                next_step="Restore the file from a copy, or redo the stage with restart=true.",
            )


def count_lines(path: Path) -> int:
    """Count the complete lines of a file; 0 when there is none."""
    try:
        with open_plain(path) as stream:
            return sum(chunk.count(b"\n") for chunk in iter(lambda: stream.read(1 << 20), b""))
    except FileNotFoundError:
        return 0


def tail_lines(path: Path, limit: int, *, block_bytes: int = 1 << 16) -> list[dict[str, Any]]:
    """The last JSON objects of a JSONL file, read from its end."""
    try:
        with open_plain(path) as stream:
            size = stream.seek(0, os.SEEK_END)
            data = b""
            while size > 0 and data.count(b"\n") <= limit:
                step = min(block_bytes, size)
                size -= step
                stream.seek(size)
                data = stream.read(step) + data
    except FileNotFoundError:
        return []
    rows: list[dict[str, Any]] = []
    for line in data.split(b"\n")[:-1][-limit:]:
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            continue  # a torn line in a file that is still being written
        if isinstance(value, dict):
            rows.append(value)  # pyright: ignore[reportUnknownArgumentType]
    return rows


def drop_torn_line(path: Path) -> None:
    """Cut off a last line without its end, or the next row would be appended to it."""
    try:
        with path.open("rb+") as stream:
            size = stream.seek(0, os.SEEK_END)
            while size:
                step = min(1 << 16, size)
                stream.seek(size - step)
                end = stream.read(step).rfind(b"\n")
                if end >= 0:
                    fault("torn_line.cut")
                    stream.truncate(size - step + end + 1)
                    return
                size -= step
            stream.truncate(0)
    except FileNotFoundError:
        return


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, as hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def open_beneath(root: Path, relative: str) -> int:
    """Open a file for reading below a root, walking one component at a time without following links.

    Returns:
        A descriptor of a regular file that has no second name (hard link).

    Raises:
        UserInputError: The path leaves the root, crosses a symbolic link, or is not a plain file.
        FileNotFoundError: There is no such file.
        PermissionError: This user may not read it.
    """
    parts = [part for part in relative.split("/") if part not in ("", ".")]
    outside = not _is_name(relative) or relative.startswith(("/", "~")) or ".." in parts or not parts
    if outside or any(part.startswith(".") for part in parts):
        raise UserInputError(
            "That path leaves the allowed directory or names a hidden file.",
            next_step="Give a plain path below it, without '..', links or names that start with a dot.",
        )
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for index, part in enumerate(parts):
            last = index == len(parts) - 1
            flags = os.O_RDONLY | _NO_FOLLOW | (os.O_NONBLOCK if last else os.O_DIRECTORY)
            child = os.open(part, flags, dir_fd=fd)
            os.close(fd)
            fd = child
        status = os.fstat(fd)
    except OSError as error:
        os.close(fd)
        if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.ENXIO):
            raise _not_plain() from None
        if error.errno == errno.ENAMETOOLONG:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)) from None
        raise
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
        os.close(fd)
        raise _not_plain()
    return fd


def _is_name(text: str) -> bool:
    """Can the system take this as a path at all? Not with a NUL, and not with half a surrogate pair."""
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False


def _not_plain() -> UserInputError:
    return UserInputError(
        "That path is not a plain file: it is or crosses a link, or is a directory or a device.",
        next_step="Copy the file itself into the allowed directory and name that copy.",
    )

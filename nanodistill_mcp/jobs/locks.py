"""Kernel locks. A lock is released by any death of its holder, and by nothing else: not by sleep, not by a clock.

``flock`` belongs to the open file description, so a descriptor that is passed to a child carries the lock with it. That
is the hand-over from launcher to worker, and the trap: every child that inherits a descriptor holds its lock too.
"""

import errno
import fcntl
import os
from pathlib import Path

from pydantic import ValidationError

from nanodistill_mcp.runs.files import open_plain
from nanodistill_mcp.runs.records import ProcessIdentity

_HOLDER_BYTES = 256
_BUSY = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)


def open_lock(path: Path) -> int:
    """Open (and make) a lock file; the descriptor is not inherited."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def try_lock(fd: int) -> bool:
    """Take the lock if it is free. True also when this description already holds it."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _BUSY:
            return False
        raise
    return True


def is_held(path: Path) -> bool:
    """Does any process hold this lock?

    Probes with a shared lock, so that two probing servers never take each other for the worker. A held lock seen for a
    moment can be a child between fork and exec: "held" without a worker record means "look again".
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _BUSY:
            return True
        raise
    finally:
        os.close(fd)
    return False


def tell_who_holds(path: Path, holder: ProcessIdentity) -> None:
    """Write into a lock's file who holds it: one write, not flushed, because whoever tells it may be killed the next moment."""
    line = holder.model_dump_json().encode()
    fd = open_lock(path)
    try:
        os.pwrite(fd, line.ljust(_HOLDER_BYTES), 0)
    finally:
        os.close(fd)


def holder_told(path: Path) -> ProcessIdentity | None:
    """Who a lock's file says held it last; None when it does not say."""
    try:
        with open_plain(path) as stream:
            return ProcessIdentity.model_validate_json(stream.read(_HOLDER_BYTES))
    except (OSError, ValidationError):
        return None


def is_same_file(fd: int, path: Path) -> bool:
    """Is this descriptor the file that now lies at the path?"""
    ours, theirs = os.fstat(fd), os.stat(path, follow_symlinks=False)
    return (ours.st_dev, ours.st_ino) == (theirs.st_dev, theirs.st_ino)

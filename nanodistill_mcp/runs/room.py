"""Room on the disk that is kept for answers that are paid for and not there yet: they come, also when the disk is full by then."""

import os
from pathlib import Path

from nanodistill_mcp.runs.faults import fault


class KeptRoom:
    """A file that holds nothing but its place, which is given up when something has to be written after all."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def keep(self, size_bytes: int) -> None:
        """Take so much of the disk, once.

        Raises:
            OSError: There is not that much left; nothing is kept then.
        """
        fault("room.keep")
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(self._path, flags, 0o600)
        # Of what cannot be compressed: a file system that does would keep no room for zeros.
        left = memoryview(os.urandom(size_bytes))
        try:
            while left:
                left = left[os.write(fd, left) :]
        except OSError:
            self.give_up()
            raise
        finally:
            os.close(fd)

    def give_up(self) -> bool:
        """Leave the room to whoever writes next; whether there was any."""
        try:
            self._path.unlink()
        except FileNotFoundError:
            return False
        return True

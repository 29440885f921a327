"""One process to a folder: whoever holds the lock may write into it and mend what lies unfinished."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

from irevla_policy.errors import UserError

LOCK_FILE = ".irevla.lock"

_POLL = 0.1
"""s between two attempts."""


class LockError(UserError):
    """A folder cannot be had."""


class FolderLock:
    """Held from construction to `release`, and at the latest until the process ends.

    Args:
        folder: The folder; made when missing.
        patience: How long to wait for another process to let go of it, s.

    Raises:
        LockError: Another process holds it, or there is a file in its place.
        OSError: The folder cannot be made.
    """

    def __init__(self, folder: Path, patience: float = 0.0) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise LockError(f"{folder}: expected a folder, and there is a file of that name") from None
        self._file = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        deadline = time.monotonic() + patience
        while not self._take():
            if time.monotonic() >= deadline:
                holder = os.pread(self._file, 32, 0).decode(errors="replace").strip()
                os.close(self._file)
                raise LockError(
                    f"{folder}: another process ({holder or 'unknown'}) writes there; stop it or choose another folder"
                )
            time.sleep(_POLL)
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, f"{os.getpid()}\n".encode(), 0)

    def _take(self) -> bool:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def release(self) -> None:
        """Let go; does nothing the second time."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

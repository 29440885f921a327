"""Gives back the shared memory of processes that were killed.

Fast DDS gives every process a segment of its own (config/fastdds.xml: 67 MB) in /dev/shm, and only the process itself
removes it. What is killed leaves it there until the machine restarts; with enough of them new nodes get none and their
images go the slow way. A process holds a file lock beside its segment as long as it lives: what is not locked is
nobody's.
"""

from __future__ import annotations

import fcntl
import os
import re
import time
from pathlib import Path

_SEGMENT = re.compile(r"fastrtps_[0-9a-f]{16}")
_LOCK = "_el"

_STARTING = 10.0
"""s after its creation in which a lock is left alone: its process may not hold it yet."""


def reclaim(folder: Path = Path("/dev/shm")) -> int:
    """Remove the segments of Fast DDS whose process is gone.

    Args:
        folder: Where they are.

    Returns:
        Bytes that were given back; segments of other users are left alone.
    """
    freed = 0
    try:
        names = os.listdir(folder)
    except OSError:
        return 0
    for name in names:
        if _SEGMENT.fullmatch(name) and name + _LOCK in names:
            freed += _reclaim(folder / name, folder / (name + _LOCK))
    return freed


def _reclaim(segment: Path, lock: Path) -> int:
    try:
        if time.time() - lock.stat().st_mtime < _STARTING:
            return 0
        held = os.open(lock, os.O_RDWR)
    except OSError:
        return 0
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        size = segment.stat().st_blocks * 512
        segment.unlink()
        lock.unlink()
    except OSError:
        return 0
    finally:
        os.close(held)
    return size

"""Files and folders that are whole on the disk, or not there: after a kill, after a power cut, on a full disk."""

from __future__ import annotations

import os
from pathlib import Path


def write_text(path: Path, text: str) -> None:
    """Write a file so that a crash at any moment leaves the old one, none, or the whole new one.

    Raises:
        OSError: The disk is full; the old one stays.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(text)
        put_in_place(partial, path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def put_in_place(partial: Path, path: Path) -> None:
    """Put a written file, or a folder with all that is in it, in its place once the disk has it."""
    if partial.is_dir():
        for inside in partial.rglob("*"):
            sync(inside)
    sync(partial)
    partial.replace(path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""Checkpoints of all jobs, each stored under its version, a content hash; `serving` leads to what the robot runs."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from irevla_policy.durable import put_in_place, write_text
from irevla_policy.model.checkpoint import checkpoint_version, read_provenance


def store(checkpoint: Path, folder: Path, found: Mapping[str, Any]) -> Path:
    """Copy a checkpoint to a folder of policies; does nothing when it is there.

    Args:
        checkpoint: What to copy.
        folder: Of the policies.
        found: What else its provenance shall say.

    Returns:
        Where it is.

    Raises:
        CheckpointError: It is none.
        OSError: The disk is full; nothing is stored.
    """
    target = folder / checkpoint_version(checkpoint)
    if target.is_dir():
        return target
    partial = folder / f".{target.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        shutil.copytree(checkpoint, partial)
        provenance = {**read_provenance(checkpoint), **found}
        (partial / "provenance.json").write_text(json.dumps(provenance, indent=2, sort_keys=True) + "\n")
        put_in_place(partial, target)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return target


def annotate(checkpoint: Path, found: Mapping[str, Any]) -> None:
    """Add to what the provenance of a stored checkpoint says; its version stays.

    Raises:
        OSError: The disk is full; nothing is changed.
    """
    provenance = {**read_provenance(checkpoint), **found}
    write_text(checkpoint / "provenance.json", json.dumps(provenance, indent=2, sort_keys=True) + "\n")


def remember_serving(folder: Path, checkpoint: Path) -> None:
    """Let `serving` in a folder of policies lead to what the robot runs, so that it starts with that next time.

    Raises:
        OSError: The link cannot be written; the old one stays.
    """
    link, target = folder / "serving", checkpoint.resolve()
    if not target.is_dir() or (link.is_symlink() and link.resolve() == target):
        return
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / ".serving.partial"
    partial.unlink(missing_ok=True)
    inside = target.is_relative_to(folder.resolve())
    partial.symlink_to(os.path.relpath(target, folder.resolve()) if inside else target)
    partial.replace(link)

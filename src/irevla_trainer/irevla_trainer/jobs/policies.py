"""Checkpoints of all jobs, each stored under its version: a content hash."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from irevla_policy.durable import put_in_place
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

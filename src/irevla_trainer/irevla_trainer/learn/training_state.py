"""The state of an interrupted training run on the disk: safetensors with JSON in its header, replaced atomically."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from irevla_policy.durable import put_in_place
from irevla_policy.errors import UserError
from irevla_policy.model.tensor_file import save_tensors

STATE_FILE = "state.safetensors"


class TrainingStateError(UserError, ValueError):
    """The state of a run cannot be read; names the file and what to do."""


@dataclass(frozen=True)
class TrainingState:
    """All that a run needs to go on.

    Attributes:
        identity: Data and settings that the run belongs to.
        progress: Step, time spent and the like; plain values.
        tensors: Weights and optimizer state by name.
    """

    identity: dict[str, Any]
    progress: dict[str, Any]
    tensors: dict[str, Tensor]


def write_state(folder: Path, state: TrainingState) -> None:
    """Replace the state in a folder; a crash at any moment leaves the old one or the new one.

    Raises:
        OSError: The disk is full; the old one stays.
    """
    partial = folder / f".{STATE_FILE}.partial"
    header = {"identity": json.dumps(state.identity), "progress": json.dumps(state.progress)}
    try:
        save_tensors(partial, state.tensors, header)
        put_in_place(partial, folder / STATE_FILE)
    finally:
        partial.unlink(missing_ok=True)


def read_state(folder: Path) -> TrainingState | None:
    """The state in a folder, None when there is none.

    Raises:
        TrainingStateError: The file is damaged.
    """
    path = folder / STATE_FILE
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return TrainingState(json.loads(header["identity"]), json.loads(header["progress"]), tensors)
    except (SafetensorError, KeyError, ValueError) as error:
        raise TrainingStateError(f"{path}: not a readable training state ({error}); remove it to start over") from error


def remove_state(folder: Path) -> None:
    """Remove the state in a folder, once what came of it is safe."""
    (folder / STATE_FILE).unlink(missing_ok=True)

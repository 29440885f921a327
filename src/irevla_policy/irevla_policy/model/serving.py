"""Loading a checkpoint to act with: checked against the robot, and warm before it decides for the first time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from irevla_policy.model.checkpoint import (
    CheckpointError,
    check_fits,
    checkpoint_version,
    form_of,
    load_checkpoint,
    load_twin,
)
from irevla_policy.model.device import require_device
from irevla_policy.model.policy import VLAPolicy
from irevla_policy.robot.observation import Observation
from irevla_policy.robot.pilot import ServedPolicy
from irevla_policy.robot.profile import RobotProfile

_WARM_UPS = 3


def set_up(threads: int, seed: int) -> None:
    """Number of threads of a forward pass (0 keeps torch's choice), and the seed of policies that draw numbers."""
    if threads:
        torch.set_num_threads(threads)
    torch.manual_seed(seed)


def load_for_serving(
    folder: str | Path,
    profile: RobotProfile,
    device: str,
    present: ServedPolicy | None = None,
    pause: Callable[[], None] = lambda: None,
) -> ServedPolicy:
    """Load a checkpoint, try it, and tell its version.

    Python runs one thread at a time: while a policy acts in another one, every piece of this work may make it wait. A
    checkpoint of the same form as what serves takes a few pieces of some milliseconds, any other one a long piece.

    Args:
        folder: A checkpoint.
        profile: The robot that it is to drive.
        device: `cpu`, `cuda`, `cuda:1`, ...
        present: What serves meanwhile.
        pause: Called before each piece: returns when there is time for it.

    Raises:
        CheckpointError: It is incomplete or damaged, made for another robot, or gives no finite action.
        DeviceError: The device cannot be used.
    """
    # A link may lead elsewhere a moment later: version, weights and what is told of them are of one place.
    folder = Path(folder).resolve()
    pause()
    version = checkpoint_version(folder)
    pause()
    # Of what serves by what it was loaded from, which may lie elsewhere or be overwritten by now.
    form = form_of(folder)
    if present is not None and isinstance(present.policy, VLAPolicy) and form and present.form == form:
        policy, warm_ups = load_twin(folder, present.policy, pause), 1
    else:
        policy, warm_ups = load_checkpoint(folder, require_device(device)), _WARM_UPS
    check_fits(folder, policy.robot, profile)
    images = {camera.name: np.zeros((camera.height, camera.width, 3), np.uint8) for camera in profile.cameras}
    observation = Observation(0, images, np.array(profile.home), 0.0, "warm up")
    state = np.zeros((1, profile.state_dim), np.float32)
    for _ in range(warm_ups):
        pause()
        actions = policy.act([observation], state)
    if actions.shape[0] != 1 or actions.shape[2] != profile.action_dim or not np.isfinite(actions).all():
        raise CheckpointError(
            f"checkpoint {folder}: expected finite actions [1, chunk, {profile.action_dim}], "
            f"found shape {list(actions.shape)} with values {actions.ravel()[:8].tolist()}"
        )
    return ServedPolicy(policy, version, str(folder), actions.shape[1], form)

"""One complete observation: what the policy sees in one control tick."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from irevla_policy.errors import UserError

UInt8Image = npt.NDArray[np.uint8]
Vector = npt.NDArray[np.float64]


class ObservationError(UserError, ValueError):
    """Sensor data that no observation can be made of; says which, what was expected and what was found."""


@dataclass(frozen=True, eq=False)
class Observation:
    """Camera images, joint states and instruction that belong to one stamp.

    Attributes:
        stamp: ROS time of the observation, in ns.
        images: Camera name to RGB image, uint8 `[H, W, 3]`, in the profile's order of cameras.
        joint_positions: Arm joints in the profile's order, rad, `[n]`.
        gripper: Gripper opening in the unit of joint states (m); 0 without a gripper.
        instruction: What to do, in words.
    """

    stamp: int
    images: dict[str, UInt8Image]
    joint_positions: Vector
    gripper: float
    instruction: str

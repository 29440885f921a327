"""What the model sees of the joint states."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from irevla_policy.robot.kinematics import ArmKinematics
from irevla_policy.robot.profile import RobotProfile


def proprioceptive_state(
    profile: RobotProfile, kinematics: ArmKinematics, joint_positions: npt.ArrayLike, gripper: float
) -> npt.NDArray[np.float32]:
    """The proprioceptive state in the order of the profile's `proprioception`.

    Args:
        profile: The robot.
        kinematics: Its kinematics.
        joint_positions: Measured positions, rad, `[n]`.
        gripper: Measured opening in the unit of joint states.

    Returns:
        `[state_dim]`: end-effector position in m, joint positions in rad, gripper opening as a share
        (0 closed, 1 open; not clipped).
    """
    joints = np.asarray(joint_positions, dtype=np.float64)
    parts: list[npt.NDArray[np.float64]] = []
    for part in profile.proprioception:
        if part == "ee_position":
            parts.append(kinematics.position(joints))
        elif part == "joint_positions":
            parts.append(joints)
        elif part == "gripper" and profile.gripper is not None:
            closed, opened = profile.gripper.opening
            parts.append(np.array([(gripper - closed) / (opened - closed)]))
    return np.concatenate(parts).astype(np.float32) if parts else np.zeros(0, dtype=np.float32)

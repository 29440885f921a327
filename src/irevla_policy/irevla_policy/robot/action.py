"""From the model's raw action to a joint target."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from irevla_policy.errors import UserError
from irevla_policy.robot.kinematics import ArmKinematics
from irevla_policy.robot.profile import RobotProfile

Array = npt.NDArray[np.float64]

WORKSPACE_MARGIN = 0.005
"""Distance that targets keep from the workspace box, m: the arm settles inside it instead of on its edge."""

LEAD = 3.0
"""How far the commanded end effector may run ahead of the measured one, in units of `ee_delta_scale` per axis; and the
commanded joints ahead of the measured ones, in control periods at their largest speed."""


class ActionError(UserError, ValueError):
    """An action has the wrong length or is not finite."""


class ActionMapper:
    """Turns actions of the profile's action space into joint targets, one control period ahead.

    With `ee_delta` the end effector is commanded relative to where it was last commanded, not to where it was measured,
    so that load does not make it sag; the lead over the measured position is bounded, so that contact does not wind the
    command up. The gripper keeps the orientation that it has in the home pose. With `joint_delta` and `joint_velocity`
    the same holds of each joint.
    """

    def __init__(self, profile: RobotProfile, kinematics: ArmKinematics) -> None:
        self._profile = profile
        self._kinematics = kinematics
        self._joints = len(profile.joints)
        self._low = np.array(profile.workspace.low) + WORKSPACE_MARGIN
        self._high = np.array(profile.workspace.high) - WORKSPACE_MARGIN
        self._joint_low = np.array([joint.position[0] for joint in profile.joints])
        self._joint_high = np.array([joint.position[1] for joint in profile.joints])
        self._joint_lead = joint_lead(profile)
        self._rotation = kinematics.pose(np.array(profile.home))[1]
        self._reference: Array | None = None
        self._joint_target: Array | None = None

    def reset(self) -> None:
        """Forget what was commanded: the next target is relative to the measured state."""
        self._reference = None
        self._joint_target = None

    def target(self, joint_positions: npt.ArrayLike, values: npt.ArrayLike) -> tuple[Array, float]:
        """Where the arm should be one control period after the observation.

        Args:
            joint_positions: Measured positions, rad, `[n]`.
            values: Raw action, `[action_dim]`: arm, then gripper when the robot has one. Displacements of `ee_delta`
                and the gripper are clipped to [-1, 1].

        Returns:
            Joint target, rad, `[n]`, and gripper command in [-1, 1] (0 without a gripper).

        Raises:
            ActionError: The action has the wrong length or is not finite.
        """
        measured = np.asarray(joint_positions, dtype=np.float64)
        arm, gripper = self._split(values)
        space = self._profile.action_space
        if space == "ee_delta":
            return self._ee_target(measured, np.clip(arm, -1.0, 1.0)), gripper
        if space == "joint_position":
            wanted = arm
        else:
            step = arm if space == "joint_delta" else arm / self._profile.control_rate
            reference = measured if self._joint_target is None else self._joint_target
            wanted = np.clip(reference, measured - self._joint_lead, measured + self._joint_lead) + step
        self._joint_target = np.clip(wanted, self._joint_low, self._joint_high)
        return self._joint_target.copy(), gripper

    def _split(self, values: npt.ArrayLike) -> tuple[Array, float]:
        action = np.asarray(values, dtype=np.float64)
        size = self._profile.action_dim
        if action.shape != (size,):
            raise ActionError(
                f"action: expected {size} values ({self._profile.action_space} of robot {self._profile.name!r}), "
                f"found shape {list(action.shape)}"
            )
        if not np.isfinite(action).all():
            index = int(np.flatnonzero(~np.isfinite(action))[0])
            raise ActionError(f"action: value {index} is {action[index]}, expected finite numbers")
        if self._profile.gripper is None:
            return action, 0.0
        return action[:-1], float(np.clip(action[-1], -1.0, 1.0))

    def _ee_target(self, measured: Array, delta: Array) -> Array:
        scale = self._profile.ee_delta_scale
        here = self._kinematics.position(measured)
        reference = here if self._reference is None else self._reference
        reference = np.clip(reference + delta * scale, here - LEAD * scale, here + LEAD * scale)
        # A start outside the box moves inward at the pace of the actions, never in one jump.
        low, high = np.minimum(self._low, here), np.maximum(self._high, here)
        self._reference = np.clip(reference, low, high)
        start = measured if self._joint_target is None else self._joint_target
        self._joint_target = self._kinematics.solve(start, self._reference, self._rotation)
        return self._joint_target.copy()


def joint_lead(profile: RobotProfile) -> Array:
    """How far each commanded joint may be ahead of the measured one before the next action is added, rad, `[n]`."""
    return LEAD * np.array([joint.velocity for joint in profile.joints]) / profile.control_rate

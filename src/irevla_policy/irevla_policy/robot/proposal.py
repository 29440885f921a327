"""What a policy or an intervention device proposes, and the checks before the guard follows it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from irevla_policy.errors import UserError
from irevla_policy.robot.observation import Vector
from irevla_policy.robot.profile import RobotProfile

# Rounding of single-precision models and of text forms.
_TOLERANCE = 1e-6


class ProposalError(UserError, ValueError):
    """A proposal that cannot be carried out; says what is wrong with it."""


@dataclass(frozen=True, eq=False)
class Proposal:
    """One tick of a policy or an intervention device (the plain form of irevla_msgs/Action).

    Attributes:
        stamp: Stamp of the observation that it answers, ns; 0 for an intervention that answers none.
        values: Raw action in the profile's action space; may be empty for an intervention.
        joint_names: Names of the joints of `joint_target`, in any order.
        joint_target: Where the joints should be one control period later, rad.
        gripper: Command in [-1 (open), 1 (closed)].
        policy_version: Checkpoint that produced it (12 hex digits); empty for interventions.
    """

    stamp: int
    values: tuple[float, ...]
    joint_names: tuple[str, ...]
    joint_target: tuple[float, ...]
    gripper: float = 0.0
    policy_version: str = ""


def joint_target(proposal: Proposal, profile: RobotProfile, position: Vector) -> Vector:
    """The joint target in the profile's order.

    Args:
        proposal: What is proposed.
        profile: The robot.
        position: Present commanded positions, rad, `[n]`; a joint outside its limits may be sent inward from there.

    Returns:
        rad, `[n]`.

    Raises:
        ProposalError: Names or sizes do not fit the robot, a number is not finite, or a value is out of range.
    """
    _check_values(proposal, profile)
    if not math.isfinite(proposal.gripper) or abs(proposal.gripper) > 1.0 + _TOLERANCE:
        raise ProposalError(f"gripper is {proposal.gripper}, expected -1 (open) to 1 (closed)")
    if len(proposal.joint_names) != len(proposal.joint_target):
        raise ProposalError(
            f"joint_target has {len(proposal.joint_target)} values for {len(proposal.joint_names)} joint names"
        )
    if proposal.joint_names == profile.joint_names:
        target = np.array(proposal.joint_target, dtype=np.float64)
    else:
        target = _in_order(proposal, profile)
    for index in np.flatnonzero(~np.isfinite(target)):
        raise ProposalError(
            f"target of joint {profile.joint_names[index]!r} is {target[index]}, expected a finite number"
        )
    for joint, wanted, present in zip(profile.joints, target, position, strict=True):
        low, high = min(joint.position[0], present), max(joint.position[1], present)
        if not low - _TOLERANCE <= wanted <= high + _TOLERANCE:
            allowed = f"[{joint.position[0]:g}, {joint.position[1]:g}] rad"
            raise ProposalError(f"target {wanted:.4g} rad of joint {joint.name!r} is outside its limits {allowed}")
    return target


def _check_values(proposal: Proposal, profile: RobotProfile) -> None:
    values = np.array(proposal.values, dtype=np.float64)
    # A teleoperation device may command joints without an action in the policy's space.
    if len(values) != profile.action_dim and not (len(values) == 0 and not proposal.policy_version):
        raise ProposalError(
            f"action has {len(values)} values, expected {profile.action_dim} "
            f"({profile.action_space} of robot {profile.name!r})"
        )
    for index in np.flatnonzero(~np.isfinite(values)):
        raise ProposalError(f"value {index} of the action is {values[index]}, expected a finite number")


def _in_order(proposal: Proposal, profile: RobotProfile) -> Vector:
    if sorted(proposal.joint_names) != sorted(profile.joint_names):
        found = ", ".join(proposal.joint_names) or "none"
        raise ProposalError(f"joints of the target are {found}; expected {', '.join(profile.joint_names)}")
    index = {name: place for place, name in enumerate(proposal.joint_names)}
    return np.array([proposal.joint_target[index[name]] for name in profile.joint_names], dtype=np.float64)

"""Whether the robot that is there is the one of the profile: its published URDF against the profile's own."""

from __future__ import annotations

from xml.etree import ElementTree

import numpy as np
import pinocchio

from irevla_policy.robot.kinematics import ArmKinematics
from irevla_policy.robot.profile import RobotProfile, check_limits
from irevla_policy.robot.urdf import joints_in, root_link
from irevla_policy.settings import SettingsError

_POSES = 8
"""Joint positions at which both must put the end effector in the same place."""

_POSITION_TOLERANCE = 1e-3  # m
_ROTATION_TOLERANCE = 5e-3  # rad


def check_description(profile: RobotProfile, text: str) -> None:
    """Refuse a robot that is not the profile's.

    Args:
        profile: What was expected.
        text: The robot's URDF.

    Raises:
        SettingsError: A joint or the end-effector frame is missing, a limit is narrower than the profile's, or the arm
            is shaped otherwise; says which line of which file to change.
    """
    where = "/robot_description"
    try:
        root = ElementTree.fromstring(text)
        model = pinocchio.buildModelFromXML(text)
    except (ElementTree.ParseError, RuntimeError, ValueError) as error:
        raise SettingsError(f"{where}: not a readable URDF: {' '.join(str(error).split())}") from error
    known = joints_in(root, where)
    for number, joint in enumerate(profile.joints):
        if joint.name not in known:
            line = profile.place(f"joints[{number}]")
            raise SettingsError(f"{line}: the robot has no joint {joint.name!r}; it has: {', '.join(known)}")
    check_limits(profile, known, "the robot")
    line, frame = profile.place("kinematics: ee_frame"), profile.kinematics.ee_frame
    if not model.existFrame(frame):
        raise SettingsError(f"{line}: the robot has no frame {frame!r}")
    _check_shape(profile, model)


def _check_shape(profile: RobotProfile, model: pinocchio.Model) -> None:
    """Refuse an arm whose end effector is elsewhere than the profile's at the same joint positions."""
    own, data = ArmKinematics(profile), model.createData()
    base = _base(profile, model)
    frame = model.getFrameId(profile.kinematics.ee_frame)
    random = np.random.default_rng(0)
    low, high = np.array([joint.position for joint in profile.joints]).T
    for joints in (np.array(profile.home), *random.uniform(low, high, (_POSES, len(low)))):
        q = pinocchio.neutral(model)
        for name, position in zip(profile.joint_names, joints, strict=True):
            joint = model.joints[model.getJointId(name)]
            if joint.nq == 1:
                q[joint.idx_q] = position
            else:  # one without end, as cosine and sine
                q[joint.idx_q : joint.idx_q + 2] = np.cos(position), np.sin(position)
        pinocchio.framesForwardKinematics(model, data, q)
        there = data.oMf[base].inverse() * data.oMf[frame]
        position, rotation = own.pose(joints)
        apart = float(np.linalg.norm(there.translation - position))
        turned = float(np.linalg.norm(pinocchio.log3(rotation.T @ there.rotation)))
        if apart > _POSITION_TOLERANCE or turned > _ROTATION_TOLERANCE:
            at = (
                "at the home position" if np.array_equal(joints, profile.home) else f"at {joints.round(3).tolist()} rad"
            )
            raise SettingsError(
                f"{profile.place('kinematics: urdf')}: the robot's frame {profile.kinematics.ee_frame!r} is "
                f"{1e3 * apart:.1f} mm and {turned:.3f} rad from where {profile.urdf_path} has it {at}"
            )


def _base(profile: RobotProfile, model: pinocchio.Model) -> int:
    """The frame of the robot that is the root of the profile's URDF; the robot may stand on something."""
    name = root_link(profile.urdf_path)
    return int(model.getFrameId(name)) if model.existFrame(name) else 0

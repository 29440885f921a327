"""The Franka Kitchen's Panda with the real arm's joint names, zero positions and limits."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Sequence
from pathlib import Path

import mujoco
import numpy as np

from irevla_policy.sim.urdf import urdf_from_mujoco
from irevla_policy.sim.world import WorldError

ARM = tuple(f"panda_joint{number}" for number in range(1, 8))
"""The arm's joints."""

FINGERS = ("panda_finger_joint1", "panda_finger_joint2")
FINGER_OPENING = 0.04
"""Position of each finger when the gripper is open, m."""

BASE, TOOL = "panda_link0", "panda_hand_tcp"
"""First body of the arm, and the point between the finger tips: the end effector."""

_RANGES = (
    (-2.8973, 2.8973), (-1.7628, 1.7628), (-2.8973, 2.8973), (-3.0718, -0.0698), (-2.8973, 2.8973), (-0.0175, 3.7525),
    (-2.8973, 2.8973),
)  # fmt: skip
_SPEEDS = (2.175, 2.175, 2.175, 2.175, 2.61, 2.61, 2.61)  # rad/s
_TORQUES = (87.0, 87.0, 87.0, 87.0, 12.0, 12.0, 12.0)  # N m

_STIFFNESS = (2000.0, 2000.0, 2000.0, 2000.0, 400.0, 400.0, 400.0)  # N m / rad, of the servos
_LAG = 0.04
"""Damping over stiffness of the servos, s: how far behind its setpoint a joint follows."""
_FRICTION = 0.005
"""Damping of the bearings over stiffness of the servos, s; with the kitchen's own the torques end at 1 rad/s."""

_TURNS = {"panda_link6": (0.5 * math.pi, 0.0, 0.0), "panda_link7": (0.5 * math.pi, 0.0, 0.0)}
"""Orientations of links where the kitchen's model counts its joint from another zero than the real arm, rad."""

_TOOL_POSITION = (0.0, 0.0, 0.2104)  # m, in link 7
_TOOL_TURN = -0.25 * math.pi  # rad, about its z axis: the hand is mounted askew


def kitchen_model() -> Path:
    """The model file of the kitchen that gymnasium-robotics ships.

    Raises:
        WorldError: gymnasium-robotics is not installed.
    """
    # Only found, not imported: its registration of environments costs seconds and brings mujoco-py warnings.
    found = importlib.util.find_spec("gymnasium_robotics")
    if found is None or found.origin is None:
        raise WorldError("the world kitchen needs the package gymnasium-robotics; install it with pip")
    assets = Path(found.origin).parent / "envs" / "assets" / "kitchen_franka"
    return assets / "kitchen_assets" / "kitchen_env_model.xml"


def make_real(spec: mujoco.MjSpec) -> None:
    """Turn the kitchen's arm into a Panda: names, zero positions, ranges, servos that hold its weight."""
    for body in spec.bodies:
        body.name = body.name.replace("panda0_", "panda_")
    for joint in spec.joints:
        joint.name = joint.name.replace("robot:panda0_", "panda_")
    for actuator in spec.actuators:
        actuator.target = actuator.target.replace("robot:panda0_", "panda_")
    for name, angles in _TURNS.items():
        body = spec.body(name)
        body.alt.type = mujoco.mjtOrientation.mjORIENTATION_QUAT
        body.quat = _quaternion(angles)
    base = spec.body(BASE)
    for body in [base, *base.find_all("body")]:
        body.gravcomp = 1.0
    servos = {actuator.target: actuator for actuator in spec.actuators}
    for name, limits, torque, stiffness in zip(ARM, _RANGES, _TORQUES, _STIFFNESS, strict=True):
        joint, servo = spec.joint(name), servos[name]
        joint.range, servo.ctrlrange, servo.forcerange = limits, limits, (-torque, torque)
        joint.damping = _FRICTION * stiffness
        servo.gainprm[0], servo.biasprm[1:3] = stiffness, (-stiffness, -_LAG * stiffness)
    tool = spec.body("panda_link7").add_body(name=TOOL, pos=_TOOL_POSITION, quat=_quaternion((0.0, 0.0, _TOOL_TURN)))
    tool.add_site(name=TOOL, size=[0.005] * 3, group=3)


def write_urdf() -> str:
    """The Panda as URDF (`config/robots/panda.urdf`), its base at the origin."""
    spec = mujoco.MjSpec.from_file(str(kitchen_model()))
    make_real(spec)
    mount = spec.body(BASE).parent
    mount.alt.type = mujoco.mjtOrientation.mjORIENTATION_QUAT
    mount.pos, mount.quat = np.zeros(3), [1.0, 0.0, 0.0, 0.0]
    limits = dict(zip(ARM, zip(_SPEEDS, _TORQUES, strict=True), strict=True))
    return urdf_from_mujoco(spec.compile(), "panda", BASE, TOOL, limits)


def _quaternion(angles: Sequence[float]) -> np.ndarray:
    quaternion = np.empty(4)
    mujoco.mju_euler2Quat(quaternion, np.array(angles), "xyz")
    return quaternion

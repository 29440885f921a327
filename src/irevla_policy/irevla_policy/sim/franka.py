"""The Franka Kitchen's Panda with the real arm's joint names, zero positions and limits, and how it is driven."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Sequence
from pathlib import Path

import mujoco
import numpy as np
import numpy.typing as npt

from irevla_policy.robot.observation import Vector
from irevla_policy.robot.profile import RobotProfile
from irevla_policy.sim.urdf import Box, bounding_boxes, urdf_from_mujoco
from irevla_policy.sim.world import WorldError

ARM = tuple(f"panda_joint{number}" for number in range(1, 8))
"""The arm's joints."""

FINGERS = ("panda_finger_joint1", "panda_finger_joint2")
FINGER_OPENING = 0.04
"""Position of each finger when the gripper is open, m."""

BASE, TOOL = "panda_link0", "panda_hand_tcp"
"""First body of the arm, and the point between the finger tips: the end effector."""

PHYSICS_RATE = 500.0
"""Physics steps a second, Hz."""

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


def physics_steps(profile: RobotProfile, world: str) -> int:
    """Physics steps between two commands of the guard.

    Raises:
        WorldError: The robot has other joints, or its guard's rate does not divide that of the physics.
    """
    if profile.joint_names != ARM:
        raise WorldError(
            f"robot {profile.name!r}: the {world}'s arm has the joints {', '.join(ARM)}, "
            f"found {', '.join(profile.joint_names)}"
        )
    steps = PHYSICS_RATE / profile.guard_rate
    if abs(steps - round(steps)) > 1e-9:
        raise WorldError(
            f"robot {profile.name!r}: the {world}'s {PHYSICS_RATE:g} physics steps a second must be a multiple of "
            f"guard_rate, found {profile.guard_rate:g}"
        )
    return round(steps)


class FrankaArm:
    """The arm of a compiled scene: its servos follow setpoints, its state is measured.

    Args:
        model: The scene; its first actuators are those of the arm and of the fingers.
        data: Its state.
        home: Joint positions at the start, rad, `[7]`.
        steps: Physics steps between setpoints.
    """

    def __init__(self, model: mujoco.MjModel, data: mujoco.MjData, home: Sequence[float], steps: int) -> None:
        self._model, self._data, self._home, self._steps = model, data, np.array(home), steps
        self._q = np.array([model.joint(name).qposadr[0] for name in ARM])
        self._v = np.array([model.joint(name).dofadr[0] for name in ARM])
        self._fingers = np.array([model.joint(name).qposadr[0] for name in FINGERS])
        self._base = model.body(BASE).id
        self._command = self._home

    def restart(self) -> None:
        """Put the arm at its home, at rest, the gripper open."""
        self._data.qpos[self._q], self._data.qpos[self._fingers] = self._home, FINGER_OPENING
        self._command = self._home
        self._set(self._home, -1.0)

    def track(self, position: Vector, gripper: float) -> None:
        """Step the physics until the next setpoint; the servos' targets move there evenly."""
        before, self._command = self._command, np.asarray(position, dtype=np.float64)
        for step in range(1, self._steps + 1):
            self._set(before + step / self._steps * (self._command - before), gripper)
            mujoco.mj_step(self._model, self._data)

    def _set(self, position: Vector, gripper: float) -> None:
        self._data.ctrl[: len(ARM)] = position
        self._data.ctrl[len(ARM) : len(ARM) + len(FINGERS)] = FINGER_OPENING * 0.5 * (1.0 - np.clip(gripper, -1.0, 1.0))

    @property
    def joint_positions(self) -> Vector:
        """Measured joint positions, rad, `[7]`."""
        return self._data.qpos[self._q].copy()

    @property
    def joint_velocities(self) -> Vector:
        """Measured joint velocities, rad/s, `[7]`."""
        return self._data.qvel[self._v].copy()

    @property
    def opening(self) -> float:
        """Position of a finger, m: the mean of both."""
        return float(self._data.qpos[self._fingers].mean())

    @property
    def rotation(self) -> npt.NDArray[np.float64]:
        """Of the base in the scene, `[3, 3]`."""
        return self._data.xmat[self._base].reshape(3, 3)

    def seen(self, position: Vector) -> Vector:
        """A point of the scene in the frame of the base, m, `[3]`."""
        return self.rotation.T @ (position - self._data.xpos[self._base])

    @property
    def tool(self) -> Vector:
        """The point between the finger tips in the frame of the base, m, `[3]`."""
        return self.seen(self._data.site(TOOL).xpos)


def write_urdf() -> str:
    """The Panda as URDF (`config/robots/panda.urdf`), its base at the origin, its links and open fingers as boxes."""
    spec = mujoco.MjSpec.from_file(str(kitchen_model()))
    make_real(spec)
    mount = spec.body(BASE).parent
    mount.alt.type = mujoco.mjtOrientation.mjORIENTATION_QUAT
    mount.pos, mount.quat = np.zeros(3), [1.0, 0.0, 0.0, 0.0]
    limits = dict(zip(ARM, zip(_SPEEDS, _TORQUES, strict=True), strict=True))
    model = spec.compile()
    boxes = bounding_boxes(model, [BASE, *(f"panda_link{number}" for number in range(1, 8))])
    boxes[TOOL] = [Box(np.array([0.0, 0.0, -0.018]), np.array([1.0, 0.0, 0.0, 0.0]), np.array([0.022, 0.124, 0.054]))]
    return urdf_from_mujoco(model, "panda", BASE, TOOL, limits, boxes)


def _quaternion(angles: Sequence[float]) -> np.ndarray:
    quaternion = np.empty(4)
    mujoco.mju_euler2Quat(quaternion, np.array(angles), "xyz")
    return quaternion

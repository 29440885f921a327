"""Franka Kitchen as a World: a Panda whose actions are joint velocities, and one thing of a kitchen to move.

The scene is the one of gymnasium-robotics; see `irevla_policy.sim.franka` for what is changed on its arm. In every
episode the whole kitchen is shifted and turned a little before the arm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np
import numpy.typing as npt

from irevla_policy.robot.observation import Vector
from irevla_policy.robot.profile import RobotProfile
from irevla_policy.sim.franka import ARM, BASE, FINGER_OPENING, FINGERS, TOOL, kitchen_model, make_real
from irevla_policy.sim.light_meshes import lighten
from irevla_policy.sim.light_textures import plain
from irevla_policy.sim.rendering import add_cameras, draw_simply
from irevla_policy.sim.simulated import OPEN, SimulatedWorld
from irevla_policy.sim.tasks import TaskError, TaskFile, Variation, load_tasks
from irevla_policy.sim.variations import vary
from irevla_policy.sim.world import WorldError

STATE_SIZE = 29
"""Length of the privileged state."""

TOLERANCE = 0.3
"""How far from its goal a joint of the kitchen may be, rad or m: that of the benchmark."""

PLACE = (0.28, -0.05, 0.0)
"""How far the kitchen stands from its place in the benchmark, m, where the left door opens beyond the arm's reach."""

SHIFT = (0.03, 0.03, 0.0)
"""Half the range of the kitchen's position, m."""

TURN = 0.06
"""Half the range of the kitchen's orientation about the vertical through the robot's base, rad."""


@dataclass(frozen=True)
class Goal:
    """What a task moves.

    Attributes:
        joint: Joint of the kitchen.
        value: Where it should be, rad or m.
        site: What the hand takes hold of.
        body: What is seen of it, which variations change.
    """

    joint: str
    value: float
    site: str
    body: str


GOALS = {
    "knob-on": Goal("knob_Joint_2", -0.88, "knob2_site", "knob 2"),
    "light-on": Goal("light_switch", -0.69, "light_site", "lightswitchroot"),
    "microwave-open": Goal("microwave", -0.75, "microhandle_site", "microdoorroot"),
    "slide-door-open": Goal("slide_cabinet", 0.37, "slide_site", "slidelink"),
    "left-door-open": Goal("left_hinge_cabinet", -1.45, "hinge_site1", "hingeleftdoor"),
}

_COUNTERS = ("counters1",)
_PHYSICS_RATE = 500.0  # Hz


class FrankaKitchen:
    """A compiled task of the kitchen; a `TaskEnvironment`.

    Args:
        model: The scene.
        goal: What is to be moved.
        home: Joint positions of the arm at the start, rad, `[7]`.
        substep: Physics steps between setpoints.
        variation: Where the kitchen stands.
    """

    def __init__(
        self, model: mujoco.MjModel, goal: Goal, home: Sequence[float], substep: int, variation: Variation
    ) -> None:
        self.model, self.data = model, mujoco.MjData(model)
        self._goal, self._home, self._substep, self._variation = goal, np.array(home), substep, variation
        self._q = np.array([model.joint(name).qposadr[0] for name in ARM])
        self._v = np.array([model.joint(name).dofadr[0] for name in ARM])
        self._fingers = np.array([model.joint(name).qposadr[0] for name in FINGERS])
        self._base, self._desk = model.body(BASE).id, model.body("desk").id
        self._joint, self._front = model.joint(goal.joint), int(model.body_parentid[model.body(goal.body).id])
        self._kettle = int(model.joint("kettle").qposadr[0])
        self._untouched = model.body_pos.copy(), model.body_quat.copy()

    def restart(self, seed: int) -> Vector:
        """Start an episode; the seed decides where the kitchen stands."""
        model, data = self.model, self.data
        model.body_pos[:], model.body_quat[:] = self._untouched
        mujoco.mj_resetData(model, data)
        data.qpos[self._q], data.qpos[self._fingers] = self._home, FINGER_OPENING
        self._place(np.random.default_rng(seed))
        mujoco.mj_forward(model, data)
        self._command = self._home
        self._set(self._home, OPEN)
        return self._state()

    def _place(self, random: np.random.Generator) -> None:
        """Shift and turn everything but the arm about the vertical through the arm's base."""
        draws = random.uniform(-1.0, 1.0, 4)
        shift = self._variation.shift + draws[:3] * SHIFT * self._variation.spread + PLACE
        turn = self._variation.turn + draws[3] * TURN * self._variation.spread
        quaternion = np.array([np.cos(0.5 * turn), 0.0, 0.0, np.sin(0.5 * turn)])
        centre = self.model.body_pos[self.model.body_parentid[self._base]] * [1.0, 1.0, 0.0]
        for position, rotation in (
            (self.model.body_pos[self._desk], self.model.body_quat[self._desk]),
            (self.data.qpos[self._kettle : self._kettle + 3], self.data.qpos[self._kettle + 3 : self._kettle + 7]),
        ):
            turned = np.empty(3)
            mujoco.mju_rotVecQuat(turned, position - centre, quaternion)
            position[:] = centre + turned + shift
            before = rotation.copy()
            mujoco.mju_mulQuat(rotation, quaternion, before)

    def track(self, position: Vector, gripper: float) -> tuple[Vector, bool]:
        """Follow a setpoint for one substep; see `TaskEnvironment`."""
        before, self._command = self._command, np.asarray(position, dtype=np.float64)
        for step in range(1, self._substep + 1):
            self._set(before + step / self._substep * (self._command - before), gripper)
            mujoco.mj_step(self.model, self.data)
        mujoco.mj_forward(self.model, self.data)
        return self._state(), bool(abs(self._value - self._goal.value) < TOLERANCE)

    def _set(self, position: Vector, gripper: float) -> None:
        self.data.ctrl[: len(ARM)] = position
        self.data.ctrl[len(ARM) :] = FINGER_OPENING * 0.5 * (1.0 - np.clip(gripper, -1.0, 1.0))

    def _state(self) -> Vector:
        """What scripted experts read, `[29]`, positions and directions in the arm's base frame.

        Joint positions (7), gripper opening (1), tool (3), site that the hand takes hold of (3), anchor (3) and axis
        (3) of the joint to be moved, 1 for a hinge or 0 for a slide, value of the joint, its goal, the directions out
        of the front (3) and up (3).
        """
        data = self.data
        parts = [
            self.joint_positions,
            [self.opening],
            self._seen(data.site(TOOL).xpos),
            self._seen(data.site(self._goal.site).xpos),
            self._seen(data.xanchor[self._joint.id]),
            self._rotation.T @ data.xaxis[self._joint.id],
            [float(self._joint.type[0] == mujoco.mjtJoint.mjJNT_HINGE), self._value, self._goal.value],
            self._rotation.T @ self._outward,
            self._rotation.T @ np.array([0.0, 0.0, 1.0]),
        ]
        return np.concatenate(parts)

    @property
    def _outward(self) -> Vector:
        """Out of the front of what carries the moved body, towards the robot; a unit vector of the scene."""
        return -self.data.xmat[self._front].reshape(3, 3)[:, 1]

    @property
    def _rotation(self) -> npt.NDArray[np.float64]:
        return self.data.xmat[self._base].reshape(3, 3)

    def _seen(self, position: Vector) -> Vector:
        return self._rotation.T @ (position - self.data.xpos[self._base])

    @property
    def _value(self) -> float:
        return float(self.data.qpos[self._joint.qposadr[0]])

    def show_targets(self) -> None:
        """Nothing: the kitchen has no markers."""

    @property
    def joint_positions(self) -> Vector:
        """Measured joint positions, rad, `[7]`."""
        return self.data.qpos[self._q].copy()

    @property
    def joint_velocities(self) -> Vector:
        """Measured joint velocities, rad/s, `[7]`."""
        return self.data.qvel[self._v].copy()

    @property
    def opening(self) -> float:
        """Position of a finger, m: the mean of both."""
        return float(self.data.qpos[self._fingers].mean())

    def close(self) -> None:
        """Nothing to give back."""


class Kitchen(SimulatedWorld):
    """The tasks of the Franka Kitchen; a substep is one period of the guard.

    Args:
        profile: A Panda profile: its guard rate must divide the 500 physics steps a second.
        tasks: The tasks; those of `config/tasks/kitchen.yaml` by default.
        settings: See `SimulatedWorld`.

    Raises:
        WorldError: The world cannot simulate the profile's robot.
    """

    def __init__(self, profile: RobotProfile, tasks: TaskFile | None = None, **settings: Any) -> None:
        if profile.joint_names != ARM:
            raise WorldError(
                f"robot {profile.name!r}: the kitchen's arm has the joints {', '.join(ARM)}, "
                f"found {', '.join(profile.joint_names)}"
            )
        steps = _PHYSICS_RATE / profile.guard_rate
        if abs(steps - round(steps)) > 1e-9:
            raise WorldError(
                f"robot {profile.name!r}: the kitchen's {_PHYSICS_RATE:g} physics steps a second must be a multiple of "
                f"guard_rate, found {profile.guard_rate:g}"
            )
        self._substep = round(steps)
        super().__init__(profile, load_tasks("kitchen") if tasks is None else tasks, **settings)

    def _build(self, task: str, variation: Variation) -> FrankaKitchen:
        if task not in GOALS:
            raise TaskError(f"the kitchen has no such task; it has: {', '.join(GOALS)}")
        spec = mujoco.MjSpec.from_file(str(kitchen_model()))
        make_real(spec)
        add_cameras(spec, self.profile.cameras, self.tasks.cameras, self.views)
        vary(spec, variation, [spec.body(GOALS[task].body)], [spec.body(name) for name in _COUNTERS])
        if not self.tasks.full_quality:
            draw_simply(spec)
            if self.tasks.mesh_cell:
                lighten(spec, self.tasks.mesh_cell)
            plain(spec)
        return FrankaKitchen(spec.compile(), GOALS[task], self.profile.home, self._substep, variation)

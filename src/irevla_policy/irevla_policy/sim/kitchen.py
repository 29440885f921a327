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

from irevla_policy.robot.observation import Vector
from irevla_policy.robot.profile import RobotProfile
from irevla_policy.sim.franka import BASE, FrankaArm, kitchen_model, make_real, physics_steps
from irevla_policy.sim.light_meshes import lighten
from irevla_policy.sim.light_textures import plain
from irevla_policy.sim.rendering import add_cameras, draw_simply
from irevla_policy.sim.simulated import SimulatedWorld
from irevla_policy.sim.tasks import TaskError, TaskFile, Variation, load_tasks
from irevla_policy.sim.variations import vary

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


class FrankaKitchen:
    """A compiled task of the kitchen; a `TaskEnvironment`.

    Args:
        model: The scene.
        goal: What is to be moved.
        home: Joint positions of the arm at the start, rad, `[7]`.
        steps: Physics steps between setpoints.
        variation: Where the kitchen stands.
    """

    def __init__(
        self, model: mujoco.MjModel, goal: Goal, home: Sequence[float], steps: int, variation: Variation
    ) -> None:
        self.model, self.data = model, mujoco.MjData(model)
        self._goal, self._variation = goal, variation
        self._arm = FrankaArm(model, self.data, home, steps)
        self._base, self._desk = model.body(BASE).id, model.body("desk").id
        self._joint, self._front = model.joint(goal.joint), int(model.body_parentid[model.body(goal.body).id])
        self._kettle = int(model.joint("kettle").qposadr[0])
        self._untouched = model.body_pos.copy(), model.body_quat.copy()

    def restart(self, seed: int) -> Vector:
        """Start an episode; the seed decides where the kitchen stands."""
        model, data = self.model, self.data
        model.body_pos[:], model.body_quat[:] = self._untouched
        mujoco.mj_resetData(model, data)
        self._arm.restart()
        self._place(np.random.default_rng(seed))
        mujoco.mj_forward(model, data)
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
        self._arm.track(position, gripper)
        mujoco.mj_forward(self.model, self.data)
        return self._state(), bool(abs(self._value - self._goal.value) < TOLERANCE)

    def _state(self) -> Vector:
        """What scripted experts read, `[29]`, positions and directions in the arm's base frame.

        Joint positions (7), gripper opening (1), tool (3), site that the hand takes hold of (3), anchor (3) and axis
        (3) of the joint to be moved, 1 for a hinge or 0 for a slide, value of the joint, its goal, the directions out
        of the front (3) and up (3).
        """
        data, arm = self.data, self._arm
        parts = [
            arm.joint_positions,
            [arm.opening],
            arm.tool,
            arm.seen(data.site(self._goal.site).xpos),
            arm.seen(data.xanchor[self._joint.id]),
            arm.rotation.T @ data.xaxis[self._joint.id],
            [float(self._joint.type[0] == mujoco.mjtJoint.mjJNT_HINGE), self._value, self._goal.value],
            arm.rotation.T @ self._outward,
            arm.rotation.T @ np.array([0.0, 0.0, 1.0]),
        ]
        return np.concatenate(parts)

    @property
    def _outward(self) -> Vector:
        """Out of the front of what carries the moved body, towards the robot; a unit vector of the scene."""
        return -self.data.xmat[self._front].reshape(3, 3)[:, 1]

    @property
    def _value(self) -> float:
        return float(self.data.qpos[self._joint.qposadr[0]])

    def show_targets(self) -> None:
        """Nothing: the kitchen has no markers."""

    @property
    def joint_positions(self) -> Vector:
        """Measured joint positions, rad, `[7]`."""
        return self._arm.joint_positions

    @property
    def joint_velocities(self) -> Vector:
        """Measured joint velocities, rad/s, `[7]`."""
        return self._arm.joint_velocities

    @property
    def opening(self) -> float:
        """Position of a finger, m: the mean of both."""
        return self._arm.opening

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
        self._steps = physics_steps(profile, "kitchen")
        super().__init__(profile, load_tasks("kitchen") if tasks is None else tasks, **settings)

    def _build(self, task: str, variation: Variation) -> FrankaKitchen:
        if task not in GOALS:
            raise TaskError(f"the kitchen has no such task; it has: {', '.join(GOALS)}")
        spec = mujoco.MjSpec.from_file(str(kitchen_model()))
        make_real(spec)
        add_cameras(spec, self.profile.cameras, self.tasks.cameras, self.views)
        vary(spec, variation, [spec.body(GOALS[task].body)], [spec.body(name) for name in _COUNTERS])
        if not self.tasks.full_quality:
            draw_simply(spec, self.tasks.facets)
            if self.tasks.mesh_cell:
                lighten(spec, self.tasks.mesh_cell)
            plain(spec)
        return FrankaKitchen(spec.compile(), GOALS[task], self.profile.home, self._steps, variation)

"""The tabletop as a World: a Panda that takes things, puts them on a plate, presses a button, opens a drawer.

In every episode drawer, button and plate stand elsewhere, and the thing lies elsewhere and turned. The arm's commands
are those of the physical one: joint positions at the guard's rate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import mujoco
import numpy as np

from irevla_policy.robot.observation import Vector
from irevla_policy.robot.profile import RobotProfile
from irevla_policy.sim.franka import FINGER_OPENING, FrankaArm, physics_steps
from irevla_policy.sim.rendering import add_cameras, draw_simply
from irevla_policy.sim.simulated import SimulatedWorld
from irevla_policy.sim.tabletop_scene import (
    BUTTON,
    CABINET,
    CAP,
    DRAWER,
    DRAWER_TRAVEL,
    HANDLE,
    OBJECT,
    PLATE,
    PLATE_RADIUS,
    STAND,
    TABLE,
    THINGS,
    tabletop_spec,
)
from irevla_policy.sim.tasks import TaskError, TaskFile, Variation, load_tasks
from irevla_policy.sim.variations import vary

STATE_SIZE = 24
"""Length of the privileged state."""

PICK, PLACE, PRESS, OPEN_DRAWER = "pick", "place", "press-button", "open-drawer"
"""Kinds of tasks; the first two are followed by what is taken."""

_LIFTED = 0.08  # m above where it lay
_PRESSED, _OPENED = 0.6, 0.10 / DRAWER_TRAVEL
"""Shares of the ranges of button and drawer."""
_RELEASED = 0.75 * FINGER_OPENING
_CLEAR = 0.07  # m between a thing that was put down and the tool

_FIXTURES = {CABINET: 0.03, STAND: 0.04}
"""Bodies to half the range of their places along x and y, m."""

_FIXTURE_OF = {PRESS: STAND, OPEN_DRAWER: CABINET}
"""Kinds of tasks to what they are about; the others are about the thing."""

_REGION = np.array([[0.34, -0.14], [0.47, 0.14]])
"""Corners of where things and plate lie, m."""

_APART = 0.11  # m between thing and plate
_TURN = 0.5  # rad to either side that a thing lies turned: the hand does not turn


@dataclass(frozen=True)
class Goal:
    """What a task is about.

    Attributes:
        kind: One of the kinds above.
        thing: What lies on the table.
    """

    kind: str
    thing: str


def goal_of(task: str) -> Goal:
    """What a task is about, by its name.

    Raises:
        TaskError: The tabletop has no such task.
    """
    if task in (PRESS, OPEN_DRAWER):
        return Goal(task, "red-block")
    kind, _, thing = task.partition("-")
    if kind not in (PICK, PLACE) or thing not in THINGS:
        raise TaskError(
            f"the tabletop has no such task; it has: {PRESS}, {OPEN_DRAWER}, and {PICK}-THING and {PLACE}-THING with "
            f"THING one of {', '.join(THINGS)}"
        )
    return Goal(kind, thing)


class TabletopScene:
    """A compiled task of the tabletop; a `TaskEnvironment`.

    Args:
        model: The scene.
        goal: What the task is about.
        home: Joint positions of the arm at the start, rad, `[7]`.
        steps: Physics steps between setpoints.
        variation: How far the things are spread.
    """

    def __init__(
        self, model: mujoco.MjModel, goal: Goal, home: Sequence[float], steps: int, variation: Variation
    ) -> None:
        self.model, self.data = model, mujoco.MjData(model)
        self._goal, self._variation = goal, variation
        self._arm = FrankaArm(model, self.data, home, steps)
        self._object, self._plate = model.body(OBJECT).id, model.body(PLATE).id
        self._free = int(model.joint(OBJECT).qposadr[0])
        self._lies = float(model.body_pos[self._object, 2])
        self._untouched = model.body_pos.copy()

    def restart(self, seed: int) -> Vector:
        """Start an episode; the seed decides where everything is."""
        model, data = self.model, self.data
        model.body_pos[:] = self._untouched
        mujoco.mj_resetData(model, data)
        self._arm.restart()
        self._place(np.random.default_rng(seed))
        mujoco.mj_forward(model, data)
        return self._state()

    def _place(self, random: np.random.Generator) -> None:
        spread, shift = self._variation.spread, np.array(self._variation.shift[:2])
        own = _FIXTURE_OF.get(self._goal.kind)
        for name, half in _FIXTURES.items():
            moved = random.uniform(-half, half, 2) * spread + (shift if name == own else 0.0)
            self.model.body_pos[self.model.body(name).id, :2] += moved
        middle = _REGION.mean(axis=0) + (0.0 if own else shift)
        half_size = 0.5 * (_REGION[1] - _REGION[0]) * spread
        while True:
            plate, thing = middle + random.uniform(-1.0, 1.0, (2, 2)) * half_size
            if np.linalg.norm(plate - thing) > _APART:
                break
            half_size = np.maximum(half_size, 0.5 * _APART)  # so that there is room at any spread
        self.model.body_pos[self._plate, :2] = plate
        turn = random.uniform(-_TURN, _TURN)
        pose = self.data.qpos[self._free : self._free + 7]
        pose[:3], pose[3:] = [*thing, self._lies], [np.cos(0.5 * turn), 0.0, 0.0, np.sin(0.5 * turn)]

    def track(self, position: Vector, gripper: float) -> tuple[Vector, bool]:
        """Follow a setpoint for one substep; see `TaskEnvironment`."""
        self._arm.track(position, gripper)
        mujoco.mj_forward(self.model, self.data)
        return self._state(), self._succeeded()

    def _succeeded(self) -> bool:
        if self._goal.kind == PRESS:
            return self._moved(BUTTON) > _PRESSED
        if self._goal.kind == OPEN_DRAWER:
            return self._moved(DRAWER) > _OPENED
        thing, tool = self.data.xpos[self._object], self._arm.tool
        if self._goal.kind == PICK:
            return bool(thing[2] > self._lies + _LIFTED and np.linalg.norm(thing - tool) < _CLEAR)
        beside = float(np.linalg.norm((thing - self.data.xpos[self._plate])[:2]))
        lies = beside < 0.7 * PLATE_RADIUS and thing[2] < self._lies + 0.02
        return bool(lies and self._arm.opening > _RELEASED and np.linalg.norm(thing - tool) > _CLEAR)

    def _moved(self, joint: str) -> float:
        """How far, as a share of its range, which goes with the size."""
        return float(self.data.joint(joint).qpos[0] / self.model.joint(joint).range[1])

    def _state(self) -> Vector:
        """What scripted experts read, `[24]`; positions in the arm's base frame, m.

        Joint positions (7), gripper opening (1), tool (3), thing (3), plate (3), gap behind the drawer's handle (3),
        top of the button (3), how far the thing was above the table at the start (1).
        """
        data, arm = self.data, self._arm
        points = [data.xpos[self._object], data.xpos[self._plate], data.site(HANDLE).xpos, data.site(CAP).xpos]
        seen = [arm.seen(point) for point in points]
        return np.concatenate([arm.joint_positions, [arm.opening], arm.tool, *seen, [self._lies]])

    def show_targets(self) -> None:
        """Nothing: the table has no markers."""

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


class Tabletop(SimulatedWorld):
    """The tasks on the table; a substep is one period of the guard.

    Args:
        profile: A Panda profile: its guard rate must divide the 500 physics steps a second.
        tasks: The tasks; those of `config/tasks/tabletop.yaml` by default.
        settings: See `SimulatedWorld`.

    Raises:
        WorldError: The world cannot simulate the profile's robot.
    """

    def __init__(self, profile: RobotProfile, tasks: TaskFile | None = None, **settings: Any) -> None:
        self._steps = physics_steps(profile, "tabletop")
        super().__init__(profile, load_tasks("tabletop") if tasks is None else tasks, **settings)

    def _build(self, task: str, variation: Variation) -> TabletopScene:
        spec = _scene_spec(self.profile, self.tasks, task, variation, self.views, self.tasks.full_quality)
        return TabletopScene(spec.compile(), goal_of(task), self.profile.home, self._steps, variation)


def tabletop_scene(profile: RobotProfile, tasks: TaskFile, task: str, seed: int) -> tuple[TabletopScene, mujoco.MjSpec]:
    """A task as it stands at the start of an episode, in full detail, and what it was compiled from.

    Raises:
        UserError: There is no such task, or the world cannot simulate the robot.
    """
    steps, variation = physics_steps(profile, "tabletop"), tasks.variation(task, "")
    spec = _scene_spec(profile, tasks, task, variation, {}, True)
    scene = TabletopScene(spec.compile(), goal_of(task), profile.home, steps, variation)
    scene.restart(seed)
    return scene, spec


def _scene_spec(
    profile: RobotProfile,
    tasks: TaskFile,
    task: str,
    variation: Variation,
    views: Mapping[str, str],
    full_quality: bool,
) -> mujoco.MjSpec:
    goal = goal_of(task)
    if variation.turn:
        raise TaskError("turn: the table cannot be turned, only the kitchen")
    if variation.shift[2]:
        raise TaskError(f"shift: things stay on the table, expected 0 along z, found {variation.shift[2]:g}")
    spec = tabletop_spec(goal.thing, 0.0 if full_quality else tasks.mesh_cell)
    add_cameras(spec, profile.cameras, tasks.cameras, views)
    # What is to be pressed or opened is coloured alone, but has its size with what it is built into.
    coloured = {PRESS: BUTTON, OPEN_DRAWER: DRAWER}.get(goal.kind, OBJECT)
    sized = Variation(scale=variation.scale, bodies=variation.bodies)
    vary(spec, replace(variation, scale=1.0), [spec.body(coloured)], [spec.body(TABLE)])
    vary(spec, sized, [spec.body(_FIXTURE_OF.get(goal.kind, OBJECT))], [])
    if not full_quality:
        draw_simply(spec, tasks.facets)
    return spec

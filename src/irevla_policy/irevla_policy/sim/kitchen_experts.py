"""Scripted experts of the kitchen: legs of a way for the tool, followed through inverse kinematics.

Every leg is a pose that is read from the scene at each decision, so that contact is closed-loop: while a door moves,
the pose that leads it on moves with it. A leg ends when the tool is there, or when it comes no further.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pinocchio

from irevla_policy.robot.action import joint_lead
from irevla_policy.robot.kinematics import ArmKinematics
from irevla_policy.robot.observation import Vector
from irevla_policy.robot.profile import RobotProfile
from irevla_policy.sim.experts import checked_state
from irevla_policy.sim.kitchen import GOALS, STATE_SIZE
from irevla_policy.sim.simulated import OPEN
from irevla_policy.sim.tasks import TaskError
from irevla_policy.sim.world import WorldError

CLOSED = -OPEN

Rotation = npt.NDArray[np.float64]

_SPEED = 0.4  # m/s of the tool on its way
_TURNING_SPEED = 1.5  # rad/s
_LARGEST_ACTION = 1.0  # rad/s
_AHEAD = 0.05  # m that the pose which leads something on is ahead of it
_CLOSE = 0.012  # m from the end of a leg that counts as there
_SETTLING = 0.4  # s of a leg in which the tool may stand still
_STALLED = 0.025  # m/s, below which the tool has come as far as it can
_PATIENCE = 4.8  # s after which a leg ends in any case
_SPREAD = 0.01  # m, standard deviation of where legs through the air end


@dataclass(frozen=True)
class _Scene:
    """The privileged state, taken apart; positions and directions in the arm's base frame."""

    joints: Vector
    tool: Vector
    site: Vector
    anchor: Vector
    axis: Vector
    hinge: bool
    value: float
    goal: float
    outward: Vector
    up: Vector

    @classmethod
    def of(cls, state: Vector) -> _Scene:
        return cls(
            state[:7], state[8:11], state[11:14], state[14:17], state[17:20], bool(state[20]), state[21], state[22],
            state[23:26], state[26:29],
        )  # fmt: skip

    def onward(self, point: Vector) -> Vector:
        """Where a point of what moves goes next on the way to the goal; a unit vector."""
        along = np.cross(self.axis, point - self.anchor) if self.hinge else self.axis
        return np.sign(self.goal) * along / np.linalg.norm(along)

    def turned(self, direction: Vector, share: float = 1.0) -> Vector:
        """A direction of what moves, as it was at the start, now; or a share of the turn."""
        return pinocchio.exp3(share * self.value * self.axis) @ direction if self.hinge else direction

    def facing(self, tilt: float = 0.0, swapped: bool = False) -> Rotation:
        """The tool looks into the front, so far up (rad), its fingers side by side, the left one left or right."""
        inward = pinocchio.exp3(tilt * np.cross(-self.outward, self.up)) @ -self.outward
        side = np.cross(inward, -self.up if swapped else self.up)
        side /= np.linalg.norm(side)
        return np.column_stack((np.cross(side, inward), side, inward))


_Pose = tuple[Vector, Rotation]


@dataclass(frozen=True)
class _Leg:
    """One leg of a way.

    Attributes:
        pose: Where it leads, position (m, `[3]`) and rotation of the tool.
        gripper: Command of the gripper.
        seconds: How long it takes at least and at most; None until the tool is there.
        air: Whether nothing is touched, so that its end may differ from episode to episode.
    """

    pose: Callable[[_Scene], _Pose]
    gripper: float
    seconds: float | None = None
    air: bool = False


def _push(beside: float, depth: float, ahead: float = _AHEAD) -> list[_Leg]:
    """The closed fingers go in beside something and press it along its way.

    Args:
        beside: How far from the site they go in, m.
        depth: How far behind the site, m.
        ahead: How far beyond the site the pressing pose is, m.
    """

    def pose(scene: _Scene, back: float, along: float) -> _Pose:
        rotation = scene.facing()
        return scene.site + (depth - back) * rotation[:, 2] + along * scene.onward(scene.site), rotation

    return [
        _Leg(lambda scene: pose(scene, 0.12, -beside), CLOSED, air=True),
        _Leg(lambda scene: pose(scene, 0.0, -beside), CLOSED),
        _Leg(lambda scene: pose(scene, 0.0, ahead), CLOSED, seconds=_PATIENCE),
    ]


def _pull(depth: float, follow: float, tilt: float = 0.0, swapped: bool = False) -> list[_Leg]:
    """The fingers close about a handle and lead it along its way.

    Args:
        depth: How far beyond the handle the tool goes, m.
        follow: Share of the door's turn by which the hand turns with it.
        tilt: How far the hand looks up, rad.
        swapped: Whether the fingers change sides, where the last joint would end at its limit.
    """

    def pose(scene: _Scene, back: float, along: float = 0.0) -> _Pose:
        rotation = scene.turned(scene.facing(tilt, swapped), follow)
        return scene.site + (depth - back) * rotation[:, 2] + along * scene.onward(scene.site), rotation

    return [
        _Leg(lambda scene: pose(scene, 0.12), OPEN, air=True),
        _Leg(lambda scene: pose(scene, 0.0), OPEN),
        _Leg(lambda scene: pose(scene, 0.0), CLOSED, seconds=0.4),
        _Leg(lambda scene: pose(scene, 0.0, _AHEAD), CLOSED, seconds=_PATIENCE),
    ]


def _twist(depth: float, opening: float, ahead: float) -> list[_Leg]:
    """The fingers go about a knob and turn it.

    Args:
        depth: How far beyond the site the tool goes, m.
        opening: Command of the gripper on the way there: no more than its neighbours allow.
        ahead: How far the hand is turned ahead of the knob, rad.
    """

    def pose(scene: _Scene, back: float, ahead: float = 0.0) -> _Pose:
        rotation = pinocchio.exp3((scene.value + np.sign(scene.goal) * ahead) * scene.axis) @ scene.facing()
        return scene.site + (depth - back) * rotation[:, 2], rotation

    return [
        _Leg(lambda scene: pose(scene, 0.1), opening, air=True),
        _Leg(lambda scene: pose(scene, 0.0), opening),
        _Leg(lambda scene: pose(scene, 0.0), CLOSED, seconds=0.32),
        _Leg(lambda scene: pose(scene, 0.0, ahead), CLOSED, seconds=_PATIENCE),
    ]


_WAYS: dict[str, Callable[[], list[_Leg]]] = {
    "knob-on": lambda: _twist(depth=0.012, opening=-0.3, ahead=0.4),
    "light-on": lambda: _push(beside=0.06, depth=0.01),
    "microwave-open": lambda: _pull(depth=0.015, follow=0.6, swapped=True),
    "slide-door-open": lambda: _push(beside=0.07, depth=0.02),
    "left-door-open": lambda: _pull(depth=0.015, follow=0.7, tilt=0.2),
}


class KitchenExpert:
    """The scripted expert of one task of the kitchen.

    Args:
        task: Name of the task.
        profile: The robot; its actions must be joint velocities.
        noise: Standard deviation of Gaussian noise on the joint velocities, rad/s.
        seed: Of the noise, the pace and where legs through the air end, which differ from episode to episode.

    Raises:
        TaskError: No such task.
        WorldError: The robot's actions are others.
        ValueError: Negative noise.
    """

    def __init__(self, task: str, profile: RobotProfile, noise: float = 0.0, seed: int = 0) -> None:
        if task not in _WAYS:
            raise TaskError(f"no scripted expert of task {task!r} in the kitchen; known: {', '.join(GOALS)}")
        if profile.action_space != "joint_velocity":
            raise WorldError(
                f"robot {profile.name!r}: the kitchen's experts act by joint_velocity, found {profile.action_space}"
            )
        if noise < 0.0:
            raise ValueError(f"noise: must be at least 0, found {noise}")
        self.task = task
        self._legs, self._noise = _WAYS[task](), noise
        self._period = 1.0 / profile.control_rate
        self._kinematics, self._lead = ArmKinematics(profile), joint_lead(profile)
        self._random = np.random.default_rng(seed)
        self._spread = np.clip(self._random.normal(0.0, _SPREAD, 3), -2.0 * _SPREAD, 2.0 * _SPREAD)
        self._speed = _SPEED * self._random.uniform(0.8, 1.0)
        self._since, self._last = 0, np.zeros(3)
        self._commanded: Vector | None = None

    def act(self, state: Vector) -> npt.NDArray[np.float64]:
        """The expert's raw action, to be held for one control period.

        Args:
            state: The kitchen's privileged state, `[29]`.

        Returns:
            Joint velocities, rad/s in [-1, 1], and gripper, `[8]`.

        Raises:
            WorldError: The state is none of the kitchen.
        """
        state = checked_state(self.task, state, STATE_SIZE)
        scene = _Scene.of(state)
        commanded = scene.joints if self._commanded is None else self._commanded
        # What the action will be added to.
        commanded = np.clip(commanded, scene.joints - self._lead, scene.joints + self._lead)
        wanted = self._kinematics.solve(commanded, *self._next(commanded, *self._goal(scene)))
        velocity = (wanted - commanded) / self._period
        velocity *= min(1.0, _LARGEST_ACTION / max(np.abs(velocity).max(), 1e-9))
        if self._noise > 0.0:
            velocity = velocity + self._random.normal(0.0, self._noise, len(velocity))
        velocity = np.clip(velocity, -_LARGEST_ACTION, _LARGEST_ACTION)
        self._commanded = commanded + velocity * self._period
        return np.append(velocity, self._legs[0].gripper)

    def _goal(self, scene: _Scene) -> _Pose:
        """The pose of the leg at hand; ends legs."""
        while True:
            leg = self._legs[0]
            position, rotation = leg.pose(scene)
            if leg.air:
                position = position + self._spread
            if len(self._legs) == 1 or not self._has_ended(leg, scene.tool, position):
                self._since, self._last = self._since + 1, scene.tool
                return position, rotation
            del self._legs[0]
            self._since = 0

    def _has_ended(self, leg: _Leg, tool: Vector, position: Vector) -> bool:
        if leg.seconds is not None:
            return self._since >= self._decisions(leg.seconds)
        stood = float(np.linalg.norm(tool - self._last)) < _STALLED * self._period
        stalled = stood and self._since > self._decisions(_SETTLING)
        there = float(np.linalg.norm(tool - position)) < _CLOSE
        return stalled or there or self._since >= self._decisions(_PATIENCE)

    def _decisions(self, seconds: float) -> int:
        return round(seconds / self._period)

    def _next(self, commanded: Vector, position: Vector, rotation: Rotation) -> _Pose:
        """A pose one control period nearer to the wanted one."""
        here, turned = self._kinematics.pose(commanded)
        way, turn = position - here, pinocchio.log3(turned.T @ rotation)
        move = min(1.0, self._speed * self._period / max(float(np.linalg.norm(way)), 1e-9))
        rotate = min(1.0, _TURNING_SPEED * self._period / max(float(np.linalg.norm(turn)), 1e-9))
        return here + move * way, turned @ pinocchio.exp3(rotate * turn)

"""Scripted experts of the tabletop: legs of a way for the tool, each a point that is read from the scene.

What an expert does depends on where the tool is and on the leg at hand alone, so that a policy can imitate it: the
displacement is a share of the way that is left, at most one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from irevla_policy.robot.observation import Vector
from irevla_policy.robot.profile import RobotProfile
from irevla_policy.sim.experts import checked_state
from irevla_policy.sim.simulated import OPEN
from irevla_policy.sim.tabletop import OPEN_DRAWER, PICK, PLACE, PRESS, STATE_SIZE, goal_of
from irevla_policy.sim.world import WorldError

CLOSED = -OPEN

_SHARE = 0.3
"""Of the way that is left, per decision: the hand follows one decision late, and more would swing."""

_SPREAD = 0.008  # m, standard deviation of where legs through the air end
_PATIENCE = 30  # decisions after which a leg ends in any case
_OVER, _CARRIED = 0.13, 0.2  # m above the table: before going down, and with a thing
_FORWARD, _UP = np.array([1.0, 0.0, 0.0]), np.array([0.0, 0.0, 1.0])
_LOWEST = 0.018  # m above the table, where the finger tips nearly touch it


@dataclass(frozen=True)
class _Scene:
    """The privileged state, taken apart; positions in the arm's base frame, m."""

    tool: Vector
    thing: Vector
    plate: Vector
    handle: Vector
    cap: Vector
    lies: float

    @classmethod
    def of(cls, state: Vector) -> _Scene:
        return cls(state[8:11], state[11:14], state[14:17], state[17:20], state[20:23], float(state[23]))


@dataclass(frozen=True)
class _Leg:
    """One leg of a way.

    Attributes:
        point: Where it leads, m, `[3]`.
        gripper: Command of the gripper.
        close: How near counts as there, m; 0 for a leg that only ends by time.
        decisions: How long it lasts at most.
        air: Whether nothing is touched, so that its end may differ from episode to episode.
    """

    point: Callable[[_Scene], Vector]
    gripper: float
    close: float = 0.012
    decisions: int = _PATIENCE
    air: bool = False


def _at(point: Vector, height: float) -> Vector:
    return np.array([point[0], point[1], height])


def _pick() -> list[_Leg]:
    def taken(scene: _Scene) -> Vector:
        return _at(scene.thing, max(scene.lies, _LOWEST))

    return [
        _Leg(lambda scene: _at(scene.thing, _OVER), OPEN, close=0.025, air=True),
        _Leg(lambda scene: _at(scene.thing, 0.07), OPEN, close=0.007),
        _Leg(taken, OPEN, close=0.008),
        _Leg(taken, CLOSED, close=0.0, decisions=4),
        _Leg(lambda scene: _at(scene.tool, _CARRIED), CLOSED, close=0.02),
    ]


def _place() -> list[_Leg]:
    def put_down(scene: _Scene) -> Vector:
        return _at(scene.plate, max(scene.lies, _LOWEST) + scene.plate[2] + 0.006)

    return [
        *_pick(),
        _Leg(lambda scene: _at(scene.plate, 0.12), CLOSED, close=0.012),
        _Leg(put_down, CLOSED),
        _Leg(put_down, OPEN, close=0.0, decisions=4),
        _Leg(lambda scene: _at(scene.plate, _CARRIED), OPEN, air=True),
    ]


def _press() -> list[_Leg]:
    return [
        _Leg(lambda scene: _at(scene.cap, scene.cap[2] + 0.07), CLOSED, air=True),
        _Leg(lambda scene: scene.cap - _UP * 0.04, CLOSED, close=0.0),
    ]


def _open_drawer() -> list[_Leg]:
    return [
        _Leg(lambda scene: _at(scene.handle, scene.handle[2] + 0.09), CLOSED, close=0.02, air=True),
        _Leg(lambda scene: _at(scene.handle, scene.handle[2] + 0.05), CLOSED, close=0.008),
        _Leg(lambda scene: scene.handle, CLOSED),
        _Leg(lambda scene: scene.handle - _FORWARD * 0.1, CLOSED, close=0.0),
    ]


_WAYS: dict[str, Callable[[], list[_Leg]]] = {
    PICK: _pick, PLACE: _place, PRESS: _press, OPEN_DRAWER: _open_drawer,
}  # fmt: skip


class TabletopExpert:
    """The scripted expert of one task on the table.

    Args:
        task: Name of the task.
        profile: The robot; its actions must be displacements of the end effector.
        noise: Standard deviation of Gaussian noise on the displacement, in units of actions; the gripper stays.
        seed: Of the noise, the pace and where legs through the air end, which differ from episode to episode.

    Raises:
        TaskError: No such task.
        WorldError: The robot's actions are others.
        ValueError: Negative noise.
    """

    def __init__(self, task: str, profile: RobotProfile, noise: float = 0.0, seed: int = 0) -> None:
        self._legs = _WAYS[goal_of(task).kind]()
        if profile.action_space != "ee_delta":
            raise WorldError(
                f"robot {profile.name!r}: the tabletop's experts act by ee_delta, found {profile.action_space}"
            )
        if noise < 0.0:
            raise ValueError(f"noise: must be at least 0, found {noise}")
        self.task = task
        self._noise, self._scale = noise, profile.ee_delta_scale
        self._random = np.random.default_rng(seed)
        self._spread = np.clip(self._random.normal(0.0, _SPREAD, 3), -2.0 * _SPREAD, 2.0 * _SPREAD)
        self._pace = self._random.uniform(0.8, 1.0)
        self._since = 0

    def act(self, state: Vector) -> npt.NDArray[np.float64]:
        """The expert's raw action, to be held for one control period.

        Args:
            state: The tabletop's privileged state, `[24]`.

        Returns:
            `ee_delta` and gripper, `[4]`, in [-1, 1].

        Raises:
            WorldError: The state is none of the tabletop.
        """
        scene = _Scene.of(checked_state(self.task, state, STATE_SIZE))
        move = _SHARE * self._way(scene) / self._scale
        move *= min(1.0, self._pace / max(np.abs(move).max(), 1e-9))
        if self._noise > 0.0:
            move = move + self._random.normal(0.0, self._noise, 3)
        return np.append(np.clip(move, -1.0, 1.0), self._legs[0].gripper)

    def _way(self, scene: _Scene) -> Vector:
        """From the tool to the end of the leg at hand, m, `[3]`; ends legs."""
        while True:
            leg = self._legs[0]
            way = leg.point(scene) + (self._spread if leg.air else 0.0) - scene.tool
            there = float(np.linalg.norm(way)) < leg.close
            if len(self._legs) == 1 or not (there or self._since >= leg.decisions):
                self._since += 1
                return way
            del self._legs[0]
            self._since = 0

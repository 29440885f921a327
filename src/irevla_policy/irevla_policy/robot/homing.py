"""The way home: motions with limited jerk (ruckig) that touch nothing, straight or with the hand lifted first."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
import ruckig

from irevla_policy.robot.collision import CollisionModel
from irevla_policy.robot.kinematics import ArmKinematics
from irevla_policy.robot.profile import RobotProfile
from irevla_policy.robot.scene import HomingError, Motion, Touch

Array = npt.NDArray[np.float64]

_RAMP = 0.1
"""s in which the largest acceleration is reached: it is what bounds the jerk."""

_LIFTS = (0.05, 0.1, 0.2, 0.3)
"""m that the hand is lifted by, one after the other, when the straight way is not free."""

_STEP = 0.05
"""rad between joint positions that are checked, of the joint that moves most."""

_AT_HOME = 1e-3  # rad


class Homing:
    """Plans motions to the home position.

    Args:
        profile: The robot.
        collisions: What may not be touched; None checks nothing.
        speed: Share of the joints' largest speeds and accelerations that is used, in (0, 1].
    """

    def __init__(self, profile: RobotProfile, collisions: CollisionModel | None, speed: float = 0.5) -> None:
        self._profile, self._collisions = profile, collisions
        self._kinematics = ArmKinematics(profile)
        self._home = np.array(profile.home)
        self._low, self._high = np.array([joint.position for joint in profile.joints]).T
        self._velocity = speed * np.array([joint.velocity for joint in profile.joints])
        self._acceleration = speed * np.array([joint.acceleration for joint in profile.joints])

    def plan(self, start: Array, period: float) -> Motion:
        """See `Planner.plan`; the error names what is in the way."""
        if np.abs(start - self._home).max() < _AT_HOME:
            return Motion(self._home[None], 0.0)
        # What touches at the start may go on to: the arm has to come away from it.
        touched = self._collisions.touching(start) if self._collisions else []
        obstacle: Touch | None = None
        for lift in (0.0, *_LIFTS):
            stops = self._stops(start, lift)
            if stops is None:
                continue
            found = self._first_touch(stops, touched)
            if found is None:
                return Motion(np.vstack([self._timed(a, b, period) for a, b in stops]), lift)
            obstacle = obstacle or found
        one, other = obstacle or ("the hand", "its reach")
        raise HomingError(
            f"no free way home: {one} would touch {other}, also with the hand lifted by up to {_LIFTS[-1]:g} m; move "
            "the arm by hand"
        )

    def _stops(self, start: Array, lift: float) -> list[tuple[Array, Array]] | None:
        """Legs between which the arm rests; None where the hand cannot be lifted so far."""
        if lift == 0.0:
            return [(start, self._home)]
        position, rotation = self._kinematics.pose(start)
        raised, up = start, np.array([0.0, 0.0, lift])
        for share in np.linspace(0.1, 1.0, 10):
            raised = self._kinematics.solve(raised, position + share * up, rotation)
        if np.linalg.norm(self._kinematics.position(raised) - position - up) > 0.01:
            return None
        return [(start, raised), (raised, self._home)]

    def _first_touch(self, legs: list[tuple[Array, Array]], touched: list[Touch]) -> Touch | None:
        if self._collisions is None:
            return None
        for number, leg in enumerate(legs):
            found = self._collisions.first_touch(_between(*leg), touched if number == 0 else ())
            if found is not None:
                return found
        return None

    def _timed(self, start: Array, goal: Array, period: float) -> Array:
        """From rest to rest on a straight line in joint space, as fast as the limits allow, `[k, n]`.

        What is timed is the share of the line, which alone has been checked: timed joint by joint, ruckig leaves it
        where the limits of two joints are in other proportions to each other.
        """
        way = goal - start
        moving = way != 0.0
        if not moving.any():
            return goal[None]
        wanted, trajectory = ruckig.InputParameter(1), ruckig.Trajectory(1)
        wanted.current_position, wanted.target_position = [0.0], [1.0]
        distance = np.abs(way[moving])
        velocity, acceleration = (limit[moving] for limit in (self._velocity, self._acceleration))
        wanted.max_velocity = [float((velocity / distance).min())]
        wanted.max_acceleration = [float((acceleration / distance).min())]
        wanted.max_jerk = [float((acceleration / _RAMP / distance).min())]
        result = ruckig.Ruckig(1).calculate(wanted, trajectory)
        if result not in (ruckig.Result.Working, ruckig.Result.Finished):
            raise HomingError(f"no motion from {start.round(3).tolist()} to {goal.round(3).tolist()} rad: {result}")
        times = np.arange(1, int(np.ceil(trajectory.duration / period)) + 1) * period
        at: Callable[[float], list[list[float]]] = trajectory.at_time
        shares = [at(min(time, trajectory.duration))[0][0] for time in times]
        return start + np.array(shares)[:, None] * way


def _between(start: Array, goal: Array) -> Iterator[Array]:
    steps = max(int(np.ceil(np.abs(goal - start).max() / _STEP)), 1)
    return (start + share * (goal - start) for share in np.linspace(0.0, 1.0, steps + 1))

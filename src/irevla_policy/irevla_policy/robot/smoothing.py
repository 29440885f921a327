"""Jerk-limited motion from target to target (ruckig), between what is asked for and what the limits allow.

Targets come once per control period, and the arm should pass through each on time without stopping there. So targets
are taken as a point that moves on at the velocity at which they have been moving,

    x(T) = target + flow (T - remaining),    flow = (target - target before) / time between them,

where a target that comes soon after a late one counts as a whole period after it. The arm is sent to the earliest
meeting with the point, at its velocity: in time where the limits allow that, later where the arm is behind. A first
target, or one that stands still, has no flow: the arm comes to rest at it.
"""

from __future__ import annotations

import numpy as np
import ruckig

from irevla_policy.robot.observation import Vector

_SAME = 1e-9
"""rad that the commanded position may be off what was planned and still be on the plan."""

_JERK_SHARES = (1.0, 0.99, 0.97, 0.9)
"""Ruckig finds no motion where two of its cases meet (over exactly 2 a^3 / j^2 from rest); with less jerk it does."""

_TRIES = 12
"""Times of meeting that are tried; each is the earliest at which the point of the try before can be reached."""


class JerkFilter:
    """The next point on the way to a target, one for every tick.

    Args:
        velocity: Largest joint speeds, rad/s, `[n]`.
        acceleration: Largest joint accelerations, rad/s^2, `[n]`.
        jerk: Largest joint jerks, rad/s^3, `[n]`.
        dt: Between points, s.
    """

    def __init__(self, velocity: Vector, acceleration: Vector, jerk: Vector, dt: float) -> None:
        self._dt, self._velocity, self._jerk = dt, velocity, jerk
        self._generator = ruckig.Ruckig(len(velocity))
        self._wanted = ruckig.InputParameter(len(velocity))
        self._wanted.max_velocity = velocity.tolist()
        self._wanted.max_acceleration = acceleration.tolist()
        self._wanted.max_jerk = jerk.tolist()
        self.reset()

    def reset(self) -> None:
        """Forget the plan and all targets."""
        self._target: Vector | None = None
        self._position: Vector | None = None
        self._remaining, self._ticks = 0.0, 0
        self._flow = np.zeros_like(self._velocity)
        self._stands = False

    def forget_targets(self) -> None:
        """The next target is the first of somebody else: how far it is from the last says nothing about its motion."""
        self._target = None

    def next(self, position: Vector, velocity: Vector, target: Vector, remaining: float) -> Vector:
        """Where to be after one tick.

        Args:
            position: Commanded joint positions, rad, `[n]`. When they are not where the last point was, something kept
                the arm from it, and the plan begins anew.
            velocity: Commanded joint velocities, rad/s, `[n]`; read when the plan begins anew.
            target: Joint target within the limits, rad, `[n]`.
            remaining: Time until it should be reached, s.

        Returns:
            Joint positions, rad, `[n]`; those of the target where no smooth way to it was found.
        """
        self._notice(target, remaining)
        wanted = self._wanted
        if self._position is None or np.abs(position - self._position).max() > _SAME:
            wanted.current_position = position.tolist()
            wanted.current_velocity = np.clip(velocity, -self._velocity, self._velocity).tolist()
            wanted.current_acceleration = [0.0] * len(position)
        try:
            found = self._meeting(target, max(remaining, self._dt))
        except ruckig.RuckigError:
            self._position = None
            return target
        self._position, speed, acceleration = (np.array(values) for values in found.at_time(self._dt)[:3])
        wanted.current_position, wanted.current_velocity = self._position.tolist(), speed.tolist()
        wanted.current_acceleration = acceleration.tolist()
        return self._position.copy()

    def _meeting(self, target: Vector, remaining: float) -> ruckig.Trajectory:
        """The way to the earliest meeting with the target.

        Raises:
            ruckig.RuckigError: There is none.
        """
        wanted, found = self._wanted, ruckig.Trajectory(len(target))
        wanted.target_velocity = self._flow.tolist()
        time = self._dt if self._stands else remaining
        for _ in range(_TRIES):
            wanted.target_position = (target + self._flow * (time - remaining)).tolist()
            wanted.minimum_duration = time
            self._calculate(found)
            if found.duration <= time + 1e-9 or not self._flow.any():
                break
            time = found.duration
        return found

    def _calculate(self, found: ruckig.Trajectory) -> None:
        for share in _JERK_SHARES[:-1]:
            try:
                self._wanted.max_jerk = (share * self._jerk).tolist()
                self._generator.calculate(self._wanted, found)
                return
            except ruckig.RuckigError:
                continue
        self._wanted.max_jerk = (_JERK_SHARES[-1] * self._jerk).tolist()
        self._generator.calculate(self._wanted, found)

    def _notice(self, target: Vector, remaining: float) -> None:
        """Follow how the targets move."""
        self._ticks += 1
        before, comes_again = self._target, remaining > self._remaining
        self._remaining = remaining
        if before is None:
            self._flow = np.zeros_like(target)
        elif not np.array_equal(before, target):
            # The tick by which a target may be late is in what remains.
            flow = (target - before) / max(self._ticks * self._dt, remaining - self._dt)
            self._flow = np.clip(flow, -self._velocity, self._velocity)
        elif comes_again:
            # No later than can be: to be there just in time, an arm on its way would go past it and come back.
            self._flow, self._stands = np.zeros_like(target), True
            return
        else:
            return
        self._target, self._ticks, self._stands = target.copy(), 0, False

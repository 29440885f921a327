"""Motion limits: every setpoint keeps position, velocity and acceleration limits and the workspace box.

The limiter moves a commanded state (position `q`, velocity `v`) in ticks of `dt`:

    q' = q + v' dt,    |v'| <= v_max,    |v' - v| <= a_max dt        (per joint)

so finite differences of the setpoints keep the limits exactly, not only the velocities that are sent along.

*Braking.* From (q, v) the arm stops on a straight line in joint space in `N = max_i ceil(|v_i| / (a_i dt))` ticks,
the least that the limits allow: `v_k = v (1 - k/N)`, so it travels `v dt (N-1)/2`. All joints stop together, hence
the path keeps its direction while it brakes.

*Invariant.* Beside the commanded state the limiter keeps a braking trajectory from it, every tick of which was verified
to be inside the joint limits and the workspace box (forward kinematics at every tick). A new velocity is accepted only
when the braking trajectory from the state that it leads to is verified too; otherwise a gentler one is tried, and at
last the arm follows the kept trajectory, which is safe by induction. What the target is does not matter for that.

*Gentler* means, in this order: slide (take away the part of the velocity that leads into the joint limit or the wall of
the box), then the way between sliding and braking, 1/2, 1/4, 1/16 of it.

*Jerk.* With `jerk` in the profile the way to a target is smoothed first (`robot.smoothing`), and its next point is what
the limits are applied to. Jerk is the only limit that gives way to another: a stop, or a wall, does not wait for it.

*Collisions.* With a scene (`robot.scene`) it is verified, too, that nothing is touched: after the tick and at every
tick of the braking that follows. The arm stops in front of what it would touch, and does not slide along it. What
touches at the start may go on to until it has come apart: the arm has to get away from it. What comes to touch an arm
that has started, because the scene changes, stops it until it is started anew.

*Start outside.* The limits are widened to the present position (per joint, and per axis of the box) and shrink with it:
an arm that starts outside of them can move inward and cannot move further out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from irevla_policy.robot.observation import Vector
from irevla_policy.robot.profile import RobotProfile
from irevla_policy.robot.scene import Scene, Touch
from irevla_policy.robot.smoothing import JerkFilter

# Bits of irevla_msgs/Command.limited.
LIMITED_POSITION = 1
LIMITED_VELOCITY = 2
LIMITED_ACCELERATION = 4
LIMITED_WORKSPACE = 8
LIMITED_COLLISION = 16

# A path that slides along a wall stays this far off it, because a straight line in joint space bulges.
_WALL_CLEARANCE = 0.002
_JACOBIAN_STEP = 1e-6
_ROUNDING = 1e-9
_SHARES = (1.0, 0.5, 0.25, 0.0625)


class PositionKinematics(Protocol):
    """What the limiter needs of the arm's kinematics."""

    def position(self, joint_positions: Vector) -> Vector:
        """Position of the end effector in the base frame, m, `[3]`."""
        ...


@dataclass(frozen=True, eq=False)
class Setpoint:
    """A commanded state of the arm.

    Attributes:
        position: Joint positions, rad, `[n]`.
        velocity: Joint velocities with which it was reached, rad/s, `[n]`.
    """

    position: Vector
    velocity: Vector


@dataclass(frozen=True, eq=False)
class _Path:
    """Setpoints that follow the present one: one tick of motion and braking after it, or braking alone.

    Attributes:
        positions: rad, `[k, n]`.
        velocities: rad/s, `[k, n]`; the last is 0.
        effector: End-effector positions, m, `[k, 3]`.
    """

    positions: Vector
    velocities: Vector
    effector: Vector

    def after(self, ticks: int) -> _Path:
        return _Path(self.positions[ticks:], self.velocities[ticks:], self.effector[ticks:])


class MotionLimiter:
    """Turns any joint target into setpoints that keep the limits of the robot profile.

    Args:
        profile: Joint limits and workspace box.
        kinematics: Forward kinematics of the arm.
        dt: Time between setpoints, s.
        scene: What may not be touched; None checks nothing.
    """

    def __init__(
        self, profile: RobotProfile, kinematics: PositionKinematics, dt: float, scene: Scene | None = None
    ) -> None:
        if not dt > 0.0:
            raise ValueError(f"dt: expected a time above 0 s between setpoints, found {dt!r}")
        self.dt = dt
        self._kinematics = kinematics
        self._scene = scene
        self._low = np.array([joint.position[0] for joint in profile.joints])
        self._high = np.array([joint.position[1] for joint in profile.joints])
        self._velocity = np.array([joint.velocity for joint in profile.joints])
        self._step = np.array([joint.acceleration for joint in profile.joints]) * dt
        self._box = np.array([profile.workspace.low, profile.workspace.high])
        jerk = np.array([joint.jerk for joint in profile.joints])
        self._filter = JerkFilter(self._velocity, self._step / dt, jerk, dt) if jerk.any() else None
        self.reset(np.array(profile.home))

    @property
    def setpoint(self) -> Setpoint:
        """The present commanded state."""
        return Setpoint(self._q.copy(), self._v.copy())

    @property
    def at_rest(self) -> bool:
        """Whether the commanded velocity is zero, so that a hold repeats the present position."""
        return not self._v.any()

    @property
    def touches(self) -> list[Touch]:
        """What has touched since the start, sorted; only this may."""
        return sorted(self._touched)

    @property
    def blocked(self) -> list[Touch]:
        """What touches the arm, sorted, though it did not at the start: it cannot move before it is reset."""
        return sorted(self._blocked)

    def violations(self) -> tuple[list[int], list[int]]:
        """Joints (indices) and axes of the box (0 x, 1 y, 2 z) in which the present setpoint is outside."""
        joints = np.flatnonzero((self._q < self._low) | (self._q > self._high))
        axes = np.flatnonzero((self._effector < self._box[0]) | (self._effector > self._box[1]))
        return joints.tolist(), axes.tolist()

    def reset(self, joint_positions: Vector) -> None:
        """Start, or re-arm, at rest from measured positions.

        Args:
            joint_positions: rad, `[n]`; may lie outside the limits.

        Raises:
            ValueError: Wrong number of joints or a position that is not finite; the state stays as it was.
        """
        self._q = self._checked(joint_positions, "joint_positions")
        self._v = np.zeros_like(self._q)
        self._effector = np.asarray(self._kinematics.position(self._q), dtype=np.float64)
        empty = np.zeros((0, len(self._q)))
        self._braking = _Path(empty, empty, np.zeros((0, 3)))
        self._touched = set() if self._scene is None else set(self._scene.touching(self._q))
        self._blocked: set[Touch] = set()
        if self._filter is not None:
            self._filter.reset()

    def forget_targets(self) -> None:
        """The targets that follow are somebody else's."""
        if self._filter is not None:
            self._filter.forget_targets()

    def advance(self, target: Vector | None, remaining: float = 0.0) -> tuple[Setpoint, int]:
        """Move the commanded state by one tick.

        Args:
            target: Joint target, rad, `[n]`; None brakes and then repeats the position exactly.
            remaining: Time until the target should be reached, s; at least one tick is taken.

        Returns:
            The new setpoint, and the LIMITED_* bits that say what kept it from heading for the target.

        Raises:
            ValueError: Wrong number of joints or a target that is not finite; the state stays as it was.
        """
        if target is None:
            self._brake()
            if self._filter is not None:
                self._filter.reset()
            return self.setpoint, 0
        wanted, limited = self._wanted_velocity(self._checked(target, "target"), remaining)
        if self._filter is not None:
            reachable = np.clip(target, self._low, self._high)
            wanted, _ = self._wanted_velocity(self._filter.next(self._q, self._v, reachable, remaining), self.dt)
        path, reason = self._verified(wanted)
        if path is None:
            limited |= reason
            path = self._gentler(wanted, reason)
        if path is None:
            self._brake()
        else:
            self._take(path)
        self._blocked = set()
        if self._scene is not None and path is None and self.at_rest:
            self._blocked = set(self._scene.touching(self._q)) - self._touched
        return self.setpoint, limited

    def plan(self, target: Vector | None, steps: int) -> tuple[list[Setpoint], int]:
        """Move by a whole control period, so that the target is reached at its end.

        Args:
            target: As in `advance`.
            steps: Number of ticks in the period.

        Returns:
            The setpoints, and all LIMITED_* bits of theirs.
        """
        setpoints, limited = [], 0
        for step in range(steps):
            setpoint, bits = self.advance(target, (steps - step) * self.dt)
            setpoints.append(setpoint)
            limited |= bits
        return setpoints, limited

    def _checked(self, values: Vector, what: str) -> Vector:
        array = np.array(values, dtype=np.float64)
        if array.shape != self._low.shape:
            raise ValueError(f"{what}: expected {len(self._low)} joints, found shape {list(array.shape)}")
        if not np.isfinite(array).all():
            raise ValueError(f"{what}: expected finite numbers, found {array.tolist()}")
        return array

    def _wanted_velocity(self, target: Vector, remaining: float) -> tuple[Vector, int]:
        """The velocity toward the target that keeps the velocity and acceleration limits and, first, its direction."""
        reachable = np.clip(target, self._low, self._high)
        limited = 0 if (np.abs(reachable - target) <= _ROUNDING).all() else LIMITED_POSITION
        way = reachable - self._q
        wanted = way / max(remaining, self.dt)
        excess = np.max(np.abs(wanted) / self._velocity)
        if excess > 1.0:
            wanted = wanted / excess
            limited |= LIMITED_VELOCITY if excess > 1.0 + _ROUNDING else 0
        change = wanted - self._v
        excess = np.max(np.abs(change) / self._step)
        if excess > 1.0:
            change = change / excess
            limited |= LIMITED_ACCELERATION if excess > 1.0 + _ROUNDING else 0
        return self._within(self._v + change), limited

    def _within(self, velocity: Vector) -> Vector:
        """The velocity, clipped to the velocity limits and to what one tick of acceleration can reach."""
        reachable = np.clip(velocity, self._v - self._step, self._v + self._step)
        return np.clip(reachable, -self._velocity, self._velocity)

    def _stopping_ticks(self, velocity: Vector) -> int:
        return int(np.ceil(np.max(np.abs(velocity) / self._step) - _ROUNDING)) if velocity.any() else 0

    def _verified(self, velocity: Vector) -> tuple[_Path | None, int]:
        """One tick at `velocity` and the braking after it, when all of it is inside; else None and the obstacle."""
        ticks = max(self._stopping_ticks(velocity), 1)
        fractions = np.concatenate(([1.0], 1.0 - np.arange(1, ticks + 1) / ticks))
        positions = self._q + np.outer(np.cumsum(fractions), velocity * self.dt)
        low, high = np.minimum(self._low, self._q), np.maximum(self._high, self._q)
        if ((positions < low) | (positions > high)).any():
            return None, LIMITED_POSITION
        # The last tick of braking repeats the position before it.
        effector = np.array([self._kinematics.position(row) for row in positions[:-1]])
        outside = self._outside(np.vstack((self._effector, effector)))
        if (outside[1:] > outside[:-1]).any():
            return None, LIMITED_WORKSPACE
        if self._scene is not None and self._touches(self._scene, positions):
            return None, LIMITED_COLLISION
        return _Path(positions, np.outer(fractions, velocity), np.vstack((effector, effector[-1:]))), 0

    def _touches(self, scene: Scene, positions: Vector) -> bool:
        """Whether anything is touched along positions `[k, n]` that has not been since the start."""
        # The last tick of braking repeats the position before it.
        return any(not self._touched.issuperset(scene.touching(row)) for row in positions[:-1])

    def _outside(self, effector: Vector) -> Vector:
        """How far end-effector positions `[k, 3]` are outside the box, per axis, m."""
        return np.maximum(np.maximum(self._box[0] - effector, effector - self._box[1]), 0.0)

    def _gentler(self, wanted: Vector, reason: int) -> _Path | None:
        """The first verified path among sliding and what lies between it and braking."""
        slide = self._slide_along_joint_limits(wanted)
        if reason == LIMITED_POSITION:
            reason = self._verified(slide)[1]
        if reason == LIMITED_WORKSPACE:
            slide = self._slide_along_joint_limits(self._slide_along_walls(slide))
        braking = self._braking.velocities[0] if len(self._braking.velocities) else np.zeros_like(self._v)
        # Sliding does not lead around what would be touched.
        for share in _SHARES[1:] if reason == LIMITED_COLLISION else _SHARES:
            path, _ = self._verified(braking + share * (slide - braking))
            if path is not None:
                return path
        return None

    def _slide_along_joint_limits(self, velocity: Vector) -> Vector:
        """Slow every joint so far that it stops in front of its limit."""
        travel = self.dt * (self._stopping_ticks(velocity) + 1) / 2 * (1.0 + _ROUNDING)
        below = np.maximum(self._q - self._low, 0.0) / travel
        above = np.maximum(self._high - self._q, 0.0) / travel
        return self._within(np.clip(velocity, -below, above))

    def _slide_along_walls(self, velocity: Vector) -> Vector:
        """Take away the part of the velocity that leads through a wall of the box.

        With the Jacobian rows `A` of the axes in question and `u` the largest speed toward the wall that stops in front
        of it: the least change of joint velocities with `A v' = u`, `v' = v - A^T (A A^T + e I)^-1 (A v - u)`.
        """
        jacobian = np.empty((3, len(velocity)))
        for joint in range(len(velocity)):
            moved = self._q.copy()
            moved[joint] += _JACOBIAN_STEP
            jacobian[:, joint] = (self._kinematics.position(moved) - self._effector) / _JACOBIAN_STEP
        travel = self.dt * (self._stopping_ticks(velocity) + 1) / 2
        toward = np.vstack((-jacobian, jacobian))
        room = np.concatenate((self._effector - self._box[0], self._box[1] - self._effector))
        fastest = (np.maximum(room, 0.0) - _WALL_CLEARANCE) / travel
        rows = toward @ velocity > fastest
        if not rows.any():
            return velocity
        active = toward[rows]
        excess = active @ velocity - fastest[rows]
        change = active.T @ np.linalg.solve(active @ active.T + 1e-6 * np.eye(len(active)), excess)
        return self._within(velocity - change)

    def _take(self, path: _Path) -> None:
        self._q, self._v, self._effector = path.positions[0], path.velocities[0], path.effector[0]
        self._braking = path.after(1)
        if self._touched and self._scene is not None:
            # The kept braking has been verified with what it touches.
            rows = (self._q, *self._braking.positions)
            self._touched &= {touch for row in rows for touch in self._scene.touching(row)}

    def _brake(self) -> None:
        """One tick along the verified braking trajectory, or at its end the same position again."""
        if len(self._braking.positions):
            self._take(self._braking)
        else:
            self._v = np.zeros_like(self._v)

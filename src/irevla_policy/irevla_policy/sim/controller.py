"""The joint trajectory controller of the simulated arm: what commands mean between their points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from irevla_policy.errors import UserError
from irevla_policy.robot.limits import Setpoint
from irevla_policy.robot.observation import Vector
from irevla_policy.robot.profile import LARGEST_ANGLE, RobotProfile

_TIME_TOLERANCE = 1e-6  # s


class CommandError(UserError, ValueError):
    """A command that the simulated controller rejects."""


@dataclass(frozen=True, eq=False)
class Trajectory:
    """Points of a joint trajectory in the profile's order.

    Attributes:
        times: Seconds from the start, rising, `[k]`.
        positions: rad, `[k, n]`.
        gripper: Command in [-1, 1] at each point, `[k]`; None when the command leaves the gripper alone.
    """

    times: Vector
    positions: Vector
    gripper: Vector | None

    @classmethod
    def from_points(
        cls,
        profile: RobotProfile,
        names: Sequence[str],
        points: Sequence[tuple[float, Sequence[float]]],
    ) -> Trajectory:
        """Check a trajectory command.

        Args:
            profile: The robot.
            names: Joints of the command, in any order; the gripper's joint may be among them.
            points: Time from the start (s) and positions of each point.

        Raises:
            CommandError: Wrong joints, sizes, times, or numbers that are not finite.
        """
        gripper = profile.gripper.joint if profile.gripper else None
        expected = [*profile.joint_names]
        if gripper is not None and gripper in names:
            expected.append(gripper)
        if sorted(names) != sorted(expected):
            raise CommandError(
                f"command: expected the joints {', '.join(profile.joint_names)}"
                + (f" and optionally {gripper}" if gripper else "")
                + f"; found {', '.join(names) or 'none'}"
            )
        if not points:
            raise CommandError("command: expected at least one point, found none")
        for number, (_, positions) in enumerate(points):
            if len(positions) != len(names):
                raise CommandError(f"command: point {number} has {len(positions)} positions for {len(names)} joints")
        times = np.array([time for time, _ in points], dtype=np.float64)
        table = np.array([positions for _, positions in points], dtype=np.float64)
        # Not beyond what a position may be in a profile: the physics would blow up.
        possible = np.abs(table) <= LARGEST_ANGLE
        if not possible.all():
            point, joint = np.argwhere(~possible)[0]
            raise CommandError(
                f"command: joint {names[joint]!r} is at {table[point, joint]} in point {point}, expected a number "
                f"from {-LARGEST_ANGLE:.4g} to {LARGEST_ANGLE:.4g}"
            )
        if times[0] < 0.0 or (np.diff(times) <= 0.0).any():
            raise CommandError(f"command: expected rising times from the start, found {times.tolist()} s")
        order = [list(names).index(name) for name in profile.joint_names]
        grip = None
        if gripper is not None and gripper in names:
            assert profile.gripper is not None
            sent = table[:, list(names).index(gripper)]
            grip = np.clip([profile.gripper.meant(float(one)) for one in sent], -1.0, 1.0)
        return cls(times, table[:, order], grip)

    def period(self, profile: RobotProfile) -> tuple[list[Setpoint], float | None]:
        """The setpoints of one control period in lock-step: one point for each of its substeps.

        Returns:
            `profile.substeps` setpoints, and the gripper's command at the end, if there is one.

        Raises:
            CommandError: The points are not at the ends of the substeps.
        """
        expected = np.arange(1, profile.substeps + 1) / profile.guard_rate
        if self.times.shape != expected.shape or np.abs(self.times - expected).max() > _TIME_TOLERANCE:
            raise CommandError(
                f"command: expected {profile.substeps} points {1.0 / profile.guard_rate:g} s apart in lock-step, "
                f"found points at {self.times.tolist()} s"
            )
        rest = np.zeros(self.positions.shape[1])
        gripper = None if self.gripper is None else float(self.gripper[-1])
        return [Setpoint(position, rest) for position in self.positions], gripper


class TrajectoryController:
    """Follows the newest trajectory by linear interpolation and then holds its last point.

    Times are seconds of a clock that the caller chooses.
    """

    def __init__(self, positions: Vector, gripper: float = -1.0) -> None:
        self._gripper = gripper
        self._times, self._positions = np.zeros(1), np.array([positions], dtype=np.float64)

    def follow(self, trajectory: Trajectory, now: float) -> None:
        """Replace what is being followed; the way starts at the position that is commanded now."""
        here, _ = self.sample(now)
        self._times = np.concatenate(([now], now + trajectory.times))
        self._positions = np.vstack((here.position, trajectory.positions))
        if trajectory.times[0] <= 0.0:  # a point to be at now: the first one is it
            self._times, self._positions = self._times[1:], self._positions[1:]
        if trajectory.gripper is not None:
            self._gripper = float(trajectory.gripper[-1])

    def sample(self, now: float) -> tuple[Setpoint, float]:
        """The setpoint and the gripper's command at a time."""
        place = int(np.searchsorted(self._times, now, side="right"))
        if place == 0 or place == len(self._times):
            position = self._positions[min(place, len(self._times) - 1)]
            return Setpoint(position, np.zeros_like(position)), self._gripper
        before, after = self._times[place - 1], self._times[place]
        velocity = (self._positions[place] - self._positions[place - 1]) / (after - before)
        return Setpoint(self._positions[place - 1] + (now - before) * velocity, velocity), self._gripper

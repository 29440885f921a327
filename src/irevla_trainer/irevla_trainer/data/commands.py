"""The actions of a bag that carries none: derived from the commands that its controller received."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from irevla_policy.errors import UserError
from irevla_policy.recording.interfaces import stamp_of
from irevla_policy.robot.kinematics import ArmKinematics
from irevla_policy.robot.profile import RobotProfile

Array = npt.NDArray[np.float64]


class CommandError(UserError, ValueError):
    """A controller command does not fit the robot profile."""


@dataclass
class CommandedMotion:
    """What the controller was told, as a function of time.

    Args:
        profile: The robot.
    """

    profile: RobotProfile
    _starts: list[int] = field(default_factory=list)
    _times: list[Array] = field(default_factory=list)
    _points: list[Array] = field(default_factory=list)

    def add_trajectory(self, message: Any, received: int) -> None:
        """A trajectory_msgs/JointTrajectory; a zero stamp means that it started when it was received (ns).

        Raises:
            CommandError: A joint of the profile is missing, or a point has not one position a joint.
        """
        where = self.profile.command.topic
        names = [*self.profile.joint_names, *([self.profile.gripper.joint] if self.profile.gripper else [])]
        missing = [name for name in names if name not in message.joint_names]
        if missing or not message.points:
            what = f"joint {missing[0]!r} of robot {self.profile.name!r} is missing" if missing else "it has no points"
            raise CommandError(f"{where}: {what}")
        order = [list(message.joint_names).index(name) for name in names]
        points = []
        for point in message.points:
            if len(point.positions) != len(message.joint_names):
                raise CommandError(
                    f"{where}: expected {len(message.joint_names)} positions a point, found {len(point.positions)}"
                )
            points.append(np.asarray(point.positions, dtype=np.float64)[order])
        start = stamp_of(message.header) or received
        offsets = [
            int(point.time_from_start.sec) * 10**9 + int(point.time_from_start.nanosec) for point in message.points
        ]
        self._add(start, np.array(offsets, dtype=np.float64), np.stack(points))

    def add_positions(self, message: Any, received: int) -> None:
        """A std_msgs/Float64MultiArray of a forward controller: joint positions, then the gripper's command.

        Raises:
            CommandError: Wrong number of values.
        """
        size = len(self.profile.joints) + (1 if self.profile.gripper else 0)
        values = np.asarray(message.data, dtype=np.float64)
        if values.shape != (size,):
            raise CommandError(f"{self.profile.command.topic}: expected {size} values, found {values.size}")
        self._add(received, np.zeros(1), values[None])

    def __len__(self) -> int:
        return len(self._starts)

    def at(self, time: int) -> Array | None:
        """Commanded joints and gripper at a time (ns), `[n (+ 1)]`; None up to the first command.

        The newest command from before counts: what begins at that moment belongs to what follows. A trajectory is
        interpolated between its points and holds its last. A first point of up to a control period ahead is a setpoint
        of those that are sent all the time, and counts at once; to a later one the arm moves from where it was to be,
        and the gripper at once.
        """
        place = bisect_left(self._starts, time) - 1
        if place < 0:
            return None
        times, points = self._times[place], self._points[place]
        elapsed = float(time - self._starts[place])
        return np.array([np.interp(elapsed, times, points[:, joint]) for joint in range(points.shape[1])])

    def _add(self, start: int, times: Array, points: Array) -> None:
        before = self.at(start)
        if before is not None and times[0] > 1e9 / self.profile.control_rate:
            joints = len(self.profile.joints)
            first = np.append(before[:joints], points[0, joints:])
            times, points = np.insert(times, 0, 0.0), np.vstack([first, points])
        place = bisect_right(self._starts, start)
        self._starts.insert(place, start)
        self._times.insert(place, times)
        self._points.insert(place, points)


class ActionFromCommands:
    """The action in the profile's action space that commands carried out in one control period.

    Args:
        profile: The robot.
        kinematics: Its kinematics; needed for `ee_delta`.
    """

    def __init__(self, profile: RobotProfile, kinematics: ArmKinematics) -> None:
        self._profile = profile
        self._kinematics = kinematics
        self._period = round(1e9 / profile.control_rate)

    def action(self, motion: CommandedMotion, stamp: int, measured: Array) -> Array | None:
        """The action of the decision at a stamp.

        Args:
            motion: The commands.
            stamp: Of the observation, ns.
            measured: Joint positions then, rad, `[n]`: the reference before the first command.

        Returns:
            `[action_dim]`; displacements of `ee_delta` are in units of its scale and not clipped. None when no command
            came until the end of the control period.
        """
        joints = len(self._profile.joints)
        after = motion.at(stamp + self._period)
        if after is None:
            return None
        before = motion.at(stamp)
        start = measured if before is None else before[:joints]
        arm = self._arm(start, after[:joints])
        gripper = self._profile.gripper
        return arm if gripper is None else np.append(arm, np.clip(gripper.meant(after[joints]), -1.0, 1.0))

    def _arm(self, start: Array, end: Array) -> Array:
        space = self._profile.action_space
        if space == "joint_position":
            return end
        if space == "joint_delta":
            return end - start
        if space == "joint_velocity":
            return (end - start) * self._profile.control_rate
        moved = self._kinematics.position(end) - self._kinematics.position(start)
        return np.asarray(moved / self._profile.ee_delta_scale)

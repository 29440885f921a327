"""What the guard sends: commands to the robot on an exact grid of stamps, and the record of them.

A trajectory starts one tick of the guard after it is sent. A joint trajectory controller that has come to the end of
one holds its last point until the next arrives; sent ahead, the next is there before, also when a tick was late.
"""

from __future__ import annotations

from collections.abc import Callable

from rclpy.lifecycle import LifecycleNode
from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory

from irevla_msgs.msg import Command
from irevla_policy.robot.decision import Decision, Source
from irevla_policy.robot.profile import RobotProfile
from irevla_policy.ros import qos
from irevla_policy.ros.guard_messages import command_message
from irevla_policy.ros.messages import positions_message, trajectory_message

# A grid that is so many ticks ahead is left: the clock was set back, and to wait for it would leave the arm alone.
_CLOCK_STEP_TICKS = 3
_NOT_KNOWN_YET = "_NODE_NAME_UNKNOWN_"


class CommandOutput:
    """Publishes decisions on the profile's command topic and on /irevla/command.

    Args:
        node: Owner of the publishers.
        profile: The robot.
        lock_step: Whether every decision answers an observation, whose stamp it carries.
        now: ROS time, ns.
        dry_run: Whether only the record is published.
    """

    def __init__(
        self, node: LifecycleNode, profile: RobotProfile, lock_step: bool, now: Callable[[], int], dry_run: bool = False
    ) -> None:
        self._node = node
        self._profile = profile
        self._lock_step = lock_step
        self._now = now
        self._dt = round(1e9 / profile.guard_rate)
        self._is_trajectory = profile.command.type == "trajectory_msgs/JointTrajectory"
        # Positions without a stamp are followed when they arrive: what was late cannot be caught up with.
        self._lead = self._dt if self._is_trajectory else 0
        self._latest = 2 * self._dt if self._is_trajectory else self._dt // 2
        self._clock_step = _CLOCK_STEP_TICKS * self._dt
        kind = JointTrajectory if self._is_trajectory else Float64MultiArray
        self._robot = None if dry_run else node.create_publisher(kind, profile.command.topic, qos.command(lock_step))
        self._record = node.create_publisher(Command, "/irevla/command", qos.command(lock_step))
        self.restart()

    def restart(self) -> None:
        """Begin a new grid."""
        self._next_stamp = 0
        self._holds = 0

    def destroy(self) -> None:
        """Give the publishers back."""
        if self._robot is not None:
            self._node.destroy_publisher(self._robot)
        self._node.destroy_publisher(self._record)

    def other_publishers(self) -> list[str]:
        """Names of the nodes that publish the command topic beside this one."""
        found = self._node.get_publishers_info_by_topic(self._profile.command.topic)
        names = [
            # Discovery learns of publishers before it learns of their nodes.
            "a node whose name is not known yet"
            if info.node_name == _NOT_KNOWN_YET
            else f"{info.node_namespace.rstrip('/')}/{info.node_name}"
            for info in found
        ]
        own = f"{self._node.get_namespace().rstrip('/')}/{self._node.get_name()}"
        if own in names:
            names.remove(own)  # once: another guard has the same name
        return sorted(names)

    def send(self, decision: Decision | None) -> bool:
        """Publish a decision; returns whether there was one."""
        if decision is None:
            return False
        stamp = decision.stamp if self._lock_step else self._grid_stamp()
        self._send(decision, stamp)
        is_hold = decision.source is Source.HOLD
        self._holds = (0 if decision.is_first else self._holds + 1) if is_hold else 0
        if self._lock_step or decision.is_first or (is_hold and self._holds % self._profile.substeps == 0):
            self._record.publish(command_message(decision, self._profile))
        return True

    def _send(self, decision: Decision, stamp: int) -> None:
        if self._robot is None:
            return
        if self._is_trajectory:
            self._robot.publish(
                trajectory_message(self._profile, stamp, decision.setpoints, decision.gripper, self._dt)
            )
            return
        for setpoint in decision.setpoints:
            self._robot.publish(positions_message(self._profile, setpoint, decision.gripper))

    @property
    def is_due(self) -> bool:
        """Whether it is time to send the next setpoint; it is not when that was sent ahead, or clocks drift."""
        return self._ahead() <= self._dt // 2

    @property
    def may_send_ahead(self) -> bool:
        """Whether the next setpoint can be sent before its time, as its stamp will say when it starts."""
        return self._is_trajectory and self._ahead() <= self._dt

    def _ahead(self) -> int:
        """How long after what is sent now is expected to start the next setpoint starts, ns."""
        ahead = self._next_stamp - self._start()
        return ahead if ahead < self._clock_step else 0

    def _start(self) -> int:
        """ROS time at which a setpoint starts that is sent now and on time, ns."""
        return self._now() + self._lead

    def _grid_stamp(self) -> int:
        """ROS time at which the next setpoint starts: exactly one tick after the one before, unless ticks were late."""
        start = self._start()
        if not -self._latest <= self._next_stamp - start < self._clock_step:
            self._next_stamp = start
        stamp = self._next_stamp
        self._next_stamp += self._dt
        return stamp

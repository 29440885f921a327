"""What teleoperation devices share: a wish for the hand becomes interventions, as long as somebody holds on.

While the operator moves the hand an /irevla/intervention goes out every control period, through the same mapping as the
policy's actions, so that it is recorded as they are; when nobody moves it nothing goes out, and the guard gives the arm
back to the policy or holds it. A device that is lost lets go.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from rclpy.node import Node
from sensor_msgs.msg import JointState
from std_msgs.msg import Empty

from irevla_msgs.msg import Action, Command
from irevla_policy.robot.action import ActionMapper
from irevla_policy.robot.kinematics import ArmKinematics
from irevla_policy.robot.observation import ObservationError, Vector
from irevla_policy.robot.profile import load_profile
from irevla_policy.robot.proposal import Proposal
from irevla_policy.ros import qos
from irevla_policy.ros.guard_messages import action_message
from irevla_policy.ros.messages import joint_positions
from irevla_policy.ros.parameters import NodeSettings, declare
from irevla_policy.settings import SettingsError, setting

_FRESH = 0.5
"""s: older joint states say nothing about where the hand is."""

_HEARTBEAT_PERIOD = 0.05  # s


@dataclass(frozen=True)
class TeleoperationSettings(NodeSettings):
    """Parameters of a teleoperation device."""

    speed: float = setting(
        0.5, "Share of ee_delta_scale that a full push moves per control period", above=0.0, at_most=1.0
    )
    heartbeat: bool = setting(True, "Whether the device publishes the operator's heartbeat while it is there")


@dataclass
class Wish:
    """What the operator wants now.

    Attributes:
        move: Direction of the hand along x, y and z of the base, each in [-1, 1].
        gripper: In [-1 (open), 1 (closed)].
        holds_on: Whether the operator drives; else nothing is said.
    """

    move: Vector
    gripper: float
    holds_on: bool

    def turn_gripper(self) -> None:
        """Open it when it rather is to be closed, and the other way round."""
        self.gripper = -1.0 if self.gripper > 0.0 else 1.0


class TeleoperationNode(Node):
    """A device; a subclass sets `wish`.

    Args:
        name: Of the node.
        settings: Class of its parameters.

    Raises:
        SettingsError: The robot's actions are no displacements of its end effector.
    """

    def __init__(self, name: str, settings: type[TeleoperationSettings] = TeleoperationSettings) -> None:
        super().__init__(name)
        self.settings = declare(self, settings)
        self._profile = load_profile(self.settings.robot)
        if self._profile.action_space != "ee_delta":
            raise SettingsError(
                f"robot {self._profile.name!r}: teleoperation moves the hand and needs action_space ee_delta, found "
                f"{self._profile.action_space}"
            )
        self.wish = Wish(np.zeros(3), -1.0, False)
        self._mapper = ActionMapper(self._profile, ArmKinematics(self._profile))
        self._measured: tuple[float, Vector] | None = None
        self._drove = False
        self._intervention = self.create_publisher(Action, "/irevla/intervention", qos.command())
        self.create_subscription(JointState, self._profile.joint_states_topic, self._on_joints, qos.sensor())
        self.create_subscription(Command, "/irevla/command", self._on_command, qos.command())
        self.create_timer(1.0 / self._profile.control_rate, self._drive)
        if self.settings.heartbeat:
            self._heart = self.create_publisher(Empty, "/irevla/heartbeat", qos.event())
            self.create_timer(_HEARTBEAT_PERIOD, self._beat)

    def is_there(self) -> bool:
        """Whether the device works; its heartbeat stops when it does not."""
        return True

    def _beat(self) -> None:
        if self.is_there():
            self._heart.publish(Empty())

    def _on_joints(self, message: JointState) -> None:
        try:
            positions, opening = joint_positions(message, self._profile)
        except ObservationError as error:
            self.get_logger().error(str(error), throttle_duration_sec=2.0)
            return
        if self._measured is None and self._profile.gripper is not None:
            # The first word about the gripper is what it is.
            closed, opened = self._profile.gripper.opening
            self.wish.gripper = 1.0 if abs(opening - closed) < abs(opening - opened) else -1.0
        self._measured = time.monotonic(), positions

    def _on_command(self, message: Command) -> None:
        # Who takes over finds the gripper as the policy wants it: what it holds is not dropped.
        if not self._drove and not self.wish.holds_on:
            self.wish.gripper = float(message.gripper)

    def _drive(self) -> None:
        wish = self.wish
        if not (wish.holds_on and self.is_there()):
            self._drove = False
            return
        if self._measured is None or time.monotonic() - self._measured[0] > _FRESH:
            topic = self._profile.joint_states_topic
            self.get_logger().warning(f"{topic}: nothing comes, so nothing is driven", throttle_duration_sec=2.0)
            self._drove = False
            return
        if not self._drove:
            self._mapper.reset()
        self._drove = True
        values = self.settings.speed * np.clip(wish.move, -1.0, 1.0)
        if self._profile.gripper is not None:
            values = np.append(values, wish.gripper)
        target, gripper = self._mapper.target(self._measured[1], values)
        names = self._profile.joint_names
        # No stamp: the guard gives it that of the newest image.
        proposal = Proposal(0, tuple(values.tolist()), names, tuple(target.tolist()), gripper)
        self._intervention.publish(action_message(proposal))

"""The middleware floor: a process that answers each image with an action, or each action with a command, at once.

Two of them in a row pass the same messages as policy and guard do, without model, kinematics or limits.
"""

from __future__ import annotations

from dataclasses import dataclass

from rclpy.node import Node
from sensor_msgs.msg import Image

from irevla_msgs.msg import Action, Command
from irevla_policy.robot.profile import load_profile
from irevla_policy.ros import qos
from irevla_policy.ros.lifecycle import spin
from irevla_policy.ros.parameters import NodeSettings, declare
from irevla_policy.settings import setting


@dataclass(frozen=True)
class EchoSettings(NodeSettings):
    """Parameters of the echo node."""

    answers: str = setting("images", "What is answered", choices=("images", "actions"))


class EchoNode(Node):
    """Answers every message at once."""

    def __init__(self) -> None:
        super().__init__("irevla_echo")
        settings = declare(self, EchoSettings)
        profile = load_profile(settings.robot)
        zeros = [0.0] * len(profile.joints)
        names = list(profile.joint_names)
        if settings.answers == "images":
            self._answer = Action(values=[0.0] * profile.action_dim, joint_names=names, joint_target=zeros)
            self._publisher = self.create_publisher(Action, "/floor/action", qos.command())
            self.create_subscription(Image, profile.cameras[0].topic, self._on_message, qos.sensor())
        else:
            self._answer = Command(values=[0.0] * profile.action_dim, joint_names=names, positions=zeros)
            self._publisher = self.create_publisher(Command, "/floor/command", qos.command())
            self.create_subscription(Action, "/floor/action", self._on_message, qos.command())

    def _on_message(self, message: Image | Action) -> None:
        self._answer.header.stamp = message.header.stamp
        self._publisher.publish(self._answer)


def main(args: list[str] | None = None) -> None:
    """Run the node until it is interrupted."""
    spin(EchoNode, args)


if __name__ == "__main__":
    main()

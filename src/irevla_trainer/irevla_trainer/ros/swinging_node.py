"""A stand-in for the policy that never rests: answers each image with the next point of an even swing of one joint."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from rclpy.node import Node
from sensor_msgs.msg import Image

from irevla_msgs.msg import Action
from irevla_policy.robot.profile import load_profile
from irevla_policy.robot.proposal import Proposal
from irevla_policy.ros import qos
from irevla_policy.ros.guard_messages import action_message
from irevla_policy.ros.lifecycle import spin
from irevla_policy.ros.messages import nanoseconds
from irevla_policy.ros.parameters import NodeSettings, declare
from irevla_policy.settings import setting

_VERSION = "0123456789ab"


@dataclass(frozen=True)
class SwingSettings(NodeSettings):
    """Parameters of the swinging node."""

    joint: int = setting(0, "Joint that swings, counted from 0", at_least=0)
    amplitude: float = setting(0.35, "To either side of the home position", unit="rad", above=0.0)
    speed: float = setting(0.7, "Of the joint", unit="rad/s", above=0.0)


class SwingingNode(Node):
    """Swings one joint to and fro."""

    def __init__(self) -> None:
        super().__init__("irevla_swinging")
        self._settings = declare(self, SwingSettings)
        self._profile = load_profile(self._settings.robot)
        self._publisher = self.create_publisher(Action, "/irevla/action", qos.command())
        self.create_subscription(Image, self._profile.cameras[0].topic, self._on_image, qos.sensor())

    def _on_image(self, message: Image) -> None:
        settings, profile = self._settings, self._profile
        reached = settings.speed * (time.monotonic() + 1.0 / profile.control_rate)
        # Between -1 and 1 and back at an even pace.
        share = 2.0 * abs((reached / settings.amplitude / 2.0) % 2.0 - 1.0) - 1.0
        target = np.array(profile.home)
        target[settings.joint] += settings.amplitude * share
        values = (0.0,) * profile.action_dim
        proposal = Proposal(
            nanoseconds(message.header.stamp), values, profile.joint_names, tuple(target.tolist()), 0.0, _VERSION
        )
        self._publisher.publish(action_message(proposal))


def main(args: list[str] | None = None) -> None:
    """Run the node until it is interrupted."""
    spin(SwingingNode, args)


if __name__ == "__main__":
    main()

"""A policy process for tests: answers every image with a target, and misbehaves on request.

Run as `python scripted_policy.py MODE`: `good` follows a slow wave, `wild` proposes random targets inside the limits
every 5 ms, `nan`, `short` and `outside` send actions that cannot be carried out, `late` answers after 0.3 s.
"""

from __future__ import annotations

import contextlib
import math
import sys
import time

import numpy as np
import rclpy
from rclpy.executors import ExternalShutdownException
from sensor_msgs.msg import Image

from irevla_msgs.msg import Action
from irevla_policy.robot.profile import load_profile
from irevla_policy.robot.proposal import Proposal
from irevla_policy.ros import qos
from irevla_policy.ros.guard_messages import action_message
from irevla_policy.ros.messages import nanoseconds

PROFILE = load_profile("sawyer")
HOME = np.array(PROFILE.home)
VERSION = "0123456789ab"


def main(mode: str) -> None:
    rclpy.init()
    node = rclpy.create_node("scripted_policy")
    publisher = node.create_publisher(Action, "/irevla/action", qos.command())
    rng = np.random.default_rng(0)
    low = np.array([joint.position[0] for joint in PROFILE.joints])
    high = np.array([joint.position[1] for joint in PROFILE.joints])

    def propose(stamp: int) -> None:
        target = HOME + 0.1 * math.sin(4.0 * time.monotonic())
        if mode == "wild":
            target = rng.uniform(low, high)
        elif mode == "nan":
            target = HOME * math.nan
        elif mode == "outside":
            target = high + 1.0
        values = (0.0,) * (PROFILE.action_dim - (mode == "short"))
        publisher.publish(
            action_message(Proposal(stamp, values, PROFILE.joint_names, tuple(target.tolist()), 0.0, VERSION))
        )

    def on_image(message: Image) -> None:
        if mode == "late":
            time.sleep(0.3)
        propose(nanoseconds(message.header.stamp))

    if mode == "wild":
        node.create_timer(0.005, lambda: propose(int(node.get_clock().now().nanoseconds)))
    else:
        node.create_subscription(Image, PROFILE.cameras[0].topic, on_image, qos.sensor())
    with contextlib.suppress(KeyboardInterrupt, ExternalShutdownException):
        rclpy.spin(node)


if __name__ == "__main__":
    main(sys.argv[1])

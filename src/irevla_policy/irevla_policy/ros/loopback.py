"""Sends one irevla message to itself over the middleware; prints what carried it. Used by `irevla doctor`."""

from __future__ import annotations

import sys
import time

import rclpy
from rclpy.executors import SingleThreadedExecutor

from irevla_msgs.msg import PolicyStatus

_TIMEOUT = 5.0


def main() -> int:
    """Publish until a subscription has heard it.

    Returns:
        0 when the message arrived, 1 when none did within 5 s.
    """
    rclpy.init()
    node = rclpy.create_node("irevla_loopback")
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    heard: list[PolicyStatus] = []
    topic = "~/loopback"
    node.create_subscription(PolicyStatus, topic, heard.append, 1)
    publisher = node.create_publisher(PolicyStatus, topic, 1)
    deadline = time.monotonic() + _TIMEOUT
    while not heard and time.monotonic() < deadline:
        publisher.publish(PolicyStatus())
        executor.spin_once(timeout_sec=0.05)
    print(rclpy.get_rmw_implementation_identifier())
    executor.shutdown()
    node.destroy_node()
    rclpy.shutdown()
    return 0 if heard else 1


if __name__ == "__main__":
    sys.exit(main())

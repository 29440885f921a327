"""Whether the robot on the graph is the one of the profile, before anything moves."""

from __future__ import annotations

import time

import rclpy
from rclpy.executors import SingleThreadedExecutor
from std_msgs.msg import String

from irevla_policy.errors import UserError
from irevla_policy.robot.description import check_description
from irevla_policy.robot.profile import RobotProfile
from irevla_policy.ros import qos

_TOPIC = "/robot_description"


def check_robot(profile: RobotProfile, patience: float) -> None:
    """Refuse a robot that is another, or whose controller is not there.

    Args:
        profile: What is expected.
        patience: Longest wait for either, s.

    Raises:
        UserError: The robot disagrees with the profile, does not describe itself, or nobody follows its commands.
    """
    text = ""

    def receive(message: String) -> None:
        nonlocal text
        text = message.data

    # A node of its own: it is spun inside a callback of another.
    node = rclpy.create_node("irevla_robot_check", start_parameter_services=False)
    executor = SingleThreadedExecutor()
    try:
        executor.add_node(node)
        node.create_subscription(String, _TOPIC, receive, qos.latched())
        topic, deadline = profile.command.topic, time.monotonic() + patience
        while not (text and node.count_subscribers(topic)):
            if time.monotonic() > deadline:
                raise UserError(_missing(topic, bool(text), patience))
            executor.spin_once(0.1)
    finally:
        executor.shutdown()
        node.destroy_node()
    check_description(profile, text)


def _missing(topic: str, described: bool, patience: float) -> str:
    if not described:
        return f"{_TOPIC}: nothing came within {patience:g} s; is robot_state_publisher running?"
    return f"{topic}: no controller listens; see `ros2 control list_controllers`, and command.topic of the profile"

"""A rig that stands in for a robot's drivers in benchmarks: cameras and joint states at exact rates, answers timed."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from rclpy.node import Node
from rclpy.publisher import Publisher
from sensor_msgs.msg import Image, JointState
from trajectory_msgs.msg import JointTrajectory

from irevla_msgs.msg import Action, Command
from irevla_policy.robot.profile import RobotProfile
from irevla_policy.ros import qos
from irevla_policy.ros.messages import image_message, joint_state_message, nanoseconds, setpoints_of, time_message

_DIFFERENT_FRAMES = 8


@dataclass
class Answers:
    """What came back for every camera frame.

    Attributes:
        latency: Stamp of the frame to the time between its publication and the arrival of its command, s.
        forward: Stamp of the frame to the time of the model's forward pass, s.
        arrivals: When each command arrived, s on the steady clock, in order.
        versions: Policy version of each command, in the same order.
    """

    latency: dict[int, float] = field(default_factory=dict)
    forward: dict[int, float] = field(default_factory=dict)
    arrivals: list[float] = field(default_factory=list)
    versions: list[str] = field(default_factory=list)


class Rig(Node):
    """Publishes what the profile's cameras and joints promise; the joints follow their commands at once.

    Attributes:
        answers: What came back.
        published: Topic to the number of its messages.
        changes: Topic to what becomes of the stamps of its messages, ns; a message without one is not sent.

    Args:
        profile: Robot profile: topics, sizes and rates of the cameras.
        joint_rate: Rate of the joint states, Hz.
        action_topic: Topic on which the policy's actions are timed.
        command_topic: Topic on which the commands that answer the frames arrive.
    """

    def __init__(
        self,
        profile: RobotProfile,
        joint_rate: float = 100.0,
        action_topic: str = "/irevla/action",
        command_topic: str = "/irevla/command",
    ) -> None:
        super().__init__("irevla_rig")
        self.answers = Answers()
        self.published: dict[str, int] = {}
        self.changes: dict[str, Callable[[int], int | None]] = {}
        self._profile = profile
        self._positions = np.array(profile.home)
        self._joints = self.create_publisher(JointState, profile.joint_states_topic, qos.sensor())
        self._streams = [_Stream(joint_rate, profile.joint_states_topic, self._publish_joints)]
        random = np.random.default_rng(0)
        for camera in profile.cameras:
            publisher = self.create_publisher(Image, camera.topic, qos.sensor())
            shape = (_DIFFERENT_FRAMES, camera.height, camera.width, 3)
            frames = [image_message(frame, 0, camera.name) for frame in random.integers(0, 255, shape, dtype=np.uint8)]
            self._streams.append(_Stream(camera.rate, camera.topic, _Frames(self, publisher, frames)))
        self.create_subscription(Action, action_topic, self._on_action, qos.recorded())
        self.create_subscription(Command, command_topic, self._on_command, qos.recorded())
        if profile.command.type == "trajectory_msgs/JointTrajectory":
            self.create_subscription(JointTrajectory, profile.command.topic, self._on_trajectory, qos.command())

    def now(self) -> int:
        """Present ROS time, ns."""
        return int(self.get_clock().now().nanoseconds)

    def play(self, seconds: float, going: Callable[[], bool] = lambda: True) -> None:
        """Publish every stream at its rate; blocks. Spin the node in another thread meanwhile.

        Args:
            seconds: How long.
            going: Ends it earlier when it turns false.
        """
        start = time.monotonic()
        due = [(start + index * 1e-4, stream) for index, stream in enumerate(self._streams)]
        while True:
            due.sort(key=lambda entry: entry[0])
            at, stream = due[0]
            if at - start >= seconds or not going():
                return
            delay = at - time.monotonic()
            if delay > 0:
                time.sleep(delay)
            stamp = self.changes.get(stream.topic, _as_it_is)(self.now())
            if stamp is not None:
                stream.publish(stamp)
            self.published[stream.topic] = self.published.get(stream.topic, 0) + 1
            due[0] = (at + 1.0 / stream.rate, stream)

    def _publish_joints(self, stamp: int) -> None:
        self._joints.publish(joint_state_message(self._profile, stamp, self._positions, 0.0))

    def _on_trajectory(self, message: JointTrajectory) -> None:
        self._positions = setpoints_of(message, self._profile)[0][-1].position

    def _on_action(self, message: Action) -> None:
        self.answers.forward[nanoseconds(message.header.stamp)] = message.forward_seconds

    def _on_command(self, message: Command) -> None:
        if message.source == Command.SOURCE_HOLD:
            return
        stamp = nanoseconds(message.header.stamp)
        self.answers.latency[stamp] = (self.now() - stamp) * 1e-9
        self.answers.arrivals.append(time.monotonic())
        self.answers.versions.append(message.policy_version)


def _as_it_is(stamp: int) -> int | None:
    return stamp


@dataclass(frozen=True)
class _Stream:
    rate: float
    topic: str
    publish: Callable[[int], None]


class _Frames:
    """Publishes a few different frames in turn, each with its own stamp."""

    def __init__(self, node: Rig, publisher: Publisher, frames: list[Image]) -> None:
        self._node, self._publisher, self._frames, self._next = node, publisher, frames, 0

    def __call__(self, stamp: int) -> None:
        frame = self._frames[self._next % len(self._frames)]
        self._next += 1
        frame.header.stamp = time_message(stamp)
        self._publisher.publish(frame)

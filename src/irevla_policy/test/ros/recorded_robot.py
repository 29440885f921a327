"""What a robot in lock-step publishes, and its calls of the recorder."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import rclpy
from rclpy.executors import SingleThreadedExecutor
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import String

from irevla_msgs.msg import Command, EpisodeInfo, StepInfo
from irevla_msgs.srv import StartEpisode
from irevla_policy.recording import topics
from irevla_policy.robot.profile import load_profile
from irevla_policy.ros import qos
from irevla_policy.ros.messages import image_message, joint_state_message, time_message

PROFILE = load_profile("sawyer")
START = 1_700_000_000_000_000_000
PERIOD = 50_000_000
PATIENCE = 15.0


class Robot:
    """Publishes what a robot in lock-step publishes, and calls the recorder."""

    def __init__(self) -> None:
        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        self.node = rclpy.create_node("robot", context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        sensor = qos.sensor(lock_step=True, depth=100)
        self.image = self.node.create_publisher(Image, "/camera/image_raw", sensor)
        self.joints = self.node.create_publisher(JointState, "/joint_states", sensor)
        self.step = self.node.create_publisher(StepInfo, topics.STEP_INFO, sensor)
        self.command = self.node.create_publisher(Command, topics.COMMAND, qos.recorded())
        self.instruction = self.node.create_publisher(String, topics.INSTRUCTION, qos.latched())
        self.instruction.publish(String(data="reach the goal"))
        self.announced: list[EpisodeInfo] = []
        self.node.create_subscription(EpisodeInfo, topics.EPISODE_INFO, self.announced.append, qos.latched())

    def call(self, kind: Any, name: str, **fields: Any) -> Any:
        client = self.node.create_client(kind, name)
        deadline = time.monotonic() + PATIENCE
        assert client.wait_for_service(PATIENCE), name
        future = client.call_async(kind.Request(**fields))
        while not future.done():
            self.executor.spin_once(0.05)
            assert time.monotonic() < deadline, f"{name} did not answer"
        return future.result()

    def start(self, acts: bool = True, **fields: Any) -> Any:
        """Start an episode. The recorder waits for the sensors; all is connected when it has heard them."""
        client = self.node.create_client(StartEpisode, "/irevla/start_episode")
        assert client.wait_for_service(PATIENCE)
        deadline = time.monotonic() + PATIENCE
        # Of the instruction it does not wait: a robot may have none.
        while not self.instruction.get_subscription_count():
            assert time.monotonic() < deadline, "the recorder does not hear instructions"
            self.executor.spin_once(0.02)
        future = client.call_async(StartEpisode.Request(**fields))
        while not future.done():
            assert time.monotonic() < deadline, "the episode was not started"
            self.observe(-1, acts=acts)
            self.executor.spin_once(0.1)
        return future.result()

    def observe(self, number: int, *, terminated: bool = False, camera: bool = True, acts: bool = True) -> None:
        stamp = START + number * PERIOD
        pixels = np.full((96, 96, 3), number % 256, np.uint8)
        if camera:
            self.image.publish(image_message(pixels, stamp, "camera"))
        self.joints.publish(joint_state_message(PROFILE, stamp, np.zeros(7), 0.0))
        info = StepInfo(step=max(number, 0), terminated=terminated, success=terminated, seed=5, task="reach")
        info.header.stamp = time_message(stamp)
        self.step.publish(info)
        if acts and not terminated:
            command = Command(values=[0.0] * 4, source=Command.SOURCE_INTERVENTION)
            command.header.stamp = time_message(stamp)
            self.command.publish(command)

    def close(self) -> None:
        self.executor.shutdown()
        self.node.destroy_node()
        rclpy.try_shutdown(context=self.context)

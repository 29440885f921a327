"""A stand-in for policy and guard: drives `irevla_sim` in its own process through real messages."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from rclpy.executors import SingleThreadedExecutor
from sensor_msgs.msg import CameraInfo, Image, JointState
from std_msgs.msg import String
from trajectory_msgs.msg import JointTrajectory

from irevla_msgs.msg import Action, StepInfo
from irevla_msgs.srv import ResetWorld
from irevla_policy.robot.action import ActionMapper
from irevla_policy.robot.kinematics import ArmKinematics
from irevla_policy.robot.limits import MotionLimiter
from irevla_policy.robot.profile import RobotProfile, load_profile
from irevla_policy.ros import qos
from irevla_policy.ros.messages import joint_positions, nanoseconds, trajectory_message


@contextmanager
def process(module: str, tmp_path: Path, **parameters: Any) -> Iterator[subprocess.Popen[str]]:
    """A node in a process of its own; what it prints lies in `tmp_path`/MODULE.log."""
    words = [sys.executable, "-m", f"irevla_policy.ros.{module}", "--ros-args"]
    for name, value in parameters.items():
        words += ["-p", f"{name}:={str(value).lower() if isinstance(value, bool) else value}"]
    with open(tmp_path / f"{module}.log", "w") as log:
        running = subprocess.Popen(words, stdout=log, stderr=subprocess.STDOUT, text=True, env=dict(os.environ))
    try:
        yield running
    finally:
        if running.poll() is None:
            running.send_signal(signal.SIGINT)
            try:
                running.wait(5.0)
            except subprocess.TimeoutExpired:
                running.kill()
                running.wait()


@dataclass
class Seen:
    """What was published with one stamp."""

    image: np.ndarray | None = None
    joints: JointState | None = None
    step: StepInfo | None = None

    @property
    def complete(self) -> bool:
        return self.image is not None and self.joints is not None and self.step is not None


@dataclass
class SimClient:
    """Subscribes to everything that the simulator publishes; spins in the caller's thread."""

    lock_step: bool = True
    profile: RobotProfile = field(default_factory=lambda: load_profile("sawyer"))

    def __post_init__(self) -> None:
        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        self.node = rclpy.create_node("sim_client", context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.seen: dict[int, Seen] = {}
        self.stamps: dict[str, list[int]] = {"image": [], "joints": [], "step": []}
        self.calibrations: dict[str, dict[int, CameraInfo]] = {camera.name: {} for camera in self.profile.cameras}
        self.instructions: list[str] = []
        self.interventions: dict[int, Action] = {}
        self.kinematics = ArmKinematics(self.profile)
        self.mapper = ActionMapper(self.profile, self.kinematics)
        self.limiter = MotionLimiter(self.profile, self.kinematics, 1.0 / self.profile.guard_rate)
        sensor = qos.sensor(self.lock_step, depth=20)
        subscribe = self.node.create_subscription
        subscribe(Image, self.profile.cameras[0].topic, self._on_image, sensor)
        for name, topic in self.profile.info_topics.items():
            kept = self.calibrations[name]
            subscribe(CameraInfo, topic, lambda m, k=kept: k.update({nanoseconds(m.header.stamp): m}), sensor)
        subscribe(JointState, self.profile.joint_states_topic, lambda m: self._keep("joints", m), sensor)
        subscribe(StepInfo, "/irevla/step_info", lambda m: self._keep("step", m), sensor)
        subscribe(String, "/irevla/instruction", lambda m: self.instructions.append(m.data), qos.latched())
        subscribe(Action, "/irevla/intervention", self._on_intervention, qos.command(self.lock_step))
        self.commands = self.node.create_publisher(
            JointTrajectory, self.profile.command.topic, qos.command(self.lock_step)
        )
        self.reset_client = self.node.create_client(ResetWorld, "/irevla/reset")

    def close(self) -> None:
        self.executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown(context=self.context)

    def wait(self, until: Callable[[], Any], seconds: float = 20.0) -> Any:
        """Spin until something is true; fails after a time."""
        deadline = time.monotonic() + seconds
        while not (value := until()):
            assert time.monotonic() < deadline, "nothing came"
            self.executor.spin_once(timeout_sec=0.05)
        return value

    def ready(self) -> None:
        """Wait until the simulator has been heard and hears."""
        self.wait(lambda: any(seen.complete for seen in self.seen.values()), seconds=30.0)
        self.wait(lambda: self.commands.get_subscription_count() > 0)
        self.begin()

    def spin(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.executor.spin_once(timeout_sec=0.01)

    def reset(self, task: str, seed: int, variation: str = "") -> ResetWorld.Response:
        self.wait(self.reset_client.service_is_ready)
        future = self.reset_client.call_async(ResetWorld.Request(task=task, variation=variation, seed=seed))
        response = self.wait(lambda: future.done() and future.result())
        self.begin()
        return response

    def begin(self) -> None:
        """A new episode: what is commanded next is relative to what is measured."""
        self.mapper.reset()
        self._limited = False

    def observation(self, stamp: int) -> Seen:
        """All that was published with a stamp."""
        self.wait(lambda: stamp in self.seen and self.seen[stamp].complete)
        return self.seen[stamp]

    def send(self, seen: Seen, values: np.ndarray) -> None:
        """Answer an observation as policy and guard would, in lock-step."""
        joints, _ = joint_positions(seen.joints, self.profile)
        target, gripper = self.mapper.target(joints, values)
        self.send_target(seen, target, gripper)

    def send_target(self, seen: Seen, target: np.ndarray, gripper: float) -> None:
        joints, _ = joint_positions(seen.joints, self.profile)
        if not self._limited:
            self.limiter.reset(joints)
            self._limited = True
        setpoints, _ = self.limiter.plan(target, self.profile.substeps)
        stamp = nanoseconds(seen.joints.header.stamp)
        dt = round(1e9 / self.profile.guard_rate)
        self.commands.publish(trajectory_message(self.profile, stamp, setpoints, gripper, dt))

    def _on_image(self, message: Image) -> None:
        image = np.frombuffer(message.data, np.uint8).reshape(message.height, message.width, 3)
        assert message.encoding == "rgb8"
        assert message.header.frame_id == f"{self.profile.cameras[0].name}_optical_frame"
        self._keep("image", image, nanoseconds(message.header.stamp))

    def _on_intervention(self, message: Action) -> None:
        self.interventions[nanoseconds(message.header.stamp)] = message

    def _keep(self, what: str, value: Any, stamp: int | None = None) -> None:
        stamp = nanoseconds(value.header.stamp) if stamp is None else stamp
        setattr(self.seen.setdefault(stamp, Seen()), what, value)
        self.stamps[what].append(stamp)

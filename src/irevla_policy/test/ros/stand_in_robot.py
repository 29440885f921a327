"""A robot for graph tests: perfect joints, a camera, and an account of everything that the guard says."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.executors import SingleThreadedExecutor
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import String
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from irevla_msgs.msg import Action, Command, PolicyStatus
from irevla_policy.robot.profile import RobotProfile, load_profile
from irevla_policy.ros import qos
from irevla_policy.ros.messages import image_message, joint_state_message, nanoseconds, setpoints_of

PROFILE = load_profile("sawyer")
SOURCES = [str(Path(__file__).parents[2])]


class StandInRobot:
    """Publishes sensors until told otherwise, follows the guard's trajectories, and keeps all that it says."""

    def __init__(self, profile: RobotProfile = PROFILE) -> None:
        self.profile = profile
        domain = int(os.environ["ROS_DOMAIN_ID"])  # of its own for every test run
        self.context = rclpy.Context()
        rclpy.init(context=self.context, domain_id=domain)
        self.node = rclpy.create_node("stand_in_robot", context=self.context)
        self.domain = domain
        self.measured = np.array(self.profile.home)
        self.camera = self.joints = True
        self.camera_every = 5  # joint states, which come at 100 Hz
        self.change_joints: Callable[[JointState], None] = lambda message: None
        self.change_image: Callable[[Image], None] = lambda message: None
        self.status = PolicyStatus()
        self.diagnosed: dict[str, DiagnosticStatus] = defaultdict(DiagnosticStatus)
        self.commands: list[Command] = []
        self.actions: list[Action] = []
        self.path: list[tuple[int, np.ndarray]] = []
        self.arrived: list[float] = []
        self.ahead: list[float] = []  # s from a trajectory's arrival to its start
        node = self.node
        self.images = node.create_publisher(Image, self.profile.cameras[0].topic, qos.sensor())
        self._states = node.create_publisher(JointState, self.profile.joint_states_topic, qos.sensor())
        self._instructions = node.create_publisher(String, "/irevla/instruction", qos.latched())
        self.interventions = node.create_publisher(Action, "/irevla/intervention", qos.command())
        node.create_subscription(JointTrajectory, self.profile.command.topic, self._on_trajectory, qos.recorded())
        node.create_subscription(Command, "/irevla/command", self.commands.append, qos.recorded())
        node.create_subscription(Action, "/irevla/action", self.actions.append, qos.recorded())
        node.create_subscription(PolicyStatus, "/irevla/policy_status", self._on_status, qos.latched())
        node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, qos.event())
        camera = self.profile.cameras[0]
        self._frame = np.zeros((camera.height, camera.width, 3), np.uint8)
        self._ending = threading.Event()
        self._executor = SingleThreadedExecutor(context=self.context)
        self._executor.add_node(node)
        self._threads = [threading.Thread(target=self._executor.spin), threading.Thread(target=self._sense)]
        for thread in self._threads:
            thread.start()

    def say(self, instruction: str) -> None:
        self._instructions.publish(String(data=instruction))

    def call(self, service: str, kind: Any = Trigger, **fields: Any) -> Any:
        client = self.node.create_client(kind, service)
        assert client.wait_for_service(5.0), service
        future = client.call_async(kind.Request(**fields))
        self.wait(future.done, f"answer of {service}", 30.0)
        return future.result()

    def wait(self, until: Callable[[], Any], what: str, seconds: float = 5.0) -> None:
        deadline = time.monotonic() + seconds
        while not until():
            assert time.monotonic() < deadline, f"{what} did not come; status: {self.status}"
            time.sleep(0.005)

    def wait_for_state(self, state: int, code: str = "", seconds: float = 5.0) -> None:
        self.wait(
            lambda: self.status.state == state and (not code or code in self.status.reason_codes),
            f"state {state} {code}",
            seconds,
        )

    def close(self) -> None:
        self._ending.set()
        self._threads[1].join()
        self._executor.shutdown()
        self._threads[0].join()
        self.node.destroy_node()
        self.context.try_shutdown()

    def start(self, *command: str) -> subprocess.Popen[str]:
        """Start a Python process in the robot's domain."""
        environment = dict(os.environ) | {"ROS_DOMAIN_ID": str(self.domain), "OMP_NUM_THREADS": "1"}
        environment["PYTHONPATH"] = os.pathsep.join([*SOURCES, environment.get("PYTHONPATH", "")])
        return subprocess.Popen(
            [sys.executable, *command],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            pipesize=1 << 20,  # for all that is said until it is read, at the end
        )

    def _sense(self) -> None:
        due, tick = time.monotonic(), 0
        while not self._ending.is_set():
            stamp = int(self.node.get_clock().now().nanoseconds)
            if self.joints:
                states = joint_state_message(self.profile, stamp, self.measured, 0.1)
                self.change_joints(states)
                self._states.publish(states)
            if self.camera and tick % self.camera_every == 0:
                image = image_message(self._frame, stamp)
                self.change_image(image)
                self.images.publish(image)
            tick += 1
            due += 0.01
            time.sleep(max(0.0, due - time.monotonic()))

    def _on_trajectory(self, message: JointTrajectory) -> None:
        setpoints, _ = setpoints_of(message, self.profile)
        self.arrived.append(time.monotonic())
        self.ahead.append((nanoseconds(message.header.stamp) - time.time_ns()) * 1e-9)
        self.path.append((nanoseconds(message.header.stamp), setpoints[-1].position))
        self.measured = setpoints[-1].position

    def _on_status(self, message: PolicyStatus) -> None:
        self.status = message

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            self.diagnosed[status.name] = status


def finish(process: subprocess.Popen[str], number: int = 2) -> str:
    """Send a signal (SIGINT) and wait for a clean end; returns what the process wrote."""
    process.send_signal(number)
    try:
        output, _ = process.communicate(timeout=5.0)
    except subprocess.TimeoutExpired:
        process.kill()
        output, _ = process.communicate()
        raise AssertionError(f"did not end within 5 s: {output}") from None
    return output

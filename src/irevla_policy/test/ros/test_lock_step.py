"""Simulator, guard and policy in lock-step over DDS do bit by bit what the world does in one process."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import rclpy
import torch
from rclpy.executors import SingleThreadedExecutor
from sensor_msgs.msg import JointState

from irevla_msgs.msg import Action, Command
from irevla_msgs.srv import ResetWorld
from irevla_policy.model.checkpoint import save_checkpoint
from irevla_policy.model.config import ModelSettings, RobotFacts
from irevla_policy.model.policy import VLAPolicy
from irevla_policy.robot.profile import load_profile
from irevla_policy.robot.proprioception import proprioceptive_state
from irevla_policy.ros import qos
from irevla_policy.ros.messages import joint_positions, nanoseconds
from irevla_policy.sim.metaworld import MetaWorld

PROFILE = load_profile("sawyer")
TASK, OTHER_TASK, STEPS = "button-press-topdown", "drawer-open", 6


def in_process(policy: VLAPolicy, task: str, seed: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Actions, and joint positions after each, of the first steps."""
    world = MetaWorld(PROFILE)
    try:
        observation = world.reset(task, "", seed)
        actions, joints = [], []
        for _ in range(STEPS):
            state = proprioceptive_state(PROFILE, world.kinematics, observation.joint_positions, observation.gripper)
            actions.append(policy.act([observation], state[None])[0, 0])
            observation = world.step(actions[-1]).observation
            joints.append(observation.joint_positions)
        return actions, joints
    finally:
        world.close()


class Watcher:
    """Keeps actions, commands and joint states by stamp."""

    def __init__(self) -> None:
        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        self.node = rclpy.create_node("watcher", context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.actions: dict[int, Action] = {}
        self.commands: dict[int, Command] = {}
        self.joints: dict[int, np.ndarray] = {}
        self.node.create_subscription(Action, "/irevla/action", self._keep(self.actions), qos.recorded())
        self.node.create_subscription(Command, "/irevla/command", self._keep(self.commands), qos.recorded())
        self.node.create_subscription(
            JointState, PROFILE.joint_states_topic, self._on_joints, qos.sensor(lock_step=True, depth=100)
        )
        self.reset = self.node.create_client(ResetWorld, "/irevla/reset")

    def _keep(self, where):
        def keep(message):
            where[nanoseconds(message.header.stamp)] = message

        return keep

    def _on_joints(self, message: JointState) -> None:
        self.joints[nanoseconds(message.header.stamp)] = joint_positions(message, PROFILE)[0]

    def wait(self, until, what: str, seconds: float = 120.0) -> None:
        deadline = time.monotonic() + seconds
        while not until():
            assert time.monotonic() < deadline, f"{what} did not come"
            self.executor.spin_once(0.05)

    def close(self) -> None:
        self.node.destroy_node()
        self.context.try_shutdown()


def start(module: str, **parameters: object) -> subprocess.Popen[bytes]:
    words = [part for name, value in parameters.items() for part in ("-p", f"{name}:={value}")]
    command = [sys.executable, "-m", f"irevla_policy.ros.{module}", "--ros-args", "-p", "lock_step:=true", *words]
    return subprocess.Popen(command)


def test_the_graph_does_what_the_world_does_in_process(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    policy = VLAPolicy.create(ModelSettings(), RobotFacts.of(PROFILE), seed=3)
    save_checkpoint(tmp_path / "checkpoint", policy)
    nodes = [
        start("guard_node"),
        start("policy_node", checkpoint=tmp_path / "checkpoint", threads=1),
        start("sim_node", task=TASK, seed=5),
    ]
    watcher = Watcher()
    try:
        watcher.wait(lambda: len(watcher.commands) > STEPS, "the first commands")
        for task, seed in ((TASK, 7), (OTHER_TASK, 8)):
            # In the middle of an episode: nothing of it may leak into the next.
            watcher.wait(watcher.reset.service_is_ready, "the reset service")
            answer = watcher.reset.call_async(ResetWorld.Request(task=task, seed=seed))
            watcher.wait(answer.done, "the reset")
            assert answer.result().accepted, answer.result().message
            first = nanoseconds(answer.result().stamp)
            period = round(1e9 / PROFILE.control_rate)
            stamps = [first + index * period for index in range(STEPS + 1)]
            watcher.wait(lambda stamps=stamps: stamps[-1] in watcher.joints, "the last step")
            watcher.wait(lambda stamps=stamps: all(stamp in watcher.actions for stamp in stamps[:-1]), "the actions")
            actions, joints = in_process(policy, task, seed)
            for index in range(STEPS):
                assert (np.array(watcher.actions[stamps[index]].values) == actions[index]).all(), index
                assert (watcher.joints[stamps[index + 1]] == joints[index]).all(), index
    finally:
        for node in nodes:
            node.send_signal(signal.SIGINT)
        for node in nodes:
            try:
                node.wait(5.0)
            except subprocess.TimeoutExpired:
                node.kill()
        watcher.close()
    assert [node.returncode for node in nodes] == [0, 0, 0]

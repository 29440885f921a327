"""`irevla_expert`: the scripted expert as an intervention device.

Answers every /irevla/step_info, by its stamp, with an /irevla/intervention that goes the way of the policy's actions:
raw action, joint target through the same mapping, gripper.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from rclpy.node import Node
from sensor_msgs.msg import JointState

from irevla_msgs.msg import Action, StepInfo
from irevla_policy.errors import UserError
from irevla_policy.robot.action import ActionMapper
from irevla_policy.robot.kinematics import ArmKinematics
from irevla_policy.robot.observation import Vector
from irevla_policy.robot.profile import load_profile
from irevla_policy.ros import qos
from irevla_policy.ros.lifecycle import spin
from irevla_policy.ros.messages import floats, joint_positions, nanoseconds
from irevla_policy.ros.parameters import NodeSettings, declare
from irevla_policy.settings import setting
from irevla_policy.sim.experts import Expert, expert_for
from irevla_policy.sim.tasks import METAWORLD, WORLDS

_KEPT = 64
_LOG_SECONDS = 2.0


@dataclass(frozen=True)
class ExpertSettings(NodeSettings):
    """Parameters of `irevla_expert`."""

    world: str = setting(METAWORLD, "Simulated world, whose experts act", choices=WORLDS)
    noise: float = setting(
        0.0, "Standard deviation of Gaussian noise on the displacement, in units of actions", at_least=0.0, at_most=1.0
    )
    seed: int = setting(0, "Seed of the noise, together with the episode's seed", at_least=0)


class ExpertNode(Node):
    """Pairs step information with the joint states of the same stamp and answers each pair once."""

    def __init__(self) -> None:
        super().__init__("irevla_expert")
        self._settings = declare(self, ExpertSettings)
        self._profile = load_profile(self._settings.robot)
        self._mapper = ActionMapper(self._profile, ArmKinematics(self._profile))
        self._expert: Expert | None = None
        self._episode: tuple[str, str, int] | None = None
        self._last_step = -1
        self._steps: dict[int, StepInfo] = {}
        self._joints: dict[int, Vector] = {}
        self._answer: Action | None = None
        sensor = qos.sensor(self._settings.lock_step, depth=20)
        command = qos.command(self._settings.lock_step)
        self._publisher = self.create_publisher(Action, "/irevla/intervention", command)
        self.create_subscription(StepInfo, "/irevla/step_info", self._on_step, sensor)
        self.create_subscription(JointState, self._profile.joint_states_topic, self._on_joints, sensor)

    def _on_joints(self, message: JointState) -> None:
        try:
            positions, _ = joint_positions(message, self._profile)
        except UserError as error:
            self.get_logger().error(str(error), throttle_duration_sec=_LOG_SECONDS)
            return
        self._joints[nanoseconds(message.header.stamp)] = positions
        self._pair(nanoseconds(message.header.stamp))

    def _on_step(self, message: StepInfo) -> None:
        stamp = nanoseconds(message.header.stamp)
        if self._answer is not None and nanoseconds(self._answer.header.stamp) == stamp:
            self._publisher.publish(self._answer)  # the observation was repeated: so is the answer, unchanged
            return
        self._steps[stamp] = message
        self._pair(stamp)

    def _pair(self, stamp: int) -> None:
        if stamp in self._steps and stamp in self._joints:
            step, positions = self._steps[stamp], self._joints[stamp]
            # Older ones were overtaken: they will never be answered.
            self._steps = {key: value for key, value in self._steps.items() if key > stamp}
            self._joints = {key: value for key, value in self._joints.items() if key > stamp}
            if not (step.terminated or step.truncated):
                self._act(step, positions)
        for kept in (self._steps, self._joints):
            while len(kept) > _KEPT:
                kept.pop(min(kept))

    def _act(self, step: StepInfo, positions: Vector) -> None:
        episode = (step.task, step.variation, step.seed)
        try:
            if episode != self._episode or step.step <= self._last_step or self._expert is None:
                seed = _mixed(self._settings.seed, step.seed)
                settings = self._settings
                self._expert = expert_for(step.task, settings.noise, seed, settings.world, self._profile)
                self._mapper.reset()
            values = self._expert.act(np.asarray(step.state, dtype=np.float64))
        except UserError as error:
            self.get_logger().error(f"/irevla/step_info: {error}", throttle_duration_sec=_LOG_SECONDS)
            return
        self._episode, self._last_step = episode, step.step
        target, gripper = self._mapper.target(positions, values)
        self._answer = Action(
            values=floats(values),
            joint_names=list(self._profile.joint_names),
            joint_target=floats(target),
            gripper=gripper,
        )
        self._answer.header.stamp = step.header.stamp
        self._publisher.publish(self._answer)


def _mixed(seed: int, episode: int) -> int:
    """One seed of two, different for every pair that matters."""
    return (seed * 1_000_003 + max(episode, 0)) % 2**63


def main(args: list[str] | None = None) -> None:
    """Run the node until SIGINT."""
    spin(ExpertNode, args)


if __name__ == "__main__":
    main()

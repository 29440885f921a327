"""`irevla_arm`: /irevla/reset on an arm: it goes home between episodes, on a way that touches nothing.

The way goes to the guard as an intervention, so limits, watchdogs and E-stop hold as for everybody else; a stop of the
guard ends it. The instruction of the next episode is published once the arm is there.
"""

from __future__ import annotations

import random
import time
from collections import deque
from dataclasses import dataclass
from functools import partial

import numpy as np
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.node import Node
from rclpy.task import Future
from sensor_msgs.msg import JointState
from std_msgs.msg import String

from irevla_msgs.msg import Action, PolicyStatus
from irevla_msgs.srv import ResetWorld
from irevla_policy.errors import UserError
from irevla_policy.robot.observation import ObservationError, Vector
from irevla_policy.robot.profile import load_profile
from irevla_policy.robot.proposal import Proposal
from irevla_policy.ros import qos
from irevla_policy.ros.guard_messages import action_message
from irevla_policy.ros.lifecycle import spin
from irevla_policy.ros.messages import joint_positions, nanoseconds, time_message
from irevla_policy.ros.moveit import SceneSettings, planner
from irevla_policy.ros.parameters import NodeSettings, declare
from irevla_policy.ros.planner_process import PlannerProcess
from irevla_policy.settings import setting
from irevla_policy.sim.tasks import TaskError, load_tasks

_OPEN = -1.0
_RESTING = 2e-3
"""rad per control period and joint, below which the arm is at rest."""

_SETTLING = 3  # control periods in a row that it rests before the way is planned
_PATIENCE = 3.0  # s until it rests, and until it has arrived after the end of the way
_PLANNING = 30.0  # s
_PUSHED = 0.01  # rad that a joint may have moved while the way was planned
_LETS_GO = 0.3  # s that somebody who moves the arm is silent at most
_HELD = 0.5  # s that the guard may hold before the way is given up
_FRESH = 0.5  # s
_OFF, _BEHIND = 0.05, 0.5
"""rad that a joint may be off its way, and s at the way's own pace by which it may be behind."""


@dataclass(frozen=True)
class ArmSettings(SceneSettings, NodeSettings):
    """Parameters of `irevla_arm`."""

    tasks: str = setting("", "Tasks whose instructions a reset publishes: a name in config/tasks, or a YAML file")
    speed: float = setting(
        0.5, "Share of the joints' largest speeds and accelerations on the way home", above=0.0, at_most=1.0
    )
    check_collisions: bool = setting(True, "Check the way for collisions; MoveIt always does")
    arrived: float = setting(0.02, "Distance of every joint from home that counts as there", unit="rad", above=0.0)
    open_gripper: bool = setting(True, "Whether the gripper opens at home")


@dataclass
class _Way:
    """A reset that goes on.

    Attributes:
        done: Set with an empty text when the arm is there, else with what went wrong.
        deadline: Of the phase at hand, s of the steady clock.
        held: Since when the guard has held, s; None while it follows.
        rested: Control periods in a row that the arm has rested.
        target: Where it is told to be now, rad, `[n]`.
        left_alone_from: From when on nobody else has moved the arm, s of the steady clock.
        start: Where it has come to rest, rad, `[n]`; None until then.
        points: What is left of the way, rad, `[k, n]`; None until it is planned.
    """

    done: Future
    deadline: float
    target: Vector
    held: float | None = None
    rested: int = 0
    left_alone_from: float = 0.0
    start: Vector | None = None
    points: list[Vector] | None = None


class ArmNode(Node):
    """Brings the arm home when it is asked to."""

    def __init__(self) -> None:
        super().__init__("irevla_arm")
        self._settings = declare(self, ArmSettings)
        self._profile = load_profile(self._settings.robot)
        self._tasks = load_tasks(self._settings.tasks) if self._settings.tasks else None
        wanted = self._settings.speed, self._settings.check_collisions
        self._planner = PlannerProcess(partial(planner, self._profile, self._settings, *wanted))
        self._measured: tuple[float, int, Vector] | None = None
        self._before: Vector | None = None
        self._status = PolicyStatus()
        self._gripper = 0.0
        self._way: _Way | None = None
        # Joint targets of this node's own interventions, which come back to it.
        self._said: deque[tuple[float, ...]] = deque(maxlen=100)
        self._intervention = self.create_publisher(Action, "/irevla/intervention", qos.command())
        self._instruction = self.create_publisher(String, "/irevla/instruction", qos.latched())
        self.create_subscription(JointState, self._profile.joint_states_topic, self._on_joints, qos.sensor())
        self.create_subscription(PolicyStatus, "/irevla/policy_status", self._on_status, qos.latched())
        self.create_subscription(Action, "/irevla/intervention", self._on_intervention, qos.command())
        # The answer waits for the arm, which moves by the timer meanwhile.
        self.create_service(ResetWorld, "/irevla/reset", self._on_reset, callback_group=ReentrantCallbackGroup())
        self._period = 1.0 / self._profile.control_rate
        fastest = np.array([joint.velocity for joint in self._profile.joints])
        self._off = _OFF + _BEHIND * self._settings.speed * fastest
        self.create_timer(self._period, self._on_tick)

    def close(self) -> None:
        """End the process that plans."""
        self._planner.close()

    # What comes in.

    def _on_joints(self, message: JointState) -> None:
        try:
            positions, opening = joint_positions(message, self._profile)
        except ObservationError as error:
            self.get_logger().error(str(error), throttle_duration_sec=2.0)
            return
        self._measured = time.monotonic(), nanoseconds(message.header.stamp), positions
        if self._way is None and self._profile.gripper is not None:
            closed, opened = self._profile.gripper.opening
            self._gripper = float(np.clip(1.0 - 2.0 * (opening - closed) / (opened - closed), -1.0, 1.0))

    def _on_status(self, message: PolicyStatus) -> None:
        self._status = message

    def _on_intervention(self, message: Action) -> None:
        way = self._way
        if way is None or tuple(message.joint_target) in self._said:
            return
        if way.start is not None:
            self._end(way, "somebody else moves the arm (/irevla/intervention)")
        # Whoever has just driven may still hold on: the arm comes to rest when they let go.
        way.left_alone_from = time.monotonic() + _LETS_GO
        self._before = None

    async def _on_reset(self, request: ResetWorld.Request, response: ResetWorld.Response) -> ResetWorld.Response:
        try:
            seed, instruction = self._asked(request)
            done = self._begin()
        except UserError as error:
            response.message = str(error)
            self.get_logger().error(f"reset refused: {error}")
            return response
        wrong = await done
        if wrong:
            response.message = wrong
            self.get_logger().error(f"reset given up: {wrong}")
            return response
        if instruction:
            self._instruction.publish(String(data=instruction))
        assert self._measured is not None
        response.accepted, response.seed = True, seed
        response.instruction = instruction or self._status.instruction
        response.stamp = time_message(self._measured[1])
        self.get_logger().info(f"at home{f': {instruction}' if instruction else ''}")
        return response

    def _asked(self, request: ResetWorld.Request) -> tuple[int, str]:
        """Seed and instruction of the next episode; no instruction leaves the one in force."""
        if request.seed < -1:
            raise TaskError(f"seed: must be at least 0, or -1 to draw one, found {request.seed}")
        seed = request.seed if request.seed >= 0 else random.SystemRandom().randrange(2**31)
        if not request.task:
            return seed, ""
        if self._tasks is None:
            raise TaskError(
                f"task {request.task!r}: this arm knows no tasks; set the parameter `tasks` of irevla_arm, or publish "
                "the instruction yourself"
            )
        return seed, self._tasks.instruction(self._tasks.task_name(request.task), request.variation, seed)

    def _begin(self) -> Future:
        if self._way is not None:
            raise UserError("a reset goes on already")
        if self._measured is None or time.monotonic() - self._measured[0] > _FRESH:
            raise UserError(f"no joint states on {self._profile.joint_states_topic}: where the arm is, is not known")
        self._before = None
        self._way = _Way(Future(), time.monotonic() + _PATIENCE, self._measured[2])
        return self._way.done

    # What goes out.

    def _on_tick(self) -> None:
        way = self._way
        if way is None:
            return
        assert self._measured is not None
        now = time.monotonic()
        wrong = self._complaint(way, now)
        if not wrong:
            try:
                self._advance(way, self._measured[2], now)
            except UserError as error:
                wrong = str(error)
        if wrong:
            self._end(way, wrong)

    def _complaint(self, way: _Way, now: float) -> str:
        """Why the way is given up; empty while it is not."""
        assert self._measured is not None
        if now - self._measured[0] > _FRESH:
            return f"{self._profile.joint_states_topic}: nothing came for {_FRESH:g} s"
        if self._status.state == PolicyStatus.STATE_ESTOPPED:
            return "the E-stop is set"
        if self._status.state == PolicyStatus.STATE_INTERVENED:
            way.held = None
        elif way.held is None:
            way.held = now
        elif now - way.held > _HELD:
            return f"the guard does not follow: {self._status.reason or 'it is not active'}"
        beyond = np.abs(self._measured[2] - way.target) - self._off
        if way.points is not None and beyond.max() > 0.0:
            name = self._profile.joint_names[int(np.argmax(beyond))]
            return f"the arm is off its way: something moves or holds joint {name!r}"
        if now <= way.deadline:
            return ""
        if way.start is not None and way.points is None:
            return f"no way home is found within {_PLANNING:g} s"
        if way.points is None:
            return f"the arm does not come to rest within {_PATIENCE:g} s"
        joint = int(np.argmax(np.abs(self._measured[2] - way.target)))
        name = self._profile.joint_names[joint]
        return f"the arm does not arrive: joint {name!r} is {self._measured[2][joint] - way.target[joint]:+.3f} rad off"

    def _advance(self, way: _Way, measured: Vector, now: float) -> None:
        """Rest, then plan, then the way, then wait for the arm to be there."""
        if way.start is None:
            moved = np.inf if self._before is None else float(np.abs(measured - self._before).max())
            self._before, way.rested = measured, way.rested + 1 if moved < _RESTING else 0
            if way.rested >= _SETTLING:
                way.start, way.deadline = measured, now + _PLANNING
                self._planner.begin(measured, self._period)
        elif way.points is None:
            if np.abs(measured - way.start).max() > _PUSHED:
                raise UserError("the arm was moved while its way home was planned")
            if (motion := self._planner.found()) is not None:
                way.points = list(motion.positions)
                way.deadline = now + len(way.points) * self._period + _PATIENCE
        elif way.points:
            # The arm is not left behind by a guard that holds for a moment.
            if way.held is None:
                way.target = way.points.pop(0)
        elif np.abs(measured - way.target).max() <= self._settings.arrived:
            if not self._settings.open_gripper or self._gripper == _OPEN:
                self._end(way, "")
                return
            self._gripper = _OPEN
        if now < way.left_alone_from:
            return
        names, target = self._profile.joint_names, tuple(way.target.tolist())
        self._said.append(target)
        self._intervention.publish(action_message(Proposal(0, (), names, target, self._gripper)))

    def _end(self, way: _Way, wrong: str) -> None:
        self._way = None
        way.done.set_result(wrong)


def main(args: list[str] | None = None) -> None:
    """Run the node until SIGINT."""
    spin(ArmNode, args)


if __name__ == "__main__":
    main()

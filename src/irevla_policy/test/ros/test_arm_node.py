"""The arm goes home when it is asked to, through a real guard, and says why when it does not."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from std_srvs.srv import Trigger

from irevla_msgs.msg import PolicyStatus
from irevla_msgs.srv import ResetWorld
from irevla_policy.robot.proposal import Proposal
from irevla_policy.ros.guard_messages import action_message
from irevla_policy.ros.messages import joint_state_message

sys.path.insert(0, str(Path(__file__).parent))
from stand_in_robot import PROFILE, StandInRobot, finish

HOME = np.array(PROFILE.home)
SLOW_PLANNER = Path(__file__).with_name("slow_planner.py")
AWAY = HOME + np.array([0.3, 0.1, 0.0, 0.2, 0.0, 0.0, -0.2])


@pytest.fixture(scope="module")
def robot() -> Iterator[StandInRobot]:
    robot = StandInRobot()
    guard = robot.start("-m", "irevla_policy.ros.guard_node")
    parameters = ["check_collisions:=false", "tasks:=metaworld", "speed:=0.05"]
    arm = robot.start(str(SLOW_PLANNER), "--ros-args", *(word for one in parameters for word in ("-p", one)))
    try:
        robot.wait_for_state(PolicyStatus.STATE_HOLDING, seconds=15.0)
        # Without joint states a reset is refused, and the arm may hear them later than the guard.
        robot.wait(lambda: robot.node.count_subscribers(PROFILE.joint_states_topic) == 2, "both listen", 15.0)
        robot.wait(lambda: reset(robot).accepted, "the first way home", 15.0)
        yield robot
        for process in (arm, guard):
            output = finish(process)
            assert process.returncode == 0, output
            assert "Traceback" not in output, output
    finally:
        arm.kill()
        guard.kill()
        robot.close()


def put(robot: StandInRobot, joints: np.ndarray) -> None:
    """Somebody drives the arm away."""
    deadline = time.monotonic() + 10.0
    while np.abs(robot.measured - joints).max() > 1e-3:
        assert time.monotonic() < deadline
        robot.interventions.publish(action_message(Proposal(0, (), PROFILE.joint_names, tuple(joints.tolist()))))
        time.sleep(0.05)
    robot.wait_for_state(PolicyStatus.STATE_HOLDING)
    robot.path.clear()


def reset(robot: StandInRobot, **fields: object) -> ResetWorld.Response:
    return robot.call("/irevla/reset", ResetWorld, **fields)


def begin_reset(robot: StandInRobot) -> Callable[[], ResetWorld.Response]:
    """A reset on a thread of its own, once it drives the arm; gives its answer when called, after at most 15 s."""
    answers: list[ResetWorld.Response] = []
    thread = threading.Thread(target=lambda: answers.append(reset(robot)))
    thread.start()
    robot.wait_for_state(PolicyStatus.STATE_INTERVENED)

    def answer() -> ResetWorld.Response:
        thread.join(15.0)
        return answers[0]

    return answer


def test_the_arm_goes_home_and_gets_the_next_instruction(robot: StandInRobot) -> None:
    put(robot, AWAY)
    answer = reset(robot, task="drawer-open", seed=4)
    assert answer.accepted, answer.message
    assert np.allclose(robot.measured, HOME, atol=0.02)
    assert answer.seed == 4 and "drawer" in answer.instruction
    robot.wait(lambda: robot.status.instruction == answer.instruction, "the instruction")
    path = np.array([position for _, position in robot.path])
    speeds = np.abs(np.diff(path, axis=0)) * PROFILE.guard_rate
    limits = np.array([joint.velocity for joint in PROFILE.joints])
    assert 0.0 < (speeds / limits).max() < 0.1  # of .05, where late ticks of two nodes add up


def test_an_estop_ends_the_way(robot: StandInRobot) -> None:
    put(robot, AWAY)
    answered = begin_reset(robot)
    busy = reset(robot)
    assert (busy.accepted, busy.message) == (False, "a reset goes on already")
    robot.call("/irevla/estop", Trigger)
    answer = answered()
    assert (answer.accepted, answer.message) == (False, "the E-stop is set")
    assert np.abs(robot.measured - HOME).max() > 0.05
    robot.call("/irevla/clear_estop", Trigger)
    assert reset(robot).accepted


def test_a_device_ends_the_way(robot: StandInRobot) -> None:
    put(robot, AWAY)
    answered = begin_reset(robot)
    robot.wait(lambda: np.abs(robot.measured - AWAY).max() > 0.02, "the way")
    here = tuple(robot.measured.tolist())
    robot.interventions.publish(action_message(Proposal(0, (0.0,) * 4, PROFILE.joint_names, here)))
    answer = answered()
    assert (answer.accepted, answer.message) == (False, "somebody else moves the arm (/irevla/intervention)")
    assert np.abs(robot.measured - HOME).max() > 0.05


def test_who_still_drives_when_a_reset_is_asked_for_is_waited_for(robot: StandInRobot) -> None:
    put(robot, AWAY)
    here = action_message(Proposal(0, (0.0,) * 4, PROFILE.joint_names, tuple(robot.measured.tolist())))
    robot.interventions.publish(here)
    answered = begin_reset(robot)
    for _ in range(8):
        robot.interventions.publish(here)
        time.sleep(0.1)
    assert answered().accepted


def test_an_arm_that_does_not_come_along_ends_the_way(robot: StandInRobot) -> None:
    put(robot, AWAY)
    answered = begin_reset(robot)
    robot.wait(lambda: np.abs(robot.measured - AWAY).max() > 0.02, "the way")
    stuck = joint_state_message(PROFILE, 0, robot.measured.copy(), 0.1).position
    robot.change_joints = lambda message: setattr(message, "position", stuck)
    answer = answered()
    robot.change_joints = lambda message: None
    assert not answer.accepted and answer.message.startswith("the arm is off its way: something moves or holds joint")


def test_a_guard_that_holds_is_named(robot: StandInRobot) -> None:
    put(robot, AWAY)
    robot.joints = False
    time.sleep(0.7)
    answer = reset(robot)
    robot.joints = True
    assert answer.message == "no joint states on /joint_states: where the arm is, is not known"
    time.sleep(0.3)
    assert reset(robot).accepted


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"task": "drawer-opn"}, "did you mean 'drawer-open'"),
        ({"task": "drawer-open", "variation": "violet"}, "no variation 'violet' of task 'drawer-open'"),
        ({"seed": -2}, "seed: must be at least 0, or -1 to draw one, found -2"),
    ],
)
def test_what_does_not_fit_is_refused(robot: StandInRobot, fields: dict[str, object], word: str) -> None:
    answer = reset(robot, **fields)
    assert not answer.accepted and word in answer.message


def test_while_the_way_is_planned_the_arm_is_told_to_stay(robot: StandInRobot) -> None:
    put(robot, AWAY)
    answered = begin_reset(robot)
    states = set()
    for _ in range(80):
        states.add(robot.status.state)
        time.sleep(0.01)
    assert states == {PolicyStatus.STATE_INTERVENED}
    assert np.allclose(robot.measured, AWAY, atol=2e-3)
    answer = answered()
    assert answer.accepted, answer.message

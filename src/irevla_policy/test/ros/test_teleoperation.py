"""Keyboard and joystick drive a robot through a real guard, and let go of it."""

from __future__ import annotations

import os
import pty
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from std_msgs.msg import Empty

from irevla_msgs.msg import PolicyStatus
from irevla_policy.robot.kinematics import ArmKinematics
from irevla_policy.robot.proposal import Proposal
from irevla_policy.ros import qos
from irevla_policy.ros.guard_messages import action_message

sys.path.insert(0, str(Path(__file__).parent))
from stand_in_robot import PROFILE, SOURCES, StandInRobot, finish

KINEMATICS = ArmKinematics(PROFILE)
BUTTON, AXIS, INITIAL = 1, 2, 0x80


@pytest.fixture(scope="module")
def robot() -> Iterator[StandInRobot]:
    robot = StandInRobot()
    guard = robot.start("-m", "irevla_policy.ros.guard_node")
    try:
        robot.wait_for_state(PolicyStatus.STATE_HOLDING, seconds=15.0)
        yield robot
        assert "Traceback" not in finish(guard)
    finally:
        guard.kill()
        robot.close()


def hand(robot: StandInRobot) -> np.ndarray:
    return KINEMATICS.position(robot.measured)


@pytest.fixture
def terminal(robot: StandInRobot) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """A terminal, whose end of the keyboard we hold, and the node in it."""
    ours, theirs = pty.openpty()
    environment = dict(os.environ) | {"PYTHONPATH": os.pathsep.join(SOURCES)}
    words = [sys.executable, "-m", "irevla_policy.ros.keyboard_node"]
    process = subprocess.Popen(words, stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment)
    try:
        robot.wait(lambda: robot.node.count_publishers("/irevla/intervention") == 2, "the keyboard", 15.0)
        yield ours, process
    finally:
        process.kill()
        os.close(ours)
        os.close(theirs)


def test_a_held_key_moves_the_hand_and_letting_go_stops_it(
    robot: StandInRobot, terminal: tuple[int, subprocess.Popen[bytes]]
) -> None:
    keys, process = terminal
    start = hand(robot)

    def moves() -> bool:
        os.write(keys, b"a")
        time.sleep(0.05)
        return robot.status.state == PolicyStatus.STATE_INTERVENED and bool(hand(robot)[1] - start[1] > 0.05)

    robot.wait(moves, "the hand")
    robot.wait_for_state(PolicyStatus.STATE_HOLDING)
    moved = hand(robot) - start
    assert np.abs(moved[[0, 2]]).max() < 0.01
    still = hand(robot)
    time.sleep(0.3)
    assert np.array_equal(hand(robot), still)
    gripper = robot.commands[-1].gripper
    os.write(keys, b" ")
    robot.wait(lambda: robot.commands[-1].gripper == -gripper, "the gripper")
    os.write(keys, b"e")
    robot.wait_for_state(PolicyStatus.STATE_ESTOPPED)
    robot.call("/irevla/clear_estop")
    os.write(keys, b"q")
    assert process.wait(10.0) == 0


@pytest.mark.parametrize("gripper", [1.0, -1.0])
def test_who_takes_over_leaves_the_gripper_as_it_was_wanted(
    robot: StandInRobot, terminal: tuple[int, subprocess.Popen[bytes]], gripper: float
) -> None:
    keys, _ = terminal
    stay = Proposal(0, (), PROFILE.joint_names, tuple(robot.measured.tolist()), gripper)

    def somebody_has_moved_it() -> bool:
        robot.interventions.publish(action_message(stay))
        time.sleep(0.05)
        return bool(robot.commands[-1].gripper == gripper)

    robot.wait(somebody_has_moved_it, "the gripper")
    robot.wait_for_state(PolicyStatus.STATE_HOLDING)
    robot.wait(lambda: robot.node.count_subscribers("/irevla/command") == 2, "the device that listens", 15.0)
    time.sleep(1.0)  # the guard may find it later than we do
    robot.commands.clear()

    def taken_over() -> bool:
        os.write(keys, b"a")
        time.sleep(0.05)
        return robot.status.state == PolicyStatus.STATE_INTERVENED

    robot.wait(taken_over, "the device")
    time.sleep(0.2)
    assert {command.gripper for command in robot.commands} == {gripper}


def test_without_a_terminal_it_says_so(robot: StandInRobot) -> None:
    process = robot.start("-m", "irevla_policy.ros.keyboard_node")
    output, _ = process.communicate("", timeout=15.0)
    assert process.returncode == 2
    assert "standard input is no terminal" in output and "Traceback" not in output


def test_a_joystick_moves_the_hand_while_its_button_is_held(robot: StandInRobot, tmp_path: Path) -> None:
    beats: list[Empty] = []
    heart = robot.node.create_subscription(Empty, "/irevla/heartbeat", beats.append, qos.event())
    device = tmp_path / "js0"
    os.mkfifo(device)
    words = ["--ros-args", "-p", f"device:={device}", "-p", "hold:=3"]
    process = robot.start("-m", "irevla_policy.ros.joystick_node", *words)
    with device.open("wb", buffering=0) as stick:

        def say(kind: int, number: int, value: int) -> None:
            stick.write(struct.pack("=IhBB", 0, value, kind, number))

        robot.wait(lambda: beats, "the heartbeat", 15.0)
        start = hand(robot)
        say(AXIS, 1, -32767)
        time.sleep(0.5)
        assert np.allclose(hand(robot), start)  # nobody holds on
        say(BUTTON, 3, 1)
        robot.wait_for_state(PolicyStatus.STATE_INTERVENED)
        robot.wait(lambda: hand(robot)[0] - start[0] > 0.03, "the hand")
        say(BUTTON, 3, 0)
        robot.wait_for_state(PolicyStatus.STATE_HOLDING)
        say(BUTTON, 3, 1)
        robot.wait_for_state(PolicyStatus.STATE_INTERVENED)
        # The kernel has lost events and tells the state anew.
        say(BUTTON | INITIAL, 3, 0)
        robot.wait_for_state(PolicyStatus.STATE_HOLDING)
        say(BUTTON | INITIAL, 3, 1)
        time.sleep(0.5)
        assert robot.status.state == PolicyStatus.STATE_HOLDING
        say(BUTTON, 3, 1)
        robot.wait_for_state(PolicyStatus.STATE_INTERVENED)
    # Unplugged while it is held.
    robot.wait_for_state(PolicyStatus.STATE_HOLDING)
    time.sleep(0.2)
    count = len(beats)
    time.sleep(0.3)
    assert len(beats) == count
    output = finish(process)
    assert "is gone: nothing is driven any more" in output and "Traceback" not in output
    robot.node.destroy_subscription(heart)


@pytest.mark.parametrize(
    ("parameters", "word"),
    [
        (["device:=/nowhere/js7"], "device: /nowhere/js7 cannot be opened (No such file or directory)"),
        (["axes:=[1, 2]"], "axes: expected three, found 2"),
        (
            ["robot:=panda_kitchen"],
            "the hand and needs action_space ee_delta, found joint_velocity",
        ),
    ],
)
def test_what_does_not_fit_is_refused(robot: StandInRobot, parameters: list[str], word: str) -> None:
    words = [text for parameter in parameters for text in ("-p", parameter)]
    process = robot.start("-m", "irevla_policy.ros.joystick_node", "--ros-args", *words)
    output, _ = process.communicate(timeout=15.0)
    assert process.returncode == 2
    assert word in output and "Traceback" not in output

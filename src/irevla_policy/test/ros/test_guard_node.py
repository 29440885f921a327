"""The guard as a process of its own over DDS, with a policy that fails in every way."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from sensor_msgs.msg import CompressedImage
from std_msgs.msg import String

from irevla_msgs.msg import Command, PolicyStatus
from irevla_policy.graph.domains import other_domain
from irevla_policy.recording.images import encode_compressed
from irevla_policy.robot.kinematics import ArmKinematics
from irevla_policy.robot.profile import load_profile
from irevla_policy.robot.proposal import Proposal
from irevla_policy.ros import qos
from irevla_policy.ros.guard_messages import action_message

sys.path.insert(0, str(Path(__file__).parent))
from stand_in_robot import PROFILE, StandInRobot, finish

DT = 1.0 / PROFILE.guard_rate
POLICY = str(Path(__file__).parent / "scripted_policy.py")
RUNNING, INTERVENED = PolicyStatus.STATE_RUNNING, PolicyStatus.STATE_INTERVENED
HOLDING, ESTOPPED = PolicyStatus.STATE_HOLDING, PolicyStatus.STATE_ESTOPPED


@pytest.fixture(scope="module")
def graph() -> Iterator[StandInRobot]:
    robot = StandInRobot()
    guard = robot.start("-m", "irevla_policy.ros.guard_node")
    try:
        robot.wait_for_state(HOLDING, seconds=15.0)
        yield robot
        output = finish(guard)
        assert guard.returncode == 0, output
        assert "Traceback" not in output, output
        assert "following the policy 0123456789ab" in output
        assert "following the intervention device" in output
    finally:
        guard.kill()
        robot.close()


@pytest.fixture
def robot(graph: StandInRobot) -> Iterator[StandInRobot]:
    graph.camera = graph.joints = True
    graph.change_joints = graph.change_image = lambda message: None
    graph.say("press the button")
    graph.path.clear()
    graph.commands.clear()
    yield graph
    graph.camera = graph.joints = True
    assert_limits(graph)


@contextmanager
def policy(robot: StandInRobot, mode: str = "good") -> Iterator[subprocess.Popen[str]]:
    robot.wait_for_state(HOLDING)  # the policy of the test before is gone
    process = robot.start(POLICY, mode)
    try:
        if mode == "good":
            robot.wait_for_state(RUNNING, seconds=10.0)
        yield process
    finally:
        process.kill()
        process.communicate()


def assert_limits(robot: StandInRobot) -> None:
    """Finite differences over the guard's own time grid."""
    kinematics = ArmKinematics(PROFILE)
    stamps = np.array([stamp for stamp, _ in robot.path])
    path = np.array([position for _, position in robot.path])
    if len(path) < 3:
        return
    steps = np.diff(stamps) * 1e-9
    assert (steps > 0.99 * DT).all(), "trajectories must start at least one tick apart"
    velocity = np.diff(path, axis=0) / np.maximum(steps, DT)[:, None]
    acceleration = np.diff(velocity, axis=0) / DT
    box = PROFILE.workspace
    for index, joint in enumerate(PROFILE.joints):
        assert (path[:, index] >= joint.position[0]).all()
        assert (path[:, index] <= joint.position[1]).all()
        assert (np.abs(velocity[:, index]) <= joint.velocity + 1e-6).all()
        even = np.abs(steps[1:] - DT) + np.abs(steps[:-1] - DT) < 1e-6
        assert (np.abs(acceleration[even, index]) <= joint.acceleration + 1e-4).all()
    for position in path:
        hand = kinematics.position(position)
        assert (hand >= np.array(box.low) - 1e-9).all()
        assert (hand <= np.array(box.high) + 1e-9).all()


def assert_holds(robot: StandInRobot) -> None:
    """The same position again and again: at the guard's rate, with room for a busy machine."""
    time.sleep(0.15)
    start, ticks = len(robot.path), 24
    robot.wait(lambda: len(robot.path) >= start + ticks, "a hold that is repeated", 5 * ticks * DT)
    held = robot.path[start:]
    assert all((position == held[0][1]).all() for _, position in held)


def test_holds_without_an_instruction_and_says_so(robot):
    with policy(robot):
        robot.say("")
        robot.wait_for_state(HOLDING, "no_instruction")
        assert_holds(robot)
        assert "/irevla/instruction" in robot.status.reason
        robot.wait(lambda: "instruction" in robot.diagnosed["irevla_guard"].message, "diagnostics", 3.0)
        robot.say("open the drawer")
        robot.wait_for_state(RUNNING)
        assert robot.status.instruction == "open the drawer"
        assert robot.status.policy_version == "0123456789ab"
    assert {Command.SOURCE_POLICY, Command.SOURCE_HOLD} == {command.source for command in robot.commands}


def test_a_command_is_there_before_the_arm_is_to_follow_it(robot):
    with policy(robot):
        robot.path.clear()
        robot.ahead.clear()
        robot.wait(lambda: len(robot.path) >= 100, "commands", 5.0)
        ahead = np.array(robot.ahead[:100])
        assert np.quantile(ahead, 0.1) > 0.0
        assert np.median(ahead) == pytest.approx(DT, abs=0.5 * DT)


@pytest.mark.parametrize(
    ("part", "code", "word"),
    [("camera", "camera_stale", "camera 'corner'"), ("joints", "joint_states_stale", "/joint_states")],
)
def test_a_stale_sensor_stops_the_robot_in_time(robot, part, code, word):
    with policy(robot):
        setattr(robot, part, False)
        silent = time.monotonic()
        robot.wait_for_state(HOLDING, code)
        # The policy falls silent with the camera, too; the sensor is named first or beside it.
        assert time.monotonic() - silent < PROFILE.stale_timeout + 0.15
        assert word in robot.status.reason
        assert_holds(robot)
        assert word in robot.commands[-1].reason
        assert robot.commands[-1].source == Command.SOURCE_HOLD
        setattr(robot, part, True)
        robot.wait_for_state(RUNNING)


@pytest.mark.parametrize(
    ("sensor", "seconds", "word"),
    [
        ("change_image", -30, "newest is 3"),
        ("change_joints", 30, "in the future, expected synchronised clocks"),
        pytest.param("change_joints", -30, "newest is 3", marks=pytest.mark.slow),
        pytest.param("change_image", 30, "in the future, expected synchronised clocks", marks=pytest.mark.slow),
    ],
)
def test_stamps_from_another_time_make_a_sensor_stale(robot, sensor, seconds, word):
    code = "camera_stale" if sensor == "change_image" else "joint_states_stale"

    def shift(message):
        message.header.stamp.sec += seconds

    with policy(robot):
        setattr(robot, sensor, shift)
        robot.wait_for_state(HOLDING, code)
        robot.wait(lambda: word in robot.status.reason, word)
        assert_holds(robot)
        setattr(robot, sensor, lambda message: None)
        robot.wait_for_state(RUNNING)


def _nan(message):
    message.position[2] = float("nan")


def _missing(message):
    message.name, message.position = message.name[1:], message.position[1:]


def _unequal(message):
    message.position = message.position[:3]


@pytest.mark.parametrize(
    ("spoil", "word"),
    [
        (_nan, "joint 'right_j2' is nan"),
        (_missing, "joint 'right_j0' of profile 'metaworld_sawyer' is missing"),
        (_unequal, "8 names and 3 positions"),
    ],
)
def test_joint_states_that_cannot_be_used_are_refused(robot, spoil, word):
    with policy(robot):
        robot.change_joints = spoil
        robot.wait_for_state(HOLDING, "joint_states_invalid")
        assert word in robot.status.reason
        robot.change_joints = lambda message: None
        robot.wait_for_state(RUNNING)


def test_further_joints_and_another_order_do_not_matter(robot):
    def mix(message):
        message.name = ["wheel", *message.name[::-1]]
        message.position = [9.0, *message.position[::-1]]

    with policy(robot):
        robot.change_joints = mix
        time.sleep(0.5)
        assert robot.status.state == RUNNING, robot.status.reason


@pytest.mark.parametrize(
    ("mode", "code", "word"),
    [
        ("late", "action_late", "s after its observation, expected within 0.15 s"),
        ("nan", "action_invalid", "expected a finite number"),
        ("short", "action_invalid", "3 values, expected 4"),
        ("outside", "action_invalid", "outside its limits"),
    ],
)
def test_actions_that_cannot_be_followed(robot, mode, code, word):
    refused = robot.status.actions_refused
    with policy(robot, mode):
        robot.wait_for_state(HOLDING, code, 10.0)
        robot.wait(lambda: word in robot.status.reason, word, 10.0)
        assert_holds(robot)
        robot.wait(lambda: robot.status.actions_refused > refused, "the count of refusals")


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL])
def test_a_stopped_or_killed_policy_ends_in_a_hold(robot, number):
    with policy(robot) as process:
        process.send_signal(number)
        stopped = time.monotonic()
        robot.wait_for_state(HOLDING, "action_late")
        assert time.monotonic() - stopped < PROFILE.action_timeout + 1.0 / PROFILE.control_rate + 0.15
        assert_holds(robot)
        robot.wait_for_state(HOLDING, "action_missing")
        assert "silent" in robot.status.reason
        if number == signal.SIGSTOP:
            process.send_signal(signal.SIGCONT)
            robot.wait_for_state(RUNNING)


def test_estop_latches_until_it_is_cleared(robot):
    with policy(robot):
        assert robot.call("/irevla/estop").success
        robot.wait_for_state(ESTOPPED, "estop", 1.0)
        assert_holds(robot)
        robot.wait(lambda: robot.diagnosed["irevla_guard"].level == b"\x02", "an error in the diagnostics", 3.0)
        assert robot.call("/irevla/clear_estop").success
        robot.wait_for_state(RUNNING)


def test_an_intervention_overrides_and_ends(robot):
    with policy(robot):
        target = Proposal(0, (), PROFILE.joint_names, tuple(PROFILE.home), 0.0)
        for _ in range(10):
            robot.interventions.publish(action_message(target))
            time.sleep(0.05)
        assert robot.status.state == INTERVENED
        assert robot.commands[-1].source == Command.SOURCE_INTERVENTION
        robot.wait_for_state(RUNNING)


def test_limits_hold_under_a_wild_policy(robot):
    with policy(robot, "wild"):
        robot.wait_for_state(RUNNING, seconds=10.0)
        robot.path.clear()
        time.sleep(2.0)
    assert len(robot.path) > 100
    path = np.array([position for _, position in robot.path])
    assert np.ptp(path, axis=0).max() > 0.05
    assert any(command.limited for command in robot.commands)


def test_a_second_guard_makes_both_hold(robot):
    with policy(robot):
        second = robot.start("-m", "irevla_policy.ros.guard_node")
        try:
            robot.wait_for_state(HOLDING, "other_publisher", 10.0)
            robot.wait(lambda: "also published by /irevla_guard" in robot.status.reason, "its name")
        finally:
            output = finish(second)
        assert second.returncode == 0, output
        robot.wait_for_state(RUNNING, seconds=25.0)  # its farewell may be lost, and then its lease has to run out
    robot.path.clear()  # of two guards


def test_a_slow_arm_comes_to_rest_before_its_guard_ends(monkeypatch, tmp_path):
    text = PROFILE.urdf_path.with_name("sawyer.yaml").read_text()
    text = text.replace("velocity: 4.0, acceleration: 100.0", "velocity: 1.0, acceleration: 0.5")
    file = tmp_path / "slow.yaml"
    file.write_text(text.replace("urdf: sawyer.urdf", f"urdf: {PROFILE.urdf_path}"))
    monkeypatch.setenv("ROS_DOMAIN_ID", str(other_domain()))
    robot = StandInRobot(load_profile(file))
    guard = robot.start("-m", "irevla_policy.ros.guard_node", "--ros-args", "-p", f"robot:={file}")
    try:
        robot.wait_for_state(HOLDING, seconds=15.0)
        # The last joint turns the hand where it is.
        target = [*PROFILE.home[:-1], PROFILE.joints[-1].position[0]]
        proposal = Proposal(0, (), PROFILE.joint_names, tuple(target), 0.0)

        def speed() -> float:
            (_, before), (_, after) = robot.path[-2:]
            return abs(after[-1] - before[-1]) / DT

        deadline = time.monotonic() + 10.0
        while len(robot.path) < 2 or speed() < 0.95:
            robot.interventions.publish(action_message(proposal))
            time.sleep(0.02)
            assert time.monotonic() < deadline, robot.status
        output = finish(guard)
        assert guard.returncode == 0, output
        time.sleep(0.2)  # what it has sent last arrives
        assert speed() < 0.5 * DT + 1e-6
        assert "slow.yaml:5: joints: the arm needs up to 2.0 s to brake" in output
    finally:
        guard.kill()
        robot.close()


def test_images_that_are_none_are_survived(robot):
    with policy(robot):
        for junk in (b"\x00\x01\x00\x00", b"\x00\x01\x00\x00" + b"\xff" * 60):
            robot.images.publish(junk)
            time.sleep(0.1)
        robot.wait_for_state(RUNNING)


def test_the_guard_needs_no_torch():
    code = "import irevla_policy.ros.guard_node, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=30).returncode == 0


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("/**: {ros__parameters: {rate: 5.0}}", "unknown parameter 'rate'"),
        ("/**: {ros__parameters: {nice: -5000}}", "nice: must be in [-20, 19], found -5000"),
        ("/**: {ros__parameters: {heartbeat_timeout: 500}}", "must be in (0, 10] s, found 500.0"),  # in ms
        ("irevla_guard: [ros__parameters", "Couldn't parse params file"),
        (None, "Error opening YAML file"),
    ],
    ids=["unknown", "range", "unit", "not YAML", "no file"],
)
def test_a_wrong_parameter_file_ends_the_process_with_one_line(graph, tmp_path, text, word):
    path = tmp_path / "parameters.yaml"
    if text is not None:
        path.write_text(text)
    process = graph.start("-m", "irevla_policy.ros.guard_node", "--ros-args", "--params-file", str(path))
    output, _ = process.communicate(timeout=15.0)
    assert process.returncode == 2
    assert word in output
    assert "Traceback" not in output


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda text: text.replace("0.237", "0.247"), "sawyer.yaml:15: kinematics: urdf: the robot's frame 'hand' is "),
        (lambda text: text.replace("right_j3", "j3"), "sawyer.yaml:9: joints[3]: the robot has no joint 'right_j3'"),
        (lambda text: "", "/robot_description: nothing came within 5 s; is robot_state_publisher running?"),
    ],
    ids=["shape", "joint", "none"],
)
def test_another_robot_is_refused(graph, change, word):
    described = graph.node.create_publisher(String, "/robot_description", qos.latched())
    if text := change(PROFILE.urdf_path.read_text()):
        described.publish(String(data=text))
    process = graph.start("-m", "irevla_policy.ros.guard_node", "--ros-args", "-p", "check_robot:=true")
    try:
        output, _ = process.communicate(timeout=20.0)
    finally:
        process.kill()
        graph.node.destroy_publisher(described)
    assert process.returncode == 2
    assert word in output
    assert "irevla_guard: could not configure" in output and "Traceback" not in output


def test_another_camera_is_refused_in_the_transport_that_is_used(graph):
    described = graph.node.create_publisher(String, "/robot_description", qos.latched())
    described.publish(String(data=PROFILE.urdf_path.read_text()))
    compressed = graph.node.create_publisher(CompressedImage, "/camera/image_raw/compressed", qos.sensor())
    small = encode_compressed(np.zeros((48, 64, 3), np.uint8))
    graph.change_image = lambda image: compressed.publish(CompressedImage(header=image.header, data=small))
    words = ["-p", "check_robot:=true", "-p", "image_transport:=compressed"]
    process = graph.start("-m", "irevla_policy.ros.guard_node", "--ros-args", *words)
    try:
        output, _ = process.communicate(timeout=20.0)
    finally:
        process.kill()
        graph.change_image = lambda image: None
        graph.node.destroy_publisher(described)
    assert process.returncode == 2
    assert "sawyer.yaml:4: cameras[0]: width: /camera/image_raw/compressed comes with 64 x 48 px" in output
    assert "Traceback" not in output


def catches(pid: int, number: int) -> bool:
    """Whether a process has a handler of its own for a signal."""
    status = Path(f"/proc/{pid}/status").read_text()
    caught = int(re.search(r"SigCgt:\s*(\w+)", status).group(1), 16)
    return bool(caught >> (number - 1) & 1)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("after", [0.0, 0.3])
def test_a_signal_during_the_start_ends_the_process_quietly(graph, number, after):
    process = graph.start("-m", "irevla_policy.ros.policy_node")
    # Until Python itself has started, a signal meets what the system does with it.
    graph.wait(lambda: catches(process.pid, signal.SIGTERM), "the node's handlers", 10.0)
    time.sleep(after)
    output = finish(process, number)
    assert process.returncode == 0
    assert "Traceback" not in output

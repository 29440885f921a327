"""The policy node over DDS with the small model: observations, bad input, other checkpoints; guard beside it."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import cycle
from pathlib import Path

import numpy as np
import pytest

from irevla_msgs.msg import PolicyStatus
from irevla_msgs.srv import LoadPolicy, RollbackPolicy
from irevla_policy.model.checkpoint import checkpoint_version, save_checkpoint
from irevla_policy.model.config import ModelSettings, RobotFacts
from irevla_policy.model.policy import VLAPolicy
from irevla_policy.ros.messages import nanoseconds, time_message

sys.path.insert(0, str(Path(__file__).parent))
from stand_in_robot import PROFILE, StandInRobot, finish


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("checkpoints")
    for seed, name in enumerate(("one", "two")):
        save_checkpoint(folder / name, VLAPolicy.create(ModelSettings(), RobotFacts.of(PROFILE), seed=seed))
    return folder / "one", folder / "two"


@pytest.fixture(scope="module")
def graph(checkpoints: tuple[Path, Path]) -> Iterator[StandInRobot]:
    robot = StandInRobot()
    robot.say("press the button")
    guard = robot.start("-m", "irevla_policy.ros.guard_node")
    policy = robot.start(
        "-m", "irevla_policy.ros.policy_node", "--ros-args", "-p", f"checkpoint:={checkpoints[0]}", "-p", "threads:=1"
    )
    try:
        robot.wait(lambda: robot.actions, "an action", 40.0)
        yield robot
        for process in (policy, guard):
            output = finish(process)
            assert process.returncode == 0, output
            assert "Traceback" not in output, output
    finally:
        policy.kill()
        guard.kill()
        robot.close()


@pytest.fixture
def robot(graph: StandInRobot) -> Iterator[StandInRobot]:
    graph.actions.clear()
    yield graph
    graph.change_image = graph.change_joints = lambda message: None


def test_every_image_is_answered_with_its_stamp(robot, checkpoints):
    robot.wait_for_state(PolicyStatus.STATE_RUNNING, seconds=10.0)
    robot.actions.clear()
    time.sleep(1.0)
    stamps = [action.header.stamp.sec * 10**9 + action.header.stamp.nanosec for action in robot.actions]
    assert len(stamps) >= 15
    assert stamps == sorted(set(stamps))
    action = robot.actions[-1]
    assert tuple(action.joint_names) == PROFILE.joint_names
    assert len(action.values) == PROFILE.action_dim
    assert np.isfinite(action.joint_target).all()
    assert action.policy_version == checkpoint_version(checkpoints[0])
    assert 0.0 < action.forward_seconds < 1.0
    assert robot.diagnosed["irevla_policy"].message == "active"


def _shorten(message):
    message.data = message.data[:-10]


def _step(message):
    message.step = 7


def _encoding(message):
    message.encoding = "yuv422"


def _size(message):
    message.width //= 2


def _future(message):
    message.header.stamp.sec += 100


def _missing(message):
    message.name, message.position = message.name[1:], message.position[1:]


def _nan(message):
    message.position[0] = float("nan")


@pytest.mark.parametrize(
    ("sensor", "change", "word"),
    [
        ("change_image", _shorten, "data must hold"),
        ("change_image", _step, "step must be"),
        ("change_image", _encoding, "found 'yuv422'"),
        ("change_image", _size, "width 96 and height 96"),
        ("change_image", _future, "in the future"),
        ("change_joints", _missing, "'right_j0' of profile 'metaworld_sawyer' is missing"),
        ("change_joints", _nan, "'right_j0' is nan"),
    ],
    ids=["data", "step", "encoding", "size", "future", "missing", "nan"],
)
def test_bad_input_is_named_and_survived(robot, sensor, change, word):
    setattr(robot, sensor, change)
    robot.wait_for_state(PolicyStatus.STATE_HOLDING)
    robot.wait(lambda: word in robot.diagnosed["irevla_policy"].message, f"{word!r} in the diagnostics", 5.0)
    robot.actions.clear()
    time.sleep(0.2)
    assert not robot.actions
    setattr(robot, sensor, lambda message: None)
    robot.wait_for_state(PolicyStatus.STATE_RUNNING)


def test_an_image_from_the_past_is_named_and_left_out(robot):
    late = cycle([0, 0, 0, 200_000_000])

    def delay_some(message):
        message.header.stamp = time_message(nanoseconds(message.header.stamp) - next(late))

    robot.change_image = delay_some
    robot.wait(lambda: "before the newest one" in robot.diagnosed["irevla_policy"].message, "its diagnosis")
    robot.actions.clear()
    time.sleep(0.5)
    stamps = [nanoseconds(action.header.stamp) for action in robot.actions]
    assert stamps == sorted(set(stamps))
    assert len(stamps) > 3


def test_another_checkpoint_is_swapped_in_and_rolled_back(robot, checkpoints):
    one, two = (checkpoint_version(folder) for folder in checkpoints)
    answer = robot.call("/irevla/load_policy", LoadPolicy, path=str(checkpoints[1]))
    assert answer.accepted, answer.message
    assert answer.policy_version == two
    robot.wait(lambda: [action.policy_version for action in robot.actions].count(two) > 5, "the new version")
    arrivals = [action.header.stamp.sec + 1e-9 * action.header.stamp.nanosec for action in robot.actions]
    assert max(np.diff(arrivals)) < 1.0, "the old policy serves while the new one is loaded"
    robot.wait(lambda: robot.status.policy_version == two, "the guard's account of it")
    answer = robot.call("/irevla/rollback_policy", RollbackPolicy)
    assert answer.accepted
    robot.wait(lambda: robot.actions[-1].policy_version == one, "the old version")
    # What was left is nothing to go back to, whichever way it was left.
    assert not robot.call("/irevla/rollback_policy", RollbackPolicy).accepted
    for folder in (checkpoints[1], checkpoints[0]):
        assert robot.call("/irevla/load_policy", LoadPolicy, path=str(folder)).accepted
    assert not robot.call("/irevla/rollback_policy", RollbackPolicy).accepted


def test_a_checkpoint_that_is_overwritten_while_it_serves_is_loaded_as_it_is(robot, checkpoints, tmp_path):
    path = tmp_path / "policy"
    shutil.copytree(checkpoints[0], path)
    assert robot.call("/irevla/load_policy", LoadPolicy, path=str(path)).accepted
    save_checkpoint(path, VLAPolicy.create(ModelSettings(), replace(RobotFacts.of(PROFILE), name="other_arm")))
    answer = robot.call("/irevla/load_policy", LoadPolicy, path=str(path))
    assert not answer.accepted and "other_arm" in answer.message
    version = save_checkpoint(path, VLAPolicy.create(ModelSettings(head_width=64), RobotFacts.of(PROFILE)))
    answer = robot.call("/irevla/load_policy", LoadPolicy, path=str(path))
    assert answer.accepted, answer.message
    assert answer.policy_version == version
    assert robot.call("/irevla/load_policy", LoadPolicy, path=str(checkpoints[0])).accepted


def test_a_rollback_is_not_undone_by_what_is_being_loaded(robot, checkpoints):
    one = checkpoint_version(checkpoints[0])
    for folder in checkpoints:
        assert robot.call("/irevla/load_policy", LoadPolicy, path=str(folder)).accepted
    with ThreadPoolExecutor(1) as pool:
        loading = pool.submit(robot.call, "/irevla/load_policy", LoadPolicy, path=str(checkpoints[1]))
        time.sleep(0.1)
        assert not loading.done()
        assert robot.call("/irevla/rollback_policy", RollbackPolicy).policy_version == one
        answer = loading.result()
    assert not answer.accepted
    assert f"while it was loaded {one} was chosen" in answer.message
    assert answer.policy_version == one
    robot.actions.clear()
    robot.wait(lambda: len(robot.actions) > 3, "actions")
    assert {action.policy_version for action in robot.actions} == {one}


def test_a_checkpoint_that_cannot_be_loaded_leaves_the_old_one(robot, checkpoints, tmp_path):
    broken = tmp_path / "broken"
    broken.mkdir()
    robot.wait(lambda: robot.actions, "an action")
    for path, word in ((tmp_path / "nowhere", "nowhere"), (broken, "config.json is missing")):
        answer = robot.call("/irevla/load_policy", LoadPolicy, path=str(path))
        assert not answer.accepted
        assert word in answer.message
        assert answer.policy_version == robot.actions[-1].policy_version
    robot.actions.clear()
    robot.wait(lambda: robot.actions, "an action")


def test_a_checkpoint_for_another_action_space_leaves_the_old_one(robot, tmp_path):
    other = replace(PROFILE, action_space="joint_delta")
    save_checkpoint(tmp_path / "other", VLAPolicy.create(ModelSettings(), RobotFacts.of(other), seed=0))
    robot.wait(lambda: robot.actions, "an action")
    answer = robot.call("/irevla/load_policy", LoadPolicy, path=str(tmp_path / "other"))
    assert not answer.accepted
    assert "joint_delta" in answer.message
    assert "ee_delta" in answer.message
    robot.actions.clear()
    robot.wait(lambda: robot.actions, "an action")


def test_a_wrong_checkpoint_ends_the_start_with_one_line(graph, tmp_path):
    process = graph.start("-m", "irevla_policy.ros.policy_node", "--ros-args", "-p", f"checkpoint:={tmp_path}")
    output, _ = process.communicate(timeout=40.0)
    assert process.returncode == 2
    assert "config.json is missing" in output
    assert "Traceback" not in output

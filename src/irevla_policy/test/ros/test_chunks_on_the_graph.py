"""A model that is six times slower than the controller drives the robot by action chunks; guard beside it."""

from __future__ import annotations

import contextlib
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from irevla_msgs.msg import Command, PolicyStatus
from irevla_msgs.srv import LoadPolicy
from irevla_policy.model.checkpoint import save_checkpoint
from irevla_policy.model.config import ModelSettings, RobotFacts
from irevla_policy.model.policy import VLAPolicy
from irevla_policy.ros.messages import nanoseconds

sys.path.insert(0, str(Path(__file__).parent))
from stand_in_robot import PROFILE, StandInRobot, finish

HERE = Path(__file__).parent
FORWARD = 0.3  # s; six periods
ENOUGH, TOO_SHORT = 24, 8  # actions; 14 are enough on an idle machine


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The profile for a machine where the stand-in for the camera is late now and then; that is not what is tested."""
    folder = tmp_path_factory.mktemp("robot")
    shutil.copy(PROFILE.urdf_path, folder)
    text = (PROFILE.urdf_path.parent / "sawyer.yaml").read_text()
    (folder / "patient.yaml").write_text(text + "stale_timeout: 1.0\naction_timeout: 0.25\n")
    return folder / "patient.yaml"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    folder = tmp_path_factory.mktemp("checkpoints")

    def make(chunk: int, seed: int = 0) -> Path:
        path = folder / f"{chunk}-{seed}"
        if not path.exists():
            policy = VLAPolicy.create(ModelSettings(chunk=chunk), RobotFacts.of(PROFILE), seed=seed)
            save_checkpoint(path, policy)
        return path

    return make


class Observed(StandInRobot):
    """Also keeps the stamps of its images."""

    def __init__(self) -> None:
        self.seen: list[int] = []
        super().__init__()
        self.change_image = lambda message: self.seen.append(nanoseconds(message.header.stamp))

    def answered(self) -> list[int]:
        return [nanoseconds(action.header.stamp) for action in self.actions]

    def forget(self) -> None:
        for kept in (self.seen, self.actions, self.commands):
            kept.clear()

    def held(self) -> list[str]:
        return [command.reason for command in self.commands if command.source == Command.SOURCE_HOLD]


@contextlib.contextmanager
def flying(profile: Path, checkpoint: Path) -> Iterator[Observed]:
    robot = Observed()
    robot.say("press the button")
    common = ("--ros-args", "-p", f"robot:={profile}")
    guard = robot.start("-m", "irevla_policy.ros.guard_node", *common)
    parameters = (*common, "-p", f"checkpoint:={checkpoint}", "-p", "threads:=1")
    policy = robot.start(str(HERE / "slow_policy_node.py"), str(FORWARD), *parameters)
    try:
        robot.wait(lambda: robot.actions, "an action", 60.0)
        robot.wait_for_state(PolicyStatus.STATE_RUNNING, seconds=10.0)
        yield robot
        for process in (policy, guard):
            robot.output = finish(process)
            assert process.returncode == 0, robot.output
            assert "Traceback" not in robot.output, robot.output
    finally:
        policy.kill()
        guard.kill()
        robot.close()


@pytest.mark.slow
def test_every_observation_is_answered_while_the_model_is_at_work(patient, checkpoint):
    with flying(patient, checkpoint(ENOUGH)) as robot:
        time.sleep(1.0)
        robot.forget()
        time.sleep(4.0)
        actions, stamps, seen = list(robot.actions), robot.answered(), list(robot.seen)
        assert robot.held() == []
        assert stamps == sorted(set(stamps))
        assert set(stamps) <= set(seen)
        unanswered = [stamp for stamp in seen if stamps[0] < stamp < stamps[-1] and stamp not in set(stamps)]
        assert unanswered == []
        assert len(stamps) >= 60
        passes = [action.forward_seconds for action in actions if action.forward_seconds]
        assert min(passes) >= FORWARD
        # The model is always at work: a pass ends every .3 s and a little.
        assert 8 <= len(passes) <= 4.0 / FORWARD + 1
        figures = {entry.key: entry.value for entry in robot.diagnosed["irevla_policy"].values}
        assert figures["observations_between_chunks"] == "0"
        assert robot.diagnosed["irevla_policy"].message == "active"
        # An operator's stop and another checkpoint: what was planned before is forgotten, and it flies on.
        robot.call("/irevla/estop")
        robot.wait_for_state(PolicyStatus.STATE_ESTOPPED)
        time.sleep(0.5)
        robot.call("/irevla/clear_estop")
        robot.wait_for_state(PolicyStatus.STATE_RUNNING)
        answer = robot.call("/irevla/load_policy", LoadPolicy, path=str(checkpoint(ENOUGH, 1)))
        assert answer.accepted, answer.message
        robot.wait(lambda: robot.actions[-1].policy_version == answer.policy_version, "the new policy", 5.0)
        versions = [action.policy_version for action in robot.actions]
        first = versions.index(answer.policy_version)
        assert set(versions[first:]) == {answer.policy_version}
        robot.wait_for_state(PolicyStatus.STATE_RUNNING)
        # And one that decides one action at a time: too slow for this robot, as it always was.
        assert robot.call("/irevla/load_policy", LoadPolicy, path=str(checkpoint(1))).accepted
        robot.wait_for_state(PolicyStatus.STATE_HOLDING, "action_late")


@pytest.mark.slow
def test_a_chunk_that_is_too_short_is_named_and_the_guard_holds(patient, checkpoint):
    with flying(patient, checkpoint(TOO_SHORT)) as robot:
        robot.wait(lambda: "expected a chunk" in robot.diagnosed["irevla_policy"].message, "its diagnosis")
        message = robot.diagnosed["irevla_policy"].message
        robot.forget()
        time.sleep(3.0)
        sources = [command.source for command in robot.commands]
        assert Command.SOURCE_HOLD in sources
        assert Command.SOURCE_POLICY in sources, "it still moves in between"
        stamps = robot.answered()
        assert stamps == sorted(set(stamps))
        assert len(stamps) < 0.9 * len(robot.seen)
        gaps = np.diff(stamps) * 1e-9
        assert gaps.max() < 1.0, "the next chunk comes after at most two passes"
    for part in ("one of 8 actions lasts 0.40 s at 20 Hz", "a forward pass takes 0.3", "at least 1", "below 0.17 s"):
        assert part in message

"""Planning in a process of its own: ways, refusals and a planner that dies."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import numpy as np
import psutil
import pytest

from irevla_policy.errors import UserError
from irevla_policy.robot.profile import Obstacle, load_profile
from irevla_policy.robot.scene import HomingError, Motion
from irevla_policy.ros.moveit import SceneSettings, planner
from irevla_policy.ros.planner_process import PlannerProcess
from irevla_policy.settings import SettingsError

WALL = Obstacle("wall", (0.45, 0.15, 0.4), (0.6, 0.02, 0.8))
PROFILE = replace(load_profile("panda"), obstacles=(WALL,))
HOME = np.array(PROFILE.home)
BEHIND = HOME + np.array([0.8, 0.1, 0.0, 0.2, 0.0, 0.0, -0.2])
BESIDE = HOME - np.array([0.8, 0.1, 0.0, 0.2, 0.0, 0.0, -0.2])


@pytest.fixture(scope="module")
def planning() -> Iterator[PlannerProcess]:
    process = PlannerProcess(partial(planner, PROFILE, SceneSettings(), 0.5, True))
    yield process
    process.close()
    assert not planners()


def planners() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if any("spawn_main" in word for word in child.cmdline())]


def found(planning: PlannerProcess) -> Motion:
    deadline = time.monotonic() + 20.0
    while (motion := planning.found()) is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return motion


def test_it_finds_ways(planning: PlannerProcess) -> None:
    for _ in range(2):
        planning.begin(BESIDE, 0.1)
        assert np.allclose(found(planning).positions[-1], HOME)


def test_what_is_wrong_is_told_and_it_goes_on(planning: PlannerProcess) -> None:
    planning.begin(BEHIND, 0.1)
    with pytest.raises(HomingError, match="no free way home"):
        found(planning)
    planning.begin(np.zeros(3), 0.1)
    with pytest.raises(HomingError, match=r"no way home: planning failed \(\w+: "):
        found(planning)
    planning.begin(BESIDE, 0.1)
    found(planning)


def test_a_planner_that_dies_or_is_not_waited_for_is_started_again(planning: PlannerProcess) -> None:
    planning.begin(BESIDE, 0.1)
    [child] = planners()
    child.kill()
    with pytest.raises(HomingError, match="the planner of the way home ended"):
        found(planning)
        found(planning)  # its answer may have been on the way already
    planning.begin(BEHIND, 0.1)
    planning.begin(BESIDE, 0.1)
    assert np.allclose(found(planning).positions[-1], HOME)


def test_a_planner_that_cannot_be_made_says_why() -> None:
    with pytest.raises(UserError, match=r"ur5e\.urdf: has no collision shapes") as raised:
        PlannerProcess(partial(planner, load_profile("ur5e"), SceneSettings(), 0.5, True))
    assert not isinstance(raised.value, SettingsError)  # of the process, told as it is


class SlowToMake:
    """Takes two seconds to come up, and as long to plan."""

    def __init__(self) -> None:
        time.sleep(2.0)

    def plan(self, start: np.ndarray, period: float) -> Motion:
        time.sleep(2.0)
        return Motion(np.array([start]), 0.0)


def test_whoever_gives_a_plan_up_does_not_wait_for_the_next_planner() -> None:
    process = PlannerProcess(SlowToMake)
    try:
        process.begin(HOME, 0.1)
        asked = time.monotonic()
        process.begin(BESIDE, 0.1)
        assert process.found() is None
        assert time.monotonic() - asked < 1.0
        assert np.array_equal(found(process).positions[-1], BESIDE)
    finally:
        process.close()

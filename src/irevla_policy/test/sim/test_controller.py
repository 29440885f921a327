"""The simulated joint trajectory controller: what it follows and what it refuses."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from irevla_policy.robot.profile import load_profile
from irevla_policy.sim.controller import CommandError, Trajectory, TrajectoryController

PROFILE = load_profile("sawyer")
NAMES = [*PROFILE.joint_names, "gripper"]
DT = 1.0 / PROFILE.guard_rate


def points(*rows: tuple[float, float]) -> list[tuple[float, list[float]]]:
    """Points at which all joints, the gripper too, are at one position."""
    return [(time, [position] * len(NAMES)) for time, position in rows]


def test_it_goes_through_the_points_on_straight_lines_and_holds_the_last() -> None:
    controller = TrajectoryController(np.zeros(7))
    controller.follow(Trajectory.from_points(PROFILE, NAMES, points((1.0, 1.0), (3.0, 0.0))), now=10.0)
    sampled = [controller.sample(now)[0].position[0] for now in (9.0, 10.0, 10.5, 11.0, 12.0, 13.0, 99.0)]
    assert sampled == pytest.approx([0.0, 0.0, 0.5, 1.0, 0.5, 0.0, 0.0])
    assert controller.sample(12.0)[0].velocity[0] == pytest.approx(-0.5)
    assert controller.sample(99.0)[0].velocity[0] == 0.0


def test_a_new_trajectory_starts_where_the_old_one_is() -> None:
    controller = TrajectoryController(np.zeros(7), gripper=-1.0)
    assert controller.sample(0.0)[1] == -1.0
    controller.follow(Trajectory.from_points(PROFILE, NAMES, points((1.0, 1.0))), now=0.0)
    controller.follow(Trajectory.from_points(PROFILE, NAMES[:7], [(1.0, [0.0] * 7)]), now=0.5)
    assert controller.sample(0.5)[0].position[0] == pytest.approx(0.5)
    assert controller.sample(1.0)[0].position[0] == pytest.approx(0.25)
    assert controller.sample(1.0)[1] == 1.0  # the second command leaves the gripper alone
    controller.follow(Trajectory.from_points(PROFILE, NAMES, points((0.0, 0.3))), now=5.0)
    assert controller.sample(5.0)[0].position[0] == pytest.approx(0.3)


@given(st.permutations(range(8)))
def test_the_order_of_joints_does_not_matter(order: list[int]) -> None:
    positions = np.linspace(-1.0, 0.4, 8)
    trajectory = Trajectory.from_points(
        PROFILE, [NAMES[index] for index in order], [(DT, [float(positions[index]) for index in order])]
    )
    assert trajectory.positions.tolist() == [positions[:7].tolist()]
    assert trajectory.gripper is not None
    assert trajectory.gripper.tolist() == [positions[7]]


def test_a_control_period_in_lock_step_has_a_point_for_each_substep() -> None:
    rows = [((step + 1) * DT, 0.1 * step) for step in range(PROFILE.substeps)]
    setpoints, gripper = Trajectory.from_points(PROFILE, NAMES, points(*rows)).period(PROFILE)
    assert [setpoint.position[0] for setpoint in setpoints] == pytest.approx([0.0, 0.1, 0.2, 0.3])
    assert gripper == pytest.approx(0.3)
    with pytest.raises(CommandError, match=r"expected 4 points 0\.0125 s apart"):
        Trajectory.from_points(PROFILE, NAMES, points(*rows[:3])).period(PROFILE)
    late = [(time + 0.001, position) for time, position in rows]
    with pytest.raises(CommandError, match=r"0\.0125 s apart in lock-step, found points at \[0\.0135"):
        Trajectory.from_points(PROFILE, NAMES, points(*late)).period(PROFILE)


@pytest.mark.parametrize(
    ("names", "rows", "message"),
    [
        (NAMES[1:], [(DT, [0.0] * 7)], "expected the joints right_j0, .* and optionally gripper; found right_j1"),
        ([*NAMES, "head"], [(DT, [0.0] * 9)], "found .*head"),
        ([*NAMES[:7], "right_j0"], [(DT, [0.0] * 8)], "expected the joints"),
        ([], [], "found none"),
        (NAMES, [], "expected at least one point"),
        (NAMES, [(DT, [0.0] * 7)], "point 0 has 7 positions for 8 joints"),
        (NAMES, points((DT, float("nan"))), "joint 'right_j0' is at nan in point 0"),
        (NAMES, points((DT, float("inf"))), "joint 'right_j0' is at inf in point 0"),
        (NAMES, points((DT, 1e300)), "is at 1e.300 in point 0, expected a number from -12.57 to 12.57"),
        (NAMES, points((DT, 0.0), (DT, 0.0)), "expected rising times"),
        (NAMES, points((-DT, 0.0)), "expected rising times"),
    ],
)
def test_wrong_commands_are_named(names: list[str], rows: list[tuple[float, list[float]]], message: str) -> None:
    with pytest.raises(CommandError, match=message):
        Trajectory.from_points(PROFILE, names, rows)


def test_a_robot_without_gripper_takes_arm_joints_only() -> None:
    profile = replace(PROFILE, gripper=None)
    assert Trajectory.from_points(profile, NAMES[:7], [(DT, [0.0] * 7)]).gripper is None
    with pytest.raises(CommandError, match="expected the joints"):
        Trajectory.from_points(profile, NAMES, points((DT, 0.0)))

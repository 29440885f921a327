"""The motion limiter keeps every limit for any target: property tests against finite differences."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from irevla_policy.robot.kinematics import ArmKinematics
from irevla_policy.robot.limits import LIMITED_ACCELERATION, LIMITED_POSITION, LIMITED_VELOCITY, MotionLimiter
from irevla_policy.robot.profile import load_profile

PROFILE = load_profile("sawyer")
KINEMATICS = ArmKinematics(PROFILE)
DT = 1.0 / PROFILE.guard_rate
LOW = np.array([joint.position[0] for joint in PROFILE.joints])
HIGH = np.array([joint.position[1] for joint in PROFILE.joints])
VELOCITY = np.array([joint.velocity for joint in PROFILE.joints])
ACCELERATION = np.array([joint.acceleration for joint in PROFILE.joints])
BOX = np.array([PROFILE.workspace.low, PROFILE.workspace.high])
TOLERANCE = 1e-9


def inside_start() -> np.ndarray:
    """Joint positions inside the limits whose hand is in the middle of the box."""
    middle = BOX.mean(axis=0)
    start = KINEMATICS.solve(np.array(PROFILE.home), middle, KINEMATICS.pose(np.array(PROFILE.home))[1])
    assert np.allclose(KINEMATICS.position(start), middle, atol=0.02)
    return start


START = inside_start()


def limiter_at(start: np.ndarray) -> MotionLimiter:
    limiter = MotionLimiter(PROFILE, KINEMATICS, DT)
    limiter.reset(start)
    return limiter


def assert_kept(positions: list[np.ndarray], start: np.ndarray) -> None:
    """Velocity and acceleration from finite differences; position and box never further out than before."""
    path = np.array([start, start, *positions])
    velocity = np.diff(path, axis=0) / DT
    acceleration = np.diff(velocity, axis=0) / DT
    assert (np.abs(velocity) <= VELOCITY + TOLERANCE).all()
    assert (np.abs(acceleration) <= ACCELERATION * (1 + TOLERANCE) + 1e-8).all()
    joints_out = np.maximum(np.maximum(LOW - path, path - HIGH), 0.0)
    hand = np.array([KINEMATICS.position(q) for q in path])
    hand_out = np.maximum(np.maximum(BOX[0] - hand, hand - BOX[1]), 0.0)
    assert (np.diff(joints_out, axis=0) <= 0.0).all()
    assert (np.diff(hand_out, axis=0) <= TOLERANCE).all()


def targets(scale: float) -> st.SearchStrategy[np.ndarray | None]:
    joint = st.floats(-scale, scale, allow_nan=False)
    near_limit = st.sampled_from([*LOW.tolist(), *HIGH.tolist()])
    return st.one_of(
        st.none(),
        st.lists(st.one_of(joint, near_limit), min_size=len(LOW), max_size=len(LOW)).map(np.array),
    )


moves = st.lists(
    st.tuples(st.one_of(targets(4.0), targets(1e300)), st.floats(0.0, 0.3), st.integers(1, 12)),
    min_size=1,
    max_size=10,
)


@settings(max_examples=60, deadline=None)
@given(moves)
def test_any_target_keeps_every_limit(moves):
    limiter = limiter_at(START)
    positions = []
    for target, remaining, ticks in moves:
        for _ in range(ticks):
            setpoint, _ = limiter.advance(target, remaining)
            positions.append(setpoint.position)
    for _ in range(12):
        positions.append(limiter.advance(None)[0].position)
    assert_kept(positions, START)
    assert limiter.at_rest
    assert (positions[-1] == limiter.advance(None)[0].position).all()


@settings(max_examples=40, deadline=None)
@given(moves, st.integers(0, 2**31))
def test_small_steps_and_sudden_holds_keep_every_limit(moves, seed):
    rng = np.random.default_rng(seed)
    limiter = limiter_at(START)
    positions = []
    for target, remaining, ticks in moves:
        for _ in range(ticks):
            near = None if target is None else limiter.setpoint.position + rng.normal(0.0, 0.1, len(LOW))
            positions.append(limiter.advance(near, remaining)[0].position)
    assert_kept(positions, START)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(-0.5, 0.5), min_size=7, max_size=7),
    st.lists(st.floats(-0.3, 0.3), min_size=3, max_size=3),
    moves,
)
def test_a_start_outside_only_moves_inward(beyond, shift, moves):
    corner = np.where(np.array(shift) > 0, BOX[1], BOX[0]) + np.array(shift)
    start = KINEMATICS.solve(START, corner, KINEMATICS.pose(START)[1]) + np.array(beyond)
    limiter = limiter_at(start)
    positions = []
    for target, remaining, ticks in moves:
        for _ in range(ticks):
            positions.append(limiter.advance(target, remaining)[0].position)
    assert_kept(positions, start)


def test_a_start_outside_comes_back_inside():
    start = START.copy()
    start[6] = HIGH[6] + 0.3
    limiter = limiter_at(start)
    assert limiter.violations()[0] == [6]
    limiter.plan(START, 400)
    assert limiter.violations() == ([], [])
    assert np.allclose(limiter.setpoint.position, START, atol=1e-6)


def test_reaches_a_near_target_exactly_at_the_end_of_the_period():
    limiter = limiter_at(START)
    target = START + 0.02
    setpoints, limited = limiter.plan(target, PROFILE.substeps)
    assert np.allclose(setpoints[-1].position, target, atol=1e-12)
    assert limited == 0


def test_the_path_to_a_far_target_keeps_its_direction():
    limiter = limiter_at(START)
    target = START + np.array([0.4, -0.1, 0.05, 0.1, 0.2, -0.1, 0.3])
    setpoints, limited = limiter.plan(target, PROFILE.substeps)
    way = (target - START) / np.linalg.norm(target - START)
    for setpoint in setpoints:
        moved = setpoint.position - START
        assert np.allclose(moved, way * np.linalg.norm(moved), atol=1e-12)
    assert limited & LIMITED_VELOCITY
    assert limited & LIMITED_ACCELERATION


def test_hold_brakes_in_the_least_time_and_repeats_the_position():
    limiter = limiter_at(START)
    limiter.plan(START + np.array([0.5, 0, 0, 0, 0, 0, 0.5]), 3)
    speed = np.abs(limiter.setpoint.velocity)
    least = int(np.ceil(np.max(speed / (ACCELERATION * DT)) - TOLERANCE))
    assert least >= 2
    for _ in range(least):
        assert not limiter.at_rest
        setpoint, limited = limiter.advance(None)
        assert limited == 0
    assert limiter.at_rest
    for _ in range(50):
        assert (limiter.advance(None)[0].position == setpoint.position).all()


def test_slides_along_a_joint_limit_instead_of_freezing():
    start = START.copy()
    start[6] = HIGH[6] - 0.05
    limiter = limiter_at(start)
    target = start + np.array([0.1, 0, 0, 0, 0, 0, 1.0])
    _, limited = limiter.plan(target, 40)
    assert limited & LIMITED_POSITION
    assert limiter.setpoint.position[0] == pytest.approx(target[0], abs=1e-3)
    assert HIGH[6] - 1e-3 <= limiter.setpoint.position[6] <= HIGH[6]


def test_slides_along_a_wall_instead_of_freezing():
    rotation = KINEMATICS.pose(START)[1]
    start = KINEMATICS.solve(START, np.array([0.0, 0.6, BOX[0][2] + 0.03]), rotation)
    through = KINEMATICS.solve(start, np.array([0.2, 0.6, BOX[0][2] - 0.2]), rotation)
    limiter = limiter_at(start)
    before = KINEMATICS.position(start)
    for _ in range(10):
        limiter.plan(through, PROFILE.substeps)
    after = KINEMATICS.position(limiter.setpoint.position)
    assert after[0] - before[0] > 0.05, "expected to move along the floor of the box"
    assert after[2] >= BOX[0][2]


@pytest.mark.parametrize("bad", [np.zeros(6), np.zeros((7, 1)), np.full(7, np.nan), np.full(7, np.inf)])
def test_a_target_that_is_no_target_is_refused_and_changes_nothing(bad):
    limiter = limiter_at(START)
    limiter.plan(START + 0.1, 2)
    before = limiter.setpoint
    with pytest.raises(ValueError, match="target: expected"):
        limiter.advance(bad, 0.05)
    assert (limiter.setpoint.position == before.position).all()
    assert (limiter.setpoint.velocity == before.velocity).all()


def test_reset_refuses_positions_that_are_not_finite():
    limiter = limiter_at(START)
    with pytest.raises(ValueError, match="joint_positions: expected finite"):
        limiter.reset(np.full(7, np.nan))
    assert (limiter.setpoint.position == START).all()


def test_same_targets_give_the_same_setpoints():
    runs = []
    for _ in range(2):
        limiter = limiter_at(START)
        runs.append(np.array([s.position for s in limiter.plan(START + 0.3, 40)[0]]))
    assert (runs[0] == runs[1]).all()

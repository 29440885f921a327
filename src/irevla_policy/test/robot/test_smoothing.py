"""Smoothed motion: jerk stays below its limit, targets are passed on time, and every other limit still holds."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from irevla_policy.robot.guard import GuardCore
from irevla_policy.robot.kinematics import ArmKinematics
from irevla_policy.robot.limits import MotionLimiter
from irevla_policy.robot.profile import RobotProfile, load_profile
from irevla_policy.robot.proposal import Proposal
from irevla_policy.settings import SettingsError

JERK = 200.0


def with_jerk(profile: RobotProfile, jerk: float) -> RobotProfile:
    joints = tuple(dataclasses.replace(joint, jerk=jerk) for joint in profile.joints)
    return dataclasses.replace(profile, joints=joints)


PROFILE = with_jerk(load_profile("panda"), JERK)
KINEMATICS = ArmKinematics(PROFILE)
DT = 1.0 / PROFILE.guard_rate
HOME = np.array(PROFILE.home)
VELOCITY = np.array([joint.velocity for joint in PROFILE.joints])
ACCELERATION = np.array([joint.acceleration for joint in PROFILE.joints])
LOW, HIGH = np.array([joint.position for joint in PROFILE.joints]).T
BOX = np.array([PROFILE.workspace.low, PROFILE.workspace.high])


def limiter(profile: RobotProfile = PROFILE) -> MotionLimiter:
    made = MotionLimiter(profile, KINEMATICS, DT)
    made.reset(HOME)
    return made


def path(motion: MotionLimiter, targets: list[np.ndarray]) -> np.ndarray:
    """Positions at every tick, three at rest first, `[3 + k * substeps, n]`."""
    points = [HOME] * 3
    for target in targets:
        setpoints, _ = motion.plan(target, PROFILE.substeps)
        points += [setpoint.position for setpoint in setpoints]
    return np.array(points)


def jerks(points: np.ndarray) -> np.ndarray:
    return np.abs(np.diff(points, 3, axis=0)) / DT**3


STEP = np.array([0.03, -0.02, 0.0, 0.04, 0.0, 0.02, 0.0])


def test_a_flow_of_targets_is_passed_on_time_and_without_stops() -> None:
    targets = [HOME + number * STEP for number in range(1, 8)]
    points = path(limiter(), targets)
    assert jerks(points).max() <= JERK * (1 + 1e-6)
    assert jerks(path(limiter(with_jerk(PROFILE, 0.0)), targets)).max() > 2.0 * JERK  # what it would be
    speeds = np.linalg.norm(np.diff(points, axis=0), axis=1) / DT
    asked = np.linalg.norm(STEP) * PROFILE.control_rate
    assert speeds[3 + PROFILE.substeps :].min() > 0.8 * asked
    reached = points[2 + PROFILE.substeps :: PROFILE.substeps]
    assert np.abs(reached[3:] - targets[3:]).max() < 1e-6


def test_it_comes_to_rest_at_a_target_that_stands_still() -> None:
    motion = limiter()
    points = path(motion, [HOME + STEP] * 6)
    assert np.abs(points[-1] - HOME - STEP).max() < 1e-9
    assert np.abs(np.diff(points[-5:], axis=0)).max() < 1e-9
    assert jerks(points).max() <= JERK * (1 + 1e-6)
    beyond = (points - HOME - STEP) * np.sign(STEP)
    assert beyond.max() < 1e-9  # without swinging past it


def test_a_stop_does_not_wait_for_the_jerk() -> None:
    motion, plain = limiter(), limiter(with_jerk(PROFILE, 0.0))
    for each in (motion, plain):
        path(each, [HOME + number * STEP for number in range(1, 6)])
        ticks = 0
        while not each.at_rest:
            each.advance(None)
            ticks += 1
        assert ticks == int(np.ceil(np.max(np.abs(STEP * PROFILE.control_rate) / (ACCELERATION * DT)) - 1e-6))
    # And the way on from the stop is smooth again.
    rest = motion.setpoint.position
    points = [rest] * 3 + [setpoint.position for setpoint in motion.plan(rest + STEP, PROFILE.substeps)[0]]
    assert jerks(np.array(points)).max() <= JERK * (1 + 1e-6)


joint = st.floats(-4.0, 4.0, allow_nan=False)
moves = st.lists(
    st.tuples(
        st.one_of(
            st.none(),
            st.lists(st.one_of(joint, st.just(1e300)), min_size=7, max_size=7).map(np.array),
            st.lists(st.floats(-0.05, 0.05), min_size=7, max_size=7).map(lambda step: HOME + np.array(step)),
        ),
        st.floats(0.0, 0.3),
        st.integers(1, 12),
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=60, deadline=None)
@given(moves)
def test_any_target_keeps_every_limit(moves) -> None:
    motion, points = limiter(), [HOME, HOME]
    for target, remaining, ticks in moves:
        for tick in range(ticks):
            setpoint, _ = motion.advance(target, remaining - tick * DT)
            points.append(setpoint.position)
    velocity = np.diff(np.array(points), axis=0) / DT
    assert (np.abs(velocity) <= VELOCITY + 1e-9).all()
    assert (np.abs(np.diff(velocity, axis=0)) / DT <= ACCELERATION * (1 + 1e-9) + 1e-8).all()
    assert ((np.array(points) >= LOW - 1e-12) & (np.array(points) <= HIGH + 1e-12)).all()
    hand = np.array([KINEMATICS.position(q) for q in points])
    assert ((hand >= BOX[0] - 1e-9) & (hand <= BOX[1] + 1e-9)).all()


def test_jerk_is_limited_for_all_joints_or_none_and_is_no_matter_of_the_data() -> None:
    joints = (dataclasses.replace(PROFILE.joints[0], jerk=0.0), *PROFILE.joints[1:])
    with pytest.raises(SettingsError, match=r"joints\[0\]: jerk: missing, and joint 'panda_joint2' has one"):
        dataclasses.replace(PROFILE, joints=joints)
    assert with_jerk(PROFILE, 0.0).training_hash == PROFILE.training_hash


class Drive:
    """A guard of the Panda that follows a policy, and from some tick on a device."""

    def __init__(self) -> None:
        self.core = GuardCore(PROFILE, KINEMATICS)
        self.core.on_instruction("move")
        self.core.activate()
        self.measured, self.now, self.tick = HOME, 100.0, 0
        self.hand: list[np.ndarray] = []

    def run(self, ticks: int, late: dict[int, int], device: bool = False) -> None:
        """Let ticks go by; `late` delays the actions of control periods by so many."""
        pending: dict[int, list[tuple[float, np.ndarray]]] = {}
        for _ in range(ticks):
            stamp, period = round(self.now * 1e9), self.tick // PROFILE.substeps
            self.core.on_joint_states(self.measured, 0.04, self.now, stamp)
            if self.tick % PROFILE.substeps == 0:
                for camera in PROFILE.cameras:
                    self.core.on_camera(camera.name, self.now, stamp)
                if not device:
                    due = self.tick + late.get(period, 0)
                    pending.setdefault(due, []).append((self.now, HOME + (period + 1) * STEP / 2))
            for seen, target in pending.pop(self.tick, []):
                proposal = Proposal(round(seen * 1e9), (), PROFILE.joint_names, tuple(target.tolist()))
                assert self.core.on_action(proposal, self.now, self.now - seen)
            if device and self.tick % PROFILE.substeps == 1:
                stay = tuple(self.measured.tolist())
                self.core.on_intervention(Proposal(0, (), PROFILE.joint_names, stay), self.now)
            decision = self.core.tick(self.now)
            assert decision is not None
            self.measured = decision.setpoints[-1].position
            self.hand.append(KINEMATICS.position(self.measured))
            self.now, self.tick = self.now + DT, self.tick + 1

    def speeds(self) -> np.ndarray:
        return np.linalg.norm(np.diff(self.hand, axis=0), axis=1) / DT


def test_an_action_in_time_after_a_late_one_is_no_faster_motion() -> None:
    steady, jittered = Drive(), Drive()
    steady.run(20 * PROFILE.substeps, {})
    jittered.run(20 * PROFILE.substeps, {6: 4, 9: 4, 11: 4})  # 80 ms
    # It stops where an action is missing and catches up afterwards, no faster than that takes.
    assert jittered.speeds().max() < 2.2 * np.median(steady.speeds()[: 10 * PROFILE.substeps])
    assert np.linalg.norm(jittered.hand[-1] - steady.hand[-1]) < 0.005


def test_who_takes_over_and_stays_does_not_kick() -> None:
    drive = Drive()
    drive.run(10 * PROFILE.substeps + 1, {})
    asked = drive.speeds()[-PROFILE.substeps :].max()
    place = len(drive.hand) - 1
    drive.run(2 * PROFILE.substeps, {}, device=True)
    assert drive.speeds()[place:].max() < 1.2 * asked
    back = (np.array(drive.hand[place:]) - drive.hand[place]) @ (drive.hand[place] - drive.hand[place - 5])
    assert back.min() > -1e-4

"""The safety benchmark: its checks find what is wrong, and the guard passes them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from irevla_policy.errors import RunError
from irevla_policy.robot.collision import CollisionModel
from irevla_policy.robot.kinematics import ArmKinematics
from irevla_policy.robot.limits import Setpoint
from irevla_policy.robot.profile import load_profile
from irevla_trainer.bench.safety import PATHS, summarise
from irevla_trainer.bench.safety_actions import Account, Chain, Checker, campaign
from irevla_trainer.bench.safety_faults import FAULTS, Rehearsal, Sent, Trial, judge

PROFILE = load_profile("panda")
DT = 1.0 / PROFILE.guard_rate
HOME = np.array(PROFILE.home)
REST = np.zeros(len(HOME))


@pytest.mark.parametrize("robot", sorted({robot for robot, _ in PATHS}))
def test_the_checkers_kinematics_are_those_of_pinocchio(robot: str) -> None:
    profile = load_profile(robot)
    random = np.random.default_rng(0)
    low, high = np.array([joint.position for joint in profile.joints]).T
    joints = random.uniform(low, high, (50, len(low)))
    kinematics = ArmKinematics(profile)
    assert np.allclose(Chain(profile).position(joints), [kinematics.position(row) for row in joints], atol=1e-9)


@pytest.mark.parametrize(("robot", "collisions"), PATHS)
def test_no_action_gets_past_the_limits(robot: str, collisions: bool) -> None:
    # Few of them would touch anything.
    actions = 1000 if collisions else 400
    account = campaign(robot, collisions, actions, seed=3)
    assert sum(account.actions.values()) == actions
    assert account.moving > actions / 2  # the robot was not just held
    assert 0 < sum(account.refused.values()) < actions
    assert not +account.violations
    for limit in ("position", "velocity", "acceleration", "workspace"):
        assert account.worst[limit] > 0.5, limit
    assert ("collision" in account.violations) == collisions == bool(account.collision_checks) == bool(account.kept_off)


@pytest.mark.parametrize(
    ("limit", "steps"),
    [
        ("finite", [0.0, np.nan]),
        ("position", np.linspace(0.0, 2.6, 200)),
        ("velocity", 0.5 * PROFILE.joints[3].acceleration * (DT * np.arange(1, 30)) ** 2),
        ("acceleration", [0.01, 0.01]),
        ("workspace", np.linspace(0.0, -1.5, 200)),
        ("told_velocity", [0.0, 0.001, 0.003]),
    ],
)
def test_every_violation_is_found(limit: str, steps: list[float]) -> None:
    joint = 3
    positions = [HOME + step * np.eye(len(HOME))[joint] for step in steps]
    before = np.vstack((HOME, positions[:-1]))
    told = [(np.zeros(7) if limit == "told_velocity" else (p - q) / DT) for p, q in zip(positions, before, strict=True)]
    account = Account()
    Checker(PROFILE, HOME).check([Setpoint(p, v) for p, v in zip(positions, told, strict=True)], account)
    assert account.violations[limit] > 0
    assert account.commands == len(positions)


def test_what_touches_the_table_is_found() -> None:
    deeper = np.linspace(0.0, 1.0, 60)[:, None] * np.eye(len(HOME))[1]
    account = Account()
    checker = Checker(PROFILE, HOME, CollisionModel(PROFILE))
    checker.check([Setpoint(HOME + step, REST) for step in deeper], account)
    assert 0 < account.violations["collision"] < 60


def sent(speeds: list[float]) -> list[Sent]:
    """Setpoints of these speeds of the first joint, one a tick; the fault happens at 10 s, with the third."""
    positions = np.cumsum([*speeds]) * DT
    return [
        Sent(
            10.0 + (place - 2) * DT,
            round((place + 1) * DT * 1e9),
            Setpoint(HOME + position * np.eye(7)[0], speed * np.eye(7)[0]),
        )
        for place, (position, speed) in enumerate(zip(positions, speeds, strict=True))
    ]


def test_a_stop_begins_with_the_first_decelerating_command() -> None:
    trial = judge("camera frozen", False, 10.0, sent([0.6] * 6 + [0.45, 0.3, 0.15] + [0.0] * 60), False, PROFILE)
    assert trial.stop_s == pytest.approx(4 * DT)
    assert trial.rest_s == pytest.approx(3 * DT)
    assert not trial.moved_again and not +trial.account.violations
    assert trial.account.commands == 67


def test_commands_beside_one_that_was_late_are_checked() -> None:
    commands = sent([0.6] * 6 + [0.45, 0.3, 0.15] + [0.0] * 60)
    for place in range(30, len(commands)):
        commands[place] = replace(commands[place], stamp=commands[place].stamp + round(0.5e9 * DT))
    trial = judge("camera frozen", False, 10.0, commands, False, PROFILE)
    # All but the first two of either stretch.
    assert trial.account.commands == len(commands) - 4 and not +trial.account.violations
    jumped = commands[40].setpoint
    commands[40] = replace(commands[40], setpoint=replace(jumped, position=jumped.position + 1.0))
    assert judge("camera frozen", False, 10.0, commands, False, PROFILE).account.violations["velocity"]


def test_a_swing_that_slows_down_by_itself_does_not_brake_yet() -> None:
    slows = [0.6] * 3 + [0.58, 0.54, 0.48] + [0.36, 0.24, 0.12] + [0.0] * 60
    trial = judge("camera frozen", False, 10.0, sent(slows), False, PROFILE)
    assert trial.stop_s == pytest.approx(4 * DT)
    assert trial.rest_s == pytest.approx(3 * DT)


def test_a_swing_that_turns_about_has_not_stopped() -> None:
    turns = [0.15, 0.0, -0.15, -0.3, -0.3, -0.15] + [0.0] * 60
    trial = judge("camera frozen", False, 10.0, sent(turns), False, PROFILE)
    assert trial.stop_s == pytest.approx(3 * DT)
    assert not trial.moved_again


def test_what_moves_again_or_goes_on_is_told() -> None:
    again = [0.6] * 4 + [0.45, 0.3, 0.15] + [0.0] * 30 + [0.15, 0.15] + [0.0] * 10
    assert judge("clock back", False, 10.0, sent(again), False, PROFILE).moved_again
    with pytest.raises(RunError, match="still moves 1 s after 'clock back'"):
        judge("clock back", False, 10.0, sent([0.6] * 60), False, PROFILE)


def test_figures_miss_their_targets_where_they_should() -> None:
    def trials(stop: float, **what: bool) -> list[Trial]:
        good = Trial("E-stop", False, 0.02, 0.1, False, False, Account())
        return [good, replace(good, busy=True), replace(good, stop_s=stop, **what)]

    clean = Account()
    clean.actions["random"] = 10
    assert summarise(clean, trials(0.15)).holds
    assert summarise(clean, trials(0.3)).missed == ["stop_p99_s"]
    assert summarise(clean, trials(0.15, early=True)).missed == ["moved_again"]
    broken = replace(clean)
    broken.violations["velocity"] = 1
    assert summarise(broken, trials(0.15)).missed == ["violations"]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_faults_of_a_moving_robot_stop_it(tmp_path: Path) -> None:
    rehearsal = Rehearsal(tmp_path)
    with rehearsal.running():
        for fault in FAULTS:
            trial = rehearsal.trial(fault)
            assert trial.stop_s < 0.3 and trial.rest_s < 0.25, trial
            assert not trial.moved_again and not trial.early, trial
            assert trial.account.commands and not +trial.account.violations, trial

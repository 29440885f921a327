"""The guard's decisions, with the clock in the test's hand."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from irevla_policy.robot.decision import Decision, Source, State
from irevla_policy.robot.guard import GuardCore
from irevla_policy.robot.interlocks import GuardTimes
from irevla_policy.robot.kinematics import ArmKinematics
from irevla_policy.robot.lockstep import LockStepGuard, follows
from irevla_policy.robot.profile import load_profile
from irevla_policy.robot.proposal import Proposal
from irevla_policy.robot.scene import Scene, Touch
from irevla_policy.robot.watchdog import Watchdog

PROFILE = load_profile("sawyer")
KINEMATICS = ArmKinematics(PROFILE)
HOME = np.array(PROFILE.home)
DT = 1.0 / PROFILE.guard_rate
PERIOD = 1.0 / PROFILE.control_rate
CAMERA = PROFILE.cameras[0].name


def proposal(stamp: int, target=HOME, gripper: float = 0.5, **changes) -> Proposal:
    values = changes.pop("values", (0.1,) * PROFILE.action_dim)
    names = changes.pop("joint_names", PROFILE.joint_names)
    version = changes.pop("policy_version", "0123456789ab")
    return Proposal(stamp, values, names, tuple(np.asarray(target).tolist()), gripper, version)


class Robot:
    """A guard with perfect sensors and a policy; parts of it can be switched off."""

    def __init__(self, profile=PROFILE, latches: bool = False, scene: Scene | None = None, **times) -> None:
        self.core = GuardCore(profile, KINEMATICS, GuardTimes(**times), latches=latches, scene=scene)
        self.now = 100.0
        self.measured = HOME.copy()
        self.parts = {"camera", "joints", "policy"}
        self.target = HOME + 0.02
        self.sent: list[Decision] = []
        self.core.on_instruction("press the button")
        self.core.activate()
        self._tick = 0

    def run(self, seconds: float) -> Decision | None:
        decision = None
        for _ in range(round(seconds / DT)):
            stamp = round(self.now * 1e9)
            if "joints" in self.parts:
                self.core.on_joint_states(self.measured, 0.1, self.now, stamp)
            if self._tick % PROFILE.substeps == 0:
                if "camera" in self.parts:
                    self.core.on_camera(CAMERA, self.now, stamp)
                if "policy" in self.parts:
                    self.core.on_action(proposal(stamp, self.target), self.now)
            decision = self.core.tick(self.now)
            if decision is not None:
                self.sent.append(decision)
                self.measured = decision.setpoints[-1].position.copy()
            self._tick += 1
            self.now += DT
        return decision

    def codes(self) -> list[str]:
        return [reason.code for reason in self.core.status(self.now - DT).reasons]

    def state(self) -> State:
        return self.core.status(self.now - DT).state


def test_nothing_is_sent_before_the_state_is_known():
    robot = Robot()
    robot.parts = set()
    assert robot.run(0.5) is None
    assert robot.state() is State.HOLDING
    assert {"joint_states_stale", "camera_stale", "action_missing"} <= set(robot.codes())


def test_follows_the_policy():
    robot = Robot()
    decision = robot.run(1.0)
    assert robot.state() is State.RUNNING
    assert robot.codes() == []
    assert decision.source is Source.POLICY
    assert np.allclose(decision.setpoints[0].position, robot.target, atol=1e-9)
    assert decision.gripper == 0.5
    assert decision.policy_version == "0123456789ab"
    assert robot.core.status(robot.now).actions_total == 20


def test_starts_at_the_measured_state_and_keeps_the_gripper():
    robot = Robot()
    robot.parts = {"camera", "joints"}
    robot.measured = HOME + 0.3
    first = robot.run(DT)
    assert (first.setpoints[0].position == HOME + 0.3).all()
    assert first.gripper == -1.0  # measured 0.1 m is open
    assert first.source is Source.HOLD


@pytest.mark.parametrize(
    ("part", "code", "word"),
    [
        ("camera", "camera_stale", "camera 'corner'"),
        ("joints", "joint_states_stale", "/joint_states"),
        ("policy", "action_late", "old"),
    ],
)
def test_holds_when_a_part_falls_silent(part, code, word):
    robot = Robot()
    robot.target = HOME + np.linspace(0.0, 0.6, 7)
    robot.run(0.1)
    robot.parts.remove(part)
    timeout = PROFILE.stale_timeout if part != "policy" else PROFILE.action_timeout + PERIOD
    before = len(robot.sent)
    robot.run(timeout + 2 * DT)
    assert robot.state() is State.HOLDING
    assert code in robot.codes()
    sentence = next(r.sentence for r in robot.core.status(robot.now).reasons if r.code == code)
    assert word in sentence
    first_hold = next(i for i, d in enumerate(robot.sent) if i >= before and d.source is Source.HOLD)
    assert (first_hold - before) * DT <= timeout + DT
    robot.run(0.5)
    held = robot.sent[-1]
    assert (held.setpoints[0].position == robot.sent[-20].setpoints[0].position).all()
    assert (held.setpoints[0].velocity == 0.0).all()
    assert word in held.reason
    robot.parts.add(part)
    robot.run(0.2)
    assert robot.state() is State.RUNNING


def test_a_long_silence_is_a_missing_policy():
    robot = Robot()
    robot.run(0.2)
    robot.parts.remove("policy")
    robot.run(1.5)
    assert robot.codes() == ["action_missing"]
    assert "silent" in robot.core.status(robot.now).reasons[0].sentence


def test_holds_without_an_instruction():
    robot = Robot()
    robot.run(0.2)
    robot.core.on_instruction("  ")
    robot.run(0.1)
    assert robot.codes() == ["no_instruction"]
    robot.core.on_instruction("again")
    robot.run(0.1)
    assert robot.state() is State.RUNNING
    assert robot.core.status(robot.now).instruction == "again"


BAD = {
    "nan target": {"target": np.where(np.arange(7) == 3, math.nan, HOME)},
    "inf target": {"target": HOME * math.inf},
    "too few joints": {"target": HOME[:6]},
    "other names": {"joint_names": tuple("abcdefg")},
    "nan value": {"values": (math.nan,) * PROFILE.action_dim},
    "too many values": {"values": (0.0,) * (PROFILE.action_dim + 1)},
    "no values": {"values": ()},
    "gripper": {"gripper": 1.5},
    "nan gripper": {"gripper": math.nan},
    "out of limits": {"target": HOME + np.eye(7)[1] * 5.0},
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD.keys())
def test_an_invalid_action_holds_until_the_next_good_one(bad):
    robot = Robot()
    robot.run(0.2)
    assert not robot.core.on_action(proposal(round(robot.now * 1e9) - 1, **bad), robot.now)
    decision = robot.core.tick(robot.now)
    assert decision.source is Source.HOLD
    assert robot.core.status(robot.now).state is State.HOLDING
    assert [r.code for r in robot.core.status(robot.now).reasons] == ["action_invalid"]
    assert "expected" in decision.reason or "outside" in decision.reason or "has" in decision.reason
    assert robot.core.status(robot.now).actions_refused == 1
    robot.run(0.1)
    assert robot.state() is State.RUNNING


def test_names_in_another_order_are_put_in_order():
    robot = Robot()
    robot.run(0.1)
    robot.parts.remove("policy")
    target = HOME + np.linspace(0.0, 0.02, 7)
    mixed = proposal(round(robot.now * 1e9), target[::-1], joint_names=PROFILE.joint_names[::-1])
    assert robot.core.on_action(mixed, robot.now)
    robot.run(PERIOD + DT)
    assert np.allclose(robot.sent[-1].setpoints[0].position, target, atol=1e-9)


def test_a_late_action_is_refused():
    robot = Robot()
    robot.run(0.2)
    late = proposal(round(robot.now * 1e9))
    assert not robot.core.on_action(late, robot.now, age=PROFILE.action_timeout + 0.01)
    assert [r.code for r in robot.core.status(robot.now).reasons] == ["action_late"]
    assert not robot.core.on_action(late, robot.now, age=-1.0)
    assert "future" in robot.core.status(robot.now).reasons[0].sentence


def test_a_repeated_action_is_not_carried_out_twice():
    robot = Robot()
    robot.run(0.2)
    total = robot.core.status(robot.now).actions_total
    again = robot.sent[-1].stamp
    assert not robot.core.on_action(proposal(again, HOME + 0.2), robot.now)
    robot.core.tick(robot.now)
    assert robot.core.status(robot.now).actions_total == total
    assert robot.core.status(robot.now).actions_refused == 0


def test_stamps_that_do_not_rise_make_a_camera_stale():
    robot = Robot()
    robot.run(0.2)
    robot.parts.remove("camera")
    for _ in range(20):
        robot.core.on_camera(CAMERA, robot.now, 7)
        robot.run(DT)
    assert "camera_stale" in robot.codes()


def test_old_and_future_stamps_make_a_camera_stale():
    for age, word in ((0.5, "old"), (-2.0, "future")):
        robot = Robot()
        robot.run(0.2)
        robot.parts.remove("camera")
        for index in range(20):
            robot.core.on_camera(CAMERA, robot.now, index, age=age)
            robot.run(DT)
        assert "camera_stale" in robot.codes()
        assert word in robot.core.status(robot.now).reasons[0].sentence


def test_invalid_joint_states_hold():
    robot = Robot()
    robot.run(0.2)
    robot.core.on_joint_states_error("/joint_states: position of joint 'right_j0' is nan")
    robot.parts.remove("joints")
    robot.run(DT)
    assert robot.codes() == ["joint_states_invalid"]
    robot.parts.add("joints")
    robot.run(0.1)
    assert robot.state() is State.RUNNING


def test_estop_brakes_latches_and_rearms_at_the_measured_state():
    robot = Robot()
    robot.target = HOME + np.linspace(0.0, 0.6, 7)
    robot.run(0.1)
    assert robot.sent[-1].setpoints[0].velocity.any()
    robot.core.estop()
    robot.run(0.3)
    assert robot.state() is State.ESTOPPED
    assert "estop" in robot.codes()
    held = robot.sent[-1].setpoints[0].position
    robot.measured = held + 0.02  # pushed a little, less than the tolerance of an ordinary hold
    robot.parts = {"camera", "joints"}
    for _ in range(5):
        robot.core.on_joint_states(held + 0.02, 0.1, robot.now, round(robot.now * 1e9))
        assert (robot.core.tick(robot.now).setpoints[0].position == held).all()
        robot.now += DT
    robot.core.clear_estop()
    assert robot.state() is State.HOLDING
    robot.core.on_joint_states(held + 0.02, 0.1, robot.now, round(robot.now * 1e9))
    robot.core.on_camera(CAMERA, robot.now, round(robot.now * 1e9))
    assert robot.core.on_action(proposal(round(robot.now * 1e9), held + 0.02), robot.now)
    decision = robot.core.tick(robot.now)
    assert decision.source is Source.POLICY
    assert (decision.setpoints[0].position == held + 0.02).all()


def test_a_hold_ends_at_the_commanded_state_unless_the_arm_was_moved():
    for moved, kept in ((0.05, True), (0.3, False)):
        robot = Robot()
        robot.run(0.3)
        robot.parts.remove("policy")
        robot.run(0.5)
        held = robot.sent[-1].setpoints[0].position
        stamp = round(robot.now * 1e9)
        robot.core.on_joint_states(held + moved, 0.1, robot.now, stamp)
        robot.core.on_camera(CAMERA, robot.now, stamp)
        start = held if kept else held + moved
        assert robot.core.on_action(proposal(stamp, start), robot.now)
        assert np.allclose(robot.core.tick(robot.now).setpoints[0].position, start, atol=1e-9)


def test_an_arm_that_was_put_elsewhere_is_not_chased():
    robot = Robot()
    robot.target = HOME + np.linspace(0.0, 0.6, 7)
    robot.run(0.1)
    start = len(robot.sent)
    robot.measured = HOME - 0.4
    robot.parts.remove("joints")  # they come from the new place, and not from where the setpoints are
    robot.target = HOME - 0.4
    for _ in range(2):  # while it brakes, and when it is at rest
        robot.core.on_joint_states(HOME - 0.4, 0.1, robot.now, round(robot.now * 1e9))
        robot.run(0.06)
    sources = [decision.source for decision in robot.sent[start:]]
    assert sources[0] is Source.HOLD
    assert sources[-1] is Source.POLICY
    assert "measured state" in robot.sent[start].reason
    assert (robot.sent[-1].setpoints[0].position == HOME - 0.4).all()


def stays(robot: Robot, places: list[np.ndarray], acts: bool = True) -> list[Decision]:
    """A tick of an arm at each place, whatever it is sent."""
    found = []
    for place in places:
        stamp = round(robot.now * 1e9)
        robot.core.on_joint_states(place, 0.1, robot.now, stamp)
        robot.core.on_camera(CAMERA, robot.now, stamp)
        if acts:
            robot.core.on_action(proposal(stamp, place), robot.now)
        found.append(robot.core.tick(robot.now))
        robot.now += DT
    return found


def stopped() -> tuple[Robot, np.ndarray]:
    """A guard whose E-stop is set, and where its arm has come to rest."""
    robot = Robot(latches=True)
    robot.run(0.3)
    robot.core.estop()
    robot.run(0.3)
    return robot, robot.measured.copy()


A_WHILE = round(0.4 / DT)


def test_an_arm_that_was_pushed_while_it_was_stopped_is_not_sent_back_and_one_clear_is_enough():
    robot, held = stopped()
    way = [held + share * 0.95 for share in np.linspace(0.0, 1.0, 2 * A_WHILE)]
    decisions = stays(robot, [*way, *[way[-1]] * A_WHILE])
    assert np.allclose(decisions[-1].setpoints[-1].position, way[-1], atol=0.03)
    # Where it comes to stand, and not on the way there.
    assert np.array_equal(decisions[len(way) // 2].setpoints[-1].position, decisions[0].setpoints[-1].position)
    robot.core.clear_estop()
    decisions = stays(robot, [way[-1]] * 10)
    assert decisions[-1].source is Source.POLICY and "displaced" not in robot.codes()
    assert np.allclose(decisions[-1].setpoints[-1].position, way[-1])


def test_an_arm_that_is_pushed_after_the_stop_is_released_needs_no_second_clear():
    robot, held = stopped()
    robot.core.clear_estop()
    stays(robot, [held + 0.6] * A_WHILE, acts=False)
    decisions = stays(robot, [held + 0.6] * 10)
    assert decisions[-1].source is Source.POLICY and "displaced" not in robot.codes()


@pytest.mark.parametrize("freezes", [False, True])
def test_a_wrong_measurement_moves_no_arm_that_holds(freezes: bool):
    robot, held = stopped()
    wrong = np.zeros_like(held)
    places = [held] * A_WHILE + [wrong] + [held] * (0 if freezes else A_WHILE)
    decisions = stays(robot, places)
    for _ in range(A_WHILE if freezes else 0):
        decisions.append(robot.core.tick(robot.now))
        robot.now += DT
    assert all(np.array_equal(decision.setpoints[-1].position, held) for decision in decisions)


def test_a_device_overrides_a_slow_policy_for_longer_than_its_own_period():
    slow = replace(PROFILE, control_rate=2.0)
    core = GuardCore(slow, KINEMATICS)
    core.on_instruction("press the button")
    core.activate()
    core.on_joint_states(HOME, 0.1, 100.0, 100 * 10**9)
    assert core.on_intervention(proposal(0, HOME), 100.0)
    for after, state in ((0.1, State.INTERVENED), (0.6, State.INTERVENED), (0.8, State.HOLDING)):
        core.on_joint_states(HOME, 0.1, 100.0 + after, round((100.0 + after) * 1e9))
        core.tick(100.0 + after)
        assert core.status(100.0 + after).state is state, after


def test_a_slow_device_that_sends_nonsense_does_not_hand_the_arm_over_in_between():
    slow = replace(PROFILE, control_rate=2.0)
    core = GuardCore(slow, KINEMATICS)
    core.on_instruction("press the button")
    core.activate()
    states = set()
    for tick in range(100):
        now = 100.0 + 0.02 * tick
        core.on_joint_states(HOME, 0.1, now, round(now * 1e9))
        core.on_camera(CAMERA, now, round(now * 1e9))
        if tick % 25 == 0:
            core.on_action(proposal(round(now * 1e9), HOME), now)
            core.on_intervention(proposal(0, np.full(7, np.nan)), now)
        core.tick(now)
        states.add(core.status(now).state)
    assert states == {State.HOLDING}


def test_interventions_override_while_fresh():
    robot = Robot()
    robot.run(0.3)
    for _ in range(10):
        assert robot.core.on_intervention(proposal(0, HOME - 0.02, policy_version="", values=()), robot.now)
        robot.run(PERIOD)
    assert robot.state() is State.INTERVENED
    assert robot.sent[-1].source is Source.INTERVENTION
    assert robot.sent[-1].policy_version == ""
    assert np.allclose(robot.measured, HOME - 0.02, atol=1e-3)
    robot.run(0.4)
    assert robot.state() is State.RUNNING
    robot.core.on_instruction("")
    robot.core.on_intervention(proposal(0, HOME, policy_version=""), robot.now)
    robot.run(DT)
    assert robot.state() is State.INTERVENED


def test_a_device_that_sends_nonsense_holds():
    robot = Robot()
    robot.run(0.3)
    assert not robot.core.on_intervention(proposal(0, HOME * math.nan, policy_version=""), robot.now)
    robot.run(2 * DT)
    assert robot.state() is State.HOLDING
    assert robot.codes() == ["action_invalid"]
    robot.run(0.4)
    assert robot.state() is State.RUNNING


def test_holds_beside_another_publisher_of_the_command_topic():
    robot = Robot()
    robot.run(0.2)
    robot.core.on_publishers(["/irevla_guard"])
    robot.run(0.2)
    assert robot.codes() == ["other_publisher"]
    assert f"{PROFILE.command.topic} is also published by /irevla_guard" in robot.sent[-1].reason
    robot.core.on_publishers([])
    robot.run(0.1)
    assert robot.state() is State.RUNNING


@pytest.mark.parametrize(
    ("code", "disturb", "word"),
    [
        ("other_publisher", lambda robot: robot.core.on_publishers(["/intruder"]), "also published by /intruder"),
        ("joint_states_invalid", lambda robot: robot.core.on_joint_states_error("two joints named 'j1'"), "named 'j1'"),
        ("displaced", lambda robot: robot.measured.__iadd__(0.6), "0.60 rad from where it was sent"),
    ],
)
@pytest.mark.parametrize("latches", [False, True])
def test_what_a_person_must_look_at_holds_until_it_is_cleared_where_that_is_asked_for(latches, code, disturb, word):
    robot = Robot(latches=latches)
    robot.run(1.0)
    assert robot.state() is State.RUNNING
    disturb(robot)
    robot.run(DT)
    robot.core.on_publishers([])  # it has passed
    robot.run(2.0)
    if not latches:
        assert robot.state() is State.RUNNING
        return
    assert robot.state() is State.HOLDING and robot.codes() == [code]
    [reason] = robot.core.status(robot.now).reasons[:1]
    assert word in reason.sentence and reason.sentence.endswith("; holds until /irevla/clear_estop")
    rest = robot.sent[-1].setpoints[-1].position
    robot.core.on_intervention(proposal(round(robot.now * 1e9), rest), robot.now)
    assert robot.run(DT).source is Source.HOLD  # nobody drives it
    robot.core.clear_estop()
    robot.run(1.0)
    assert robot.state() is State.RUNNING


def test_nothing_latches_before_the_guard_is_active():
    core = GuardCore(PROFILE, KINEMATICS, latches=True)
    core.on_joint_states_error("of the gripper alone")
    core.activate()
    assert "joint_states_invalid" not in [reason.code for reason in core.status(0.0).reasons]
    assert core.clear_estop() == "was not stopped"


def test_a_hold_never_carries_a_stamp_of_the_future():
    robot = Robot()
    robot.run(0.2)
    robot.core.on_camera(CAMERA, robot.now, 2**62, age=-1e6)
    robot.parts.remove("policy")
    held = robot.run(0.5)
    assert held.source is Source.HOLD
    assert held.stamp <= round(robot.now * 1e9)


def test_heartbeat():
    robot = Robot(replace(PROFILE, require_heartbeat=True), heartbeat_timeout=0.2)
    robot.run(0.2)
    assert robot.codes() == ["heartbeat_missing"]
    for _ in range(10):
        robot.core.on_heartbeat(robot.now)
        robot.run(0.1)
    assert robot.state() is State.RUNNING
    robot.run(0.3)
    assert robot.codes() == ["heartbeat_missing"]


def test_deactivation_brakes_to_rest_and_ends():
    robot = Robot()
    robot.target = HOME + np.linspace(0.0, 0.6, 7)
    robot.run(0.1)
    robot.core.deactivate()
    assert robot.core.is_moving
    robot.run(0.2)
    assert not robot.core.is_moving
    assert (robot.sent[-1].setpoints[0].velocity == 0.0).all()
    assert robot.run(DT) is None
    assert robot.codes() == ["inactive"]


def test_says_that_a_start_is_outside_the_limits():
    robot = Robot()
    robot.measured = HOME + np.eye(7)[6] * 3.0
    robot.target = HOME
    robot.run(2 * DT)
    assert "start_outside_limits" in robot.codes()
    assert "right_j6" in robot.sent[-1].reason
    robot.run(2.0)
    assert robot.codes() == []


class Post:
    """Stands where the arm starts."""

    there = True

    def touching(self, joints: np.ndarray) -> list[Touch]:
        return [("hand", "post")] if self.there and joints[0] < HOME[0] + 0.1 else []


def test_only_an_intervention_moves_an_arm_that_touches_something():
    robot = Robot(scene=Post())
    robot.target = HOME + 0.05
    robot.run(1.0)
    assert robot.state() is State.HOLDING and robot.codes() == ["touching"]
    assert "hand and post" in robot.sent[-1].reason
    assert (robot.measured == HOME).all()
    for _ in range(20):
        robot.core.on_intervention(proposal(0, HOME + 0.2), robot.now)
        robot.run(PERIOD)
    assert robot.state() is State.INTERVENED
    robot.target = HOME + 0.15
    robot.run(2.0)
    assert robot.state() is State.RUNNING and robot.codes() == []
    robot.target = HOME
    robot.run(2.0)
    assert robot.measured[0] >= HOME[0] + 0.1 and robot.codes() == []


def test_what_comes_to_touch_the_arm_is_named_with_the_way_out_and_the_policy_never_moves_on():
    post = Post()
    post.there = False
    robot = Robot(scene=post)
    robot.target = HOME
    robot.run(0.5)
    post.there, robot.target = True, HOME + 0.2
    robot.run(0.5)
    assert robot.codes() == ["blocked"]
    [reason] = robot.core.status(robot.now).reasons
    assert "hand and post" in reason.sentence and "/irevla/clear_estop" in reason.sentence
    robot.core.estop()
    robot.run(0.2)
    robot.core.clear_estop()
    robot.run(0.5)
    assert (robot.measured == HOME).all() and robot.codes() == ["touching"]
    for _ in range(20):
        robot.core.on_intervention(proposal(0, HOME + 0.2), robot.now)
        robot.run(PERIOD)
    assert np.allclose(robot.measured, HOME + 0.2, atol=1e-3)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31))
def test_limits_hold_whatever_happens(seed):
    rng = np.random.default_rng(seed)
    robot = Robot()
    for _ in range(25):
        event = rng.integers(0, 9)
        wild = HOME + rng.normal(0.0, rng.choice([0.01, 0.3, 3.0]), 7)
        robot.target = np.where(rng.random(7) < 0.02, math.nan, wild)
        if event < 3:
            part = ["camera", "joints", "policy"][event]
            robot.parts ^= {part}
        elif event == 3:
            robot.core.estop()
        elif event == 4:
            robot.core.clear_estop()
        elif event == 5:
            robot.core.on_intervention(proposal(0, wild, policy_version=""), robot.now)
        elif event == 6:
            robot.core.on_instruction(rng.choice(["", "go"]))
        robot.run(rng.uniform(DT, 0.3))
    path = np.array([HOME, *(d.setpoints[0].position for d in robot.sent)])
    velocity = np.diff(path, axis=0, prepend=path[:1]) / DT
    acceleration = np.diff(velocity, axis=0, prepend=0 * velocity[:1]) / DT
    for index, joint in enumerate(PROFILE.joints):
        assert (path[:, index] >= joint.position[0]).all()
        assert (path[:, index] <= joint.position[1]).all()
        assert (np.abs(velocity[:, index]) <= joint.velocity + 1e-9).all()
        assert (np.abs(acceleration[:, index]) <= joint.acceleration + 1e-7).all()


def test_a_hold_never_ends_at_a_state_that_was_measured_on_the_way_to_rest():
    robot = Robot()
    robot.target = HOME + np.linspace(0.0, 0.5, 7)
    robot.run(0.05)
    robot.parts.remove("joints")
    robot.run(0.05)
    robot.core.estop()
    robot.run(0.04)
    robot.core.clear_estop()
    robot.run(0.02)
    path = np.array([decision.setpoints[0].position for decision in robot.sent])
    assert np.abs(np.diff(path, axis=0)).max() <= max(joint.velocity for joint in PROFILE.joints) * DT + 1e-9


# Lock-step.

STEP = round(1e9 / PROFILE.control_rate)


def lock_step() -> LockStepGuard:
    guard = LockStepGuard(PROFILE, KINEMATICS)
    guard.core.on_instruction("go")
    guard.core.activate()
    return guard


def test_lock_step_answers_once_whatever_the_order():
    guard = lock_step()
    assert guard.on_joint_states(HOME, 0.0, 0.0, STEP) is None
    first = guard.on_action(proposal(STEP, HOME + 0.02), 0.0)
    assert len(first.setpoints) == PROFILE.substeps
    assert np.allclose(first.setpoints[-1].position, HOME + 0.02, atol=1e-9)
    assert first.stamp == STEP
    assert guard.on_action(proposal(STEP, HOME + 0.3), 0.0) is first
    assert guard.on_joint_states(HOME, 0.0, 0.0, STEP) is first
    assert guard.on_action(proposal(2 * STEP, HOME + 0.04), 0.0) is None
    second = guard.on_joint_states(HOME, 0.0, 0.0, 2 * STEP)
    assert second.stamp == 2 * STEP
    assert np.allclose(second.setpoints[-1].position, HOME + 0.04, atol=1e-9)
    assert guard.core.status(0.0).actions_total == 2
    assert guard.on_action(proposal(STEP, HOME), 0.0) is None


def test_lock_step_a_jump_of_the_stamp_starts_at_the_measured_state():
    guard = lock_step()
    guard.on_joint_states(HOME, 0.0, 0.0, STEP)
    guard.on_action(proposal(STEP, HOME + 0.1), 0.0)
    guard.on_joint_states(HOME - 0.2, 0.0, 0.0, 10 * STEP)
    decision = guard.on_action(proposal(10 * STEP, HOME - 0.2), 0.0)
    assert np.allclose(decision.setpoints[-1].position, HOME - 0.2, atol=1e-12)
    assert follows(2 * STEP, STEP, 20.0)
    assert not follows(3 * STEP, STEP, 20.0)
    assert not follows(STEP, None, 20.0)


def test_lock_step_answers_a_refused_action_with_a_hold():
    guard = lock_step()
    guard.on_joint_states(HOME, 0.0, 0.0, STEP)
    decision = guard.on_action(proposal(STEP, HOME * math.nan), 0.0)
    assert decision.source is Source.HOLD
    assert decision.stamp == STEP
    assert all((s.position == HOME).all() for s in decision.setpoints)
    assert "expected a finite number" in decision.reason
    assert guard.core.status(0.0).state is State.HOLDING
    guard.on_joint_states(HOME, 0.0, 0.0, 2 * STEP)
    assert guard.on_action(proposal(2 * STEP), 0.0).source is Source.POLICY
    guard.core.estop()
    guard.on_joint_states(HOME, 0.0, 0.0, 3 * STEP)
    stopped = guard.on_action(proposal(3 * STEP), 0.0)
    assert stopped.source is Source.HOLD
    assert "E-stop" in stopped.reason


def test_lock_step_waits_for_a_device_that_intervened():
    guard = lock_step()
    guard.on_joint_states(HOME, 0.0, 0.0, STEP)
    assert guard.on_intervention(proposal(STEP, policy_version=""), 0.0).source is Source.INTERVENTION
    guard.on_joint_states(HOME, 0.0, 0.0, 2 * STEP)
    assert guard.on_action(proposal(2 * STEP), 1.0) is None
    assert guard.on_intervention(proposal(2 * STEP, policy_version=""), 1.1).source is Source.INTERVENTION
    guard.on_joint_states(HOME, 0.0, 1.2, 3 * STEP)
    assert guard.on_action(proposal(3 * STEP), 1.2) is None
    assert guard.poll(1.3) is None
    assert guard.poll(1.5).source is Source.POLICY


def test_ages_are_told_finely_enough_to_exceed_their_limit():
    watchdog = Watchdog("camera", 0.12)
    watchdog.seen(1.0)
    assert watchdog.complaint(1.124) == "camera: newest is 0.124 s old, expected at most 0.12 s"

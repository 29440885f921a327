"""From observation to proposal, with a scripted policy."""

from __future__ import annotations

import math

import numpy as np

from irevla_policy.robot.kinematics import ArmKinematics
from irevla_policy.robot.observation import Observation
from irevla_policy.robot.pilot import Pilot, ServedPolicy
from irevla_policy.robot.profile import load_profile

PROFILE = load_profile("sawyer")
KINEMATICS = ArmKinematics(PROFILE)
HOME = np.array(PROFILE.home)
PERIOD = round(1e9 / PROFILE.control_rate)


class Scripted:
    """Returns chunks of `size` rising actions and keeps what it was shown."""

    def __init__(self, size: int, first: float = 0.0) -> None:
        self.size, self.first, self.calls = size, first, []

    def act(self, observations, states):
        self.calls.append((observations[0], np.array(states)))
        chunk = np.zeros((1, self.size, PROFILE.action_dim))
        chunk[0, :, 0] = self.first + 0.1 * np.arange(self.size)
        return chunk


def observation(stamp: int, instruction: str = "go") -> Observation:
    return Observation(stamp, {}, HOME, 0.1, instruction)


def served(policy, version: str = "a") -> ServedPolicy:
    return ServedPolicy(policy, version, "somewhere")


def test_a_chunk_is_carried_out_step_by_step_and_then_planned_anew():
    policy = Scripted(3)
    one, pilot = served(policy), Pilot(PROFILE, KINEMATICS)
    flown = [pilot.answer(one, observation(stamp), stamp == 0) for stamp in range(6)]
    assert [round(f.proposal.values[0], 6) for f in flown] == [0.0, 0.1, 0.2, 0.0, 0.1, 0.2]
    assert len(policy.calls) == 2
    assert [f.forward_seconds > 0.0 for f in flown] == [True, False, False, True, False, False]
    assert [f.proposal.stamp for f in flown] == list(range(6))
    assert policy.calls[0][1].shape == (1, PROFILE.state_dim)


def test_the_rest_of_a_chunk_is_dropped():
    for change in ("start_over", "policy", "instruction"):
        policy, other = Scripted(3), Scripted(3, first=0.5)
        pilot = Pilot(PROFILE, KINEMATICS)
        pilot.answer(served(policy), observation(0), True)
        one = served(other if change == "policy" else policy)
        flown = pilot.answer(one, observation(1, "stop" if change == "instruction" else "go"), change == "start_over")
        assert flown.proposal.values[0] == (0.5 if change == "policy" else 0.0)


def test_targets_follow_the_action_from_the_measured_state():
    pilot = Pilot(PROFILE, KINEMATICS)
    flown = pilot.answer(served(Scripted(1, first=0.5)), observation(0), True)
    reached = KINEMATICS.position(np.array(flown.proposal.joint_target))
    assert np.allclose(reached - KINEMATICS.position(HOME), [0.5 * PROFILE.ee_delta_scale, 0.0, 0.0], atol=1e-4)
    assert flown.proposal.joint_names == PROFILE.joint_names
    assert flown.proposal.policy_version == "a"


def test_an_action_that_is_no_action_is_proposed_as_one_that_the_guard_refuses():
    flown = Pilot(PROFILE, KINEMATICS).answer(served(Scripted(1, first=math.nan)), observation(0), True)
    assert "expected finite" in flown.problem
    assert all(math.isnan(value) for value in flown.proposal.joint_target)


def fly(pilot, one, first, last, start_over=False):
    """First values of the answers to these observations, a control period apart; None for none."""
    found = []
    for index in range(first, last + 1):
        flown = pilot.go_on(one, observation(index * PERIOD), start_over and index == first)
        found.append(None if flown is None else round(flown.proposal.values[0], 6))
    return found


def test_it_goes_on_by_one_chunk_while_the_next_one_is_computed():
    policy, pilot = Scripted(8), Pilot(PROFILE, KINEMATICS)
    one = served(policy)
    assert fly(pilot, one, 0, 1, start_over=True) == [None, None]
    assert not policy.calls, "whoever asks runs the model"
    thought = pilot.question(observation(PERIOD)).think()
    assert fly(pilot, one, 2, 2) == [None]
    pilot.take(thought)
    flown = pilot.go_on(one, observation(3 * PERIOD), False)
    assert flown.proposal.values[0] == 0.0
    assert flown.proposal.stamp == 3 * PERIOD
    assert flown.forward_seconds == thought.seconds > 0.0
    policy.first = 0.5
    thought = pilot.question(observation(3 * PERIOD)).think()
    assert fly(pilot, one, 4, 5) == [0.1, 0.2]
    pilot.take(thought)
    assert fly(pilot, one, 6, 7) == [0.8, 0.9], "its first three are for what has been answered"
    assert len(policy.calls) == 2
    assert policy.calls[1][0].stamp == 3 * PERIOD
    assert policy.calls[1][1].shape == (1, PROFILE.state_dim)


def test_chunks_are_blended():
    policy, pilot = Scripted(8), Pilot(PROFILE, KINEMATICS, blend=1)
    one = served(policy)
    assert fly(pilot, one, 0, 0, start_over=True) == [None]
    pilot.take(pilot.question(observation(0)).think())
    policy.first = 0.4
    thought = pilot.question(observation(0)).think()
    assert fly(pilot, one, 0, 1) == [0.0, 0.1]
    pilot.take(thought)
    assert fly(pilot, one, 2, 3) == [0.4, 0.7]


def test_a_thought_from_before_a_start_over_is_worthless():
    for change in ("start_over", "policy", "instruction"):
        policy = Scripted(8)
        one, pilot = served(policy), Pilot(PROFILE, KINEMATICS)
        assert fly(pilot, one, 0, 0, start_over=True) == [None]
        pilot.take(pilot.question(observation(0)).think())
        assert fly(pilot, one, 0, 1) == [0.0, 0.1]
        late = pilot.question(observation(PERIOD))
        text = "stop" if change == "instruction" else "go"
        two = served(Scripted(8, first=0.5)) if change == "policy" else one
        assert pilot.go_on(two, observation(2 * PERIOD, text), change == "start_over") is None
        assert not pilot.still_wants(late)
        pilot.take(late.think())
        assert pilot.go_on(two, observation(3 * PERIOD, text), False) is None
        pilot.take(pilot.question(observation(3 * PERIOD, text)).think())
        flown = pilot.go_on(two, observation(4 * PERIOD, text), False)
        assert flown.proposal.values[0] == (0.5 if change == "policy" else 0.0)


def test_both_ways_share_the_commanded_reference():
    steps = []
    for continuous in (False, True):
        pilot, one = Pilot(PROFILE, KINEMATICS), served(Scripted(3, first=0.2))
        if continuous:
            assert pilot.go_on(one, observation(0), True) is None
            pilot.take(pilot.question(observation(0)).think())
            flown = [pilot.go_on(one, observation(index * PERIOD), False) for index in range(3)]
        else:
            flown = [pilot.answer(one, observation(index * PERIOD), index == 0) for index in range(3)]
        steps.append([f.proposal.joint_target for f in flown])
    assert steps[0] == steps[1]

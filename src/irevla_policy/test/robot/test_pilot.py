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

"""From raw actions to joint targets, and what the model sees of the joints."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from irevla_policy.robot.action import LEAD, WORKSPACE_MARGIN, ActionError, ActionMapper, joint_lead
from irevla_policy.robot.kinematics import ArmKinematics
from irevla_policy.robot.profile import load_profile
from irevla_policy.robot.proprioception import proprioceptive_state

PROFILE = load_profile("sawyer")
KINEMATICS = ArmKinematics(PROFILE)
HOME = np.array(PROFILE.home)
SCALE = PROFILE.ee_delta_scale


def test_a_displacement_moves_the_end_effector_by_the_scale_and_keeps_its_orientation() -> None:
    mapper = ActionMapper(PROFILE, KINEMATICS)
    before, rotation = KINEMATICS.pose(HOME)
    target, gripper = mapper.target(HOME, [1.0, -0.5, 0.25, 0.3])
    after, turned = KINEMATICS.pose(target)
    assert np.abs(after - before - SCALE * np.array([1.0, -0.5, 0.25])).max() < 1e-4
    assert np.abs(turned - rotation).max() < 1e-3
    assert gripper == pytest.approx(0.3)


def test_displacements_add_up_from_what_was_commanded_and_start_again_after_a_reset() -> None:
    mapper = ActionMapper(PROFILE, KINEMATICS)
    start = KINEMATICS.position(HOME)
    mapper.target(HOME, [0.5, 0.0, 0.0, 0.0])
    target, _ = mapper.target(HOME, [0.5, 0.0, 0.0, 0.0])
    assert KINEMATICS.position(target)[0] - start[0] == pytest.approx(SCALE, abs=1e-4)
    mapper.reset()
    target, _ = mapper.target(HOME, [0.5, 0.0, 0.0, 0.0])
    assert KINEMATICS.position(target)[0] - start[0] == pytest.approx(0.5 * SCALE, abs=1e-4)


def test_an_arm_that_is_held_back_does_not_wind_the_command_up() -> None:
    mapper = ActionMapper(PROFILE, KINEMATICS)
    for _ in range(20):
        target, _ = mapper.target(HOME, [0.0, 0.0, 1.0, 0.0])
    lead = KINEMATICS.position(target) - KINEMATICS.position(HOME)
    assert lead[2] == pytest.approx(LEAD * SCALE, abs=1e-4)


@given(st.lists(st.lists(st.floats(-3.0, 3.0), min_size=4, max_size=4), min_size=1, max_size=60))
@settings(max_examples=25, deadline=None)
def test_targets_stay_inside_the_workspace_and_the_joint_limits(actions: list[list[float]]) -> None:
    mapper = ActionMapper(PROFILE, KINEMATICS)
    joints = HOME
    low = np.array(PROFILE.workspace.low) + WORKSPACE_MARGIN - 1e-3
    high = np.array(PROFILE.workspace.high) - WORKSPACE_MARGIN + 1e-3
    for action in actions:
        before = KINEMATICS.position(joints)
        joints, gripper = mapper.target(joints, action)
        after = KINEMATICS.position(joints)
        for limits, limit in zip(PROFILE.joints, joints, strict=True):
            assert limits.position[0] <= limit <= limits.position[1]
        assert -1.0 <= gripper <= 1.0
        # A pose out of reach can sag; it never leads further out than it was.
        assert (after >= np.minimum(low, before - 1e-3)).all()
        assert (after <= np.maximum(high, before + 1e-3)).all()


def test_other_action_spaces() -> None:
    joints = len(HOME)
    step = np.full(joints, 0.01)
    delta = ActionMapper(replace(PROFILE, action_space="joint_delta"), KINEMATICS)
    assert np.allclose(delta.target(HOME, [*step, 0.0])[0], HOME + 0.01)
    assert np.allclose(delta.target(HOME, [*step, 0.0])[0], HOME + 0.02)
    position = ActionMapper(replace(PROFILE, action_space="joint_position"), KINEMATICS)
    assert np.allclose(position.target(HOME, [*(HOME + 0.1), 0.0])[0], HOME + 0.1)
    assert position.target(HOME, [*np.full(joints, 100.0), 0.0])[0].tolist() == [j.position[1] for j in PROFILE.joints]
    velocity = ActionMapper(replace(PROFILE, action_space="joint_velocity"), KINEMATICS)
    assert np.allclose(velocity.target(HOME, [*np.full(joints, 0.2), 0.0])[0], HOME + 0.2 / PROFILE.control_rate)
    # An arm that stands against something: the command winds up no farther than the lead and one action.
    for _ in range(100):
        wound, _ = velocity.target(HOME, [*np.full(joints, 0.2), 0.0])
    most = joint_lead(PROFILE) + 0.2 / PROFILE.control_rate
    high = np.array([joint.position[1] for joint in PROFILE.joints])
    assert np.allclose(wound, np.minimum(HOME + most, high))
    without = replace(PROFILE, gripper=None)
    assert ActionMapper(without, KINEMATICS).target(HOME, [0.0, 0.0, 0.0])[1] == 0.0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([0.0, 0.0, 0.0], "expected 4 values"),
        ([[0.0, 0.0, 0.0, 0.0]], "expected 4 values"),
        ([0.0, float("nan"), 0.0, 0.0], "value 1 is nan"),
        ([0.0, 0.0, 0.0, float("inf")], "value 3 is inf"),
    ],
)
def test_wrong_actions_are_named_and_leave_the_reference_alone(values: list[float], message: str) -> None:
    mapper = ActionMapper(PROFILE, KINEMATICS)
    first = mapper.target(HOME, [0.1, 0.0, 0.0, 0.0])[0]
    with pytest.raises(ActionError, match=message):
        mapper.target(HOME, values)
    mapper.reset()
    assert (mapper.target(HOME, [0.1, 0.0, 0.0, 0.0])[0] == first).all()


def test_proprioception_follows_the_profile() -> None:
    state = proprioceptive_state(PROFILE, KINEMATICS, HOME, 0.05)
    assert state.dtype == np.float32
    assert np.allclose(state, [*KINEMATICS.position(HOME), 0.5], atol=1e-6)
    joints = replace(PROFILE, proprioception=("gripper", "joint_positions"))
    assert np.allclose(proprioceptive_state(joints, KINEMATICS, HOME, 0.1), [1.0, *HOME])
    bare = replace(PROFILE, gripper=None)
    assert proprioceptive_state(bare, KINEMATICS, HOME, 0.0).shape == (bare.state_dim,) == (3,)

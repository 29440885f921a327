"""Conversion between messages and plain values."""

from __future__ import annotations

import numpy as np
import pytest
from rclpy.serialization import serialize_message
from sensor_msgs.msg import CompressedImage, Image, JointState

from irevla_policy.recording.images import decode_image
from irevla_policy.robot.limits import Setpoint
from irevla_policy.robot.observation import ObservationError
from irevla_policy.robot.profile import load_profile
from irevla_policy.robot.proposal import Proposal
from irevla_policy.ros.guard_messages import action_message, proposal_of
from irevla_policy.ros.messages import (
    header_stamp,
    image_message,
    joint_positions,
    joint_state_message,
    nanoseconds,
    setpoints_of,
    time_message,
    trajectory_message,
)

PROFILE = load_profile("sawyer")
HOME = np.array(PROFILE.home)
STAMP = 1_700_000_000_123_456_789


def test_stamps_round_trip():
    for stamp in (0, 1, 999_999_999, 10**9, STAMP):
        assert nanoseconds(time_message(stamp)) == stamp


@pytest.mark.parametrize("kind", [Image, CompressedImage, JointState])
def test_stamp_of_a_serialized_message(kind):
    message = kind()
    message.header.stamp = time_message(STAMP)
    message.header.frame_id = "camera"
    assert header_stamp(serialize_message(message)) == STAMP
    with pytest.raises(ObservationError, match="expected a header"):
        header_stamp(b"\x00\x01")


def test_joint_states_round_trip_and_in_any_order():
    message = joint_state_message(PROFILE, STAMP, HOME, 0.07)
    assert nanoseconds(message.header.stamp) == STAMP
    positions, gripper = joint_positions(message, PROFILE)
    assert (positions == HOME).all()
    assert gripper == 0.07
    order = np.random.default_rng(0).permutation(len(message.name) + 1)
    names, values = [*message.name, "wheel"], [*message.position, 9.0]
    mixed = JointState(name=[names[i] for i in order], position=[values[i] for i in order])
    positions, gripper = joint_positions(mixed, PROFILE)
    assert (positions == HOME).all()
    assert gripper == 0.07


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda n, p: (n[1:], p[1:]), "joint 'right_j0' of profile 'metaworld_sawyer' is missing; found: right_j1"),
        (lambda n, p: (n, p[1:]), "expected one position per joint name, found 8 names and 7 positions"),
        (lambda n, p: ([*n, n[2]], [*p, 0.0]), "joint 'right_j2' is named twice"),
        (lambda n, p: (n, [*p[:4], float("nan"), *p[5:]]), "position of joint 'right_j4' is nan, expected a finite"),
        (lambda n, p: ([], []), "is missing; found: none"),
    ],
)
def test_wrong_joint_states_are_named(change, message):
    good = joint_state_message(PROFILE, 0, HOME, 0.0)
    names, positions = change(list(good.name), list(good.position))
    with pytest.raises(ObservationError, match=f"/joint_states: .*{message}"):
        joint_positions(JointState(name=names, position=positions), PROFILE)


def test_setpoints_round_trip_bit_by_bit():
    rng = np.random.default_rng(0)
    setpoints = [Setpoint(rng.normal(size=7), rng.normal(size=7)) for _ in range(4)]
    message = trajectory_message(PROFILE, STAMP, setpoints, -0.3, 12_500_000)
    assert [nanoseconds(p.time_from_start) for p in message.points] == [12_500_000 * k for k in (1, 2, 3, 4)]
    assert message.joint_names[-1] == "gripper"
    back, gripper = setpoints_of(message, PROFILE)
    assert gripper == -0.3
    for before, after in zip(setpoints, back, strict=True):
        assert (before.position == after.position).all()
        assert (before.velocity == after.velocity).all()
    message.joint_names[0] = "elbow"
    with pytest.raises(ObservationError, match="joint 'right_j0'"):
        setpoints_of(message, PROFILE)


@pytest.mark.parametrize("shape", [(9, 5, 3), (9, 5)])
def test_images_round_trip(shape):
    pixels = np.random.default_rng(0).integers(0, 255, shape, dtype=np.uint8)
    encoding = "rgb8" if len(shape) == 3 else "mono8"
    message = image_message(pixels[:, ::1], STAMP, "camera", encoding)
    rgb = pixels if len(shape) == 3 else np.repeat(pixels[..., None], 3, axis=2)
    assert (decode_image(message) == rgb).all()
    assert message.header.frame_id == "camera"


def test_actions_round_trip():
    one = Proposal(STAMP, (0.1, -0.2), ("a", "b"), (1.0, 2.0), 0.5, "0123456789ab")
    message = action_message(one, 0.004)
    assert message.forward_seconds == 0.004
    assert proposal_of(message) == one or vars(proposal_of(message)) == vars(one)

"""Messages read straight from their bytes are what the general deserialiser makes of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from irevla_policy.recording import interfaces
from irevla_policy.recording.cdr import CommandReader, JointStateReader, read_image
from irevla_policy.recording.interfaces import InterfaceError, typestore

frames = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=9)
names = st.lists(st.text("abcdef_0", min_size=1, max_size=7), max_size=9)
stamps = st.integers(0, 2**31 * 10**9 - 1)
doubles = st.lists(st.floats(allow_nan=False), max_size=9).map(lambda values: np.array(values, dtype=np.float64))
order = st.booleans()


def serialize(message_type: str, little: bool, **fields: object) -> bytes:
    return bytes(typestore().serialize_cdr(interfaces.make(message_type, **fields), message_type, little_endian=little))


@given(stamp=stamps, frame=frames, width=st.integers(1, 9), height=st.integers(1, 9), little=order)
def test_images(stamp: int, frame: str, width: int, height: int, little: bool) -> None:
    pixels = np.arange(width * height * 3, dtype=np.uint8)
    data = serialize(
        "sensor_msgs/msg/Image",
        little,
        header=interfaces.make_header(stamp, frame),
        height=height,
        width=width,
        encoding="rgb8",
        is_bigendian=0,
        step=width * 3,
        data=pixels,
    )
    view = read_image(data)
    assert (view.stamp, view.height, view.width, view.step) == (stamp, height, width, width * 3)
    assert view.encoding == "rgb8"
    np.testing.assert_array_equal(np.frombuffer(view.data, np.uint8), pixels)
    with pytest.raises(InterfaceError):
        read_image(data[:-1])


@given(messages=st.lists(st.tuples(stamps, frames, names, doubles, order), min_size=1, max_size=4))
def test_joint_states(messages: list[tuple[int, str, list[str], np.ndarray, bool]]) -> None:
    reader = JointStateReader()
    for stamp, frame, joints, positions, little in messages:
        data = serialize(
            "sensor_msgs/msg/JointState",
            little,
            header=interfaces.make_header(stamp, frame),
            name=joints,
            position=positions,
            velocity=np.zeros(1),
            effort=np.zeros(0),
        )
        found = reader.read(data)
        assert found[:2] == (stamp, tuple(joints))
        np.testing.assert_array_equal(found[2], positions)


@given(messages=st.lists(st.tuples(stamps, frames, names, doubles, doubles, order), min_size=1, max_size=4))
def test_commands(messages: list[tuple[int, str, list[str], np.ndarray, np.ndarray, bool]]) -> None:
    reader = CommandReader()
    for stamp, frame, joints, positions, values, little in messages:
        data = serialize(
            "irevla_msgs/msg/Command",
            little,
            header=interfaces.make_header(stamp, frame),
            joint_names=joints,
            positions=positions,
            velocities=values,
            gripper=0.5,
            values=values,
            source=2,
            limited=7,
            reason="because",
            policy_version="0123456789ab",
        )
        found = reader.read(data)
        assert (found.stamp, found.source) == (stamp, 2)
        np.testing.assert_array_equal(found.values, values)


@pytest.mark.parametrize("size", [0, 3, 10, 17, 19])
def test_short_messages_are_refused(size: int) -> None:
    for read in (read_image, JointStateReader().read, CommandReader().read):
        with pytest.raises(InterfaceError):
            read(b"\0\1\0\0" + bytes(26)[: size - 4] if size >= 4 else bytes(size))

"""Small bags for the tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from irevla_policy.recording import interfaces
from irevla_policy.recording.storage import Offer, Topic, open_writer

TOPICS = (
    Topic("/camera/image_raw", "sensor_msgs/msg/Image", (Offer(5, reliable=False),)),
    Topic("/joint_states", "sensor_msgs/msg/JointState", (Offer(5, reliable=False),)),
    Topic("/irevla/instruction", "std_msgs/msg/String", (Offer(1, latched=True),)),
    Topic("/irevla/command", "irevla_msgs/msg/Command"),
    Topic("/irevla/episode_info", "irevla_msgs/msg/EpisodeInfo", (Offer(1, latched=True),)),
)


def image(stamp: int, value: int = 0, size: int = 8) -> bytes:
    """A serialised image of one colour."""
    data = np.full(size * size * 3, value % 256, np.uint8)
    message = interfaces.make(
        "sensor_msgs/msg/Image",
        header=interfaces.make_header(stamp, "camera"),
        height=size,
        width=size,
        encoding="rgb8",
        is_bigendian=0,
        step=size * 3,
        data=data,
    )
    return interfaces.serialize(message, "sensor_msgs/msg/Image")


def text(value: str) -> bytes:
    """A serialised std_msgs/String."""
    return interfaces.serialize(interfaces.make("std_msgs/msg/String", data=value), "std_msgs/msg/String")


def write_bag(folder: Path, frames: int = 10, custom: dict[str, str] | None = None) -> Path:
    """A small bag of images and one instruction."""
    writer = open_writer(folder, TOPICS, custom)
    start = 1_700_000_000_000_000_000
    writer.write("/irevla/instruction", text("press the button"), start)
    for number in range(frames):
        stamp = start + number * 50_000_000
        writer.write("/camera/image_raw", image(stamp, number), stamp + 1_000_000, stamp)
    return writer.finish()

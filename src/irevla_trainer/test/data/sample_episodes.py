"""Bags of the Sawyer for the tests: what the recorder would write, without a graph."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from irevla_policy.recording import interfaces, topics
from irevla_policy.recording.episode import EpisodeInfo
from irevla_policy.recording.images import encode_compressed, encode_image
from irevla_policy.recording.storage import Offer, Topic, open_writer
from irevla_policy.robot.profile import RobotProfile, load_profile

START = 1_700_000_000_000_000_000
PERIOD = 50_000_000

PROFILE = load_profile("sawyer")

Change = Callable[[str, int, bytes], "bytes | None"]


def make(message_type: str, **fields: Any) -> bytes:
    """A serialised message."""
    return interfaces.serialize(interfaces.make(message_type, **fields), message_type)


def pixels(step: int, profile: RobotProfile = PROFILE, camera: int = 0) -> np.ndarray:
    """The image of a step: its number in every pixel of the first column, noise elsewhere."""
    size = profile.cameras[camera]
    frame = np.random.default_rng([step, camera]).integers(0, 256, (size.height, size.width, 3), dtype=np.uint8)
    frame[:, 0] = step % 256
    return frame


def image(stamp: int, frame: np.ndarray) -> bytes:
    """A serialised sensor_msgs/Image."""
    fields = encode_image(frame) | {"data": np.ascontiguousarray(frame).reshape(-1)}
    return make("sensor_msgs/msg/Image", header=interfaces.make_header(stamp, "camera"), **fields)


def compressed(stamp: int, frame: np.ndarray, image_format: str) -> bytes:
    """A serialised sensor_msgs/CompressedImage."""
    data = np.frombuffer(encode_compressed(frame, image_format), np.uint8)
    header = interfaces.make_header(stamp, "camera")
    return make("sensor_msgs/msg/CompressedImage", header=header, format=f"rgb8; {image_format}", data=data)


def joint_positions(step: int) -> np.ndarray:
    """Joint positions of a step, rad, `[n]`."""
    return np.array(PROFILE.home) + 0.01 * step


def joint_state(stamp: int, positions: np.ndarray, names: list[str] | None = None) -> bytes:
    """A serialised sensor_msgs/JointState with the gripper last."""
    names = [*PROFILE.joint_names, "gripper"] if names is None else names
    none = np.zeros(0)
    header = interfaces.make_header(stamp)
    return make("sensor_msgs/msg/JointState", header=header, name=names, position=positions, velocity=none, effort=none)


def command(stamp: int, values: np.ndarray, source: int = 1) -> bytes:
    """A serialised irevla_msgs/Command."""
    return make(
        "irevla_msgs/msg/Command",
        header=interfaces.make_header(stamp),
        joint_names=list(PROFILE.joint_names),
        positions=np.zeros(7),
        velocities=np.zeros(7),
        gripper=float(values[-1]) if len(values) else 0.0,
        values=np.asarray(values, dtype=np.float64),
        source=source,
        limited=0,
        reason="",
        policy_version="",
    )


def step_info(stamp: int, step: int, success: bool = False) -> bytes:
    """A serialised irevla_msgs/StepInfo."""
    return make(
        "irevla_msgs/msg/StepInfo",
        header=interfaces.make_header(stamp, "world"),
        step=step,
        reward=float(success),
        success=success,
        terminated=success,
        truncated=False,
        seed=3,
        task="reach",
        variation="",
        state=np.zeros(39),
    )


def trajectory(stamp: int, positions: np.ndarray, delay: float = 0.05) -> bytes:
    """A serialised trajectory_msgs/JointTrajectory of one point, the gripper last."""
    seconds = int(delay)
    point = interfaces.make(
        "trajectory_msgs/msg/JointTrajectoryPoint",
        positions=positions,
        velocities=np.zeros(0),
        accelerations=np.zeros(0),
        effort=np.zeros(0),
        time_from_start=interfaces.make(
            "builtin_interfaces/msg/Duration", sec=seconds, nanosec=round((delay - seconds) * 1e9)
        ),
    )
    return make(
        "trajectory_msgs/msg/JointTrajectory",
        header=interfaces.make_header(stamp),
        joint_names=[*PROFILE.joint_names, "gripper"],
        points=[point],
    )


def text(value: str) -> bytes:
    """A serialised std_msgs/String."""
    return make("std_msgs/msg/String", data=value)


def action(step: int) -> np.ndarray:
    """The raw action of a step, `[4]`."""
    return np.array([0.1 * (step % 5), -0.2, 0.3, 1.0 if step % 2 else -1.0])


def info_of(path: Path, **changes: Any) -> EpisodeInfo:
    """The description of an episode of the Sawyer."""
    known = EpisodeInfo(
        path.name,
        task="reach",
        world="metaworld",
        instruction="reach the goal",
        robot=PROFILE.name,
        profile_hash=PROFILE.training_hash,
        seed=3,
        source="expert",
        success="yes",
        labelled_by="simulator",
        state="finished",
        action_space=PROFILE.action_space,
        control_rate=PROFILE.control_rate,
    )
    return replace(known, **changes)


def write_episode(
    path: Path,
    steps: int = 10,
    *,
    image_format: str = "raw",
    change: Change = lambda topic, step, data: data,
    omit: tuple[str, ...] = (),
    **info: Any,
) -> Path:
    """A bag as the recorder writes it.

    Args:
        path: Folder.
        steps: Decisions.
        image_format: `raw`, `jpeg` or `png`.
        change: Given topic, step and bytes, returns other bytes or None to leave the message out.
        omit: Topics to leave out altogether.
        info: Changes of the EpisodeInfo.
    """
    declared = [source.recorded for source in topics.sources(PROFILE, image_format)]
    writer = open_writer(path, [*declared, topics.episode_topic()])
    camera = declared[0].name

    def write(topic: str, step: int, data: bytes, time: int) -> None:
        changed = None if topic in omit else change(topic, step, data)
        if changed is not None:
            writer.write(topic, changed, time)

    described = info_of(path, **info)
    write(topics.INSTRUCTION, -1, text("reach the goal"), START - 1)
    write(topics.EPISODE_INFO, -1, replace(described, state="recording").serialize(), START - 1)
    for step in range(steps + 1):
        stamp = START + step * PERIOD
        frame = pixels(step)
        data = image(stamp, frame) if image_format == "raw" else compressed(stamp, frame, image_format)
        write(camera, step, data, stamp + 1_000_000)
        joints = np.append(joint_positions(step), 0.1)
        write(PROFILE.joint_states_topic, step, joint_state(stamp, joints), stamp + 2_000_000)
        write(topics.STEP_INFO, step, step_info(stamp, step, success=step == steps), stamp + 2_500_000)
        if step < steps:
            write(topics.COMMAND, step, command(stamp, action(step)), stamp + 8_000_000)
            write(PROFILE.command.topic, step, trajectory(stamp, joints), stamp + 8_000_001)
    write(topics.EPISODE_INFO, steps, replace(described, steps=steps).serialize(), START + steps * PERIOD + 9_000_000)
    return writer.finish()


def write_foreign(path: Path, steps: int = 20, *, offset: int = 0, names: tuple[str, ...] = ()) -> Path:
    """A bag of camera, joint states, controller commands and instruction, as `ros2 bag record` makes it.

    Args:
        path: Folder.
        steps: Control periods.
        offset: Bag time minus header stamps, ns.
        names: Topics to leave out.
    """
    offer = (Offer(),)
    declared = [
        Topic("/camera/image_raw", "sensor_msgs/msg/Image", offer),
        Topic("/joint_states", "sensor_msgs/msg/JointState", offer),
        Topic(PROFILE.command.topic, "trajectory_msgs/msg/JointTrajectory", offer),
        Topic(topics.INSTRUCTION, "std_msgs/msg/String", offer),
    ]
    writer = open_writer(path, [topic for topic in declared if topic.name not in names])

    def write(topic: str, data: bytes, time: int) -> None:
        if topic not in names:
            writer.write(topic, data, time + offset)

    write(topics.INSTRUCTION, text("push the block"), START - 1000)
    for step in range(steps):
        stamp = START + step * PERIOD
        joints = np.append(joint_positions(step), 0.1)
        write("/camera/image_raw", image(stamp, pixels(step)), stamp + 3_000_000)
        write("/joint_states", joint_state(stamp + 5_000_000, joints), stamp + 5_100_000)
        target = np.append(joint_positions(step + 1), 1.0)
        write(PROFILE.command.topic, trajectory(stamp + 10_000, target, delay=0.04), stamp + 20_000)
    return writer.finish()

"""What a recorder listens to, and under which name each topic lies in the bag."""

from __future__ import annotations

from dataclasses import dataclass

from irevla_policy.recording.interfaces import full_name
from irevla_policy.recording.storage import Offer, Topic
from irevla_policy.recording.writing import COMPRESSED_TYPE, IMAGE_TYPE
from irevla_policy.robot.profile import RobotProfile

INSTRUCTION = "/irevla/instruction"
ACTION = "/irevla/action"
INTERVENTION = "/irevla/intervention"
COMMAND = "/irevla/command"
STEP_INFO = "/irevla/step_info"
RECORDER = "irevla_recorder"
RECORDERS = (RECORDER, "rosbag2_recorder")
"""Nodes that listen to what they record, and follow no command."""

EPISODE_INFO = "/irevla/episode_info"
POLICY_STATUS = "/irevla/policy_status"
STATIC_TRANSFORMS = "/tf_static"

LATCHED = (INSTRUCTION, POLICY_STATUS)
"""Whoever comes late gets the newest of these."""

IMAGE_FORMATS = ("raw", "jpeg", "png", "driver")

_LATCHED = Offer(1, latched=True)
_MANY_LATCHED = Offer(100, latched=True)
"""Of a topic with many publishers, each of which gives its part."""


@dataclass(frozen=True)
class Source:
    """A topic that the recorder subscribes to.

    Attributes:
        name: The topic.
        type: Its message type.
        recorded: The topic in the bag: another than the source's when images are compressed on the way.
        kind: `observation` (cameras, joint states), `calibration` (camera_info, which may be missing), `latched` or
            `event`.
    """

    name: str
    type: str
    recorded: Topic
    kind: str


def sources(profile: RobotProfile, image_format: str = "raw") -> tuple[Source, ...]:
    """Everything that is recorded of a robot, but the recorder's own /irevla/episode_info.

    Args:
        profile: The robot.
        image_format: `raw`; `jpeg` or `png` (compressed by the recorder); `driver` (the camera driver's own
            `TOPIC/compressed`).
    """
    found = [_camera(camera.topic, image_format) for camera in profile.cameras]
    sensor = Offer(5, reliable=False)
    found.append(_same(profile.joint_states_topic, "sensor_msgs/msg/JointState", "observation", sensor))
    found.append(_same(STEP_INFO, "irevla_msgs/msg/StepInfo", "observation", sensor))
    for topic in profile.info_topics.values():
        found.append(_same(topic, "sensor_msgs/msg/CameraInfo", "calibration", sensor))
    found.append(_same(STATIC_TRANSFORMS, "tf2_msgs/msg/TFMessage", "latched", _MANY_LATCHED))
    found.append(_same(INSTRUCTION, "std_msgs/msg/String", "latched", _LATCHED))
    found.append(_same(POLICY_STATUS, "irevla_msgs/msg/PolicyStatus", "latched", _LATCHED))
    for name, message_type in (
        (ACTION, "irevla_msgs/msg/Action"),
        (INTERVENTION, "irevla_msgs/msg/Action"),
        (COMMAND, "irevla_msgs/msg/Command"),
        (profile.command.topic, full_name(profile.command.type)),
    ):
        found.append(_same(name, message_type, "event", Offer()))
    return tuple(found)


def episode_topic() -> Topic:
    """The recorder's own topic."""
    return Topic(EPISODE_INFO, "irevla_msgs/msg/EpisodeInfo", (_LATCHED,))


def compressed_name(topic: str) -> str:
    """Where the compressed images of a camera lie."""
    return f"{topic}/compressed"


def _camera(topic: str, image_format: str) -> Source:
    offer = Offer(5, reliable=False)
    if image_format == "raw":
        return _same(topic, IMAGE_TYPE, "observation", offer)
    recorded = Topic(compressed_name(topic), COMPRESSED_TYPE, (offer,))
    if image_format == "driver":
        return Source(recorded.name, COMPRESSED_TYPE, recorded, "observation")
    return Source(topic, IMAGE_TYPE, recorded, "observation")


def _same(name: str, message_type: str, kind: str, offer: Offer) -> Source:
    return Source(name, message_type, Topic(name, message_type, (offer,)), kind)

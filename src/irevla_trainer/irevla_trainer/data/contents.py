"""The first pass over a bag: everything but the pixels."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from irevla_policy.recording import topics
from irevla_policy.recording.cdr import CommandReader, CommandView, JointStateReader
from irevla_policy.recording.episode import EpisodeInfo
from irevla_policy.recording.interfaces import InterfaceError, full_name, peek_stamp, peek_uint32
from irevla_policy.recording.quota import folder_size
from irevla_policy.recording.storage import BagError, BagReader, Message
from irevla_policy.robot.camera import Camera
from irevla_policy.robot.profile import RobotProfile
from irevla_trainer.data.description import of_this_bag

# Stamp of a message too short to hold one; no decision has it.
_NO_STAMP = -1
# Images of bags up to this many bytes are held from the first pass on, those of others are read in a second one.
_HELD = 64_000_000


_TYPES = {
    topics.EPISODE_INFO: "irevla_msgs/msg/EpisodeInfo",
    topics.COMMAND: "irevla_msgs/msg/Command",
    topics.STEP_INFO: "irevla_msgs/msg/StepInfo",
    topics.INSTRUCTION: "std_msgs/msg/String",
}


@dataclass
class BagContents:
    """What a first pass over a bag collects: everything but the pixels.

    Attributes:
        infos: Descriptions of the bag's own episode, in the order of the bag.
        commands: What the guard executed, and its bag time, ns.
        instructions: Bag time (ns) and text of each.
        joint_stamps: Header stamps of the joint states, ns.
        joint_states: Arm joints in the profile's order, rad, `[n]`, and the gripper's position, m.
        image_stamps: Camera name to header stamps, ns, one for each message in the order of the bag.
        images: Camera name to the messages themselves; empty when the bag is too large to hold them.
        image_times: Bag time and header stamp of every image, ns, in the order of the bag.
        motion: Controller commands and their bag times, ns; only of bags without /irevla/command.
        reset: Stamp of the last first observation of an episode, ns; -1 without a simulator.
        bad: What was wrong with messages, and how many.
    """

    infos: list[EpisodeInfo] = field(default_factory=list)
    commands: list[tuple[CommandView, int]] = field(default_factory=list)
    instructions: list[tuple[int, str]] = field(default_factory=list)
    joint_stamps: list[int] = field(default_factory=list)
    joint_states: list[tuple[npt.NDArray[np.float64], float]] = field(default_factory=list)
    image_stamps: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    images: dict[str, list[Message]] = field(default_factory=lambda: defaultdict(list))
    image_times: list[tuple[int, int]] = field(default_factory=list)
    motion: list[tuple[Any, int]] = field(default_factory=list)
    reset: int = -1
    bad: Counter[str] = field(default_factory=Counter)


def scan(bag: BagReader, profile: RobotProfile, cameras: Mapping[str, Camera], *, derive: bool) -> BagContents:
    """Collect what decisions are made of.

    Args:
        bag: The bag.
        profile: The robot.
        cameras: Topic of the bag to camera.
        derive: Whether the controller's commands are needed.

    Raises:
        BagError: Joint states of another robot, another type of message than expected, or damage.
    """
    for name, expected in (_TYPES | {profile.joint_states_topic: "sensor_msgs/msg/JointState"}).items():
        if name in bag.topics and full_name(bag.topics[name].type) != expected:
            raise BagError(f"{name}: expected {expected}, found {bag.topics[name].type}")
    wanted = {topics.EPISODE_INFO, topics.COMMAND, topics.INSTRUCTION, topics.STEP_INFO}
    wanted |= {profile.joint_states_topic, *cameras} | ({profile.command.topic} if derive else set())
    collector = _Collector(bag, profile, cameras, keep=folder_size(bag.path) <= _HELD)
    for message in bag.messages(wanted):
        try:
            collector.take(message)
        except InterfaceError as error:
            collector.contents.bad[f"{message.topic}: {error}"] += 1
    collector.contents.infos = of_this_bag(collector.contents.infos)
    return collector.contents


class _Collector:
    def __init__(self, bag: BagReader, profile: RobotProfile, cameras: Mapping[str, Camera], *, keep: bool) -> None:
        self.contents = BagContents()
        self._keep = keep
        self._bag, self._profile, self._cameras = bag, profile, cameras
        self._joint_states = JointStateReader()
        self._commands = CommandReader()
        self._known_commands = topics.COMMAND in bag.topics and bag.known(topics.COMMAND)
        self._names: tuple[str, ...] = ()
        self._order: list[int] = []

    def take(self, message: Message) -> None:
        contents, bag = self.contents, self._bag
        topic, data, log_time = message
        if topic in self._cameras:
            stamp = peek_stamp(data) if len(data) >= 12 else _NO_STAMP
            contents.image_stamps[self._cameras[topic].name].append(stamp)
            contents.image_times.append((log_time, stamp))
            if self._keep:
                contents.images[self._cameras[topic].name].append(message)
        elif topic == self._profile.joint_states_topic:
            self._take_joints(data, log_time)
        elif topic == topics.COMMAND:
            contents.commands.append((self._command(message), log_time))
        elif topic == topics.STEP_INFO:
            if peek_uint32(data) == 0:
                contents.reset = max(contents.reset, peek_stamp(data))
        elif topic == topics.INSTRUCTION:
            contents.instructions.append((log_time, str(bag.deserialize(message).data).strip()))
        elif topic == topics.EPISODE_INFO:
            contents.infos.append(EpisodeInfo.from_message(bag.deserialize(message)))
        else:
            contents.motion.append((bag.deserialize(message), log_time))

    def _command(self, message: Message) -> CommandView:
        if self._known_commands:
            return self._commands.read(message.data)
        command = self._bag.deserialize(message)
        return CommandView(peek_stamp(message.data), np.asarray(command.values, np.float64), int(command.source))

    def _take_joints(self, data: bytes | memoryview, log_time: int) -> None:
        contents = self.contents
        stamp, names, positions = self._joint_states.read(data)
        if names != self._names or not self._order:
            self._names, self._order = names, self._joint_order(names)
        if len(positions) != len(names):
            contents.bad["joint states with other numbers of names and positions"] += 1
            return
        values = positions[self._order]
        if not np.isfinite(values).all():
            contents.bad["joint states that are not finite"] += 1
            return
        gripper = float(values[-1]) if self._profile.gripper else 0.0
        # A driver that does not stamp them is taken at its word by policy and guard, too: they count when they arrive.
        contents.joint_stamps.append(stamp or log_time)
        contents.joint_states.append((values[: len(self._profile.joints)], gripper))

    def _joint_order(self, names: tuple[str, ...]) -> list[int]:
        profile = self._profile
        wanted = [*profile.joint_names, *([profile.gripper.joint] if profile.gripper else [])]
        missing = [name for name in wanted if name not in names]
        if missing:
            raise BagError(
                f"{profile.joint_states_topic}: joint {missing[0]!r} of robot {profile.name!r} is missing; the bag's "
                f"joints are {', '.join(names) or 'none'}: recorded with another robot?"
            )
        return [names.index(name) for name in wanted]

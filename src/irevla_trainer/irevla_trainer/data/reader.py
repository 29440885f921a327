"""Bags to episodes: observations and the actions that were executed, aligned by stamps.

Bags of the recorder carry the observation stamp of every decision in /irevla/command. Bags that `ros2 bag record` made
of the same robot without it are aligned by header stamps, and their actions derived from the controller's commands.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from irevla_policy.errors import UserError
from irevla_policy.recording import topics
from irevla_policy.recording.cdr import read_image
from irevla_policy.recording.episode import EpisodeInfo
from irevla_policy.recording.images import ImageError, decode_compressed, decode_image
from irevla_policy.recording.interfaces import InterfaceError
from irevla_policy.recording.storage import BagError, BagReader, Message, open_reader
from irevla_policy.robot.camera import Camera
from irevla_policy.robot.kinematics import ArmKinematics
from irevla_policy.robot.profile import RobotProfile
from irevla_policy.robot.proprioception import proprioceptive_state
from irevla_trainer.data import decided
from irevla_trainer.data.alignment import align
from irevla_trainer.data.contents import BagContents, scan
from irevla_trainer.data.decided import Decision
from irevla_trainer.data.description import describe, labelled
from irevla_trainer.data.report import BY_HEADER, BY_OBSERVATION, BagReport

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Episode:
    """One episode, decoded.

    Attributes:
        info: What it is.
        images: Camera name to RGB images, uint8 `[T, H, W, 3]`.
        instructions: What to do at each step, T texts.
        state: Proprioceptive states, float32 `[T, state_dim]`.
        action: Executed raw actions, float32 `[T, action_dim]`.
        stamps: Observation stamps, ns, `[T]`.
    """

    info: EpisodeInfo
    images: Mapping[str, npt.NDArray[np.uint8]]
    instructions: list[str]
    state: npt.NDArray[np.float32]
    action: npt.NDArray[np.float32]
    stamps: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.action)


class EpisodeReader:
    """Reads bags of one robot.

    Args:
        profile: The robot; its cameras, joints and action space are what every bag must have.

    Raises:
        SettingsError: The profile's URDF does not fit it.
    """

    def __init__(self, profile: RobotProfile) -> None:
        self.profile = profile
        self._kinematics = ArmKinematics(profile)

    def read(
        self, path: str | Path, leave_out: Callable[[EpisodeInfo], str] = lambda info: ""
    ) -> tuple[Episode | None, BagReport]:
        """Read one bag.

        Nothing that is wrong with the bag is raised: it is the report's `problem`, and the episode is then None.

        Args:
            path: The bag.
            leave_out: Says why an episode is not wanted, before its images are decoded; empty when it is.

        Returns:
            The episode and the account of it.
        """
        report = BagReport(str(path), episode_id=Path(path).name)
        try:
            with closing(open_reader(path)) as bag:
                return self._read(bag, report, leave_out), report
        except (UserError, OSError) as error:
            if self._was_aborted(path):
                report.left_out = f"the recording was aborted ({error})"
            else:
                report.problem = str(error)
            return None, report

    def _was_aborted(self, path: str | Path) -> bool:
        """Whether the bag itself says so: then it need not hold what a whole episode holds."""
        try:
            return describe(Path(path)).state == "aborted"
        except (UserError, OSError):
            return False

    def _read(self, bag: BagReader, report: BagReport, leave_out: Callable[[EpisodeInfo], str]) -> Episode | None:
        if not bag.message_count:
            raise BagError("the bag is empty")
        cameras = self._cameras(bag)
        ours = _has(bag, topics.COMMAND)
        self._demand(bag, ours)
        contents = scan(bag, self.profile, cameras, derive=not ours)
        info = labelled(bag.path, contents.infos)
        self._check_robot(info)
        self._introduce(contents, info, report)
        report.left_out = leave_out(info)
        if report.left_out:
            return None
        report.aligned_by = BY_OBSERVATION if ours else BY_HEADER
        if ours:
            decisions = decided.recorded(contents, self.profile, report)
        else:
            decisions = decided.derived(contents, self.profile, self._kinematics, report)
        instructed = [decision for decision in decisions if decision.instruction]
        if len(instructed) < len(decisions):
            report.dropped["no instruction yet"] += len(decisions) - len(instructed)
        episode = self._assemble(bag, cameras, contents, info, instructed, report)
        report.used, report.instruction = len(episode), episode.instructions[0]
        return episode

    def _introduce(self, contents: BagContents, info: EpisodeInfo, report: BagReport) -> None:
        report.episode_id, report.task, report.success = info.episode_id or report.episode_id, info.task, info.success
        report.source = info.source if contents.infos else ""
        if not contents.infos:
            report.note("no EpisodeInfo: task, seed and source are unknown")
        if info.state == "aborted":
            report.note("the recording was aborted")

    def _cameras(self, bag: BagReader) -> dict[str, Camera]:
        """Topic in the bag to camera: the raw images, or else the compressed ones."""
        found = {}
        for camera in self.profile.cameras:
            names = (camera.topic, topics.compressed_name(camera.topic))
            name = next((name for name in names if _has(bag, name)), "")
            if not name:
                raise BagError(
                    f"no images of camera {camera.name!r} of robot {self.profile.name!r}: expected topic {names[0]} or "
                    f"{names[1]}; the bag has {_listed(bag)}"
                )
            found[name] = camera
        return found

    def _demand(self, bag: BagReader, ours: bool) -> None:
        needed = [self.profile.joint_states_topic, topics.INSTRUCTION]
        if not ours:
            needed.append(self.profile.command.topic)
        for name in needed:
            if not _has(bag, name):
                what = "no instruction: " if name == topics.INSTRUCTION else ""
                also = f" (and no {topics.COMMAND})" if name == self.profile.command.topic else ""
                raise BagError(f"{what}no message on {name}{also}; the bag has {_listed(bag)}")

    def _check_robot(self, info: EpisodeInfo) -> None:
        profile = self.profile
        if info.profile_hash and info.profile_hash != profile.training_hash:
            raise BagError(
                f"recorded with robot {info.robot!r} ({info.action_space}, {info.control_rate:g} Hz, profile hash "
                f"{info.profile_hash}), expected {profile.name!r} ({profile.action_space}, "
                f"{profile.control_rate:g} Hz, {profile.training_hash}): another robot, or its cameras, joints, "
                "actions or rates were changed"
            )

    def _assemble(
        self,
        bag: BagReader,
        cameras: Mapping[str, Camera],
        contents: BagContents,
        info: EpisodeInfo,
        decisions: list[Decision],
        report: BagReport,
    ) -> Episode:
        first = self.profile.cameras[0].name
        tolerance = round(0.5e9 / self.profile.control_rate)
        found = align(
            [decision.stamp for decision in decisions],
            {**contents.image_stamps, "joint states": contents.joint_stamps},
            {name: 0 if name == first else tolerance for name in (*contents.image_stamps, "joint states")},
        )
        report.dropped.update(found.dropped)
        images, readable = _pixels(bag, cameras, contents, found.sensors, report)
        kept = [decisions[place] for place in found.decisions[readable]]
        for what, count in contents.bad.items():
            report.note(f"{count} messages left out: {what}")
        if not kept:
            why = [f"{count} {reason}" for reason, count in report.dropped.items()] + report.notes
            raise BagError(f"no decision could be used ({', '.join(why) or 'there was none'})")
        joints = [contents.joint_states[place] for place in found.sensors["joint states"][readable]]
        state = [
            proprioceptive_state(self.profile, self._kinematics, positions, gripper) for positions, gripper in joints
        ]
        return Episode(
            info=info,
            images=images,
            instructions=[decision.instruction for decision in kept],
            state=np.stack(state).astype(np.float32),
            action=np.stack([decision.action for decision in kept]).astype(np.float32),
            stamps=np.array([decision.stamp for decision in kept], dtype=np.int64),
        )


def _pixels(
    bag: BagReader,
    cameras: Mapping[str, Camera],
    contents: BagContents,
    sensors: Mapping[str, Indices],
    report: BagReport,
) -> tuple[dict[str, npt.NDArray[np.uint8]], npt.NDArray[np.bool_]]:
    """Decode the images that belong to decisions, straight into their place.

    Args:
        bag: The bag.
        cameras: Topic of the bag to camera.
        contents: Of the bag.
        sensors: Camera name to the number of its message for each decision, `[T]`.
        report: Gets what cannot be decoded.

    Returns:
        Images, and which decisions have all of theirs, `[T]`.
    """
    count = len(sensors["joint states"])
    readable = np.ones(count, dtype=bool)
    images = {camera.name: np.empty((count, camera.height, camera.width, 3), np.uint8) for camera in cameras.values()}
    wanted: dict[tuple[str, int], list[int]] = defaultdict(list)
    for camera in cameras.values():
        for decision, number in enumerate(sensors[camera.name]):
            wanted[camera.name, int(number)].append(decision)
    for camera, number, message in _image_messages(bag, cameras, contents) if count else ():
        for decision in wanted.get((camera.name, number), ()):
            try:
                images[camera.name][decision] = _decode(bag, message, camera)
            except (ImageError, InterfaceError) as error:
                readable[decision] = False
                report.note(str(error))
    if not readable.all():
        report.dropped["image that cannot be decoded"] += int((~readable).sum())
        images = {name: frames[readable] for name, frames in images.items()}
    return images, readable


def _image_messages(
    bag: BagReader, cameras: Mapping[str, Camera], contents: BagContents
) -> Iterator[tuple[Camera, int, Message]]:
    """Every image message with its camera and its number among those of the camera, in the order of the bag."""
    if contents.images:
        for camera in cameras.values():
            for number, message in enumerate(contents.images[camera.name]):
                yield camera, number, message
        return
    seen: Counter[str] = Counter()
    for message in bag.messages(set(cameras)):
        camera = cameras[message.topic]
        yield camera, seen[camera.name], message
        seen[camera.name] += 1


def _decode(bag: BagReader, message: Message, camera: Camera) -> npt.NDArray[np.uint8]:
    if message.topic != camera.topic:
        return decode_compressed(bag.deserialize(message), camera)
    return decode_image(read_image(message.data), camera)


def _has(bag: BagReader, topic: str) -> bool:
    return topic in bag.topics and bag.topics[topic].count > 0


def _listed(bag: BagReader) -> str:
    return ", ".join(sorted(name for name, topic in bag.topics.items() if topic.count)) or "no messages"

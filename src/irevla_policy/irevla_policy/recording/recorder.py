"""The recorder without a graph: one running episode at a time, its bag, its labels, and the room on the disk."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from irevla_policy.errors import UserError
from irevla_policy.lock import FolderLock
from irevla_policy.recording import episode, interfaces, topics
from irevla_policy.recording.episode import CLASSIFIER, EpisodeError, EpisodeInfo, Label
from irevla_policy.recording.quota import Quota, expected_rate, folder_size
from irevla_policy.recording.recovery import recover, unfinished_of
from irevla_policy.recording.session import RunningEpisode
from irevla_policy.recording.storage import METADATA_FILE, Offer, find_bags, open_writer
from irevla_policy.recording.topics import Source
from irevla_policy.recording.transforms import StaticTransforms
from irevla_policy.recording.writing import EpisodeWriting, Tally
from irevla_policy.robot.profile import RobotProfile
from irevla_policy.settings import setting

_GIGABYTE = 1e9
# A message that seems to have travelled for longer (ns) comes from a machine with another clock.
_SAME_CLOCK = 10 * 10**9


class RecordingError(UserError, RuntimeError):
    """An episode cannot be started, stopped or labelled now; says why."""


@dataclass(frozen=True)
class RecordingSettings:
    """How and where episodes are recorded."""

    folder: Path = setting(factory=lambda: Path("bags"), doc="Folder of the bags; made when missing")
    image_format: str = setting(
        "raw",
        "How images are recorded: as published, compressed here, or the driver's own /compressed topic",
        choices=topics.IMAGE_FORMATS,
    )
    jpeg_quality: int = setting(90, "Quality of JPEG images", at_least=1, at_most=100)
    quota_gb: float = setting(0.0, "Most that the bags in the folder may take; 0 for no limit", unit="GB", at_least=0.0)
    keep_free_gb: float = setting(1.0, "What must stay free on the disk", unit="GB", at_least=0.0)
    longest_episode: float = setting(
        60.0, "Length of an episode that must fit, as long as none has been recorded", unit="s", above=0.0
    )
    queue_mb: float = setting(256.0, "Most that may wait to be written; more is dropped", unit="MB", above=0.0)


@dataclass(frozen=True)
class Finished:
    """An episode that has ended.

    Attributes:
        info: Its description at the end.
        path: Folder of its bag; None when it was discarded.
        tally: What became of its messages.
    """

    info: EpisodeInfo
    path: Path | None
    tally: Tally


class Recorder:
    """Records episodes into bags. `take` may be called from any thread, the rest from any but one at a time.

    Args:
        profile: The robot.
        settings: How and where.
        announce: Called with every new description of an episode.
        log: Where to say what happens.
        without: Topics that are not recorded.

    Attributes:
        sources: What is recorded.
        awaited: Topics of cameras and joint states, of which every observation has one message.

    Raises:
        LockError: Another recorder writes into the folder.
        OSError: The folder cannot be made.
    """

    def __init__(
        self,
        profile: RobotProfile,
        settings: RecordingSettings,
        *,
        announce: Callable[[EpisodeInfo], None] = lambda info: None,
        log: logging.Logger | None = None,
        without: Collection[str] = (),
    ) -> None:
        self.sources = [s for s in topics.sources(profile, settings.image_format) if s.name not in without]
        self.awaited = [s.name for s in self.sources if s.kind == "observation" and s.name != topics.STEP_INFO]
        self._profile = profile
        self._settings = settings
        self._announce = announce
        self._log = log or logging.getLogger(__name__)
        self._folder = settings.folder.absolute()
        self._lock = FolderLock(self._folder)
        self._recover()
        size_of = "jpeg" if settings.image_format == "driver" else settings.image_format
        self.quota = Quota(
            self._folder,
            limit=int(settings.quota_gb * _GIGABYTE),
            keep_free=int(settings.keep_free_gb * _GIGABYTE),
            estimate=int(expected_rate(profile, size_of) * settings.longest_episode),
        )
        interfaces.prepare(episode.MESSAGE_TYPE, *(source.type for source in self.sources))
        self._latched: dict[str, bytes] = {}
        self._transforms = StaticTransforms()
        self._instruction = ""
        self._running: RunningEpisode | None = None
        self._wanted: EpisodeInfo | None = None
        self._writing: EpisodeWriting | None = None
        self._last = Tally()
        self._newest: tuple[Path, EpisodeInfo] | None = None
        # Held while an episode starts or ends, which another thread may do when the disk is full.
        self._changing = threading.RLock()

    @property
    def running(self) -> str:
        """Name of the running episode; empty when there is none."""
        return self._running.info.episode_id if self._running is not None else ""

    @property
    def arrivals(self) -> int:
        """Messages that have arrived since the running episode was started."""
        return self._running.arrivals if self._running is not None else 0

    @property
    def tally(self) -> Tally:
        """What became of the messages of the running, or else the last episode."""
        return self._writing.tally if self._writing is not None else self._last

    def settled(self, since: int, simulated: bool) -> bool:
        """Whether everything of the running episode that was published before a moment has arrived.

        Args:
            since: The moment, ns, system clock.
            simulated: Whether a simulator is there, whose last word is to be waited for.
        """
        return self._running is None or self._running.settled(since, simulated)

    def take(
        self, source: Source, data: bytes, log_time: int, publish_time: int | None = None, missed: int = 0
    ) -> None:
        """A message arrived.

        Args:
            source: Its topic.
            data: CDR bytes.
            log_time: When it arrived, ns.
            publish_time: When it was published, ns.
            missed: Messages of the topic between this one and the one before that never arrived.
        """
        received = log_time
        if source.kind == "latched":
            is_part = source.name == topics.STATIC_TRANSFORMS
            self._latched[source.name] = self._transforms.add(data) if is_part else data
            # An instruction is in force from when it was given. Its arrival says less: under load a recorder receives
            # it after commands that already follow it, and the first decision would get the instruction before.
            if publish_time is not None and 0 < log_time - publish_time < _SAME_CLOCK:
                log_time = publish_time
            if source.name == topics.INSTRUCTION:
                self._instruction = interfaces.deserialize(data, source.type).data
        running, writing = self._running, self._writing
        if running is None or writing is None:
            return
        # Under load, much of what was published before a moment is received after it.
        running.on_arrival(source.name, received if publish_time is None else min(received, publish_time))
        if missed:
            writing.miss(source.name, missed)
        if source.name == topics.COMMAND:
            running.on_command(interfaces.deserialize(data, source.type))
        elif source.name == topics.STEP_INFO:
            running.on_step(interfaces.deserialize(data, source.type))
        elif source.name == topics.INSTRUCTION:
            running.instruction = self._instruction
        elif source.kind == "observation":
            running.on_observation(source.name, interfaces.peek_stamp(data))
        # The writing knows images that it compresses by the name of their source.
        writing.put(source.name, data, log_time, publish_time)

    def start(self, wanted: EpisodeInfo, offers: Mapping[str, tuple[Offer, ...]] | None = None) -> Path:
        """Start an episode; returns the folder of its bag. Wanting the running one, by its name, changes nothing.

        Args:
            wanted: Task, variation, world, seed, source and, if it shall have one, its name.
            offers: Topic to what its publishers offer, where that is known.

        Raises:
            RecordingError: One is running, or it would not fit on the disk.
            UserError: The name cannot be a folder's or is taken.
            OSError: The bag cannot be made.
        """
        with self._changing:
            if self._running is not None and self._writing is not None and wanted == self._wanted and wanted.episode_id:
                return self._writing.path
            if self._running is not None:
                raise RecordingError(f"episode {self.running} is still being recorded: stop it first")
            refusal = self.quota.refusal()
            if refusal:
                raise RecordingError(refusal)
            profile = self._profile
            info = replace(
                wanted,
                episode_id=episode.check_name(wanted.episode_id or episode.new_name(wanted.task)),
                instruction=self._instruction,
                robot=profile.name,
                profile_hash=profile.training_hash,
                action_space=profile.action_space,
                control_rate=profile.control_rate,
            )
            writing = self._open(info, offers or {})
            running = RunningEpisode(info, self.awaited, instruction=self._instruction)
            self._describe(writing, running.described(time.time_ns(), "recording"))
            for topic, data in self._latched.items():
                writing.put(topic, data, time.time_ns())
            self._running, self._writing, self._wanted = running, writing, wanted
            return writing.path

    def finish(self, state: str = "finished", *, success: str = "unknown", labelled_by: str = "") -> Finished:
        """Finish the running episode.

        Args:
            state: `finished` or `aborted`.
            success: One of `episode.SUCCESSES`; when `unknown` the simulator's own word counts.
            labelled_by: Who says so.

        Raises:
            RecordingError: None is running.
            OSError: The disk is full; the bag stays among the unfinished ones.
        """
        with self._changing:
            running, writing = self._current()
            if success != "unknown":
                running.label(success, labelled_by)
            info = running.described(time.time_ns(), state)
            self._describe(writing, info)
            self._running, self._writing, self._last = None, None, writing.tally
            path = writing.finish()
            self._newest = (path, info)
            self.quota.finished(folder_size(path))
            return Finished(info, path, writing.tally)

    def discard(self) -> Finished:
        """End the running episode and throw its bag away.

        Raises:
            RecordingError: None is running.
        """
        with self._changing:
            running, writing = self._current()
            self._running, self._writing, self._last = None, None, writing.tally
            writing.discard()
            info = running.described(time.time_ns(), "aborted")
            self._announce(info)
            return Finished(info, None, writing.tally)

    def label(self, episode_id: str, success: str, labelled_by: str) -> str:
        """Say whether an episode succeeded: the running one in its bag, a finished one beside its data.

        Args:
            episode_id: The episode; empty for the newest.
            success: One of `episode.SUCCESSES`.
            labelled_by: Who says so.

        Returns:
            Name of the episode.

        Raises:
            UserError: No such episode, or a classifier would overrule somebody.
        """
        with self._changing:
            running, writing = self._running, self._writing
            if running is not None and writing is not None and episode_id in ("", running.info.episode_id):
                if labelled_by == CLASSIFIER:
                    _refuse_to_overrule(running.info)
                running.label(success, labelled_by)
                self._describe(writing, running.described(time.time_ns(), "recording"))
                return running.info.episode_id
            bag = self._folder / episode.check_name(episode_id) if episode_id else self._newest_bag()
            if labelled_by == CLASSIFIER:
                newest = self._newest[1] if self._newest is not None and self._newest[0] == bag else None
                _refuse_to_overrule(episode.read_label(bag) or newest)
            label = episode.write_label(bag, success, labelled_by)
            if self._newest is not None and self._newest[0] == bag:
                self._newest = (bag, replace(label.apply(self._newest[1]), stamp=label.stamp))
                self._announce(self._newest[1])
            return bag.name

    def must_end(self) -> str:
        """Why the running episode must end now, while there is room to finish its bag; empty when it need not."""
        writing = self._writing
        return "" if writing is None else writing.failure or self.quota.exhausted(writing.size)

    def close(self) -> Finished | None:
        """Finish a running episode as aborted and let go of the folder.

        Raises:
            OSError: The disk is full; the bag stays among the unfinished ones.
        """
        try:
            with self._changing:
                return self.finish("aborted") if self._running is not None else None
        finally:
            self._lock.release()

    def _open(self, info: EpisodeInfo, offers: Mapping[str, tuple[Offer, ...]]) -> EpisodeWriting:
        declared = [replace(s.recorded, offers=offers.get(s.name) or s.recorded.offers) for s in self.sources]
        path = self._folder / info.episode_id
        settings = self._settings
        return EpisodeWriting(
            open_writer(path, [*declared, topics.episode_topic()], info.as_custom()),
            compress={s.name: s.recorded.name for s in self.sources if s.name != s.recorded.name},
            image_format=settings.image_format,
            jpeg_quality=settings.jpeg_quality,
            queue_bytes=int(settings.queue_mb * 1e6),
        )

    def _current(self) -> tuple[RunningEpisode, EpisodeWriting]:
        if self._running is None or self._writing is None:
            raise RecordingError("no episode is being recorded")
        return self._running, self._writing

    def _describe(self, writing: EpisodeWriting, info: EpisodeInfo) -> None:
        writing.put(topics.EPISODE_INFO, info.serialize(), info.stamp, always=True)
        self._announce(info)

    def _newest_bag(self) -> Path:
        if self._newest is not None:
            return self._newest[0]
        try:
            # Not the folder's own time: a label renews that.
            return max(find_bags(self._folder), key=lambda bag: (bag / METADATA_FILE).stat().st_mtime)
        except UserError as error:
            raise EpisodeError(f"no episode to label: {error}") from error

    def _recover(self) -> None:
        # In a folder below, another recorder may be at work.
        for left in unfinished_of(self._folder):
            try:
                result = recover(left)
            except (UserError, OSError) as error:
                self._log.error("unfinished bag %s stays as it is: %s", left, error)
                continue
            if result.bag is None and not result.problem:
                self._log.warning("an episode was cut off before its first message: %s", left.name)
            elif result.bag is None:
                self._log.error("unfinished bag %s cannot be read: %s", left, result.problem)
            else:
                self._log.warning(
                    "recovered %d messages of an episode that was cut off, marked as aborted: %s",
                    result.messages,
                    result.bag,
                )


def _refuse_to_overrule(known: EpisodeInfo | Label | None) -> None:
    """A classifier looks a moment back: whoever has said meanwhile how it ended knows better."""
    if known is not None and known.success != "unknown" and known.labelled_by != CLASSIFIER:
        raise RecordingError(f"labelled by {known.labelled_by or 'somebody'} already, whom no classifier overrules")

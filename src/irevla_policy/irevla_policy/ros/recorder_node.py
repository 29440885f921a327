"""`irevla_recorder`: writes every episode into a bag of its own.

Messages are taken as serialised bytes and written as they came, by a thread that no callback waits for. Each bag
carries the instruction that was in force, and irevla_msgs/EpisodeInfo at its start, at every label and at its end.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import threading
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

from irevla_msgs.msg import EpisodeInfo
from irevla_msgs.srv import LabelEpisode, RecordingProgress, StartEpisode, StopEpisode
from irevla_policy.errors import UserError
from irevla_policy.recording import episode
from irevla_policy.recording.recorder import Finished, Recorder, RecordingError, RecordingSettings
from irevla_policy.recording.storage import Offer
from irevla_policy.recording.topics import EPISODE_INFO, STATIC_TRANSFORMS, STEP_INFO, Source
from irevla_policy.robot.profile import load_profile
from irevla_policy.ros import qos
from irevla_policy.ros.lifecycle import spin
from irevla_policy.ros.messages import time_message
from irevla_policy.ros.parameters import NodeSettings, declare
from irevla_policy.settings import from_dict, to_dict

# How long the end of an episode waits for messages that are still on their way, and for a simulator's last word: one
# that got lost is sent again after up to 3 s.
_LAST_MESSAGES_SECONDS = 1.0
_LAST_WORD_SECONDS = 5.0
# How long the start of an episode waits for publishers, and then for a first message from each sensor.
_CONNECT_SECONDS = 5.0
_HEAR_SECONDS = 1.5
_WAKE_SECONDS = 0.01


@dataclass(frozen=True)
class RecorderSettings(RecordingSettings, NodeSettings):
    """Parameters of `irevla_recorder`."""


class RecorderNode(Node):
    """Services /irevla/start_episode, /irevla/stop_episode and /irevla/label_episode around one running episode."""

    def __init__(self) -> None:
        super().__init__("irevla_recorder")
        settings = declare(self, RecorderSettings)
        self._lock_step = settings.lock_step
        self._publisher = self.create_publisher(EpisodeInfo, EPISODE_INFO, qos.latched())
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", qos.event())
        ours = {key: value for key, value in to_dict(settings).items() if key not in ("robot", "lock_step")}
        self._profile = load_profile(settings.robot)
        without = [] if importlib.util.find_spec("tf2_msgs") else [STATIC_TRANSFORMS]
        if without:
            self.get_logger().info(f"{STATIC_TRANSFORMS} is not recorded: the package tf2_msgs is not installed")
        self._recorder = Recorder(
            self._profile,
            from_dict(RecordingSettings, ours),
            announce=self._announce,
            log=_as_logger(self),
            without=without,
        )
        # Publishers that each subscription is connected to, and sensors that have been heard.
        self._connected: dict[str, int] = {}
        self._heard: set[str] = set()
        for source in self._recorder.sources:
            self._subscribe(source)
        # A group of their own: while a service waits for the last messages, these must be able to arrive.
        group = MutuallyExclusiveCallbackGroup()
        self.create_service(StartEpisode, "/irevla/start_episode", self._start, callback_group=group)
        self.create_service(StopEpisode, "/irevla/stop_episode", self._stop, callback_group=group)
        self.create_service(LabelEpisode, "/irevla/label_episode", self._label, callback_group=group)
        self.create_service(RecordingProgress, "/irevla/recording_progress", self._progress)
        self.create_timer(1.0, self._watch)
        # Wakes the executor, so that a service that waits for the end of an episode is looked after.
        self._wake = self.create_timer(_WAKE_SECONDS, lambda: None)
        self._wake.cancel()

    def close(self) -> None:
        """Finish the running episode as aborted."""
        try:
            ended = self._recorder.close()
        except OSError as error:
            self.get_logger().error(str(error))
            return
        if ended is not None:
            self._report(ended)

    def _subscribe(self, source: Source) -> None:
        package, _, name = source.type.split("/")
        message_type = getattr(importlib.import_module(f"{package}.msg"), name)
        profiles: dict[str, Callable[[], QoSProfile]] = {
            "observation": lambda: qos.sensor(self._lock_step, depth=100),
            "calibration": lambda: qos.sensor(self._lock_step, depth=100),
            "latched": lambda: qos.latched(source.recorded.offers[0].depth),
            "event": qos.recorded,
        }

        numbers = _Numbers()

        def on_matched(info: Any) -> None:
            self._connected[source.name] = info.current_count
            numbers.restart(info.current_count)

        def take(data: bytes, info: dict[str, int]) -> None:
            self._heard.add(source.name)
            log_time = info["received_timestamp"] or time.time_ns()
            missed = numbers.missed(info["publication_sequence_number"])
            try:
                self._recorder.take(source, data, log_time, info["source_timestamp"] or log_time, missed)
            except UserError as error:
                self.get_logger().error(f"{source.name}: {error}", throttle_duration_sec=5.0)

        events = SubscriptionEventCallbacks(matched=on_matched)
        self.create_subscription(
            message_type, source.name, take, profiles[source.kind](), raw=True, event_callbacks=events
        )

    async def _start(self, request: StartEpisode.Request, response: StartEpisode.Response) -> StartEpisode.Response:
        try:
            wanted = episode.EpisodeInfo(
                episode_id=request.episode_id,
                task=request.task,
                variation=request.variation,
                world=request.world,
                seed=request.seed,
                source=_word(episode.SOURCES, request.source, "source"),
            )
            await self._sensors()
            path = self._recorder.start(wanted, self._offers())
        except (UserError, OSError) as error:
            response.message = str(error)
            self.get_logger().error(f"episode not started: {error}")
            return response
        response.accepted, response.episode_id, response.path = True, path.name, str(path)
        self.get_logger().info(f"recording {path.name}")
        return response

    async def _sensors(self) -> None:
        """Wait until every camera and the joint states are connected, so that an episode misses nothing at its start.

        Raises:
            RecordingError: One is not.
        """
        needed = self._recorder.awaited
        self._wake.reset()
        begin = time.monotonic()
        while not all(self._connected.get(name) for name in needed) and time.monotonic() - begin < _CONNECT_SECONDS:
            await _Pause()
        # A publisher may learn of its reader a little later than the reader of it. What has been heard is past that;
        # a world that stands still cannot be heard.
        begin = time.monotonic()
        while not self._heard.issuperset(needed) and time.monotonic() - begin < _HEAR_SECONDS:
            await _Pause()
        self._wake.cancel()
        silent = [name for name in needed if not self._connected.get(name)]
        if silent:
            raise RecordingError(
                f"nobody publishes {' and '.join(silent)} with a fitting quality of service, which robot profile "
                f"{self._profile.name!r} names: is the driver running, and does the topic have that name?"
            )

    async def _stop(self, request: StopEpisode.Request, response: StopEpisode.Response) -> StopEpisode.Response:
        response.episode_id = self._recorder.running
        self._wake.reset()
        if not request.discard:
            await self._last_messages(request.messages)
        ended: list[Finished] = []
        worker = threading.Thread(target=self._end, args=(request, response, ended), name="finish")
        worker.start()
        while worker.is_alive():
            await _Pause()
        self._wake.cancel()
        if ended:
            self._report(ended[0])
            response.accepted = True
            response.path = str(ended[0].path or "")
            response.steps = ended[0].info.steps
            response.messages = ended[0].tally.written
            response.dropped = sum(ended[0].tally.dropped.values())
            response.message = ended[0].tally.problem
        else:
            self.get_logger().error(f"episode not stopped: {response.message}")
        return response

    async def _last_messages(self, sent: int) -> None:
        """Wait until what was published before now has arrived, or has had its time to.

        Args:
            sent: Messages of the episode, if whoever stops it knows; otherwise 0.
        """
        simulated = bool(self._connected.get(STEP_INFO))
        now = time.time_ns()
        deadline = time.monotonic() + (_LAST_WORD_SECONDS if simulated else _LAST_MESSAGES_SECONDS)
        while time.monotonic() < deadline:
            if self._recorder.arrivals >= sent > 0 or self._recorder.settled(now, simulated):
                break
            await _Pause()

    def _end(self, request: StopEpisode.Request, response: StopEpisode.Response, ended: list[Finished]) -> None:
        try:
            success = _word(episode.SUCCESSES, request.success, "success")
            if request.discard:
                ended.append(self._recorder.discard())
            else:
                ended.append(self._recorder.finish(success=success, labelled_by=request.labelled_by or "operator"))
        except (UserError, OSError) as error:
            response.message = str(error)

    def _label(self, request: LabelEpisode.Request, response: LabelEpisode.Response) -> LabelEpisode.Response:
        try:
            success = _word(episode.SUCCESSES, request.success, "success")
            response.episode_id = self._recorder.label(request.episode_id, success, request.labelled_by or "operator")
            response.accepted = True
        except (UserError, OSError) as error:
            response.message = str(error)
        return response

    def _progress(
        self, _: RecordingProgress.Request, response: RecordingProgress.Response
    ) -> RecordingProgress.Response:
        response.episode_id, response.messages = self._recorder.running, self._recorder.arrivals
        response.dropped = sum(self._recorder.tally.dropped.values()) if response.episode_id else 0
        return response

    def _watch(self) -> None:
        """Once a second: end the episode while the disk still has room to finish its bag; report."""
        why = self._recorder.must_end()
        if why:
            self.get_logger().error(f"the episode ends now: {why}")
            threading.Thread(target=self._abort, name="finish").start()
        self._diagnostics.publish(self._status(why))

    def _abort(self) -> None:
        try:
            self._report(self._recorder.finish("aborted"))
        except (UserError, OSError) as error:
            self.get_logger().error(str(error))

    def _report(self, ended: Finished) -> None:
        info, tally = ended.info, ended.tally
        if tally.problem:
            self.get_logger().error(
                f"{info.episode_id}: {sum(tally.dropped.values())} messages were dropped {dict(tally.dropped)}: "
                f"{tally.problem}"
            )
        what = f"{info.state}, {info.steps} steps, {tally.written} messages" if ended.path else "discarded"
        self.get_logger().info(f"{info.episode_id}: {what}")

    def _announce(self, info: episode.EpisodeInfo) -> None:
        message = EpisodeInfo(**info.as_fields())
        message.header.stamp = time_message(info.stamp)
        self._publisher.publish(message)

    def _offers(self) -> dict[str, tuple[Offer, ...]]:
        """What publishers offer now, so that a bag is played back in the same way."""
        found = {}
        for source in self._recorder.sources:
            usual = source.recorded.offers[0].depth
            offers = {_offer(item.qos_profile, usual) for item in self.get_publishers_info_by_topic(source.name)}
            found[source.name] = tuple(sorted(offers, key=repr))
        return found

    def _status(self, why: str) -> DiagnosticArray:
        tally = self._recorder.tally
        dropped = sum(tally.dropped.values())
        level = DiagnosticStatus.ERROR if why else DiagnosticStatus.WARN if dropped else DiagnosticStatus.OK
        values = {
            "episode": self._recorder.running,
            "messages": tally.written,
            "dropped": dropped,
            "free_gb": f"{self._recorder.quota.free() / 1e9:.2f}",
        }
        status = DiagnosticStatus(
            level=level,
            name=self.get_name(),
            message=why or tally.problem or ("recording" if self._recorder.running else "idle"),
            values=[KeyValue(key=key, value=str(value)) for key, value in values.items()],
        )
        array = DiagnosticArray(status=[status])
        array.header.stamp = self.get_clock().now().to_msg()
        return array


class _Numbers:
    """The numbers that a publisher gives its messages: a gap is what this reader never got."""

    def __init__(self) -> None:
        self._alone = True
        self._last: int | None = None

    def restart(self, publishers: int) -> None:
        """The publishers of the topic have changed. Those of several cannot be told apart and are not counted."""
        self._alone, self._last = publishers <= 1, None

    def missed(self, number: int | None) -> int:
        """Messages that are missing before this one; its number is None where the middleware counts none."""
        before, self._last = self._last, number
        if not self._alone or before is None or number is None or number <= before:
            return 0
        return number - before - 1


class _Pause:
    """Lets the executor serve other callbacks once."""

    def __await__(self) -> Generator[None, None, None]:
        yield


class _NodeLog(logging.Handler):
    """Passes log records on to a node's logger."""

    def __init__(self, node: Node) -> None:
        super().__init__()
        self._logger: Any = node.get_logger()

    def emit(self, record: logging.LogRecord) -> None:
        # rclpy wants one severity for every line of code that logs.
        if record.levelno >= logging.ERROR:
            self._logger.error(record.getMessage())
        else:
            self._logger.warning(record.getMessage())


def _as_logger(node: Node) -> logging.Logger:
    logger = logging.getLogger(f"irevla.{node.get_name()}")
    logger.addHandler(_NodeLog(node))
    return logger


def _word(words: Sequence[str], number: int, what: str) -> str:
    if number >= len(words):
        raise episode.EpisodeError(f"{what} must be below {len(words)}, found {number}")
    return words[number]


def _offer(profile: QoSProfile, usual_depth: int) -> Offer:
    return Offer(
        # Discovery does not tell the depth.
        depth=profile.depth or usual_depth,
        reliable=profile.reliability != ReliabilityPolicy.BEST_EFFORT,
        latched=profile.durability == DurabilityPolicy.TRANSIENT_LOCAL,
    )


def main(args: list[str] | None = None) -> None:
    """Run the node until SIGINT."""
    spin(RecorderNode, args)


if __name__ == "__main__":
    main()

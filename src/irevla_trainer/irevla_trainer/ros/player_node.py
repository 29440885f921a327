"""`irevla_player`: plays bags onto the graph, for a recorder that takes them as if the robot were live.

Each bag is an episode of the recorder. Messages are sent reliably, and no more of them than the recorder has room for:
at any rate none is dropped. /clock shows the time of the bag. The joint commands of a bag are played too, and no guard
looks at them: beside a robot or a simulator, whoever publishes what the bag holds or takes commands, nothing is played.
"""

from __future__ import annotations

import importlib
import signal
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rosgraph_msgs.msg import Clock
from std_msgs.msg import String

from irevla_msgs.srv import RecordingProgress, StartEpisode, StopEpisode
from irevla_policy.errors import RunError, UserError
from irevla_policy.recording import episode
from irevla_policy.recording.interfaces import full_name
from irevla_policy.recording.storage import BagReader, Message, find_bags, open_reader
from irevla_policy.recording.topics import EPISODE_INFO, INSTRUCTION, LATCHED, RECORDER, RECORDERS, STATIC_TRANSFORMS
from irevla_policy.robot.profile import COMMAND_TYPES
from irevla_policy.ros.messages import time_message
from irevla_policy.ros.parameters import declare
from irevla_policy.settings import setting
from irevla_trainer.data.description import describe
from irevla_trainer.ros.graph_client import GraphClient

_CLOCK = "/clock"
_NOT_PLAYED = (EPISODE_INFO, _CLOCK, "/rosout", "/parameter_events", "/diagnostics")
"""What this graph says itself."""

_CLOCK_PERIOD = 10_000_000
"""ns of the bag's time between two messages on /clock."""

_WINDOW = 50
"""Messages under way at most: the recorder keeps a hundred of each topic."""

_POLL = 0.002
"""s between two questions how many the recorder has taken."""

_SETTLE = 1.0
"""s after which whoever is on the graph has been found, and between two looks at it."""

_COMMANDS = tuple(map(full_name, COMMAND_TYPES))
"""Types of joint commands, as bags name them."""


class LiveGraphError(UserError):
    """A robot or a simulator is on the graph."""


@dataclass(frozen=True)
class PlayerSettings:
    """Parameters of the player."""

    bags: tuple[str, ...] = setting(doc="Bags or folders of bags, played in the order of their paths")
    rate: float = setting(1.0, "Speed, 1 is the robot's; 0 as fast as the recorder takes them", at_least=0.0)


@dataclass(frozen=True)
class Played:
    """What became of a bag.

    Attributes:
        bag: The bag.
        copy: What the recorder made of it.
        sent: Messages that the recorder was to take.
        dropped: Messages of these that it could not write, or never got.
    """

    bag: Path
    copy: Path
    sent: int
    dropped: int


class Player:
    """Plays bags, one episode each.

    Args:
        client: On the graph.
        rate: Speed; 0 for as fast as possible.
    """

    def __init__(self, client: GraphClient, rate: float) -> None:
        self._client, self._rate = client, rate
        self._publishers: dict[str, Publisher] = {}
        self._clock = client.node.create_publisher(Clock, _CLOCK, 10)
        self._shown = 0
        self._instructed = False
        self._checked = time.monotonic()

    @property
    def has_recorder(self) -> bool:
        """Whether there is a recorder on the graph."""
        return RECORDER in self._client.node.get_node_names()

    def play(self, bag: Path) -> Played:
        """Play one bag.

        Raises:
            UserError: It cannot be read, or somebody else publishes what it holds (`LiveGraphError`).
            RunError: There is no recorder, or it does not go on.
        """
        info = describe(bag)
        with closing(open_reader(bag)) as reader:
            names = [name for name in reader.topics if name not in _NOT_PLAYED and self._can_publish(reader, name)]
            self._connect(reader, names)
            alone = [name for name in names if not self._latched(reader, name)]
            time.sleep(max(self._checked + _SETTLE - time.monotonic(), 0.0))
            self._check_alone(alone, reader)
            messages = iter(reader.messages(names))
            # What is in force when the episode begins, the instruction above all, is known before it does.
            first, asked = next(messages, None), False
            while first is not None and self._latched(reader, first.topic):
                self._publish(first)
                asked |= first.topic == INSTRUCTION
                first = next(messages, None)
            if self._instructed and not asked:
                # Nothing was asked for yet; what a bag before ended with no longer counts.
                self._publishers[INSTRUCTION].publish(String())
            copy = self._start(info)
            try:
                sent = self._send(_with(first, messages), lambda: self._check_alone(alone, reader))
                stopped = self._stop(info, sent)
            except BaseException:
                # What went wrong may be that the recorder has ended the episode, or is gone.
                with suppress(RunError):
                    self._stop(info, 0, discard=True)
                raise
        return Played(bag, copy, sent, max(int(stopped.dropped), sent - int(stopped.messages)))

    def _connect(self, reader: BagReader, names: list[str]) -> None:
        """Make publishers, and wait until the recorder hears those of its topics."""
        for name in names:
            if name not in self._publishers:
                kind = _message_class(reader.topics[name].type)
                assert kind is not None
                quality = _quality(latched=self._latched(reader, name), newest=name in LATCHED)
                self._publishers[name] = self._client.node.create_publisher(kind, name, quality)
        deadline = time.monotonic() + self._client.patience
        self._client.wait(
            lambda: any(self._is_recorded(name) for name in names), deadline, "no irevla_recorder on this graph"
        )

    def _check_alone(self, names: list[str], reader: BagReader) -> None:
        """Refuse to play beside a robot or a simulator: who publishes such topics, or takes joint commands."""
        self._checked = time.monotonic()
        node = self._client.node
        for name in names:
            others = [entry.node_name for entry in node.get_publishers_info_by_topic(name)]
            if reader.topics[name].type in _COMMANDS:
                others += [entry.node_name for entry in node.get_subscriptions_info_by_topic(name)]
            # Names of command-line tools begin with an underscore.
            others = [one for one in others if one not in (node.get_name(), *RECORDERS) and not one.startswith("_")]
            if others:
                raise LiveGraphError(
                    f"{others[0]} is on {name}, too: beside a robot or a simulator the recorded commands would reach "
                    "it past the guard; stop it, or play on another domain (domain_id:=)"
                )

    def _can_publish(self, reader: BagReader, name: str) -> bool:
        kind, count = reader.topics[name].type, reader.topics[name].count
        known = _message_class(kind) is not None
        if count and not known:
            self._client.node.get_logger().warning(f"{name} is not played: message type {kind} is not installed")
        return known

    def _send(self, messages: Iterable[Message], check: Callable[[], None]) -> int:
        """Send all messages in their time, with a check now and then; returns how many the recorder was to take."""
        recorded = {name for name in self._publishers if self._is_recorded(name)}
        sent = taken = 0
        start, first = time.monotonic(), None
        for message in messages:
            if time.monotonic() > self._checked + _SETTLE:
                check()
            first = message.log_time if first is None else first
            if self._rate:
                pause = (message.log_time - first) * 1e-9 / self._rate - (time.monotonic() - start)
                time.sleep(max(pause, 0.0))
            if message.topic in LATCHED:
                # A reader keeps one of these: the one before must have been taken. What they change, an instruction,
                # counts for what follows and not for what is still on its way.
                taken = self._taken(sent)
            elif sent - taken >= _WINDOW:
                taken = self._taken(sent - _WINDOW // 2)
            self._publish(message)
            if message.topic in recorded:
                sent += 1
                taken = self._taken(sent) if message.topic in LATCHED else taken
        self._taken(sent)
        return sent

    def _taken(self, wanted: int) -> int:
        """Wait until the recorder has taken so many messages; returns how many it has."""
        deadline, before = time.monotonic() + self._client.patience, -1
        while True:
            answer = self._client.ask(RecordingProgress, "/irevla/recording_progress", RecordingProgress.Request())
            if not answer.episode_id:
                raise RunError("the recorder has ended the episode by itself; see its log")
            if answer.messages >= wanted:
                return int(answer.messages)
            if answer.messages > before:
                deadline, before = time.monotonic() + self._client.patience, answer.messages
            time.sleep(_POLL)
            if time.monotonic() > deadline:
                raise RunError(f"the recorder has taken {answer.messages} of {wanted} messages and no more came")

    def _publish(self, message: Message) -> None:
        if message.log_time - self._shown >= _CLOCK_PERIOD or message.log_time < self._shown:
            self._shown = message.log_time
            self._clock.publish(Clock(clock=time_message(message.log_time)))
        self._publishers[message.topic].publish(bytes(message.data))
        self._instructed |= message.topic == INSTRUCTION

    def _start(self, info: episode.EpisodeInfo) -> Path:
        request = StartEpisode.Request(
            task=info.task,
            variation=info.variation,
            world=info.world,
            seed=info.seed,
            source=episode.SOURCES.index(info.source),
            episode_id=info.episode_id,
        )
        return Path(self._client.call(StartEpisode, "/irevla/start_episode", request, again=True).path)

    def _stop(self, info: episode.EpisodeInfo, sent: int, discard: bool = False) -> Any:
        request = StopEpisode.Request(
            success=episode.SUCCESSES.index(info.success),
            labelled_by=info.labelled_by,
            discard=discard,
            messages=sent,
        )
        return self._client.call(StopEpisode, "/irevla/stop_episode", request)

    def _is_recorded(self, name: str) -> bool:
        return any(entry.node_name == RECORDER for entry in self._client.node.get_subscriptions_info_by_topic(name))

    @staticmethod
    def _latched(reader: BagReader, name: str) -> bool:
        # Bags of others may not say so, and a recorder asks for these as they are everywhere.
        return name in (*LATCHED, STATIC_TRANSFORMS) or any(offer.latched for offer in reader.topics[name].offers)


def _with(first: Message | None, rest: Iterable[Message]) -> Iterable[Message]:
    if first is not None:
        yield first
    yield from rest


def _message_class(message_type: str) -> Any:
    """The class of a message type; None when it is not installed."""
    package, _, name = full_name(message_type).split("/")
    try:
        return getattr(importlib.import_module(f"{package}.msg"), name)
    except (ImportError, AttributeError):
        return None


def _quality(latched: bool, newest: bool) -> QoSProfile:
    """Of a topic; of some latched ones only the newest counts, others (/tf_static) come in parts."""
    return QoSProfile(
        reliability=ReliabilityPolicy.RELIABLE,
        history=HistoryPolicy.KEEP_LAST,
        depth=1 if newest else 2 * _WINDOW,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
    )


def _run(arguments: list[str]) -> int:
    """Play everything; returns how many bags were not played whole.

    Raises:
        UserError: There are no such bags, a parameter is wrong, or somebody else publishes what is to be played.
        RunError: There is no recorder any more.
        KeyboardInterrupt: Told to end.
    """
    problems = 0
    with GraphClient("irevla_player", args=arguments) as client:
        settings = declare(client.node, PlayerSettings)
        log = client.node.get_logger()
        bags = list(dict.fromkeys(bag for folder in settings.bags for bag in find_bags(folder)))
        player = Player(client, settings.rate)
        for number, bag in enumerate(bags, start=1):
            left = f"{len(bags) - number + 1} of {len(bags)} bags were not played"
            try:
                played = player.play(bag)
            except KeyboardInterrupt:
                log.warning(f"told to end: {left}")
                raise
            except LiveGraphError as error:
                raise LiveGraphError(f"{error}; {left}") from None
            except (UserError, RunError) as error:
                log.error(f"{bag}: not played: {error}")
                problems += 1
                if isinstance(error, RunError) and not player.has_recorder:
                    raise RunError(f"no recorder: {left}") from None
                continue
            problems += played.dropped > 0
            log.info(
                f"{number}/{len(bags)} {bag.name}: {played.sent} messages, {played.dropped} dropped: {played.copy}"
            )
    return problems


def main(args: list[str] | None = None) -> None:
    """Play the bags that the parameters name, then end: with 0 when all of them were played whole.

    SIGINT ends it with 0 as every node; the log then says how many bags were not played.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        sys.exit(1 if _run(sys.argv if args is None else args) else 0)
    except KeyboardInterrupt:
        sys.exit(0)
    except (UserError, RunError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, UserError) else 1)


if __name__ == "__main__":
    main()

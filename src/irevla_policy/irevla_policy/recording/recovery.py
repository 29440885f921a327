"""Bags that their recorder could not finish: finding them, and saving what is left of them."""

from __future__ import annotations

import os
import shutil
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from irevla_policy.recording import episode, interfaces, topics
from irevla_policy.recording.bag_metadata import offers_from_text
from irevla_policy.recording.mcap_reader import McapScan
from irevla_policy.recording.mcap_records import Channel, McapError
from irevla_policy.recording.session import RunningEpisode
from irevla_policy.recording.storage import (
    METADATA_FILE,
    UNFINISHED,
    BagError,
    Offer,
    Topic,
    open_reader,
    open_writer,
)


@dataclass(frozen=True)
class Recovery:
    """What became of an unfinished bag.

    Attributes:
        bag: The recovered bag; None when nothing could be read, or no message was in it.
        messages: Messages saved.
        problem: What was wrong with what was left; empty when it was whole.
    """

    bag: Path | None
    messages: int
    problem: str


def unfinished(folder: str | Path) -> list[Path]:
    """The unfinished bags below a folder of bags, in the order of their names."""
    found = []
    for place in sorted(Path(folder).rglob(UNFINISHED)):
        if place.is_dir():
            found.extend(sorted(path for path in place.iterdir() if path.is_dir()))
    return found


def recover(left: str | Path) -> Recovery:
    """Make a bag of what a killed recorder left, marked as aborted, in the place of the finished one.

    Every whole message is saved. What was left is removed once the new bag is safe on the disk, and at once when it
    ends before its first message; a bag of which nothing can be read stays where it is.

    Args:
        left: An unfinished bag: a folder with one `.mcap` file, usually below `unfinished/`.

    Raises:
        BagError: Not an unfinished bag, or the recovered one exists already.
        OSError: The disk is full.
    """
    left = Path(left).absolute()
    files = sorted(left.glob("*.mcap")) if left.is_dir() else []
    if len(files) != 1:
        raise BagError(f"{left}: expected the folder of an unfinished bag with one .mcap file, found {len(files)}")
    target = left.parent.parent / left.name if left.parent.name == UNFINISHED else left.with_name(f"{left.name}_saved")
    if (left / METADATA_FILE).is_file():
        return _only_move(left, target)
    scan = McapScan(files[0], strict=False)
    try:
        messages = sum(1 for _ in scan.messages())
    except McapError as error:
        return Recovery(None, 0, str(error))
    if not messages and scan.channels and not scan.remainder:
        shutil.rmtree(left)
        return Recovery(None, 0, "")
    if not messages:
        return Recovery(None, 0, f"{files[0]}: {scan.damage or 'no message'}")
    return _rewrite(left, files[0], target)


def _only_move(left: Path, target: Path) -> Recovery:
    """A bag that was finished but not moved: the recorder died between the two."""
    with closing(open_reader(left)) as reader:
        count = reader.message_count
    if target.exists():
        raise BagError(f"{target}: exists already; move it away to recover {left}")
    os.rename(left, target)
    return Recovery(target, count, "")


def _rewrite(left: Path, file: Path, target: Path) -> Recovery:
    aside = left.with_name(f"{left.name}.left")
    os.rename(left, aside)
    scan = McapScan(aside / file.name, strict=False)
    try:
        saved = _copy(scan, target)
    except BaseException:
        shutil.rmtree(left, ignore_errors=True)
        os.rename(aside, left)
        raise
    shutil.rmtree(aside)
    with suppress(OSError):
        # Fails while other bags are unfinished.
        aside.parent.rmdir()
    return Recovery(target, saved, scan.damage)


def _copy(scan: McapScan, target: Path) -> int:
    """Copy what can be read into a new bag that ends with an EpisodeInfo; returns the number of messages saved."""
    for _ in scan.messages(lambda channel: False):
        pass
    declared = [
        Topic(channel.topic, scan.schemas[channel.schema_id].name, _offers(channel))
        for channel in scan.channels.values()
        if channel.schema_id in scan.schemas
    ]
    writer = open_writer(target, declared)
    running: RunningEpisode | None = None
    last = 0
    try:
        for item in scan.messages():
            topic = scan.channels[item.channel_id].topic
            writer.write(topic, item.data, item.log_time, item.publish_time)
            last = max(last, item.log_time)
            running = _follow(running, topic, item.data)
        count = writer.message_count
        if running is not None:
            writer.write(topics.EPISODE_INFO, running.described(last, "aborted").serialize(), last)
        writer.finish()
    except BaseException:
        writer.discard()
        raise
    return count


def _offers(channel: Channel) -> tuple[Offer, ...]:
    return offers_from_text(channel.metadata.get("offered_qos_profiles", ""))


def _follow(running: RunningEpisode | None, topic: str, data: memoryview) -> RunningEpisode | None:
    """What the recorder knew of the episode after this message."""
    if topic == topics.EPISODE_INFO:
        info = episode.EpisodeInfo.from_message(interfaces.deserialize(data, episode.MESSAGE_TYPE))
        if running is None:
            return RunningEpisode(info, (), instruction=info.instruction)
        running.label(info.success, info.labelled_by)
    elif running is not None and topic == topics.COMMAND:
        running.on_command(interfaces.deserialize(data, "irevla_msgs/msg/Command"))
    elif running is not None and topic == topics.STEP_INFO:
        running.on_step(interfaces.deserialize(data, "irevla_msgs/msg/StepInfo"))
    elif running is not None and topic == topics.INSTRUCTION:
        running.instruction = interfaces.deserialize(data, "std_msgs/msg/String").data
    return running

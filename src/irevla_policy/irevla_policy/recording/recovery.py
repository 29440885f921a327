"""Bags that their recorder could not finish: finding them, and saving what is left of them."""

from __future__ import annotations

import shutil
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from irevla_policy.durable import put_in_place, sync
from irevla_policy.recording import episode, interfaces, topics
from irevla_policy.recording.bag_metadata import offers_of
from irevla_policy.recording.mcap_reader import McapScan
from irevla_policy.recording.mcap_records import McapError
from irevla_policy.recording.session import RunningEpisode
from irevla_policy.recording.storage import (
    METADATA_FILE,
    UNFINISHED,
    BagError,
    Topic,
    open_reader,
    open_writer,
)
from irevla_policy.recording.storage_python import move_into_place, remove_if_empty

_COPY = ".recovered"
"""Where, inside of what was left, a recovery writes: `.recovered/NAME` is there once it is whole, never before."""


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
    """The unfinished bags in a folder of bags and all folders below it, in the order of their names."""
    found = []
    for place in sorted(Path(folder).rglob(UNFINISHED)):
        # What a killed recovery was writing is part of what was left.
        if place.parent.name != _COPY:
            found.extend(unfinished_of(place.parent))
    return found


def unfinished_of(folder: str | Path) -> list[Path]:
    """The unfinished bags of those who record into this folder, in the order of their names."""
    place = Path(folder, UNFINISHED)
    return sorted(path for path in place.iterdir() if path.is_dir()) if place.is_dir() else []


def recover(left: str | Path) -> Recovery:
    """Make a bag of what a killed recorder left, marked as aborted, in the place of the finished one.

    Every whole message is saved. What was left is removed once the new bag is safe on the disk, and at once when it
    ends before its first message; a bag of which nothing can be read stays where it is. When it is killed, at any
    moment, the next recovery goes on.

    Args:
        left: An unfinished bag: a folder with one `.mcap` file, usually below `unfinished/`.

    Raises:
        BagError: Not an unfinished bag, or the recovered one exists already.
        OSError: The disk is full.
    """
    left = Path(left).absolute()
    ours = left.parent.name == UNFINISHED
    target = left.parent.parent / left.name if ours else left.with_name(f"{left.name}_saved")
    copy = left / _COPY / target.name
    if copy.is_dir():
        # Killed when all was saved but not in its place.
        count = _count(copy)
        _put(copy, left, target)
        return Recovery(target, count, "")
    if ours and left.is_dir() and not any(path.is_file() for path in left.rglob("*")):
        # Killed before there was a file, or when all had been saved already.
        _remove(left)
        return Recovery(target, _count(target), "") if target.exists() else Recovery(None, 0, "")
    files = sorted(left.glob("*.mcap")) if left.is_dir() else []
    if len(files) != 1:
        raise BagError(f"{left}: expected the folder of an unfinished bag with one .mcap file, found {len(files)}")
    finished = _finished(left)
    if finished is None:
        return _save(files[0], copy, left, target)
    _demand_free(target, left)
    move_into_place(left, target)
    return Recovery(target, finished, "")


def _finished(left: Path) -> int | None:
    """Messages of a bag whose recorder was killed before it moved it; None when there is more to mend."""
    if not (left / METADATA_FILE).is_file():
        return None
    try:
        return _count(left)
    except BagError:
        # The metadata are cut off or do not fit the file.
        return None


def _save(file: Path, copy: Path, left: Path, target: Path) -> Recovery:
    scan = McapScan(file, strict=False)
    try:
        messages = sum(1 for _ in scan.messages())
    except McapError as error:
        return Recovery(None, 0, str(error))
    if not messages and scan.channels and not scan.remainder:
        _remove(left)
        return Recovery(None, 0, "")
    if not messages:
        return Recovery(None, 0, f"{file}: {scan.damage or 'no message'}")
    _demand_free(target, left)
    saved = _rewrite(scan, copy)
    _put(copy, left, target)
    return Recovery(target, saved, scan.damage)


def _count(bag: Path) -> int:
    with closing(open_reader(bag)) as reader:
        return reader.message_count


def _demand_free(target: Path, left: Path) -> None:
    if target.exists():
        raise BagError(f"{target}: exists already; move it away to recover {left}")


def _rewrite(scan: McapScan, copy: Path) -> int:
    """Write the copy, whole or not at all; returns the number of messages saved."""
    shutil.rmtree(copy.parent, ignore_errors=True)
    try:
        return _copy(scan, copy)
    except BaseException:
        if not copy.exists():
            shutil.rmtree(copy.parent, ignore_errors=True)
        raise


def _put(copy: Path, left: Path, target: Path) -> None:
    """Replace what was left by its copy, so that at any moment it is clear which of them counts."""
    _demand_free(target, left)
    label = left / episode.LABEL_FILE
    if label.is_file():
        shutil.copyfile(label, copy / label.name)
        sync(copy / label.name)
        sync(copy)
    for path in left.iterdir():
        if path.is_file():
            path.unlink()
    sync(left)
    put_in_place(copy, target)
    _remove(left)


def _remove(left: Path) -> None:
    shutil.rmtree(left)
    if left.parent.name == UNFINISHED:
        remove_if_empty(left.parent)


def _copy(scan: McapScan, target: Path) -> int:
    """Copy what can be read into a new bag that ends with an EpisodeInfo; returns the number of messages saved."""
    for _ in scan.messages(lambda channel: False):
        pass
    declared = [
        Topic(channel.topic, scan.schemas[channel.schema_id].name, offers_of(channel))
        for channel in scan.channels.values()
        if channel.schema_id in scan.schemas
    ]
    try:
        interfaces.prepare(*(topic.type for topic in declared))
    except interfaces.InterfaceError as error:
        raise BagError(
            f"{error}; install it, or let `ros2 bag reindex` make a bag of the recording as it is"
        ) from error
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

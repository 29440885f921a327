"""Bags without ROS: MCAP by this package, SQLite3 and compressed bags through `rosbags`."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from irevla_policy.durable import write_text
from irevla_policy.recording import bag_metadata
from irevla_policy.recording.interfaces import definition, deserialize, is_known, store_with, type_hash
from irevla_policy.recording.mcap_reader import McapScan, Summary, read_summary
from irevla_policy.recording.mcap_records import Channel, McapError, Schema
from irevla_policy.recording.mcap_writer import McapWriter
from irevla_policy.recording.storage import (
    METADATA_FILE,
    BagError,
    Layout,
    Message,
    Offer,
    Topic,
    cut_off,
    naming_damage,
    unfinished_place,
)


class PythonWriter:
    """Writes an MCAP bag; see `storage.BagWriter`."""

    def __init__(self, path: Path, topics: Sequence[Topic], custom: dict[str, str]) -> None:
        self.path = path
        self._place = unfinished_place(path)
        self._topics = list(topics)
        self._custom = custom
        hashes = {topic.type: type_hash(topic.type) for topic in topics}
        texts = {name: definition(name).encode() for name in hashes}
        self._hashes = hashes
        self._place.mkdir(parents=True)
        self._file = f"{path.name}_0.mcap"
        self._mcap = McapWriter(self._place / self._file)
        schemas = {name: self._mcap.add_schema(name, "ros2msg", text) for name, text in texts.items()}
        self._channels = {
            topic.name: self._mcap.add_channel(
                schemas[topic.type],
                topic.name,
                "cdr",
                {
                    "offered_qos_profiles": bag_metadata.offers_as_text(topic.offers),
                    "topic_type_hash": hashes[topic.type],
                },
            )
            for topic in topics
        }

    @property
    def size(self) -> int:
        """Bytes so far."""
        return self._mcap.size

    @property
    def message_count(self) -> int:
        """Messages so far."""
        return self._mcap.message_count

    def write(self, topic: str, data: bytes | memoryview, log_time: int, publish_time: int | None = None) -> None:
        """See `storage.BagWriter`."""
        channel = self._channels.get(topic)
        if channel is None:
            raise BagError(f"{self.path}: topic {topic} was not declared; known: {', '.join(self._channels)}")
        self._mcap.write(channel, data, log_time, log_time if publish_time is None else publish_time)

    def flush_if_due(self) -> None:
        """See `storage.BagWriter`."""
        self._mcap.flush_if_due()

    def finish(self) -> Path:
        """See `storage.BagWriter`."""
        counts = self._mcap.counts
        values = bag_metadata.information(
            self._file,
            [replace(topic, count=counts[self._channels[topic.name]]) for topic in self._topics],
            self._hashes,
            start=self._mcap.start_time,
            end=self._mcap.end_time,
            custom=self._custom,
        )
        self._mcap.add_metadata("rosbag2", {"serialized_metadata": bag_metadata.as_record(values)})
        self._mcap.finish()
        write_text(self._place / METADATA_FILE, bag_metadata.as_file(values))
        move_into_place(self._place, self.path)
        return self.path

    def abandon(self) -> Path:
        """See `storage.BagWriter`."""
        with suppress(OSError):
            # A full disk is the usual reason for abandoning a bag.
            self._mcap.flush()
        self._mcap.abandon()
        return self._place

    def discard(self) -> None:
        """See `storage.BagWriter`."""
        self._mcap.abandon()
        shutil.rmtree(self._place)
        remove_if_empty(self._place.parent)


class PythonReader:
    """Reads MCAP and SQLite3 bags; see `storage.BagReader`."""

    def __init__(self, path: Path, layout: Layout) -> None:
        self.path = path
        self.storage = layout.storage
        self.custom = layout.custom
        self._files = layout.files
        self._other: Any = None
        self._store: Any = None
        self._definitions: dict[str, str] = {}
        self.topics: dict[str, Topic] = {}
        self.start_time = self.end_time = 0
        if layout.storage == "mcap" and not layout.compression_mode:
            self._open_mcap(layout)
        else:
            self._open_other()

    @property
    def message_count(self) -> int:
        """Messages in the bag."""
        return sum(topic.count for topic in self.topics.values())

    def messages(self, topics: Collection[str] | None = None) -> Iterator[Message]:
        """See `storage.BagReader`."""
        with naming_damage(self.path):
            yield from self._mcap_messages(topics) if self._other is None else self._other_messages(topics)

    def deserialize(self, message: Message) -> Any:
        """See `storage.BagReader`."""
        if self._store is None:
            self._store = store_with(self._definitions)
        return deserialize(message.data, self.topics[message.topic].type, self._store)

    def known(self, topic: str) -> bool:
        """See `storage.BagReader`."""
        name = self.topics[topic].type
        return not self._definitions.get(name) or is_known(name, self._definitions[name])

    def close(self) -> None:
        """Close the bag."""
        if self._other is not None:
            self._other.close()
            self._other = None

    def _open_mcap(self, layout: Layout) -> None:
        spans = []
        for file in self._files:
            try:
                summary = read_summary(file)
            except McapError as error:
                raise cut_off(self.path, layout, error) from error
            self._add(summary)
            if any(summary.counts.values()):
                spans.append((summary.start_time, summary.end_time))
        if spans:
            self.start_time, self.end_time = min(start for start, _ in spans), max(end for _, end in spans)

    def _add(self, summary: Summary) -> None:
        for channel in summary.channels.values():
            schema = summary.schemas.get(channel.schema_id, Schema(0, "", "", b""))
            if channel.message_encoding != "cdr":
                raise BagError(
                    f"{self.path}: topic {channel.topic} is serialised as {channel.message_encoding!r}, expected cdr"
                )
            if schema.encoding == "ros2msg":
                self._definitions[schema.name] = schema.data.decode()
            before = self.topics.get(channel.topic)
            count = summary.counts.get(channel.id, 0) + (before.count if before else 0)
            offers = before.offers if before else bag_metadata.offers_of(channel)
            self.topics[channel.topic] = Topic(channel.topic, schema.name, offers, count)

    def _mcap_messages(self, topics: Collection[str] | None) -> Iterator[Message]:
        seen: Counter[str] = Counter()
        for file in self._files:
            names: dict[int, str] = {}

            def wanted(channel: Channel, file: Path = file, names: dict[int, str] = names) -> bool:
                if channel.topic not in self.topics:
                    raise BagError(f"{file}: damaged: the summary does not know the topic {channel.topic!r}")
                names[channel.id] = channel.topic
                return topics is None or channel.topic in topics

            for record in McapScan(file).messages(wanted):
                name = names[record.channel_id]
                seen[name] += 1
                yield Message(name, record.data, record.log_time)
        for name, topic in self.topics.items():
            # Other writers may leave the counts out.
            if topic.count and seen[name] != topic.count and (topics is None or name in topics):
                raise BagError(f"{self.path}: damaged: {seen[name]} of {topic.count} messages on {name} are there")

    def _open_other(self) -> None:
        from rosbags.interfaces import MessageDefinitionFormat
        from rosbags.rosbag2 import Reader, ReaderError

        try:
            reader = Reader(self.path)
            reader.open()
        except (ReaderError, sqlite3.Error) as error:
            raise BagError(f"{self.path}: cannot be read: {error}") from error
        self._other = reader
        counts: Counter[str] = Counter()
        for connection in reader.connections:
            counts[connection.topic] += connection.msgcount
            if connection.msgdef.format == MessageDefinitionFormat.MSG:
                self._definitions[connection.msgtype] = connection.msgdef.data
            offers = tuple(
                Offer(offer.depth, offer.reliability.name == "RELIABLE", offer.durability.name == "TRANSIENT_LOCAL")
                for offer in getattr(connection.ext, "offered_qos_profiles", ())
            )
            self.topics[connection.topic] = Topic(
                connection.topic, connection.msgtype, offers, counts[connection.topic]
            )
        if reader.message_count:
            self.start_time, self.end_time = reader.start_time, reader.end_time - 1

    def _other_messages(self, topics: Collection[str] | None) -> Iterator[Message]:
        chosen = [item for item in self._other.connections if topics is None or item.topic in topics]
        if not chosen:
            return
        for connection, log_time, data in self._other.messages(chosen):
            yield Message(connection.topic, data, log_time)


def move_into_place(place: Path, path: Path) -> None:
    """Move a finished bag out of the unfinished ones; either it has moved or it has not."""
    os.rename(place, path)
    remove_if_empty(place.parent)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def remove_if_empty(folder: Path) -> None:
    """Remove a folder that holds nothing."""
    try:
        folder.rmdir()
    except OSError:
        # Not empty: other bags are unfinished.
        return

"""Bags through `rosbag2_py`, on a full ROS 2 installation."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from irevla_policy.recording.bag_metadata import offers_of
from irevla_policy.recording.interfaces import deserialize, is_known, store_with, type_hash
from irevla_policy.recording.mcap_reader import read_summary
from irevla_policy.recording.mcap_records import McapError
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
from irevla_policy.recording.storage_python import move_into_place, remove_if_empty

# rosbag2 writes a chunk when it is full, never because time has passed: with chunks this small, and 4 kB that the C
# library keeps, joint states alone (100 Hz, 0.4 kB each) leave nothing waiting for longer than a tenth of a second.
_WRITER_OPTIONS = "noChunkCRC: false\nchunkSize: 1024\ncompression: None\n"


class Rosbag2Writer:
    """Writes an MCAP bag; see `storage.BagWriter`."""

    def __init__(self, path: Path, topics: Sequence[Topic], custom: dict[str, str]) -> None:
        import rosbag2_py

        self.path = path
        self._place = unfinished_place(path)
        self._names = {topic.name for topic in topics}
        self._count = 0
        self._size = 0
        # Its stubs say `str` where the binding takes bytes.
        self._writer: Any = rosbag2_py.SequentialWriter()
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as options:
            options.write(_WRITER_OPTIONS)
            options.flush()
            try:
                self._writer.open(
                    rosbag2_py.StorageOptions(
                        uri=str(self._place), storage_id="mcap", storage_config_uri=options.name, custom_data=custom
                    ),
                    rosbag2_py.ConverterOptions("", ""),
                )
                for number, topic in enumerate(topics):
                    self._writer.create_topic(
                        rosbag2_py.TopicMetadata(
                            id=number,
                            name=topic.name,
                            type=topic.type,
                            serialization_format="cdr",
                            offered_qos_profiles=[_as_qos(offer) for offer in topic.offers],
                            type_description_hash=type_hash(topic.type),
                        )
                    )
            except RuntimeError as error:
                raise BagError(f"{self._place}: rosbag2 cannot start a bag: {error}") from error

    @property
    def size(self) -> int:
        """Bytes of the messages so far."""
        return self._size

    @property
    def message_count(self) -> int:
        """Messages so far."""
        return self._count

    def write(self, topic: str, data: bytes | memoryview, log_time: int, publish_time: int | None = None) -> None:
        """See `storage.BagWriter`."""
        if topic not in self._names:
            raise BagError(f"{self.path}: topic {topic} was not declared; known: {', '.join(sorted(self._names))}")
        try:
            self._writer.write(topic, bytes(data), log_time, log_time if publish_time is None else publish_time)
        except RuntimeError as error:
            raise OSError(f"{self._place}: rosbag2 cannot write to {topic}: {error}") from error
        self._count += 1
        self._size += len(data)

    def flush_if_due(self) -> None:
        """Nothing to do: the chunks are small."""

    def finish(self) -> Path:
        """See `storage.BagWriter`."""
        try:
            self._writer.close()
        except RuntimeError as error:
            raise OSError(f"{self._place}: rosbag2 cannot finish the bag: {error}") from error
        for file in self._place.iterdir():
            descriptor = os.open(file, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        move_into_place(self._place, self.path)
        return self.path

    def abandon(self) -> Path:
        """See `storage.BagWriter`."""
        self._writer.close()
        # What rosbag2 calls finished is not: the episode was cut off.
        (self._place / METADATA_FILE).unlink(missing_ok=True)
        return self._place

    def discard(self) -> None:
        """See `storage.BagWriter`."""
        self._writer.close()
        shutil.rmtree(self._place)
        remove_if_empty(self._place.parent)


class Rosbag2Reader:
    """Reads MCAP and SQLite3 bags; see `storage.BagReader`."""

    def __init__(self, path: Path, layout: Layout) -> None:
        import rosbag2_py

        self.path = path
        self.storage = layout.storage
        self._compressed = bool(layout.compression_mode)
        offers: dict[str, tuple[Offer, ...]] = {}
        if layout.storage == "mcap" and not self._compressed:
            for file in layout.files:
                try:
                    channels = read_summary(file).channels.values()
                except McapError as error:
                    raise cut_off(path, layout, error) from error
                offers |= {channel.topic: offers_of(channel) for channel in channels}
        reader = self._open()
        metadata = reader.get_metadata()
        self.custom = dict(metadata.custom_data) or layout.custom
        self.topics = {
            item.topic_metadata.name: Topic(
                item.topic_metadata.name,
                item.topic_metadata.type,
                offers.get(item.topic_metadata.name, (Offer(),)),
                item.message_count,
            )
            for item in metadata.topics_with_message_count
        }
        self.start_time = int(metadata.starting_time.nanoseconds) if metadata.message_count else 0
        self.end_time = self.start_time + int(metadata.duration.nanoseconds) if metadata.message_count else 0
        self._definitions = {
            item.topic_type: item.encoded_message_definition
            for item in reader.get_all_message_definitions()
            if item.encoding == "ros2msg"
        }
        self._store: Any = None
        self._filter = rosbag2_py.StorageFilter

    @property
    def message_count(self) -> int:
        """Messages in the bag."""
        return sum(topic.count for topic in self.topics.values())

    def messages(self, topics: Collection[str] | None = None) -> Iterator[Message]:
        """See `storage.BagReader`."""
        chosen = [name for name in self.topics if topics is None or name in topics]
        if not chosen:
            return
        with naming_damage(self.path):
            reader = self._open()
            if topics is not None:
                reader.set_filter(self._filter(topics=chosen))
            while reader.has_next():
                topic, data, log_time = reader.read_next()
                if topic not in self.topics:
                    raise BagError(f"{self.path}: damaged: {METADATA_FILE} does not know the topic {topic!r}")
                yield Message(topic, data, int(log_time))

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
        """Nothing to close: every iteration has its own reader."""

    def _open(self) -> Any:
        import rosbag2_py

        reader = rosbag2_py.SequentialCompressionReader() if self._compressed else rosbag2_py.SequentialReader()
        options = rosbag2_py.StorageOptions(uri=str(self.path), storage_id=self.storage)
        try:
            reader.open(options, rosbag2_py.ConverterOptions("", ""))
        except RuntimeError as error:
            raise BagError(f"{self.path}: cannot be read: {error}") from error
        return reader


def _as_qos(offer: Offer) -> Any:
    from rosbag2_py._storage import QoS

    qos = QoS(offer.depth)
    qos = qos.reliable() if offer.reliable else qos.best_effort()
    return qos.transient_local() if offer.latched else qos.durability_volatile()

"""Writes MCAP files as rosbag2 lays them out, made for recording.

It exists beside the `mcap` package's writer because recording asks for more: a chunk goes to the operating system at
least every `flush_seconds`, so that a killed recorder loses no more than that, and a message's payload is not copied.
"""

from __future__ import annotations

import os
import struct
import time
import zlib
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from irevla_policy.recording.mcap_records import (
    CHANNEL,
    CHUNK,
    CHUNK_HEAD,
    CHUNK_INDEX,
    DATA_END,
    FOOTER,
    HEADER,
    MAGIC,
    MESSAGE,
    MESSAGE_INDEX,
    METADATA,
    METADATA_INDEX,
    RECORD,
    SCHEMA,
    STATISTICS,
    SUMMARY_OFFSET,
    Channel,
    Schema,
    channel_record,
    record,
    schema_record,
    text,
    text_map,
)

_MESSAGE = struct.Struct("<BQHIQQ")
# The most buffers that one writev takes (IOV_MAX on Linux).
_MOST_BUFFERS = 1024


@dataclass
class _Pending:
    """The chunk that is being filled."""

    parts: list[bytes | memoryview] = field(default_factory=list)
    size: int = 0
    crc: int = 0
    start: int = 0
    end: int = 0
    index: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))
    opened: float = 0.0


class McapWriter:
    """Writes one MCAP file, chunked and uncompressed.

    Args:
        path: The file; must not exist.
        chunk_bytes: A chunk is written when it has grown to this.
        flush_seconds: A chunk is written when its first message has waited this long.
        library: Name of the writing program.

    Raises:
        FileExistsError: The file exists.
        OSError: It cannot be made or the disk is full.
    """

    def __init__(
        self, path: Path, *, chunk_bytes: int = 1 << 20, flush_seconds: float = 0.5, library: str = "irevla"
    ) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        self._offset = 0
        self._chunk_bytes = chunk_bytes
        self._flush_seconds = flush_seconds
        self._schemas: list[Schema] = []
        self._channels: list[Channel] = []
        self._counts: dict[int, int] = {}
        self._start: int | None = None
        self._end = 0
        self._chunk_indexes: list[bytes] = []
        self._metadata_indexes: list[bytes] = []
        self._chunk = _Pending()
        self._append([MAGIC, record(HEADER, text("ros2") + text(library))])

    @property
    def size(self) -> int:
        """Bytes written or waiting to be written."""
        return self._offset + self._chunk.size

    @property
    def message_count(self) -> int:
        """Messages written or waiting to be written."""
        return sum(self._counts.values())

    @property
    def counts(self) -> dict[int, int]:
        """Channel to number of messages."""
        return dict(self._counts)

    @property
    def start_time(self) -> int:
        """Smallest log time, ns; 0 without messages."""
        return self._start or 0

    @property
    def end_time(self) -> int:
        """Largest log time, ns; 0 without messages."""
        return self._end

    def add_schema(self, name: str, encoding: str, data: bytes) -> int:
        """Declare a message type; returns its id."""
        schema = Schema(len(self._schemas) + 1, name, encoding, data)
        self._schemas.append(schema)
        self._outside(schema_record(schema))
        return schema.id

    def add_channel(self, schema_id: int, topic: str, message_encoding: str, metadata: dict[str, str]) -> int:
        """Declare a topic; returns its id."""
        channel = Channel(len(self._channels) + 1, schema_id, topic, message_encoding, metadata)
        self._channels.append(channel)
        self._counts[channel.id] = 0
        self._outside(channel_record(channel))
        return channel.id

    def write(self, channel_id: int, data: bytes | memoryview, log_time: int, publish_time: int) -> None:
        """Write a message.

        `data` is kept until its chunk is written and must not change until then.

        Raises:
            OSError: The disk is full.
        """
        chunk = self._chunk
        if not chunk.index:
            chunk.start, chunk.end, chunk.opened = log_time, log_time, time.monotonic()
        chunk.start, chunk.end = min(chunk.start, log_time), max(chunk.end, log_time)
        self._start = log_time if self._start is None else min(self._start, log_time)
        self._end = max(self._end, log_time)
        chunk.index[channel_id] += (log_time, chunk.size)
        self._counts[channel_id] += 1
        self._put(_MESSAGE.pack(MESSAGE, 22 + len(data), channel_id, self._counts[channel_id], log_time, publish_time))
        self._put(data)
        if chunk.size >= self._chunk_bytes or time.monotonic() - chunk.opened >= self._flush_seconds:
            self.flush()

    def flush_if_due(self) -> None:
        """Hand the present chunk to the operating system when its first message has waited long enough."""
        if self._chunk.index and time.monotonic() - self._chunk.opened >= self._flush_seconds:
            self.flush()

    def flush(self) -> None:
        """Hand the present chunk to the operating system: from here on it survives the end of the process.

        Raises:
            OSError: The disk is full.
        """
        chunk = self._chunk
        if not chunk.size:
            return
        chunk_offset = self._offset
        head = CHUNK_HEAD.pack(chunk.start, chunk.end, chunk.size, chunk.crc) + text("") + struct.pack("<Q", chunk.size)
        self._append([RECORD.pack(CHUNK, len(head) + chunk.size), head, *chunk.parts])
        chunk_length = self._offset - chunk_offset
        offsets = b""
        index_offset = self._offset
        records: list[bytes] = []
        for channel_id, entries in chunk.index.items():
            offsets += struct.pack("<HQ", channel_id, index_offset + sum(len(entry) for entry in records))
            body = struct.pack(f"<HI{len(entries)}Q", channel_id, 8 * len(entries), *entries)
            records.append(record(MESSAGE_INDEX, body))
        self._append(records)
        body = struct.pack("<QQQQI", chunk.start, chunk.end, chunk_offset, chunk_length, len(offsets)) + offsets
        body += struct.pack("<Q", self._offset - index_offset) + text("") + struct.pack("<QQ", chunk.size, chunk.size)
        self._chunk_indexes.append(record(CHUNK_INDEX, body))
        self._chunk = _Pending()

    def add_metadata(self, name: str, values: dict[str, str]) -> None:
        """Write a named set of texts."""
        self.flush()
        metadata = record(METADATA, text(name) + text_map(values))
        index = struct.pack("<QQ", self._offset, len(metadata)) + text(name)
        self._append([metadata])
        self._metadata_indexes.append(record(METADATA_INDEX, index))

    def finish(self) -> None:
        """Write the summary, bring everything onto the disk and close the file.

        Raises:
            OSError: The disk is full; the file is closed and holds what was written before.
        """
        try:
            self.flush()
            self._append([record(DATA_END, struct.pack("<I", 0))])
            self._write_summary()
            os.fsync(self._file)
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Close the file as it is."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _write_summary(self) -> None:
        counts = b"".join(struct.pack("<HQ", *item) for item in self._counts.items())
        statistics = struct.pack(
            "<QHIIIIQQI",
            self.message_count,
            len(self._schemas),
            len(self._channels),
            0,
            len(self._metadata_indexes),
            len(self._chunk_indexes),
            self.start_time,
            self.end_time,
            len(counts),
        )
        groups = {
            SCHEMA: [schema_record(schema) for schema in self._schemas],
            CHANNEL: [channel_record(channel) for channel in self._channels],
            STATISTICS: [record(STATISTICS, statistics + counts)],
            CHUNK_INDEX: self._chunk_indexes,
            METADATA_INDEX: self._metadata_indexes,
        }
        start = self._offset
        summary, offsets = b"", b""
        for opcode, records in groups.items():
            if records:
                group = b"".join(records)
                place = struct.pack("<BQQ", opcode, start + len(summary), len(group))
                offsets += record(SUMMARY_OFFSET, place)
                summary += group
        head = RECORD.pack(FOOTER, 20) + struct.pack("<QQ", start, start + len(summary))
        crc = zlib.crc32(summary + offsets + head)
        self._append([summary, offsets, head, struct.pack("<I", crc), MAGIC])

    def _outside(self, part: bytes) -> None:
        """Write a record that belongs to no chunk: rosbag2 refuses to play a file with a chunk that has no messages."""
        self.flush()
        self._append([part])

    def _put(self, part: bytes | memoryview) -> None:
        chunk = self._chunk
        chunk.parts.append(part)
        chunk.size += len(part)
        chunk.crc = zlib.crc32(part, chunk.crc)

    def _append(self, parts: list[bytes | memoryview] | list[bytes]) -> None:
        for start in range(0, len(parts), _MOST_BUFFERS):
            group: list[bytes | memoryview] = list(parts[start : start + _MOST_BUFFERS])
            left = sum(len(part) for part in group)
            while left:
                written = os.writev(self._file, group)
                self._offset += written
                left -= written
                while group and written >= len(group[0]):
                    written -= len(group.pop(0))
                if written:
                    group[0] = memoryview(group[0])[written:]

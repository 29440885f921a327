"""The records of an MCAP file (https://mcap.dev/spec) that rosbag2 uses, to bytes and back."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from irevla_policy.errors import UserError

MAGIC = b"\x89MCAP0\r\n"
HEADER, FOOTER, SCHEMA, CHANNEL, MESSAGE, CHUNK, MESSAGE_INDEX, CHUNK_INDEX = range(1, 9)
STATISTICS, METADATA, METADATA_INDEX, SUMMARY_OFFSET, DATA_END = 0x0B, 0x0C, 0x0D, 0x0E, 0x0F

# opcode, length of the body
RECORD = struct.Struct("<BQ")
# channel, sequence, log time, publish time; the message follows
MESSAGE_BODY = struct.Struct("<HIQQ")
# earliest and latest log time, uncompressed size, checksum; name of the compression, size and records follow
CHUNK_HEAD = struct.Struct("<QQQI")


class McapError(UserError, ValueError):
    """A file is not MCAP, or damaged."""


@dataclass(frozen=True)
class Schema:
    """A message type in a file."""

    id: int
    name: str
    encoding: str
    data: bytes


@dataclass(frozen=True)
class Channel:
    """A topic in a file."""

    id: int
    schema_id: int
    topic: str
    message_encoding: str
    metadata: dict[str, str]


def record(opcode: int, body: bytes) -> bytes:
    """A record: opcode, length, body."""
    return RECORD.pack(opcode, len(body)) + body


def text(value: str | bytes) -> bytes:
    """A text with its length before it."""
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<I", len(data)) + data


def text_map(values: dict[str, str]) -> bytes:
    """A map of texts with its length before it."""
    return text(b"".join(text(key) + text(value) for key, value in values.items()))


def schema_record(schema: Schema) -> bytes:
    """The record of a message type."""
    body = struct.pack("<H", schema.id) + text(schema.name) + text(schema.encoding) + text(schema.data)
    return record(SCHEMA, body)


def channel_record(channel: Channel) -> bytes:
    """The record of a topic."""
    body = struct.pack("<HH", channel.id, channel.schema_id) + text(channel.topic) + text(channel.message_encoding)
    return record(CHANNEL, body + text_map(channel.metadata))


def read_bytes(data: memoryview, place: int) -> tuple[bytes, int]:
    """The bytes with their length before them at a place, and the place after them.

    Raises:
        struct.error: No length.
        ValueError: They reach beyond the data.
    """
    (length,) = struct.unpack_from("<I", data, place)
    end = place + 4 + length
    if end > len(data):
        raise ValueError("a text reaches beyond its record")
    return bytes(data[place + 4 : end]), end


def read_text(data: memoryview, place: int) -> tuple[str, int]:
    """The text at a place, and the place after it.

    Raises:
        struct.error: No length.
        ValueError: It reaches beyond the data, or is no UTF-8.
    """
    text, end = read_bytes(data, place)
    return text.decode(), end


def read_schema(data: memoryview) -> Schema:
    """The message type in the body of its record; raises as `read_text`."""
    (number,) = struct.unpack_from("<H", data)
    name, place = read_text(data, 2)
    encoding, place = read_text(data, place)
    definition, _ = read_bytes(data, place)
    return Schema(number, name, encoding, definition)


def read_channel(data: memoryview) -> Channel:
    """The topic in the body of its record; raises as `read_text`."""
    number, schema = struct.unpack_from("<HH", data)
    topic, place = read_text(data, 4)
    encoding, place = read_text(data, place)
    (length,) = struct.unpack_from("<I", data, place)
    end = place + 4 + length
    place += 4
    metadata: dict[str, str] = {}
    while place < end:
        key, place = read_text(data, place)
        metadata[key], place = read_text(data, place)
    return Channel(number, schema, topic, encoding, metadata)

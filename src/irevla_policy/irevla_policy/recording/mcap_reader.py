"""Reads MCAP files chunk by chunk in the order of writing.

It needs no index, and so also reads what a killed recorder left; and it hands messages out as views of their chunk,
which makes it quicker than a reader that copies them.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from irevla_policy.recording.mcap_records import (
    CHANNEL,
    CHUNK,
    CHUNK_HEAD,
    CHUNK_INDEX,
    DATA_END,
    FOOTER,
    MAGIC,
    MESSAGE,
    MESSAGE_BODY,
    MESSAGE_INDEX,
    METADATA,
    RECORD,
    SCHEMA,
    STATISTICS,
    SUMMARY_OFFSET,
    Channel,
    McapError,
    Schema,
    read_channel,
    read_schema,
    read_text,
)


@dataclass(frozen=True)
class Record:
    """A message as it lies in a file; `data` is a view of the chunk."""

    channel_id: int
    log_time: int
    publish_time: int
    data: memoryview


class McapScan:
    """Goes through an MCAP file from its beginning, chunk by chunk, in the order of writing.

    Args:
        path: The file.
        strict: Raise on damage. Otherwise stop there and say so in `damage`, after giving every whole message before.

    Attributes:
        schemas: Message types seen so far, by id.
        channels: Topics seen so far, by id.
        damage: What ended the reading early; empty when the file is whole.
        remainder: Bytes of the record within which a file ends that was cut off.
    """

    def __init__(self, path: Path, *, strict: bool = True) -> None:
        self.path = path
        self.strict = strict
        self.schemas: dict[int, Schema] = {}
        self.channels: dict[int, Channel] = {}
        self.damage = ""
        self.remainder = 0
        self.finished = False

    def messages(self, wanted: Callable[[Channel], bool] | None = None) -> Iterator[Record]:
        """Every message of the wanted topics, in the order of writing.

        Raises:
            McapError: Not an MCAP file, or (when strict) damaged; says where.
        """
        self.channels, self.schemas, self.damage, self.finished = {}, {}, "", False
        try:
            yield from self._messages(wanted)
        except McapError:
            raise
        except (struct.error, ValueError) as error:
            self._report(f"is damaged: holds a record that is none ({error})")

    def _messages(self, wanted: Callable[[Channel], bool] | None) -> Iterator[Record]:
        chosen: dict[int, bool] = {}
        with self.path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if file.read(len(MAGIC)) != MAGIC:
                raise McapError(f"{self.path}: " + ("not an MCAP file" if size else "the file is empty"))
            while not self.finished:
                offset = file.tell()
                head = file.read(RECORD.size)
                opcode, length = RECORD.unpack(head) if len(head) == RECORD.size else (0, 0)
                if not head or len(head) < RECORD.size or offset + RECORD.size + length > size:
                    self.remainder = size - offset
                    yield from self._rest(file.read(), opcode, chosen, wanted)
                    self._report(f"ends within a record at byte {offset} of {size}, without its closing record")
                    return
                if opcode in (MESSAGE_INDEX, METADATA, CHUNK_INDEX, SUMMARY_OFFSET):
                    file.seek(length, os.SEEK_CUR)
                    continue
                body = memoryview(file.read(length))
                if opcode == CHUNK:
                    yield from self._walk(self._chunk(body, offset), chosen, wanted, whole=True)
                elif opcode in (DATA_END, FOOTER):
                    self.finished = True
                else:
                    yield from self._walk(memoryview(head + bytes(body)), chosen, wanted, whole=True)

    def _rest(
        self, data: bytes, opcode: int, chosen: dict[int, bool], wanted: Callable[[Channel], bool] | None
    ) -> Iterator[Record]:
        """The whole messages of a chunk that was cut off."""
        if opcode != CHUNK or len(data) < CHUNK_HEAD.size + 4:
            return
        compression, place = read_text(memoryview(data), CHUNK_HEAD.size)
        if not compression and len(data) >= place + 8:
            yield from self._walk(memoryview(data)[place + 8 :], chosen, wanted, whole=False)

    def _chunk(self, body: memoryview, offset: int) -> memoryview:
        _, _, size, crc = CHUNK_HEAD.unpack_from(body)
        compression, place = read_text(body, CHUNK_HEAD.size)
        try:
            records = _decompress(body[place + 8 :], compression, size)
        except McapError as error:
            self._report(f"the chunk at byte {offset} is damaged: {error}")
            return memoryview(b"")
        if len(records) != size or (crc and zlib.crc32(records) != crc):
            self._report(f"the chunk at byte {offset} is damaged (checksum or length)")
            return memoryview(b"")
        return records

    def _walk(
        self, data: memoryview, chosen: dict[int, bool], wanted: Callable[[Channel], bool] | None, *, whole: bool
    ) -> Iterator[Record]:
        place, end = 0, len(data)
        while place + RECORD.size <= end:
            opcode, length = RECORD.unpack_from(data, place)
            start = place + RECORD.size
            place = start + length
            if place > end:
                if whole:
                    self._report("a record reaches beyond its chunk")
                return
            if opcode == MESSAGE:
                channel_id, _, log_time, publish_time = MESSAGE_BODY.unpack_from(data, start)
                if chosen.get(channel_id):
                    yield Record(channel_id, log_time, publish_time, data[start + MESSAGE_BODY.size : place])
                elif channel_id not in chosen:
                    self._report(f"a message of channel {channel_id} precedes the description of the channel")
            elif opcode == SCHEMA:
                schema = read_schema(data[start:place])
                self.schemas[schema.id] = schema
            elif opcode == CHANNEL:
                channel = read_channel(data[start:place])
                self.channels[channel.id] = channel
                chosen[channel.id] = wanted is None or wanted(channel)

    def _report(self, what: str) -> None:
        self.damage = self.damage or what
        if self.strict:
            raise McapError(f"{self.path}: {what}")


@dataclass(frozen=True)
class Summary:
    """What the end of a finished file says about it."""

    schemas: dict[int, Schema]
    channels: dict[int, Channel]
    counts: dict[int, int]
    start_time: int
    end_time: int


def read_summary(path: Path) -> Summary:
    """Read the summary section at the end of a finished file.

    Raises:
        McapError: Empty, not MCAP, unfinished, without a summary, or with a damaged one.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size == 0:
            raise McapError(f"{path}: the file is empty")
        if file.read(len(MAGIC)) != MAGIC:
            raise McapError(f"{path}: not an MCAP file")
        file.seek(max(0, size - 37))
        footer = file.read()
        if size < 45 or footer[-8:] != MAGIC or footer[0] != FOOTER:
            raise McapError(
                f"{path}: truncated (no closing record): its recorder was killed or the copy is not complete"
            )
        start, _, checksum = struct.unpack_from("<QQI", footer, RECORD.size)
        if not len(MAGIC) <= start <= size - len(footer):
            raise McapError(f"{path}: the summary section is missing or damaged")
        file.seek(start)
        data = file.read(size - start - len(footer))
    if checksum and zlib.crc32(data + footer[:25]) != checksum:
        raise McapError(f"{path}: the summary is damaged (checksum)")
    try:
        return _parse_summary(memoryview(data))
    except (struct.error, ValueError) as error:
        raise McapError(f"{path}: the summary is damaged ({error})") from error


def _parse_summary(data: memoryview) -> Summary:
    schemas: dict[int, Schema] = {}
    channels: dict[int, Channel] = {}
    counts: dict[int, int] = {}
    times = (0, 0)
    place = 0
    while place + RECORD.size <= len(data):
        opcode, length = RECORD.unpack_from(data, place)
        body = data[place + RECORD.size : place + RECORD.size + length]
        place += RECORD.size + length
        if place > len(data):
            raise ValueError("a record reaches beyond it")
        if opcode == SCHEMA:
            schema = read_schema(body)
            schemas[schema.id] = schema
        elif opcode == CHANNEL:
            channel = read_channel(body)
            channels[channel.id] = channel
        elif opcode == STATISTICS:
            times = struct.unpack_from("<QQ", body, 26)
            counts = dict(struct.iter_unpack("<HQ", body[46:]))
    return Summary(schemas, channels, counts, *times)


def _decompress(data: memoryview, compression: str, size: int) -> memoryview:
    if not compression:
        return data
    if compression == "zstd":
        import zstandard

        try:
            return memoryview(zstandard.ZstdDecompressor().decompress(data, max_output_size=size))
        except (zstandard.ZstdError, OverflowError, MemoryError) as error:
            raise McapError(f"cannot be decompressed ({error})") from error
    if compression == "lz4":
        import lz4.frame  # type: ignore[import-untyped]

        try:
            return memoryview(lz4.frame.decompress(data))
        except (RuntimeError, MemoryError) as error:
            raise McapError(f"cannot be decompressed ({error})") from error
    raise McapError(f"unknown compression {compression!r}; expected zstd, lz4 or none")

"""Writes the messages of one episode in a thread of its own, so that no callback waits for the disk or a codec."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from irevla_policy.recording import interfaces
from irevla_policy.recording.images import decode_image, encode_compressed
from irevla_policy.recording.storage import BagWriter

IMAGE_TYPE = "sensor_msgs/msg/Image"
COMPRESSED_TYPE = "sensor_msgs/msg/CompressedImage"
_FLUSH_CHECK_SECONDS = 0.1


@dataclass
class Tally:
    """What became of the messages of an episode.

    Attributes:
        written: Messages written.
        dropped: Topic to messages that were published and not written.
        problem: The first reason why one was not written; empty when all were.
    """

    written: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    problem: str = ""


class EpisodeWriting:
    """Takes serialised messages from any thread and writes them into a bag.

    Images are compressed on the way when `compress` names their topic; Pillow's codecs let other threads run meanwhile.

    Args:
        writer: The bag; belongs to this object from now on.
        compress: Image topic to the topic of its compressed images.
        image_format: `jpeg` or `png`.
        jpeg_quality: In [1, 100].
        queue_bytes: Most bytes that may wait; messages beyond that are dropped and counted.
        workers: Threads that compress.
    """

    def __init__(
        self,
        writer: BagWriter,
        *,
        compress: Mapping[str, str] | None = None,
        image_format: str = "jpeg",
        jpeg_quality: int = 90,
        queue_bytes: int = 256_000_000,
        workers: int = 2,
    ) -> None:
        self.tally = Tally()
        self._writer = writer
        self._compress = dict(compress or {})
        self._image_format = image_format
        self._jpeg_quality = jpeg_quality
        self._queue_bytes = queue_bytes
        self._queue: deque[tuple[str, bytes, int, int]] = deque()
        self._waiting = 0
        self._failure: OSError | None = None
        self._closed = False
        self._stopping = False
        self._changed = threading.Condition()
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="compress") if self._compress else None
        self._thread = threading.Thread(target=self._run, name="bag", daemon=True)
        self._thread.start()

    @property
    def path(self) -> Path:
        """Folder of the bag once it is finished."""
        return self._writer.path

    @property
    def size(self) -> int:
        """Bytes of the bag so far."""
        return self._writer.size

    @property
    def failure(self) -> str:
        """Why nothing can be written any more; empty while it can."""
        return str(self._failure) if self._failure else ""

    def put(
        self, topic: str, data: bytes, log_time: int, publish_time: int | None = None, always: bool = False
    ) -> bool:
        """Take a message; returns at once.

        Args:
            topic: Topic.
            data: CDR bytes.
            log_time: When it was received, ns.
            publish_time: When it was published, ns.
            always: Take it also when too much is waiting: a bag without it would say something else of its episode.

        Returns:
            Whether it was taken; if not it is counted as dropped.
        """
        publish_time = log_time if publish_time is None else publish_time
        with self._changed:
            too_much = self._waiting + len(data) > self._queue_bytes and not always
            if self._failure or self._closed or too_much:
                reason = self.failure or (
                    "the episode was being finished"
                    if self._closed
                    else f"the disk or the codec is too slow: {self._waiting / 1e6:.0f} MB were waiting"
                )
                self._drop(topic, reason)
                return False
            self._waiting += len(data)
            if self._pool is not None and topic in self._compress:
                self._pool.submit(self._compressed, topic, data, log_time, publish_time)
            else:
                self._queue.append((topic, data, log_time, publish_time))
                self._changed.notify()
        return True

    def miss(self, topic: str, count: int) -> None:
        """Count messages that were lost before they could be taken."""
        with self._changed:
            self._drop(topic, f"messages of {topic} came faster than they could be received", count)

    def finish(self) -> Path:
        """Write what waits and finish the bag; returns its folder.

        Raises:
            OSError: The disk is full or gone; the bag stays among the unfinished ones.
        """
        self._stop()
        if self._failure is None:
            try:
                return self._writer.finish()
            except OSError as error:
                self._failure = error
        place = self._writer.abandon()
        raise OSError(f"{place}: the bag could not be finished ({self._failure}); what was written stays there")

    def discard(self) -> None:
        """Throw the bag away."""
        self._stop()
        self._writer.discard()

    def _stop(self) -> None:
        with self._changed:
            self._closed = True
        if self._pool is not None:
            self._pool.shutdown()
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join()

    def _compressed(self, topic: str, data: bytes, log_time: int, publish_time: int) -> None:
        try:
            smaller = compress_image(data, self._image_format, self._jpeg_quality)
        except Exception as error:
            # Whatever a codec finds wrong, the message is accounted for and the thread lives on.
            with self._changed:
                self._waiting -= len(data)
                self._drop(topic, f"{topic}: {error}")
            return
        with self._changed:
            self._waiting += len(smaller) - len(data)
            self._queue.append((self._compress[topic], smaller, log_time, publish_time))
            self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._queue and not self._stopping:
                    self._changed.wait(_FLUSH_CHECK_SECONDS)
                batch, self._queue = self._queue, deque()
                stopping = self._stopping
            self._write(batch)
            if stopping and not batch:
                return

    def _write(self, batch: deque[tuple[str, bytes, int, int]]) -> None:
        for topic, data, log_time, publish_time in batch:
            if self._failure is None:
                try:
                    self._writer.write(topic, data, log_time, publish_time)
                    self.tally.written += 1
                except OSError as error:
                    self._failure = error
            with self._changed:
                self._waiting -= len(data)
                if self._failure is not None:
                    self._drop(topic, self.failure)
        if self._failure is None:
            try:
                self._writer.flush_if_due()
            except OSError as error:
                self._failure = error

    def _drop(self, topic: str, reason: str, count: int = 1) -> None:
        self.tally.dropped[topic] += count
        self.tally.problem = self.tally.problem or reason


def compress_image(data: bytes, image_format: str, jpeg_quality: int = 90) -> bytes:
    """A serialised sensor_msgs/Image as a serialised CompressedImage with the same header.

    Args:
        data: CDR bytes.
        image_format: `jpeg` or `png`.
        jpeg_quality: In [1, 100].

    Raises:
        ImageError: The image cannot be decoded.
        InterfaceError: The bytes are no image.
    """
    message = interfaces.deserialize(data, IMAGE_TYPE)
    rgb = decode_image(message)
    compressed = interfaces.make(
        COMPRESSED_TYPE,
        header=message.header,
        # As image_transport's compressed plugin names it.
        format=f"{message.encoding}; {image_format} compressed bgr8",
        data=np.frombuffer(encode_compressed(rgb, image_format, jpeg_quality), np.uint8),
    )
    return interfaces.serialize(compressed, COMPRESSED_TYPE)

"""The messages that fill a bag, read straight from their CDR bytes.

A general deserialiser makes an object for every field; these take the few fields that are needed, which is three times
as quick. The definitions of standard messages never change; irevla_msgs/Command is read in this way only when the bag
carries the definition that is known here (`storage.BagReader.known`).
"""

from __future__ import annotations

import struct
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from irevla_policy.recording.interfaces import InterfaceError


class ImageView(NamedTuple):
    """A sensor_msgs/Image whose data is a view of the serialised bytes; see that message for the fields."""

    stamp: int
    height: int
    width: int
    encoding: str
    is_bigendian: int
    step: int
    data: memoryview


def read_image(data: bytes | memoryview) -> ImageView:
    """A serialised sensor_msgs/Image.

    Raises:
        InterfaceError: The bytes are none.
    """
    view = memoryview(data)
    try:
        order = "<" if view[1] & 1 else ">"
        seconds, nanoseconds, length = struct.unpack_from(f"{order}iII", view, 4)
        place = _aligned(16 + length)
        height, width, length = struct.unpack_from(f"{order}III", view, place)
        end = place + 12 + length
        encoding = bytes(view[place + 12 : end - 1]).decode()
        bigendian = view[end]
        step, size = struct.unpack_from(f"{order}II", view, _aligned(end + 1))
        start = _aligned(end + 1) + 8
    except (struct.error, IndexError, UnicodeDecodeError) as error:
        raise InterfaceError(f"{len(data)} bytes are not a sensor_msgs/Image: {error}") from error
    if start + size > len(view):
        raise InterfaceError(f"sensor_msgs/Image: data should have {size} bytes, the message has {len(view) - start}")
    stamp = seconds * 10**9 + nanoseconds
    return ImageView(stamp, height, width, encoding, bigendian, step, view[start : start + size])


class JointStateReader:
    """Reads serialised sensor_msgs/JointState; joint names that repeat are not parsed again."""

    def __init__(self) -> None:
        self._names: tuple[str, ...] = ()
        self._block = b""

    def read(self, data: bytes | memoryview) -> tuple[int, tuple[str, ...], npt.NDArray[np.float64]]:
        """Stamp (ns), joint names and positions (rad or m) of a message.

        Raises:
            InterfaceError: The bytes are none.
        """
        view = memoryview(data)
        try:
            order = "<" if view[1] & 1 else ">"
            seconds, nanoseconds, length = struct.unpack_from(f"{order}iII", view, 4)
            start = _aligned(16 + length)
            end = start + len(self._block)
            if not self._block or view[start:end] != self._block:
                self._names, end = _strings(view, start, order)
                self._block = bytes(view[start:end])
            place = _aligned(end)
            (count,) = struct.unpack_from(f"{order}I", view, place)
            first = _aligned_to_eight(place + 4)
            positions = np.frombuffer(view, f"{order}f8", count, first) if count else np.zeros(0)
        except (struct.error, IndexError, ValueError) as error:
            raise InterfaceError(f"{len(data)} bytes are not a sensor_msgs/JointState: {error}") from error
        return seconds * 10**9 + nanoseconds, self._names, positions


class CommandView(NamedTuple):
    """What training takes of an irevla_msgs/Command; see that message for the fields."""

    stamp: int
    values: npt.NDArray[np.float64]
    source: int


class CommandReader:
    """Reads serialised irevla_msgs/Command; joint names that repeat are not parsed again."""

    def __init__(self) -> None:
        self._block = b""

    def read(self, data: bytes | memoryview) -> CommandView:
        """A serialised irevla_msgs/Command.

        Raises:
            InterfaceError: The bytes are none.
        """
        view = memoryview(data)
        try:
            order = "<" if view[1] & 1 else ">"
            seconds, nanoseconds, length = struct.unpack_from(f"{order}iII", view, 4)
            start = _aligned(16 + length)
            end = start + len(self._block)
            if not self._block or view[start:end] != self._block:
                _, end = _strings(view, start, order)
                self._block = bytes(view[start:end])
            # positions, velocities, gripper, values, source
            place = _skip_doubles(view, _skip_doubles(view, _aligned(end), order), order)
            place = _aligned_to_eight(place) + 8
            (count,) = struct.unpack_from(f"{order}I", view, place)
            first = _aligned_to_eight(place + 4)
            values = np.frombuffer(view, f"{order}f8", count, first) if count else np.zeros(0)
            source = view[first + 8 * count if count else place + 4]
        except (struct.error, IndexError, ValueError) as error:
            raise InterfaceError(f"{len(data)} bytes are not an irevla_msgs/Command: {error}") from error
        return CommandView(seconds * 10**9 + nanoseconds, values, source)


def _skip_doubles(view: memoryview, place: int, order: str) -> int:
    (count,) = struct.unpack_from(f"{order}I", view, place)
    return _aligned_to_eight(place + 4) + 8 * count if count else place + 4


def _aligned_to_eight(place: int) -> int:
    """The next place that a number of eight bytes may have: relative to the end of the first four bytes."""
    return 4 + (place + 3) // 8 * 8


def _aligned(place: int) -> int:
    """The next place that a number of four bytes may have."""
    return (place + 3) // 4 * 4


def _strings(view: memoryview, place: int, order: str) -> tuple[tuple[str, ...], int]:
    (count,) = struct.unpack_from(f"{order}I", view, place)
    place += 4
    texts = []
    for _ in range(count):
        place = _aligned(place)
        (length,) = struct.unpack_from(f"{order}I", view, place)
        end = place + 4 + length
        texts.append(bytes(view[place + 4 : end - 1]).decode())
        place = end
    return tuple(texts), place

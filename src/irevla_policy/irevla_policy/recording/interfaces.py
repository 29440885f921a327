"""Message types without a graph: definitions, type hashes, and CDR to objects and back.

The standard types come from `rosbags`, ours from the `.msg` files of `irevla_msgs` (source tree or installed share),
and types that neither knows from the definitions that a bag carries.
"""

from __future__ import annotations

import functools
import os
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import shorten
from typing import Any

from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from irevla_policy.errors import UserError

PACKAGE = "irevla_msgs"


class InterfaceError(UserError, ValueError):
    """A message type is unknown, or bytes do not fit it."""


def messages_folder() -> Path:
    """The folder with the `.msg` files of `irevla_msgs`.

    Raises:
        InterfaceError: Neither a source tree nor an installed package has it.
    """
    for folder in _candidates():
        if (folder / "EpisodeInfo.msg").is_file():
            return folder
    raise InterfaceError(
        f"the message definitions of {PACKAGE} are neither in the source tree nor installed: build the workspace "
        "(colcon build) or set AMENT_PREFIX_PATH to where it is installed"
    )


def _candidates() -> Iterator[Path]:
    for parent in Path(__file__).resolve().parents:
        yield parent / "src" / PACKAGE / "msg"
        yield parent / PACKAGE / "msg"
        yield parent / "share" / PACKAGE / "msg"
    for prefix in [*os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep), sys.prefix]:
        yield Path(prefix) / "share" / PACKAGE / "msg"


@functools.cache
def typestore() -> Typestore:
    """The types of ROS 2 Jazzy and of `irevla_msgs`; shared, do not register more in it."""
    store = get_typestore(Stores.ROS2_JAZZY)
    types: dict[str, Any] = {}
    for path in sorted(messages_folder().glob("*.msg")):
        types.update(get_types_from_msg(path.read_text(), f"{PACKAGE}/msg/{path.stem}"))
    store.register(types)
    return store


def full_name(message_type: str) -> str:
    """`std_msgs/String` as `std_msgs/msg/String`."""
    package, _, name = message_type.partition("/")
    return message_type if "/" in name else f"{package}/msg/{name}"


def definition(message_type: str) -> str:
    """The message definition with all that it contains, in the `ros2msg` form that bags carry.

    Raises:
        InterfaceError: Unknown type.
    """
    return str(_known(message_type).generate_msgdef(message_type, ros_version=2)[0])


def type_hash(message_type: str) -> str:
    """The type description hash (`RIHS01_` and 64 hex digits).

    Raises:
        InterfaceError: Unknown type.
    """
    return str(_known(message_type).hash_rihs01(message_type))


def prepare(*message_types: str) -> None:
    """Generate the code that (de)serialises some types now rather than at the first message: tens of ms.

    Raises:
        InterfaceError: Unknown type.
    """
    for message_type in message_types:
        _known(message_type).get_msgdef(message_type)


def make(message_type: str, **fields: Any) -> Any:
    """A message object with the given fields.

    Raises:
        InterfaceError: Unknown type.
    """
    return _known(message_type).types[message_type](**fields)


def serialize(message: Any, message_type: str) -> bytes:
    """A message object (made by `make`) as CDR.

    Raises:
        InterfaceError: Unknown type.
    """
    return bytes(_known(message_type).serialize_cdr(message, message_type))


def deserialize(data: bytes | memoryview, message_type: str, store: Typestore | None = None) -> Any:
    """CDR as a message object; its arrays are views of `data`.

    Raises:
        InterfaceError: Unknown type, or the bytes do not fit it.
    """
    store = store or _known(message_type)
    try:
        return store.deserialize_cdr(data, message_type)
    except KeyError:
        raise InterfaceError(f"unknown message type {message_type!r}: neither known nor defined in the bag") from None
    except Exception as error:
        # Anything may come of code that is generated from a bag's definition and runs over its bytes.
        raise InterfaceError(f"{len(data)} bytes are not a {message_type}: {str(error) or 'wrong length'}") from error


def make_header(stamp: int, frame_id: str = "") -> Any:
    """A std_msgs/Header.

    Args:
        stamp: ROS time, ns.
        frame_id: Frame.
    """
    time = make("builtin_interfaces/msg/Time", sec=stamp // 10**9, nanosec=stamp % 10**9)
    return make("std_msgs/msg/Header", stamp=time, frame_id=frame_id)


def stamp_of(header: Any) -> int:
    """Stamp of a std_msgs/Header, whichever library made it, in ns."""
    return int(header.stamp.sec) * 10**9 + int(header.stamp.nanosec)


def peek_stamp(data: bytes | memoryview) -> int:
    """Stamp of a serialised message whose first field is a std_msgs/Header, in ns, without deserialising it.

    Raises:
        InterfaceError: Too short.
    """
    if len(data) < 12:
        raise InterfaceError(f"{len(data)} bytes cannot hold a header")
    seconds, nanoseconds = struct.unpack_from("<iI" if data[1] & 1 else ">iI", data, 4)
    return int(seconds) * 10**9 + int(nanoseconds)


def peek_uint32(data: bytes | memoryview) -> int:
    """The uint32 that follows the header of a serialised message, without deserialising it.

    Raises:
        InterfaceError: Too short.
    """
    order = "<" if len(data) > 1 and data[1] & 1 else ">"
    try:
        (length,) = struct.unpack_from(f"{order}I", data, 12)
        # Fields are aligned relative to the end of the four bytes that come first.
        place = 4 + (12 + length + 3) // 4 * 4
        return int(struct.unpack_from(f"{order}I", data, place)[0])
    except struct.error as error:
        raise InterfaceError(f"{len(data)} bytes cannot hold a header and a number") from error


def store_with(definitions: dict[str, str]) -> Typestore:
    """The known types, with those of a bag where they are unknown or differ.

    A bag recorded with another version of a message is read by the definition that it carries.

    Args:
        definitions: Message type to definition in `ros2msg` form.

    Raises:
        InterfaceError: A definition cannot be read.
    """
    foreign = {name: text for name, text in definitions.items() if text and not is_known(name, text)}
    if not foreign:
        return typestore()
    store = get_typestore(Stores.ROS2_JAZZY)
    types: dict[str, Any] = {}
    for path in sorted(messages_folder().glob("*.msg")):
        types.update(get_types_from_msg(path.read_text(), f"{PACKAGE}/msg/{path.stem}"))
    for name, text in foreign.items():
        types.update(_parse(name, text))
    known = get_typestore(Stores.ROS2_JAZZY).fielddefs
    try:
        store.register({name: fields for name, fields in types.items() if name not in known})
    except Exception as error:
        raise InterfaceError(f"the bag's definitions cannot be used: {shorten(str(error), 200)}") from error
    return store


@functools.lru_cache(64)
def is_known(name: str, text: str) -> bool:
    """Whether a type is known here, with the definition that a bag carries.

    Args:
        name: Message type.
        text: Definition in `ros2msg` form.
    """
    if name not in typestore().fielddefs:
        return False
    if not name.startswith(f"{PACKAGE}/"):
        return True
    try:
        theirs = _parse(name, text)
    except InterfaceError:
        return False
    return all(theirs[part] == typestore().fielddefs.get(part) for part in theirs if part.startswith(f"{PACKAGE}/"))


def _parse(name: str, text: str) -> dict[str, Any]:
    try:
        return get_types_from_msg(text, name)
    except Exception as error:
        # The parser raises more than its TypesysError over texts that are no definitions.
        raise InterfaceError(f"the bag's definition of {name} cannot be read: {shorten(str(error), 200)}") from error


def _known(message_type: str) -> Typestore:
    store = typestore()
    if message_type not in store.types:
        raise InterfaceError(f"unknown message type {message_type!r}")
    return store

"""Bags: ordinary rosbag2 bags (MCAP written, MCAP and SQLite3 read), through one of two backends.

`rosbag2_py` where it is installed, pure Python on top of `rosbags` elsewhere; the environment variable
`IREVLA_BAG_BACKEND` forces one. Each reads what the other wrote.

A bag is written in `FOLDER/unfinished/NAME` and moves to `FOLDER/NAME` when it is finished, so that a bag which its
recorder could not finish is never mistaken for a whole one (see `recovery`).
"""

from __future__ import annotations

import importlib.util
import os
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import yaml

from irevla_policy.errors import UserError

BACKENDS = ("rosbag2_py", "rosbags")
UNFINISHED = "unfinished"
METADATA_FILE = "metadata.yaml"
_NEWEST_VERSION = 9


class BagError(UserError, ValueError):
    """A bag cannot be written or read; names it and what is wrong with it."""


@dataclass(frozen=True)
class Offer:
    """Quality of service that the publisher of a topic offered: what `ros2 bag play` publishes with."""

    depth: int = 10
    reliable: bool = True
    latched: bool = False


@dataclass(frozen=True)
class Topic:
    """A topic of a bag.

    Attributes:
        name: Its name.
        type: Message type, e.g. `sensor_msgs/msg/Image`.
        offers: What its publishers offered.
        count: Messages in the bag (reading only).
    """

    name: str
    type: str
    offers: tuple[Offer, ...] = field(default=(Offer(),))
    count: int = 0


class Message(NamedTuple):
    """A message of a bag: its topic, its CDR bytes and when it was received (ns)."""

    topic: str
    data: bytes | memoryview
    log_time: int


class BagWriter(Protocol):
    """A bag that is being written."""

    path: Path
    """Folder of the bag once it is finished."""

    @property
    def size(self) -> int:
        """Bytes so far."""

    @property
    def message_count(self) -> int:
        """Messages so far."""

    def write(self, topic: str, data: bytes | memoryview, log_time: int, publish_time: int | None = None) -> None:
        """Write a message.

        Args:
            topic: One of the topics that the bag was opened with.
            data: CDR bytes, encapsulation header included; must not change afterwards.
            log_time: When it was received, ns since the epoch.
            publish_time: When it was published, ns; the same where unknown.

        Raises:
            BagError: Unknown topic.
            OSError: The disk is full.
        """

    def flush_if_due(self) -> None:
        """Hand to the operating system what has waited long enough; call about ten times a second."""

    def finish(self) -> Path:
        """Close the bag and move it to its place; returns that."""

    def abandon(self) -> Path:
        """Close the file without finishing the bag, which stays among the unfinished ones. Returns where."""

    def discard(self) -> None:
        """Throw the bag away."""


class BagReader(Protocol):
    """A bag that is being read; `contextlib.closing` closes it."""

    path: Path
    topics: dict[str, Topic]
    start_time: int
    end_time: int
    storage: str
    custom: dict[str, str]

    @property
    def message_count(self) -> int:
        """Messages in the bag."""

    def messages(self, topics: Collection[str] | None = None) -> Iterator[Message]:
        """The messages of some topics (of all when None), in the order of the file.

        Raises:
            BagError: The bag is damaged.
        """

    def deserialize(self, message: Message) -> Any:
        """A message as an object, read by the definition that the bag carries.

        Raises:
            InterfaceError: The bytes do not fit the type.
        """

    def known(self, topic: str) -> bool:
        """Whether a topic's messages have the definition that this program knows, or the bag carries none."""

    def close(self) -> None:
        """Close the bag."""


def backend() -> str:
    """The backend in use.

    Raises:
        BagError: `IREVLA_BAG_BACKEND` names another, or one that is not installed.
    """
    installed = importlib.util.find_spec("rosbag2_py") is not None
    chosen = os.environ.get("IREVLA_BAG_BACKEND") or ("rosbag2_py" if installed else "rosbags")
    if chosen not in BACKENDS:
        raise BagError(f"IREVLA_BAG_BACKEND: expected one of {', '.join(BACKENDS)}, found {chosen!r}")
    if chosen == "rosbag2_py" and not installed:
        raise BagError("IREVLA_BAG_BACKEND is rosbag2_py, but the package rosbag2_py of ROS 2 is not installed")
    return chosen


def open_writer(folder: str | Path, topics: Sequence[Topic], custom: Mapping[str, str] | None = None) -> BagWriter:
    """Start a bag.

    Args:
        folder: Where the finished bag will be; neither it nor its unfinished place may exist.
        topics: All topics that will be written.
        custom: Texts for the bag's `custom_data`.

    Raises:
        BagError: The folder exists, or a topic's type is unknown.
        OSError: The folder cannot be made.
    """
    path = Path(folder).absolute()
    place = unfinished_place(path)
    for taken in (path, place):
        if taken.exists():
            raise BagError(f"{taken}: exists already; a recording never replaces another")
    place.parent.mkdir(parents=True, exist_ok=True)
    if backend() == "rosbag2_py":
        from irevla_policy.recording.storage_rosbag2 import Rosbag2Writer

        return Rosbag2Writer(path, topics, dict(custom or {}))
    from irevla_policy.recording.storage_python import PythonWriter

    return PythonWriter(path, topics, dict(custom or {}))


def open_reader(path: str | Path) -> BagReader:
    """Open a bag folder, or a single `.mcap` or `.db3` file.

    Raises:
        BagError: Missing, unfinished, truncated, damaged, of an unknown kind or otherwise not a bag.
    """
    path = Path(path)
    with naming_damage(path):
        layout = check(path)
        # rosbag2 unpacks whole files beside themselves at every look, which makes an old bag a new one.
        if backend() == "rosbag2_py" and layout.compression_mode != "file":
            from irevla_policy.recording.storage_rosbag2 import Rosbag2Reader

            return Rosbag2Reader(path, layout)
        from irevla_policy.recording.storage_python import PythonReader

        return PythonReader(path, layout)


@contextmanager
def naming_damage(path: Path) -> Iterator[None]:
    """Make one error, which names the bag, of whatever the libraries that read it raise over malformed bytes.

    Raises:
        BagError: Something was raised, other than that a file cannot be opened or a module is not installed.
    """
    try:
        yield
    except (BagError, OSError, ImportError):
        raise
    except UserError as error:
        raise BagError(str(error)) from error
    except Exception as error:
        raise BagError(f"{path}: damaged ({type(error).__name__}: {' '.join(str(error).split())})") from error


def unfinished_place(path: Path) -> Path:
    """Where a bag lies until it is finished."""
    return path.parent / UNFINISHED / path.name


def find_bags(folder: str | Path) -> list[Path]:
    """The bags in a folder and its subfolders, or the folder itself when it is a bag, in the order of their paths.

    Unfinished bags are left out (see `recovery.unfinished`).

    Raises:
        BagError: No such folder, or no bag in it.
    """
    folder = Path(folder)
    if not folder.exists():
        raise BagError(f"{folder}: no such bag or folder of bags")
    if folder.is_dir():
        try:
            os.scandir(folder).close()
        except OSError as error:
            raise BagError(f"{folder}: cannot be read ({error.strerror})") from error
    bags = sorted(_bags(folder))
    if not bags:
        left = sum(1 for _ in (folder / UNFINISHED).glob("*/"))
        also = f", only {left} unfinished in {folder / UNFINISHED}: `irevla inspect --recover`" if left else ""
        raise BagError(f"{folder}: holds no bag (a folder with {METADATA_FILE}){also}")
    return bags


def check_bags(folder: str | Path) -> None:
    """Raise as `find_bags` does, but look no farther than the first bag."""
    if next(_bags(Path(folder)), None) is None:
        find_bags(folder)


def _bags(folder: Path) -> Iterator[Path]:
    if folder.is_file():
        yield folder
    for place, files in walk(folder):
        if any(file.name == METADATA_FILE for file in files):
            yield place


def walk(folder: Path) -> Iterator[tuple[Path, list[os.DirEntry[str]]]]:
    """The folders in which bags can be, each with the files in it.

    Links are followed, after all that is no link, and what can be reached in several ways is gone to once. Not looked
    into are bags, unfinished ones, and what cannot be read or is removed meanwhile.

    Args:
        folder: Where to begin.
    """
    seen: set[tuple[int, int]] = set()
    waiting, links = [folder], deque[Path]()
    while waiting or links:
        place = waiting.pop() if waiting else links.popleft()
        try:
            status = os.stat(place)
            entries = sorted(os.scandir(place), key=lambda entry: entry.name)
        except OSError:
            continue
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        folders, files = [], []
        for entry in entries:
            with suppress(OSError):  # a link to itself; one to nothing is neither
                if entry.is_dir():
                    folders.append(entry)
                elif entry.is_file():
                    files.append(entry)
        yield place, files
        if any(file.name == METADATA_FILE for file in files):
            continue
        for entry in folders:
            if entry.name != UNFINISHED:
                (links if entry.is_symlink() else waiting).append(place / entry.name)


@dataclass(frozen=True)
class Layout:
    """What a bag's metadata says about how to read it."""

    storage: str
    files: tuple[Path, ...]
    compression_mode: str = ""
    custom: dict[str, str] = field(default_factory=dict)


def check(path: Path) -> Layout:
    """Look at a bag before a backend opens it, so that both name problems alike.

    Raises:
        BagError: See `open_reader`.
    """
    if not path.exists():
        raise BagError(f"{path}: no such bag")
    if path.is_file():
        if path.suffix not in (".mcap", ".db3"):
            raise BagError(f"{path}: expected a bag folder, a .mcap or a .db3 file")
        layout = Layout("mcap" if path.suffix == ".mcap" else "sqlite3", (path,))
    else:
        layout = _read_layout(path)
    for file in layout.files:
        if not file.is_file():
            raise BagError(f"{path}: {METADATA_FILE} names the file {file.name}, which is missing")
        if file.stat().st_size == 0:
            raise BagError(f"{file}: the file is empty")
    return layout


def cut_off(path: Path, layout: Layout, error: Exception) -> BagError:
    """The error of a bag of which a file has no end, with what can be done about it."""
    whole = path.is_dir() and len(layout.files) == 1
    return BagError(f"{error}" + (f"; `irevla inspect --recover {path}` saves what can be read" if whole else ""))


def _read_layout(path: Path) -> Layout:
    file = path / METADATA_FILE
    if not file.is_file():
        for kind, command in (("*.mcap", "irevla inspect --recover"), ("*.db3", "ros2 bag reindex")):
            if any(path.glob(kind)):
                raise BagError(
                    f"{path}: unfinished bag (no {METADATA_FILE}): it is being recorded, or its recorder was killed; "
                    f"then `{command} {path}` mends it"
                )
        raise BagError(f"{path}: not a bag (no {METADATA_FILE})")
    try:
        information = yaml.load(file.read_text(), Loader=_YAML_LOADER)["rosbag2_bagfile_information"]
        version, storage = int(information["version"]), str(information["storage_identifier"])
        names = [Path(name).name for name in information["relative_file_paths"]]
        mode = str(information.get("compression_mode") or "").lower()
        custom = {str(key): str(value) for key, value in (information.get("custom_data") or {}).items()}
    except (yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise BagError(f"{file}: damaged or not the metadata of a bag ({' '.join(str(error).split())})") from error
    if version > _NEWEST_VERSION:
        raise BagError(f"{file}: version {version} is newer than this program knows ({_NEWEST_VERSION})")
    if storage not in ("mcap", "sqlite3"):
        raise BagError(f"{file}: storage {storage!r} is unknown; expected mcap or sqlite3")
    return Layout(storage, tuple(path / name for name in names), "" if mode == "none" else mode, custom)


_YAML_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

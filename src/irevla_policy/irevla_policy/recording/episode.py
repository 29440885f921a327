"""What an episode is: the pure form of irevla_msgs/EpisodeInfo, its names, and labels given after the fact."""

from __future__ import annotations

import json
import os
import re
import time
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from irevla_policy.errors import UserError
from irevla_policy.recording import interfaces

MESSAGE_TYPE = "irevla_msgs/msg/EpisodeInfo"
LABEL_FILE = "label.json"

SOURCES = ("policy", "expert", "human", "mixed")
CLASSIFIER = "classifier"
"""Who labels what looks like a success (`irevla_success`)."""

SUCCESSES = ("unknown", "yes", "no")
STATES = ("recording", "finished", "aborted")

# Fields of the message that are no strings.
_NUMBERS: dict[str, type] = {
    "seed": int, "source": int, "success": int, "state": int, "steps": int, "control_rate": float
}  # fmt: skip
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


class EpisodeError(UserError, ValueError):
    """An episode's name or label is not what it must be."""


@dataclass(frozen=True)
class EpisodeInfo:
    """What an episode is; fields as in irevla_msgs/EpisodeInfo, its constants as words.

    Attributes:
        source: One of `SOURCES`.
        success: One of `SUCCESSES`.
        state: One of `STATES`.
        stamp: When this description was made, ns.
    """

    episode_id: str
    task: str = ""
    variation: str = ""
    world: str = ""
    instruction: str = ""
    robot: str = ""
    profile_hash: str = ""
    seed: int = -1
    policy_version: str = ""
    source: str = "policy"
    success: str = "unknown"
    labelled_by: str = ""
    state: str = "recording"
    steps: int = 0
    action_space: str = ""
    control_rate: float = 0.0
    stamp: int = 0

    def as_fields(self) -> dict[str, Any]:
        """The fields of the message but its header, for any library's message class."""
        values = asdict(self)
        del values["stamp"]
        values["source"] = SOURCES.index(self.source)
        values["success"] = SUCCESSES.index(self.success)
        values["state"] = STATES.index(self.state)
        return values

    def serialize(self) -> bytes:
        """The message as CDR."""
        message = interfaces.make(MESSAGE_TYPE, header=interfaces.make_header(self.stamp), **self.as_fields())
        return interfaces.serialize(message, MESSAGE_TYPE)

    def as_custom(self) -> dict[str, str]:
        """The texts for a bag's `custom_data`: what is known at the start."""
        known = ("episode_id", "task", "variation", "world", "robot", "profile_hash", "seed", "source", "action_space")
        return {f"irevla.{name}": str(getattr(self, name)) for name in known}

    @staticmethod
    def from_message(message: Any) -> EpisodeInfo:
        """From an irevla_msgs/EpisodeInfo, whichever library made it.

        Raises:
            EpisodeError: A constant is out of range, or it is another message.
        """
        try:
            values = {
                field.name: _NUMBERS.get(field.name, str)(getattr(message, field.name))
                for field in fields(EpisodeInfo)
                if field.name != "stamp"
            }
            stamp = interfaces.stamp_of(message.header)
        except (AttributeError, TypeError, ValueError) as error:
            raise EpisodeError(f"episode info: expected {MESSAGE_TYPE}, found another message ({error})") from error
        for name, words in (("source", SOURCES), ("success", SUCCESSES), ("state", STATES)):
            if not 0 <= values[name] < len(words):
                raise EpisodeError(f"episode info: {name} must be below {len(words)}, found {values[name]}")
            values[name] = words[values[name]]
        return EpisodeInfo(**values, stamp=stamp)


@dataclass(frozen=True)
class Label:
    """Whether an episode succeeded, said after its bag was finished.

    Attributes:
        success: One of `SUCCESSES`.
        labelled_by: Who says so.
        stamp: When, ns.
    """

    success: str
    labelled_by: str
    stamp: int

    def apply(self, info: EpisodeInfo) -> EpisodeInfo:
        """The description with this label."""
        return replace(info, success=self.success, labelled_by=self.labelled_by)


def write_label(bag: Path, success: str, labelled_by: str, stamp: int | None = None) -> Label:
    """Label a finished bag by a file beside its data; a newer label replaces an older one, whole or not at all.

    Raises:
        EpisodeError: No such bag, or an unknown label.
    """
    if success not in SUCCESSES:
        raise EpisodeError(f"label of {bag.name}: success must be one of {', '.join(SUCCESSES)}, found {success!r}")
    if not bag.is_dir():
        raise EpisodeError(f"label of {bag.name}: no such bag in {bag.parent}")
    label = Label(success, labelled_by, time.time_ns() if stamp is None else stamp)
    temporary = bag / f".{LABEL_FILE}"
    with temporary.open("w") as file:
        json.dump(asdict(label), file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(bag / LABEL_FILE)
    return label


def read_label(bag: Path) -> Label | None:
    """The label of a bag that was given after the fact; None without one.

    Raises:
        EpisodeError: The file is damaged.
    """
    path = bag / LABEL_FILE
    if not path.is_file():
        return None
    try:
        values = json.loads(path.read_text())
        label = Label(str(values["success"]), str(values["labelled_by"]), int(values["stamp"]))
    except (ValueError, KeyError, TypeError) as error:
        raise EpisodeError(f"{path}: expected success, labelled_by and stamp as JSON ({error})") from error
    if label.success not in SUCCESSES:
        raise EpisodeError(f"{path}: success must be one of {', '.join(SUCCESSES)}, found {label.success!r}")
    return label


def check_name(episode_id: str) -> str:
    """An episode's name, when it can be a folder's.

    Raises:
        EpisodeError: Other characters than letters, digits, '.', '_' and '-', or too long.
    """
    if not _NAME.fullmatch(episode_id) or episode_id == "unfinished":
        raise EpisodeError(
            f"episode name {episode_id!r}: expected at most 128 letters, digits, '.', '_' and '-', "
            "the first a letter or digit, and not 'unfinished'"
        )
    return episode_id


def new_name(task: str, now: float | None = None) -> str:
    """A name for an episode from its task and the time, in UTC, to the millisecond."""
    now = time.time() if now is None else now
    moment = time.strftime("%Y%m%d_%H%M%S", time.gmtime(now)) + f"_{int(now * 1000) % 1000:03d}"
    prefix = re.sub(r"[^A-Za-z0-9._-]+", "-", task).strip("-._")
    return f"{prefix}_{moment}" if prefix else moment

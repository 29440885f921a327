"""What a bag's episode is, without decoding it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from irevla_policy.recording import topics
from irevla_policy.recording.episode import MESSAGE_TYPE, EpisodeError, EpisodeInfo, read_label
from irevla_policy.recording.interfaces import InterfaceError
from irevla_policy.recording.storage import BagError, open_reader


def describe(bag: Path) -> EpisodeInfo:
    """What an episode is, from its bag and its label.

    Raises:
        UserError: The bag or its label cannot be read.
    """
    with closing(open_reader(bag)) as opened:
        topic = opened.topics.get(topics.EPISODE_INFO)
        if topic is not None and topic.type != MESSAGE_TYPE:
            raise BagError(f"{bag}: {topic.name} carries {topic.type}, expected {MESSAGE_TYPE}")
        try:
            infos = [
                EpisodeInfo.from_message(opened.deserialize(message))
                for message in opened.messages([topics.EPISODE_INFO])
            ]
        except (InterfaceError, EpisodeError) as error:
            raise BagError(f"{bag}: {topics.EPISODE_INFO} cannot be read: {error}") from error
    return labelled(bag, of_this_bag(infos))


def of_this_bag(infos: Sequence[EpisodeInfo]) -> list[EpisodeInfo]:
    """The descriptions in a bag that are of its own episode, oldest first.

    Those before the beginning of an episode are of the one before: the topic is latched, and whoever begins to record
    it hears it again.
    """
    return list(itertools.dropwhile(lambda info: info.state != "recording", infos))


def labelled(bag: Path, infos: Sequence[EpisodeInfo]) -> EpisodeInfo:
    """The newest description, with the label that was given after the fact.

    A bag without any was recorded by other means: then a person acted.

    Args:
        bag: Where the label lies.
        infos: The descriptions in the bag that are of its own episode, oldest first.

    Raises:
        BagError: They are of several episodes, of which a label would mean all.
    """
    names = list(dict.fromkeys(info.episode_id for info in infos))
    if len(names) > 1:
        raise BagError(
            f"{bag}: holds the episodes {', '.join(names)}; expected one a bag, as irevla_recorder makes them"
        )
    info = infos[-1] if infos else EpisodeInfo(bag.name, source="human", state="finished")
    label = read_label(bag) if bag.is_dir() else None
    return label.apply(info) if label is not None else info

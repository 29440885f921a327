"""Episodes: their description survives the message, and labels can be given after the fact."""

from __future__ import annotations

from pathlib import Path

import pytest
from sample_bags import write_bag

from irevla_policy.recording import interfaces
from irevla_policy.recording.episode import (
    LABEL_FILE,
    MESSAGE_TYPE,
    EpisodeError,
    EpisodeInfo,
    check_name,
    new_name,
    read_label,
    write_label,
)

INFO = EpisodeInfo(
    episode_id="reach_1",
    task="reach",
    variation="shifted",
    world="metaworld",
    instruction="reach the goal",
    robot="metaworld_sawyer",
    profile_hash="0123456789ab",
    seed=-1,
    policy_version="ba9876543210",
    source="mixed",
    success="yes",
    labelled_by="simulator",
    state="finished",
    steps=17,
    action_space="ee_delta",
    control_rate=20.0,
    stamp=1_700_000_000_123_456_789,
)


def test_survives_the_message() -> None:
    message = interfaces.deserialize(INFO.serialize(), MESSAGE_TYPE)
    assert EpisodeInfo.from_message(message) == INFO


def test_a_constant_out_of_range_is_named() -> None:
    message = interfaces.deserialize(INFO.serialize(), MESSAGE_TYPE)
    message.success = 7
    with pytest.raises(EpisodeError, match="success must be below 3, found 7"):
        EpisodeInfo.from_message(message)


def test_another_message_is_named() -> None:
    message = interfaces.make("std_msgs/msg/String", data="reach")
    with pytest.raises(EpisodeError, match=r"expected irevla_msgs/msg/EpisodeInfo, found another message .*episode_id"):
        EpisodeInfo.from_message(message)


def test_the_newest_label_counts(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "episode")
    assert read_label(bag) is None
    write_label(bag, "no", "operator")
    label = write_label(bag, "yes", "classifier", stamp=5)
    assert read_label(bag) == label
    assert label.apply(INFO).labelled_by == "classifier"


def test_bad_labels_are_named(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "episode")
    with pytest.raises(EpisodeError, match="one of unknown, yes, no, found 'maybe'"):
        write_label(bag, "maybe", "operator")
    with pytest.raises(EpisodeError, match="no such bag"):
        write_label(tmp_path / "other", "yes", "operator")
    for content in ("{", "[]", '{"success": "maybe", "labelled_by": "x", "stamp": 1}'):
        (bag / LABEL_FILE).write_text(content)
        with pytest.raises(EpisodeError, match=LABEL_FILE):
            read_label(bag)


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "a b", "unfinished", "x" * 129])
def test_names_that_cannot_be_folders_are_refused(name: str) -> None:
    with pytest.raises(EpisodeError, match="episode name"):
        check_name(name)


def test_new_names_are_names() -> None:
    for task in ("", "door-open", "pick up: the /cup/"):
        check_name(new_name(task))
    assert new_name("reach", 0.25) == "reach_19700101_000000_250"

"""Bags to episodes: what was recorded comes back, aligned by stamps, and what is wrong is named."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import sample_episodes as sample
from sample_episodes import PERIOD, PROFILE, START

from irevla_policy.recording import topics
from irevla_policy.recording.episode import EpisodeInfo, write_label
from irevla_policy.recording.storage import Topic, open_reader, open_writer
from irevla_policy.robot.kinematics import ArmKinematics
from irevla_policy.robot.profile import RobotProfile
from irevla_policy.robot.proprioception import proprioceptive_state
from irevla_policy.settings import from_dict, to_dict
from irevla_trainer.data.description import describe
from irevla_trainer.data.reader import EpisodeReader
from irevla_trainer.data.report import BY_HEADER, BY_OBSERVATION


@pytest.fixture(scope="module")
def reader() -> EpisodeReader:
    return EpisodeReader(PROFILE)


def test_an_episode_comes_back(tmp_path: Path, reader: EpisodeReader) -> None:
    episode, report = reader.read(sample.write_episode(tmp_path / "a", steps=12))
    assert episode is not None, report.problem
    assert report.aligned_by == BY_OBSERVATION
    assert (report.used, dict(report.dropped), report.notes) == (12, {}, [])
    assert episode.info.task == "reach" and episode.info.success == "yes" and episode.info.steps == 12
    np.testing.assert_array_equal(episode.stamps, START + PERIOD * np.arange(12))
    np.testing.assert_allclose(episode.action, [sample.action(step) for step in range(12)], atol=1e-7)
    for step in range(12):
        np.testing.assert_array_equal(episode.images["corner"][step], sample.pixels(step))
    kinematics = ArmKinematics(PROFILE)
    expected = proprioceptive_state(PROFILE, kinematics, sample.joint_positions(4), 0.1)
    np.testing.assert_allclose(episode.state[4], expected, atol=1e-6)
    assert episode.instructions == ["reach the goal"] * 12


@pytest.mark.parametrize(("image_format", "exact"), [("png", True), ("jpeg", False)])
def test_compressed_images(tmp_path: Path, reader: EpisodeReader, image_format: str, exact: bool) -> None:
    episode, report = reader.read(sample.write_episode(tmp_path / "a", steps=3, image_format=image_format))
    assert episode is not None, report.problem
    difference = np.abs(episode.images["corner"][1].astype(int) - sample.pixels(1))
    assert difference.max() == 0 if exact else difference.mean() < 70


def test_a_label_given_later_counts(tmp_path: Path, reader: EpisodeReader) -> None:
    bag = sample.write_episode(tmp_path / "a", steps=3, success="unknown")
    write_label(bag, "no", "operator")
    episode, report = reader.read(bag)
    assert episode is not None
    assert (report.success, episode.info.labelled_by) == ("no", "operator")
    assert describe(bag).success == "no"


def test_an_instruction_can_change(tmp_path: Path, reader: EpisodeReader) -> None:
    declared = [source.recorded for source in topics.sources(PROFILE)]
    bag = sample.write_episode(tmp_path / "a", steps=6)
    writer = open_writer(tmp_path / "b", [*declared, topics.episode_topic()])
    from contextlib import closing

    from irevla_policy.recording.storage import open_reader

    with closing(open_reader(bag)) as source:
        for message in source.messages():
            writer.write(message.topic, bytes(message.data), message.log_time)
    writer.write(topics.INSTRUCTION, sample.text("now push"), START + 3 * PERIOD)
    episode, report = reader.read(writer.finish())
    assert episode is not None, report.problem
    assert episode.instructions == ["reach the goal"] * 3 + ["now push"] * 3


def test_holds_and_what_came_before_the_reset_are_dropped(tmp_path: Path, reader: EpisodeReader) -> None:
    def change(topic: str, step: int, data: bytes) -> bytes | None:
        if topic == topics.COMMAND and step == 5:
            return sample.command(START + step * PERIOD, np.zeros(0), source=2)
        if topic == topics.STEP_INFO and step == 2:
            return sample.step_info(START + step * PERIOD, 0)
        return data

    episode, report = reader.read(sample.write_episode(tmp_path / "a", steps=8, change=change))
    assert episode is not None
    assert dict(report.dropped) == {"before the reset": 2, "hold": 1}
    np.testing.assert_array_equal((episode.stamps - START) // PERIOD, [2, 3, 4, 6, 7])


def test_missing_frames_and_states_drop_their_decisions_only(tmp_path: Path, reader: EpisodeReader) -> None:
    def change(topic: str, step: int, data: bytes) -> bytes | None:
        if topic == "/camera/image_raw" and step == 3:
            return None
        if topic == "/camera/image_raw" and step == 4:
            return sample.image(START + step * PERIOD, np.zeros((8, 8, 3), np.uint8))
        if topic == "/joint_states" and step == 6:
            return None
        if topic == "/joint_states" and step == 7:
            return sample.joint_state(START + step * PERIOD, np.full(8, np.nan))
        return data

    episode, report = reader.read(sample.write_episode(tmp_path / "a", steps=10, change=change))
    assert episode is not None
    assert dict(report.dropped) == {
        "no corner at the stamp": 1,
        "no joint states at the stamp": 2,
        "image that cannot be decoded": 1,
    }
    assert any("promises width 96 and height 96, found 8 x 8" in note for note in report.notes)
    assert any("not finite" in note for note in report.notes)
    kept = [0, 1, 2, 5, 8, 9]
    np.testing.assert_array_equal((episode.stamps - START) // PERIOD, kept)
    np.testing.assert_array_equal(episode.images["corner"][:, 0, 0, 0], kept)


def test_other_joint_orders_and_further_joints_do_not_matter(tmp_path: Path, reader: EpisodeReader) -> None:
    names = ["gripper", *reversed(PROFILE.joint_names), "head_pan"]

    def change(topic: str, step: int, data: bytes) -> bytes:
        if topic != "/joint_states":
            return data
        positions = np.concatenate([[0.1], sample.joint_positions(step)[::-1], [9.0]])
        return sample.joint_state(START + step * PERIOD, positions, names)

    plain, _ = reader.read(sample.write_episode(tmp_path / "a", steps=4))
    mixed, report = reader.read(sample.write_episode(tmp_path / "b", steps=4, change=change))
    assert plain is not None and mixed is not None, report.problem
    np.testing.assert_array_equal(plain.state, mixed.state)


@pytest.mark.parametrize(
    ("omit", "expected"),
    [
        (("/camera/image_raw",), "no images of camera 'corner'.*expected topic /camera/image_raw"),
        (("/joint_states",), "no message on /joint_states"),
        ((topics.INSTRUCTION,), "no instruction"),
        ((topics.COMMAND, PROFILE.command.topic), "no message on /joint_trajectory_controller.*and no /irevla/command"),
    ],
)
def test_a_missing_topic_is_named(tmp_path: Path, reader: EpisodeReader, omit: tuple[str, ...], expected: str) -> None:
    import re

    episode, report = reader.read(sample.write_episode(tmp_path / "a", steps=3, omit=omit))
    assert episode is None
    assert re.search(expected, report.problem), report.problem


@pytest.mark.parametrize("name", [topics.INSTRUCTION, PROFILE.joint_states_topic, topics.COMMAND])
def test_another_message_on_a_topic_is_named(tmp_path: Path, reader: EpisodeReader, name: str) -> None:
    source = sample.write_episode(tmp_path / "source", steps=3)
    with closing(open_reader(source)) as bag:
        declared = [
            replace(topic, type="std_msgs/msg/Header") if topic.name == name else topic for topic in bag.topics.values()
        ]
        writer = open_writer(tmp_path / "other", declared)
        for message in bag.messages():
            header = sample.make("std_msgs/msg/Header", stamp=sample.interfaces.make_header(1, "").stamp, frame_id="x")
            writer.write(message.topic, header if message.topic == name else bytes(message.data), message.log_time)
    episode, report = reader.read(writer.finish())
    assert episode is None
    assert f"{name}: expected " in report.problem and "found std_msgs/msg/Header" in report.problem


def test_another_robot_is_named(tmp_path: Path, reader: EpisodeReader) -> None:
    _, report = reader.read(sample.write_episode(tmp_path / "a", 3, robot="panda", profile_hash="0" * 12))
    assert "recorded with robot 'panda'" in report.problem and "expected 'metaworld_sawyer'" in report.problem

    def change(topic: str, step: int, data: bytes) -> bytes:
        if topic != "/joint_states":
            return data
        return sample.joint_state(START + step * PERIOD, np.zeros(2), ["panda_joint1", "panda_joint2"])

    _, report = reader.read(sample.write_episode(tmp_path / "b", 3, change=change, profile_hash=""))
    assert "joint 'right_j0' of robot 'metaworld_sawyer' is missing" in report.problem


def test_an_empty_and_a_broken_bag_are_named(tmp_path: Path, reader: EpisodeReader) -> None:
    empty = open_writer(tmp_path / "empty", [Topic("/camera/image_raw", "sensor_msgs/msg/Image")]).finish()
    assert "the bag is empty" in reader.read(empty)[1].problem
    bag = sample.write_episode(tmp_path / "cut", steps=3)
    file = bag / "cut_0.mcap"
    file.write_bytes(file.read_bytes()[:-100])
    assert "truncated" in reader.read(bag)[1].problem
    assert "no such bag" in reader.read(tmp_path / "none")[1].problem


def test_a_foreign_bag_is_aligned_by_header_stamps(tmp_path: Path, reader: EpisodeReader) -> None:
    episode, report = reader.read(sample.write_foreign(tmp_path / "foreign", steps=20))
    assert episode is not None, report.problem
    assert report.aligned_by == BY_HEADER and report.success == "unknown"
    assert any("aligned by header stamps" in note for note in report.notes)
    assert report.used == 20
    kinematics = ArmKinematics(PROFILE)
    moved = kinematics.position(sample.joint_positions(6)) - kinematics.position(sample.joint_positions(5))
    expected = np.clip(moved / PROFILE.ee_delta_scale, -1, 1)
    np.testing.assert_allclose(episode.action[5], np.append(expected, 1.0), atol=1e-5)
    assert set(episode.instructions) == {"push the block"}


def commanded(tmp_path: Path, trajectories: dict[int, bytes]) -> Path:
    """A foreign bag with other trajectories, at their steps."""
    with closing(open_reader(sample.write_foreign(tmp_path / "plain", steps=20))) as source:
        writer = open_writer(tmp_path / "bag", list(source.topics.values()))
        messages = [(m.topic, bytes(m.data), m.log_time) for m in source.messages() if m.topic != PROFILE.command.topic]
        messages += [
            (PROFILE.command.topic, data, START + step * PERIOD + 4_000_000) for step, data in trajectories.items()
        ]
        for topic, data, time in sorted(messages, key=lambda message: message[2]):
            writer.write(topic, data, time)
    return writer.finish()


def test_a_command_with_the_stamp_of_its_observation_is_of_that_decision(tmp_path: Path) -> None:
    profile = from_dict(RobotProfile, to_dict(PROFILE) | {"action_space": "joint_delta"})
    rng = np.random.default_rng(0)
    targets = sample.joint_positions(0) + np.cumsum(rng.normal(0.0, 0.01, (20, 7)), axis=0)
    grippers = rng.choice([-1.0, 1.0], 20)
    commands = {
        step: sample.trajectory(START + step * PERIOD, np.append(targets[step], grippers[step])) for step in range(20)
    }
    episode, report = EpisodeReader(profile).read(commanded(tmp_path, commands))
    assert episode is not None, report.problem
    np.testing.assert_allclose(episode.action[1:, :7], np.diff(targets, axis=0), atol=1e-6)
    np.testing.assert_array_equal(episode.action[:, 7], grippers)


def test_a_distant_point_is_moved_to_in_its_time(tmp_path: Path) -> None:
    profile = from_dict(RobotProfile, to_dict(PROFILE) | {"action_space": "joint_delta"})
    start, target = sample.joint_positions(0), sample.joint_positions(0) + 0.4
    commands = {
        0: sample.trajectory(START, np.append(start, -1.0)),
        5: sample.trajectory(START + 5 * PERIOD, np.append(target, 1.0), delay=0.4),
    }
    episode, report = EpisodeReader(profile).read(commanded(tmp_path, commands))
    assert episode is not None, report.problem
    moved = np.zeros(20)
    moved[5:13] = 0.4 / 8
    np.testing.assert_allclose(episode.action[1:, 0], moved[1:], atol=1e-6)
    np.testing.assert_array_equal(episode.action[:, 7], [-1.0] * 5 + [1.0] * 15)


def test_a_command_that_is_not_finite_costs_its_decisions_only(tmp_path: Path, reader: EpisodeReader) -> None:
    commands = {
        step: sample.trajectory(START + step * PERIOD, np.append(sample.joint_positions(step), 1.0))
        for step in range(20)
    }
    commands[7] = sample.trajectory(START + 7 * PERIOD, np.full(8, np.nan))
    episode, report = reader.read(commanded(tmp_path, commands))
    assert episode is not None, report.problem
    assert report.dropped["action not finite"] == 2 and len(episode) == 18


def test_joint_states_without_stamps_count_when_they_arrive(tmp_path: Path, reader: EpisodeReader) -> None:
    def without(topic: str, step: int, data: bytes) -> bytes:
        joints = np.append(sample.joint_positions(step), 0.1)
        return sample.joint_state(0, joints) if topic == PROFILE.joint_states_topic else data

    plain, _ = reader.read(sample.write_episode(tmp_path / "plain", steps=6))
    episode, report = reader.read(sample.write_episode(tmp_path / "without", steps=6, change=without))
    assert plain is not None and episode is not None, report.problem
    np.testing.assert_array_equal(plain.state, episode.state)


def told(tmp_path: Path, infos: list[EpisodeInfo]) -> Path:
    """A bag of a plain recorder that heard these on /irevla/episode_info."""
    with closing(open_reader(sample.write_foreign(tmp_path / "plain", steps=20))) as source:
        writer = open_writer(tmp_path / "bag", [*source.topics.values(), topics.episode_topic()])
        for number, info in enumerate(infos):
            writer.write(topics.EPISODE_INFO, info.serialize(), START + number)
        for message in source.messages():
            writer.write(message.topic, bytes(message.data), message.log_time)
    return writer.finish()


def test_a_label_of_the_episode_before_is_not_this_ones(tmp_path: Path, reader: EpisodeReader) -> None:
    before = sample.info_of(tmp_path / "before", success="yes")
    bag = told(tmp_path, [before])
    _, report = reader.read(bag)
    assert (report.success, report.episode_id) == ("unknown", "bag")
    assert describe(bag).success == "unknown"


def test_a_bag_of_several_episodes_has_no_label(tmp_path: Path, reader: EpisodeReader) -> None:
    infos = []
    for name, success in (("first", "no"), ("second", "yes")):
        infos += [sample.info_of(tmp_path / name, state="recording", success="unknown")]
        infos += [sample.info_of(tmp_path / name, success=success)]
    episode, report = reader.read(told(tmp_path, infos))
    assert episode is None
    assert "holds the episodes first, second; expected one a bag" in report.problem


def test_a_foreign_bag_in_simulated_time_is_aligned_too(tmp_path: Path, reader: EpisodeReader) -> None:
    plain, _ = reader.read(sample.write_foreign(tmp_path / "a"))
    shifted, report = reader.read(sample.write_foreign(tmp_path / "b", offset=10**15))
    assert plain is not None and shifted is not None, report.problem
    np.testing.assert_array_equal(plain.action, shifted.action)
    assert any("of another clock" in note for note in report.notes)


@pytest.mark.parametrize("rate", [0.3, 1.0, 5.0, 1000.0])
def test_a_foreign_bag_that_was_played_again_keeps_its_instructions(
    tmp_path: Path, reader: EpisodeReader, rate: float
) -> None:
    plain = sample.write_foreign(tmp_path / "plain", steps=20)
    with closing(open_reader(plain)) as source:
        messages = [(message.topic, bytes(message.data), message.log_time) for message in source.messages()]
        messages.append((topics.INSTRUCTION, sample.text("now pull"), START + 11 * PERIOD + PERIOD // 2))
        for name, began, speed in (("before", START, 1.0), ("again", START + 10**15, rate)):
            writer = open_writer(tmp_path / name, list(source.topics.values()))
            for topic, data, time in sorted(messages, key=lambda message: message[2]):
                writer.write(topic, data, began + round((time - START) / speed))
            writer.finish()
    before, after = (reader.read(tmp_path / name)[0] for name in ("before", "again"))
    assert before is not None and after is not None
    assert before.instructions == ["push the block"] * 12 + ["now pull"] * 8
    assert after.instructions == before.instructions
    np.testing.assert_array_equal(before.action, after.action)


@pytest.mark.parametrize("space", ["joint_position", "joint_delta", "joint_velocity"])
def test_joint_actions_follow_from_commands(tmp_path: Path, space: str) -> None:
    values = to_dict(PROFILE) | {"action_space": space}
    profile = from_dict(RobotProfile, values)
    episode, report = EpisodeReader(profile).read(sample.write_foreign(tmp_path / "a"))
    assert episode is not None, report.problem
    expected = {
        "joint_position": sample.joint_positions(6),
        "joint_delta": np.full(7, 0.01),
        "joint_velocity": np.full(7, 0.2),
    }[space]
    np.testing.assert_allclose(episode.action[5], np.append(expected, 1.0), atol=1e-5)


def test_a_faster_camera_gives_a_decision_a_control_period(tmp_path: Path) -> None:
    profile = replace(PROFILE, control_rate=10.0)
    episode, report = EpisodeReader(profile).read(sample.write_foreign(tmp_path / "a", steps=20))
    assert episode is not None, report.problem
    assert len(episode) == 10
    assert any("20 images at a control rate of 10 Hz: 10 used" in note for note in report.notes)

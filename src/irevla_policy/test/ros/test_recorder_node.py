"""`irevla_recorder` in its own process: what was published lies in the bag, whatever happens to the node."""

from __future__ import annotations

import importlib.util
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from sensor_msgs.msg import CameraInfo

sys.path.insert(0, str(Path(__file__).parent))
from recorded_robot import PATIENCE, PERIOD, PROFILE, START, Robot
from sim_client import process

from irevla_msgs.msg import Command, EpisodeInfo
from irevla_msgs.srv import LabelEpisode, StartEpisode, StopEpisode
from irevla_policy.recording import topics
from irevla_policy.recording.episode import EpisodeInfo as Described
from irevla_policy.recording.episode import read_label
from irevla_policy.recording.interfaces import peek_stamp, stamp_of
from irevla_policy.recording.recovery import unfinished
from irevla_policy.recording.storage import backend, open_reader
from irevla_policy.robot.camera import Intrinsics
from irevla_policy.ros import qos
from irevla_policy.ros.messages import camera_info_message, image_message, time_message


def last_info(bag: Path) -> Described:
    with closing(open_reader(bag)) as reader:
        return [Described.from_message(reader.deserialize(m)) for m in reader.messages([topics.EPISODE_INFO])][-1]


def test_an_episode_is_recorded_and_labelled(robot: Robot, tmp_path: Path) -> None:
    with process("recorder_node", tmp_path, lock_step=True, folder=tmp_path / "bags", keep_free_gb=0.0):
        started = robot.start(world="metaworld", source=EpisodeInfo.SOURCE_EXPERT, episode_id="first")
        assert started.accepted, started.message
        refused = robot.call(StartEpisode, "/irevla/start_episode")
        assert not refused.accepted and "still being recorded" in refused.message
        # Whoever got no answer asks again.
        again = robot.start(world="metaworld", source=EpisodeInfo.SOURCE_EXPERT, episode_id="first")
        assert again.accepted and (again.episode_id, again.path) == ("first", started.path)
        assert not robot.start(world="metaworld", episode_id="first").accepted
        for number in range(40):
            robot.observe(number, terminated=number == 39)
        stopped = robot.call(StopEpisode, "/irevla/stop_episode")
        assert stopped.accepted, stopped.message
        assert (stopped.steps, stopped.dropped, stopped.path) == (39, 0, started.path)
        labelled = robot.call(LabelEpisode, "/irevla/label_episode", success=EpisodeInfo.SUCCESS_NO)
        assert labelled.accepted and labelled.episode_id == "first"
        assert not robot.call(StopEpisode, "/irevla/stop_episode").accepted
    bag = Path(started.path)
    info = last_info(bag)
    assert (info.state, info.success, info.labelled_by) == ("finished", "yes", "simulator")
    assert (info.task, info.seed, info.source, info.instruction) == ("reach", 5, "expert", "reach the goal")
    label = read_label(bag)
    assert label is not None and label.success == "no"
    with closing(open_reader(bag)) as reader:
        assert reader.message_count == stopped.messages
        frames = [reader.deserialize(message) for message in reader.messages(["/camera/image_raw"])]
        others = {
            topic: [peek_stamp(message.data) for message in reader.messages([topic])]
            for topic in ("/joint_states", topics.STEP_INFO, topics.COMMAND)
        }
    stamps = [START + number * PERIOD for number in range(40)]
    frames = [frame for frame in frames if stamp_of(frame.header) >= START]
    assert [stamp_of(frame.header) for frame in frames] == stamps
    assert [int(frame.data[0]) for frame in frames] == list(range(40))
    for topic, found in others.items():
        assert [stamp for stamp in found if stamp >= START] == stamps[: 39 if topic == topics.COMMAND else 40]
    assert robot.announced[-1].success == EpisodeInfo.SUCCESS_NO


def test_calibrations_are_recorded_and_need_not_be_there(robot: Robot, tmp_path: Path) -> None:
    lens = Intrinsics.of_view(45.0, 96, 96)
    with process("recorder_node", tmp_path, lock_step=True, folder=tmp_path / "bags", keep_free_gb=0.0):
        without = robot.start()
        robot.observe(0, terminated=True)
        assert without.accepted and robot.call(StopEpisode, "/irevla/stop_episode").accepted
        infos = robot.node.create_publisher(CameraInfo, "/camera/camera_info", qos.sensor(lock_step=True))
        deadline = time.monotonic() + PATIENCE
        while not infos.get_subscription_count() and time.monotonic() < deadline:
            robot.executor.spin_once(0.05)
        started = robot.start()
        for number in range(10):
            robot.observe(number, terminated=number == 9)
            infos.publish(camera_info_message(PROFILE.cameras[0], lens, START + number * PERIOD, "camera"))
        assert robot.call(StopEpisode, "/irevla/stop_episode").dropped == 0
    with closing(open_reader(started.path)) as reader:
        found = [reader.deserialize(message) for message in reader.messages(["/camera/camera_info"])]
        recorded = set(reader.topics)
    assert [stamp_of(message.header) for message in found] == [START + number * PERIOD for number in range(10)]
    assert found[0].k[0] == lens.fx
    log = (tmp_path / "recorder_node.log").read_text()
    installed = importlib.util.find_spec("tf2_msgs") is not None
    assert (topics.STATIC_TRANSFORMS in recorded) == installed
    assert ("/tf_static is not recorded: the package tf2_msgs is not installed" in log) != installed


def test_stopping_waits_for_the_rest_of_the_last_observation(robot: Robot, tmp_path: Path) -> None:
    with process("recorder_node", tmp_path, lock_step=True, folder=tmp_path / "bags", keep_free_gb=0.0):
        started = robot.start()
        robot.observe(0)
        robot.observe(1, terminated=True, camera=False)
        client = robot.node.create_client(StopEpisode, "/irevla/stop_episode")
        assert client.wait_for_service(PATIENCE)
        future = client.call_async(StopEpisode.Request())
        late = time.monotonic() + 0.4
        while time.monotonic() < late:
            robot.executor.spin_once(0.05)
        assert not future.done()
        robot.image.publish(image_message(np.zeros((96, 96, 3), np.uint8), START + PERIOD, "camera"))
        deadline = time.monotonic() + PATIENCE
        while not future.done() and time.monotonic() < deadline:
            robot.executor.spin_once(0.05)
    with closing(open_reader(started.path)) as reader:
        stamps = {peek_stamp(message.data) for message in reader.messages(["/camera/image_raw"])}
    assert {START, START + PERIOD} <= stamps


def test_stopping_waits_for_what_a_recorder_that_stood_still_has_missed(robot: Robot, tmp_path: Path) -> None:
    settings = {"lock_step": True, "folder": tmp_path / "bags", "keep_free_gb": 0.0}
    with process("recorder_node", tmp_path, **settings) as recorder:
        started = robot.start()
        client = robot.node.create_client(StopEpisode, "/irevla/stop_episode")
        assert client.wait_for_service(PATIENCE)
        recorder.send_signal(signal.SIGSTOP)
        for number in range(40):
            robot.observe(number, terminated=number == 39)
        future = client.call_async(StopEpisode.Request())
        time.sleep(1.5)
        recorder.send_signal(signal.SIGCONT)
        deadline = time.monotonic() + PATIENCE
        while not future.done() and time.monotonic() < deadline:
            robot.executor.spin_once(0.05)
    stopped = future.result()
    assert stopped is not None and (stopped.steps, stopped.dropped) == (39, 0)
    info = last_info(Path(started.path))
    assert (info.success, info.labelled_by) == ("yes", "simulator")


def test_messages_that_come_too_fast_are_counted(robot: Robot, tmp_path: Path) -> None:
    robot.node.destroy_publisher(robot.command)
    robot.command = robot.node.create_publisher(Command, topics.COMMAND, 10)  # waits for nobody
    burst = 4000
    with process("recorder_node", tmp_path, lock_step=True, folder=tmp_path / "bags", keep_free_gb=0.0):
        assert robot.start().accepted
        robot.observe(0)
        time.sleep(0.5)
        for number in range(1, burst + 1):
            message = Command(values=[0.0] * 4, source=Command.SOURCE_INTERVENTION)
            message.header.stamp = time_message(START + number * PERIOD)
            robot.command.publish(message)
        time.sleep(0.5)
        robot.observe(burst + 1, terminated=True)
        stopped = robot.call(StopEpisode, "/irevla/stop_episode")
    assert stopped.dropped > 0, "nothing was lost: the burst is too small to show anything"
    assert stopped.steps + stopped.dropped == burst + 1
    assert f"messages of {topics.COMMAND} came faster than they could be received" in stopped.message


def test_what_cannot_be_recorded_is_refused(robot: Robot, tmp_path: Path) -> None:
    with process("recorder_node", tmp_path, folder=tmp_path / "bags", quota_gb=0.000001):
        refused = robot.start()
        assert not refused.accepted and "quota" in refused.message
        odd = robot.call(StartEpisode, "/irevla/start_episode", source=9)
        assert not odd.accepted and "source must be below 4, found 9" in odd.message
        nothing = robot.call(LabelEpisode, "/irevla/label_episode", success=1)
        assert not nothing.accepted and "no episode to label" in nothing.message


def test_an_episode_without_a_camera_is_refused(robot: Robot, tmp_path: Path) -> None:
    robot.node.destroy_publisher(robot.image)
    with process("recorder_node", tmp_path, lock_step=True, folder=tmp_path / "bags", keep_free_gb=0.0):
        refused = robot.call(StartEpisode, "/irevla/start_episode")
    assert not refused.accepted
    assert "nobody publishes /camera/image_raw" in refused.message and "metaworld_sawyer" in refused.message


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_finishes_the_bag_as_aborted(robot: Robot, tmp_path: Path, number: signal.Signals) -> None:
    with process("recorder_node", tmp_path, folder=tmp_path / "bags", lock_step=True, keep_free_gb=0.0) as running:
        started = robot.start()
        for step in range(10):
            robot.observe(step)
        time.sleep(0.3)
        running.send_signal(number)
        assert running.wait(3.0) == 0
    assert last_info(Path(started.path)).state == "aborted"
    assert not unfinished(tmp_path)
    assert "Traceback" not in (tmp_path / "recorder_node.log").read_text()


def test_the_next_recorder_recovers_what_a_killed_one_left(robot: Robot, tmp_path: Path) -> None:
    with process("recorder_node", tmp_path, folder=tmp_path / "bags", lock_step=True, keep_free_gb=0.0) as running:
        started = robot.start(episode_id="victim")
        for step in range(30):
            robot.observe(step)
            time.sleep(0.01)
        time.sleep(1.0)
        running.kill()
        running.wait()
    assert [path.name for path in unfinished(tmp_path)] == ["victim"]
    # One of which nothing is left keeps nobody from recording: it is named and stays.
    (victim,) = unfinished(tmp_path)[0].glob("*.mcap")
    cut = victim.parent.with_name("cut")
    cut.mkdir()
    (cut / "cut_0.mcap").write_bytes(victim.read_bytes()[:100])
    with process("recorder_node", tmp_path, folder=tmp_path / "bags", keep_free_gb=0.0):
        deadline = time.monotonic() + PATIENCE
        while len(unfinished(tmp_path)) > 1 and time.monotonic() < deadline:
            time.sleep(0.05)
    assert unfinished(tmp_path) == [cut]
    assert "Traceback" not in (tmp_path / "recorder_node.log").read_text()
    info = last_info(Path(started.path))
    # rosbag2 keeps the last few kB in memory, however long nothing follows.
    kept = 30 if backend() == "rosbags" else 25
    assert info.state == "aborted"
    assert info.steps >= kept
    with closing(open_reader(started.path)) as reader:
        assert reader.topics["/camera/image_raw"].count >= kept


def test_a_folder_that_is_taken_ends_the_node_with_one_line(tmp_path: Path, robot: Robot) -> None:
    with process("recorder_node", tmp_path, folder=tmp_path / "bags"):
        robot.call(LabelEpisode, "/irevla/label_episode")
        words = [
            sys.executable,
            "-m",
            "irevla_policy.ros.recorder_node",
            "--ros-args",
            "-p",
            f"folder:={tmp_path}/bags",
        ]
        second = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE)
    assert second.returncode == 2
    assert "another process" in second.stderr and "Traceback" not in second.stderr

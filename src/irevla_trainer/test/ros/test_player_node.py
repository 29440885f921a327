"""Bags that are played onto the graph and recorded again teach the same, at any rate."""

from __future__ import annotations

import importlib
import importlib.util
import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sample_episodes import PROFILE, text, write_episode, write_foreign
from sensor_msgs.msg import JointState
from std_msgs.msg import String
from trajectory_msgs.msg import JointTrajectory

from irevla_msgs.msg import EpisodeInfo
from irevla_msgs.srv import StartEpisode, StopEpisode
from irevla_policy.graph.registry import find_graph
from irevla_policy.graph.supervisor import Supervisor
from irevla_policy.model.checkpoint import checkpoint_version
from irevla_policy.recording.episode import write_label
from irevla_policy.recording.interfaces import full_name
from irevla_policy.recording.storage import BagError, Offer, Topic, find_bags, open_reader, open_writer
from irevla_policy.recording.topics import EPISODE_INFO, INSTRUCTION, LATCHED
from irevla_policy.ros import qos
from irevla_trainer.cli import main
from irevla_trainer.data.dataset import DatasetError, Wanted, load_dataset
from irevla_trainer.ros.graph_client import GraphClient


def replay(tmp_path: Path, bags: Path, rate: str = "0", **arguments: str) -> Path:
    """Bags as they were recorded again; what the nodes said lies in tmp_path/logs."""
    record = tmp_path / "again"
    words = {"bag": str(bags), "rate": rate, "record": str(record)}
    graph = find_graph("replay").resolve(words | arguments)
    with Supervisor(graph, log_dir=tmp_path / "logs") as nodes:
        nodes.wait(90)
        assert nodes.finished, (tmp_path / "logs" / "irevla_player.log").read_text()
    return record


def log(tmp_path: Path) -> str:
    return (tmp_path / "logs" / "irevla_player.log").read_text()


def test_what_was_played_is_what_was_recorded_and_teaches_the_same(tmp_path):
    bags = tmp_path / "bags"
    for number in range(3):
        write_episode(bags / f"episode-{number}", 8 + number, task="drawer-open", seed=number)
    write_episode(bags / "failed", 150, source="mixed", success="no")
    again = replay(tmp_path, bags)
    assert log(tmp_path).count(", 0 dropped") == 4
    for bag in sorted(bags.iterdir()):
        before, after = open_reader(bag), open_reader(again / bag.name)
        counts = [{name: topic.count for name, topic in one.topics.items() if topic.count} for one in (before, after)]
        assert counts[0] == counts[1]
        before.close()
        after.close()
    wanted = Wanted(success_only=False)
    first, second = (load_dataset([folder], PROFILE, wanted) for folder in (bags, again))
    assert len(second.episodes) == 4
    for one, other in zip(first.episodes, second.episodes, strict=True):
        for name in ("episode_id", "task", "seed", "source", "success", "instruction", "profile_hash", "state"):
            assert getattr(one.info, name) == getattr(other.info, name), name
        assert one.instructions == other.instructions
        for name in ("state", "action", "stamps"):
            assert np.array_equal(getattr(one, name), getattr(other, name)), name
        for name, frames in one.images.items():
            assert np.array_equal(frames[:], other.images[name][:])
    words = ["--steps", "3", "--seed", "5", "--threads", "1"]
    for folder in (bags, again):
        out = tmp_path / f"policy-{folder.name}"
        assert main(["sft", "--bags", str(folder), "--out", str(out), *words]) == 0
    assert checkpoint_version(tmp_path / "policy-bags") == checkpoint_version(tmp_path / "policy-again")


@pytest.mark.slow
def test_instructions_that_follow_each_other_closely_all_count_and_in_their_order(tmp_path):
    source = write_episode(tmp_path / "source", 12)
    with closing(open_reader(source)) as reader:
        messages = list(reader.messages())
        writer = open_writer(tmp_path / "bags" / "changing", list(reader.topics.values()))
    for number, message in enumerate(messages):
        writer.write(message.topic, bytes(message.data), message.log_time)
        if message.topic == PROFILE.command.topic:
            for repeated in range(2):
                writer.write(INSTRUCTION, text(f"do {number} {repeated}"), message.log_time + 1 + repeated)
    writer.finish()
    again = replay(tmp_path, tmp_path / "bags")
    (before,), (after,) = (load_dataset([folder], PROFILE).episodes for folder in (tmp_path / "bags", again))
    assert len(set(before.instructions)) == 12
    assert before.instructions == after.instructions


def test_a_plain_recording_becomes_an_episode(tmp_path):
    bag = write_foreign(tmp_path / "bags" / "teleoperated", 20)
    write_label(bag, "yes", "operator")
    again = replay(tmp_path, bag, rate="20")
    (episode,) = load_dataset([again], PROFILE).episodes
    assert (episode.info.source, episode.info.success, episode.info.labelled_by) == ("human", "yes", "operator")


def test_what_a_bag_was_asked_for_does_not_count_for_one_without_an_instruction(tmp_path):
    for name, left_out in (("first", ()), ("second", (INSTRUCTION,))):
        write_foreign(tmp_path / "bags" / name, 10, names=left_out)
    again = replay(tmp_path, tmp_path / "bags")
    (episode,) = load_dataset([again], PROFILE, Wanted(success_only=False)).episodes
    assert set(episode.instructions) == {"push the block"} and len(find_bags(again)) == 2


def test_a_bag_without_an_instruction_gets_what_the_graph_is_asked_for(tmp_path):
    bag = write_foreign(tmp_path / "bags" / "teleoperated", 20, names=(INSTRUCTION,))
    with pytest.raises(DatasetError, match="no instruction"):
        load_dataset([bag], PROFILE)
    with GraphClient("operator") as operator:
        operator.node.create_publisher(String, INSTRUCTION, qos.latched()).publish(String(data="pick up the carrot"))
        again = replay(tmp_path, bag)
    (episode,) = load_dataset([again], PROFILE, Wanted(success_only=False)).episodes
    assert set(episode.instructions) == {"pick up the carrot"} and len(episode) > 15


def test_an_instruction_ends_with_its_bag(tmp_path):
    bags = tmp_path / "bags"
    write_foreign(bags / "first", 10)
    later = write_foreign(tmp_path / "whole", 10)
    with closing(open_reader(later)) as reader:
        writer = open_writer(bags / "later", list(reader.topics.values()))
        messages = [(m.topic, bytes(m.data), m.log_time) for m in reader.messages()]
        moment = messages[-1][2] - (messages[-1][2] - messages[0][2]) // 2
        messages = [(name, data, moment if name == INSTRUCTION else time_) for name, data, time_ in messages]
        for message in sorted(messages, key=lambda message: message[2]):
            writer.write(*message)
        writer.finish()
    again = replay(tmp_path, bags)
    wanted = Wanted(success_only=False)
    before, after = (load_dataset([folder], PROFILE, wanted).episodes for folder in (bags, again))
    assert [len(episode) for episode in before] == [len(episode) for episode in after]
    assert len(after[1]) < 10  # without the decisions before anything was asked for


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("nav_msgs") is not None, reason="every type at hand is installed")
def test_messages_of_a_type_that_is_not_installed_are_left_out_and_named(tmp_path):
    bag = write_episode(tmp_path / "source", 5)
    with closing(open_reader(bag)) as reader:
        declared = [*reader.topics.values(), Topic("/grid", "nav_msgs/msg/GridCells", (Offer(),))]
        writer = open_writer(tmp_path / "bags" / "episode", declared)
        for message in reader.messages():
            writer.write(message.topic, bytes(message.data), message.log_time)
        writer.write("/grid", b"", message.log_time)
        writer.finish()
    again = replay(tmp_path, tmp_path / "bags")
    assert "/grid is not played: message type nav_msgs/msg/GridCells is not installed" in log(tmp_path)
    (episode,) = load_dataset([again], PROFILE).episodes
    assert len(episode) == 5


def test_what_a_player_loses_that_waits_for_nobody_is_counted(tmp_path, capsys):
    bag, again = write_episode(tmp_path / "bag", 40), tmp_path / "again"
    graph = find_graph("replay").resolve({"bag": str(bag), "record": str(again)})
    recorder = replace(graph, nodes=tuple(node for node in graph.nodes if node.name == "irevla_recorder"))
    camera = PROFILE.cameras[0].topic
    with (
        Supervisor(recorder, log_dir=tmp_path / "logs") as nodes,
        GraphClient("plain_player", nodes.check) as client,
        closing(open_reader(bag)) as reader,
    ):
        names = [name for name, topic in reader.topics.items() if topic.count and name != EPISODE_INFO]
        publishers = {}
        for name in names:
            quality = qos.latched() if name in LATCHED else 10
            package, _, kind = full_name(reader.topics[name].type).split("/")
            message_class = getattr(importlib.import_module(f"{package}.msg"), kind)
            publishers[name] = client.node.create_publisher(message_class, name, quality)
        client.wait(
            lambda: all(client.node.count_subscribers(name) for name in (camera, PROFILE.command.topic)),
            time.monotonic() + 30.0,
            "no recorder",
        )
        client.call(StartEpisode, "/irevla/start_episode", StartEpisode.Request(task="drawer-open", episode_id="copy"))
        begun, first, images = time.monotonic(), None, 0
        for message in reader.messages(names):
            first = message.log_time if first is None else first
            time.sleep(max(0.0, (message.log_time - first) * 1e-9 - (time.monotonic() - begun)))
            images += message.topic == camera
            if message.topic != camera or images not in range(11, 16):
                publishers[message.topic].publish(bytes(message.data))
        time.sleep(0.5)
        client.call(StopEpisode, "/irevla/stop_episode", StopEpisode.Request(success=EpisodeInfo.SUCCESS_YES))
    (episode,) = load_dataset([again], PROFILE).episodes
    assert len(episode) == 35
    assert main(["inspect", str(again)]) == 0
    assert f"dropped 5 no {PROFILE.cameras[0].name} at the stamp" in capsys.readouterr().out


def test_a_bag_that_cannot_be_played_is_named_and_the_others_are(tmp_path):
    bags = tmp_path / "bags"
    write_episode(bags / "first", 3)
    data = next(write_episode(bags / "damaged", 3).glob("*.mcap"))
    data.write_bytes(data.read_bytes()[:100])
    write_episode(bags / "last", 3)
    graph = find_graph("replay").resolve({"bag": str(bags), "rate": "0", "record": str(tmp_path / "again")})
    with Supervisor(graph, log_dir=tmp_path / "logs") as nodes, pytest.raises(Exception, match="irevla_player ended"):
        nodes.wait(60)
    assert f"{bags / 'damaged'}: not played: " in log(tmp_path)
    assert [path.name for path in find_bags(tmp_path / "again")] == ["first", "last"]


@pytest.mark.slow
def test_a_bag_that_the_recorder_refuses_is_named_and_the_others_are_played(tmp_path):
    bags, again = tmp_path / "bags", tmp_path / "again"
    for name in ("first", "second", "third"):
        write_episode(bags / name, 3)
    write_episode(again / "second", 5)
    graph = find_graph("replay").resolve({"bag": str(bags), "rate": "0", "record": str(again)})
    with Supervisor(graph, log_dir=tmp_path / "logs") as nodes, pytest.raises(Exception, match="irevla_player ended"):
        nodes.wait(60)
    assert f"{bags / 'second'}: not played: /irevla/start_episode: " in log(tmp_path)
    assert log(tmp_path).count(", 0 dropped") == 2
    assert [path.name for path in find_bags(again)] == ["first", "second", "third"]


@pytest.mark.slow
def test_told_to_end_the_player_leaves_nothing_half_and_says_what_it_did_not_play(tmp_path):
    for name in ("first", "second"):
        write_episode(tmp_path / "bags" / name, 400)
    words = {"bag": str(tmp_path / "bags"), "rate": "1", "record": str(tmp_path / "again")}
    with Supervisor(find_graph("replay").resolve(words), log_dir=tmp_path / "logs") as nodes:
        deadline = time.monotonic() + 60.0
        while "recording first" not in (tmp_path / "logs" / "irevla_recorder.log").read_text():
            assert time.monotonic() < deadline
            time.sleep(0.1)
        os.kill(nodes.pid("irevla_player"), signal.SIGINT)
        while "irevla_player" not in nodes.ended():
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert nodes.ended() == {"irevla_player": 0}
    assert "told to end: 2 of 2 bags were not played" in log(tmp_path)
    with pytest.raises(BagError):
        find_bags(tmp_path / "again")


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ([], "argument bag: expected a bag or a folder of bags"),
        (["bag:=/no/such/bag"], "/no/such/bag: no such bag or folder of bags"),
        (["bag:=BAG", "rate:=fast"], "argument rate must be a number from 0 to 1000, found 'fast'"),
    ],
)
def test_wrong_arguments_are_one_line(tmp_path, capsys, words, complaint):
    write_episode(tmp_path / "bag", 2)
    words = [word.replace("BAG", str(tmp_path / "bag")) for word in words]
    assert main(["up", "replay", *words]) == 2
    error = capsys.readouterr().err
    assert complaint in error and error.count("\n") == 1


def test_without_a_recorder_the_player_says_so(tmp_path):
    for name in ("first", "second"):
        write_episode(tmp_path / "bags" / name, 2)
    script = (
        "import sys\n"
        "from irevla_trainer.ros import player_node\n"
        "init = player_node.GraphClient.__init__\n"
        "player_node.GraphClient.__init__ = lambda self, *a, **k: init(self, *a, **(k | {'patience': 2.0}))\n"
        "player_node.main(sys.argv)\n"
    )
    words = ["--ros-args", "-p", f"bags:=[{tmp_path / 'bags'}]"]
    done = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert f"{tmp_path / 'bags' / 'first'}: not played: no irevla_recorder on this graph" in done.stderr
    assert done.stderr.endswith("error: no recorder: 2 of 2 bags were not played\n")


@pytest.mark.parametrize("part", ["joint states", "controller"])
def test_beside_a_robot_nothing_is_played(tmp_path, part):
    for name in ("first", "second"):
        write_episode(tmp_path / "bags" / name, 3)
    heard = []
    with GraphClient("robot") as robot:
        if part == "controller":
            topic = PROFILE.command.topic
            robot.node.create_subscription(JointTrajectory, topic, heard.append, qos.recorded())
        else:
            topic = PROFILE.joint_states_topic
            robot.node.create_publisher(JointState, topic, qos.sensor())
        words = {"bag": str(tmp_path / "bags"), "rate": "0", "record": str(tmp_path / "again")}
        with Supervisor(find_graph("replay").resolve(words), log_dir=tmp_path / "logs") as nodes:
            with pytest.raises(Exception, match="irevla_player ended"):
                nodes.wait(60)
            robot.serve(1.0)
    assert f"error: robot is on {topic}, too" in log(tmp_path)
    assert log(tmp_path).endswith("; 2 of 2 bags were not played\n")
    assert not heard
    with pytest.raises(BagError):
        find_bags(tmp_path / "again")

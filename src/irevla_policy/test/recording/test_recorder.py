"""The recorder without a graph: one bag an episode, honest counts, nothing lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from sample_bags import image, text

from irevla_policy.lock import LockError
from irevla_policy.recording import interfaces, quota, topics
from irevla_policy.recording.episode import EpisodeError, EpisodeInfo, read_label
from irevla_policy.recording.recorder import Recorder, RecordingError, RecordingSettings
from irevla_policy.recording.recovery import unfinished
from irevla_policy.recording.storage import BagError, open_reader
from irevla_policy.recording.topics import Source
from irevla_policy.recording.writing import EpisodeWriting
from irevla_policy.robot.profile import load_profile

PROFILE = load_profile("sawyer")
START = 1_700_000_000_000_000_000


class Rig:
    """A recorder with the messages of a robot."""

    def __init__(self, folder: Path, **settings: object) -> None:
        self.announced: list[EpisodeInfo] = []
        values = {"folder": folder, "keep_free_gb": 0.0} | settings
        self.recorder = Recorder(PROFILE, RecordingSettings(**values), announce=self.announced.append)  # type: ignore[arg-type]

    def source(self, name: str) -> Source:
        return next(source for source in self.recorder.sources if source.name == name)

    def take(self, name: str, data: bytes, time_: int = START) -> None:
        self.recorder.take(self.source(name), data, time_)

    def observe(self, step: int, *, success: bool = False, task: str = "reach") -> None:
        stamp = START + step * 50_000_000
        self.take("/camera/image_raw", image(stamp, step, size=96), stamp)
        self.take("/joint_states", joint_state(stamp), stamp)
        self.take(topics.STEP_INFO, step_info(stamp, step, success, task), stamp)

    def command(self, step: int, source: int = 0, version: str = "abcdef012345") -> None:
        stamp = START + step * 50_000_000
        self.take(topics.COMMAND, command(stamp, source, version), stamp + 1)


def joint_state(stamp: int) -> bytes:
    none = np.zeros(0)
    message = interfaces.make(
        "sensor_msgs/msg/JointState",
        header=interfaces.make_header(stamp),
        name=["a"],
        position=np.zeros(1),
        velocity=none,
        effort=none,
    )
    return interfaces.serialize(message, "sensor_msgs/msg/JointState")


def step_info(stamp: int, step: int, success: bool, task: str) -> bytes:
    message = interfaces.make(
        "irevla_msgs/msg/StepInfo",
        header=interfaces.make_header(stamp),
        step=step,
        reward=0.0,
        success=success,
        terminated=success,
        truncated=False,
        seed=11,
        task=task,
        variation="blue",
        state=np.zeros(3),
    )
    return interfaces.serialize(message, "irevla_msgs/msg/StepInfo")


def command(stamp: int, source: int, version: str) -> bytes:
    none = np.zeros(0)
    message = interfaces.make(
        "irevla_msgs/msg/Command",
        header=interfaces.make_header(stamp),
        joint_names=[],
        positions=none,
        velocities=none,
        gripper=0.0,
        values=np.zeros(4),
        source=source,
        limited=0,
        reason="",
        policy_version=version,
    )
    return interfaces.serialize(message, "irevla_msgs/msg/Command")


def infos(bag: Path) -> list[EpisodeInfo]:
    with closing(open_reader(bag)) as reader:
        return [EpisodeInfo.from_message(reader.deserialize(m)) for m in reader.messages([topics.EPISODE_INFO])]


def test_an_episode_describes_itself(tmp_path: Path, bag_backend: str) -> None:
    rig = Rig(tmp_path)
    rig.take(topics.INSTRUCTION, text("reach the goal"))
    path = rig.recorder.start(EpisodeInfo("", world="metaworld"))
    for step in range(4):
        rig.observe(step, success=step == 3)
        if step < 3:
            rig.command(step)
    ended = rig.recorder.finish()
    assert ended.path == path
    first, last = infos(path)
    assert (first.state, last.state) == ("recording", "finished")
    assert (last.task, last.variation, last.world, last.seed) == ("reach", "blue", "metaworld", 11)
    assert (last.robot, last.profile_hash) == (PROFILE.name, PROFILE.training_hash)
    assert (last.success, last.labelled_by, last.steps) == ("yes", "simulator", 3)
    assert (last.instruction, last.source, last.policy_version) == ("reach the goal", "policy", "abcdef012345")
    assert rig.announced[-1] == last
    with closing(open_reader(path)) as reader:
        counts = {name: topic.count for name, topic in reader.topics.items()}
        # The instruction came before the episode: it is recorded all the same.
        assert counts[topics.INSTRUCTION] == 1
        assert counts["/camera/image_raw"] == counts["/joint_states"] == 4
        assert ended.tally.written == reader.message_count
    rig.recorder.close()


def calibration(stamp: int, focal_length: float) -> bytes:
    message = interfaces.make(
        "sensor_msgs/msg/CameraInfo",
        header=interfaces.make_header(stamp, "camera"),
        height=96,
        width=96,
        distortion_model="plumb_bob",
        d=np.zeros(5),
        k=np.array([focal_length, 0.0, 47.5, 0.0, focal_length, 47.5, 0.0, 0.0, 1.0]),
        r=np.eye(3).ravel(),
        p=np.zeros(12),
        binning_x=0,
        binning_y=0,
        roi=interfaces.make(
            "sensor_msgs/msg/RegionOfInterest", x_offset=0, y_offset=0, height=0, width=0, do_rectify=False
        ),
    )
    return interfaces.serialize(message, "sensor_msgs/msg/CameraInfo")


def transforms(**heights: float) -> bytes:
    """Frames above the frame `base`, m."""
    found = []
    for frame, height in heights.items():
        transform = interfaces.make(
            "geometry_msgs/msg/Transform",
            translation=interfaces.make("geometry_msgs/msg/Vector3", x=0.0, y=0.0, z=height),
            rotation=interfaces.make("geometry_msgs/msg/Quaternion", x=0.0, y=0.0, z=0.0, w=1.0),
        )
        header = interfaces.make_header(START, "base")
        fields = {"header": header, "child_frame_id": frame, "transform": transform}
        found.append(interfaces.make("geometry_msgs/msg/TransformStamped", **fields))
    message = interfaces.make("tf2_msgs/msg/TFMessage", transforms=found)
    return interfaces.serialize(message, "tf2_msgs/msg/TFMessage")


def test_calibrations_are_recorded_as_they_come(tmp_path: Path, bag_backend: str) -> None:
    rig = Rig(tmp_path)
    path = rig.recorder.start(EpisodeInfo("a"))
    for step in range(3):
        rig.observe(step)
        rig.take("/camera/camera_info", calibration(START + step, 100.0 + step))
    ended = rig.recorder.finish()
    assert ended.info.steps == 0 and not ended.tally.problem
    with closing(open_reader(path)) as reader:
        found = [reader.deserialize(message) for message in reader.messages(["/camera/camera_info"])]
    assert [message.k[0] for message in found] == [100.0, 101.0, 102.0]
    assert [interfaces.stamp_of(message.header) for message in found] == [START, START + 1, START + 2]
    rig.recorder.close()


def test_every_episode_has_all_static_transforms(tmp_path: Path, bag_backend: str) -> None:
    rig = Rig(tmp_path)
    # Of several publishers, long before; what one says again replaces what it said.
    rig.take(topics.STATIC_TRANSFORMS, transforms(link1=0.3, hand=0.1))
    rig.take(topics.STATIC_TRANSFORMS, transforms(scene=0.5))
    rig.take(topics.STATIC_TRANSFORMS, transforms(scene=0.6))
    expected = [{"link1": 0.3, "hand": 0.1, "scene": 0.6}]
    for name in ("a", "b"):
        path = rig.recorder.start(EpisodeInfo(name))
        if name == "b":
            rig.take(topics.STATIC_TRANSFORMS, transforms(wrist=0.05))
            expected.append({"wrist": 0.05})
        rig.recorder.finish()
        with closing(open_reader(path)) as reader:
            messages = [reader.deserialize(message) for message in reader.messages([topics.STATIC_TRANSFORMS])]
            assert reader.topics[topics.STATIC_TRANSFORMS].type == "tf2_msgs/msg/TFMessage"
        heights = [{t.child_frame_id: t.transform.translation.z for t in message.transforms} for message in messages]
        assert heights == expected
    rig.recorder.close()


def test_what_came_before_the_reset_does_not_count(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.recorder.start(EpisodeInfo("a"))
    rig.observe(7, success=True)
    rig.command(7, version="000000000000")
    stamp = START + 8 * 50_000_000
    rig.take(topics.STEP_INFO, step_info(stamp, 0, False, "push"), stamp)
    rig.command(8, source=1)
    info = rig.recorder.finish().info
    assert (info.steps, info.source, info.success) == (1, "mixed", "unknown")
    assert info.policy_version == "abcdef012345"
    rig.recorder.close()


def test_an_episode_of_two_policies_is_neithers(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.recorder.start(EpisodeInfo("a"))
    for step, version in enumerate(("000000000000", "000000000000", "abcdef012345")):
        rig.observe(step)
        rig.command(step, version=version)
    info = rig.recorder.finish().info
    assert (info.steps, info.source, info.policy_version) == (3, "policy", "")
    rig.recorder.close()


def test_a_command_may_arrive_before_the_reset_that_it_answers(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.recorder.start(EpisodeInfo("a"))
    rig.command(7, version="000000000000")
    rig.take(topics.INSTRUCTION, text("push it"))
    for step in (8, 9):
        rig.command(step)
    stamp = START + 8 * 50_000_000
    rig.take(topics.STEP_INFO, step_info(stamp, 0, False, "push"), stamp)
    rig.command(6)
    info = rig.recorder.finish().info
    assert (info.steps, info.policy_version, info.instruction) == (2, "abcdef012345", "push it")
    rig.recorder.close()


def test_a_simulator_that_was_started_again_begins_anew(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.recorder.start(EpisodeInfo("a"))
    rig.observe(7)
    rig.command(7, version="000000000000")
    rig.observe(0)
    rig.command(0)
    info = rig.recorder.finish().info
    assert (info.steps, info.policy_version) == (1, "abcdef012345")
    rig.recorder.close()


def test_an_instruction_counts_from_when_it_was_given(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    path = rig.recorder.start(EpisodeInfo("a"))
    rig.recorder.take(rig.source(topics.INSTRUCTION), text("late"), START + 5_000_000, START + 1_000_000)
    rig.recorder.finish()
    rig.recorder.close()
    with closing(open_reader(path)) as reader:
        assert [message.log_time for message in reader.messages([topics.INSTRUCTION])] == [START + 1_000_000]


def settles(rig: Rig, since: int, *, simulated: bool = True) -> bool:
    """Whether the episode settles while nothing arrives."""
    end = time.monotonic() + 0.3
    while time.monotonic() < end:
        if rig.recorder.settled(since, simulated):
            return True
        time.sleep(0.005)
    return False


def test_settled_waits_for_the_rest_of_the_observation(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    now = START + 10**9
    assert rig.recorder.settled(now, simulated=True)
    rig.recorder.start(EpisodeInfo("a"))
    rig.take(topics.STEP_INFO, step_info(START, 9, True, "reach"))
    rig.take("/joint_states", joint_state(START))
    assert not settles(rig, now)
    rig.take("/camera/image_raw", image(START, size=96))
    # Something may follow at once; when nothing does, the world stands still.
    assert not rig.recorder.settled(now, simulated=True)
    assert settles(rig, now)
    rig.recorder.close()


def test_settled_waits_for_a_simulator_that_has_not_said_anything_yet(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    now = START + 10**9
    rig.recorder.start(EpisodeInfo("a"))
    rig.command(0)
    assert settles(rig, now, simulated=False)
    assert not settles(rig, now)
    rig.observe(0)
    assert not settles(rig, now)
    rig.observe(1)
    stamp = START + 2 * 50_000_000
    rig.take("/camera/image_raw", image(stamp, 2, size=96), stamp)
    rig.take("/joint_states", joint_state(stamp), stamp)
    assert not settles(rig, now), "what the simulator says of step 2 is still to come"
    rig.take(topics.STEP_INFO, step_info(stamp, 2, True, "reach"), stamp)
    assert not settles(rig, now), "the command of step 1 is still to come"
    rig.command(1)
    assert settles(rig, now)
    rig.recorder.close()


def test_settled_when_every_sensor_has_gone_on(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.recorder.start(EpisodeInfo("a"))
    for number in range(2):
        rig.take("/joint_states", joint_state(START + number), START + number)
        assert not rig.recorder.settled(START + 1, simulated=False)
    rig.take("/camera/image_raw", image(START + 1, size=96), START + 1)
    assert rig.recorder.settled(START + 1, simulated=False)
    rig.recorder.close()


def test_what_is_received_late_has_not_gone_on(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.recorder.start(EpisodeInfo("a"))
    now, late = START + 10, START + 20
    for published in (START, START + 1, now):
        assert not rig.recorder.settled(now, simulated=False)
        for name, data in (("/joint_states", joint_state(START)), ("/camera/image_raw", image(START, size=96))):
            rig.recorder.take(rig.source(name), data, late, published)
    assert rig.recorder.settled(now, simulated=False)
    rig.recorder.close()


def test_one_episode_at_a_time(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    with pytest.raises(RecordingError, match="no episode is being recorded"):
        rig.recorder.finish()
    rig.recorder.start(EpisodeInfo("a"))
    with pytest.raises(RecordingError, match="episode a is still being recorded"):
        rig.recorder.start(EpisodeInfo("b"))
    rig.recorder.finish()
    with pytest.raises(BagError, match="exists already"):
        rig.recorder.start(EpisodeInfo("a"))
    with pytest.raises(EpisodeError, match="episode name"):
        rig.recorder.start(EpisodeInfo("../a"))
    rig.recorder.close()


def test_one_recorder_to_a_folder(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    with pytest.raises(LockError, match=f"another process .{os.getpid()}. writes there"):
        Rig(tmp_path)
    rig.recorder.close()
    Rig(tmp_path).recorder.close()


def test_a_recorder_of_a_folder_below_goes_on(tmp_path: Path) -> None:
    below = Rig(tmp_path / "left")
    path = below.recorder.start(EpisodeInfo("a"))
    below.observe(0)
    Rig(tmp_path).recorder.close()
    below.observe(1)
    assert below.recorder.finish(success="yes").path == path
    below.recorder.close()
    with closing(open_reader(path)) as reader:
        assert reader.topics["/camera/image_raw"].count == 2
    assert [(info.state, info.success) for info in infos(path)][-1] == ("finished", "yes")


def test_labels(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    with pytest.raises(EpisodeError, match="no episode to label"):
        rig.recorder.label("", "yes", "operator")
    rig.recorder.start(EpisodeInfo("a"))
    assert rig.recorder.label("", "no", "operator") == "a"
    path = rig.recorder.finish().path
    assert path is not None
    assert [info.success for info in infos(path)] == ["unknown", "no", "no"]
    assert rig.recorder.label("a", "yes", "reviewer") == "a"
    label = read_label(path)
    assert label is not None and (label.success, label.labelled_by) == ("yes", "reviewer")
    assert rig.announced[-1].success == "yes"
    with pytest.raises(EpisodeError, match="no such bag"):
        rig.recorder.label("other", "yes", "operator")
    rig.recorder.close()


def test_a_classifier_overrules_nobody(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.recorder.start(EpisodeInfo("a"))
    assert rig.recorder.label("a", "yes", "classifier") == "a"
    rig.recorder.label("a", "no", "operator")
    with pytest.raises(RecordingError, match="labelled by operator already, whom no classifier overrules"):
        rig.recorder.label("a", "yes", "classifier")
    rig.recorder.finish()
    with pytest.raises(RecordingError, match="overrules"):
        rig.recorder.label("a", "yes", "classifier")
    rig.recorder.start(EpisodeInfo("b"))
    rig.recorder.finish(success="no", labelled_by="operator")
    with pytest.raises(RecordingError, match="overrules"):
        rig.recorder.label("b", "yes", "classifier")
    # A label after the fact counts like one at the end.
    rig.recorder.label("a", "yes", "operator")
    with pytest.raises(RecordingError, match="overrules"):
        rig.recorder.label("a", "no", "classifier")
    rig.recorder.close()


def test_a_label_without_a_name_is_for_the_newest_episode_also_after_others_were_labelled(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    for number, name in enumerate(("older", "newer")):
        rig.recorder.start(EpisodeInfo(name))
        rig.recorder.finish()
        os.utime(tmp_path / name / "metadata.yaml", (START // 10**9 + number,) * 2)
    rig.recorder.close()
    rig = Rig(tmp_path)
    rig.recorder.label("older", "yes", "operator")
    assert rig.recorder.label("", "no", "operator") == "newer"
    rig.recorder.close()


def test_discard_and_abort(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.recorder.start(EpisodeInfo("a"))
    assert rig.recorder.discard().path is None
    assert not (tmp_path / "a").exists()
    # Whoever follows the topic hears that it is over.
    assert [(info.episode_id, info.state) for info in rig.announced] == [("a", "recording"), ("a", "aborted")]
    rig.recorder.start(EpisodeInfo("b"))
    ended = rig.recorder.close()
    assert ended is not None and ended.path is not None
    assert infos(ended.path)[-1].state == "aborted"


def test_an_episode_that_cannot_fit_is_refused(tmp_path: Path) -> None:
    rig = Rig(tmp_path, quota_gb=0.001)
    with pytest.raises(RecordingError, match=r"the quota of 1.0 MB"):
        rig.recorder.start(EpisodeInfo("a"))
    assert not unfinished(tmp_path)
    rig.recorder.close()


def test_a_full_disk_ends_the_episode_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(tmp_path, keep_free_gb=1.0, longest_episode=1.0)
    rig.recorder.start(EpisodeInfo("a"))
    assert rig.recorder.must_end() == ""
    monkeypatch.setattr(quota.Quota, "free", lambda self: 400_000_000)
    assert "only 400.0 MB free" in rig.recorder.must_end()
    rig.recorder.close()


@pytest.mark.parametrize("image_format", ["jpeg", "png"])
def test_images_are_compressed_on_the_way(tmp_path: Path, image_format: str) -> None:
    rig = Rig(tmp_path, image_format=image_format)
    path = rig.recorder.start(EpisodeInfo("a"))
    for step in range(20):
        rig.take("/camera/image_raw", image(START + step, step, size=96), START + step)
    rig.recorder.finish()
    rig.recorder.close()
    with closing(open_reader(path)) as reader:
        messages = list(reader.messages(["/camera/image_raw/compressed"]))
        frames = [reader.deserialize(message) for message in messages]
    # Codecs run beside each other: the order of the file may differ, stamps and times stay with their image.
    assert sorted(interfaces.stamp_of(frame.header) for frame in frames) == [START + step for step in range(20)]
    assert all(message.log_time == interfaces.stamp_of(f.header) for message, f in zip(messages, frames, strict=True))
    assert frames[0].format == f"rgb8; {image_format} compressed bgr8"


class SlowWriter:
    """A bag on a disk that takes its time."""

    path = Path("slow")
    size = 0
    message_count = 0

    def write(self, *arguments: object) -> None:
        time.sleep(0.05)

    def flush_if_due(self) -> None: ...

    def finish(self) -> Path:
        return self.path


class FullWriter(SlowWriter):
    """A bag on a full disk."""

    def write(self, *arguments: object) -> None:
        raise OSError(28, "No space left on device")

    def abandon(self) -> Path:
        return Path("unfinished/full")


def test_what_a_slow_disk_cannot_take_is_counted() -> None:
    writing = EpisodeWriting(SlowWriter(), queue_bytes=1000)  # type: ignore[arg-type]
    taken = sum(writing.put("/a", bytes(300), 0) for _ in range(10))
    writing.finish()
    assert 3 <= taken < 10
    assert writing.tally.written == taken
    assert writing.tally.dropped["/a"] == 10 - taken
    assert "too slow" in writing.tally.problem


def test_what_an_episode_is_has_room_when_nothing_else_has(tmp_path: Path) -> None:
    rig = Rig(tmp_path, queue_mb=1e-6)
    rig.recorder.start(EpisodeInfo("a"))
    rig.observe(0)
    ended = rig.recorder.finish(success="yes", labelled_by="operator")
    rig.recorder.close()
    assert ended.path is not None and ended.tally.dropped["/camera/image_raw"] == 1
    assert [(info.state, info.success) for info in infos(ended.path)] == [("recording", "unknown"), ("finished", "yes")]


def test_a_full_disk_is_reported_and_nothing_hangs() -> None:
    writing = EpisodeWriting(FullWriter())  # type: ignore[arg-type]
    writing.put("/a", b"x", 0)
    deadline = time.monotonic() + 5
    while not writing.failure and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not writing.put("/a", b"x", 0)
    with pytest.raises(OSError, match=r"unfinished/full.*No space left"):
        writing.finish()
    assert writing.tally.dropped["/a"] == 2


def test_an_image_that_cannot_be_compressed_is_counted(tmp_path: Path) -> None:
    rig = Rig(tmp_path, image_format="jpeg")
    rig.recorder.start(EpisodeInfo("a"))
    rig.take("/camera/image_raw", image(START, size=96)[:-100])
    ended = rig.recorder.finish()
    rig.recorder.close()
    assert ended.tally.dropped["/camera/image_raw"] == 1
    assert "/camera/image_raw" in ended.tally.problem


_VICTIM = """
import sys, time
sys.path.insert(0, {tests!r})
from pathlib import Path
from test_recorder import Rig, START
from sample_bags import image
from irevla_policy.recording.episode import EpisodeInfo
rig = Rig(Path({folder!r}))
rig.recorder.start(EpisodeInfo("victim"))
step = 0
while True:
    rig.observe(step)
    rig.command(step)
    print(step, time.monotonic(), flush=True)
    step += 1
    time.sleep(0.02)
"""


def test_a_killed_recorder_loses_at_most_the_last_second(tmp_path: Path, bag_backend: str) -> None:
    code = _VICTIM.format(tests=str(Path(__file__).parent), folder=str(tmp_path))
    victim = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert victim.stdout is not None
    printed: list[tuple[int, float]] = []
    for line in victim.stdout:
        step, moment = line.split()
        printed.append((int(step), float(moment)))
        if printed[-1][1] - printed[0][1] > 2.5:
            break
    killed = time.monotonic()
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    assert [path.name for path in unfinished(tmp_path)] == ["victim"]
    # The next recorder finds it and makes a bag of it.
    rig = Rig(tmp_path)
    rig.recorder.close()
    assert not unfinished(tmp_path)
    owed = sum(moment < killed - 1.0 for _, moment in printed)
    with closing(open_reader(tmp_path / "victim")) as reader:
        assert reader.topics["/camera/image_raw"].count >= owed
        assert reader.topics[topics.COMMAND].count >= owed
    last = infos(tmp_path / "victim")[-1]
    assert last.state == "aborted" and last.steps >= owed

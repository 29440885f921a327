"""`irevla bench record`: two 640x480 cameras at 30 Hz and joint states at 100 Hz into a bag, raw and as JPEG.

A message counts as dropped when it was published and is not in the bag.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import psutil
import rclpy

from irevla_msgs.srv import StartEpisode, StopEpisode
from irevla_policy.errors import RunError
from irevla_policy.graph.description import Graph, NodeSpec
from irevla_policy.graph.supervisor import Supervisor
from irevla_policy.recording.storage import open_reader
from irevla_policy.recording.topics import compressed_name
from irevla_policy.robot.camera import Camera
from irevla_policy.robot.profile import RobotProfile
from irevla_trainer.bench.result import BenchResult, Target
from irevla_trainer.bench.session import rig, write_profile
from irevla_trainer.ros.rig import Rig

FORMATS = ("raw", "jpeg")
JOINT_RATE = 100.0
CAMERAS = tuple(
    Camera(name, f"/{name}/image_raw", width=640, height=480, encoding="rgb8", rate=30.0) for name in ("left", "right")
)
_ANSWER_SECONDS = 30.0


def run(seconds: float = 60.0) -> BenchResult:
    """Measure.

    Args:
        seconds: Length of the episode, for each image format.
    """
    figures: dict[str, float] = {}
    details: dict[str, object] = {}
    with tempfile.TemporaryDirectory(prefix="irevla-record-") as temporary:
        profile, robot = write_profile(Path(temporary), CAMERAS)
        for image_format in FORMATS:
            folder = Path(temporary, image_format)
            details[image_format] = _record(folder, profile, robot, image_format, seconds, figures)
    total = sum(figures[f"{image_format}_dropped_messages"] for image_format in FORMATS)
    figures = {"dropped_messages": total, **figures}
    return BenchResult("record", figures, {"dropped_messages": Target("<=", 0.0)}, details)


def _record(
    folder: Path, profile: RobotProfile, robot: str, image_format: str, seconds: float, figures: dict[str, float]
) -> dict[str, dict[str, int]]:
    """Record one episode and add its figures; returns what was published and what lies in the bag, by topic."""
    recorder = NodeSpec(
        "irevla_recorder",
        "irevla_policy",
        "irevla_recorder",
        "irevla_policy.ros.recorder_node",
        {"robot": robot, "folder": str(folder), "image_format": image_format},
    )
    with rig(profile, joint_rate=JOINT_RATE) as source, Supervisor(Graph("record", (recorder,))) as running:
        _call(source, StartEpisode, "/irevla/start_episode", StartEpisode.Request(episode_id="bench"))
        source.published.clear()
        process = psutil.Process(running.pid("irevla_recorder"))
        before = process.cpu_times()
        start = time.monotonic()
        source.play(seconds)
        elapsed = time.monotonic() - start
        after = process.cpu_times()
        _call(source, StopEpisode, "/irevla/stop_episode", StopEpisode.Request())
        published = dict(source.published)
    bag = folder / "bench"
    recorded = _count(bag)
    cameras = {camera.topic for camera in profile.cameras}
    names = {t: compressed_name(t) if t in cameras and image_format != "raw" else t for t in published}
    dropped = sum(max(0, count - recorded.get(names[topic], 0)) for topic, count in published.items())
    size = sum(path.stat().st_size for path in bag.iterdir())
    cpu = (after.user + after.system - before.user - before.system) / elapsed
    figures[f"{image_format}_dropped_messages"] = float(dropped)
    figures[f"{image_format}_published_per_s"] = sum(published.values()) / elapsed
    figures[f"{image_format}_recorder_cpu_percent"] = 100.0 * cpu
    figures[f"{image_format}_disk_mb_per_s"] = size / elapsed / 1e6
    return {"published": published, "recorded": recorded}


def _call(source: Rig, kind: type, name: str, request: object) -> object:
    client = source.create_client(kind, name)
    if not client.wait_for_service(_ANSWER_SECONDS):
        raise RunError(f"{name} is not served within {_ANSWER_SECONDS:.0f} s")
    future = client.call_async(request)
    deadline = time.monotonic() + _ANSWER_SECONDS
    while not future.done() and time.monotonic() < deadline and rclpy.ok():
        time.sleep(0.01)
    if not future.done() or not future.result().accepted:
        raise RunError(f"{name}: {future.result().message if future.done() else 'no answer'}")
    return future.result()


def _count(bag: Path) -> dict[str, int]:
    counts: dict[str, int] = {}
    reader = open_reader(bag)
    for message in reader.messages():
        counts[message.topic] = counts.get(message.topic, 0) + 1
    reader.close()
    return counts

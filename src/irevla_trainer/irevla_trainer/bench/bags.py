"""`irevla bench bags`: decisions per second from bag to normalised batch, against a bare iteration over the same bags.

The bare iteration is `rosbags` handing out every message as bytes, none of them decoded. The bags are expert episodes
recorded through the graph. Peak memory is that of a process of its own that loads the bags, once and several times.
"""

from __future__ import annotations

import multiprocessing
import resource
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from rosbags.rosbag2 import Reader

from irevla_policy.graph.environment import adopt_environment
from irevla_policy.graph.registry import find_graph
from irevla_policy.graph.supervisor import Supervisor
from irevla_policy.recording.storage import find_bags
from irevla_policy.robot.profile import load_profile
from irevla_trainer.bench.result import BenchResult, Target

EPISODES = 24
COPIES = 6
MEMORY_MB = 16.0
BATCH = 64
TASK = "drawer-open"
TARGETS = {"ratio_to_raw_iteration": Target(">=", 0.8), "peak_rss_growth": Target("<=", 1.05)}


def run(seconds: float = 20.0) -> BenchResult:
    """Measure.

    Args:
        seconds: How long both ways over the bags are repeated, in turn.
    """
    with tempfile.TemporaryDirectory(prefix="irevla-bags-") as temporary:
        folder = Path(temporary, "bags")
        _record(folder)
        raw, ours, decisions = _compare(folder, seconds)
        once, many = _peak(folder), _peak(_copies(folder, Path(temporary, "copies")))
    figures = {
        "ratio_to_raw_iteration": raw / ours,
        "decisions_per_s": decisions / ours,
        "raw_iteration_decisions_per_s": decisions / raw,
        "peak_rss_mb": many,
        "peak_rss_growth": many / once,
    }
    details = {"bags": EPISODES, "decisions": decisions, "bags_for_peak": [EPISODES, EPISODES * COPIES]}
    return BenchResult("bags", figures, TARGETS, details)


def _record(folder: Path) -> None:
    from irevla_trainer.ros.episodes import EpisodeRunner

    adopt_environment(private=True)
    graph = find_graph("sim").resolve({"mode": "lock_step", "task": TASK, "expert": "true", "record": str(folder)})
    with Supervisor(graph) as nodes, EpisodeRunner(lock_step=True, check=nodes.check) as runner:
        for seed in range(EPISODES):
            runner.run(TASK, seed=seed, source="expert")


def _compare(folder: Path, seconds: float) -> tuple[float, float, int]:
    """Best time of the bare iteration and of ours, s, and the decisions in the bags."""
    from irevla_policy.model.config import ModelSettings, RobotFacts
    from irevla_policy.model.policy import VLAPolicy
    from irevla_trainer.data.reader import EpisodeReader
    from irevla_trainer.learn.decisions import Decisions, prepare

    profile = load_profile("sawyer")
    processor = VLAPolicy.create(ModelSettings(), RobotFacts.of(profile)).processor
    reader, bags = EpisodeReader(profile), find_bags(folder)
    cameras = [camera.name for camera in profile.cameras]

    def bare() -> int:
        count = 0
        for bag in bags:
            with Reader(bag) as recorded:
                for _ in recorded.messages():
                    count += 1
        return count

    def to_batches() -> int:
        episodes = [episode for bag in bags if (episode := reader.read(bag)[0]) is not None]
        decisions = Decisions(episodes, cameras)
        for start in range(0, len(decisions), BATCH):
            prepare(decisions.batch(np.arange(start, min(start + BATCH, len(decisions)))), processor)
        return len(decisions)

    raw: list[float] = []
    ours: list[float] = []
    count = 0
    end = time.monotonic() + seconds
    while not raw or time.monotonic() < end:
        raw.append(_timed(bare)[0])
        took, count = _timed(to_batches)
        ours.append(took)
    return min(raw), min(ours), count


def _timed(work: Callable[[], int]) -> tuple[float, int]:
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def _copies(folder: Path, target: Path) -> Path:
    for copy in range(COPIES):
        shutil.copytree(folder, target / f"{copy:02d}")
    return target


def _peak(folder: Path) -> float:
    """Peak memory of a fresh process that makes batches of all bags of a folder, MB."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_load_all, (folder,))


def _load_all(folder: Path) -> float:
    from irevla_trainer.data.dataset import load_dataset
    from irevla_trainer.learn.decisions import Decisions

    profile = load_profile("sawyer")
    dataset = load_dataset([folder], profile, memory_mb=MEMORY_MB)
    decisions = Decisions(dataset.episodes, [camera.name for camera in profile.cameras])
    for indices in np.array_split(
        np.random.default_rng(0).permutation(len(decisions)), max(len(decisions) // BATCH, 1)
    ):
        decisions.batch(indices)
    dataset.close()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6

"""`irevla bench index`: how long the trainer needs to know ten thousand episodes, the first time and again.

The bags are synthetic: all topics of a recording are declared, and two descriptions of the episode are its messages.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from pathlib import Path

from irevla_policy.recording import topics
from irevla_policy.recording.episode import EpisodeInfo, write_label
from irevla_policy.recording.storage import open_writer
from irevla_policy.robot.profile import RobotProfile, load_profile
from irevla_trainer.bench.result import BenchResult, Target
from irevla_trainer.data.index import EpisodeIndex

EPISODES = 10_000
LABELLED = 100
TARGETS = {"again_s": Target("<=", 10.0)}


def run(episodes: int = EPISODES) -> BenchResult:
    """Measure.

    Args:
        episodes: Bags to index.
    """
    profile = load_profile("sawyer")
    with tempfile.TemporaryDirectory(prefix="irevla-index-") as temporary:
        bags, file = Path(temporary, "bags"), Path(temporary, "index")
        for number in range(episodes):
            _write(bags / f"episode_{number:06d}", profile)
        first = _refresh(bags, profile, file, expected=episodes)
        again = _refresh(bags, profile, file, expected=0)
        for number in range(LABELLED):
            write_label(bags / f"episode_{number:06d}", "no", "operator")
        labelled = _refresh(bags, profile, file, expected=LABELLED)
        size = file.stat().st_size / 1e6
    figures = {"first_s": first, "again_s": again, "after_labels_s": labelled, "file_mb": size}
    return BenchResult("index", figures, TARGETS, {"episodes": episodes, "labels": LABELLED})


def _write(bag: Path, profile: RobotProfile) -> None:
    info = EpisodeInfo(
        bag.name,
        task="drawer-open",
        world="metaworld",
        instruction="open the drawer",
        robot=profile.name,
        profile_hash=profile.training_hash,
        seed=0,
        success="yes",
        action_space=profile.action_space,
        control_rate=profile.control_rate,
        stamp=1,
    )
    declared = [source.recorded for source in topics.sources(profile, "raw")]
    writer = open_writer(bag, [*declared, topics.episode_topic()])
    writer.write(topics.EPISODE_INFO, info.serialize(), 1)
    writer.write(topics.EPISODE_INFO, replace(info, state="finished", stamp=2).serialize(), 2)
    writer.finish()


def _refresh(bags: Path, profile: RobotProfile, file: Path, expected: int) -> float:
    """Seconds until a new process would know all bags, of which so many had to be opened."""
    start = time.perf_counter()
    opened = len(EpisodeIndex([bags], profile, file).refresh().new)
    seconds = time.perf_counter() - start
    if opened != expected:
        raise RuntimeError(f"expected {expected} bags to be opened, {opened} were")
    return seconds

"""Episodes of the Sawyer whose images show success by a bright patch at the end, for the tests of the classifier."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))
from sample_episodes import PERIOD, START, image, write_episode

from irevla_policy.recording.episode import EpisodeInfo
from irevla_policy.robot.profile import load_profile
from irevla_trainer.data.reader import Episode

PROFILE = load_profile("sawyer")
STEPS, SHOWN = 12, 3


def frame(seed: int, step: int, shown: bool) -> np.ndarray:
    """Noise, with a patch where success is seen."""
    picture = np.random.default_rng([seed, step]).integers(0, 90, (96, 96, 3), dtype=np.uint8)
    if shown:
        picture[24:60, 24:60] = (30, 220, 40)
    return picture


def shown_episode(seed: int, success: bool) -> Episode:
    """An episode, decoded; a success shows from its last `SHOWN` steps."""
    images = np.stack([frame(seed, step, success and step >= STEPS - SHOWN) for step in range(STEPS)])
    info = EpisodeInfo(f"episode_{seed}", success="yes" if success else "no", labelled_by="operator")
    state, action = np.zeros((STEPS, PROFILE.state_dim), np.float32), np.zeros((STEPS, 4), np.float32)
    stamps = START + PERIOD * np.arange(STEPS)
    return Episode(info, {"corner": images}, ["reach the goal"] * STEPS, state, action, stamps)


def write_shown(path: Path, seed: int, success: bool, said: str = "", labelled_by: str = "operator") -> Path:
    """The same as a bag; `said` is its label where that is not the truth."""

    def change(topic: str, step: int, data: bytes) -> bytes:
        if topic != PROFILE.cameras[0].topic:
            return data
        return image(START + step * PERIOD, frame(seed, step, success and step >= STEPS - SHOWN))

    label = said or ("yes" if success else "no")
    return write_episode(path, STEPS, change=change, success=label, labelled_by=labelled_by)

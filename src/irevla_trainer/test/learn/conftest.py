from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from irevla_policy.model.config import ModelSettings, RobotFacts
from irevla_policy.model.policy import VLAPolicy
from irevla_trainer.learn.decisions import Decisions

ROBOT = RobotFacts("test_arm", ("front",), "ee_delta", 2, 1, ("gripper",), 20.0)


sys.path.insert(0, str(Path(__file__).parent))


@dataclass
class SpotEpisode:
    """Images with a bright spot; the action is the place of the spot in [-1, 1]."""

    images: dict[str, np.ndarray]
    instructions: list[str]
    state: np.ndarray
    action: np.ndarray


def spot_episode(seed: int, length: int = 4, instruction: str = "reach the spot") -> SpotEpisode:
    random = np.random.default_rng(seed)
    places = random.integers(0, 72, size=(length, 2))
    images = np.full((length, 96, 96, 3), 30, np.uint8)
    for image, (row, column) in zip(images, places, strict=True):
        image[row : row + 24, column : column + 24] = (250, 200, 30)
    action = (places / 36.0 - 1.0).astype(np.float32)
    return SpotEpisode({"front": images}, [instruction] * length, np.zeros((length, 1), np.float32), action)


@pytest.fixture
def spot():
    """Makes an episode from seed, length and instruction."""
    return spot_episode


@pytest.fixture
def decisions() -> Decisions:
    return Decisions([spot_episode(seed) for seed in range(6)], ["front"])


@pytest.fixture
def new_policy(decisions):
    def make(seed: int = 0) -> VLAPolicy:
        return VLAPolicy.create(ModelSettings(), ROBOT, decisions.fit_normaliser(), seed=seed)

    return make

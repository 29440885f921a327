"""Processes with a world each."""

from __future__ import annotations

import subprocess
import sys

import pytest

from irevla_policy.robot.profile import RobotProfile, load_profile
from irevla_policy.settings import from_dict, to_dict
from irevla_policy.sim.world import WorldError
from irevla_trainer.rl.worlds import EpisodeRequest, Worlds


@pytest.mark.parametrize("module", ["rl.world_process", "jobs.worker", "cli"])
def test_a_world_starts_without_torch(module: str) -> None:
    """Each of many processes imports the world's module and the main module of the program that made it."""
    code = f"import sys, irevla_trainer.{module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_robot_that_cannot_be_simulated_is_named_once() -> None:
    profile = from_dict(RobotProfile, to_dict(load_profile("sawyer")) | {"action_space": "joint_position"})
    with (
        Worlds(profile, 2) as worlds,
        pytest.raises(WorldError, match=r"'metaworld_sawyer': expected an action space of .*, found 'joint_position'"),
    ):
        list(worlds.episodes([EpisodeRequest("reach", "", 1)], lambda seen: None))

"""`irevla_success` in its own process beside the recorder: it labels what it sees, once there is something to see."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from std_msgs.msg import Float32

sys.path.insert(0, str(Path(__file__).parent))
from recorded_robot import PROFILE, Robot
from sim_client import process

from irevla_msgs.msg import EpisodeInfo
from irevla_msgs.srv import StopEpisode
from irevla_policy.model.config import ModelSettings, RobotFacts
from irevla_policy.model.policy import VLAPolicy
from irevla_policy.model.success import SuccessClassifier, Verdict
from irevla_policy.robot.observation import Observation
from irevla_policy.ros import qos

DARK, BRIGHT = range(0, 40), range(200, 250)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One that takes bright images for successes."""
    torch.manual_seed(0)
    policy = VLAPolicy.create(ModelSettings(), RobotFacts.of(PROFILE), seed=0)
    head = policy.new_critic()
    seen = [
        Observation(0, {"corner": np.full((96, 96, 3), value, np.uint8)}, np.zeros(7), 0.0, "reach the goal")
        for value in (*DARK, *BRIGHT)
    ]
    made = SuccessClassifier(policy, head, Verdict())
    with torch.no_grad():
        latent = policy.latent(policy.prepare(seen, np.zeros((len(seen), PROFILE.state_dim))))
    target = torch.tensor([0.0] * len(DARK) + [1.0] * len(BRIGHT))
    optimiser = torch.optim.Adam(head.parameters(), 1e-3)
    for _ in range(100):
        logits = head(latent.hidden, latent.mask, latent.state)
        optimiser.zero_grad()
        torch.nn.functional.binary_cross_entropy_with_logits(logits, target).backward()
        optimiser.step()
    folder = tmp_path_factory.mktemp("made") / "success"
    made.save(folder, {})
    return folder


@pytest.fixture
def watched(robot: Robot, tmp_path: Path, classifier: Path) -> Iterator[Robot]:
    with (
        process("recorder_node", tmp_path, lock_step=True, folder=tmp_path / "bags", keep_free_gb=0.0),
        process("success_node", tmp_path, classifier=classifier),
    ):
        deadline = time.monotonic() + 60.0
        while robot.image.get_subscription_count() < 2 and time.monotonic() < deadline:
            robot.executor.spin_once(0.05)
        assert robot.image.get_subscription_count() == 2, "recorder and classifier listen"
        yield robot
    log = (tmp_path / "success_node.log").read_text()
    assert "Traceback" not in log and "failed" not in log, log


def show(robot: Robot, numbers: range, acts: bool = True, seconds: float = 2.0) -> EpisodeInfo:
    """Show images until the episode has a label, or it is over; returns what was announced last."""
    for number in numbers:
        robot.observe(number, acts=acts)
        robot.executor.spin_once(seconds / len(numbers))
        if robot.announced[-1].success != EpisodeInfo.SUCCESS_UNKNOWN:
            break
    return robot.announced[-1]


def test_a_success_that_is_seen_ends_the_episode_with_a_label(watched: Robot) -> None:
    probabilities: list[float] = []
    subscription = watched.node.create_subscription(
        Float32, "/irevla/success_probability", lambda message: probabilities.append(message.data), qos.event()
    )
    started = watched.start(episode_id="one")
    assert show(watched, DARK).success == EpisodeInfo.SUCCESS_UNKNOWN
    assert probabilities and max(probabilities) < 0.5
    told = show(watched, BRIGHT)
    assert (told.episode_id, told.success, told.labelled_by) == ("one", EpisodeInfo.SUCCESS_YES, "classifier")
    assert told.state == EpisodeInfo.STATE_RECORDING
    assert watched.call(StopEpisode, "/irevla/stop_episode").path == started.path
    # The next one begins without it.
    watched.start(episode_id="two")
    assert show(watched, range(260, 270)).success == EpisodeInfo.SUCCESS_UNKNOWN
    watched.node.destroy_subscription(subscription)


def test_what_is_seen_on_the_way_home_does_not_count(watched: Robot) -> None:
    watched.start(acts=False, episode_id="home")
    # The last success is still in the picture, and nobody has acted yet.
    assert show(watched, BRIGHT, acts=False).success == EpisodeInfo.SUCCESS_UNKNOWN


def test_a_classifier_that_is_none_ends_the_node_with_one_line(tmp_path: Path) -> None:
    with process("success_node", tmp_path, classifier=tmp_path / "nothing") as node:
        assert node.wait(60.0) == 2
    log = (tmp_path / "success_node.log").read_text().splitlines()
    assert len(log) == 1 and "no success classifier" in log[0]

"""What is rehearsed is what the policy would see, and it holds the policy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from point_reaching import cloned_policy, roll

from irevla_policy.model.config import ModelSettings, RobotFacts
from irevla_policy.model.normalisation import Normaliser
from irevla_policy.model.policy import VLAPolicy
from irevla_trainer.learn.decisions import Decisions
from irevla_trainer.rl.latents import ImageStore, LatentStore, encode
from irevla_trainer.rl.ppo import Ppo
from irevla_trainer.rl.rehearsal import Rehearsal, rehearse
from irevla_trainer.rl.settings import PpoSettings

ROBOT = RobotFacts("test_arm", ("front",), "ee_delta", 2, 2, ("gripper",), 20.0)


@dataclass
class Episode:
    images: dict
    instructions: list
    state: np.ndarray
    action: np.ndarray


def episode(steps: int, seed: int) -> Episode:
    random = np.random.default_rng(seed)
    return Episode(
        {"front": random.integers(0, 255, (steps, 96, 96, 3), dtype=np.uint8)},
        [f"do {seed}"] * steps,
        random.normal(size=(steps, 2)).astype(np.float32),
        random.uniform(-1, 1, (steps, 2)).astype(np.float32),
    )


@pytest.mark.parametrize("images", [False, True])
def test_decisions_are_stored_as_the_policy_sees_them(images):
    episodes = [episode(3, 1), episode(2, 2)]
    decisions = Decisions(episodes, ROBOT.cameras)
    policy = VLAPolicy.create(ModelSettings(), ROBOT, decisions.fit_normaliser())
    store = ImageStore(policy) if images else LatentStore(5)
    rehearsal = rehearse(policy, decisions, store)
    assert len(store) == len(rehearsal.action) == 5
    with torch.no_grad():
        direct = encode(policy, episodes[1].images, episodes[1].instructions, episodes[1].state)
        stored = store.latent(np.array([3, 4]))
    torch.testing.assert_close(stored.hidden, direct.hidden, rtol=2e-3, atol=2e-3)
    normalised = policy.normaliser.normalise_action(np.concatenate([one.action for one in episodes]))
    np.testing.assert_allclose(rehearsal.action.numpy(), normalised, atol=1e-6)
    latent, action = rehearsal.batch(8, np.random.default_rng(0))
    assert latent.state.shape == (8, 2) and action.shape == (8, 2)


def test_rehearsal_holds_the_policy_where_it_was():
    """Rehearsing what the policy did at first, it moves less; the figures say how far it is."""
    moved = {}
    for weight in (0.0, 100.0):
        policy = cloned_policy()
        torch.manual_seed(0)
        settings = PpoSettings(minibatch=64, epochs=4, warmup=0, kl_target=0.0, kl_stop=1e9, rehearsal_weight=weight)
        ppo = Ppo(policy, settings)
        rollout = roll(policy, ppo.store(8 * 26), ppo.std, 8, 0)
        index = torch.from_numpy(rollout.mean)
        if weight:
            store = LatentStore(len(rollout))
            store.add(rollout.observations.latent(rollout.index))
            ppo.rehearsal = Rehearsal(store, index)
        figures = ppo.learn(rollout, 0)
        assert ("imitation" in figures) == bool(weight)
        with torch.no_grad():
            mean = policy.action_from_latent(rollout.observations.latent(rollout.index))[:, 0]
        moved[weight] = float((mean - index).square().mean())
    assert moved[100.0] < 0.2 * moved[0.0]


@pytest.mark.parametrize(("weight", "rehearses"), [(0.0, False), (1.0, True)])
def test_a_weight_of_zero_stores_nothing(weight, rehearses):
    policy = VLAPolicy.create(ModelSettings(), ROBOT, Normaliser.identity(2, 2))
    decisions = Decisions([episode(2, 1)], ROBOT.cameras)
    ppo = Ppo(policy, PpoSettings(rehearsal_weight=weight), rehearsed=decisions)
    assert (ppo.rehearsal is not None) == rehearses
